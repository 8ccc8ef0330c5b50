/** Datagram queues of a session: outgoing and incoming, with a bound and a maximum age. */
import type { DirectDatagrams } from "../connection.ts";

/** Default bound of incoming datagrams held for a reader. */
const MAX_INCOMING = 1_024;

/** Default bound of outgoing datagrams accepted ahead of the wire. */
const MAX_OUTGOING = 64;

/**
 * Bound of datagrams handed to the runtime; the other outgoing ones can still expire or be
 * overtaken.
 */
const MAX_IN_FLIGHT = 16;

/** Maximum size of a datagram before the path is known. */
const SAFE_BYTES = 1_024;

/** The session, as the queues see it. */
export interface DatagramsLink {
  /** Largest datagram, as far as known. */
  readonly maxDatagramSize: number;
  /** Sends a datagram after waiting for room. Never rejects. */
  write(datagram: Uint8Array): Promise<void>;
  /** Sends a datagram, or drops the datagram without room. */
  send(datagram: Uint8Array): void;
}

/** Counters of datagrams dropped at this end. */
export interface WebTransportDatagramStats {
  /** Incoming datagrams dropped because the queue was full. */
  readonly droppedIncoming: number;
  /** Incoming datagrams dropped because of the maximum age. */
  readonly expiredIncoming: number;
  /** Outgoing datagrams dropped because of the maximum age. */
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

/** Datagram queues of one session. */
export class DatagramQueues implements DirectDatagrams {
  /** Maximum age of an incoming datagram, in milliseconds. */
  incomingMaxAge: number | null = null;
  /** Maximum age of an outgoing datagram, in milliseconds. */
  outgoingMaxAge: number | null = null;
  /** Bound of incoming datagrams held for a reader. */
  maxIncoming: number = MAX_INCOMING;
  /** Bound of outgoing datagrams accepted ahead of the wire. */
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

  /** Largest datagram that can be sent. */
  get maxDatagramSize(): number {
    return this.#link?.maxDatagramSize ?? SAFE_BYTES;
  }

  /** Counters of dropped datagrams. */
  get stats(): WebTransportDatagramStats {
    return { ...this.#stats };
  }

  /**
   * Connects the queues to a session, which sends the waiting datagrams.
   *
   * @param link Datagrams of the session.
   */
  connect(link: DatagramsLink): void {
    if (this.#isOver) return;
    this.#link = link;
    this.#pump();
  }

  /**
   * Queues an outgoing datagram.
   *
   * @param bytes Bytes in memory of their own.
   * @param place Priority of the datagram.
   * @returns Resolves at once while the queue has room, otherwise after the datagram was sent or
   * dropped.
   */
  write(bytes: Uint8Array, place: { readonly sendOrder: number }): Promise<void> {
    if (this.#isOver || bytes.byteLength > this.maxDatagramSize) return Promise.resolve();
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#isOrdered ||= place.sendOrder !== 0;
    this.#outgoing.push({ bytes, at: Date.now(), place, sent: resolve });
    if (this.#outgoing.length + this.#inFlight < this.maxOutgoing) resolve();
    // Deferred, because the priority and the bound apply to datagrams written together.
    if (this.#link !== undefined && this.#pumping === undefined) {
      this.#pumping = setImmediate(() => {
        this.#pumping = undefined;
        this.#pump();
      });
    }
    return promise;
  }

  send(datagram: Uint8Array): void {
    if (this.#link !== undefined) this.#link.send(datagram);
    else if (this.#outgoing.length < this.maxOutgoing) void this.write(datagram, FIRST);
  }

  receive(receiver: (datagram: Uint8Array) => void): void {
    if (this.#receiver !== undefined) {
      throw new TypeError("Cannot receive datagrams: there is a receiver already");
    }
    this.#receiver = receiver;
    for (const { bytes } of this.#incoming.splice(0)) receiver(bytes);
  }

  /**
   * Queues a received datagram.
   *
   * @param bytes Bytes in memory of their own.
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
   * Waits for the next received datagram. Calls MUST NOT overlap.
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

  /** Drops all waiting datagrams at the end of the session. */
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

/** Default priority. */
const FIRST = { sendOrder: 0 };

function isOlder({ at }: Waiting, maxAge: number | null): boolean {
  return maxAge !== null && Date.now() - at > maxAge;
}
