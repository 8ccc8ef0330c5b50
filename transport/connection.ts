/** Contract of all connections, in the shape of the W3C `WebTransport` interface. */

/** The capabilities of a transport. Branch on these, never on the transport's name. */
export interface ConnectionCapabilities {
  /** Streams of both kinds can be opened. */
  readonly streams: boolean;
  /** Delivery of datagrams; `none` without datagrams. */
  readonly datagrams: "unreliable" | "reliable" | "none";
  /** A reset stream carries its code to the other end. */
  readonly resetCodes: boolean;
  /** The application can grant flow-control credit itself. */
  readonly credit: boolean;
  /**
   * A lost packet delays only its own stream. Without this, a loss delays all streams, as on one
   * TCP connection.
   */
  readonly independentStreams: boolean;
}

/** The code and reason of a close. */
export interface ConnectionCloseInfo {
  /**
   * The close code; 0 is a normal close. Every transport can send 0 and 3000 to 4999. WebTransport
   * can send any code from 0 to 2^32 - 1; raw QUIC, QMux and memory can send any up to 2^53 - 1. A
   * plain WebSocket and Skein's own messages can send no others. A code from the peer is passed on
   * unchanged.
   */
  readonly closeCode?: number | undefined;
  /** Reason as text, cut at a character boundary if the transport has a limit. */
  readonly reason?: string | undefined;
}

/** The options for opening a stream. */
export interface OpenStreamOptions {
  /**
   * The priority: a stream with a higher number is sent first, if the transport can order streams.
   */
  readonly sendOrder?: number | undefined;
  /** Cancels the wait for a free stream. */
  readonly signal?: AbortSignal | undefined;
  /** The timeout of the wait for a free stream, in milliseconds. */
  readonly timeoutMs?: number | undefined;
}

/**
 * The reading end of a stream without a web stream, which would cost more than the bytes of a short
 * stream. `directStream()` returns this end, or builds it on the web stream.
 */
export interface DirectReadable {
  /**
   * Reads the next bytes. Only one call may be pending.
   *
   * Over Deno's QUIC, a session that closes and a peer that resets the stream look like a clean
   * end: send a length with data that must arrive complete.
   *
   * @param used The bytes of an earlier read that are no longer needed. The next read may reuse
   * their memory, which saves an allocation of up to 64 KiB; the array is empty afterwards.
   * @returns The bytes, owned by the caller; `null` after the peer closed this direction.
   * @throws {StreamError} If the peer reset the stream.
   * @throws {ConnectionError} If the connection ended.
   */
  read(used?: Uint8Array | null): Promise<Uint8Array | null>;
  /**
   * Stops reading.
   *
   * @param reason The reason, whose `streamErrorCode` is sent to the peer if the transport can
   * carry codes.
   */
  cancel(reason?: unknown): void;
}

/** The writing end of a stream without a web stream. */
export interface DirectWritable {
  /**
   * Writes bytes, and waits while the peer accepts no more data.
   *
   * @param bytes The bytes to write. The caller MUST NOT change them before the write is done.
   * @throws {StreamError} If the peer stopped reading.
   * @throws {ConnectionError} If the connection ended.
   */
  write(bytes: Uint8Array): Promise<void>;
  /** Closes this direction after all writes. */
  close(): Promise<void>;
  /**
   * Resets this direction.
   *
   * @param reason The reason, whose `streamErrorCode` is sent to the peer if the transport can
   * carry codes.
   */
  abort(reason?: unknown): void;
  /**
   * The priority: a stream with a higher number is sent first. Absent if the transport cannot order
   * streams. May be set at any time.
   */
  sendOrder?: number | undefined;
}

/** Both ends of a stream, as plain calls. */
export interface DirectStream extends DirectReadable, DirectWritable {}

/**
 * A unidirectional stream opened by the peer. Over Deno's QUIC, a session that closes and a peer
 * that resets the stream look like a clean end: send a length with data that must arrive complete.
 */
export interface ReceiveStream extends ReadableStream<Uint8Array> {
  /**
   * The same stream without a web stream, if the transport supports this; use only one of the two.
   */
  readonly direct?: DirectReadable | undefined;
}

/** A unidirectional stream opened by this end. */
export interface SendStream extends WritableStream<Uint8Array> {
  /**
   * The priority: a stream with a higher number is sent first. Absent if the transport cannot order
   * streams. May be set at any time.
   */
  sendOrder?: number | undefined;
  /**
   * The same stream without a web stream, if the transport supports this; use only one of the two.
   */
  readonly direct?: DirectWritable | undefined;
}

/** A stream that both ends write to. */
export interface BidirectionalStream {
  /**
   * The bytes written by the peer. Over Deno's QUIC, a session that closes and a peer that resets
   * the stream look like a clean end: send a length with data that must arrive complete.
   */
  readonly readable: ReadableStream<Uint8Array>;
  /** The bytes written by this end. */
  readonly writable: WritableStream<Uint8Array>;
  /**
   * The same stream without web streams, if the transport supports this; use only one of the two.
   */
  readonly direct?: DirectStream | undefined;
}

/** Streams of a connection without web streams. */
export interface DirectStreams {
  /**
   * Sets the receiver for the peer's bidirectional streams, in place of the readable. The receiver
   * MUST NOT throw.
   *
   * @param receiver Receives each stream, including those that arrived earlier.
   * @throws {TypeError} If there is a receiver already.
   */
  receiveBidirectional(receiver: (stream: DirectStream) => void): void;
  /**
   * Opens a unidirectional stream; see {@linkcode Connection.createUnidirectionalStream}.
   *
   * @param options Send order and waiting.
   * @returns The writing end.
   */
  openUnidirectional(options?: OpenStreamOptions): Promise<DirectWritable>;
  /**
   * Sets the receiver for the peer's unidirectional streams, in place of the readable. The receiver
   * MUST NOT throw.
   *
   * @param receiver Receives each stream, including those that arrived earlier.
   * @throws {TypeError} If there is a receiver already.
   */
  receiveUnidirectional(receiver: (stream: DirectReadable) => void): void;
}

/** Datagrams without web streams. */
export interface DirectDatagrams {
  /**
   * Sends a datagram. A datagram that is too large is lost, and so is one beyond the limit of
   * queued datagrams.
   *
   * @param datagram The bytes, which the caller MUST NOT change afterwards.
   */
  send(datagram: Uint8Array): void;
  /**
   * Sets the only receiver, which is called for each datagram in place of the readable. The
   * receiver MUST NOT throw.
   *
   * @param receiver Receives each datagram and owns the bytes.
   * @throws {TypeError} If there is a receiver already.
   */
  receive(receiver: (datagram: Uint8Array) => void): void;
}

/** The datagrams in both directions. */
export interface DatagramDuplex {
  /** Received datagrams, in a bounded queue; the oldest are dropped. */
  readonly readable: ReadableStream<Uint8Array>;
  /** The datagrams to send. */
  readonly writable: WritableStream<Uint8Array>;
  /** The largest datagram in bytes; 0 on a transport without datagrams. */
  readonly maxDatagramSize: number;
  /**
   * The same datagrams without web streams, if the transport supports this; use only one of the
   * two.
   */
  readonly direct?: DirectDatagrams | undefined;
}

export type StreamDirection = "bidirectional" | "unidirectional";

export type StreamSide = "local" | "remote";

/** The statistics of a connection; values that the transport does not know are absent. */
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
  /** Payload bytes of streams passed to the transport. */
  readonly streamBytesSent: number;
  /** Payload bytes of streams received, including unread ones if the transport reports them. */
  readonly streamBytesReceived: number;
  /** The bidirectional streams opened by this end. */
  readonly localBidirectionalOpened: number;
  /** The unidirectional streams opened by this end. */
  readonly localUnidirectionalOpened: number;
  /** The bidirectional streams opened by the peer. */
  readonly remoteBidirectionalOpened: number;
  /** The unidirectional streams opened by the peer. */
  readonly remoteUnidirectionalOpened: number;
  /** Streams that ended in all directions; all other opened streams are still open. */
  readonly streamsClosed: number;
  /** The bidirectional streams that ended in both directions. */
  readonly bidirectionalClosed: number;
  /** The stream directions that either end reset, stopped or cut short. */
  readonly streamErrors: number;
  /**
   * The streams of the peer that this end rejected: not accepted in time, or beyond the limit of
   * unread streams.
   */
  readonly streamsRefused: number;
  /** The datagrams passed to the transport. */
  readonly datagramsSent: number;
  /** The bytes of datagrams passed to the transport. */
  readonly datagramBytesSent: number;
  /** The datagrams received. */
  readonly datagramsReceived: number;
  /** The bytes of datagrams received. */
  readonly datagramBytesReceived: number;
  /** The datagrams lost at this end: too large, too many waiting, or too many unread. */
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
     * All directions of the stream ended; `error` is the first error of a direction that was cut
     * short.
     */
    readonly type: "streamclosed";
    readonly direction: "bidirectional" | "unidirectional";
    readonly by: "local" | "remote";
    readonly error?: unknown;
  }
  | { readonly type: "datagramsent" | "datagramreceived"; readonly datagram: Uint8Array }
  | { readonly type: "datagramdropped"; readonly byteLength: number }
  | {
    /** A sender waits for credit: this end (`local`), or the peer by its own report (`remote`). */
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

/** The receiver of a connection's events. MUST NOT throw. */
export type ConnectionObserver = (event: ConnectionEvent) => void;

/** The credit of one kind for both ends, as totals since the start of the connection. */
export interface CreditState {
  /** The total that this end granted to the peer. */
  readonly granted: number;
  /** The part of that total used by the peer. */
  readonly received: number;
  /** The total that the peer granted to this end. */
  readonly allowed: number;
  /** The part of that total used by this end. */
  readonly sent: number;
  /** The number of calls at this end that wait for more. */
  readonly waiting: number;
}

/**
 * The counters, flow control and events of a connection. They are in one member, apart from the W3C
 * ones, so that a wrapper can forward them as a whole.
 */
export interface ConnectionInspection {
  /** The counters of streams and datagrams; absent before the first. */
  readonly counters?: ConnectionCounters | undefined;
  /** Flow control, if both ends use it; absent before `ready`, and on other connections. */
  readonly credit?: {
    /** Reads the totals of one kind. */
    state(kind: "data" | "bidirectional" | "unidirectional"): CreditState;
    /**
     * Grants a total to the peer, if larger than the previous one. Automatic windows never fall
     * below this total.
     *
     * @param kind The unit: bytes, or streams of a direction.
     * @param total The total since the start of the connection.
     * @throws {RangeError} If the total is not an integer from 0 to 2^53 - 1, or, for streams, above
     * 2^60.
     */
    grant(kind: "data" | "bidirectional" | "unidirectional", total: number): void;
  } | undefined;
  /**
   * The streams of the peer that the application has not accepted yet, if the transport reports
   * this.
   */
  readonly unreadStreams?: number | undefined;
  /** The ID of the stream that represents the connection, if there is one: CONNECT over HTTP/3. */
  readonly controlStreamId?: number | undefined;
  /**
   * Sets the observer of the connection, or removes it. Earlier events are included in the
   * counters. Without an observer, events cost nothing.
   *
   * @param observer Receives each event, synchronously.
   */
  observe?(observer: ((event: ConnectionEvent) => void) | undefined): void;
  /**
   * Excludes the first bidirectional stream of one end, which carries messages and does not belong
   * to the application, from counters, events and grants. MUST be called before this end opens any
   * stream, and before an observer is set.
   *
   * @param by End that opens the stream.
   */
  excludeMessageStream?(by: "local" | "remote"): void;
  /**
   * Treats the end of a connection without a close by the peer as a loss: `closed` rejects. By
   * default it counts as a close with 0. Absent on a transport where this cannot happen. On raw
   * QUIC this end then marks its own close, so that the peer can require it too.
   *
   * @returns False if both cases are a close with 0: in browsers, on the runtime's own engine, and
   * after the connection ended.
   */
  requireClose?(): boolean;
}

/** Flow control of a connection on which both ends use it; see `capabilities.credit`. */
export type ConnectionCredit = NonNullable<ConnectionInspection["credit"]>;

/**
 * The amount that the peer may send before the application reads.
 *
 * Over HTTP/3, flow control applies if both ends announce it; both ends of Skein do, except in
 * browsers. There, the stream that carries a session's messages counts as one of the peer's
 * streams, and uses credit for bytes. That credit is returned after the bytes were read, even if
 * the application grants all other credit itself. QUIC adds limits for the whole connection, and at
 * least one of the totals must be above 0.
 */
export interface FlowControlOptions {
  /**
   * The bytes of all streams of a session together. The default is 4 MiB over HTTP/3, and 1 MiB
   * elsewhere.
   *
   * @default {1048576}
   */
  readonly maxData?: number | undefined;
  /**
   * The bytes of one stream; over HTTP/3 the runtime sets this limit.
   *
   * @default {262144}
   */
  readonly maxStreamData?: number | undefined;
  /**
   * The bidirectional streams open at the same time. The default is 128 over HTTP/3, and 100
   * elsewhere.
   *
   * @default {100}
   */
  readonly maxStreamsBidi?: number | undefined;
  /**
   * The unidirectional streams open at the same time. The default is 128 over HTTP/3, and 100
   * elsewhere.
   *
   * @default {100}
   */
  readonly maxStreamsUni?: number | undefined;
  /**
   * Moves the windows automatically, as bytes are read and streams end. With `false`, only
   * {@linkcode ConnectionCredit.grant}, or a grant of a session, gives the peer more; neither a
   * peer that reports waiting nor a cancelled stream does.
   *
   * @default {true}
   */
  readonly automatic?: boolean | undefined;
}

/** One message frame, text or bytes. */
export type Frame = string | Uint8Array;

/** One message of a frame for many connections, with the message's size in bytes. */
export interface FramePart {
  readonly frame: Frame;
  readonly size: number;
}

/**
 * The receiver of a connection's frames. It is an object rather than two functions, because every
 * connection needs one.
 */
export interface FrameReceiver {
  /**
   * Receives a frame. MUST NOT throw.
   *
   * @param frame Text or bytes, complete and in order.
   */
  receiveFrame(frame: string | Uint8Array): void;
  /** Called once, after the last frame, when the connection ended as `closed` reports. */
  framesEnded(): void;
  /** The fill level of the receiver, if known. A transport that can pause reading follows it. */
  readonly backpressure?: {
    /**
     * The share of the capacity in use; 1 is full. A transport pauses reading at a half, and
     * resumes at a quarter.
     */
    readonly fill: number;
    /** Resolves when `fill` may have changed. */
    changed(): Promise<void>;
  } | undefined;
}

/** The fill level of a {@linkcode FrameReceiver}. */
export type Backpressure = NonNullable<FrameReceiver["backpressure"]>;

/**
 * Message frames, on transports that have frames.
 *
 * Implementations MUST deliver frames complete and in order. They MUST keep frames that arrive
 * before {@linkcode MessageFrames.receive} is called, up to a bound, and deliver them then; beyond
 * the bound the connection closes. `send` MUST NOT throw after the connection closed; the frame is
 * then lost, as on a cut cable.
 */
export interface MessageFrames {
  /**
   * Passes a frame to the transport. Never blocks; watch `bufferedAmount`.
   *
   * @param frame Text or bytes. Bytes MUST NOT be changed afterwards.
   * @param parts The messages of the frame, joined by line feeds, if many connections receive each
   * of them. A transport MAY compress such a frame. Any other frame may contain a secret of one
   * peer next to text that the peer chose, and MUST NOT be compressed.
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
   * @returns Resolves when `bufferedAmount` is at or below `lowWaterMark`, or the connection
   * closed. Never rejects.
   */
  drained(): Promise<void>;
  /** Buffered bytes at or below which `drained` resolves. */
  readonly lowWaterMark: number;
  /**
   * True while reading is paused because the receiver is too slow; absent if the transport cannot
   * pause.
   */
  readonly isPaused?: boolean | undefined;
  /**
   * The bytes of the next frame that have arrived so far; absent if the transport does not report
   * this.
   */
  readonly partialBytes?: number | undefined;
  /**
   * Sets the only receiver of incoming frames. The receiver is called synchronously for each frame,
   * because an iterator would cost one promise per frame.
   *
   * @param receiver Receives each frame in order, and the end.
   * @throws {TypeError} If there is a receiver already.
   */
  receive(receiver: FrameReceiver): void;
}

/**
 * A connection, established or being established: the W3C `WebTransport` interface, implemented
 * over HTTP/3, raw QUIC, WebSocket and memory. In addition to W3C, a connection has `capabilities`;
 * `frames`, on transports with message frames of their own; `inspect`, for diagnosis; and `direct`,
 * for streams without web streams. A wrapper forwards the last two unchanged.
 *
 * Implementations MUST settle `closed` exactly once, MUST make `close` idempotent, MUST NOT buffer
 * without bound, and MUST NOT leave an unhandled rejection if `ready` or `closed` is never awaited.
 *
 * @see {@link https://www.w3.org/TR/webtransport/ | WebTransport}
 */
export interface Connection extends AsyncDisposable {
  /** The capabilities of the transport, fixed once `ready` resolves. */
  readonly capabilities: ConnectionCapabilities;
  /** The name of the transport, for display: `webtransport`, `quic`, `websocket`, `memory`. */
  readonly transport: string;
  /** Negotiated subprotocol; empty if there is none. */
  readonly protocol: string;
  /** Resolves once the connection is established; rejects on failure. */
  readonly ready: Promise<void>;
  /**
   * Resolves with code and reason of a close; rejects with a {@linkcode ConnectionError} if the
   * connection was lost. On raw QUIC a crash of the peer looks like a close with 0 and no reason.
   */
  readonly closed: Promise<ConnectionCloseInfo>;
  /** Resolves when the peer asks this end to finish; may never settle. */
  readonly draining: Promise<void>;
  /** The datagrams; `maxDatagramSize` is 0 on a transport without datagrams. */
  readonly datagrams: DatagramDuplex;
  /** The bidirectional streams opened by the peer. */
  readonly incomingBidirectionalStreams: ReadableStream<BidirectionalStream>;
  /** The unidirectional streams opened by the peer. */
  readonly incomingUnidirectionalStreams: ReadableStream<ReceiveStream>;
  /** Message frames, on transports with frames of their own. */
  readonly frames?: MessageFrames | undefined;
  /**
   * Unidirectional streams without web streams, if the transport supports this; use only one of the
   * two.
   */
  readonly direct?: DirectStreams | undefined;
  /** The counters, flow control and events, on transports that report them. */
  readonly inspect?: ConnectionInspection | undefined;
  /**
   * Opens a bidirectional stream.
   *
   * @param options Send order and waiting.
   * @returns The stream.
   * @throws {UnsupportedError} If the transport has no streams.
   */
  createBidirectionalStream(options?: OpenStreamOptions): Promise<BidirectionalStream>;
  /**
   * Opens a unidirectional stream.
   *
   * @param options Send order and waiting.
   * @returns The writable end.
   * @throws {UnsupportedError} If the transport has no streams.
   */
  createUnidirectionalStream(options?: OpenStreamOptions): Promise<SendStream>;
  /** Asks the peer to finish, on transports that support this; the peer's `draining` resolves. */
  drain?(): void;
  /**
   * Closes the connection after everything passed to `send` before was sent.
   *
   * @param options The code and reason. `closeConnection` also closes the underlying connection,
   * with all sessions on it. Only WebTransport over HTTP/3 can share a connection; other transports
   * ignore it.
   * @throws {RangeError} If the transport cannot carry the code.
   */
  close(options?: ConnectionCloseInfo & { readonly closeConnection?: boolean | undefined }): void;
  /**
   * Drops the connection immediately, with all buffered bytes, and without notifying the peer.
   * Absent if the transport cannot do so. Idempotent.
   */
  terminate?: (() => void) | undefined;
  /**
   * Reads the transport's counters.
   *
   * @returns The statistics that the transport knows.
   */
  getStats(): Promise<ConnectionStats>;
}

/** The options for {@linkcode Connection.close}. */
export type CloseOptions = NonNullable<Parameters<Connection["close"]>[0]>;
