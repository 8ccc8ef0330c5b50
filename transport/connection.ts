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
}

/** How a connection is, or was, closed. */
export interface ConnectionCloseInfo {
  /** Close code; 0 is a normal close. */
  readonly closeCode?: number;
  /** Reason in words; cut at a character boundary where the wire has a limit. */
  readonly reason?: string;
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
}

/** Both ends of a stream, by plain calls. */
export interface DirectStream extends DirectReadable, DirectWritable {}

/** A unidirectional stream that the peer opened. */
export interface ReceiveStream extends ReadableStream<Uint8Array> {
  /** The same without a web stream, where the wire has that; use either. */
  readonly direct?: DirectReadable;
}

/** A unidirectional stream that this end opened. */
export interface SendStream extends WritableStream<Uint8Array> {
  /** The same without a web stream, where the wire has that; use either. */
  readonly direct?: DirectWritable;
}

/** A stream that both ends write to. */
export interface BidirectionalStream {
  /** What the peer writes. */
  readonly readable: ReadableStream<Uint8Array>;
  /** What this end writes. */
  readonly writable: WritableStream<Uint8Array>;
  /** The same without web streams, where the wire has that; use either it or those. */
  readonly direct?: DirectStream;
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

/** Counters of a connection; what a wire can not know is absent. */
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
 * interface, implemented over HTTP/3, WebSocket and memory alike.
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
  /** The wire's name, for people: `webtransport`, `websocket`, `memory`. */
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
  /** Message frames, on wires that have their own. */
  readonly frames?: MessageFrames;
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
   * @param info Code (0, or 3000 to 4999) and reason.
   */
  close(info?: ConnectionCloseInfo): void;
  /**
   * Reads the wire's counters.
   *
   * @returns What the wire knows.
   */
  getStats(): Promise<ConnectionStats>;
}
