// What every script of these tests begins and ends with: a real Chromium at the real front end, in one of its renderers.
//   await browse(async ({ given, page, ... }) => result)
// given: JSON from standard input with "playwright", "chromium", "url", "vue", "patience" and "out" (a folder for
// pictures, or ""). Prints the result, an object, as one line of JSON, with "errors": what the page threw.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

export async function browse(use) {
  const given = JSON.parse(readFileSync(0, "utf8"));
  const { chromium } = createRequire(given.playwright + "/")("playwright-core");
  const browser = await chromium.launch({ executablePath: given.chromium, args: ["--no-sandbox", "--disable-gpu"] });
  const page = await browser.newPage({ viewport: { width: 1500, height: 1000 } });
  page.setDefaultTimeout(given.patience);
  const errors = [];
  page.on("pageerror", (error) => errors.push(String(error)));
  const show = (file) => (given.out ? page.screenshot({ path: `${given.out}/${file}` }) : null);
  try {
    await setting(given.url, "Comfy.TutorialCompleted", true);
    await setting(given.url, "Comfy.VueNodes.Enabled", given.vue);
    await page.goto(given.url, { waitUntil: "domcontentloaded" });
    await page.waitForFunction(() => window.app?.graph && window.app.canvas);
    const result = await use({ given, page, errors, show, ...actions(page) });
    console.log(JSON.stringify({ errors, ...result }));
  } catch (error) {
    await show("failed.png");
    console.error(String(error), errors.join("\n"));
    process.exitCode = 1;
  } finally {
    await browser.close();
  }
}

function setting(url, name, value) {
  return fetch(`${url}/api/settings/${name}`, {
    method: "POST", body: JSON.stringify(value), headers: { "Content-Type": "application/json" },
  });
}

const actions = (page) => ({
  open: (workflow) => page.evaluate((one) => window.app.loadGraphData(one), workflow),
  prompt: () => page.evaluate(async () => (await window.app.graphToPrompt()).output),
  saved: () => page.evaluate(() => window.app.rootGraph.serialize()),
  // Presses Run; resolves to the event that ends the job and its detail.
  run: () => page.evaluate(() => new Promise((resolve) => {
    for (const name of ["execution_success", "execution_error"]) {
      window.app.api.addEventListener(name, ({ detail }) => resolve([name, detail]), { once: true });
    }
    window.app.queuePrompt(0);
  })),
});
