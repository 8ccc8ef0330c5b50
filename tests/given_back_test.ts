/**
 * Acquires and releases each limited resource repeatedly, once more than its limit allows. If a
 * code path leaks a slot, the last acquisition fails.
 *
 * @module
 */
import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { z } from "zod";
import {
  AuthenticationError,
  defineContract,
  platformRuntime,
  QueueFullError,
  RequestError,
  SessionClosedError,
} from "../mod.ts";
import { defineMutations } from "../session/mutations/mod.ts";
import {
  durableStreams,
  DurableStreamsHandler,
  liveState,
  type ResumableOptions,
} from "../streams/mod.ts";
import { NOBODY } from "../base/quotas/accounts.ts";
import { Quota, Quotas } from "../base/quotas/shares.ts";
import {
  LiveTrack,
  MoqRelay,
  type MoqRelayOptions,
  MoqServer,
  type MoqServerOptions,
  MoqSession,
  TrackMux,
} from "../moq/mod.ts";
import { DraftType, encodeNamespaceRequest } from "../moq/wire/ietf/messages.ts";
import { VERSIONS } from "../moq/wire/versions.ts";
import { SessionManager } from "../manager/mod.ts";
import { Bench as RoomsBench } from "../pubsub/rooms_fixture.ts";
import type { Connection } from "../transport/mod.ts";
import { WaitingBudget } from "../pubsub/broker/queue.ts";
import { StreamLogs } from "../streams/logs/stream_logs.ts";
import { MemoryStore } from "../pubsub/memory/broker.ts";
import { type HistoryBounds, MemoryBroker, Nodes } from "../pubsub/mod.ts";
import { NodeCalls, type NodeCallsOptions } from "../pubsub/nodes/node_calls.ts";
import { SqliteBroker } from "../brokers/sqlite/mod.ts";
import { createServer, type ServerOptions } from "../server.ts";
import { type ResponseStart, StoredResponses } from "../streams/responses/stored_responses.ts";
import { StreamStore } from "../streams/streams.ts";
import { SharedCarriers } from "../server/http/shared_carriers.ts";
import { responseLimits, streamSettings } from "../streams/options.ts";
import { CarrierRequests } from "../server/http/carrier_requests.ts";
import { IdempotencyKeys } from "../operations/http_api/idempotency.ts";
import { Problem } from "../server/http/problem.ts";
import { MIN_UNREAD_BYTES, UnreadResponse } from "../server/http/unread.ts";
import { type Change, rowChange } from "../streams/logs/change_message.ts";
import { MAX_COPIES } from "../streams/logs/copies.ts";
import { EphemeralStates, MAX_ROWS } from "../streams/state/ephemeral_rows.ts";
import { MAX_WAITING, ownQuota, RowQueue } from "../streams/state/row_queue.ts";
import type { ChangeGate } from "../streams/state/gate.ts";
import { States, type StatesParts } from "../streams/state/states.ts";
import { type UnwrittenParts, UnwrittenStates } from "../streams/state/unwritten.ts";
import { internals } from "../session/session.ts";
import { RequestService } from "../session/serving/requests.ts";
import { memoryPair, memorySessions, passTime, testServer, turns } from "../testing/mod.ts";
import { EarlyStreams } from "../transport/h3/early_streams.ts";
import { hardenedWebSocket } from "../transport/hardened/mod.ts";
import { Header } from "../transport/http/connection.ts";
import { HttpConnections } from "../transport/http/server.ts";
import { withQmux } from "../transport/qmux/connection.ts";
import {
  STREAM_WINDOW_BYTES,
  UnreadShare,
  UnreadStreams,
} from "../transport/quic/unread_streams.ts";
import { isLibrary, readRepository } from "../tools/arrows.ts";
import { Network } from "./clients.ts";
import { HttpEnds } from "./pairs/http.ts";
import { livePair } from "./moq/pair.ts";
import { HandPeer } from "./moq/peer.ts";
import { frameOf, listen, portOf, RawSocket } from "./servers.ts";
import { connectBare, QuicServer } from "./peers/quic_peer.ts";
import { HELLO, type Peer, serverByHand } from "./sessions.ts";
import { until } from "./waiting.ts";
import { fail, FaultyStore } from "./faulty_broker.ts";
import { httpApi } from "../operations/http_api/mod.ts";
import { streamFeatures } from "./stream_features.ts";

/** A resource that is acquired and released. */
interface Bench {
  /** Acquires the resource and releases it. It must throw if the resource is rejected. */
  take(i: number): unknown;
  /** The counts of acquired resources; all are zero after each `take`. */
  left(): readonly number[];
}

/** A limit, and one path on which a resource is released. */
interface Row {
  /** The resource, and the way in which it is released. */
  readonly name: string;
  /** The file of the `Quota`, if the limit is a `Quota`. */
  readonly quota?: string;
  readonly bound: number;
  /** Creates whatever has the limit; `room` is disposed of after the test. */
  readonly open: (room: AsyncDisposableStack) => Bench | Promise<Bench>;
}

const runtime = platformRuntime();

/** Parts of states without a contract. */
function unwrittenIn(logs: StreamLogs): Pick<StatesParts, "gate" | "unwritten"> {
  const gate = { fits: () => undefined } as unknown as ChangeGate; // Nothing is written.
  const bounds = { maxRows: 9, maxStreamBytes: 9_999 };
  const parts = { runtime, logs, gate, bounds, tail: { records: 9, bytes: 9_999, ms: 1_000 } };
  return { gate, unwritten: new UnwrittenStates(parts as unknown as UnwrittenParts) };
}

/** The ephemeral rows of states with the collection `cursors`. */
function ephemeralIn(room: AsyncDisposableStack, quotas: Quotas): EphemeralStates {
  const states = new EphemeralStates({
    runtime,
    quotas,
    nodes: undefined,
    graceMs: 1,
    isUsed: true,
    namesOf: () => new Set(["cursors"]),
  });
  room.defer(() => states.close());
  return states;
}

/** A state whose mutation waits for the test. */
const BANK = defineContract({
  state: { bank: { collections: { coins: z.number() }, mutations: { act: z.null() } } },
});

/** A server in memory with this state. */
async function mutating(room: AsyncDisposableStack) {
  let settle = (_isRejected: boolean) => {};
  const mutations = defineMutations(BANK, {
    async act(tx) {
      await tx.get("coins", "a");
      await new Promise<void>((resolve, reject) => {
        settle = (isRejected) => isRejected ? reject(new RequestError("no", "No")) : resolve();
      });
      await tx.set("coins", "a", 1);
    },
  });
  const states = liveState(BANK, { mutations });
  const streams = durableStreams({ path: "/streams", authorize: () => true });
  const server = room.use(testServer({
    contract: BANK,
    authorize: () => true,
    features: [states, streams],
  }));
  const bank = room.use(await states.open("bank"));
  await bank.collection("coins").set("a", 0);
  const running = () => server.quotaStats["states.mutations"]?.taken ?? 0;
  return { server, bank, running, settle: (isRejected: boolean) => settle(isRejected) };
}

/** The slots in use in all quotas. */
function takenOf(quotas: Quotas): number[] {
  return Object.values(quotas.stats).map(({ taken }) => taken);
}

// Sessions and sockets.

const ADDRESS = "192.0.2.1";

/** A server in memory that accepts three sessions. */
function threeSessions(room: AsyncDisposableStack, options: ServerOptions<string | null> = {}) {
  const limits = { maxSessions: 3, maxSessionsPerUser: 3, maxSessionsPerAddress: 3 };
  const server = room.use(testServer({ authenticate: () => "ann", limits, ...options }));
  const left = () => {
    const { count, reserved, users, addresses, sockets } = server.manager.stats();
    const slots = [count, reserved, users, addresses, sockets.open, sockets.lingering];
    return [...slots, ...server.topics.decisions.sizes];
  };
  return { server, left };
}

/** A QUIC listener that accepts three handshakes and connections. */
function quicConnections(
  room: AsyncDisposableStack,
  connect: (server: QuicServer) => Promise<void>,
): Bench {
  const quotas = new Quotas(runtime);
  const most = { maxHandshakes: 3, maxConnections: 3, maxConnectionsPerAddress: 3 };
  const server = room.use(new QuicServer({ ...most, quotas }));
  const take = async () => {
    await connect(server);
    await until(() => takenOf(quotas).every((taken) => taken === 0));
  };
  return { take, left: () => takenOf(quotas) };
}

const SESSIONS: readonly Row[] = [
  {
    name: "sessions that close",
    bound: 3,
    open(room) {
      const { server, left } = threeSessions(room);
      return { take: async () => await (await server.dial({ address: ADDRESS })).close(), left };
    },
  },
  {
    name: "sessions whose connection breaks",
    bound: 3,
    open(room) {
      const { server, left } = threeSessions(room);
      const take = async () => {
        const session = await server.dial({ address: ADDRESS });
        server.network.disconnect();
        await session.closed;
      };
      return { take, left };
    },
  },
  {
    name: "sessions that authenticate rejects",
    bound: 3,
    open(room) {
      const { server, left } = threeSessions(room, { authenticate: () => null });
      const dial = () => server.dial({ address: ADDRESS });
      return { take: () => assertRejects(dial, SessionClosedError, "4401"), left };
    },
  },
  {
    name: "reservations",
    quota: "manager/limits.ts",
    bound: 3,
    open() {
      const quotas = new Quotas(platformRuntime());
      const manager = new SessionManager({
        maxSessions: 3,
        maxSessionsPerAddress: 3,
        parts: { quotas },
      });
      const take = () => manager.admit({ address: ADDRESS })[Symbol.dispose]();
      return { take, left: () => [manager.stats().reserved, quotas.stats.maxSessions!.taken] };
    },
  },
  ...[undefined, hardenedWebSocket()].map((webSocket): Row => ({
    name: `sockets of the ${webSocket === undefined ? "built-in" : "hardened"} engine`,
    quota: "manager/sockets.ts",
    bound: 4,
    open(room) {
      const server = room.use(listen({
        limits: { maxSessions: 10, maxSessionsPerAddress: 2 },
        clientAddress: () => ADDRESS,
        webTransport: false,
        ...(webSocket && { webSocket }),
      }));
      const take = async () => {
        const socket = new WebSocket(`ws://127.0.0.1:${portOf(server)}/`);
        await new Promise((resolve) => socket.onopen = resolve);
        const closed = new Promise((resolve) => socket.onclose = resolve);
        socket.close();
        await closed;
      };
      return { take, left: () => [server.manager.stats().sockets.open] };
    },
  })),
  {
    name: "handshakes that end before a request",
    quota: "transport/hardened/handshake_limits.ts",
    bound: 3,
    open(room) {
      const webSocket = hardenedWebSocket({ maxPending: 3, maxPendingPerAddress: 3 });
      const server = room.use(listen({ webSocket, webTransport: false }));
      const take = async (i: number) => {
        using _socket = await Deno.connect({ hostname: "127.0.0.1", port: portOf(server) });
        await until(() => webSocket.stats().pending === 1);
        assertEquals(webSocket.stats().tooManyPending, 0, `handshake ${i}`);
      };
      return {
        take,
        left: () => [webSocket.stats().pending, webSocket.stats().connections],
      };
    },
  },
  {
    name: "connections of QUIC that close",
    quota: "transport/connection_quota.ts",
    bound: 3,
    open: (room) =>
      quicConnections(room, async (server) => {
        const { connection, peer } = await server.open();
        peer.close({ closeCode: 0, reason: "" });
        await connection.closed;
      }),
  },
  {
    name: "handshakes of QUIC that end without a connection",
    quota: "transport/quic/acceptor.ts",
    bound: 3,
    open: (room) =>
      quicConnections(room, async ({ port }) => {
        await assertRejects(() => connectBare(port, { alpnProtocols: ["another"] }));
      }),
  },
  {
    name: "pongs that the peer reads",
    bound: 21, // More pongs in total than may be queued.
    async open(room) {
      const server = room.use(listen({ webSocket: hardenedWebSocket(), webTransport: false }));
      const socket = room.use(await RawSocket.open(portOf(server)));
      const pings = new Uint8Array(
        Array.from({ length: 100 }, () => [...frameOf("p".repeat(125), { head: 0x89 })]).flat(),
      );
      const take = async () => {
        await socket.write(pings);
        for (let i = 0; i < 100; i++) assertEquals((await socket.read())?.opcode, 10);
      };
      return { take, left: () => [] };
    },
  },
];

// Frames, streams and bytes of connections.

/** Bytes of an event of an HTTP connection: five events exceed the unacknowledged bytes. */
const EVENT_BYTES = 60_000;

/** Creates a connection over HTTP, and a function for its client's requests. */
function httpConnection(room: AsyncDisposableStack) {
  const connections = room.use(new HttpConnections({ runtime, maxFrameBytes: 1_000_000 }));
  const quotas = new Quotas(runtime);
  const requests = new CarrierRequests({
    runtime,
    quotas,
    maxFrameBytes: 1_000_000,
    carriers: connections,
    origins: {},
    cut: new AbortController().signal,
    countForged() {},
    accountOf: () => NOBODY,
    report: (error) => {
      throw error;
    },
  });
  const connection = connections.accept();
  const { session, secret } = connection.opened;
  const keys = { [Header.session]: session, [Header.secret]: secret };
  const ask = (method: string, headers: Record<string, string>, body?: BodyInit) => {
    const all = { ...keys, ...headers };
    const init = { method, headers: all, ...(body !== undefined && { body }) };
    return requests.fetch(new Request("http://localhost/", init), {});
  };
  return { connections, connection, ask, quotas };
}

/** Opens streams on a pair of connections; each half ends in a different way. */
function halfClosed({ client, server }: { client: Connection; server: Connection }): Bench {
  const accepted = server.incomingBidirectionalStreams.getReader();
  const ends: readonly ((half: ReadableStream | WritableStream) => Promise<unknown>)[] = [
    (half) => half instanceof ReadableStream ? half.cancel() : half.close(),
    (half) => half instanceof ReadableStream ? half.cancel() : half.abort(),
  ];
  const take = async (i: number) => {
    const end = ends[i % ends.length]!;
    const near = await client.createBidirectionalStream({ timeoutMs: 20_000 });
    const writer = near.writable.getWriter();
    await writer.write(Uint8Array.of(1));
    writer.releaseLock();
    const far = (await accepted.read()).value!;
    // The first half ends on one side before the second half ends at the other.
    await Promise.allSettled([end(near.writable), end(far.readable)]);
    await Promise.allSettled([end(far.writable), end(near.readable)]);
  };
  return { take, left: () => [] };
}

/** A buffer for two unread early streams. */
function earlyStreams(end: (early: EarlyStreams, time: FakeTime) => unknown) {
  return (room: AsyncDisposableStack): Bench => {
    const time = room.use(new FakeTime());
    const maxBytes = 2 * STREAM_WINDOW_BYTES;
    const unread = new UnreadStreams({
      maxBytes,
      maxBytesPerAddress: maxBytes,
      maxBytesPerConnection: maxBytes,
    });
    const early = new EarlyStreams(runtime, new UnreadShare(runtime, unread, ADDRESS));
    const take = () => {
      let isRejected = false;
      const stream = { sessionId: 4, accept() {}, reject: () => void (isRejected = true) };
      early.hold(stream);
      assertEquals(isRejected, false);
      return end(early, time);
    };
    return { take, left: () => [unread.stats.count] };
  };
}

const CONNECTIONS: readonly Row[] = [
  {
    name: "posts of an HTTP session",
    quota: "server/http/carrier_requests.ts",
    bound: 4_096,
    open(room) {
      const { connection, ask, quotas } = httpConnection(room);
      const take = async () => {
        const post = await ask("POST", { [Header.number]: "1", [Header.lastEvent]: "0" }, "");
        assertEquals(post.status, 204);
      };
      return { take, left: () => [connection.bufferedAmount, ...takenOf(quotas)] };
    },
  },
  {
    name: "posts of an HTTP session whose bodies break off",
    bound: 2,
    open(room) {
      const { ask, quotas } = httpConnection(room);
      const take = async () => {
        const body = new ReadableStream({
          pull: (controller) => controller.error(new Error("lost")),
        });
        const post = await ask("POST", { [Header.number]: "1", [Header.lastEvent]: "0" }, body);
        assertEquals(post.status, 400);
      };
      return { take, left: () => takenOf(quotas) };
    },
  },
  {
    name: "polls of an HTTP session, until it is lost",
    bound: 10,
    open(room) {
      const time = room.use(new FakeTime());
      const { connections, connection, ask } = httpConnection(room);
      const take = async (i: number) => {
        connection.frames.send(`${i}`);
        const poll = await ask("GET", { [Header.poll]: "1", [Header.lastEvent]: `${i}` });
        assertEquals(poll.status, 200);
        await poll.body!.cancel();
        if (i < 10) return;
        await passTime(time, 120_000);
        assertEquals(connections.size, 0, "a poll counts as in progress, and keeps the session");
      };
      return { take, left: () => [connection.bufferedAmount] };
    },
  },
  {
    name: "events of an HTTP session that the client acknowledges",
    bound: 5,
    open(room) {
      const { connection } = httpConnection(room);
      const { signal } = new AbortController();
      let last = 0;
      const take = async (i: number) => {
        connection.frames.send("x".repeat(EVENT_BYTES));
        const options = { reader: "r", isFirst: i === 0, waitMs: 0, maxBytes: 100_000, signal };
        const taken = await connection.take(last, options);
        assert(taken.events.length > EVENT_BYTES, "the event waits for an acknowledgment");
        last = taken.last;
        await connection.give(0, new Uint8Array(), last);
      };
      return { take, left: () => [connection.bufferedAmount] };
    },
  },
  {
    name: "received bytes that an HTTP client acknowledges",
    bound: 4,
    async open(room) {
      let [posts, received] = [0, 0];
      const ends = room.use(
        new HttpEnds({
          proxy(request, serve) {
            if (request.method === "POST") posts++;
            return serve(request);
          },
        }),
      );
      const { client, server } = await ends.open();
      room.use(client);
      client.frames!.receive({ receiveFrame: () => void received++, framesEnded() {} });
      const take = async (i: number) => {
        server.frames!.send("x".repeat(EVENT_BYTES + 10_000)); // Enough for an acknowledgment.
        await until(() => posts > i);
        for (let more = 0; more < 10; more++) {
          const before = received;
          server.frames!.send("y");
          await until(() => received > before);
        }
        assertEquals(posts, i + 1, "acknowledgments");
      };
      return { take, left: () => [] };
    },
  },
  {
    name: "streams of a connection in memory that end half by half",
    bound: 100,
    open: (room) => halfClosed(room.use(memoryPair())),
  },
  {
    name: "streams of a QMux connection that end half by half",
    bound: 1_000,
    async open(room) {
      const pair = room.use(memoryPair({ streams: false, datagrams: false }));
      const options = { runtime, version: 1, protocol: "chat" } as const;
      const client = room.use(withQmux(pair.client, { ...options, side: "client" }));
      const server = room.use(withQmux(pair.server, { ...options, side: "server" }));
      await Promise.all([client.ready, server.ready]);
      return halfClosed({ client, server });
    },
  },
  {
    name: "early streams whose session starts",
    quota: "transport/quic/unread_streams.ts",
    bound: 2,
    open: earlyStreams((early) => early.accept({ id: 4 } as never)),
  },
  {
    name: "early streams whose session is rejected",
    bound: 2,
    open: earlyStreams((early) => early.reject(4)),
  },
  {
    name: "early streams whose session never arrives",
    bound: 2,
    open: earlyStreams((_early, time) => passTime(time, 6_000)),
  },
  {
    name: "early streams of a connection that ends",
    bound: 2,
    open: earlyStreams((early) => early.clear()),
  },
];

// Topics, rooms and presence.

const MAX_ROOMS = 32;

const TOPICS: readonly Row[] = [
  ...[true, false].map((isAllowed): Row => ({
    name: `topics of a session that authorize ${isAllowed ? "allows" : "denies"}`,
    bound: 3,
    async open(room) {
      const limits = { maxTopicsPerSession: 3 };
      const server = room.use(testServer({ limits, authorize: () => isAllowed }));
      const client = room.use(server.connect());
      await client.whenConnected();
      const take = async (i: number) => {
        const topic = client.subscribe(`t${i}`);
        if (!isAllowed) await assertRejects(() => topic.ready, RequestError, "may not subscribe");
        else await topic.ready.then(() => topic.unsubscribe());
      };
      return { take, left: () => [server.topics.stats.topics] };
    },
  })),
  {
    name: "rooms that a session joins with data, and leaves",
    bound: MAX_ROOMS,
    async open(room) {
      const { rooms, presence, topics, ...bench } = room.use(new RoomsBench({ graceMs: 0 }));
      const { session } = await bench.peers.connect({ user: "ann" });
      const take = (i: number) => {
        rooms.join(session, `r${i}`, { data: i });
        rooms.leave(session, `r${i}`);
        rooms.update(session, `r${i}`);
        bench.time.tick(1);
      };
      return {
        take,
        left: () => [topics.size, [...rooms.names()].length, presence.topicsOf("ann").length],
      };
    },
  },
  {
    name: "rooms with data that a session has too many topics to join",
    bound: MAX_ROOMS,
    async open(room) {
      const bench = room.use(new RoomsBench({ graceMs: 0, maxTopicsPerSession: 1 }));
      const { rooms } = bench;
      const { session } = await bench.connect("ann");
      rooms.join(session, "only");
      const join = (i: number) => rooms.join(session, `r${i}`, { data: i });
      const take = (i: number) => assertThrows(() => join(i), QueueFullError, "topics");
      return {
        take,
        left: () => [rooms.roomsOf(session).length - 1, [...rooms.names()].length - 1],
      };
    },
  },
  {
    name: "rooms that a session with a full queue fails to join",
    bound: 3,
    open(room) {
      const bench = room.use(new RoomsBench({ graceMs: 0 }));
      const { rooms, topics, presence } = bench;
      const take = async (i: number) => {
        const limits = { sendQueue: { maxMessages: 1 } };
        const { session, pair } = await bench.connect(`u${i}`, limits);
        pair.link.stall("to-client");
        session.send("t", "x".repeat(100_000));
        await bench.peers.endTurn();
        session.send("t", "full");
        assertThrows(() => rooms.join(session, "chat", { data: i }), QueueFullError, "queue");
        pair.link.disconnect();
        await session.closed;
        bench.time.tick(1);
      };
      return {
        take,
        left: () => [topics.size, [...rooms.names()].length, presence.online().length],
      };
    },
  },
];

// Requests.

/** Handlers, keyed by the way in which they end a request. */
const HANDLERS = {
  answers: () => 1,
  fails: () => {
    throw new RequestError("no", "No");
  },
  streams: async function* () {
    yield 1;
  },
  waits: ({ signal }: { readonly signal: AbortSignal }) =>
    new Promise<never>((_, reject) =>
      signal.addEventListener("abort", () => reject(signal.reason))
    ),
};

/** Bytes of a message: eight messages exceed what a client may have unacknowledged. */
const MESSAGE_BYTES = 80_000;

const OUTBOX: Row = {
  name: "messages of an outbox, and their bytes, that the server acknowledges",
  bound: 3,
  async open(room) {
    let peer: Peer;
    const network = new Network();
    network.outcomes.push(network.byHand((made) => {
      peer = made;
      peer.say(HELLO);
    }));
    const outbox = { maxMessages: 2, maxBytes: 3 * MESSAGE_BYTES };
    const client = room.use(network.client({ delivery: "at-least-once", outbox }));
    await client.whenConnected();
    const take = async (i: number) => {
      for (const _ of [1, 2]) client.send("a", "x".repeat(MESSAGE_BYTES));
      const last = 2 * i + 2;
      await until(() => peer.envelopes.filter(({ topic }) => topic === "a").length === last);
      peer.say({ ack: last });
    };
    return { take, left: () => [client.outbox.messages, client.outbox.bytes] };
  },
};

const REQUESTS: readonly Row[] = (["client", "server"] as const).flatMap((asker) =>
  (Object.keys(HANDLERS) as (keyof typeof HANDLERS)[]).map((name): Row => ({
    name: `requests of the ${asker} whose handler ${name}`,
    bound: 2,
    async open(room) {
      const requests = HANDLERS as never;
      const end = { requests, maxRequests: 2, onError() {} };
      const pair = room.use(memorySessions({ server: end, client: end }));
      await pair.client.ready;
      const { [asker]: session, [asker === "client" ? "server" : "client"]: peer } = pair;
      const take = async () => {
        const asked: unknown = name === "streams"
          ? await Array.fromAsync(session.requestStream(name))
          : await session.request(
            name,
            1,
            name === "waits" ? { signal: AbortSignal.timeout(1) } : {},
          )
            .catch((error) => error.failure?.code ?? error.name);
        const expected = { answers: 1, fails: "no", streams: [1], waits: "TimeoutError" }[name];
        assertEquals(asked, expected);
      };
      const left = () => [
        session.stats.pendingReplies,
        session[internals].sending.pendingReplies,
        session[internals].sending.awaitedRequests,
        peer[internals].receiving.replies.size,
        peer[internals].receiving.replies.leaving,
      ];
      return { take, left };
    },
  }))
);

// StoredResponses, readers and streams.

/** The parts of a node that handle responses and readers, with two slots for each. */
function resumable(
  room: AsyncDisposableStack,
  broker: MemoryBroker,
  limits: ResumableOptions = { maxRunning: 2, maxRunningPerUser: 2 },
) {
  const logs = new StreamLogs({
    runtime,
    broker,
    bounds: {
      maxStreams: 100,
      maxRetained: 2,
      maxStreamBytes: 65_536,
      maxForks: 2,
      maxReaders: 2,
      maxRows: 9,
    },
    onError: (error) => {
      throw error;
    },
  });
  const node = new StreamStore({
    runtime,
    streams: logs,
    tail: streamSettings().tail,
    maxMessageBytes: 65_536,
  });
  const responses = new StoredResponses(responseLimits(limits), {
    charge() {},
    runtime,
    quotas: new Quotas(runtime),
    broker,
    streams: logs,
    durableStreams: node,
    resumeOf: () => HANDLERS.waits as never,
    report() {},
  });
  room.defer(() => logs.close());
  room.defer(() => node.close());
  room.defer(() => responses.close());
  const account = { ...NOBODY, user: "ann" };
  const begin = (
    i: number,
    generate: ResponseStart["generate"],
    more: Partial<ResponseStart> = {},
  ) => {
    const name = `answer-number-${i}`.padEnd(22, "-");
    return responses.begin({
      topic: "chat",
      input: 1,
      user: "ann",
      name,
      account,
      cost: 1,
      generate,
      onError() {},
      ...more,
    });
  };
  return { logs, responses, begin, left: () => [responses.running, logs.readers] };
}

const waiting: ResponseStart["generate"] = async function* (signal) {
  yield 1;
  await new Promise((resolve) => signal.addEventListener("abort", resolve));
};

const RESPONSES_FILE = "streams/responses/stored_responses.ts";

/** Forks, keyed by their outcome. */
const FORKS = {
  "are deleted": { id: "fork", kind: "created" },
  "already exist": { id: "present", kind: "exists" },
  "start after its end": {
    id: "fork",
    kind: "bad-offset",
    offset: "9999999999999999_9999999999999999",
  },
  "have another type": { id: "fork", kind: "other-type", contentType: "text/plain" },
};

const ANSWERS: readonly Row[] = [
  ...Object.entries({
    end: HANDLERS.streams,
    fail: () => {
      throw new Error("fails");
    },
  }).map(([end, generate]): Row => ({
    name: `responses that ${end}`,
    quota: RESPONSES_FILE,
    bound: 2,
    open(room) {
      const { begin, left } = resumable(room, room.use(new MemoryBroker()));
      return { take: (i) => begin(i, generate), left };
    },
  })),
  {
    name: "responses that a reader cancels",
    quota: RESPONSES_FILE,
    bound: 2,
    open(room) {
      const { begin, left, logs } = resumable(room, room.use(new MemoryBroker()));
      const take = async (i: number) => {
        const id = await begin(i, waiting);
        await logs.append(id, { records: [], cancel: "enough" });
      };
      return { take, left };
    },
  },
  {
    name: "responses of guests who left",
    quota: RESPONSES_FILE,
    bound: 2,
    open(room) {
      const time = room.use(new FakeTime());
      const { begin, left } = resumable(room, room.use(new MemoryBroker()));
      const take = async (i: number) => {
        await begin(i, waiting, { user: undefined, account: NOBODY });
        await passTime(time, 300_000);
      };
      return { take, left };
    },
  },
  {
    name: "responses that make room for the next ones",
    bound: 2,
    open(room) {
      const broker = room.use(new MemoryBroker());
      const { responses, begin, left } = resumable(room, broker);
      const take = async (i: number) => {
        await begin(i, async function* () {});
        await until(() => responses.running === 0);
      };
      // At most two responses are kept.
      return { take, left: () => [...left(), Math.max(0, responses.retained.stats.taken - 2)] };
    },
  },
  {
    name: "requests for responses that a user's share rejects",
    bound: 2,
    async open(room) {
      const { begin } = resumable(room, room.use(new MemoryBroker()), { maxRetainedPerUser: 1 });
      await begin(9, waiting);
      const most = "your user may have at most 1 retained responses";
      const take = async (i: number) =>
        void await assertRejects(() => begin(i, waiting), RequestError, most);
      return { take, left: () => [] };
    },
  },
  {
    name: "responses that another node started first",
    quota: RESPONSES_FILE,
    bound: 2,
    open(room) {
      const broker = room.use(new MemoryBroker());
      const nodes = [resumable(room, broker), resumable(room, broker)];
      const take = (i: number) =>
        Promise.all(nodes.map(({ begin }) => begin(i, async function* () {})));
      return { take, left: () => nodes.flatMap(({ left }) => left()) };
    },
  },
  {
    name: "responses that are no longer kept",
    quota: RESPONSES_FILE,
    bound: 2,
    open(room) {
      const { begin, left } = resumable(room, room.use(new MemoryBroker()));
      const take = (i: number) =>
        assertRejects(() => begin(i, waiting, { begun: true }), RequestError, "no longer has");
      return { take, left };
    },
  },
  {
    name: "takeovers of responses that the previous node still runs",
    quota: RESPONSES_FILE,
    bound: 2,
    async open(room) {
      const broker = room.use(new MemoryBroker());
      const [one, other] = [resumable(room, broker), resumable(room, broker)];
      const id = await one.begin(0, waiting);
      const take = async () =>
        assertEquals(await other.responses.rescue(id), true, "no slot is free");
      return { take, left: other.left };
    },
  },
  ...["leave", "are aborted", "find no stream", "reach the end"].map((end): Row => ({
    name: `readers that ${end}`,
    quota: "streams/logs/stream_logs.ts",
    bound: 2,
    async open(room) {
      const { logs, left } = resumable(room, room.use(new MemoryBroker()));
      const options = { contentType: "application/json", records: ["1"] };
      await logs.create("open", options);
      await logs.create("ended", { ...options, end: {} });
      const take = async () => {
        const abort = new AbortController();
        const id = { "find no stream": "none", "reach the end": "ended" }[end] ?? "open";
        const page = { after: 0, maxRecords: 9, maxBytes: 9_999, signal: abort.signal };
        const reading = logs.follow(id, page);
        const { value } = await reading.next();
        assertEquals(value?.kind, end === "find no stream" ? "missing" : "page");
        if (end === "are aborted") {
          const next = reading.next();
          abort.abort();
          await next;
        } else if (end === "leave") await reading.return();
        else await reading.next();
      };
      return { take, left: () => [...left(), [...logs.followed()].length] };
    },
  })),
  ...["succeed", "find no room", "find their id in use"].map((end): Row => ({
    name: `copies of large states that ${end}`,
    quota: "streams/logs/copies.ts",
    bound: MAX_COPIES,
    async open(room) {
      const time = room.use(new FakeTime());
      const quotas = new Quotas(runtime);
      const broker = room.use(new MemoryBroker());
      const bounds = { maxRetained: 1, maxStreamBytes: 9_999_999, maxForks: 1, maxReaders: 1 };
      const logs = room.use(
        new StreamLogs({
          runtime,
          broker,
          quotas,
          bounds: { ...bounds, maxStreams: end === "find no room" ? 1 : 99, maxRows: 99 },
          onError() {},
        }),
      );
      const keyed = { records: 9, bytes: 9_999, ms: 1_000 };
      await logs.create("0", { contentType: "application/json", keyed });
      const change = {
        type: "t",
        key: "a",
        operation: "upsert",
        value: JSON.stringify("x".repeat(70_000)),
      };
      await logs.append("0", { records: [], changes: [rowChange(change as Change, 0)] });
      const take = async (i: number) => {
        const id = end === "find their id in use" ? "0" : `${i + 1}`;
        const made = await logs.create(id, {
          keyed,
          fork: { source: "0" },
          account: { ...NOBODY, user: "ann" },
        });
        const kind = { succeed: "created", "find no room": "too-many" }[end] ?? "exists";
        assertEquals(made.kind, kind);
        if (kind === "too-many") await time.tickAsync(5_000);
      };
      return { take, left: () => takenOf(quotas) };
    },
  })),
  ...["end", "are aborted", "take too long"].map((end): Row => ({
    name: `writes that wait for others of the same row, and ${end}`,
    quota: "streams/state/row_queue.ts",
    bound: MAX_WAITING,
    open(room) {
      const time = room.use(new FakeTime());
      const quota = ownQuota();
      const queue = new RowQueue({ runtime, quota, timeoutMs: 1_000, contendedCode: "undecided" });
      room.defer(() => queue.close());
      const take = async () => {
        using first = await queue.enter("board", ["a", "b"]);
        const undo = new AbortController();
        const waiting = Promise.resolve(
          queue.enter("board", ["b", "c"], { signals: () => [undo.signal] }),
        );
        // A turn that ends after a while lets the first of the others pass.
        const [second, third] = [waiting, queue.enter("board", ["c"])];
        const settled = Promise.allSettled([second, third]);
        if (end === "end") first[Symbol.dispose]();
        else if (end === "are aborted") undo.abort();
        else await time.tickAsync(250);
        for (const turn of [second, third]) {
          const entered = await Promise.resolve(turn).catch(() => undefined);
          entered?.[Symbol.dispose]();
        }
        await settled;
      };
      return { take, left: () => [quota.taken, queue.size] };
    },
  })),
  ...["go out", "are rejected", "fail", "lose their session", "wait without their session"].map((
    end,
  ): Row => ({
    name: `publications that ${end}`,
    quota: "server/requests/on_publish.ts",
    bound: 2,
    open(room) {
      let release = () => {};
      const server = room.use(testServer({
        authorize: () => true,
        onError() {},
        async onPublish() {
          await new Promise<void>((resolve) => release = resolve);
          if (end === "are rejected") throw new RequestError("rejected", "No");
          if (end === "fail") throw new Error("no database");
        },
      }));
      const waiting = () => server.quotaStats["publications.waitingBytes"]!.taken;
      const take = async (i: number) => {
        const session = await server.dial();
        const isTwo = end === "wait without their session";
        const published = Array.from(
          { length: isTwo ? 2 : 1 },
          () => session.publish("news", i).catch(() => {}),
        );
        await until(() => waiting() > (isTwo ? 1_100 : 0));
        if (end.endsWith("session")) await session.close();
        release();
        await Promise.all(published);
        await session.close();
      };
      return { take, left: () => [waiting()] };
    },
  })),
  {
    name: "writes of clients that wait for a decision about the same row",
    quota: "streams/state/gate.ts",
    bound: 2,
    async open(room) {
      const states = liveState();
      let decide = () => {};
      const server = room.use(testServer({
        authorize: () => true,
        authorizeChange: () => new Promise((resolve) => decide = () => resolve(true)),
        features: [states],
      }));
      room.use(await states.open("board"));
      const rows = await Promise.all([0, 1].map(async () => {
        const state = room.use(await room.use(await server.connect()).state("board"));
        await state.ready;
        return state.collection("rows");
      }));
      const waiting = () => server.quotaStats["states.waiting"]!.taken;
      const take = async (i: number) => {
        const writes = rows.map((of) => of.set("a", i));
        await until(() => waiting() === 1);
        const settled = Promise.all(writes);
        let isOver = false;
        void settled.finally(() => isOver = true);
        await until(() => (decide(), isOver));
        await settled;
      };
      return { take, left: () => [waiting()] };
    },
  },
  ...["are made", "are rejected", "lose their session"].map((end): Row => ({
    name: `mutations that ${end}`,
    quota: "streams/state/mutations.ts",
    bound: 2,
    async open(room) {
      const { server, running, bank, settle } = await mutating(room);
      const take = async () => {
        const client = room.use(await server.connect({ contract: BANK }));
        const state = room.use(await client.state("bank"));
        const made = state.mutate.act(null).catch(() => {});
        await until(() => running() === 1);
        if (end === "lose their session") await client.close();
        settle(end === "are rejected");
        await made;
      };
      return { take, left: () => [running(), bank.collection("coins").size - 1] };
    },
  })),
  ...["are made", "are rejected"].map((end): Row => ({
    name: `mutations over HTTP that ${end}`,
    quota: "streams/http/mutations.ts",
    bound: 2,
    async open(room) {
      const { server, running, settle } = await mutating(room);
      const take = async () => {
        const url = "http://localhost/streams/bank?action=mutate&name=act";
        const headers = { "content-type": "application/json" };
        const made = server.fetch(new Request(url, { method: "POST", headers, body: "null" }));
        await until(() => running() === 1);
        settle(end === "are rejected");
        await (await made).body?.cancel();
      };
      const left = () => [server.quotaStats["durableStreams.mutations"]!.taken, running()];
      return { take, left };
    },
  })),
  ...["are deleted", "lose their session", "leave with their session"].map((end): Row => ({
    name: `ephemeral rows that ${end}`,
    quota: "streams/state/ephemeral_rows.ts",
    bound: MAX_ROWS / 2,
    open(room) {
      const time = room.use(new FakeTime());
      const quotas = new Quotas(runtime);
      const rows = ephemeralIn(room, quotas).open("board")!;
      const account = { ...NOBODY, user: "ann" };
      const of = { type: "cursors", key: "a" };
      const take = (i: number) => {
        const by = { i };
        rows.write(by, { ...of, operation: "upsert", value: "1" }, account);
        rows.write(by, { ...of, operation: "upsert", value: "2" }, account);
        if (end === "are deleted") rows.write(by, { ...of, operation: "delete" }, account);
        else rows.leave(by, end === "lose their session");
        time.tick(1);
      };
      return { take, left: () => [...takenOf(quotas), rows.collection("cursors").size] };
    },
  })),
  ...["is complete", "was just opened"].map((time): Row => ({
    name: `states that a client closes when it ${time}`,
    bound: 2,
    async open(room) {
      const states = liveState();
      const server = room.use(testServer({
        authorize: () => true,
        features: [states],
        limits: { maxTopicsPerSession: 2 },
      }));
      for (const i of [0, 1, 2]) room.use(await states.open(`${i}`));
      const client = room.use(await server.connect());
      const take = async (i: number) => {
        using state = await client.state(`${i}`);
        if (time !== "was just opened") await state.ready;
        // A topic is in force before its subscription ends.
        else await until(() => server.topics.stats.topics > 0);
        state[Symbol.dispose]();
        await until(() => server.topics.stats.topics === 0);
      };
      return { take, left: () => [server.topics.stats.topics] };
    },
  })),
  {
    name: "states that a server closes",
    bound: 2,
    open(room) {
      const { logs } = resumable(room, room.use(new MemoryBroker()));
      const tail = { records: 9, bytes: 9_999, ms: 1_000 };
      const states = new States({
        runtime,
        logs,
        tail,
        ...unwrittenIn(logs),
        updates: undefined as never,
        ephemeral: ephemeralIn(room, new Quotas(runtime)),
        maxTransactionBytes: () => 65_536,
        report() {},
      });
      room.defer(() => states.close());
      const take = async (i: number) => {
        await (await states.open(`${i}`))[Symbol.asyncDispose]();
        await until(() => logs.readers === 0);
      };
      return { take, left: () => [logs.readers, [...logs.followed()].length] };
    },
  },
  ...Object.entries(FORKS).map(([end, { id, kind, ...fork }]): Row => ({
    name: `forks of a stream that ${end}`,
    bound: 2,
    async open(room) {
      const { logs } = resumable(room, room.use(new MemoryBroker()));
      const contentType = "application/json";
      await logs.create("present", { contentType });
      await logs.create("source", { contentType, records: ["1"] });
      const take = async (i: number) => {
        const { offset, ...options } = fork as { offset?: string; contentType?: string };
        const source = { source: "source", ...(offset !== undefined && { offset }) };
        const made = await logs.create(id, { ...options, fork: source });
        assertEquals(made.kind, kind);
        if (kind === "created") await logs.delete(id);
        if (i < 2) return;
        // A source without forks is removed instead of being kept as deleted.
        await logs.delete("source");
        assertEquals((await logs.info("source")).kind, "missing");
      };
      return { take, left: () => [] };
    },
  })),
];

// Writes over HTTP.

/** Writes over HTTP, each with the status of its response. */
const WRITES: readonly (readonly [status: number, path: string, init: RequestInit])[] = [
  [204, "/streams/a", { body: "1" }],
  [404, "/streams/none", { body: "1" }],
  [409, "/streams/a", { body: "1", headers: { "content-type": "text/html" } }],
  [413, "/api/topics/a/publications", { body: "x".repeat(20_000) }],
  [200, "/api/topics/a/publications", { body: "{}" }],
  [422, "/api/topics/a/publications", { body: "[]" }],
  [400, "/api/topics/a/publications", { body: "{" }],
  [200, "/api/publications", {
    body: JSON.stringify({ publications: [{ topic: "a" }, { topic: "b" }] }),
  }],
];

const HTTP: readonly Row[] = [
  ...WRITES.map(([status, path, init]): Row => ({
    name: `writes to ${path} with the response ${status}`,
    quota: "server/http/guard.ts",
    bound: 2,
    async open(room) {
      const guarded = { maxRequests: 2, authorize: () => true };
      const server = room.use(createServer({
        features: [
          ...streamFeatures({ path: "/streams", ...guarded }),
          httpApi({ path: "/api", maxBodyBytes: 10_000, ...guarded }),
        ],
      }));
      const type = path.startsWith("/api") ? "application/json" : "text/plain";
      const ask = async (method: string, path: string, { headers, body }: RequestInit) => {
        const all = { "content-type": type, ...headers as Record<string, string> };
        const url = `http://localhost${path}`;
        const init = { method, headers: all, ...(body && { body }) };
        const response = await server.fetch(new Request(url, init));
        await response.body?.cancel();
        return response.status;
      };
      await ask("PUT", "/streams/a", { headers: { "content-type": "text/plain" } });
      const take = async () => assertEquals(await ask("POST", path, init), status);
      return { take, left: () => Object.values(server.httpStats).map(({ active }) => active) };
    },
  })),
  ...["are deleted", "cannot be created", "already exist"].map((way): Row => ({
    name: `durable streams of an address that ${way}`,
    bound: 2,
    open(room) {
      const streams = new DurableStreamsHandler({
        broker: room.use(new MemoryBroker()),
        path: "/streams",
        maxStreamsPerAddress: 2,
        clientAddress: () => ADDRESS,
        authorize: () => true,
      });
      room.use(streams);
      const ask = async (method: string, path: string, headers: Record<string, string> = {}) => {
        const request = new Request(`http://localhost/streams/${path}`, { method, headers });
        return (await streams.fetch(request)).status;
      };
      const take = async () => {
        assertEquals([201, 200].includes(await ask("PUT", "own")), true);
        if (way === "already exist") assertEquals(await ask("PUT", "own"), 200);
        const fork = { "stream-forked-from": "/streams/none" };
        if (way === "cannot be created") assertEquals(await ask("PUT", "fork", fork), 404);
        assertEquals(await ask("PUT", "another"), 201);
        assertEquals(await ask("DELETE", "another"), 204);
      };
      return { take, left: () => [] };
    },
  })),
  ...["leave", "have a wrong id", "find no broker"].map((end): Row => ({
    name: `readers of events that ${end}`,
    quota: "operations/http_api/topic_events.ts",
    bound: 2,
    open(room) {
      const broker = room.use(new FaultyStore().connect());
      const features = [httpApi({ path: "/api", maxReaders: 2, authorize: () => true })];
      const server = room.use(createServer({ broker, history: { "log:{name}": {} }, features }));
      if (end === "find no broker") broker.make("history.read", fail);
      const headers: HeadersInit = end === "have a wrong id" ? { "last-event-id": "x" } : {};
      const url = "http://localhost/api/topics/log%3Aa/publications";
      const take = async () => {
        const response = await server.fetch(new Request(url, { headers }));
        const status = { leave: 200, "have a wrong id": 400 }[end] ?? 503;
        assertEquals(response.status, status);
        await response.body?.cancel();
      };
      return { take, left: () => [server.httpStats["api"]?.readers?.["sse"] ?? 0] };
    },
  })),
  ...["is read", "is cancelled", "was sent", "could not be sent"].map((way): Row => ({
    name: `unread bytes of a body that ${way}`,
    quota: "server/http/unread.ts",
    bound: 2,
    open() {
      const quota = new Quota({
        limit: "unread",
        verb: "respond",
        what: "bytes",
        max: 2 * MIN_UNREAD_BYTES + 100_000,
        shares: {},
      });
      const take = async () => {
        const sent = Promise.withResolvers<void>();
        const info = way.includes("sent") ? { completed: sent.promise } : {};
        const unread = new UnreadResponse({ quota, accountOf: () => NOBODY, info });
        const response = unread.respond("x".repeat(100_000));
        if (way === "is cancelled") return await response.body!.cancel();
        await response.text();
        if (way === "was sent") sent.resolve();
        if (way === "could not be sent") sent.reject(new Error("The client left"));
        await until(() => !unread.isCounted);
      };
      return { take, left: () => [quota.taken] };
    },
  })),
  {
    name: "locks of idempotency keys whose request fails",
    bound: 1,
    open() {
      const store = new MemoryStore(runtime);
      const keys = new IdempotencyKeys({ runtime, store: () => store, windowMs: 60_000 });
      const request = { key: "k", caller: "", method: "POST", path: "/a", body: new Uint8Array() };
      const run = () => Promise.reject(new Problem(503, { code: "unavailable", detail: "Fails" }));
      const take = () => assertRejects(() => keys.once(request, run), Problem, "Fails");
      return { take, left: () => [] };
    },
  },
];

// Stores and nodes.

const BOUNDS: HistoryBounds = { size: 10, ttlMs: 60_000, bytes: 100_000 };

/** Calls between two nodes, keyed by the way in which they end. */
const CALLS: Readonly<Record<string, NodeCallsOptions["respond"]>> = {
  answered: (data) => data,
  failed: () => {
    throw new Error("fails");
  },
  "given up": (_data, call) => HANDLERS.waits(call),
};

const NODES: readonly Row[] = [
  ...Object.entries(CALLS).map(([end, respond]): Row => ({
    name: `calls between nodes that are ${end}`,
    quota: "pubsub/nodes/node_calls.ts",
    bound: 10_000,
    async open(room) {
      const broker = room.use(new MemoryBroker());
      const [one, other] = [room.use(new Nodes({ broker })), room.use(new Nodes({ broker }))];
      const join = (nodes: Nodes) =>
        room.use(
          new NodeCalls({
            nodes,
            name: "test",
            respond,
            onError() {},
          }),
        );
      const [near, far] = [join(one), join(other)];
      await Promise.all([near.ready, far.ready]);
      await until(() => one.has(other.id) && other.has(one.id));
      const take = async () => {
        const abort = new AbortController();
        const call = near.call(other.id, Uint8Array.of(1), {
          timeoutMs: 60_000,
          signal: abort.signal,
        });
        if (end === "given up") {
          await until(() => far.running === 1);
          abort.abort();
        }
        const got = await call.then(({ length }) => length, (error) => error.code ?? error.name);
        assertEquals(got, { answered: 1, failed: "failed" }[end] ?? abort.signal.reason.code);
      };
      return {
        take,
        left: () => [near, far].flatMap((c) => [c.waiting, c.running, c.gatheredBytes]),
      };
    },
  })),
  ...["known", "unknown", "forbidden"].map((end): Row => ({
    name: `calls about connections of other nodes that are ${end}`,
    quota: "server/http/shared_carriers.ts",
    bound: 1_024,
    async open(room) {
      const broker = room.use(new MemoryBroker());
      const [near, far] = [0, 1].map(() => {
        const nodes = room.use(new Nodes({ broker }));
        const own = room.use(new HttpConnections({ runtime, node: nodes.id, maxFrameBytes: 100 }));
        const shared = new SharedCarriers({
          nodes,
          own,
          quotas: new Quotas(runtime),
          maxBytes: 1_000,
          onError() {},
        });
        return { nodes, own, shared: room.use(shared) };
      });
      await Promise.all([near!.shared.ready, far!.shared.ready]);
      await until(() => near!.nodes.has(far!.nodes.id));
      const { session, secret } = far!.own.accept().opened;
      const take = async (i: number) => {
        const id = end === "unknown" ? `${session}${i}` : session;
        const carrier = near!.shared.find(id, end === "forbidden" ? `${i}` : secret);
        const reason = await carrier.prove().then(() => "known", (error) => error.reason);
        assertEquals(reason, end);
      };
      return { take, left: () => [near!.shared.unknown] };
    },
  })),
  {
    name: "publications that wait for a file",
    bound: 2,
    async open(room) {
      const folder = await Deno.makeTempDir();
      room.defer(() => Deno.remove(folder, { recursive: true }));
      const broker = room.use(await SqliteBroker.open(`${folder}/a.db`, { maxWaiting: 2 }));
      const take = async (i: number) => {
        const both = [
          broker.history.append({ topic: "a", payload: `${i}` }, { bounds: BOUNDS }),
          broker.history.read("a", { bounds: BOUNDS, maxMessages: 1, maxBytes: 1 }),
        ];
        await Promise.all(both);
      };
      return { take, left: () => [broker.stats.waiting] };
    },
  },
  {
    name: "bytes of waiting publications",
    bound: 2,
    open() {
      const budget = new WaitingBudget({ maxWaiting: 2, maxWaitingBytes: 20 });
      const take = () => {
        assert(budget.take(10));
        budget.give(10);
      };
      return { take, left: () => [budget.messages] };
    },
  },
  {
    name: "claims of clients that number their messages, and leave",
    bound: 3,
    open() {
      const claims = new Set<string>();
      const service = new RequestService(runtime, {
        sequences: {
          claimMs: Infinity,
          claim: (client) => Promise.resolve(claims.add(client).size <= 3),
          release: (client) => Promise.resolve(void claims.delete(client)),
          newest: () => Promise.resolve(-1),
          advance: () => Promise.resolve(true),
        },
      });
      const take = async (i: number) => {
        await using hand = serverByHand({ services: service, onMessage() {} });
        hand.peer.say({ topic: "a", seq: 0, client: `client-${i}` });
        await until(() => hand.peer.envelopes.some(({ ack }) => ack === 0));
      };
      return { take, left: () => [claims.size] };
    },
  },
  {
    name: "claims of producers, whose clients leave",
    bound: 3,
    open() {
      const claims = new Set<string>();
      const rows = new Map<string, number>();
      const service = new RequestService(runtime, {
        producers: {
          isRequired: true,
          claimMs: Infinity,
          claim: (producer) => Promise.resolve(claims.add(producer).size <= 3),
          release: (producer) => Promise.resolve(void claims.delete(producer)),
          newest: (producer) => Promise.resolve(rows.get(producer) ?? -1),
          advance: (producer, row) => Promise.resolve(rows.set(producer, row) !== undefined),
          epochOf: () => Promise.resolve(0),
          takeOver: () => Promise.resolve(),
          admit() {},
          noteBegun: () => Promise.resolve(),
          hasJustBegun: () => Promise.resolve(false),
          noteRejected: () => Promise.resolve(),
          rejectedOf: () => Promise.resolve(new Map()),
        },
      });
      const take = async (i: number) => {
        await using hand = serverByHand({ services: service, onMessage() {} });
        const producer = `${i}`.padStart(22, "p");
        hand.peer.say({ producer, id: 1, user: null, acked: 0, sent: 0, epoch: 1 });
        await until(() => hand.peer.envelopes.some(({ reply }) => reply === 1));
        hand.peer.say({ topic: "a", seq: 1 });
        await until(() => hand.peer.envelopes.some(({ ack }) => ack === 1));
      };
      return { take, left: () => [claims.size] };
    },
  },
];

// Media.

/** A relay with slots for two active broadcasts and for two that wait. */
function relayOfTwo(room: AsyncDisposableStack, options: MoqRelayOptions = {}) {
  const shared = { allowAnonymousPublish: true, maxBroadcasts: 2, maxShare: 1 };
  const relay = new MoqRelay({ ...shared, ...options });
  room.defer(() => relay.close());
  const join = async (client: TrackMux) => {
    const pair = room.use(await livePair("moq-lite-05", { server: relay.mux, client }));
    void relay.accept(pair.server);
    return pair;
  };
  return { relay, join };
}

/** A relay with slots for two tracks and two fetches, together with its publisher and a viewer. */
async function relayed(room: AsyncDisposableStack) {
  const relay = new MoqRelay({
    allowAnonymousPublish: true,
    maxTracks: 2,
    maxFetches: 2,
    maxShare: 1,
    lingerMs: 0,
  });
  const live = new LiveTrack();
  const mux = new TrackMux();
  mux.publish("/live", {
    serveTrack: (track) => live.serve(track),
    serveFetch: (r, g) => live.serveFetch(r, g),
  });
  const join = async (client: TrackMux) => {
    const options = { limits: { maxSubscriptions: 2, maxRequests: 2 } };
    const pair = room.use(await livePair("moq-lite-05", { server: relay.mux, client, options }));
    void relay.accept(pair.server);
    return pair.client;
  };
  await join(mux);
  room.defer(() => relay.close());
  await until(() => relay.mux.size === 1);
  using group = live.openGroup();
  group.writeFrame(Uint8Array.of(1));
  return { relay, live, viewer: await join(new TrackMux()) };
}

/** An in-process server that accepts two sessions. */
function twoSessions(room: AsyncDisposableStack, options: Partial<MoqServerOptions> = {}) {
  const limits = { maxSessions: 2, maxSessionsPerAddress: 2, maxPendingSetups: 2 };
  const server = room.use(new MoqServer({ mux: new TrackMux(), limits, ...options }));
  const open = async () => {
    await using pair = memoryPair({ protocol: "moq-lite-05" });
    const accepting = server.accept(pair.server);
    // A server that rejects a session closes it after it opened.
    const session = await MoqSession.open(pair.client, { side: "client" });
    const accepted = await accepting;
    session.close();
    return accepted !== undefined;
  };
  return { server, open, left: () => [server.sessions.size] };
}

const MEDIA: readonly Row[] = [
  {
    name: "sessions of a MoqServer",
    quota: "moq/server/admission.ts",
    bound: 2,
    open(room) {
      const { open, left } = twoSessions(room);
      return { take: async () => assert(await open()), left };
    },
  },
  {
    name: "sessions that onSetup of a MoqServer rejects",
    bound: 2,
    open(room) {
      let asked = 0;
      const onSetup = () => {
        asked++;
        throw new AuthenticationError("No");
      };
      const { open, left } = twoSessions(room, { onSetup });
      const take = async (i: number) => assertEquals([await open(), asked], [false, i + 1]);
      return { take, left };
    },
  },
  {
    name: "tracks of a relay, and subscriptions of a session",
    quota: "moq/live/relay_capacity.ts",
    bound: 2,
    async open(room) {
      const { relay, live, viewer } = await relayed(room);
      const take = async (i: number) => {
        const track = await viewer.subscribe("/live", `${i}`);
        await track.ready;
        track.close();
      };
      return { take, left: () => [relay.stats.tracks, live.subscribers] };
    },
  },
  {
    name: "broadcasts of a relay that end",
    quota: "moq/live/relay_capacity.ts",
    bound: 2,
    async open(room) {
      const { relay, join } = relayOfTwo(room);
      const mux = new TrackMux();
      await join(mux);
      const take = async () => {
        using _broadcast = mux.publish("/live", () => {});
        await until(() => relay.mux.size === 1);
      };
      return { take, left: () => [relay.mux.size, ...takenOf(relay.mux.quotas!)] };
    },
  },
  {
    name: "broadcasts of a relay whose session leaves",
    bound: 2,
    open(room) {
      const { relay, join } = relayOfTwo(room);
      const take = async () => {
        const mux = new TrackMux();
        mux.publish("/live", () => {});
        const { client } = await join(mux);
        await until(() => relay.mux.size === 1);
        client.close();
      };
      return { take, left: () => takenOf(relay.mux.quotas!) };
    },
  },
  {
    name: "requests of a session in the IETF's drafts",
    bound: 2,
    async open(room) {
      const limits = { maxRequests: 2 };
      const peer = room.use(await HandPeer.open("moqt-22", { limits }));
      const announced = await peer.session.acceptAnnounce("/");
      const take = async (i: number) => {
        const request = { requestId: 2 * i, path: "/a", parameters: {} } as const;
        const { draft } = VERSIONS["moqt-22"];
        const message = encodeNamespaceRequest(DraftType.publishNamespace, request, draft!);
        const exchange = await peer.ask(message.toHex());
        assertEquals(await exchange.read(), "07000100"); // REQUEST_OK.
        exchange.reset(1);
        await until(() => announced.active.length === 0);
      };
      return { take, left: () => [announced.active.length] };
    },
  },
  ...["end", "belong to a session that leaves", "are relayed"].map((way): Row => ({
    name: `broadcasts that wait for a slot of a relay, and ${way}`,
    bound: 2,
    open(room) {
      const { relay, join } = relayOfTwo(room);
      const take = async () => {
        const [full, late] = [new TrackMux(), new TrackMux()];
        for (const path of ["/one", "/two"]) full.publish(path, () => {});
        const first = await join(full);
        await until(() => relay.mux.size === 2);
        const broadcasts = ["/three", "/four"].map((path) => late.publish(path, () => {}));
        const second = await join(late);
        await until(() => relay.stats.waiting === 2);
        if (way === "end") { for (const { end } of broadcasts) end(); }
        else if (way === "are relayed") first.client.close();
        else second.client.close();
        await until(() => relay.stats.waiting === 0);
        for (const { client } of [first, second]) client.close();
      };
      return { take, left: () => takenOf(relay.mux.quotas!) };
    },
  })),
  ...[1, 9].map((group): Row => ({
    name: `fetches of a relay, of a group that ${group === 1 ? "exists" : "does not exist"}`,
    bound: 2,
    async open(room) {
      const { relay, viewer } = await relayed(room);
      const take = async () => {
        const fetched = await viewer.fetch("/live", "x", { group });
        const frame = await fetched.readFrame().catch((error) => error.reason);
        assertEquals(frame, group === 1 ? Uint8Array.of(1) : "notFound");
        await turns();
      };
      return { take, left: () => [relay.mux.quotas!.stats["moq.maxFetches"]!.taken] };
    },
  })),
  {
    name: "requests for the properties of a track, whose clients leave",
    bound: 2,
    async open(room) {
      const { relay, join } = relayOfTwo(room, { maxFetches: 2 });
      let asked = 0;
      const mux = new TrackMux();
      mux.publish("/live", {
        serveTrack() {},
        trackInfo() {
          asked++;
          return new Promise(() => {});
        },
      });
      await join(mux);
      await until(() => relay.mux.size === 1);
      const take = async (i: number) => {
        const { client } = await join(new TrackMux());
        const asking = client.trackInfo("/live", `${i}`).catch(() => {});
        await until(() => asked === i + 1);
        client.close();
        await asking;
        await until(() => relay.mux.quotas!.stats["moq.maxFetches"]!.taken === 0);
      };
      return { take, left: () => [relay.mux.quotas!.stats["moq.maxFetches"]!.taken] };
    },
  },
  {
    name: "memory of fetched groups, whose clients leave them unread",
    bound: 2,
    async open(room) {
      const { relay, join } = relayOfTwo(room, { maxFetchBytes: 131_072 });
      const mux = new TrackMux();
      mux.publish("/live", {
        serveTrack() {},
        serveFetch: (_, group) => group.writeFrame(new Uint8Array(500_000)),
      });
      await join(mux);
      await until(() => relay.mux.size === 1);
      const taken = () => relay.mux.quotas!.stats["moq.maxFetchBytes"]!.taken;
      const take = async () => {
        const { client } = await join(new TrackMux());
        await client.fetch("/live", "x", { group: 1 });
        await until(() => taken() === 131_072);
        client.close();
      };
      return { take, left: () => [taken()] };
    },
  },
];

const ROWS: readonly Row[] = [
  ...SESSIONS,
  ...CONNECTIONS,
  ...TOPICS,
  OUTBOX,
  ...REQUESTS,
  ...ANSWERS,
  ...HTTP,
  ...NODES,
  ...MEDIA,
];

/** Matches a line that creates a quota, outside of comments. */
const MAKES_QUOTA = /^(?! \*).*(?:new Quota\(|quotas\.open\(|quotaIn\()/m;

for (const { name, bound, open } of ROWS) {
  Deno.test(`Released: ${name}, ${bound + 1} in a row with a limit of ${bound}`, async () => {
    await using room = new AsyncDisposableStack();
    const { take, left } = await open(room);
    for (let i = 0; i <= bound; i++) {
      await take(i);
      await until(() => left().every((count) => count === 0)).catch(() => {
        throw new Error(`not released: ${left()} after ${i + 1}`);
      });
    }
  });
}

Deno.test("Released: each Quota has a row", async () => {
  const { files } = await readRepository(new URL("../", import.meta.url));
  const quotas = [...files].filter(([path, code]) =>
    path !== "base/quotas/shares.ts" && isLibrary(path) && MAKES_QUOTA.test(code)
  );
  const held = new Set(ROWS.flatMap(({ quota }) => quota ?? []));
  assertEquals([...held].sort(), quotas.map(([path]) => path).sort());
});
