/**
 * Drives the page of the AI chat like a reader does.
 *
 * @module
 */
import { type BrowserContext, newPage, type Page } from "../browsers.ts";

/** The few DOM members in use, because the repository is type-checked without the DOM library. */
interface Element {
  readonly textContent: string;
  readonly dataset: Readonly<Record<string, string>>;
  scrollTop: number;
  querySelector(selector: string): Element | null;
  querySelectorAll(selector: string): ArrayLike<Element> & Iterable<Element>;
}

/** The page's globals; functions that name them run in the page. */
declare const document: Element;

/** Polls by time, because no frames are drawn while the page is in the background. */
const OPTIONS = { polling: 50 };

export class AiChatPage {
  /** The page, for other operations. */
  readonly page: Page;

  private constructor(page: Page) {
    this.page = page;
  }

  /** Opens a page, and waits for the connection. */
  static async open(context: BrowserContext, url: string): Promise<AiChatPage> {
    const page = await newPage(context);
    await page.goto(url);
    const chat = new AiChatPage(page);
    await chat.hasStatus("connected");
    return chat;
  }

  /** Waits until the badge shows a status. */
  async hasStatus(name: string): Promise<void> {
    await this.page.waitForSelector(`#status[data-name="${name}"]`);
  }

  /** Types a question, and sends it with Enter. */
  async ask(question: string): Promise<void> {
    await this.page.waitForSelector("#send:not([hidden])");
    await this.page.type("#text", question);
    await this.page.keyboard.press("Enter");
    await this.page.waitForFunction(
      (question) => [...document.querySelectorAll(".question")].at(-1)?.textContent === question,
      OPTIONS,
      question,
    );
  }

  /** Waits for the state of the last turn. */
  async sees(state: string): Promise<void> {
    await this.page.waitForFunction(
      (state) => [...document.querySelectorAll(".turn")].at(-1)?.dataset["state"] === state,
      OPTIONS,
      state,
    );
  }

  /** Waits until the last answer includes the given words, and returns the answer. */
  async reads(words: string): Promise<string> {
    await this.page.waitForFunction(
      (words) => [...document.querySelectorAll(".answer")].at(-1)?.textContent.includes(words),
      OPTIONS,
      words,
    );
    return await this.answer();
  }

  /** Returns the last answer. */
  async answer(): Promise<string> {
    return await this.page.evaluate(
      () => [...document.querySelectorAll(".answer")].at(-1)?.textContent ?? "",
    );
  }

  /** Returns the note below the last answer. */
  async note(): Promise<string> {
    return await this.page.evaluate(
      () => [...document.querySelectorAll(".note-of span")].at(-1)?.textContent ?? "",
    );
  }

  /** Asks the question of the last turn again. */
  async again(): Promise<void> {
    await this.page.click(".turn:last-child .note-of .link");
  }

  /** Deletes the conversation. */
  async remove(): Promise<void> {
    await this.page.click("#remove");
    await this.page.click(`#confirm [value="delete"]`);
  }

  /** Waits until the conversation has no turns. */
  async isEmpty(): Promise<void> {
    await this.page.waitForFunction(
      () => document.querySelectorAll(".turn").length === 0,
      OPTIONS,
    );
  }

  /** Counts elements. */
  async count(selector: string): Promise<number> {
    return await this.page.evaluate(
      (selector) => document.querySelectorAll(selector).length,
      selector,
    );
  }

  /** Scrolls to the first turn like a reader does. */
  async scrollUp(): Promise<void> {
    await this.page.evaluate(() => {
      document.querySelector("#log")!.scrollTop = 0;
    });
    await this.page.waitForSelector("#to-end:not([hidden])");
  }

  /** Returns the scroll position of the log. */
  async scrolledTo(): Promise<number> {
    return await this.page.evaluate(() => document.querySelector("#log")!.scrollTop);
  }

  /** Returns the texts announced to screen readers. */
  async spoken(): Promise<string[]> {
    return await this.page.evaluate(
      () => [...document.querySelectorAll("#spoken p")].map(({ textContent }) => textContent),
    );
  }
}
