/**
 * The direction of a stream that the peer writes.
 *
 * @module
 */
import type { DirectReadable, ReceiveStream } from "../connection.ts";
import type { StreamAccount } from "../_ledger.ts";
import { FIRST_READ_BYTES, nextReadBytes, ReadBuffers } from "./read_buffers.ts";
import { streamFailure } from "./runtime.ts";
import { STREAM_WINDOW_BYTES, type UnreadStream } from "./unread_streams.ts";
import { errorOf, type StreamHalf, type StreamOwner, type TurnWatcher } from "./stream_halves.ts";

export { FIRST_READ_BYTES };

/** After a small message there is most often the end. */
const MIN_READ_BYTES = 256;

/** After so many small reads in a row a stream carries messages, and no large buffer waits for them. */
const MAX_SMALL_READS = 16;

/**
 * Bytes that are read of a stream before its user asks for any: enough to see the end of most
 * messages, and little beside what the runtime holds.
 */
const MAX_EARLY_BYTES = 16_384;

/**
 * The direction that the peer writes.
 *
 * - **End:** {@linkcode ReceiveHalf.endTurn} reads ahead of a user that does not read, so that the
 *   peer gets back its credit for a stream that it ended.
 * - **Bound:** it counts as unread while the application does not take it, and while the application
 *   took it, reads nothing, and the runtime may hold more of it.
 * - **Session:** a stream that did not end before its session fails with it. One whose end was
 *   seen can still be read.
 */
export class ReceiveHalf implements StreamHalf, DirectReadable, TurnWatcher, UnreadStream {
  /** See {@linkcode StreamHalf}. */
  previous: StreamHalf | undefined = undefined;
  /** See {@linkcode StreamHalf}. */
  next: StreamHalf | undefined = undefined;

  readonly #owner: StreamOwner;
  readonly #reader: ReadableStreamBYOBReader;
  readonly #onEnd: (() => void) | undefined;
  #account: StreamAccount | undefined;
  #held: Uint8Array | undefined;
  /** Bytes that were read before they were asked for, while there may be more of them. */
  #early: Uint8Array[] | undefined = undefined;
  #reading: Promise<void> | undefined = undefined;
  #isTaken = false;
  #isWanted = false;
  #isUnread = false;
  #size: number;
  #smallReads = 0;
  #isEnded = false;
  #failure: { readonly cause: unknown } | undefined = undefined;
  #readable: ReceiveStream | undefined = undefined;
  #controller: ReadableByteStreamController | undefined = undefined;
  #ahead: Promise<Uint8Array | null> | undefined = undefined;
  #isFinished = false;

  /**
   * Takes over a reader.
   *
   * @param owner The session.
   * @param reader Reads the stream.
   * @param head What was read of it already, whether there is surely more, how much room the next read
   * has, what to do at its end, and who counts; without an account it is nobody's stream, and the
   * session counts its bytes apart.
   */
  constructor(
    owner: StreamOwner,
    reader: ReadableStreamBYOBReader,
    head: {
      readonly held?: Uint8Array | undefined;
      readonly isFull?: boolean;
      readonly firstReadBytes?: number;
      readonly onEnd?: (() => void) | undefined;
      readonly account?: StreamAccount | undefined;
    } = {},
  ) {
    this.#owner = owner;
    this.#reader = reader;
    this.#onEnd = head.onEnd;
    this.#account = head.account;
    this.#size = head.firstReadBytes ?? MIN_READ_BYTES;
    const { held } = head;
    if (held !== undefined && held.byteLength > 0) {
      this.#held = held;
      this.#count(held.byteLength);
      if (head.isFull) this.#size = nextReadBytes(FIRST_READ_BYTES);
    }
    owner.halves.add(this);
  }

  /** See {@linkcode DirectStream.read}. */
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

  /** The application has the stream. */
  taken(): void {
    this.#isTaken = true;
    if (this.#isUnread) this.#owner.unread?.taken(this);
  }

  /** Refuses the stream, of which nothing was read. */
  refuse(error: Error): void {
    this.#owner.refuseUnread(this, error);
  }

  /**
   * Begins to read, if its user has not: the turn in which the stream was taken is over. One that
   * came in this turn, and was not taken, counts as unread from now on.
   */
  endTurn(): void {
    if (this.#isWanted || this.#isEnded || this.#early !== undefined) return;
    if (!this.#isTaken) return this.#countUnread();
    this.#early = [];
    this.#reading = this.#readAhead(this.#early);
  }

  /** See {@linkcode DirectStream.cancel}. */
  cancel(reason?: unknown): void {
    this.#isFinished = true;
    if (this.#isEnded) return this.#drop();
    this.#account?.cut(reason, "stopped reading");
    this.#cut();
    this.#reader.cancel(reason).catch(() => {}); // The connection may be gone.
  }

  /** Ends it with the session. */
  fail(error: unknown): void {
    if (this.#isEnded) return;
    this.#failure = { cause: error };
    this.#isFinished = true;
    this.#account?.ended(error);
    this.#cut();
    this.#reader.cancel().catch(() => {}); // The connection may be gone.
    this.#controller?.error(error);
  }

  /** It is nobody's stream after all. */
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

  /** There is nothing left of it. */
  release(): void {}

  /** The same as a byte stream; made when it is asked for. */
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

  /** Bytes that came, and that nobody took. */
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
      // The runtime holds from now on what comes.
      if (!this.#isWanted) this.#countUnread();
    } catch {
      // Its user is told by a read, or its session by its own end.
    } finally {
      this.#reading = undefined;
    }
  }

  /** Counts it, unless it is no user's stream; refuses it beyond a bound. */
  #countUnread(): void {
    const { unread } = this.#owner;
    if (unread === undefined || this.#isUnread || this.#account === undefined) return;
    const refusal = unread.take();
    if (refusal !== undefined) return this.refuse(refusal);
    this.#isUnread = true;
    if (!this.#isTaken) unread.expect(this);
  }

  #countNoMore(): void {
    this.#isUnread = false;
    this.#owner.unread?.taken(this);
    this.#owner.unread?.release();
  }

  /** Gives what was read ahead, and then goes on as if nothing had been. */
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
    const room = view.byteLength; // It is detached while it is read into.
    let bytes: Uint8Array | undefined;
    try {
      const result = await this.#reader.read(view);
      if (!result.done) bytes = isLent ? ReadBuffers.settle(result.value) : result.value;
      else if (result.value !== undefined) ReadBuffers.giveBack(result.value.buffer);
    } catch (error) {
      // A lost connection is told by whoever knows why.
      if (isEarly && streamFailure(error) === undefined) throw error;
      this.#failure ??= { cause: errorOf(this.#owner, error) };
      if (!this.#isEnded) this.#account?.ended(this.#failure.cause);
      this.#cut();
    }
    // The session may have ended it meanwhile.
    if (this.#failure !== undefined) throw (this.#failure as { cause: unknown }).cause;
    if (bytes === undefined) {
      if (!this.#isEnded) this.#account?.ended();
      this.#end();
      return null;
    }
    const { byteLength } = bytes;
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
    // One read ahead: an end that nobody reads would give the peer no new stream.
    this.#ahead = this.read();
    this.#ahead.then((next) => next ?? this.#finish(controller), () => {});
  }

  #finish(controller: ReadableByteStreamController): void {
    if (this.#isFinished) return;
    this.#isFinished = true;
    try {
      controller.close();
    } catch {
      return; // The end is inside an element that is wider than a byte: the reader was told.
    }
    controller.byobRequest?.respond(0);
  }

  #count(bytes: number): void {
    const owner = this.#owner;
    if (this.#account === undefined) owner.bytesReceived += bytes;
    else this.#account.ledger.streamBytesReceived += bytes;
    if (owner.dataCredit !== undefined && !owner.dataCredit.receive.receive(bytes)) owner.overrun();
  }

  /** What carries messages must not wait for who grants by hand. */
  #release(bytes: number): void {
    const receive = this.#owner.dataCredit?.receive;
    if (this.#account === undefined) receive?.giveBack(bytes);
    else receive?.release(bytes);
  }

  /**
   * Ends it before its end. How much the peer has sent nobody tells; it counts
   * that, and would wait for ever for credit that is not given back. It can be no
   * more than QUIC holds, nor than all that was granted and did not come: by so
   * much at most each such stream widens the window, until the peer says that it
   * waits. A window that moves by hand stays as it is.
   */
  #cut(): void {
    if (this.#isEnded) return;
    this.#end();
    this.#drop();
    this.#owner.dataCredit?.receive.lose(STREAM_WINDOW_BYTES);
  }

  /** Drops what nobody took. */
  #drop(): void {
    const unreadBytes = this.#unreadBytes;
    this.#held = this.#early = undefined;
    if (unreadBytes > 0) this.#owner.dataCredit?.receive.release(unreadBytes);
  }

  /** Nothing more comes. What was read ahead stays for the user, also when the session ends. */
  #end(): void {
    if (this.#isEnded) return;
    this.#isEnded = true;
    if (this.#isUnread) this.#countNoMore();
    this.#owner.halves.delete(this);
    this.#onEnd?.();
  }
}

/** Whether the memory of earlier bytes is large enough for the next ones. */
function isLarge(
  used: Uint8Array | null | undefined,
  size: number,
): used is Uint8Array<ArrayBuffer> {
  const buffer = used?.buffer;
  return buffer instanceof ArrayBuffer && buffer.byteLength >= size;
}
