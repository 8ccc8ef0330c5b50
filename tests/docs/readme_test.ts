/**
 * Tests the README with a reader who opens the page in Chromium, reloads it, and restarts the
 * server.
 *
 * @module
 */
import {
  BROWSERS,
  findBrowser,
  launchBrowser,
  newPage,
  PATIENCE_MS,
} from "../browser/_browsers.ts";
import { walk, type Walked } from "./walk.ts";

const CHROMIUM = BROWSERS[0]!;

const STORY = "Once upon a time a cat met a fox, and both lived happily ever after.";

/** The few members of the DOM in use: the repository is type-checked without the DOM library. */
declare const document: { readonly body: { readonly textContent: string } };

type Page = Awaited<ReturnType<typeof newPage>>;

/** A background tab draws no frames, for which Puppeteer waits by default. */
const WAIT = { timeout: PATIENCE_MS, polling: 50 };

async function shows(page: Page, text: string): Promise<void> {
  await page.waitForFunction((text) => document.body.textContent.trim() === text, WAIT, text);
}

async function hasBegun(page: Page): Promise<void> {
  await page.waitForFunction(() => document.body.textContent.includes("upon"), WAIT);
}

async function look({ port, stop, restart }: Walked): Promise<void> {
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

walk(["README.md"], { then: isMissing ? {} : { "README.md": look } });
