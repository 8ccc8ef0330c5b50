/**
 * A stream of QMux, by plain calls or as web streams.
 *
 * @module
 */
import type { StreamAccount } from "../_ledger.ts";
import type { BidirectionalStream, DirectStream, StreamDirection } from "../connection.ts";
import type { ReceiveHalf } from "./receive_half.ts";
import type { SendHalf } from "./send_half.ts";

/** A stream of either direction; one that goes one way lacks a half. */
export class QmuxStream implements BidirectionalStream, DirectStream {
  /** Its number, which says who opened it and which way it goes. */
  readonly id: number;
  /** Which way it goes. */
  readonly direction: StreamDirection;
  /** Whether the peer opened it. */
  readonly isRemote: boolean;
  /** Counts it. */
  readonly account: StreamAccount;
  /** Whether it is in the list of those that have a frame without a payload to send. */
  hasControl = false;
  /** Whether it is no stream of the application, but carries its messages. */
  carriesMessages = false;
  /** Whether the application has it, or never will. */
  isAccepted: boolean;
  /** What this end writes. */
  send: SendHalf | undefined = undefined;
  /** What the peer writes. */
  receive: ReceiveHalf | undefined = undefined;

  /** Creates a stream, whose halves follow. */
  constructor(
    id: number,
    options: {
      readonly direction: StreamDirection;
      readonly isRemote: boolean;
      readonly account: StreamAccount;
    },
  ) {
    this.id = id;
    this.direction = options.direction;
    this.isRemote = options.isRemote;
    this.isAccepted = !options.isRemote;
    this.account = options.account;
  }

  /** What the peer writes. */
  get readable(): ReadableStream<Uint8Array> {
    return this.receive!.readable;
  }

  /** What this end writes. */
  get writable(): WritableStream<Uint8Array> {
    return this.send!.writable;
  }

  /** This stream, by plain calls. */
  get direct(): DirectStream {
    return this;
  }

  /** Higher goes first. */
  get sendOrder(): number {
    return this.send!.sendOrder;
  }

  set sendOrder(value: number) {
    this.send!.sendOrder = value;
  }

  /** Whether all of it is over. */
  get isOver(): boolean {
    return (this.send?.isOver ?? true) && (this.receive?.isOver ?? true);
  }

  /** See {@linkcode DirectStream.read}. */
  read(): Promise<Uint8Array | null> {
    return this.receive!.read();
  }

  /** See {@linkcode DirectStream.write}, and {@linkcode SendHalf.write} of its options. */
  write(bytes: Uint8Array, options?: Parameters<SendHalf["write"]>[1]): Promise<void> {
    return this.send!.write(bytes, options);
  }

  /** See {@linkcode DirectStream.close}. */
  close(): Promise<void> {
    return this.send!.close();
  }

  /** See {@linkcode DirectStream.cancel}. */
  cancel(reason?: unknown): void {
    this.receive?.cancel(reason);
  }

  /** See {@linkcode DirectStream.abort}. */
  abort(reason?: unknown): void {
    this.send?.abort(reason);
  }

  /** Ends it with the connection. */
  fail(error: unknown): void {
    this.send?.fail(error);
    this.receive?.fail(error);
  }
}
