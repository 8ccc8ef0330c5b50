/**
 * Another relay of a cluster, which is dialed once it is needed.
 *
 * @module
 */
import { within } from "../../../transport/within.ts";
import type { GroupReader } from "../track/group_reader.ts";
import type { RelayedFrom } from "../live/relay_source.ts";
import type { MoqSession } from "../session/session.ts";
import type { TrackInfoMessage } from "../wire/messages.ts";
import type { TrackMux } from "../track/mux.ts";
import type { TrackReader } from "../track/track_reader.ts";
import type { BroadcastPath } from "../wire/path.ts";
import { MoqError } from "../wire/errors.ts";

/** What relays of a cluster speak to each other: with hops, fetches and timestamps. */
export const CLUSTER_VERSION = "moq-lite-05";

/** How long dialing may take, in milliseconds. */
const DIAL_TIMEOUT_MS = 10_000;

/** How long a relay that could not be reached is not dialed again, in milliseconds. */
const RETRY_MS = 1_000;

/**
 * Dials another relay of the cluster. The session MUST have the mux that is given, and speak
 * `moq-lite-05`.
 *
 * @param url What that relay said of itself.
 * @param options The mux, which publishes nothing, and what gives up dialing.
 * @returns The session.
 */
export type MoqClusterDial = (
  url: string,
  options: { readonly mux: TrackMux; readonly signal: AbortSignal },
) => Promise<MoqSession>;

/** What a far relay needs of its cluster. */
export interface FarRelayLink {
  /** Opens a session. */
  readonly dial: MoqClusterDial;
  /** Publishes nothing. */
  readonly mux: TrackMux;
  /** How long a session is kept that nobody needs. */
  readonly lingerMs: number;
  /** Gets what dialing failed of. */
  report(error: unknown): void;
}

/** Another relay: one session at a time, for all that is asked of it. */
export class FarRelay implements RelayedFrom {
  readonly version = CLUSTER_VERSION;
  readonly closed: Promise<never> | Awaited<ReturnType<never>>;
}
