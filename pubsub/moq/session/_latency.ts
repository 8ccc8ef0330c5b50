/**
 * Latency limits of groups, as peers read and write them. In Skein and gomoqt, 0 means no limit; in
 * moq-rs and its JavaScript, 0 means the newest group alone.
 */
import type { MoqErrorFamily } from "../wire/error_codes.ts";

/** Stands for "no limit" on the wire: about twelve days, in four bytes. */
const NO_LIMIT_MS = 0x3fff_ffff;

/** Stands here for a peer that wants the newest group alone. */
const NEWEST_ONLY_MS = 1;

/** Fields with a latency. */
interface Latent {
  readonly maxLatencyMs: number;
}

/**
 * Prepares a latency for the wire.
 *
 * @param fields The fields with the latency.
 * @returns The fields with a latency that every peer reads alike.
 */
export function toWireLatency<T extends Latent>(fields: T): T {
  return fields.maxLatencyMs === 0 ? { ...fields, maxLatencyMs: NO_LIMIT_MS } : fields;
}

/**
 * Converts a latency from the wire.
 *
 * @param fields The fields with the latency.
 * @param family The error code family of the sender.
 * @returns The fields, with 0 for no limit.
 */
export function fromWireLatency<T extends Latent>(fields: T, family: MoqErrorFamily): T {
  const { maxLatencyMs } = fields;
  if (maxLatencyMs >= NO_LIMIT_MS) return { ...fields, maxLatencyMs: 0 };
  if (maxLatencyMs === 0 && family === "moq-lite") {
    return { ...fields, maxLatencyMs: NEWEST_ONLY_MS };
  }
  return fields;
}
