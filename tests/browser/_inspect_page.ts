/**
 * The inspector's page, with a server that it looks at.
 *
 * @module
 */
import { servePage } from "../../examples/chat/page.ts";
import { Demo } from "../../examples/inspect/demo.ts";
import { serveInspector } from "../../examples/inspect/inspector.ts";
import { readPage } from "../../examples/inspect/page.ts";
import type { Server } from "../../mod.ts";
import { type BrowserContext, type Page, PATIENCE_MS } from "./_browsers.ts";

/** The little of the DOM that is used here: the repository is checked without its library. */
interface Element {
  readonly textContent: string;
  querySelector(selector: string): Element | null;
  querySelectorAll(selector: string): Iterable<Element>;
}

/** The page's own; functions that name it run there. */
declare const document: Element;

/** An inspector, and the server with users that it looks at. */
export class Inspected implements AsyncDisposable {
  /** What is looked at. */
  readonly demo: Demo;
  /** What looks. */
  readonly inspector: Server;
  readonly #end: AbortController;

  private constructor(demo: Demo, inspector: Server, end: AbortController) {
    this.demo = demo;
    this.inspector = inspector;
    this.#end = end;
  }

  /** Starts both, each on a free port. */
  static async start(): Promise<Inspected> {
    const files = await readPage();
    const demo = await Demo.start();
    const end = new AbortController();
    const inspector = serveInspector(demo.app, {
      port: 0,
      onListen() {},
      fetch: (request) => servePage(files, request),
      intervalMs: 250,
    }, end.signal);
    return new Inspected(demo, inspector, end);
  }

  /** Opens the page. */
  async open(context: BrowserContext): Promise<InspectorPage> {
    const page = await context.newPage();
    page.setDefaultTimeout(PATIENCE_MS);
    await page.goto(`http://localhost:${this.inspector.address!.port}`);
    await page.waitForSelector('#status[data-name="connected"]');
    return new InspectorPage(page);
  }

  /** Ends both. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#end.abort();
    await this.inspector.close();
    await this.demo[Symbol.asyncDispose]();
  }
}

/** The page as somebody uses it. */
export class InspectorPage {
  /** The page, for what is not done here. */
  readonly page: Page;

  constructor(page: Page) {
    this.page = page;
  }

  /** Waits for the row of a user; tells what it says. */
  async row(user: string): Promise<string> {
    const handle = await this.page.waitForFunction(
      (user) =>
        [...document.querySelectorAll("#rows tr")].find((row) =>
          row.querySelector(".open")!.textContent === user
        )?.textContent,
      {},
      user,
    );
    return await handle.jsonValue() as string;
  }

  /** Waits until something in the page says so. */
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

  /** Looks at the session of a user. */
  async look(user: string): Promise<void> {
    await this.row(user);
    await this.page.evaluate((user) => {
      const buttons = [...document.querySelectorAll("#rows .open")];
      const button = buttons.find(({ textContent }) => textContent === user);
      (button as unknown as { click(): void }).click();
    }, user);
    await this.says("#detail-title", user);
    await this.page.waitForSelector("#detail-body .group");
  }

  /** All of the page as it is now, with what is not seen. */
  async markup(): Promise<string> {
    return await this.page.content();
  }
}
