/**
 * Datagrams that wait: those to be sent, for the wire, and those that came, for
 * who reads. Both have a bound and an age.
 *
 * @module
 */
import type { DirectDatagrams } from "../connection.ts";

/** Datagrams that came and are held for a reader, until the application says otherwise. */
const MAX_INCOMING = 1_024;

/** Datagrams that are taken ahead of the wire, until the application says otherwise. */
const MAX_OUTGOING = 64;

/** Datagrams that wait in the runtime; the others can still expire, and be overtaken. */
const MAX_IN_FLIGHT = 16;

/** What fits before the path is known. */
const SAFE_BYTES = 1_024;

/** What carries datagrams: a session. */
export interface DatagramsLink {
  /** The largest datagram, as far as it is known. */
  readonly maxDatagramSize: number;
  /** Sends a datagram, and waits for room. Never rejects. */
  write(datagram: Uint8Array): Promise<void>;
  /** Sends a datagram, or loses it. */
  send(datagram: Uint8Array): void;
}

/** Datagrams that were lost at this end. */
export interface WebTransportDatagramStats {
  /** Those that came, and were too many. */
  readonly droppedIncoming: number;
  /** Those that came, and got too old. */
  readonly expiredIncoming: number;
  /** Those that were to be sent, and got too old. */
  readonly expiredOutgoing: number;
}

interface Waiting {
  readonly bytes: Uint8Array;
  readonly at: number;
}

interface Outgoing extends Waiting {
  readonly place: { readonly sendOrder: number };
  readonly sent: () => void;
}

/** The queues of one session. */
export class DatagramQueues implements DirectDatagrams {
  /** Oldest age of a datagram that came, in milliseconds. */
  incomingMaxAge: number | null = null;
  /** Oldest age of a datagram to be sent, in milliseconds. */
  outgoingMaxAge: number | null = null;
  /** Datagrams that are held for a reader. */
  maxIncoming: number = MAX_INCOMING;
  /** Datagrams that are taken ahead of the wire. */
  maxOutgoing: number = MAX_OUTGOING;

  readonly #incoming: Waiting[] = [];
  readonly #outgoing: Outgoing[] = [];
  readonly #stats = { droppedIncoming: 0, expiredIncoming: 0, expiredOutgoing: 0 };
  #link: DatagramsLink | undefined = undefined;
  #receiver: ((datagram: Uint8Array) => void) | undefined = undefined;
  #arrived: PromiseWithResolvers<void> | undefined = undefined;
  #pumping: ReturnType<typeof setImmediate> | undefined = undefined;
  #inFlight = 0;
  #isOrdered = false;
  #isOver = false;

  /** The largest datagram that is sent. */
  get maxDatagramSize(): number {
    return this.#link?.maxDatagramSize ?? SAFE_BYTES;
  }

  /** How many were lost. */
  get stats(): WebTransportDatagramStats {
    return { ...this.#stats };
  }

  /**
   * Sends through a session from now on.
   *
   * @param link The session's datagrams.
   */
  connect(link: DatagramsLink): void {
    if (this.#isOver) return;
    this.#link = link;
    this.#pump();
  }

  /**
   * Queues a datagram.
   *
   * @param bytes The bytes, which are its own.
   * @param place Its place in the order.
   * @returns Resolves at once while there is room, or else when it was sent or lost.
   */
  write(bytes: Uint8Array, place: { readonly sendOrder: number }): Promise<void> {
    if (this.#isOver || bytes.byteLength > this.maxDatagramSize) return Promise.resolve();
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#isOrdered ||= place.sendOrder !== 0;
    this.#outgoing.push({ bytes, at: Date.now(), place, sent: resolve });
    if (this.#outgoing.length + this.#inFlight < this.maxOutgoing) resolve();
    // Not at once: those that are written together have an order, and a bound.
    if (this.#link !== undefined && this.#pumping === undefined) {
      this.#pumping = setImmediate(() => {
        this.#pumping = undefined;
        this.#pump();
      });
    }
    return promise;
  }

  /** See {@linkcode DirectDatagrams.send}. */
  send(datagram: Uint8Array): void {
    if (this.#link !== undefined) this.#link.send(datagram);
    else if (this.#outgoing.length < this.maxOutgoing) void this.write(datagram, FIRST);
  }

  /** See {@linkcode DirectDatagrams.receive}. */
  receive(receiver: (datagram: Uint8Array) => void): void {
    if (this.#receiver !== undefined) {
      throw new TypeError("Cannot receive datagrams: there is a receiver already");
    }
    this.#receiver = receiver;
    for (const { bytes } of this.#incoming.splice(0)) receiver(bytes);
  }

  /**
   * Takes a datagram that came.
   *
   * @param bytes The bytes, which are its own.
   */
  deliver(bytes: Uint8Array): void {
    if (this.#isOver) return;
    if (this.#receiver !== undefined) return this.#receiver(bytes);
    this.#incoming.push({ bytes, at: Date.now() });
    while (this.#incoming.length > this.maxIncoming) {
      this.#incoming.shift();
      this.#stats.droppedIncoming++;
    }
    this.#arrived?.resolve();
  }

  /**
   * Waits for a datagram that came. One call at a time.
   *
   * @returns The bytes; `undefined` once the session is over.
   */
  async next(): Promise<Uint8Array | undefined> {
    while (!this.#isOver) {
      const waiting = this.#incoming.shift();
      if (waiting === undefined) {
        this.#arrived = Promise.withResolvers();
        await this.#arrived.promise;
      } else if (isOlder(waiting, this.incomingMaxAge)) this.#stats.expiredIncoming++;
      else return waiting.bytes;
    }
    return undefined;
  }

  /** Drops all that wait: the session is over. */
  end(): void {
    this.#isOver = true;
    clearImmediate(this.#pumping);
    this.#incoming.length = 0;
    for (const { sent } of this.#outgoing.splice(0)) sent();
    this.#arrived?.resolve();
  }

  #pump(): void {
    const link = this.#link;
    while (link !== undefined && this.#outgoing.length > 0 && this.#inFlight < MAX_IN_FLIGHT) {
      const first = this.#isOrdered ? this.#takeHighest() : this.#outgoing.shift()!;
      if (isOlder(first, this.outgoingMaxAge)) {
        this.#stats.expiredOutgoing++;
        first.sent();
        continue;
      }
      this.#inFlight++;
      link.write(first.bytes).then(() => {
        this.#inFlight--;
        first.sent();
        this.#pump();
      });
    }
  }

  #takeHighest(): Outgoing {
    const waiting = this.#outgoing;
    let best = 0;
    for (let i = 1; i < waiting.length; i++) {
      if (waiting[i]!.place.sendOrder > waiting[best]!.place.sendOrder) best = i;
    }
    return waiting.splice(best, 1)[0]!;
  }
}

/** The place of what has none. */
const FIRST = { sendOrder: 0 };

function isOlder({ at }: Waiting, maxAge: number | null): boolean {
  return maxAge !== null && Date.now() - at > maxAge;
}
