/**
 * Traces and metrics by OpenTelemetry: spans for handshakes, requests and handlers, in one trace at
 * both ends; metrics of sessions, messages, queues and closes.
 *
 * Deno exports traces and metrics when started with `OTEL_DENO=true`; any other SDK has to be set
 * up before `otel()` is called. Without either, no trace and no metric is recorded.
 *
 * @example A server whose handlers are traced
 * ```ts
 * import { dial, serve } from "@skein/skein";
 * import { otel } from "@skein/skein/otel";
 * import { assertEquals } from "@std/assert";
 *
 * using telemetry = otel();
 * await using server = serve({
 *   port: 0,
 *   onListen() {},
 *   instrumentation: telemetry,
 *   onMessage: (message) => message.reply("pong"),
 * });
 * telemetry.observe(server.manager, server.topics, server);
 * await using session = await dial(server.url, { instrumentation: telemetry });
 * assertEquals(await session.request("ping"), "pong");
 * ```
 *
 * @module
 */
import { type Meter, metrics as globalMetrics, trace, type Tracer } from "@opentelemetry/api";
import { type CountedTopics, type CountedWebTransport, OtelMetrics } from "./otel_metrics.ts";
import type { SessionManager } from "../manager/session_manager.ts";
import { OtelInstrumentation } from "./otel_spans.ts";
import { platformRuntime, type Runtime } from "../base/runtime.ts";
import type { Instrumentation } from "../session/insight/instrumentation.ts";

export type { CountedTopics, CountedWebTransport, Instrumentation };

/** Options for {@linkcode otel}. */
export interface OtelOptions {
  /** Tracer provider; by default, the one that is registered globally. */
  readonly tracerProvider?: {
    /**
     * Makes a `Tracer`.
     *
     * @param name The name of a scope.
     */
    getTracer(name: string): object;
  };
  /** Meter provider; by default, the one that is registered globally. */
  readonly meterProvider?: {
    /**
     * Makes a `Meter`.
     *
     * @param name The name of a scope.
     */
    getMeter(name: string): object;
  };
  /**
   * Use of the trace that a peer sends with a message or a request:
   *
   * - `"continue"`: the handler's span belongs to the peer's trace, so that both ends share one
   *   trace, and the peer's flag decides about sampling.
   * - `"link"`: the handler's span begins a trace of its own, with a link to the span of the peer.
   *   Meant for servers whose clients must not decide about sampling.
   *
   * @default {"continue"}
   */
  readonly remoteTraces?: "continue" | "link";
  /** Clock that measures durations. By default the one of the platform. */
  readonly runtime?: Runtime;
}

/** Telemetry for `serve`, `connect` and `dial`; several servers and clients can share one. */
export interface Telemetry extends Instrumentation, Disposable {
  /**
   * Also reports the counters of a server's manager: users, addresses, sockets, refusals by limit.
   *
   * @param manager The `manager` of a server; replaces the one of an earlier call.
   * @param topics The `topics` of the same server, to report histories and the broker too.
   * @param server The same server, to report its QUIC handshakes too.
   */
  observe(
    manager: Pick<SessionManager, "stats">,
    topics?: CountedTopics,
    server?: CountedWebTransport,
  ): void;
}

/** The name of the instrumentation's scope. */
const SCOPE = "@skein/skein";

/**
 * Makes telemetry. Disposal ends its metrics; spans are still made.
 *
 * @param options See {@linkcode OtelOptions}.
 * @returns The `instrumentation` option for `serve`, `connect` and `dial`.
 * @throws {TypeError} If `remoteTraces` is neither `"continue"` nor `"link"`.
 *
 * @example With your own providers
 * ```ts
 * import { metrics, trace } from "@opentelemetry/api";
 * import { otel } from "@skein/skein/otel";
 *
 * using _telemetry = otel({
 *   tracerProvider: trace.getTracerProvider(),
 *   meterProvider: metrics.getMeterProvider(),
 * });
 * ```
 */
export function otel(options: OtelOptions = {}): Telemetry {
  const {
    tracerProvider = trace.getTracerProvider(),
    meterProvider = globalMetrics.getMeterProvider(),
    remoteTraces = "continue",
    runtime = platformRuntime(),
  } = options;
  if (remoteTraces !== "continue" && remoteTraces !== "link") {
    throw new TypeError(
      `Cannot make telemetry: remoteTraces must be "continue" or "link", received ${remoteTraces}`,
    );
  }
  return new OtelInstrumentation(runtime, {
    tracer: tracerProvider.getTracer(SCOPE) as Tracer,
    metrics: new OtelMetrics(runtime, meterProvider.getMeter(SCOPE) as Meter),
    continuesTraces: remoteTraces === "continue",
  });
}
