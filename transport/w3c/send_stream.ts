/**
 * Streams of the W3C's WebTransport that send: web streams over the halves of a
 * session. They hold what the W3C's text has them hold; `direct` goes around them.
 *
 * @module
 */
import type { DirectWritable, SendStream } from "../connection.ts";
import { toInteger, wireOrder } from "../quic/send_order.ts";
import type { StreamHalf, StreamHalves } from "../quic/stream_halves.ts";
import { constructible, defineInterface } from "./web_idl.ts";
import { viewOf } from "./options.ts";

/** Counters of a stream that sends; what the runtime does not tell is absent. */
export interface WebTransportSendStreamStats {
  /** Bytes that were written. */
  readonly bytesWritten: number;
}

/** How a stream is to be opened, or a writable end for datagrams. */
export interface WebTransportSendOptions {
  /**
   * The group it counts for.
   *
   * @default {null}
   */
  readonly sendGroup?: WebTransportSendGroup | null;
  /**
   * Higher goes first.
   *
   * @default {0}
   */
  readonly sendOrder?: number | null;
}

/** How a stream is to be opened. */
export interface WebTransportSendStreamOptions extends WebTransportSendOptions {
  /**
   * Whether to wait while the server allows no more streams, or else fail with a
   * `QuotaExceededError`.
   *
   * @default {false}
   */
  readonly waitUntilAvailable?: boolean;
}

/** What the streams of a group have in common. */
export class GroupState {
  /** Those that are open. */
  readonly streams: Set<SendSource> = new Set();
  /** Bytes written to those that ended. */
  endedBytes = 0;
}

/** What it is to name the group of another session: as an option, or set later. */
export type ForeignGroupError = "TypeError" | "InvalidStateError";

/** Whose streams they are. */
export interface StreamsOwner {
  /** Those to be ended with the session. */
  readonly halves: StreamHalves;
  /** Whether the session is over. */
  isOver(): boolean;
  /** Why it is. */
  connectionError(cause: unknown): Error;
  /** The state of a group, `undefined` for none; throws an error of that name if it is another session's. */
  groupOf(group: WebTransportSendGroup | null, error: ForeignGroupError): GroupState | undefined;
}

/** The end of a stream that writes, with its place in the order. */
export interface OrderedWritable extends DirectWritable {
  /** Higher goes first. */
  sendOrder: number;
  /** Writes bytes if there is credit for all of them now; `undefined` if there is not. */
  writeAtOnce(bytes: Uint8Array): Promise<void> | undefined;
}

/**
 * Counts streams together. QUIC knows no groups: in the order of sending there is
 * one sequence of numbers for all, and `sendOrder` decides across groups.
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
   * @ignore Creates a group; only `createSendGroup()` can.
   *
   * @param state What its streams have in common.
   */
  constructor(state: GroupState | undefined = undefined) {
    this.#state = constructible(state, GroupState);
  }

  /**
   * Counts what was written to its streams.
   *
   * @returns The counters.
   */
  getStats(): Promise<WebTransportSendStreamStats> {
    let bytesWritten = this.#state.endedBytes;
    for (const { bytes } of this.#state.streams) bytesWritten += bytes;
    return Promise.resolve({ bytesWritten });
  }
}

/** A chunk of which all is sent, or nothing. */
class AtomicChunk {
  /** The chunk, as it was given. */
  readonly chunk: unknown;
  /** Set if it was not sent. */
  failure: DOMException | undefined = undefined;

  constructor(chunk: unknown) {
    this.chunk = chunk;
  }
}

/** What is behind a stream that sends. */
export class SendSource implements StreamHalf, UnderlyingSink<Uint8Array> {
  /** See {@linkcode StreamHalf}. */
  previous: StreamHalf | undefined = undefined;
  /** See {@linkcode StreamHalf}. */
  next: StreamHalf | undefined = undefined;

  /** Bytes that were written. */
  bytes = 0;
  /** The group, as it was set. */
  sendGroup: WebTransportSendGroup | null;

  readonly #owner: StreamsOwner;
  readonly #half: OrderedWritable;
  /** Chunks that wait for the one under way. */
  #pending = 0;
  /** Atomic writes among them. */
  readonly #atomic = new Set<AtomicChunk>();
  #controller: WritableStreamDefaultController | undefined = undefined;
  #closing: PromiseWithResolvers<void> | undefined = undefined;
  #group: GroupState | undefined;
  #sendOrder: number;
  #isOver = false;

  /**
   * Takes over a half.
   *
   * @param owner Whose it is.
   * @param half Is written to.
   * @param options Its group and its place in the order, if it was opened with any.
   */
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

  /** The usual strategy, which counts the chunks. */
  get strategy(): QueuingStrategy<Uint8Array> {
    return {
      highWaterMark: 1,
      size: () => {
        this.#pending++;
        return 1;
      },
    };
  }

  /** The half, for who wants no web stream. */
  get half(): OrderedWritable {
    this.#owner.halves.delete(this);
    return this.#half;
  }

  /** Higher goes first. */
  get sendOrder(): number {
    return this.#sendOrder;
  }

  set sendOrder(value: number) {
    this.#sendOrder = toInteger(value);
    try {
      this.#half.sendOrder = wireOrder(value);
    } catch {
      // The stream is closed, and sends nothing that could be ordered.
    }
  }

  /** Puts it into another group. */
  regroup(sendGroup: WebTransportSendGroup | null): void {
    const group = this.#owner.groupOf(sendGroup, "InvalidStateError");
    this.#leave();
    this.sendGroup = sendGroup;
    this.#group = group;
    if (!this.#isOver) group?.streams.add(this);
    else if (group !== undefined) group.endedBytes += this.bytes;
  }

  /** Called by the stream. */
  start(controller: WritableStreamDefaultController): void {
    this.#controller = controller;
    if (this.#owner.isOver()) this.fail(this.#owner.connectionError(undefined));
    // A write that waits for the peer would hold up the abort otherwise.
    const { signal } = controller;
    signal.addEventListener("abort", () => {
      this.abort(signal.reason);
      this.#closing?.reject(signal.reason);
    }, { once: true });
  }

  /** Has all of a chunk sent, or nothing; see {@linkcode WebTransportWriter.atomicWrite}. */
  async writeAtomic(given: unknown, writer: WebTransportWriter): Promise<void> {
    const atomic = new AtomicChunk(given);
    this.#atomic.add(atomic);
    try {
      // The stream itself looks at no chunk.
      await writer.write(atomic as unknown as Uint8Array);
    } finally {
      this.#atomic.delete(atomic);
    }
    if (atomic.failure !== undefined) throw atomic.failure;
  }

  /** Called by the stream. */
  async write(given: unknown): Promise<void> {
    const behind = --this.#pending;
    const atomic = given instanceof AtomicChunk ? given : undefined;
    if (atomic !== undefined) this.#atomic.delete(atomic);
    if (atomic?.failure !== undefined) return; // One ahead of it did not fit.
    const chunk = atomic === undefined ? given : atomic.chunk;
    const view = viewOf(chunk);
    if (view === undefined) {
      this.abort(); // The stream errors.
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
      if (writing === undefined) return this.#refuseAtomic(atomic!, behind);
      await writing;
      this.bytes += byteLength;
    } catch (error) {
      this.#end();
      throw error;
    }
  }

  /** Called by the stream. */
  close(): Promise<void> {
    this.#end();
    const closing = this.#closing = Promise.withResolvers<void>();
    this.#half.close().then(closing.resolve, closing.reject);
    return closing.promise;
  }

  /** Called by the stream. */
  abort(reason?: unknown): void {
    this.#end();
    this.#half.abort(reason);
  }

  /** Ends it with the session. */
  fail(error: unknown): void {
    if (this.#isOver) return;
    this.#end();
    this.#controller?.error(error);
  }

  /** There is nothing left of it. */
  release(): void {}

  /** Refuses a chunk that does not fit, and all behind it: the order of writes is kept. */
  #refuseAtomic(first: AtomicChunk, behind: number): void {
    const failure = new DOMException(
      "Cannot write at once: the server's flow control allows less for now",
      "AbortError",
    );
    if (behind > this.#atomic.size) {
      // A write that is not atomic waits too, and cannot fail alone.
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

/** A stream that sends. Its chunks are bytes: anything that is a `BufferSource`. */
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
   * @ignore Creates a stream; only `createUnidirectionalStream()` and `createBidirectionalStream()`
   * can.
   *
   * @param source What is behind it.
   */
  constructor(source: SendSource | undefined = undefined) {
    const checked = constructible(source, SendSource);
    super(checked, checked.strategy);
    this.#source = checked;
  }

  /** The same without a web stream; use either. */
  get direct(): DirectWritable {
    return this.#source.half;
  }

  /** Higher goes first. */
  get sendOrder(): number {
    return this.#source.sendOrder;
  }

  set sendOrder(value: number) {
    this.#source.sendOrder = value;
  }

  /** The group it counts for; setting that of another session throws an `InvalidStateError`. */
  get sendGroup(): WebTransportSendGroup | null {
    return this.#source.sendGroup;
  }

  set sendGroup(value: WebTransportSendGroup | null) {
    this.#source.regroup(value);
  }

  /**
   * Locks the stream for a writer.
   *
   * @returns The writer.
   * @throws {TypeError} If the stream is locked.
   */
  override getWriter(): WebTransportWriter {
    return new WebTransportWriter(this.#source, this);
  }

  /**
   * Counts what was written.
   *
   * @returns The counters.
   */
  getStats(): Promise<WebTransportSendStreamStats> {
    return Promise.resolve({ bytesWritten: this.#source.bytes });
  }
}

/**
 * Writes to a stream that sends.
 *
 * @example All of a message, or nothing
 * ```ts
 * import type { WebTransport } from "@skein/skein";
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
   * @ignore Creates a writer; only `getWriter()` can.
   *
   * @param source What is behind the stream.
   * @param stream The stream, which is locked.
   */
  constructor(source: SendSource | undefined = undefined, stream?: WebTransportSendStream) {
    const checked = constructible(source, SendSource);
    super(stream!);
    this.#source = checked;
  }

  /**
   * Writes a chunk if the server's flow control of the session has room for all of it when its turn
   * comes, and fails otherwise, so that a transaction never stops in the middle.
   *
   * - **Failure:** all atomic writes that wait behind it fail too, and the stream goes on. Where others
   *   wait behind it the stream errors, since their order cannot be kept.
   * - **Known credit:** the session's, where both ends count. The runtime does not tell how much room
   *   a single QUIC stream has: where only that is missing the write waits like any other.
   *
   * @param chunk Anything that is a `BufferSource`.
   * @throws {DOMException} `AbortError` if there is no room for all of it.
   * @throws {TypeError} If the chunk is no `BufferSource`, which errors the stream, or the writer was
   * released.
   */
  atomicWrite(chunk: unknown = undefined): Promise<void> {
    return this.#source.writeAtomic(chunk, this);
  }

  /**
   * Has the bytes that were written so far delivered even if the stream is aborted. On this runtime
   * they are in any case: it resets no streams, and an abort looks like an end.
   */
  commit(): void {
    if (!(#source in this)) throw new TypeError("Illegal invocation");
  }
}
