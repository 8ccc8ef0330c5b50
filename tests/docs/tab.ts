/**
 * A tab with the chat of the tutorial.
 *
 * @module
 */
import { type Browser, newPage, type Page, PATIENCE_MS } from "../browser/browsers.ts";

/** The few members of the DOM in use: the repository is type-checked without the DOM library. */
interface Element {
  readonly textContent: string;
  querySelector(selector: string): Element | null;
  querySelectorAll(selector: string): Iterable<Element>;
}

/** A global of the page; functions that name it run in the page. */
declare const document: Element;

/** A tab with the chat. */
export class Tab {
  /** The page, for other operations. */
  readonly page: Page;

  constructor(page: Page) {
    this.page = page;
  }

  /** Waits until an element's text starts with a text. */
  async hasText(selector: string, text: string): Promise<void> {
    await this.#waits(
      (selector, text) => document.querySelector(selector!)?.textContent.startsWith(text!) ?? false,
      selector,
      text,
    );
  }

  /** Waits until an element exists. */
  async has(selector: string): Promise<void> {
    await this.#waits((selector) => document.querySelector(selector!) !== null, selector);
  }

  /** Clicks an element. */
  async click(selector: string): Promise<void> {
    // In the background, a tab draws no frames, for which a click waits.
    await this.page.bringToFront();
    await this.page.click(selector);
  }

  /** Waits for a status of the client. */
  async hasStatus(text: string): Promise<void> {
    await this.hasText("#status", text);
  }

  /** Types a line and sends it. */
  async say(text: string): Promise<void> {
    await this.page.type("input", text);
    await this.page.keyboard.press("Enter");
  }

  async lines(): Promise<string[]> {
    return await this.page.evaluate(() =>
      [...document.querySelectorAll("#lines li")].map((line) => line.textContent.trim())
    );
  }

  /** Waits until the lines are the expected ones. */
  async hasLines(expected: readonly string[]): Promise<void> {
    await this.#waits(
      (expected) =>
        JSON.stringify(
          [...document.querySelectorAll("#lines li")].map((line) => line.textContent.trim()),
        ) === expected,
      JSON.stringify(expected),
    );
  }

  /** Waits for a number of lines. */
  async hasCount(count: number): Promise<void> {
    await this.#waits(
      (count) => [...document.querySelectorAll("#lines li")].length >= Number(count),
      `${count}`,
    );
  }

  async #waits(check: (...args: string[]) => boolean, ...args: string[]): Promise<void> {
    try {
      // A background tab draws no frames, on which checks run by default.
      const options = { polling: 50, timeout: PATIENCE_MS };
      await this.page.waitForFunction(check, options, ...args);
    } catch (cause) {
      const status = await this.page.evaluate(() =>
        ["#status", "#people", "#lines"].map((it) => document.querySelector(it)?.textContent)
      );
      throw new Error(`Waited for ${JSON.stringify(args)}, saw ${JSON.stringify(status)}`, {
        cause,
      });
    }
  }
}

/** Opens the chat, and enters a name in the prompt. */
export async function tabOf(browser: Browser, url: string, name?: string): Promise<Tab> {
  const page = await newPage(browser);
  page.on("dialog", (dialog) => void dialog.accept(name));
  page.on("pageerror", (error) => console.error(`The page of ${name ?? "a guest"}:`, error));
  await page.goto(url);
  return new Tab(page);
}
