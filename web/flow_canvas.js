// Flow Canvas: puts the editor into the node, keeps its JSON as the widget's value, and finds the picture to draw on.

import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { Editor } from "./flow_canvas/editor.js";

const NODE = "PalimpsestFlowCanvas";
const WIDGET = "PALIMPSEST_FLOW_CANVAS";
const editors = new Map(); // node -> editor

function viewUrl({ filename, subfolder = "", type = "input" }) {
  const query = new URLSearchParams({ filename, subfolder, type });
  return api.apiURL(`/view?${query}`);
}

const feeding = (node, slot) => (slot < 0 ? null : node.getInputNode?.(slot) ?? null);

// Nodes that hand on the picture of their first input that is one: resized, or as it is. A drawing fits
// every size of its picture, but not one that is cut or turned.
const HANDS_ON = /^(Reroute|ImageScale|ImageScaleBy|ImageScaleToTotalPixels|ImageScaleToMaxDimension|ResizeImageMaskNode)$/;

// The node whose picture arrives at the canvas, past nodes that only resize it.
function sourceNode(node) {
  let origin = feeding(node, node.inputs?.findIndex((input) => input.name === "image") ?? -1);
  for (let passed = 0; origin && passed < 32; passed++) {
    if (!HANDS_ON.test(origin.type) || cuts(origin)) return origin;
    origin = feeding(origin, origin.inputs?.findIndex((input) => input.link != null) ?? -1);
  }
  return origin;
}

// Whether a resize node crops to the new proportions.
const cuts = (node) => node.widgets?.some((one) => /(^|\.)crop$/.test(one.name) && one.value === "center") ?? false;

// The address of the picture that feeds the node, as far as it is known before a run.
function sourceUrl(node) {
  const origin = sourceNode(node);
  if (!origin) return null;
  const name = origin.widgets?.find((widget) => widget.name === "image")?.value;
  if (typeof name === "string" && name) {
    const [, path, type = "input"] = name.match(/^(.*?)(?: \[(input|output|temp)\])?$/);
    const cut = path.lastIndexOf("/");
    return viewUrl({ filename: path.slice(cut + 1), subfolder: path.slice(0, Math.max(cut, 0)), type });
  }
  return origin.imgs?.[0]?.src ?? null;
}

function show(node, url) {
  const editor = editors.get(node);
  if (!editor || editor.url === url) return;
  editor.url = url;
  if (!url) return editor.show(null);
  const picture = new Image();
  picture.crossOrigin = "anonymous";
  picture.onload = () => editor.url === url && editor.show(picture);
  picture.src = url;
}

// The picture of the last run stands in where the graph alone does not tell.
function refresh(node) {
  const editor = editors.get(node);
  if (editor) show(node, sourceUrl(node) ?? editor.executedUrl ?? null);
}

function follow(node) {
  const connected = node.onConnectionsChange;
  node.onConnectionsChange = function (...rest) {
    const result = connected?.apply(this, rest);
    editors.get(node).executedUrl = null;
    setTimeout(() => refresh(node));
    return result;
  };
  const removed = node.onRemoved;
  node.onRemoved = function (...rest) {
    clearInterval(timer);
    editors.delete(node);
    return removed?.apply(this, rest);
  };
  // Another file in the Load Image node announces itself nowhere; looking is cheap.
  const timer = setInterval(() => refresh(node), 700);
}

app.registerExtension({
  name: "palimpsest.flow_canvas",
  getCustomWidgets() {
    return {
      [WIDGET](node, name, spec) {
        const editor = new Editor(() => node.graph?.change?.());
        editors.set(node, editor);
        const widget = node.addDOMWidget(name, WIDGET, editor.element, {
          getValue: () => editor.value,
          setValue: (value) => {
            editor.value = typeof value === "string" ? value : "";
          },
          getMinHeight: () => 320,
          hideOnZoom: false,
          socketless: true,
        });
        widget.value = spec?.[1]?.default ?? "";
        follow(node);
        return { widget };
      },
    };
  },
  nodeCreated(node) {
    if (node.comfyClass !== NODE) return;
    node.setSize?.([Math.max(node.size[0], 420), Math.max(node.size[1], 560)]);
  },
  setup() {
    api.addEventListener("executed", ({ detail }) => {
      const [picture] = detail?.output?.palimpsest_picture ?? [];
      const id = String(detail?.display_node ?? detail?.node);
      for (const [node, editor] of editors) {
        if (!picture || String(node.id) !== id.split(":").at(-1)) continue;
        editor.executedUrl = viewUrl(picture);
        refresh(node);
      }
    });
  },
});
