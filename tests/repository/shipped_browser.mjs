// Opens workflows in the real front end and tells what it says of the files that they load.
//   node shipped_browser.mjs '{..., "workflows": {name: path}, "missing": true | false}'; see tests/browser.mjs
// The result: name -> "red", ids of nodes in a red frame; "files", the names that the panel of missing models offers to
// download; "links", the addresses that it copies for them.
import { readFileSync } from "node:fs";
import { browse } from "../browser.mjs";

const red = (page) => page.evaluate(() =>
  window.app.graph._nodes.filter((node) => node.has_errors || node.bgcolor === "red").map((node) => String(node.id)));

const offered = async (page) => {
  const buttons = page.locator('button[aria-label^="Download "]');
  const labels = await buttons.evaluateAll((all) => all.map((button) => button.getAttribute("aria-label")));
  await page.evaluate(() => {
    window.copied = [];
    Object.defineProperty(navigator, "clipboard", {
      configurable: true, value: { writeText: async (text) => void window.copied.push(text) },
    });
  });
  for (const button of await page.locator('button[aria-label="Copy URL"]').all()) await button.click();
  await page.waitForTimeout(100);
  return { files: labels.map((label) => label.slice("Download ".length)), links: await page.evaluate(() => window.copied) };
};

await browse(async ({ given, page, show }) => {
  const report = {};
  for (const [name, path] of Object.entries(given.workflows)) {
    const graph = JSON.parse(readFileSync(path, "utf8"));
    await page.evaluate(([one, title]) => window.app.loadGraphData(one, true, true, title), [graph, name]);
    await page.waitForTimeout(700);
    const seen = { red: await red(page), files: [], links: [] };
    if (given.missing && graph.nodes.some((node) => node.properties?.models?.length)) {
      // An app says how many errors there are, and leads to the graph.
      const graphed = page.getByRole("button", { name: "Show errors in graph" });
      if (await graphed.isVisible()) await graphed.click();
      await page.waitForTimeout(300);
      const details = page.getByText("View details");
      if (await details.isVisible()) await details.click();
      await page.locator('button[aria-label^="Download "]').first().waitFor();
      Object.assign(seen, await offered(page));
    }
    await show(`${name}.png`);
    report[name] = seen;
  }
  return report;
});
