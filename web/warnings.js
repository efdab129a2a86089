// What a node warns of in its run: on the node until it runs again, and as a toast.
// The host's own text previews end with the job from front end 1.55 on.

import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";

const EVENT = "palimpsest.warning"; // host/notify.py sends it
const WIDGET = "palimpsest_warning";
const [LINE, MARGIN] = [16, 6]; // pixels
const STYLE = `box-sizing: border-box; padding: 4px 8px; overflow: auto; font: 12px/${LINE}px sans-serif;
  white-space: pre-wrap; overflow-wrap: anywhere; color: var(--input-text, #ddd); user-select: text;
  background: var(--comfy-input-bg, #222); border-left: 3px solid #e0a030; border-radius: 3px;`;
// "graph id" + node id -> {graph, node, prompt, lines, toast}: the same node ids come in many workflows.
const warnings = new Map();
let prompt = null; // what runs now

const shownGraph = () => app.rootGraph ?? app.graph;
const keyOf = (graph, node) => `${graph} ${node}`;

// The workflow that a prompt was queued from: another one may be on the canvas by now.
let asked = {};
function graphOf(prompt) {
  if (asked.prompt !== prompt) asked = { prompt, graph: findGraph(prompt).catch(() => null) };
  return asked.graph;
}

async function findGraph(prompt) {
  const { queue_running: running } = await (await api.fetchApi("/queue")).json();
  return running.find((item) => item[1] === prompt)?.[3]?.extra_pnginfo?.workflow?.id ?? null;
}

// id: of a run, "5:12" is node 12 of the subgraph at node 5. null where the canvas has no such node.
function nodeOf(id) {
  let [graph, node] = [shownGraph(), null];
  for (const part of String(id).split(":")) {
    node = graph?.getNodeById(/^\d+$/.test(part) ? Number(part) : part);
    graph = node?.subgraph;
  }
  return node ?? null;
}

function render({ graph, node: id, lines }) {
  const node = graph === shownGraph()?.id ? nodeOf(id) : null;
  if (!node) return;
  if (lines.length) write(node, lines.join("\n"));
  else erase(node);
  node.graph?.setDirtyCanvas?.(true, true);
}

function write(node, text) {
  const widget = node.widgets?.find((one) => one.name === WIDGET) ?? addWidget(node);
  widget.element.textContent = text;
  const [width, height] = node.size;
  const needed = node.computeSize()[1];
  if (needed <= height) return;
  widget.grown = (widget.grown ?? 0) + needed - height;
  node.setSize([width, needed]);
}

function addWidget(node) {
  const element = document.createElement("div");
  Object.assign(element, { className: WIDGET, style: STYLE, role: "status" });
  const widget = node.addDOMWidget(WIDGET, WIDGET, element, {
    serialize: false, socketless: true, hideOnZoom: false, margin: MARGIN,
    getValue: () => element.textContent,
    setValue: () => {},
  });
  // As high as its text and no higher: what has a computeLayoutSize shares in the node's free space.
  widget.computeLayoutSize = undefined;
  widget.computeSize = (width) => [width, heightOf(element.textContent, width ?? node.size[0])];
  widget.setNodeId?.(node.id); // Nodes 2.0 has noted these two when the widget was added: it is to look again
  widget.serialize = false; // in neither the saved workflow nor the prompt
  return widget;
}

// In the classic canvas; a letter is about six pixels wide.
function heightOf(text, width) {
  const letters = Math.max((width - 2 * MARGIN - 20) / 6.2, 10);
  const rows = text.split("\n").reduce((sum, line) => sum + Math.max(1, Math.ceil(line.length / letters)), 0);
  return rows * LINE + 8 + 2 * MARGIN;
}

function erase(node) {
  const widget = node.widgets?.find((one) => one.name === WIDGET);
  if (!widget) return;
  const [width, height] = node.size;
  node.removeWidget(widget);
  if (widget.grown) node.setSize([width, Math.max(height - widget.grown, node.computeSize()[1])]);
}

// One toast a node, with all that it has said in the run; it stays until it is closed or the node runs again.
function toast(warning) {
  const bar = app.extensionManager?.toast;
  dismiss(warning);
  const title = nodeOf(warning.node)?.title ?? `Node ${warning.node}`;
  const text = warning.lines.join("\n");
  if (bar?.warning) warning.toast = bar.warning(title, { description: text }); // from front end 1.58 on, or near it
  else bar?.add((warning.toast = { severity: "warn", summary: title, detail: text }));
}

function dismiss(warning) {
  const bar = app.extensionManager?.toast;
  if (warning.toast === undefined) return;
  if (bar?.dismiss) bar.dismiss(warning.toast);
  else bar?.remove?.(warning.toast);
  delete warning.toast;
}

function forget(warning) {
  warnings.delete(keyOf(warning.graph, warning.node));
  dismiss(warning);
  render({ ...warning, lines: [] });
}

async function onWarning({ detail }) {
  const graph = (await graphOf(detail.prompt)) ?? shownGraph()?.id;
  const key = keyOf(graph, detail.node);
  const old = warnings.get(key);
  if (old && old.prompt !== detail.prompt) forget(old);
  const warning = warnings.get(key) ?? { graph, node: detail.node, prompt: detail.prompt, lines: [] };
  if (warning.lines.includes(detail.text)) return;
  warning.lines.push(detail.text);
  warnings.set(key, warning);
  render(warning);
  toast(warning);
}

// A node that runs again takes back what it said in an earlier run.
async function onExecuting({ detail: node }) {
  const now = prompt;
  const earlier = [...warnings.values()].filter((one) => one.node === String(node) && one.prompt !== now);
  if (!earlier.length) return;
  const graph = (await graphOf(now)) ?? shownGraph()?.id;
  const warning = earlier.find((one) => one.graph === graph);
  if (warning && warnings.get(keyOf(graph, warning.node)) === warning) forget(warning);
}

app.registerExtension({
  name: "palimpsest.warnings",
  setup() {
    api.addEventListener(EVENT, onWarning);
    api.addEventListener("execution_start", ({ detail }) => {
      prompt = detail.prompt_id;
    });
    api.addEventListener("executing", onExecuting);
  },
  // Another workflow, or this one again, has come to the canvas.
  afterConfigureGraph() {
    for (const warning of warnings.values()) render(warning);
  },
});
