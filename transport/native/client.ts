/**
 * The client half of WebTransport where the platform has one: the global
 * `WebTransport` of browsers, behind the contract of all wires.
 *
 * @module
 */
import { ConnectionError, StreamError, UnsupportedError } from "../../errors.ts";
import { Ledger, type MessageCarrier, type StreamAccount } from "../_ledger.ts";
import { orderedAs } from "../direct.ts";
import type {
  BidirectionalStream,
  CloseOptions,
  Connection,
  ConnectionCapabilities,
  ConnectionCloseInfo,
  ConnectionCounters,
  ConnectionObserver,
  ConnectionStats,
  DatagramDuplex,
  OpenStreamOptions,
  SendStream,
  StreamDirection,
  StreamSide,
} from "../connection.ts";
import { engineWornAt } from "./engines.ts";
import { noDatagrams } from "../_unsupported.ts";
import { publicUrl } from "../url.ts";
import {
  type CertificateHash,
  type DialWebTransportOptions,
  TOKEN_MARK,
  TOKEN_MARK_QUERY,
} from "../webtransport.ts";
import { checkWireClose, MAX_WEBTRANSPORT_CLOSE_CODE } from "../wire_close.ts";
import { within } from "../within.ts";

/** The part of the W3C's `WebTransport` that is used; what not every platform has is optional. */
export interface NativeWebTransport {
  readonly ready: Promise<void>;
  readonly closed: Promise<ConnectionCloseInfo>;
  readonly draining?: Promise<void>;
  readonly protocol?: string;
  /** `reliable-only` where the session runs over TCP. */
  readonly reliability?: string;
  /** Undefined in WebKit on iOS (webkit.org/b/322201). */
  readonly datagrams: {
    readonly readable: ReadableStream<Uint8Array>;
    readonly writable?: WritableStream<Uint8Array>;
    createWritable?(): WritableStream<Uint8Array>;
    readonly maxDatagramSize: number;
  } | undefined;
  readonly incomingBidirectionalStreams: ReadableStream<BidirectionalStream>;
  readonly incomingUnidirectionalStreams: ReadableStream<ReadableStream<Uint8Array>>;
  createBidirectionalStream(options: NativeStreamOptions): Promise<BidirectionalStream>;
  createUnidirectionalStream(options: NativeStreamOptions): Promise<WritableStream<Uint8Array>>;
  close(info: ConnectionCloseInfo): void;
  getStats?(): Promise<ConnectionStats>;
}

interface NativeStreamOptions {
  readonly sendOrder: number | undefined;
  readonly waitUntilAvailable: boolean;
}

/** How soon, and how often at least, a stream is asked for again that the browser refused, in milliseconds. */
const FIRST_RETRY_MS = 2;
const MAX_RETRY_MS = 64;

/** What the global scope of a platform may have. */
interface Globals {
  readonly WebTransport?: {
    readonly prototype: object;
    new (url: string, options: {
      readonly protocols: readonly string[];
      readonly serverCertificateHashes: readonly CertificateHash[] | undefined;
    }): NativeWebTransport;
  };
  readonly WebTransportError?: new (
    init: unknown,
    options?: { readonly streamErrorCode: number },
  ) => { readonly streamErrorCode: number | null };
}

/**
 * Opens a WebTransport connection with the platform's own `WebTransport`.
 *
 * - **Protocols:** a platform that cannot offer any gets the first one in the URL's query
 *   (`?protocol=`), and the server is taken to have agreed. The mark of a token in band
 *   (`skein.auth`) stands beside it, as `auth=in-band`.
 * - **Page:** a page that is left closes the connection, so that the server need not time it out;
 *   `closed` rejects, and a client connects anew if the page comes back from the browser's cache.
 * - **Stopping to read:** Firefox 153 does not tell the server that a stream is read no more.
 * - **Datagrams:** none where the platform has none, or reached the server over TCP alone
 *   (`reliability`); `capabilities` says so.
 * - **Failure:** whatever rejects, the platform's own session is closed.
 *
 * @param url `https:`, without a fragment.
 * @param options See {@linkcode DialWebTransportOptions}.
 * @returns The connection, established.
 * @throws {UnsupportedError} If the platform has none.
 * @throws {TypeError} If headers are given: browsers send none of their own.
 * @throws {ConnectionError} If it cannot be opened; browsers do not tell why.
 * @throws {TimeoutError} If it takes longer than `timeoutMs`.
 */
export async function dialNativeWebTransport(
  url: string | URL,
  options: DialWebTransportOptions = {},
): Promise<Connection> {
  const { protocols = [], serverCertificateHashes, headers, signal, timeoutMs, onWorn } = options;
  if (headers !== undefined) {
    throw new TypeError("Cannot open WebTransport: a browser sends no headers of its own");
  }
  signal?.throwIfAborted();
  const target = new URL(url);
  const { WebTransport } = globals();
  if (WebTransport === undefined) {
    throw new UnsupportedError("Cannot open WebTransport: the platform has none");
  }
  const assumed = "protocol" in WebTransport.prototype ? undefined : protocols[0];
  if (assumed !== undefined) {
    const query = [`protocol=${encodeURIComponent(assumed)}`];
    if (protocols.includes(TOKEN_MARK)) query.push(TOKEN_MARK_QUERY);
    target.search += (target.search ? "&" : "?") + query.join("&");
  }
  const native = new WebTransport(target.href, { protocols, serverCertificateHashes });
  const failed = `Cannot open WebTransport to ${publicUrl(target)}`;
  native.closed.catch(() => {}); // It says what `ready` says.
  const ready = native.ready.catch((error) => {
    throw broken(failed, error);
  });
  try {
    await within(ready, { late: `${failed} within`, signal, timeoutMs });
    const connection = new NativeConnection(native, assumed, BROWSER);
    connection.onWorn = onWorn;
    return connection;
  } catch (error) {
    native.close({});
    throw error;
  }
}

/**
 * Makes a connection of a platform's `WebTransport`, of either side.
 *
 * @param native The platform's.
 * @param capabilities What it can do.
 * @returns The connection.
 */
export function connectionOf(
  native: NativeWebTransport,
  capabilities: ConnectionCapabilities,
): Connection {
  return new NativeConnection(native, undefined, capabilities);
}

function globals(): Globals {
  return globalThis as unknown as Globals;
}

const BROWSER: ConnectionCapabilities = {
  streams: true,
  datagrams: "unreliable",
  resetCodes: true,
  credit: false,
  independentStreams: true,
};

/** A platform's `WebTransport` as a connection: its errors are those of every wire. */
class NativeConnection implements Connection, MessageCarrier {
  readonly capabilities: ConnectionCapabilities;
  readonly transport = "webtransport";
  readonly ready: Promise<void>;
  readonly closed: Promise<ConnectionCloseInfo>;
  readonly draining: Promise<void>;
  readonly datagrams: DatagramDuplex;
  readonly incomingBidirectionalStreams: ReadableStream<BidirectionalStream>;
  readonly incomingUnidirectionalStreams: ReadableStream<ReadableStream<Uint8Array>>;

  readonly #native: NativeWebTransport;
  readonly #assumed: string | undefined;
  readonly #closing = Promise.withResolvers<ConnectionCloseInfo>();
  #line: Promise<unknown> = Promise.resolve();
  #inLine = 0;
  #isOver = false;
  #ledger: Ledger | undefined = undefined;
  /** Whose next bidirectional stream carries messages. */
  #carrier: StreamSide | undefined = undefined;
  /** Called once much was used of what the engine does not give back. */
  onWorn: (() => void) | undefined = undefined;
  readonly #wornAt = engineWornAt();
  #used = { bytes: 0, streams: 0 };
  readonly #use = (bytes: number, streams = 0) => {
    const used = this.#used;
    used.bytes += bytes;
    used.streams += streams;
    const wornAt = this.#wornAt;
    if (!wornAt || used.bytes < wornAt.bytes && used.streams < wornAt.streams) return;
    this.onWorn?.();
    this.onWorn = undefined;
  };

  constructor(
    native: NativeWebTransport,
    assumed: string | undefined,
    capabilities: ConnectionCapabilities,
  ) {
    this.#native = native;
    this.#assumed = assumed;
    this.ready = native.ready;
    this.closed = this.#closing.promise;
    this.closed.catch(() => {});
    native.closed.then(
      ({ closeCode = 0, reason = "" }) =>
        this.#end(() => this.#closing.resolve({ closeCode, reason })),
      (error) => this.#end(() => this.#closing.reject(broken("The connection broke", error))),
    );
    this.draining = native.draining ?? new Promise(() => {});
    // These end with the connection, and say no more about its end than `closed` does.
    const ended = () => this.closed;
    this.incomingBidirectionalStreams = readFrom(
      native.incomingBidirectionalStreams,
      ended,
      (stream) => wrap(stream, this.#use, this.#account("bidirectional", "remote")),
    );
    this.incomingUnidirectionalStreams = readFrom(
      native.incomingUnidirectionalStreams,
      ended,
      (stream) => readBytes(stream, this.#use, this.#account("unidirectional", "remote")),
    );
    globalThis.addEventListener?.("pagehide", this.#onPageHide);
    const { datagrams } = native;
    const isReliable = native.reliability === "reliable-only";
    if (isReliable || datagrams === undefined) {
      this.capabilities = {
        ...capabilities,
        datagrams: "none",
        independentStreams: !isReliable,
      };
      this.datagrams = noDatagrams(this.transport);
      return;
    }
    this.capabilities = capabilities;
    this.datagrams = {
      readable: readFrom(datagrams.readable, ended, (datagram) => {
        this.#ownLedger.receivedDatagram(datagram);
        return datagram;
      }),
      writable: writeTo(datagrams.writable ?? datagrams.createWritable!(), (datagram) => {
        const { byteLength } = datagram;
        // One that is too large is lost, without a word.
        if (byteLength <= datagrams.maxDatagramSize) this.#ownLedger.sentDatagram(datagram);
        else this.#ownLedger.droppedDatagram(byteLength);
      }),
      get maxDatagramSize() {
        return datagrams.maxDatagramSize;
      },
    };
  }

  get protocol(): string {
    return this.#assumed ?? this.#native.protocol ?? "";
  }

  get counters(): ConnectionCounters | undefined {
    return this.#ledger;
  }

  createBidirectionalStream(options?: OpenStreamOptions): Promise<BidirectionalStream> {
    const wrapped = (stream: BidirectionalStream) =>
      wrap(stream, this.#use, this.#account("bidirectional", "local"));
    return this.#open("createBidirectionalStream", wrapped, options);
  }

  createUnidirectionalStream(options?: OpenStreamOptions): Promise<WritableStream<Uint8Array>> {
    const wrapped = (stream: WritableStream<Uint8Array>) =>
      writeBytes(stream, this.#account("unidirectional", "local"));
    return this.#open("createUnidirectionalStream", wrapped, options);
  }

  close(info?: CloseOptions): void {
    const checked = checkWireClose(info, MAX_WEBTRANSPORT_CLOSE_CODE);
    this.#end(() => {
      this.#native.close(checked);
      this.#closing.resolve(checked);
    });
  }

  observe(observer: ConnectionObserver | undefined): void {
    if (observer !== undefined) this.#ownLedger.observer = observer;
    else if (this.#ledger !== undefined) this.#ledger.observer = undefined;
  }

  carryMessages(by: StreamSide): void {
    this.#carrier = by;
  }

  async getStats(): Promise<ConnectionStats> {
    return await this.#native.getStats?.().catch(() => {}) ?? {};
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.close();
    await this.closed.catch(() => {});
  }

  get #ownLedger(): Ledger {
    return this.#ledger ??= new Ledger();
  }

  /** Counts a stream, but the one that carries messages. One that came counts once somebody takes it. */
  #account(direction: StreamDirection, by: StreamSide): StreamAccount | undefined {
    this.#use(0, 1);
    if (direction === "unidirectional" || this.#carrier !== by) {
      return this.#ownLedger.opened(direction, by);
    }
    this.#carrier = undefined;
    return undefined;
  }

  readonly #onPageHide = () =>
    this.#end(() => {
      this.#native.close({});
      this.#closing.reject(new ConnectionError("The page was left"));
    });

  #end(settle: () => void): void {
    if (this.#isOver) return;
    this.#isOver = true;
    globalThis.removeEventListener?.("pagehide", this.#onPageHide);
    settle();
  }

  async #open<K extends "createBidirectionalStream" | "createUnidirectionalStream">(
    method: K,
    wrap: (stream: StreamOf<K>) => StreamOf<K>,
    { signal, timeoutMs, sendOrder }: OpenStreamOptions = {},
  ): Promise<StreamOf<K>> {
    signal?.throwIfAborted();
    let isWanted = true;
    const open = (): Promise<StreamOf<K>> =>
      // By default a browser refuses where the peer allows no more for now.
      this.#native[method]({ sendOrder, waitUntilAvailable: true }) as Promise<StreamOf<K>>;
    const opened = this.#openInTurn(open, () => isWanted).then(wrap, (error) => {
      throw broken("Cannot open stream", error);
    });
    return await within(opened, {
      late: "Cannot open stream within",
      signal,
      timeoutMs,
      discard(stream) {
        // One that only writes is its own writable end.
        const { readable, writable = stream } = stream as Partial<BidirectionalStream>;
        readable?.cancel().catch(() => {});
        (writable as WritableStream).abort().catch(() => {});
      },
    }).finally(() => isWanted = false);
  }

  /**
   * Chromium refuses all the same, and does not tell when the peer allows more: who was refused
   * stands in line, and the first one there asks again and again.
   */
  async #openInTurn<T>(open: () => Promise<T>, isWanted: () => boolean): Promise<T> {
    if (this.#inLine === 0) {
      try {
        return await open();
      } catch (error) {
        if (!this.#isFull(error)) throw error;
      }
    }
    this.#inLine++;
    const turn = this.#line.then(() => this.#openAtLast(open, isWanted))
      .finally(() => this.#inLine--);
    this.#line = turn.catch(() => {});
    return await turn;
  }

  async #openAtLast<T>(open: () => Promise<T>, isWanted: () => boolean): Promise<T> {
    for (let delayMs = FIRST_RETRY_MS;; delayMs = Math.min(2 * delayMs, MAX_RETRY_MS)) {
      try {
        return await open();
      } catch (error) {
        if (!this.#isFull(error) || !isWanted()) throw error;
      }
      await new Promise((resolve) => setTimeout(resolve, delayMs));
    }
  }

  #isFull(error: unknown): boolean {
    return !this.#isOver && (Object(error) as { name?: string }).name === "NetworkError";
  }
}

type StreamOf<K extends "createBidirectionalStream" | "createUnidirectionalStream"> = Awaited<
  ReturnType<NativeWebTransport[K]>
>;

function broken(message: string, cause: unknown): ConnectionError {
  const { message: why } = Object(cause) as { message?: string };
  return new ConnectionError(why ? `${message}: ${why}` : message, { cause });
}

/** The error of a stream, told by its shape: not every platform has the class at hand. */
function streamError(error: unknown): unknown {
  const { source, streamErrorCode, name } = Object(error) as {
    source?: string;
    streamErrorCode?: number | null;
    name?: string;
  };
  if (source === "session") return broken("The connection is over", error);
  // Chromium says no more than that at times.
  if (source !== "stream" && name !== "NetworkError") return error;
  const code = streamErrorCode ?? 0;
  return new StreamError(`The peer ended the stream with code ${code}`, {
    streamErrorCode: code,
    by: "remote",
    cause: error,
  });
}

/** The platform takes a code from its own class of errors alone, which has been made in two ways. */
function nativeError(reason: unknown): unknown {
  const { streamErrorCode } = Object(reason) as { streamErrorCode?: number };
  const { WebTransportError } = globals();
  if (!streamErrorCode || WebTransportError === undefined) return reason;
  const error = new WebTransportError({ streamErrorCode });
  if (error.streamErrorCode === streamErrorCode) return error;
  return new WebTransportError("", { streamErrorCode });
}

/** Counts bytes as they are read. */
type Use = (bytes: number) => void;

function wrap(
  { readable, writable }: BidirectionalStream,
  use: Use,
  account: StreamAccount | undefined,
): BidirectionalStream {
  return { readable: readBytes(readable, use, account), writable: writeBytes(writable, account) };
}

function readBytes(
  source: ReadableStream<Uint8Array>,
  use: Use,
  account: StreamAccount | undefined,
): ReadableStream<Uint8Array> {
  const failed = (error: unknown) => {
    throw streamError(error);
  };
  const count = (bytes: number) => {
    if (account) account.ledger.streamBytesReceived += bytes;
    use(bytes);
  };
  return readFrom(source, failed, undefined, account && new HalfAccount(account), count);
}

function writeBytes(sink: SendStream, account: StreamAccount | undefined): SendStream {
  if (account === undefined) return orderedAs(writeTo(sink), sink);
  const { ledger } = account;
  const count = (chunk: Uint8Array) => void (ledger.streamBytesSent += chunk.byteLength);
  return orderedAs(writeTo(sink, count, new HalfAccount(account)), sink);
}

/** One direction of a stream, whose end is seen at several places. */
class HalfAccount {
  readonly #account: StreamAccount;
  #isEnded = false;

  constructor(account: StreamAccount) {
    this.#account = account;
  }

  ended(error?: unknown): void {
    if (this.#isEnded) return;
    this.#isEnded = true;
    this.#account.ended(error);
  }

  cut(reason: unknown, what: "reset" | "stopped reading"): void {
    if (this.#isEnded) return;
    this.#isEnded = true;
    this.#account.cut(reason, what);
  }
}

/** Reads on demand; `failed` throws what the reader gets, or else the stream just ends. */
function readFrom<T>(
  source: ReadableStream<T>,
  failed: (error: unknown) => unknown,
  wrap?: (item: T) => T,
  half?: HalfAccount,
  use?: Use,
): ReadableStream<T> {
  const reader = source.getReader();
  // The peer may reset a stream that nobody reads.
  if (half !== undefined) reader.closed.catch((error) => half.ended(streamError(error)));
  const underlying = {
    type: wrap ? undefined : "bytes",
    async pull(controller: ReadableByteStreamController): Promise<void> {
      let item: ReadableStreamReadResult<T> | undefined;
      try {
        item = await reader.read();
      } catch (error) {
        await failed(error);
      }
      if (item === undefined || item.done) {
        half?.ended();
        controller.close();
        controller.byobRequest?.respond(0);
      } else {
        use?.((item.value as Uint8Array).byteLength);
        controller.enqueue((wrap ? wrap(item.value) : item.value) as Uint8Array<ArrayBuffer>);
      }
    },
    cancel: (reason: unknown) => {
      half?.cut(reason, "stopped reading");
      return reader.cancel(nativeError(reason));
    },
  };
  return new ReadableStream(underlying as unknown as UnderlyingDefaultSource<T>, {
    highWaterMark: 0,
  });
}

function writeTo(
  sink: WritableStream<Uint8Array>,
  count?: (chunk: Uint8Array) => void,
  half?: HalfAccount,
): WritableStream<Uint8Array> {
  const writer = sink.getWriter();
  const rethrow = (error: unknown) => {
    throw streamError(error);
  };
  return new WritableStream({
    start(controller) {
      // The peer may stop reading while nothing is written.
      writer.closed.then(() => half?.ended(), (error) => {
        const failure = streamError(error);
        half?.ended(failure);
        controller.error(failure);
      });
      // An abort waits for the write under way, which may wait for the peer.
      controller.signal.addEventListener("abort", () => {
        half?.cut(controller.signal.reason, "reset");
        writer.abort(nativeError(controller.signal.reason)).catch(() => {});
      });
    },
    write(chunk) {
      count?.(chunk); // Before it may be taken over.
      return writer.write(chunk).catch(rethrow);
    },
    close: () => writer.close().catch(rethrow),
  });
}
