/** Limits for the sessions of a server: in total, by network address, and during setup. */
import { addressKey } from "../../../transport/address.ts";
import { MoqRefusal } from "./_refusal.ts";

/** Limits of a {@linkcode MoqServer}. */
export interface MoqServerLimits {
  /**
   * Most sessions at once, including those in their setup. Further clients are refused with 429, or
   * over raw QUIC closed with 4429.
   *
   * @default {10000}
   */
  readonly maxSessions?: number;
  /**
   * Most sessions of one network address at once; an IPv6 /64 counts as one address. Refused in the
   * same way. Clients without an address are not counted here.
   *
   * @default {1000}
   */
  readonly maxSessionsPerAddress?: number;
  /**
   * Most sessions in their setup at once. Further clients are refused with 503, or over raw QUIC
   * closed with 4503.
   *
   * @default {1024}
   */
  readonly maxPendingSetups?: number;
}

type Limits = Readonly<Record<keyof MoqServerLimits, number>>;

/** A place for one session, from the request to the end of the socket. */
export interface Place extends Disposable {
  /** Marks the setup as over. Idempotent. */
  begun(): void;
  /** Marks the close as sent. The socket still counts until its end. */
  closing(): void;
}

/** Counts sessions and refuses those beyond the limits. */
export class Places {
  readonly #limits: Limits;
  readonly #perAddress = new Map<string, number>();
  #count = 0;
  #pending = 0;

  /**
   * Creates a counter with all places free.
   *
   * @throws {RangeError} If a limit is not a positive integer.
   */
  constructor(limits: MoqServerLimits = {}) {
    this.#limits = {
      maxSessions: limits.maxSessions ?? 10_000,
      maxSessionsPerAddress: limits.maxSessionsPerAddress ?? 1_000,
      maxPendingSetups: limits.maxPendingSetups ?? 1_024,
    };
    for (const [name, value] of Object.entries(this.#limits)) {
      if (value === Infinity || Number.isInteger(value) && value > 0) continue;
      throw new RangeError(
        `Cannot serve MoQ: ${name} must be a positive integer, received ${value}`,
      );
    }
  }

  /** Number of places taken. */
  get count(): number {
    return this.#count;
  }

  /**
   * Takes a place for a session in its setup.
   *
   * @param address Network address of the client, where known.
   * @returns The place.
   * @throws {MoqRefusal} If no place is free.
   */
  take(address: string | undefined): Place {
    const { maxSessions, maxSessionsPerAddress, maxPendingSetups } = this.#limits;
    const key = address === undefined ? undefined : addressKey(address);
    const ofAddress = key === undefined ? 0 : this.#perAddress.get(key) ?? 0;
    if (this.#count >= maxSessions || ofAddress >= maxSessionsPerAddress) {
      throw new MoqRefusal(429, "Too many sessions");
    }
    if (this.#pending >= maxPendingSetups) throw new MoqRefusal(503, "Too many setups at once");
    this.#count++;
    this.#pending++;
    if (key !== undefined) this.#perAddress.set(key, ofAddress + 1);
    let isPending = true;
    let isTaken = true;
    const begun = () => {
      if (isPending) this.#pending--;
      isPending = false;
    };
    return {
      begun,
      closing: begun,
      [Symbol.dispose]: () => {
        begun();
        if (!isTaken) return;
        isTaken = false;
        this.#count--;
        if (key === undefined) return;
        const left = this.#perAddress.get(key)! - 1;
        if (left === 0) this.#perAddress.delete(key);
        else this.#perAddress.set(key, left);
      },
    };
  }
}
