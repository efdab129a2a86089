// Puts the blueprint "Change Only That" on a canvas of the real front end, wires it, runs it, and opens saved workflows.
//   node blueprint_browser.mjs '{..., "workflow", "values", "examples", "run"}'; see tests/browser.mjs
// The result: what the node shows, the prompt that the front end sends, and what it serializes.
import { browse } from "../browser.mjs";

await browse(async ({ given, page, show, open, prompt, saved, run }) => {
  const report = { examples: {} };
  // The library of blueprints, as the front end keeps it.
  const library = () => document.querySelector("#vue-app").__vue_app__.config.globalProperties.$pinia._s.get("subgraph");
  await page.waitForFunction(`(${library})()?.subgraphBlueprints.some((one) => one.display_name === "Change Only That")`);
  await open(given.workflow);
  report.face = await page.evaluate(([find, values]) => {
    const store = new Function(`return (${find})()`)();
    const blueprint = store.getBlueprint(store.subgraphBlueprints.find((one) => one.display_name === "Change Only That").name);
    const items = { nodes: blueprint.nodes, subgraphs: blueprint.definitions.subgraphs };
    const { canvas, graph } = window.app;
    const [node] = canvas._deserializeItems(items, { position: [480, 80] }).nodes.values();
    const from = (kind) => graph._nodes.find((one) => one.comfyClass === kind);
    const wire = (kind, output, input) =>
      from(kind).connect(output, node, node.inputs.findIndex((one) => one.name === input));
    wire("LoadImage", 0, "picture");
    for (const [slot, name] of ["model", "clip", "vae"].entries()) wire("CheckpointLoaderSimple", slot, name);
    node.connect(0, from("SaveImage"), 0);
    node.connect(1, from("MaskPreview"), 0);
    const face = node.widgets.map((one) => [one.label ?? one.name, one.name, one.type]);
    for (const [name, value] of Object.entries(values)) {
      const widget = node.widgets.find((one) => (one.label ?? one.name) === name || one.name === name);
      widget.value = value;
      widget.callback?.(value);
    }
    Object.assign(canvas.ds, { scale: 0.8, offset: [20, 60] });
    canvas.setDirty(true, true);
    return { widgets: face, inputs: node.inputs.map((one) => one.name), outputs: node.outputs.map((one) => one.name) };
  }, [String(library), given.values]);
  await page.waitForTimeout(500);
  report.prompt = await prompt();
  report.saved = await saved();
  await show(`blueprint_${given.vue ? "vue" : "classic"}.png`);

  if (given.run) {
    report.run = await run();
    await page.waitForTimeout(500);
    await show("blueprint_done.png");
  }
  await open(report.saved);
  report.again = await prompt();
  for (const [name, workflow] of Object.entries(given.examples)) {
    await open(workflow);
    report.examples[name] = await prompt();
    await page.evaluate(() => window.app.canvas.fitViewToSelectionAnimated?.() );
    await page.waitForTimeout(given.out ? 1000 : 0);
    await show(`${name}_${given.vue ? "vue" : "classic"}.png`);
  }
  return report;
});
