/**
 * The telemetry instruments and the attributes of sessions. Their names follow OpenTelemetry's
 * semantic conventions; additional names start with `skein.`. Counters are read from the sessions
 * when metrics are collected, so that no message has overhead.
 */
import type {
  Attributes,
  BatchObservableCallback,
  Histogram,
  Meter,
  Observable,
} from "@opentelemetry/api";
import { type Measure, sessionMeasures } from "../../server/metrics/measures.ts";
import type { Runtime } from "../../base/runtime.ts";
import { CloseCode, type CloseInfo, RequestError } from "../../errors.ts";
import { SessionLimiter } from "../../manager/limits.ts";
import { type ManagerStats, StatsAccumulator } from "../../manager/stats.ts";
import type { Side } from "../../session/contract.ts";
import { internals, type Session } from "../../session/session.ts";
import type { UntypedMessage } from "../../session/message.ts";
import type { HandshakeInfo } from "../../session/settings/settings.ts";

/** Protocols below the transports; a memory connection has none. */
const CARRIERS: Readonly<Record<string, string>> = { websocket: "tcp", webtransport: "quic" };

/** The conventions' value for all values beyond a limit. */
const OTHER = "_OTHER";

/** Names the transport of a session. */
export function transportAttributes(transport: string | undefined): Attributes {
  const carrier = CARRIERS[transport ?? ""];
  if (transport === undefined || carrier === undefined) return {};
  return { "network.transport": carrier, "network.protocol.name": transport };
}

/**
 * Describes the target of a handshake, without the query, because applications put secrets there.
 */
export function handshakeAttributes({ url, transport, address }: HandshakeInfo): Attributes {
  const asked = URL.parse(url);
  return {
    ...transportAttributes(transport),
    ...(asked === null ? {} : {
      "url.scheme": asked.protocol.slice(0, -1),
      "url.path": asked.pathname,
      "server.address": asked.hostname,
      ...(asked.port === "" ? {} : { "server.port": Number(asked.port) }),
    }),
    ...(address === undefined ? {} : { "client.address": address }),
  };
}

/** Finds the contract's pattern for a topic; the number of patterns is bounded. */
export function patternOf(session: Session, topic: string): string | undefined {
  // Requests are the same in both directions.
  return session[internals].settings.router?.match(topic)?.pattern;
}

/** Describes a request. */
export function requestAttributes(pattern: string | undefined): Attributes {
  return {
    "rpc.system.name": "skein",
    ...(pattern === undefined ? {} : { "rpc.method": pattern }),
  };
}

/** Describes a message that is being handled. */
export function messageAttributes({ isRequest, pattern }: UntypedMessage): Attributes {
  if (isRequest) return requestAttributes(pattern);
  return {
    "messaging.system": "skein",
    "messaging.operation.name": "process",
    ...(pattern === undefined ? {} : { "messaging.destination.template": pattern }),
  };
}

/** Describes an error by one short word from a small set. */
export function errorType(error: unknown, status?: number): string {
  if (status !== undefined) return String(status);
  if (error instanceof RequestError) return error.failure.code;
  return error instanceof Error ? error.name : OTHER;
}

/**
 * Passes through a bounded number of distinct values. A peer can choose any value, and each value
 * would create a permanent time series.
 */
class BoundedLabels {
  readonly #max: number;
  readonly #other: string;
  readonly #seen = new Set<string>(); // At most `#max`.

  /** Passes through the first `max` values, and replaces all later values with `other`. */
  constructor({ max, other }: { readonly max: number; readonly other: string }) {
    this.#max = max;
    this.#other = other;
  }

  /** Returns the value, or its replacement. */
  of(value: string): string {
    if (this.#seen.has(value)) return value;
    if (this.#seen.size >= this.#max) return this.#other;
    this.#seen.add(value);
    return value;
  }
}

/**
 * Bucket boundaries for calls that take milliseconds to seconds, as recommended by the conventions.
 */
const CALL_S = [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10];

/** Bucket boundaries for sessions of a second to days. */
const SESSION_S = [1, 5, 15, 60, 300, 900, 3_600, 14_400, 43_200, 86_400];

/** Most distinct values of an attribute that a peer can choose. */
const MAX_FOREIGN = 64;

const KNOWN_CODES: ReadonlySet<number> = new Set(Object.values(CloseCode));

/** The open sessions of one side. */
class SessionCensus {
  readonly #sessions = new Set<Session>(); // The open sessions.
  readonly #totals = new StatsAccumulator();
  readonly #limiter: SessionLimiter;

  constructor(runtime: Runtime) {
    this.#limiter = new SessionLimiter(runtime);
  }

  add(session: Session): void {
    this.#sessions.add(session);
    this.#totals.added(session, this.#sessions.size);
  }

  delete(session: Session): void {
    if (this.#sessions.delete(session)) this.#totals.ended(session);
  }

  read(): ManagerStats {
    return this.#totals.read([...this.#sessions], this.#limiter);
  }
}

/** The metrics of any number of servers and clients. */
export class OtelMetrics implements Disposable {
  readonly #runtime: Runtime;
  /** Durations of handshakes. */
  readonly handshakes: Histogram;
  /** Durations of this side's requests, until the reply. */
  readonly requests: Histogram;
  /** Durations of handling requests. */
  readonly calls: Histogram;
  /** Durations of handling messages. */
  readonly messages: Histogram;
  readonly #sessions: Histogram;
  readonly #meter: Meter;
  readonly #census = new Map<Side, SessionCensus>(); // At most two.
  readonly #codes = new BoundedLabels({ max: MAX_FOREIGN, other: "other" });
  readonly #errorTypes = new BoundedLabels({ max: MAX_FOREIGN, other: OTHER });
  /** Instruments by the name of their metric; bounded by the names. */
  readonly #instruments = new Map<string, Observable>();
  #stop: () => void;
  /** Reads the metrics of a server and of its features. */
  #server: { measures(): readonly Measure[] } | undefined;

  /** Creates the instruments. */
  constructor(runtime: Runtime, meter: Meter) {
    this.#runtime = runtime;
    this.#meter = meter;
    this.handshakes = this.#histogram(
      "skein.handshake.duration",
      "Time from the request to the session, or to the rejection",
    );
    this.requests = this.#histogram("rpc.client.call.duration", "Time to the reply to a request");
    this.calls = this.#histogram("rpc.server.call.duration", "Time to handle a request");
    this.messages = this.#histogram("messaging.process.duration", "Time to handle a message");
    this.#sessions = meter.createHistogram("skein.session.duration", {
      description: "Time from the establishment of a session to its close",
      unit: "s",
      advice: { explicitBucketBoundaries: SESSION_S },
    });
    this.#stop = () => {};
    this.#add(sessionMeasures(new SessionCensus(runtime).read()));
  }

  /** Counts an established session. */
  opened(session: Session): void {
    this.#of(session).add(session);
  }

  /** Counts a closed session. */
  closed(session: Session, { code, by }: CloseInfo): void {
    this.#of(session).delete(session);
    this.#sessions.record(session.stats.uptimeMs / 1_000, {
      ...transportAttributes(session.transport),
      "skein.side": session[internals].settings.side,
      "skein.close.code": KNOWN_CODES.has(code) ? `${code}` : this.#codes.of(`${code}`),
      "skein.close.by": by,
    });
  }

  /**
   * Describes a failed request or handler by a short word. The peer may choose the code, also that
   * of a handler, which fails with the error of its own request. Therefore, the number of distinct
   * codes is limited.
   */
  errorTypeOf(error: unknown): string {
    const type = errorType(error);
    return error instanceof RequestError ? this.#errorTypes.of(type) : type;
  }

  /** Also reports the metrics of a server and of its features. */
  observe(server: { measures(): readonly Measure[] }): void {
    this.#server = server;
    this.#add(server.measures());
  }

  /** Removes the callback that reads the sessions. */
  [Symbol.dispose](): void {
    this.#stop();
  }

  #of(session: Session): SessionCensus {
    const { side } = session[internals].settings;
    let census = this.#census.get(side);
    if (census === undefined) this.#census.set(side, census = new SessionCensus(this.#runtime));
    return census;
  }

  #histogram(name: string, description: string): Histogram {
    const advice = { explicitBucketBoundaries: CALL_S };
    return this.#meter.createHistogram(name, { description, unit: "s", advice });
  }

  /** Registers one callback for all instruments, so that a collection reads the sessions once. */
  #observe(): () => void {
    const observe: BatchObservableCallback = (result) => {
      const unknown: Measure[] = [];
      const tell = (measures: readonly Measure[], side: Side) => {
        for (const measure of measures) {
          const instrument = this.#instruments.get(measure.name);
          if (instrument === undefined) unknown.push(measure);
          else {
            for (const { value, attributes } of measure.values) {
              result.observe(instrument, value, { "skein.side": side, ...attributes });
            }
          }
        }
      };
      for (const [side, census] of this.#census) {
        // The server's own metrics include its sessions.
        if (side === "client" || this.#server === undefined) {
          tell(sessionMeasures(census.read()), side);
        }
      }
      if (this.#server !== undefined) tell(this.#server.measures(), "server");
      // A callback can only observe instruments that it was registered with, so these metrics start
      // with the next collection.
      if (unknown.length > 0) this.#add(unknown);
    };
    const all = [...this.#instruments.values()];
    this.#meter.addBatchObservableCallback(observe, all);
    return () => this.#meter.removeBatchObservableCallback(observe, all);
  }

  /** Adds instruments for metrics that have none, and registers the callback again. */
  #add(measures: readonly Measure[]): void {
    const { size } = this.#instruments;
    for (const measure of measures) {
      if (this.#instruments.has(measure.name)) continue;
      this.#instruments.set(measure.name, this.#instrument(measure));
    }
    if (this.#instruments.size === size) return;
    this.#stop();
    this.#stop = this.#observe();
  }

  #instrument({ name, description, unit, kind }: Measure): Observable {
    const options = { description, unit };
    switch (kind) {
      case "counter":
        return this.#meter.createObservableCounter(name, options);
      case "sum":
        return this.#meter.createObservableUpDownCounter(name, options);
      case "gauge":
        return this.#meter.createObservableGauge(name, options);
    }
  }
}
