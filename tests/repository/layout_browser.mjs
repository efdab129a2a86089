// Opens workflows in the real front end and tells which of their nodes cover each other as they are drawn there.
//   node layout_browser.mjs '{..., "workflows": {name: path}}'; see tests/browser.mjs
// The result: name -> pairs of nodes that overlap, and nodes that lie partly in a group.
import { readFileSync } from "node:fs";
import { browse } from "../browser.mjs";

// The sizes settle a few frames after loading: read until they stay.
const settled = (page) => page.evaluate(async () => {
  const TITLE = 30;
  const read = () => window.app.graph._nodes.map((node) => ({
    name: `${node.id} ${node.type}`, x: node.pos[0], y: node.pos[1] - TITLE, w: node.size[0], h: node.size[1] + TITLE,
  }));
  let [last, same] = ["", 0];
  for (let i = 0; i < 40 && same < 4; i++) {
    await new Promise((resolve) => setTimeout(resolve, 60));
    const now = JSON.stringify(read());
    same = now === last ? same + 1 : 0;
    last = now;
  }
  const groups = window.app.graph._groups.map(({ pos, size }) => ({ x: pos[0], y: pos[1], w: size[0], h: size[1] }));
  return { nodes: read(), groups };
});
const overlap = (a, b) =>
  Math.min(a.x + a.w, b.x + b.w) > Math.max(a.x, b.x) && Math.min(a.y + a.h, b.y + b.h) > Math.max(a.y, b.y);
const within = (a, b) => a.x >= b.x && a.y >= b.y && a.x + a.w <= b.x + b.w && a.y + a.h <= b.y + b.h;

await browse(async ({ given, page }) => {
  const report = {};
  for (const [name, path] of Object.entries(given.workflows)) {
    await page.evaluate(async (one) => {
      await window.app.loadGraphData(one);
      const [x, y] = [0, 1].map((i) => Math.min(...window.app.graph._nodes.map((node) => node.pos[i])));
      Object.assign(window.app.canvas.ds, { scale: 0.5, offset: [120 - x, 160 - y] });
      window.app.canvas.setDirty(true, true);
    }, JSON.parse(readFileSync(path, "utf8")));
    const { nodes, groups } = await settled(page);
    const covered = nodes.flatMap((a, i) => nodes.slice(i + 1).filter((b) => overlap(a, b)).map((b) => [a.name, b.name]));
    const torn = nodes.filter((a) => groups.some((group) => overlap(a, group) && !within(a, group))).map((a) => a.name);
    report[name] = { nodes: nodes.length, covered, torn };
  }
  return report;
});
