/** The sending streams of the W3C `WebTransport`, on top of the stream halves of a session. */
import type { DirectWritable, SendStream } from "../connection.ts";
import { toInteger, wireOrder } from "../quic/send_half.ts";
import type { StreamHalf, StreamHalves } from "../quic/stream_owner.ts";
import { constructible, defineInterface } from "./web_idl.ts";
import { viewOf } from "./options.ts";

/** The counters of a sending stream. Counters that the runtime does not provide are missing. */
export interface WebTransportSendStreamStats {
  /** The number of bytes written. */
  readonly bytesWritten: number;
}

/** The options of a sending stream, or of a writable for datagrams. */
export interface WebTransportSendOptions {
  /**
   * The group whose counters include the stream's bytes.
   *
   * @default {null}
   */
  readonly sendGroup?: WebTransportSendGroup | null | undefined;
  /**
   * The priority; a higher order is sent first.
   *
   * @default {0}
   */
  readonly sendOrder?: number | null | undefined;
}

/** The options for opening a stream. */
export interface WebTransportSendStreamOptions extends WebTransportSendOptions {
  /**
   * Set to `true` to wait for stream credit. By default, the call fails with a `QuotaExceededError`
   * if there is no credit.
   *
   * @default {false}
   */
  readonly waitUntilAvailable?: boolean | undefined;
}

/** The shared state of the streams of a group. */
export class GroupState {
  readonly streams: Set<SendSource> = new Set();
  /** The number of bytes written to streams that have ended. */
  endedBytes = 0;
}

/**
 * The name of the error for a group that belongs to another session: `TypeError` if it was passed
 * as an option, `InvalidStateError` if it was set.
 */
export type ForeignGroupError = "TypeError" | "InvalidStateError";

/** The part of a session that its streams use. */
export interface StreamsOwner {
  /** The stream halves that end with the session. */
  readonly halves: StreamHalves;
  /** Tells whether the session has ended. */
  isOver(): boolean;
  /** Creates the error for a call on the ended session. */
  connectionError(cause: unknown): Error;
  /**
   * Returns the state of a group, or `undefined` for `null`. Throws an error of the given name if
   * the group belongs to another session.
   */
  groupOf(group: WebTransportSendGroup | null, error: ForeignGroupError): GroupState | undefined;
}

/** The writing half of a stream, with a priority. */
export interface OrderedWritable extends DirectWritable {
  /** The priority; a higher order is sent first. */
  sendOrder: number;
  /** Writes bytes if there is credit for all of them now. Otherwise returns `undefined`. */
  writeAtOnce(bytes: Uint8Array): Promise<void> | undefined;
}

/**
 * A group of streams with common counters. QUIC has no groups, so the `sendOrder` of a stream is
 * compared with that of all streams, whatever their group.
 */
export class WebTransportSendGroup {
  static {
    defineInterface(this, {
      name: "WebTransportSendGroup",
      members: ["getStats"],
      promises: ["getStats"],
    });
  }

  readonly #state: GroupState;

  /**
   * @ignore Creates a group. Only `createSendGroup()` can call this constructor.
   *
   * @param state The shared state of the group's streams.
   */
  constructor(state: GroupState | undefined = undefined) {
    this.#state = constructible(state, GroupState);
  }

  /**
   * Reads how many bytes were written to the group's streams.
   *
   * @returns The counters.
   */
  getStats(): Promise<WebTransportSendStreamStats> {
    let bytesWritten = this.#state.endedBytes;
    for (const { bytes } of this.#state.streams) bytesWritten += bytes;
    return Promise.resolve({ bytesWritten });
  }
}

/** A chunk that is sent completely or not at all. */
class AtomicChunk {
  readonly chunk: unknown;
  /** The error, if the chunk was not sent. */
  failure: DOMException | undefined = undefined;

  constructor(chunk: unknown) {
    this.chunk = chunk;
  }
}

/** The sink of a sending stream. */
export class SendSource implements StreamHalf, UnderlyingSink<Uint8Array> {
  previous: StreamHalf | undefined = undefined;
  next: StreamHalf | undefined = undefined;

  bytes = 0;
  sendGroup: WebTransportSendGroup | null;

  readonly #owner: StreamsOwner;
  readonly #half: OrderedWritable;
  /** The number of chunks that wait after the current one. */
  #pending = 0;
  /** The atomic chunks among the waiting chunks. */
  readonly #atomic = new Set<AtomicChunk>();
  #controller: WritableStreamDefaultController | undefined = undefined;
  #closing: PromiseWithResolvers<void> | undefined = undefined;
  #group: GroupState | undefined;
  #sendOrder: number;
  #isOver = false;

  constructor(owner: StreamsOwner, half: OrderedWritable, options: WebTransportSendOptions = {}) {
    const { sendGroup = null, sendOrder } = options;
    this.#owner = owner;
    this.#half = half;
    this.#sendOrder = toInteger(sendOrder);
    this.sendGroup = sendGroup;
    this.#group = owner.groupOf(sendGroup, "TypeError");
    this.#group?.streams.add(this);
    owner.halves.add(this);
  }

  /** The default queuing strategy, which also counts the chunks. */
  get strategy(): QueuingStrategy<Uint8Array> {
    return {
      highWaterMark: 1,
      size: () => {
        this.#pending++;
        return 1;
      },
    };
  }

  /** The stream half, for plain calls instead of a web stream. */
  get half(): OrderedWritable {
    this.#owner.halves.delete(this);
    return this.#half;
  }

  /** The priority; a higher order is sent first. */
  get sendOrder(): number {
    return this.#sendOrder;
  }

  set sendOrder(value: number) {
    this.#sendOrder = toInteger(value);
    try {
      this.#half.sendOrder = wireOrder(value);
    } catch {
      // A closed stream sends no data, so the priority has no effect.
    }
  }

  /** Moves the stream to another group. */
  regroup(sendGroup: WebTransportSendGroup | null): void {
    const group = this.#owner.groupOf(sendGroup, "InvalidStateError");
    this.#leave();
    this.sendGroup = sendGroup;
    this.#group = group;
    if (!this.#isOver) group?.streams.add(this);
    else if (group !== undefined) group.endedBytes += this.bytes;
  }

  start(controller: WritableStreamDefaultController): void {
    this.#controller = controller;
    if (this.#owner.isOver()) this.fail(this.#owner.connectionError(undefined));
    // Without this, a write that waits for the peer would delay the abort.
    const { signal } = controller;
    signal.addEventListener("abort", () => {
      this.abort(signal.reason);
      this.#closing?.reject(signal.reason);
    }, { once: true });
  }

  /** Sends a chunk completely or not at all; see {@linkcode WebTransportWriter.atomicWrite}. */
  async writeAtomic(given: unknown, writer: WebTransportWriter): Promise<void> {
    const atomic = new AtomicChunk(given);
    this.#atomic.add(atomic);
    try {
      // The web stream accepts any chunk.
      await writer.write(atomic as unknown as Uint8Array);
    } finally {
      this.#atomic.delete(atomic);
    }
    if (atomic.failure !== undefined) throw atomic.failure;
  }

  async write(given: unknown): Promise<void> {
    const behind = --this.#pending;
    const atomic = given instanceof AtomicChunk ? given : undefined;
    if (atomic !== undefined) this.#atomic.delete(atomic);
    if (atomic?.failure !== undefined) return; // An earlier atomic chunk did not fit.
    const chunk = atomic === undefined ? given : atomic.chunk;
    const view = viewOf(chunk);
    if (view === undefined) {
      this.abort(); // The stream fails with this error.
      throw new TypeError(
        `Cannot write to stream: chunk must be a BufferSource, received ${typeof chunk}`,
      );
    }
    const { byteLength } = view;
    if (byteLength === 0) return;
    const bytes = view.slice();
    try {
      const writing = atomic === undefined
        ? this.#half.write(bytes)
        : this.#half.writeAtOnce(bytes);
      if (writing === undefined) return this.#rejectAtomic(atomic!, behind);
      await writing;
      this.bytes += byteLength;
    } catch (error) {
      this.#end();
      throw error;
    }
  }

  close(): Promise<void> {
    this.#end();
    const closing = this.#closing = Promise.withResolvers<void>();
    this.#half.close().then(closing.resolve, closing.reject);
    return closing.promise;
  }

  abort(reason?: unknown): void {
    this.#end();
    this.#half.abort(reason);
  }

  fail(error: unknown): void {
    if (this.#isOver) return;
    this.#end();
    this.#controller?.error(error);
  }

  /** Does nothing, because this direction needs no release. */
  release(): void {}

  /**
   * Rejects a chunk that does not fit, and all atomic chunks after it, so that the writes stay in
   * order.
   */
  #rejectAtomic(first: AtomicChunk, behind: number): void {
    const failure = new DOMException(
      "Cannot write atomically: the server's flow control currently allows less",
      "AbortError",
    );
    if (behind > this.#atomic.size) {
      // A plain write is also waiting, and it cannot fail without the stream.
      this.abort(failure);
      this.#controller!.error(failure);
      throw failure;
    }
    for (const atomic of [first, ...this.#atomic]) atomic.failure = failure;
  }

  #end(): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#owner.halves.delete(this);
    const group = this.#group;
    if (group?.streams.delete(this)) group.endedBytes += this.bytes;
  }

  #leave(): void {
    const group = this.#group;
    if (group === undefined || group.streams.delete(this)) return;
    group.endedBytes -= this.bytes;
  }
}

/**
 * A sending stream. A chunk can be any `BufferSource`. The stream buffers chunks as the
 * specification requires; `direct` bypasses these buffers.
 */
export class WebTransportSendStream extends WritableStream<Uint8Array> implements SendStream {
  static {
    defineInterface(this, {
      name: "WebTransportSendStream",
      members: ["sendGroup", "sendOrder", "getStats", "getWriter"],
      promises: ["getStats"],
    });
  }

  readonly #source: SendSource;

  /**
   * @ignore Creates a stream. Only `createUnidirectionalStream()` and `createBidirectionalStream()`
   * can call this constructor.
   *
   * @param source The sink of the stream.
   */
  constructor(source: SendSource | undefined = undefined) {
    const checked = constructible(source, SendSource);
    super(checked, checked.strategy);
    this.#source = checked;
  }

  /** Writes to the stream with plain calls. MUST NOT be used together with the web stream. */
  get direct(): DirectWritable {
    return this.#source.half;
  }

  /** The priority; a higher order is sent first. */
  get sendOrder(): number {
    return this.#source.sendOrder;
  }

  set sendOrder(value: number) {
    this.#source.sendOrder = value;
  }

  /**
   * The group whose counters include the stream's bytes. Setting a group that belongs to another
   * session throws an `InvalidStateError`.
   */
  get sendGroup(): WebTransportSendGroup | null {
    return this.#source.sendGroup;
  }

  set sendGroup(value: WebTransportSendGroup | null) {
    this.#source.regroup(value);
  }

  /**
   * Locks the stream for a writer.
   *
   * @returns The only writer until its lock is released.
   * @throws {TypeError} If the stream is locked.
   */
  override getWriter(): WebTransportWriter {
    return new WebTransportWriter(this.#source, this);
  }

  /**
   * Reads how many bytes were written.
   *
   * @returns The counters.
   */
  getStats(): Promise<WebTransportSendStreamStats> {
    return Promise.resolve({ bytesWritten: this.#source.bytes });
  }
}

/**
 * The writer of a sending stream.
 *
 * @example Send a whole message or nothing
 * ```ts
 * import type { WebTransport } from "@skein/skein/webtransport";
 *
 * async function tell(transport: WebTransport, message: Uint8Array<ArrayBuffer>): Promise<boolean> {
 *   const writer = (await transport.createUnidirectionalStream()).getWriter();
 *   try {
 *     await writer.atomicWrite(message);
 *     return true;
 *   } catch {
 *     return false;
 *   } finally {
 *     writer.close().catch(() => {});
 *   }
 * }
 * ```
 */
export class WebTransportWriter extends WritableStreamDefaultWriter<Uint8Array> {
  static {
    defineInterface(this, {
      name: "WebTransportWriter",
      members: ["atomicWrite", "commit"],
      promises: ["atomicWrite"],
    });
  }

  readonly #source: SendSource;

  /**
   * @ignore Creates a writer. Only `getWriter()` can call this constructor.
   *
   * @param source The sink of the stream.
   * @param stream The stream to lock.
   */
  constructor(source: SendSource | undefined = undefined, stream?: WebTransportSendStream) {
    const checked = constructible(source, SendSource);
    super(stream!);
    this.#source = checked;
  }

  /**
   * Writes a chunk completely or not at all. When its turn comes, the write fails unless the
   * server's flow control has room for the whole chunk.
   *
   * - **Failure:** if a write fails, all atomic writes that are waiting after it fail too, and the
   *   stream stays open. If a plain write is also waiting after it, the whole stream fails, because
   *   the order of the writes could not be kept.
   * - **Credit:** if both sides use flow control, the session's credit is checked. The runtime does
   *   not report the credit of a single QUIC stream; if that credit is used up, the write waits
   *   like a plain write.
   *
   * @param chunk The bytes, in any `BufferSource`.
   * @throws {DOMException} `AbortError` if there is no room for the whole chunk.
   * @throws {TypeError} If the chunk is not a `BufferSource` (the stream then fails too), or if the
   * writer was released.
   */
  atomicWrite(chunk: unknown = undefined): Promise<void> {
    return this.#source.writeAtomic(chunk, this);
  }

  /**
   * Guarantees that the bytes written so far are delivered even if the stream is aborted. Here this
   * is always the case: the runtime cannot reset streams, so an abort looks like a normal end.
   */
  commit(): void {
    if (!(#source in this)) throw new TypeError("Illegal invocation");
  }
}
