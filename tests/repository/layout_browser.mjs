// Opens workflows in the real front end and tells which of their nodes cover each other as they are drawn there, once
// all have shown what they show in a run: pictures, previews of sampling, texts and a warning of two lines.
//   node layout_browser.mjs '{..., "workflows": {name: path}, "shows": {type: "picture" | "text" | "warning" | ...}}'
// The result: name -> pairs of nodes that overlap, nodes that lie partly in a group, and the nodes' places and sizes.
import { readFileSync } from "node:fs";
import { browse } from "../browser.mjs";

const WARNING = "A warning says in a sentence or two what is wrong with what came of this node, and what to connect or " +
  "to change. It stays until the node runs again.";

// The sizes settle a few frames after loading: read until they stay.
const settled = (page) => page.evaluate(async () => {
  const TITLE = 30;
  const read = () => window.app.graph._nodes.map((node) => ({
    id: node.id, name: `${node.id} ${node.type}`, x: node.pos[0], y: node.pos[1] - TITLE, w: node.size[0],
    h: node.size[1] + TITLE,
  }));
  let [last, same] = ["", 0];
  for (let i = 0; i < 60 && same < 5; i++) {
    await new Promise((resolve) => setTimeout(resolve, 60));
    window.app.canvas.draw(true, true);
    const now = JSON.stringify(read());
    same = now === last ? same + 1 : 0;
    last = now;
  }
  const groups = window.app.graph._groups.map(({ pos, size }) => ({ x: pos[0], y: pos[1], w: size[0], h: size[1] }));
  return { nodes: read(), groups };
});

// As the host tells the page of a run.
const showAll = (page, shows, warning) => page.evaluate(async ({ shows, warning }) => {
  const { api } = window.app;
  const send = (name, detail) => api.dispatchEvent(new CustomEvent(name, { detail }));
  const picture = document.createElement("canvas");
  picture.width = picture.height = 64;
  const blob = await new Promise((resolve) => picture.toBlob(resolve, "image/png"));
  for (const { id: number, type } of window.app.graph._nodes) {
    const id = String(number);
    const output = (one) => send("executed", { node: id, display_node: id, prompt_id: "layout", output: one });
    for (const kind of shows[type] ?? []) {
      if (kind === "picture") output({ images: [{ filename: "example.png", subfolder: "", type: "input" }] });
      if (kind === "text") output({ text: ["Four\nlines\nof\ntext"] });
      if (kind === "warning") send("palimpsest.warning", { node: id, prompt: "layout", text: warning });
      if (kind === "preview") {
        send("b_preview_with_metadata", { blob, nodeId: id, displayNodeId: id, parentNodeId: id, realNodeId: id, jobId: "layout" });
      }
    }
  }
}, { shows, warning });
const overlap = (a, b) =>
  Math.min(a.x + a.w, b.x + b.w) > Math.max(a.x, b.x) && Math.min(a.y + a.h, b.y + b.h) > Math.max(a.y, b.y);
const within = (a, b) => a.x >= b.x && a.y >= b.y && a.x + a.w <= b.x + b.w && a.y + a.h <= b.y + b.h;

await browse(async ({ given, page, show }) => {
  const report = {};
  for (const [name, path] of Object.entries(given.workflows)) {
    await page.evaluate(async (one) => {
      await window.app.loadGraphData(one);
      const [x, y] = [0, 1].map((i) => Math.min(...window.app.graph._nodes.map((node) => node.pos[i])));
      Object.assign(window.app.canvas.ds, { scale: 0.5, offset: [120 - x, 160 - y] });
      window.app.canvas.setDirty(true, true);
    }, JSON.parse(readFileSync(path, "utf8")));
    await settled(page);
    await showAll(page, given.shows, WARNING);
    await page.waitForTimeout(300);
    const { nodes, groups } = await settled(page);
    await show(`${name}.png`);
    const covered = nodes.flatMap((a, i) => nodes.slice(i + 1).filter((b) => overlap(a, b)).map((b) => [a.name, b.name]));
    const torn = nodes.filter((a) => groups.some((group) => overlap(a, group) && !within(a, group))).map((a) => a.name);
    const places = Object.fromEntries(nodes.map(({ id, w, h }) => [id, [w, h]]));
    report[name] = { nodes: nodes.length, covered, torn, places };
  }
  return report;
});
