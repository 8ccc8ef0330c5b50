/**
 * Datagrams of QMux, RFC 9221. The wire loses none of them; this end does,
 * where too many wait.
 *
 * @module
 */
import { Arrivals } from "../_arrivals.ts";
import type { Ledger } from "../_ledger.ts";
import type { DatagramDuplex, DirectDatagrams } from "../connection.ts";

/** Datagrams held for a reader; past it the oldest is dropped. */
export const MAX_HELD_DATAGRAMS = 256;

/** Datagrams that wait for the wire; past it the oldest is dropped. */
export const MAX_WAITING_DATAGRAMS = 256;

/** From so many on that wait, a write to the web stream waits too. */
const HIGH_WATER_DATAGRAMS = MAX_WAITING_DATAGRAMS / 2;

/** What datagrams need of their connection. */
export interface DatagramHost {
  /** Counts. */
  readonly ledger: Ledger;
  /** Largest datagram that the peer takes. */
  readonly maxDatagramSize: number;
  /** Whether the peer takes a datagram of so many bytes. */
  takesDatagram(byteLength: number): boolean;
  /** Puts a datagram into a record at once, if nothing is ahead of it. */
  sendDatagramNow(datagram: Uint8Array): boolean;
  /** Datagrams wait. */
  wantsDatagrams(): void;
}

/** The datagrams of one connection. */
export class QmuxDatagrams implements DatagramDuplex, DirectDatagrams {
  readonly #host: DatagramHost;
  readonly #arrivals: Arrivals<Uint8Array>;
  #waiting: Uint8Array[] = [];
  #head = 0;
  #room: PromiseWithResolvers<void> | undefined = undefined;
  #receiver: ((datagram: Uint8Array) => void) | undefined = undefined;
  #writable: WritableStream<Uint8Array> | undefined = undefined;
  #controller: WritableStreamDefaultController | undefined = undefined;
  #failure: { readonly cause: unknown } | undefined = undefined;

  /** Creates them. */
  constructor(host: DatagramHost) {
    this.#host = host;
    this.#arrivals = new Arrivals({
      capacity: MAX_HELD_DATAGRAMS,
      onDropped: ({ byteLength }) => host.ledger.droppedDatagram(byteLength),
    });
  }

  /** The largest datagram; before the peer said what it takes, what Skein takes. */
  get maxDatagramSize(): number {
    return this.#failure === undefined ? this.#host.maxDatagramSize : 0;
  }

  /** Datagrams that came; the oldest unread are dropped. */
  get readable(): ReadableStream<Uint8Array> {
    return this.#arrivals.readable;
  }

  /** Datagrams to send; a write waits where many do. One that is too large is lost. */
  get writable(): WritableStream<Uint8Array> {
    return this.#writable ??= new WritableStream<Uint8Array>({
      start: (controller) => {
        this.#controller = controller;
        if (this.#failure !== undefined) controller.error(this.#failure.cause);
      },
      write: (datagram) => this.#write(datagram),
    });
  }

  /** Datagrams by plain calls. */
  get direct(): DirectDatagrams {
    return this;
  }

  /** Datagrams that wait for the wire. */
  get waiting(): number {
    return this.#waiting.length - this.#head;
  }

  /** See {@linkcode DirectDatagrams.send}. */
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

  /** See {@linkcode DirectDatagrams.receive}. */
  receive(receiver: (datagram: Uint8Array) => void): void {
    if (this.#receiver !== undefined) {
      throw new TypeError("Cannot receive datagrams: there is a receiver already");
    }
    this.#receiver = receiver;
    for (const held of this.#arrivals.takeHeld()) receiver(held);
  }

  /** The peer said what it takes: the rest of what waits is lost. */
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

  /** The next one that waits for the wire, which stays where it is. */
  get first(): Uint8Array | undefined {
    return this.#waiting[this.#head];
  }

  /** Takes the next one that waits for the wire. There MUST be one. */
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
   * Takes a datagram that came.
   *
   * @param datagram The bytes, which are its own.
   */
  deliver(datagram: Uint8Array): void {
    this.#host.ledger.receivedDatagram(datagram);
    if (this.#receiver === undefined) this.#arrivals.push(datagram);
    else this.#receiver(datagram);
  }

  /**
   * Ends them with the connection.
   *
   * @param error What writers get.
   * @param isBroken Whether readers get it too.
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

  /** The writer may change its bytes afterwards. */
  #write(datagram: Uint8Array): Promise<void> | void {
    if (this.waiting === 0 && this.#host.sendDatagramNow(datagram)) return;
    this.send(new Uint8Array(datagram));
    if (this.waiting < HIGH_WATER_DATAGRAMS) return;
    this.#room ??= Promise.withResolvers();
    return this.#room.promise;
  }
}
