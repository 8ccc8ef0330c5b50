/**
 * What a server of MoQ stands on: its own sockets, or those of another server.
 *
 * @module
 */
import { parseQmuxProtocol } from "../../../transport/qmux/versions.ts";
import type { Sha256Hash } from "../../../transport/certificate/certificate_hash.ts";
import type { WebSocketEngine } from "../../../transport/websocket/server.ts";
import { HASH_PATH } from "../wire/wires.ts";
import { type MoqVersion, protocolsOf, VERSIONS } from "../wire/versions.ts";

/** What a {@linkcode MoqServer} is told of the server that it is mounted in. */
export interface MoqHost {
  /** Where it listens. */
  readonly address: Deno.NetAddr;
  /** By which its certificate can be trusted; empty if that takes an authority. */
  readonly hashes: readonly Sha256Hash[];
  /** Whether it may tell these in the clear: a server in development, without TLS. */
  readonly isDevelopment: boolean;
  /** What upgrades, where that is not the runtime. */
  readonly webSocketEngine?: WebSocketEngine | undefined;
  /** The URL of a wire, for clients on this machine; empty if it is off. */
  urlOf(wire: MoqWire): string;
}

/** What a client asks a server for, in words that both kinds of requests have. */
export interface MoqAsked {
  /** The URL. */
  readonly url: string;
  /** Request headers. */
  readonly headers: Headers;
  /** The protocols of a WebTransport request. */
  readonly protocols?: readonly string[];
  /** The method of an HTTP request. */
  readonly method?: string;
}

/**
 * Tells whether a client offers a protocol of MoQ by its name.
 *
 * @param asked The request.
 * @returns Whether it does.
 */
export function offersMoq({ headers, protocols }: MoqAsked): boolean {
  const offered = protocols ??
    headers.get("sec-websocket-protocol")?.split(",")
      .map((name) => parseQmuxProtocol(name.trim())?.protocol ?? "");
  if (offered === undefined) return false;
  // All that mean MoQ, whether a server takes those or not.
  const names = protocolsOf(Object.keys(VERSIONS) as MoqVersion[], "websocket");
  return offered.some((name) => names.includes(name));
}

/**
 * Tells whether a client asks for the hash of the certificate, and may be told.
 *
 * @param asked The request.
 * @param host The server that it came to.
 * @returns Whether that is so.
 */
export function asksForHash({ url, method }: MoqAsked, host: MoqHost | undefined): boolean {
  return method === "GET" && host !== undefined && host.isDevelopment && host.hashes.length > 0 &&
    url.includes(HASH_PATH) && URL.parse(url)?.pathname === HASH_PATH;
}

/** A wire that a server of MoQ listens on. */
export type MoqWire = "webtransport" | "quic" | "websocket";
