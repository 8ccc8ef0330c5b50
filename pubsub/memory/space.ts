/** The memory that the logs and the histories of a `MemoryBroker` share, and what their parts take. */
import { machineMemoryBytes } from "../../base/platform.ts";

/**
 * Bytes that each part takes in addition to its content, as measured by V8's heap and the process:
 * objects, headers of strings and buffers, and entries of maps.
 */
export const COSTS = {
  topic: 1_024,
  publication: 256,
  log: 1_024,
  text: 64,
  bytes: 384,
  producer: 128,
  fork: 128,
} as const;

/** Most bytes unless the machine has little memory. */
export const MAX_TOTAL_BYTES = 536_870_912;

/** Part of the machine's memory. */
const SHARE = 1 / 4;

/**
 * Returns the default bound: 512 MiB or a quarter of the machine's memory, whichever is smaller.
 * Without the permission to read the size of the memory, 512 MiB.
 */
export function defaultTotalBytes(): number {
  const bytes = machineMemoryBytes();
  return bytes === undefined
    ? MAX_TOTAL_BYTES
    : Math.min(MAX_TOTAL_BYTES, Math.floor(bytes * SHARE));
}

/** A part whose bytes are counted together with others. */
export interface Counted {
  /** Bytes as last counted. */
  counted: number;
  /** Bytes now. */
  readonly cost: number;
}

/** Sum of the bytes of many parts. */
export class Sum {
  #bytes = 0;

  /** Bytes of all parts. */
  get bytes(): number {
    return this.#bytes;
  }

  /** Counts a part anew, after a change. */
  update(part: Counted): void {
    const { cost } = part;
    this.#bytes += cost - part.counted;
    part.counted = cost;
  }

  /** Takes a part off the sum. */
  remove(part: Counted): void {
    this.#bytes -= part.counted;
    part.counted = 0;
  }

  /** Takes all parts off the sum. */
  clear(): void {
    this.#bytes = 0;
  }
}
