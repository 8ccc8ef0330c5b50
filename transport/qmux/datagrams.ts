/** The datagrams of QMux (RFC 9221), which are lost only if the queues of an end are full. */
import type { DatagramDuplex, DirectDatagrams } from "../connection.ts";
import type { Ledger } from "../counters.ts";
import { IncomingQueue } from "../incoming_queue.ts";

/**
 * The maximum number of datagrams held for a reader. Once it is exceeded, the oldest datagram is
 * dropped.
 */
export const MAX_HELD_DATAGRAMS = 256;

/**
 * The maximum number of datagrams that wait to be sent. Once it is exceeded, the oldest datagram is
 * dropped.
 */
export const MAX_WAITING_DATAGRAMS = 256;

/** The number of waiting datagrams from which a write to the web stream waits. */
const HIGH_WATER_DATAGRAMS = MAX_WAITING_DATAGRAMS / 2;

/** The part of a connection that its datagrams use. */
export interface DatagramHost {
  readonly ledger: Ledger;
  /** The size of the largest datagram that the peer accepts. */
  readonly maxDatagramSize: number;
  /** Tells whether the peer accepts a datagram of the given size. */
  takesDatagram(byteLength: number): boolean;
  /** Puts a datagram into a record immediately, if no other frame must be sent first. */
  sendDatagramNow(datagram: Uint8Array): boolean;
  /** Called when a datagram waits to be sent. */
  wantsDatagrams(): void;
}

/** The datagrams of one connection, sent over a reliable link. */
export class QmuxDatagrams implements DatagramDuplex, DirectDatagrams {
  readonly #host: DatagramHost;
  readonly #arrivals: IncomingQueue<Uint8Array>;
  #waiting: Uint8Array[] = [];
  #head = 0;
  #room: PromiseWithResolvers<void> | undefined = undefined;
  #receiver: ((datagram: Uint8Array) => void) | undefined = undefined;
  #writable: WritableStream<Uint8Array> | undefined = undefined;
  #controller: WritableStreamDefaultController | undefined = undefined;
  #failure: { readonly cause: unknown } | undefined = undefined;

  constructor(host: DatagramHost) {
    this.#host = host;
    this.#arrivals = new IncomingQueue({
      capacity: MAX_HELD_DATAGRAMS,
      onDropped: ({ byteLength }) => host.ledger.droppedDatagram(byteLength),
    });
  }

  /**
   * The size of the largest datagram that the peer accepts. Until the peer's parameters arrive, it
   * is Skein's own limit. Once the connection has ended, it is 0.
   */
  get maxDatagramSize(): number {
    return this.#failure === undefined ? this.#host.maxDatagramSize : 0;
  }

  /** The received datagrams. If too many wait to be read, the oldest are dropped. */
  get readable(): ReadableStream<Uint8Array> {
    return this.#arrivals.readable;
  }

  /**
   * The datagrams to send. A write waits while too many datagrams are queued. A datagram that is
   * too large is dropped.
   */
  get writable(): WritableStream<Uint8Array> {
    return this.#writable ??= new WritableStream<Uint8Array>({
      start: (controller) => {
        this.#controller = controller;
        if (this.#failure !== undefined) controller.error(this.#failure.cause);
      },
      write: (datagram) => this.#write(datagram),
    });
  }

  get direct(): DirectDatagrams {
    return this;
  }

  /** The number of datagrams that wait to be sent. */
  get waiting(): number {
    return this.#waiting.length - this.#head;
  }

  send(datagram: Uint8Array): void {
    if (this.#failure !== undefined) return;
    const { ledger } = this.#host;
    if (!this.#host.takesDatagram(datagram.byteLength)) {
      return ledger.droppedDatagram(datagram.byteLength);
    }
    if (this.waiting === 0 && this.#host.sendDatagramNow(datagram)) return;
    if (this.waiting >= MAX_WAITING_DATAGRAMS) ledger.droppedDatagram(this.take().byteLength);
    this.#waiting.push(datagram);
    this.#host.wantsDatagrams();
  }

  receive(receiver: (datagram: Uint8Array) => void): void {
    if (this.#receiver !== undefined) {
      throw new TypeError("Cannot receive datagrams: there is a receiver already");
    }
    this.#receiver = receiver;
    for (const held of this.#arrivals.takeHeld()) receiver(held);
  }

  /**
   * Drops waiting datagrams that the peer does not accept. Called once the peer's parameters have
   * arrived.
   */
  opened(): void {
    const waiting = this.#waiting.slice(this.#head);
    this.#waiting = [];
    this.#head = 0;
    for (const datagram of waiting) {
      const { byteLength } = datagram;
      if (this.#host.takesDatagram(byteLength)) this.#waiting.push(datagram);
      else this.#host.ledger.droppedDatagram(byteLength);
    }
  }

  /** The next datagram to send, which stays in the queue. */
  get first(): Uint8Array | undefined {
    return this.#waiting[this.#head];
  }

  /** Removes and returns the next datagram to send. The queue MUST NOT be empty. */
  take(): Uint8Array {
    const datagram = this.#waiting[this.#head++]!;
    if (this.#head >= MAX_WAITING_DATAGRAMS || this.#head === this.#waiting.length) {
      this.#waiting = this.#waiting.slice(this.#head);
      this.#head = 0;
    }
    if (this.#room !== undefined && this.waiting < HIGH_WATER_DATAGRAMS) {
      this.#room.resolve();
      this.#room = undefined;
    }
    return datagram;
  }

  /**
   * Delivers a received datagram.
   *
   * @param datagram The bytes, in a buffer that nothing else uses.
   */
  deliver(datagram: Uint8Array): void {
    this.#host.ledger.receivedDatagram(datagram);
    if (this.#receiver === undefined) this.#arrivals.push(datagram);
    else this.#receiver(datagram);
  }

  /**
   * Ends the datagrams when the connection ends.
   *
   * @param error The error for writers.
   * @param isBroken True if readers also receive the error.
   */
  end(error: unknown, isBroken: boolean): void {
    this.#failure = { cause: error };
    this.#waiting = [];
    this.#head = 0;
    this.#room?.reject(error);
    this.#controller?.error(error);
    if (isBroken) this.#arrivals.fail(error);
    else this.#arrivals.end();
  }

  /**
   * Sends a datagram. If the datagram must wait, it is copied, because the writer may reuse the
   * bytes.
   */
  #write(datagram: Uint8Array): Promise<void> | void {
    if (this.waiting === 0 && this.#host.sendDatagramNow(datagram)) return;
    this.send(new Uint8Array(datagram));
    if (this.waiting < HIGH_WATER_DATAGRAMS) return;
    this.#room ??= Promise.withResolvers();
    return this.#room.promise;
  }
}
