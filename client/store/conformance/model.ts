/** A model of a store, and random batches for both. */
import { compareBytes } from "../../../base/bytes.ts";
import type { StoreBatch, StoreEntry, StorePage, StoreRange } from "../store.ts";

/** Entries in the order of their keys, with the rules of a store in their simplest form. */
export class Model {
  #entries: StoreEntry[] = [];
  #seed = 1;

  /** Returns the next random number below a bound. */
  below(bound: number): number {
    // The constants of Numerical Recipes; the low bits of such numbers are poor.
    this.#seed = (Math.imul(this.#seed, 1_664_525) + 1_013_904_223) >>> 0;
    return Math.floor(this.#seed / 2 ** 32 * bound);
  }

  /** Returns a random range; some are empty. */
  range(): StoreRange {
    const from = this.#key(this.below(3));
    return this.below(4) === 0 ? { from } : { from, to: this.#key(1 + this.below(2)) };
  }

  /** Returns a random batch, and applies it. */
  next(): StoreBatch {
    const deletes = Array.from({ length: this.below(3) }, () => this.range());
    const puts = Array.from({ length: this.below(30) }, () => ({
      key: this.#key(1 + this.below(3)),
      value: new Uint8Array(this.below(100)).fill(this.below(256)),
    }));
    for (const range of deletes) {
      this.#entries = this.#entries.filter(({ key }) => !isIn(range, key));
    }
    for (const entry of puts) {
      this.#entries = this.#entries.filter(({ key }) => compareBytes(key, entry.key) !== 0);
      this.#entries.push(entry);
    }
    this.#entries.sort((a, b) => compareBytes(a.key, b.key));
    return { deletes, puts };
  }

  read(
    range: StoreRange,
    { maxEntries, maxBytes }: { readonly maxEntries: number; readonly maxBytes: number },
  ): StorePage {
    const inside = this.#entries.filter(({ key }) => isIn(range, key));
    let bytes = 0;
    const beyond = inside.findIndex(({ key, value }, i) => {
      bytes += key.byteLength + value.byteLength;
      return i === maxEntries || (i > 0 && bytes > maxBytes);
    });
    const entries = beyond < 0 ? inside : inside.slice(0, beyond);
    return { entries, isComplete: beyond < 0 };
  }

  #key(length: number): Uint8Array {
    return Uint8Array.from({ length }, () => [0, 1, 2, 127, 128, 255][this.below(6)]!);
  }
}

function isIn({ from, to }: StoreRange, key: Uint8Array): boolean {
  return compareBytes(key, from) >= 0 && (to === undefined || compareBytes(key, to) < 0);
}

/**
 * Checks that a page is that of the model.
 *
 * @throws {Error} If it differs.
 */
export function checkMatches(found: StorePage, expected: StorePage): void {
  const [a, b] = [found, expected].map(({ entries, isComplete }) =>
    JSON.stringify([isComplete, entries.map(({ key, value }) => [[...key], [...value]])])
  );
  if (a !== b) throw new Error(`Expected the page ${b}, found ${a}`);
}
