/**
 * The end of a session of MoQ, and reports of its peer.
 *
 * @module
 */
import type { MoqErrorName } from "../wire/error_codes.ts";

/** How a session ended. */
export interface MoqCloseInfo {
  /** The number as it stood on the wire. */
  readonly code: number;
  /** What it says; `unknown` if it is in no table. */
  readonly reason: MoqErrorName;
  /** In words; may be empty. */
  readonly message: string;
  /** Who ended it. */
  readonly by: "local" | "remote" | "network";
}

/** What the peer told of the path to it. */
export interface PeerUpdate {
  /** Bits a second that it sends; `undefined` if it did not say. */
  readonly bitrate: number | undefined;
  /** Round-trip time in milliseconds; `undefined` if it did not say. */
  readonly rttMs: number | undefined;
}

/** What a peer said when it wants to end. */
export interface Goaway {
  /** Where to go instead; empty for the same place. */
  readonly uri: string;
}
