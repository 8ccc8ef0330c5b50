/**
 * Tests options and arguments of a wrong shape, or none, as newcomers write them. They cause an
 * error at the start or one console line.
 */
import { assert, assertEquals, assertMatch, assertRejects, assertThrows } from "@std/assert";
import {
  connect,
  createServer,
  defineContract,
  dial,
  type ServerOptions,
  SessionClosedError,
} from "../mod.ts";
import * as page from "../client.ts";
import { NatsBroker } from "../brokers/nats/mod.ts";
import { RedisBroker } from "../brokers/redis/mod.ts";
import { SqliteBroker } from "../brokers/sqlite/mod.ts";
import * as slim from "../client/page/slim.ts";
import { keptIn } from "../client/store/mod.ts";
import { MemoryBroker } from "../pubsub/mod.ts";
import { defineMutations } from "../session/mutations/mod.ts";
import { testServer } from "../testing/mod.ts";
import { readRepository } from "../tools/arrows.ts";
import { dialWebTransport } from "../transport/mod.ts";
import { captureConsole } from "./console_lines.ts";
import { until } from "./waiting.ts";
import { z } from "zod";

const asked = defineContract({ requests: { ask: { input: z.string(), output: z.string() } } });

Deno.test("createServer() throws if options have a wrong shape", () => {
  const cases: [options: object, text: string][] = [
    [{ history: ["chat"] }, "history must be an object, received an array"],
    [
      { history: { "chat:*": {} } },
      "Cannot create server: a pattern has parameters such as {name}, and no *",
    ],
    [{ rooms: "room:{name}" }, "rooms must be an array or an object, received a string"],
    [
      { rooms: ["room:*"] },
      "Cannot create server: a pattern has parameters such as {name}, and no *",
    ],
    [{ requests: { "sum:*": () => 1 } }, "a pattern has parameters such as {name}, and no *"],
    [{ authorize: true }, "authorize must be a function, received true"],
    [
      { broker: Promise.resolve(new MemoryBroker()) },
      "broker must be a Broker, received Promise; await it",
    ],
    [{ cors: { origin: "*" } }, `unknown option "cors"; socket.io's "cors" is origins`],
  ];
  for (const [options, text] of cases) {
    const error = assertThrows(() => createServer(options as ServerOptions), TypeError);
    assertEquals(error.message.includes(text), true, error.message);
  }
  assertThrows(() => defineContract({ toClient: { "chat:*": z.string() } }), TypeError, "no *");
});

Deno.test("Client.subscribe() throws for a negative last", async () => {
  await using server = testServer();
  await using client = server.connect();
  assertThrows(
    () => client.subscribe("a", { last: -1 }),
    RangeError,
    "last must be an integer",
  );
  assertThrows(
    () => client.subscribe("a", { last: 0.5 }),
    RangeError,
    "last must be an integer",
  );
});

Deno.test("A subscription with last prints one line if its topic has no history", async () => {
  using printed = captureConsole();
  await using server = testServer({ authorize: () => true, history: { "kept:{name}": {} } });
  await using client = server.connect();
  for (const topic of ["a", "a", "kept:a"]) {
    const subscription = client.subscribe(topic, { last: 5 });
    await subscription.ready;
    await subscription.unsubscribe();
  }
  assertEquals(printed.lines.length, 1);
  assertMatch(printed.lines[0]!, /subscribed to "a" with last: 5, and the topic has no history/);
});

/** Handlers that no side can use, each with the rest of the error. */
const HANDLERS: readonly (readonly [options: object, text: string])[] = [
  [
    { requests: { ask: 5 } },
    'requests["ask"] must be a function, or an object with handle, and resumable or cost, received 5',
  ],
  [
    { requests: { other: () => 1 }, contract: asked },
    'the contract has no request for requests["other"]',
  ],
];

Deno.test("createServer(), connect() and dial() throw for request handlers of a wrong shape", async () => {
  for (const [options, text] of HANDLERS) {
    const message = `Cannot handle requests: ${text}`;
    assertThrows(() => createServer(options), TypeError, message);
    assertThrows(() => connect("ws://127.0.0.1:1", options), TypeError, message);
    await assertRejects(() => dial("ws://127.0.0.1:1", options), TypeError, message);
  }
});

Deno.test("A client in a page closes if its request handlers have a wrong shape, and does not retry", async () => {
  for (const [options, text] of HANDLERS) {
    using printed = captureConsole();
    const client = page.connect("ws://127.0.0.1:1", options);
    const { cause } = await assertRejects(() => client.whenConnected(), SessionClosedError);
    const message = `Cannot handle requests: ${text}`;
    assertEquals([client.status.current.name, (cause as Error).message], ["closed", message]);
    await until(() => printed.lines.length > 0);
    assertEquals(printed.lines, [`Skein: The client has ended: ${message}`]);
  }
});

/** Texts of the engine about a value that it cannot use, which name nothing that the user wrote. */
const UNCLEAR =
  /Cannot (?:read propert|destructure|convert|set propert|use 'in')|is not (?:a function|iterable)|Invalid URL/;

/** Exports that the test does not call, each with the reason. */
const UNCALLED: Readonly<Record<string, RegExp>> = {
  "errors, whose arguments are texts": /Error$/,
  "hooks and components of React": /^use[A-Z]|^SkeinProvider$/,
  "parts that Skein creates, exported for their types":
    /^(?:Client|Inspector|Members|Mount|Mutations|Nodes|Session|StatusFeed|Subscription|Workers)$/,
  "parts of MoQ that its sessions create":
    /^(?:Group|Track|Announcement)(?:Reader|Writer)$|^Live(?:Group|Track)$|^Resumable|^MoqSession$/,
  "helpers for streams, connections and requests of a transport":
    /^(?:accept|direct|open|receive)[A-Z]|^isWebSocketUpgrade$/,
  "helpers for clients, servers and errors": /^(?:instrument|moqErrorCode|prometheusText)$/,
  "helpers of the runtime and of presence": /^(?:newId|updateMembers)$/,
  "suites, and helpers of tests":
    /^test(?:Broker|BrokerLogs|Store)$|^(?:assertNoLeaks|checkAfterKill|nextEvent|passTime|playSession|receive|receiveOne|watchLeaks|writeUntilKilled)$/,
};

/** Calls that need no argument, and then use a port or a file. */
const ALONE: ReadonlySet<string> = new Set(["devCertificate", "listenMoq", "serve"]);

/** Calls in pages, which check the names of options but not an object that is `null`. */
const IN_PAGES: ReadonlySet<string> = new Set(["client: webSocket", "client/slim: webSocket"]);

Deno.test("Each public constructor and function names what it needs if called with nothing, null or an unknown option", async () => {
  const root = new URL("../", import.meta.url);
  const { exports } = await readRepository(root);
  const reasons = Object.values(UNCALLED);
  const unclear: string[] = [];
  let calls = 0;
  for (const [entry, path] of Object.entries(exports)) {
    if (entry === "./cli") continue;
    const module: Record<string, unknown> = await import(new URL(path, root).href);
    for (const [name, value] of Object.entries(module)) {
      if (typeof value !== "function" || reasons.some((pattern) => pattern.test(name))) continue;
      const isClass = /^class\b/.test(Function.prototype.toString.call(value));
      for (const args of [[], [null], [{ unknownOption: 1 }]]) {
        const place = `${entry.slice(2)}: ${name}`;
        if (args.length === 0 ? ALONE.has(name) : args[0] === null && IN_PAGES.has(place)) continue;
        calls++;
        try {
          const made: unknown = await (isClass ? Reflect.construct(value, args) : value(...args));
          const { [Symbol.asyncDispose]: close, [Symbol.dispose]: drop } = Object(made);
          await (close ?? drop)?.call(made);
        } catch (error) {
          if (!(error instanceof Error) || UNCLEAR.test(error.message)) {
            unclear.push(`${place}(${JSON.stringify(args).slice(1, -1)}): ${error}`);
          }
        }
      }
    }
  }
  assertEquals(unclear, []);
  assert(calls > 200, `${calls}`);
});

Deno.test("The errors of calls without arguments name what the call needs", async () => {
  const cases: readonly (readonly [call: () => unknown, text: string])[] = [
    [() => connect(undefined as never), "url must start with ws:, wss:, http: or https:"],
    [() => slim.connect("ws://a", undefined as never), "values such as webSocket()"],
    [() => new RedisBroker(undefined as never), "needs { url } or { client }"],
    [() => new RedisBroker("redis://a" as never), "needs { url } or { client }"],
    [() => new NatsBroker(undefined as never), "either servers or a connection is needed"],
    [() => Reflect.construct(SqliteBroker, []), "write await SqliteBroker.open(path)"],
    [() => Reflect.construct(SqliteBroker, ["a.db"]), "write await SqliteBroker.open(path)"],
    [() => SqliteBroker.open(undefined as never), "path must be a file or its URL"],
    [
      () => defineMutations(undefined as never, {}),
      "no state of the contract has mutations; write",
    ],
    [() => keptIn(undefined as never, undefined as never), "user must be the user's id"],
    [() => dialWebTransport(undefined as never), "the URL must be https:"],
  ];
  for (const [call, text] of cases) {
    const { message } = await assertRejects(async () => await call(), TypeError, undefined, text);
    assertEquals([message.slice(0, 7), message.includes(text)], ["Cannot ", true], message);
  }
});
