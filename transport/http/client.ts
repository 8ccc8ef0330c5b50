/**
 * The client's end of a connection over HTTP. It uses `fetch`, with one GET and one POST at a time.
 */
import { ConnectionError, TimeoutError } from "../../errors.ts";
import { textOf } from "../../base/error_text.ts";
import { Backoff } from "../../base/backoff.ts";
import type { Runtime, Timer } from "../../base/runtime.ts";
import { anySignal, pause, within } from "../../base/wait.ts";
import type { Connection, Frame } from "../connection.ts";
import { parseServerUrl, parseUrl, publicUrl } from "../url.ts";
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
import { LONG_POLL, type Poll, writePoll } from "./polls.ts";
import type { StreamBudget } from "./stream_budget.ts";

/**
 * The timeout for the first piece of an event stream, and for the next piece if the server has
 * written an event that did not arrive, in milliseconds. If the piece arrives later, a proxy may be
 * holding back the stream, so the client polls.
 */
export const HELD_MS = 3_000;

/**
 * The number of held event streams after which a client returns to streams, if one has delivered
 * an event. A node that has died also makes streams late, until the other nodes notice.
 */
const CHANCES = 2;

/**
 * The age at which a stream that delivers an event restores the chances, in milliseconds. Some
 * proxies hold back all bytes after the first ones. The age is less than the server's heartbeat
 * interval.
 */
const PROVEN_MS = 20_000;

/**
 * A post takes longer on a slow network. An event may then be late for this many times the duration
 * of the post.
 */
const HELD_POSTS = 4;

/**
 * How long an event stream may be silent before the client sends a new request, in milliseconds.
 * The server is never silent that long.
 */
const SILENT_MS = 40_000;

/** The timeout for the response to a poll or a post, in milliseconds. */
const RESPONSE_MS = { poll: 40_000, post: 20_000 };

/** The maximum bytes of frames that share a post. A single frame may be larger. */
const POST_BYTES = 65_536;

/** The bytes of events after which the client acknowledges, even if there are no frames to post. */
const ACKNOWLEDGE_BYTES = 65_536;

/** The maximum total size of the posts that a page may still send while it unloads, in bytes. */
const KEEPALIVE_BYTES = 60_000;

/**
 * How long to wait for the last event if a post was rejected because the connection has ended, in
 * milliseconds.
 */
const LAST_EVENT_MS = 2_000;

/** The first and longest delay before a failed request is repeated, in milliseconds. */
const FIRST_DELAY_MS = 250;
const LAST_DELAY_MS = 4_000;

/**
 * The cache mode of requests. Cloudflare Workers with a compatibility date before 2024-11-11 reject
 * the option.
 */
const CACHE = typeof Request === "function" && !("cache" in Request.prototype)
  ? undefined
  : "no-store";

/** An event with only a ping, and the reply to a ping. Nothing follows either of them. */
const PING_EVENT = /^id: \d+\ndata: \{"ping":\d+\}\n\n$/;
const PONG = /^\{"pong":\d+\}$/;

/** The options for {@linkcode dialHttp}. */
export interface DialHttpOptions extends Omit<DialWebSocketOptions, "flowControl"> {
  readonly runtime: Runtime;
  /** The known properties of the network. The dialer updates them. */
  readonly path?: HttpPath | undefined;
  /** The function that sends requests. The default is the platform's `fetch`. */
  readonly fetch?: typeof fetch | undefined;
  /** Creates the budget of a connection in a browser. Elsewhere, requests have no limit. */
  readonly budget?: MakeBudget | undefined;
}

/** Creates the budget of one connection to a server. */
export type MakeBudget = (url: URL, runtime: Runtime) => StreamBudget;

/** The state of the network path, as the client knows it. */
export interface HttpPath {
  /** True if a proxy holds back event streams. */
  polls: boolean;
  /**
   * The number of further event streams that may be held. By default, it is 0 until a stream has
   * delivered an event.
   */
  chances?: number | undefined;
}

/**
 * Opens a connection over HTTP, for networks that block WebTransport and WebSocket.
 *
 * @param url The server's URL, which is the same as for a WebSocket.
 * @param options The subprotocols, which must include `skein.1`, and the headers, timeout and
 * signal.
 * @throws {TypeError} If the URL is not a server URL, or if the protocols do not include `skein.1`.
 * @throws {RangeError} If `timeoutMs` is negative or not a number.
 * @throws {ConnectionError} If the connection cannot be opened. If the server rejected it, `status`
 * is the HTTP status.
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
      `Cannot open HTTP: protocols must include ${HTTP_PROTOCOL}, received ${
        JSON.stringify(protocols)
      }`,
    );
  }
  const { path = { polls: false } } = options;
  const parts = {
    runtime,
    headers,
    path,
    fetch: options.fetch,
    budget: options.budget,
    announcesToken: protocols.includes(TOKEN_MARK),
  };
  const connections: ClientHttpConnection[] = [];
  const opened = Promise.withResolvers<Connection>();
  const open = (polls: boolean, onFailure: (error: unknown) => void) => {
    const connection = new ClientHttpConnection(target, { ...parts, polls });
    connections.push(connection);
    connection.opened.then(() => opened.resolve(connection), onFailure);
  };
  open(path.polls, opened.reject);
  // A late response may be held back by a proxy, or the server may still be authenticating. The
  // server may then have no room for another connection.
  let failure: unknown;
  const timer = path.polls
    ? undefined
    : runtime.setTimeout(() => open(true, (error) => failure = error), HELD_MS);
  let winner: Connection | undefined;
  try {
    const late = `Cannot open HTTP to ${publicUrl(target)} within`;
    return winner = await within(runtime, opened.promise, { late, signal, timeoutMs });
  } catch (error) {
    throw error instanceof TimeoutError ? failure ?? error : error;
  } finally {
    runtime.clearTimeout(timer);
    for (const connection of connections) {
      if (connection === winner) continue;
      const end = () => connection.terminate();
      if (winner === undefined) end();
      else {
        // The server may have opened it too. Only a response names it, so that it can be ended.
        connection.close();
        winner.closed.then(end, end);
      }
    }
  }
}

interface ClientHttpOptions {
  readonly runtime: Runtime;
  readonly headers: HeadersInit | undefined;
  readonly path: HttpPath;
  /** True if the first request is a poll. */
  readonly polls: boolean;
  readonly fetch: typeof fetch | undefined;
  readonly budget: MakeBudget | undefined;
  readonly announcesToken: boolean;
}

/** A connection that starts to open and read when it is created. */
class ClientHttpConnection extends HttpConnection {
  readonly #options: ClientHttpOptions;
  readonly #place: string;
  readonly #firstUrl: string;
  readonly #url: string;
  readonly #opened = Promise.withResolvers<OpenedConnection>();
  readonly #ended = new AbortController();
  readonly #budget: StreamBudget | undefined;
  #ids: OpenedConnection | undefined = undefined;
  /** True after a proxy held back an event stream. */
  #polls: boolean;
  #received = 0;
  /** The number of the newest event that the server has written. Every connection has an event. */
  #written = 1;
  /** How long to wait for that event, in milliseconds. */
  #heldMs = HELD_MS;
  /** Restarts the wait for the next piece of the current stream. */
  #awaitPiece: (() => void) | undefined;
  #unacknowledgedBytes = 0;
  /** The frames that the server has not confirmed. */
  #queue: EncodedFrame[] = [];
  #queuedBytes = 0;
  /** The number of the first frame of the queue. */
  #number = 1;
  /** The number of the last frame that is not only the reply to a ping. */
  #askingNumber = 0;
  #isPosting = false;
  #isLeaving = false;
  #lingering: Timer | undefined = undefined;

  constructor(url: URL, options: ClientHttpOptions) {
    super(options.runtime);
    this.#options = options;
    this.#polls = options.polls;
    this.#budget = options.budget?.(url, options.runtime);
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
    const isPong = typeof frame === "string" && PONG.test(frame);
    if (!isPong) this.#askingNumber = this.#number + this.#queue.length - 1;
    this.#queuedBytes += encoded.size;
    this.#startPosts();
  }

  protected override conclude(): void {
    this.#lingering = this.runtime.setTimeout(() => this.terminate(), CLOSE_TIMEOUT_MS);
    if (this.#ids === undefined) void this.#opened.promise.then(() => this.#leave(), () => {});
    // A page that unloads has no time to wait for the response to an acknowledgment.
    else if (this.#queue.length === 0) void this.#leave();
  }

  protected override release(): void {
    this.runtime.clearTimeout(this.#lingering);
    this.#ended.abort();
    this.#budget?.[Symbol.dispose]();
    this.#queue = [];
    this.#opened.reject(new ConnectionError(`Cannot open HTTP to ${this.#place}`));
  }

  /** Reads events until the end, with one request after another. */
  async #read(): Promise<void> {
    const failures = new Failures(this.runtime, this.#budget);
    while (!this.isOver && !this.#isLeaving) {
      const { poll, until } = await this.#budget?.next(this.#received === 0) ?? {};
      // Such a response may be empty without a pause.
      const isBrief = poll && (poll.waitS === 0 || this.#ids === undefined);
      const [before, startedAt] = [this.#received, this.runtime.monotonic()];
      const goesOn = () =>
        this.#received !== before || this.runtime.monotonic() - startedAt >= FIRST_DELAY_MS;
      // Streams may break now and then for hours, so a stream that continues clears the earlier
      // failures.
      const onPiece = () => {
        if (goesOn()) failures.reset();
      };
      try {
        if (poll) await this.#poll(poll);
        else {
          await this.#untilLost(
            until,
            (signal) => this.#polls ? this.#poll(LONG_POLL, signal) : this.#stream(onPiece, signal),
          );
        }
        // A proxy may cut streams immediately, even before the first event.
        if (isBrief || goesOn()) failures.reset();
        else await failures.pause(this.#ended.signal);
      } catch (error) {
        if (until?.aborted) continue;
        this.#budget?.failed();
        if (!(error instanceof HeldStream)) await this.#failed(failures, error);
        else this.#polls = true;
      }
    }
  }

  /** Runs a request until its place is lost, but at least until it has opened the connection. */
  async #untilLost(
    until: AbortSignal | undefined,
    run: (signal: AbortSignal) => Promise<void>,
  ): Promise<void> {
    const stop = new AbortController();
    const abort = () => this.#opened.promise.then(() => stop.abort(), () => {});
    until?.addEventListener("abort", abort);
    if (until?.aborted) abort();
    try {
      await run(anySignal(this.#ended.signal, stop.signal));
    } finally {
      until?.removeEventListener("abort", abort);
    }
  }

  async #stream(onPiece: () => void, ended: AbortSignal): Promise<void> {
    const { runtime } = this;
    const { path } = this.#options;
    const stop = new AbortController();
    const [before, startedAt] = [this.#received, runtime.monotonic()];
    let isHeld = false;
    let timer: Timer | undefined;
    const awaitPiece = (isExpected = this.#received < this.#written) => {
      // If this request is late, another one opens the connection.
      if (this.#ids === undefined) return;
      runtime.clearTimeout(timer);
      timer = runtime.setTimeout(() => {
        isHeld = isExpected;
        stop.abort();
      }, isExpected ? this.#heldMs : SILENT_MS);
    };
    this.#awaitPiece = awaitPiece;
    awaitPiece(true);
    try {
      const signal = anySignal(ended, stop.signal);
      const { body } = await this.#ask("GET", { accept: "text/event-stream" }, { signal });
      const events = new EventReader();
      for await (const text of piecesOf(body, signal)) {
        this.#takeAll(events.read(text));
        awaitPiece();
        if (this.#received > before && this.#received >= this.#written) {
          const isProven = runtime.monotonic() - startedAt >= PROVEN_MS;
          path.chances = isProven ? CHANCES : path.chances ?? CHANCES;
        }
        onPiece();
      }
    } catch (error) {
      throw isHeld ? new HeldStream() : error;
    } finally {
      this.#awaitPiece = undefined;
      runtime.clearTimeout(timer);
      stop.abort();
    }
  }

  async #poll(poll: Poll, ended = this.#ended.signal): Promise<void> {
    const headers = { accept: "text/event-stream", [Header.poll]: writePoll(poll) };
    const text = await this.#within(RESPONSE_MS.poll, async (late) => {
      const signal = anySignal(ended, late);
      const { body } = await this.#ask("GET", headers, { signal });
      let text = "";
      for await (const piece of piecesOf(body, signal)) text += piece;
      return text;
    });
    // Set this only now. If a server sends no response at all, no proxy is holding back a stream.
    if (this.#polls) {
      const { path } = this.#options;
      if (path.chances) {
        path.chances--;
        this.#polls = false;
      } else path.polls = true;
    }
    this.#budget?.received(PING_EVENT.test(text) ? 0 : text.length);
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
    // An earlier request may have delivered the event.
    if (event.number <= this.#received) return;
    if (event.number !== this.#received + 1) {
      throw new FinalResponse(`Event ${this.#received + 1} is missing before ${event.number}`);
    }
    this.#received++;
    if (event.kind === "close") return this.finish(event.info);
    // On a stream, the response to an acknowledgment tells whether the event after the reply to the
    // token was written.
    const isTokenReply = event.number === 1 && this.#options.announcesToken;
    this.#unacknowledgedBytes += isTokenReply && this.#awaitPiece
      ? ACKNOWLEDGE_BYTES
      : event.frame.length;
    this.deliver(event.frame);
  }

  /** Posts frames, after all frames of this turn of the event loop have joined the queue. */
  #startPosts(): void {
    if (this.#isPosting || this.isOver) return;
    this.#isPosting = true;
    Promise.resolve().then(() => this.#post());
  }

  async #post(): Promise<void> {
    const failures = new Failures(this.runtime, this.#budget);
    const isWorkLeft = () =>
      this.#queue.length > 0 || this.#unacknowledgedBytes >= ACKNOWLEDGE_BYTES;
    while (!this.isOver && isWorkLeft()) {
      try {
        await this.#postNext();
        failures.reset();
      } catch (error) {
        // The close with its code may be about to arrive as an event.
        if (error instanceof FinalResponse && error.status === 410) {
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
    const startedAt = this.runtime.monotonic();
    const isReplyLikely = count === 0 || this.#askingNumber >= this.#number;
    this.#budget?.posting();
    const response = await this.#within(RESPONSE_MS.post, (signal) => {
      const headers = { [Header.number]: `${this.#number}` };
      return this.#ask("POST", headers, { signal, body, keepalive });
    }).finally(() => this.#budget?.posted(isReplyLikely));
    // A failed request acknowledges nothing, and the server may wait for an acknowledgment.
    this.#unacknowledgedBytes -= acknowledged;
    const postMs = this.runtime.monotonic() - startedAt;
    this.#expect(Number(response.headers.get(Header.written)), postMs);
    const next = Number(response.headers.get(Header.number));
    const taken = next - this.#number;
    if (!(taken >= 0 && taken <= count)) {
      throw new FinalResponse(`The server expects frame ${next}, not ${this.#number}`);
    }
    for (const { size } of this.#queue.splice(0, taken)) this.#queuedBytes -= size;
    this.#number = next;
    this.shrunk();
    // The receiver is too slow.
    if (!response.ok) await pause(this.runtime, retryAfterOf(response), this.#ended.signal);
  }

  /** Notes the newest event that the server has written. It should arrive soon. */
  #expect(written: number, postMs: number): void {
    if (!(written > this.#written)) return;
    const isWaiting = this.#received < this.#written;
    this.#written = written;
    if (isWaiting || this.#received >= written) return;
    this.#heldMs = Math.min(Math.max(HELD_MS, HELD_POSTS * postMs), SILENT_MS);
    this.#awaitPiece?.();
  }

  async #leave(): Promise<void> {
    if (this.#isLeaving) return;
    this.#isLeaving = true;
    const { closeCode, reason } = this.closing!;
    const value = reason === "" ? `${closeCode}` : `${closeCode} ${encodeURIComponent(reason)}`;
    const init = { signal: this.#ended.signal, keepalive: true };
    // If this request fails, the server notices the close itself.
    if (this.#ids !== undefined) {
      await this.#ask("DELETE", { [Header.close]: value }, init).catch(() => {});
    }
    this.finish(this.closing!);
  }

  /** Sends a request, and waits for the headers of a successful response. */
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
    const url = ids === undefined ? this.#firstUrl : this.#url;
    const response = await send(url, {
      ...init,
      method,
      headers: all,
      cache: CACHE,
      credentials: "include",
      // A redirect is never followed, because the secrets would go along. Not "error", because it
      // hides the target, and because Cloudflare Workers do not support it.
      redirect: "manual",
    });
    const isOwn = response.headers.get(Header.transport) === HTTP_TRANSPORT;
    // The number shows whether frames are missing, and how many were accepted.
    if (isOwn && (response.ok || response.headers.has(Header.number))) return response;
    throw await responseError(response, isOwn, url);
  }

  /** Runs a request with a time limit for the whole response. */
  async #within<T>(ms: number, run: (signal: AbortSignal) => Promise<T>): Promise<T> {
    const late = new AbortController();
    const timer = this.runtime.setTimeout(() => late.abort(), ms);
    try {
      return await run(anySignal(this.#ended.signal, late.signal));
    } finally {
      this.runtime.clearTimeout(timer);
    }
  }

  /** Waits before a failed request is retried, or ends the connection if it cannot be retried. */
  async #failed(failures: Failures, error: unknown): Promise<void> {
    if (this.isOver) return;
    const isOpen = this.#ids !== undefined;
    const isFinal = !isOpen || error instanceof FinalResponse;
    if (!isFinal && await failures.pause(this.#ended.signal, error)) return;
    const what = isOpen ? "The connection over HTTP failed" : `Cannot open HTTP to ${this.#place}`;
    const { status } = error as { status?: number };
    // The reason of a rejection needs no prefix.
    const broken = !isOpen && status !== undefined
      ? error as Error
      : new ConnectionError(`${what}: ${textOf(error)}`, { cause: error });
    this.#opened.reject(broken);
    this.finish(status === 413 ? { closeCode: 4413, reason: textOf(error) } : broken);
  }
}

/**
 * Reads the text of a response. `fetch` does not suffice to abort it: Deno forgets the signal once
 * the response, without its body, has been collected as garbage.
 */
async function* piecesOf(
  body: ReadableStream<Uint8Array> | null,
  signal: AbortSignal,
): AsyncGenerator<string> {
  const reader = body?.getReader();
  const cancel = () => void reader?.cancel().catch(() => {});
  const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  signal.addEventListener("abort", cancel);
  try {
    for (let piece; (piece = await reader?.read()) && !piece.done;) {
      yield decoder.decode(piece.value, { stream: true });
    }
    signal.throwIfAborted();
  } finally {
    signal.removeEventListener("abort", cancel);
    cancel();
  }
}

/** Thrown if a piece of an event stream arrives too late. */
class HeldStream extends Error {}

/** Thrown for a response that ends the connection. */
class FinalResponse extends ConnectionError {}

class Failures {
  readonly #runtime: Runtime;
  readonly #budget: StreamBudget | undefined;
  readonly #backoff: Backoff;
  #since: number | undefined = undefined;

  constructor(runtime: Runtime, budget: StreamBudget | undefined) {
    this.#runtime = runtime;
    this.#budget = budget;
    this.#backoff = new Backoff(runtime, {
      firstDelayMs: FIRST_DELAY_MS,
      maxDelayMs: LAST_DELAY_MS,
    });
  }

  reset(): void {
    this.#since = undefined;
    this.#backoff.reset();
  }

  /**
   * Waits before a retry. Returns `false` immediately if requests have failed for too long. Without an
   * error, such as after a short response, it always waits.
   */
  async pause(signal: AbortSignal, error?: unknown): Promise<boolean> {
    const now = this.#runtime.monotonic();
    this.#since ??= now;
    if (error && now - this.#since >= (this.#budget?.lostMs ?? LOST_MS)) return false;
    const { retryAfterMs = 0 } = (error ?? {}) as { retryAfterMs?: number };
    await pause(this.#runtime, Math.max(retryAfterMs, this.#backoff.next()!), signal);
    return true;
  }
}

/** The maximum length of a redirect's target in an error, in UTF-16 code units. */
const MAX_TARGET_LENGTH = 200;

/** Creates the error for a redirect. Browsers hide its target, and its status, which is often 302. */
function redirectError({ status, headers }: Response, url: string): ConnectionError {
  const target = parseUrl(headers.get("location") ?? "", url);
  const where = status && target ? publicUrl(target).slice(0, MAX_TARGET_LENGTH) : "another URL";
  return new ConnectionError(
    `The server redirects to ${where}; use that URL, because redirects are not followed`,
    { status: status || 302 },
  );
}

const FINAL_STATUSES: ReadonlySet<number> = new Set([400, 403, 405, 410, 413]);

/**
 * Creates the error for an unsuccessful response. `isOwn` is true if the session's server sent it.
 */
async function responseError(response: Response, isOwn: boolean, url: string): Promise<Error> {
  const { status, type } = response;
  if (!isOwn) {
    // The response of another page at this address may never end.
    void response.body?.cancel().catch(() => {});
    if (type === "opaqueredirect" || /^30[12378]$/.test(`${status}`)) {
      return redirectError(response, url);
    }
    return new ConnectionError(`the response with status ${status} is not from a Skein server`);
  }
  const text = await response.text().catch(() => "");
  const message = detailOf(text) ?? `the server responded with ${status}`;
  if (FINAL_STATUSES.has(status)) return new FinalResponse(message, { status });
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

function retryAfterOf({ headers }: Response): number {
  const seconds = Number(headers.get("retry-after"));
  return seconds > 0 ? Math.min(seconds * 1_000, LOST_MS) : 0;
}

/**
 * Returns the URL of a request. Only the first request includes the secrets in a session's URL: the
 * token, the ticket, and the mark of a token in band.
 */
function exchangeUrl(url: URL, more: readonly string[], isFirst = false): string {
  const isSecret = /^(token=|ticket=|auth=in-band$)/;
  const pairs = url.search.slice(1).split("&").filter((pair) =>
    pair !== "" && !pair.startsWith("protocol=") && (isFirst || !isSecret.test(pair))
  );
  const query = [...pairs, ...more].join("&");
  return url.origin + url.pathname + (query && `?${query}`);
}
