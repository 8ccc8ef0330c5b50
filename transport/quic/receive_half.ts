/** The receiving direction of a QUIC stream. */
import { closeBytes } from "../byte_stream.ts";
import type { DirectReadable, ReceiveStream } from "../connection.ts";
import type { StreamAccount } from "../counters.ts";
import { streamFailure } from "../deno_errors.ts";
import { STREAM_WINDOW_BYTES, type UnreadStream } from "./unread_streams.ts";
import {
  streamErrorOf,
  type StreamHalf,
  type StreamOwner,
  type TurnWatcher,
} from "./stream_owner.ts";

/**
 * The minimum size of a read. After a small message, usually only the end of the stream follows.
 */
const MIN_READ_BYTES = 256;

/**
 * The number of consecutive small reads after which a stream counts as a stream of messages, and
 * uses small buffers.
 */
const MAX_SMALL_READS = 16;

/**
 * The maximum number of bytes that are read ahead of the application. It is enough to see the end
 * of most messages, and small compared with the runtime's buffer.
 */
const MAX_EARLY_BYTES = 16_384;

/**
 * The direction of a stream in which the peer writes.
 *
 * - **End:** {@linkcode ReceiveHalf.endTurn} reads ahead if the application does not read, so that
 *   the peer regains the stream credit of a stream that has ended.
 * - **Limit:** the stream counts as unread until the application takes it. It counts as unread
 *   again while the application does not read it and the runtime may hold more data.
 * - **Session:** if the session ends before the stream, the stream fails. Once the end of the
 *   stream has been seen, its data can still be read after the session has ended.
 */
export class ReceiveHalf implements StreamHalf, DirectReadable, TurnWatcher, UnreadStream {
  previous: StreamHalf | undefined = undefined;
  next: StreamHalf | undefined = undefined;

  readonly #owner: StreamOwner;
  readonly #reader: ReadableStreamBYOBReader;
  readonly #onEnd: (() => void) | undefined;
  #account: StreamAccount | undefined;
  #held: Uint8Array | undefined;
  /** The bytes read ahead of the application; `undefined` if the stream is not read ahead. */
  #early: Uint8Array[] | undefined = undefined;
  #reading: Promise<void> | undefined = undefined;
  #isTaken = false;
  #isWanted = false;
  #isUnread = false;
  /** Learns from the size of the first read; `undefined` afterwards. */
  #firstReads: FirstReads | undefined;
  #size: number;
  #smallReads = 0;
  #isEnded = false;
  #failure: { readonly cause: unknown } | undefined = undefined;
  #readable: ReceiveStream | undefined = undefined;
  #controller: ReadableByteStreamController | undefined = undefined;
  #ahead: Promise<Uint8Array | null> | undefined = undefined;
  #isFinished = false;

  /**
   * Wraps a reader.
   *
   * @param head The state at the start of the stream. `held` contains bytes that were already read,
   * and `isFull` means that more bytes probably follow. `firstReadBytes` is the size of the next
   * read, unless `firstReads` determines it from the sizes of other streams. `onEnd` is called when
   * the direction ends. If there is no `account`, the stream is internal, and the owner counts its
   * bytes separately.
   */
  constructor(
    owner: StreamOwner,
    reader: ReadableStreamBYOBReader,
    head: {
      readonly held?: Uint8Array | undefined;
      readonly isFull?: boolean | undefined;
      readonly firstReadBytes?: number | undefined;
      readonly firstReads?: FirstReads | undefined;
      readonly onEnd?: (() => void) | undefined;
      readonly account?: StreamAccount | undefined;
    } = {},
  ) {
    this.#owner = owner;
    this.#reader = reader;
    this.#onEnd = head.onEnd;
    this.#account = head.account;
    this.#firstReads = head.firstReads;
    this.#size = head.firstReads?.bytes ?? head.firstReadBytes ?? MIN_READ_BYTES;
    const { held } = head;
    if (held !== undefined && held.byteLength > 0) {
      this.#held = held;
      this.#count(held.byteLength);
      if (head.isFull) this.#size = nextReadBytes(FIRST_READ_BYTES);
    }
    owner.halves.add(this);
  }

  read(used?: Uint8Array | null): Promise<Uint8Array | null> {
    this.#isWanted = true;
    if (this.#isUnread) this.#countNoMore();
    const held = this.#held;
    if (held !== undefined) {
      this.#held = undefined;
      this.#release(held.byteLength);
      return Promise.resolve(held);
    }
    return this.#early === undefined ? this.#read(used) : this.#readEarly(used);
  }

  /** True once the application has started to read. */
  get isRead(): boolean {
    return this.#isWanted;
  }

  /** Marks the stream as taken by the application. */
  taken(): void {
    this.#isTaken = true;
    if (this.#isUnread) this.#owner.unread?.taken(this);
  }

  /** Rejects the stream, whose data the application has not read. */
  reject(error: Error): void {
    this.#owner.rejectUnread(this, error);
  }

  /**
   * Called at the end of the turn in which the stream arrived, or in which the application took it.
   * If the application took the stream but does not read it, the stream is read ahead. If the
   * application did not take the stream, it counts as unread from now on.
   */
  endTurn(): void {
    if (this.#isWanted || this.#isEnded || this.#early !== undefined) return;
    if (!this.#isTaken) return this.#countUnread();
    this.#early = [];
    this.#reading = this.#readAhead(this.#early);
  }

  cancel(reason?: unknown): void {
    this.#isFinished = true;
    if (this.#isEnded) return this.#drop();
    this.#account?.cut(reason, "stopped reading");
    this.#cut();
    this.#reader.cancel(reason).catch(() => {}); // Fails if the connection has ended.
  }

  fail(error: unknown): void {
    if (this.#isEnded) return;
    this.#failure = { cause: error };
    this.#isFinished = true;
    this.#account?.ended(error);
    this.#cut();
    this.#reader.cancel().catch(() => {}); // Fails if the connection has ended.
    this.#controller?.error(error);
  }

  /** Makes the stream internal, and removes it from the counters. */
  discard(): StreamAccount | undefined {
    const account = this.#account;
    if (account === undefined) return undefined;
    if (this.#isUnread) this.#countNoMore();
    const unreadBytes = this.#unreadBytes;
    account.ledger.streamBytesReceived -= unreadBytes;
    this.#owner.bytesReceived += unreadBytes;
    this.#account = undefined;
    return account;
  }

  /** Does nothing, because this direction needs no release. */
  release(): void {}

  /** This direction as a byte stream, which is created on first use. */
  get readable(): ReceiveStream {
    return this.#readable ??= Object.defineProperty(
      new ReadableStream({
        type: "bytes",
        start: (controller) => {
          this.#controller = controller;
        },
        pull: (controller) => this.#pull(controller),
        cancel: (reason) => this.cancel(reason),
      }, { highWaterMark: 0 }),
      "direct",
      { value: this },
    );
  }

  /** The number of received bytes that the application has not read. */
  get #unreadBytes(): number {
    let unread = this.#held?.byteLength ?? 0;
    for (const { byteLength } of this.#early ?? []) unread += byteLength;
    return unread;
  }

  async #readAhead(early: Uint8Array[]): Promise<void> {
    try {
      for (let left = MAX_EARLY_BYTES; left > 0 && !this.#isWanted;) {
        const bytes = await this.#read(null, true);
        if (bytes === null) return;
        early.push(bytes);
        left -= bytes.byteLength;
      }
      // From now on, the runtime holds the incoming data.
      if (!this.#isWanted) this.#countUnread();
    } catch {
      // The reader receives the error on its next read, and the session when it ends.
    } finally {
      this.#reading = undefined;
    }
  }

  /**
   * Counts the stream as unread, unless it is internal. If a limit is exceeded, the stream is
   * rejected.
   */
  #countUnread(): void {
    const { unread } = this.#owner;
    if (unread === undefined || this.#isUnread || this.#account === undefined) return;
    const rejection = unread.take();
    if (rejection !== undefined) return this.reject(rejection);
    this.#isUnread = true;
    if (!this.#isTaken) unread.expect(this);
  }

  #countNoMore(): void {
    this.#isUnread = false;
    this.#owner.unread?.taken(this);
    this.#owner.unread?.release();
  }

  /** Returns the bytes that were read ahead, and continues with plain reads afterwards. */
  async #readEarly(used: Uint8Array | null | undefined): Promise<Uint8Array | null> {
    if (this.#early?.length === 0) await this.#reading;
    const bytes = this.#early?.shift();
    if (bytes === undefined) {
      this.#early = undefined;
      return await this.#read(used);
    }
    this.#release(bytes.byteLength);
    return bytes;
  }

  async #read(used?: Uint8Array | null, isEarly = false): Promise<Uint8Array | null> {
    if (this.#failure !== undefined) throw this.#failure.cause;
    if (this.#isEnded) return null;
    const isLent = !isLarge(used, this.#size);
    const view = isLent ? ReadBuffers.take(this.#size) : new Uint8Array(used.buffer);
    const room = view.byteLength; // The size is read before the buffer is detached.
    let bytes: Uint8Array | undefined;
    try {
      const result = await this.#reader.read(view);
      if (!result.done) bytes = isLent ? ReadBuffers.settle(result.value) : result.value;
      else if (result.value !== undefined) ReadBuffers.giveBack(result.value.buffer);
    } catch (error) {
      // The owner reports a lost connection, because it knows the reason.
      if (isEarly && streamFailure(error) === undefined) throw error;
      this.#failure ??= { cause: streamErrorOf(this.#owner, error) };
      if (!this.#isEnded) this.#account?.ended(this.#failure.cause);
      this.#cut();
    }
    // The session may have ended in the meantime.
    if (this.#failure !== undefined) throw (this.#failure as { cause: unknown }).cause;
    if (bytes === undefined) {
      if (!this.#isEnded) this.#account?.ended();
      this.#end();
      return null;
    }
    const { byteLength } = bytes;
    this.#firstReads?.learn(byteLength, room);
    this.#firstReads = undefined;
    if (byteLength === room) this.#size = nextReadBytes(this.#size);
    this.#smallReads = byteLength < MIN_READ_BYTES ? this.#smallReads + 1 : 0;
    if (this.#smallReads > MAX_SMALL_READS) this.#size = MIN_READ_BYTES;
    this.#count(byteLength);
    if (!isEarly) this.#release(byteLength);
    return bytes;
  }

  async #pull(controller: ReadableByteStreamController): Promise<void> {
    const bytes = await (this.#ahead ?? this.read());
    if (bytes === null) return this.#finish(controller);
    controller.enqueue(bytes as Uint8Array<ArrayBuffer>);
    // One chunk is read ahead, because the peer regains the stream credit only once the end has
    // been seen.
    this.#ahead = this.read();
    this.#ahead.then((next) => next ?? this.#finish(controller), () => {});
  }

  #finish(controller: ReadableByteStreamController): void {
    if (this.#isFinished) return;
    this.#isFinished = true;
    closeBytes(controller);
  }

  #count(bytes: number): void {
    const owner = this.#owner;
    if (this.#account === undefined) owner.bytesReceived += bytes;
    else this.#account.ledger.streamBytesReceived += bytes;
    if (owner.dataCredit !== undefined && !owner.dataCredit.receive.receive(bytes)) owner.overrun();
  }

  /**
   * Returns credit to the peer. The stream that carries the session's messages must not wait for
   * credit that the application grants.
   */
  #release(bytes: number): void {
    const receive = this.#owner.dataCredit?.receive;
    if (this.#account === undefined) receive?.giveBack(bytes);
    else receive?.release(bytes);
  }

  /**
   * Ends the direction early. The peer would wait forever if it did not regain the credit for the
   * bytes that it has sent, but the runtime does not report their number. The amount returned is
   * therefore at most the QUIC window, and at most the granted bytes that have not arrived. Each
   * such stream widens the window by at most this amount, until the peer reports that it is
   * blocked. A window that is not automatic is not changed.
   */
  #cut(): void {
    if (this.#isEnded) return;
    this.#end();
    this.#drop();
    this.#owner.dataCredit?.receive.lose(STREAM_WINDOW_BYTES);
  }

  #drop(): void {
    const unreadBytes = this.#unreadBytes;
    this.#held = this.#early = undefined;
    if (unreadBytes > 0) this.#owner.dataCredit?.receive.release(unreadBytes);
  }

  /**
   * Ends the direction. Bytes that were read ahead can still be read, even after the session has
   * ended.
   */
  #end(): void {
    if (this.#isEnded) return;
    this.#isEnded = true;
    if (this.#isUnread) this.#countNoMore();
    this.#owner.halves.delete(this);
    this.#onEnd?.();
  }
}

/** Tells whether a used buffer is large enough for the next read. */
function isLarge(
  used: Uint8Array | null | undefined,
  size: number,
): used is Uint8Array<ArrayBuffer> {
  const buffer = used?.buffer;
  return buffer instanceof ArrayBuffer && buffer.byteLength >= size;
}

/**
 * The size of the first read of a stream. It is small because a pending read pins its buffer, but
 * the stream head and a small message fit.
 */
export const FIRST_READ_BYTES = 1_024;

/** The size of the second read, if the first read filled its buffer. */
const NEXT_READ_BYTES = 16_384;

/**
 * The size of the first read of each stream of one connection. For streams of 12 kB, one read takes
 * a tenth less CPU time than two. The size grows only if streams fill the buffer. A peer that sends
 * such streams can pin a large buffer per stream in any case, because a large read follows a full
 * one.
 */
export class FirstReads {
  #bytes = FIRST_READ_BYTES;

  /** The size of the first read of the next stream. */
  get bytes(): number {
    return this.#bytes;
  }

  /** Adapts the size to the first read of a stream. */
  learn(byteLength: number, room: number): void {
    if (byteLength === room) this.#bytes = NEXT_READ_BYTES;
    else if (byteLength < FIRST_READ_BYTES) this.#bytes = FIRST_READ_BYTES;
  }
}

/** The maximum size of a read, used after all further full reads. */
const MAX_READ_BYTES = 65_536;

/** The maximum number of idle buffers of each size, 8.25 MiB in total. */
const MAX_POOLED_BUFFERS: ReadonlyMap<number, number> = new Map([
  [FIRST_READ_BYTES, 256],
  [NEXT_READ_BYTES, 256],
  [MAX_READ_BYTES, 64],
]);

/** The part of a large buffer up to which received bytes are copied out. */
const MAX_COPIED_PART = 1 / 4;

/** Computes the size of the next read, after a read that filled its buffer. */
export function nextReadBytes(size: number): number {
  return size < NEXT_READ_BYTES ? NEXT_READ_BYTES : MAX_READ_BYTES;
}

/**
 * A pool of read buffers. Memory outside the heap is slow to allocate, clear and collect: with new
 * buffers, a stream of 12 kB costs twice as much.
 */
export class ReadBuffers {
  // This is module state, because memory belongs to the process. One pool serves all connections.
  static readonly #pools: ReadonlyMap<number, ArrayBuffer[]> = new Map(
    MAX_POOLED_BUFFERS.keys().map((size) => [size, []]),
  );

  /**
   * Takes a buffer from the pool, or creates one if the pool is empty.
   *
   * @param size The size in bytes.
   * @returns A view of the whole buffer, whose content is arbitrary.
   */
  static take(size: number): Uint8Array<ArrayBuffer> {
    const buffer = this.#pools.get(size)?.pop();
    return buffer === undefined ? new Uint8Array(size) : new Uint8Array(buffer);
  }

  /**
   * Returns an unused buffer to the pool.
   *
   * @param buffer The buffer. It is ignored if its size is not a pooled one.
   */
  static giveBack(buffer: ArrayBuffer): void {
    const size = buffer.byteLength;
    const pool = this.#pools.get(size);
    if (pool !== undefined && pool.length < MAX_POOLED_BUFFERS.get(size)!) pool.push(buffer);
  }

  /**
   * If a large buffer is mostly empty, copies the bytes out of it and returns the buffer to the
   * pool.
   *
   * @returns The same bytes, which belong to the reader.
   */
  static settle(bytes: Uint8Array<ArrayBuffer>): Uint8Array<ArrayBuffer> {
    const { buffer, byteLength } = bytes;
    const size = buffer.byteLength;
    if (size < NEXT_READ_BYTES || byteLength > size * MAX_COPIED_PART) return bytes;
    const copy = bytes.slice();
    this.giveBack(buffer);
    return copy;
  }
}
