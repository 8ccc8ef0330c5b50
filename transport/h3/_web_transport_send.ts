/**
 * Streams of the W3C's WebTransport that send: web streams over the halves of a
 * session. They hold what the W3C's text has them hold; `direct` goes around them.
 *
 * @module
 */
import type { DirectWritable, SendStream } from "../connection.ts";
import { toInteger, wireOrder } from "./_send_order.ts";
import type { StreamHalf, StreamHalves } from "./stream_halves.ts";
import { viewOf } from "./_web_transport_options.ts";

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
export interface GroupState {
  /** Those that are open. */
  readonly streams: Set<SendSource>;
  /** Bytes written to those that ended. */
  endedBytes: number;
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
}

/**
 * Counts streams together. QUIC knows no groups: in the order of sending there is
 * one sequence of numbers for all, and `sendOrder` decides across groups.
 */
export class WebTransportSendGroup {
  readonly #state: GroupState;

  /**
   * @ignore Creates a group; `createSendGroup()` does.
   *
   * @param state What its streams have in common.
   */
  constructor(state: GroupState) {
    this.#state = state;
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

  /** Called by the stream. */
  async write(chunk: unknown): Promise<void> {
    const view = viewOf(chunk);
    if (view === undefined) {
      this.abort(); // The stream errors.
      throw new TypeError(
        `Cannot write to stream: chunk must be a BufferSource, received ${typeof chunk}`,
      );
    }
    const { byteLength } = view;
    if (byteLength === 0) return;
    try {
      await this.#half.write(view.slice());
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
  readonly #source: SendSource;

  /**
   * @ignore Creates a stream; `createUnidirectionalStream()` and `createBidirectionalStream()` do.
   *
   * @param source What is behind it.
   */
  constructor(source: SendSource) {
    super(source);
    this.#source = source;
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
   * Counts what was written.
   *
   * @returns The counters.
   */
  getStats(): Promise<WebTransportSendStreamStats> {
    return Promise.resolve({ bytesWritten: this.#source.bytes });
  }
}
