/** The metrics of sessions, topics and brokers: one list for OpenTelemetry and Prometheus. */
import type { QuotaStats } from "../../base/quotas/shares.ts";
import type { ManagerStats } from "../../manager/mod.ts";
import type { BrokerStats, BrokerStatus, TopicsStats } from "../../pubsub/mod.ts";
import type { QuicHandshakeStats } from "../../transport/h3/server.ts";

/** The counters of topics and of their broker. */
export interface CountedTopics {
  readonly stats: TopicsStats;
  /** The broker that carries publications between nodes. */
  readonly broker: {
    /** State of the broker's connection. */
    readonly status: { readonly current: BrokerStatus };
    readonly stats: BrokerStats;
  };
}

/** Counters of a server's WebTransport; see `webTransportStats` of `Server`. */
export interface WebTransportStats {
  /** `true` while the server's UDP port is bound; `false` while another listener uses it. */
  readonly isListening: boolean;
  /** QUIC handshakes, including other protocols on the port. */
  readonly handshakes: QuicHandshakeStats;
}

/** HTTP counters of one part of a server, such as the API; see `httpStats` of `Server`. */
export interface HttpStats {
  /** Requests in progress. */
  readonly active: number;
  /** Responses since the start, by status. */
  readonly responses: Readonly<Record<string, number>>;
  /** Readers that currently wait for new records, by mode; only for durable streams. */
  readonly readers?: Readonly<Record<string, number>> | undefined;
  /** Requests that were rejected or ended by a limit since the start, by limit. */
  readonly limited?: Readonly<Record<string, number>> | undefined;
}

/** A server's counters besides sessions and topics. */
export interface CountedServer {
  /** Counters of WebTransport; `undefined` if WebTransport is off. */
  readonly webTransportStats?: WebTransportStats | undefined;
  /** HTTP counters, by server option. */
  readonly httpStats?: Readonly<Record<string, HttpStats>> | undefined;
  /** Counters of limits that clients share, by name. */
  readonly quotaStats?: Readonly<Record<string, QuotaStats>> | undefined;
}

/** Health of a server, or of several servers together. */
export interface ServerHealth {
  /** `ok` while new sessions are accepted. */
  readonly status: "ok" | "draining" | "full" | "down";
  /** Number of sessions. */
  readonly sessions: number;
}

/** Metrics and health of a server, or of all workers of a process. */
export interface MetricsSource {
  /** Reads the metrics. */
  measures(): readonly Measure[] | Promise<readonly Measure[]>;
  /** Reads the health. */
  health(): ServerHealth | Promise<ServerHealth>;
}

/** Counters before the first handshake, and for an engine that does not count. */
export const NO_HANDSHAKES: QuicHandshakeStats = {
  pending: 0,
  ignored: 0,
  replaced: 0,
  tooSlow: 0,
};

/** One number of a metric. */
export interface Measurement {
  /** The number. */
  readonly value: number;
  /**
   * Attributes that distinguish this number within the metric; their names are OpenTelemetry's. The
   * last parts of the names must differ, because they are the labels in Prometheus.
   */
  readonly attributes?: Readonly<Record<string, string>> | undefined;
}

/** A metric, and its current numbers. */
export interface Measure {
  /** Name, by OpenTelemetry rules. */
  readonly name: string;
  /** A description: one sentence without a period. */
  readonly description: string;
  /** The counted noun in braces, or a unit such as `By`. */
  readonly unit: string;
  /**
   * Kind of the metric. A `counter` only grows. A `sum` goes up and down, and you can add the sums
   * of several servers. Gauges (`gauge`) of several servers cannot be added.
   */
  readonly kind: "counter" | "sum" | "gauge";
  /** The numbers. */
  readonly values: readonly Measurement[];
}

/** Name, unit and description of a metric. */
type About = readonly [name: string, unit: string, description: string];

const counter = ([name, unit, description]: About, ...values: Measurement[]): Measure => ({
  name,
  unit,
  description,
  kind: "counter",
  values,
});

const sum = (about: About, ...values: Measurement[]): Measure => ({
  ...counter(about, ...values),
  kind: "sum",
});

const gauge = (about: About, ...values: Measurement[]): Measure => ({
  ...counter(about, ...values),
  kind: "gauge",
});

/** Creates a number for each key of a record. */
function each(record: Readonly<Record<string, number>>, attribute: string): Measurement[] {
  return Object.entries(record).map(([key, value]) => ({
    value,
    attributes: { [attribute]: key },
  }));
}

/** Reads the metrics of a server; its features report their own. */
export function measuresOf(
  server: CountedServer & {
    readonly manager: { stats(): ManagerStats };
    readonly topics: CountedTopics;
  },
): Measure[] {
  const stats = server.manager.stats();
  return [
    ...sessionMeasures(stats),
    ...managerMeasures(stats),
    ...topicMeasures(server.topics),
    ...serverMeasures(server),
  ];
}

/** Metrics of sessions, the same for a server and for clients. */
export function sessionMeasures(stats: ManagerStats): Measure[] {
  const { states, messages, bytes, streams, datagrams, credit } = stats;
  return [
    sum(
      ["skein.sessions", "{session}", "Sessions that are open"],
      ...each(states, "skein.session.state"),
    ),
    counter(["skein.sessions.opened", "{session}", "Sessions that were established"], {
      value: stats.created,
    }),
    counter(
      [
        "skein.sessions.closed",
        "{session}",
        "Sessions that closed, by close code; 0 is a normal close",
      ],
      ...each(stats.closeCodes, "skein.close.code"),
      { value: stats.otherCloseCodes, attributes: { "skein.close.code": "other" } },
    ),
    counter(["skein.messages.sent", "{message}", "Messages handed to the transport"], {
      value: messages.sent,
    }),
    counter([
      "skein.messages.received",
      "{message}",
      "Messages and requests from peers, without publications",
    ], {
      value: messages.received,
    }),
    counter(["skein.messages.dropped", "{message}", "Messages dropped by send queues"], {
      value: messages.dropped,
    }),
    sum(["skein.messages.queued", "{message}", "Messages waiting in send queues"], {
      value: messages.queued,
    }),
    sum(["skein.messages.waiting", "{message}", "Messages waiting for handlers"], {
      value: messages.waiting,
    }),
    counter(["skein.messages.sent.size", "By", "Bytes of messages handed to the transport"], {
      value: bytes.sent,
    }),
    counter(["skein.messages.received.size", "By", "Bytes of messages received from peers"], {
      value: bytes.received,
    }),
    sum(["skein.messages.queued.size", "By", "Bytes of messages waiting in send queues"], {
      value: bytes.queued,
    }),
    sum(["skein.streams", "{stream}", "Streams that are open"], { value: streams.active }),
    counter(
      ["skein.streams.opened", "{stream}", "Streams opened by either side"],
      { value: streams.bidirectional, attributes: { "skein.stream.direction": "bidirectional" } },
      { value: streams.unidirectional, attributes: { "skein.stream.direction": "unidirectional" } },
    ),
    counter(["skein.streams.failed", "{direction}", "Directions of streams that were reset"], {
      value: streams.errors,
    }),
    counter(["skein.streams.sent.size", "By", "Bytes of streams handed to the transport"], {
      value: streams.bytesSent,
    }),
    counter(["skein.streams.received.size", "By", "Bytes of streams received from peers"], {
      value: streams.bytesReceived,
    }),
    counter(["skein.datagrams.sent", "{datagram}", "Datagrams handed to the transport"], {
      value: datagrams.sent,
    }),
    counter(["skein.datagrams.received", "{datagram}", "Datagrams received from peers"], {
      value: datagrams.received,
    }),
    counter(["skein.datagrams.dropped", "{datagram}", "Datagrams that were lost on this side"], {
      value: datagrams.dropped,
    }),
    counter(["skein.datagrams.sent.size", "By", "Bytes of datagrams handed to the transport"], {
      value: datagrams.bytesSent,
    }),
    counter(["skein.datagrams.received.size", "By", "Bytes of datagrams received from peers"], {
      value: datagrams.bytesReceived,
    }),
    sum(["skein.credit.waiting", "{call}", "Calls waiting for credit from a peer"], {
      value: credit.waiting,
    }),
    sum(["skein.credit.exhausted", "{session}", "Sessions whose peers used all their credit"], {
      value: credit.exhausted,
    }),
  ];
}

/** Metrics of a server's session manager. */
export function managerMeasures(stats: ManagerStats): Measure[] {
  const { rejected, rates, sockets, unreadStreams } = stats;
  return [
    gauge(["skein.sessions.peak", "{session}", "Most concurrent sessions so far"], {
      value: stats.peak,
    }),
    sum(["skein.handshakes", "{handshake}", "Handshakes in progress"], {
      value: stats.reserved,
    }),
    counter(
      ["skein.sessions.rejected", "{session}", "Sessions rejected by a limit"],
      ...each(rejected, "skein.rejection.reason"),
    ),
    counter(
      [
        "skein.rates.rejected",
        "{message}",
        "Messages, and changes over HTTP, rejected by a rate limit",
      ],
      ...each(rates.rejected, "skein.rate.scope"),
    ),
    counter(
      ["skein.rates.connections.rejected", "{connection}", "Connections rejected by a rate limit"],
      ...each(rates.rejectedConnections, "skein.rate.scope"),
    ),
    counter(
      ["skein.rates.closed", "{session}", "Sessions closed after too many rejections"],
      {
        value: rates.closed,
      },
    ),
    counter(
      [
        "skein.rates.broker.failures",
        "{failure}",
        "Failed calls to the shared counters",
      ],
      { value: rates.brokerFailures },
    ),
    sum(["skein.users", "{user}", "Users with sessions"], { value: stats.users }),
    sum(["skein.addresses", "{address}", "Network addresses with sessions"], {
      value: stats.addresses,
    }),
    sum(["skein.sockets", "{socket}", "WebSockets held by the runtime"], {
      value: sockets.open,
    }),
    sum(
      ["skein.sockets.lingering", "{socket}", "WebSockets whose peers did not respond to a close"],
      {
        value: sockets.lingering,
      },
    ),
    counter(
      ["skein.sockets.rejected", "{socket}", "Upgrades rejected because of too many sockets"],
      {
        value: sockets.rejected,
      },
    ),
    sum(["skein.streams.unread", "{stream}", "Streams of peers that are not read"], {
      value: unreadStreams.count,
    }),
    sum(["skein.streams.unread.size", "By", "Bytes of unread streams that the runtime may hold"], {
      value: unreadStreams.bytes,
    }),
    counter(
      ["skein.streams.rejected", "{stream}", "Streams of peers that were rejected unread"],
      ...each(unreadStreams.rejected, "skein.rejection.reason"),
    ),
    sum(["skein.draining", "1", "State of draining: 1 while draining, otherwise 0"], {
      value: stats.isDraining ? 1 : 0,
    }),
  ];
}

/** Metrics of a server's topics and broker. */
export function topicMeasures({ stats, broker }: CountedTopics): Measure[] {
  const { stats: carried, status } = broker;
  return [
    sum(["skein.topics", "{topic}", "Topics with subscribers on this node"], {
      value: stats.topics,
    }),
    gauge([
      "skein.broker.connected",
      "1",
      "Connection to the broker: 1 while connected, otherwise 0",
    ], {
      value: status.current.name === "connected" ? 1 : 0,
    }),
    counter([
      "skein.broker.interruptions",
      "{interruption}",
      "Lost connections to the broker",
    ], {
      value: carried.interruptions,
    }),
    counter(["skein.broker.published", "{publication}", "Publications passed to the broker"], {
      value: carried.published,
    }),
    counter(["skein.broker.received", "{publication}", "Publications received from the broker"], {
      value: carried.received,
    }),
    sum(["skein.broker.waiting", "{publication}", "Publications waiting for the broker"], {
      value: carried.waiting,
    }),
    counter([
      "skein.broker.dropped",
      "{publication}",
      "Waiting publications dropped because of their age or number",
    ], {
      value: carried.dropped,
    }),
    counter(["skein.broker.reads", "{page}", "Pages of histories read from the broker"], {
      value: carried.reads,
    }),
    counter(
      ["skein.history.failed", "{publication}", "Publications that publish() could not store"],
      { value: stats.failedPublications },
    ),
    counter(
      [
        "skein.history.recovered",
        "{publication}",
        "Missing publications that were read from the history",
      ],
      {
        value: stats.recovered,
      },
    ),
    counter([
      "skein.history.duplicates",
      "{publication}",
      "Duplicate publications that were dropped",
    ], {
      value: stats.duplicates,
    }),
    counter([
      "skein.history.gaps",
      "{gap}",
      "Gaps reported to sessions",
    ], {
      value: stats.gaps,
    }),
    counter(["skein.history.replays", "{replay}", "Subscriptions that started in the past"], {
      value: stats.replays,
    }),
    counter([
      "skein.history.replayed",
      "{publication}",
      "Publications sent for subscriptions that started in the past",
    ], {
      value: stats.replayed,
    }),
    sum([
      "skein.history.tail.size",
      "By",
      "Bytes of the newest publications that are kept in memory",
    ], {
      value: stats.tailBytes,
    }),
  ];
}

/** Metrics of QUIC handshakes, HTTP requests and quotas, if the server has them. */
export function serverMeasures(server: CountedServer): Measure[] {
  return [...webTransportMeasures(server), ...httpMeasures(server), ...quotaMeasures(server)];
}

function quotaMeasures({ quotaStats = {} }: CountedServer): Measure[] {
  const quotas = Object.entries(quotaStats);
  if (quotas.length === 0) return [];
  const bounded = quotas.filter(([, { max }]) => Number.isFinite(max));
  const of = (name: string) => ({ "skein.quota": name });
  return [
    sum(
      ["skein.quota.taken", "{slot}", "Slots in use, by limit that clients share"],
      ...quotas.map(([name, { taken }]) => ({ value: taken, attributes: of(name) })),
    ),
    sum(
      [
        "skein.quota.max",
        "{slot}",
        "Most slots of all clients together; absent if there is no limit",
      ],
      ...bounded.map(([name, { max }]) => ({ value: max, attributes: of(name) })),
    ),
    counter(
      ["skein.quota.rejected", "{slot}", "Rejections, by limit and by the level that was reached"],
      ...quotas.flatMap(([name, { rejected }]) =>
        each(rejected, "skein.quota.level")
          .map(({ value, attributes }) => ({ value, attributes: { ...of(name), ...attributes } }))
      ),
    ),
  ];
}

function webTransportMeasures({ webTransportStats }: CountedServer): Measure[] {
  if (webTransportStats === undefined) return [];
  const { isListening, handshakes: { pending, ...dropped } } = webTransportStats;
  return [
    sum(
      ["skein.webtransport.listening", "1", "UDP port of WebTransport: 1 while bound, otherwise 0"],
      {
        value: isListening ? 1 : 0,
      },
    ),
    sum(["skein.quic.handshakes", "{handshake}", "QUIC handshakes in progress"], {
      value: pending,
    }),
    counter(
      ["skein.quic.handshakes.dropped", "{handshake}", "QUIC handshakes dropped by limits"],
      ...each(dropped, "skein.handshake.reason"),
    ),
  ];
}

function httpMeasures({ httpStats = {} }: CountedServer): Measure[] {
  const byFeature = (
    attribute: string,
    pick: (stats: HttpStats) => Readonly<Record<string, number>> | undefined,
  ) =>
    Object.entries(httpStats).flatMap(([feature, stats]) =>
      each(pick(stats) ?? {}, attribute).map(({ value, attributes }) => ({
        value,
        attributes: { "skein.http.feature": feature, ...attributes },
      }))
    );
  const all = [
    sum(
      ["skein.http.active", "{request}", "HTTP requests in progress, by feature"],
      ...Object.entries(httpStats).map(([feature, { active }]) => ({
        value: active,
        attributes: { "skein.http.feature": feature },
      })),
    ),
    counter(
      ["skein.http.requests", "{request}", "HTTP responses, by feature and status"],
      ...byFeature("skein.http.status", ({ responses }) => responses),
    ),
    sum(
      ["skein.http.readers", "{reader}", "Readers waiting for new records, by feature and mode"],
      ...byFeature("skein.http.way", ({ readers }) => readers),
    ),
    counter(
      ["skein.http.limited", "{request}", "HTTP requests rejected or ended by a limit"],
      ...byFeature("skein.http.bound", ({ limited }) => limited),
    ),
  ];
  return all.filter(({ values }) => values.length > 0);
}

/**
 * Merges the metrics of all workers into one list, in which each number has the attribute
 * `skein.worker`.
 */
export function mergeMeasures(
  workers: readonly (readonly [worker: string, measures: readonly Measure[]])[],
): Measure[] {
  const merged = new Map<string, Measure>();
  for (const [worker, measures] of workers) {
    for (const measure of measures) {
      const values = measure.values.map(({ value, attributes }) => ({
        value,
        attributes: { ...attributes, "skein.worker": worker },
      }));
      const known = merged.get(measure.name);
      merged.set(measure.name, { ...measure, values: [...known?.values ?? [], ...values] });
    }
  }
  return [...merged.values()];
}
