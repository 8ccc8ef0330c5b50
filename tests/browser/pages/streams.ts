/**
 * A server, and pages that open sessions with Skein's client. The client is bundled in chunks.
 *
 * @module
 */
import type { TransportName } from "../../../transport/race/options.ts";
import { serve, type ServeOptions, type Server, type Session } from "../../../mod.ts";
import type { BidirectionalStream } from "../../../transport/connection.ts";
import { type Browser, clientInParts, newPage, type Page } from "../browsers.ts";

/** Globals for functions that run in a page. */
declare global {
  /** Values that a page keeps between functions. */
  var stream: BidirectionalStream, writing: Promise<unknown>;
  /** Reads a stream to the end. */
  function readAll(readable: ReadableStream<Uint8Array>): Promise<Uint8Array<ArrayBuffer>>;
  /** Writes one chunk, and closes the stream. */
  function writeAll(writable: WritableStream<Uint8Array>, bytes: Uint8Array): Promise<void>;
  /** Writes bytes to a new stream and reads the reply. */
  function ask(bytes: Uint8Array): Promise<Uint8Array<ArrayBuffer>>;
  /** Writes a text to a new stream and reads the reply. */
  function askText(text: string): Promise<string>;
  /** Creates an error with a stream error code. */
  function coded(streamErrorCode: number): Error;
  /** Waits for a failure, and returns its stream error code. */
  function codeOf(promise: Promise<unknown>): Promise<number | undefined>;
}

/** The transports that have streams. */
export const TRANSPORTS: readonly TransportName[] = ["websocket", "webtransport"];

const SCRIPT = `
import { dial, StreamError } from "/client.js";
globalThis.readAll = async (readable) => new Uint8Array(await new Response(readable).arrayBuffer());
globalThis.writeAll = async (writable, bytes) => {
  const writer = writable.getWriter();
  writer.write(bytes).catch(() => {});
  await writer.close();
};
globalThis.ask = async (bytes) => {
  const { readable, writable } = await session.createBidirectionalStream();
  const [answer] = await Promise.all([readAll(readable), writeAll(writable, bytes)]);
  return answer;
};
globalThis.askText = async (text) =>
  new TextDecoder().decode(await ask(new TextEncoder().encode(text)));
globalThis.coded = (streamErrorCode) =>
  Object.assign(new Error("Enough"), { streamErrorCode });
globalThis.codeOf = async (promise) => {
  try {
    await promise;
  } catch (error) {
    if (!(error instanceof StreamError)) throw error;
    return error.streamErrorCode;
  }
};
const transports = [new URLSearchParams(location.search).get("transport")];
globalThis.session = await dial(location.origin, { transports });
globalThis.isReady = true;
`;

const HTML = `<!doctype html><title>Page</title><script type="module">${SCRIPT}</script>`;

/** The server and the pages. */
export class StreamsSite implements AsyncDisposable {
  readonly server: Server;
  /** The paths that pages loaded, in order. */
  readonly loaded: string[] = [];
  readonly #sessions: Session[] = [];
  readonly #waiting: ((session: Session) => void)[] = [];

  private constructor(
    parts: ReadonlyMap<string, string>,
    { fetch, ...options }: ServeOptions,
  ) {
    this.server = serve({
      port: 0,
      hostname: "127.0.0.1",
      webTransport: { cacheFolder: null },
      onListen() {},
      fetch: (request, info) => {
        const { pathname } = new URL(request.url);
        this.loaded.push(pathname);
        const part = parts.get(pathname);
        if (part !== undefined) return typed(part, "text/javascript");
        if (pathname === "/") return typed(HTML, "text/html");
        return fetch?.(request, info) ?? new Response(null, { status: 404 });
      },
      onOpen: (session) => {
        const waiting = this.#waiting.shift();
        if (waiting === undefined) this.#sessions.push(session);
        else waiting(session);
      },
      onMessage(message) {
        if (message.isRequest) message.reply(message.data);
      },
      ...options,
    });
  }

  static async start(options: ServeOptions = {}): Promise<StreamsSite> {
    return new StreamsSite(await clientInParts(), options);
  }

  /** Opens a page with a session; returns both sides. */
  async connect(
    browser: Browser,
    transport: TransportName,
  ): Promise<{ readonly page: Page; readonly session: Session }> {
    const page = await newPage(browser);
    const url = this.server.url.replace("ws:", "http:");
    await page.goto(`${url}?transport=${transport}`);
    const [session] = await Promise.all([
      this.#next(),
      page.waitForFunction(() => "isReady" in globalThis),
    ]);
    return { page, session };
  }

  /** Closes the server and the pages. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.server.close();
  }

  #next(): Promise<Session> {
    const session = this.#sessions.shift();
    if (session !== undefined) return Promise.resolve(session);
    return new Promise((resolve) => this.#waiting.push(resolve));
  }
}

function typed(body: string, type: string): Response {
  return new Response(body, { headers: { "content-type": type } });
}
