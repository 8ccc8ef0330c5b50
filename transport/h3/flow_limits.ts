/** Limits of flow control in sessions over HTTP/3. */
import type { FlowControlOptions } from "../connection.ts";

/** Limits of WebTransport's flow control at the start of a session. */
export interface FlowControlLimits {
  /** Bytes on all streams. */
  readonly maxData: number;
  /** Bidirectional streams. */
  readonly maxStreamsBidi: number;
  /** Unidirectional streams. */
  readonly maxStreamsUni: number;
}

/** Default limits; the limits of QUIC apply as well. */
const DEFAULTS: FlowControlLimits = {
  maxData: 4 * 1024 * 1024,
  maxStreamsBidi: 128,
  maxStreamsUni: 128,
};

/**
 * Reads the limits from the options.
 *
 * @param options Options of the application, if any.
 * @returns Limits, with defaults for missing ones.
 * @throws {RangeError} If a limit is not an integer from 0 to 2^53 - 1, or if all are 0, which
 * would announce that this end has no flow control.
 */
export function flowLimitsOf(options: FlowControlOptions | undefined): FlowControlLimits {
  if (options === undefined) return DEFAULTS;
  const {
    maxData = DEFAULTS.maxData,
    maxStreamsBidi = DEFAULTS.maxStreamsBidi,
    maxStreamsUni = DEFAULTS.maxStreamsUni,
  } = options;
  const limits = { maxData, maxStreamsBidi, maxStreamsUni };
  for (const [name, value] of Object.entries(limits)) {
    if (Number.isSafeInteger(value) && value >= 0) continue;
    throw new RangeError(
      `Cannot limit flow: ${name} must be an integer from 0 to 2^53 - 1, received ${value}`,
    );
  }
  if (maxData > 0 || maxStreamsBidi > 0 || maxStreamsUni > 0) return limits;
  throw new RangeError(
    "Cannot limit flow: one of maxData, maxStreamsBidi and maxStreamsUni must be above 0 over HTTP/3, received 0 for all",
  );
}
