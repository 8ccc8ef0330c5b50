/**
 * Streams of a WebTransport session over QUIC's own, read with buffers that
 * grow with what comes, and written with their head and first bytes in one.
 *
 * What the runtime's QUIC cannot do, and what follows: it cannot reset a
 * stream, so `abort` looks like a normal end to the peer, and it stops reading
 * with code 0 only. The codes of a peer are read. A peer that stops reading is
 * noticed by the next write.
 *
 * @module
 */
import type { BidirectionalStream, DirectStream } from "../connection.ts";
import type { ReceiveHalf } from "./receive_half.ts";
import type { SendHalf } from "./send_half.ts";
import type { TurnWatcher } from "./stream_halves.ts";

/** A bidirectional stream: both halves, by plain calls or as web streams. */
export class Http3Stream implements BidirectionalStream, DirectStream, TurnWatcher {
  readonly #receive: ReceiveHalf;
  readonly #send: SendHalf;

  /**
   * Joins two halves.
   *
   * @param receive What the peer writes.
   * @param send What this end writes.
   */
  constructor(receive: ReceiveHalf, send: SendHalf) {
    this.#receive = receive;
    this.#send = send;
  }

  /** What the peer writes. */
  get readable(): ReadableStream<Uint8Array> {
    return this.#receive.readable;
  }

  /** What this end writes. */
  get writable(): WritableStream<Uint8Array> {
    return this.#send.writable;
  }

  /** This stream, by plain calls. */
  get direct(): DirectStream {
    return this;
  }

  /** Takes it out of the counters; nothing was read or written yet. */
  discard(): void {
    this.#receive.discard()?.discard();
    this.#send.discard();
  }

  /** The application has the stream. */
  taken(): void {
    this.#receive.taken();
  }

  /** Tells whether a direction is the one of this stream that the peer writes. */
  receivesBy(half: unknown): boolean {
    return this.#receive === half;
  }

  /** See {@linkcode TurnWatcher}. */
  endTurn(): void {
    this.#receive.endTurn();
  }

  /** Higher goes first. */
  get sendOrder(): number {
    return this.#send.sendOrder;
  }

  set sendOrder(value: number) {
    this.#send.sendOrder = value;
  }

  /** See {@linkcode DirectStream.read}. */
  read(used?: Uint8Array | null): Promise<Uint8Array | null> {
    return this.#receive.read(used);
  }

  /** See {@linkcode DirectStream.write}. */
  write(bytes: Uint8Array): Promise<void> {
    return this.#send.write(bytes);
  }

  /** Writes bytes if there is credit for all of them now; `undefined` if there is not. */
  writeAtOnce(bytes: Uint8Array): Promise<void> | undefined {
    return this.#send.writeAtOnce(bytes);
  }

  /** See {@linkcode DirectStream.close}. */
  close(): Promise<void> {
    return this.#send.close();
  }

  /** See {@linkcode DirectStream.cancel}. */
  cancel(reason?: unknown): void {
    this.#receive.cancel(reason);
  }

  /** See {@linkcode DirectStream.abort}. */
  abort(reason?: unknown): void {
    this.#send.abort(reason);
  }
}
