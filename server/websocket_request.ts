/**
 * A peer that asks for a session by a WebSocket upgrade.
 *
 * @module
 */
import { type Accepted, type Invitation, refusalHeaders } from "./session_request.ts";
import type { Openings } from "./pending_upgrades.ts";
import { Refused, withinLimits } from "./refusal.ts";
import type { SessionManager } from "../manager/mod.ts";
import { SKEIN_PROTOCOL } from "../session/session.ts";
import type { FlowControlOptions } from "../transport/connection.ts";
import type { MessageStreamOptions } from "../transport/message_stream/with_messages.ts";
import { isOriginAllowed, type OriginRules } from "../transport/origins.ts";
import { parseQmuxProtocol } from "../transport/qmux/versions.ts";
import { TOKEN_MARK } from "../transport/webtransport.ts";
import {
  type AcceptedWebSocket,
  offeredProtocols,
  type SocketLease,
  type WebSocketEngine,
} from "../transport/websocket/server.ts";

/** What all invitations of a server have in common. */
export interface WebSocketDoor {
  /** What upgrades. */
  readonly engine: WebSocketEngine;
  /** Knows how many sockets there may be. */
  readonly manager: SessionManager;
  /** Where sockets wait for their end that are closed at once. */
  readonly openings: Openings;
  /** When a plain peer is dead, in milliseconds. */
  readonly idleTimeoutMs: number;
  /** How much peers may send on streams ahead of who reads them. */
  readonly flowControl: FlowControlOptions | undefined;
  /** Bounds of the stream of messages of a client of Skein over QMux. */
  readonly messages: Pick<MessageStreamOptions, "maxFrameBytes" | "streamTimeoutMs">;
}

/** A WebSocket upgrade. */
export class WebSocketInvitation implements Invitation<Response> {
  readonly transport = "websocket";
  readonly url: string;
  readonly headers: Headers;
  readonly request: Request;
  readonly address: string | undefined;
  readonly isSkein: boolean;
  readonly announcesToken: boolean;
  readonly #door: WebSocketDoor;
  readonly #protocol: string;

  constructor(request: Request, address: string | undefined, door: WebSocketDoor) {
    this.url = request.url;
    this.headers = request.headers;
    this.request = request;
    this.address = address;
    const offered = offeredProtocols(request);
    const protocol = this.#protocol = chosenOf(offered);
    this.isSkein = protocol === SKEIN_PROTOCOL ||
      parseQmuxProtocol(protocol)?.protocol === SKEIN_PROTOCOL;
    this.announcesToken = this.isSkein && offered.includes(TOKEN_MARK);
    this.#door = door;
  }

  isOriginAllowed(rules: OriginRules): boolean {
    return isOriginAllowed(this.headers, rules);
  }

  accept(admitted: Promise<unknown> | undefined): Accepted<Response> {
    const { isSkein } = this;
    // `skein.1` has a heartbeat of its own; a plain peer is pinged by the runtime.
    const idleTimeoutMs = isSkein ? 0 : this.#door.idleTimeoutMs;
    const { lease, connection, response } = this.#upgrade(idleTimeoutMs, admitted);
    return { connection, opened: connection.ready, answer: response, held: [lease] };
  }

  /** A browser sees no status of a refused WebSocket, so Skein's client is told by a close. */
  refuse(refused: Refused): Response {
    const { status, message: reason } = refused;
    return this.isSkein && this.#refuseByClose({ closeCode: 4000 + status, reason }) ||
      new Response(reason, { status, headers: refusalHeaders(refused) });
  }

  /** Such a socket lingers until its peer answers the close, or leaves; so it counts like the others. */
  #refuseByClose(
    info: { readonly closeCode: number; readonly reason: string },
  ): Response | undefined {
    try {
      // An idle timeout would end with the close, and end nothing.
      const { lease, connection, response } = this.#upgrade(0);
      this.#door.openings.add(connection.ready, [lease], () => {});
      connection.close(info);
      return response;
    } catch {
      // What cannot be upgraded, or not any more, gets the status.
      return undefined;
    }
  }

  #upgrade(
    idleTimeoutMs: number,
    admitted?: Promise<unknown>,
  ): AcceptedWebSocket & { readonly lease: SocketLease } {
    const { engine, manager, flowControl, messages } = this.#door;
    const lease = withinLimits(manager, () => manager.admitSocket({ address: this.address }));
    try {
      const { connection, response } = engine(this.request, {
        protocol: this.#protocol,
        idleTimeoutMs,
        lease,
        flowControl,
        messages,
        admitted,
      });
      return { connection, response, lease };
    } catch (cause) {
      lease[Symbol.dispose]();
      throw new Refused(400, "The upgrade is malformed", { cause });
    }
  }
}

/**
 * Chooses a subprotocol of those that a client offers, or none. Where the client may do with
 * streams alone, a protocol on top of them that this server does not know is not agreed on.
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
