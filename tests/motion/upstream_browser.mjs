// What Flow Canvas shows before the first run, of a picture that comes through other nodes.
//   node upstream_browser.mjs '{..., "workflows": {name: workflow}}'; see tests/browser.mjs
// The result: name -> whether the picture is shown.
import { browse } from "../browser.mjs";

await browse(async ({ given, page, show, open }) => {
  const shown = {};
  for (const [name, workflow] of Object.entries(given.workflows)) {
    await open(workflow);
    await page.evaluate(() => {
      const node = window.app.graph._nodes.find((one) => one.comfyClass === "PalimpsestFlowCanvas");
      Object.assign(window.app.canvas.ds, { scale: 1, offset: [120 - node.pos[0], 120 - node.pos[1]] });
      window.app.canvas.setDirty(true, true);
    });
    await page.locator(".palimpsest-canvas canvas").waitFor({ state: "visible" });
    const seen = page.waitForFunction(() => {
      const canvas = document.querySelector(".palimpsest-canvas canvas");
      const [r, g, b] = canvas.getContext("2d").getImageData(4, 4, 1, 1).data;
      return r + g + b > 250; // the picture's light ground, and not the dark one of the words
    }, null, { timeout: given.expected[name] ? given.patience : 3000 });
    shown[name] = await seen.then(() => true, () => false);
    await show(`upstream_${name}_${given.vue ? "vue" : "classic"}.png`);
  }
  return { shown };
});
