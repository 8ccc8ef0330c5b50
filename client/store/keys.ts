/** The keys of a client's store: a format version, a space, and then what the space says. */
import type { StoreRange } from "./store.ts";

/** The version of all keys and values. A store may have entries of a newer version. */
export const FORMAT = 1;

/** The second byte of a key. */
export const SPACES = {
  /** The producers whose items are in the outbox. */
  producers: 1,
  /** Messages, publications and requests that wait for the server. */
  items: 2,
  /** The positions of subscriptions. */
  positions: 3,
  /** The rows of states. */
  rows: 4,
  /** The writes of states that wait for the server. */
  writes: 5,
  /** The tag of the user whom a server confirmed. */
  user: 6,
} as const;

/** A part of a key. Texts have their length first, and numbers have eight bytes, big-endian. */
export type KeyPart = string | number;

/**
 * Creates a key. Keys with the same first parts are next to each other, and those with a number as
 * the next part are in the order of the numbers.
 */
export function keyIn(space: keyof typeof SPACES, ...parts: readonly KeyPart[]): Uint8Array {
  const bytes = [FORMAT, SPACES[space]];
  for (const part of parts) {
    if (typeof part === "number") bytes.push(...numberBytes(part));
    else {
      const text = new TextEncoder().encode(part);
      bytes.push(text.length >> 8, text.length & 255, ...text);
    }
  }
  return Uint8Array.from(bytes);
}

/**
 * Reads the parts of a key that {@linkcode keyIn} created.
 *
 * @param key The key, which may be anybody's.
 * @returns The parts; `undefined` if the key has others.
 */
export function partsOf(
  key: Uint8Array,
  kinds: readonly ("text" | "number")[],
): KeyPart[] | undefined {
  const view = new DataView(key.buffer, key.byteOffset, key.byteLength);
  const parts: KeyPart[] = [];
  let at = 2;
  try {
    for (const kind of kinds) {
      if (kind === "number") {
        parts.push(Number(view.getBigUint64(at)));
        at += 8;
        continue;
      }
      const end = at + 2 + view.getUint16(at);
      if (end > key.length) return undefined;
      const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
      parts.push(decoder.decode(key.subarray(at + 2, end)));
      at = end;
    }
  } catch {
    return undefined; // Too short, or not UTF-8.
  }
  return at === key.length ? parts : undefined;
}

/** Returns the range of all keys that start with the bytes of a key. */
export function rangeOf(prefix: Uint8Array): StoreRange {
  const to = [...prefix];
  while (to.at(-1) === 255) to.pop();
  to.push(to.pop()! + 1);
  return { from: prefix, to: Uint8Array.from(to) };
}

export function only(key: Uint8Array): StoreRange {
  return { from: key, to: after(key) };
}

/** Returns the first key after another one. */
export function after(key: Uint8Array): Uint8Array {
  const next = new Uint8Array(key.length + 1);
  next.set(key);
  return next;
}

function numberBytes(number: number): Uint8Array {
  const bytes = new Uint8Array(8);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(number));
  return bytes;
}
