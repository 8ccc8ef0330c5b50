import { assert, assertEquals } from "@std/assert";
import axe from "npm:axe-core@4.14.1";
import { OUT } from "../../tools/site/build.ts";
import { siteHandler } from "../../tools/site/serve.ts";
import { readPages } from "../../tools/pages.ts";
import { stage } from "../../tools/site/stage.ts";
import {
  type Browser,
  BROWSERS,
  emulate,
  newPage,
  type Page,
  testInBrowsers,
} from "../browser/browsers.ts";

const NARROW = { width: 360, height: 780 };

/** The size of a small laptop, with the sidebar and the outline next to the text. */
const WIDE = { width: 1280, height: 800 };

/** Finds tables that are wider than the text column, by their first words. */
const WIDE_TABLES = `
  [...document.querySelectorAll(".vp-doc .table")]
    .filter(({ scrollWidth, clientWidth }) => scrollWidth > clientWidth)
    .map((table) => table.textContent.trim().replace(/\\s+/g, " ").slice(0, 120) + ": " +
      table.scrollWidth + " of " + table.clientWidth + " px");
`;

/** Finds words in a page's text, outside of code, that only a bug in the renderer leaves there. */
const ABSENT = `
  const text = document.querySelector("main, #VPContent").cloneNode(true);
  for (const code of text.querySelectorAll("code, pre")) code.remove();
  text.textContent.match(/.{0,20}(?:undefined|\\[object Object\\]).{0,20}/g) ?? [];
`;

/**
 * Pages with everything that the theme draws: the home page, tables, code with names, the
 * reference.
 */
const DRAWN = [
  "/",
  "/reference/limits",
  "/start/2-a-page",
  "/api/",
  "/api/~/ServeOptions",
  "/api/~/connect",
  "/api/~/Client",
];

const IS_BUILT = await isFile(new URL("index.html", OUT));

async function isFile(url: URL): Promise<boolean> {
  try {
    return (await Deno.stat(url)).isFile;
  } catch {
    return false;
  }
}

/** Serves the built site to a browser. */
async function withSite(
  browser: Browser,
  look: (page: Page, url: string) => Promise<void>,
): Promise<void> {
  await using server = Deno.serve(
    { port: 0, hostname: "127.0.0.1", onListen() {} },
    siteHandler(OUT),
  );
  const context = await browser.createBrowserContext();
  const page = await newPage(context);
  try {
    await look(page, `http://127.0.0.1:${server.addr.port}`);
  } finally {
    await context.close();
  }
}

/** Registers a test in Chromium. Without a built site, the test is ignored, or fails in CI. */
function testSite(name: string, look: (page: Page, url: string) => Promise<void>): void {
  if (!IS_BUILT && Deno.env.get("CI") !== "true") {
    Deno.test({
      name: `${name} (skipped: build the site with deno task docs)`,
      ignore: true,
      fn() {},
    });
    return;
  }
  testInBrowsers(name, (browser) => withSite(browser, look), [BROWSERS[0]!]);
}

/** Pages per test: a single test would take minutes on a busy machine. */
const PAGES_A_TEST = 25;

const { groups } = stage(await readPages(new URL("../../", import.meta.url)));
const links = groups.flatMap(({ items }) => items.map(({ link }) => link.replace(/#.*/, "")));
const pages = [...new Set([...DRAWN, "/api/all_symbols", "/api/moq/", ...links])];
for (let from = 0; from < pages.length; from += PAGES_A_TEST) {
  const part = pages.slice(from, from + PAGES_A_TEST);
  testSite(`${part.length} pages starting with ${part[0]} fit a phone`, async (page, url) => {
    await page.setViewport(NARROW);
    // The pages as they are served, without the time in which their scripts start.
    await page.setJavaScriptEnabled(false);
    for (const link of part) {
      // Without scripts, only the load event waits for the styles.
      await page.goto(`${url}${link}`, { waitUntil: "load" });
      const width = await page.evaluate("document.documentElement.scrollWidth");
      assertEquals([link, width], [link, NARROW.width]);
      if (!link.startsWith("/api/")) assertEquals([link, await page.evaluate(ABSENT)], [link, []]);
    }
  });
}

const written = pages.filter((link) => !link.startsWith("/api/"));
for (let from = 0; from < written.length; from += PAGES_A_TEST) {
  const part = written.slice(from, from + PAGES_A_TEST);
  testSite(
    `tables of ${part.length} pages starting with ${part[0]} fit a laptop`,
    async (page, url) => {
      await page.setViewport(WIDE);
      await page.setJavaScriptEnabled(false);
      const faults: string[] = [];
      for (const link of part) {
        await page.goto(`${url}${link}`, { waitUntil: "load" });
        const found = await page.evaluate(WIDE_TABLES) as string[];
        faults.push(...found.map((fault) => `${link}: ${fault}`));
      }
      assertEquals(faults, []);
    },
  );
}

/** Opens a VitePress page, whose controls and keys do nothing until the page's script mounts. */
async function open(page: Page, address: string): Promise<void> {
  await page.goto(address);
  await page.waitForFunction(`document.querySelector("#app").__vue_app__ !== undefined`);
}

testSite("search finds a section by its words and leads to it by keyboard", async (page, url) => {
  await open(page, url);
  await page.keyboard.press("/");
  const input = await page.waitForSelector(".VPLocalSearchBox input");
  await input!.type("grace");
  // The result for the whole word, not for its beginning.
  await page.waitForFunction(
    `[...document.querySelectorAll(".VPLocalSearchBox .result.selected mark")]
      .some(({ textContent }) => textContent.toLowerCase() === "grace")`,
  );
  await page.keyboard.press("Enter");
  await page.waitForSelector(".VPLocalSearchBox", { hidden: true });
  // The address changes first, then the text. Between the two there may be no <main>, and the wait
  // would never end if this function threw.
  await page.waitForFunction(
    `location.pathname !== "/" &&
      document.querySelector("main")?.textContent.toLowerCase().includes("grace")`,
  );
});

testSite("search finds a page by a word that is only in the page's comment", async (page, url) => {
  await open(page, url);
  await page.keyboard.press("/");
  const input = await page.waitForSelector(".VPLocalSearchBox input");
  await input!.type("logouts"); // The plural is handled by a function that the site sends as text.
  await page.waitForFunction(
    `[...document.querySelectorAll(".VPLocalSearchBox .result")]
      .some(({ pathname }) => pathname === "/guide/users")`,
  );
});

testSite("the color scheme applies to pages and to the reference", async (page, url) => {
  const isDark = () => page.evaluate("document.documentElement.classList.contains('dark')");
  await page.setViewport(WIDE);
  await emulate(page, "light");
  await open(page, `${url}/reference/limits`);
  assertEquals(await isDark(), false);
  await page.click(".VPNavBarAppearance button");
  await page.waitForSelector("html.dark");
  await page.goto(`${url}/api/`);
  assertEquals(await isDark(), true);
  await page.click("#theme-toggle");
  await page.waitForSelector("html:not(.dark)");
  await page.goto(`${url}/reference/limits`);
  assertEquals(await isDark(), false);
});

for (const colors of ["light", "dark"] as const) {
  testSite(`text and controls have contrast and names in ${colors} mode`, async (page, url) => {
    await emulate(page, colors);
    const faults: string[] = [];
    for (const link of DRAWN) {
      if (link.startsWith("/api/")) await page.goto(`${url}${link}`);
      else await open(page, `${url}${link}`);
      await page.evaluate(axe.source);
      const found = await page.evaluate(AXE) as string[];
      faults.push(...found.map((fault) => `${link}: ${fault}`));
    }
    assert(faults.length === 0, faults.join("\n"));
  });
}

/**
 * Runs the WCAG 2 AA rules on a page, except rules that VitePress and `deno doc` violate by the
 * structure of their elements: buttons in headings of the sidebar, the name of the search button,
 * lists with elements other than items, code that scrolls in a focused block.
 */
const AXE = `axe.run(document, {
    runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"],
    rules: Object.fromEntries(
      ["nested-interactive", "label-content-name-mismatch", "list", "scrollable-region-focusable"]
        .map((rule) => [rule, { enabled: false }]),
    ),
  })
  .then(({ violations }) => violations.flatMap(({ id, nodes }) =>
    nodes.slice(0, 5).map((node) => id + " " + node.target + " " +
      (node.any[0]?.message ?? node.failureSummary))))`;
