/**
 * Tests options and arguments at their limits: the last valid value, and the first invalid ones.
 * The limits are repeated here as numbers, so that a changed default or range fails a test.
 * `tests/option_calls_test.ts` checks names and types against each call's own table.
 */
import { assertEquals, assertRejects } from "@std/assert";
import { NatsNames } from "../../brokers/nats/format.ts";
import { checkSource as checkNats, natsSettings } from "../../brokers/nats/options.ts";
import { checkSource as checkRedis, redisSettings } from "../../brokers/redis/options.ts";
import { sqliteSettings } from "../../brokers/sqlite/options.ts";
import { type DrainOptions, SessionManager } from "../../manager/mod.ts";
import { MemoryBroker, Nodes, Presence, Rooms, Topics } from "../../pubsub/mod.ts";
import { StreamLogs } from "../../streams/logs/stream_logs.ts";
import { Directory } from "../../pubsub/nodes/directory.ts";
import { type ApiOptions, httpApi } from "../../operations/http_api/mod.ts";
import { inspector, type InspectorOptions } from "../../operations/mod.ts";
import { createServer, type Feature, type ServerOptions } from "../../server.ts";
import {
  durableStreams,
  type DurableStreamsOptions,
  resumable,
  type ResumableOptions,
} from "../../streams/mod.ts";
import { jwt, type JwtOptions } from "../../server/admission/jwt.ts";
import { platformRuntime } from "../runtime.ts";
import { testServer } from "../../testing/mod.ts";

/** An option by its path, with valid values, and values that cause a RangeError or a TypeError. */
interface Row {
  readonly path: string;
  readonly fits: readonly unknown[];
  readonly range?: readonly unknown[];
  readonly type?: readonly unknown[];
  /** Options next to the tried one. */
  readonly others?: object;
}

const MAX_TIMER_MS = 2_147_483_647;
/** A hundred years. */
const MAX_TTL_MS = 100 * 365 * 86_400_000;
const MAX_SAFE = Number.MAX_SAFE_INTEGER;

/** Positive integers, with another upper limit. */
function whole(path: string, most: number = MAX_SAFE, others: object = {}): Row {
  return {
    path,
    fits: [1, most],
    range: [0, -1, 1.5, NaN, Infinity, most + 1],
    type: ["5"],
    others,
  };
}

/** Positive integers whose largest value is not tested. */
function count(path: string, others: object = {}): Row {
  return { path, fits: [1, 1_000], range: [0, -1, 1.5, NaN, Infinity], type: ["5"], others };
}

/** Strings of at most 255 bytes. */
const TOPIC: Row = {
  path: "topic",
  fits: ["a", "x".repeat(255), "ü".repeat(127)],
  range: ["x".repeat(256), "ü".repeat(128)],
  type: ["", "$skein:nodes", "stream:a", 5],
};

/** Names of rooms, whose notices have a prefix of 9 bytes. */
const ROOM: Row = {
  path: "topic",
  fits: ["a", "x".repeat(246)],
  range: ["x".repeat(247)],
  type: ["", "presence:a", 5],
};

const CODE: Row = {
  path: "code",
  fits: ["a", "x".repeat(64), undefined],
  type: ["", "x".repeat(65)],
};

const PATH: Omit<Row, "path"> = {
  fits: ["/a", "/a/b"],
  type: ["", "/", "a", "/a/", "/a b", "/a/../b", "/ü", "/a?b", 5],
};

/** The required handler of an HTTP feature. */
const DENIED = { authorize: () => false };

const SERVER: readonly Row[] = [
  count("limits.maxSessions"),
  ...["maxSessionsPerUser", "maxSessionsPerAddress"].map((name) => ({
    path: `limits.${name}`,
    fits: [1, Infinity],
    range: [0, -1, 1.5, NaN],
  })),
  ...["perSession.messages", "perUser.bytes", "perAddress.subscriptions", "perUser.connections"]
    .flatMap((name) => [
      { path: `rates.${name}.perSecond`, fits: [0.01, Infinity], range: [0, -1, NaN], type: ["1"] },
      {
        path: `rates.${name}.burst`,
        fits: [1, 1.5, Infinity, undefined],
        range: [0, 0.9, NaN],
        type: ["1"],
        others: { perSecond: 1 },
      },
    ]),
  count("rates.maxRejections"),
  ...["maxData", "maxStreamData", "maxStreamsBidi", "maxStreamsUni"].map((name) => ({
    path: `flowControl.${name}`,
    fits: [0, 1, MAX_SAFE],
    range: [-1, 0.5, MAX_SAFE + 1],
    type: ["1"],
  })),
  { path: "path", fits: ["/", "/a", "/a/:b", undefined], type: ["", "a", "a/b", 5] },
  {
    path: "keepHeaders",
    fits: ["all", [], ["accept", "X-Y"]],
    type: ["accept", ["a b"], [""], [5], ["accept", "ä"], {}],
  },
  {
    path: "origins",
    fits: [[], ["*"], ["null"], ["https://a.example", "https://b.example:8443"]],
    type: ["*", ["https://a.example/"], ["https://A.example"], ["a.example"], [5]],
  },
  {
    path: "hosts",
    fits: [[], ["127.0.0.1"], ["a.example", "b.example"]],
    type: ["a.example", ["a.example:8443"], ["A.example"], ["https://a.example"], [5]],
  },
  // The paths of two features must not overlap.
  {
    path: "features",
    fits: [["/ap", "/a-b"], ["/a", "/b/a"], ["/a", "/aa"]].map(inspectorBeside),
    type: [["/a", "/a"], ["/a", "/a/b"], ["/a/b/c", "/a"]].map(inspectorBeside),
  },
];

function inspectorBeside([api = "", page = ""]: readonly string[]): readonly Feature[] {
  return [httpApi({ ...DENIED, path: api }), inspector({ path: page })];
}

const API: readonly Row[] = [
  { path: "path", ...PATH, others: DENIED },
  ...["idempotencyWindowMs", "maxBodyBytes", "maxPublications", "maxRequests"].map((name) =>
    count(name, { ...DENIED, path: "/api" })
  ),
  {
    path: "rate",
    fits: [{ perSecond: 1 }, { perSecond: Infinity }, { perSecond: 0.1, burst: 1 }],
    range: [{ perSecond: 0 }, { perSecond: NaN }, { perSecond: 1, burst: 0.5 }],
    others: { ...DENIED, path: "/api" },
  },
];

const STREAMS: readonly Row[] = [
  { path: "path", ...PATH },
  ...[
    "maxStreamBytes",
    "maxAppendBytes",
    "maxForks",
    "maxReaders",
    "maxRequests",
    "maxRows",
    "longPollMs",
  ].map((name) => count(name)),
];

const RESPONSES: readonly Row[] = ["retainMs", "maxRetained", "maxRunning"].map((name) =>
  count(name)
);

const INSPECTOR: readonly Row[] = [{ path: "path", ...PATH, others: DENIED }];

const TOKENS: readonly Row[] = [
  ...([["HS256", 32], ["HS512", 64]] as const).map(([algorithm, bytes]) => ({
    path: "secret",
    fits: [new Uint8Array(bytes), "é".repeat(bytes / 2)],
    range: [new Uint8Array(bytes - 1), "x".repeat(bytes - 1)],
    others: { algorithms: [algorithm] },
  })),
  {
    path: "algorithms",
    fits: [["HS256"], ["HS512", "HS256"]],
    type: [[], undefined, ["RS256"], ["none"], ["HS256", "ES256"], ["toString"]],
    others: { secret: new Uint8Array(64) },
  },
  {
    path: "algorithms",
    fits: [undefined, ["RS256"], ["EdDSA", "PS512"]],
    type: [[], ["HS256"], ["RS256", "HS256"], ["none"], ["xRS256"]],
    others: { jwks: "https://keys.example/" },
  },
  {
    path: "jwks",
    fits: ["https://keys.example/", "http://localhost/keys", new URL("https://keys.example")],
    type: ["keys", "ftp://keys.example/", undefined],
  },
  {
    path: "clockToleranceMs",
    fits: [0, 0.5],
    range: [-1, NaN],
    type: ["1"],
    others: { jwks: "https://a.b/" },
  },
];

const REDIS: readonly Row[] = [
  { path: "prefix", fits: ["a", "a:b c"], type: ["", "{", "a}", "a{b}", 5, null] },
  ...["maxWaiting", "maxWaitingBytes", "giveUpMs", "heartbeatMs"].map((path) => whole(path)),
  whole("rememberMs", MAX_TTL_MS),
];

const NATS: readonly Row[] = [
  ...["maxWaiting", "maxWaitingBytes", "maxStreamBytes"].map((path) => whole(path)),
  whole("giveUpMs", 100_000),
  { path: "storage", fits: ["file", "memory"], type: ["disk", "", 5] },
  whole("replicas", 5),
  { path: "rememberMs", fits: [120_000], range: [119_999, 120_000.5, NaN] },
  { path: "storeTtlMs", fits: [1_000], range: [999, 1_000.5, NaN] },
];

const SOURCES = {
  redis: [
    { path: "url", fits: ["redis://a"] },
    { path: "client", fits: [{}] },
    { path: "prefix", fits: [], type: ["a"], others: { url: "redis://a" } },
    { path: "heartbeatMs", fits: [], type: [1], others: { client: {} } },
  ],
  nats: [
    { path: "servers", fits: ["a", ["a", "b"]] },
    { path: "connection", fits: [{}] },
    { path: "token", fits: [], type: ["a"] },
    { path: "token", fits: ["a"], others: { servers: "a" } },
    { path: "connection", fits: [], type: [{}], others: { servers: "a" } },
    { path: "prefix", fits: [], type: ["a"], others: { connection: {} } },
  ],
} satisfies Record<string, readonly Row[]>;

const PRESENCE: readonly Row[] = [
  { path: "graceMs", fits: [0, 0.5, MAX_TIMER_MS], range: [-1, NaN, MAX_TIMER_MS + 1] },
  { path: "maxLastSeen", fits: [0, 1], range: [-1, 0.5, NaN, Infinity], type: ["5"] },
];

const ROOMS: readonly Row[] = [
  { path: "patterns.room:{name}.members", fits: ["list", "count"], type: ["none", "", 5] },
  ...(["gatherAbove", "gatherMs", "maxDataBytes"] as const).map((name) => {
    const most = name === "maxDataBytes" ? 4_096 : MAX_TIMER_MS;
    const path = `patterns.room:{name}.${name}`;
    return { path, fits: [0, most], range: [-1, 0.5, NaN, most + 1], type: ["5"] };
  }),
];

const TOPICS: readonly Row[] = [
  ...["maxTopicsPerSession", "maxMessageBytes"].map((path) => count(path)),
  whole("maxTopicBytes", 255),
  ...["size", "ttlMs", "bytes"].map((name) => count(`history.a:{b}.${name}`)),
];

const NODES: readonly Row[] = [
  {
    path: "heartbeatMs",
    fits: [2, 6_999],
    range: [0, -1, 1.5, NaN, 1, 7_000, Infinity],
    others: { goneAfterMs: 7_000 },
  },
  {
    path: "goneAfterMs",
    fits: [1_001, MAX_TIMER_MS],
    range: [1_000, 1_500.5, NaN, MAX_TIMER_MS + 1],
    others: { heartbeatMs: 1_000 },
  },
];

const DRAIN: readonly Row[] = [
  whole("withinMs", MAX_TIMER_MS),
  { path: "reason", fits: ["", "why"], type: [5, null, {}] },
];

const LISTS: readonly Row[] = [{
  path: "limit",
  fits: [1, 1_000],
  range: [0, -1, 1.5, NaN, Infinity],
}];

const STREAM_IDS: Row = {
  path: "id",
  fits: ["a", "x".repeat(240), "ü".repeat(120)],
  range: ["", "x".repeat(241), "ü".repeat(121), "a\0", "a\ud800"],
};

/** Calls without a server, with their options. */
const CALLS: Readonly<Record<string, readonly [readonly Row[], (given: never) => unknown]>> = {
  createServer: [SERVER, (given) => createServer(given as ServerOptions<unknown>).close()],
  httpApi: [API, (given) => httpApi(given as ApiOptions)],
  durableStreams: [
    STREAMS,
    (given) => createServer({ features: [durableStreams(given as DurableStreamsOptions)] }).close(),
  ],
  resumable: [RESPONSES, (given) => resumable(given as ResumableOptions)],
  inspector: [INSPECTOR, (given) => inspector(given as InspectorOptions)],
  jwt: [TOKENS, (given) => jwt(given as JwtOptions)],
  RedisBroker: [REDIS, redisSettings],
  "source of RedisBroker": [SOURCES.redis, checkRedis],
  NatsBroker: [NATS, natsSettings],
  "source of NatsBroker": [SOURCES.nats, checkNats],
  "prefix of NatsBroker": [
    [{
      path: "prefix",
      fits: ["A-b_9", "x".repeat(32)],
      type: ["", "a.b", "a b", "ü", "*", "x".repeat(33)],
    }],
    ({ prefix }) => new NatsNames(prefix),
  ],
  SqliteBroker: [
    [
      { path: "synchronous", fits: ["normal", "full"], type: ["off", "", 5] },
      { path: "maxBytes", fits: [262_144], range: [0, -1, NaN, 262_143], type: ["5"] },
      ...["maxTopics", "maxWaiting", "maxWaitingBytes"].map((path) => count(path)),
    ],
    (given) => sqliteSettings("file", given),
  ],
  "file of SqliteBroker": [
    [{
      path: "path",
      fits: ["a", "./a:b", new URL("file:///a")],
      type: ["", ":memory:", ":", "file:a", 5, undefined],
    }],
    ({ path }) => sqliteSettings(path, {}),
  ],
  Presence: [PRESENCE, (given) => new Presence(given)[Symbol.dispose]()],
  Topics: [TOPICS, (given) => new Topics({ broker: new MemoryBroker(), ...given as object })],
  Nodes: [NODES, (given) => new Nodes({ broker: new MemoryBroker(), ...given as object }).close()],
  // A manager drains once.
  drain: [DRAIN, (given) => new SessionManager().drain(given as DrainOptions)],
  issues: [LISTS, (given) => new SessionManager().issues(given)],
  diagnostics: [LISTS, (given) => new SessionManager().diagnostics(given)],
};

async function tryAll(
  what: string,
  rows: readonly Row[],
  call: (given: never) => unknown,
): Promise<void> {
  for (const { path, fits, range = [], type = [], others } of rows) {
    const run = async (value: unknown) => await call(optionsOf(path, value, others) as never);
    for (const value of fits) {
      await run(value).catch((error) => {
        throw new Error(`${what} takes ${path} = ${Deno.inspect(value)}`, { cause: error });
      });
    }
    for (const [values, ErrorClass] of [[range, RangeError], [type, TypeError]] as const) {
      for (const value of values) {
        await assertRejects(
          () => run(value),
          ErrorClass,
          undefined,
          `${what} ${path} = ${Deno.inspect(value)}`,
        );
      }
    }
  }
}

/** Puts a value at its path, next to other options of the same object. */
function optionsOf(path: string, value: unknown, others: object = {}): object {
  const keys = path.split(".");
  return keys.slice(0, -1).reduceRight<object>((inner, key) => ({ [key]: inner }), {
    ...others,
    [keys.at(-1)!]: value,
  });
}

for (const [name, [rows, call]] of Object.entries(CALLS)) {
  Deno.test(`${name} accepts each option up to its limits, and nothing beyond`, () =>
    tryAll(name, rows, call));
}

Deno.test("Topics and rooms accept names up to their limits, and nothing beyond", async () => {
  await using server = testServer({ authorize: () => true });
  const { topics } = server;
  await using _client = await server.dial();
  const [session] = server.manager.all() as unknown as [Parameters<typeof topics.subscribe>[0]];
  using presence = new Presence();
  const parts = { topics, presence };
  await tryAll(
    "new Rooms()",
    ROOMS,
    (given: object) => new Rooms({ ...parts, ...given })[Symbol.dispose](),
  );
  using rooms = new Rooms(parts);
  type Given = {
    readonly topic?: string;
    readonly last?: number;
    readonly from?: string;
    readonly code?: string;
  };
  const calls: Readonly<Record<string, readonly [readonly Row[], (given: Given) => unknown]>> = {
    subscribe: [
      [TOPIC, {
        path: "last",
        fits: [0, 3, undefined],
        range: [-1, 0.5, NaN, Infinity],
        type: ["1"],
      }],
      ({ topic = "a", ...rest }) => topics.subscribe(session, topic, rest),
    ],
    publish: [
      [
        { ...TOPIC, fits: TOPIC.fits.slice(0, 2), range: TOPIC.range!.slice(0, 1) },
        { path: "from", fits: ["a", "x".repeat(255), undefined], type: ["", "x".repeat(256), 5] },
      ],
      ({ topic = "a", ...rest }) => topics.publish(topic, 1, rest),
    ],
    unsubscribe: [[CODE], (given) => topics.unsubscribe(session, "a", given)],
    leaveAll: [[CODE], (given) => {
      topics.subscribe(session, "left");
      topics.leaveAll(session, given);
    }],
    join: [[ROOM], ({ topic = "a" }) => rooms.join(session, topic)],
    update: [[ROOM], ({ topic = "a" }) => rooms.update(session, topic, { data: 1 })],
    "rooms.publish": [[ROOM], ({ topic = "a" }) => rooms.publish(topic, 1)],
  };
  for (const [name, [rows, call]] of Object.entries(calls)) await tryAll(name, rows, call);
  topics.leaveAll(session);
  assertEquals([topics.topicsOf(session), rooms.roomsOf(session)], [[], []]);
});

Deno.test("Durable streams accept ids up to 240 bytes, and find none beyond", async () => {
  const bounds = {
    maxStreamBytes: 1_000,
    maxRows: 9,
    maxStreams: 100,
    maxRetained: 100,
    maxForks: 10,
    maxReaders: 10,
  };
  await using broker = new MemoryBroker();
  const streams = new StreamLogs({ runtime: platformRuntime(), bounds, onError() {}, broker });
  await tryAll("create()", [STREAM_IDS], ({ id }) => streams.create(id, {}));
  const page = { after: 0, maxRecords: 1, maxBytes: 100 };
  for (const id of STREAM_IDS.range!.map(String)) {
    const found = await Promise.all([
      streams.append(id, { records: ["1"] }).then(({ kind }) => kind),
      streams.read(id, page).then(({ kind }) => kind),
      streams.info(id).then(({ kind }) => kind),
      streams.follow(id, page).next().then(({ value }) => value?.kind),
      streams.delete(id),
    ]);
    assertEquals(found, Array(5).fill("missing"));
  }
  await streams.close();
});

Deno.test("Directories accept times of 1 ms or more, and one scope, directory and handler per name", async () => {
  await using broker = new MemoryBroker();
  await using nodes = new Nodes({ broker });
  const read = (value: unknown) => value;
  const rows = ["batchMs", "checkMs", "openMs"].map((path) => ({
    path,
    fits: [1, 1_000],
    range: [0, -1, 1.5, NaN, Infinity],
  }));
  await tryAll(
    "new Directory()",
    rows,
    (given: object) => new Directory({ nodes, name: "tried", read, ...given })[Symbol.dispose](),
  );
  using directory = new Directory({ nodes, name: "kept", read });
  const scope = directory.open("open");
  const handler = nodes.handle("taken", () => 1);
  const once = (name: string, fits: readonly string[]) => [{ path: "name", fits, type: [name] }];
  await tryAll("handle()", once("taken", ["free"]), ({ name }) => nodes.handle(name, () => 1));
  await tryAll("open()", once("open", ["another"]), ({ name }) => directory.open(name));
  assertEquals(directory.size, 2);
  handler[Symbol.dispose]();
  scope[Symbol.dispose]();
  scope[Symbol.dispose]();
  assertEquals(directory.size, 1);
  await tryAll("handle()", once("free", ["taken"]), ({ name }) => nodes.handle(name, () => 1));
  await tryAll("open()", once("another", ["open"]), ({ name }) => directory.open(name));
});
