import { assert, assertEquals, assertRejects, assertStrictEquals, assertThrows } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { ConnectionError, TimeoutError, UnsupportedError } from "../errors.ts";
import type { Connection } from "./connection.ts";
import { type MemoryPair, memoryPair } from "./memory.ts";
import {
  LAST_LEG_MS,
  MAX_REMEMBERED,
  type RaceOptions,
  raceTransports,
  type RacingDialer,
  REMEMBER_MS,
  type TransportFallback,
  type TransportName,
  type TransportOptions,
  type TransportPlatform,
} from "./race.ts";
import type { CertificateHash, DialWebTransportOptions } from "./webtransport.ts";

const HASHES: readonly CertificateHash[] = [{ algorithm: "sha-256", value: Uint8Array.of(1, 2) }];

/** One dial that waits for its answer. */
interface Leg {
  readonly name: TransportName;
  readonly url: string;
  readonly at: number;
  readonly options: DialWebTransportOptions;
  readonly pair: MemoryPair;
  up(): void;
  fail(error?: unknown): void;
}

/** A platform whose dials are answered by hand. */
class Legs implements TransportPlatform {
  readonly all: Leg[] = [];
  readonly fallbacks: TransportFallback[] = [];
  readonly asked: string[] = [];
  protocol = "skein.1";
  answer: (signal: AbortSignal) => Promise<Response> = () =>
    Promise.resolve(new Response(null, { status: 404 }));

  readonly webSocket: TransportPlatform["webSocket"] = this.#dialer("websocket");
  webTransport: TransportPlatform["webTransport"] = this.#dialer("webtransport");
  readonly fetch: typeof fetch = (input, init) => {
    this.asked.push(String(input));
    return this.answer(init!.signal!);
  };

  /** The legs so far, by name. */
  get names(): TransportName[] {
    return this.all.map(({ name }) => name);
  }

  /** The last leg. */
  get last(): Leg {
    return this.all.at(-1)!;
  }

  /** Makes a dialer, and something that dials with it. */
  racing(options?: TransportOptions): (url?: string, more?: RaceOptions) => Promise<Connection> {
    const dial: RacingDialer = raceTransports(this, options);
    return (url = "wss://example.com/", more = {}) =>
      dial(url, { onFallback: (fallback) => void this.fallbacks.push(fallback), ...more });
  }

  #dialer(name: TransportName) {
    return (url: URL, options: DialWebTransportOptions) => {
      const { promise, resolve, reject } = Promise.withResolvers<Connection>();
      options.signal!.addEventListener("abort", () => reject(options.signal!.reason));
      const pair = memoryPair({ protocol: this.protocol });
      this.all.push({
        name,
        url: url.href,
        at: Date.now(),
        options,
        pair,
        up: () => resolve(pair.client),
        fail: (error = new ConnectionError(`No ${name}`)) => reject(error),
      });
      return promise;
    };
  }
}

/** Lets everything happen that needs no time. */
async function turns(): Promise<void> {
  for (let i = 0; i < 20; i++) await Promise.resolve();
}

Deno.test("raceTransports() gives WebTransport a head start, and takes it without a word", async () => {
  using time = new FakeTime();
  const legs = new Legs();
  const dialing = legs.racing()("wss://example.com:8443/a/b?c=d%20e#f");
  await time.tickAsync(499);
  assertEquals(legs.names, ["webtransport"]);
  assertEquals(legs.last.url, "https://example.com:8443/a/b?c=d%20e");
  legs.last.up();
  assertStrictEquals(await dialing, legs.last.pair.client);
  await time.tickAsync(60_000);
  assertEquals(legs.names, ["webtransport"]);
  assertEquals(legs.fallbacks, []);
});

Deno.test("raceTransports() starts WebSocket after the head start, and the first that is up wins", async () => {
  for (const winner of [0, 1]) {
    using time = new FakeTime();
    const legs = new Legs();
    const dialing = legs.racing({ headStartMs: 200 })();
    await time.tickAsync(200);
    assertEquals(legs.names, ["webtransport", "websocket"]);
    const [won, lost] = [legs.all[winner]!, legs.all[1 - winner]!];
    won.up();
    assertStrictEquals(await dialing, won.pair.client);
    assert(lost.options.signal!.aborted, "the loser goes on");
    const names = legs.fallbacks.map(({ transport }) => transport);
    assertEquals(names, winner === 0 ? [] : ["webtransport"]);
    if (winner === 1) assert(legs.fallbacks[0]!.error instanceof TimeoutError);
  }
});

Deno.test("raceTransports() leaves half of a short time to WebSocket", async () => {
  using time = new FakeTime();
  const legs = new Legs();
  const dialing = legs.racing()("wss://example.com/", { timeoutMs: 300 });
  await time.tickAsync(150);
  assertEquals(legs.names, ["webtransport", "websocket"]);
  legs.last.up();
  await dialing;
  assertEquals(
    String(legs.fallbacks[0]!.error),
    "TimeoutError: Cannot open webtransport within 150 ms",
  );
});

Deno.test("raceTransports() starts WebSocket at once when WebTransport fails", async () => {
  using _time = new FakeTime();
  const legs = new Legs();
  const dialing = legs.racing()();
  await turns();
  const error = new ConnectionError("Opening handshake failed");
  legs.last.fail(error);
  await turns();
  assertEquals(legs.names, ["webtransport", "websocket"]);
  legs.last.up();
  assertEquals((await dialing).protocol, "skein.1");
  assertEquals(legs.fallbacks, [{ transport: "webtransport", error }]);
});

Deno.test("raceTransports() starts WebSocket at once where there is no WebTransport, and says why", async () => {
  using _time = new FakeTime();
  const legs = new Legs();
  legs.webTransport = "Run it with a flag";
  const dial = legs.racing();
  // What was never tried is not remembered: the reason is told each time.
  for (const url of ["wss://example.com/", "wss://example.com/", "ws://127.0.0.1:8000/"]) {
    const dialing = dial(url);
    await turns();
    legs.last.up();
    await dialing;
    const { error } = legs.fallbacks.at(-1)!;
    assert(error instanceof UnsupportedError);
    assertEquals(error.message, "Run it with a flag");
  }
  assertEquals(legs.names, ["websocket", "websocket", "websocket"]);
  assertEquals(legs.asked, []);
});

Deno.test("raceTransports() closes a loser that comes up in spite of its signal", async () => {
  using time = new FakeTime();
  const legs = new Legs();
  const late = memoryPair();
  const { promise, resolve } = Promise.withResolvers<Connection>();
  legs.webTransport = () => promise;
  const dialing = legs.racing()();
  await time.tickAsync(500);
  legs.last.up();
  await dialing;
  resolve(late.client);
  assertEquals(await late.server.closed, { closeCode: 0, reason: "" });
});

Deno.test("raceTransports() gives up by its signal at each stage, and leaves nothing behind", async () => {
  const stages: [what: string, names: TransportName[], act: (legs: Legs) => void, ms: number][] = [
    ["before all", [], () => {}, -1],
    ["during the head start", ["webtransport"], () => {}, 100],
    ["during the race", ["webtransport", "websocket"], () => {}, 600],
    [
      "when one has failed",
      ["webtransport", "websocket"],
      (legs) => legs.all[0]!.fail(),
      100,
    ],
    [
      "when WebSocket has failed",
      ["webtransport", "websocket"],
      (legs) => legs.all[1]!.fail(),
      600,
    ],
  ];
  for (const [what, names, act, ms] of stages) {
    using time = new FakeTime();
    const legs = new Legs();
    const giveUp = new AbortController();
    if (ms < 0) giveUp.abort("enough");
    const dialing = legs.racing()("wss://example.com/", { signal: giveUp.signal });
    dialing.catch(() => {});
    if (ms >= 0) await time.tickAsync(ms);
    act(legs);
    await turns();
    giveUp.abort("enough");
    assertEquals(await dialing.catch((reason) => reason), "enough", what);
    await time.tickAsync(REMEMBER_MS);
    assertEquals(legs.names, names, what);
    assert(legs.all.every(({ options }) => options.signal!.aborted), what);
  }
});

Deno.test("raceTransports() remembers for ten minutes which server has WebSocket only", async () => {
  using time = new FakeTime();
  const legs = new Legs();
  const dial = legs.racing();
  const error = new ConnectionError("Blocked");
  const first = dial();
  await turns();
  legs.last.fail(error);
  await turns();
  legs.last.up();
  await first;

  await time.tickAsync(REMEMBER_MS - 1);
  const second = dial("wss://example.com/other?path");
  await time.tickAsync(1);
  assertEquals(legs.names.slice(2), ["websocket"]);
  // No head start: a slow WebSocket is waited for.
  await time.tickAsync(5_000);
  assertEquals(legs.names.slice(2), ["websocket"]);
  legs.last.up();
  await second;
  assertEquals(legs.fallbacks[1], { transport: "webtransport", error });

  const elsewhere = dial("wss://example.com:8443/");
  await turns();
  assertEquals(legs.last.name, "webtransport");
  legs.last.up();
  await elsewhere;

  const third = dial();
  await turns();
  assertEquals(legs.last.name, "webtransport");
  legs.last.up();
  await third;
  assertEquals(legs.fallbacks.length, 2);
});

Deno.test("raceTransports() tries WebTransport after all when the remembered WebSocket fails", async () => {
  using time = new FakeTime();
  const legs = new Legs();
  const dial = legs.racing();
  const first = dial();
  await time.tickAsync(500);
  legs.last.up();
  await first;

  const second = dial();
  await turns();
  legs.last.fail();
  await turns();
  assertEquals(legs.names.slice(2), ["websocket", "webtransport"]);
  legs.last.up();
  await second;
  // It holds again, and what was remembered is not true any more.
  void dial();
  await turns();
  assertEquals(legs.last.name, "webtransport");
  legs.last.up();
});

Deno.test("raceTransports() remembers 64 servers, and forgets the oldest", async () => {
  using _time = new FakeTime();
  const legs = new Legs();
  const dial = legs.racing();
  const lose = async (url: string) => {
    const dialing = dial(url);
    await turns();
    legs.last.fail();
    await turns();
    legs.last.up();
    await dialing;
  };
  const firstOf = async (url: string) => {
    void dial(url);
    await turns();
    legs.last.up();
    return legs.last.name;
  };
  for (let i = 0; i <= MAX_REMEMBERED; i++) await lose(`wss://host-${i}/`);
  assertEquals(await firstOf("wss://host-0/"), "webtransport");
  assertEquals(await firstOf("wss://host-1/"), "websocket");
  assertEquals(await firstOf(`wss://host-${MAX_REMEMBERED}/`), "websocket");
});

Deno.test("raceTransports() tells both causes when both fail, whichever was first", async () => {
  for (const first of [0, 1]) {
    using time = new FakeTime();
    const legs = new Legs();
    const dialing = legs.racing()();
    dialing.catch(() => {});
    await time.tickAsync(500);
    const [h3, ws] = [new ConnectionError("No answer"), new ConnectionError("No socket")];
    const fail = [() => legs.all[0]!.fail(h3), () => legs.all[1]!.fail(ws)];
    fail[first]!();
    await turns();
    fail[1 - first]!();
    const error = await assertRejects(() => dialing, ConnectionError, "No socket; No answer");
    assert(error.cause instanceof AggregateError);
    assertEquals(error.cause.errors, [h3, ws]);
    assertEquals(legs.all.length, 2);
  }
});

Deno.test("raceTransports() does not wait long for WebTransport once WebSocket failed", async () => {
  using time = new FakeTime();
  const legs = new Legs();
  const dialing = legs.racing()();
  dialing.catch(() => {});
  await time.tickAsync(500);
  legs.last.fail();
  await time.tickAsync(LAST_LEG_MS - 1);
  assert(!legs.all[0]!.options.signal!.aborted);
  await time.tickAsync(1);
  await assertRejects(() => dialing, ConnectionError, `within ${LAST_LEG_MS} ms`);
  assert(legs.all[0]!.options.signal!.aborted);
});

Deno.test("raceTransports() fails as the only transport does that was tried", async () => {
  const error = new ConnectionError("Refused", { status: 403 });
  const cases: [TransportOptions, (legs: Legs) => void][] = [
    [{ transports: ["websocket"] }, () => {}],
    [{ transports: ["webtransport"] }, () => {}],
    [{}, (legs) => legs.webTransport = "None"],
  ];
  for (const [options, prepare] of cases) {
    using time = new FakeTime();
    const legs = new Legs();
    prepare(legs);
    const dialing = legs.racing(options)();
    dialing.catch(() => {});
    await time.tickAsync(10_000);
    assertEquals(legs.all.length, 1);
    legs.last.fail(error);
    assertStrictEquals(await dialing.catch((error) => error), error);
  }
});

Deno.test("raceTransports() can prefer WebSocket", async () => {
  using time = new FakeTime();
  const legs = new Legs();
  const dial = legs.racing({ transports: ["websocket", "webtransport"] });
  const first = dial();
  await time.tickAsync(500);
  assertEquals(legs.names, ["websocket", "webtransport"]);
  legs.all[0]!.up();
  await first;
  assertEquals(legs.fallbacks, []);
  const second = dial();
  await time.tickAsync(500);
  legs.last.up();
  await second;
  assertEquals(legs.fallbacks[0]!.transport, "websocket");
});

Deno.test("raceTransports() falls back where WebTransport does not speak what was offered", async () => {
  using _time = new FakeTime();
  const legs = new Legs();
  legs.protocol = "";
  const dialing = legs.racing()("wss://example.com/", { protocols: ["skein.1"] });
  await turns();
  const [leg] = legs.all;
  leg!.up();
  await turns();
  assertEquals(await leg!.pair.server.closed, { closeCode: 0, reason: "" });
  legs.protocol = "skein.1";
  assertEquals(legs.names, ["webtransport", "websocket"]);
  legs.last.up();
  await dialing;
  const { error } = legs.fallbacks[0]!;
  assert(error instanceof ConnectionError);
  assertEquals(error.message, "The server does not speak skein.1 over WebTransport");
});

Deno.test("raceTransports() takes WebTransport without a protocol where none is offered", async () => {
  const legs = new Legs();
  legs.protocol = "";
  const dialing = legs.racing({ transports: ["webtransport"] })();
  await turns();
  legs.last.up();
  assertEquals((await dialing).protocol, "");
});

Deno.test("raceTransports() uses the certificates that it was given, at the same port", async () => {
  const urls: [string, string][] = [
    ["ws://example.com/x?y", "https://example.com:80/x?y"],
    ["ws://127.0.0.1:8000/", "https://127.0.0.1:8000/"],
    ["http://localhost:443/", "https://localhost/"],
    ["https://example.com/", "https://example.com/"],
    ["wss://example.com:80/", "https://example.com:80/"],
  ];
  for (const [url, expected] of urls) {
    const legs = new Legs();
    const dialing = legs.racing({ serverCertificateHashes: HASHES })(url);
    await turns();
    assertEquals(legs.last.url, expected);
    assertEquals(legs.last.options.serverCertificateHashes, HASHES);
    assertEquals(legs.asked, []);
    legs.last.up();
    await dialing;
  }
});

Deno.test("raceTransports() asks a server on this machine where its WebTransport is", async () => {
  const answer = {
    port: 4433,
    serverCertificateHashes: [{ algorithm: "sha-256", value: btoa("\x00\xff\x80") }],
  };
  const urls: [url: string, hostname: string | undefined, asked: string, expected: string][] = [
    ["ws://127.0.0.1:8000/a?b", undefined, "http://127.0.0.1:8000", "https://127.0.0.1:4433/a?b"],
    ["ws://localhost/", "127.0.0.1", "http://localhost", "https://127.0.0.1:4433/"],
    ["http://a.localhost:1/", "[::1]", "http://a.localhost:1", "https://[::1]:4433/"],
    ["ws://[::1]:8000/", undefined, "http://[::1]:8000", "https://[::1]:4433/"],
  ];
  for (const [url, hostname, asked, expected] of urls) {
    const legs = new Legs();
    legs.answer = () => Promise.resolve(Response.json({ hostname, ...answer }));
    const dialing = legs.racing()(url);
    await until(() => legs.all.length > 0);
    assertEquals(legs.asked, [`${asked}/.well-known/skein/webtransport`]);
    assertEquals(legs.last.name, "webtransport");
    assertEquals(legs.last.url, expected);
    assertEquals(legs.last.options.serverCertificateHashes, [
      { algorithm: "sha-256", value: Uint8Array.of(0, 255, 128) },
    ]);
    legs.last.up();
    await dialing;
    assertEquals(legs.fallbacks, []);
  }
});

Deno.test("raceTransports() takes WebSocket at once where a server does not tell of WebTransport", async () => {
  const answers: [what: string, answer: Legs["answer"], url?: string][] = [
    ["404", () => Promise.resolve(new Response("Not found", { status: 404 }))],
    ["no HTTP", () => Promise.reject(new TypeError("error sending request"))],
    ["no JSON", () => Promise.resolve(new Response("<p>Hello"))],
    ["no object", () => Promise.resolve(Response.json(null))],
    ["no port", () => Promise.resolve(Response.json({ serverCertificateHashes: [] }))],
    ["no hashes", () => Promise.resolve(Response.json({ port: 1 }))],
    [
      "no base64",
      () => Promise.resolve(Response.json({ port: 1, serverCertificateHashes: [{ value: "*" }] })),
    ],
    [
      "another machine",
      () =>
        Promise.resolve(
          Response.json({ port: 1, hostname: "example.com", serverCertificateHashes: [] }),
        ),
    ],
    ["never asked", () => Promise.reject(new Error("Asked")), "ws://example.com/"],
  ];
  for (const [what, answer, url = "ws://127.0.0.1:8000/"] of answers) {
    const legs = new Legs();
    legs.answer = answer;
    const dial = legs.racing({ headStartMs: 1_000_000 });
    const dialing = dial(url);
    await until(() => legs.all.length > 0);
    assertEquals(legs.last.name, "websocket", what);
    legs.last.up();
    await dialing;
    assertEquals(legs.asked.length, what === "never asked" ? 0 : 1, what);
    assert(legs.fallbacks[0]!.error instanceof UnsupportedError, what);
    // A server that is started anew may have it.
    legs.answer = () => Promise.resolve(Response.json({ port: 1, serverCertificateHashes: [] }));
    if (url !== "ws://127.0.0.1:8000/") continue;
    const again = dial(url);
    await until(() => legs.all.length > 1);
    assertEquals(legs.last.name, "webtransport", what);
    legs.last.up();
    await again;
  }
});

Deno.test("raceTransports() waits a second for a server that does not answer", async () => {
  using time = new FakeTime();
  const legs = new Legs();
  let isAborted = false;
  legs.answer = (signal) =>
    new Promise((_, reject) => {
      signal.addEventListener("abort", () => {
        isAborted = true;
        reject(signal.reason);
      });
    });
  const dialing = legs.racing({ transports: ["webtransport"] })("ws://127.0.0.1:8000/");
  dialing.catch(() => {});
  await time.tickAsync(999);
  assert(!isAborted);
  await time.tickAsync(1);
  assert(isAborted);
  await assertRejects(() => dialing, UnsupportedError, "does not offer it");
});

Deno.test("raceTransports() refuses arguments that make no sense", async () => {
  const legs = new Legs();
  for (const transports of [[], ["h3"], ["websocket", "tcp"]]) {
    assertThrows(
      () => raceTransports(legs, { transports: transports as TransportName[] }),
      TypeError,
      `received ${JSON.stringify(transports)}`,
    );
  }
  for (const headStartMs of [-1, NaN]) {
    assertThrows(() => raceTransports(legs, { headStartMs }), RangeError, `${headStartMs}`);
  }
  for (const url of ["", "example.com", "ftp://example.com/?secret", "memory://x/"]) {
    const error = await assertRejects(() => legs.racing()(url), TypeError, "url must begin with");
    assert(!error.message.includes("secret"));
  }
  assertEquals(legs.all, []);
});

async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await new Promise((resolve) => setTimeout(resolve, 0));
}
