/** The interface of everything that a server mounts in addition to its sessions. */
import type { RequestHead } from "./feature.ts";
import type { PageOrigin } from "./admission/webtransport_request.ts";
import type { HttpStats } from "./metrics/measures.ts";
import type { QuotaStats } from "../base/quotas/shares.ts";
import type { RequestInfo } from "../transport/address.ts";
import type { SessionCloseOptions } from "../session/types.ts";
import type { WebTransportRequest } from "../transport/h3/server.ts";

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
  wants(request: RequestHead): boolean;
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
