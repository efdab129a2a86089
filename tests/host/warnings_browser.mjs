// Runs a workflow whose Flow Canvas warns, opens another workflow in between, then runs it changed so that nothing warns.
//   node warnings_browser.mjs '{..., "workflow", "drawing"}'; see tests/browser.mjs
// The result: what stands on the node, in toasts, in the prompt and in the saved workflow at each stage.
import { browse } from "../browser.mjs";

await browse(async ({ given, page, show, open, prompt, saved, run }) => {
  const name = (stage) => `warning_${given.name}_${given.vue ? "vue" : "classic"}_${stage}.png`;
  // The sentence wherever it is shown but on a node: the innermost elements, with what stands around them.
  const toasts = () => page.evaluate((sentence) => [...document.querySelectorAll("body *")]
    .filter((one) => !one.children.length && one.textContent.includes(sentence) && !one.closest(".palimpsest_warning"))
    .map((one) => one.parentElement.innerText), given.sentence);
  // Waits, not for ever, until so many warnings stand on nodes, and toasts are shown or not.
  const settled = async (nodes, shown) => {
    for (let i = 0; i < 80; i++) {
      if (await page.locator(".palimpsest_warning").count() === nodes && ((await toasts()).length > 0) === shown) return;
      await page.waitForTimeout(250);
    }
  };
  const seen = async (stage, nodes, shown) => {
    await settled(nodes, shown);
    await page.waitForTimeout(500);
    await show(name(stage));
    return {
      node: await page.locator(".palimpsest_warning").evaluateAll((all) => all.map((one) => {
        const { width, height } = one.getBoundingClientRect();
        return { text: one.textContent, width, height, cut: one.scrollHeight - one.clientHeight };
      })),
      toasts: await toasts(),
      size: await page.evaluate(() => [...window.app.graph.getNodeById(2).size]),
      prompt: await prompt(),
      saved: (await saved()).nodes.find((one) => one.id === 2).widgets_values,
    };
  };
  const draw = (value) => page.evaluate((text) => {
    window.app.graph.getNodeById(2).widgets.find((one) => one.name === "canvas").value = text;
  }, value);

  await open(given.workflow);
  await page.evaluate(() => Object.assign(window.app.canvas.ds, { scale: 0.8, offset: [80, 120] }));
  const stages = { before: await seen("before", 0, false) };
  stages.ran = await run();
  stages.warned = await seen("warned", 1, true);
  // Another workflow comes to the canvas, with a node of the same number, then this one comes back.
  const here = await saved();
  await open(given.other);
  stages.elsewhere = await seen("elsewhere", 0, true);
  await open(here);
  stages.back = await seen("back", 1, true);
  await draw(given.drawing);
  stages.again = await run();
  stages.silent = await seen("silent", 0, false);
  return stages;
});
