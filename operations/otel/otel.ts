/**
 * OpenTelemetry traces and metrics: spans for handshakes, requests and handlers, which form one
 * trace across both sides, and metrics of sessions, messages, queues and closes.
 *
 * Deno exports traces and metrics if you start it with `OTEL_DENO=true`. If you use another SDK,
 * set it up before you call `otel()`. Otherwise, no traces or metrics are recorded.
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
 *   features: [telemetry],
 *   onMessage: (message) => message.reply("pong"),
 * });
 * await using session = await dial(server.url, { instrumentation: telemetry });
 * assertEquals(await session.request("ping"), "pong");
 * ```
 *
 * @module
 */
import type { OptionKinds } from "../../base/options/options.ts";
import { checkOptions, objectWith, RUNTIME } from "../../base/options/option_checks.ts";
import {
  type Attributes,
  context,
  createTraceState,
  type Histogram,
  isSpanContextValid,
  type Link,
  type Meter,
  metrics as globalMetrics,
  ROOT_CONTEXT,
  type Span,
  type SpanContext,
  SpanKind,
  SpanStatusCode,
  trace,
  type Tracer,
} from "@opentelemetry/api";
import {
  errorType,
  handshakeAttributes,
  messageAttributes,
  OtelMetrics,
  patternOf,
  requestAttributes,
  transportAttributes,
} from "./otel_metrics.ts";
import { type Feature, type FeatureHost, Mount, type Mounted } from "../../server/feature.ts";
import { platformRuntime, type Runtime } from "../../base/runtime.ts";
import type {
  HandshakeOutcome,
  HandshakeWatch,
  Instrumentation,
  RequestWatch,
} from "../../session/insight/instrumentation.ts";
import type { CloseInfo } from "../../errors.ts";
import type { TraceContext } from "../../session/wire/envelope.ts";
import type { Session } from "../../session/session.ts";
import type { UntypedMessage } from "../../session/message.ts";
import type { HandshakeInfo } from "../../session/settings/settings.ts";

/** Options for {@linkcode otel}. */
export interface OtelOptions {
  /**
   * Creates the tracer of the spans.
   *
   * @default {the global one}
   */
  readonly tracerProvider?: {
    /**
     * Creates a `Tracer`.
     *
     * @param name The name of a scope.
     */
    getTracer(name: string): object;
  } | undefined;
  /**
   * Creates the meter of the metrics.
   *
   * @default {the global one}
   */
  readonly meterProvider?: {
    /**
     * Creates a `Meter`.
     *
     * @param name The name of a scope.
     */
    getMeter(name: string): object;
  } | undefined;
  /**
   * How to use the trace that a peer sends: `"continue"` joins it, and `"link"` starts a trace for
   * each handler, so that clients don't control sampling.
   *
   * In detail:
   *
   * - `"continue"`: the handler's span belongs to the peer's trace, so that both sides share one
   *   trace. The peer's flag decides whether it is sampled.
   * - `"link"`: the handler's span starts its own trace, with a link to the peer's span. Use this
   *   for servers whose clients must not control sampling.
   *
   * @default {"continue"}
   */
  readonly remoteTraces?: "continue" | "link" | undefined;
  /**
   * Clock that measures durations, for tests.
   *
   * @default {platformRuntime()}
   */
  readonly runtime?: Runtime | undefined;
}

/**
 * Telemetry for `serve`, `connect` and `dial`: a feature of one server, which also reports the
 * metrics of the server and of its other features, and the `instrumentation` of any number of
 * clients.
 */
export interface Telemetry extends Instrumentation, Feature, Disposable {}

const OPTIONS: OptionKinds<OtelOptions> = {
  meterProvider: objectWith("MeterProvider", "getMeter"),
  remoteTraces: ["continue", "link"],
  runtime: RUNTIME,
  tracerProvider: objectWith("TracerProvider", "getTracer"),
};

/** The name of the instrumentation scope. */
const SCOPE = "@skein/skein";

/**
 * Creates telemetry. Disposing of it stops the metrics, but spans are still created.
 *
 * @param options See {@linkcode OtelOptions}.
 * @returns A feature of `serve`, and the option `instrumentation` of `connect` and `dial`.
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
  checkOptions("create otel()", options, OPTIONS);
  const {
    tracerProvider = trace.getTracerProvider(),
    meterProvider = globalMetrics.getMeterProvider(),
    remoteTraces = "continue",
    runtime = platformRuntime(),
  } = options;
  return new OtelInstrumentation({
    runtime,
    tracer: tracerProvider.getTracer(SCOPE) as Tracer,
    metrics: new OtelMetrics(runtime, meterProvider.getMeter(SCOPE) as Meter),
    continuesTraces: remoteTraces === "continue",
  });
}

/** A span, and the histogram of its duration. */
interface Timed {
  readonly span: Span;
  readonly histogram: Histogram;
  /** Attributes of the measurement, from a small set of values. */
  readonly attributes: Attributes;
}

interface OtelParts {
  readonly runtime: Runtime;
  readonly tracer: Tracer;
  readonly metrics: OtelMetrics;
  /**
   * `true` if handlers continue the traces of peers; otherwise, their spans only link to these
   * traces.
   */
  readonly continuesTraces: boolean;
}

/** Telemetry of a server and of any number of clients. */
class OtelInstrumentation implements Telemetry {
  readonly name = "otel";
  readonly #mount = new Mount("otel()");
  readonly #runtime: Runtime;
  readonly #tracer: Tracer;
  readonly #metrics: OtelMetrics;
  readonly #continuesTraces: boolean;
  /** The handshake span of each session, to which the spans of its handlers link. */
  readonly #handshakes = new WeakMap<Session, SpanContext>();

  constructor({ runtime, tracer, metrics, continuesTraces }: OtelParts) {
    this.#runtime = runtime;
    this.#tracer = tracer;
    this.#metrics = metrics;
    this.#continuesTraces = continuesTraces;
  }

  mount(host: FeatureHost): Mounted {
    this.#mount.set(host);
    return { instrumentation: this, started: () => this.#metrics.observe(host) };
  }

  handshake(info: HandshakeInfo): HandshakeWatch {
    const isServer = info.side === "server";
    const span = this.#tracer.startSpan(isServer ? "skein.accept" : "skein.connect", {
      kind: isServer ? SpanKind.SERVER : SpanKind.CLIENT,
      attributes: handshakeAttributes(info),
    });
    const end = timer(this.#runtime, {
      span,
      histogram: this.#metrics.handshakes,
      attributes: { "skein.side": info.side, ...transportAttributes(info.transport) },
    });
    return {
      during: (run) => void context.with(trace.setSpan(context.active(), span), run),
      ended: (outcome) => {
        end(() =>
          "session" in outcome
            ? this.#accepted(span, outcome.session)
            : rejected(span, info, outcome)
        );
      },
    };
  }

  sessionOpened(session: Session): void {
    this.#metrics.opened(session);
  }

  sessionClosed(session: Session, info: CloseInfo): void {
    this.#metrics.closed(session, info);
  }

  request(session: Session, topic: string): RequestWatch {
    const pattern = patternOf(session, topic);
    const attributes = requestAttributes(pattern);
    const span = this.#tracer.startSpan(spanName("request", pattern), {
      kind: SpanKind.CLIENT,
      attributes: { ...attributes, ...ofSession(session), "skein.topic": topic },
    });
    const end = timer(this.#runtime, { span, histogram: this.#metrics.requests, attributes });
    return {
      trace: traceOf(span),
      ended: ({ error }) =>
        end(() => {
          if (error === undefined) return {};
          failed(span, error);
          return { "error.type": this.#metrics.errorTypeOf(error) };
        }),
    };
  }

  send(): TraceContext | undefined {
    return traceOf(trace.getActiveSpan());
  }

  handle(
    session: Session,
    message: UntypedMessage,
    run: () => void | Promise<void>,
    remote?: TraceContext,
  ): void | Promise<void> {
    const { topic, pattern, isRequest } = message;
    const attributes = messageAttributes(message);
    const handshake = this.#handshakes.get(session);
    const links: Link[] = handshake === undefined ? [] : [{ context: handshake }];
    // If the peer sends no trace, the handler starts its own: a session can last for days, and so
    // would a trace of the whole session.
    let parent = ROOT_CONTEXT;
    if (remote !== undefined) {
      const sender = spanContextOf(remote);
      if (this.#continuesTraces) parent = trace.setSpanContext(ROOT_CONTEXT, sender);
      else links.push({ context: sender });
    }
    const span = this.#tracer.startSpan(spanName(isRequest ? "handle" : "process", pattern), {
      kind: isRequest ? SpanKind.SERVER : SpanKind.CONSUMER,
      attributes: {
        ...attributes,
        ...ofSession(session),
        ...(isRequest ? { "skein.topic": topic } : {
          "messaging.operation.type": "process",
          "messaging.destination.name": topic,
        }),
      },
      links,
    }, parent);
    const histogram = isRequest ? this.#metrics.calls : this.#metrics.messages;
    const end = timer(this.#runtime, { span, histogram, attributes });
    const running = context.with(trace.setSpan(ROOT_CONTEXT, span), run);
    if (running === undefined || typeof running.then !== "function") return end(() => ({}));
    // The promise is returned, so that an error of the telemetry provider is reported like an error
    // in any other hook.
    return running.then(() => end(() => ({})), (error) =>
      end(() => {
        failed(span, error);
        return { "error.type": this.#metrics.errorTypeOf(error) };
      }));
  }

  [Symbol.dispose](): void {
    this.#metrics[Symbol.dispose]();
  }

  #accepted(span: Span, session: Session): Attributes {
    this.#handshakes.set(session, span.spanContext());
    const transport = transportAttributes(session.transport);
    span.setAttributes({ "skein.session.id": session.id, ...transport });
    return transport;
  }
}

/**
 * Names a span from a bounded set of names, as OpenTelemetry requires. Peers choose topics, so the
 * number of topics is unbounded; therefore, the topic is an attribute.
 */
function spanName(
  operation: "request" | "handle" | "process",
  pattern: string | undefined,
): string {
  return pattern === undefined ? operation : `${operation} ${pattern}`;
}

function rejected(
  span: Span,
  { side }: HandshakeInfo,
  { error, status }: Extract<HandshakeOutcome, { readonly error: unknown }>,
): Attributes {
  // The HTTP conventions do not count a client's mistake as a server failure.
  const isFailure = side === "client" || status === undefined || status >= 500;
  if (isFailure) failed(span, error);
  const attributes = {
    ...(status === undefined ? {} : { "http.response.status_code": status }),
    "error.type": errorType(error, status),
  };
  span.setAttributes(attributes);
  return attributes;
}

/**
 * Starts a timer. The returned function ends the span and records the duration. The span ends even
 * if the telemetry provider throws, because a span without an end is never exported.
 */
function timer(
  runtime: Runtime,
  { span, histogram, attributes }: Timed,
): (tell: () => Attributes) => void {
  const startedAt = runtime.monotonic();
  return (tell) => {
    try {
      const seconds = (runtime.monotonic() - startedAt) / 1_000;
      histogram.record(seconds, { ...attributes, ...tell() });
    } finally {
      span.end();
    }
  };
}

function failed(span: Span, error: unknown): void {
  const message = error instanceof Error ? error.message : "";
  span.setAttribute("error.type", errorType(error));
  span.recordException(error instanceof Error ? error : String(error));
  span.setStatus({ code: SpanStatusCode.ERROR, message });
}

/** Trace context of a span, to send to the peer; `undefined` if no span is recorded. */
function traceOf(span: Span | undefined): TraceContext | undefined {
  const own = span?.spanContext();
  if (own === undefined || !isSpanContextValid(own)) return undefined;
  const flags = own.traceFlags.toString(16).padStart(2, "0");
  const tracestate = own.traceState?.serialize() ?? "";
  return {
    traceparent: `00-${own.traceId}-${own.spanId}-${flags}`,
    tracestate: tracestate || undefined,
  };
}

/** Parses the span context of a peer. */
function spanContextOf({ traceparent, tracestate }: TraceContext): SpanContext {
  const [, traceId, spanId, flags] = traceparent.split("-") as [string, string, string, string];
  const remote = { traceId, spanId, traceFlags: parseInt(flags, 16), isRemote: true };
  return tracestate === undefined
    ? remote
    : { ...remote, traceState: createTraceState(tracestate) };
}

function ofSession(session: Session): Attributes {
  return { "skein.session.id": session.id, ...transportAttributes(session.transport) };
}
