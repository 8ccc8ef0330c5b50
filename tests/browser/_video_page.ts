/**
 * The video example as its visitors see it.
 *
 * @module
 */
import { type BrowserContext, type Page, PATIENCE_MS } from "./_browsers.ts";

/** The little of the DOM that is used here: the repository is checked without its library. */
interface Element {
  readonly textContent: string;
  readonly dataset: Readonly<Record<string, string>>;
  readonly children: Iterable<Element>;
  querySelector(selector: string): Element | null;
  getContext(kind: "2d", options: object): object;
}

/** The page's own; functions that name it run there. */
declare const document: Element;

/** The example's server, in a process of its own that can be ended and started again. */
export class VideoProcess implements AsyncDisposable {
  /** Where the page is, the same after a restart. */
  url = "http://127.0.0.1:0/";
  #child: Deno.ChildProcess | undefined;

  /** Starts it on a port that is free over TCP and UDP. */
  static async start(): Promise<VideoProcess> {
    const video = new VideoProcess();
    await video.start();
    return video;
  }

  /** Starts it; resolves once it listens. */
  async start(): Promise<void> {
    const server = new URL("../../examples/moq_video/server.ts", import.meta.url);
    this.#child = new Deno.Command(Deno.execPath(), {
      args: ["run", "-A", server.href, "--port", new URL(this.url).port || "0"],
      env: { NO_COLOR: "1" },
      stdin: "null",
      stdout: "piped",
      stderr: "inherit",
    }).spawn();
    for await (const text of this.#child.stdout.pipeThrough(new TextDecoderStream())) {
      const found = /Video at (\S+)/.exec(text);
      if (found === null) continue;
      this.url = `${found[1]}/`;
      return;
    }
    throw new Error("The server ended before it listened");
  }

  /** Ends it, as Ctrl-C does; or at once. */
  async stop(signal: "SIGINT" | "SIGKILL" = "SIGINT"): Promise<void> {
    this.#child?.kill(signal);
    await this.#child?.status;
    this.#child = undefined;
  }

  /** Ends it at once. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop("SIGKILL");
  }
}

/** What a page is told by its address. */
export interface VideoQuery {
  /** Who is watched. */
  readonly watch?: string;
  /** As whom the drawing goes on the air. */
  readonly air?: string;
  /** The one transport to take; any by default. */
  readonly transport?: "webtransport" | "websocket";
}

/** One page of the example. */
export class VideoPage {
  /** The page, for what is not done here. */
  readonly page: Page;

  private constructor(page: Page) {
    this.page = page;
  }

  /** Opens the page. */
  static async open(
    context: Pick<BrowserContext, "newPage">,
    { url }: VideoProcess,
    query: VideoQuery = {},
  ): Promise<VideoPage> {
    const page = await context.newPage();
    page.setDefaultTimeout(PATIENCE_MS);
    await page.goto(`${url}?${new URLSearchParams({ ...query })}`);
    return new VideoPage(page);
  }

  /** Waits until the stage says so: `live`, `waiting`, `ended` and the like. */
  async is(state: string): Promise<void> {
    await this.page.waitForSelector(`#stage[data-state="${state}"]`);
  }

  /** What the page says somewhere, by its id. */
  async text(id: string): Promise<string> {
    return await this.page.evaluate(
      (id) => document.querySelector(`#${id}`)!.textContent.trim().replace(/\s+/g, " "),
      id,
    );
  }

  /** Who is on the air, as the page lists them. */
  async onAir(): Promise<string[]> {
    return await this.page.evaluate(() =>
      [...document.querySelector("#on-air")!.children].map(({ dataset }) => dataset.name!)
    );
  }

  /** The number of the picture that is shown, read from its pixels; `undefined` if there is none. */
  async seen(canvas: "picture" | "drawing" = "picture"): Promise<number | undefined> {
    return await this.page.evaluate(async (id) => {
      // The page's own module, which is there already.
      const { readNumber } = await import("/drawing.js" as string);
      const context = document.querySelector(`#${id}`)!.getContext("2d", {
        willReadFrequently: true,
      });
      return readNumber(context);
    }, canvas);
  }

  /** Waits for a picture with a number that fits. */
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
