/** One direction of one connection: ordered packets in transit, with the faults of the network. */
import type { PacketPath, StreamPath } from "../../../transport/memory/path.ts";
import type { EventLoop, SimulatedEvent } from "../event_loop.ts";
import type { Host } from "../host.ts";
import type { Direction } from "./conditions.ts";

/** Most datagrams of a connection in transit; beyond, the newest is lost, as in a full router. */
const MAX_DATAGRAMS_UNDER_WAY = 256;

/** Size of a packet without payload: the TCP and IP headers. */
const HEADER_BYTES = 40;

/** Options of a {@linkcode NetworkPath}. */
export interface NetworkPathOptions {
  /** The event loop of the simulation, whose time is virtual. */
  readonly events: EventLoop;
  /** Directions that a packet passes in order: one, or two with a front in between. */
  readonly directions: readonly Direction[];
  /** Random numbers of the path. */
  readonly random: () => number;
  /** Name of the packets in the trace; `webtransport` travels over UDP. */
  readonly kind: string;
}

/** Packets that keep their order. */
interface Lane {
  lastMs: number;
}

/** A reliable packet. */
interface Packet {
  readonly lane: Lane;
  readonly arrive: () => void;
  readonly size: number;
  /** The receiving host; `undefined` if only its system receives the packet. */
  readonly host: Host | undefined;
}

/** One direction of a connection between two hosts. */
export class NetworkPath implements PacketPath {
  readonly #events: EventLoop;
  readonly #random: () => number;
  readonly #kind: string;
  readonly #isUdp: boolean;
  readonly #to: Host;
  readonly #underWay = new Set<SimulatedEvent>();
  #held: Packet[] = [];
  #stopWaiting: (() => void) | undefined;
  #bytes = 0;
  #datagrams = 0;
  readonly #main: Lane = { lastMs: 0 };
  #isStalled = false;
  #isCut = false;

  /** Directions that a packet passes in order. */
  readonly directions: readonly Direction[];
  onShrink: (() => void) | undefined = undefined;
  /** Called for each packet that is sent after the cut, and lost. */
  onLost: (() => void) | undefined = undefined;

  constructor({ events, directions, random, kind }: NetworkPathOptions) {
    this.#events = events;
    this.directions = directions;
    this.#random = random;
    this.#kind = kind;
    this.#isUdp = kind === "webtransport";
    this.#to = directions.at(-1)!.to;
  }

  /** Bytes in transit or held. */
  get bufferedBytes(): number {
    return this.#bytes;
  }

  /** True while no packets pass. */
  get isBlocked(): boolean {
    return this.#isStalled || this.#blocked() !== undefined;
  }

  /**
   * Sends a reliable packet, after all earlier ones.
   *
   * @param arrive Called on the receiving host.
   * @param bytes Bytes that the packet adds to `bufferedBytes`.
   * @param size Bytes that a slow link has to send.
   */
  send(arrive: () => void, bytes = 0, size: number = bytes): void {
    if (this.#isCut) return this.onLost?.();
    this.#bytes += bytes;
    this.#push({
      lane: this.#main,
      arrive: () => {
        this.#bytes -= bytes;
        arrive();
        this.onShrink?.();
      },
      size,
      host: this.#to,
    });
  }

  /**
   * Sends a reliable packet to which the other system responds without the program, such as the
   * first packet of a handshake, even if the host is frozen or down.
   *
   * @param arrive Called on the other side.
   */
  sendToSystem(arrive: () => void): void {
    if (!this.#isCut) this.#push({ lane: this.#main, arrive, size: 0, host: undefined });
  }

  /**
   * Creates a path for the packets of one stream, over QUIC, so that a lost packet delays no other
   * stream.
   *
   * @returns The path; over TCP this path.
   */
  lane(): StreamPath {
    if (!this.#isUdp) return this;
    const lane: Lane = { lastMs: 0 };
    return {
      split: (size) => this.split(size),
      send: (arrive, bytes = 0, size = bytes) => {
        if (this.#isCut) this.onLost?.();
        else this.#push({ lane, arrive, size, host: this.#to });
      },
    };
  }

  /**
   * Chooses at random where a stream write is split.
   *
   * @returns Size of the first part, at least 1; `size` if the write is not split.
   */
  split(size: number): number {
    const { splitRate } = this.directions.at(-1)!.conditions;
    if (splitRate === 0 || this.#random() >= splitRate) return size;
    return Math.max(1, Math.ceil(size * this.#random()));
  }

  /**
   * Sends a datagram.
   *
   * @param arrive Called on the other side, unless the datagram is lost.
   * @param size Size of the datagram on a slow link.
   */
  sendDatagram(arrive: () => void, size = 0): void {
    if (this.#isCut || this.#isStalled || this.#datagrams >= MAX_DATAGRAMS_UNDER_WAY) return;
    let delays = [0];
    for (const direction of this.directions) {
      const next = direction.datagramDelays(this.#random);
      delays = delays.flatMap((ms) => next.map((more) => ms + more));
    }
    if (delays.length === 0) return;
    const outMs = this.#transmission(size);
    for (const ms of delays) {
      this.#datagrams++;
      this.#arriveAfter(outMs + ms, this.#to, () => {
        this.#datagrams--;
        arrive();
      });
    }
  }

  /** Permanently holds all packets: the other side grants no more credit. */
  stall(): void {
    this.#isStalled = true;
  }

  /** Loses all packets, present and future. Idempotent. */
  cut(): void {
    this.#isCut = true;
    this.#stopWaiting?.();
    this.#held = [];
    this.#bytes = 0;
    this.#datagrams = 0;
    for (const event of this.#underWay) this.#events.cancel(event);
    this.#underWay.clear();
    this.onShrink?.();
  }

  #blocked(): Direction | undefined {
    for (const direction of this.directions) {
      const { isBlocked, blockUdp } = direction.conditions;
      if (isBlocked || this.#isUdp && blockUdp) return direction;
    }
    return undefined;
  }

  #push(packet: Packet): void {
    if (this.#held.length === 0 && !this.isBlocked) return this.#start(packet);
    this.#held.push(packet);
    this.#stopWaiting ??= this.#blocked()?.whenOpen(() => this.#resume());
  }

  /** Sends the held packets, if all directions are open again. */
  #resume(): void {
    this.#stopWaiting = undefined;
    if (this.isBlocked) {
      this.#stopWaiting = this.#blocked()?.whenOpen(() => this.#resume());
      return;
    }
    for (const packet of this.#held.splice(0)) this.#start(packet);
  }

  /** Sends a packet; packets arrive in the order of sending. */
  #start({ lane, arrive, size, host }: Packet): void {
    const { nowMs } = this.#events;
    let dueMs = nowMs + this.#transmission(size);
    for (const direction of this.directions) dueMs += direction.delay(this.#random);
    dueMs = Math.max(lane.lastMs, dueMs);
    let waitMs = dueMs - nowMs;
    // The sum may round to a time before the packet ahead.
    if (nowMs + waitMs < dueMs) waitMs += 2 * Number.EPSILON * dueMs;
    lane.lastMs = nowMs + waitMs;
    this.#arriveAfter(waitMs, host, arrive);
  }

  #arriveAfter(ms: number, host: Host | undefined, arrive: () => void): void {
    const event = this.#events.after(ms, () => {
      this.#underWay.delete(event);
      arrive();
    }, host);
    this.#underWay.add(event);
    if (!this.#events.tracesPackets) return;
    const [{ from }] = this.directions as [Direction];
    this.#events.note(this.#kind, from.name, { kind: "packet", to: this.#to.name, lastsMs: ms });
  }

  #transmission(size: number): number {
    const { nowMs } = this.#events;
    let ms = 0;
    for (const direction of this.directions) {
      ms = Math.max(ms, direction.transmission(HEADER_BYTES + size, nowMs));
    }
    return ms;
  }
}
