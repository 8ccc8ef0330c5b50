/**
 * Tests programs of the README and of two guides with a reader who opens their pages in Chromium,
 * reloads them, and restarts the server.
 *
 * @module
 */
import { BROWSERS, findBrowser, launchBrowser, newPage } from "../browser/browsers.ts";
import {
  add,
  checkFirst,
  hasBegun,
  isKept,
  lists,
  STORY,
  tells,
  WAIT,
} from "../browser/reader_site.ts";
import { walk, type Walked } from "./walk.ts";

const CHROMIUM = BROWSERS[0]!;

/** The few members of the DOM in use: the repository is type-checked without the DOM library. */
declare const document: {
  querySelector(selector: string): { readonly textContent: string } | null;
};

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

async function lookAtList({ port, stop, restart }: Walked): Promise<void> {
  await using browser = await launchBrowser(CHROMIUM);
  const url = `http://localhost:${port(8000)}/`;
  const [one, two] = [await newPage(browser), await newPage(browser)];
  for (const page of [one, two]) await page.goto(url);
  await add(one, "Tea");
  for (const page of [one, two]) await lists(page, "li", ["☐ Tea"]);
  await checkFirst(two);
  for (const page of [one, two]) await lists(page, "li", ["☑ Tea"]);

  await stop("server.ts");
  await add(one, "Milk");
  await lists(one, "li", ["☑ Tea", "☐ Milk"]);
  await isKept(one, "Milk");
  await one.close();
  await lists(two, "li", ["☑ Tea", "☐ Milk"]); // From the store.
  await checkFirst(two);
  await lists(two, "li", ["☐ Tea", "☐ Milk"]);
  await restart("server.ts");
  await lists(two, "li", ["☐ Tea", "☐ Milk"]);
  await two.reload();
  await lists(two, "li", ["☐ Tea", "☐ Milk"]);
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
  for (const one of [page, second]) await tells(one, STORY);
  await page.reload(); // After the response has ended.
  await tells(page, STORY);

  const other = await newPage(browser);
  await other.goto(url);
  await hasBegun(other);
  await stop("server.ts");
  await restart("server.ts");
  await tells(other, STORY);
  await page.reload();
  await tells(page, STORY);
}

const isMissing = findBrowser(CHROMIUM) === undefined && Deno.env.get("CI") !== "true";

const looks = {
  "README.md": lookAtChat,
  "docs/guide/offline.md": lookAtList,
  "docs/guide/ai-responses.md": lookAtStory,
};

walk(Object.keys(looks), { then: isMissing ? {} : looks });
