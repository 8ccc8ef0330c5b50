/** The parts of a session that differ between moq-lite with gomoqt, and the IETF's drafts. */
import type { BidirectionalStream } from "../../transport/connection.ts";
import type { AnnouncementReader } from "../track/announcement.ts";
import type { GroupReader } from "../track/group_reader.ts";
import type { MoqSubscribeOptions, TrackReader } from "../track/track_reader.ts";
import type { MoqToken } from "../wire/ietf/parameters.ts";
import type { MoqParameters, TrackInfoMessage } from "../wire/messages.ts";
import type { BroadcastPath } from "../wire/path.ts";

/** The setup of this side, for versions in which it is a stream of its own. */
export interface OwnSetup {
  /** Parameters of the application. */
  readonly extensions?: MoqParameters | undefined;
  /** The path that a client requests; only sent on a transport without a URL. */
  readonly path: string;
  /** Host and port that a client requests; only sent on a transport without a URL. */
  readonly authority: string;
  /** True if this side responds to probes. */
  readonly isMeasuring: boolean;
}

/** The setup of a peer that came on a stream of its own. */
export interface ReceivedSetup {
  readonly parameters: MoqParameters;
  /** The path, if the setup has one. */
  readonly path: string | undefined;
  /** The tokens of the peer, in the IETF's drafts. */
  readonly tokens: readonly MoqToken[];
}

/** Receives what a peer sends outside of its requests. */
export interface DialectEvents {
  /** Called with the setup of the peer, which must come once. */
  readonly onSetup: (setup: ReceivedSetup) => void;
  /** Called with the URL to connect to instead; empty for the same one. */
  readonly onGoaway: (uri: string) => void;
}

/** One family of versions, on an open connection. */
export interface SessionDialect {
  /** Subscriptions of this side. */
  readonly tracks: readonly TrackReader[];
  /** The number of the peer's subscriptions. */
  readonly served: number;
  /** Starts to accept unidirectional streams. */
  takeUnidirectional(): void;
  /** Sends the setup of this side, if it is a stream of its own. */
  sendSetup(setup: OwnSetup): Promise<void>;
  /** Starts to accept requests; called once the peer is admitted. */
  takeBidirectional(streams: AsyncIterator<BidirectionalStream>): Promise<void>;
  announce(
    prefix: BroadcastPath,
    options: { readonly signal?: AbortSignal | undefined },
  ): Promise<AnnouncementReader>;
  subscribe(path: BroadcastPath, name: string, options: MoqSubscribeOptions): Promise<TrackReader>;
  fetch(
    path: BroadcastPath,
    name: string,
    options: {
      readonly group: number;
      readonly priority?: number | undefined;
      readonly signal?: AbortSignal | undefined;
    },
  ): Promise<GroupReader>;
  trackInfo(
    path: BroadcastPath,
    name: string,
    options: { readonly signal?: AbortSignal | undefined },
  ): Promise<TrackInfoMessage>;
  /**
   * Asks the peer to leave.
   *
   * @returns False if the version has no message for that.
   */
  goaway(
    uri: string,
    options: {
      readonly timeoutMs?: number | undefined;
      readonly signal?: AbortSignal | undefined;
    },
  ): Promise<boolean>;
  /** Ends all requests with the session. */
  end(error: unknown): void;
}
