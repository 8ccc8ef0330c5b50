/** A request for a session by a WebSocket upgrade. */
import {
  type Accepted,
  type AcceptRequest,
  type PendingUpgrades,
  type RequestPeer,
  responseHeaders,
  type SessionRequest,
} from "./session_request.ts";
import { Rejected } from "./rejection.ts";
import type { Runtime } from "../../base/runtime.ts";
import { SKEIN_PROTOCOL } from "../../session/session.ts";
import type { FlowControlOptions } from "../../transport/connection.ts";
import type { MessageStreamOptions } from "../../transport/message_stream/server.ts";
import { isOriginAllowed, type OriginRules } from "../../transport/origins.ts";
import { parseQmuxProtocol } from "../../transport/qmux/versions.ts";
import { TOKEN_MARK } from "../../transport/webtransport.ts";
import {
  type AcceptedWebSocket,
  type AcceptWebSocketOptions,
  offeredProtocols,
  type OfferedUpgrade,
  type SocketLease,
  type WebSocketEngine,
} from "../../transport/websocket/server.ts";

/** Properties common to all upgrades of a server. */
export interface WebSocketUpgradeOptions {
  readonly runtime: Runtime;
  /** Sockets that were closed immediately, and wait for their end. */
  readonly pendingUpgrades: PendingUpgrades;
  /** Time without a sign of life after which a plain peer is considered dead, in milliseconds. */
  readonly idleTimeoutMs: number;
  /**
   * Flow-control credit: how much data peers may send on streams before the application reads it.
   */
  readonly flowControl: FlowControlOptions | undefined;
  /** Limits of a Skein client's message stream over QMux. */
  readonly messages: Pick<
    MessageStreamOptions,
    "maxEarlyBytes" | "maxFrameBytes" | "streamTimeoutMs"
  >;
}

/** Wraps a request from an HTTP server as an upgrade that an engine can accept. */
export class FetchedUpgrade implements OfferedUpgrade {
  readonly method: string;
  readonly url: string;
  readonly headers: Headers;
  readonly request: Request;
  readonly #engine: WebSocketEngine;

  constructor(request: Request, engine: WebSocketEngine) {
    this.method = request.method;
    this.url = request.url;
    this.headers = request.headers;
    this.request = request;
    this.#engine = engine;
  }

  accept(options: AcceptWebSocketOptions): AcceptedWebSocket {
    return this.#engine(this.request, options);
  }
}

/** A WebSocket upgrade. */
export class WebSocketSessionRequest implements SessionRequest<Response> {
  readonly transport = "websocket";
  readonly url: string;
  readonly headers: OfferedUpgrade["headers"];
  readonly address: string | undefined;
  readonly rejection: Rejected | undefined;
  readonly isSkein: boolean;
  readonly announcesToken: boolean;
  readonly #upgrade: OfferedUpgrade;
  readonly #options: WebSocketUpgradeOptions;
  readonly #protocol: string;

  constructor(
    upgrade: OfferedUpgrade,
    { address, rejection }: RequestPeer,
    options: WebSocketUpgradeOptions,
  ) {
    this.url = upgrade.url;
    this.headers = upgrade.headers;
    this.address = address;
    this.rejection = rejection;
    this.#upgrade = upgrade;
    const offered = offeredProtocols(upgrade);
    const protocol = this.#protocol = chosenOf(offered);
    this.isSkein = protocol === SKEIN_PROTOCOL ||
      parseQmuxProtocol(protocol)?.protocol === SKEIN_PROTOCOL;
    this.announcesToken = this.isSkein && offered.includes(TOKEN_MARK);
    this.#options = options;
  }

  get request(): Request {
    return this.#upgrade.request;
  }

  isOriginAllowed(rules: OriginRules): boolean {
    return isOriginAllowed(this.headers, rules);
  }

  accept(options: AcceptRequest): Accepted<Response> {
    // `skein.1` has its own heartbeat; plain peers are pinged by the runtime.
    const idleTimeoutMs = this.isSkein ? 0 : this.#options.idleTimeoutMs;
    const lease = options.takeSocket();
    const { connection, response, isOpen } = this.#accept(lease, idleTimeoutMs, options.admitted);
    return { connection, opened: isOpen ? undefined : connection.ready, response };
  }

  /**
   * Rejects a Skein client with a close, because browsers hide the status of a rejected upgrade.
   */
  reject(rejected: Rejected, takeSocket: () => SocketLease): Response {
    const { status, message: reason } = rejected;
    const info = { closeCode: 4000 + status, reason };
    return this.isSkein && this.#rejectByClose(info, takeSocket) ||
      new Response(reason, { status, headers: responseHeaders(rejected) });
  }

  /** Counts the socket, because it stays until the peer responds to the close. */
  #rejectByClose(
    info: { readonly closeCode: number; readonly reason: string },
    takeSocket: () => SocketLease,
  ): Response | undefined {
    try {
      // An idle timeout would stop at the close, without effect.
      const lease = takeSocket();
      const { connection, response } = this.#accept(lease, 0);
      this.#options.pendingUpgrades.add(connection.ready, lease);
      connection.close(info);
      return response;
    } catch {
      // A request that cannot be upgraded receives the status.
      return undefined;
    }
  }

  #accept(
    lease: SocketLease,
    idleTimeoutMs: number,
    admitted?: Promise<unknown>,
  ): AcceptedWebSocket {
    const { runtime, flowControl, messages } = this.#options;
    try {
      return this.#upgrade.accept({
        runtime,
        protocol: this.#protocol,
        headers: responseHeaders(),
        idleTimeoutMs,
        lease,
        flowControl,
        messages,
        admitted,
      });
    } catch (cause) {
      lease[Symbol.dispose]();
      throw new Rejected(400, "The upgrade is malformed", { cause });
    }
  }
}

/**
 * Chooses one of the offered subprotocols, or none. If a client also accepts plain streams, no
 * unknown protocol on top of QMux is chosen.
 */
function chosenOf(offered: readonly string[]): string {
  if (offered.includes(SKEIN_PROTOCOL)) return SKEIN_PROTOCOL;
  const chosen = { skein: "", bare: "", other: "" };
  for (const name of offered) {
    const agreed = parseQmuxProtocol(name);
    if (agreed === undefined) continue;
    const { protocol } = agreed;
    chosen[protocol === SKEIN_PROTOCOL ? "skein" : protocol === "" ? "bare" : "other"] ||= name;
  }
  return chosen.skein || chosen.bare || chosen.other;
}
