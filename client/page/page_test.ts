import {
  assert,
  assertEquals,
  assertMatch,
  assertNotEquals,
  assertRejects,
  assertThrows,
} from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { platformRuntime } from "../../base/runtime.ts";
import { anySignal } from "../../base/wait.ts";
import { connect, dial } from "../../client.ts";
import { CLIENT_KINDS } from "../call_checks.ts";
import { connectBy } from "../connect.ts";
import { pagePlatform } from "./page.ts";
import { UnsupportedError } from "../../errors.ts";
import { Network, settled } from "../../tests/clients.ts";
import { NativePlatform } from "../../tests/peers/native.ts";
import { listen } from "../../tests/servers.ts";
import { soon, until } from "../../tests/waiting.ts";
import { parseUrl } from "../../transport/url.ts";

/** Removes members of global objects until the block ends. */
function without(...paths: readonly string[]): Disposable {
  const removed = paths.map((path) => {
    const keys = path.split(".");
    const name = keys.pop()!;
    const owner = keys.reduce(
      (at, key) => (at as Record<string, unknown>)[key],
      globalThis as unknown,
    ) as object;
    // `crypto` inherits its functions.
    const place = name in owner && !Object.hasOwn(owner, name)
      ? Object.getPrototypeOf(owner)
      : owner;
    const known = Object.getOwnPropertyDescriptor(place, name)!;
    Object.defineProperty(place, name, { value: undefined, configurable: true });
    return () => Object.defineProperty(place, name, known);
  });
  return { [Symbol.dispose]: () => removed.forEach((restore) => restore()) };
}

/** The globals that the client needs whatever its transport. */
const NEEDED = [
  "Promise.withResolvers",
  "URL",
  "AbortController",
  "AbortSignal.prototype.throwIfAborted",
  "TextDecoder",
  "TextEncoder",
  "crypto.getRandomValues",
  "performance.now",
];

Deno.test("connect() throws one UnsupportedError that lists everything that the runtime lacks", () => {
  for (const missing of [...NEEDED.map((name) => [name]), NEEDED]) {
    using _ = without(...missing);
    const error = assertThrows(() => connect("ws://localhost/"), UnsupportedError);
    const rule = `this runtime has no ${missing.join(", ")}; use Node 22 or newer`;
    assertEquals(error.message, `Cannot connect: ${rule}`);
  }
});

Deno.test("connect() throws an UnsupportedError if no transport has its global", () => {
  const globals = ["WebTransport", "WebSocket", "fetch"];
  using _ = without(...globals.filter((name) => name in globalThis));
  const cases = [
    [undefined, "WebSocket, fetch"],
    [["webtransport", "websocket"], "WebSocket"],
    [["webtransport"], "WebTransport"],
    [["http"], "fetch"],
  ] as const;
  for (const [transports, missing] of cases) {
    const connecting = () => connect("ws://localhost/", { transports });
    const { message } = assertThrows(connecting, UnsupportedError);
    assertEquals(
      message,
      `Cannot connect: this runtime has no ${missing}; use Node 22 or newer`,
    );
  }
});

Deno.test("Client of a page without WebSocket uses HTTP", async () => {
  await using server = listen({ webTransport: false, requests: { double: () => 2 } });
  using _ = without("WebSocket");
  for (const transports of [undefined, ["http"], ["websocket", "http"]] as const) {
    await using client = connect(server.url, { transports });
    assertEquals(await soon(client.request("double")), 2);
    assertEquals(client.session?.transport, "http");
  }
});

Deno.test("Client of a page without fetch uses WebSocket", async () => {
  await using server = listen({ webTransport: false });
  using _ = without("fetch");
  await using client = connect(server.url, { transports: ["websocket", "http"] });
  assertEquals((await soon(client.whenConnected())).transport, "websocket");
});

Deno.test("Client connects and reconnects on a platform without AbortSignal.any and URL.parse", async () => {
  using time = new FakeTime();
  using _ = without("AbortSignal.any", "URL.parse", "crypto.randomUUID");
  const network = new Network();
  network.outcomes.push(network.nobody);
  await using client = network.client();
  assertEquals(await settled(client), "reconnecting");
  await time.tickAsync(250);
  assertEquals(await settled(client), "connected");
});

Deno.test("anySignal() aborts with the first signal and its reason, with and without AbortSignal.any", () => {
  for (const missing of [[], ["AbortSignal.any"]]) {
    using _ = without(...missing);
    const [one, other] = [new AbortController(), new AbortController()];
    const joined = anySignal(one.signal, other.signal);
    assertEquals(joined.aborted, false);
    other.abort("first");
    one.abort("second");
    assertEquals([joined.aborted, joined.reason], [true, "first"]);
    const aborted = anySignal(one.signal, new AbortController().signal);
    assertEquals([aborted.aborted, aborted.reason], [true, "second"]);
  }
});

Deno.test("parseUrl() returns null for an invalid URL, and resolves a relative one", () => {
  assertEquals(parseUrl("no url"), null);
  assertEquals(parseUrl("/a", "https://example.com/b")?.href, "https://example.com/a");
});

Deno.test("Runtime.randomUUID() creates a version 4 UUID on a page without TLS", () => {
  using _ = without("crypto.randomUUID");
  const runtime = platformRuntime();
  const uuid = runtime.randomUUID();
  assertMatch(uuid, /^[\da-f]{8}-[\da-f]{4}-4[\da-f]{3}-[89ab][\da-f]{3}-[\da-f]{12}$/);
  assertNotEquals(uuid, runtime.randomUUID());
  assert(uuid.length === 36);
});

Deno.test("connect() and dial() of a page reject an unknown name in nested options too", async () => {
  const calls = {
    connect: (options: object) => connect("ws://localhost/", options),
    dial: (options: object) => dial("ws://localhost/", options),
  };
  for (const [call, run] of Object.entries(calls)) {
    const kinds = Object.entries(CLIENT_KINDS[call as keyof typeof calls]);
    const nested = kinds.filter(([, kind]) => typeof kind === "object" && !Array.isArray(kind));
    for (const [name, kind] of [["options", undefined], ...nested] as const) {
      const options = { unknownOption: 1 };
      const error = await assertRejects(
        async () => await run(kind === undefined ? options : { [name]: options }),
        TypeError,
      );
      const of = name === "options" ? "" : ` in ${name}`;
      const rule = `unknown option "unknownOption"${of}`;
      assertEquals(error.message, `Cannot ${call}: ${rule}`);
    }
    assert(nested.length > 2);
  }
});

Deno.test("connect() of a page loads recovery after the session, or while it opens if there are subscriptions", async () => {
  for (const topics of [[], ["news"]]) {
    await using server = listen({ webTransport: false, authorize: () => true });
    using platform = new NativePlatform();
    const { promise, reject } = Promise.withResolvers<void>();
    platform.ready = promise;
    const loads = new Set<string>();
    const counted = <T>(name: string, load: () => Promise<T>) => () => {
      loads.add(name);
      return load();
    };
    const chunks = {
      webTransport: counted("WebTransport", () => import("./chunk_webtransport.ts")),
      recovery: counted("recovery", () => import("./chunk_recovery.ts")),
      streams: counted("streams", () => import("./chunk_streams.ts")),
      http: counted("HTTP", () => import("./chunk_http.ts")),
      insight: counted("insight", () => import("./chunk_insight.ts")),
      responses: counted("responses", () => import("./chunk_responses.ts")),
      state: counted("state", () => import("./chunk_state.ts")),
    };
    const options = {
      headStartMs: 1_000_000,
      serverCertificateHashes: [{ algorithm: "sha-256", value: new Uint8Array(32) }],
    } as const;
    await using client = connectBy((given) => pagePlatform(given, chunks), server.url, options);
    for (const topic of topics) client.subscribe(topic);
    await until(() => platform.calls.length > 0);
    const opening = topics.length > 0 ? ["WebTransport", "recovery"] : ["WebTransport"];
    assertEquals([...loads], opening);
    reject(new Error("Opening handshake failed"));
    await soon(client.whenConnected());
    assertEquals([...loads], ["WebTransport", "recovery"]);
  }
});
