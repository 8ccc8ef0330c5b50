/** The host of a MoQ server: its own sockets, or another server. */
import { parseQmuxProtocol } from "../../../transport/qmux/versions.ts";
import type { Sha256Hash } from "../../../transport/certificate/certificate.ts";
import type { WebSocketEngine } from "../../../transport/websocket/server.ts";
import { HASH_PATH } from "../wire/wires.ts";
import { type MoqVersion, protocolsOf, VERSIONS } from "../wire/versions.ts";

/** The server in which a {@linkcode MoqServer} is mounted. */
export interface MoqHost {
  /** Address on which the host listens. */
  readonly address: Deno.NetAddr;
  /** Hashes by which clients can trust the certificate; empty if that takes an authority. */
  readonly hashes: readonly Sha256Hash[];
  /** `true` if the hashes may be sent in clear text: a development server without TLS. */
  readonly isDevelopment: boolean;
  /** Engine of WebSocket upgrades in place of the runtime's own. */
  readonly webSocketEngine?: WebSocketEngine | undefined;
  /** Returns the URL of a wire for clients on this machine; empty if the wire is off. */
  urlOf(wire: MoqWire): string;
}

/** The common part of HTTP requests and WebTransport requests. */
export interface MoqAsked {
  /** The requested URL. */
  readonly url: string;
  /** Request headers. */
  readonly headers: Headers;
  /** Protocols offered by a WebTransport request. */
  readonly protocols?: readonly string[];
  /** Method of an HTTP request. */
  readonly method?: string;
}

/**
 * Returns `true` if a client offers a protocol of MoQ by name.
 *
 * @param asked The request.
 */
export function offersMoq({ headers, protocols }: MoqAsked): boolean {
  const offered = protocols ??
    headers.get("sec-websocket-protocol")?.split(",")
      .map((name) => parseQmuxProtocol(name.trim())?.protocol ?? "");
  if (offered === undefined) return false;
  // All versions of MoQ, including those that a server has turned off.
  const names = protocolsOf(Object.keys(VERSIONS) as MoqVersion[], "websocket");
  return offered.some((name) => names.includes(name));
}

/**
 * Returns `true` if a client requests the hash of the certificate and the host may send the hash.
 *
 * @param asked The request.
 * @param host The server that received the request.
 */
export function asksForHash({ url, method }: MoqAsked, host: MoqHost | undefined): boolean {
  return method === "GET" && host !== undefined && host.isDevelopment && host.hashes.length > 0 &&
    url.includes(HASH_PATH) && URL.parse(url)?.pathname === HASH_PATH;
}

/** A wire that a server of MoQ listens on. */
export type MoqWire = "webtransport" | "quic" | "websocket";
