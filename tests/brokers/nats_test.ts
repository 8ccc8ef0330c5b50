/**
 * Tests the NATS broker on one server: the suite for every broker, and tests specific to NATS.
 */
import {
  assert,
  assertAlmostEquals,
  assertEquals,
  assertMatch,
  assertNotEquals,
  assertRejects,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import {
  type JetStreamManager,
  jetstreamManager,
  type StoredMsg,
  type StreamInfo,
} from "@nats-io/jetstream";
import type { ConnectionOptions, MsgHdrs, NatsConnection, Subscription } from "@nats-io/nats-core";
import { stub } from "@std/testing/mock";
import { textOf } from "../../base/error_text.ts";
import { platformRuntime } from "../../base/runtime.ts";
import { dial } from "../../client.ts";
import { BrokerError, SessionClosedError } from "../../errors.ts";
import type { Appended, Broker, Publication, TopicHistory } from "../../pubsub/broker.ts";
import { testBroker } from "../../pubsub/conformance/suite.ts";
import { testBrokerLogs } from "../../streams/conformance/suite.ts";
import type { HistoryPosition } from "../../session/wire/recovery.ts";
import { NatsBroker, type NatsBrokerOptions } from "../../brokers/nats/mod.ts";
import { connectNats } from "../../brokers/nats/transport.ts";
import type { SessionRejection } from "../../server.ts";
import { testServer } from "../../testing/mod.ts";
import { listen } from "../servers.ts";
import {
  answered,
  append,
  BOUNDS,
  clockOff,
  Hearing,
  noTimers,
  recover,
  statusIs,
  untagged,
} from "./receiving.ts";
import { isNatsMissing, NatsServer, type NatsServerOptions } from "./nats_server.ts";
import { until } from "../waiting.ts";

/** The longest expiry window, in milliseconds. */
const WEEK_MS = 604_800_000;

const ignore = isNatsMissing;

/** The options with which Skein's feeds read a page. */
const PAGE = { bounds: BOUNDS, maxMessages: 128, maxBytes: 524_288 };

let shared: NatsServer;

Deno.test.beforeAll(async () => {
  if (!ignore) shared = await NatsServer.start();
});

Deno.test.afterAll(async () => await shared?.[Symbol.asyncDispose]());

for (const suite of [testBroker, testBrokerLogs]) {
  suite("NatsBroker", () => new NatsBroker({ servers: shared.servers }), {
    makePair: () => [
      new NatsBroker({ servers: shared.servers }),
      // Leases and expiry follow the store's clock, whatever a node's clock says.
      new NatsBroker({ servers: shared.servers }, { runtime: clockOff(20_000) }),
    ],
    ignore,
  });
}

/** Registers a test that has its own server. */
function test(
  name: string,
  fn: (server: NatsServer) => Promise<void>,
  options: NatsServerOptions = {},
): void {
  Deno.test({
    name: `NatsBroker ${name}`,
    ignore,
    async fn() {
      await using server = await NatsServer.start(options);
      await fn(server);
    },
  });
}

/** Reads the whole history of a topic, page by page. */
async function readAll(
  broker: Broker,
  topic: string,
  from?: number,
  bounds: TopicHistory = BOUNDS,
): Promise<Publication[]> {
  const all: Publication[] = [];
  while (true) {
    const after = all.at(-1)?.position?.offset ?? from;
    const { publications, head } = await broker.history!.read(topic, {
      ...PAGE,
      bounds,
      ...(after !== undefined && { after }),
    });
    for (const publication of publications) {
      const before = all.at(-1)?.position;
      if (before !== undefined) assertEquals(publication.position!.prev, before.offset);
      all.push(publication);
    }
    if (publications.length === 0 || publications.at(-1)!.position!.offset === head) return all;
  }
}

/** Uses JetStream directly, like an operator. */
async function operate(
  { servers }: NatsServer,
  act: (manager: JetStreamManager) => Promise<unknown>,
): Promise<void> {
  const connection = await connectNats({ servers });
  await act(await jetstreamManager(connection));
  await connection.close();
}

test("leaves a given connection unchanged", async ({ servers }) => {
  const connection = await connectNats({ servers });
  const broker = new NatsBroker({ connection });
  await using hearing = new Hearing(broker, "news");
  await hearing.ready;
  broker.publish({ topic: "news", payload: "1" });
  await hearing.count(1);
  await append(broker, "kept", 3);
  await broker.close();
  assert(!connection.isClosed());
  await connection.flush();
  await connection.close();
});

test("opens and closes its connection with the given function", async ({ servers }) => {
  const opened: NatsConnection[] = [];
  let attempts = 0;
  const broker = new NatsBroker({
    servers,
    name: "a node",
    async connect(options) {
      if (++attempts === 1) throw new Error("not yet");
      const connection = await connectNats(options as ConnectionOptions);
      opened.push(connection);
      return connection;
    },
  });
  await using hearing = new Hearing(broker, "news");
  await hearing.ready;
  broker.publish({ topic: "news", payload: "1" });
  await hearing.count(1);
  assertEquals([attempts, opened.length], [2, 1]);
  await broker.close();
  assert(opened[0]!.isClosed());
});

test("reads again if the server loses the first direct reads", async ({ servers }) => {
  let lost = 0;
  await using broker = new NatsBroker({
    servers,
    async connect(options) {
      const connection = await connectNats(options as ConnectionOptions);
      const request = connection.request.bind(connection);
      const seen = new Set<string>();
      connection.request = (subject, ...rest) => {
        const isLost = subject.includes(".DIRECT.GET.") && !seen.has(subject);
        seen.add(subject);
        return isLost ? (lost++, new Promise(() => {})) : request(subject, ...rest);
      };
      return connection;
    },
  });
  assertEquals(await broker.store!.newest("a", 1_000), -1);
  assertEquals(lost, 1);
  const { logs } = broker;
  await logs!.create("log", {
    identity: "abcdefgh",
    config: { contentType: "application/json" },
    records: ["1"],
    maxLogs: 10,
  });
  const page = await logs!.read("log", { after: 0, maxRecords: 1, maxBytes: 1, renews: false });
  assert(typeof page === "object");
  assertEquals(page.records, ["1"]);
  assert(lost > 1);
  await append(broker, "news", 1);
  const { publications } = await broker.history!.read("news", PAGE);
  assertEquals(publications.length, 1);
});

test("reports that a given connection has closed", async ({ servers }) => {
  const connection = await connectNats({ servers });
  await using broker = new NatsBroker({ connection });
  await statusIs(broker, "connected");
  await connection.close();
  await statusIs(broker, "interrupted");
  assertMatch(broker.issues().join(), /NATS has been unreachable/);
  await assertRejects(() => broker.history.read("news", PAGE), BrokerError);
  await assertRejects(() => broker.store.newest("row", 60_000), BrokerError);
  broker.publish({ topic: "news", payload: "waits" });
  assertEquals(broker.stats.waiting, 1);
});

test("ignores brokers with another prefix", async ({ servers }) => {
  await using one = new NatsBroker({ servers }, { prefix: "one" });
  await using other = new NatsBroker({ servers }, { prefix: "other" });
  await using heard = new Hearing(one, "news");
  await using elsewhere = new Hearing(other, "news");
  await Promise.all([heard.ready, elsewhere.ready]);
  one.publish({ topic: "news", payload: "one" });
  other.publish({ topic: "news", payload: "other" });
  await Promise.all([heard.count(1), elsewhere.count(1)]);
  assertEquals([heard.payloads, elsewhere.payloads], [["one"], ["other"]]);
  await append(one, "news", 3);
  assertEquals((await other.history.read("news", PAGE)).head, 0);
  assertEquals(await one.store.advance("row", 1, 60_000), true);
  assertEquals(await other.store.newest("row", 60_000), -1);
});

test("keeps its connection if a client's user is longer than a subject", async ({ servers }) => {
  await using broker = new NatsBroker({ servers });
  const told: SessionRejection[] = [];
  await using server = listen({
    broker,
    authenticate: ({ token = "" }) => token,
    onSessionRejected: (one) => void told.push(one),
  });
  await using hearing = new Hearing(broker, "news");
  await hearing.ready;
  const attack = `${server.url}?token=${encodeURIComponent("ü".repeat(1_000))}`;
  for (let i = 0; i < 20; i++) {
    const { info } = await assertRejects(() => dial(attack), SessionClosedError);
    assertEquals(info?.code, 4403);
    broker.publish({ topic: "news", payload: `${i}` });
  }
  await hearing.count(20);
  assertEquals(told.map(({ status }) => status), Array(20).fill(403));
  assertEquals([broker.status.current.name, broker.stats.interruptions], ["connected", 0]);
  assertEquals(server.to("ü".repeat(1_000)).send("news"), 0);
});

test("accepts names up to its bound with the longest prefix, and rejects longer ones", async ({ servers }) => {
  await using broker = new NatsBroker({ servers }, { prefix: "p".repeat(32) });
  const longest = "x".repeat(2_048);
  const bounds = { size: 1_000_000_000, ttlMs: 1_000_000_000, bytes: 1_000_000_000 };
  await using heard = new Hearing(broker, longest);
  await heard.ready;
  broker.publish({ topic: longest, payload: "1" });
  await heard.count(1);
  await broker.history.append({ topic: longest, payload: "1" }, { bounds });
  assertEquals((await broker.history.read(longest, { ...PAGE, bounds })).publications.length, 1);
  assertEquals(await broker.store.advance(longest, 1, 60_000), true);
  assertEquals(await broker.store.claim(longest, "a", { max: 1, ttlMs: 60_000 }), true);
  assertEquals(await broker.store.claims(longest), ["a"]);
  await broker.store.release(longest, "a");
  for (const topic of [`${longest}x`, "ü".repeat(342), "\ud800".repeat(342)]) {
    assertThrows(() => broker.publish({ topic, payload: "1" }), RangeError, "2048 characters");
    assertThrows(() => broker.subscribe(topic, () => {}), RangeError, "2048 characters");
    await assertRejects(() => broker.store.newest(topic, 60_000), RangeError, "2048 characters");
  }
  assertEquals([broker.status.current.name, broker.stats.interruptions], ["connected", 0]);
});

Deno.test("NatsBroker() rejects unknown and misplaced options", () => {
  const servers = "127.0.0.1:1";
  const cases: [source: object, options: object, text: string][] = [
    [{ servers }, { maxWaitng: 1 }, 'unknown option "maxWaitng"; did you mean "maxWaiting"?'],
    [{ servers, prefix: "a" }, {}, "prefix belongs into the second argument"],
    [{ server: servers }, {}, "either servers or a connection is needed, received server"],
    [{}, {}, "either servers or a connection is needed, received {}"],
    [{ servers: "" }, {}, 'servers must be one or more addresses, received ""'],
    [{ servers: [] }, {}, "servers must be one or more addresses, received []"],
    [{ servers: [servers, " "] }, {}, 'servers must be one or more addresses, received ["'],
    [{ servers: null }, {}, "servers must be one or more addresses, received null"],
    [{ servers: ["wss://nats:443"] }, {}, "needs the option connect, received wss://nats:443"],
    [{ servers, tls: { certFile: "a.pem" } }, {}, "received tls.cert without tls.key"],
    [{ servers, tls: { key: "a" } }, {}, "received tls.key without tls.cert"],
    [{ servers, tls: { cert: "a", key: "b" } }, {}, "tls.cert needs tls.handshakeFirst"],
    [{ servers, tls: { rejectUnauthorized: false } }, {}, "certificates are always checked"],
  ];
  for (const [source, options, text] of cases) {
    assertThrows(() => new NatsBroker(source as { servers: string }, options), TypeError, text);
  }
});

test("sends publications made right before its close", async ({ servers }) => {
  await using far = new NatsBroker({ servers });
  await using hearing = new Hearing(far, "news");
  await using kept = new Hearing(far, "kept", BOUNDS);
  await Promise.all([hearing.ready, kept.ready]);
  const near = new NatsBroker({ servers });
  await statusIs(near, "connected");
  near.publish({ topic: "news", payload: "farewell" });
  const appending = append(near, "kept", 100);
  await near.close();
  assertEquals((await appending).length, 100);
  await hearing.count(1);
  await kept.count(100);
});

test("waits for a server that has not started yet", async (server) => {
  await server.kill();
  await using broker = new NatsBroker({ servers: server.servers });
  await using hearing = new Hearing(broker, "news");
  await using kept = new Hearing(broker, "kept", BOUNDS);
  broker.publish({ topic: "news", payload: "lost, since nobody is subscribed yet" });
  const appending = append(broker, "kept", 3);
  assertEquals(broker.status.current.name, "connecting");
  await until(() => broker.issues().length > 0);
  assertMatch(broker.issues().join(), /NATS has not been reached since the start/);
  await server.restart();
  await Promise.all([hearing.ready, kept.ready]);
  assertEquals((await appending).map(({ position }) => position !== undefined), [true, true, true]);
  broker.publish({ topic: "news", payload: "1" });
  await hearing.until(() => hearing.payloads.at(-1) === "1");
  assertEquals(broker.stats.interruptions, 0);
});

test("remembers the keys of kept publications after the server was killed", async (server) => {
  await using broker = new NatsBroker({ servers: server.servers }, { survivesRestart: true });
  const keys = ["order-1", "order-2", { producer: "p", number: 1 }];
  const appendAll = async () =>
    await Promise.all(
      keys.map((key) =>
        broker.history.append({ topic: "kept", payload: "x" }, { bounds: BOUNDS, key })
      ),
    );
  assertEquals((await appendAll()).filter(({ position }) => position === undefined), []);
  await server.kill();
  await server.restart();
  await statusIs(broker, "connected");
  assertEquals(await appendAll(), [{}, {}, {}]);
  assertEquals((await readAll(broker, "kept")).length, 3);
});

test("continues in order, without duplicates and with a report, after the server was killed", async (server) => {
  const { servers } = server;
  await using near = new NatsBroker({ servers });
  await using far = new NatsBroker({ servers });
  await using hearing = new Hearing(far, "news");
  await hearing.ready;
  await statusIs(near, "connected");
  let number = 0;
  const publish = () => near.publish({ topic: "news", payload: `${number++}` });
  const timer = setInterval(publish, 1);
  await hearing.count(50);
  await server.kill();
  await statusIs(near, "interrupted");
  await until(() => near.stats.waiting > 20);
  await server.restart();
  await hearing.interrupted(1);
  const newest = number;
  await hearing.until(() => Number(hearing.payloads.at(-1)) > newest + 50);
  clearInterval(timer);
  const numbers = hearing.payloads.map(Number);
  assertEquals(numbers, [...new Set(numbers)].sort((a, b) => a - b));
  await statusIs(near, "connected");
  await until(() => near.stats.waiting === 0);
  assertEquals({
    interruptions: near.stats.interruptions,
    dropped: near.stats.dropped,
    waiting: near.stats.waiting,
  }, { interruptions: 1, dropped: 0, waiting: 0 });
  assertEquals(near.issues(), []);
});

test("appends each publication once, in order, while the server is killed repeatedly", async (server) => {
  const { servers } = server;
  await using near = new NatsBroker({ servers }, { survivesRestart: true });
  await using far = new NatsBroker({ servers }, { survivesRestart: true });
  await using hearing = new Hearing(far, "kept", BOUNDS);
  await hearing.ready;
  const appending: Promise<Appended>[] = [];
  const timer = setInterval(() => {
    // The queue stays within its bounds, however long the new process takes to start.
    if (near.stats.waiting > 10_000) return;
    const payload = `${appending.length}`;
    for (let i = 0; i < 20; i++) {
      const topic = i === 0 ? "kept" : `other ${i}`;
      const appended = near.history.append({ topic, payload }, { bounds: BOUNDS });
      if (i === 0) appending.push(appended);
      else appended.catch(() => {});
    }
  }, 1);
  for (let round = 1; round <= 3; round++) {
    await until(() => appending.length > round * 100);
    await server.kill();
    await until(() => near.stats.waiting > 500);
    await server.restart();
    for (const broker of [near, far]) await statusIs(broker, "connected");
  }
  clearInterval(timer);
  const appended = await Promise.all(appending);
  const kept = await readAll(near, "kept");
  assertEquals(kept.map(({ payload }) => payload), appending.map((_, i) => `${i}`));
  assertEquals(
    appended.map(({ position }) => position?.offset),
    kept.map(({ position }) => position!.offset),
  );
  assertEquals(new Set(kept.map(({ position }) => position!.epoch)).size, 1);
  assertEquals(near.stats.dropped, 0);
  const heard = hearing.payloads.map(Number);
  assertEquals(heard, [...new Set(heard)].sort((a, b) => a - b));
  for (let round = 1; round <= 5; round++) {
    const topic = `other ${round}`;
    assertEquals(
      (await readAll(far, topic)).map(({ payload }) => payload),
      kept.map(({ payload }) => payload),
    );
  }
});

test("starts a new epoch, the same on all nodes, when the server restarts", async (server) => {
  const { servers } = server;
  await using near = new NatsBroker({ servers });
  await using far = new NatsBroker({ servers });
  await using hearings = new AsyncDisposableStack();
  const [one, two] = [near, far].map((broker) =>
    hearings.use(new Hearing(broker, "kept", BOUNDS))
  ) as [Hearing, Hearing];
  await Promise.all([one.ready, two.ready]);
  await append(near, "kept", 10);
  await Promise.all([one.count(10), two.count(10)]);
  const before = await near.history.read("kept", PAGE);
  await server.kill();
  const waiting = append(near, "kept", 5);
  await statusIs(near, "interrupted");
  await server.restart();
  await Promise.all([one.interrupted(1), two.interrupted(1)]);
  const positions = (await waiting).map(({ position }) => position!);
  const after = await far.history.read("kept", PAGE);
  assertNotEquals(after.epoch, before.epoch);
  assertEquals((await near.history.read("kept", PAGE)).epoch, after.epoch);
  assertEquals(new Set(positions.map(({ epoch }) => epoch)), new Set([after.epoch]));
  // Publications made before the restart do not count as part of this epoch.
  assertEquals(after.publications.map(({ payload }) => payload), ["0", "1", "2", "3", "4"]);
  assertEquals(after.publications[0]!.position!.prev, 0);
  await append(far, "kept", 1);
  await Promise.all([one, two].map((hearing) => hearing.until(() => hearing.epochs.length === 2)));
  assertEquals([one.epochs, two.epochs], [one.epochs, one.epochs]);
  assertEquals(one.epochs, [before.epoch, after.epoch]);
});

test("starts a new epoch when the server lost its data, even if its operator promised to keep it", async (server) => {
  for (
    const options of [{ storage: "memory" }, { storage: "file", survivesRestart: true }] as const
  ) {
    const { servers } = server;
    await using broker = new NatsBroker({ servers }, { ...options, prefix: options.storage });
    await append(broker, "kept", 10);
    const before = await broker.history.read("kept", PAGE);
    await server.kill();
    await server.forget();
    await server.restart();
    await until(() => broker.stats.interruptions > 0 && broker.status.current.name === "connected");
    const after = await answered(() => broker.history.read("kept", PAGE));
    assertNotEquals(after.epoch, before.epoch);
    assertEquals([after.head, after.publications.length], [0, 0]);
  }
});

test("starts a new epoch when a stream is behind the delivered publications", async (server) => {
  await using broker = new NatsBroker({ servers: server.servers }, { survivesRestart: true });
  await append(broker, "kept", 5);
  await server.kill();
  await server.backUp();
  await server.restart();
  await append(broker, "kept", 5);
  const before = await broker.history.read("kept", PAGE);
  assertEquals(before.publications.length, 10);
  const { interruptions } = broker.stats;
  await server.kill();
  await server.restore();
  await server.restart();
  await until(() =>
    broker.stats.interruptions > interruptions && broker.status.current.name === "connected"
  );
  const after = await answered(() => broker.history.read("kept", PAGE));
  assertNotEquals(after.epoch, before.epoch);
  assertEquals(after.publications, []);
});

test("starts a new epoch when an operator deletes the stream", async (server) => {
  const { servers } = server;
  await using near = new NatsBroker({ servers });
  await using far = new NatsBroker({ servers });
  await using hearing = new Hearing(far, "kept", BOUNDS);
  await hearing.ready;
  await append(near, "kept", 10);
  await hearing.count(10);
  await operate(server, async ({ streams }) => {
    for await (const { config } of streams.list()) await streams.delete(config.name);
  });
  const [appended] = await append(near, "kept", 1);
  await hearing.interrupted(1);
  const page = await far.history.read("kept", PAGE);
  assertNotEquals(page.epoch, hearing.publications[0]!.position!.epoch);
  const [position, ...rest] = page.publications.map(({ position }) => position!);
  assertEquals([untagged({ position: position! }), rest], [appended, []]);
  assertEquals(position!.prev, 0);
});

test("never reports recovery of a client whose publication was rewritten", async (server) => {
  const { servers } = server;
  const payloadOf = () => '{"topic":"kept","data":"the same"}';
  const positions: HistoryPosition[] = [];
  const bounds = { ...BOUNDS, pattern: "kept" };
  {
    await using broker = new NatsBroker({ servers });
    await append(broker, "kept", 10, { payloadOf, bounds });
    const all = await readAll(broker, "kept", undefined, bounds);
    for (const { position } of all) positions.push(position!);
  }
  for (const [i, since] of positions.entries()) {
    await operate(server, (manager) => rewrite(manager, since.offset));
    await using node = new NatsBroker({ servers });
    const { recovered, reason } = await recover(node, "kept", since);
    assertEquals([recovered, reason], [false, "new-epoch"], `publication ${i}`);
    const { tag: _tag, ...untagged } = since;
    assertEquals((await recover(node, "kept", untagged)).recovered, true);
    const kept = (await readAll(node, "kept", undefined, bounds))[i]!;
    assertEquals([kept.payload, kept.position!.epoch], [payloadOf(), since.epoch]);
    assertEquals((await recover(node, "kept", kept.position!)).recovered, true);
  }
});

/** Recreates the only stream with the same messages, one of them under another id. */
async function rewrite(manager: JetStreamManager, seq: number): Promise<void> {
  const { streams } = manager;
  const [stream] = await Array.fromAsync(streams.list());
  const { config, state } = stream as StreamInfo;
  const messages: StoredMsg[] = [];
  for (let at = state.first_seq; at <= state.last_seq; at++) {
    messages.push((await streams.getMessage(config.name, { seq: at }))!);
  }
  await streams.delete(config.name);
  await streams.add(config);
  for (const { seq: at, subject, data, header } of messages) {
    const id = header?.get("Nats-Msg-Id") ?? "";
    const msgID = at === seq ? `other:${id}` : id;
    const options = msgID === "" ? {} : { msgID };
    const { seq: now } = await manager.jetstream().publish(subject, data, options);
    assertEquals(now, at);
  }
}

test("drops a publication that waits too long, and reports the failure", async (server) => {
  await using broker = new NatsBroker({ servers: server.servers }, { giveUpMs: 300 });
  await statusIs(broker, "connected");
  await server.kill();
  await statusIs(broker, "interrupted");
  for (let i = 0; i < 10; i++) broker.publish({ topic: "news", payload: `${i}` });
  const error = await assertRejects(() => append(broker, "kept", 1), BrokerError);
  assertMatch(error.message, /did not acknowledge the publication within 300 ms/);
  await until(() => broker.stats.waiting === 0);
  assertEquals(broker.stats.dropped, 11);
  await server.restart();
  await statusIs(broker, "connected");
  // The server may take longer to create the stream.
  assertEquals((await answered(() => append(broker, "kept", 1))).length, 1);
});

test("queues no more publications than its bound", async (server) => {
  await using broker = new NatsBroker({ servers: server.servers }, {
    maxWaiting: 10,
    maxWaitingBytes: 1_000,
  });
  await statusIs(broker, "connected");
  await server.kill();
  await statusIs(broker, "interrupted");
  for (let i = 0; i < 9; i++) broker.publish({ topic: "news", payload: `${i}` });
  broker.publish({ topic: "news", payload: "x".repeat(1_000) });
  assertEquals([broker.stats.waiting, broker.stats.dropped], [9, 1]);
  const kept = append(broker, "kept", 1);
  await assertRejects(() => append(broker, "kept", 1), BrokerError, "too many publications wait");
  broker.publish({ topic: "news", payload: "one too many" });
  assertEquals([broker.stats.waiting, broker.stats.dropped], [10, 3]);
  assertMatch(broker.issues().join(), /10 publications wait for NATS, of 10 at most/);
  await server.restart();
  await kept;
  await until(() => broker.stats.waiting === 0);
});

test("rejects waiting publications when it is closed", async (server) => {
  const broker = new NatsBroker({ servers: server.servers });
  await statusIs(broker, "connected");
  await server.kill();
  await statusIs(broker, "interrupted");
  const appending = append(broker, "kept", 1);
  broker.publish({ topic: "news", payload: "1" });
  const rejected = assertRejects(() => appending, BrokerError, "the broker is closed");
  await broker.close();
  await rejected;
  assertEquals([broker.stats.waiting, broker.stats.dropped], [0, 2]);
});

test("detects a frozen server", async (server) => {
  const { servers } = server;
  await using broker = new NatsBroker({ servers, pingInterval: 100 });
  await using hearing = new Hearing(broker, "news");
  await hearing.ready;
  server.freeze();
  await statusIs(broker, "interrupted");
  server.thaw();
  await hearing.interrupted(1);
  // With such an interval, a busy server soon counts as frozen again.
  await until(() => {
    broker.publish({ topic: "news", payload: "1" });
    return hearing.publications.length > 0;
  });
});

test("says that a frozen server does not respond", async (server) => {
  await using broker = new NatsBroker({ servers: server.servers });
  assertEquals(await broker.store.claims("user"), []);
  server.freeze();
  // A busy machine freezes the server a moment later.
  const text = await until(() => broker.store.claims("user").then(() => "", textOf));
  assertEquals(text, "Cannot list claims: JetStream does not respond");
  server.thaw();
  assertEquals(await broker.store.claims("user"), []);
});

test("queues publications for a slow server, up to a bound", async (server) => {
  const { servers } = server;
  await using broker = new NatsBroker({ servers }, { maxWaiting: 100 });
  await using hearing = new Hearing(broker, "news");
  await hearing.ready;
  server.freeze();
  const payload = new Uint8Array(262_144);
  for (let i = 0; i < 200; i++) broker.publish({ topic: "news", payload });
  const { waiting, dropped } = broker.stats;
  assertEquals(waiting, 100);
  assert(dropped > 50, `${dropped} were dropped`);
  server.thaw();
  await hearing.count(200 - dropped);
  await until(() => broker.stats.waiting === 0);
});

test(
  "provides every feature that works without JetStream, and names the others",
  async ({ servers }) => {
    await using broker = new NatsBroker({ servers });
    await using hearing = new Hearing(broker, "news");
    await hearing.ready;
    await until(() => /The server has no JetStream/.test(broker.issues().join()));
    broker.publish({ topic: "news", payload: "1" });
    await hearing.count(1);
    await assertRejects(() => append(broker, "kept", 1), BrokerError, "jetstream is not enabled");
    await assertRejects(() => broker.store.newest("row", 60_000), BrokerError);
  },
  { jetstream: false },
);

test("leaves a stream that it only follows, and doesn't create it again", async (server) => {
  const { servers } = server;
  const bounds = { ...BOUNDS, pattern: "chat:{room}" };
  await using node = new NatsBroker({ servers });
  await using hearing = new Hearing(node, "chat:lobby", bounds);
  await hearing.ready;
  await hearing[Symbol.asyncDispose]();
  const streams = async () => {
    const names: string[] = [];
    await operate(server, async ({ streams }) => {
      for await (const { config } of streams.list()) names.push(config.name);
    });
    return names.filter((name) => name.includes("chat"));
  };
  for (const name of await streams()) {
    await operate(server, async ({ streams }) => void await streams.delete(name));
  }
  await server.kill();
  await statusIs(node, "interrupted");
  await server.restart();
  await statusIs(node, "connected");
  await append(node, "kept", 1);
  assertEquals(await streams(), []);
});

/** A read of a log from its start. */
const FIRST = { after: 0, maxRecords: 1, maxBytes: 1_000, renews: false };

test("rejects the use of a stream with another storage, and names the remedy", async ({ servers }) => {
  await using one = new NatsBroker({ servers });
  await using other = new NatsBroker({ servers }, { storage: "memory" });
  await append(one, "kept", 1);
  await one.logs.read("log", FIRST);
  const remedy = 'set the option to "file", or stop all nodes and delete the stream';
  for (
    const call of [
      () => append(other, "kept", 1),
      () => other.history.read("kept", PAGE),
      () => other.logs.read("log", FIRST),
    ]
  ) await assertRejects(call, BrokerError, remedy);
  assertStringIncludes(other.issues().join(), remedy);
  assertEquals((await append(one, "kept", 1)).length, 1);
});

test("keeps the histories of a pattern in one stream, within the widest limits of all nodes", async (server) => {
  const { servers } = server;
  await using old = new NatsBroker({ servers });
  await using next = new NatsBroker({ servers }, { rememberMs: 7_200_000 });
  const narrow = { size: 10, ttlMs: 600_000, bytes: 1_000_000, pattern: "chat:{room}" };
  const wide = { ...narrow, size: 20, pattern: "chat:{name}" };
  const topic = "chat:lobby";
  await using hearing = new Hearing(old, topic, narrow);
  await hearing.ready;
  await append(old, topic, 10, { bounds: narrow });
  await append(next, topic, 10, { bounds: wide });
  await append(old, topic, 5, { bounds: narrow });
  await hearing.count(25);
  const read = async (broker: Broker, bounds: TopicHistory, from?: number) =>
    (await readAll(broker, topic, from, bounds)).length;
  assertEquals([await read(old, narrow), await read(next, wide)], [10, 20]);
  const first = hearing.publications[5]!.position!.offset;
  assertEquals([await read(old, narrow, first), await read(next, wide, first)], [10, 19]);
  const limits = async () => {
    let found: unknown;
    await operate(server, async ({ streams }) => {
      for await (const { config } of streams.list()) {
        const { name, max_age, max_msgs_per_subject } = config;
        if (name.startsWith("skein_chat-_")) found = [max_age / 1e6, max_msgs_per_subject];
      }
    });
    return found;
  };
  assertEquals(await limits(), [7_200_000, 21]);
  // All nodes agree on the narrow bounds.
  assertEquals(await read(old, { ...narrow, isAgreed: true }), 10);
  await until(async () => `${await limits()}` === "3600000,11");
  // A node with wide bounds comes back.
  await append(next, topic, 10, { bounds: { ...wide, isAgreed: true } });
  await until(async () => `${await limits()}` === "7200000,21");
  await append(next, topic, 10, { bounds: wide });
  assertEquals([await read(old, narrow), await read(next, wide)], [10, 20]);
});

test("drops publications larger than the server's limit, and reports each", async ({ servers }) => {
  await using broker = new NatsBroker({ servers });
  await statusIs(broker, "connected");
  assertMatch(broker.issues().join(), /The server accepts at most 10000 bytes per message/);
  broker.publish({ topic: "news", payload: "x".repeat(10_000) });
  await until(() => broker.stats.dropped === 1);
  assertMatch(broker.issues().join(), /NATS rejected a publication/);
  const large = { topic: "kept", payload: "x".repeat(10_000) };
  await append(broker, "kept", 1);
  const appending = () => broker.history.append(large, { bounds: BOUNDS });
  await assertRejects(appending, BrokerError, "max_payload size exceeded");
  assertEquals((await append(broker, "kept", 1)).length, 1);
}, { settings: "max_payload: 10000" });

test("creates a deleted bucket again for the next call of the store", async (server) => {
  await using broker = new NatsBroker({ servers: server.servers });
  const { store } = broker;
  const claim = (member: string) => store.claim("user", member, { max: 1, ttlMs: 60_000 });
  const forget = () =>
    operate(server, async ({ streams }) => {
      const names = await Array.fromAsync(streams.list(), ({ config }) => config.name);
      for (const name of names) if (name.startsWith("KV_")) await streams.delete(name);
    });
  assertEquals([await claim("one"), await store.advance("row", 5, 60_000)], [true, true]);
  await forget();
  const both = await Promise.all([claim("two"), store.advance("row", 3, 60_000)]);
  assertEquals(both, [true, true]);
  assertEquals(await store.claims("user"), ["two"]);
  await forget();
  assertEquals([await store.claims("user"), await store.newest("row", 60_000)], [[], -1]);
  assertEquals(broker.issues(), []);
});

test("ignores and counts foreign publications, of any form", async ({ servers }) => {
  await using broker = new NatsBroker({ servers });
  await using plain = new Hearing(broker, "news");
  await using kept = new Hearing(broker, "kept", BOUNDS);
  await Promise.all([plain.ready, kept.ready]);
  await append(broker, "kept", 1);
  const bounds = `${BOUNDS.size}_${BOUNDS.ttlMs}_${BOUNDS.bytes}`;
  const other = await connectNats({ servers });
  const illegal = { encode: () => new TextEncoder().encode("NATS/1.0\r\n\x01 : 1\r\n\r\n") };
  for (
    const [headers, payload] of [[illegal, "noise"], [illegal, ""], [undefined, "{}"]] as const
  ) {
    const options = headers === undefined ? {} : { headers: headers as unknown as MsgHdrs };
    for (const subject of ["pub.news", `live.${bounds}.kept`, `live.${bounds}.=epoch`]) {
      other.publish(`skein.${subject}`, payload, options);
    }
    other.publish(`skein.log.${bounds}.kept`, payload, options);
  }
  await other.flush();
  const reading = () => broker.history.read("kept", { ...PAGE, after: 0 });
  await reading().catch(() => {});
  broker.publish({ topic: "news", payload: "after" });
  await append(broker, "kept", 2);
  await Promise.all([plain.count(1), kept.count(3)]);
  assertEquals([plain.payloads, kept.payloads], [["after"], ["0", "0", "1"]]);
  assertEquals((await reading()).publications.map(({ payload }) => payload), ["0", "0", "1"]);
  assertEquals([broker.stats.interruptions, broker.stats.ignored], [0, 9]);
  assertMatch(broker.issues().join(), /9 messages .* ignored/);
  await other.close();
});

test("subscribes to a rejected topic once it is allowed", async (server) => {
  const options = { servers: server.servers, user: "node", pass: "secret" };
  await using broker = new NatsBroker(options);
  await using allowed = new Hearing(broker, "allowed");
  await using denied = new Hearing(broker, "denied");
  let isReady = false;
  denied.ready.then(() => isReady = true);
  await allowed.ready;
  await until(() => broker.issues().some((issue) => /rejected.*denied/.test(issue)));
  assertEquals(isReady, false);
  await server.kill();
  await server.restart({ settings: settingsOf("nothing") });
  await denied.ready;
  broker.publish({ topic: "denied", payload: "1" });
  await denied.count(1);
  await server.kill();
  await server.restart({ settings: settingsOf("denied") });
  await allowed.interrupted(2);
  await server.kill();
  await server.restart({ settings: settingsOf("nothing") });
  await denied.interrupted(1);
  broker.publish({ topic: "denied", payload: "2" });
  await denied.count(2);
}, { settings: settingsOf("denied") });

function settingsOf(denied: string): string {
  return `authorization: { users: [{ user: node, password: secret,
    permissions: { subscribe: { deny: "skein.pub.${denied}" } } }] }`;
}

test("closes promptly even if the server stays silent", async () => {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = listener.addr;
  const broker = new NatsBroker({ servers: [`127.0.0.1:${port}`, `localhost:${port}`] });
  using connection = await listener.accept();
  let isAttemptOver = false;
  const ended = connection.read(new Uint8Array(1)).then(() => isAttemptOver = true, () => {});
  const { ready } = broker.subscribe("news", () => {});
  const appended = append(broker, "kept", 1);
  const rejected = assertRejects(() => appended, BrokerError, "closed");
  await broker.close();
  assertEquals(isAttemptOver, false);
  await Promise.all([ready, rejected]);
  listener.close();
  connection.close();
  await ended;
  await noTimers();
});

test("detects that the server closes while messages are queued for it", async () => {
  const [encoder, decoder] = [new TextEncoder(), new TextDecoder()];
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const opening = connectNats({ servers: `127.0.0.1:${listener.addr.port}`, reconnect: false });
  using server = await listener.accept() as Deno.TcpConn;
  const greeting = { server_id: "silent", version: "2.10.0", proto: 1, headers: true };
  await server.write(
    encoder.encode(`INFO ${JSON.stringify({ ...greeting, max_payload: 1e6 })}\r\n`),
  );
  const buffer = new Uint8Array(4_096);
  for (let login = ""; !login.includes("PING");) {
    login += decoder.decode(buffer.subarray(0, await server.read(buffer) ?? 0));
  }
  await server.write(encoder.encode("PONG\r\n"));
  const connection = await opening;
  // Sends more than both sides buffer while the server is not reading.
  for (let i = 0; i < 64; i++) connection.publish("news", new Uint8Array(1e6));
  await server.closeWrite();
  await connection.closed();
});

test("leaves no subscriptions on a given connection", async ({ servers }) => {
  const connection = await connectNats({ servers });
  const subscriptions: Subscription[] = [];
  const subscribe = connection.subscribe.bind(connection);
  using _spy = stub(connection, "subscribe", (...args) => {
    const subscription = subscribe(...args);
    subscriptions.push(subscription);
    return subscription;
  });
  const broker = new NatsBroker({ connection });
  await using hearing = new Hearing(broker, "kept", BOUNDS);
  await hearing.ready;
  await append(broker, "kept", 1);
  await broker.close();
  assert(subscriptions.length > 0);
  assertEquals(subscriptions.filter((one) => !one.isClosed()).map((one) => one.getSubject()), []);
  await connection.close();
});

test("reconnects even if the function for its credentials fails", async (server) => {
  let failures = 0;
  let isBroken = false;
  const authenticator = () => {
    if (!isBroken) return { user: "node", pass: "secret" };
    failures++;
    throw new Error("no credentials");
  };
  await using broker = new NatsBroker({ servers: server.servers, authenticator });
  await statusIs(broker, "connected");
  isBroken = true;
  const { interruptions } = broker.stats;
  await server.kill();
  await server.restart();
  // The earlier reports caused these.
  await until(() => failures > 0 && broker.stats.interruptions > interruptions);
  await statusIs(broker, "connected");
}, { settings: "authorization: { user: node, password: secret }" });

test("reads more than ten pages, forward from any position", async ({ servers }) => {
  await using broker = new NatsBroker({ servers });
  const positions = (await append(broker, "kept", 2_000)).map(({ position }) => position!.offset);
  // The offsets of the topic get gaps.
  await Promise.all([append(broker, "kept", 200), append(broker, "other", 200)]);
  const all = await readAll(broker, "kept");
  assertEquals(all.length, 2_200);
  const rest = await readAll(broker, "kept", positions[499]);
  assertEquals(
    rest.map(({ position }) => position),
    all.slice(500).map(({ position }) => position),
  );
  assertEquals(rest[0]!.position!.prev, positions[499]);
  const large = "x".repeat(200_000);
  for (let i = 0; i < 5; i++) {
    await broker.history.append({ topic: "large", payload: large }, { bounds: BOUNDS });
  }
  const { publications } = await broker.history.read("large", PAGE);
  assertEquals(publications.length, 2);
  assertEquals((await readAll(broker, "large")).length, 5);
});

test("shows expired publications by the position before a page", async ({ servers }) => {
  await using broker = new NatsBroker({ servers });
  const bounds = { ...BOUNDS, size: 10 };
  const offsets = (await append(broker, "kept", 30, { bounds })).map((one) => one.position!.offset);
  const from = async (after: number) => {
    const { publications } = await broker.history.read("kept", { ...PAGE, bounds, after });
    return [publications.length, publications[0]?.position?.prev];
  };
  assertEquals(await from(offsets[19]!), [10, offsets[19]], "the last recoverable position");
  assertEquals(await from(offsets[18]!), [10, offsets[19]], "the position before");
  assertEquals(await from(0), [10, offsets[19]]);
  assertEquals(await from(offsets[28]!), [1, offsets[28]]);
  assertEquals(await from(offsets[29]!), [0, undefined]);
});

test("knows the position of a quiet topic while it listens, and assumes nothing otherwise", async (server) => {
  const { servers } = server;
  await using near = new NatsBroker({ servers });
  await using far = new NatsBroker({ servers });
  await using hearing = new Hearing(near, "quiet", BOUNDS);
  await hearing.ready;
  const [quiet] = await append(near, "quiet", 1);
  const last = quiet!.position!.offset;
  const busy = await append(near, "busy", 10);
  await hearing.count(1);
  assertEquals((await far.history.read("other", PAGE)).head, 0);
  // The oldest messages of the stream expire, whatever their topic.
  await operate(server, async ({ streams }) => {
    const { config } = await streams.list().next().then(([stream]) => stream!);
    await streams.purge(config.name, { seq: busy[4]!.position!.offset });
  });
  const read = async (broker: Broker, after?: number) => {
    const query = after === undefined ? PAGE : { ...PAGE, after };
    const { head, publications } = await broker.history!.read("quiet", query);
    return [head, publications.length, publications[0]?.position?.prev];
  };
  assertEquals(
    await read(near, last),
    [last, 0, undefined],
    "the listening node knows that nothing was published",
  );
  const head = busy.at(-1)!.position!.offset;
  assertEquals(await read(far, last), [head, 0, undefined], "the other node cannot know");
  assertEquals(await read(far), [head, 0, undefined]);
  assertEquals(await read(far, head), [head, 0, undefined], "nothing was published since");
  const [next] = await append(far, "quiet", 1);
  const gone = busy[4]!.position!.offset - 1;
  const offset = next!.position!.offset;
  assertEquals(await read(far, last), [offset, 1, gone], "publications may have been dropped");
  assertEquals(await read(far, head), [offset, 1, head]);
  await hearing.count(2);
  assertEquals(hearing.publications[1]!.position!.prev, 0);
});

test("measures the clock difference, follows the broker's clock, and reports it", async ({ servers }) => {
  for (const [byMs, text] of [[20_000, "ahead of"], [-3_600_000, "behind"]] as const) {
    await using broker = new NatsBroker({ servers }, { runtime: clockOff(byMs) });
    await broker.store.newest("row", 60_000);
    const reported = new RegExp(`clock of this node is (\\d+) s ${text} that of NATS`);
    const [, seconds] = reported.exec(broker.issues().join()) ?? [];
    // A late reply of the server makes the measurement less exact.
    assertAlmostEquals(Number(seconds), Math.abs(byMs) / 1_000, 10);
  }
  await using right = new NatsBroker({ servers });
  await right.store.newest("row", 60_000);
  assertEquals(right.issues(), []);
});

test("supports expiry windows of up to a week, and rejects longer ones", async ({ servers }) => {
  await using broker = new NatsBroker({ servers }, { storeTtlMs: 1_000 });
  const { store } = broker;
  assertEquals(await store.advance("row", 1, 1_000), true);
  assertEquals(await store.advance("row", 2, WEEK_MS), true);
  assertEquals(await store.newest("row", WEEK_MS), 2);
  await until(async () => await store.newest("row", 1_000) === -1);
  assertEquals(await store.newest("row", WEEK_MS), 2);
  await assertRejects(() => store.advance("row", 3, WEEK_MS + 1), RangeError, "at most a week");
  await assertRejects(
    () => store.claim("a", "b", { max: 1, ttlMs: 1_001 }),
    RangeError,
    "at most storeTtlMs",
  );
});

Deno.test("NatsBroker() rejects options that are out of range", () => {
  const rejected: [NatsBrokerOptions, typeof TypeError | typeof RangeError][] = [
    [{ prefix: "a.b" }, TypeError],
    [{ storage: "disk" as "file" }, TypeError],
    [{ maxWaiting: 0 }, RangeError],
    [{ maxWaitingBytes: 1.5 }, RangeError],
    [{ giveUpMs: 120_000 }, RangeError],
    [{ replicas: 6 }, RangeError],
    [{ rememberMs: 1_000 }, RangeError],
    [{ maxStreamBytes: -5 }, RangeError],
    [{ storeTtlMs: 0 }, RangeError],
  ];
  for (const [options, kind] of rejected) {
    const make = () => new NatsBroker({ servers: "127.0.0.1:1" }, options);
    assertThrows(make, kind, "Cannot create");
  }
});

Deno.test({
  name: "maxSessionsPerUser on NATS admits as many as fit, even right after others closed",
  ignore,
  async fn() {
    await using stack = new AsyncDisposableStack();
    const user = `ann-${crypto.randomUUID()}`;
    const broker = stack.use(new NatsBroker({ servers: shared.servers }));
    const { setTimeout } = platformRuntime();
    const server = stack.use(testServer<string>({
      broker,
      // A server admits everyone if its store is slow, so its patience is longer here.
      runtime: Object.assign(platformRuntime(), {
        setTimeout: (callback: () => void, ms: number) =>
          setTimeout(callback, ms < 1_000 ? ms : 20 * ms),
      }),
      limits: { maxSessionsPerUser: 5 },
      authenticate: () => user,
      onSessionRejected() {},
    }));
    await server.nodes!.ready;
    for (let round = 0; round < 4; round++) {
      const coming = Array.from({ length: 8 }, () => server.dial());
      const sessions = (await Promise.allSettled(coming))
        .flatMap((one) => one.status === "fulfilled" ? [one.value] : []);
      assertEquals(sessions.length, 5, `round ${round}`);
      await Promise.all(sessions.map((session) => session.close()));
    }
  },
});
