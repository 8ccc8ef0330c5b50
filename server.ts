/**
 * The server: `serve()` provides sessions, topics, presence and rooms.
 *
 * @example Ten lines
 * ```ts
 * import { dial, serve } from "@skein/skein";
 * import { assertEquals } from "@std/assert";
 *
 * await using server = serve({
 *   port: 0,
 *   onOpen: (session) => void server.subscribe(session, "news"),
 *   onMessage: (message) => void server.publish("news", message.data),
 * });
 * await using session = await dial(server.url);
 * session.send("say", "hello");
 * for await (const message of session) {
 *   assertEquals([message.topic, message.data], ["news", "hello"]);
 *   break;
 * }
 * ```
 *
 * @module
 */
export type {
  AdmissionOptions,
  Authenticate,
  AuthenticationContext,
  SessionRejection,
} from "./server/admission/admission_options.ts";
export {
  type Feature,
  type FeatureHost,
  type GuardOptions,
  type HttpMount,
  Mount,
  type Mounted,
  type QuicMount,
  type RequestHead,
} from "./server/feature.ts";
export { guest, type ValueOf } from "./server/admission/guest.ts";
export type { ListenInfo } from "./server/listener/listener.ts";
export { createServer, serve, Server } from "./server/server.ts";
export type { ServeOptions, ServerOptions } from "./server/server_options.ts";
export type { ChangeDecision, RequestedChange } from "./server/requests/changes.ts";
export type { RequestedMutation, ServerMutationContext } from "./server/requests/mutations.ts";
export type {
  ContractPublication,
  PublicationOf,
  PublishDecision,
  RequestedPublication,
} from "./server/requests/requested_publications.ts";
export type { AuthorizationContext, GuardedRequest } from "./server/http/guard.ts";
export type { SessionInfo } from "./server/users.ts";
export type {
  WebTransportServeOptions,
  WebTransportSource,
} from "./server/listener/webtransport_options.ts";
export type { WorkerNode } from "./server/workers/worker_node.ts";
export { Workers, type WorkersOptions } from "./server/workers/workers.ts";
export { serveWorkers } from "./serve_workers.ts";
export type { QuotaStats } from "./base/quotas/shares.ts";
export type {
  HttpStats,
  Measure,
  Measurement,
  MetricsSource,
  ServerHealth,
  WebTransportStats,
} from "./server/metrics/measures.ts";
export { PROMETHEUS_CONTENT_TYPE, prometheusText } from "./server/metrics/prometheus.ts";
export type { RequestInfo } from "./transport/address.ts";
