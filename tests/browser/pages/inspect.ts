/**
 * Drives the inspector's page, and starts servers to inspect.
 *
 * @module
 */
import type { Demo } from "../../../examples/inspect/demo.ts";
import { type BrowserContext, newPage, type Page } from "../browsers.ts";

/** The few DOM members in use, because the repository is type-checked without the DOM library. */
interface Element {
  readonly textContent: string;
  querySelector(selector: string): Element | null;
  querySelectorAll(selector: string): Iterable<Element>;
}

/** The page's globals; functions that name them run in the page. */
declare const document: Element;

/** Opens a server's inspector page at a view. */
export async function openInspector(
  context: BrowserContext,
  url: string,
  view = "sessions",
): Promise<InspectorPage> {
  const page = await newPage(context);
  const faults: string[] = [];
  page.on("pageerror", (error) => void faults.push(String(error)));
  await page.goto(`${url}#${view}`);
  await page.waitForSelector('#status[data-name="connected"]');
  return new InspectorPage(page, faults);
}

export async function openDemo(context: BrowserContext, demo: Demo): Promise<InspectorPage> {
  return await openInspector(context, demo.inspectorUrl);
}

/** The page, with the actions of a user. */
export class InspectorPage {
  /** The page, for other operations. */
  readonly page: Page;
  /** The errors in the page's scripts so far. */
  readonly faults: readonly string[];

  constructor(page: Page, faults: readonly string[]) {
    this.page = page;
    this.faults = faults;
  }

  /** Goes to a view. */
  async view(name: string): Promise<void> {
    await this.page.click(`#views a[href="#${name}"]`);
    await this.page.waitForSelector(`#views a[href="#${name}"][aria-current]`);
  }

  /** Waits for the row with the given name, and returns its text. */
  async row(name: string): Promise<string> {
    const handle = await this.page.waitForFunction(
      (name) =>
        [...document.querySelectorAll("#rows tr")].find((row) =>
          row.querySelector(".open")!.textContent === name
        )?.textContent,
      {},
      name,
    );
    return await handle.jsonValue() as string;
  }

  /** Waits until an element of the page has the given text. */
  async says(selector: string, words: string): Promise<void> {
    await this.page.waitForFunction(
      (selector, words) =>
        [...document.querySelectorAll(selector)].some(({ textContent }) =>
          textContent.includes(words)
        ),
      {},
      selector,
      words,
    );
  }

  /** Opens the details of a row. */
  async look(name: string): Promise<void> {
    await this.row(name);
    await this.page.evaluate((name) => {
      const buttons = [...document.querySelectorAll("#rows .open")];
      const button = buttons.find(({ textContent }) => textContent === name);
      (button as unknown as { click(): void }).click();
    }, name);
    await this.says("#detail-title", name);
    await this.page.waitForSelector("#detail-body .group");
  }

  /** Returns the current content of the page, including invisible parts. */
  async markup(): Promise<string> {
    return await this.page.content();
  }
}
