/**
 * Tests the options of every public function and method. Each call must reject unknown names,
 * values of a wrong type and values that are out of range. The wrong values come from the option
 * tables, which the compiler checks against their interfaces. `base/options/option_checks_test.ts` tests
 * the kinds of options.
 */
import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { stub } from "@std/testing/mock";
import type { NestedCheck, NumberCheck, NumberRange, OptionKind } from "../base/options/options.ts";
import {
  type Client,
  type ClientState,
  connect,
  createServer,
  dial,
  forwardedAddress,
  serve,
  webSocket,
} from "../mod.ts";
import { SessionManager } from "../manager/mod.ts";
import {
  BitrateMonitor,
  connectMoq,
  dialMoq,
  listenMoq,
  LiveBroadcast,
  LiveTrack,
  MoqClient,
  MoqCluster,
  MoqRelay,
  MoqServer,
  MoqSession,
  relayNotices,
  TrackMux,
  type TrackWriter,
} from "../moq/mod.ts";
import { MemoryBroker, Nodes, Presence, Rooms, Topics } from "../pubsub/mod.ts";
import { NatsBroker } from "../brokers/nats/mod.ts";
import { RedisBroker } from "../brokers/redis/mod.ts";
import { SqliteBroker } from "../brokers/sqlite/mod.ts";
import { serveWorkers } from "../server.ts";
import { jwt } from "../server/admission/jwt.ts";
import { fileStore, indexedDbStore } from "../client/store/mod.ts";
import { recordSessions, sessionSettings } from "../session/mod.ts";
import { msgpackCodec } from "../session/streams/msgpack.ts";
import { otel } from "../operations/otel/otel.ts";
import {
  assertNoLeaks,
  memorySessions,
  nextEvent,
  playSession,
  receive,
  receiveOne,
  TestServer,
  testServer,
  watchLeaks,
} from "../testing/mod.ts";
import { readRepository } from "../tools/arrows.ts";
import {
  acceptNativeWebTransport,
  acceptWebSocket,
  devCertificate,
  dialQuic,
  dialWebSocket,
  dialWebTransport,
  listenQuic,
  listenWebTransport,
  memoryPair,
  withMessages,
} from "../transport/mod.ts";
import { hardenedWebSocket } from "../transport/hardened/mod.ts";
import { Inspector, inspector, metrics } from "../operations/mod.ts";
import { httpApi } from "../operations/http_api/mod.ts";
import { statesOf, streamFeatures, streamsOf } from "./stream_features.ts";
import {
  durableStreams,
  DurableStreamsHandler,
  type DurableStreamWriter,
  liveState,
  resumable,
  type State,
} from "../streams/mod.ts";
import { slowTest } from "../tools/run_tests/slow.ts";
import { turns } from "./waiting.ts";
import { OTHERS, UNAWAITED } from "./pairs/unawaited_callbacks.ts";

/**
 * Functions and constructors. Without the check, some of them would start something that no test
 * can stop.
 */
const FUNCTIONS: Readonly<Record<string, (options: never) => unknown>> = {
  connect: (options) => connect("ws://127.0.0.1:1", options),
  connectMoq: (options) => connectMoq("https://127.0.0.1:1", options),
  createServer,
  devCertificate,
  forwardedAddress,
  dialQuic: (options) => dialQuic("quic://127.0.0.1:1", options),
  dialWebSocket: (options) => dialWebSocket("ws://127.0.0.1:1", options),
  dialWebTransport: (options) => dialWebTransport("https://127.0.0.1:1", options),
  dial: (options) => dial("ws://127.0.0.1:1", options),
  dialMoq: (options) => dialMoq("https://127.0.0.1:1", options),
  fileStore,
  hardenedWebSocket,
  indexedDbStore,
  jwt,
  listenMoq,
  listenQuic,
  listenWebTransport,
  memoryPair,
  metrics,
  memorySessions,
  msgpackCodec,
  otel,
  playSession: (options) => playSession({} as never, [], options),
  recordSessions,
  serve,
  serveWorkers: (options) => serveWorkers(new URL("file:///none.ts"), options),
  sessionSettings,
  testServer,
  webSocket,
  "new BitrateMonitor": (options) => new BitrateMonitor({} as never, () => {}, options),
  "new Client": (options) => connect("ws://127.0.0.1:1", options),
  "new DurableStreamsHandler": (options) => new DurableStreamsHandler(options),
  durableStreams,
  httpApi,
  liveState: (options) => liveState(undefined, options),
  inspector,
  resumable,
  "new Inspector": (options) => new Inspector({} as never, options),
  "new LiveBroadcast": (options) => new LiveBroadcast(options),
  "new LiveTrack": (options) => new LiveTrack(options),
  "new MemoryBroker": (options) => new MemoryBroker(options),
  "new MoqClient": (options) => new MoqClient(options),
  "new MoqCluster": (options) => new MoqCluster(options),
  "new MoqRelay": (options) => new MoqRelay(options),
  "new MoqServer": (options) => new MoqServer(options),
  "new NatsBroker": (options) => new NatsBroker({ servers: "127.0.0.1:1" }, options),
  "new Presence": (options) => new Presence(options),
  "new RedisBroker": (options) => new RedisBroker({ url: "redis://127.0.0.1:1" }, options),
  "new Rooms": (options) => new Rooms(options),
  "new Server": createServer,
  "new SessionManager": (options) => new SessionManager(options),
  "new TestServer": (options) => new TestServer(options),
  "new Topics": (options) => new Topics(options),
  "new TrackMux": (options) => new TrackMux(options),
  "MoqServer.listen": listenMoq,
  "SessionManager.create": (options) => SessionManager.create(options),
  "SqliteBroker.open": (options) => SqliteBroker.open("/none", options),
};

/** Objects whose methods take options. */
interface Objects {
  readonly client: Client;
  readonly clientState: ClientState;
  readonly broker: SqliteBroker;
  readonly moq: Awaited<ReturnType<typeof openMoq>>;
  readonly server: TestServer<string>;
  readonly session: ReturnType<TestServer["manager"]["all"]>[number];
  readonly state: State;
  readonly writer: DurableStreamWriter;
}

type Methods = Readonly<Record<string, (objects: Objects, options: never) => unknown>>;

const METHODS: Methods = {
  acceptWebSocket: (_, options) =>
    acceptWebSocket(
      new Request("http://localhost", { headers: { upgrade: "websocket" } }),
      options,
    ),
  acceptNativeWebTransport: (_, options) => acceptNativeWebTransport({} as never, options),
  assertNoLeaks: ({ client }, options) => assertNoLeaks(client, options),
  "FeatureHost.guard": (_, options) =>
    createServer({
      features: [{
        name: "guarded",
        mount: (host) => ({ http: host.guard(options, () => new Response()) }),
      }],
    }),
  nextEvent: (_, options) => nextEvent(new EventTarget(), "a", options),
  receive: (_, options) => receive([] as never, 1, options),
  receiveOne: (_, options) => receiveOne([] as never, options),
  relayNotices: ({ moq }, options) => relayNotices(moq.subscriber, options).next(),
  watchLeaks: ({ client }, options) => watchLeaks(client, options),
  withMessages: ({ session }, options) => withMessages(session.connection, options),
  "AnnouncementReader.next": ({ moq }, options) => moq.announcements.next(options),
  "Client.state": ({ client }, options) => client.state("a", options),
  "ClientCollection.delete": ({ clientState }, options) =>
    clientState.collection("a").delete("a", options),
  "ClientCollection.insert": ({ clientState }, options) =>
    clientState.collection("a").insert("c", 1, options),
  "ClientCollection.set": ({ clientState }, options) =>
    clientState.collection("a").set("a", 1, options),
  "ClientCollection.update": async ({ clientState }, options) => {
    await clientState.collection("a").set("a", 1);
    await clientState.collection("a").update("a", () => 1, options);
  },
  "ClientState.changes": ({ clientState }, options) => clientState.changes(options).next(),
  "ClientState.flush": ({ clientState }, options) => clientState.flush(options),
  "ClientState.transaction": ({ clientState }, options) =>
    clientState.transaction((transaction) => transaction.set("a", "b", 1), options),
  "Client.durableStream": ({ client }, options) => client.durableStream("a", options),
  "Client.flushed": ({ client }, options) => client.flushed(options),
  "Client.handOver": ({ client }, options) => client.handOver(options),
  "Client.presence": ({ client }, options) => client.presence("a", 1, options),
  "Client.publish": ({ client }, options) => client.publish("a", 1, options),
  "Client.request": ({ client }, options) => client.request("a", 1, options),
  "Client.requestStream": ({ client }, options) => client.requestStream("a", 1, options),
  "Client.subscribe": ({ client }, options) => client.subscribe("a", options),
  "Client.whenConnected": ({ client }, options) => client.whenConnected(options),
  "DurableStreamWriter.abort": ({ writer }, options) => writer.abort("over", options),
  "DurableStreams.create": ({ server }, options) => streamsOf(server).create("a", options),
  "DurableStreams.follow": ({ server }, options) => streamsOf(server).follow("a", options).next(),
  "DurableStreams.read": ({ server }, options) => streamsOf(server).read("a", options).next(),
  "GroupReader.readFrame": ({ moq }, options) => moq.received.readFrame(options),
  "GroupWriter.writeFrame": ({ moq }, options) => moq.group.writeFrame(new Uint8Array(), options),
  "LiveBroadcast.track": (_, options) => new LiveBroadcast().track("a", options),
  "LiveGroup.writeFrame": (_, options) =>
    new LiveTrack().openGroup().writeFrame(new Uint8Array(), options),
  "MemoryLink.disconnect": (_, options) => memoryPair().link.disconnect(options),
  "MoqClient.acceptAnnounce": ({ moq }, options) => moq.client.acceptAnnounce("/", options),
  "MoqClient.subscribe": ({ moq }, options) => moq.client.subscribe("/a", "b", options),
  "MoqClient.whenConnected": ({ moq }, options) => moq.client.whenConnected(options),
  "MoqServer.drain": (_, options) => new MoqServer().drain(options),
  "MoqSession.acceptAnnounce": ({ moq }, options) => moq.subscriber.acceptAnnounce("/", options),
  "MoqSession.fetch": ({ moq }, options) => moq.subscriber.fetch("/a", "b", options),
  "MoqSession.goaway": ({ moq }, options) => moq.subscriber.goaway(options),
  "MoqSession.open": ({ session }, options) => MoqSession.open(session.connection, options),
  "MoqSession.probe": ({ moq }, options) => moq.subscriber.probe(options),
  "MoqSession.subscribe": ({ moq }, options) => moq.subscriber.subscribe("/a", "b", options),
  "MoqSession.trackInfo": ({ moq }, options) => moq.subscriber.trackInfo("/a", "b", options),
  "Presence.enter": ({ server, session }, options) => server.presence.enter(session, "a", options),
  "Presence.events": ({ server }, options) => server.presence.events(options).next(),
  "Presence.leave": ({ server, session }, options) => server.presence.leave(session, "a", options),
  "Presence.update": ({ server, session }, options) =>
    server.presence.update(session, "a", options),
  "ResumableAnnouncements.next": ({ moq }, options) => moq.resumed.next(options),
  "ResumableTrack.nextGroup": ({ moq }, options) => moq.resumable.nextGroup(options),
  "ResumableTrack.update": ({ moq }, options) => moq.resumable.update(options),
  "Rooms.join": ({ server, session }, options) => server.rooms.join(session, "a", options),
  "Rooms.leave": ({ server, session }, options) => server.rooms.leave(session, "a", options),
  "Rooms.publish": ({ server }, options) => server.rooms.publish("a", 1, options),
  "Rooms.update": ({ server, session }, options) => server.rooms.update(session, "a", options),
  "Server.close": ({ server }, options) => server.close(options),
  "Server.disconnect": ({ server }, options) => server.disconnect("ann", options),
  "Server.drain": ({ server }, options) => server.drain(options),
  "Server.publish": ({ server }, options) => server.publish("a", 1, options),
  "Server.subscribe": ({ server, session }, options) =>
    server.subscribe(session as never, "a", options),
  "Server.unsubscribe": ({ server, session }, options) =>
    server.unsubscribe(session as never, "a", options),
  "Session.authenticate": ({ session }, options) => session.authenticate("a", options),
  "Session.createBidirectionalStream": ({ session }, options) =>
    session.createBidirectionalStream(options),
  "Session.createUnidirectionalStream": ({ session }, options) =>
    session.createUnidirectionalStream(options),
  "Session.close": ({ session }, options) => session.close(options),
  "Session.grantStreamsCredit": ({ session }, options) => session.grantStreamsCredit(1, options),
  "Session.incomingStreams": ({ session }, options) => session.incomingStreams(options).next(),
  "Session.monitorHealth": ({ session }, options) => session.monitorHealth(options).next(),
  "Session.ping": ({ session }, options) => session.ping(options),
  "Session.structuredDatagrams": ({ session }, options) => session.structuredDatagrams(options),
  "Session.structuredStream": ({ session }, options) => session.structuredStream(options),
  "Session.drain": ({ session }, options) => session.drain(options),
  "Session.goAway": ({ session }, options) => session.goAway(options),
  "Session.flushed": ({ session }, options) => session.flushed(options),
  "Session.presence": ({ session }, options) => session.presence("a", 1, options),
  "Session.publish": ({ session }, options) => session.publish("a", 1, options),
  "Session.request": ({ session }, options) => session.request("a", 1, options),
  "Session.requestStream": ({ session }, options) => session.requestStream("a", 1, options),
  "Session.subscribe": ({ session }, options) => session.subscribe("a", options),
  "Session.unsubscribe": ({ session }, options) => session.unsubscribe("a", options),
  "Session.whenReady": ({ session }, options) => session.whenReady(options),
  "SessionManager.add": ({ server, session }, options) => server.manager.add(session, options),
  "SessionManager.admit": ({ server }, options) => server.manager.admit(options),
  "SessionManager.admitConnection": ({ server }, options) =>
    server.manager.admitConnection(options),
  "LiveStates.open": ({ server }, options) => statesOf(server).open("opened", options),
  "SessionManager.admitSocket": ({ server }, options) => server.manager.admitSocket(options),
  "SessionManager.closeAll": ({ server }, options) => server.manager.closeAll(options),
  "SessionManager.diagnostics": ({ server }, options) => server.manager.diagnostics(options),
  "SessionManager.drain": ({ server }, options) => server.manager.drain(options),
  "SessionManager.issues": ({ server }, options) => server.manager.issues(options),
  "SessionManager.shutdown": ({ server }, options) => server.manager.shutdown(options),
  "SqliteBroker.backup": ({ broker }, options) => broker.backup("/none", options),
  "State.changes": ({ state }, options) => state.changes(options).next(),
  "State.transaction": ({ state }, options) =>
    state.transaction((transaction) => transaction.set("a", "b", 1), options),
  "StateCollection.delete": ({ state }, options) => state.collection("a").delete("a", options),
  "StateCollection.insert": ({ state }, options) => state.collection("a").insert("c", 1, options),
  "StateCollection.update": async ({ state }, options) => {
    await state.collection("a").set("a", 1);
    await state.collection("a").update("a", () => 1, options);
  },
  "StateCollection.set": ({ state }, options) => state.collection("a").set("a", 1, options),
  "StateTransaction.insert": ({ state }, options) =>
    state.transaction((transaction) => transaction.insert("a", crypto.randomUUID(), 1, options)),
  "StateTransaction.set": ({ state }, options) =>
    state.transaction((transaction) => transaction.set("a", "b", 1, options)),
  "TestNetwork.disconnect": ({ server }, options) => server.network.disconnect(options),
  "TestNetwork.down": ({ server }, options) => server.network.down(options),
  "TestServer.connect": ({ server }, options) => server.connect(options),
  "TestServer.dial": ({ server }, options) => server.dial(options),
  "TestServer.open": ({ server }, options) => server.open(options),
  "TrackMux.publish": (_, options) => new TrackMux().publish("/a", () => {}, options),
  "TrackReader.info": ({ moq }, options) => moq.track.info(options),
  "TrackReader.nextGroup": ({ moq }, options) => moq.track.nextGroup(options),
  "TrackReader.update": ({ moq }, options) => moq.track.update(options),
  "TrackWriter.close": ({ moq }, options) => moq.writer.close(options),
  "TrackWriter.openGroup": ({ moq }, options) => moq.writer.openGroup(undefined, options),
  "Topics.append": ({ server }, options) => server.topics.append("a", 1, options),
  "Topics.leaveAll": ({ server, session }, options) => server.topics.leaveAll(session, options),
  "Topics.position": ({ server }, options) => server.topics.position("a", options),
  "Topics.publish": ({ server }, options) => server.topics.publish("a", 1, options),
  "Topics.read": ({ server }, options) => server.topics.read("a", options).next(),
  "Topics.subscribe": ({ server, session }, options) =>
    server.topics.subscribe(session, "a", options),
  "Topics.unsubscribe": ({ server, session }, options) =>
    server.topics.unsubscribe(session, "a", options),
};

/** Opens two MoQ sessions with a track that has a group, and a client that never connects. */
async function openMoq() {
  const pair = memoryPair({ protocol: "moq-lite-05" });
  const mux = new TrackMux();
  const serving = Promise.withResolvers<TrackWriter>();
  mux.publish("/a", (track) => {
    serving.resolve(track);
    return new Promise(() => {});
  });
  const [publisher, subscriber] = await Promise.all([
    MoqSession.open(pair.server, { side: "server", mux }),
    MoqSession.open(pair.client, { side: "client" }),
  ]);
  const announcements = await subscriber.acceptAnnounce("/");
  const track = await subscriber.subscribe("/a", "b");
  const writer = await serving.promise;
  const group = await writer.openGroup();
  await group.writeFrame(new Uint8Array([1]));
  const received = (await track.nextGroup())!;
  const client = new MoqClient({
    url: "https://127.0.0.1:1",
    dial: (signal) =>
      new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason))),
  });
  const resumable = client.subscribe("/a", "b");
  resumable.ready.catch(() => {});
  const resumed = client.acceptAnnounce("/");
  return {
    ...{ announcements, client, group, received, resumable, resumed, subscriber, track, writer },
    async [Symbol.asyncDispose](): Promise<void> {
      client.close();
      await client.closed;
      subscriber.close();
      await Promise.all([publisher.closed, subscriber.closed]);
    },
  };
}

/** Runs a test with a server, a client and its session on the server. */
async function withObjects(body: (objects: Objects) => Promise<void>): Promise<void> {
  await using server = testServer<string>({
    authenticate: () => "ann",
    authorize: () => true,
    features: streamFeatures({ path: "/streams" }),
    rooms: ["a"],
  });
  await using client = server.connect();
  await client.whenConnected();
  const [session] = server.manager.all();
  await using writer = await streamsOf(server).create("written");
  await using state = await statesOf(server).open("state");
  using clientState = await client.state("state");
  await using moq = await openMoq();
  const folder = await Deno.makeTempDir();
  await using broker = await SqliteBroker.open(`${folder}/a.db`);
  await body({ broker, client, clientState, moq, server, session: session!, state, writer });
}

function allCalls(
  objects: Objects,
): (readonly [name: string, call: (options: never) => unknown])[] {
  const methods = Object.entries(METHODS).map(([name, call]) =>
    [name, (options: never) => call(objects, options)] as const
  );
  return [...Object.entries(FUNCTIONS), ...methods];
}

/** Expects a TypeError that is thrown or is the reason of a rejection. */
async function assertRejected(name: string, call: () => unknown, text: string): Promise<void> {
  const error = await assertRejects(async () => await call(), TypeError, undefined, name);
  assert(error.message.includes(text), `${name}: ${error.message}`);
}

Deno.test("Client.subscribe() recommends the loop if it gets a callback", async () => {
  await withObjects(async ({ client }) => {
    await assertRejected("a", () => client.subscribe("a", (() => {}) as never), "for await");
  });
});

Deno.test("Each public method that keeps a callback rejects other values, such as a topic", async () => {
  const listener = () => {};
  await withObjects(async ({ server }) => {
    await using nodes = new Nodes({ broker: new MemoryBroker() });
    const calls: Record<string, (...args: never[]) => unknown> = {
      "Nodes.handle": nodes.handle.bind(nodes),
      "Nodes.subscribe": nodes.subscribe.bind(nodes),
      "Presence.subscribe": server.presence.subscribe.bind(server.presence),
      "TrackMux.watch": new TrackMux().watch.bind(new TrackMux()),
    };
    for (const [name, call] of Object.entries(calls)) {
      const takesName = call.length === 2;
      const args = takesName ? [listener, "room:tea"] : ["room:tea", listener];
      const text = "er must be a function, received a string";
      await assertRejected(name, () => call(...args as never[]), text);
    }
  });
});

Deno.test("Each call with a contract rejects a plain object, and names defineContract()", async () => {
  const names: string[] = [];
  for (const [name, call] of Object.entries(FUNCTIONS)) {
    if (!("contract" in await kindsOf(call))) continue;
    names.push(name);
    for (const contract of [{ toClient: {} }, "contract.ts", 7]) {
      const rule =
        `Cannot use contract: it must be made by defineContract(), received ${typeof contract}`;
      await assertRejected(name, () => call({ ...BASE[name], contract } as never), rule);
    }
  }
  assert(names.includes("createServer") && names.includes("connect"), names.join());
});

/** Lists the options of a table that take a function, with the names of the objects around them. */
function* functionsIn(kinds: object, around = ""): Generator<string> {
  for (const [name, kind] of Object.entries(kinds) as [string, OptionKind][]) {
    const path = around + name;
    if (typeof kind === "string" && /\bfunction\b/.test(kind)) yield path;
    const { kinds: inside } = kind as Kind;
    if (inside !== undefined) yield* functionsIn(inside, `${path}.`);
    else if (typeof kind === "object" && !Array.isArray(kind)) yield* functionsIn(kind, `${path}.`);
  }
}

Deno.test("Each option that takes a function is in a table of unawaited_callbacks.ts", async () => {
  const listed = new Set([
    ...UNAWAITED.map(({ option }) => option),
    ...Object.values(OTHERS).flat(),
  ]);
  const missing = new Set<string>();
  await withObjects(async (objects) => {
    for (const [, call] of allCalls(objects)) {
      for (const path of functionsIn(await kindsOf(call))) if (!listed.has(path)) missing.add(path);
    }
  });
  assertEquals([...missing], []);
});

/** A value that fits no kind. */
const WRONG = Symbol("wrong");

/** Part of a kind: a nested table, or a number range. */
type Kind = Partial<NestedCheck & NumberCheck>;

/** Lists wrong values of one option, each in the object that has the option. */
function* wrongValues(kind: OptionKind, wrap: (value: unknown) => unknown): Generator<unknown> {
  if (kind === 0) return;
  yield wrap(WRONG);
  const { range, kinds, isRecord } = kind as Kind;
  if (range !== undefined) { for (const value of outside(range)) yield wrap(value); }
  if (typeof kind === "object" && !Array.isArray(kind)) yield* wrongOptions(kind, wrap);
  else if (isRecord) yield* wrongOptions(kinds!, (value) => wrap({ "a:{b}": value }));
  else if (kinds !== undefined) yield* wrongOptions(kinds, wrap);
}

/** Lists wrong values of all options of a table, and an unknown name in each nested object. */
function* wrongOptions(kinds: object, wrap: (value: unknown) => unknown): Generator<unknown> {
  yield wrap({ unknownOption: 1 });
  for (const [name, kind] of Object.entries(kinds)) {
    yield* wrongValues(kind, (value) => wrap({ [name]: value }));
  }
}

/** Lists numbers outside of a range: too small, too large, a fraction, and not a number. */
function outside({ min, max, isInteger = false, isAbove = false }: NumberRange): number[] {
  const isInside = (value: number) =>
    (isAbove ? value > min : value >= min) && value <= max &&
    (!isInteger || value === Infinity || Number.isInteger(value));
  return [NaN, -Infinity, min - 1, min, min + 0.5, max + 1, Infinity].filter((value) =>
    !isInside(value)
  );
}

function nameIn(options: unknown): string {
  let name = "";
  for (let at = options; typeof at === "object" && at !== null;) {
    [[name, at]] = Object.entries(at) as [[string, unknown]];
  }
  return name;
}

/** Finds the table that a call uses to check its options. To do so, it passes an unknown name. */
async function kindsOf(call: (options: never) => unknown): Promise<object> {
  let found: object | undefined;
  const { hasOwn } = Object;
  using _spy = stub(Object, "hasOwn", (object, name) => {
    if (name === "unknownOption") found ??= object;
    return hasOwn(object, name);
  });
  await assertRejects(async () => await call({ unknownOption: 1 } as never), TypeError);
  assert(found !== undefined);
  return found;
}

Deno.test("Each public function rejects options of another type, unknown names, and wrong values", async () => {
  await withObjects(async (objects) => {
    for (const [name, call] of allCalls(objects)) {
      const unknown = { unknownOption: 1 } as never;
      await assertRejected(name, () => call(unknown), 'unknown option "unknownOption"');
      const none = "options must be an object, received 7";
      await assertRejected(name, () => call(7 as never), none);
      for (const [option, kind] of Object.entries(await kindsOf(call))) {
        for (const options of wrongValues(kind, (value) => ({ [option]: value }))) {
          const text = `${name}: ${Deno.inspect(options)}`;
          const error = await assertRejects(
            async () => await call(options as never),
            Error,
            "",
            text,
          );
          assert(error instanceof TypeError || error instanceof RangeError, `${text}: ${error}`);
          assert(error.message.includes(nameIn(options)), `${text}: ${error}`);
        }
      }
    }
  });
});

/** Options without which a call would use a port or file that others need. */
const BASE: Readonly<Record<string, object>> = {
  listenMoq: { hostname: "127.0.0.1", port: 0, cacheFolder: null },
  "MoqServer.listen": { hostname: "127.0.0.1", port: 0, cacheFolder: null },
  devCertificate: { cacheFolder: null },
  serve: { hostname: "127.0.0.1", port: 0, webTransport: false, onListen() {} },
};

/** Calls that run until their peer answers and that don't accept a signal. */
const UNENDING: ReadonlySet<string> = new Set(["assertNoLeaks", "watchLeaks"]);

/** Closes an object that a call created. */
async function end(made: unknown): Promise<void> {
  const { [Symbol.asyncDispose]: dispose, [Symbol.dispose]: disposeNow } = Object(made);
  if (dispose !== undefined) await dispose.call(made);
  else disposeNow?.call(made);
}

/**
 * Runs a call to completion, and describes the result: either the error, or the class and the plain
 * values.
 */
async function outcomeOf(call: (options: never) => unknown, options: object): Promise<unknown> {
  try {
    const made = await call(options as never);
    await end(made);
    const isPlain = made instanceof Object && Object.getPrototypeOf(made) === Object.prototype;
    if (!isPlain) return Object(made).constructor?.name ?? typeof made;
    const members = Object.entries(made).filter(([, value]) => value !== undefined);
    return members.map(([key, value]) => {
      const isTold = Object(value) !== value && `${value}`.length < 64 && key !== "tookMs";
      return `${key} ${isTold ? value : typeof value}`;
    }).sort();
  } catch (error) {
    return `${error}`.replace(/[\da-f]{8}(-[\da-f]{4}){3}-[\da-f]{12}/g, "an id");
  }
}

/** The options that stop a call immediately, if it can be stopped. */
function stopped(name: string, kinds: object): object {
  const signal = AbortSignal.abort(new Error("enough"));
  return { ...BASE[name], ...("signal" in kinds ? { signal } : {}) };
}

Deno.test("Each public function treats an option that is undefined as absent", async () => {
  for (const [name, call] of Object.entries(FUNCTIONS)) {
    if (UNENDING.has(name)) continue;
    const kinds = await kindsOf(call);
    const base = stopped(name, kinds);
    const without = await outcomeOf(call, base);
    const names = Object.keys(kinds).filter((option) => !Object.hasOwn(base, option));
    for (const options of [names, ...names.map((option) => [option])]) {
      const given = Object.fromEntries(options.map((option) => [option, undefined]));
      assertEquals(await outcomeOf(call, { ...base, ...given }), without, `${name}: ${options}`);
    }
  }
});

slowTest("Each public method treats options that are undefined as absent", async () => {
  for (const [name, call] of Object.entries(METHODS)) {
    if (UNENDING.has(name)) continue;
    const outcomes: unknown[] = [];
    for (const isGiven of [false, true]) {
      await withObjects(async (objects) => {
        const run = (options: never) => call(objects, options);
        const kinds = await kindsOf(run);
        const base = stopped(name, kinds);
        const names = Object.keys(kinds).filter((option) =>
          isGiven && !Object.hasOwn(base, option)
        );
        const given = Object.fromEntries(names.map((option) => [option, undefined]));
        outcomes.push(await outcomeOf(run, { ...base, ...given }));
      });
    }
    assertEquals(outcomes[0], outcomes[1], name);
  }
});

Deno.test("Each call of a client or its session sends nothing if its signal was aborted before", async () => {
  await withObjects(async (objects) => {
    const { session } = objects.client;
    const names: string[] = [];
    await turns();
    const sentBefore = session!.stats.sentMessages;
    for (const [name, call] of Object.entries(METHODS)) {
      if (!/^(?:Client|Session)\./.test(name)) continue;
      const run = (options: object) =>
        call({ ...objects, session: session as never }, options as never);
      if (!("signal" in await kindsOf(run))) continue;
      names.push(name);
      const reason = new Error("enough");
      try {
        const made = await run({ signal: AbortSignal.abort(reason) });
        // For example, a streaming response is requested by its first loop.
        await (made as Partial<AsyncIterable<unknown>>)[Symbol.asyncIterator]?.().next();
      } catch (error) {
        if (error !== reason) assert(error instanceof TypeError, `${name}: ${error}`);
      }
      await turns();
      assertEquals(session!.stats.sentMessages, sentBefore, name);
    }
    assert(names.includes("Client.presence") && names.includes("Session.request"), names.join());
  });
});

Deno.test("An option that is undefined keeps its default", async () => {
  await using server = testServer();
  const session = await server.dial();
  await server.manager.shutdown({ code: undefined, reason: "over" });
  const { code, reason } = await session.closed;
  assertEquals([code, reason], [4503, "over"]);
  await using _redis = new RedisBroker(
    { url: "redis://127.0.0.1:1", client: undefined } as { url: string },
  );
  await using _nats = new NatsBroker(
    { servers: "127.0.0.1:1", connection: undefined, connect: undefined } as { servers: string },
  );
});

Deno.test("connect() names the options that correspond to socket.io's", async () => {
  const cases = { auth: "token", reconnection: "backoff", extraHeaders: "headers" };
  for (const [name, meant] of Object.entries(cases)) {
    const text = `socket.io's "${name}" is ${meant}`;
    await assertRejected(name, () => connect("ws://127.0.0.1:1", { [name]: {} }), text);
  }
});

Deno.test("connect(), dial() and dialWebSocket() check headers at the call, and show no values", async () => {
  const cases: [headers: unknown, rule: string][] = [
    [{ "a b": "c" }, 'headers must have valid names and values, received an invalid "a b"'],
    [{ a: "b", authorization: "x\ny" }, 'and values, received an invalid "authorization"'],
    [[["a", "b"], ["c"]], 'and values, received an invalid "c"'],
    [["a"], "and values, received a string"],
    ["a: b", "headers must be an object, received "],
    [null, "headers must be an object, received null"],
  ];
  const url = "ws://127.0.0.1:1";
  for (const [given, rule] of cases) {
    const headers = given as HeadersInit;
    assertThrows(() => connect(url, { headers }), TypeError, rule);
    await assertRejects(() => dial(url, { headers }), TypeError, rule);
    await assertRejects(() => dialWebSocket(url, { headers }), TypeError, rule);
  }
});

Deno.test("connect() suggests http for the transports of socket.io", async () => {
  const options = { transports: ["polling", "websocket"] } as never;
  await assertRejected("connect", () => connect("ws://127.0.0.1:1", options), '"polling" is http');
});

/**
 * Calls without their own check, each with the reason. A new public call with options needs an
 * entry above or a reason here.
 */
const EXEMPT: Readonly<Record<string, RegExp>> = {
  "interfaces of brokers, connections, engines and stores, which Skein calls itself":
    /^(?:\w*Broker\w*|Connection|Transport|DirectStreams|Store|WebSocketHost|WebTransportRequest|BrokerLogs|Nodes|WorkerNode)\.|^new Nodes$|^test(?:Broker(?:Logs)?|Store)$/,
  "options of Error, which the language defines": /^new \w*Error$/,
  "parts of a session that Skein creates":
    /^new (?:DurableStreamWriter|Subscription|Track\w+|Group\w+|Resumable\w+|Moq\w*Session|\w*Listener|Workers)$/,
  "methods of workers, which run in threads": /^Workers\./,
  "a stream of any connection, whose options are the connection's": /^openUnidirectional$/,
  "networks in memory, which take the options of memoryPair": /^TestNetwork\.connect$/,
  "data of observers, not options":
    /^(?:prometheusText|RequestWatch\.|SessionEvents\.|Telemetry\.)/,
  "a definition, checked by its compiler": /^defineContract$/,
  "one required value, which a page checks without tables": /^keptIn$/,
  "other types of a State, which is in the tables": /^(?:TypedStateMethods|TypedTransaction)\./,
  "rows of a migration, which the test of migrations checks": /^MigratedRows\./,
  "the W3C class, whose dictionaries ignore unknown members": /^(?:new )?WebTransport/,
  "members of features, which Skein calls itself": /^(?:Mounted\.|MoqServer\.mount$)/,
  "hooks of React, whose options go to the client": /^(?:SkeinHooks\.|createHooks$)/,
};

/** The part of the output of `deno doc --json` that the test reads. */
interface Documented {
  readonly nodes: Readonly<Record<string, { readonly symbols: readonly DocSymbol[] }>>;
}

interface DocSymbol {
  readonly name: string;
  readonly declarations: readonly { readonly kind: string; readonly def?: DocDefinition }[];
}

interface DocDefinition {
  readonly params?: readonly DocParam[];
  readonly constructors?: readonly { readonly params: readonly DocParam[] }[];
  readonly methods?: readonly {
    readonly name: string;
    readonly params?: readonly DocParam[];
    readonly functionDef?: { readonly params: readonly DocParam[] };
  }[];
}

interface DocParam {
  readonly name?: string;
  readonly kind: string;
  readonly left?: DocParam;
  readonly tsType?: { readonly repr?: string };
}

/** True for a parameter with options, by its name or type. */
function isOptions(param: DocParam): boolean {
  const { name = "", kind, tsType } = param.left ?? param;
  return name === "options" || kind === "object" || /Options$/.test(tsType?.repr ?? "");
}

/**
 * Lists the public calls with options. It reads them from the output of `deno doc` for all entry
 * points.
 */
async function publicCalls(): Promise<Set<string>> {
  const root = new URL("../", import.meta.url);
  const { exports } = await readRepository(root);
  const calls = new Set<string>();
  const add = (name: string, params: readonly DocParam[] = []) => {
    if (params.some(isOptions)) calls.add(name);
  };
  const args = ["doc", "--json", ...new Set(Object.values(exports))];
  const { stdout } = await new Deno.Command(Deno.execPath(), { args, cwd: root }).output();
  const { nodes }: Documented = JSON.parse(new TextDecoder().decode(stdout));
  for (const { symbols } of Object.values(nodes)) {
    for (const { name, declarations } of symbols) {
      for (const { kind, def } of declarations) {
        if (kind === "function") add(name, def?.params);
        for (const { params } of def?.constructors ?? []) add(`new ${name}`, params);
        for (const method of def?.methods ?? []) {
          add(`${name}.${method.name}`, method.params ?? method.functionDef?.params);
        }
      }
    }
  }
  return calls;
}

Deno.test("Each public call with options is in one of the tables", async () => {
  const known = new Set([...Object.keys(FUNCTIONS), ...Object.keys(METHODS)]);
  const reasons = Object.values(EXEMPT);
  const missing = [...await publicCalls()].filter((name) =>
    !known.has(name) && !reasons.some((pattern) => pattern.test(name))
  );
  assertEquals(missing, []);
});
