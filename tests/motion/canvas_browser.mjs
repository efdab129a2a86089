// Draws on the Flow Canvas in a real browser, against the real front end, with a real mouse.
//   node canvas_browser.mjs '{..., "workflow", "point", "modules"}'; see tests/browser.mjs
// The result: the prompts that the front end would send after each stage.
import { browse } from "../browser.mjs";

const read = (page) => page.evaluate(async () => {
  const { output } = await window.app.graphToPrompt();
  return Object.values(output).find((node) => node.class_type === "PalimpsestFlowCanvas").inputs.canvas;
});
await browse(async ({ given, page, show, open, saved, run }) => {
  const drawn = () => read(page);
  await open(given.workflow);
  await page.evaluate(() => {
    const node = window.app.graph._nodes.find((one) => one.comfyClass === "PalimpsestFlowCanvas");
    Object.assign(window.app.canvas.ds, { scale: 1 });
    window.app.canvas.ds.offset = [120 - node.pos[0], 120 - node.pos[1]];
    window.app.canvas.setDirty(true, true);
  });
  const surface = page.locator(".palimpsest-canvas canvas");
  await surface.waitFor({ state: "visible" });
  // The picture is there once the canvas has taken its proportions and the words no longer ask for one.
  await page.waitForFunction(() => {
    const canvas = document.querySelector(".palimpsest-canvas canvas");
    const [r, g, b] = canvas.getContext("2d").getImageData(4, 4, 1, 1).data;
    return r + g + b > 250;
  });
  const frame = async () => surface.boundingBox();
  const at = async ([x, y]) => {
    const { x: left, y: top, width, height } = await frame();
    return [left + ((x + 0.5) / 256) * width, top + ((y + 0.5) / 256) * height];
  };
  const button = (name) => page.locator(`.palimpsest-canvas button[data-action="${name}"]`);
  // before: what to do while the button is still held.
  const drag = async (from, to, before = async () => {}) => {
    const [a, b] = [await at(from), await at(to)];
    await page.mouse.move(...a);
    await page.mouse.down();
    await page.mouse.move((a[0] + b[0]) / 2, (a[1] + b[1]) / 2, { steps: 3 });
    await page.mouse.move(...b, { steps: 3 });
    await before();
    await page.mouse.up();
    await page.waitForTimeout(100);
  };
  // The canvas as it is painted now, on the picture's own 256 x 256 pixels: rows of [r, g, b].
  const painted = async () => {
    await page.waitForTimeout(100);
    return page.evaluate(() => {
      const canvas = document.querySelector(".palimpsest-canvas canvas");
      const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
      const row = (y) => Array.from({ length: 256 }, (_, x) => {
        const place = (v, size) => Math.min(Math.floor(((v + 0.5) / 256) * size), size - 1);
        const at = 4 * (place(y, canvas.height) * canvas.width + place(x, canvas.width));
        return [data[at], data[at + 1], data[at + 2]];
      });
      return Array.from({ length: 256 }, (_, y) => row(y));
    });
  };
  const report = {};

  await button("pick").click();
  await page.mouse.click(...(await at(given.point)));
  await page.waitForTimeout(100);
  report.picked = await drawn();
  const [x, y] = given.point;
  report.still_there = await painted();
  await drag([x, y], [x + 40, y + 12], async () => {
    report.dragged = await painted();
  });
  report.moved = await drawn();
  await show("moved.png");

  const place = (name) => page.evaluate(async ([key, module]) => {
    const { handles } = await import(`${module}/geometry.js`);
    const widget = window.app.graph._nodes.find((one) => one.comfyClass === "PalimpsestFlowCanvas").widgets
      .find((one) => one.name === "canvas");
    const { Drawing } = await import(`${module}/drawing.js`);
    const copy = new Drawing();
    copy.fromText(widget.value);
    const zoom = document.querySelector(".palimpsest-canvas canvas").getBoundingClientRect().width / copy.width;
    const list = handles(copy.region, copy.boxOf(copy.region), 26 / zoom);
    return [list.find((one) => one.name === key).at, list.find((one) => one.name === "pivot").at];
  }, [name, given.modules]);
  const [knob, centre] = await place("turn");
  const [u, v] = [knob[0] - centre[0], knob[1] - centre[1]];
  const angle = Math.PI / 6;
  await drag(knob, [centre[0] + u * Math.cos(angle) - v * Math.sin(angle), centre[1] + u * Math.sin(angle) + v * Math.cos(angle)]);
  report.turned = await drawn();
  const [corner, middle] = await place("corner");
  await drag(corner, [0, 1].map((i) => middle[i] + 1.25 * (corner[i] - middle[i])));
  report.scaled = await drawn();
  await show("scaled.png");
  const [side, hub] = await place("side-x");
  await drag(side, [0, 1].map((i) => hub[i] + 1.2 * (side[i] - hub[i])));
  report.stretched = await drawn();
  await page.keyboard.press("Control+z");
  await page.waitForTimeout(100);

  await page.keyboard.down("Alt");
  const [dot] = await place("pivot");
  await drag(dot, [dot[0] + 9, dot[1] - 6]);
  await page.keyboard.up("Alt");
  report.pivoted = await drawn();
  await page.keyboard.press("Control+z");
  await page.waitForTimeout(100);
  await page.keyboard.press("Control+z");
  await page.waitForTimeout(100);
  report.undone = await drawn();
  // A mere click on the region is no change: it leaves the way forward open.
  const [spot] = await place("pivot");
  await page.mouse.click(...(await at([spot[0] + 12, spot[1] + 5])));
  await page.waitForTimeout(100);
  report.clicked = await drawn();
  await page.keyboard.press("Control+Shift+Z");
  await page.waitForTimeout(100);
  report.redone = await drawn();
  await page.keyboard.press("Delete");
  await page.waitForTimeout(100);
  report.deleted = await drawn();
  await button("undo").click();
  await page.waitForTimeout(100);

  // Strokes of one brush make one region; arrow keys nudge it.
  await button("brush").click();
  for (const y of [200, 214]) await drag([170, y], [210, y]);
  await show("brush.png");
  report.painted = await drawn();
  await page.keyboard.press("ArrowRight");
  await page.keyboard.press("Shift+ArrowDown");
  await page.waitForTimeout(100);
  report.nudged = await drawn();
  await page.keyboard.press("Delete");
  await page.waitForTimeout(100);

  const lasso = async (corners) => {
    await page.mouse.move(...(await at(corners[0])));
    await page.mouse.down();
    for (const corner of corners.slice(1)) await page.mouse.move(...(await at(corner)), { steps: 4 });
    await page.mouse.up();
    await page.waitForTimeout(100);
  };
  await button("lasso").click();
  await lasso([[10, 10], [40, 10], [40, 34], [10, 34]]);
  report.two = await drawn();
  // With Shift more of the same region; its colour, the second, stays with it in front.
  await button("lasso").click();
  await page.keyboard.down("Shift");
  await lasso([[60, 10], [80, 10], [80, 34], [60, 34]]);
  await page.keyboard.up("Shift");
  report.more = await drawn();
  report.chips = await page.locator(".palimpsest-canvas button[data-region]").evaluateAll(
    (chips) => chips.map((chip) => chip.style.borderLeftColor));
  await page.keyboard.press("Control+z");
  await page.waitForTimeout(100);
  await button("still").click();
  await page.waitForTimeout(100);
  report.still = await drawn();
  await show("two.png");

  report.saved = await saved();
  report.run = await run();

  // A picture that another node makes is shown after the first run, and the drawing stays.
  const shown = async () => (await painted())[120][20];
  report.given = await shown();
  await page.evaluate(() => {
    const { graph } = window.app;
    const first = (kind) => graph._nodes.find((node) => node.comfyClass === kind);
    const invert = window.LiteGraph.createNode("ImageInvert");
    invert.pos = [0, 600];
    graph.add(invert);
    first("LoadImage").connect(0, invert, 0);
    invert.connect(0, first("PalimpsestFlowCanvas"), 0);
  });
  await page.waitForTimeout(300);
  report.unknown = await shown();
  report.rerun = await run();
  for (let i = 0; i < 20; i++) {
    report.inverted = await shown();
    if (String(report.inverted) !== String(report.unknown)) break;
  }
  report.kept = await drawn();

  // A saved workflow brings the drawing back.
  await open(report.saved);
  await surface.waitFor({ state: "visible" });
  report.loaded = await drawn();
  await show("loaded.png");
  return report;
});
