/**
 * Drives the video example like a visitor does.
 *
 * @module
 */
import { lowPort } from "../../networks/ports.ts";
import { type BrowserContext, newPage, type Page, PATIENCE_MS } from "../browsers.ts";

/** The few DOM members in use, because the repository is type-checked without the DOM library. */
interface Element {
  readonly textContent: string;
  readonly dataset: Readonly<Record<string, string>>;
  readonly children: Iterable<Element>;
  querySelector(selector: string): Element | null;
  getContext(kind: "2d", options: object): object;
}

/** The page's globals; functions that name them run in the page. */
declare const document: Element;

/** The example's server, in a separate process that a test can stop and restart. */
export class VideoProcess implements AsyncDisposable {
  /** The port for TCP and UDP, which stays the same after a restart. */
  readonly #port = lowPort();
  #child: Deno.ChildProcess | undefined;

  /** The URL of the page. */
  get url(): string {
    return `http://127.0.0.1:${this.#port}/`;
  }

  /** Starts the server on a free port. */
  static async start(): Promise<VideoProcess> {
    const video = new VideoProcess();
    await video.start();
    return video;
  }

  /** Starts the server; resolves once it is listening. */
  async start(): Promise<void> {
    const server = new URL("../../../examples/moq_video/server.ts", import.meta.url);
    this.#child = new Deno.Command(Deno.execPath(), {
      args: ["run", "-A", server.href, "--port", `${this.#port}`],
      env: { NO_COLOR: "1" },
      stdin: "null",
      stdout: "piped",
      stderr: "inherit",
    }).spawn();
    for await (const text of this.#child.stdout.pipeThrough(new TextDecoderStream())) {
      if (text.includes("Video at")) return;
    }
    throw new Error("The server exited before it listened");
  }

  /** Stops the server, either gracefully like Ctrl-C or immediately. */
  async stop(signal: "SIGINT" | "SIGKILL" = "SIGINT"): Promise<void> {
    this.#child?.kill(signal);
    await this.#child?.status;
    this.#child = undefined;
  }

  /** Kills the server. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop("SIGKILL");
  }
}

/** Options in the page's URL. */
export interface VideoQuery {
  /** The name of the broadcast to watch. */
  readonly watch?: string;
  /** The name of the broadcast that sends the drawing. */
  readonly air?: string;
  /** The only transport to use; by default, any transport is used. */
  readonly transport?: "webtransport" | "websocket";
}

/** One page of the example. */
export class VideoPage {
  /** The page, for other operations. */
  readonly page: Page;

  private constructor(page: Page) {
    this.page = page;
  }

  static async open(
    context: Pick<BrowserContext, "newPage">,
    { url }: VideoProcess,
    query: VideoQuery = {},
  ): Promise<VideoPage> {
    // Opens a separate window, because on a busy machine the encoder of a background tab gets too
    // little CPU time.
    const page = await newPage(context, { type: "window" });
    await page.goto(`${url}?${new URLSearchParams({ ...query })}`);
    return new VideoPage(page);
  }

  /** Waits until the stage has a state, such as `live`, `waiting` or `ended`. */
  async is(state: string): Promise<void> {
    await this.page.waitForSelector(`#stage[data-state="${state}"]`);
  }

  /** Returns the text of the element with an id. */
  async text(id: string): Promise<string> {
    return await this.page.evaluate(
      (id) => document.querySelector(`#${id}`)!.textContent.trim().replace(/\s+/g, " "),
      id,
    );
  }

  /** Returns the listed broadcasts. */
  async onAir(): Promise<string[]> {
    return await this.page.evaluate(() =>
      [...document.querySelector("#on-air")!.children].map(({ dataset }) => dataset.name!)
    );
  }

  /**
   * Reads the number in the displayed picture from its pixels; returns `undefined` if there is
   * none.
   */
  async seen(canvas: "picture" | "drawing" = "picture"): Promise<number | undefined> {
    return await this.page.evaluate(async (id) => {
      // The page has loaded this module already.
      const { readNumber } = await import("/drawing.js" as string);
      const context = document.querySelector(`#${id}`)!.getContext("2d", {
        willReadFrequently: true,
      });
      return readNumber(context);
    }, canvas);
  }

  /** Waits for a picture with an accepted number. */
  async sees(fits: (number: number) => boolean): Promise<number> {
    const end = Date.now() + PATIENCE_MS;
    while (Date.now() < end) {
      const number = await this.seen();
      if (number !== undefined && fits(number)) return number;
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    throw new Error("No such picture was seen");
  }
}
