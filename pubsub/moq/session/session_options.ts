/**
 * How a session of MoQ is begun, and what it tells of its end and its peer.
 *
 * @module
 */
import type { MoqLimits } from "./limits.ts";
import type { SetupRequest } from "./_setup.ts";
import type { MoqAuthorize } from "./access.ts";
import type { BitrateMonitorOptions } from "./bitrate_monitor.ts";
import type { MoqErrorFamily, MoqErrorName } from "../wire/error_codes.ts";
import type { MoqParameters } from "../wire/messages.ts";
import type { TrackMux } from "../track/mux.ts";
import type { MoqVersion } from "../wire/versions.ts";

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

/** Options for {@linkcode MoqSession.open}. */
export interface MoqSessionOptions {
  /** Which end this is. */
  readonly side: "client" | "server";
  /**
   * The versions that may be spoken, the best first.
   *
   * @default {["moq-lite-05", "moq-lite-04", "moq-lite-02", "moq-lite-01"]}
   */
  readonly versions?: readonly MoqVersion[];
  /** What is published to the peer; nothing by default. */
  readonly mux?: TrackMux;
  /** Chooses the mux for a client, once it was let in, in place of `mux`. A server's only. */
  readonly muxOf?: (request: SetupRequest) => TrackMux;
  /**
   * Where a client wants to be, or came in.
   *
   * @default {""}
   */
  readonly path?: string;
  /** Parameters of this end's setup, on versions that have one; none by default. */
  readonly extensions?: MoqParameters;
  /** Decides what the peer may do; everything without it. */
  readonly authorize?: MoqAuthorize;
  /** Decides about a client before it is answered; what it throws refuses it. A server's only. */
  readonly onSetup?: (request: SetupRequest) => void | Promise<void>;
  /** Whose error numbers the peer uses; found out as far as possible by default. */
  readonly family?: MoqErrorFamily;
  /**
   * How this end measures what it sends, and when it tells the peer; see {@linkcode BitrateMonitorOptions}.
   *
   * By default it measures while the peer probes, which is on `moq-lite-04` and `-05`. With options it
   * also sends SESSION_UPDATE, on the versions that have it, where no peer asks for it. With `false` it
   * does neither, and `report()` is the application's.
   */
  readonly bitrate?: BitrateMonitorOptions | false;
  /** Bounds. */
  readonly limits?: MoqLimits;
  /**
   * Gives up the setup after this many milliseconds.
   *
   * @default {10000}
   */
  readonly setupTimeoutMs?: number;
  /** Closes the session, from its setup on. */
  readonly signal?: AbortSignal;
  /** Gets what a handler of the application threw. Lost by default. */
  readonly onError?: (error: unknown) => void;
}
