/**
 * Features for the operation of a server: metrics and health for monitoring, and a page that shows
 * the sessions, topics, rooms, durable streams and brokers of all nodes.
 *
 * @example Metrics for Prometheus, and the inspector
 * ```ts
 * import { serve } from "@skein/skein";
 * import { inspector, metrics } from "@skein/skein/operations";
 * import { assertEquals } from "@std/assert";
 *
 * await using server = serve({
 *   port: 0,
 *   hostname: "127.0.0.1",
 *   onListen() {},
 *   features: [metrics(), inspector()],
 * });
 * const page = `${server.url.replace("ws:", "http:")}inspector/`;
 * const response = await fetch(page);
 * assertEquals(response.status, 200);
 * await response.body?.cancel();
 * ```
 *
 * @module
 */
export { Inspector, inspector } from "./inspector/inspector.ts";
export type { InspectorOptions } from "./inspector/options.ts";
export { metrics, type MetricsOptions } from "./metrics/metrics.ts";
export type { InspectedServer, InspectedStreams } from "../server/server_core.ts";
