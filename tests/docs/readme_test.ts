/**
 * Tests programs of the README and of two guides with a reader who opens their pages in Chromium,
 * reloads them, and restarts the server.
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
  querySelector(selector: string): DomElement | null;
  querySelectorAll(selector: string): Iterable<DomElement>;
};

interface DomElement {
  readonly textContent: string;
  readonly checked?: boolean;
  click?(): void;
  querySelector(selector: string): DomElement | null;
}

type Page = Awaited<ReturnType<typeof newPage>>;

/** A background tab draws no frames, for which Puppeteer waits by default. */
const WAIT = { timeout: PATIENCE_MS, polling: 50 };

async function shows(page: Page, text: string): Promise<void> {
  await page.waitForFunction((text) => document.body.textContent.trim() === text, WAIT, text);
}

async function hasBegun(page: Page): Promise<void> {
  await page.waitForFunction(() => document.body.textContent.includes("upon"), WAIT);
}

async function add(page: Page, text: string): Promise<void> {
  await page.bringToFront();
  await page.type("input:not([type])", text);
  await page.keyboard.press("Enter");
}

async function lookAtChat({ port, stop, restart }: Walked): Promise<void> {
  await using browser = await launchBrowser(CHROMIUM);
  const url = `http://localhost:${port(8000)}/`;
  const [one, two] = [await newPage(browser), await newPage(browser)];
  const haveBoth = async (...lines: string[]) => {
    for (const page of [one, two]) {
      await page.waitForFunction(
        (text) => document.querySelector("pre")!.textContent === text,
        WAIT,
        lines.map((line) => `${line}\n`).join(""),
      );
    }
  };
  for (const page of [one, two]) await page.goto(url);
  await add(one, "Tea?");
  await haveBoth("Tea?");
  await stop("server.ts");
  await add(one, "Still there?");
  await restart("server.ts");
  await haveBoth("Tea?", "Still there?");
  await two.reload();
  await haveBoth("Tea?", "Still there?");
}

/** Waits until the to-do list has these items. Those that are done start with an x. */
async function lists(page: Page, ...items: string[]): Promise<void> {
  await page.waitForFunction(
    (items) =>
      [...document.querySelectorAll("li")].map((line) =>
        (line.querySelector("input")!.checked ? "x " : "") + line.textContent
      ).join("\n") === items,
    WAIT,
    items.join("\n"),
  );
}

async function clickFirst(page: Page): Promise<void> {
  // The page draws its rows again at each change, so a handle of a row may be stale.
  await page.$eval("li input", (box) => (box as unknown as DomElement).click!());
}

async function lookAtList({ port, stop, restart }: Walked): Promise<void> {
  await using browser = await launchBrowser(CHROMIUM);
  const url = `http://localhost:${port(8000)}/`;
  const [one, two] = [await newPage(browser), await newPage(browser)];
  for (const page of [one, two]) await page.goto(url);
  await add(one, "Tea");
  for (const page of [one, two]) await lists(page, "Tea");
  await clickFirst(two);
  for (const page of [one, two]) await lists(page, "x Tea");

  await stop("server.ts");
  await add(one, "Milk");
  await lists(one, "x Tea", "Milk");
  await one.close();
  await lists(two, "x Tea", "Milk"); // From the store.
  await clickFirst(two);
  await lists(two, "Tea", "Milk");
  await restart("server.ts");
  await lists(two, "Tea", "Milk");
  await two.reload();
  await lists(two, "Tea", "Milk");
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

const looks = {
  "README.md": lookAtChat,
  "docs/guide/offline.md": lookAtList,
  "docs/guide/ai-responses.md": lookAtStory,
};

walk(Object.keys(looks), { then: isMissing ? {} : looks });
