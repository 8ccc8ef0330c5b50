/** Parts of a server that only features of this library use. */
import type { HttpGuardParts } from "./http/guard.ts";
import type { CountedServer } from "./metrics/measures.ts";
import type { Users } from "./users.ts";
import type { ConsoleReport } from "../base/console_report.ts";
import type { Account } from "../base/accounts.ts";
import type { Session } from "../session/session.ts";
import type { SessionSettings } from "../session/settings.ts";
import type { Sha256Hash } from "../transport/certificate/certificate.ts";
import type { OriginRules } from "../transport/origins.ts";
import type { WebSocketEngine } from "../transport/websocket/server.ts";

/** See {@linkcode FeatureHost.core}. */
export interface ServerCore {
  /** Prints each cause once an hour. */
  readonly console: ConsoleReport;
  /** Services of an `HttpGuard`, among them the quotas. */
  readonly guard: HttpGuardParts;
  /** Origins and hosts of trusted pages. */
  readonly origins: OriginRules;
  /** Users with sessions on any node. */
  readonly users: Users;
  /** Settings of all sessions. */
  readonly settings: SessionSettings;
  /** The sockets, once the server listens. */
  readonly sockets: SocketHost;
  /** Counters besides those of sessions and topics. */
  readonly counters: CountedServer;
  /** Returns the account of a session, for quotas. */
  accountOf(session: Session): Account;
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
