/**
 * Generates the tables of limits in `docs/reference/limits.md` from the code: the quotas that a server
 * opens, and the defaults of all other limits.
 *
 * ```sh
 * deno run -A tools/launch.ts run -A tools/limits_table.ts
 * deno run -A tools/launch.ts run -A tools/limits_table.ts --check
 * ```
 *
 * @module
 */
import { FIRST_DELAY_MS, MAX_DELAY_MS } from "../base/backoff.ts";
import {
  MAX_FAMILIAR,
  MAX_FAMILIAR_PER_NETWORK,
  MAX_FAMILIAR_PER_USER,
} from "../base/quotas/familiar_users.ts";
import { MAX_REPORTED } from "../base/quotas/reports.ts";
import { type QuotaOptions, Quotas } from "../base/quotas/shares.ts";
import type { Rate } from "../base/quotas/token_bucket.ts";
import { HANGING_MS } from "../base/attempts.ts";
import { WAKE_MS } from "../client/page_watch.ts";
import { SILENCES_MS, WAIT_MS } from "../client/liveness.ts";
import { checkConnectTimeout } from "../client/open.ts";
import { LIMITS as OUTBOX } from "../client/outbox/outbox.ts";
import { MAX_BYTES as KEPT_BYTES } from "../client/store/keeper.ts";
import { MAX_POSITIONS } from "../client/store/positions.ts";
import { MAX_AGE_MS } from "../client/store/kept_outbox.ts";
import { MAX_AT_ONCE, MAX_REPEAT_MS } from "../client/outbox/publications.ts";
import { MAX_FILE_BYTES } from "../client/store/file.ts";
import { OPERATION_MS } from "../client/store/indexeddb.ts";
import {
  MAX_KEY_BYTES,
  MAX_PAGE_BYTES,
  MAX_PAGE_ENTRIES,
  MAX_VALUE_BYTES,
} from "../client/store/store_checks.ts";
import { MAX_ROOMS } from "../client/subscriptions/rooms.ts";
import { MAX_WAITING, MAX_WAITING_BYTES } from "../client/state/writes.ts";
import {
  MAX_KEPT_ROWS_AGE_MS,
  MAX_KEPT_ROWS_BYTES,
  MAX_KEPT_STATE_BYTES,
  MAX_KEPT_STATES,
} from "../client/store/states/kept_rows.ts";
import {
  MAX_KEPT_WRITES,
  MAX_KEPT_WRITES_AGE_MS,
  MAX_KEPT_WRITES_BYTES,
} from "../client/store/states/kept_writes.ts";
import { LIMITS as READER } from "../client/subscriptions/subscription.ts";
import { COSTS, MAX_COST_BUCKETS } from "../manager/costs.ts";
import { MAX_IDLE_RATE_ACCOUNTS } from "../manager/rate_accounts.ts";
import { DRAIN_MS } from "../manager/drain.ts";
import { DEFAULT_MAX_SESSIONS_PER_ADDRESS } from "../manager/limits.ts";
import {
  DEFAULT_PUBLICATIONS,
  defaultConnections,
  defaultSubscriptions,
} from "../manager/rate_limits.ts";
import { DEFAULT_BOUNDS, MAX_REPLAYS } from "../pubsub/history/history_topics.ts";
import { MAX_MADE } from "../pubsub/history/publishers.ts";
import { MAX_TAILS_BYTES } from "../pubsub/history/tail_cache.ts";
import { SHARE_PART } from "../streams/logs/log_shares.ts";
import { MAX_ENTRIES as MAX_STORED, MemoryBroker } from "../pubsub/memory/broker.ts";
import { PRODUCER_NUMBERS } from "../pubsub/broker.ts";
import { MAX_TOPIC_KEYS } from "../pubsub/broker/keys.ts";
import { MAX_PRODUCERS, MAX_TOPICS } from "../pubsub/memory/history.ts";
import { MAX_TOTAL_BYTES } from "../pubsub/memory/space.ts";
import { MoqRelay, MoqServer } from "../moq/mod.ts";
import { sessionLimits } from "../moq/session/access.ts";
import { MAX_PUBLISHED } from "../moq/session/ietf/announcer.ts";
import { MAX_SUBGROUPS, OBJECT_WAIT_MS } from "../moq/session/ietf/object_group.ts";
import { MAX_RENDEZVOUS_MS } from "../moq/session/ietf/publisher.ts";
import { MAX_EARLY_STREAMS } from "../moq/session/ietf/subscriber.ts";
import { MAX_NAME_BYTES } from "../moq/wire/ietf/names.ts";
import { MAX_DRAFT_PARAMETERS, MAX_PROPERTIES } from "../moq/wire/ietf/parameters.ts";
import { MAX_OBJECT_PROPERTY_BYTES } from "../moq/wire/ietf/subgroup.ts";
import { MAX_ALL_ENTRIES, MAX_ENTRIES } from "../pubsub/nodes/directory_scope.ts";
import { MAX_NODES, NODES_AT_FULL_RATE } from "../pubsub/nodes/liveness.ts";
import { ALL_BYTES_PER_SECOND, GONE_AFTER_MS, HEARTBEAT_MS } from "../pubsub/nodes/nodes.ts";
import { GRACE_MS, MAX_LAST_SEEN, MAX_PRESENCE_DATA_BYTES } from "../pubsub/presence/presence.ts";
import { MAX_WAITING as MAX_WAITING_EVENTS } from "../pubsub/presence/events.ts";
import { MAX_RECENT, REPEAT_MS } from "../pubsub/presence/stays.ts";
import { MAX_DATA_BYTES, MAX_ROOMS_WITH_DATA } from "../pubsub/presence/rooms.ts";
import { sqliteSettings } from "../brokers/sqlite/options.ts";
import { redisSettings } from "../brokers/redis/options.ts";
import { MAX_TOPICS_PER_SESSION } from "../pubsub/topics.ts";
import { AUTHENTICATE_TIMEOUT_MS, MAX_USER_BYTES } from "../server/admission/authentication.ts";
import {
  MAX_ROUNDS,
  MAX_RUNNING,
  MAX_WAITING as MAX_NEWCOMERS,
} from "../server/admission/giving_way.ts";
import {
  DEDUPE_WINDOW_MS,
  MAX_PRODUCER_OWNERS,
  NEW_PRODUCERS,
  PRODUCER_WINDOW_MS,
} from "../server/broker_services.ts";
import {
  CALLER_MARKS,
  MAX_MARKS,
  TIGHT_CALLER_MARKS,
  TIGHT_NETWORK_MARKS,
} from "../streams/logs/callers.ts";
import { responseLimits, streamSettings } from "../streams/options.ts";
import {
  MAX_ROW_BYTES,
  MAX_SESSION_BYTES,
  MAX_STATE_BYTES,
  MAX_STATE_ROWS,
  STATE_SHARES,
} from "../streams/state/ephemeral_rows.ts";
import { KEEP_MS, MAX_KEPT_BYTES } from "../streams/state/kept_rows.ts";
import { MAX_FAILURES, MAX_MIGRATIONS, PIECE } from "../streams/state/migrations.ts";
import {
  CALLER_SLOTS,
  GUEST_KEY_SLOTS,
  MAX_KEYS,
  MIN_KEY_MS,
} from "../streams/state/mutation_keys.ts";
import {
  GUEST_SLOTS,
  MARK_MS,
  STORED_MARK_MS,
  USER_SLOTS,
} from "../streams/state/mutation_marks.ts";
import { MAX_WAITING as MAX_WAITING_UPDATES } from "../streams/state/row_queue.ts";
import { serve } from "../server.ts";
import { MAX_JOINED_BYTES } from "../session/queue/frames.ts";
import { HIGH_WATER_MARK } from "../session/queue/send_queue.ts";
import { MAX_TOKEN_BYTES } from "../session/serving/first_frames.ts";
import {
  MAX_ASKED,
  MAX_ASKING,
  MAX_FORMER_CLIENTS,
  MAX_REMEMBERED,
  REMEMBERED_MS,
} from "../server/requests/known_publications.ts";
import { ON_PUBLISH_MS } from "../server/requests/on_publish.ts";
import { MAX_PUBLICATIONS_AT_ONCE } from "../session/serving/requests.ts";
import { MAX_REJECTIONS, REJECTION_WINDOW_S } from "../session/faults.ts";
import { MAX_PRESENCES } from "../session/sending.ts";
import { MIN_UNREAD_BYTES } from "../server/http/unread.ts";
import { READY_MS, SESSION_DRAIN_MS } from "../session/session.ts";
import { sessionSettings } from "../session/settings/session_settings.ts";
import { MAX_TOPIC_BYTES } from "../session/wire/envelope.ts";
import { PRESENCE_PREFIX } from "../session/wire/presence_notice.ts";
import { MAX_READS } from "../session/mutations/transaction.ts";
import { MAX_CHANGES, MAX_SESSION_ROWS, MAX_WRITES } from "../session/wire/rows.ts";
import { MAX_WEBSOCKET_REASON_BYTES } from "../transport/close_info.ts";
import { hardenedWebSocket } from "../transport/hardened/mod.ts";
import { Header, HTTP_TRANSPORT } from "../transport/http/connection.ts";
import { HANDSHAKE_TIMEOUT_MS } from "../transport/quic/acceptor.ts";
import { UnreadStreams } from "../transport/quic/unread_streams.ts";
import { httpApi } from "../operations/http_api/mod.ts";
import { Caller } from "../tests/peers/caller.ts";
import { streamFeatures } from "../tests/stream_features.ts";
import { defineContract } from "../session/contract.ts";
import { defineMutations } from "../session/mutations/mod.ts";
import { liveState } from "../streams/live_state.ts";
import { formatted, tableOf } from "./reference/blocks.ts";
import { z } from "zod";

/** The page with the tables. */
export const LIMITS_PAGE: URL = new URL("../docs/reference/limits.md", import.meta.url);

/** The maximum length of a cell in characters, so that a table fits a window of 1,280 pixels. */
export const MAX_CELL_LENGTH = 120;

/** Headings of the tables, in order. */
const TABLES = {
  sessions: "Sessions and connections",
  messages: "Messages and requests of a session",
  topics: "Topics, presence and brokers",
  streams: "Responses, durable streams and the HTTP API",
  rates: "Rates",
  moq: "Media over QUIC",
  client: "Clients",
};

/** A limit: a row of a table. */
export interface Bound {
  /** The table of the limit. */
  readonly table: keyof typeof TABLES;
  /** The name of a limit that tests attack: that of its quota, if it has one. */
  readonly id?: string;
  /** The options that set the limit, or its description, in Markdown. */
  readonly name: string;
  /** The default. */
  readonly max: string;
  /** Shares of the limit; a level without a share is omitted. */
  readonly shares?: { readonly [Level in "address" | "user" | "session"]?: string };
  /** The effect of reaching the limit, in Markdown. */
  readonly full: string;
}

/** Units of bytes, largest first. */
const BYTES = { GiB: 2 ** 30, MiB: 2 ** 20, MB: 1_000_000, KiB: 2 ** 10 };

/** Units of time, largest first. */
const TIMES = { h: 3_600_000, min: 60_000, s: 1_000 };

interface QuotaRow extends Pick<Bound, "table" | "name" | "full"> {
  /** Formats an amount; by default a number. */
  readonly format?: (amount: number) => string;
}

/** The table, name and effect of each quota that a server opens, by quota name. */
const QUOTAS: Readonly<Record<string, QuotaRow>> = {
  maxSessions: {
    table: "sessions",
    name: "`limits.maxSessions`, `.maxSessionsPerUser`, `.maxSessionsPerAddress`",
    full: "429 or 4429; handshakes count too; guests count only against their address",
  },
  sockets: {
    table: "sessions",
    name: "WebSockets, including those that are still closing: twice the session limits",
    full: "429, before any upgrade; see `stats().sockets`",
  },
  "responses.maxRunning": {
    table: "streams",
    name: "`maxRunning`, `maxRunningPerUser`, `maxRunningPerAddress` of `resumable`",
    full: "`too-many`; Skein's client [waits](#work-that-costs-money)",
  },
  maxReaders: {
    table: "streams",
    name: "`maxReaders`, `maxReadersPerUser`, `maxReadersPerAddress` of `durableStreams`",
    full: "`too-many`, or 429; readers over all transports count",
  },
  "publications.waitingBytes": {
    table: "topics",
    name: "bytes of publications that wait for `onPublish`, each with 1 KiB more",
    full: "`too-many` with a delay; Skein's client retries",
    format: bytes,
  },
  "publications.rememberedBytes": {
    table: "topics",
    name:
      "bytes of remembered rejections by `onPublish`, and of data that the broker did not store",
    full: "a publication that is repeated is decided about again",
    format: bytes,
  },
  "states.copies": {
    table: "streams",
    name: "forks of keyed streams of more than 64 KiB, while their rows are copied (8 MiB each)",
    full: "429; a copy that finds no room counts for 5 s more",
  },
  "states.waiting": {
    table: "streams",
    name: "writes of clients to live states that wait for others of the same row",
    full: "`unavailable` with a delay, or 503; Skein's client retries",
  },
  "states.mutations": {
    table: "streams",
    name: "[mutations](../guide/mutations.md) that run or wait for their turn",
    full: "`unavailable` with a delay, or 503; Skein's client retries",
  },
  "states.ephemeral": {
    table: "streams",
    name: "ephemeral rows of the sessions of a server, in all live states",
    full: "`too-many`",
  },
  "durableStreams.requests": {
    table: "streams",
    name: "`durableStreams`: concurrent requests, including waiting readers",
    full: "429",
  },
  "durableStreams.maxRequests": {
    table: "streams",
    name: "`maxRequests` of `durableStreams`: concurrent writes",
    full: "429",
  },
  "durableStreams.mutations": {
    table: "streams",
    name: "mutations over HTTP whose input arrives, or whose right is not known yet",
    full: "429",
  },
  "api.requests": { table: "streams", name: "`api.maxRequests`: concurrent requests", full: "429" },
  "api.maxRequests": {
    table: "streams",
    name: "`api.maxRequests`: concurrent writes",
    full: "429",
  },
  "api.maxReaders": {
    table: "streams",
    name: "`api.maxReaders`",
    full: "429; see [Follow a topic](../guide/http-api.md#follow-a-topic)",
  },
  "http.unreadBytes": {
    table: "streams",
    name: `unread bytes of events and pages over HTTP: at least ${
      bytes(MIN_UNREAD_BYTES)
    } for each response`,
    full: "429; more responses than these end; see [Unread responses](#unread-responses)",
    format: bytes,
  },
  "http.posts": {
    table: "sessions",
    name: "sessions over HTTP: `POST` bodies in progress",
    full: "503",
  },
  "calls.http": {
    table: "sessions",
    name: "sessions over HTTP: requests forwarded to other nodes",
    full: "503",
  },
  "replies.http": {
    table: "sessions",
    name: "sessions over HTTP: requests forwarded from other nodes",
    full: "503",
  },
  unknownConnections: {
    table: "sessions",
    name: "sessions over HTTP: concurrent requests for connections on other nodes",
    full: "429",
  },
  unreadStreams: {
    table: "sessions",
    name: "unread streams (`limits.unreadStreams`); the session share applies per connection",
    full: "the stream is [rejected](../guide/streams.md#streams-that-are-not-read)",
  },
  "quic.connections": {
    table: "sessions",
    name: "`webTransport.maxConnections`, `.maxConnectionsPerAddress`",
    full: "the connection is rejected",
  },
  "quic.handshakes": {
    table: "sessions",
    name: "`webTransport.maxHandshakes`",
    full: `the oldest is dropped; each [may take ${
      ms(HANDSHAKE_TIMEOUT_MS)
    }](webtransport.md#handshakes)`,
  },
  connections: {
    table: "sessions",
    name: "connections of `hardenedWebSocket()`: `maxConnections` plus `maxPending`",
    full: "the connection is dropped",
  },
  maxPending: {
    table: "sessions",
    name: "`maxPending` of `hardenedWebSocket()`: connections that have sent no request",
    full: "the oldest such connection is dropped; if a share is exceeded, the new one",
  },
  "moq.maxSessions": {
    table: "moq",
    name: "`limits.maxSessions`, `.maxSessionsPerAddress` of a `MoqServer`",
    full: "429 or 4429",
  },
  "moq.maxPendingSetups": {
    table: "moq",
    name: "`limits.maxPendingSetups` of a `MoqServer`",
    full: "503 or 4503",
  },
  "moq.maxStreams": {
    table: "moq",
    name: "`limits.maxStreams`, `.maxStreamsPerAddress` of a `MoqServer`",
    full: "`addressLimit`, `relayLimit`; [what counts](moq.md#memory)",
  },
  "moq.maxBroadcasts": {
    table: "moq",
    name: "`maxBroadcasts`, `maxBroadcastsPerAddress` of a MoQ relay",
    full: "the broadcast [waits](../deploy/moq-relay.md#a-public-relay)",
  },
  "moq.waitingBroadcasts": {
    table: "moq",
    name: "broadcasts that wait for a slot on a MoQ relay",
    full: "the publisher must announce the broadcast again",
  },
  "moq.maxTracks": {
    table: "moq",
    name: "`maxTracks`, `maxTracksPerAddress` of a MoQ relay",
    full: "a track without subscribers is dropped; if there is none, `relayLimit`",
  },
  "moq.maxFetches": {
    table: "moq",
    name: "`maxFetches`, `maxFetchesPerAddress` of a MoQ relay",
    full: "`sessionLimit`, `addressLimit` or `relayLimit`",
  },
  "moq.maxFetchBytes": {
    table: "moq",
    name: "`maxFetchBytes`, `maxFetchBytesPerAddress` of a MoQ relay",
    full: "one fetch of a publisher [waits](../deploy/moq-relay.md#a-public-relay); others end",
    format: bytes,
  },
};

function count(value: number): string {
  return value === Infinity ? "none" : value.toLocaleString("en-US");
}

/** A number in the largest unit in which it is an integer. */
function inUnits(value: number, units: Readonly<Record<string, number>>, smallest: string): string {
  const [unit, size] = Object.entries(units).find(([, size]) => value % size === 0) ??
    [smallest, 1];
  return `${count(value / size)} ${unit}`;
}

function bytes(value: number): string {
  return inUnits(value, BYTES, "bytes");
}

function ms(value: number): string {
  return inUnits(value, TIMES, "ms");
}

function rate({ burst, perSecond }: Rate): string {
  return `a burst of ${count(burst ?? perSecond)}, ${count(perSecond)} a second`;
}

/**
 * Starts a server with everything enabled, and collects the quotas that it opens.
 *
 * @returns The options of each quota, by name.
 */
export async function openedQuotas(): Promise<Map<string, QuotaOptions>> {
  const opened = new Map<string, QuotaOptions>();
  const { open } = Quotas.prototype;
  Quotas.prototype.open = function (options) {
    opened.set(options.name ?? options.limit, options);
    return open.call(this, options);
  };
  try {
    await using broker = new MemoryBroker();
    await using relay = new MoqRelay();
    const contract = defineContract({
      state: { "{id}": { collections: { rows: z.any() }, mutations: { nothing: z.null() } } },
    });
    const mutations = defineMutations(contract, { nothing() {} });
    const states = liveState(contract, { mutations });
    await using server = serve({
      port: 0,
      hostname: "127.0.0.1",
      onListen() {},
      authorize: () => true,
      onPublish() {},
      contract,
      webSocket: hardenedWebSocket(),
      webTransport: {},
      features: [
        new MoqServer({ mux: relay.mux }),
        httpApi({ path: "/api", authorize: () => true }),
        ...streamFeatures({ path: "/streams", authorize: () => true }, undefined, states),
      ],
      broker,
    });
    // The first request loads this part.
    const headers = { [Header.transport]: HTTP_TRANSPORT, [Header.session]: "none" };
    for (const path of ["/api/openapi.json", "/streams/none", "/"]) {
      const request = new Request(`http://localhost${path}`, { headers });
      await (await server.fetch(request)).body?.cancel();
    }
    // So does the first mutation, over HTTP and over a session.
    const url = "http://localhost/streams/a?action=mutate&name=nothing";
    const called = await server.fetch(new Request(url, { method: "POST" }));
    await called.body?.cancel();
    await using caller = await Caller.dial(server, { from: "" });
    const numbers = { client: "abcdefgh", n: 1, since: 0 };
    await caller.ask({
      publish: "stream:a",
      data: { mutations: [["nothing", null]], ...numbers },
    });
  } finally {
    Quotas.prototype.open = open;
  }
  return opened;
}

/** Returns the row of a quota. */
function quotaBound(
  [id, { format = count, ...words }]: [string, QuotaRow],
  { max, shares }: QuotaOptions,
): Bound {
  const hasShares = Object.keys(shares).length > 0;
  return {
    ...words,
    max: format(max),
    ...(hasShares && { id, shares: shareCells(shares, format) }),
  };
}

function shareCells(shares: QuotaOptions["shares"], format = count): NonNullable<Bound["shares"]> {
  const levels = Object.entries(shares).map(([level, share]) => [level, format(share)]);
  return Object.fromEntries(levels);
}

/** The share of a broker's bytes that a client's streams may use, in words. */
const PART = ({ 8: "an eighth" } as Record<number, string>)[1 / SHARE_PART]!;

/** Shared limits that are not quotas. */
function sharedBounds(): Bound[] {
  const { maxRetained, retainedShares, retainMs } = responseLimits();
  const { maxStreams } = streamSettings();
  return [
    {
      table: "streams",
      id: "responses.maxRetained",
      name:
        "`maxRetained`, `maxRetainedPerUser`, `maxRetainedPerAddress` of `resumable`, on all nodes",
      max: `${count(maxRetained)}, ${ms(retainMs)} each`,
      shares: shareCells(retainedShares.shares),
      full: "an [old response](../guide/ai-responses.md#bounds) is dropped",
    },
    {
      table: "streams",
      id: "durableStreams.maxStreams",
      name:
        "`maxStreams`, `maxStreamsPerUser`, `maxStreamsPerAddress` of `durableStreams`, on all nodes",
      max: count(maxStreams),
      shares: shareCells(streamSettings().streamShares.shares),
      full:
        "429, or `full` for the first write of a state; streams that the server creates don't count against any address or user",
    },
    {
      table: "topics",
      id: "histories",
      name: "topics with a history in a `MemoryBroker` (`maxTopics`)",
      max: count(MAX_TOPICS),
      shares: { address: `${count(MAX_MADE)} an hour`, user: `${count(MAX_MADE)} an hour` },
      full: "[one is dropped](#shares): a recovery reports `too-old`",
    },
    {
      table: "topics",
      id: "histories",
      name: "topics with a history in a `SqliteBroker` (`maxTopics`)",
      max: count(sqliteSettings("a.db", {}).maxTopics),
      shares: { address: `${count(MAX_MADE)} an hour`, user: `${count(MAX_MADE)} an hour` },
      full: "[one is dropped](#shares): a recovery reports `too-old`",
    },
    {
      table: "topics",
      id: "histories.bytes",
      name: "`maxTotalBytes` of a `MemoryBroker`",
      max: `${bytes(MAX_TOTAL_BYTES)}, or a quarter of the memory`,
      shares: { address: "an eighth", user: "an eighth" },
      full: "[histories](#shares) are dropped; then appends to durable streams fail with `full`",
    },
    {
      table: "topics",
      id: "histories.bytes",
      name: "`maxBytes` of a `SqliteBroker`",
      max: bytes(sqliteSettings("a.db", {}).maxBytes),
      shares: { address: "an eighth", user: "an eighth" },
      full: "[histories](#shares) of clients are dropped; then appends are rejected",
    },
    {
      table: "streams",
      id: "streams.bytes",
      name: "bytes of clients' durable streams in a `MemoryBroker`, in a `SqliteBroker`",
      max: `${bytes(MAX_TOTAL_BYTES)}, ${bytes(sqliteSettings("a.db", {}).maxBytes)}`,
      shares: { address: PART, user: PART },
      full: "413, or `full`; [no stream](#shares) is dropped",
    },
    {
      table: "rates",
      id: "rates.perAddress.connections",
      name: "`rates.perAddress.connections`",
      max: "none",
      shares: { address: rate(defaultConnections(DEFAULT_MAX_SESSIONS_PER_ADDRESS)) },
      full: "429 with `retry-after`, or 4429; see [Rate limits](#rate-limits)",
    },
    {
      table: "rates",
      id: "rates.perAddress.cost",
      name: "`rates.perUser.cost`, `rates.perAddress.cost`: the start of resumable responses, " +
        "and [requests with a `cost`](#work-that-costs-money)",
      max: "none",
      shares: { address: rate(COSTS.address), user: rate(COSTS.user) },
      full: "`too-many` with `retryAfterMs`; Skein's client starts a resumable response later",
    },
    {
      table: "rates",
      id: "rates.perSession.publications",
      name: "`rates.perSession.publications`",
      max: "none",
      shares: { session: rate(DEFAULT_PUBLICATIONS) },
      full: "`too-many` with `retryAfterMs`; Skein's client retries, in order",
    },
    {
      table: "rates",
      id: "rates.perSession.publications over HTTP",
      name:
        "the same for changes [over HTTP](#rate-limits), of a user, or of the guests of an address",
      max: "none",
      shares: { address: rate(DEFAULT_PUBLICATIONS), user: rate(DEFAULT_PUBLICATIONS) },
      full: "429 with `Retry-After`",
    },
    {
      table: "rates",
      id: "rates.perSession.subscriptions",
      name: "`rates.perSession.subscriptions`",
      max: "none",
      shares: { session: rate(defaultSubscriptions()) },
      full: "`too-many` with a delay; Skein's client retries",
    },
  ];
}

/** Limits of a server without shares. */
function serverBounds(): Bound[] {
  const { maxStreamBytes, maxForks, maxAppendBytes, maxRows } = streamSettings();
  return [
    {
      table: "streams",
      name: "`maxRows` of `durableStreams`, for one keyed stream",
      max: count(maxRows),
      full: "413, or `full`",
    },
    {
      table: "streams",
      name: "producers and sequences of a keyed stream, 7 days each; of one caller; of one network",
      max: `${count(MAX_MARKS)}; ${count(CALLER_MARKS)}, ${count(TIGHT_CALLER_MARKS)}; ` +
        count(TIGHT_NETWORK_MARKS),
      full:
        "409 for new ones, unless one of the caller is idle for 10 minutes; the last two bounds " +
        "apply above half of the first",
    },
    {
      table: "streams",
      name: "changes in a transaction of a state; a client's transactions in one publication",
      max: `${count(MAX_CHANGES)}; ${count(MAX_WRITES)}`,
      full:
        "`RangeError`, `too-large` or 413; `malformed`, but Skein's client sends the rest later",
    },
    {
      table: "streams",
      name: "rows that a mutation, or a function of `transaction`, reads",
      max: count(MAX_READS),
      full: "`too-large`",
    },
    {
      table: "streams",
      name: "clients whose last mutation a state remembers: of a user; of all guests; for how long",
      max: `${count(USER_SLOTS)}; ${count(GUEST_SLOTS)}; ${ms(MARK_MS)}, with a store ${
        ms(STORED_MARK_MS)
      }`,
      full: "an older one is forgotten: a mutation that is sent again then rejects with `unknown`",
    },
    {
      table: "streams",
      name:
        "keys of mutations over HTTP that a state remembers: of a caller; of guests; for how long",
      max: `${count(CALLER_SLOTS * MAX_KEYS)}; ${count(GUEST_KEY_SLOTS * MAX_KEYS)}; ${
        ms(MARK_MS)
      }`,
      full: `the oldest is forgotten early, but after ${ms(MIN_KEY_MS)} at least; until then, 429`,
    },
    {
      table: "streams",
      name:
        "rows that a server keeps for the next mutation that iterates a collection; for how long",
      max: `${bytes(MAX_KEPT_BYTES)}; ${ms(KEEP_MS)}`,
      full: "the rows that were used longest ago are dropped, and read again when they are needed",
    },
    {
      table: "streams",
      name: "calls of a server's `update` or `transaction` that wait for others of the same row",
      max: count(MAX_WAITING_UPDATES),
      full: "`unavailable` with `retryAfterMs`",
    },
    {
      table: "streams",
      name: "ephemeral rows of one state: number and bytes of a session; bytes of a server",
      max: `${count(MAX_SESSION_ROWS)}, ${bytes(MAX_SESSION_BYTES)}; ${bytes(MAX_STATE_BYTES)}`,
      full: "`full`; `QueueFullError` in Skein's client",
    },
    {
      table: "streams",
      id: "states.ephemeral",
      name: "ephemeral rows of one state that the writers on a server have",
      max: count(MAX_STATE_ROWS),
      shares: { address: count(STATE_SHARES.address), user: count(STATE_SHARES.user) },
      full: "`too-many`",
    },
    {
      table: "streams",
      name:
        "migrations of live states that run on a server; rows and bytes that each has in memory",
      max: `${count(MAX_MIGRATIONS)}; ${count(PIECE.maxRecords)}, ${bytes(PIECE.maxBytes)}`,
      full: "`unavailable`, and clients retry",
    },
    {
      table: "streams",
      name: "failed migrations that a server remembers, for the pause before the next attempt",
      max: count(MAX_FAILURES),
      full: "the oldest is forgotten, and repeated earlier",
    },
    {
      table: "streams",
      name: "size of an ephemeral row, as JSON",
      max: bytes(MAX_ROW_BYTES),
      full: "`too-large`",
    },
    {
      table: "streams",
      name: "`maxStreamBytes`, `maxAppendBytes` of `durableStreams`",
      max: `${bytes(maxStreamBytes)}, ${bytes(maxAppendBytes)}`,
      full: "413",
    },
    {
      table: "streams",
      name: "`maxForks` of `durableStreams`, for one stream",
      max: count(maxForks),
      full: "409",
    },
    {
      table: "sessions",
      name: "`limits.unreadStreams.timeoutMs`",
      max: ms(new UnreadStreams().timeoutMs),
      full: "the stream is rejected",
    },
    {
      table: "topics",
      name: "`limits.maxTopicsPerSession`",
      max: count(MAX_TOPICS_PER_SESSION),
      full: "`QueueFullError`; a client receives `too-many`, and its live states wait for room",
    },
    {
      table: "rates",
      name: "`rates.maxRejections`",
      max: `${count(MAX_REJECTIONS)} in ${ms(REJECTION_WINDOW_S * 1_000)}`,
      full: "close 4429",
    },
    {
      table: "rates",
      name: "buckets of users without a session; of addresses without a session; of HTTP callers",
      max: Array(3).fill(count(MAX_IDLE_RATE_ACCOUNTS)).join("; "),
      full: "the oldest bucket is dropped; a bucket that has refilled is not kept",
    },
    {
      table: "rates",
      name: "buckets of costs, of users, guests, addresses and networks",
      max: count(MAX_COST_BUCKETS),
      full:
        "the bucket that was not used for longest is dropped; one that has refilled is not kept",
    },
    {
      table: "sessions",
      name: "time that `authenticate` may take",
      max: ms(AUTHENTICATE_TIMEOUT_MS),
      full: "503 or 4503",
    },
    { table: "topics", name: "`presence.graceMs`", max: ms(GRACE_MS), full: "the user has left" },
    {
      table: "topics",
      name: "events that wait for a loop over `presence.events()`",
      max: count(MAX_WAITING_EVENTS),
      full: "`QueueFullError`",
    },
    {
      table: "topics",
      name: "stays that ended, in a topic, which `presence.events()` may repeat",
      max: `${count(MAX_RECENT)} of the last ${ms(REPEAT_MS)}`,
      full: "the oldest is not repeated",
    },
    {
      table: "topics",
      name: "`maxDataBytes` of a pattern in `rooms`: a user's presence data in a room",
      max: `${bytes(MAX_DATA_BYTES)}, at most ${bytes(MAX_PRESENCE_DATA_BYTES)}`,
      full: "`too-large`; `RangeError` for a server",
    },
    {
      table: "topics",
      name: "rooms in which a session may set presence data; in which a client may",
      max: `${count(MAX_ROOMS_WITH_DATA)}, ${count(MAX_ROOMS)}`,
      full: "`too-many`; `QueueFullError`",
    },
    {
      table: "topics",
      name: "publications of a session that are handled at the same time, each on another topic",
      max: count(MAX_PUBLICATIONS_AT_ONCE),
      full: "further publications wait, within `session.maxRequests`",
    },
    {
      table: "topics",
      name: "time that [`onPublish`](../guide/topics.md#store-and-moderate) may take",
      max: ms(ON_PUBLISH_MS),
      full: "the publication is rejected with `unavailable`",
    },
    {
      table: "topics",
      name: "remembered decisions of `onPublish`: of a client, since its last publication",
      max: `${MAX_REMEMBERED}, ${ms(REMEMBERED_MS)}`,
      full: "a publication that is repeated later is decided about again",
    },
    {
      table: "topics",
      name: "clients whose decisions are remembered, besides one for each session",
      max: count(MAX_FORMER_CLIENTS),
      full: "a publication that is repeated later is decided about again",
    },
    {
      table: "topics",
      name: "publications of a session, and of all at a time, about which other nodes are asked",
      max: `${MAX_ASKED}, ${count(MAX_ASKING)}`,
      full: "this node decides about a repeated publication again",
    },
    {
      table: "topics",
      name:
        "`history`: `size`, `ttlMs`, `bytes` of each topic (including 64 bytes per publication)",
      max: `${count(DEFAULT_BOUNDS.size)}, ${ms(DEFAULT_BOUNDS.ttlMs)}, ${
        bytes(DEFAULT_BOUNDS.bytes)
      }`,
      full: "the oldest publication is dropped; a later recovery reports `too-old`",
    },
    {
      table: "topics",
      name:
        "time for which the numbers of at-least-once messages, and of publications, are remembered",
      max: ms(DEDUPE_WINDOW_MS),
      full: "a message that is retried later is handled again",
    },
    {
      table: "topics",
      name: "time for which the numbers of a client with a store are remembered",
      max: ms(PRODUCER_WINDOW_MS),
      full: "what the client repeats later is `unknown`",
    },
    {
      table: "topics",
      name: "producers that a user, or a network of guests, creates: page loads with a store",
      max: `${count(NEW_PRODUCERS.burst)}, then ${NEW_PRODUCERS.perSecond} a second on each node`,
      full: "`too-many`, with `retryAfterMs`; the client waits",
    },
    {
      table: "topics",
      name: "users and networks whose rate of new producers a node remembers",
      max: count(MAX_PRODUCER_OWNERS),
      full: "the one that created none for the longest time is forgotten",
    },
    {
      table: "topics",
      name: "these numbers in a `MemoryBroker`; of a client, before its own give way",
      max: `${count(MAX_STORED)}; ${count(MAX_MADE)} an hour`,
      full: "one is forgotten, the oldest of the client with the most first",
    },
    {
      table: "topics",
      name: "keys of `append` that a topic remembers, for two minutes; on NATS, of each node",
      max: count(MAX_TOPIC_KEYS),
      full: "`append` with another key rejects with a `LimitError`",
    },
    {
      table: "topics",
      name: "numbers of a client's publications that a topic remembers; clients, in memory",
      max: `${count(PRODUCER_NUMBERS)}; ${count(MAX_PRODUCERS)}`,
      full: "an older number, or the client that was quiet for longest, is forgotten",
    },
    {
      table: "topics",
      name: `\`node\`: \`heartbeatMs\`, \`goneAfterMs\`, with up to ${NODES_AT_FULL_RATE} nodes`,
      max: `${ms(HEARTBEAT_MS)}, ${ms(GONE_AFTER_MS)}`,
      full: "the node counts as lost",
    },
    {
      table: "topics",
      name: "nodes; users of another node, and of all, that a node keeps per room or online",
      max: `${count(MAX_NODES)}; ${count(MAX_ENTRIES)}, ${count(MAX_ALL_ENTRIES)}`,
      full: "further ones are left out; for users, `presence.isComplete()` is false meanwhile",
    },
    {
      table: "topics",
      name: "accounts that a node reports to other nodes for shares; of all nodes, in a second",
      max: `${count(MAX_REPORTED)}; ${bytes(ALL_BYTES_PER_SECOND)}`,
      full: "accounts that use less of their share are left out; changes wait, the greatest first",
    },
    {
      table: "topics",
      name: "users whose `lastSeenAt` is remembered",
      max: count(MAX_LAST_SEEN),
      full: "the oldest is dropped",
    },
    ...brokerBounds(),
  ];
}

/** Limits of brokers without shares. */
function brokerBounds(): Bound[] {
  const { maxWaiting, maxWaitingBytes, giveUpMs } = redisSettings({});
  return [
    {
      table: "topics",
      name: "`maxWaiting`, `maxWaitingBytes`, `giveUpMs` of a broker",
      max: `${count(maxWaiting)}, ${bytes(maxWaitingBytes)}, ${ms(giveUpMs)}`,
      full:
        "publications are dropped and counted while the broker is unreachable; `append` rejects",
    },
    {
      table: "topics",
      name: "concurrent replays of histories; newest publications in memory",
      max: `${count(MAX_REPLAYS)}; ${bytes(MAX_TAILS_BYTES)}`,
      full: "further replays wait; older publications are read from the broker",
    },
  ];
}

/** Limits of one session. */
function sessionBounds(): Bound[] {
  const settings = sessionSettings({ side: "server" });
  const { sendQueue, receiveQueue, heartbeat } = settings;
  const queue = (limits: { readonly maxMessages: number; readonly maxBytes: number }) =>
    `${count(limits.maxMessages)}, ${bytes(limits.maxBytes)}`;
  return [
    {
      table: "messages",
      name: "`session.sendQueue.maxMessages`, `.maxBytes`",
      max: queue(sendQueue),
      full: "depends on [`policy`](#back-pressure), by default `close`",
    },
    {
      table: "messages",
      name: "`session.receiveQueue.maxMessages`, `.maxBytes`",
      max: queue(receiveQueue),
      full: "close 4507; until something reads messages, the oldest is dropped and counted",
    },
    {
      table: "messages",
      name: "`session.maxMessageBytes`",
      max: bytes(settings.maxMessageBytes),
      full: "`RangeError` at the sender; see [Large messages](#large-messages)",
    },
    {
      table: "messages",
      name: "`session.maxInvalidMessages` in a minute",
      max: count(settings.maxInvalidMessages),
      full: "close 4400; `too-many` if the data violates the contract",
    },
    {
      table: "messages",
      name: "`session.maxRequests`, per direction",
      max: count(settings.maxRequests),
      full: "`QueueFullError`; a peer receives `too-many`, which counts as a rejection",
    },
    {
      table: "messages",
      name: "values of presence data of a session that wait for replies",
      max: count(MAX_PRESENCES),
      full: "`QueueFullError`; `client.presence()` has one for each room",
    },
    {
      table: "messages",
      name: "`session.concurrency`",
      max: count(settings.concurrency),
      full: "messages wait; with more than 1, handlers run out of order",
    },
    {
      table: "messages",
      name: "`session.requestTimeoutMs`",
      max: ms(settings.requestTimeoutMs),
      full: "`TimeoutError`; see [Decisions](#decisions-of-the-application)",
    },
    {
      table: "sessions",
      name: "`session.closeTimeoutMs`",
      max: ms(settings.closeTimeoutMs),
      full: "the session ends, even if messages are not flushed",
    },
    {
      table: "sessions",
      name: "`session.handshakeTimeoutMs`",
      max: ms(settings.handshakeTimeoutMs),
      full: "close 4408; `authenticate` has its own limit",
    },
    {
      table: "sessions",
      name: "`session.heartbeat.intervalMs`, `.timeoutMs`",
      max: `${ms(heartbeat.intervalMs)}, ${ms(heartbeat.timeoutMs)}`,
      full: "close 4408; a client uses the server's interval",
    },
    {
      table: "messages",
      name: "a frame of several messages; bytes that the connection buffers",
      max: `${bytes(MAX_JOINED_BYTES)}; ${bytes(HIGH_WATER_MARK)}`,
      full: "another frame follows; messages wait in the send queue",
    },
    {
      table: "topics",
      name: "a topic; a room's name",
      max: `${bytes(MAX_TOPIC_BYTES)}; ${bytes(MAX_TOPIC_BYTES - PRESENCE_PREFIX.length)}`,
      full: "`RangeError`, or `malformed`",
    },
    {
      table: "sessions",
      name: "a user's name",
      max: bytes(MAX_USER_BYTES),
      full: "403, or close 4403",
    },
    {
      table: "sessions",
      name: "a token sent as a message; a close reason",
      max: `${bytes(MAX_TOKEN_BYTES)}; ${bytes(MAX_WEBSOCKET_REASON_BYTES)}`,
      full: "close 4401; truncated",
    },
    {
      table: "sessions",
      name: "`withinMs` of `server.drain()`, of `session.drain()`",
      max: `${ms(DRAIN_MS)}, ${ms(SESSION_DRAIN_MS)}`,
      full: "sessions are disconnected; the session closes",
    },
    {
      table: "sessions",
      name: "new sessions that wait for [lost sessions](#a-lost-session-of-a-user) of their user",
      max: `${count(MAX_NEWCOMERS)} for each user`,
      full: "429 or 4429",
    },
    {
      table: "sessions",
      name: "remembered addresses of users, for [shares](#shares); of a network's users; of a user",
      max: `${count(MAX_FAMILIAR)}; ${count(MAX_FAMILIAR_PER_NETWORK)}; ${
        count(MAX_FAMILIAR_PER_USER)
      }`,
      full: "the network with the most gives way; otherwise the one not seen for longest",
    },
    {
      table: "sessions",
      name: "users whose silent sessions are pinged at the same time; within 10 s",
      max: `${count(MAX_RUNNING)}; ${count(MAX_ROUNDS)}`,
      full: "429 or 4429, until the heartbeat closes the lost sessions",
    },
    {
      table: "sessions",
      name: "`timeoutMs` of `whenReady()`",
      max: ms(READY_MS),
      full: "`TimeoutError`",
    },
  ];
}

/** Limits of a session in the IETF's drafts of MoQ. */
function draftBounds(): Bound[] {
  const { maxRequests } = sessionLimits();
  const closes = "the session closes with `PROTOCOL_VIOLATION`";
  return [
    {
      table: "moq",
      id: "moqt.requests",
      name: "MoQT: announced broadcasts, offered tracks and followed prefixes of a session",
      max: count(maxRequests),
      full: "`EXCESSIVE_LOAD`; set `sessionLimits.maxRequests`",
    },
    {
      table: "moq",
      id: "moqt.parameters",
      name: "MoQT: parameters of a message, options of a setup",
      max: count(MAX_DRAFT_PARAMETERS),
      full: closes,
    },
    {
      table: "moq",
      id: "moqt.properties",
      name: "MoQT: properties of a track; of an object",
      max: `${count(MAX_PROPERTIES)}; ${bytes(MAX_OBJECT_PROPERTY_BYTES)}`,
      full: closes,
    },
    {
      table: "moq",
      name: "MoQT: a namespace, and the name of a track",
      max: `${bytes(MAX_NAME_BYTES)} each`,
      full: closes,
    },
    {
      table: "moq",
      id: "moqt.subgroups",
      name: "MoQT: subgroups of a group; the wait for an object that is missing between them",
      max: `${count(MAX_SUBGROUPS)}; ${ms(OBJECT_WAIT_MS)}`,
      full: "the next one is cancelled; later objects wait in their streams, unread",
    },
    {
      table: "moq",
      id: "moqt.early",
      name: "MoQT: data streams of a session that arrive before the response to `SUBSCRIBE`",
      max: count(MAX_EARLY_STREAMS),
      full: "the next one is cancelled",
    },
    {
      table: "moq",
      name: "MoQT: broadcasts that a client announces by itself",
      max: count(MAX_PUBLISHED),
      full: "the next one waits until one ends",
    },
    {
      table: "moq",
      name: "MoQT: time that a subscription waits for its broadcast, if it allows this",
      max: ms(MAX_RENDEZVOUS_MS),
      full: "`TIMEOUT`",
    },
  ];
}

/** Limits of a client. */
function clientBounds(): Bound[] {
  return [
    {
      table: "client",
      name: "`connectTimeoutMs`",
      max: ms(checkConnectTimeout()),
      full: "the attempt fails",
    },
    {
      table: "client",
      name: "silence while a reply is pending; wait for the pong",
      max: `${ms(SILENCES_MS[0])}, ${ms(WAIT_MS)}`,
      full:
        "the client opens [another connection](../guide/reconnect.md#servers-that-fall-silent-pages-that-sleep)",
    },
    {
      table: "client",
      name: "silence after the page or the machine wakes up",
      max: ms(WAKE_MS),
      full: "the session closes: 4408, by `network`",
    },
    {
      table: "client",
      name: "an attempt to connect that takes longer, after a wake-up or `retryNow()`",
      max: ms(HANGING_MS),
      full:
        "[another attempt](../guide/reconnect.md#servers-that-fall-silent-pages-that-sleep) starts beside it; at most two at a time",
    },
    {
      table: "client",
      name: "`outbox.maxMessages`, `.maxBytes`",
      max: `${count(OUTBOX.maxMessages)}, ${bytes(OUTBOX.maxBytes)}`,
      full: "`QueueFullError`; publications without a reply count too, and with `at-least-once`, " +
        "unacknowledged messages",
    },
    {
      table: "client",
      name: "with a [store](../guide/offline.md): positions of subscriptions",
      max: count(MAX_POSITIONS),
      full: "the oldest are deleted",
    },
    {
      table: "client",
      name: "with a [store](../guide/offline.md): bytes, and age, of what is kept",
      max: `${bytes(KEPT_BYTES)}; ${ms(MAX_AGE_MS)}`,
      full:
        "`QueueFullError`; after a reload the oldest are dropped, and `outbox.onDropped` receives them",
    },
    {
      table: "client",
      name: "publications that wait for a reply; time for which a lost one is sent again",
      max: `${count(MAX_AT_ONCE)}; ${ms(MAX_REPEAT_MS)}`,
      full: "further publications wait in the outbox; `publish()` rejects with an unknown outcome",
    },
    {
      table: "client",
      name: "a key of a store; a value; a page that is read",
      max:
        `${bytes(MAX_KEY_BYTES)}; ${bytes(MAX_VALUE_BYTES)}; ${count(MAX_PAGE_ENTRIES)} entries, ` +
        bytes(MAX_PAGE_BYTES),
      full: "`RangeError`; the rest is on the next page",
    },
    {
      table: "client",
      name: "an operation of `indexedDbStore`; `maxBytes` of `fileStore`",
      max: `${ms(OPERATION_MS)}; ${bytes(MAX_FILE_BYTES)}`,
      full: "`StoreError` with the reason `failed` or `full`; the client continues in memory",
    },
    {
      table: "client",
      name: "`backoff.firstDelayMs`, `.maxDelayMs`",
      max: `${ms(FIRST_DELAY_MS)}, ${ms(MAX_DELAY_MS)}`,
      full:
        "the delay doubles each time, with full jitter; after `maxAttempts` the client is `closed`",
    },
    {
      table: "client",
      name: "writes to a state that wait for their outcome, for example while offline",
      max: `${count(MAX_WAITING)}, ${bytes(MAX_WAITING_BYTES)}`,
      full: "`QueueFullError`",
    },
    {
      table: "client",
      name: "rows of a state in a store; of all states; states; for how long",
      max: `${bytes(MAX_KEPT_STATE_BYTES)}; ${bytes(MAX_KEPT_ROWS_BYTES)}; ${
        count(MAX_KEPT_STATES)
      }; ${ms(MAX_KEPT_ROWS_AGE_MS)}`,
      full: "a larger state isn't kept; the rows that were kept longest ago are deleted; " +
        "`onError` is called once",
    },
    {
      table: "client",
      name: "writes to states in a store; for how long",
      max: `${count(MAX_KEPT_WRITES)}, ${bytes(MAX_KEPT_WRITES_BYTES)}; ${
        ms(MAX_KEPT_WRITES_AGE_MS)
      }`,
      full: "the oldest are dropped, and `onDropped` is called",
    },
    {
      table: "client",
      name: "unread messages of a subscription",
      max: `${count(READER.maxMessages)}, ${bytes(READER.maxBytes)}`,
      full:
        "a loop requests the rest later, or [receives the loss](../guide/reconnect.md#while-it-is-disconnected)",
    },
  ];
}

/**
 * Lists all limits.
 *
 * @returns The rows of all tables; rows with shares first.
 */
export async function bounds(): Promise<Bound[]> {
  const opened = await openedQuotas();
  const unknown = new Set([...opened.keys()]).symmetricDifference(new Set(Object.keys(QUOTAS)));
  if (unknown.size > 0) {
    throw new TypeError(
      `Cannot create table: QUOTAS must have the quotas of a server, received ${[...unknown]}`,
    );
  }
  const quotas = Object.entries(QUOTAS).map((row) => quotaBound(row, opened.get(row[0])!));
  return [
    ...[...quotas, ...sharedBounds(), ...serverBounds(), ...sessionBounds()],
    ...[...draftBounds(), ...clientBounds()],
  ];
}

const BEGIN = "<!-- These tables are made by tools/limits_table.ts -->";
const END = "<!-- End of the tables -->";

/** Headings of the columns with shares. */
const SHARES = { address: "an address", user: "a user or guest", session: "a session" };

/** Returns a heading and its table, with columns only for shares that some row has. */
function sectionOf(heading: string, rows: readonly Bound[]): string {
  const levels = (["address", "user", "session"] as const)
    .filter((level) => rows.some(({ shares }) => shares?.[level] !== undefined));
  const table = tableOf([
    ["bound", "default", ...levels.map((level) => SHARES[level]), "when full"],
    ...rows.map(({ name, max, shares, full }) => [
      name,
      max,
      ...levels.map((level) => shares?.[level] ?? ""),
      full,
    ]),
  ]);
  return `### ${heading}\n\n${table}`;
}

/**
 * Inserts the tables into the page.
 *
 * @param page The text of the page.
 * @returns The formatted text of the page with the current tables.
 */
export async function withTable(page: string, rows: readonly Bound[]): Promise<string> {
  const [start, end] = [page.indexOf(BEGIN), page.indexOf(END)];
  if (start < 0 || end < start) {
    throw new TypeError("Cannot create tables: the page must have a place");
  }
  const tables = Object.entries(TABLES)
    .map(([key, heading]) => sectionOf(heading, rows.filter(({ table }) => table === key)));
  const made = [BEGIN, ...tables, page.slice(end)].join("\n\n");
  return await formatted(page.slice(0, start) + made);
}

if (import.meta.main) {
  const page = await Deno.readTextFile(LIMITS_PAGE);
  const made = await withTable(page, await bounds());
  if (!Deno.args.includes("--check")) await Deno.writeTextFile(LIMITS_PAGE, made);
  else if (made !== page) {
    console.error("docs/reference/limits.md: run tools/limits_table.ts");
    Deno.exit(1);
  }
}
