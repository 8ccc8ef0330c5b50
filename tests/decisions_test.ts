/**
 * Tests the time limits for the application's decisions by letting each callback in the options
 * hang once. The first test fails if a callback is not in any list in this file.
 *
 * @module
 */
import { assert, assertEquals, assertRejects } from "@std/assert";
import { z } from "zod";
import { MemoryBroker, type StandardSchema } from "../mod.ts";
import { connect, dial, SessionClosedError } from "../client.ts";
import { defineContract, serve, type Server } from "../mod.ts";
import type { ServeOptions } from "../server.ts";
import { defineMutations } from "../session/mutations/mod.ts";
import { liveState } from "../streams/mod.ts";
import { DURABLE_STREAMS } from "../streams/options.ts";
import { jwt } from "../server/admission/jwt.ts";
import { SERVE } from "../server/server_options.ts";
import { memorySessions } from "../testing/mod.ts";
import { hurried, RawSocket } from "./servers.ts";
import { soon } from "./waiting.ts";
import { Page } from "./peers/page.ts";
import { inspector, metrics } from "../operations/mod.ts";
import { API } from "../operations/http_api/api_options.ts";
import { INSPECTOR } from "../operations/inspector/inspector.ts";
import { METRICS } from "../operations/metrics/metrics.ts";
import { httpApi } from "../operations/http_api/mod.ts";
import { statesOf, streamFeatures } from "./stream_features.ts";

/** The time limit while a decision hangs, in milliseconds. */
const LIMIT_MS = 60;

/** The time limit for requests afterwards. */
const REQUEST_MS = 4_800;

/** Recognizes the time limits for decisions; some are what is left of half of a request's limit. */
const isLimit = (ms: number) => ms === 10_000 || ms > 2_000 && ms <= REQUEST_MS;

/** The options without a callback. */
const NO_CALLBACK = [
  ...["broker", "tokens.inMessage", "tokens.maxBytes"],
  ...[
    "features",
    "flowControl",
    "history",
    "hosts",
    "http",
    "keepHeaders",
    "limits",
  ],
  ...["includePublisher", "node", "onHandlerError", "origins", "path", "presence"],
  ...["rates", "rooms", "runtime", "session"],
  ...["hostname", "port", "reusePort", "signal", "tls", "webSocket", "webTransport"],
  ...["api.idempotencyWindowMs", "api.maxBodyBytes", "api.maxPublications"],
  ...["api.maxReaders", "api.maxRequests"],
  ...["api.path", "api.rate", "inspector.path", "inspector.payloads"],
  ...["metrics.path"],
  ...Object.keys(DURABLE_STREAMS).filter((key) => key !== "authorize")
    .map((key) => `durableStreams.${key}`),
];

/** Callbacks whose promises the server does not await. */
const NOT_AWAITED = [
  ...[
    "clientAddress",
    "metrics.allow",
    "onError",
    "onListen",
    "onSessionRejected",
  ],
  "onMessageRejected",
];

/** Callbacks that may take any time, because they do the application's work. */
const WITHOUT_LIMIT = ["fetch", "onClose", "onMessage", "onStream", "requests"];

/** A callback whose first call rejects, but only after the time limit. */
class Hang {
  readonly #late = Promise.withResolvers<never>();
  #hasHung = false;
  #isOver = false;

  /** On a busy machine, decisions that don't hang may take longer than those that do. */
  readonly runtime = hurried(LIMIT_MS, (ms) => isLimit(ms) && !this.#isOver);

  /** Returns `result`, except on the first call, which returns a pending promise. */
  decide<T>(result: T): T | Promise<T> {
    if (this.#hasHung) return result;
    this.#hasHung = true;
    return this.#late.promise;
  }

  /** A schema that accepts everything. */
  get schema(): StandardSchema {
    return {
      "~standard": {
        version: 1,
        vendor: "test",
        validate: (value) => this.decide({ value }),
      },
    };
  }

  /** Rejects the promise of the first call, which must have no effect. */
  end(): void {
    this.#isOver = true;
    this.#late.reject(new Error("A result that came too late"));
  }
}

/** Sends an envelope; returns the code or the data of the reply. */
async function replyTo(page: Page, envelope: object): Promise<unknown> {
  const { error, data } = await page.ask(envelope);
  return error?.code ?? data;
}

/** The options of a server whose clients write states. */
const states = () => ({
  broker: new MemoryBroker(),
  features: streamFeatures({ path: "/streams" }),
  authorize: () => true,
});

/** Writes a row of a state; returns the code of the failure, or the version. */
async function writeRow(server: Server<string>, page: Page): Promise<unknown> {
  await using _board = await statesOf(server).open("board");
  const change = { type: "cards", key: "1", value: 1, headers: { operation: "upsert" } };
  const { data } = await page.ask({ publish: "stream:board", data: { writes: [[change]] } });
  const [{ error, version }] =
    (data as { results: [{ error?: { code: string }; version: number }] })
      .results;
  return error?.code ?? version;
}

/** Writes an ephemeral row; returns the code of the failure, or the version. */
async function writeCursor(_server: Server<string>, page: Page): Promise<unknown> {
  await page.ask({ subscribe: "stream:$skein:board" });
  const { data } = await page.ask({
    publish: "stream:board",
    data: { ephemeral: [["cursors", "1", 1]] },
  });
  const [{ error, version }] =
    (data as { results: [{ error?: { code: string }; version: number }] })
      .results;
  return error?.code ?? version;
}

/** The options of a server with one mutation. */
function mutating(
  { input = z.unknown(), act, authorize = () => true }: {
    readonly input?: StandardSchema;
    readonly act?: () => void | Promise<void>;
    readonly authorize?: () => boolean | Promise<boolean>;
  },
): ServeOptions<string> {
  const contract = defineContract({
    state: { board: { collections: { cards: z.number() }, mutations: { act: { input } } } },
  });
  const functions = defineMutations(contract, { act: (tx) => tx.set("cards", "1", 1) });
  return {
    contract,
    features: streamFeatures(
      { path: "/streams", authorize },
      undefined,
      liveState(contract, { mutations: functions }),
    ),
    authorize: () => true,
    ...(act && { mutations: { act } }),
  } as ServeOptions<string>;
}

/** Calls the mutation; returns the code of the failure, or the version. */
async function mutate(_server: Server<string>, page: Page): Promise<unknown> {
  const numbers = { client: "abcdefgh", n: 1, since: 0 };
  const { data } = await page.ask({
    publish: "stream:board",
    data: { mutations: [["act", 1]], ...numbers },
  });
  const [{ error, version }] =
    (data as { results: [{ error?: { code: string }; version: number }] })
      .results;
  return error?.code ?? version;
}

/** A decision that hangs once. */
interface Case {
  /** The key in the options. */
  readonly key: string;
  /** The action, or the schema. */
  readonly of?: string;
  /** Returns options with the callback. */
  readonly options: (hang: Hang) => ServeOptions<string>;
  /** Triggers the decision; returns what the client receives. */
  readonly ask: (server: Server<string>, page: Page) => Promise<unknown>;
  /** The results while the callback hangs and afterwards. */
  readonly expected: readonly [late: unknown, next: unknown];
  /** The name in the session's issue; `undefined` if there is no session. */
  readonly issue?: string;
  readonly token?: string;
}

/** Connects; returns the close code. */
async function codeOf({ url }: Pick<Server, "url">): Promise<unknown> {
  try {
    await using _ = await dial(`${url}?token=ann`);
    return "connected";
  } catch (error) {
    if (error instanceof SessionClosedError) return error.info?.code;
    throw error;
  }
}

async function statusOf(
  { address }: Pick<Server, "address">,
  path: string,
  init?: RequestInit,
): Promise<number> {
  const response = await fetch(`http://127.0.0.1:${address!.port}${path}`, init);
  await response.body?.cancel();
  return response.status;
}

const json = (value: unknown): RequestInit => ({
  method: "POST",
  headers: { "content-type": "application/json" },
  body: JSON.stringify(value),
});

const ACTIONS: Readonly<Record<string, object>> = {
  subscribe: { subscribe: "room" },
  publish: { publish: "room", data: 1 },
  presence: { presence: "room", data: {} },
  cancel: { publish: "stream:one", data: { cancel: "enough" } },
};

const CASES: readonly Case[] = [
  {
    key: "authenticate",
    options: (hang) => ({ authenticate: () => hang.decide("ann") }),
    ask: codeOf,
    expected: [4503, "connected"],
  },
  // A promise is neither a user nor a time, no matter when it settles.
  {
    key: "userOf",
    options: (hang) => ({
      authenticate: ({ token }) => token ?? null,
      userOf: () => hang.decide("ann") as never,
    }),
    ask: codeOf,
    expected: [4503, "connected"],
  },
  {
    key: "tokens.expiresAt",
    options: (hang) => ({
      authenticate: ({ token }) => token ?? null,
      tokens: { expiresAt: () => hang.decide(undefined) as never },
    }),
    ask: codeOf,
    expected: [4503, "connected"],
  },
  ...Object.entries(ACTIONS).map(([action, envelope]): Case => ({
    key: "authorize",
    of: action,
    options: (hang) => ({
      rooms: ["room"],
      broker: new MemoryBroker(),
      features: streamFeatures({ path: "/streams", authorize: () => true }),
      authorize: () => hang.decide(true),
    }),
    ask: (_server, page) => replyTo(page, envelope),
    // There is no stream to cancel.
    expected: ["unavailable", action === "cancel" ? "not-found" : {}],
    issue: "authorize",
  })),
  {
    key: "onOpen",
    options: (hang) => ({ onOpen: () => hang.decide(undefined) }),
    ask: (_server, page) => replyTo(page, { topic: "echo", data: "hi" }),
    // The waiting message is handled.
    expected: ["hi", "hi"],
    issue: "onOpen",
  },
  {
    key: "tokens.onRenewed",
    options: (hang) => ({
      authenticate: ({ token }) => token ?? null,
      tokens: { onRenewed: () => hang.decide(undefined) },
    }),
    token: "ann",
    ask: (_server, page) => replyTo(page, { auth: "ann" }),
    expected: [undefined, undefined],
    issue: "tokens.onRenewed",
  },
  {
    key: "contract",
    of: "a request",
    options: (hang) => ({
      contract: defineContract({ requests: { echo: { input: hang.schema, output: z.any() } } }),
    }),
    ask: (_server, page) => replyTo(page, { topic: "echo", data: "hi" }),
    expected: ["failed", "hi"],
    issue: 'the schema of "echo"',
  },
  {
    key: "contract",
    of: "a message",
    options: (hang) => ({
      contract: defineContract({
        toServer: { say: hang.schema },
        requests: { echo: { input: z.any(), output: z.any() } },
      }),
    }),
    ask: async (_server, page) => {
      void page.ask({ topic: "say", data: "hi" });
      return await replyTo(page, { topic: "echo", data: "hi" });
    },
    expected: ["hi", "hi"],
    issue: 'the schema of "say"',
  },
  {
    key: "contract",
    of: "a publication",
    options: (hang) => ({
      authorize: () => true,
      contract: defineContract({ toClient: { room: hang.schema } }),
    }),
    ask: (_server, page) => replyTo(page, { publish: "room", data: 1 }),
    expected: ["failed", {}],
    issue: "the schema of a publication",
  },
  {
    key: "contract",
    of: "presence",
    options: (hang) => ({
      rooms: ["room"],
      authorize: () => true,
      contract: defineContract({ toClient: { room: z.any() }, presence: { room: hang.schema } }),
    }),
    ask: (_server, page) => replyTo(page, { presence: "room", data: {} }),
    expected: ["failed", {}],
    issue: "the schema of a publication",
  },
  {
    key: "contract",
    of: "a row",
    options: (hang) => ({
      ...states(),
      contract: defineContract({ state: { board: { cards: hang.schema } } }),
    }),
    ask: writeRow,
    expected: ["failed", 1],
    issue: "the schema of a row",
  },
  {
    key: "onPublish",
    options: (hang) => ({ authorize: () => true, onPublish: () => hang.decide(undefined) }),
    ask: (_server, page) => replyTo(page, { publish: "room", data: 1 }),
    expected: ["unavailable", {}],
    issue: "onPublish",
  },
  {
    key: "onPublish",
    of: "a publication of the API",
    options: (hang) => ({
      features: [httpApi({ path: "/api", authorize: () => true })],
      onPublish: () => hang.decide(undefined),
    }),
    ask: (server) => statusOf(server, "/api/topics/room/publications", json({ data: 1 })),
    expected: [503, 200],
  },
  {
    key: "contract",
    of: "the data from onPublish",
    options: (hang) => {
      let calls = 0;
      const room = {
        "~standard": {
          ...hang.schema["~standard"],
          // The first of each two checks is about the data of the client.
          validate: (value: unknown) => ++calls % 2 === 0 ? hang.decide({ value }) : { value },
        },
      };
      return {
        authorize: () => true,
        contract: defineContract({ toClient: { room } }),
        onPublish: ({ data }) => ({ data }),
      };
    },
    ask: (_server, page) => replyTo(page, { publish: "room", data: 1 }),
    expected: ["unavailable", {}],
    issue: "onPublish",
  },
  {
    key: "authorizeChange",
    options: (hang) => ({ ...states(), authorizeChange: () => hang.decide(true) }),
    ask: writeRow,
    expected: ["undecided", 1],
    issue: "authorizeChange",
  },
  {
    key: "authorizeChange",
    of: "an ephemeral row",
    options: (hang) => ({
      ...states(),
      contract: defineContract({
        state: { board: { cursors: { schema: z.number(), ephemeral: true } } },
      }),
      authorizeChange: () => hang.decide(true),
    }),
    ask: writeCursor,
    expected: ["undecided", 1],
    issue: "authorizeChange",
  },
  {
    key: "contract",
    of: "an ephemeral row",
    options: (hang) => ({
      ...states(),
      contract: defineContract({
        state: { board: { cursors: { schema: hang.schema, ephemeral: true } } },
      }),
    }),
    ask: writeCursor,
    expected: ["failed", 1],
    issue: "the schema of a row",
  },
  {
    key: "contract",
    of: "a publication of the API",
    options: (hang) => ({
      features: [httpApi({ path: "/api", authorize: () => true })],
      contract: defineContract({ toClient: { room: hang.schema } }),
    }),
    ask: (server) => statusOf(server, "/api/topics/room/publications", json({ data: 1 })),
    expected: [503, 200],
  },
  {
    key: "mutations",
    options: (hang) => mutating({ act: () => hang.decide(undefined) }),
    ask: mutate,
    expected: ["failed", 0],
    issue: 'the mutation "act"',
  },
  {
    key: "mutations",
    of: "a mutation over HTTP",
    options: (hang) => mutating({ act: () => hang.decide(undefined) }),
    ask: (server) => statusOf(server, "/streams/board?action=mutate&name=act", json(1)),
    expected: [500, 200],
  },
  {
    key: "contract",
    of: "the input of a mutation",
    options: (hang) => mutating({ input: hang.schema }),
    ask: mutate,
    expected: ["failed", 1],
    issue: 'the schema of "act"',
  },
  {
    key: "contract",
    of: "the input of a mutation over HTTP",
    options: (hang) => mutating({ input: hang.schema }),
    ask: (server) => statusOf(server, "/streams/board?action=mutate&name=act", json(1)),
    expected: [500, 200],
  },
  {
    key: "api.authorize",
    options: (hang) => ({
      features: [httpApi({ path: "/api", authorize: () => hang.decide(true) })],
    }),
    ask: (server) => statusOf(server, "/api/stats"),
    expected: [503, 200],
  },
  {
    key: "durableStreams.authorize",
    options: (hang) => ({
      broker: new MemoryBroker(),
      features: streamFeatures({ path: "/streams", authorize: () => hang.decide(true) }),
    }),
    ask: (server) => statusOf(server, "/streams/none"),
    expected: [503, 404],
  },
  {
    key: "durableStreams.authorize",
    of: "a mutation",
    options: (hang) => mutating({ authorize: () => hang.decide(true) }),
    ask: (server) => statusOf(server, "/streams/board?action=mutate&name=act", json(1)),
    expected: [503, 200],
  },
  {
    key: "inspector.authorize",
    options: (hang) => ({ features: [inspector({ authorize: () => hang.decide(true) })] }),
    ask: (server) => statusOf(server, "/inspector/"),
    expected: [503, 200],
  },
];

/** Returns options for all servers. `echo` replies, and timers of 10 seconds may fire early. */
function common(runtime = hurried(LIMIT_MS, isLimit)): ServeOptions<string> {
  return {
    port: 0,
    hostname: "127.0.0.1",
    webTransport: false,
    onListen() {},
    onError() {},
    onSessionRejected() {},
    onMessage: (message) => message.isRequest && message.reply(message.data),
    session: { requestTimeoutMs: REQUEST_MS },
    runtime,
  } as ServeOptions<string>;
}

Deno.test("serve() has a time limit, or a reason for none, for each callback in its options", () => {
  const tables = {
    api: API,
    durableStreams: DURABLE_STREAMS,
    inspector: INSPECTOR,
    metrics: METRICS,
  };
  const keys = [
    ...Object.keys(SERVE).filter((key) => key !== "tokens"),
    ...Object.keys(SERVE.tokens).map((key) => `tokens.${key}`),
    ...Object.entries(tables).flatMap(([name, table]) =>
      Object.keys(table).map((key) => `${name}.${key}`)
    ),
  ];
  const listed = [
    ...[...NO_CALLBACK, ...NOT_AWAITED, ...WITHOUT_LIMIT],
    ...new Set(CASES.map(({ key }) => key)),
  ];
  assertEquals(listed.toSorted(), keys.toSorted());
});

for (const { key, of, options, ask, expected, issue, token } of CASES) {
  const name = of === undefined ? key : `${key}, for ${of},`;
  Deno.test(`serve() stops waiting for ${name} after its time limit, and continues`, async () => {
    const hang = new Hang();
    await using server = serve<string>({ ...common(hang.runtime), ...options(hang) });
    const needsPage = issue !== undefined;
    const url = token ? `${server.url}?token=${token}` : server.url;
    using page = needsPage ? await Page.open(url, "skein.1") : undefined;
    const late = await ask(server, page!);
    hang.end();
    const next = await ask(server, page!);
    assertEquals([late, next], expected);
    if (!needsPage) return;
    const [session] = server.manager.all();
    const issues = (await session!.issues()).filter(({ code }) => code === "late-decision");
    assertEquals(issues.map(({ message }) => message.includes(`${issue} (1 time)`)), [true]);
  });
}

Deno.test("serve() sets no time limit for handlers", async () => {
  const done = Promise.withResolvers<string>();
  const slow = async () => {
    await new Promise((resolve) => setTimeout(resolve, 3 * LIMIT_MS));
    return "done";
  };
  await using server = serve<string>({
    ...common(),
    requests: { work: slow },
    onClose: async () => done.resolve(await slow()),
    fetch: async () => new Response(await slow()),
  });
  {
    using page = await Page.open(server.url, "skein.1");
    assertEquals(await replyTo(page, { topic: "work" }), "done");
  }
  assertEquals(await soon(done.promise), "done");
  assertEquals(await statusOf(server, "/"), 200);
});

Deno.test("jwt() rejects with 4503 while the key set does not respond", async () => {
  const over = new AbortController();
  const keys = Deno.serve(
    { port: 0, hostname: "127.0.0.1", onListen() {}, signal: over.signal },
    () => new Promise<Response>(() => {}),
  );
  await using server = serve({
    ...common() as ServeOptions,
    ...jwt({ jwks: `http://127.0.0.1:${keys.addr.port}/` }),
  });
  const head = btoa(JSON.stringify({ alg: "RS256", kid: "1" })).replaceAll("=", "");
  const error = await assertRejects(
    () => dial(`${server.url}?token=${head}.${head}.AAAA`),
    SessionClosedError,
  );
  assertEquals(error.info?.code, 4503);
  over.abort();
  await keys.finished;
});

Deno.test("connect() stops waiting for a message's schema after its time limit, and continues", async () => {
  const hang = new Hang();
  const contract = defineContract({ toClient: { news: hang.schema } });
  await using server = serve({ ...common() as ServeOptions, contract, authorize: () => true });
  const got: unknown[] = [];
  let isReady = false;
  await using client = connect(server.url, {
    contract,
    transports: ["websocket"],
    requestTimeoutMs: REQUEST_MS,
    runtime: hurried(LIMIT_MS, (ms) => isLimit(ms) && isReady),
    onError() {},
  } as never) as ReturnType<typeof connect>;
  const news = client.subscribe("news" as never);
  await news.ready;
  isReady = true;
  for (const data of [1, 2]) server.publish("news", data as never);
  for await (const { data } of news) {
    got.push(data);
    break;
  }
  hang.end();
  assertEquals(got, [2]);
});

Deno.test("Session stops waiting for the schemas of a reply and of an item after its time limit", async () => {
  for (const kind of ["output", "stream"] as const) {
    const hang = new Hang();
    const contract = defineContract({
      requests: { ask: { input: z.any(), [kind]: hang.schema } as never },
    });
    await using pair = memorySessions({
      contract,
      client: { requestTimeoutMs: REQUEST_MS },
      runtime: hang.runtime,
      server: {
        requests: {
          ask: kind === "output" ? () => "answer" : async function* () {
            yield "answer";
          },
        },
      },
    } as never);
    const { client } = pair;
    // On a busy machine, the reply itself may take longer.
    const [reply, items] = [{ timeoutMs: 60_000 }, { itemTimeoutMs: 60_000 }];
    const ask = kind === "output"
      ? () => client.request("ask" as never, undefined as never, reply)
      : () =>
        Array.fromAsync(
          client.requestStream("ask" as never, undefined as never, items) as AsyncIterable<
            unknown
          >,
        );
    await assertRejects(() => ask() as Promise<unknown>, Error, "No result from the schema of");
    hang.end();
    const answer = await ask() as unknown;
    assertEquals(kind === "output" ? answer : (answer as unknown[])[0], "answer");
    const issues = await client.issues();
    assert(issues.some(({ code }) => code === "late-decision"), JSON.stringify(issues));
  }
});

Deno.test("metrics.allow that returns a promise allows nothing", async () => {
  await using server = serve({
    ...common() as ServeOptions,
    features: [metrics({ allow: (() => new Promise(() => {})) as never })],
  });
  using socket = await RawSocket.open(server.address!.port, {
    path: "/metrics",
    headers: { upgrade: "", connection: "", "sec-websocket-key": "", "sec-websocket-version": "" },
  });
  assertEquals(socket.status, 503);
});
