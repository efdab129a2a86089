// Does with templates what a person does, by mouse and keyboard, from opening one to its first picture, and counts it.
//   node first_run_browser.mjs '{..., "templates": {name: {"path", "pictures", "texts", "drag"}}, "brief": {type: values}}'
// pictures: files to choose, in the order of the Load Image nodes; texts: [what stands there, what is typed]; drag:
// whether something is outlined and dragged on Flow Canvas; brief: what is set in the prompt on its way to the host.
// The result: name -> "actions", "app" (the controls that the app shows, or null), "files" (names of the pictures that
// nodes showed or saved, by their type), "error".
import { readFileSync } from "node:fs";
import { browse } from "../browser.mjs";

const shorten = async (page, brief) => page.route("**/api/prompt", (route) => {
  if (route.request().method() !== "POST") return route.continue();
  const body = JSON.parse(route.request().postData());
  for (const { class_type, inputs } of Object.values(body.prompt)) {
    for (const [name, value] of Object.entries(brief[class_type] ?? {})) if (name in inputs) inputs[name] = value;
  }
  return route.continue({ postData: JSON.stringify(body) });
});

// Where the button of the node's number `place` among the Load Image nodes lies on the screen.
const uploadButton = (page, place) => page.evaluate((number) => {
  const { canvas, graph } = window.app;
  // A click brings a node to the front, and so to the end of the list.
  const node = graph._nodes.filter((one) => one.type === "LoadImage").sort((a, b) => a.id - b.id)[number];
  const button = node.widgets.find((one) => one.type === "button");
  const { left, top } = canvas.canvas.getBoundingClientRect();
  const [x, y] = [node.pos[0] + node.size[0] / 2, node.pos[1] + (button.last_y ?? button.y) + 10];
  return [left + (x + canvas.ds.offset[0]) * canvas.ds.scale, top + (y + canvas.ds.offset[1]) * canvas.ds.scale];
}, place);

const choose = async (page, app, place, file) => {
  const press = async () => {
    if (app) await page.locator('[data-slot="drop-zone-indicator"]:visible').nth(place).click();
    else await page.mouse.click(...(await uploadButton(page, place)));
  };
  const [chooser] = await Promise.all([page.waitForEvent("filechooser"), press()]);
  await Promise.all([page.waitForResponse((one) => one.url().includes("/upload/image")), chooser.setFiles(file)]);
  await page.waitForFunction(([number, name]) =>
    String(window.app.graph._nodes.filter((one) => one.type === "LoadImage").sort((a, b) => a.id - b.id)[number]
      .widgets[0].value).endsWith(name),
  [place, file.split("/").pop()]);
};

// From field to field, by the Tab key where that leads there.
const type = async (page, texts) => {
  const values = await page.locator("textarea:visible").evaluateAll((all) => all.map((one) => one.value));
  for (const [old, words] of texts) {
    const field = page.locator("textarea:visible").nth(values.indexOf(old));
    if (!(await field.evaluate((one) => one === document.activeElement))) await field.click();
    await page.keyboard.press("Control+a");
    await page.keyboard.type(words);
    await page.keyboard.press("Tab");
  }
};

const outlineAndDrag = async (page) => {
  const { x, y, width, height } = await page.locator(".palimpsest-canvas canvas").boundingBox();
  const at = (u, v) => [x + u * width, y + v * height];
  await page.mouse.move(...at(0.35, 0.35));
  await page.mouse.down();
  for (const corner of [[0.6, 0.35], [0.6, 0.6], [0.35, 0.6], [0.35, 0.36]]) await page.mouse.move(...at(...corner), { steps: 4 });
  await page.mouse.up();
  await page.mouse.move(...at(0.47, 0.47));
  await page.mouse.down();
  await page.mouse.move(...at(0.6, 0.47), { steps: 4 });
  await page.mouse.up();
};

const run = async (page) => {
  await page.evaluate(() => {
    window.shown = [];
    window.ended = new Promise((resolve) => {
      const { api } = window.app;
      api.addEventListener("executed", ({ detail }) => window.shown.push(...(detail.output?.images ?? [])));
      for (const name of ["execution_success", "execution_error"]) {
        api.addEventListener(name, ({ detail }) => resolve([name, detail.exception_message ?? ""]), { once: true });
      }
    });
  });
  const [answer] = await Promise.all([
    page.waitForResponse((one) => one.url().endsWith("/api/prompt") && one.request().method() === "POST"),
    page.getByRole("button", { name: "Run", exact: true }).locator("visible=true").first().click(),
  ]);
  if (!answer.ok()) return { error: await answer.text(), files: [] };
  const [kind, message] = await page.evaluate(() => window.ended);
  const files = await page.evaluate(() => window.shown.map(({ filename, type }) => [type, filename]));
  return { error: kind === "execution_success" ? "" : message, files };
};

await browse(async ({ given, page, show }) => {
  const report = {};
  await shorten(page, given.brief);
  for (const [name, { path, pictures, texts, drag }] of Object.entries(given.templates)) {
    const actions = [];
    // What the run before has said lies over the page.
    for (const message of await page.locator(".p-toast-close-button").all()) await message.click();
    const act = async (what, how) => {
      actions.push(what);
      const result = await how();
      await page.waitForTimeout(300);
      return result;
    };
    try {
      const graph = JSON.parse(readFileSync(path, "utf8"));
      const app = Boolean(graph.extra.linearMode);
      await act("open", () => page.evaluate(([one, title]) => window.app.loadGraphData(one, true, true, title), [graph, name]));
      if (app) await page.locator('[data-slot="drop-zone-indicator"]:visible').first().waitFor();
      const seen = app && {
        pictures: await page.locator('[data-slot="drop-zone-indicator"]:visible').count(),
        texts: await page.locator("textarea:visible").evaluateAll((all) => all.map((one) => one.value)),
      };
      for (const [place, file] of pictures.entries()) await act("choose a picture", () => choose(page, app, place, file));
      if (drag) await act("drag", () => outlineAndDrag(page));
      if (texts.length) await act("type", () => type(page, texts));
      await show(`${name}.png`);
      report[name] = { app: seen, ...(await act("run", () => run(page))), actions };
      await show(`${name}, done.png`);
    } catch (error) {
      await show(`${name}, failed.png`);
      report[name] = { app: null, error: String(error), files: [], actions };
    }
  }
  return report;
});
