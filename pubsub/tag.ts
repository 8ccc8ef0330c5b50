/** Tags, which distinguish publications that have the same position in two copies of a history. */
import type { Runtime } from "../base/runtime.ts";

/** Characters in a tag of this module: 36 bits. */
const LENGTH = 6;

const DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/** Number of different tags. */
const COUNT = DIGITS.length ** LENGTH;

/** Half of the bits of a tag, as a number that bit operations can represent. */
const HALF = DIGITS.length ** (LENGTH / 2);

/**
 * Generates tags for the publications of one broker. The first tag is random, so that two brokers
 * are very unlikely to generate the same tag. A tag does not repeat until 2^36 other tags have been
 * generated.
 *
 * @example Usage
 * ```ts
 * import { Tags } from "./tag.ts";
 * import { platformRuntime } from "../base/runtime.ts";
 * import { assertNotEquals } from "@std/assert";
 *
 * const tags = new Tags(platformRuntime());
 * assertNotEquals(tags.next(), tags.next());
 * ```
 */
export class Tags {
  #next: number;

  constructor(runtime: Runtime) {
    const [high, low] = runtime.getRandomValues(new Uint32Array(2));
    this.#next = high! % HALF * HALF + low! % HALF;
  }

  /** Generates the next tag. */
  next(): string {
    this.#next = (this.#next + 1) % COUNT;
    return write(this.#next);
  }
}

/**
 * Derives the tag of a publication from the id that the broker assigned.
 *
 * @param id The id, unique to the publication.
 * @returns The same tag for the same id.
 *
 * @example Usage
 * ```ts
 * import { tagOf } from "./tag.ts";
 * import { assertEquals } from "@std/assert";
 *
 * assertEquals(tagOf("producer:7"), tagOf("producer:7"));
 * ```
 */
export function tagOf(id: string): string {
  // Two hashes in one pass (cyrb53): fast, and not for secrets.
  let high = 0xdeadbeef;
  let low = 0x41c6ce57;
  for (let i = 0; i < id.length; i++) {
    const unit = id.charCodeAt(i);
    high = Math.imul(high ^ unit, 2_654_435_761);
    low = Math.imul(low ^ unit, 1_597_334_677);
  }
  high = Math.imul(high ^ (high >>> 16), 2_246_822_507) ^
    Math.imul(low ^ (low >>> 13), 3_266_489_909);
  low = Math.imul(low ^ (low >>> 16), 2_246_822_507) ^
    Math.imul(high ^ (high >>> 13), 3_266_489_909);
  return write((high >>> 0) % HALF * HALF + (low >>> 0) % HALF);
}

function write(number: number): string {
  let text = "";
  for (let rest = number, i = 0; i < LENGTH; i++) {
    text = DIGITS[rest % DIGITS.length]! + text;
    rest = Math.floor(rest / DIGITS.length);
  }
  return text;
}
