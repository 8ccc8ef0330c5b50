/** The end of a session of MoQ, and reports of the peer. */
import type { MoqErrorName } from "../wire/error_codes.ts";

/** The end of a session. */
export interface MoqCloseInfo {
  /** The number, as on the wire. */
  readonly code: number;
  /** The name of the number; `unknown` for a number in no table. */
  readonly reason: MoqErrorName;
  /** The reason in words; may be empty. */
  readonly message: string;
  /** The end that closed the session, or the network. */
  readonly by: "local" | "remote" | "network";
}

/** A report of the peer about the path to the peer. */
export interface PeerUpdate {
  /** Bits a second that the peer sends; `undefined` if unknown. */
  readonly bitrate: number | undefined;
  /** Round-trip time in milliseconds; `undefined` if unknown. */
  readonly rttMs: number | undefined;
}

/** The request of a peer to end the session. */
export interface Goaway {
  /** The URL to go to instead; empty for the same place. */
  readonly uri: string;
}
