/**
 * Tests functions of the application that fail instead of making a decision. An error is never a
 * decision: clients reconnect, and the server rejects requests with `unavailable` or 503. The
 * server prints a line for the first error of each function.
 *
 * The compiler requires an entry for each function among a server's options, so each new function
 * needs cases here, or a note that it makes no decision.
 *
 * @module
 */
import {
  assert,
  assertEquals,
  assertMatch,
  assertRejects,
  assertStringIncludes,
} from "@std/assert";
import { FakeTime } from "@std/testing/time";
import "../client/recovery.ts";
import { AuthenticationError, RequestError } from "../mod.ts";
import { durableStreams, type DurableStreamsOptions } from "../streams/mod.ts";
import type { ServeOptions, ServerOptions, SessionRejection } from "../server.ts";
import { jwt, type JwtOptions } from "../server/admission/jwt.ts";
import { type TestServer, testServer } from "../testing/mod.ts";
import { passTime, soon, turns } from "./waiting.ts";
import { captureConsole } from "./console_lines.ts";
import { UPGRADE_HEADERS } from "./servers.ts";
import {
  inspector,
  type InspectorOptions,
  metrics,
  type MetricsOptions,
} from "../operations/mod.ts";
import { type ApiOptions, httpApi } from "../operations/http_api/mod.ts";
import { streamFeatures } from "./stream_features.ts";

/** Names of the options that are functions. */
type FunctionsOf<O> = {
  [K in keyof O]-?: [Extract<O[K], (...args: never[]) => unknown>] extends [never] ? never
    : K & string;
}[keyof O];

/** All of the application's functions that a server may call. */
type Callback =
  | FunctionsOf<ServeOptions>
  | `tokens.${FunctionsOf<NonNullable<ServeOptions["tokens"]>>}`
  | `api.${FunctionsOf<ApiOptions>}`
  | `durableStreams.${FunctionsOf<DurableStreamsOptions>}`
  | `inspector.${FunctionsOf<InspectorOptions>}`
  | `jwt.${FunctionsOf<JwtOptions>}`
  | `metrics.${FunctionsOf<MetricsOptions>}`;

/** The subject of a decision: a connection, an action of a session, or an HTTP request. */
type Kind = "connection" | "action" | "http";

/** A function that decides, and how it fails. */
interface Decision {
  readonly kind: Kind;
  /** Creates options in which the function calls `answer`, which throws or returns the value. */
  readonly options: (answer: <T>(value: T) => T) => ServerOptions;
  /** Path of a request that needs the decision. */
  readonly path?: string;
  /** Results that are not decisions. */
  readonly wrong?: readonly unknown[];
  /** The remedy in the console line, after the error. */
  readonly cure?: string;
}

/** The functions by name, each with its decision or with the reason why it decides nothing. */
const CALLBACKS: Readonly<Record<Callback, Decision | string>> = {
  authenticate: {
    kind: "connection",
    options: (answer) => ({ authenticate: () => answer("ann") }),
    wrong: [undefined],
  },
  userOf: {
    kind: "connection",
    options: (answer) => ({ authenticate: () => ({}), userOf: () => answer("ann") }),
    wrong: [undefined, 7, null],
  },
  "tokens.expiresAt": {
    kind: "connection",
    options: (answer) => ({
      authenticate: () => "ann",
      tokens: { expiresAt: () => answer(Infinity) },
    }),
    wrong: [NaN, "soon"],
  },
  clientAddress: {
    kind: "connection",
    options: (answer) => ({ clientAddress: () => answer("192.0.2.1") }),
  },
  authorize: {
    kind: "action",
    options: (answer) => ({ authorize: () => answer(true) }),
    cure: "return false to reject",
  },
  "api.authorize": {
    kind: "http",
    options: (answer) => ({ features: [httpApi({ path: "/api", authorize: () => answer(true) })] }),
    path: "/api/health",
    cure: "return false to reject",
  },
  "durableStreams.authorize": {
    kind: "http",
    options: (answer) => ({
      features: streamFeatures({ path: "/streams", authorize: () => answer(true) }),
    }),
    path: "/streams/a",
    cure: "return false to reject",
  },
  "inspector.authorize": {
    kind: "http",
    options: (answer) => ({
      features: [inspector({ path: "/ops", authorize: () => answer(true) })],
    }),
    path: "/ops/",
    cure: "return false to reject",
  },
  "metrics.allow": {
    kind: "http",
    options: (answer) => ({ features: [metrics({ allow: () => answer(true) })] }),
    path: "/healthz",
  },
  authorizeChange: "decides about a row: streams/state/gate_test.ts lets it fail",
  fetch: "answers requests that are not Skein's",
  onClose: "is notified",
  onError: "is notified",
  onListen: "is notified",
  onMessage: "handles a message, and its error is the reply",
  onPublish: "decides about a publication: tests/on_publish_test.ts lets it fail",
  onOpen: "handles a session: its error closes with 4500, after which clients reconnect",
  onSessionRejected: "is notified",
  onMessageRejected: "is notified",
  "tokens.onRenewed": "is notified",
  onStream: "handles a stream",
};

const DECISIONS = Object.entries(CALLBACKS).flatMap(([name, decision]) =>
  typeof decision === "string" ? [] : [[name, decision] as const]
);

/** The end of each line about a function that failed. */
const CURE = /: (clients will try again;|it must return) /;

/** Ways in which a function fails, by name. */
const FAULTS: Readonly<Record<string, () => never>> = {
  "throws an Error": () => {
    throw new TypeError("connect ECONNREFUSED 10.0.0.5:5432");
  },
  "throws a text": () => {
    throw "connect ECONNREFUSED 10.0.0.5:5432";
  },
  "throws undefined": () => {
    throw undefined;
  },
};

/** A function of the application that fails until the test repairs it. */
class Function {
  isBroken = true;
  readonly #fail: () => unknown;

  constructor(fail: () => unknown) {
    this.#fail = fail;
  }

  readonly answer = <T>(value: T): T => (this.isBroken ? this.#fail() : value) as T;
}

/** The functions of a kind, each combined with each way to fail. */
function* faultsOf(
  kind: Kind,
): Generator<[title: string, decision: Decision, fail: () => unknown]> {
  for (const [name, decision] of DECISIONS) {
    if (decision.kind !== kind) continue;
    for (const [how, fail] of Object.entries(FAULTS)) yield [`${name} ${how}`, decision, fail];
    for (const value of decision.wrong ?? []) {
      yield [`${name} returns ${value}`, decision, () => value];
    }
  }
}

/** The response to an upgrade request from a page without Skein. */
async function askPlainly(server: Pick<TestServer, "fetch">): Promise<Response> {
  const response = await server.fetch(
    new Request("http://localhost/", { headers: UPGRADE_HEADERS }),
  );
  await response.body?.cancel();
  return response;
}

for (const [title, decision, fail] of faultsOf("connection")) {
  Deno.test(`Client reconnects after ${title}, and a page without Skein gets 401`, async () => {
    using time = new FakeTime();
    using printed = captureConsole();
    const told: SessionRejection[] = [];
    const decided = new Function(fail);
    await using server = testServer({
      ...decision.options(decided.answer),
      onSessionRejected: (rejection) => void told.push(rejection),
    });
    const backoff = { firstDelayMs: 10, maxDelayMs: 10 };
    await using client = server.connect({ backoff, onError() {} });
    await passTime(time, 1_000);
    assert(["connecting", "reconnecting"].includes(client.status.current.name));
    const { current } = client.status;
    assert("cause" in current && current.cause.code === 4503, JSON.stringify(current));
    assert(told.length > 2 && told.every(({ status }) => status === 503));
    assert(told.every(({ reason }) => !reason.includes("ECONNREFUSED")));

    const plain = await askPlainly(server);
    assertEquals([plain.status, plain.headers.get("retry-after")], [401, "5"]);
    assertEquals(told.at(-1)?.status, 401);

    assertEquals(printed.lines.length, 1);
    assertMatch(printed.lines[0]!, CURE);
    decided.isBroken = false;
    await passTime(time, 1_000);
    assertEquals([client.status.current.name, server.manager.count], ["connected", 1]);
  });
}

Deno.test("Server prints a fault with its remedy", async () => {
  using printed = captureConsole();
  await using failing = testServer({
    authenticate: () => Promise.reject(new TypeError("fetch failed")),
  });
  await using missing = testServer({ authenticate: () => undefined as never });
  await using number = testServer({
    authenticate: () => ({ id: 1 }),
    userOf: ({ id }) => id as unknown as string,
  });
  for (const server of [failing, failing, missing, number]) await askPlainly(server);
  assertEquals(printed.lines, [
    "Skein: authenticate threw TypeError: fetch failed: clients will try again; " +
    "throw AuthenticationError to reject",
    "Skein: authenticate returned undefined: it must return a value, guest, or null to reject",
    "Skein: userOf returned 1: it must return a string, such as String(id)",
  ]);
});

for (const [title, decision, fail] of faultsOf("action")) {
  Deno.test(`Client continues after ${title}`, async () => {
    using time = new FakeTime();
    using printed = captureConsole();
    const errors: unknown[] = [];
    const decided = new Function(fail);
    decided.isBroken = false;
    await using server = testServer({
      ...decision.options(decided.answer),
      rooms: ["room:{name}"],
      features: [durableStreams({ path: "/streams", authorize: () => true })],
      onError: (error) => void errors.push(error),
    });
    await using client = server.connect();
    const session = await client.whenConnected();
    const news = client.subscribe("news");
    await news.ready;
    await client.subscribe("room:a").ready;
    decided.isBroken = true;
    const actions = [
      () => session.subscribe("other"),
      () => session.publish("news", 1),
      () => session.presence("room:a", {}),
      () => session.publish("stream:a", { cancel: "enough" }),
      () => session.subscribe("stream:a"),
    ];
    for (const act of actions) {
      const { failure } = await assertRejects(act, RequestError);
      assertEquals(failure.code, "unavailable");
      assert(!failure.message.includes("ECONNREFUSED"));
    }
    assertEquals([errors.length, session.isReady], [actions.length, true]);
    const lines = printed.lines.filter((line) => line.includes("clients will try again"));
    assertEquals(lines.length, 1);
    assertStringIncludes(lines[0]!, decision.cure!);

    // A new subscription waits, and reports that it is waiting.
    const told: string[] = [];
    await using page = server.connect({ onError: (error) => void told.push(String(error)) });
    const late = page.subscribe("late");
    await passTime(time, 20_000);
    assertEquals([late.status.current, told.length], ["pending", 1]);
    assertStringIncludes(told[0]!, "The server cannot tell now");

    // An active subscription is requested again, in the next session too.
    server.network.disconnect();
    await passTime(time, 20_000);
    assertEquals([client.status.current.name, server.topics.subscribers("news").length], [
      "connected",
      0,
    ]);
    decided.isBroken = false;
    await passTime(time, 60_000);
    for (const { status, topic } of [news, late]) {
      assertEquals([status.current, server.topics.subscribers(topic).length], ["subscribed", 1]);
    }
  });
}

for (const [title, { options, path, cure }, fail] of faultsOf("http")) {
  Deno.test(`Server answers 503 after ${title}`, async () => {
    using printed = captureConsole();
    const decided = new Function(fail);
    await using server = testServer(options(decided.answer));
    const ask = async () => {
      const response = await soon(
        Promise.resolve(server.fetch(new Request(`http://localhost${path}`))),
      );
      const text = await response.text();
      assert(!text.includes("ECONNREFUSED"), text);
      return response;
    };
    const response = await ask();
    assertEquals([response.status, response.headers.get("retry-after")], [503, "5"]);
    assertEquals(printed.lines.length, 1);
    assertMatch(printed.lines[0]!, CURE);
    assertStringIncludes(printed.lines[0]!, cure ?? "");
    decided.isBroken = false;
    assert((await ask()).status < 500);
  });
}

Deno.test("Server answers 503 over HTTP while it cannot identify users", async () => {
  using printed = captureConsole();
  for (const [title, decision, fail] of faultsOf("connection")) {
    const decided = new Function(fail);
    await using server = testServer({
      ...decision.options(decided.answer),
      features: [
        httpApi({ path: "/api", authorize: () => true }),
        ...streamFeatures({ path: "/streams", authorize: () => true }),
      ],
    });
    for (const path of ["/api/health", "/streams/a"]) {
      // If there is no rate per address, streams don't need the address.
      if (title.startsWith("clientAddress") && path !== "/api/health") continue;
      const response = await server.fetch(new Request(`http://localhost${path}`));
      await response.body?.cancel();
      assertEquals([response.status, response.headers.get("retry-after")], [503, "5"], path);
    }
  }
  assert(printed.lines.every((line) => CURE.test(line)));
});

Deno.test("Server rejects permanently by an AuthenticationError below 500, null and false", async () => {
  const noes: [ask: () => null | false, code: number][] = [
    [() => null, 4401],
    [() => false, 4401],
    ...([400, 401, 403, 404] as const).map((status): [() => never, number] => [
      () => {
        throw new AuthenticationError("No", { status });
      },
      4000 + status,
    ]),
  ];
  for (const [authenticate, code] of noes) {
    await using server = testServer({ authenticate, onSessionRejected() {} });
    assertEquals((await askPlainly(server)).status, code - 4000);
    const { closed } = await server.open();
    assertEquals((await soon(closed)).closeCode, code);
  }
});

Deno.test("jwt() fails without a decision if its keys are unreachable or malformed", async () => {
  const answers = [
    () => new Response("Bad gateway", { status: 502 }),
    () => Response.json({ keys: "none" }),
    () => Response.json({ keys: [{ kty: "EC", crv: "P-256", kid: "a", x: "%", y: "%" }] }),
  ];
  const header = btoa(JSON.stringify({ alg: "ES256", kid: "a" }));
  const token = `${header}.${btoa("{}")}.AAAA`.replaceAll("=", "");
  for (const answer of answers) {
    await using keys = Deno.serve({ port: 0, hostname: "127.0.0.1", onListen() {} }, answer);
    const tokens = jwt({ jwks: `http://127.0.0.1:${keys.addr.port}/` });
    const error = await assertRejects(() => tokens.authenticate({ token }));
    assert(!(error instanceof AuthenticationError) || error.status === 503, `${error}`);
  }
  await turns();
});
