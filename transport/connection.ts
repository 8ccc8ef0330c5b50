/** The contract of all connections, modeled on the W3C `WebTransport` interface. */

/** The capabilities of a transport. Branch on these, never on the transport's name. */
export interface ConnectionCapabilities {
  /** Streams of both kinds can be opened. */
  readonly streams: boolean;
  /** How datagrams are delivered; `none` if the transport has no datagrams. */
  readonly datagrams: "unreliable" | "reliable" | "none";
  /** A reset stream carries its code to the other side. */
  readonly resetCodes: boolean;
  /** The application can grant flow-control credit itself. */
  readonly credit: boolean;
  /**
   * A lost packet delays only its own stream. If this is false, a lost packet delays all streams,
   * as on a single TCP connection.
   */
  readonly independentStreams: boolean;
}

/** The code and reason of a close. */
export interface ConnectionCloseInfo {
  /**
   * The close code; 0 is a normal close. Every transport can carry 0 and 3000 to 4999; a plain
   * WebSocket and Skein's own messages carry no other codes. WebTransport can carry any code from 0
   * to 2^32 - 1. Raw QUIC, QMux and memory can carry any code up to 2^53 - 1. A code from the peer
   * is passed on unchanged.
   */
  readonly closeCode?: number | undefined;
  /**
   * The reason as text. If the transport limits its length, a longer reason is cut at a character
   * boundary.
   */
  readonly reason?: string | undefined;
}

/** The options for opening a stream. */
export interface OpenStreamOptions {
  /**
   * The priority of the stream: if the transport can order streams, one with a higher number is
   * sent first.
   */
  readonly sendOrder?: number | undefined;
  /** Stops waiting for a free stream. */
  readonly signal?: AbortSignal | undefined;
  /** How long to wait for a free stream, in milliseconds. */
  readonly timeoutMs?: number | undefined;
}

/**
 * The reading end of a stream as plain calls. Creating a web stream would cost more than reading a
 * short stream. `directStream()` returns this side, or wraps the web stream in one.
 */
export interface DirectReadable {
  /**
   * Reads the next bytes. Only one call may be pending.
   *
   * Over Deno's QUIC, a closed session and a stream that the peer reset both look like a clean end,
   * so send the length of data that must arrive complete.
   *
   * @param used Bytes from an earlier read that are no longer needed. The next read may reuse their
   * memory, which saves an allocation of up to 64 KiB. The array is empty afterwards.
   * @returns The bytes, owned by the caller, or `null` if the peer has closed this direction.
   * @throws {StreamError} If the peer has reset the stream.
   * @throws {ConnectionError} If the connection has ended.
   */
  read(used?: Uint8Array | null): Promise<Uint8Array | null>;
  /**
   * Stops reading.
   *
   * @param reason The reason. Its `streamErrorCode` is sent to the peer if the transport can carry
   * codes.
   */
  cancel(reason?: unknown): void;
}

/** The writing end of a stream as plain calls. */
export interface DirectWritable {
  /**
   * Writes bytes. Waits while the peer accepts no more data.
   *
   * @param bytes The bytes to write. The caller MUST NOT change them before the write is done.
   * @throws {StreamError} If the peer has stopped reading.
   * @throws {ConnectionError} If the connection has ended.
   */
  write(bytes: Uint8Array): Promise<void>;
  /** Closes this direction after all pending writes. */
  close(): Promise<void>;
  /**
   * Resets this direction.
   *
   * @param reason The reason. Its `streamErrorCode` is sent to the peer if the transport can carry
   * codes.
   */
  abort(reason?: unknown): void;
  /**
   * The priority. A stream with a higher number is sent first. You can change it at any time. It is
   * absent if the transport cannot order streams.
   */
  sendOrder?: number | undefined;
}

/** Both sides of a stream, as plain calls. */
export interface DirectStream extends DirectReadable, DirectWritable {}

/**
 * A unidirectional stream opened by the peer. Over Deno's QUIC, a closed session and a stream that
 * the peer reset both look like a clean end, so send the length of data that must arrive complete.
 */
export interface ReceiveStream extends ReadableStream<Uint8Array> {
  /**
   * The same stream as plain calls, if the transport supports this. Use either this or the web
   * stream.
   */
  readonly direct?: DirectReadable | undefined;
}

/** A unidirectional stream opened by this side. */
export interface SendStream extends WritableStream<Uint8Array> {
  /**
   * The priority. A stream with a higher number is sent first. You can change it at any time. It is
   * absent if the transport cannot order streams.
   */
  sendOrder?: number | undefined;
  /**
   * The same stream as plain calls, if the transport supports this. Use either this or the web
   * stream.
   */
  readonly direct?: DirectWritable | undefined;
}

/** A stream on which both sides can write. */
export interface BidirectionalStream {
  /**
   * The bytes written by the peer. Over Deno's QUIC, a closed session and a stream that the peer
   * reset both look like a clean end, so send the length of data that must arrive complete.
   */
  readonly readable: ReadableStream<Uint8Array>;
  /** The bytes written by this side. */
  readonly writable: WritableStream<Uint8Array>;
  /**
   * The same stream as plain calls, if the transport supports this. Use either this or the web
   * streams.
   */
  readonly direct?: DirectStream | undefined;
}

/** The streams of a connection as plain calls. */
export interface DirectStreams {
  /**
   * Sets the receiver for the peer's bidirectional streams, in place of
   * `incomingBidirectionalStreams`. The receiver MUST NOT throw.
   *
   * @param receiver Receives each stream, including those that arrived earlier.
   * @throws {TypeError} If a receiver is already set.
   */
  receiveBidirectional(receiver: (stream: DirectStream) => void): void;
  /**
   * Opens a unidirectional stream; see {@linkcode Connection.createUnidirectionalStream}.
   *
   * @param options The priority, and how long to wait for a free stream.
   * @returns The writing end.
   */
  openUnidirectional(options?: OpenStreamOptions): Promise<DirectWritable>;
  /**
   * Sets the receiver for the peer's unidirectional streams, in place of
   * `incomingUnidirectionalStreams`. The receiver MUST NOT throw.
   *
   * @param receiver Receives each stream, including those that arrived earlier.
   * @throws {TypeError} If a receiver is already set.
   */
  receiveUnidirectional(receiver: (stream: DirectReadable) => void): void;
}

/** Datagrams as plain calls. */
export interface DirectDatagrams {
  /**
   * Sends a datagram. A datagram is dropped if it is too large, or if too many datagrams are
   * already queued.
   *
   * @param datagram The bytes. The caller MUST NOT change them afterwards.
   */
  send(datagram: Uint8Array): void;
  /**
   * Sets the only receiver. It receives each datagram in place of `readable`, and MUST NOT throw.
   *
   * @param receiver Receives each datagram and owns the bytes.
   * @throws {TypeError} If a receiver is already set.
   */
  receive(receiver: (datagram: Uint8Array) => void): void;
}

/** The datagrams in both directions. */
export interface DatagramDuplex {
  /**
   * The received datagrams, in a bounded queue. When the queue is full, the oldest datagram is
   * dropped.
   */
  readonly readable: ReadableStream<Uint8Array>;
  /** The datagrams to send. */
  readonly writable: WritableStream<Uint8Array>;
  /** The largest datagram in bytes; 0 on a transport without datagrams. */
  readonly maxDatagramSize: number;
  /**
   * The same datagrams as plain calls, if the transport supports this. Use either these or the web
   * streams.
   */
  readonly direct?: DirectDatagrams | undefined;
}

export type StreamDirection = "bidirectional" | "unidirectional";

export type StreamSide = "local" | "remote";

/** The statistics of a connection. Values that the transport does not know are absent. */
export interface ConnectionStats {
  /** The bytes passed to the transport. */
  readonly bytesSent?: number | undefined;
  /** The bytes received from the transport. */
  readonly bytesReceived?: number | undefined;
  /** The message frames passed to the transport. */
  readonly framesSent?: number | undefined;
  /** The message frames received from the transport. */
  readonly framesReceived?: number | undefined;
}

/** The counters of streams and datagrams, which never decrease. */
export interface ConnectionCounters {
  /** The payload bytes of streams passed to the transport. */
  readonly streamBytesSent: number;
  /**
   * The payload bytes of streams received, including unread bytes if the transport reports them.
   */
  readonly streamBytesReceived: number;
  /** The bidirectional streams opened by this side. */
  readonly localBidirectionalOpened: number;
  /** The unidirectional streams opened by this side. */
  readonly localUnidirectionalOpened: number;
  /** The bidirectional streams opened by the peer. */
  readonly remoteBidirectionalOpened: number;
  /** The unidirectional streams opened by the peer. */
  readonly remoteUnidirectionalOpened: number;
  /**
   * The streams that have ended in all their directions. All other opened streams are still open.
   */
  readonly streamsClosed: number;
  /** The bidirectional streams that ended in both directions. */
  readonly bidirectionalClosed: number;
  /** The stream directions that either side has reset, stopped or cut short. */
  readonly streamErrors: number;
  /**
   * The peer's streams that this side rejected, because they were not accepted in time or exceeded
   * the limit of unread streams.
   */
  readonly streamsRejected: number;
  /** The datagrams passed to the transport. */
  readonly datagramsSent: number;
  /** The bytes of datagrams passed to the transport. */
  readonly datagramBytesSent: number;
  /** The datagrams received. */
  readonly datagramsReceived: number;
  /** The bytes of datagrams received. */
  readonly datagramBytesReceived: number;
  /**
   * The datagrams dropped on this side, because they were too large, or because too many were
   * queued or unread.
   */
  readonly datagramsDropped: number;
}

/** The unit of credit: bytes of streams, or streams of one direction. */
export type CreditKind = "data" | ("bidirectional" | "unidirectional");

/** An event of a connection; see {@linkcode ConnectionInspection.observe}. */
export type ConnectionEvent =
  | {
    readonly type: "streamopened";
    readonly direction: "bidirectional" | "unidirectional";
    readonly by: "local" | "remote";
  }
  | {
    /**
     * All directions of the stream have ended. If a direction was cut short, `error` is the first
     * such error.
     */
    readonly type: "streamclosed";
    readonly direction: "bidirectional" | "unidirectional";
    readonly by: "local" | "remote";
    readonly error?: unknown;
  }
  | { readonly type: "datagramsent" | "datagramreceived"; readonly datagram: Uint8Array }
  | { readonly type: "datagramdropped"; readonly byteLength: number }
  | {
    /**
     * A sender is waiting for credit: this side (`local`), or the peer, as it reported (`remote`).
     */
    readonly type: "blocked";
    readonly what: "data" | "bidirectional" | "unidirectional";
    readonly by: "local" | "remote";
    /** The total that has been used up. */
    readonly limit: number;
  }
  | {
    /** The peer granted more credit. */
    readonly type: "credit";
    readonly what: "data" | "bidirectional" | "unidirectional";
    /** New total. */
    readonly limit: number;
  };

/** The receiver of a connection's events. It MUST NOT throw. */
export type ConnectionObserver = (event: ConnectionEvent) => void;

/**
 * The credit of one kind for both sides. All values are totals since the start of the connection.
 */
export interface CreditState {
  /** The total that this side granted to the peer. */
  readonly granted: number;
  /** The part of that total used by the peer. */
  readonly received: number;
  /** The total that the peer granted to this side. */
  readonly allowed: number;
  /** The part of that total used by this side. */
  readonly sent: number;
  /** The number of calls on this side that are waiting for more. */
  readonly waiting: number;
}

/**
 * The counters, flow control and events of a connection. They are grouped in one member, apart from
 * the W3C members, so that a wrapper can forward them as a whole.
 */
export interface ConnectionInspection {
  /** The counters of streams and datagrams. This is absent until the first stream or datagram. */
  readonly counters?: ConnectionCounters | undefined;
  /**
   * Flow control, if both sides use it. This is absent before `ready`, and on other connections.
   */
  readonly credit?: {
    /** Reads the totals of one kind. */
    state(kind: "data" | "bidirectional" | "unidirectional"): CreditState;
    /**
     * Grants a new total to the peer if it is larger than the previous total. Automatic windows
     * never fall below this total.
     *
     * @param kind The unit: bytes, or bidirectional or unidirectional streams.
     * @param total The total since the start of the connection.
     * @throws {RangeError} If the total is not an integer from 0 to 2^53 - 1, or if it is above
     * 2^60 for streams.
     */
    grant(kind: "data" | "bidirectional" | "unidirectional", total: number): void;
  } | undefined;
  /**
   * The peer's streams that the application has not accepted yet, if the transport reports this.
   */
  readonly unreadStreams?: number | undefined;
  /**
   * The ID of the stream that represents the connection, if there is one: over HTTP/3, the CONNECT
   * stream.
   */
  readonly controlStreamId?: number | undefined;
  /**
   * Sets or removes the observer of the connection. The counters include earlier events. Without an
   * observer, events cost nothing.
   *
   * @param observer Receives each event, synchronously.
   */
  observe?(observer: ((event: ConnectionEvent) => void) | undefined): void;
  /**
   * Excludes the first bidirectional stream that one end opens from counters, events and grants,
   * because it carries messages and does not belong to the application. This method MUST be called
   * before this side opens any stream, and before an observer is set.
   *
   * @param by The end that opens the stream.
   */
  excludeMessageStream?(by: "local" | "remote"): void;
  /**
   * Makes `closed` reject if the connection ends without a close by the peer. By default, this
   * counts as a close with 0. On raw QUIC, the call also makes this side mark its own close, so
   * that the peer can require a close too. This method is absent on transports where a connection
   * cannot end this way.
   *
   * @returns `false` if the connection cannot tell the two cases apart: in browsers, on the
   * runtime's own engine, and after the connection has ended.
   */
  requireClose?(): boolean;
}

/** The flow control of a connection whose ends both use it; see `capabilities.credit`. */
export type ConnectionCredit = NonNullable<ConnectionInspection["credit"]>;

/**
 * The amount that the peer may send before the application reads.
 *
 * Over HTTP/3, flow control applies if both sides announce it. Skein's clients and servers announce
 * it, except in browsers. The stream that carries a session's messages then counts as one of the
 * peer's streams, and its bytes use credit. That credit is returned once the bytes have been read,
 * even if the application grants all other credit itself. QUIC adds limits for the whole
 * connection. Over HTTP/3, one of `maxData`, `maxStreamsBidi` and `maxStreamsUni` must be above 0.
 */
export interface FlowControlOptions {
  /**
   * The bytes of all streams of a session together; over HTTP/3, 4 MiB by default.
   *
   * @default {1048576}
   */
  readonly maxData?: number | undefined;
  /**
   * The bytes of one stream. Over HTTP/3, the runtime sets this limit.
   *
   * @default {262144}
   */
  readonly maxStreamData?: number | undefined;
  /**
   * The bidirectional streams that may be open at the same time. The default is 128 over HTTP/3 and
   * 100 on other transports.
   *
   * @default {100}
   */
  readonly maxStreamsBidi?: number | undefined;
  /**
   * The unidirectional streams that may be open at the same time. The default is 128 over HTTP/3
   * and 100 on other transports.
   *
   * @default {100}
   */
  readonly maxStreamsUni?: number | undefined;
  /**
   * Moves the windows automatically as bytes are read and streams end. With `false`, the peer gets
   * more credit only from {@linkcode ConnectionCredit.grant}, or from a session's grant.
   *
   * @default {true}
   */
  readonly automatic?: boolean | undefined;
}

/** A message frame: text or bytes. */
export type Frame = string | Uint8Array;

/** One message of a frame that is sent to many connections, with the message's size in bytes. */
export interface FramePart {
  readonly frame: Frame;
  readonly size: number;
}

/**
 * The receiver of a connection's frames. It is one object rather than two functions, because every
 * connection needs a receiver.
 */
export interface FrameReceiver {
  /**
   * Receives a frame. This method MUST NOT throw.
   *
   * @param frame The text or bytes. Frames arrive complete and in order.
   */
  receiveFrame(frame: string | Uint8Array): void;
  /**
   * Called once, after the last frame, when the connection has ended. `closed` reports how it
   * ended.
   */
  framesEnded(): void;
  /**
   * The fill level of the receiver, if known. A transport that can pause reading pauses when this
   * is high.
   */
  readonly backpressure?: {
    /**
     * The share of the capacity that is in use; 1 is full. A transport pauses reading at a half,
     * and resumes at a quarter.
     */
    readonly fill: number;
    /** Returns a promise that resolves when `fill` may have changed. */
    changed(): Promise<void>;
  } | undefined;
}

/** The fill level of a {@linkcode FrameReceiver}. */
export type Backpressure = NonNullable<FrameReceiver["backpressure"]>;

/**
 * The message frames of a transport that supports them.
 *
 * Implementations MUST deliver frames complete and in order. They MUST hold frames that arrive
 * before {@linkcode MessageFrames.receive} is called, up to a limit, and deliver them when it is
 * called. If more frames arrive, the connection closes. `send` MUST NOT throw after the connection
 * has closed; the frame is then lost, as if a cable had been cut.
 */
export interface MessageFrames {
  /**
   * Passes a frame to the transport. Never blocks; watch `bufferedAmount`.
   *
   * @param frame The text or bytes. The bytes MUST NOT be changed afterwards.
   * @param parts The messages that were joined by line feeds to form the frame, if each of them is
   * sent to many connections. A transport MAY compress such a frame. Any other frame may contain a
   * peer's secret next to text that the peer chose, so it MUST NOT be compressed.
   */
  send(
    frame: string | Uint8Array,
    parts?: readonly { readonly frame: string | Uint8Array; readonly size: number }[],
  ): void;
  /** The bytes passed to `send` that the transport still buffers. */
  readonly bufferedAmount: number;
  /**
   * Waits until the transport has sent most of its buffer.
   *
   * @returns A promise that resolves when `bufferedAmount` is at or below `lowWaterMark`, or when
   * the connection has closed. It never rejects.
   */
  drained(): Promise<void>;
  /** The number of buffered bytes at or below which `drained` resolves. */
  readonly lowWaterMark: number;
  /**
   * True while the peer's silence proves nothing: reading is paused because the receiver is too
   * slow, or the peer has announced that it polls only now and then. This is absent if the transport
   * has neither.
   */
  readonly isPaused?: boolean | undefined;
  /**
   * The number of bytes of the next frame that have arrived so far. This is absent if the transport
   * does not report it.
   */
  readonly partialBytes?: number | undefined;
  /**
   * Sets the only receiver of incoming frames. It is called synchronously for each frame, because
   * an iterator would cost one promise per frame.
   *
   * @param receiver Receives each frame in order, and then the end.
   * @throws {TypeError} If a receiver is already set.
   */
  receive(receiver: FrameReceiver): void;
}

/**
 * A connection that is established or being established. It has the W3C `WebTransport` interface,
 * implemented over HTTP/3, raw QUIC, WebSocket and memory. In addition to the W3C members, a
 * connection has:
 *
 * - `capabilities`;
 * - `frames`, on transports with message frames of their own;
 * - `inspect`, for diagnosis;
 * - `direct`, for streams without web streams.
 *
 * A wrapper forwards the last two unchanged.
 *
 * Implementations MUST settle `closed` exactly once, MUST make `close` idempotent, MUST NOT buffer
 * without bound, and MUST NOT leave an unhandled rejection if `ready` or `closed` is never awaited.
 *
 * @see {@link https://www.w3.org/TR/webtransport/ | WebTransport}
 */
export interface Connection extends AsyncDisposable {
  /** The capabilities of the transport, fixed once `ready` resolves. */
  readonly capabilities: ConnectionCapabilities;
  /** The name of the transport, for display: `webtransport`, `quic`, `websocket` or `memory`. */
  readonly transport: string;
  /** The negotiated subprotocol; empty if there is none. */
  readonly protocol: string;
  /** Resolves once the connection is established; rejects if it fails. */
  readonly ready: Promise<void>;
  /**
   * Resolves with the code and reason of a close. Rejects with a {@linkcode ConnectionError} if the
   * connection was lost. On raw QUIC, a crash of the peer looks like a close with code 0 and no
   * reason.
   */
  readonly closed: Promise<ConnectionCloseInfo>;
  /** Resolves when the peer asks this side to finish. It may never settle. */
  readonly draining: Promise<void>;
  /** The datagrams; `maxDatagramSize` is 0 on a transport without datagrams. */
  readonly datagrams: DatagramDuplex;
  /** The bidirectional streams opened by the peer. */
  readonly incomingBidirectionalStreams: ReadableStream<BidirectionalStream>;
  /** The unidirectional streams opened by the peer. */
  readonly incomingUnidirectionalStreams: ReadableStream<ReceiveStream>;
  /** The message frames, on transports with frames of their own. */
  readonly frames?: MessageFrames | undefined;
  /**
   * The streams as plain calls, if the transport supports this. Use either these or the web
   * streams.
   */
  readonly direct?: DirectStreams | undefined;
  /** The counters, flow control and events, on transports that report them. */
  readonly inspect?: ConnectionInspection | undefined;
  /**
   * Opens a bidirectional stream.
   *
   * @param options The priority, and how long to wait for a free stream.
   * @returns The stream, whose two directions end separately.
   * @throws {UnsupportedError} If the transport has no streams.
   */
  createBidirectionalStream(options?: OpenStreamOptions): Promise<BidirectionalStream>;
  /**
   * Opens a unidirectional stream.
   *
   * @param options The priority, and how long to wait for a free stream.
   * @returns The writable end.
   * @throws {UnsupportedError} If the transport has no streams.
   */
  createUnidirectionalStream(options?: OpenStreamOptions): Promise<SendStream>;
  /** Asks the peer to finish, on transports that support this; the peer's `draining` resolves. */
  drain?(): void;
  /**
   * Closes the connection after sending everything that was passed to `send` before.
   *
   * @param options The code and reason. `closeConnection` also closes the underlying connection
   * with all its sessions. Only WebTransport over HTTP/3 can share a connection; other transports
   * ignore this option.
   * @throws {RangeError} If the transport cannot carry the code.
   */
  close(options?: ConnectionCloseInfo & { readonly closeConnection?: boolean | undefined }): void;
  /**
   * Drops the connection and all buffered bytes immediately, without notifying the peer.
   * Idempotent. This method is absent if the transport cannot do this.
   */
  terminate?: (() => void) | undefined;
  /**
   * Reads the transport's counters.
   *
   * @returns The statistics that the transport reports.
   */
  getStats(): Promise<ConnectionStats>;
}

/** The options for {@linkcode Connection.close}. */
export type CloseOptions = NonNullable<Parameters<Connection["close"]>[0]>;
