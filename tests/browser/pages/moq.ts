/**
 * A Media over QUIC server, and pages with a client: Skein's client, the client of `@moq/net`, or
 * the elements of `@moq/publish` and `@moq/watch`.
 *
 * @module
 */
import {
  listenMoq,
  type ListenMoqOptions,
  type MoqServer,
  type MoqSession,
} from "../../../moq/mod.ts";
import type { loadNet } from "../../interop/peers/moq_js/net.ts";
import type { play } from "../../interop/peers/moq_js/scenarios.ts";
import { type Browser, bundleOf, newPage, type Page } from "../browsers.ts";

/** Globals for functions that run in a page. */
declare global {
  var skeinMoq: typeof import("./moq_client.ts");
  /** The other implementation, and the scenarios. */
  var peer: { readonly loadNet: typeof loadNet; readonly play: typeof play };
}

const SCRIPTS = {
  "/skeinMoq.js": new URL("moq_client.ts", import.meta.url),
  "/peer.js": new URL("moq_peer.ts", import.meta.url),
  "/net.js": new URL("npm:@moq/net@0.3.4"),
  "/publish.js": new URL("npm:@moq/publish@0.2.17/element"),
  "/watch.js": new URL("npm:@moq/watch@0.4.6/element"),
} as const;

const HTML = `<!doctype html><title>Page</title><script type="module">
const { name } = Object.fromEntries(new URLSearchParams(location.search));
globalThis[name] = await import("/" + name + ".js");
globalThis.isReady = true;
</script>`;

/** The server and the pages. */
export class MoqSite implements AsyncDisposable {
  readonly server: MoqServer;
  readonly #sessions: MoqSession[] = [];
  readonly #waiting: ((session: MoqSession) => void)[] = [];

  /** Listens on a free port. */
  constructor(options: ListenMoqOptions = {}) {
    this.server = listenMoq({
      hostname: "127.0.0.1",
      cacheFolder: null,
      fetch: (request) => answer(new URL(request.url).pathname),
      onSession: (session) => {
        const waiting = this.#waiting.shift();
        if (waiting === undefined) this.#sessions.push(session);
        else waiting(session);
      },
      ...options,
    });
  }

  /**
   * Opens a page that has a client as a global variable.
   *
   * @param prepare Prepares the page before the client loads.
   */
  async open(
    browser: Browser,
    name: "skeinMoq" | "peer" | "publish" | "watch",
    prepare?: (page: Page) => Promise<unknown>,
  ): Promise<Page> {
    // Opens a separate window, because on a busy machine the encoder of a background tab gets too
    // little CPU time.
    const page = await newPage(browser, { type: "window" });
    await prepare?.(page);
    await page.goto(`${this.url}?name=${name}`);
    await page.waitForFunction(() => "isReady" in globalThis);
    return page;
  }

  /** The URL of the pages. */
  get url(): string {
    return this.server.webSocketUrl.replace("ws:", "http:");
  }

  /** Waits for the next session. */
  session(): Promise<MoqSession> {
    const session = this.#sessions.shift();
    if (session !== undefined) return Promise.resolve(session);
    return new Promise((resolve) => this.#waiting.push(resolve));
  }

  /** Closes the server and the pages. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.server.close();
  }
}

async function answer(path: string): Promise<Response> {
  if (path === "/") return new Response(HTML, { headers: { "content-type": "text/html" } });
  const module = SCRIPTS[path as keyof typeof SCRIPTS];
  if (module === undefined) return new Response(null, { status: 404 });
  return new Response(await bundleOf(module), { headers: { "content-type": "text/javascript" } });
}
