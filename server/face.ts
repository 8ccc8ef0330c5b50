/** The interface of everything that a server mounts beside its own sessions. */
import type { PageOrigin } from "./webtransport_request.ts";
import type { HttpFaceStats } from "./metrics/measures.ts";
import type { Quotas, QuotaStats } from "../base/shares.ts";
import type { RequestInfo } from "../transport/address.ts";
import type { Sha256Hash } from "../transport/certificate/certificate.ts";
import type { Connection } from "../transport/connection.ts";
import type { SessionCloseOptions } from "../session/types.ts";
import type { WebTransportRequest } from "../transport/h3/server.ts";
import type { WebSocketEngine } from "../transport/websocket/server.ts";

/** The head of an HTTP request, an upgrade, or a request for a WebTransport session. */
export interface FaceRequest {
  readonly url: string;
  readonly headers: Pick<Headers, "get" | "has">;
  /** Method of an HTTP request; absent over WebTransport. */
  readonly method?: string | undefined;
  /** Protocols that a request for a WebTransport session offers; absent over HTTP. */
  readonly protocols?: readonly string[] | undefined;
}

/**
 * A part of a server that answers some of its requests: metrics, durable streams, the API, the
 * inspector, MoQ, and sessions. The server asks its faces in one order, and the first that wants a
 * request gets it.
 */
export interface Face {
  /**
   * Tells whether a request is for this face. MUST be cheap, because every request asks, and MUST NOT
   * throw.
   */
  wants(request: FaceRequest): boolean;
  /** Answers an HTTP request that the face wants. */
  fetch(request: Request, info: RequestInfo): Response | Promise<Response>;
  /** Answers a request for a WebTransport session; a face without `take` is asked for HTTP alone. */
  take?(request: WebTransportRequest, pages: PageOrigin): void | Promise<void>;
  /** Counters of requests over HTTP; `undefined` as long as there is nothing to count. */
  readonly stats?: HttpFaceStats | undefined;
  /** Counters of bounds that the quotas of the server don't have. */
  readonly quotaStats?: Readonly<Record<string, QuotaStats>> | undefined;
  /** Finishes what is under way, within the time if there is one, while the sessions drain. */
  drain?(options: { readonly timeoutMs?: number | undefined }): Promise<unknown>;
  /** Ends the face, and its sessions with the code and the reason. Idempotent. */
  close?(options?: SessionCloseOptions): Promise<void>;
}

/** The server that a {@linkcode MoqFace} is mounted in. */
export interface FaceHost {
  /** Address on which the host listens; `undefined` if it does not. */
  readonly address: Deno.NetAddr | undefined;
  /** Hashes by which clients can trust the certificate; empty if that takes an authority. */
  readonly hashes: readonly Sha256Hash[];
  /** `true` if the hashes may be sent in clear text: a development server without TLS. */
  readonly isDevelopment: boolean;
  /** Engine of WebSocket upgrades in place of the runtime's own. */
  readonly webSocketEngine?: WebSocketEngine | undefined;
  /** Returns the URL of a transport for clients on this machine; empty if the transport is off. */
  urlOf(transport: "webtransport" | "quic" | "websocket"): string;
}

/**
 * Media over QUIC on all transports of a server, as `MoqServer` of `@skein/skein/moq` serves it.
 *
 * @internal
 */
export interface MoqFace extends Face {
  /** Protocols of raw QUIC whose connections the face accepts, the best first. */
  readonly protocols: readonly string[];
  /** Answers a request for a WebTransport session. Never rejects. */
  take(request: WebTransportRequest): Promise<void>;
  /** Begins a session on a connection of raw QUIC. Never rejects. */
  accept(connection: Connection): Promise<unknown>;
  /**
   * Mounts the face, once.
   *
   * @param quotas All quotas of the server, by which the face counts its sessions.
   * @throws {TypeError} If the face is mounted already.
   */
  attach(host: FaceHost, quotas: Quotas): void;
}
