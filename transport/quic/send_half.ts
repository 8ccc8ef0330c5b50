/** The sending direction of a QUIC stream. */
import { concat } from "../../base/bytes.ts";
import { writableOf } from "../direct.ts";
import type { DirectWritable, SendStream } from "../connection.ts";
import type { StreamAccount } from "../counters.ts";
import {
  streamErrorOf,
  type StreamHalf,
  type StreamOwner,
  type TurnWatcher,
} from "./stream_owner.ts";

const EMPTY = new Uint8Array();

/** The direction of a stream that this side writes. */
export class SendHalf implements StreamHalf, DirectWritable, TurnWatcher {
  previous: StreamHalf | undefined = undefined;
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
  /**
   * Resolves when the last of the writes that wait for credit, in order, is done. Never rejects.
   */
  #waiting: Promise<void> | undefined = undefined;
  #givingUp: AbortController | undefined = undefined;
  #isClosing = false;
  #isEnded = false;
  #failure: { readonly cause: unknown } | undefined = undefined;
  #writable: SendStream | undefined = undefined;
  #controller: WritableStreamDefaultController | undefined = undefined;

  /**
   * Wraps a stream of the runtime.
   *
   * @param options `head` is sent before the first bytes. `onEnd` is called when the direction
   * ends. If there is no `account`, the stream is internal, and the owner counts its bytes
   * separately.
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
    this.#writer.closed.catch(() => {}); // Writes report the error.
    this.#head = options.head;
    this.#onEnd = options.onEnd;
    this.#account = options.account;
    owner.halves.add(this);
  }

  get sendOrder(): number {
    return this.#sendOrder;
  }

  set sendOrder(value: number) {
    this.#sendOrder = value;
    // The runtime does not accept a priority for a stream that has ended.
    if (!this.#isEnded) this.#stream.sendOrder = wireOrder(value);
  }

  write(bytes: Uint8Array): Promise<void> {
    return this.writeAtOnce(bytes) ?? this.#writeInTurn(bytes);
  }

  /** Writes bytes if there is credit for all of them now. Otherwise returns `undefined`. */
  writeAtOnce(bytes: Uint8Array): Promise<void> | undefined {
    if (this.#failure !== undefined) return Promise.reject(this.#failure.cause);
    if (this.#isClosing) return Promise.reject(new TypeError("Cannot write: the stream is closed"));
    const credit = this.#owner.dataCredit?.send;
    const isFree = credit === undefined ||
      this.#waiting === undefined && credit.takeNow(bytes.byteLength);
    return isFree ? this.#write(bytes) : undefined;
  }

  /** Announces a stream to the peer before its first bytes. */
  endTurn(): void {
    this.flushHead();
  }

  /** Sends only the head, if no bytes have been written yet. */
  flushHead(): void {
    if (this.#head !== undefined && !this.#isEnded) this.#write(EMPTY).catch(() => {});
  }

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

  /**
   * Aborts the direction. The peer sees a normal end, because the runtime cannot reset a stream.
   */
  abort(reason?: unknown): void {
    if (this.#isEnded || this.#isClosing && this.#waiting === undefined) return;
    this.flushHead();
    this.#fail(reason ?? new TypeError("The stream was aborted"));
    this.#writer.abort(reason).catch(() => {});
  }

  fail(error: unknown): void {
    if (this.#isEnded) return;
    this.#fail(error);
    this.#controller?.error(error);
  }

  /** Makes the stream internal, before the first write. */
  discard(): void {
    this.#account = undefined;
  }

  /**
   * Ends the runtime's stream. Call this only once the peer has received the end of the session;
   * before that, the peer would see a normal end.
   */
  release(): void {
    this.#writer.abort().catch(() => {});
  }

  /** This direction as a writable stream, which is created on first use. */
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
      data = concat([head, bytes]);
    }
    if (this.#account === undefined) owner.bytesSent += bytes.byteLength;
    else this.#account.ledger.streamBytesSent += bytes.byteLength;
    return this.#settle(this.#writer.write(data));
  }

  /** Waits for an operation of the runtime, unless the session ends first. */
  #settle(done: Promise<void>): Promise<void> {
    const write = Promise.withResolvers<void>();
    // Usually, only one operation is pending at a time.
    if (this.#pending === undefined) this.#pending = write;
    else (this.#morePending ??= new Set()).add(write);
    done.then(
      () => {
        this.#forget(write);
        write.resolve();
      },
      (error) => {
        this.#forget(write);
        if (this.#failure === undefined) this.#fail(streamErrorOf(this.#owner, error));
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

  /** Queues a write, because writes that consist of several parts must not interleave. */
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

/** The highest QUIC priority for applications. The value above it is reserved for stream heads. */
const MAX_SEND_ORDER = 2 ** 31 - 2;
const MIN_SEND_ORDER = -(2 ** 31);

/** Converts a value to an integer like `long long` in Web IDL, within the range of numbers. */
export function toInteger(value: unknown): number {
  const whole = Math.trunc(Number(value));
  return Number.isFinite(whole) ? whole + 0 : 0;
}

/** Clamps a priority to QUIC's range. */
export function wireOrder(sendOrder: unknown): number {
  return Math.min(MAX_SEND_ORDER, Math.max(MIN_SEND_ORDER, toInteger(sendOrder)));
}
