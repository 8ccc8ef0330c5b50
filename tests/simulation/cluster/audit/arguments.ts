/** Arguments of brokers, topics, rooms, nodes and directories, at their bounds and beyond. */
import type { Broker } from "../../../../pubsub/broker.ts";
import { Directory } from "../../../../pubsub/nodes/directory.ts";
import { MemoryBroker, Nodes, Presence, Topics } from "../../../../pubsub/mod.ts";
import { Names as NatsNames } from "../../../../brokers/nats/format.ts";
import { checkSource as checkNats, natsSettings } from "../../../../brokers/nats/options.ts";
import { checkSource as checkRedis, redisSettings } from "../../../../brokers/redis/options.ts";
import { sqliteSettings } from "../../../../brokers/sqlite/options.ts";
import type { Audit } from "./audit.ts";
import { auditArguedBroker, auditArguedStreams } from "./argued_brokers.ts";
import { auditArguedCalls } from "./argued_calls.ts";
import {
  type Case,
  LIMIT,
  MAX_TIMER_MS,
  NO_COUNT,
  NO_LIMIT,
  type Options,
  TOPIC_BYTES,
} from "./cases.ts";

/** Whole numbers from 1 on, of options that end at the largest safe number. */
const WHOLE = {
  fits: [1, Number.MAX_SAFE_INTEGER],
  range: [...NO_LIMIT, Infinity, Number.MAX_SAFE_INTEGER + 1],
} as const;

/** Options that no broker has; a name without a value counts as absent. */
const UNKNOWN: readonly Case[] = [{ path: "maxWaitings", fits: [undefined], type: [1] }];

/** Options of Redis: docs/deploy/redis.md, and the documentation of each option. */
const REDIS: readonly Case[] = [
  ...UNKNOWN,
  { path: "prefix", fits: ["a", "a:b c"], type: ["", "{", "a}", "a{b}", 5, null] },
  ...["maxWaiting", "maxWaitingBytes", "giveUpMs", "heartbeatMs", "rememberMs"].map((path) => ({
    path,
    ...WHOLE,
  })),
];

/** Options of NATS. */
const NATS: readonly Case[] = [
  ...UNKNOWN,
  ...["maxWaiting", "maxWaitingBytes", "maxStreamBytes"].map((path) => ({ path, ...WHOLE })),
  { path: "giveUpMs", fits: [1, 110_000], range: [...NO_LIMIT, 110_001] },
  { path: "storage", fits: ["file", "memory"], type: ["disk", "", 5] },
  { path: "replicas", fits: [1, 5], range: [...NO_LIMIT, 6] },
  { path: "rememberMs", fits: [120_000], range: [119_999, 120_000.5, NaN] },
  { path: "storeTtlMs", fits: [1_000], range: [999, 1_000.5, NaN] },
];

/** Options of SQLite. */
const SQLITE: readonly Case[] = [
  ...UNKNOWN,
  { path: "synchronous", fits: ["normal", "full"], type: ["off", "", 5] },
  { path: "maxBytes", fits: [262_144], range: [...NO_LIMIT, 262_143] },
  ...["maxTopics", "maxWaiting", "maxWaitingBytes"].map((path) => ({ path, ...LIMIT })),
];

/** Addresses of Redis, of NATS and of a file. */
const SOURCES = {
  redis: [
    { path: "url", fits: ["redis://a"] },
    { path: "client", fits: [{}] },
    { path: "prefix", fits: [], type: ["a"], beside: { url: "redis://a" } },
    { path: "urls", fits: [], type: ["a"], beside: { url: "redis://a" } },
    { path: "heartbeatMs", fits: [], type: [1], beside: { client: {} } },
  ],
  nats: [
    { path: "servers", fits: ["a", ["a", "b"]] },
    { path: "connection", fits: [{}] },
    { path: "token", fits: [], type: ["a"] },
    { path: "token", fits: ["a"], beside: { servers: "a" } },
    { path: "connection", fits: [], type: [{}], beside: { servers: "a" } },
    { path: "giveUpMs", fits: [], type: [1], beside: { servers: "a" } },
    { path: "prefix", fits: [], type: ["a"], beside: { connection: {} } },
  ],
  sqlite: [{
    path: "path",
    fits: ["a", "./a:b", new URL("file:///a")],
    type: ["", ":memory:", ":", "file:a", 5, undefined],
  }],
} satisfies Record<string, readonly Case[]>;

/** Prefixes of NATS. */
const PREFIXES: readonly Case[] = [{
  path: "prefix",
  fits: ["a", "A-b_9", "x".repeat(32)],
  type: ["", "a.b", "a b", "ü", "*", "x".repeat(33)],
}];

/** Times of nodes. */
const NODES: readonly Case[] = [
  {
    path: "heartbeatMs",
    fits: [2, 6_999],
    range: [...NO_COUNT, 1, 7_000, Infinity],
    beside: { goneAfterMs: 7_000 },
  },
  {
    path: "goneAfterMs",
    fits: [1_001, MAX_TIMER_MS],
    range: [1_000, 1_500.5, NaN, MAX_TIMER_MS + 1],
    beside: { heartbeatMs: 1_000 },
  },
];

/** Times of directories. */
const DIRECTORIES: readonly Case[] = ["batchMs", "checkMs", "openMs"].map((path) => ({
  path,
  fits: LIMIT.fits,
  range: [...NO_COUNT, Infinity],
}));

/** Options of presence. */
const PRESENCE: readonly Case[] = [
  { path: "graceMs", fits: [0, 0.5, MAX_TIMER_MS], range: [-1, NaN, MAX_TIMER_MS + 1] },
  { path: "maxLastSeen", fits: [0, 1], range: [-1, 0.5, NaN, Infinity, "5"] },
];

/** Options of topics. */
const TOPICS: readonly Case[] = [
  ...["maxTopicsPerSession", "maxMessageBytes"].map((path) => ({ path, ...LIMIT })),
  { path: "maxTopicBytes", fits: [1, TOPIC_BYTES], range: [...NO_LIMIT, TOPIC_BYTES + 1] },
  ...["size", "ttlMs", "bytes"].map((name) => ({ path: `history.a:{b}.${name}`, ...LIMIT })),
];

/**
 * Calls brokers, topics, rooms and nodes with arguments at their bounds, beyond, and behind the end.
 *
 * @param audit The audit.
 * @param options Tries the values.
 */
export async function auditArguments(audit: Audit, options: Options): Promise<void> {
  const host = audit.host("arguments");
  const { runtime } = host;
  const of = (given: unknown) => given as never;
  await options.try("Redis:", REDIS, (given) => redisSettings(of(given)));
  await options.try("source of Redis:", SOURCES.redis, (given) => checkRedis(of(given)));
  await options.try("NATS:", NATS, (given) => natsSettings(of(given)));
  await options.try("source of NATS:", SOURCES.nats, (given) => checkNats(of(given)));
  await options.try("NATS:", PREFIXES, ({ prefix }) => new NatsNames(of(prefix)));
  await options.try("SQLite:", SQLITE, (given) => sqliteSettings("file", of(given)));
  await options.try("file:", SOURCES.sqlite, ({ path }) => sqliteSettings(of(path), {}));
  await options.try("presence:", PRESENCE, (given) => new Presence({ runtime, ...given }));
  const broker = new MemoryBroker({ runtime });
  await options.try("topics:", TOPICS, (given) => new Topics({ runtime, broker, ...given }));
  await options.try("nodes:", NODES, (given) => new Nodes({ runtime, broker, ...given }).close());
  await auditNodes(audit, options, broker);
  await auditArguedStreams(audit, options, broker);
  await auditArguedCalls(audit, options);
  const own = audit.engine.broker(audit.host("argued"));
  await Promise.all([broker, own].map((one) => one && auditArguedBroker(audit, options, one)));
}

/** Handlers and directories of nodes, one of each name, and those behind an end. */
async function auditNodes(audit: Audit, options: Options, broker: Broker): Promise<void> {
  const nodes = new Nodes({ runtime: audit.host("arguments").runtime, broker });
  const read = (value: unknown) => value;
  await options.try("directory:", DIRECTORIES, (given) => {
    new Directory({ nodes, name: "tried", read, ...given })[Symbol.dispose]();
  });
  const directory = new Directory({ nodes, name: "kept", read });
  const scope = directory.open("open");
  const taken = nodes.handle("taken", () => 1);
  const calls = {
    handle: ({ name }: Readonly<Record<string, unknown>>) => nodes.handle(`${name}`, () => 1),
    directory: ({ name }: Readonly<Record<string, unknown>>) =>
      new Directory({ nodes, name: `${name}`, read })[Symbol.dispose](),
    scope: ({ name }: Readonly<Record<string, unknown>>) => directory.open(`${name}`),
  };
  const once = (name: string, fits: readonly string[]): readonly Case[] => [
    { path: "name", fits, type: [name] },
  ];
  await options.try("handler of nodes:", once("taken", ["free"]), calls.handle);
  await options.try("directory of nodes:", once("kept", ["free directory"]), calls.directory);
  await options.try("scope of a directory:", once("open", ["another"]), calls.scope);
  audit.examine("limits", "open scopes of a directory", 2, directory.size);
  taken[Symbol.dispose]();
  scope[Symbol.dispose]();
  scope[Symbol.dispose]();
  audit.examine("limits", "open scopes behind an end", 1, directory.size);
  await options.try("handler behind an end:", once("free", ["taken"]), calls.handle);
  await options.try("scope behind an end:", once("another", ["open"]), calls.scope);
  directory[Symbol.dispose]();
  directory[Symbol.dispose]();
  audit.examine("limits", "open scopes of a directory that is over", 0, directory.size);
  const late = await options.outcome(() => directory.open("late"));
  audit.examine("limits", "scope of a directory that is over", "UnsupportedError", late);
  await nodes.close();
  await nodes.close();
  const { isComplete } = await nodes.ask("taken");
  audit.examine("limits", "question of nodes that are over", false, isComplete);
}
