/**
 * Features for the operation of a server: metrics and health for monitoring.
 *
 * @example Metrics for Prometheus
 * ```ts
 * import { serve } from "@skein/skein";
 * import { metrics } from "@skein/skein/operations";
 *
 * await using _server = serve({ port: 0, onListen() {}, features: [metrics()] });
 * ```
 *
 * @module
 */
export { metrics, type MetricsOptions } from "../server/metrics/endpoint.ts";
