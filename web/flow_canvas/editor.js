// The editor inside the node: a toolbar, the canvas, and what pointer and keys do. Knows nothing of ComfyUI.

import { Drawing } from "./drawing.js";
import { dragged, handles, isIdentity, unmapPoint } from "./geometry.js";
import { emptyMask, fillOutline, pick, stroke, union } from "./raster.js";
import { HANDLE_REACH, hueOf, paint } from "./view.js";
import { ACTIONS, CURSORS, STYLE, TOOLS } from "./words.js";

const NUDGES = { arrowleft: [-1, 0], arrowright: [1, 0], arrowup: [0, -1], arrowdown: [0, 1] };

export class Editor {
  constructor(changed = () => {}) {
    this.changed = changed;
    this.drawing = new Drawing();
    this.cache = new WeakMap();
    this.picture = null;
    this.tool = "lasso";
    this.size = 24;
    this.tolerance = 0.08;
    this.pointer = null; // where it hovers, in the picture
    this.painting = false; // whether strokes of the brush go on with the region of the last one
    this.build();
    this.refresh();
  }

  get value() {
    return this.drawing.toText();
  }

  set value(text) {
    if (text === this.value) return;
    if (text) this.drawing.fromText(text);
    else this.drawing.clear(this.drawing.width, this.drawing.height);
    if (this.picture) this.drawing.resize(this.picture.naturalWidth, this.picture.naturalHeight);
    if (text) this.tool = "move";
    this.refresh();
  }

  // picture: a loaded HTMLImageElement, or null.
  show(picture) {
    this.picture = picture;
    this.pixels = null;
    if (picture) this.drawing.resize(picture.naturalWidth, picture.naturalHeight);
    this.refresh();
    this.changed();
  }

  build() {
    const make = (tag, attributes = {}, ...children) => {
      const element = Object.assign(document.createElement(tag), attributes);
      element.append(...children);
      return element;
    };
    this.buttons = {};
    const button = (name, [label, title], run) => {
      const made = make("button", { type: "button", textContent: label, title, onclick: run });
      made.dataset.action = name;
      this.buttons[name] = made;
      return made;
    };
    this.slider = make("input", { type: "range", min: 1, max: 100, title: "Size of the brush" });
    this.slider.oninput = () => this.slide(Number(this.slider.value));
    this.chips = make("div", { className: "row chips" });
    this.words = make("div", { className: "words" });
    this.canvas = make("canvas");
    // The front end leaves keys alone only while an input has the focus; so this one takes them for the editor.
    this.keys = make("input", { className: "keys", readOnly: true, ariaLabel: "Keys of the flow canvas" });
    const tools = Object.entries(TOOLS).map(([name, words]) => button(name, words, () => this.choose(name)));
    const actions = Object.entries(ACTIONS).map(([name, words]) => button(name, words, () => this.act(name)));
    this.element = make("div", { className: "palimpsest-canvas" },
      make("style", { textContent: STYLE }),
      make("div", { className: "row" }, ...tools, this.slider), make("div", { className: "row" }, ...actions),
      make("div", { className: "stage" }, this.canvas, this.keys), this.chips, this.words);
    this.listen();
  }

  listen() {
    const { canvas, element } = this;
    canvas.addEventListener("pointerdown", (event) => this.down(event));
    canvas.addEventListener("pointermove", (event) => this.moved(event));
    for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, (event) => this.up(event));
    canvas.addEventListener("pointerleave", () => this.hover(null));
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    element.addEventListener("keydown", (event) => this.key(event));
    element.addEventListener("click", (event) => event.target !== this.slider && this.takeKeys());
    // The graph underneath must not drag nodes or delete them while somebody draws.
    for (const name of ["pointerdown", "mousedown", "dblclick"]) {
      element.addEventListener(name, (event) => event.stopPropagation());
    }
    new ResizeObserver(() => this.refresh()).observe(element.querySelector(".stage"));
  }

  takeKeys() {
    this.keys.focus({ preventScroll: true });
  }

  choose(tool) {
    this.tool = tool;
    this.painting = false;
    this.refresh();
  }

  slide(value) {
    if (this.tool === "pick") this.tolerance = value / 250;
    else this.size = value;
    this.refresh();
  }

  act(name) {
    const { drawing } = this;
    if (["undo", "redo", "remove"].includes(name)) this.painting = false;
    if (name === "undo" || name === "redo") drawing[name]();
    else if (drawing.region && this.changes(name)) {
      drawing.remember();
      if (name === "front") drawing.toFront();
      if (name === "remove") drawing.remove();
      if (name === "still") drawing.replace({ ...drawing.region, still: !drawing.region.still });
      if (name === "home") drawing.replace({ ...drawing.region, move: [0, 0], turn: 0, scale: [1, 1] });
    }
    this.finish();
  }

  // Whether an action would do anything: what changes nothing is no step of undo.
  changes(name) {
    const { region, chosen } = this.drawing;
    if (name === "front") return chosen > 0;
    return name !== "home" || !isIdentity({ ...region, still: false });
  }

  key(event) {
    event.stopPropagation();
    const command = event.ctrlKey || event.metaKey;
    const key = event.key.toLowerCase();
    if (command && key === "z") this.act(event.shiftKey ? "redo" : "undo");
    else if (command && key === "y") this.act("redo");
    else if (key === "delete" || key === "backspace") this.act("remove");
    else if (key in NUDGES && this.drawing.region) this.nudge(NUDGES[key], event.shiftKey ? 10 : 1);
    else return;
    event.preventDefault();
  }

  nudge([x, y], step) {
    const { drawing } = this;
    const { move } = drawing.region;
    drawing.remember();
    drawing.replace({ ...drawing.region, move: [move[0] + x * step, move[1] + y * step] });
    this.finish();
  }

  // A pointer's place in the picture.
  at(event) {
    const frame = this.canvas.getBoundingClientRect();
    const { width, height } = this.drawing;
    return [((event.clientX - frame.left) / frame.width) * width - 0.5,
      ((event.clientY - frame.top) / frame.height) * height - 0.5];
  }

  // Screen pixels a picture pixel, zoom of the graph included.
  get zoom() {
    return (this.canvas.getBoundingClientRect().width || 1) / this.drawing.width;
  }

  down(event) {
    if (event.button) return;
    this.canvas.setPointerCapture?.(event.pointerId);
    this.takeKeys();
    const point = this.at(event);
    const [adds, alt] = [event.shiftKey, event.altKey];
    this.start = { lasso: () => this.startLasso(point, adds), brush: () => this.startStroke(point, adds),
      erase: () => this.startStroke(point, false), pick: () => this.pickAt(point, adds), move: () => this.startMove(point, alt),
    }[this.tool]() ?? null;
    this.refresh();
  }

  moved(event) {
    this.hover(this.at(event), event.altKey);
    if (!this.start) return;
    this.start.move(this.pointer, event.shiftKey);
    this.refresh();
  }

  // The ring of the brush follows the pointer, whose shape tells what a press would do.
  hover(point, alt = false) {
    this.pointer = point;
    if (["brush", "erase"].includes(this.tool)) this.refresh();
    if (!point || this.start) return;
    const handle = this.tool === "move" && (this.handleAt(point, alt) ?? (this.indexAt(point) < 0 ? null : { name: "move" }));
    this.canvas.style.cursor = this.tool === "move" ? CURSORS[handle?.name] ?? "default" : "crosshair";
  }

  up() {
    const running = this.start;
    this.start = null;
    if (!running) return;
    running.end();
    this.finish();
  }

  startLasso(point, adds) {
    this.lasso = [point];
    return {
      move: (now) => this.lasso.push(now),
      end: () => {
        const mask = emptyMask(this.drawing.raster);
        fillOutline(mask, this.drawing.raster, this.lasso.map((one) => this.drawing.onRaster(one)));
        this.lasso = null;
        this.addRegion(mask, adds);
      },
    };
  }

  startStroke(point, adds) {
    const { drawing } = this;
    const erases = this.tool === "erase";
    if (erases && !drawing.region) return null;
    let begun = false;
    const begin = () => {
      if (!begun) drawing.remember();
      begun = true;
    };
    if (!erases) begin();
    const more = !erases && (adds || this.painting) && drawing.region;
    this.painting = !erases;
    const mask = erases || more ? drawing.region.mask.slice() : emptyMask(drawing.raster);
    let last = point;
    const draw = (now) => {
      const radius = (this.size / 2) * drawing.rasterScale;
      stroke(mask, drawing.raster, drawing.onRaster(last), drawing.onRaster(now), radius, erases ? 0 : 1);
      last = now;
    };
    draw(point);
    const put = () => {
      // An eraser that has met nothing yet is no step of undo.
      if (!begun && mask.every((one, i) => one === drawing.region.mask[i])) return;
      begin();
      if (mask.includes(1)) drawing.repaint(mask.slice());
    };
    if (erases || more) put();
    else drawing.add(mask.slice());
    return {
      move: (now) => {
        draw(now);
        if (drawing.region) put();
        else drawing.add(mask.slice());
      },
      end: () => {
        if (erases && !mask.includes(1)) drawing.remove();
      },
    };
  }

  pickAt(point, adds) {
    if (!this.picture) return;
    const { raster } = this.drawing;
    if (!this.pixels) {
      const canvas = Object.assign(document.createElement("canvas"), raster);
      const context = canvas.getContext("2d", { willReadFrequently: true });
      context.drawImage(this.picture, 0, 0, raster.width, raster.height);
      this.pixels = context.getImageData(0, 0, raster.width, raster.height).data;
    }
    const mask = emptyMask(raster);
    pick(mask, raster, this.pixels, this.drawing.onRaster(point), this.tolerance);
    this.addRegion(mask, adds);
    this.finish();
  }

  // A new region, to be moved next; or more of the chosen one, and the tool stays.
  addRegion(mask, adds) {
    if (!mask.includes(1)) return;
    const { drawing } = this;
    drawing.remember();
    if (adds && drawing.region) {
      drawing.repaint(union(drawing.region.mask, mask));
      return;
    }
    drawing.add(mask);
    this.tool = "move";
  }

  // The pivot lies where one takes hold of a thing to move it, so it asks for Alt.
  startMove(point, alt) {
    const { drawing } = this;
    const handle = this.handleAt(point, alt) ?? this.regionAt(point);
    if (!handle) {
      drawing.chosen = -1;
      return null;
    }
    // A mere click changes nothing, so the step of undo begins with the first real motion.
    const before = drawing.region;
    let begun = false;
    const move = (now, exact) => {
      const region = dragged(before, handle, point, now, exact);
      if (!begun && JSON.stringify(placeOf(region)) === JSON.stringify(placeOf(before))) return;
      if (!begun) drawing.remember();
      begun = true;
      drawing.replace(region);
    };
    return { move, end: () => {} };
  }

  handleAt([x, y], alt) {
    const { drawing, zoom } = this;
    if (!drawing.region) return null;
    const found = drawing.boxOf(drawing.region);
    if (!found) return null;
    const near = handles(drawing.region, found, HANDLE_REACH / zoom, drawing).reverse();
    return near.find(({ name, at }) => (name === "pivot") === alt && Math.hypot(at[0] - x, at[1] - y) * zoom <= 9);
  }

  // The nearest region whose moved shape lies under a point, or -1.
  indexAt(point) {
    const { drawing } = this;
    return drawing.regions.findIndex((region) => {
      const [x, y] = drawing.onRaster(unmapPoint(region, point)).map(Math.round);
      const inside = x >= 0 && y >= 0 && x < drawing.raster.width && y < drawing.raster.height;
      return inside && region.mask[y * drawing.raster.width + x];
    });
  }

  regionAt(point) {
    const index = this.indexAt(point);
    if (index < 0) return null;
    this.drawing.chosen = index;
    return { name: "move" };
  }

  finish() {
    this.refresh();
    this.changed();
  }

  refresh() {
    if (this.waiting) return;
    this.waiting = requestAnimationFrame(() => {
      this.waiting = 0;
      this.paint();
    });
  }

  paint() {
    const { canvas, drawing } = this;
    const stage = canvas.parentElement;
    const fit = Math.min(stage.clientWidth / drawing.width, stage.clientHeight / drawing.height) || 1;
    const [wide, high] = [Math.round(drawing.width * fit), Math.round(drawing.height * fit)];
    const sharp = Math.min(2, window.devicePixelRatio || 1);
    if (canvas.width !== Math.round(wide * sharp)) canvas.width = Math.max(1, Math.round(wide * sharp));
    if (canvas.height !== Math.round(high * sharp)) canvas.height = Math.max(1, Math.round(high * sharp));
    canvas.style.width = `${wide}px`;
    canvas.style.height = `${high}px`;
    paint(canvas.getContext("2d"), { ...this, scale: canvas.width / drawing.width });
    this.label();
  }

  label() {
    const { buttons, drawing, tool } = this;
    for (const name of Object.keys(TOOLS)) buttons[name].setAttribute("aria-pressed", String(tool === name));
    for (const name of ["front", "still", "home", "remove"]) buttons[name].disabled = !drawing.region;
    buttons.erase.disabled = !drawing.region;
    buttons.undo.disabled = !drawing.past.length;
    buttons.redo.disabled = !drawing.future.length;
    buttons.still.setAttribute("aria-pressed", String(Boolean(drawing.region?.still)));
    const picks = tool === "pick";
    this.slider.title = picks ? "Tolerance of Pick" : "Size of the brush in pixels";
    this.slider.style.visibility = ["brush", "erase", "pick"].includes(tool) ? "visible" : "hidden";
    this.slider.value = String(picks ? Math.round(this.tolerance * 250) : this.size);
    this.chips.replaceChildren(...drawing.regions.map((region, i) => this.chip(region, i)));
    this.words.textContent = this.words.title = this.summary();
  }

  chip(region, index) {
    const made = document.createElement("button");
    Object.assign(made, { type: "button", textContent: `${index + 1}`, title: "Choose this region (1 is nearest)" });
    made.dataset.region = String(index);
    made.style.borderLeft = `6px solid hsl(${hueOf(region)}, 90%, 60%)`;
    made.setAttribute("aria-pressed", String(index === this.drawing.chosen));
    made.onclick = () => {
      this.drawing.chosen = index;
      this.choose("move");
    };
    return made;
  }

  summary() {
    const { region } = this.drawing;
    if (!region || this.tool !== "move") return TOOLS[this.tool][1];
    if (region.still) return "Still: hides what passes behind it";
    const [x, y] = region.move.map((v) => Math.round(v * 10) / 10);
    const [sx, sy] = region.scale;
    return `move ${x}, ${y} px   turn ${region.turn} deg   scale ${sx === sy ? sx : `${sx} x ${sy}`}`;
  }
}

function placeOf({ pivot, move, turn, scale }) {
  return [pivot, move, turn, scale];
}
