/** Data of a broker that another program has damaged, or that the broker has evicted in part. */
import { BrokerError } from "../../errors.ts";

/**
 * Maximum number of damaged items that a broker remembers for `issues()`, which name the first few.
 */
const MAX_DAMAGED = 1_000;

/** Maximum number of items that `issues()` names. */
const MAX_NAMED = 16;

/**
 * Thrown if stored data is damaged. Unlike other errors of a broker, it does not pass: each call
 * that needs the data fails until the data is deleted.
 */
export class DamageError extends BrokerError {}

/** The items whose data is damaged, as far as calls have found out. */
export class Damages {
  readonly #reasons = new Map<string, string>();

  /**
   * Makes a call that needs an item, and remembers the item if the call finds damage.
   *
   * @param what Name of the item, for `issues`.
   * @returns The result.
   */
  async watch<T>(what: string, call: () => Promise<T>): Promise<T> {
    try {
      return await call();
    } catch (error) {
      const isNew = error instanceof DamageError && this.#reasons.size < MAX_DAMAGED;
      if (isNew) this.#reasons.set(what, error.message);
      throw error;
    }
  }

  /** Forgets an item, which was deleted or created anew. */
  forget(what: string): void {
    this.#reasons.delete(what);
  }

  /** Describes the damage. */
  issues(): string[] {
    const issues = [...this.#reasons].slice(0, MAX_NAMED).map(([what, reason]) =>
      `${what} is damaged: ${reason}`
    );
    const others = this.#reasons.size - issues.length;
    return others > 0 ? [...issues, `${others} more are damaged`] : issues;
  }
}
