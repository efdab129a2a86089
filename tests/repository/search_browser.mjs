// What the front end's own search finds.
//   node search_browser.mjs '{..., "queries": [...]}'; see tests/browser.mjs
// The result: "found": query -> node ids, best first, as many as one page of the search shows.
import { browse } from "../browser.mjs";

await browse(async ({ given, page }) => {
  const found = await page.evaluate((queries) => {
    const { $pinia } = document.querySelector("#vue-app").__vue_app__.config.globalProperties;
    const { nodeSearchService } = $pinia._s.get("nodeDef");
    return Object.fromEntries(
      queries.map((query) => [query, nodeSearchService.searchNode(query, [], { limit: 12 }).map((node) => node.name)]));
  }, given.queries);
  return { found };
});
