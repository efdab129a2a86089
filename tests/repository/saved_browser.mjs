// Opens saved workflows in the real front end and reads what came of them by name.
//   node saved_browser.mjs '{..., "workflows": {name: path}}'; see tests/browser.mjs
// The result: "opened": name -> {id: {class_type, inputs: {name: value or {node, output}}, control_after_generate}},
// "sockets": the inputs that Flow Canvas shows, by workflow; "fresh": class -> what stands behind the seed of a new node.
import { readFileSync } from "node:fs";
import { browse } from "../browser.mjs";

await browse(async ({ given, page, open, prompt }) => {
  const opened = {};
  const sockets = {};
  for (const [name, path] of Object.entries(given.workflows)) {
    await open(JSON.parse(readFileSync(path, "utf8")));
    const sent = await prompt();
    const nodes = await page.evaluate((ids) => {
      // "5:12" is node 12 of the subgraph at node 5.
      const at = (id) => id.split(":").reduce(
        (node, part) => (node ? node.subgraph : window.app.rootGraph).getNodeById(Number(part)), null);
      return Object.fromEntries(ids.map((id) => [id, at(id)]).map(([id, node]) => [id, {
        outputs: (node.outputs ?? []).map((one) => one.name),
        inputs: (node.inputs ?? []).map((one) => one.name),
        // Front end 1.47 names the widget after its first value.
        control: node.widgets?.find((one) => one.linkedWidgets?.length)?.linkedWidgets[0].value,
      }]));
    }, Object.keys(sent));
    const named = (value) => Array.isArray(value) ? { node: value[0], output: nodes[value[0]].outputs[value[1]] } : value;
    opened[name] = Object.fromEntries(Object.entries(sent).map(([id, { class_type, inputs }]) => [id, {
      class_type, inputs: Object.fromEntries(Object.entries(inputs).map(([key, value]) => [key, named(value)])),
      control_after_generate: nodes[id].control,
    }]));
    sockets[name] = Object.entries(sent).filter(([, one]) => one.class_type === "PalimpsestFlowCanvas")
      .map(([id]) => nodes[id].inputs);
  }
  const fresh = await page.evaluate((kinds) => Object.fromEntries(kinds.map((kind) => {
    const node = window.LiteGraph.createNode(kind);
    window.app.rootGraph.add(node);
    return [kind, node.widgets.find((one) => one.name === "seed").linkedWidgets?.[0]?.value ?? null];
  })), given.seeded);
  return { opened, sockets, fresh };
});
