/** Tests the page of the simulated cluster: it plays a trace, and clicks add faults. */
import { assertEquals, assertMatch, assertNotEquals } from "@std/assert";
import { ChatProcess, newPage, testInBrowsers } from "./_browsers.ts";
import { chooseHost, seek, textOf, untilText } from "./_simulation_page.ts";

testInBrowsers(
  "clicking a fault reruns the seed, and removing it restores the first run",
  async (browser) => {
    await using server = await ChatProcess.start("simulation");
    const page = await newPage(browser);
    const errors: unknown[] = [];
    page.on("pageerror", (error) => errors.push(error));
    await page.goto(server.url);
    await untilText(page, "#digest", /^[0-9a-f]{8}$/);
    const first = await textOf(page, "#digest");
    assertEquals(await textOf(page, "#findings"), "Every client received every line.");
    await untilText(page, "#play", /Pause/);
    await page.click("#play");

    await seek(page, 20_000);
    assertEquals(await textOf(page, "#clock"), "20.00 s");
    await chooseHost(page, "oslo");
    await page.click('[data-kind="kill"]');
    await untilText(page, "#faults", /20.00 s: oslo is killed/);
    const broken = await textOf(page, "#digest");
    assertNotEquals(broken, first);
    assertEquals(await textOf(page, "#clock"), "20.00 s");
    await seek(page, 21_000);
    await page.waitForSelector('[aria-label="oslo, node, dead"]');
    assertMatch(await textOf(page, "#facts"), /oslo is killed/);
    await seek(page, 19_000);
    await page.waitForSelector('[aria-label="oslo, node, alive"]');

    await page.click("#faults button");
    await untilText(page, "#digest", new RegExp(first));
    assertEquals(await page.$$eval("#faults li", (faults) => faults.length), 0);

    await page.$eval("#seed", (seed) => Object.assign(seed, { value: "2" }).value);
    await page.click("#start button");
    await untilText(page, "#digest", new RegExp(`^(?!${first}|${broken})[0-9a-f]{8}`));
    assertEquals(errors, []);
  },
);

testInBrowsers("the keyboard focus stays on a host when the page is resized", async (browser) => {
  await using server = await ChatProcess.start("simulation");
  const page = await newPage(browser);
  await page.setViewport({ width: 1280, height: 800 });
  await page.goto(server.url);
  await untilText(page, "#digest", /^[0-9a-f]{8}$/);
  const viewBox = 'document.querySelector("#stage").getAttribute("viewBox")';
  const wide = await page.evaluate(viewBox);
  await page.evaluate("document.querySelector('[aria-label^=\"oslo,\"]').focus()");
  await page.setViewport({ width: 390, height: 800 });
  await page.waitForFunction(`${viewBox} !== ${JSON.stringify(wide)}`, { polling: 50 });
  const focused = await page.evaluate("document.activeElement.getAttribute('aria-label')");
  assertMatch(`${focused}`, /^oslo,/);
});
