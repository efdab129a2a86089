// Runs Prompt-to-Prompt and looks at what stands on its node: how both texts were read.
//   node reading_browser.mjs '{..., "name", "workflow"}'; see tests/browser.mjs
// The result: the text shown, its size, and what is in the prompt and in the saved workflow.
import { browse } from "../browser.mjs";

await browse(async ({ given, page, show, open, prompt, saved, run }) => {
  const name = (stage) => `reading_${given.name}_${given.vue ? "vue" : "classic"}_${stage}.png`;
  const id = 2;
  // The graph that a first visit opens would come over ours where it is slow.
  await page.waitForFunction(() => window.app.graph.nodes.length);
  await open(given.workflow);
  await page.evaluate(() => Object.assign(window.app.canvas.ds, { scale: 0.8, offset: [30, 40] }));
  const seen = async (stage, count) => {
    for (let i = 0; i < 80 && (await page.locator(".palimpsest_reading").count()) !== count; i++) await page.waitForTimeout(250);
    await page.waitForTimeout(1000);
    await show(name(stage));
    return {
      node: await page.locator(".palimpsest_reading").evaluateAll((all) => all.map((one) => {
        const { width, height } = one.getBoundingClientRect();
        return { text: one.textContent, width, height, cut: one.scrollHeight - one.clientHeight };
      })),
      prompt: (await prompt())[id].inputs,
      saved: (await saved()).nodes.find((one) => one.id === id).widgets_values,
    };
  };
  const stages = { before: await seen("before", 0) };
  stages.ran = (await run())[0];
  stages.read = await seen("read", 1);
  stages.again = (await run())[0]; // all outputs are remembered
  stages.kept = await seen("kept", 1);
  await open(await saved());
  stages.opened = await seen("opened", 0);
  return stages;
});
