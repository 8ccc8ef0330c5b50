/** One direction of the network between the two sides of a memory pair. */
import type { Runtime, Timer } from "../../base/runtime.ts";

/**
 * The maximum number of datagrams in flight. If there are more, the oldest is lost, as in a
 * router's queue.
 */
const MAX_DATAGRAMS_UNDER_WAY = 256;

/** The faults in one direction. */
export interface MemoryFaults {
  /**
   * The delay of every packet, in milliseconds; 0 delivers in a microtask.
   *
   * @default {0}
   */
  readonly delayMs?: number | undefined;
  /**
   * The maximum random time added to `delayMs`, in milliseconds.
   *
   * @default {0}
   */
  readonly jitterMs?: number | undefined;
  /**
   * The share of datagrams that are lost, from 0 to 1. Frames and streams are reliable.
   *
   * @default {0}
   */
  readonly lossRate?: number | undefined;
  /**
   * The share of datagrams that overtake the previous datagram if it is still in flight, from 0 to
   * 1. Frames and streams stay in order.
   *
   * @default {0}
   */
  readonly reorderRate?: number | undefined;
}

/** A packet in flight: a callback for its arrival, and the earliest time at which it may arrive. */
interface Packet {
  readonly arrive: () => void;
  readonly bytes: number;
  readonly dueMs: number;
}

/** A queue of packets in order. If the first packet is not due, it delays the others. */
class Lane {
  readonly #runtime: Runtime;
  readonly #onShrink: () => void;
  #packets: Packet[] = [];
  #head = 0;
  #bytes = 0;
  #timer: Timer | undefined = undefined;
  #scheduled = false;
  #stalled = false;

  constructor(runtime: Runtime, onShrink: () => void) {
    this.#runtime = runtime;
    this.#onShrink = onShrink;
  }

  get bytes(): number {
    return this.#bytes;
  }

  get size(): number {
    return this.#packets.length - this.#head;
  }

  push(packet: Packet, overtake: boolean): void {
    const last = this.#packets.at(-1);
    if (overtake && last !== undefined && this.size > 0) {
      this.#packets[this.#packets.length - 1] = packet;
      this.#packets.push(last);
    } else {
      this.#packets.push(packet);
    }
    this.#bytes += packet.bytes;
    this.#schedule();
  }

  dropOldest(): void {
    this.#take();
  }

  stall(): void {
    this.#stalled = true;
    this.#unschedule();
  }

  resume(): void {
    this.#stalled = false;
    this.#schedule();
  }

  clear(): void {
    this.#unschedule();
    this.#packets = [];
    this.#head = 0;
    this.#bytes = 0;
    this.#onShrink();
  }

  #take(): Packet {
    const packet = this.#packets[this.#head]!;
    this.#head++;
    this.#bytes -= packet.bytes;
    if (this.#head === this.#packets.length) {
      this.#packets = [];
      this.#head = 0;
    }
    return packet;
  }

  #schedule(): void {
    if (this.#scheduled || this.#timer !== undefined || this.#stalled || this.size === 0) return;
    const waitMs = this.#waitMs();
    if (waitMs <= 0) {
      this.#scheduled = true;
      queueMicrotask(() => {
        this.#scheduled = false;
        this.#pump();
      });
    } else {
      this.#timer = this.#runtime.setTimeout(() => {
        this.#timer = undefined;
        this.#pump();
      }, waitMs);
    }
  }

  #unschedule(): void {
    this.#runtime.clearTimeout(this.#timer);
    this.#timer = undefined;
  }

  #waitMs(): number {
    const { dueMs } = this.#packets[this.#head]!;
    return dueMs === 0 ? 0 : dueMs - this.#runtime.now();
  }

  #pump(): void {
    // An arrival may stall or clear this lane, so all state is read again for each packet.
    while (!this.#stalled && this.size > 0 && this.#waitMs() <= 0) {
      this.#take().arrive();
      this.#onShrink();
    }
    this.#schedule();
  }
}

/** The path of the packets of one stream. */
export type StreamPath = Pick<PacketPath, "send" | "split">;

/** One direction of a connection in memory. It carries packets from one side to the other. */
export interface PacketPath {
  /** Called when the number of bytes in flight decreases. */
  onShrink: (() => void) | undefined;
  /** The number of bytes of reliable packets in flight. */
  readonly bufferedBytes: number;
  /**
   * Sends a reliable packet after all earlier ones.
   *
   * @param arrive Called when the packet arrives on the other side.
   * @param bytes The size of the packet in `bufferedBytes`.
   * @param size The size of the packet on a path with limited bandwidth. The default is `bytes`.
   */
  send(arrive: () => void, bytes?: number, size?: number): void;
  /**
   * Creates a path for the packets of one stream, on a network where streams do not wait for each
   * other. If this method is absent, all streams share the path.
   */
  lane?(): StreamPath;
  /**
   * Chooses where to split a write to a stream, on a network that does not keep writes whole.
   *
   * @returns The size of the first part, or `size` if the write stays whole.
   */
  split?(size: number): number;
  /**
   * Sends a datagram.
   *
   * @param arrive Called on the other side, unless the datagram is lost.
   * @param size The size of the datagram on a path with limited bandwidth.
   */
  sendDatagram(arrive: () => void, size?: number): void;
  /** Holds all packets, as if the other side did not read. */
  stall(): void;
  /** Loses all packets, present and future. Idempotent. */
  cut(): void;
}

/**
 * Carries packets from one side to the other, with faults.
 *
 * - **Reliable packets:** `send` keeps the order, and no packet is lost until the path is cut.
 * - **Datagrams:** `sendDatagram` may lose and reorder datagrams. The number in flight is limited.
 * - **Time:** without a delay, packets arrive in a microtask, without a timer. With a delay, the
 *   path uses one timer.
 */
export class MemoryPath implements PacketPath {
  readonly #runtime: Runtime;
  readonly #random: () => number;
  readonly #reliable: Lane;
  readonly #datagrams: Lane;
  #faults: Required<MemoryFaults> = { delayMs: 0, jitterMs: 0, lossRate: 0, reorderRate: 0 };
  #cut = false;

  onShrink: (() => void) | undefined = undefined;

  /**
   * Creates a path without faults.
   *
   * @param random Returns random numbers in [0, 1), which determine jitter, loss and reordering.
   */
  constructor(runtime: Runtime, random: () => number) {
    this.#runtime = runtime;
    this.#random = random;
    this.#reliable = new Lane(runtime, () => this.onShrink?.());
    this.#datagrams = new Lane(runtime, () => {});
  }

  get bufferedBytes(): number {
    return this.#reliable.bytes;
  }

  /** Changes the given faults. Packets in flight keep the old ones. */
  setFaults(faults: MemoryFaults): void {
    const given = Object.entries(faults).filter(([, value]) => value !== undefined);
    this.#faults = { ...this.#faults, ...Object.fromEntries(given) };
  }

  /**
   * Sends a reliable packet.
   *
   * @param arrive Called when the packet arrives on the other side.
   * @param bytes The size of the packet in `bufferedBytes`.
   */
  send(arrive: () => void, bytes = 0): void {
    if (this.#cut) return;
    this.#reliable.push({ arrive, bytes, dueMs: this.#due() }, false);
  }

  sendDatagram(arrive: () => void): void {
    const { lossRate, reorderRate } = this.#faults;
    if (this.#cut || lossRate > 0 && this.#random() < lossRate) return;
    const overtake = reorderRate > 0 && this.#random() < reorderRate;
    this.#datagrams.push({ arrive, bytes: 0, dueMs: this.#due() }, overtake);
    if (this.#datagrams.size > MAX_DATAGRAMS_UNDER_WAY) this.#datagrams.dropOldest();
  }

  /** Holds all packets until {@linkcode MemoryPath.resume}, as if the other side did not read. */
  stall(): void {
    this.#reliable.stall();
    this.#datagrams.stall();
  }

  /** Releases all packets. */
  resume(): void {
    this.#reliable.resume();
    this.#datagrams.resume();
  }

  /** Drops all packets, including those sent later. No timer is left. Idempotent. */
  cut(): void {
    this.#cut = true;
    this.#reliable.clear();
    this.#datagrams.clear();
  }

  #due(): number {
    const { delayMs, jitterMs } = this.#faults;
    if (delayMs === 0 && jitterMs === 0) return 0;
    const jitter = jitterMs > 0 ? jitterMs * this.#random() : 0;
    // Use whole milliseconds, as clocks and timers do: a timer could never wait for a fraction.
    return this.#runtime.now() + Math.ceil(delayMs + jitter);
  }
}

/**
 * Creates a random number generator that repeats its numbers for the same seed (mulberry32).
 *
 * @param seed Any number.
 * @returns A function that returns random numbers in [0, 1).
 */
export function seededRandom(seed: number): () => number {
  let state = seed | 0;
  return () => {
    state = state + 0x6d2b79f5 | 0;
    let mixed = Math.imul(state ^ state >>> 15, 1 | state);
    mixed = mixed + Math.imul(mixed ^ mixed >>> 7, 61 | mixed) ^ mixed;
    return ((mixed ^ mixed >>> 14) >>> 0) / 2 ** 32;
  };
}
