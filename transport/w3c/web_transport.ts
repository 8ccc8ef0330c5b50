/** The W3C `WebTransport` class, with HTTP/3 over the runtime's QUIC. */
import type { ReceiveStream } from "../connection.ts";
import { directStream } from "../direct.ts";
import { Http3Dialer } from "../h3/dialer.ts";
import { Http3Pool } from "../h3/pool.ts";
import type { Field } from "../h3/wire/qpack.ts";
import { requireQuic } from "../quic/deno_quic.ts";
import { settlesWithin, startTimer } from "../../base/wait.ts";
import type { Runtime } from "../../base/runtime.ts";
import type { Http3Session } from "../h3/session.ts";
import type { QuicStream } from "../quic/stream.ts";
import { DatagramQueues, type WebTransportDatagramStats } from "./datagrams.ts";
import {
  DatagramEnds,
  type DatagramSink,
  DatagramSource,
  WebTransportDatagramDuplexStream,
} from "./datagrams.ts";
import { invalidState, sessionError, W3C_ERRORS } from "./error.ts";
import {
  checkAnticipated,
  type CheckedOptions,
  checkOptions,
  viewOf,
  type WebTransportCongestionControl,
  type WebTransportOptions,
} from "./options.ts";
import { wireOrder } from "../quic/send_half.ts";
import {
  type ForeignGroupError,
  GroupState,
  SendSource,
  type StreamsOwner,
  WebTransportSendGroup,
  WebTransportSendStream,
  type WebTransportSendStreamOptions,
} from "./send_stream.ts";
import {
  BidirectionalSource,
  IncomingStreams,
  ReceiveSource,
  WebTransportBidirectionalStream,
  WebTransportReceiveStream,
} from "./streams.ts";
import { defineInterface } from "./web_idl.ts";

/**
 * The maximum time that an abandoned session waits for its connection to release it, in
 * milliseconds.
 */
const GIVE_UP_TIMEOUT_MS = 1_000;

/** The maximum length of a label and of a context in bytes, as in the specification. */
const MAX_EXPORTER_BYTES = 255;

/**
 * The maximum number of bytes that one call can export. The specification requires at least this
 * many.
 */
const MAX_KEYING_BYTES = 4_096;

/** The code and reason of a close. */
export interface WebTransportCloseInfo {
  /**
   * The close code, an unsigned 32-bit integer.
   *
   * @default {0}
   */
  closeCode?: number | undefined;
  /**
   * The reason as text. At most 1024 bytes of it are sent to the server.
   *
   * @default {""}
   */
  reason?: string | undefined;
}

/** The counters of a session. Counters that the runtime does not provide are missing. */
export interface WebTransportConnectionStats {
  /** The number of bytes sent in streams and datagrams; absent if `allowPooling` is set. */
  readonly bytesSent?: number | undefined;
  /** The number of bytes received in streams and datagrams; absent if `allowPooling` is set. */
  readonly bytesReceived?: number | undefined;
  /** Counters of the datagrams dropped on this side. */
  readonly datagrams: WebTransportDatagramStats;
}

/**
 * A WebTransport session with the interface of browsers. This is Skein's own class, even if the
 * runtime has a class of that name. Code written for browsers runs if you use this class as the
 * global one.
 *
 * The runtime's QUIC causes these differences from browsers:
 *
 * - **Codes:** you receive the codes of the server's resets, but the code that you pass to
 *   `abort()` or `cancel()` is not sent. To the server, an aborted stream looks like a stream that
 *   ended normally.
 * - **Ends:** when a session is closed, all of its streams seem to end normally. If data must
 *   arrive complete, send its length too.
 * - **Stop:** if the server stops reading a stream, your next write fails.
 * - **Missing:** counters that the runtime does not provide are missing, such as the round-trip
 *   time, and `exportKeyingMaterial()` always rejects.
 * - **Atomic writes:** if both sides use flow control, the session's credit is checked. The credit
 *   of a single QUIC stream is not checked.
 * - **Groups:** send groups have counters, but do not affect scheduling.
 *
 * There are also differences because the class runs outside a page:
 *
 * - `headers` accepts any header.
 * - The URL must be absolute.
 * - `closed` settles once the server has received the close, or after a second.
 * - `ready` has a timeout.
 * - `await using` closes a session.
 * - If the runtime has no QUIC, `ready` and `closed` reject, and the message names the flag to set.
 *
 * @example Use the class instead of the global one
 * ```ts
 * import { WebTransport, WebTransportError } from "@skein/skein/webtransport";
 * import { devCertificate, listenWebTransport } from "@skein/skein/transport";
 * import { assertEquals } from "@std/assert";
 *
 * Object.assign(globalThis, { WebTransport, WebTransportError });
 *
 * // A server that echoes each stream.
 * const certificate = devCertificate({ cacheFolder: null });
 * await using listener = listenWebTransport({ hostname: "127.0.0.1", ...certificate });
 * const serving = (async () => {
 *   for await (const request of listener) {
 *     const session = request.accept();
 *     for await (const { readable, writable } of session.incomingBidirectionalStreams) {
 *       await readable.pipeTo(writable);
 *     }
 *   }
 * })();
 *
 * // As in a browser.
 * const transport = new WebTransport(`https://127.0.0.1:${listener.address.port}/`, {
 *   serverCertificateHashes: [...certificate.hashes],
 * });
 * await transport.ready;
 * const { readable, writable } = await transport.createBidirectionalStream();
 * const writer = writable.getWriter();
 * await writer.write(new TextEncoder().encode("hello"));
 * await writer.close();
 * assertEquals(await new Response(readable).text(), "hello");
 *
 * transport.close({ closeCode: 7, reason: "bye" });
 * assertEquals(await transport.closed, { closeCode: 7, reason: "bye" });
 * await listener.close();
 * await serving;
 * ```
 *
 * @see {@link https://www.w3.org/TR/webtransport/ | WebTransport}
 */
export class WebTransport implements AsyncDisposable {
  static {
    defineInterface(this, {
      name: "WebTransport",
      members: [
        "getStats",
        "exportKeyingMaterial",
        "ready",
        "reliability",
        "congestionControl",
        "anticipatedConcurrentIncomingUnidirectionalStreams",
        "anticipatedConcurrentIncomingBidirectionalStreams",
        "responseHeaders",
        "protocol",
        "closed",
        "draining",
        "close",
        "datagrams",
        "createBidirectionalStream",
        "incomingBidirectionalStreams",
        "createUnidirectionalStream",
        "incomingUnidirectionalStreams",
        "createSendGroup",
        "supportsReliableOnly",
      ],
      promises: [
        "getStats",
        "exportKeyingMaterial",
        "ready",
        "closed",
        "draining",
        "createBidirectionalStream",
        "createUnidirectionalStream",
      ],
    });
  }

  /** The pools of shared connections, one for each runtime. */
  static readonly #pools = new WeakMap<Runtime, Http3Pool>();

  readonly #options: CheckedOptions;
  readonly #dialer: Http3Dialer;
  readonly #ready = Promise.withResolvers<void>();
  readonly #closed = Promise.withResolvers<WebTransportCloseInfo>();
  readonly #draining = Promise.withResolvers<void>();
  /** Resolves when the connection no longer uses the session, or when dialing has ended. */
  readonly #gone = Promise.withResolvers<void>();
  readonly #groups = new WeakMap<WebTransportSendGroup, GroupState>();
  readonly #bidirectional: IncomingStreams<WebTransportBidirectionalStream, QuicStream>;
  readonly #unidirectional: IncomingStreams<WebTransportReceiveStream, ReceiveStream>;
  readonly #queues: DatagramQueues;
  readonly #sinks = new Set<DatagramSink>();
  readonly #source: DatagramSource;
  readonly #datagrams: WebTransportDatagramDuplexStream;
  #state: "connecting" | "connected" | "closed" | "failed" = "connecting";
  #session: Http3Session | undefined = undefined;
  #streams: StreamsOwner | undefined = undefined;
  #closeInfo: WebTransportCloseInfo | undefined = undefined;
  #response: readonly Field[] = [];
  #responseHeaders: Headers | null = null;
  #anticipatedUnidirectional: number | null;
  #anticipatedBidirectional: number | null;

  /**
   * Starts connecting to a server and requesting a session.
   *
   * @param url An `https:` URL without a fragment.
   * @param options The subprotocols, headers, certificates, pooling and timeouts.
   * @throws {DOMException} `SyntaxError` if the URL or a subprotocol is invalid,
   * `NotSupportedError` if certificate hashes are combined with pooling.
   * @throws {TypeError} If an option has an invalid type.
   */
  constructor(url: string | URL, options: WebTransportOptions = {}) {
    if (arguments.length === 0) {
      throw new TypeError("Cannot create WebTransport: a URL must be given");
    }
    options ??= {}; // Web IDL treats null as an empty dictionary.
    const checked = this.#options = checkOptions(url, options);
    this.#anticipatedUnidirectional = checkAnticipated(
      options.anticipatedConcurrentIncomingUnidirectionalStreams,
    );
    this.#anticipatedBidirectional = checkAnticipated(
      options.anticipatedConcurrentIncomingBidirectionalStreams,
    );
    const { runtime, serverCertificateHashes, congestionControl, protocols, headers } = checked;
    this.#queues = new DatagramQueues(runtime);
    this.#dialer = new Http3Dialer(checked.url, {
      runtime,
      errors: W3C_ERRORS,
      protocols,
      headers,
      congestionControl,
      onResponse: (fields) => {
        this.#response = fields;
      },
      serverCertificateHashes,
      pool: checked.allowPooling ? WebTransport.#poolOf(runtime) : undefined,
    });
    this.#ready.promise.catch(() => {}); // An unobserved rejection is not an error.
    this.#closed.promise.catch(() => {});
    this.#bidirectional = new IncomingStreams(
      async () => (await this.#openSession("receive streams")).incomingBidirectionalStreams,
      (stream) =>
        new WebTransportBidirectionalStream(new BidirectionalSource(this.#streams!, stream)),
    );
    this.#unidirectional = new IncomingStreams(
      async () => (await this.#openSession("receive streams")).incomingUnidirectionalStreams,
      (stream) =>
        new WebTransportReceiveStream(new ReceiveSource(this.#streams!, directStream(stream))),
    );
    this.#source = new DatagramSource(this.#queues, checked.datagramsReadableType);
    this.#datagrams = new WebTransportDatagramDuplexStream(
      new DatagramEnds(
        {
          isOver: () => this.#isOver,
          groupOf: (group, error) => this.#groupOf(group, error),
        },
        this.#source.readable(),
        { queues: this.#queues, open: this.#sinks },
      ),
    );
    void this.#run();
  }

  /** Always `false`, because HTTP/3 is the only transport. */
  static get supportsReliableOnly(): boolean {
    return false;
  }

  /**
   * Resolves when the server has accepted the session. Otherwise rejects with a {@linkcode
   * WebTransportError}.
   */
  get ready(): Promise<void> {
    return this.#ready.promise;
  }

  /**
   * Resolves when either side has closed the session. Rejects with a {@linkcode WebTransportError}
   * if the session broke or was never established.
   */
  get closed(): Promise<WebTransportCloseInfo> {
    return this.#closed.promise;
  }

  /** Resolves when the server asks the client to drain the session. May never settle. */
  get draining(): Promise<void> {
    return this.#draining.promise;
  }

  /** The value is `pending` at first, and `supports-unreliable` later. */
  get reliability(): "pending" | "supports-unreliable" {
    return this.#responseHeaders === null ? "pending" : "supports-unreliable";
  }

  /** The goal of QUIC congestion control. */
  get congestionControl(): WebTransportCongestionControl {
    return this.#options.congestionControl;
  }

  /** The negotiated subprotocol. It is empty before `ready` has resolved, and if there is none. */
  get protocol(): string {
    return this.#responseHeaders === null ? "" : this.#session!.protocol;
  }

  /** The read-only headers of the response; `null` before `ready` has resolved. */
  get responseHeaders(): Headers | null {
    return this.#responseHeaders;
  }

  /** A hint that has no effect. The value must fit into 16 bits. */
  get anticipatedConcurrentIncomingUnidirectionalStreams(): number | null {
    return this.#anticipatedUnidirectional;
  }

  set anticipatedConcurrentIncomingUnidirectionalStreams(value: number | null) {
    this.#anticipatedUnidirectional = checkAnticipated(value);
  }

  /** A hint that has no effect. The value must fit into 16 bits. */
  get anticipatedConcurrentIncomingBidirectionalStreams(): number | null {
    return this.#anticipatedBidirectional;
  }

  set anticipatedConcurrentIncomingBidirectionalStreams(value: number | null) {
    this.#anticipatedBidirectional = checkAnticipated(value);
  }

  /** The datagrams of the session. You can write datagrams even before `ready` has resolved. */
  get datagrams(): WebTransportDatagramDuplexStream {
    return this.#datagrams;
  }

  /** The bidirectional streams opened by the server. */
  get incomingBidirectionalStreams(): ReadableStream<WebTransportBidirectionalStream> {
    return this.#bidirectional.readable;
  }

  /** The unidirectional streams opened by the server. */
  get incomingUnidirectionalStreams(): ReadableStream<WebTransportReceiveStream> {
    return this.#unidirectional.readable;
  }

  /**
   * Waits until the session is ready, and opens a bidirectional stream.
   *
   * @param options The group and priority, and whether to wait for stream credit.
   * @returns The stream, whose two directions end separately.
   * @throws {TypeError} If the group belongs to another session.
   * @throws {DOMException} `InvalidStateError` if the session has ended, `QuotaExceededError` if
   * there is no stream credit.
   */
  async createBidirectionalStream(
    options: WebTransportSendStreamOptions = {},
  ): Promise<WebTransportBidirectionalStream> {
    options ??= {}; // Web IDL treats null as an empty dictionary.
    const stream = await this.#open(
      options,
      (session, wireOptions) => session.createBidirectionalStream(wireOptions),
    );
    return new WebTransportBidirectionalStream(
      new BidirectionalSource(this.#streams!, stream, options),
    );
  }

  /**
   * Waits until the session is ready, and opens a unidirectional stream.
   *
   * @param options The group and priority, and whether to wait for stream credit.
   * @returns The stream, which only this side writes.
   * @throws {TypeError} If the group belongs to another session.
   * @throws {DOMException} `InvalidStateError` if the session has ended, `QuotaExceededError` if
   * there is no stream credit.
   */
  async createUnidirectionalStream(
    options: WebTransportSendStreamOptions = {},
  ): Promise<WebTransportSendStream> {
    options ??= {};
    const half = await this.#open(
      options,
      (session, wireOptions) => session.openUnidirectional(wireOptions),
    );
    return new WebTransportSendStream(new SendSource(this.#streams!, half, options));
  }

  /**
   * Creates a group of streams with common counters.
   *
   * @returns A group to pass as `sendGroup` of a new stream.
   * @throws {DOMException} `InvalidStateError` if the session has ended.
   */
  createSendGroup(): WebTransportSendGroup {
    if (this.#isOver) throw invalidState("create group");
    const state = new GroupState();
    const group = new WebTransportSendGroup(state);
    this.#groups.set(group, state);
    return group;
  }

  /**
   * Closes the session. Data that has not been sent yet may be lost. If `ready` has not resolved
   * yet, the session is abandoned, and `ready` and `closed` reject. Further calls have no effect.
   *
   * @param closeInfo The code, 0 by default, and the reason, empty by default.
   */
  close(closeInfo: WebTransportCloseInfo = {}): void {
    const { closeCode = 0, reason = "" } = closeInfo ?? {};
    const info = { closeCode: closeCode >>> 0, reason: String(reason).toWellFormed() };
    if (this.#isOver) return;
    if (this.#state === "connecting") {
      return this.#giveUp("The session was closed before it was ready");
    }
    this.#session!.closeWith(info);
    this.#close(info);
  }

  /**
   * Waits until the session is ready, and reads the counters of bytes and datagrams.
   *
   * @returns The counters.
   * @throws {DOMException} `InvalidStateError` if the session broke or was never established.
   */
  async getStats(): Promise<WebTransportConnectionStats> {
    if (this.#state === "connecting") await this.#ready.promise.catch(() => {});
    if (this.#state === "failed") throw invalidState("get stats");
    const { bytesSent = 0, bytesReceived = 0 } = await this.#session!.getStats();
    const datagrams = this.#queues.stats;
    // The byte counters would include other sessions on a shared connection.
    return this.#options.allowPooling ? { datagrams } : { bytesSent, bytesReceived, datagrams };
  }

  /**
   * Always rejects, because the runtime's QUIC does not expose keying material of the TLS session.
   * If the arguments and the session's state are valid, the error is a `NotSupportedError`.
   *
   * @param label The label, at most 255 bytes.
   * @param context The context, at most 255 bytes.
   * @param outputLength The number of bytes to export, from 1 to 4096.
   * @returns A promise that always rejects.
   * @throws {TypeError} If an argument is missing, or if the label or the context is not a
   * `BufferSource`.
   * @throws {RangeError} If a length is out of range.
   * @throws {DOMException} `InvalidStateError` if the session has ended, and `NotSupportedError`
   * otherwise.
   */
  // deno-lint-ignore require-await
  async exportKeyingMaterial(
    label: BufferSource,
    context: BufferSource,
    outputLength: number,
  ): Promise<Uint8Array<ArrayBuffer>> {
    const isOver = this.#isOver; // Read first, so that a foreign object gets a `TypeError`.
    for (const [name, value] of Object.entries({ label, context })) {
      const bytes = viewOf(value);
      if (bytes === undefined) {
        throw new TypeError(
          `Cannot export keying material: ${name} must be a BufferSource, received ${typeof value}`,
        );
      }
      if (bytes.byteLength > MAX_EXPORTER_BYTES) {
        throw new RangeError(
          `Cannot export keying material: ${name} must have at most ${MAX_EXPORTER_BYTES} bytes, received ${bytes.byteLength}`,
        );
      }
    }
    if (outputLength === undefined) {
      throw new TypeError("Cannot export keying material: outputLength must be given");
    }
    const length = outputLength >>> 0;
    if (length === 0 || length > MAX_KEYING_BYTES) {
      throw new RangeError(
        `Cannot export keying material: outputLength must be from 1 to ${MAX_KEYING_BYTES}, received ${outputLength}`,
      );
    }
    if (isOver) throw invalidState("export keying material");
    throw new DOMException(
      "Cannot export keying material: the runtime's QUIC does not expose any",
      "NotSupportedError",
    );
  }

  /** Closes the session and waits until it has ended. `await using` calls this method. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.close();
    await this.closed.catch(() => {});
  }

  /** True once the session has ended for the application, or for the connection. */
  get #isOver(): boolean {
    return this.#state === "closed" || this.#state === "failed" ||
      this.#state === "connected" && this.#session!.isOver;
  }

  async #run(): Promise<void> {
    const { runtime, distrust, timeoutMs } = this.#options;
    const timer = startTimer(runtime, timeoutMs, (ms) => {
      const { outcome } = this.#dialer;
      const tried = outcome && ` (${outcome})`;
      this.#giveUp(`Cannot connect within ${ms} ms: the server did not respond${tried}`);
    });
    try {
      requireQuic();
      if (distrust !== undefined) throw W3C_ERRORS.session(`Cannot connect: ${distrust}`);
      const session = await this.#dialer.session((session) => {
        this.#session = session;
        if (this.#state === "connecting") this.#attach(session);
      });
      runtime.clearTimeout(timer);
      if (this.#state === "connecting") this.#establish();
      const info = await session.closed;
      this.#close(info);
    } catch (error) {
      this.#fail(sessionError(error));
    } finally {
      runtime.clearTimeout(timer);
      await this.#session?.closed.catch(() => {});
      this.#gone.resolve();
    }
  }

  #attach(session: Http3Session): void {
    this.#streams = {
      halves: session.halves,
      isOver: () => session.isOver,
      connectionError: (cause) => session.connectionError(cause),
      groupOf: (group, error) => this.#groupOf(group, error),
    };
    session.draining.then(() => this.#draining.resolve());
    session.datagrams.receive((datagram) => this.#queues.deliver(datagram));
  }

  #establish(): void {
    this.#state = "connected";
    this.#responseHeaders = new ResponseHeaders(this.#response);
    this.#queues.connect(this.#session!.datagrams);
    this.#ready.resolve();
  }

  #giveUp(message: string): void {
    this.#fail(W3C_ERRORS.session(message));
    this.#dialer.abort();
  }

  #close(info: WebTransportCloseInfo): void {
    if (this.#state === "connected") {
      this.#state = "closed";
      this.#closeInfo = info;
      this.#end(this.#session!.connectionError(undefined), false);
      void this.#settle(() => this.#closed.resolve(this.#closeInfo!));
    }
  }

  /** Handles a broken session, or one that was never established. */
  #fail(error: Error): void {
    if (this.#state === "closed" || this.#state === "failed") return;
    this.#state = "failed";
    this.#end(error, true);
    this.#ready.reject(error);
    void this.#settle(() => this.#closed.reject(error));
  }

  #end(error: Error, isBroken: boolean): void {
    this.#queues.end();
    for (const sink of this.#sinks) sink.end(error, isBroken);
    this.#source.end(error, isBroken);
    this.#bidirectional.end(isBroken ? error : undefined);
    this.#unidirectional.end(isBroken ? error : undefined);
  }

  /** Waits until abandoned dialing has ended, or the timeout has passed. */
  async #settle(settle: () => void): Promise<void> {
    await settlesWithin(this.#options.runtime, this.#gone.promise, GIVE_UP_TIMEOUT_MS);
    settle();
  }

  static #poolOf(runtime: Runtime): Http3Pool {
    let pool = WebTransport.#pools.get(runtime);
    if (pool === undefined) WebTransport.#pools.set(runtime, pool = new Http3Pool());
    return pool;
  }

  async #openSession(what: string): Promise<Http3Session> {
    if (this.#state === "connecting") await this.#ready.promise.catch(() => {});
    if (this.#isOver) throw invalidState(what);
    return this.#session!;
  }

  async #open<T>(
    { sendGroup = null, sendOrder, waitUntilAvailable = false }: WebTransportSendStreamOptions,
    open: (
      session: Http3Session,
      options: { readonly waitUntilAvailable: boolean; readonly sendOrder?: number },
    ) => Promise<T>,
  ): Promise<T> {
    this.#groupOf(sendGroup, "TypeError");
    const session = await this.#openSession("open stream");
    const order = wireOrder(sendOrder);
    try {
      // Order 0 is the runtime's default. It is omitted, because setting an order is slow.
      return await open(session, {
        waitUntilAvailable: Boolean(waitUntilAvailable),
        sendOrder: order === 0 ? undefined : order,
      });
    } catch (error) {
      if (error instanceof RangeError) throw new QuotaExceededError(error.message);
      throw invalidState("open stream");
    }
  }

  #groupOf(group: WebTransportSendGroup | null, error: ForeignGroupError): GroupState | undefined {
    if (group === null) return undefined;
    const state = this.#groups.get(group);
    if (state !== undefined) return state;
    const message = "Cannot use send group: it must belong to the same session";
    throw error === "TypeError" ? new TypeError(message) : new DOMException(message, error);
  }
}

/** Headers that cannot be changed. */
class ResponseHeaders extends Headers {
  constructor(fields: readonly Field[]) {
    const isShown = ([name]: Field) => !name.startsWith(":") && !HIDDEN_HEADERS.includes(name);
    super(fields.filter(isShown).map(([name, value]): [string, string] => [name, value]));
  }

  override append(): void {
    throw new TypeError("Cannot change headers: headers of a response are read-only");
  }

  override set(): void {
    this.append();
  }

  override delete(): void {
    this.append();
  }
}

/**
 * The headers hidden from the application. `protocol` already shows the subprotocol, and cookies
 * belong in a cookie store.
 */
const HIDDEN_HEADERS = ["wt-protocol", "set-cookie"];
