/** The interface of what handles requests in a server besides its features. */
import type { RequestHead } from "./feature.ts";
import type { PageOrigin } from "./admission/webtransport_request.ts";
import type { RequestInfo } from "../transport/address.ts";
import type { SessionCloseOptions } from "../session/types.ts";
import type { WebTransportRequest } from "../transport/h3/server.ts";

/**
 * A part of a server that handles some of its requests: sessions, over WebSocket and WebTransport or
 * over HTTP. The server asks its faces in a fixed order, after its features, and the first face that
 * wants a request receives it.
 */
export interface Face {
  /**
   * Checks whether a request is for this face. It MUST be cheap, because it runs for every request,
   * and it MUST NOT throw.
   */
  wants(request: RequestHead): boolean;
  /** Responds to an HTTP request for this face. */
  fetch(request: Request, info: RequestInfo): Response | Promise<Response>;
  /** Responds to a request for a WebTransport session. A face without `take` handles only HTTP. */
  take?(request: WebTransportRequest, pages: PageOrigin): void | Promise<void>;
  /** Closes the face, and closes its sessions with the code and the reason. Idempotent. */
  close?(options?: SessionCloseOptions): Promise<void>;
}
