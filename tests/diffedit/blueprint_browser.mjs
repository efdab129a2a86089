// Puts the blueprint "DiffEdit" on a canvas of the real front end, wires it, runs it, and opens saved workflows.
//   node blueprint_browser.mjs '{"playwright", "chromium", "url", "workflow", "vue", "values", "examples", "patience", "out"}'
// Prints one line of JSON: what the node shows, the prompt that the front end sends, and what it serializes.
import { createRequire } from "node:module";

const given = JSON.parse(process.argv[2]);
const { chromium } = createRequire(given.playwright + "/")("playwright-core");
const browser = await chromium.launch({ executablePath: given.chromium, args: ["--no-sandbox", "--disable-gpu"] });
const page = await browser.newPage({ viewport: { width: 1500, height: 1000 } });
page.setDefaultTimeout(given.patience);
const told = { errors: [], examples: {} };
page.on("pageerror", (error) => told.errors.push(String(error)));

const setting = (name, value) => fetch(`${given.url}/api/settings/${name}`, {
  method: "POST", body: JSON.stringify(value), headers: { "Content-Type": "application/json" },
});
await setting("Comfy.TutorialCompleted", true);
await setting("Comfy.VueNodes.Enabled", given.vue);
const show = (file) => (given.out ? page.screenshot({ path: `${given.out}/${file}` }) : null);
const prompt = () => page.evaluate(async () => (await window.app.graphToPrompt()).output);
const open = (workflow) => page.evaluate((one) => window.app.loadGraphData(one), workflow);

try {
  await page.goto(given.url, { waitUntil: "domcontentloaded" });
  await page.waitForFunction(() => window.app?.graph && window.app.canvas);
  // The library of blueprints, as the front end keeps it.
  const library = () => document.querySelector("#vue-app").__vue_app__.config.globalProperties.$pinia._s.get("subgraph");
  await page.waitForFunction(`(${library})()?.subgraphBlueprints.some((one) => one.display_name === "DiffEdit")`);
  await open(given.workflow);
  told.face = await page.evaluate(([find, values]) => {
    const store = new Function(`return (${find})()`)();
    const blueprint = store.getBlueprint(store.subgraphBlueprints.find((one) => one.display_name === "DiffEdit").name);
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
  told.prompt = await prompt();
  told.saved = await page.evaluate(() => window.app.graph.serialize());
  await show(`blueprint_${given.vue ? "vue" : "classic"}.png`);

  if (given.run) {
    const done = page.evaluate(() => new Promise((resolve) => {
      for (const name of ["execution_success", "execution_error"]) {
        window.app.api.addEventListener(name, ({ detail }) => resolve([name, detail]), { once: true });
      }
    }));
    await page.evaluate(() => window.app.queuePrompt(0));
    told.run = await done;
    await page.waitForTimeout(500);
    await show("blueprint_done.png");
  }
  await open(told.saved);
  told.again = await prompt();
  for (const [name, workflow] of Object.entries(given.examples)) {
    await open(workflow);
    told.examples[name] = await prompt();
    await page.evaluate(() => window.app.canvas.fitViewToSelectionAnimated?.() );
    await page.waitForTimeout(given.out ? 1000 : 0);
    await show(`${name}_${given.vue ? "vue" : "classic"}.png`);
  }
  console.log(JSON.stringify(told));
} catch (error) {
  await show("failed.png");
  console.error(String(error), told.errors.join("\n"));
  process.exitCode = 1;
} finally {
  await browser.close();
}
