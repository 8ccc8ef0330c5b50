/**
 * The contract that every wire fulfils: the W3C `WebTransport` interface, with
 * what a wire can do (`capabilities`) and, where the wire has message frames
 * of its own, `frames`.
 *
 * @module
 */

/** What a wire can do. Callers branch on this, never on the name of the wire. */
export interface ConnectionCapabilities {
  /** Streams of both kinds can be opened. */
  readonly streams: boolean;
  /** How datagrams travel, or that they do not. */
  readonly datagrams: "unreliable" | "reliable" | "none";
  /** A reset stream carries its code to the other end. */
  readonly resetCodes: boolean;
  /** Flow-control credit can be granted by hand. */
  readonly credit: boolean;
  /** A lost packet holds up its own stream only. Without that all of them wait, as on one TCP connection. */
  readonly independentStreams: boolean;
}

/** How a connection is, or was, closed. */
export interface ConnectionCloseInfo {
  /**
   * Close code; 0 is a normal close. To close with, it is 0 or 3000 to 4999 on every wire. Any code
   * from 0 to 2^32 - 1 can be sent over WebTransport, and to 2^53 - 1 over raw QUIC, over QMux and in
   * memory; a plain WebSocket and messages of Skein take no others. A peer's is passed on as it came.
   */
  readonly closeCode?: number;
  /** Reason in words; cut at a character boundary where the wire has a limit. */
  readonly reason?: string;
}

/** How to close a connection. */
export interface CloseOptions extends ConnectionCloseInfo {
  /**
   * Also ends what carries it, and with that every other connection there. Only
   * WebTransport over HTTP/3 can share what carries it; elsewhere this says nothing.
   *
   * @default {false}
   */
  readonly closeConnection?: boolean;
}

/** Options for opening a stream. */
export interface OpenStreamOptions {
  /** Higher goes first where the wire can order streams. */
  readonly sendOrder?: number;
  /** Gives up waiting for a free stream. */
  readonly signal?: AbortSignal;
  /** Gives up after this many milliseconds. */
  readonly timeoutMs?: number;
}

/**
 * The reading end of a stream without a web stream in between, which costs more
 * than the bytes it carries: `directStream()` and `directReadable()` find it, or
 * make it of the web stream.
 */
export interface DirectReadable {
  /**
   * Reads what came next. One call at a time.
   *
   * Over Deno's QUIC a session that closes, and a peer that gives the stream up, end it like a clean
   * end: data that has to be whole tells its length.
   *
   * @param used Bytes of an earlier read that nobody needs any more: their memory may be read
   * into, which saves an allocation of up to 64 KiB. They are empty afterwards.
   * @returns Bytes, which are the caller's to keep; `null` once the peer ended its direction.
   * @throws {StreamError} If the peer reset the stream.
   * @throws {ConnectionError} If the connection is over.
   */
  read(used?: Uint8Array | null): Promise<Uint8Array | null>;
  /**
   * Reads no more.
   *
   * @param reason Its `streamErrorCode`, if any, goes to the peer where the wire can carry it.
   */
  cancel(reason?: unknown): void;
}

/** The writing end of a stream without a web stream in between. */
export interface DirectWritable {
  /**
   * Writes bytes, and waits while the peer takes none.
   *
   * @param bytes What. They MUST NOT be changed before the write is done.
   * @throws {StreamError} If the peer stopped reading.
   * @throws {ConnectionError} If the connection is over.
   */
  write(bytes: Uint8Array): Promise<void>;
  /** Ends this end's direction, after what was written. */
  close(): Promise<void>;
  /**
   * Gives up this end's direction.
   *
   * @param reason Its `streamErrorCode`, if any, goes to the peer where the wire can carry it.
   */
  abort(reason?: unknown): void;
  /** Higher goes first; absent where the wire cannot order streams. May be set at any time. */
  sendOrder?: number;
}

/** Both ends of a stream, by plain calls. */
export interface DirectStream extends DirectReadable, DirectWritable {}

/**
 * A unidirectional stream that the peer opened. Over Deno's QUIC a session that closes, and a peer that
 * gives the stream up, end it like a clean end: data that has to be whole tells its length.
 */
export interface ReceiveStream extends ReadableStream<Uint8Array> {
  /** The same without a web stream, where the wire has that; use either. */
  readonly direct?: DirectReadable;
}

/** A unidirectional stream that this end opened. */
export interface SendStream extends WritableStream<Uint8Array> {
  /** Higher goes first; absent where the wire cannot order streams. May be set at any time. */
  sendOrder?: number;
  /** The same without a web stream, where the wire has that; use either. */
  readonly direct?: DirectWritable;
}

/** A stream that both ends write to. */
export interface BidirectionalStream {
  /**
   * Bytes that the peer writes. Over Deno's QUIC a session that closes, and a peer that gives the stream up, end
   * it like a clean end: data that has to be whole tells its length.
   */
  readonly readable: ReadableStream<Uint8Array>;
  /** What this end writes. */
  readonly writable: WritableStream<Uint8Array>;
  /** The same without web streams, where the wire has that; use either it or those. */
  readonly direct?: DirectStream;
}

/** Unidirectional streams of a connection without web streams in between. */
export interface DirectStreams {
  /**
   * Opens a unidirectional stream; see {@linkcode Connection.createUnidirectionalStream}.
   *
   * @param options See {@linkcode OpenStreamOptions}.
   * @returns Its writing end.
   */
  openUnidirectional(options?: OpenStreamOptions): Promise<DirectWritable>;
  /**
   * Sets who gets the unidirectional streams of the peer, instead of the readable. It MUST NOT throw.
   *
   * @param receiver Gets each stream; those too that came before.
   * @throws {TypeError} If there is a receiver already.
   */
  receiveUnidirectional(receiver: (stream: DirectReadable) => void): void;
}

/** Datagrams without web streams in between. */
export interface DirectDatagrams {
  /**
   * Sends a datagram, or loses it: where it is too large, or too many wait already.
   *
   * @param datagram The bytes. They MUST NOT be changed afterwards.
   */
  send(datagram: Uint8Array): void;
  /**
   * Sets the one receiver, which is called for each datagram instead of the
   * readable. It MUST NOT throw.
   *
   * @param receiver Gets each datagram; the bytes are its own.
   * @throws {TypeError} If there is a receiver already.
   */
  receive(receiver: (datagram: Uint8Array) => void): void;
}

/** Datagrams in both directions. */
export interface DatagramDuplex {
  /** Datagrams that came; bounded, the oldest are dropped. */
  readonly readable: ReadableStream<Uint8Array>;
  /** Datagrams to send. */
  readonly writable: WritableStream<Uint8Array>;
  /** Largest datagram in bytes; 0 where the wire has none. */
  readonly maxDatagramSize: number;
  /** The same without web streams, where the wire has that; use either it or those. */
  readonly direct?: DirectDatagrams;
}

/** Which way a stream goes. */
export type StreamDirection = "bidirectional" | "unidirectional";

/** Which end did something. */
export type StreamSide = "local" | "remote";

/** Counters of a connection; what a wire cannot know is absent. */
export interface ConnectionStats {
  /** Bytes handed to the wire. */
  readonly bytesSent?: number;
  /** Bytes taken from the wire. */
  readonly bytesReceived?: number;
  /** Message frames handed to the wire. */
  readonly framesSent?: number;
  /** Message frames taken from the wire. */
  readonly framesReceived?: number;
}

/** What a connection counted of its streams and datagrams; every number only grows. */
export interface ConnectionCounters {
  /** Bytes of streams that were handed to the wire, without what the wire adds. */
  readonly streamBytesSent: number;
  /** Bytes of streams that came, read or not where the wire tells. */
  readonly streamBytesReceived: number;
  /** Bidirectional streams that this end opened. */
  readonly localBidirectionalOpened: number;
  /** Unidirectional streams that this end opened. */
  readonly localUnidirectionalOpened: number;
  /** Bidirectional streams that the peer opened. */
  readonly remoteBidirectionalOpened: number;
  /** Unidirectional streams that the peer opened. */
  readonly remoteUnidirectionalOpened: number;
  /** Streams that are over in all their directions; the rest of those opened is open. */
  readonly streamsClosed: number;
  /** Of these, bidirectional ones. */
  readonly bidirectionalClosed: number;
  /** Directions of streams that were reset, stopped or cut, by either end. */
  readonly streamErrors: number;
  /** Streams of the peer that this end refused: it did not take them in time, or too many were unread. */
  readonly streamsRefused: number;
  /** Datagrams handed to the wire. */
  readonly datagramsSent: number;
  /** Their bytes. */
  readonly datagramBytesSent: number;
  /** Datagrams that came. */
  readonly datagramsReceived: number;
  /** Their bytes. */
  readonly datagramBytesReceived: number;
  /** Datagrams that were lost at this end: too large, too many waiting, or too many unread. */
  readonly datagramsDropped: number;
}

/** What credit is for: bytes of streams, or streams of one direction. */
export type CreditKind = "data" | StreamDirection;

/** Something that happened on a connection; see {@linkcode Connection.observe}. */
export type ConnectionEvent =
  | {
    readonly type: "streamopened";
    readonly direction: StreamDirection;
    readonly by: StreamSide;
  }
  | {
    /** All directions of the stream are over; `error` is the first one that was cut short. */
    readonly type: "streamclosed";
    readonly direction: StreamDirection;
    readonly by: StreamSide;
    readonly error?: unknown;
  }
  | { readonly type: "datagramsent" | "datagramreceived"; readonly datagram: Uint8Array }
  | { readonly type: "datagramdropped"; readonly byteLength: number }
  | {
    /** Somebody waits for credit: this end (`local`), or the peer says that it does (`remote`). */
    readonly type: "blocked";
    readonly what: CreditKind;
    readonly by: StreamSide;
    /** The total that is used up. */
    readonly limit: number;
  }
  | {
    /** The peer granted more. */
    readonly type: "credit";
    readonly what: CreditKind;
    /** The new total. */
    readonly limit: number;
  };

/** Gets what happens on a connection. MUST NOT throw. */
export type ConnectionObserver = (event: ConnectionEvent) => void;

/** How much of one kind each end may still send: totals since the beginning. */
export interface CreditState {
  /** What this end allowed the peer. */
  readonly granted: number;
  /** What the peer used of that. */
  readonly received: number;
  /** What the peer allowed this end. */
  readonly allowed: number;
  /** What this end used of that. */
  readonly sent: number;
  /** How many calls of this end wait for more. */
  readonly waiting: number;
}

/** Flow control of a connection whose both ends count; see `capabilities.credit`. */
export interface ConnectionCredit {
  /** The totals of one kind. */
  state(kind: CreditKind): CreditState;
  /**
   * Allows the peer a total, if it is larger than the one before. Where windows
   * are automatic it is a floor for them.
   *
   * @param kind Bytes, or streams of a direction.
   * @param total Since the beginning of the connection.
   * @throws {RangeError} If the total is not an integer from 0 to 2^53 - 1, or, of streams, above 2^60.
   */
  grant(kind: CreditKind, total: number): void;
}

/**
 * How much the peer may send ahead of who reads it.
 *
 * Over HTTP/3 it counts where both ends say so: both of Skein do, outside of browsers. The stream
 * of a session's messages is one of the peer's streams there, and takes from the bytes; these it
 * always gets back once they were read, whatever is granted by hand. There, QUIC has limits of its
 * own for a whole connection beside these, and at least one of the totals has to be above 0.
 */
export interface FlowControlOptions {
  /**
   * Bytes of all streams of a session together; 4 MiB by default over HTTP/3, 1 MiB elsewhere.
   *
   * @default {1048576}
   */
  readonly maxData?: number;
  /**
   * Bytes of one stream; over HTTP/3 that is the runtime's own.
   *
   * @default {262144}
   */
  readonly maxStreamData?: number;
  /**
   * Bidirectional streams at once; 128 by default over HTTP/3, 100 elsewhere.
   *
   * @default {100}
   */
  readonly maxStreamsBidi?: number;
  /**
   * Unidirectional streams at once; 128 by default over HTTP/3, 100 elsewhere.
   *
   * @default {100}
   */
  readonly maxStreamsUni?: number;
  /**
   * Whether the windows move by themselves, as bytes are read and streams end. Without that the
   * peer gets more by {@linkcode ConnectionCredit.grant} only, and by that of a session: what it
   * says of waiting grants nothing, and neither does a stream that is cancelled.
   *
   * @default {true}
   */
  readonly automatic?: boolean;
}

/** One message frame: text, or bytes. */
export type Frame = string | Uint8Array;

/** Who takes the frames of a connection. An object, not a pair of functions: each connection has one. */
export interface FrameReceiver {
  /**
   * Takes a frame. MUST NOT throw.
   *
   * @param frame Text or bytes, whole and in order.
   */
  receiveFrame(frame: Frame): void;
  /** Called once, after the last frame: the connection ended, and its `closed` tells how. */
  framesEnded(): void;
  /** How far the receiver is behind, if it tells: a wire that can stop reading goes by it. */
  readonly backpressure?: Backpressure | undefined;
}

/** How far a {@linkcode FrameReceiver} is behind. */
export interface Backpressure {
  /** How full it is: 1 is full. A wire stops reading at a half, and goes on at a quarter. */
  readonly fill: number;
  /** Resolves when `fill` may have changed. */
  changed(): Promise<void>;
}

/**
 * Message frames of a wire that has them.
 *
 * Implementations MUST deliver frames in order and whole, MUST deliver those
 * that came before {@linkcode MessageFrames.receive} was called (and bound
 * them: past the bound the connection closes), and MUST NOT throw from `send`
 * after the connection closed (the frame goes nowhere, as on a cut cable).
 */
export interface MessageFrames {
  /**
   * Hands a frame to the wire. Never blocks; watch `bufferedAmount`.
   *
   * @param frame Text or bytes. Bytes MUST NOT be changed afterwards.
   */
  send(frame: Frame): void;
  /** Bytes handed to `send` that the wire still holds. */
  readonly bufferedAmount: number;
  /**
   * Waits until the wire took most of what it holds.
   *
   * @returns Resolves when `bufferedAmount` is at or below `lowWaterMark`, or
   * when the connection closed. Never rejects.
   */
  drained(): Promise<void>;
  /** `drained` resolves at or below this many bytes. */
  readonly lowWaterMark: number;
  /** Whether nothing is read, since the receiver is behind; absent where the wire cannot stop reading. */
  readonly isPaused?: boolean;
  /**
   * Sets the one receiver of incoming frames. It is called synchronously per
   * frame: an iterator would cost a promise a frame.
   *
   * @param receiver Gets each frame, in order, and is told of the end.
   * @throws {TypeError} If there is a receiver already.
   */
  receive(receiver: FrameReceiver): void;
}

/**
 * An established connection, or one being established: the W3C `WebTransport`
 * interface, implemented over HTTP/3, raw QUIC, WebSocket and memory alike.
 *
 * Implementations MUST settle `closed` exactly once, MUST make `close`
 * idempotent, MUST NOT buffer without bound, and MUST NOT leave an unhandled
 * rejection where nobody looks at `ready` or `closed`.
 *
 * @see {@link https://www.w3.org/TR/webtransport/ | WebTransport}
 */
export interface Connection extends AsyncDisposable {
  /** What this wire can do; fixed once `ready`. */
  readonly capabilities: ConnectionCapabilities;
  /** The wire's name, for people: `webtransport`, `quic`, `websocket`, `memory`. */
  readonly transport: string;
  /** The subprotocol agreed on; empty if none. */
  readonly protocol: string;
  /** Resolves once established; rejects if that fails. */
  readonly ready: Promise<void>;
  /** Resolves on a close with code and reason; rejects with a {@linkcode ConnectionError} if it broke. */
  readonly closed: Promise<ConnectionCloseInfo>;
  /** Resolves when the peer asked to wind up; may never settle. */
  readonly draining: Promise<void>;
  /** Datagrams; its `maxDatagramSize` is 0 where the wire has none. */
  readonly datagrams: DatagramDuplex;
  /** Bidirectional streams that the peer opens. */
  readonly incomingBidirectionalStreams: ReadableStream<BidirectionalStream>;
  /** Unidirectional streams that the peer opens. */
  readonly incomingUnidirectionalStreams: ReadableStream<ReceiveStream>;
  /** Unidirectional streams without web streams, where the wire has that; use either. */
  readonly directStreams?: DirectStreams | undefined;
  /** Message frames, on wires that have their own. */
  readonly frames?: MessageFrames;
  /** What was counted of streams and datagrams; absent while there was none. */
  readonly counters?: ConnectionCounters | undefined;
  /** Flow control, where both ends count; absent before `ready`, and where they do not. */
  readonly credit?: ConnectionCredit | undefined;
  /** Streams of the peer that nobody took yet, where the wire tells. */
  readonly unreadStreams?: number | undefined;
  /** The number of the stream that stands for the connection, where there is one: CONNECT over HTTP/3. */
  readonly controlStreamId?: number | undefined;
  /**
   * Opens a bidirectional stream.
   *
   * @param options See {@linkcode OpenStreamOptions}.
   * @returns The stream.
   * @throws {UnsupportedError} If the wire has no streams.
   */
  createBidirectionalStream(options?: OpenStreamOptions): Promise<BidirectionalStream>;
  /**
   * Opens a unidirectional stream.
   *
   * @param options See {@linkcode OpenStreamOptions}.
   * @returns Its writable end.
   * @throws {UnsupportedError} If the wire has no streams.
   */
  createUnidirectionalStream(options?: OpenStreamOptions): Promise<SendStream>;
  /** Asks the peer to wind up, on wires that can say so; its `draining` resolves. */
  drain?(): void;
  /**
   * Closes the connection; what `send` took before still goes out first.
   *
   * @param options Code and reason.
   * @throws {RangeError} If the wire cannot carry the code.
   */
  close(options?: CloseOptions): void;
  /**
   * Drops the connection at once, with everything that waits; the peer is told nothing. Absent
   * where the wire cannot do that. Idempotent.
   */
  terminate?: (() => void) | undefined;
  /**
   * Sets who is told what happens on the connection, or nobody again. What
   * happened before is in the counters. A connection that nobody observes does
   * nothing for it.
   *
   * @param observer Gets each event, synchronously.
   */
  observe?(observer: ConnectionObserver | undefined): void;
  /**
   * Reads the wire's counters.
   *
   * @returns What the wire knows.
   */
  getStats(): Promise<ConnectionStats>;
}
