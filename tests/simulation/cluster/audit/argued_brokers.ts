/** Arguments of brokers and of durable streams, at their bounds, beyond, and behind the end. */
import type { Broker, HistoryBounds } from "../../../../pubsub/broker.ts";
import { StreamLogs } from "../../../../pubsub/logs/stream_logs.ts";
import { Topics } from "../../../../pubsub/mod.ts";
import type { Audit } from "./audit.ts";
import { type Case, type Options, TOPIC_BYTES } from "./cases.ts";

/** Most bytes of a topic or key at each engine, if bounded: the documentation of the brokers. */
const MOST_BYTES: Readonly<Record<string, number | undefined>> = {
  redis: 65_536,
  nats: 2_048,
  sqlite: 1_024,
};

/** Bounds of a history. */
const BOUNDS: HistoryBounds = { size: 10, ttlMs: 10_000, bytes: 10_000 };

/** Bounds of durable streams, and ids of streams. */
const STREAMS = {
  maxStreamBytes: 1_000,
  maxStreams: 100,
  maxKept: 100,
  maxForks: 10,
  maxReaders: 10,
} as const;
const STREAM_IDS: readonly Case[] = [{
  path: "id",
  fits: ["a", "x".repeat(240), "ü".repeat(120)],
  range: ["", "x".repeat(241), "ü".repeat(121), "a\0", "a\ud800"],
}];

/**
 * Names durable streams in ways that no stream can have, and follows streams of a closed server.
 *
 * @param audit The audit.
 * @param options Tries the values.
 * @param broker A broker with logs.
 */
export async function auditArguedStreams(
  audit: Audit,
  options: Options,
  broker: Broker,
): Promise<void> {
  const { runtime } = audit.host("arguments");
  const parts = { runtime, bounds: STREAMS, onError() {} };
  const streams = new StreamLogs({ ...parts, broker });
  await options.try("stream:", STREAM_IDS, ({ id }) => streams.create(`${id}`, {}));
  const page = { after: 0, maxRecords: 1, maxBytes: 100 };
  const next = async (id: string) => (await streams.follow(id, page).next()).value?.kind;
  for (const id of STREAM_IDS.flatMap(({ range = [] }) => range).map(String)) {
    const found = await Promise.all([
      streams.append(id, { records: ["1"] }).then(({ kind }) => kind),
      streams.read(id, page).then(({ kind }) => kind),
      streams.info(id).then(({ kind }) => kind),
      next(id),
      streams.delete(id),
    ]);
    const about = `calls of a stream with an id of ${id.length} characters`;
    audit.examine("limits", about, Array(5).fill("missing"), found);
  }
  await streams.close();
  const late = await options.outcome(() => next("a"));
  audit.examine("limits", "reader of streams that are over", "UnsupportedError", late);
  const bare = { ...parts, broker: { name: "bare", publish() {}, subscribe() {} } as never };
  const without = await options.outcome(() => new StreamLogs(bare));
  audit.examine("limits", "streams of a broker without logs", "UnsupportedError", without);
  const history = { a: {} };
  const kept = await options.outcome(() => new Topics({ runtime, broker: bare.broker, history }));
  audit.examine("limits", "history of a broker without one", "UnsupportedError", kept);
}

/**
 * Calls a broker with names of the largest size, one byte beyond, and behind the end.
 *
 * @param audit The audit.
 * @param options Tries the values.
 * @param broker The broker.
 */
export async function auditArguedBroker(
  audit: Audit,
  options: Options,
  broker: Broker,
): Promise<void> {
  const { name, history, store } = broker;
  const most = MOST_BYTES[name];
  const cases: readonly Case[] = [
    { path: "topic", fits: ["y".repeat(TOPIC_BYTES)] },
    ...(most === undefined ? [] : [
      { path: "topic", fits: ["x".repeat(most)], range: ["x".repeat(most + 1)] },
    ]),
  ];
  const page = { bounds: BOUNDS, maxMessages: 1, maxBytes: 100 };
  const plain: Readonly<Record<string, (topic: string) => unknown>> = {
    publish: (topic) => broker.publish({ topic, payload: "1" }),
    subscribe: (topic) => broker.subscribe(topic, () => {})[Symbol.asyncDispose](),
  };
  const kept: Readonly<Record<string, (topic: string) => unknown>> = {
    append: (topic) => history!.append({ topic, payload: "1" }, { bounds: BOUNDS }),
    read: (topic) => history!.read(topic, page),
  };
  const rows: Readonly<Record<string, (key: string) => unknown>> = {
    newest: (key) => store!.newest(key, 1_000),
    advance: (key) => store!.advance(key, 1, 1_000),
    claims: (scope) => store!.claims(scope),
  };
  for (const [verb, call] of Object.entries({ ...plain, ...kept, ...rows })) {
    await options.try(`${verb}() of ${name}:`, cases, ({ topic }) => call(`${topic}`));
  }
  await broker.close();
  await broker.close();
  audit.examine("limits", `status of ${name} behind the end`, "closed", broker.status.current.name);
  // A store in memory has no engine to leave.
  const refused = name === "memory" ? kept : { ...kept, ...rows };
  for (
    const [expected, calls] of [["UnsupportedError", plain], ["BrokerError", refused]] as const
  ) {
    for (const [verb, call] of Object.entries(calls)) {
      const outcome = await options.outcome(() => call("argued"));
      audit.examine("limits", `${verb}() of ${name} behind the end`, expected, outcome);
    }
  }
  audit.examine("limits", `issues of ${name} behind the end`, [], broker.issues());
}
