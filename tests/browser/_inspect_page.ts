/**
 * The inspector's page, with a server to inspect.
 *
 * @module
 */
import { servePage } from "../../examples/chat/page.ts";
import { Demo } from "../../examples/inspect/demo.ts";
import { serveInspector } from "../../examples/inspect/inspector.ts";
import { readPage } from "../../examples/inspect/page.ts";
import type { Server } from "../../mod.ts";
import { type BrowserContext, type Page, PATIENCE_MS } from "./_browsers.ts";

/** The few members of the DOM in use: the repository is checked without the DOM's library. */
interface Element {
  readonly textContent: string;
  querySelector(selector: string): Element | null;
  querySelectorAll(selector: string): Iterable<Element>;
}

/** The page's globals; functions that name these run in the page. */
declare const document: Element;

/** An inspector, and the inspected server with users. */
export class Inspected implements AsyncDisposable {
  /** The inspected server. */
  readonly demo: Demo;
  /** The inspector. */
  readonly inspector: Server;
  readonly #end: AbortController;

  private constructor(demo: Demo, inspector: Server, end: AbortController) {
    this.demo = demo;
    this.inspector = inspector;
    this.#end = end;
  }

  /** Starts both servers, each on a free port. */
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

  /** Closes both servers. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#end.abort();
    await this.inspector.close();
    await this.demo[Symbol.asyncDispose]();
  }
}

/** The page with the actions of a user. */
export class InspectorPage {
  /** The page, for other operations. */
  readonly page: Page;

  constructor(page: Page) {
    this.page = page;
  }

  /** Waits for the row of a user, and returns the text. */
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

  /** Waits until an element of the page has a text. */
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

  /** Opens the details of a user's session. */
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

  /** Returns the current content of the page, including invisible parts. */
  async markup(): Promise<string> {
    return await this.page.content();
  }
}
