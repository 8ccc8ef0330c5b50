/** The client's end of a connection over HTTP, on `fetch`: one GET and one POST at a time. */
import { ConnectionError } from "../../errors.ts";
import { textOf } from "../../base/error_text.ts";
import { Backoff } from "../../base/backoff.ts";
import type { Runtime, Timer } from "../../base/runtime.ts";
import { anySignal, pause, within } from "../../base/wait.ts";
import type { Connection, Frame } from "../connection.ts";
import { parseServerUrl, publicUrl } from "../url.ts";
import { TOKEN_MARK, TOKEN_MARK_QUERY } from "../webtransport.ts";
import type { DialWebSocketOptions } from "../websocket/connection.ts";
import {
  CLOSE_TIMEOUT_MS,
  Header,
  HTTP_PROTOCOL,
  HTTP_TRANSPORT,
  HttpConnection,
  LOST_MS,
} from "./connection.ts";
import { EventReader, type HttpEvent, type OpenedConnection } from "./events.ts";
import { type EncodedFrame, encodeFrame, joinFrames } from "./frames.ts";

/**
 * Time for the first piece of an event stream, in milliseconds. If the first piece takes longer, a
 * proxy may hold the stream back: the client polls from then on.
 */
export const FIRST_PIECE_MS = 3_000;

/**
 * Event streams in a row that may be late where one came in time before: a node that died makes
 * streams late as well, until the other nodes know.
 */
const CHANCES = 2;

/** Silence of an event stream after which the client asks again; the server is never that silent. */
const SILENT_MS = 40_000;

/** Time for the answer to a poll or a post, in milliseconds. */
const ANSWER_MS = { poll: 40_000, post: 20_000 };

/** Bytes of frames that share a post; a single frame may be larger. */
const POST_BYTES = 65_536;

/** Bytes of events after which the client acknowledges, even if there are no frames to post. */
const ACKNOWLEDGE_BYTES = 65_536;

/** Most bytes of a post that a page may still send while the page unloads, for all such requests. */
const KEEPALIVE_BYTES = 60_000;

/** Time for the last event, where a post was refused because the connection is over. */
const LAST_EVENT_MS = 2_000;

/** First and longest delay before a failed request is repeated, in milliseconds. */
const FIRST_DELAY_MS = 250;
const LAST_DELAY_MS = 4_000;

/** Options for {@linkcode dialHttp}. */
export interface DialHttpOptions extends Omit<DialWebSocketOptions, "flowControl"> {
  readonly runtime: Runtime;
  /** Knowledge of the network, which the dialer updates. */
  readonly path?: HttpPath | undefined;
  /** Sends requests; by default the `fetch` of the platform. */
  readonly fetch?: typeof fetch | undefined;
}

/** Knowledge of a client about the network between both ends. */
export interface HttpPath {
  /** True if a proxy holds event streams back. */
  polls: boolean;
  /** Number of further event streams that may be late; 0 before one came in time. */
  chances?: number | undefined;
}

/**
 * Opens a connection over HTTP, for networks that block WebTransport and WebSocket.
 *
 * @param url The URL of the server, the same as for a WebSocket.
 * @param options Subprotocols, of which one must be `skein.1`; headers and waiting.
 * @throws {TypeError} If the URL is not one of a server, or the protocols lack `skein.1`.
 * @throws {RangeError} If `timeoutMs` is negative or not a number.
 * @throws {ConnectionError} If the connection cannot be opened; `status` is that of a refusal.
 * @throws {TimeoutError} If opening takes too long.
 */
export async function dialHttp(
  url: string | URL,
  options: DialHttpOptions,
): Promise<Connection> {
  const { runtime, protocols = [], headers, signal, timeoutMs = 10_000 } = options;
  signal?.throwIfAborted();
  const target = parseServerUrl(url);
  target.protocol = target.protocol.replace("ws", "http");
  if (!protocols.includes(HTTP_PROTOCOL)) {
    throw new TypeError(
      `Cannot open HTTP: protocols must have ${HTTP_PROTOCOL}, received ${
        JSON.stringify(protocols)
      }`,
    );
  }
  const connection = new ClientHttpConnection(target, {
    runtime,
    headers,
    path: options.path ?? { polls: false },
    fetch: options.fetch,
    announcesToken: protocols.includes(TOKEN_MARK),
  });
  try {
    const late = `Cannot open HTTP to ${publicUrl(target)} within`;
    await within(runtime, connection.opened, { late, signal, timeoutMs });
    return connection;
  } catch (error) {
    connection.terminate();
    throw error;
  }
}

/** Properties of a {@linkcode ClientHttpConnection}. */
interface ClientHttpOptions {
  readonly runtime: Runtime;
  readonly headers: HeadersInit | undefined;
  readonly path: HttpPath;
  readonly fetch: typeof fetch | undefined;
  readonly announcesToken: boolean;
}

/** A connection that opens and reads from its creation. */
class ClientHttpConnection extends HttpConnection {
  readonly #options: ClientHttpOptions;
  readonly #place: string;
  readonly #firstUrl: string;
  readonly #url: string;
  readonly #opened = Promise.withResolvers<OpenedConnection>();
  readonly #ended = new AbortController();
  #ids: OpenedConnection | undefined = undefined;
  /** True after a proxy held an event stream back. */
  #polls: boolean;
  /** Number of the last event. */
  #received = 0;
  #unacknowledgedBytes = 0;
  /** Frames that the server has not confirmed. */
  #queue: EncodedFrame[] = [];
  #queuedBytes = 0;
  /** Number of the first frame of the queue. */
  #number = 1;
  #isPosting = false;
  #isLeaving = false;
  #lingering: Timer | undefined = undefined;

  constructor(url: URL, options: ClientHttpOptions) {
    super(options.runtime);
    this.#options = options;
    this.#polls = options.path.polls;
    this.#place = publicUrl(url);
    this.#url = exchangeUrl(url, []);
    const mark = options.announcesToken ? [TOKEN_MARK_QUERY] : [];
    this.#firstUrl = exchangeUrl(url, [`protocol=${HTTP_PROTOCOL}`, ...mark], true);
    this.#opened.promise.catch(() => {}); // The connection may end before the caller waits.
    void this.#read();
  }

  /** Resolves once the server has opened the connection. */
  get opened(): Promise<unknown> {
    return this.#opened.promise;
  }

  get bufferedAmount(): number {
    return this.isOver ? 0 : this.#queuedBytes;
  }

  protected override transmit(frame: Frame): void {
    const encoded = encodeFrame(frame);
    this.#queue.push(encoded);
    this.#queuedBytes += encoded.size;
    this.#startPosts();
  }

  protected override conclude(): void {
    this.#lingering = this.runtime.setTimeout(() => this.terminate(), CLOSE_TIMEOUT_MS);
    // A page that unloads has no time for the answer to an acknowledgment.
    if (this.#queue.length === 0) void this.#leave();
  }

  protected override release(): void {
    this.runtime.clearTimeout(this.#lingering);
    this.#ended.abort();
    this.#queue = [];
    this.#opened.reject(new ConnectionError(`Cannot open HTTP to ${this.#place}`));
  }

  /** Reads events until the end, by one request after the other. */
  async #read(): Promise<void> {
    const { path } = this.#options;
    const failures = new Failures(this.runtime);
    while (!this.isOver) {
      const [before, startedAt] = [this.#received, this.runtime.monotonic()];
      const goesOn = () =>
        this.#received !== before || this.runtime.monotonic() - startedAt >= FIRST_DELAY_MS;
      // Streams may break now and then for hours: one that goes on ends the failures before.
      const onPiece = () => {
        if (goesOn()) failures.reset();
      };
      try {
        await (this.#polls ? this.#poll() : this.#stream(onPiece));
        // A proxy may cut streams at once, even before the first event.
        if (goesOn()) failures.reset();
        else await failures.pause(this.#ended.signal);
      } catch (error) {
        if (!(error instanceof HeldStream)) await this.#failed(failures, error);
        else if (path.chances) path.chances--;
        else this.#polls = true;
      }
    }
  }

  async #stream(onPiece: () => void): Promise<void> {
    const { runtime } = this;
    const stop = new AbortController();
    let isHeld = false;
    let timer = runtime.setTimeout(() => {
      isHeld = true;
      stop.abort();
    }, FIRST_PIECE_MS);
    try {
      const signal = anySignal(this.#ended.signal, stop.signal);
      const { body } = await this.#ask("GET", { accept: "text/event-stream" }, { signal });
      const events = new EventReader();
      const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
      for (const reader = body!.getReader();;) {
        const { done, value } = await reader.read();
        if (done) return;
        this.#options.path.chances = CHANCES;
        runtime.clearTimeout(timer);
        timer = runtime.setTimeout(() => stop.abort(), SILENT_MS);
        this.#takeAll(events.read(decoder.decode(value, { stream: true })));
        onPiece();
      }
    } catch (error) {
      throw isHeld ? new HeldStream() : error;
    } finally {
      runtime.clearTimeout(timer);
      stop.abort();
    }
  }

  async #poll(): Promise<void> {
    const headers = { accept: "text/event-stream", [Header.poll]: "1" };
    const text = await this.#within(ANSWER_MS.poll, async (signal) => {
      const response = await this.#ask("GET", headers, { signal });
      return await response.text();
    });
    // A server that answers nothing at all holds nothing back.
    this.#options.path.polls = true;
    this.#takeAll(new EventReader().read(text));
  }

  #takeAll(events: readonly HttpEvent[]): void {
    for (const event of events) this.#take(event);
    if (this.#unacknowledgedBytes >= ACKNOWLEDGE_BYTES) this.#startPosts();
  }

  #take(event: HttpEvent): void {
    if (this.isOver) return;
    if (event.kind === "session") {
      this.#ids ??= event.opened;
      return this.#opened.resolve(event.opened);
    }
    // An earlier request may have brought the event.
    if (event.number <= this.#received) return;
    if (event.number !== this.#received + 1) {
      throw new FinalAnswer(`Event ${this.#received + 1} is missing before ${event.number}`);
    }
    this.#received++;
    if (event.kind === "close") return this.finish(event.info);
    this.#unacknowledgedBytes += event.frame.length;
    this.deliver(event.frame);
  }

  /** Posts frames, once those of this turn of the event loop have joined the queue. */
  #startPosts(): void {
    if (this.#isPosting || this.isOver) return;
    this.#isPosting = true;
    Promise.resolve().then(() => this.#post());
  }

  async #post(): Promise<void> {
    const failures = new Failures(this.runtime);
    const isWorkLeft = () =>
      this.#queue.length > 0 || this.#unacknowledgedBytes >= ACKNOWLEDGE_BYTES;
    while (!this.isOver && isWorkLeft()) {
      try {
        await this.#postNext();
        failures.reset();
      } catch (error) {
        // The events may be about to tell of the close, with the code.
        if (error instanceof FinalAnswer && error.status === 410) {
          await pause(this.runtime, LAST_EVENT_MS, this.#ended.signal);
        }
        await this.#failed(failures, error);
      }
    }
    this.#isPosting = false;
    if (this.closing !== undefined) await this.#leave();
  }

  async #postNext(): Promise<void> {
    let bytes = 0;
    let count = 0;
    for (const { size } of this.#queue) {
      if (count > 0 && bytes + size > POST_BYTES) break;
      bytes += size;
      count++;
    }
    const body = joinFrames(this.#queue.slice(0, count));
    const keepalive = this.closing !== undefined && bytes <= KEEPALIVE_BYTES;
    const acknowledged = this.#unacknowledgedBytes;
    const response = await this.#within(ANSWER_MS.post, (signal) => {
      const headers = { [Header.number]: `${this.#number}` };
      return this.#ask("POST", headers, { signal, body, keepalive });
    });
    // A request that failed acknowledges nothing, and the server may wait for that.
    this.#unacknowledgedBytes -= acknowledged;
    const next = Number(response.headers.get(Header.number));
    const taken = next - this.#number;
    if (!(taken >= 0 && taken <= count)) {
      throw new FinalAnswer(`The server expects frame ${next}, not one from ${this.#number} on`);
    }
    for (const { size } of this.#queue.splice(0, taken)) this.#queuedBytes -= size;
    this.#number = next;
    this.shrunk();
    // The receiver is behind.
    if (!response.ok) await pause(this.runtime, retryAfterOf(response), this.#ended.signal);
  }

  /** Tells the server of the close, once. */
  async #leave(): Promise<void> {
    if (this.#isLeaving) return;
    this.#isLeaving = true;
    const { closeCode, reason } = this.closing!;
    const value = reason === "" ? `${closeCode}` : `${closeCode} ${encodeURIComponent(reason)}`;
    const init = { signal: this.#ended.signal, keepalive: true };
    // The server finds out by itself if this request fails.
    if (this.#ids !== undefined) {
      await this.#ask("DELETE", { [Header.close]: value }, init).catch(() => {});
    }
    this.finish(this.closing!);
  }

  /** Sends a request, and waits for the head of a good answer. */
  async #ask(
    method: string,
    headers: Readonly<Record<string, string>>,
    init: Pick<RequestInit, "signal" | "body" | "keepalive">,
  ): Promise<Response> {
    const ids = this.#ids;
    const all = new Headers(this.#options.headers);
    for (const name in headers) all.set(name, headers[name]!);
    all.set(Header.transport, HTTP_TRANSPORT);
    if (ids !== undefined) {
      all.set(Header.session, ids.session);
      all.set(Header.secret, ids.secret);
      all.set(Header.lastEvent, `${this.#received}`);
    }
    const send = this.#options.fetch ?? fetch;
    const response = await send(ids === undefined ? this.#firstUrl : this.#url, {
      ...init,
      method,
      headers: all,
      cache: "no-store",
      credentials: "include",
      redirect: "error",
    });
    const isOwn = response.headers.get(Header.transport) === HTTP_TRANSPORT;
    // The number tells of a hole, and of the frames that found room.
    if (isOwn && (response.ok || response.headers.has(Header.number))) return response;
    throw await answerError(response, isOwn);
  }

  /** Runs a request with a time limit for the whole answer. */
  async #within<T>(ms: number, run: (signal: AbortSignal) => Promise<T>): Promise<T> {
    const late = new AbortController();
    const timer = this.runtime.setTimeout(() => late.abort(), ms);
    try {
      return await run(anySignal(this.#ended.signal, late.signal));
    } finally {
      this.runtime.clearTimeout(timer);
    }
  }

  /** Waits before a failed request is repeated, or ends the connection. */
  async #failed(failures: Failures, error: unknown): Promise<void> {
    if (this.isOver) return;
    const isOpen = this.#ids !== undefined;
    const isFinal = !isOpen || error instanceof FinalAnswer;
    if (!isFinal && await failures.pause(this.#ended.signal, error)) return;
    const what = isOpen ? "The connection over HTTP failed" : `Cannot open HTTP to ${this.#place}`;
    const { status } = error as { status?: number };
    // The reason of a refusal stands alone.
    const broken = !isOpen && status !== undefined
      ? error as Error
      : new ConnectionError(`${what}: ${textOf(error)}`, { cause: error });
    this.#opened.reject(broken);
    this.finish(status === 413 ? { closeCode: 4413, reason: textOf(error) } : broken);
  }
}

/** Thrown for an event stream whose first piece takes too long. */
class HeldStream extends Error {}

/** Thrown for an answer after which the connection is over. */
class FinalAnswer extends ConnectionError {}

/** Failures in a row, with growing delays between. */
class Failures {
  readonly #runtime: Runtime;
  readonly #backoff: Backoff;
  #since: number | undefined = undefined;

  constructor(runtime: Runtime) {
    this.#runtime = runtime;
    this.#backoff = new Backoff(runtime, {
      firstDelayMs: FIRST_DELAY_MS,
      maxDelayMs: LAST_DELAY_MS,
    });
  }

  /** Notes a success. */
  reset(): void {
    this.#since = undefined;
    this.#backoff.reset();
  }

  /** Waits; `false` at once if requests have failed for too long. */
  async pause(signal: AbortSignal, error?: unknown): Promise<boolean> {
    const now = this.#runtime.monotonic();
    this.#since ??= now;
    if (now - this.#since >= LOST_MS) return false;
    const { retryAfterMs = 0 } = (error ?? {}) as { retryAfterMs?: number };
    await pause(this.#runtime, Math.max(retryAfterMs, this.#backoff.next()!), signal);
    return true;
  }
}

/** Statuses of the server after which a connection is over. */
const FINAL_STATUSES: ReadonlySet<number> = new Set([400, 403, 405, 410, 413]);

/** Makes the error of an answer that is not good; `isOwn` if the server of the session gave it. */
async function answerError(response: Response, isOwn: boolean): Promise<Error> {
  const { status } = response;
  if (!isOwn) {
    // A page at this address may have no end.
    void response.body?.cancel().catch(() => {});
    return new ConnectionError(`the answer with status ${status} is not of a session`);
  }
  const text = await response.text().catch(() => "");
  const message = detailOf(text) ?? `the server answered ${status}`;
  if (FINAL_STATUSES.has(status)) return new FinalAnswer(message, { status });
  return Object.assign(new ConnectionError(message, { status }), {
    retryAfterMs: retryAfterOf(response),
  });
}

function detailOf(problem: string): string | undefined {
  try {
    return String(JSON.parse(problem).detail);
  } catch {
    return undefined;
  }
}

/** Reads the time after which a request may be repeated, in milliseconds. */
function retryAfterOf({ headers }: Response): number {
  const seconds = Number(headers.get("retry-after"));
  return seconds > 0 ? Math.min(seconds * 1_000, LOST_MS) : 0;
}

/**
 * Returns the URL of requests. Only the first request has the secrets that belong to a session's
 * URL: token, ticket, and the mark of a token in band.
 */
function exchangeUrl(url: URL, more: readonly string[], isFirst = false): string {
  const isSecret = /^(token=|ticket=|auth=in-band$)/;
  const pairs = url.search.slice(1).split("&").filter((pair) =>
    pair !== "" && !pair.startsWith("protocol=") && (isFirst || !isSecret.test(pair))
  );
  const query = [...pairs, ...more].join("&");
  return url.origin + url.pathname + (query && `?${query}`);
}
