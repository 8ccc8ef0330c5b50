/**
 * Tests the programs of the README and of the page on AI responses with a reader who opens their
 * pages in Chromium, reloads them, and restarts the server.
 *
 * @module
 */
import { BROWSERS, findBrowser, launchBrowser, newPage, PATIENCE_MS } from "../browser/browsers.ts";
import { walk, type Walked } from "./walk.ts";

const CHROMIUM = BROWSERS[0]!;

const STORY = "Once upon a time a cat met a fox, and both lived happily ever after.";

/** The few members of the DOM in use: the repository is type-checked without the DOM library. */
declare const document: {
  readonly body: { readonly textContent: string };
  querySelectorAll(selector: string): Iterable<{ readonly textContent: string }>;
};

type Page = Awaited<ReturnType<typeof newPage>>;

/** A background tab draws no frames, for which Puppeteer waits by default. */
const WAIT = { timeout: PATIENCE_MS, polling: 50 };

async function shows(page: Page, text: string): Promise<void> {
  await page.waitForFunction((text) => document.body.textContent.trim() === text, WAIT, text);
}

async function hasBegun(page: Page): Promise<void> {
  await page.waitForFunction(() => document.body.textContent.includes("upon"), WAIT);
}

/** Waits until the to-do list has these lines. */
async function lists(page: Page, ...lines: string[]): Promise<void> {
  await page.waitForFunction(
    (lines) =>
      [...document.querySelectorAll("li")].map((line) => line.textContent).join("\n") === lines,
    WAIT,
    lines.join("\n"),
  );
}

async function add(page: Page, text: string): Promise<void> {
  await page.bringToFront();
  await page.type("input", text);
  await page.keyboard.press("Enter");
}

async function clickFirst(page: Page): Promise<void> {
  await page.bringToFront();
  await page.click("li");
}

async function lookAtList({ port, stop, restart }: Walked): Promise<void> {
  await using browser = await launchBrowser(CHROMIUM);
  const url = `http://localhost:${port(8000)}/`;
  const [one, two] = [await newPage(browser), await newPage(browser)];
  for (const page of [one, two]) await page.goto(url);
  await add(one, "Tea");
  for (const page of [one, two]) await lists(page, "☐ Tea");
  await clickFirst(two);
  for (const page of [one, two]) await lists(page, "☑ Tea");

  await stop("server.ts");
  await add(one, "Milk");
  await lists(one, "☑ Tea", "☐ Milk");
  await clickFirst(two);
  await lists(two, "☐ Tea");
  await restart("server.ts");
  for (const page of [one, two]) await lists(page, "☐ Tea", "☐ Milk");
  await two.reload();
  await lists(two, "☐ Tea", "☐ Milk");
}

async function lookAtStory({ port, stop, restart }: Walked): Promise<void> {
  await using browser = await launchBrowser(CHROMIUM);
  const url = `http://localhost:${port(8000)}/`;

  const page = await newPage(browser);
  await page.goto(url);
  await hasBegun(page);
  await page.reload();
  const second = await newPage(browser);
  await second.goto(page.url());
  for (const one of [page, second]) await shows(one, STORY);
  await page.reload(); // After the response has ended.
  await shows(page, STORY);

  const other = await newPage(browser);
  await other.goto(url);
  await hasBegun(other);
  await stop("server.ts");
  await restart("server.ts");
  await shows(other, STORY);
  await page.reload();
  await shows(page, STORY);
}

const isMissing = findBrowser(CHROMIUM) === undefined && Deno.env.get("CI") !== "true";

const looks = { "README.md": lookAtList, "docs/guide/ai-responses.md": lookAtStory };

walk(Object.keys(looks), { then: isMissing ? {} : looks });
