/** The client half of WebTransport on platforms that have their own, such as browsers. */
import { ConnectionError, StreamError, UnsupportedError } from "../../errors.ts";
import { CountedConnection, type StreamAccount } from "../counters.ts";
import { orderedAs } from "../direct.ts";
import type {
  BidirectionalStream,
  CloseOptions,
  Connection,
  ConnectionCapabilities,
  ConnectionCloseInfo,
  ConnectionStats,
  DatagramDuplex,
  OpenStreamOptions,
  SendStream,
  StreamDirection,
  StreamSide,
} from "../connection.ts";
import { engineWornAt } from "./engines.ts";
import { noDatagrams } from "../unsupported.ts";
import { publicUrl } from "../url.ts";
import {
  type CertificateHash,
  type DialWebTransportOptions,
  TOKEN_MARK,
  TOKEN_MARK_QUERY,
} from "../webtransport.ts";
import { within } from "../../base/wait.ts";
import { platformRuntime, type Runtime } from "../../base/runtime.ts";
import { checkWireClose, MAX_WEBTRANSPORT_CLOSE_CODE } from "../wire_close.ts";

/**
 * The members of W3C `WebTransport` that a connection uses. Members that some platforms lack are
 * optional.
 */
export interface NativeWebTransport {
  readonly ready: Promise<void>;
  readonly closed: Promise<ConnectionCloseInfo>;
  readonly draining?: Promise<void> | undefined;
  readonly protocol?: string | undefined;
  /** `reliable-only` for a session over TCP. */
  readonly reliability?: string | undefined;
  /** Undefined in WebKit on iOS (webkit.org/b/322201). */
  readonly datagrams: {
    readonly readable: ReadableStream<Uint8Array>;
    readonly writable?: WritableStream<Uint8Array> | undefined;
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

/**
 * The first and longest interval between attempts to open a stream that the browser rejected, in
 * milliseconds.
 */
const FIRST_RETRY_MS = 2;
const MAX_RETRY_MS = 64;

/** The members that the platform's global scope may have. */
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
 * - **Protocols:** if the platform cannot offer protocols, the first one is sent in the URL's query
 *   (`?protocol=`), and the connection assumes that the server accepted it. In this case,
 *   `auth=in-band` replaces the subprotocol `skein.auth`, which announces a token in band.
 * - **Page:** when the user leaves the page, the connection closes, so that the server does not
 *   wait for a timeout. `closed` then rejects, and a client reconnects if the page is restored from
 *   the browser's cache.
 * - **Cancelled streams:** when you stop reading a stream, Firefox 153 does not report this to the
 *   server.
 * - **Datagrams:** the connection has no datagrams if the platform has none, or if it could reach
 *   the server only over TCP (`reliability`); see `capabilities`.
 * - **Failure:** every rejection also closes the platform's own session.
 *
 * @param url An `https:` URL without a fragment.
 * @throws {UnsupportedError} If the platform has no `WebTransport`.
 * @throws {TypeError} If `headers` is set, because browsers do not allow request headers.
 * @throws {ConnectionError} If the connection cannot be opened. Browsers give no reason.
 * @throws {TimeoutError} If opening takes longer than `timeoutMs`.
 */
export async function dialNativeWebTransport(
  url: string | URL,
  options: DialWebTransportOptions = {},
): Promise<Connection> {
  const { protocols = [], serverCertificateHashes, headers, signal, timeoutMs, onWorn } = options;
  const { runtime = platformRuntime() } = options;
  if (headers !== undefined) {
    throw new TypeError("Cannot open WebTransport: browsers cannot send custom headers");
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
  native.closed.catch(() => {}); // `ready` reports the same error.
  const ready = native.ready.catch((error) => {
    throw broken(failed, error);
  });
  try {
    await within(runtime, ready, { late: `${failed} within`, signal, timeoutMs });
    const connection = new NativeConnection(runtime, native, assumed, BROWSER);
    connection.onWorn = onWorn;
    return connection;
  } catch (error) {
    native.close({});
    throw error;
  }
}

/** Wraps a platform's `WebTransport`, on the client or the server, as a connection. */
export function connectionOf(
  runtime: Runtime,
  native: NativeWebTransport,
  capabilities: ConnectionCapabilities,
): Connection {
  return new NativeConnection(runtime, native, undefined, capabilities);
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

/**
 * A platform's `WebTransport` as a connection. It converts errors to the classes that all
 * connections use.
 */
class NativeConnection extends CountedConnection implements Connection {
  readonly capabilities: ConnectionCapabilities;
  readonly transport = "webtransport";
  readonly ready: Promise<void>;
  readonly closed: Promise<ConnectionCloseInfo>;
  readonly draining: Promise<void>;
  readonly datagrams: DatagramDuplex;
  readonly incomingBidirectionalStreams: ReadableStream<BidirectionalStream>;
  readonly incomingUnidirectionalStreams: ReadableStream<ReadableStream<Uint8Array>>;

  readonly #runtime: Runtime;
  readonly #native: NativeWebTransport;
  readonly #assumed: string | undefined;
  readonly #closing = Promise.withResolvers<ConnectionCloseInfo>();
  #line: Promise<unknown> = Promise.resolve();
  #inLine = 0;
  #isOver = false;
  /**
   * Called once, when the connection has used most of the credit that the engine does not renew.
   */
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
    runtime: Runtime,
    native: NativeWebTransport,
    assumed: string | undefined,
    capabilities: ConnectionCapabilities,
  ) {
    super();
    this.#runtime = runtime;
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
    // These streams end with the connection, and only `closed` reports how.
    const ended = () => this.closed;
    this.incomingBidirectionalStreams = readFrom(
      native.incomingBidirectionalStreams,
      ended,
      (stream) => wrap(stream, this.#use, this.account("bidirectional", "remote")),
    );
    this.incomingUnidirectionalStreams = readFrom(
      native.incomingUnidirectionalStreams,
      ended,
      (stream) => readBytes(stream, this.#use, this.account("unidirectional", "remote")),
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
        this.ledger.receivedDatagram(datagram);
        return datagram;
      }),
      writable: writeTo(datagrams.writable ?? datagrams.createWritable!(), (datagram) => {
        const { byteLength } = datagram;
        // A datagram that is too large is lost silently.
        if (byteLength <= datagrams.maxDatagramSize) this.ledger.sentDatagram(datagram);
        else this.ledger.droppedDatagram(byteLength);
      }),
      get maxDatagramSize() {
        return datagrams.maxDatagramSize;
      },
    };
  }

  get protocol(): string {
    return this.#assumed ?? this.#native.protocol ?? "";
  }

  createBidirectionalStream(options?: OpenStreamOptions): Promise<BidirectionalStream> {
    const wrapped = (stream: BidirectionalStream) =>
      wrap(stream, this.#use, this.account("bidirectional", "local"));
    return this.#open("createBidirectionalStream", wrapped, options);
  }

  createUnidirectionalStream(options?: OpenStreamOptions): Promise<WritableStream<Uint8Array>> {
    const wrapped = (stream: WritableStream<Uint8Array>) =>
      byteSink(stream, this.account("unidirectional", "local"));
    return this.#open("createUnidirectionalStream", wrapped, options);
  }

  close(info?: CloseOptions): void {
    const checked = checkWireClose(info, MAX_WEBTRANSPORT_CLOSE_CODE);
    this.#end(() => {
      this.#native.close(checked);
      this.#closing.resolve(checked);
    });
  }

  requireClose(): boolean {
    return false;
  }

  override async getStats(): Promise<ConnectionStats> {
    return await this.#native.getStats?.().catch(() => {}) ?? {};
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.close();
    await this.closed.catch(() => {});
  }

  /** Counts a stream. A stream of the peer is counted after a reader has accepted it. */
  protected override account(
    direction: StreamDirection,
    by: StreamSide,
  ): StreamAccount | undefined {
    this.#use(0, 1);
    return super.account(direction, by);
  }

  readonly #onPageHide = () =>
    this.#end(() => {
      this.#native.close({});
      this.#closing.reject(new ConnectionError("The page was closed"));
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
      // By default, a browser rejects the call while the peer allows no more streams.
      this.#native[method]({ sendOrder, waitUntilAvailable: true }) as Promise<StreamOf<K>>;
    const opened = this.#openInTurn(open, () => isWanted).then(wrap, (error) => {
      throw broken("Cannot open stream", error);
    });
    return await within(this.#runtime, opened, {
      late: "Cannot open stream within",
      signal,
      timeoutMs,
      discard(stream) {
        // A unidirectional stream is itself a writable.
        const { readable, writable = stream } = stream as Partial<BidirectionalStream>;
        readable?.cancel().catch(() => {});
        (writable as WritableStream).abort().catch(() => {});
      },
    }).finally(() => isWanted = false);
  }

  /**
   * Opens a stream. After a rejection, calls wait in line. Chromium rejects calls despite
   * `waitUntilAvailable`, and does not report when the peer allows more streams, so the first call
   * in line retries until a stream opens.
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
      await new Promise<void>((resolve) => this.#runtime.setTimeout(resolve, delayMs));
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

/**
 * Converts the error of a stream. It checks the error's members, because not every platform exposes
 * the class.
 */
function streamError(error: unknown): unknown {
  const { source, streamErrorCode, name } = Object(error) as {
    source?: string;
    streamErrorCode?: number | null;
    name?: string;
  };
  if (source === "session") return broken("The connection is over", error);
  // In Chromium, this name is sometimes all there is.
  if (source !== "stream" && name !== "NetworkError") return error;
  const code = streamErrorCode ?? 0;
  return new StreamError(`The peer ended the stream with code ${code}`, {
    streamErrorCode: code,
    by: "remote",
    cause: error,
  });
}

/**
 * Converts a reason with a code. The platform reads a code only from its own error class, whose
 * constructor has had two signatures.
 */
function nativeError(reason: unknown): unknown {
  const { streamErrorCode } = Object(reason) as { streamErrorCode?: number };
  const { WebTransportError } = globals();
  if (!streamErrorCode || WebTransportError === undefined) return reason;
  const error = new WebTransportError({ streamErrorCode });
  if (error.streamErrorCode === streamErrorCode) return error;
  return new WebTransportError("", { streamErrorCode });
}

/** Counts the bytes that are read. */
type Use = (bytes: number) => void;

function wrap(
  { readable, writable }: BidirectionalStream,
  use: Use,
  account: StreamAccount | undefined,
): BidirectionalStream {
  return { readable: readBytes(readable, use, account), writable: byteSink(writable, account) };
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

function byteSink(sink: SendStream, account: StreamAccount | undefined): SendStream {
  if (account === undefined) return orderedAs(writeTo(sink), sink);
  const { ledger } = account;
  const count = (chunk: Uint8Array) => void (ledger.streamBytesSent += chunk.byteLength);
  return orderedAs(writeTo(sink, count, new HalfAccount(account)), sink);
}

/**
 * The account of one direction of a stream. Several places can notice that the direction has ended.
 */
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

/**
 * Wraps a stream so that it is read on demand. If `failed` does not throw the reader's error, the
 * stream ends cleanly.
 */
function readFrom<T>(
  source: ReadableStream<T>,
  failed: (error: unknown) => unknown,
  wrap?: (item: T) => T,
  half?: HalfAccount,
  use?: Use,
): ReadableStream<T> {
  const reader = source.getReader();
  // The peer may reset a stream while no one reads it.
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
      // The peer may stop reading between two writes.
      writer.closed.then(() => half?.ended(), (error) => {
        const failure = streamError(error);
        half?.ended(failure);
        controller.error(failure);
      });
      // Otherwise an abort would wait for the current write, which may be waiting for the peer.
      controller.signal.addEventListener("abort", () => {
        half?.cut(controller.signal.reason, "reset");
        writer.abort(nativeError(controller.signal.reason)).catch(() => {});
      });
    },
    write(chunk) {
      count?.(chunk); // The write may take over the buffer.
      return writer.write(chunk).catch(rethrow);
    },
    close: () => writer.close().catch(rethrow),
  });
}
