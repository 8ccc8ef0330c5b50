/**
 * The direction of a stream that this end writes.
 *
 * @module
 */
import { writableOf } from "../_send_writable.ts";
import type { DirectWritable, SendStream } from "../connection.ts";
import type { StreamAccount } from "../_ledger.ts";
import { concat } from "./bytes.ts";
import { wireOrder } from "./send_order.ts";
import { errorOf, type StreamHalf, type StreamOwner, type TurnWatcher } from "./stream_halves.ts";

const EMPTY = new Uint8Array();

/** The direction that this end writes. */
export class SendHalf implements StreamHalf, DirectWritable, TurnWatcher {
  /** See {@linkcode StreamHalf}. */
  previous: StreamHalf | undefined = undefined;
  /** See {@linkcode StreamHalf}. */
  next: StreamHalf | undefined = undefined;

  readonly #owner: StreamOwner;
  readonly #stream: Deno.QuicSendStream;
  readonly #writer: WritableStreamDefaultWriter<Uint8Array>;
  readonly #onEnd: (() => void) | undefined;
  #account: StreamAccount | undefined;
  #pending: PromiseWithResolvers<void> | undefined = undefined;
  #morePending: Set<PromiseWithResolvers<void>> | undefined = undefined;
  #head: Uint8Array | undefined;
  #sendOrder = 0;
  /** Writes that wait for credit, in order; never rejects. */
  #waiting: Promise<void> | undefined = undefined;
  #givingUp: AbortController | undefined = undefined;
  #isClosing = false;
  #isEnded = false;
  #failure: { readonly cause: unknown } | undefined = undefined;
  #writable: SendStream | undefined = undefined;
  #controller: WritableStreamDefaultController | undefined = undefined;

  /**
   * Takes over a stream.
   *
   * @param owner The session.
   * @param stream Is written to.
   * @param options What has to go out ahead of everything else, if anything, what to do at the end, and
   * who counts; without an account it is nobody's stream, and the session counts its bytes apart.
   */
  constructor(
    owner: StreamOwner,
    stream: Deno.QuicSendStream,
    options: {
      readonly head?: Uint8Array | undefined;
      readonly onEnd?: (() => void) | undefined;
      readonly account?: StreamAccount | undefined;
    } = {},
  ) {
    this.#owner = owner;
    this.#stream = stream;
    this.#writer = stream.getWriter();
    this.#writer.closed.catch(() => {}); // Whoever writes is told.
    this.#head = options.head;
    this.#onEnd = options.onEnd;
    this.#account = options.account;
    owner.halves.add(this);
  }

  /** Higher goes first. */
  get sendOrder(): number {
    return this.#sendOrder;
  }

  set sendOrder(value: number) {
    this.#sendOrder = value;
    // The runtime knows no stream any more that ended.
    if (!this.#isEnded) this.#stream.sendOrder = wireOrder(value);
  }

  /** See {@linkcode DirectStream.write}. */
  write(bytes: Uint8Array): Promise<void> {
    return this.writeAtOnce(bytes) ?? this.#writeInTurn(bytes);
  }

  /** Writes bytes if there is credit for all of them now; `undefined` if there is not. */
  writeAtOnce(bytes: Uint8Array): Promise<void> | undefined {
    if (this.#failure !== undefined) return Promise.reject(this.#failure.cause);
    if (this.#isClosing) return Promise.reject(new TypeError("Cannot write: the stream is closed"));
    const credit = this.#owner.dataCredit?.send;
    const isFree = credit === undefined ||
      this.#waiting === undefined && credit.takeNow(bytes.byteLength);
    return isFree ? this.#write(bytes) : undefined;
  }

  /** See {@linkcode TurnWatcher}; the peer learns of a stream that is not written to. */
  endTurn(): void {
    this.flushHead();
  }

  /** Sends the head by itself, if nothing was written yet. */
  flushHead(): void {
    if (this.#head !== undefined && !this.#isEnded) this.#write(EMPTY).catch(() => {});
  }

  /** See {@linkcode DirectStream.close}. */
  async close(): Promise<void> {
    if (this.#failure !== undefined) throw this.#failure.cause;
    if (this.#isClosing) return;
    this.flushHead();
    this.#isClosing = true;
    if (this.#waiting !== undefined) await this.#waiting;
    if (this.#failure !== undefined) throw (this.#failure as { cause: unknown }).cause;
    await this.#settle(this.#writer.close());
    if (!this.#isEnded) this.#account?.ended();
    this.#end();
  }

  /** See {@linkcode DirectStream.abort}; to the peer it looks like a normal end. */
  abort(reason?: unknown): void {
    if (this.#isEnded || this.#isClosing && this.#waiting === undefined) return;
    this.flushHead();
    this.#fail(reason ?? new TypeError("The stream was aborted"));
    this.#writer.abort(reason).catch(() => {});
  }

  /** Ends it with the session. */
  fail(error: unknown): void {
    if (this.#isEnded) return;
    this.#fail(error);
    this.#controller?.error(error);
  }

  /** It is nobody's stream after all: nothing was written. */
  discard(): void {
    this.#account = undefined;
  }

  /** Not before the peer knows: to it this looks like a normal end. */
  release(): void {
    this.#writer.abort().catch(() => {});
  }

  /** The same as a writable stream; made when it is asked for. */
  get writable(): SendStream {
    return this.#writable ??= writableOf(this, (controller) => {
      this.#controller = controller;
      if (this.#failure !== undefined) controller.error(this.#failure.cause);
    });
  }

  #write(bytes: Uint8Array): Promise<void> {
    const owner = this.#owner;
    const head = this.#head;
    let data = bytes;
    if (head !== undefined) {
      this.#head = undefined;
      data = concat(head, bytes);
    }
    if (this.#account === undefined) owner.bytesSent += bytes.byteLength;
    else this.#account.ledger.streamBytesSent += bytes.byteLength;
    return this.#settle(this.#writer.write(data));
  }

  /** What the runtime does, unless the session ends first. */
  #settle(done: Promise<void>): Promise<void> {
    const write = Promise.withResolvers<void>();
    // Most often there is one at a time.
    if (this.#pending === undefined) this.#pending = write;
    else (this.#morePending ??= new Set()).add(write);
    done.then(
      () => {
        this.#forget(write);
        write.resolve();
      },
      (error) => {
        this.#forget(write);
        if (this.#failure === undefined) this.#fail(errorOf(this.#owner, error));
        const { cause } = this.#failure!;
        write.reject(cause);
        this.#controller?.error(cause);
      },
    );
    return write.promise;
  }

  #forget(write: PromiseWithResolvers<void>): void {
    if (this.#pending === write) this.#pending = undefined;
    else this.#morePending?.delete(write);
  }

  #fail(error: unknown): void {
    this.#failure = { cause: error };
    this.#isClosing = true;
    if (!this.#isEnded) this.#account?.ended(error);
    this.#end();
    this.#pending?.reject(error);
    for (const write of this.#morePending ?? []) write.reject(error);
    this.#givingUp?.abort(error);
  }

  /** One after the other: what is written in parts must not be mixed. */
  #writeInTurn(bytes: Uint8Array): Promise<void> {
    const write = (this.#waiting ?? Promise.resolve()).then(() => this.#writeWithCredit(bytes));
    const waiting = this.#waiting = write.then(() => {}, () => {}).then(() => {
      if (this.#waiting === waiting) this.#waiting = undefined;
    });
    return write;
  }

  async #writeWithCredit(bytes: Uint8Array): Promise<void> {
    const { send } = this.#owner.dataCredit!;
    const { signal } = this.#givingUp ??= new AbortController();
    for (let rest = bytes; rest.byteLength > 0;) {
      if (this.#failure !== undefined) throw this.#failure.cause;
      const count = await send.take(rest.byteLength, { signal });
      await this.#write(rest.subarray(0, count));
      rest = rest.subarray(count);
    }
  }

  #end(): void {
    if (this.#isEnded) return;
    this.#isEnded = true;
    this.#owner.halves.delete(this);
    this.#onEnd?.();
  }
}
