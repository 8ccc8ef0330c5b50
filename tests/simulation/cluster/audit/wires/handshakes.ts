/** Limits on connections and handshakes of a port that strangers reach, beside a model. */
import {
  type ConnectionSlot,
  HandshakeLimits,
  type HandshakeLimitsOptions,
} from "../../../../../transport/hardened/handshake_limits.ts";
import { between, oneOf } from "../../chance.ts";
import type { Audit } from "../audit.ts";

/** Runs, and steps of each. */
const [RUNS, STEPS] = [3, 120] as const;

/** Longest time between two steps, in milliseconds, and a time in which all tokens come back. */
const [STEP_MS, REST_MS] = [400, 3_600_000] as const;

/** Addresses by account: those of a network of 64 bits are one. No wider network has two accounts. */
const ADDRESSES: readonly (readonly [account: string, addresses: readonly string[]])[] = [
  ["one", ["203.0.113.1"]],
  ["two", ["203.0.113.2"]],
  ["three", ["2001:db8:0:1::1", "2001:db8:0:1:ffff::2"]],
  ["four", ["2001:db8:1:2::1"]],
];

/** Steps, some of which come more often. */
const KINDS = ["open", "open", "open", "request", "close", "close", "close again"] as const;

/** A connection of the model. */
interface Connection {
  readonly account: string;
  readonly slot: ConnectionSlot;
  isPending: boolean;
  isOpen: boolean;
}

/** Tokens of an account, at a time in milliseconds. */
interface Tokens {
  tokens: number;
  at: number;
}

/**
 * Opens, uses and closes connections in any order.
 *
 * @param audit The audit.
 */
export function auditHandshakes(audit: Audit): void {
  const random = audit.chanceOf("handshakes");
  for (let run = 0; run < RUNS; run++) new Handshakes(audit, random).run();
}

/** Limits, and the model of these. */
class Handshakes {
  readonly #audit: Audit;
  readonly #random: () => number;
  readonly #options: Readonly<Record<Exclude<keyof HandshakeLimitsOptions, "quotas">, number>>;
  readonly #limits: HandshakeLimits;
  readonly #tokens = new Map<string, Tokens>();
  /** All connections so far, the oldest first. */
  readonly #all: Connection[] = [];
  /** Connections that the limits have ended. */
  readonly #dropped: number[] = [];
  readonly #counts = { tooFrequent: 0, tooManyPending: 0, tooMany: 0 };
  #nowMs = 0;

  constructor(audit: Audit, random: () => number) {
    this.#audit = audit;
    this.#random = random;
    const draw = (most: number) => 1 + Math.floor(most * random());
    this.#options = {
      handshakesPerSecond: oneOf(random, [0.5, 2, 5]),
      handshakeBurst: draw(6),
      maxPendingPerAddress: draw(4),
      maxPending: 2 + draw(5),
      maxConnectionsPerAddress: draw(4),
      maxConnections: 1 + draw(8),
      maxIdleAddresses: ADDRESSES.length,
    };
    this.#limits = new HandshakeLimits(this.#options);
  }

  run(): void {
    for (let step = 0; step < STEPS; step++) {
      this.#nowMs += between(this.#random, 0, STEP_MS);
      const kind = oneOf(this.#random, KINDS);
      if (kind === "open") this.#connect();
      else this.#change(kind);
      const open = this.#all.filter(({ isOpen }) => isOpen);
      const expected = {
        connections: open.length,
        pending: open.filter(({ isPending }) => isPending).length,
        ...this.#counts,
      };
      const { addresses: _addresses, tooSlow: _tooSlow, ...received } = this.#limits.stats;
      this.#expect(`counters behind step ${step}, ${kind}`, expected, {
        ...expected,
        ...received,
      });
    }
    for (const one of this.#all) if (one.isOpen) one.slot[Symbol.dispose]();
    this.#nowMs += REST_MS;
    this.#limits.admit("198.51.100.1", this.#nowMs, { destroy() {} })?.[Symbol.dispose]();
    const { connections, pending, addresses } = this.#limits.stats;
    this.#expect("connections, and addresses kept", [0, 0, 1], [connections, pending, addresses]);
  }

  /** Opens a connection of any address. */
  #connect(): void {
    const random = this.#random;
    const { handshakesPerSecond, handshakeBurst, maxPending } = this.#options;
    const [account, addresses] = oneOf(random, ADDRESSES);
    const known = this.#tokens.get(account) ?? { tokens: handshakeBurst, at: this.#nowMs };
    const elapsedS = (this.#nowMs - known.at) / 1_000;
    const tokens = Math.min(handshakeBurst, known.tokens + elapsedS * handshakesPerSecond);
    const number = this.#all.length;
    const fits = this.#fits(account);
    const slot = this.#limits.admit(oneOf(random, addresses), this.#nowMs, {
      destroy: () => this.#dropped.push(number),
    });
    this.#expect("connection that is let in", fits, slot !== undefined);
    const isFrequent = tokens < 1;
    this.#tokens.set(account, {
      tokens: fits && !isFrequent ? tokens - 1 : tokens,
      at: this.#nowMs,
    });
    if (slot === undefined) return;
    if (isFrequent) this.#counts.tooFrequent++;
    const waitS = isFrequent ? Math.ceil((1 - tokens) / handshakesPerSecond) : 0;
    this.#expect("seconds until the next connection", waitS, slot.retryAfterS);
    this.#all.push({ account, slot, isPending: true, isOpen: true });
    const pending = this.#all.filter(({ isOpen, isPending }) => isOpen && isPending);
    const isCrowded = pending.length > maxPending;
    const oldest = pending[0]!;
    if (isCrowded) {
      this.#counts.tooManyPending++;
      oldest.isOpen = false;
    }
    const dropped = isCrowded ? [this.#all.indexOf(oldest)] : [];
    this.#expect("connections ended for a newer one", dropped, this.#dropped.splice(0));
  }

  /** Tells if a connection of an account is let in, and counts one that is not. */
  #fits(account: string): boolean {
    const { maxConnections, maxConnectionsPerAddress, maxPending, maxPendingPerAddress } =
      this.#options;
    const open = this.#all.filter(({ isOpen }) => isOpen);
    const own = open.filter((one) => one.account === account);
    const isFull = open.length >= maxConnections + maxPending ||
      own.length >= maxConnectionsPerAddress + maxPendingPerAddress;
    const isPending = own.filter((one) => one.isPending).length >= maxPendingPerAddress;
    if (isFull) this.#counts.tooMany++;
    else if (isPending) this.#counts.tooManyPending++;
    return !isFull && !isPending;
  }

  /** Lets a connection send a request, or ends one, perhaps for the second time. */
  #change(kind: Exclude<typeof KINDS[number], "open">): void {
    const some = this.#all.filter(({ isOpen }) => isOpen === (kind !== "close again"));
    if (some.length === 0) return;
    const one = oneOf(this.#random, some);
    if (kind === "request") {
      one.slot.requested();
      one.isPending = false;
    } else {
      one.slot[Symbol.dispose]();
      one.isOpen = false;
    }
  }

  #expect(what: string, expected: unknown, received: unknown): void {
    this.#audit.examine("limits", `handshakes: ${what}`, expected, received);
  }
}
