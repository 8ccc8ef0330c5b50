/**
 * Drives the pages of the board and the whiteboard like visitors do: the parts that both have.
 *
 * @module
 */
import { type Browser, type BrowserContext, ChatProcess, newPage, type Page } from "../browsers.ts";

/** The few DOM members in use, because the repository is type-checked without the DOM library. */
interface Element {
  readonly textContent: string;
  readonly title: string;
  querySelector(selector: string): Element | null;
  querySelectorAll(selector: string): Iterable<Element>;
}

/** The page's globals; functions that name them run in the page. */
declare const document: Element;
declare function requestAnimationFrame(callback: () => void): void;

/** Options of a visitor. */
export interface Visitor {
  /** The visitor's name. */
  readonly name: string;
  /** The name of the board; `plans` by default. */
  readonly board?: string;
  /** The only transport to use; by default, any transport is used. */
  readonly transport?: "webtransport" | "websocket" | "http";
  /** The size of the page, which is set before the page lays out its content. */
  readonly size?: {
    readonly width: number;
    readonly height: number;
    readonly hasTouch?: boolean;
    readonly isMobile?: boolean;
  };
}

/** One page of a board. */
export abstract class VisitorPage {
  /** The page, for other operations. */
  readonly page: Page;

  /** Drives a page that has been opened. */
  constructor(page: Page) {
    this.page = page;
  }

  /** Opens a board in a new page and enters with a name. */
  static async enter<P extends VisitorPage>(
    this: new (page: Page) => P,
    context: BrowserContext,
    url: string,
    { name, board = "plans", transport, size }: Visitor,
  ): Promise<P> {
    // Opens a separate window, because a tab in the background draws nothing.
    const page = await newPage(context, { type: "window" });
    if (size !== undefined) await page.setViewport(size);
    const query = transport === undefined ? "" : `?transport=${transport}`;
    await page.goto(`${url}/${query}#${board}`);
    await page.waitForSelector("#name", { visible: true });
    await page.type("#name", name);
    await page.keyboard.press("Enter");
    const visitor = new this(page);
    await visitor.isOpen();
    return visitor;
  }

  /** Waits for a connection and the board's content. */
  abstract isOpen(): Promise<void>;

  /** Waits for a state of the connection. */
  async hasStatus(name: string): Promise<void> {
    await this.page.waitForSelector(`#status[data-name="${name}"]`);
  }

  /** Waits until the page has drawn its changes, which is two frames later. */
  async isDrawn(): Promise<void> {
    await this.page.evaluate(() =>
      new Promise<void>((done) => requestAnimationFrame(() => requestAnimationFrame(() => done())))
    );
  }

  /** Waits until the page shows a number of pointers. */
  async hasPointers(count: number): Promise<void> {
    await this.page.waitForFunction(
      (count) => [...document.querySelectorAll(".pointer")].length === count,
      {},
      count,
    );
  }

  /** Waits for an element with a text. */
  async says(selector: string, text: string): Promise<void> {
    await this.page.waitForFunction(
      (selector, text) => document.querySelector(selector)?.textContent.includes(text) ?? false,
      {},
      selector,
      text,
    );
  }

  /** Waits for the users on the board, in any order. */
  async hasPeople(names: readonly string[]): Promise<void> {
    await this.page.waitForFunction(
      (names) =>
        [...document.querySelectorAll("#people .avatar")]
          .map(({ title }) => title.replace(" (you)", "")).sort().join() === names,
      {},
      [...names].sort().join(),
    );
  }
}

/** The server of an example with its own file, and its visitors' pages. */
export class BoardSite implements AsyncDisposable {
  /** The server, which a test can stop and restart. */
  readonly server: ChatProcess;
  readonly #browser: Browser;
  readonly #folder: string;

  private constructor(browser: Browser, server: ChatProcess, folder: string) {
    this.#browser = browser;
    this.server = server;
    this.#folder = folder;
  }

  /** Starts the server of an example. */
  static async start(browser: Browser, example: "board" | "whiteboard"): Promise<BoardSite> {
    const folder = await Deno.makeTempDir();
    const server = await ChatProcess.start(example, ["--data", `${folder}/boards.db`]);
    return new BoardSite(browser, server, folder);
  }

  /** Opens an empty profile of the browser, as on another machine. */
  async newContext(): Promise<BrowserContext> {
    return await this.#browser.createBrowserContext();
  }

  /** Kills the server, and deletes the file. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.server.stop("SIGKILL");
    await Deno.remove(this.#folder, { recursive: true });
  }
}
