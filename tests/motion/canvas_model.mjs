// Draws with the canvas's own modules and prints the JSON that the node gets, and where its points go.
import { Drawing } from "./flow_canvas/drawing.js";
import { dragged, handles, mapPoint, unmapPoint } from "./flow_canvas/geometry.js";
import { box, emptyMask, fillOutline, fromRuns, pick, stroke, toRuns } from "./flow_canvas/raster.js";

const drawing = new Drawing();
drawing.clear(200, 160);
const lasso = emptyMask(drawing.raster);
fillOutline(lasso, drawing.raster, [[20, 20], [60, 22], [58, 70], [18, 66]]);
drawing.remember();
drawing.add(lasso);
const start = [40, 40];
let region = dragged(drawing.region, { name: "move" }, start, [52, 35], false);
const frame = drawing.boxOf(region);
const corner = handles(region, frame, 10).find((one) => one.name === "corner");
const centre = mapPoint(region, region.pivot);
const out = [0, 1].map((i) => centre[i] + 1.5 * (corner.at[i] - centre[i]));
region = dragged(region, corner, corner.at, out, false);
const knob = handles(region, frame, 10).find((one) => one.name === "turn");
const turned = [centre[0] - (knob.at[1] - centre[1]), centre[1] + (knob.at[0] - centre[0])];
region = dragged(region, knob, knob.at, turned, false);
const before = mapPoint(region, [30, 30]);
region = dragged(region, { name: "pivot" }, centre, [centre[0] + 7, centre[1] - 3], false);
const after = mapPoint(region, [30, 30]);
drawing.replace(region);
const text = drawing.toText();

const brush = emptyMask(drawing.raster);
stroke(brush, drawing.raster, [100, 100], [130, 100], 6, 1);
drawing.remember();
drawing.add(brush);
const two = drawing.regions.length;
drawing.undo();
const one = drawing.regions.length;
drawing.redo();
const again = drawing.regions.length;
drawing.undo();

const size = { width: 12, height: 9 };
const pixels = new Uint8ClampedArray(4 * 12 * 9).fill(240);
for (const [x, y] of [[3, 3], [4, 3], [5, 3], [3, 4], [5, 4], [3, 5], [4, 5], [5, 5]]) {
  pixels.set([200, 20, 20], 4 * (y * 12 + x));
}
const picked = emptyMask(size);
pick(picked, size, pixels, [3, 3], 0.1);

const copy = new Drawing();
copy.fromText(text);
const reread = copy.toText() === text;
copy.remember();
copy.remove();
copy.resize(400, 320);
copy.undo();
const larger = copy.toText();
copy.resize(200, 160);
const backAgain = copy.regions[0].move;
copy.redo();
const removedAgain = copy.regions.length;
copy.fromText("nonsense");

const knobOf = (box) => handles({ ...region, move: [0, 0], turn: 0, scale: [1, 1], pivot: [0, 0] }, box, 10, drawing)
  .find((one) => one.name === "turn").at;

console.log(JSON.stringify({
  knobs: [knobOf([40, 40, 60, 60]), knobOf([40, 2, 60, 60])],
  text, goals: [[25, 25], [50, 60]].map((point) => [point, mapPoint(region, point)]),
  back: unmapPoint(region, mapPoint(region, [33, 44])), pivotKept: [before, after], counts: [two, one, again],
  brush: [box(brush, drawing.raster), brush.reduce((a, b) => a + b)], picked: picked.reduce((a, b) => a + b),
  larger, backAgain, removedAgain,
  runs: toRuns(fromRuns([3, 2, 1], { width: 3, height: 2 })), reread, emptied: copy.regions.length,
}));
