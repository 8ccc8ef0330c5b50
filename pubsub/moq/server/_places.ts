/**
 * How many sessions a server of MoQ may have: in all, of one address, and in their setup.
 *
 * @module
 */
import { addressKey } from "../../../transport/address.ts";
import { MoqRefusal } from "./_refusal.ts";

/** Limits of a {@linkcode MoqServer}. */
export interface MoqServerLimits {
  /**
   * Sessions at once, those in their setup too. One more is refused with 429; over raw QUIC it is
   * closed with 4429.
   *
   * @default {10000}
   */
  readonly maxSessions?: number;
  /**
   * Sessions of one network address at once, where an IPv6 /64 counts as one; refused in the same way.
   * Who has no address is not counted here.
   *
   * @default {1000}
   */
  readonly maxSessionsPerAddress?: number;
  /**
   * Sessions in their setup at once. One more is refused with 503; over raw QUIC it is closed with 4503.
   *
   * @default {1024}
   */
  readonly maxPendingSetups?: number;
}

/** The limits, with defaults. */
type Limits = Readonly<Record<keyof MoqServerLimits, number>>;

/** A place for one session, from its request to the end of its socket. */
export interface Place extends Disposable {
  /** The setup is over. Idempotent. */
  begun(): void;
  /** A socket whose peer was told to close still counts. */
  closing(): void;
}

/** Gives places, as long as there are some. */
export class Places {
  readonly #limits: Limits;
  readonly #perAddress = new Map<string, number>();
  #count = 0;
  #pending = 0;

  /**
   * Begins with all places free.
   *
   * @param limits See {@linkcode MoqServerLimits}.
   * @throws {RangeError} If one is not a positive integer.
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

  /** How many are taken. */
  get count(): number {
    return this.#count;
  }

  /**
   * Takes a place.
   *
   * @param address The peer's network address, where it is known.
   * @returns The place, whose session is in its setup.
   * @throws {MoqRefusal} If there is none.
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
