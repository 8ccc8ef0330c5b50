/** The datagrams of a WebTransport session (RFC 9297) or of a plain QUIC connection. */
import { IncomingQueue } from "../incoming_queue.ts";
import type { DatagramDuplex, DirectDatagrams } from "../connection.ts";
import type { Ledger } from "../counters.ts";
import { concat } from "../../base/bytes.ts";
import { encodeVarint } from "./varint.ts";

/**
 * The maximum number of datagrams held for a reader. Once it is exceeded, the oldest datagram is
 * dropped.
 */
const MAX_HELD_DATAGRAMS = 1_024;

/**
 * The maximum number of datagrams that wait for room in the runtime. Once it is reached, new
 * datagrams are dropped.
 */
const MAX_WAITING_DATAGRAMS = 1_024;

/**
 * A size that fits every path. For datagrams up to this size, the runtime need not be asked for the
 * maximum.
 */
const SAFE_BYTES = 1_100;

const NO_HEAD = new Uint8Array();

/** The session or connection that the datagrams belong to. */
export interface QuicDatagramsOwner {
  /** The counters, which are created with the first datagram. */
  readonly ledger: Ledger;
}

/** The datagrams of one session or connection. */
export class QuicDatagrams implements DatagramDuplex, DirectDatagrams {
  readonly #conn: Deno.QuicConn;
  readonly #owner: QuicDatagramsOwner;
  readonly #head: Uint8Array;
  readonly #arrivals: IncomingQueue<Uint8Array>;
  readonly #done = (): void => void this.#waiting--;
  #receiver: ((datagram: Uint8Array) => void) | undefined = undefined;
  #writable: WritableStream<Uint8Array> | undefined = undefined;
  #controller: WritableStreamDefaultController | undefined = undefined;
  #error: (() => Error) | undefined;
  #waiting = 0;

  /**
   * @param owner The session, or the connection if it has no sessions.
   * @param options `quarterId` is a quarter of the session's stream ID; it is absent if there are
   * no sessions. `error` creates the error if the session has already ended.
   */
  constructor(
    conn: Deno.QuicConn,
    owner: QuicDatagramsOwner,
    options: { readonly quarterId: number | undefined; readonly error: (() => Error) | undefined },
  ) {
    const { quarterId, error } = options;
    this.#conn = conn;
    this.#owner = owner;
    this.#head = quarterId === undefined ? NO_HEAD : encodeVarint(quarterId);
    this.#error = error;
    this.#arrivals = new IncomingQueue({
      capacity: MAX_HELD_DATAGRAMS,
      onDropped: ({ byteLength }) => this.#dropped(byteLength),
    });
    if (error !== undefined) this.#arrivals.end();
  }

  /** The size of the largest datagram that fits into a packet on the current path. */
  get maxDatagramSize(): number {
    if (this.#error !== undefined) return 0;
    return Math.max(0, this.#conn.maxDatagramSize - this.#head.byteLength);
  }

  /** The received datagrams. If too many wait to be read, the oldest are dropped. */
  get readable(): ReadableStream<Uint8Array> {
    return this.#arrivals.readable;
  }

  /** The datagrams to send. A write waits for room. A datagram that is too large is dropped. */
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
   * Waits for room in the runtime and sends a datagram. A datagram that is too large is dropped.
   *
   * @param datagram The bytes. They MUST NOT change before the datagram is sent.
   */
  async write(datagram: Uint8Array): Promise<void> {
    const { byteLength } = datagram;
    if (byteLength > this.maxDatagramSize) return this.#dropped(byteLength);
    await this.#conn.sendDatagram(this.#framed(datagram)).catch(() => {});
  }

  get direct(): DirectDatagrams {
    return this;
  }

  send(datagram: Uint8Array): void {
    const { byteLength } = datagram;
    if (this.#waiting >= MAX_WAITING_DATAGRAMS) return this.#dropped(byteLength);
    if (byteLength > SAFE_BYTES && byteLength > this.maxDatagramSize) {
      return this.#dropped(byteLength);
    }
    this.#waiting++;
    this.#conn.sendDatagram(this.#framed(datagram)).then(this.#done, this.#done);
  }

  receive(receiver: (datagram: Uint8Array) => void): void {
    if (this.#receiver !== undefined) {
      throw new TypeError("Cannot receive datagrams: there is a receiver already");
    }
    this.#receiver = receiver;
    for (const held of this.#arrivals.takeHeld()) receiver(held);
  }

  /**
   * Delivers a received datagram.
   *
   * @param payload The bytes, in a buffer that nothing else uses.
   */
  deliver(payload: Uint8Array): void {
    this.#owner.ledger.receivedDatagram(payload);
    if (this.#receiver === undefined) this.#arrivals.push(payload);
    else this.#receiver(payload);
  }

  /**
   * Ends the datagrams when the session ends.
   *
   * @param error Creates the error for writers.
   * @param isBroken True if readers also receive the error.
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
      // If a received datagram is echoed, the header still precedes it in memory. An empty header
      // always matches.
      const whole = new Uint8Array(buffer, byteOffset - length, length + byteLength);
      if (head.every((byte, at) => whole[at] === byte)) return whole;
    }
    return concat([head, datagram]);
  }
}
