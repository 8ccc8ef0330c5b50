/**
 * Tests the recipe for React with a reader who opens the page in Chromium, both from Vite's server
 * and as a build.
 *
 * @module
 */
import { assertEquals } from "@std/assert";
import {
  type Browser,
  BROWSERS,
  findBrowser,
  launchBrowser,
  newPage,
  type Page,
} from "../browser/browsers.ts";
import { Tab } from "./tab.ts";
import { walk } from "./walk.ts";

const PAGE = "docs/recipes/react.md";
const CHROMIUM = BROWSERS[0]!;

/** Opens the page, logs in, and records the page's errors. */
async function logIn(browser: Browser, url: string, name: string, errors: string[]): Promise<Tab> {
  const page: Page = await newPage(browser);
  page.on("pageerror", (error) => void errors.push(String(error)));
  await page.goto(url);
  await page.waitForSelector("input");
  const tab = new Tab(page);
  await tab.say(name);
  await tab.hasStatus("connected");
  await page.waitForSelector("#text");
  return tab;
}

walk([PAGE], {
  ports: [5173],
  ignore: findBrowser(CHROMIUM) === undefined && Deno.env.get("CI") !== "true",
  then: {
    async [PAGE]({ port, stop, restart }) {
      const browser = await launchBrowser(CHROMIUM);
      try {
        const errors: string[] = [];
        const dev = `http://localhost:${port(5173)}/`;
        const ann = await logIn(browser, dev, "ann", errors);
        const bob = await logIn(browser, `http://localhost:${port(8000)}/`, "bob", errors);
        await ann.hasText("#people", "ann, bob");
        await ann.page.type("#text", "Hello");
        await bob.hasText("#people", "ann is typing, bob");
        await ann.page.keyboard.press("Enter");
        for (const tab of [ann, bob]) await tab.hasLines(["ann: Hello"]);

        await stop("server.ts");
        for (const tab of [ann, bob]) await tab.hasStatus("reconnecting");
        await restart("server.ts");
        for (const tab of [ann, bob]) {
          // The pauses between attempts grow while the server starts; this event ends a pause
          // early.
          await tab.page.evaluate(() => dispatchEvent(new Event("online")));
          await tab.hasStatus("connected");
        }
        await bob.say("Back");
        // The history was in the server's memory, so the page shows a gap.
        await ann.page.waitForSelector("#lines hr");
        await ann.hasText("#lines li:last-child", "bob: Back");
        assertEquals(errors, []);
      } finally {
        await browser.close();
      }
    },
  },
});
