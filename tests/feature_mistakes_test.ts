/**
 * Tests the errors for mistakes with features: wrong options, a feature that is not called, mounted
 * twice, used too early, or missing. Each error names what the user wrote, and the remedy.
 *
 * @module
 */
import { assertEquals, assertRejects, assertThrows } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { z } from "zod";
import {
  type Client,
  defineContract,
  type Feature,
  RequestError,
  type ServerOptions,
  type Session,
} from "../mod.ts";
import { dialMoq, MoqServer } from "../moq/mod.ts";
import { httpApi } from "../operations/http_api/mod.ts";
import { inspector, metrics } from "../operations/mod.ts";
import { otel } from "../operations/otel/otel.ts";
import { createServer, serve } from "../server.ts";
import { defineMutations } from "../session/mutations/mod.ts";
import { durableStreams, DurableStreamsHandler, liveState, resumable } from "../streams/mod.ts";
import { testServer } from "../testing/mod.ts";
import { captureConsole } from "./console_lines.ts";
import { soon } from "./waiting.ts";

/**
 * The features, by the code that creates one. A feature that is also a handle belongs to one server;
 * the others can be in options that several servers share.
 */
const FEATURES: Readonly<
  Record<string, { readonly create: (options?: object) => Feature; readonly isHandle: boolean }>
> = {
  "durableStreams()": { create: durableStreams, isHandle: true },
  "liveState()": { create: (contract) => liveState(contract as never), isHandle: true },
  "resumable()": { create: resumable, isHandle: false },
  "metrics()": { create: metrics, isHandle: false },
  "inspector()": { create: inspector, isHandle: false },
  "httpApi()": { create: (options) => httpApi({ path: "/api", ...options }), isHandle: false },
  "otel()": { create: otel, isHandle: true },
  "new MoqServer()": { create: (options) => new MoqServer(options), isHandle: true },
};

const contract = defineContract({
  requests: { ask: { input: z.string(), stream: z.string(), resume: true } },
});

/** The entry of a hall in a contract's section `state`, with mistakes. */
const hall = (mistakes: object = {}) => ({
  collections: { seats: z.string() },
  mutations: { claimSeat: z.string() },
  ...mistakes,
});

const halls = (state: object) => defineContract({ state: state as Record<string, never> });
const claims = halls({ "hall:{id}": hall() });
const functions = { claimSeat() {} } as never;

/** Makes a server that replaces mutations. */
const replacing = (mutations: unknown, options?: object) =>
  createServer({
    contract: claims,
    features: [liveState(claims, options)],
    mutations: mutations as never,
  });

/** Mistakes, each with the message of the error. */
const MISTAKES: Readonly<Record<string, () => unknown>> = {
  'Cannot create durableStreams(): unknown option "maxStream"; did you mean "maxStreams"?': () =>
    durableStreams({ maxStream: 1 } as object),
  "Cannot create durableStreams(): maxStreams must be a positive integer, received 0": () =>
    durableStreams({ maxStreams: 0 }),
  "Cannot create durableStreams(): tail.ms must be an integer from 1 to 3153600000000, received 0.5":
    () => durableStreams({ tail: { records: 1, ms: 0.5, bytes: 1 } }),
  "Cannot create durableStreams(): keep.records must be a number, received undefined": () =>
    durableStreams({ keep: { bytes: 1 } as never }),
  'Cannot create durableStreams(): cache must be "private" or "public", received "shared"': () =>
    durableStreams({ cache: "shared" as never }),
  'Cannot create durableStreams(): path must be spelled as in a URL, such as "/a", without a trailing slash, received "/a/"':
    () => durableStreams({ path: "/a/" }),
  "Cannot create DurableStreamsHandler: broker must be a Broker, received undefined": () =>
    new DurableStreamsHandler({ path: "/a" } as never),
  "Cannot create DurableStreamsHandler: path must be a string, received undefined": () =>
    new DurableStreamsHandler({} as never),
  "Cannot create liveState(): contract must be made by defineContract(), received Object": () =>
    liveState({ contract } as never),
  "Cannot mount liveState(contract): the server has no contract; write serve({ contract, features: [liveState(contract)] })":
    () => createServer({ features: [liveState(contract)] }),
  'Cannot use the state "hall:{id}" of the contract: writes must be "rows" or "mutations", received "mutation"':
    () => liveState(halls({ "hall:{id}": hall({ writes: "mutation" }) })),
  'Cannot use the state "hall:{id}" of the contract: a mutation must have the name of a function, received "then"':
    () => liveState(halls({ "hall:{id}": hall({ mutations: { then: z.string() } }) })),
  'Cannot use the state "hall:{id}" of the contract: "claimSeat" must have a schema, received a function':
    () => liveState(halls({ "hall:{id}": hall({ mutations: { claimSeat() {} } }) })),
  'Cannot use the state "room:{id}" of the contract: no other state may have this mutation, received "claimSeat"':
    () => liveState(halls({ "hall:{id}": hall(), "room:{id}": hall() })),
  "Cannot mount liveState(): a server that replaces mutations needs liveState(contract, { mutations })":
    () => replacing(functions),
  'Cannot mount liveState(): the contract has no mutation "claimSeats", which the server replaces':
    () => replacing({ claimSeats() {} }, { mutations: defineMutations(claims, functions) }),
  'Cannot mount liveState(): the server\'s mutation "claimSeat" must be a function, received 1':
    () => replacing({ claimSeat: 1 }, { mutations: defineMutations(claims, functions) }),
  "Cannot mount liveState(): the option mutations of the server has the functions to replace; pass the result of defineMutations() to liveState(contract, { mutations })":
    () => replacing(defineMutations(claims, functions)),
  'Cannot create resumable(): maxRunning must be a number, received "1"': () =>
    resumable({ maxRunning: "1" as never }),
  "Cannot create resumable(): retainMs must be an integer from 1 to 3153600000000, received -1":
    () => resumable({ retainMs: -1 }),
  'Cannot create metrics(): path must be spelled as in a URL, such as "/a", without a trailing slash, received "a"':
    () => metrics({ path: "a" }),
  "Cannot create metrics(): path must not be that of the health check, /healthz": () =>
    metrics({ path: "/healthz" }),
  "Cannot create inspector(): payloads must be a boolean, received 1": () =>
    inspector({ payloads: 1 as never }),
  "Cannot create httpApi(): path must be a string, received undefined": () => httpApi({} as never),
  "Cannot create httpApi(): rate.perSecond must be above 0, received 0": () =>
    httpApi({ path: "/api", rate: { perSecond: 0 } }),
  'Cannot create otel(): remoteTraces must be "continue" or "link", received "both"': () =>
    otel({ remoteTraces: "both" as never }),
  "Cannot create server: features must be objects, received the function metrics; write metrics()":
    () => createServer({ features: [metrics as never] }),
  "Cannot create server: features must be objects, received the function MoqServer; write new MoqServer()":
    () => createServer({ features: [MoqServer as never] }),
  "Cannot create server: features[0] must have a method mount, received undefined": () =>
    createServer({ features: [{ name: "own" } as never] }),
  'Cannot create server: the contract has resume for requests["ask"], so its handler must be { resumable, handle }, with resumable imported from "@skein/skein/streams"':
    () => createServer({ contract, requests: { ask: (() => {}) as never } }),
  'Cannot create server: resumable of requests["ask"] must be the function that "@skein/skein/streams" exports, received true':
    () => createServer({ requests: { ask: { resumable: true, handle() {} } as never } }),
  'Cannot create server: resumable of requests["ask"] must be the function that "@skein/skein/streams" exports, received undefined':
    () => createServer({ requests: { ask: { handle() {}, resume() {} } as never } }),
};

for (const [message, make] of Object.entries(MISTAKES)) {
  Deno.test(message, () => {
    assertEquals(assertThrows(make, Error).message, message);
  });
}

for (const [call, { create, isHandle }] of Object.entries(FEATURES)) {
  const servers = isHandle ? "another server" : "no other server";
  Deno.test(`${call} rejects an unknown option, and ${servers}`, async () => {
    assertThrows(() => create({ unknown: 1 }), TypeError, "Cannot ");
    const features = [create()];
    await using _one = createServer({ features });
    if (isHandle) {
      const { message } = assertThrows(() => createServer({ features }), TypeError);
      assertEquals(
        message,
        `Cannot mount ${call}: it belongs to one server; create another with ${call}`,
      );
    } else {
      await using _two = createServer({ features });
    }
  });
}

for (const [call, { create }] of Object.entries(FEATURES)) {
  Deno.test(`${call} can be passed on if a server could not start`, async () => {
    const failing: Feature = {
      name: "failing",
      mount() {
        throw new Error("The disk is full");
      },
    };
    const features = [create()];
    const options = { onListen() {}, hostname: "127.0.0.1" };
    await using other = Deno.serve({ ...options, port: 0 }, () => new Response());
    const { port } = other.addr;
    assertThrows(() => serve({ ...options, port, features }), Deno.errors.AddrInUse);
    assertThrows(() => createServer({ features: [...features, failing] }), Error, "disk is full");
    {
      await using _server = serve({ ...options, port: 0, features });
    }
  });
}

Deno.test("The handles of features work on a server after one that could not start", async () => {
  const [streams, states, moq] = [durableStreams(), liveState(), new MoqServer()];
  const features = [streams, states, moq];
  const options = { onListen() {}, hostname: "127.0.0.1", features };
  await using other = Deno.serve({ ...options, port: 0 }, () => new Response());
  assertThrows(() => serve({ ...options, port: other.addr.port }), Deno.errors.AddrInUse);
  await assertRejects(() => streams.create("a"), TypeError, "it has no server yet");
  assertEquals(moq.webSocketUrl, "");

  await using server = serve({ ...options, port: 0 });
  await using _writer = await streams.create("a");
  await using state = await states.open("b");
  assertEquals(state.id, "b");
  assertEquals(moq.webSocketUrl, server.url);
  await using session = await dialMoq(moq.webSocketUrl);
  await session.close();
});

Deno.test("The handles of features without a server name the remedy", async () => {
  const uses: Readonly<Record<string, () => Promise<unknown>>> = {
    "durableStreams()": () => durableStreams().create("a"),
    "liveState()": () => liveState().open("a"),
  };
  for (const [call, use] of Object.entries(uses)) {
    const { message } = await assertRejects(use, TypeError);
    assertEquals(
      message,
      `Cannot use ${call}: it has no server yet; pass it to serve({ features: [...] })`,
    );
  }
});

Deno.test("A server without streams names their import when a client uses a stream or a state", async () => {
  using printed = captureConsole();
  const options: ServerOptions = {
    authorize: () => true,
    requests: {
      ask: async function* () {
        yield 1;
      },
    },
  };
  await using server = testServer(options);
  await using client = server.connect();
  const rejected = async (use: () => Promise<unknown>) =>
    (await assertRejects(use, RequestError)).message;
  assertEquals(
    await rejected(() => Array.fromAsync(client.durableStream("a"))),
    "This server has no durable streams",
  );
  assertEquals(
    await rejected(async () => await (await client.state("board")).ready),
    'There is no state "board": call states.open("board") of liveState() on the server; ' +
      "if its contract has states, the id must fit one of their patterns",
  );
  assertEquals(
    await rejected(() =>
      Array.fromAsync(client.requestStream("ask", 1, { id: "0123456789abcdef" }))
    ),
    'The response to "ask" is not resumable: leave out id, or write the handler as ' +
      '{ resumable, handle }, with resumable imported from "@skein/skein/streams"',
  );
  assertEquals(printed.lines, [
    'Skein: A client asked for the durable stream or state "stream:a". Pass it in features: ' +
    'import { durableStreams, liveState } from "@skein/skein/streams"',
  ]);
});

Deno.test("Reading a durable stream rejects a wrong id or offset, by the caller's option", async () => {
  const streams = durableStreams();
  await using server = testServer({ features: [streams], authorize: () => true });
  await using writer = await streams.create("log");
  await writer.append(1);
  await using client = server.connect();
  const messageOf = async (read: AsyncIterable<unknown>) =>
    (await assertRejects(() => Array.fromAsync(read), Error)).message;
  const { offset } = writer;
  for (const after of ["zzz", "5", "-2", `${offset}x`, ` ${offset}`]) {
    const message =
      `Cannot read "log": after must be -1, now or an offset of the stream, received "${after}"`;
    assertEquals(await messageOf(client.durableStream("log", { after })), message);
    assertEquals(await messageOf(streams.read("log", { after })), message);
  }
  assertEquals(
    await messageOf(client.durableStream(undefined!)),
    "Cannot read stream: id must be a string, received undefined",
  );
  await assertRejects(
    () => streams.create({} as never),
    TypeError,
    "Cannot use stream: id must be a string, received Object",
  );
  await writer.close();
  assertEquals(await Array.fromAsync(client.durableStream("log", { after: offset })), []);
  assertEquals(await Array.fromAsync(client.durableStream("log", { after: "-1" })), [1]);
});

const board = defineContract({
  requests: {
    sum: { input: z.number(), output: z.number() },
    list: { input: z.number(), stream: z.number() },
  },
  toClient: { news: z.number() },
  presence: { "room:{name}": z.number() },
  state: { "board:{id}": { collections: { cards: z.string() }, mutations: { pin: z.number() } } },
});

const missingState = (id: string) => `There is no state "board:${id}": call states.open(`;

/** Uses of features that a server does not have, each with the beginning of the error. */
const USES: Readonly<
  Record<string, readonly [use: (client: Client<typeof board>) => unknown, error: string]>
> = {
  "request()": [(client) => client.request("sum", 1), 'No request handler for "sum": add it'],
  "request() with retry": [
    (client) => client.request("sum", 1, { retry: true }),
    'No request handler for "sum": add it',
  ],
  "requestStream()": [
    (client) => Array.fromAsync(client.requestStream("list", 1)),
    'No request handler for "list": add it',
  ],
  "requestStream() with an id": [
    (client) => Array.fromAsync(client.requestStream("list", 1, { id: "0123456789abcdef" })),
    'The response to "list" is not resumable',
  ],
  "publish()": [
    (client) => client.publish("news", 1),
    'This session may not publish on "news": the server has no authorize',
  ],
  "publish() at least once": [
    (client) => client.publish("news", 1, { delivery: "at-least-once" }),
    'This session may not publish on "news": the server has no authorize',
  ],
  "subscribe()": [
    (client) => client.subscribe("news").ready,
    'This session may not subscribe to "news": the server has no authorize',
  ],
  "members()": [
    (client) => Array.fromAsync(client.members("room:tea")),
    'This session may not subscribe to "room:tea": the server has no authorize',
  ],
  "presence()": [
    (client) => client.presence("room:tea", 1),
    'This session may not be present with data in "room:tea": the server has no authorize',
  ],
  "durableStream()": [
    (client) => Array.fromAsync(client.durableStream("log")),
    "This server has no durable streams",
  ],
  "state()": [async (client) => (await client.state("board:1")).ready, missingState("1")],
  "state(), and a row": [
    async (client) => (await client.state("board:2")).collection("cards").set("a", "b"),
    missingState("2"),
  ],
  "state(), and a mutation": [
    async (client) => (await client.state("board:3")).mutate.pin(1),
    missingState("3"),
  ],
};

/** The errors of the same uses if the server has `authorize`, which allows everything. */
const ALLOWED: Readonly<Record<string, string | undefined>> = {
  "publish()": undefined,
  "publish() at least once": undefined,
  "subscribe()": undefined,
  "members()": undefined,
  "presence()": '"room:tea" is not a room: no pattern of the server\'s rooms fits',
};

for (const isAllowed of [false, true]) {
  const server = isAllowed ? "a server with only authorize" : "a server without options";
  Deno.test(`A client of ${server} waits for no timeout`, async () => {
    using _printed = captureConsole();
    await using server = testServer<unknown, typeof board>(
      isAllowed ? { authorize: () => true } : {},
    );
    await using client = server.connect({
      contract: board,
      requestTimeoutMs: 3_600_000,
    });
    await Promise.all(
      Object.entries(USES).map(async ([name, [use, denied]]) => {
        const text = isAllowed && name in ALLOWED ? ALLOWED[name] : denied;
        if (text === undefined) return;
        const run = async () => await use(client);
        const { message } = await soon(assertRejects(run, RequestError, undefined, name));
        assertEquals(message.slice(0, text.length), text, name);
      }),
    );
  });
}

Deno.test("A session whose side has neither requests nor a loop rejects requests after 5 s", async () => {
  using time = new FakeTime();
  const sessions: Session[] = [];
  await using server = testServer({ onOpen: (session) => void sessions.push(session as Session) });
  await using client = server.connect();
  const asked = [
    client.request("ask"),
    (await client.whenConnected(), sessions[0]!.request("ask")),
  ];
  const errors = Promise.all(asked.map((reply) => assertRejects(() => reply, RequestError)));
  await time.tickAsync(5_000);
  assertEquals((await errors).map(({ message }) => message), [
    'No request handler for "ask": add it to the option requests of the server',
    'No request handler for "ask": add it to the option requests of the client',
  ]);
});
