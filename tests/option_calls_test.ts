/**
 * Options of every public function and method: an unknown name is an error at each, and a value of
 * another type at each option of clients and sessions. The compiler ties each table of kinds to its
 * interface, and `base/option_checks_test.ts` has the kinds.
 */
import { assert, assertEquals, assertRejects } from "@std/assert";
import { CLIENT_KINDS } from "../client/call_checks.ts";
import { type Client, connect, createServer, dial, serve } from "../mod.ts";
import { SessionManager } from "../manager/mod.ts";
import {
  connectMoq,
  dialMoq,
  listenMoq,
  LiveBroadcast,
  LiveTrack,
  MoqClient,
  MoqCluster,
  MoqRelay,
  MoqServer,
  TrackMux,
} from "../pubsub/moq/mod.ts";
import { MemoryBroker, Presence, Rooms, Topics } from "../pubsub/mod.ts";
import { NatsBroker } from "../pubsub/nats/mod.ts";
import { RedisBroker } from "../pubsub/redis/mod.ts";
import { SqliteBroker } from "../pubsub/sqlite/mod.ts";
import { DurableStreamsHandler, serveWorkers } from "../server.ts";
import { Inspector } from "../server/inspector/mod.ts";
import { jwt } from "../server/jwt.ts";
import { sessionSettings } from "../session/mod.ts";
import { msgpackCodec } from "../session/streams/msgpack.ts";
import { otel } from "../telemetry/otel.ts";
import { memorySessions, TestServer, testServer } from "../testing/mod.ts";
import { readRepository } from "../tools/arrows.ts";
import { devCertificate, memoryPair } from "../transport/mod.ts";
import { hardenedWebSocket } from "../transport/hardened/mod.ts";

/** Functions and constructors. Without the check, some would start what no test can stop. */
const FUNCTIONS: Readonly<Record<string, (options: never) => unknown>> = {
  connect: (options) => connect("ws://127.0.0.1:1", options),
  connectMoq: (options) => connectMoq("https://127.0.0.1:1", options),
  createServer,
  devCertificate,
  dial: (options) => dial("ws://127.0.0.1:1", options),
  dialMoq: (options) => dialMoq("https://127.0.0.1:1", options),
  hardenedWebSocket,
  jwt,
  listenMoq,
  memoryPair,
  memorySessions,
  msgpackCodec,
  otel,
  serve,
  serveWorkers: (options) => serveWorkers(new URL("file:///none.ts"), options),
  sessionSettings,
  testServer,
  "new Client": (options) => connect("ws://127.0.0.1:1", options),
  "new DurableStreamsHandler": (options) => new DurableStreamsHandler(options),
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
  readonly server: TestServer<string>;
  readonly session: ReturnType<TestServer["manager"]["all"]>[number];
}

type Methods = Readonly<Record<string, (objects: Objects, options: never) => unknown>>;

const METHODS: Methods = {
  "Client.durableStream": ({ client }, options) => client.durableStream("a", options),
  "Client.flushed": ({ client }, options) => client.flushed(options),
  "Client.handOver": ({ client }, options) => client.handOver(options),
  "Client.presence": ({ client }, options) => client.presence("a", 1, options),
  "Client.publish": ({ client }, options) => client.publish("a", 1, options),
  "Client.request": ({ client }, options) => client.request("a", 1, options),
  "Client.requestStream": ({ client }, options) => client.requestStream("a", 1, options),
  "Client.subscribe": ({ client }, options) => client.subscribe("a", options),
  "Client.whenConnected": ({ client }, options) => client.whenConnected(options),
  "DurableStreams.create": ({ server }, options) => server.durableStreams.create("a", options),
  "DurableStreams.follow": ({ server }, options) =>
    server.durableStreams.follow("a", options).next(),
  "DurableStreams.read": ({ server }, options) => server.durableStreams.read("a", options).next(),
  "Presence.enter": ({ server, session }, options) => server.presence.enter(session, "a", options),
  "Presence.leave": ({ server, session }, options) => server.presence.leave(session, "a", options),
  "Presence.update": ({ server, session }, options) =>
    server.presence.update(session, "a", options),
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
  "Session.drain": ({ session }, options) => session.drain(options),
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
  "SessionManager.admitSocket": ({ server }, options) => server.manager.admitSocket(options),
  "SessionManager.closeAll": ({ server }, options) => server.manager.closeAll(options),
  "SessionManager.diagnostics": ({ server }, options) => server.manager.diagnostics(options),
  "SessionManager.drain": ({ server }, options) => server.manager.drain(options),
  "SessionManager.issues": ({ server }, options) => server.manager.issues(options),
  "SessionManager.shutdown": ({ server }, options) => server.manager.shutdown(options),
  "TestServer.connect": ({ server }, options) => server.connect(options),
  "TestServer.dial": ({ server }, options) => server.dial(options),
  "TestServer.open": ({ server }, options) => server.open(options),
  "Topics.append": ({ server }, options) => server.topics.append("a", 1, options),
  "Topics.leaveAll": ({ server, session }, options) => server.topics.leaveAll(session, options),
  "Topics.publish": ({ server }, options) => server.topics.publish("a", 1, options),
  "Topics.read": ({ server }, options) => server.topics.read("a", options).next(),
  "Topics.subscribe": ({ server, session }, options) =>
    server.topics.subscribe(session, "a", options),
  "Topics.unsubscribe": ({ server, session }, options) =>
    server.topics.unsubscribe(session, "a", options),
};

/** Runs a body with a server, a client and its session on the server. */
async function withObjects(body: (objects: Objects) => Promise<void>): Promise<void> {
  await using server = testServer<string>({
    authenticate: () => "ann",
    authorize: () => true,
    durableStreams: { path: "/streams" },
    rooms: ["a"],
  });
  await using client = server.connect();
  await client.whenConnected();
  const [session] = server.manager.all();
  await body({ client, server, session: session! });
}

/** Expects a TypeError, thrown or as a rejection. */
async function assertRefused(name: string, call: () => unknown, text: string): Promise<void> {
  const error = await assertRejects(async () => await call(), TypeError, undefined, name);
  assert(error.message.includes(text), `${name}: ${error.message}`);
}

Deno.test("Each public function with options rejects an unknown name, and options that are none", async () => {
  await withObjects(async (objects) => {
    const bound = Object.entries(METHODS).map(([name, call]) =>
      [name, (options: never) => call(objects, options)] as const
    );
    for (const [name, call] of [...Object.entries(FUNCTIONS), ...bound]) {
      const unknown = { unknownOption: 1 } as never;
      await assertRefused(name, () => call(unknown), 'known keys, received "unknownOption"');
      await assertRefused(
        name,
        () => call(7 as never),
        "options must be of type object, received 7",
      );
    }
  });
});

Deno.test("Client.subscribe() names the loop when it gets a callback", async () => {
  await withObjects(async ({ client }) => {
    await assertRefused("a", () => client.subscribe("a", (() => {}) as never), "for await");
  });
});

/** A value of no kind. */
const WRONG = Symbol("wrong");

/** Options that the platform of a client checks first, by rules of their own. */
const PLATFORM: ReadonlySet<string> = new Set(["headStartMs", "transports"]);

/** Lists all options of a table, with the nested ones. */
function* optionsOf(kinds: object, path: readonly string[] = []): Generator<readonly string[]> {
  for (const [name, kind] of Object.entries(kinds)) {
    if (kind === 0) continue;
    yield [...path, name];
    const isNested = typeof kind === "object" && !Array.isArray(kind);
    if (isNested) yield* optionsOf(kind, [...path, name]);
  }
}

Deno.test("Each option of clients rejects a value of another type", async () => {
  await withObjects(async ({ client, session }) => {
    const calls: Partial<Record<keyof typeof CLIENT_KINDS, (options: never) => unknown>> = {
      connect: FUNCTIONS.connect!,
      dial: FUNCTIONS.dial!,
      "hand over": (options) => client.handOver(options),
      publish: (options) => client.publish("a", 1, options),
      "read stream": (options) => client.durableStream("a", options),
      request: (options) => client.request("a", 1, options),
      "request stream": (options) => client.requestStream("a", 1, options),
      subscribe: (options) => client.subscribe("a", options),
      authenticate: (options) => session.authenticate("a", options),
      close: (options) => session.close(options),
      drain: (options) => session.drain(options),
      "open stream": (options) => session.createBidirectionalStream(options),
      "session.request": (options) => session.request("a", 1, options),
      "session.request stream": (options) => session.requestStream("a", 1, options),
      "session.subscribe": (options) => session.subscribe("a", options),
      "set presence": (options) => client.presence("a", 1, options),
      unsubscribe: (options) => session.unsubscribe("a", options),
      wait: (options) => client.whenConnected(options),
    };
    assertEquals(new Set(Object.keys(calls)), new Set(Object.keys(CLIENT_KINDS)));
    for (const [call, run] of Object.entries(calls)) {
      for (const path of optionsOf(CLIENT_KINDS[call as keyof typeof CLIENT_KINDS])) {
        const options = path.reduceRight<unknown>((value, name) => ({ [name]: value }), WRONG);
        if (PLATFORM.has(path[0]!)) continue;
        await assertRefused(`${call} ${path}`, () => run(options as never), path.at(-1)!);
      }
    }
  });
});

/**
 * Calls without a check of their own, each with the reason. A new public call with options needs an
 * entry above, or a reason here.
 */
const EXEMPT: Readonly<Record<string, RegExp>> = {
  "the contract of brokers, connections and engines, which Skein calls itself":
    /^(?:\w*Broker\w*|Connection|DirectStreams|WebSocketHost|WebTransportRequest|MemoryLink|BrokerLogs|Nodes|WorkerNode)\.|^new Nodes$|^testBroker$/,
  "options of Error, which the language defines": /^new \w*Error$/,
  "parts of a session that are made by Skein":
    /^new (?:DurableStreamWriter|EventLoop|Host|Subscription|Track\w+|Group\w+|Resumable\w+|Moq\w*Session|BitrateMonitor|\w*Listener|Workers)$/,
  "calls whose only options are a signal or one flag":
    /^(?:AnnouncementReader|BitrateMonitor|DurableStreamWriter|Group\w+|Host|Live\w+|MoqClient|MoqServer|MoqSession|ResumableAnnouncements|ResumableTrack|SimulatedLink|SimulatedNetwork|SimulatedRedis|SimulatedServer|SqliteBroker|TestNetwork|TrackMux|Track\w+|Workers|Session)\.|^(?:relayNotices|assertNoLeaks|watchLeaks|nextEvent|receive|receiveOne)$/,
  "connections below sessions, and engines of simulations, with checks of their values":
    /^(?:acceptWebSocket|acceptNativeWebTransport|dialQuic|dialWebSocket|dialWebTransport|listenQuic|listenWebTransport|openUnidirectional|withMessages|simulate|simulatedClient|timeline)$|^new Simulated\w+$|^Simulated\w+\.|^new SimulatedServer$/,
  "data of observers, not options":
    /^(?:prometheusText|RequestWatch\.|SessionEvents\.|Telemetry\.)/,
  "a definition, checked by its compiler": /^defineContract$/,
  "the class of the W3C, whose dictionaries ignore unknown members": /^(?:new )?WebTransport/,
  "hooks of React, whose options go to the client": /^SkeinHooks\./,
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

/** Returns true for a parameter with options, by its name or its type. */
function isOptions(param: DocParam): boolean {
  const { name = "", kind, tsType } = param.left ?? param;
  return name === "options" || kind === "object" || /Options$/.test(tsType?.repr ?? "");
}

/** Lists the public calls that take options, by `deno doc` of all entries. */
async function publicCalls(): Promise<Set<string>> {
  const root = new URL("../", import.meta.url);
  const { exports } = await readRepository(root);
  const calls = new Set<string>();
  const add = (name: string, params: readonly DocParam[] = []) => {
    if (params.some(isOptions)) calls.add(name);
  };
  const outputs = await Promise.all(
    Object.values(exports).map(async (path) => {
      const args = ["doc", "--json", path];
      const { stdout } = await new Deno.Command(Deno.execPath(), { args, cwd: root }).output();
      return JSON.parse(new TextDecoder().decode(stdout)) as Documented;
    }),
  );
  for (const { symbols } of outputs.flatMap(({ nodes }) => Object.values(nodes))) {
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
