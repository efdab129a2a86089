// Opens the gallery's page at several widths and tells how it lies there.
//   node gallery_browser.mjs '{"playwright", "chromium", "page": file, "widths": [...], "out"}'
// The result: width -> "overflow", pixels by which the page is wider than the window; "cards", the cards' number in the
// first row; "first", whether the first picture on the page is a card's; "open", unfolded tables.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const given = JSON.parse(readFileSync(0, "utf8"));
const { chromium } = createRequire(given.playwright + "/")("playwright-core");
const browser = await chromium.launch({ executablePath: given.chromium, args: ["--no-sandbox", "--disable-gpu"] });
const found = {};
for (const width of given.widths) {
  const page = await browser.newPage({ viewport: { width, height: 900 } });
  await page.goto(`file://${given.page}`);
  await page.waitForTimeout(300);
  found[width] = await page.evaluate(() => {
    const cards = [...document.querySelectorAll(".card")];
    const top = cards[0]?.offsetTop;
    return {
      overflow: document.documentElement.scrollWidth - window.innerWidth,
      cards: cards.filter((card) => card.offsetTop === top).length,
      first: Boolean(document.querySelector("img")?.closest(".card")),
      open: document.querySelectorAll("details[open]").length,
    };
  });
  if (given.out) await page.screenshot({ path: `${given.out}/templates-gallery-${width}.png` });
  if (given.out) await page.screenshot({ path: `${given.out}/templates-gallery-${width}-whole.png`, fullPage: true });
  await page.close();
}
await browser.close();
console.log(JSON.stringify(found));
