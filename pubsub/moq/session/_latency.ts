/**
 * How long groups are wanted, as peers read it: here 0 is no limit, and so it is to gomoqt; moq-rs and
 * its JavaScript take 0 for the newest group alone.
 *
 * @module
 */
import type { MoqErrorFamily } from "../wire/error_codes.ts";

/** What says that there is no limit: some twelve days, in four bytes. */
const NO_LIMIT_MS = 0x3fff_ffff;

/** What a peer means that wants the newest group alone. */
const NEWEST_ONLY_MS = 1;

/** Something with a latency. */
interface Latent {
  readonly maxLatencyMs: number;
}

/**
 * Writes a latency for the wire.
 *
 * @param fields What has it.
 * @returns The same, as every peer reads it.
 */
export function toWireLatency<T extends Latent>(fields: T): T {
  return fields.maxLatencyMs === 0 ? { ...fields, maxLatencyMs: NO_LIMIT_MS } : fields;
}

/**
 * Reads a latency off the wire.
 *
 * @param fields What has it.
 * @param family Who wrote it.
 * @returns The same, with 0 for no limit.
 */
export function fromWireLatency<T extends Latent>(fields: T, family: MoqErrorFamily): T {
  const { maxLatencyMs } = fields;
  if (maxLatencyMs >= NO_LIMIT_MS) return { ...fields, maxLatencyMs: 0 };
  if (maxLatencyMs === 0 && family === "moq-lite") {
    return { ...fields, maxLatencyMs: NEWEST_ONLY_MS };
  }
  return fields;
}
