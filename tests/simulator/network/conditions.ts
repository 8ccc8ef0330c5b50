/** Conditions of the network in one direction between two hosts, and their random effects. */
import { withDefaults } from "../../../base/options/options.ts";
import type { Host } from "../host.ts";

/** First wait of TCP before a lost packet is sent again, in milliseconds; doubled each time. */
const RETRANSMISSION_MS = 200;

/** Most times that one packet is lost in a row. */
const MAX_LOSSES = 6;

/** Longest random delay of a packet, in milliseconds, because a long tail is unbounded. */
const MAX_JITTER_MS = 60_000;

/** Delay of a reordered datagram, as a multiple of the delay plus milliseconds. */
const LATE = { delays: 2, ms: 5 };

/**
 * Failure of every connection attempt, or `none`. A number is the HTTP status of a proxy's
 * response.
 */
export type HandshakeFault = "none" | "rejected" | "hangs" | "tls" | number;

/** Conditions of one direction between two hosts. */
export interface LinkConditions {
  /**
   * Minimum delay of a packet, in milliseconds.
   *
   * @default {1}
   */
  readonly delayMs?: number | undefined;
  /**
   * Mean of the additional random delay, in milliseconds; 0 for a constant delay.
   *
   * @default {1}
   */
  readonly jitterMs?: number | undefined;
  /**
   * Distribution of the random delay. With `exponential` a few packets are late; with `long-tail`
   * (Lomax, shape 2) some take a hundred times the mean.
   *
   * @default {"exponential"}
   */
  readonly jitter?: "uniform" | "exponential" | "long-tail" | undefined;
  /**
   * Share of lost packets. Reliable packets are sent again, and delay all later ones; datagrams
   * stay lost.
   *
   * @default {0}
   */
  readonly lossRate?: number | undefined;
  /**
   * Share of datagrams that later ones overtake. Connections always overtake each other.
   *
   * @default {0}
   */
  readonly reorderRate?: number | undefined;
  /**
   * Share of datagrams that arrive twice.
   *
   * @default {0}
   */
  readonly duplicateRate?: number | undefined;
  /**
   * Share of stream writes that arrive in two parts, as bytes have no boundaries on a network.
   *
   * @default {0}
   */
  readonly splitRate?: number | undefined;
  /**
   * Bytes per second, for all connections together. Further bytes wait in a queue.
   *
   * @default {Infinity}
   */
  readonly bytesPerSecond?: number | undefined;
  /**
   * True for a direction in which no packets pass. Reliable packets arrive once the direction is
   * open again, if the connection still exists.
   *
   * @default {false}
   */
  readonly isBlocked?: boolean | undefined;
  /**
   * True if a firewall drops UDP: WebTransport neither opens nor continues, but TCP passes.
   *
   * @default {false}
   */
  readonly blockUdp?: boolean | undefined;
  /**
   * True if a proxy strips upgrade requests, so that no WebSocket opens.
   *
   * @default {false}
   */
  readonly stripUpgrades?: boolean | undefined;
  /**
   * Share of connection attempts that are rejected immediately.
   *
   * @default {0}
   */
  readonly rejectionRate?: number | undefined;
  /**
   * Failure of all connection attempts: rejected, without a response, in the TLS handshake, or with
   * an HTTP status.
   *
   * @default {"none"}
   */
  readonly handshake?: HandshakeFault | undefined;
}

/** Conditions of a network without faults. */
export const GOOD_CONDITIONS: Required<LinkConditions> = Object.freeze({
  delayMs: 1,
  jitterMs: 1,
  jitter: "exponential",
  lossRate: 0,
  reorderRate: 0,
  duplicateRate: 0,
  splitRate: 0,
  bytesPerSecond: Infinity,
  isBlocked: false,
  blockUdp: false,
  stripUpgrades: false,
  rejectionRate: 0,
  handshake: "none",
});

const RATES = ["lossRate", "reorderRate", "duplicateRate", "splitRate", "rejectionRate"] as const;
const JITTERS: readonly unknown[] = ["uniform", "exponential", "long-tail"];
const HANDSHAKE_FAULTS: readonly unknown[] = ["none", "rejected", "hangs", "tls"];

/**
 * Checks conditions, and fills in missing ones.
 *
 * @param others Values of missing conditions; by default, there are no faults.
 * @throws {RangeError} If a condition is out of range.
 */
export function checkConditions(
  given: LinkConditions,
  others: Required<LinkConditions> = GOOD_CONDITIONS,
): Required<LinkConditions> {
  const all = withDefaults(others, given);
  const check = (isGood: boolean, name: keyof LinkConditions, rule: string) => {
    if (isGood) return;
    throw new RangeError(`Cannot change link: ${name} must be ${rule}, received ${all[name]}`);
  };
  for (const name of RATES) check(all[name] >= 0 && all[name] <= 1, name, "from 0 to 1");
  for (const name of ["delayMs", "jitterMs"] as const) {
    check(all[name] >= 0 && all[name] < Infinity, name, "a number from 0");
  }
  check(all.bytesPerSecond > 0, "bytesPerSecond", "above 0");
  check(JITTERS.includes(all.jitter), "jitter", JITTERS.join(", "));
  const { handshake } = all;
  const isStatus = typeof handshake === "number" && handshake >= 400 && handshake <= 599;
  check(
    isStatus || HANDSHAKE_FAULTS.includes(handshake),
    "handshake",
    "none, rejected, hangs, tls or an HTTP status from 400 to 599",
  );
  return all;
}

/** One direction between two hosts, shared by all connections. */
export class Direction {
  /** The sending host. */
  readonly from: Host;
  /** The receiving host. */
  readonly to: Host;
  conditions: Required<LinkConditions>;
  /** Number of connections that `from` has dialed. */
  dials = 0;
  readonly #waiting = new Set<() => void>();
  #busyUntilMs = 0;

  constructor(from: Host, to: Host, conditions: Required<LinkConditions>) {
    this.from = from;
    this.to = to;
    this.conditions = conditions;
  }

  /**
   * Registers a callback for when the direction is open again.
   *
   * @param callback Called once.
   * @returns A function that removes the callback.
   */
  whenOpen(callback: () => void): () => void {
    this.#waiting.add(callback);
    return () => void this.#waiting.delete(callback);
  }

  /**
   * Changes some conditions, and releases waiting packets if the direction is open then.
   *
   * @throws {RangeError} If a condition is out of range.
   */
  change(conditions: LinkConditions): void {
    this.conditions = checkConditions(conditions, this.conditions);
    if (this.conditions.isBlocked) return;
    const waiting = [...this.#waiting];
    this.#waiting.clear();
    for (const callback of waiting) callback();
  }

  /**
   * Picks the delay of a reliable packet at random.
   *
   * @returns Time in milliseconds.
   */
  delay(random: () => number): number {
    const { lossRate } = this.conditions;
    let ms = this.#passage(random);
    for (let lost = 0; lossRate > 0 && lost < MAX_LOSSES && random() < lossRate; lost++) {
      ms += RETRANSMISSION_MS * 2 ** lost;
    }
    return ms;
  }

  /**
   * Picks the delays of a datagram at random: none if it is lost, two if it is duplicated.
   *
   * @returns Times in milliseconds.
   */
  datagramDelays(random: () => number): number[] {
    const { isBlocked, blockUdp, lossRate, duplicateRate, reorderRate, delayMs } = this.conditions;
    if (isBlocked || blockUdp || lossRate > 0 && random() < lossRate) return [];
    let ms = this.#passage(random);
    if (reorderRate > 0 && random() < reorderRate) ms += LATE.ms + LATE.delays * delayMs;
    if (duplicateRate > 0 && random() < duplicateRate) return [ms, ms + this.#passage(random)];
    return [ms];
  }

  /**
   * Reserves time on a slow link.
   *
   * @param bytes Size of the packet.
   * @param nowMs Time at which the packet is sent.
   * @returns Time until the last byte has left, in milliseconds.
   */
  transmission(bytes: number, nowMs: number): number {
    const { bytesPerSecond } = this.conditions;
    if (bytesPerSecond === Infinity) return 0;
    this.#busyUntilMs = Math.max(nowMs, this.#busyUntilMs) + bytes * 1_000 / bytesPerSecond;
    return this.#busyUntilMs - nowMs;
  }

  /**
   * Returns when a slow link will have sent everything so far, also if the link is faster now.
   *
   * @returns Time until the last byte has left, in milliseconds; 0 if nothing waits.
   */
  backlogMs(nowMs: number): number {
    return Math.max(0, this.#busyUntilMs - nowMs);
  }

  #passage(random: () => number): number {
    const { delayMs, jitterMs, jitter } = this.conditions;
    if (jitterMs === 0) return delayMs;
    const draw = random();
    switch (jitter) {
      case "uniform":
        return delayMs + 2 * jitterMs * draw;
      case "exponential":
        return delayMs - jitterMs * Math.log(1 - draw);
      case "long-tail":
        return delayMs + Math.min(MAX_JITTER_MS, jitterMs * (1 / Math.sqrt(1 - draw) - 1));
    }
  }
}
