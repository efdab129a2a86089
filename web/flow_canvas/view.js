// Paints a Flow Canvas: the picture, where things were, their ghosts where they go, arrows, outlines and handles.

import { handles, isIdentity, lattice, linear, mapPoint } from "./geometry.js";

const HUES = [205, 28, 130, 285, 340, 60, 175, 0];
export const HANDLE_REACH = 26; // screen pixels
const HANDLE = 5;

export function hueOf(region) {
  return HUES[region.hue % HUES.length];
}

// scale: screen pixels a picture pixel. cache: a WeakMap from region to its cut-out.
export function paint(context, { drawing, picture, scale, tool, lasso, cache, pointer, size }) {
  const { width, height } = drawing;
  context.setTransform(scale, 0, 0, scale, scale / 2, scale / 2); // pixel i is the point i
  context.clearRect(-0.5, -0.5, width, height);
  if (picture) context.drawImage(picture, -0.5, -0.5, width, height);
  else backdrop(context, width, height);
  const order = drawing.regions.map((_, i) => i).reverse();
  for (const i of order) shade(context, drawing, i, picture, cache);
  for (const i of order) ghost(context, drawing, drawing.regions[i], picture, cache);
  for (const i of order) arrows(context, drawing, i, scale);
  if (drawing.region && tool === "move") frame(context, drawing, scale);
  if (lasso?.length > 1) line(context, lasso, scale, true);
  if (pointer && (tool === "brush" || tool === "erase")) ring(context, pointer, size / 2, scale);
}

// How far the brush reaches; dark and light, to be seen on anything.
function ring(context, [x, y], radius, scale) {
  for (const [colour, width] of [["#18181b", 2.6], ["#ffffff", 1.2]]) {
    context.beginPath();
    context.arc(x, y, radius, 0, 2 * Math.PI);
    context.strokeStyle = colour;
    context.lineWidth = width / scale;
    context.stroke();
  }
}

function backdrop(context, width, height) {
  context.fillStyle = "#2b2b30";
  context.fillRect(-0.5, -0.5, width, height);
  context.fillStyle = "#8a8a94";
  context.font = `${Math.max(10, width / 28)}px sans-serif`;
  context.textAlign = "center";
  context.fillText("Connect a picture. Load Image shows at once,", width / 2, height / 2 - width / 40);
  context.fillText("other nodes after the first run.", width / 2, height / 2 + width / 40);
}

// The region's pixels, and its flat silhouette, on canvases of their own; remade when the region or the picture changes.
function cutOut(drawing, region, picture, cache) {
  const known = cache.get(region.mask);
  if (known && known.picture === picture) return known;
  const { width, height } = drawing.raster;
  const make = () => Object.assign(document.createElement("canvas"), { width, height });
  const [silhouette, pixels] = [make(), make()];
  const flat = silhouette.getContext("2d");
  const data = flat.createImageData(width, height);
  region.mask.forEach((one, i) => {
    if (one) data.data.fill(255, 4 * i, 4 * i + 4);
  });
  flat.putImageData(data, 0, 0);
  const cut = pixels.getContext("2d");
  cut.drawImage(silhouette, 0, 0);
  cut.globalCompositeOperation = "source-in";
  if (picture) cut.drawImage(picture, 0, 0, width, height);
  const result = { picture, silhouette, pixels, tints: new Map() };
  cache.set(region.mask, result);
  return result;
}

function tinted(made, colour) {
  if (!made.tints.has(colour)) {
    const { width, height } = made.silhouette;
    const canvas = Object.assign(document.createElement("canvas"), { width, height });
    const context = canvas.getContext("2d");
    context.drawImage(made.silhouette, 0, 0);
    context.globalCompositeOperation = "source-in";
    context.fillStyle = colour;
    context.fillRect(0, 0, width, height);
    made.tints.set(colour, canvas);
  }
  return made.tints.get(colour);
}

function shade(context, drawing, index, picture, cache) {
  const region = drawing.regions[index];
  const made = cutOut(drawing, region, picture, cache);
  const left = isIdentity(region) || region.still;
  context.globalAlpha = left ? (index === drawing.chosen ? 0.5 : 0.35) : 0.55;
  const colour = left ? `hsl(${hueOf(region)}, 90%, 60%)` : "#18181b";
  context.drawImage(tinted(made, colour), -0.5, -0.5, drawing.width, drawing.height);
  context.globalAlpha = 1;
}

function ghost(context, drawing, region, picture, cache) {
  if (isIdentity(region) || region.still) return;
  const [a, b, c, d] = linear(region);
  const [x, y] = mapPoint(region, [0, 0]);
  context.save();
  context.transform(a, b, c, d, x, y);
  context.globalAlpha = 0.9;
  context.drawImage(cutOut(drawing, region, picture, cache).pixels, -0.5, -0.5, drawing.width, drawing.height);
  context.restore();
}

function arrows(context, drawing, index, scale) {
  const region = drawing.regions[index];
  const found = drawing.boxOf(region);
  if (!found || isIdentity(region) || region.still) return;
  const step = Math.max(36 / scale, Math.max(found[2] - found[0], found[3] - found[1]) / 6);
  context.strokeStyle = `hsl(${hueOf(region)}, 95%, 62%)`;
  context.lineWidth = 1.6 / scale;
  const inside = lattice(found, step).filter((point) => {
    const [x, y] = drawing.onRaster(point).map(Math.round);
    return region.mask[y * drawing.raster.width + x];
  });
  for (const from of inside.length ? inside : [region.pivot]) arrow(context, from, mapPoint(region, from), scale);
}

function arrow(context, [x, y], [u, v], scale) {
  const length = Math.hypot(u - x, v - y);
  if (length * scale < 3) return;
  const barb = Math.min(8 / scale, length / 2);
  const [dx, dy] = [((u - x) / length) * barb, ((v - y) / length) * barb];
  context.beginPath();
  context.moveTo(x, y);
  context.lineTo(u, v);
  context.moveTo(u - dx + dy / 2, v - dy - dx / 2);
  context.lineTo(u, v);
  context.lineTo(u - dx - dy / 2, v - dy + dx / 2);
  context.stroke();
}

function frame(context, drawing, scale) {
  const found = drawing.boxOf(drawing.region);
  if (!found) return;
  const list = handles(drawing.region, found, HANDLE_REACH / scale, drawing);
  line(context, list.slice(0, 4).map((handle) => handle.at), scale, true);
  const knob = list.find((handle) => handle.name === "turn");
  line(context, [mapPoint(drawing.region, knob.from), knob.at], scale, false);
  for (const { name, at } of list) {
    context.beginPath();
    if (name === "turn" || name === "pivot") context.arc(at[0], at[1], (HANDLE + 1) / scale, 0, 2 * Math.PI);
    else context.rect(at[0] - HANDLE / scale, at[1] - HANDLE / scale, (2 * HANDLE) / scale, (2 * HANDLE) / scale);
    context.fillStyle = name === "pivot" ? "#fb8826" : "#ffffff";
    context.fill();
    context.strokeStyle = "#18181b";
    context.lineWidth = 1 / scale;
    context.stroke();
  }
}

function line(context, points, scale, closed) {
  context.beginPath();
  points.forEach(([x, y], i) => (i ? context.lineTo(x, y) : context.moveTo(x, y)));
  if (closed) context.closePath();
  context.setLineDash([5 / scale, 4 / scale]);
  context.strokeStyle = "#ffffff";
  context.lineWidth = 1.4 / scale;
  context.stroke();
  context.setLineDash([]);
}
