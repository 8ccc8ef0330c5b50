/** Compares the defaults that comments state with the settings that the code makes. */
import { assert, assertEquals } from "@std/assert";
import { FIRST_DELAY_MS, MAX_DELAY_MS } from "../../base/backoff.ts";
import { natsSettings } from "../../brokers/nats/options.ts";
import { redisSettings } from "../../brokers/redis/options.ts";
import { sqliteSettings } from "../../brokers/sqlite/options.ts";
import { checkConnectTimeout } from "../../client/open.ts";
import { LIMITS as OUTBOX } from "../../client/outbox/outbox.ts";
import { DEFAULT_MAX_SESSIONS, DEFAULT_MAX_SESSIONS_PER_ADDRESS } from "../../manager/limits.ts";
import { DRAIN_MS } from "../../manager/drain.ts";
import { apiSettings } from "../../operations/http_api/api_options.ts";
import { DEFAULT_BOUNDS } from "../../pubsub/history/history_topics.ts";
import { MAX_TOPICS } from "../../pubsub/memory/history.ts";
import { MAX_TOTAL_BYTES } from "../../pubsub/memory/space.ts";
import { GONE_AFTER_MS, HEARTBEAT_MS } from "../../pubsub/nodes/nodes.ts";
import { MAX_DATA_BYTES } from "../../pubsub/presence/rooms.ts";
import { MAX_REJECTIONS } from "../../session/faults.ts";
import { sessionSettings } from "../../session/settings/session_settings.ts";
import { responseLimits, streamSettings } from "../../streams/options.ts";
import { UnreadStreams } from "../../transport/quic/unread_streams.ts";
import { Declarations, type Member } from "./declarations.ts";

const streams = streamSettings();
const responses = responseLimits();

/** The settings without any options, by the type of the options. */
const SETTINGS: Readonly<Record<string, object>> = {
  ApiOptions: apiSettings({ path: "/api" }),
  BackoffOptions: { firstDelayMs: FIRST_DELAY_MS, maxDelayMs: MAX_DELAY_MS },
  ConnectOptions: { connectTimeoutMs: checkConnectTimeout(), outbox: OUTBOX },
  DrainOptions: { withinMs: DRAIN_MS },
  DurableStreamsOptions: {
    ...streams,
    maxStreamsPerAddress: streams.streamShares.shares.address,
    maxStreamsPerUser: streams.streamShares.shares.user,
    maxReadersPerAddress: streams.readerShares.shares.address,
    maxReadersPerUser: streams.readerShares.shares.user,
  },
  HistoryBounds: DEFAULT_BOUNDS,
  ManagerLimits: {
    maxSessions: DEFAULT_MAX_SESSIONS,
    maxSessionsPerAddress: DEFAULT_MAX_SESSIONS_PER_ADDRESS,
  },
  MemoryBrokerOptions: { maxTopics: MAX_TOPICS, maxTotalBytes: MAX_TOTAL_BYTES },
  NatsBrokerOptions: natsSettings({}),
  NodesOptions: { heartbeatMs: HEARTBEAT_MS, goneAfterMs: GONE_AFTER_MS },
  RateLimitsOptions: { maxRejections: MAX_REJECTIONS },
  RedisBrokerOptions: redisSettings({}),
  ResumableOptions: {
    ...responses,
    maxRetainedPerAddress: responses.retainedShares.shares.address,
    maxRetainedPerUser: responses.retainedShares.shares.user,
    maxRunningPerAddress: responses.runningShares.shares.address,
    maxRunningPerUser: responses.runningShares.shares.user,
  },
  RoomOptions: { maxDataBytes: MAX_DATA_BYTES },
  SessionLimits: sessionSettings({ side: "server" }),
  SqliteBrokerOptions: sqliteSettings("a.db", {}),
  UnreadStreamLimits: new UnreadStreams(),
};

/** Pairs each default in comments that is a literal with that of the code. */
function* pairs(members: readonly Member[], settings: object, path: string): Generator<Pair> {
  for (const member of members) {
    const value: unknown = Reflect.get(settings, member.name);
    const name = `${path}.${member.name}`;
    if (typeof value === "object" && value !== null) yield* pairs(member.members(), value, name);
    else if (value !== undefined && /^(?:\d+|true|false|"\w*")$/.test(member.default ?? "")) {
      yield [name, JSON.parse(member.default!), value];
    }
  }
}

type Pair = readonly [name: string, stated: unknown, made: unknown];

Deno.test("The defaults in comments are those of the code", async () => {
  const declarations = await Declarations.read(new URL("../../", import.meta.url));
  const all = Object.entries(SETTINGS)
    .flatMap(([type, settings]) => [...pairs(declarations.membersOf(type), settings, type)]);
  assert(all.length > 70, `${all.length} defaults`);
  assertEquals(
    all.map(([name, stated]) => [name, stated]),
    all.map(([name, , made]) => [name, made]),
  );
});
