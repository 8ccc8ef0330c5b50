/** Parts of a server that only features of this library use. */
import type { HttpGuardParts } from "./http/guard.ts";
import type { AuthorizeChange } from "./requests/changes.ts";
import type { MutationOverrides } from "./requests/mutations.ts";
import type { PublishHook } from "./requests/on_publish.ts";
import type { HttpStats, WebTransportStats } from "./metrics/measures.ts";
import type { Users } from "./users.ts";
import type { DecisionFault } from "../base/decision.ts";
import type { Account } from "../base/quotas/accounts.ts";
import type { QuotaStats } from "../base/quotas/shares.ts";
import type { SessionManager } from "../manager/session_manager.ts";
import type { Nodes } from "../pubsub/nodes/nodes.ts";
import type { Presence } from "../pubsub/presence/presence.ts";
import type { Rooms } from "../pubsub/presence/rooms.ts";
import type { Topics } from "../pubsub/topics.ts";
import type { Session } from "../session/session.ts";
import type { SessionSettings } from "../session/settings/settings.ts";
import type { Sha256Hash } from "../transport/certificate/certificate.ts";
import type { OriginRules } from "../transport/origins.ts";
import type { WebSocketEngine } from "../transport/websocket/server.ts";

/** See {@linkcode FeatureHost.core}. */
export interface ServerCore {
  /** Services of an `HttpGuard`, among them the quotas. */
  readonly guardParts: HttpGuardParts;
  /** Origins and hosts of trusted pages. */
  readonly origins: OriginRules;
  /** Users with sessions on any node. */
  readonly users: Users;
  readonly settings: SessionSettings;
  /** The sockets, once the server listens. */
  readonly sockets: SocketHost;
  /** The server, for the inspector. */
  readonly server: InspectedServer;
  /** Returns the account of a session, for quotas. */
  accountOf(session: Session): Account;
  /** Time for which a lost session counts as present, in milliseconds. */
  readonly graceMs: number;
  /** Decides about the changes of states that clients request. */
  readonly authorizeChange: AuthorizeChange | undefined;
  /** Decides about publications by `onPublish`; `undefined` without this option. */
  readonly publishHook: PublishHook | undefined;
  /** Functions of mutations that this server calls instead of the defined ones. */
  readonly mutations: MutationOverrides | undefined;
  /** `true` if the server could not be created or could not listen; its features are free again. */
  hasFailed(): boolean;
  /** Reports that the application could not decide about a request. */
  readonly reportFault: (fault: DecisionFault, session: Session | undefined) => void;
  /** Reports that a function of the application failed, to `onError` or on the console. */
  readonly reportFailure: (what: string, error: unknown) => void;
  /** Reports that stored data was lost, to `onError` or, once an hour, on the console. */
  readonly reportLoss: (error: Error) => void;
}

/** A server, as its inspector sees it. */
export interface InspectedServer {
  /** The sessions. */
  readonly manager: SessionManager;
  /** The subscriptions. */
  readonly topics: Topics;
  /** The users. */
  readonly presence: Presence;
  /** The rooms. */
  readonly rooms: Rooms;
  /** The nodes of the broker. */
  readonly nodes: Nodes | undefined;
  /** Durable streams, if the server has any. */
  readonly streams: InspectedStreams | undefined;
  /** Counters of HTTP requests. */
  readonly httpStats: Readonly<Record<string, HttpStats>>;
  /** Counters of limits. */
  readonly quotaStats: Readonly<Record<string, QuotaStats>>;
  /** Counters of WebTransport. */
  readonly webTransportStats: WebTransportStats | undefined;
}

/** The durable streams of a server, as its inspector sees them. */
export interface InspectedStreams {
  /** Streams with readers or writers on this node. */
  activity(): readonly {
    readonly id: string;
    readonly readers: number;
    /** `true` for a stored response. */
    readonly isResponse: boolean;
    /** The writer on this node, if there is one. */
    readonly writer?: { readonly offset: string; readonly waiting: number } | undefined;
  }[];
  /** Reads the state of a stream; `undefined` if there is none. */
  info(id: string): Promise<object | undefined>;
}

/** The sockets of a server whose requests and connections a MoQ server handles. */
export interface SocketHost {
  /** Address on which the host listens; `undefined` if it does not. */
  readonly address: Deno.NetAddr | undefined;
  /**
   * Hashes by which clients can trust the certificate; empty if a certificate authority must have
   * signed it.
   */
  readonly hashes: readonly Sha256Hash[];
  /** `true` for a development server without TLS, which may send the hashes in clear text. */
  readonly isDevelopment: boolean;
  /** Engine of WebSocket upgrades, instead of the runtime's own. */
  readonly webSocketEngine?: WebSocketEngine | undefined;
  /** Returns the URL of a transport for clients on this machine; empty if the transport is off. */
  urlOf(transport: "webtransport" | "quic" | "websocket"): string;
}
