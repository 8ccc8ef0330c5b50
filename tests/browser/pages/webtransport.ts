/**
 * A WebTransport listener, and pages from another server that dial it.
 *
 * @module
 */
import { ConnectionError } from "../../../errors.ts";
import type { Connection } from "../../../transport/connection.ts";
import { devCertificate } from "../../../transport/certificate/dev_certificate.ts";
import {
  type AcceptOptions,
  listenWebTransport,
  type ListenWebTransportOptions,
  type WebTransportListener,
  type WebTransportRequest,
} from "../../../transport/h3/server.ts";
import { type Browser, type BrowserContext, newPage, type Page } from "../browsers.ts";

export interface PageDialOptions {
  /** Subprotocols to offer. */
  readonly protocols?: readonly string[];
}

/** A failure as seen by a page. */
export interface PageFailure {
  /** The error's name. */
  readonly name: string;
  /** `session` or `stream`; absent for errors outside WebTransport. */
  readonly source: string | undefined;
  /** The code of a closed stream; `null` if there is no code. */
  readonly streamErrorCode: number | null | undefined;
  /** The error's message, in the browser's words. */
  readonly message: string;
}

/** Globals for functions that run in a page. */
declare global {
  /** Opens a session; resolves once the session is ready. */
  function dial(path: string, options?: PageDialOptions): Promise<WebTransport>;
  /** Reads a stream to the end. */
  function readAll(readable: ReadableStream<Uint8Array>): Promise<Uint8Array<ArrayBuffer>>;
  /** Writes one chunk, and closes the stream. */
  function writeAll(writable: WritableStream<Uint8Array>, bytes: Uint8Array): Promise<void>;
  /** Writes bytes to a new stream and reads the reply. */
  function ask(wt: WebTransport, bytes: Uint8Array): Promise<Uint8Array<ArrayBuffer>>;
  /** Waits for a failure. */
  function failureOf(promise: Promise<unknown>): Promise<PageFailure>;
  /** Creates an error with a stream error code. */
  function streamError(streamErrorCode: number): Error;
  /** The newest session of the page. */
  var session: WebTransport;
}

const SCRIPT = `
async function dial(path, { protocols } = {}) {
  const hash = Uint8Array.fromHex(HASH);
  const wt = new WebTransport(BASE + path, {
    serverCertificateHashes: [{ algorithm: "sha-256", value: hash }],
    ...(protocols === undefined ? {} : { protocols }),
  });
  wt.closed.catch(() => {});
  await wt.ready;
  return globalThis.session = wt;
}
async function readAll(readable) {
  const chunks = [];
  for (const reader = readable.getReader();;) {
    const { done, value } = await reader.read();
    if (done) break;
    chunks.push(value);
  }
  const bytes = new Uint8Array(chunks.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const chunk of chunks) {
    bytes.set(chunk, at);
    at += chunk.length;
  }
  return bytes;
}
async function writeAll(writable, bytes) {
  const writer = writable.getWriter();
  writer.write(bytes).catch(() => {});
  await writer.close();
}
async function ask(wt, bytes) {
  const { readable, writable } = await wt.createBidirectionalStream();
  const [answer] = await Promise.all([readAll(readable), writeAll(writable, bytes)]);
  return answer;
}
async function failureOf(promise) {
  try {
    await promise;
  } catch ({ name, source, streamErrorCode, message }) {
    return { name, source, streamErrorCode, message };
  }
  throw new Error("Nothing failed");
}
function streamError(streamErrorCode) {
  // The constructor's parameters differ between browsers.
  const error = new WebTransportError({ message: "Enough", streamErrorCode });
  if (error.streamErrorCode === streamErrorCode) return error;
  return new WebTransportError("Enough", { streamErrorCode });
}
`;

/** The listener and the pages. */
export class WebTransportSite implements AsyncDisposable {
  readonly listener: WebTransportListener;

  readonly #requests: AsyncIterator<WebTransportRequest>;
  readonly #http: Deno.HttpServer<Deno.NetAddr>;

  private constructor(options: Partial<ListenWebTransportOptions>) {
    const { hashes, ...certificate } = devCertificate({ cacheFolder: null });
    this.listener = listenWebTransport({
      hostname: "127.0.0.1",
      port: 0,
      ...certificate,
      ...options,
    });
    this.#requests = this.listener[Symbol.asyncIterator]();
    const head = `const BASE = "https://127.0.0.1:${this.listener.address.port}";
const HASH = "${hashes[0]!.value.toHex()}";`;
    const html = `<!doctype html><title>Page</title><script>${head}${SCRIPT}</script>`;
    this.#http = Deno.serve(
      { hostname: "127.0.0.1", port: 0, onListen() {} },
      () => new Response(html, { headers: { "content-type": "text/html" } }),
    );
  }

  static start(options: Partial<ListenWebTransportOptions> = {}): WebTransportSite {
    return new WebTransportSite(options);
  }

  /** The URL of the pages. */
  get url(): string {
    return `http://127.0.0.1:${this.#http.addr.port}/`;
  }

  /** Opens a page that can dial. */
  async open(browser: Browser | BrowserContext): Promise<Page> {
    const page = await newPage(browser);
    await page.goto(this.url);
    return page;
  }

  /** Waits for the next request. */
  async request(): Promise<WebTransportRequest> {
    const { value } = await this.#requests.next();
    if (value === undefined) throw new Error("The listener was closed");
    return value;
  }

  /** Accepts the next request. */
  async accept(options?: AcceptOptions): Promise<Connection> {
    return (await this.request()).accept(options);
  }

  /** Makes a page dial, and accepts the session. */
  async connect(page: Page): Promise<Connection> {
    const [connection] = await Promise.all([
      this.accept(),
      page.evaluate(async () => void await dial("/")),
    ]);
    return connection;
  }

  /** Closes the listener and the pages. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.listener.close();
    await this.#http.shutdown();
  }
}

/** Echoes all streams until the connection closes or its page is gone. */
export async function echoStreams({ incomingBidirectionalStreams }: Connection): Promise<void> {
  try {
    for await (const { readable, writable } of incomingBidirectionalStreams) {
      readable.pipeTo(writable).catch(() => {}); // The page reports the error.
    }
  } catch (error) {
    if (!(error instanceof ConnectionError)) throw error;
  }
}
