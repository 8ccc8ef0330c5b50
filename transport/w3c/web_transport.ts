/**
 * The W3C's `WebTransport`, on HTTP/3 over the runtime's QUIC.
 *
 * @module
 */
import type { ReceiveStream } from "../connection.ts";
import { directReadable } from "../direct.ts";
import { Http3Dialer } from "../h3/dialer.ts";
import { Http3Pool } from "../h3/pool.ts";
import type { Field } from "../h3/qpack.ts";
import { requireQuic } from "../quic/runtime.ts";
import { startTimer } from "../within.ts";
import type { Http3Session } from "../h3/session.ts";
import type { Http3Stream } from "../quic/stream.ts";
import { DatagramQueues, type WebTransportDatagramStats } from "./datagram_queues.ts";
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
import { wireOrder } from "../quic/send_order.ts";
import { ReceiveSource, WebTransportReceiveStream } from "./receive_stream.ts";
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
  WebTransportBidirectionalStream,
} from "./streams.ts";
import { defineInterface } from "./web_idl.ts";

export { type WebTransportDatagramStats } from "./datagram_queues.ts";
export { WebTransportDatagramDuplexStream, WebTransportDatagramsWritable } from "./datagrams.ts";
export { WebTransportError, type WebTransportErrorOptions } from "./error.ts";
export type {
  WebTransportCongestionControl,
  WebTransportHash,
  WebTransportOptions,
} from "./options.ts";
export {
  WebTransportReceiveStream,
  type WebTransportReceiveStreamStats,
} from "./receive_stream.ts";
export {
  WebTransportSendGroup,
  type WebTransportSendOptions,
  WebTransportSendStream,
  type WebTransportSendStreamOptions,
  type WebTransportSendStreamStats,
  WebTransportWriter,
} from "./send_stream.ts";
export { WebTransportBidirectionalStream } from "./streams.ts";

/** How long the wire may take to let go of a session that was given up, in milliseconds. */
const GIVE_UP_TIMEOUT_MS = 1_000;

/** Longest label and context of an export, as the W3C has it. */
const MAX_EXPORTER_BYTES = 255;

/** The most keying material of one export, as the W3C has it at least. */
const MAX_KEYING_BYTES = 4_096;

/** How a session is, or was, closed. */
export interface WebTransportCloseInfo {
  /**
   * Any code of 32 bits.
   *
   * @default {0}
   */
  closeCode?: number;
  /**
   * Why, in words; the server gets at most 1024 bytes of it.
   *
   * @default {""}
   */
  reason?: string;
}

/** Counters of a session; what the runtime does not tell is absent. */
export interface WebTransportConnectionStats {
  /** Bytes of streams and datagrams handed to the wire; absent where connections are shared. */
  readonly bytesSent?: number;
  /** Bytes of streams and datagrams taken from the wire; absent where connections are shared. */
  readonly bytesReceived?: number;
  /** Datagrams that were lost at this end. */
  readonly datagrams: WebTransportDatagramStats;
}

/**
 * A WebTransport session, with the interface that browsers have. It is a class
 * of this toolkit also where the runtime has one of its own: put it in place of
 * the global one, and code that was written for browsers runs on it.
 *
 * What differs, since the runtime's QUIC has nothing for it:
 *
 * - **Codes:** the codes of the server's resets are read; the code of an own
 *   `abort()` or `cancel()` is not sent. To the server an aborted stream looks
 *   like one that ended.
 * - **Ends:** a session that closes ends its streams like a clean end: data that
 *   has to be whole tells its length.
 * - **Stop:** that the server stopped reading is noticed by the next write.
 * - **Absent:** counters that the runtime does not tell, such as the round-trip
 *   time, and keying material: `exportKeyingMaterial()` rejects.
 * - **Atomic writes:** they know the credit of the session, where both ends count,
 *   and not that of a single QUIC stream.
 * - **Groups:** send groups are counted, and not scheduled.
 *
 * And since this is no page: `headers` takes any header, a URL must be absolute,
 * `closed` settles once the server knows, a second later at most, `ready` has a
 * deadline, and `await using` closes a session. Without QUIC in the runtime
 * `ready` and `closed` reject, and the message names the flag.
 *
 * @example In place of the global one
 * ```ts
 * import { WebTransport, WebTransportError } from "@skein/skein";
 * import { devCertificate, listenWebTransport } from "@skein/skein/transport";
 * import { assertEquals } from "@std/assert";
 *
 * Object.assign(globalThis, { WebTransport, WebTransportError });
 *
 * // A server to talk to: it sends back what comes on a stream.
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

  /** Connections that are shared; it holds those that live. */
  static readonly #pool = new Http3Pool();

  readonly #options: CheckedOptions;
  readonly #dialer: Http3Dialer;
  readonly #ready = Promise.withResolvers<void>();
  readonly #closed = Promise.withResolvers<WebTransportCloseInfo>();
  readonly #draining = Promise.withResolvers<void>();
  /** Resolves when the wire is done with the session, or with dialing. */
  readonly #gone = Promise.withResolvers<void>();
  readonly #groups = new WeakMap<WebTransportSendGroup, GroupState>();
  readonly #bidirectional: IncomingStreams<WebTransportBidirectionalStream, Http3Stream>;
  readonly #unidirectional: IncomingStreams<WebTransportReceiveStream, ReceiveStream>;
  readonly #queues = new DatagramQueues();
  readonly #sinks = new Set<DatagramSink>();
  readonly #source: DatagramSource;
  readonly #datagrams: WebTransportDatagramDuplexStream;
  #state: "connecting" | "connected" | "closed" | "failed" = "connecting";
  #session: Http3Session | undefined = undefined;
  #streams: StreamsOwner | undefined = undefined;
  #closeInfo: WebTransportCloseInfo | undefined = undefined;
  #answer: readonly Field[] = [];
  #responseHeaders: Headers | null = null;
  #anticipatedUnidirectional: number | null;
  #anticipatedBidirectional: number | null;

  /**
   * Begins to connect to a server, and to ask for a session.
   *
   * @param url `https:`, without a fragment.
   * @param options See {@linkcode WebTransportOptions}.
   * @throws {DOMException} `SyntaxError` if the URL or the subprotocols are wrong, `NotSupportedError` if certificate hashes come with pooling.
   * @throws {TypeError} If an option is of the wrong type.
   */
  constructor(url: string | URL, options: WebTransportOptions = {}) {
    if (arguments.length === 0) {
      throw new TypeError("Cannot create WebTransport: a URL must be given");
    }
    options ??= {}; // To Web IDL null is an empty dictionary too.
    const checked = this.#options = checkOptions(url, options);
    this.#anticipatedUnidirectional = checkAnticipated(
      options.anticipatedConcurrentIncomingUnidirectionalStreams,
    );
    this.#anticipatedBidirectional = checkAnticipated(
      options.anticipatedConcurrentIncomingBidirectionalStreams,
    );
    const { serverCertificateHashes, congestionControl, protocols, headers } = checked;
    this.#dialer = new Http3Dialer(checked.url, {
      errors: W3C_ERRORS,
      protocols,
      headers,
      congestionControl,
      onResponse: (fields) => {
        this.#answer = fields;
      },
      ...(serverCertificateHashes === undefined ? {} : { serverCertificateHashes }),
      ...(checked.allowPooling ? { pool: WebTransport.#pool } : {}),
    });
    this.#ready.promise.catch(() => {}); // Nobody has to look at them.
    this.#closed.promise.catch(() => {});
    this.#bidirectional = new IncomingStreams(
      async () => (await this.#live("receive streams")).incomingBidirectionalStreams,
      (stream) =>
        new WebTransportBidirectionalStream(new BidirectionalSource(this.#streams!, stream)),
    );
    this.#unidirectional = new IncomingStreams(
      async () => (await this.#live("receive streams")).incomingUnidirectionalStreams,
      (stream) =>
        new WebTransportReceiveStream(new ReceiveSource(this.#streams!, directReadable(stream))),
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

  /** Always false: there is HTTP/3, and nothing else. */
  static get supportsReliableOnly(): boolean {
    return false;
  }

  /** Resolves once the server accepted; rejects with a {@linkcode WebTransportError} if it did not. */
  get ready(): Promise<void> {
    return this.#ready.promise;
  }

  /** Resolves when either end closed the session; rejects with a {@linkcode WebTransportError} if it broke, or never was. */
  get closed(): Promise<WebTransportCloseInfo> {
    return this.#closed.promise;
  }

  /** Resolves when the server asked to wind up; may never settle. */
  get draining(): Promise<void> {
    return this.#draining.promise;
  }

  /** `pending`, and then `supports-unreliable`. */
  get reliability(): "pending" | "supports-unreliable" {
    return this.#responseHeaders === null ? "pending" : "supports-unreliable";
  }

  /** For what QUIC controls congestion. */
  get congestionControl(): WebTransportCongestionControl {
    return this.#options.congestionControl;
  }

  /** The subprotocol agreed on; empty before `ready`, and if there is none. */
  get protocol(): string {
    return this.#responseHeaders === null ? "" : this.#session!.protocol;
  }

  /** Headers of the response, which cannot be changed; `null` before `ready`. */
  get responseHeaders(): Headers | null {
    return this.#responseHeaders;
  }

  /** A hint that changes nothing; it must fit 16 bits. */
  get anticipatedConcurrentIncomingUnidirectionalStreams(): number | null {
    return this.#anticipatedUnidirectional;
  }

  set anticipatedConcurrentIncomingUnidirectionalStreams(value: number | null) {
    this.#anticipatedUnidirectional = checkAnticipated(value);
  }

  /** A hint that changes nothing; it must fit 16 bits. */
  get anticipatedConcurrentIncomingBidirectionalStreams(): number | null {
    return this.#anticipatedBidirectional;
  }

  set anticipatedConcurrentIncomingBidirectionalStreams(value: number | null) {
    this.#anticipatedBidirectional = checkAnticipated(value);
  }

  /** Datagrams, which can be written before `ready` too. */
  get datagrams(): WebTransportDatagramDuplexStream {
    return this.#datagrams;
  }

  /** Bidirectional streams that the server opened. */
  get incomingBidirectionalStreams(): ReadableStream<WebTransportBidirectionalStream> {
    return this.#bidirectional.readable;
  }

  /** Unidirectional streams that the server opened. */
  get incomingUnidirectionalStreams(): ReadableStream<WebTransportReceiveStream> {
    return this.#unidirectional.readable;
  }

  /**
   * Opens a bidirectional stream, once the session is ready.
   *
   * @param options See {@linkcode WebTransportSendStreamOptions}.
   * @returns The stream.
   * @throws {TypeError} If the group is another session's.
   * @throws {DOMException} `InvalidStateError` if the session is over, `QuotaExceededError` if the server allows no more streams for now.
   */
  async createBidirectionalStream(
    options: WebTransportSendStreamOptions = {},
  ): Promise<WebTransportBidirectionalStream> {
    const stream = await this.#open(
      options,
      (session, wireOptions) => session.createBidirectionalStream(wireOptions),
    );
    return new WebTransportBidirectionalStream(
      new BidirectionalSource(this.#streams!, stream, options),
    );
  }

  /**
   * Opens a unidirectional stream, once the session is ready.
   *
   * @param options See {@linkcode WebTransportSendStreamOptions}.
   * @returns The stream.
   * @throws {TypeError} If the group is another session's.
   * @throws {DOMException} `InvalidStateError` if the session is over, `QuotaExceededError` if the server allows no more streams for now.
   */
  async createUnidirectionalStream(
    options: WebTransportSendStreamOptions = {},
  ): Promise<WebTransportSendStream> {
    const half = await this.#open(
      options,
      (session, wireOptions) => session.openUnidirectional(wireOptions),
    );
    return new WebTransportSendStream(new SendSource(this.#streams!, half, options));
  }

  /**
   * Creates a group, to count streams together.
   *
   * @returns The group.
   * @throws {DOMException} `InvalidStateError`, if the session is over.
   */
  createSendGroup(): WebTransportSendGroup {
    if (this.#isOver) throw invalidState("create group");
    const state = new GroupState();
    const group = new WebTransportSendGroup(state);
    this.#groups.set(group, state);
    return group;
  }

  /**
   * Closes the session; what was not sent yet may be lost. Before `ready` it gives up,
   * so that `ready` and `closed` reject. Idempotent.
   *
   * @param closeInfo Code and reason; none by default.
   */
  close(closeInfo: WebTransportCloseInfo = {}): void {
    const { closeCode = 0, reason = "" } = closeInfo;
    const info = { closeCode: closeCode >>> 0, reason: String(reason).toWellFormed() };
    if (this.#isOver) return;
    if (this.#state === "connecting") {
      return this.#giveUp("The session was closed before it was ready");
    }
    this.#session!.closeWith(info);
    this.#close(info);
  }

  /**
   * Counts bytes and datagrams, once the session is ready.
   *
   * @returns The counters.
   * @throws {DOMException} `InvalidStateError`, if the session broke or never was.
   */
  async getStats(): Promise<WebTransportConnectionStats> {
    if (this.#state === "connecting") await this.#ready.promise.catch(() => {});
    if (this.#state === "failed") throw invalidState("get stats");
    const { bytesSent = 0, bytesReceived = 0 } = await this.#session!.getStats();
    const datagrams = this.#queues.stats;
    // What others do on a shared connection is theirs.
    return this.#options.allowPooling ? { datagrams } : { bytesSent, bytesReceived, datagrams };
  }

  /**
   * Exports keying material of the TLS session. The runtime's QUIC does not tell it, so that this always
   * rejects: with what the arguments or the state call for, or else with `NotSupportedError`.
   *
   * @param label Up to 255 bytes.
   * @param context Up to 255 bytes.
   * @param outputLength Bytes to export, from 1 to 4096.
   * @returns Never resolves.
   * @throws {TypeError} If an argument is missing, or the label or the context is no `BufferSource`.
   * @throws {RangeError} If a length is too large, or 0 bytes are to be exported.
   * @throws {DOMException} `InvalidStateError` if the session is over, and `NotSupportedError` otherwise.
   */
  // deno-lint-ignore require-await
  async exportKeyingMaterial(
    label: BufferSource,
    context: BufferSource,
    outputLength: number,
  ): Promise<Uint8Array<ArrayBuffer>> {
    const isOver = this.#isOver; // A foreign object is told first.
    for (const [name, value] of Object.entries({ label, context })) {
      const bytes = viewOf(value);
      if (bytes === undefined) {
        throw new TypeError(
          `Cannot export keying material: ${name} must be a BufferSource, received ${typeof value}`,
        );
      }
      if (bytes.byteLength > MAX_EXPORTER_BYTES) {
        throw new RangeError(
          `Cannot export keying material: ${name} may have ${MAX_EXPORTER_BYTES} bytes, received ${bytes.byteLength}`,
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
      "Cannot export keying material: the runtime's QUIC does not tell it",
      "NotSupportedError",
    );
  }

  /** Closes, and waits for it; called by `await using`. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.close();
    await this.closed.catch(() => {});
  }

  /** Whether it is over: for its user, or already for the wire. */
  get #isOver(): boolean {
    return this.#state === "closed" || this.#state === "failed" ||
      this.#state === "connected" && this.#session!.isOver;
  }

  async #run(): Promise<void> {
    const { distrust, timeoutMs } = this.#options;
    const timer = startTimer(timeoutMs, (ms) => {
      const { outcome } = this.#dialer;
      const tried = outcome && ` (${outcome})`;
      this.#giveUp(`Cannot connect within ${ms} ms: the server did not answer${tried}`);
    });
    try {
      requireQuic();
      if (distrust !== undefined) throw W3C_ERRORS.session(`Cannot connect: ${distrust}`);
      const session = this.#session = await this.#dialer.request();
      if (this.#state === "connecting") this.#attach(session);
      await session.ready;
      clearTimeout(timer);
      if (this.#state === "connecting") this.#establish();
      const info = await session.closed;
      this.#close(info);
    } catch (error) {
      this.#fail(sessionError(error));
    } finally {
      clearTimeout(timer);
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
    this.#responseHeaders = new ResponseHeaders(this.#answer);
    this.#queues.connect(this.#session!.datagrams);
    this.#ready.resolve();
  }

  /** Ends dialing. */
  #giveUp(message: string): void {
    this.#fail(W3C_ERRORS.session(message));
    this.#dialer.abort();
  }

  /** Either end closed the session. */
  #close(info: WebTransportCloseInfo): void {
    if (this.#state === "connected") {
      this.#state = "closed";
      this.#closeInfo = info;
      this.#end(this.#session!.connectionError(undefined), false);
      void this.#settle(() => this.#closed.resolve(this.#closeInfo!));
    }
  }

  /** The session broke, or never was. */
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

  /** Dialing that was given up may not end soon. */
  async #settle(settle: () => void): Promise<void> {
    const { promise: late, resolve } = Promise.withResolvers<void>();
    const timer = setTimeout(resolve, GIVE_UP_TIMEOUT_MS);
    await Promise.race([this.#gone.promise, late]);
    clearTimeout(timer);
    settle();
  }

  async #live(what: string): Promise<Http3Session> {
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
    const session = await this.#live("open stream");
    const order = wireOrder(sendOrder);
    try {
      // The order of all others is 0, and costs nothing.
      return await open(session, {
        waitUntilAvailable: Boolean(waitUntilAvailable),
        ...(order === 0 ? {} : { sendOrder: order }),
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
    const message = "Cannot use send group: it must be one of the same session";
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
    throw new TypeError("Cannot change headers: they are the server's");
  }

  override set(): void {
    this.append();
  }

  override delete(): void {
    this.append();
  }
}

/** `protocol` has the one; the other is for who keeps cookies. */
const HIDDEN_HEADERS = ["wt-protocol", "set-cookie"];
