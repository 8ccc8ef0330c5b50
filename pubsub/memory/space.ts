/** The memory of a `MemoryBroker`: its bound, what features keep in it, and the overhead of parts. */
import { machineMemoryBytes } from "../../base/platform.ts";
import type { Runtime } from "../../base/runtime.ts";
import type { BrokerLife } from "../broker/life.ts";

/**
 * Bytes that each part uses in addition to its content, for objects, the headers of strings and
 * buffers, and map entries. They were measured in V8's heap and in the process.
 */
export const COSTS = {
  topic: 1_024,
  publication: 256,
  producer: 256,
  key: 96,
} as const;

/** Default maximum number of bytes, unless the machine has little memory. */
export const MAX_TOTAL_BYTES = 536_870_912;

/** Fraction of the machine's memory. */
const SHARE = 1 / 4;

/**
 * Returns the default bound: 512 MiB or a quarter of the machine's memory, whichever is smaller.
 * Without the permission to read the memory size, it is 512 MiB.
 */
export function defaultTotalBytes(): number {
  const bytes = machineMemoryBytes();
  return bytes === undefined
    ? MAX_TOTAL_BYTES
    : Math.min(MAX_TOTAL_BYTES, Math.floor(bytes * SHARE));
}

/** Data of a feature in the memory of a broker. */
export interface MemoryTenant {
  /** Bytes in use, including overhead. */
  readonly bytes: number;
  /** Removes all data; called when the broker closes. */
  clear(): void;
}

/** The memory of a broker, as a feature sees it that keeps data there. */
export interface SharedMemory {
  /** Clocks of the node. */
  readonly runtime: Runtime;
  /** Rejects calls after the broker was closed. */
  readonly life: BrokerLife;
  /** Maximum number of bytes of the broker. */
  readonly maxBytes: number;
  /**
   * Publishes an empty payload.
   *
   * @param topic A topic of the feature.
   */
  announce(topic: string): void;
  /**
   * Makes room by forgetting histories, if possible.
   *
   * @param bytes Number of bytes that the feature will use.
   * @returns True if there is room.
   */
  hasRoom(bytes: number): boolean;
}

/** A part whose bytes are added up with others. */
export interface Counted {
  /** Bytes at the last update. */
  counted: number;
  /** Current bytes. */
  readonly cost: number;
}

export class ByteSum {
  #bytes = 0;

  get bytes(): number {
    return this.#bytes;
  }

  /** Updates the bytes of a part after a change. */
  update(part: Counted): void {
    const { cost } = part;
    this.#bytes += cost - part.counted;
    part.counted = cost;
  }

  remove(part: Counted): void {
    this.#bytes -= part.counted;
    part.counted = 0;
  }

  clear(): void {
    this.#bytes = 0;
  }
}
