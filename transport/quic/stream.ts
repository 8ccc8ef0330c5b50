/**
 * Bidirectional streams over QUIC. The read buffers grow with the data, and the stream head is sent
 * together with the first bytes.
 *
 * The runtime's QUIC has limits. It cannot reset a stream, so `abort` looks like a normal end to
 * the peer, and it can send STOP_SENDING only with code 0. Codes from the peer can be read. If the
 * peer sends STOP_SENDING, the next write fails.
 *
 * @module
 */
import type { BidirectionalStream, DirectStream } from "../connection.ts";
import type { ReceiveHalf } from "./receive_half.ts";
import type { SendHalf } from "./send_half.ts";
import type { TurnWatcher } from "./stream_owner.ts";

/** A bidirectional stream that consists of both halves, with plain calls and web streams. */
export class QuicStream implements BidirectionalStream, DirectStream, TurnWatcher {
  readonly #receive: ReceiveHalf;
  readonly #send: SendHalf;

  constructor(receive: ReceiveHalf, send: SendHalf) {
    this.#receive = receive;
    this.#send = send;
  }

  get readable(): ReadableStream<Uint8Array> {
    return this.#receive.readable;
  }

  get writable(): WritableStream<Uint8Array> {
    return this.#send.writable;
  }

  get direct(): DirectStream {
    return this;
  }

  /** Removes the stream from the counters, before the first read or write. */
  discard(): void {
    this.#receive.discard()?.discard();
    this.#send.discard();
  }

  /** True once the application has started to read. */
  get isRead(): boolean {
    return this.#receive.isRead;
  }

  /** Marks the stream as taken by the application. */
  taken(): void {
    this.#receive.taken();
  }

  /** Tells whether the argument is the receiving half of this stream. */
  receivesBy(half: unknown): boolean {
    return this.#receive === half;
  }

  /** Called at the end of a turn of the event loop; see {@linkcode ReceiveHalf.endTurn}. */
  endTurn(): void {
    this.#receive.endTurn();
  }

  get sendOrder(): number {
    return this.#send.sendOrder;
  }

  set sendOrder(value: number) {
    this.#send.sendOrder = value;
  }

  read(used?: Uint8Array | null): Promise<Uint8Array | null> {
    return this.#receive.read(used);
  }

  write(bytes: Uint8Array): Promise<void> {
    return this.#send.write(bytes);
  }

  /** Writes bytes if there is credit for all of them now. Otherwise returns `undefined`. */
  writeAtOnce(bytes: Uint8Array): Promise<void> | undefined {
    return this.#send.writeAtOnce(bytes);
  }

  close(): Promise<void> {
    return this.#send.close();
  }

  cancel(reason?: unknown): void {
    this.#receive.cancel(reason);
  }

  abort(reason?: unknown): void {
    this.#send.abort(reason);
  }
}
