/** The interface of everything that a server mounts in addition to its sessions. */
import type { PageOrigin } from "./webtransport_request.ts";
import type { HttpStats } from "./metrics/measures.ts";
import type { Quotas, QuotaStats } from "../base/quotas/shares.ts";
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
 * A part of a server that handles some of its requests: metrics, durable streams, the API, the
 * inspector, MoQ, and sessions. The server asks its faces in a fixed order, and the first face that
 * wants a request receives it.
 */
export interface Face {
  /**
   * Checks whether a request is for this face. It MUST be cheap, because it runs for every request,
   * and it MUST NOT throw.
   */
  wants(request: FaceRequest): boolean;
  /** Responds to an HTTP request for this face. */
  fetch(request: Request, info: RequestInfo): Response | Promise<Response>;
  /** Responds to a request for a WebTransport session. A face without `take` handles only HTTP. */
  take?(request: WebTransportRequest, pages: PageOrigin): void | Promise<void>;
  /** Counters of HTTP requests; `undefined` as long as there is nothing to count. */
  readonly stats?: HttpStats | undefined;
  /** Counters of limits outside of the server's quotas. */
  readonly quotaStats?: Readonly<Record<string, QuotaStats>> | undefined;
  /** Finishes pending work while the sessions drain, within the time limit, if there is one. */
  drain?(options: { readonly timeoutMs?: number | undefined }): Promise<unknown>;
  /** Closes the face, and closes its sessions with the code and the reason. Idempotent. */
  close?(options?: SessionCloseOptions): Promise<void>;
}

/** The server that a {@linkcode MoqFace} is mounted in. */
export interface FaceHost {
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

/**
 * Media over QUIC on all transports of a server, as `MoqServer` of `@skein/skein/moq` serves it.
 *
 * @internal
 */
export interface MoqFace extends Face {
  /** Raw QUIC protocols that the face accepts, in order of preference. */
  readonly protocols: readonly string[];
  /** Responds to a request for a WebTransport session. Never rejects. */
  take(request: WebTransportRequest): Promise<void>;
  /** Starts a session on a raw QUIC connection. Never rejects. */
  accept(connection: Connection): Promise<unknown>;
  /**
   * Mounts the face, once.
   *
   * @param quotas The server's quotas, against which the face counts its sessions.
   * @throws {TypeError} If the face is already mounted.
   */
  attach(host: FaceHost, quotas: Quotas): void;
}
