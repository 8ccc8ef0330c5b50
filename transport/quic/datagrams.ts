/**
 * Datagrams of a session: RFC 9297, with the session's number ahead of each; and those of a QUIC
 * connection without sessions, as they are.
 *
 * @module
 */
import { Arrivals } from "../_arrivals.ts";
import type { DatagramDuplex, DirectDatagrams } from "../connection.ts";
import type { Ledger } from "../_ledger.ts";
import { concat } from "./bytes.ts";
import { encodeVarint } from "./varint.ts";

/** Datagrams held for a reader; past it the oldest is dropped. */
const MAX_HELD_DATAGRAMS = 1_024;

/** Datagrams that wait for room in the runtime; past it the newest is dropped. */
const MAX_WAITING_DATAGRAMS = 1_024;

/** Fits on every path, and needs no question to the runtime. */
const SAFE_BYTES = 1_100;

const NO_HEAD = new Uint8Array();

/** Whose datagrams they are. */
export interface DatagramsOwner {
  /** Where they are counted; made with the first one. */
  readonly ledger: Ledger;
}

/** The datagrams of one session. */
export class SessionDatagrams implements DatagramDuplex, DirectDatagrams {
  readonly #conn: Deno.QuicConn;
  readonly #owner: DatagramsOwner;
  readonly #head: Uint8Array;
  readonly #arrivals: Arrivals<Uint8Array>;
  readonly #done = (): void => void this.#waiting--;
  #receiver: ((datagram: Uint8Array) => void) | undefined = undefined;
  #writable: WritableStream<Uint8Array> | undefined = undefined;
  #controller: WritableStreamDefaultController | undefined = undefined;
  #error: (() => Error) | undefined;
  #waiting = 0;

  /**
   * Creates the datagrams of a session.
   *
   * @param conn The connection that carries them.
   * @param owner The session.
   * @param options A quarter of the session's number, if it has one, and what makes the error that
   * says why the session is over already, if it is.
   */
  constructor(
    conn: Deno.QuicConn,
    owner: DatagramsOwner,
    options: { readonly quarterId: number | undefined; readonly error: (() => Error) | undefined },
  ) {
    const { quarterId, error } = options;
    this.#conn = conn;
    this.#owner = owner;
    this.#head = quarterId === undefined ? NO_HEAD : encodeVarint(quarterId);
    this.#error = error;
    this.#arrivals = new Arrivals({
      capacity: MAX_HELD_DATAGRAMS,
      onDropped: ({ byteLength }) => this.#dropped(byteLength),
    });
    if (error !== undefined) this.#arrivals.end();
  }

  /** The largest datagram; what fits a packet on the path as it is. */
  get maxDatagramSize(): number {
    if (this.#error !== undefined) return 0;
    return Math.max(0, this.#conn.maxDatagramSize - this.#head.byteLength);
  }

  /** Datagrams that came; the oldest unread are dropped. */
  get readable(): ReadableStream<Uint8Array> {
    return this.#arrivals.readable;
  }

  /** Datagrams to send; a write waits for room. One that is too large is lost. */
  get writable(): WritableStream<Uint8Array> {
    return this.#writable ??= new WritableStream<Uint8Array>({
      start: (controller) => {
        this.#controller = controller;
        if (this.#error !== undefined) controller.error(this.#error());
      },
      write: (datagram) => this.write(datagram),
    });
  }

  /**
   * Sends a datagram, and waits for room in the runtime. One that is too large is lost.
   *
   * @param datagram The bytes. They MUST NOT be changed before it is sent.
   */
  async write(datagram: Uint8Array): Promise<void> {
    const { byteLength } = datagram;
    if (byteLength > this.maxDatagramSize) return this.#dropped(byteLength);
    await this.#conn.sendDatagram(this.#framed(datagram)).catch(() => {});
  }

  /** Datagrams by plain calls. */
  get direct(): DirectDatagrams {
    return this;
  }

  /** See {@linkcode DirectDatagrams.send}. */
  send(datagram: Uint8Array): void {
    const { byteLength } = datagram;
    if (this.#waiting >= MAX_WAITING_DATAGRAMS) return this.#dropped(byteLength);
    if (byteLength > SAFE_BYTES && byteLength > this.maxDatagramSize) {
      return this.#dropped(byteLength);
    }
    this.#waiting++;
    this.#conn.sendDatagram(this.#framed(datagram)).then(this.#done, this.#done);
  }

  /** See {@linkcode DirectDatagrams.receive}. */
  receive(receiver: (datagram: Uint8Array) => void): void {
    if (this.#receiver !== undefined) {
      throw new TypeError("Cannot receive datagrams: there is a receiver already");
    }
    this.#receiver = receiver;
    for (const held of this.#arrivals.takeHeld()) receiver(held);
  }

  /**
   * Takes a datagram that came.
   *
   * @param payload The bytes, which are its own.
   */
  deliver(payload: Uint8Array): void {
    this.#owner.ledger.receivedDatagram(payload);
    if (this.#receiver === undefined) this.#arrivals.push(payload);
    else this.#receiver(payload);
  }

  /**
   * Ends them with the session.
   *
   * @param error Makes what writers get.
   * @param isBroken Whether readers get it too.
   */
  end(error: () => Error, isBroken: boolean): void {
    this.#error = error;
    this.#controller?.error(error());
    if (isBroken) this.#arrivals.fail(error());
    else this.#arrivals.end();
  }

  #dropped(byteLength: number): void {
    this.#owner.ledger.droppedDatagram(byteLength);
  }

  #framed(datagram: Uint8Array): Uint8Array {
    const { buffer, byteOffset, byteLength } = datagram;
    const head = this.#head;
    const length = head.byteLength;
    this.#owner.ledger.sentDatagram(datagram);
    if (byteOffset >= length) {
      // One that came, and goes back, has its head before it already; an empty head all have.
      const whole = new Uint8Array(buffer, byteOffset - length, length + byteLength);
      if (head.every((byte, at) => whole[at] === byte)) return whole;
    }
    return concat(head, datagram);
  }
}
