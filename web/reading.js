// How Prompt-to-Prompt read its texts in the last run: its report, on the node.

import { app } from "../../scripts/app.js";

const NODE = "PalimpsestPromptToPrompt";
const WIDGET = "palimpsest_reading";
const [LINE, MARGIN, LETTER] = [16, 6, 6.2]; // pixels
const STYLE = `box-sizing: border-box; padding: 4px 8px; overflow: auto; font: 12px/${LINE}px sans-serif;
  white-space: pre-wrap; overflow-wrap: anywhere; color: var(--input-text, #ddd); user-select: text;
  background: var(--comfy-input-bg, #222); border-radius: 3px;`;

function heightOf(text, width) {
  const letters = Math.max((width - 2 * MARGIN - 20) / LETTER, 10);
  const rows = text.split("\n").reduce((sum, line) => sum + Math.max(1, Math.ceil(line.length / letters)), 0);
  return rows * LINE + 8 + 2 * MARGIN;
}

function addWidget(node) {
  const element = document.createElement("div");
  Object.assign(element, { className: WIDGET, style: STYLE });
  const widget = node.addDOMWidget(WIDGET, WIDGET, element, {
    serialize: false, socketless: true, hideOnZoom: false, margin: MARGIN,
    getValue: () => element.textContent,
    setValue: () => {},
  });
  widget.computeLayoutSize = undefined; // as high as its text, and no part of the node's free space
  widget.computeSize = (width) => [width, heightOf(element.textContent, width ?? node.size[0])];
  widget.setNodeId?.(node.id);
  widget.serialize = false; // in neither the saved workflow nor the prompt
  return widget;
}

function show(node, text) {
  const widget = node.widgets?.find((one) => one.name === WIDGET) ?? addWidget(node);
  widget.element.textContent = text;
  const [width, height] = node.size;
  const needed = node.computeSize()[1];
  if (needed > height) node.setSize([width, needed]);
  node.graph?.setDirtyCanvas?.(true, true);
}

app.registerExtension({
  name: "palimpsest.reading",
  nodeCreated(node) {
    if (node.comfyClass !== NODE) return;
    const executed = node.onExecuted;
    node.onExecuted = function (output, ...rest) {
      const result = executed?.call(this, output, ...rest);
      const text = output?.text?.[0];
      if (text) show(this, text);
      return result;
    };
  },
});
