// What is drawn on a Flow Canvas: regions from front to back, which one is chosen, and the way back.

import { IDENTITY } from "./geometry.js";
import { box, emptyMask, fillOutline, fromRuns, isEmpty, toRuns } from "./raster.js";

const LONGEST = 512; // of the raster that regions are painted on
const DEPTH = 60; // steps of undo

export class Drawing {
  constructor() {
    this.clear(512, 512);
  }

  clear(width, height) {
    this.setSize(width, height);
    this.regions = [];
    this.chosen = -1;
    this.past = [];
    this.future = [];
  }

  setSize(width, height) {
    const shrink = Math.min(1, LONGEST / Math.max(width, height));
    Object.assign(this, { width, height });
    this.raster = { width: Math.max(1, Math.round(width * shrink)), height: Math.max(1, Math.round(height * shrink)) };
  }

  // Another picture: what was drawn, now and before, is carried over in proportion.
  resize(width, height) {
    if (width === this.width && height === this.height) return;
    const [fx, fy] = [width / this.width, height / this.height];
    const old = this.raster;
    this.setSize(width, height);
    const at = (v, f) => (v + 0.5) * f - 0.5;
    const made = new Map(); // steps of undo share their regions
    const fitted = (region) => {
      if (!made.has(region)) {
        made.set(region, {
          ...region, mask: resampled(region.mask, old, this.raster),
          pivot: [at(region.pivot[0], fx), at(region.pivot[1], fy)], move: [region.move[0] * fx, region.move[1] * fy],
        });
      }
      return made.get(region);
    };
    this.regions = this.regions.map(fitted);
    for (const name of ["past", "future"]) {
      this[name] = this[name].map(([regions, chosen]) => [regions.map(fitted), chosen]);
    }
  }

  get region() {
    return this.regions[this.chosen];
  }

  // A point of the picture on the raster, and a length.
  onRaster([x, y]) {
    return [((x + 0.5) * this.raster.width) / this.width - 0.5, ((y + 0.5) * this.raster.height) / this.height - 0.5];
  }

  get rasterScale() {
    return this.raster.width / this.width;
  }

  // [left, top, right, bottom] of a region in pixels of the picture.
  boxOf(region) {
    const found = box(region.mask, this.raster);
    if (!found) return null;
    const [sx, sy] = [this.width / this.raster.width, this.height / this.raster.height];
    return found.map((v, i) => (v + 0.5) * (i % 2 ? sy : sx) - 0.5);
  }

  add(mask) {
    if (isEmpty(mask)) return;
    const region = { ...IDENTITY, still: false, mask, pivot: [0, 0], hue: this.freeHue() };
    region.pivot = centre(this.boxOf(region));
    this.regions = [region, ...this.regions];
    this.chosen = 0;
  }

  // A region keeps its colour wherever it comes to lie: the first that no other has.
  freeHue() {
    const taken = new Set(this.regions.map((region) => region.hue));
    let hue = 0;
    while (taken.has(hue)) hue++;
    return hue;
  }

  // Changed masks keep their pivot unless the region has not been moved yet.
  repaint(mask) {
    const untouched = JSON.stringify([this.region.move, this.region.turn, this.region.scale]) === "[[0,0],0,[1,1]]";
    const region = { ...this.region, mask };
    if (untouched) region.pivot = centre(this.boxOf(region));
    this.replace(region);
  }

  replace(region) {
    this.regions = this.regions.map((one, i) => (i === this.chosen ? region : one));
  }

  remove() {
    this.regions = this.regions.filter((_, i) => i !== this.chosen);
    this.chosen = Math.min(this.chosen, this.regions.length - 1);
  }

  toFront() {
    const region = this.region;
    this.regions = [region, ...this.regions.filter((one) => one !== region)];
    this.chosen = 0;
  }

  // To be called before each change; regions are never written into, so a list of them is a full record.
  remember() {
    this.past.push([this.regions, this.chosen]);
    if (this.past.length > DEPTH) this.past.shift();
    this.future = [];
  }

  step(from, to) {
    if (!from.length) return;
    to.push([this.regions, this.chosen]);
    [this.regions, this.chosen] = from.pop();
  }

  undo() {
    this.step(this.past, this.future);
  }

  redo() {
    this.step(this.future, this.past);
  }

  toText() {
    if (!this.regions.length) return "";
    const { width, height, raster } = this;
    const regions = this.regions.map(({ mask, pivot, move, turn, scale, still }) => ({
      area: { runs: toRuns(mask), size: [raster.width, raster.height] }, pivot, move, turn, scale, still,
    }));
    return JSON.stringify({ version: 1, width, height, regions });
  }

  // Takes what toText wrote, or areas written by hand; anything else leaves an empty drawing.
  fromText(text) {
    try {
      const data = JSON.parse(text);
      this.clear(data.width, data.height);
      this.regions = data.regions.map((item, i, { length }) => ({ ...this.readRegion(item), hue: length - 1 - i }));
      this.chosen = this.regions.length ? 0 : -1;
    } catch {
      this.clear(this.width, this.height);
    }
  }

  readRegion({ area, pivot, move = [0, 0], turn = 0, scale = [1, 1], still = false }) {
    let mask = emptyMask(this.raster);
    if (area.runs) {
      const size = { width: area.size[0], height: area.size[1] };
      mask = resampled(fromRuns(area.runs, size), size, this.raster);
    } else fillOutline(mask, this.raster, outline(area).map((point) => this.onRaster(point)));
    const region = { mask, move, turn, scale, still, pivot: pivot ?? [0, 0] };
    if (!pivot) region.pivot = centre(this.boxOf(region));
    return region;
  }
}

function centre(found) {
  return found ? [(found[0] + found[2]) / 2, (found[1] + found[3]) / 2] : [0, 0];
}

function outline({ polygon, ellipse }) {
  if (polygon) return polygon;
  const [x, y, rx, ry] = ellipse;
  return Array.from({ length: 90 }, (_, i) => [x + rx * Math.cos((i * Math.PI) / 45), y + ry * Math.sin((i * Math.PI) / 45)]);
}

function resampled(mask, from, to) {
  if (from.width === to.width && from.height === to.height) return mask;
  const result = emptyMask(to);
  for (let y = 0; y < to.height; y++) {
    const row = Math.floor(((y + 0.5) * from.height) / to.height) * from.width;
    for (let x = 0; x < to.width; x++) {
      result[y * to.width + x] = mask[row + Math.floor(((x + 0.5) * from.width) / to.width)];
    }
  }
  return result;
}
