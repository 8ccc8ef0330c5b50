import { assert, assertEquals, assertRejects, assertStrictEquals, assertThrows } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { platformRuntime } from "../../base/runtime.ts";
import { ConnectionError, TimeoutError, UnsupportedError } from "../../errors.ts";
import type { Connection } from "../connection.ts";
import { type MemoryPair, memoryPair } from "../memory/memory.ts";
import { FIRST_REMEMBER_MS, MAX_REMEMBERED, REMEMBER_MS } from "./losses.ts";
import { LATE_LEG_MS, raceTransports } from "./race.ts";
import type { CertificateHash, DialWebTransportOptions } from "../webtransport.ts";
import type {
  RaceOptions,
  RacingDialer,
  TransportFallback,
  TransportName,
  TransportOptions,
  TransportPlatform,
} from "./options.ts";
import { clockAhead } from "../../tests/globals/clock.ts";
import { turns } from "../../tests/waiting.ts";

const HASHES: readonly CertificateHash[] = [{ algorithm: "sha-256", value: Uint8Array.of(1, 2) }];

/** A dial that waits for the test to set its outcome. */
interface Leg {
  readonly name: TransportName;
  readonly url: string;
  readonly at: number;
  readonly options: DialWebTransportOptions;
  readonly pair: MemoryPair;
  up(): void;
  fail(error?: unknown): void;
}

/** A platform whose dials the test settles. */
class Legs implements TransportPlatform {
  readonly all: Leg[] = [];
  readonly fallbacks: TransportFallback[] = [];

  readonly webSocket: TransportPlatform["webSocket"] = this.#dialer("websocket");
  webTransport: TransportPlatform["webTransport"] = this.#dialer("webtransport");

  get names(): TransportName[] {
    return this.all.map(({ name }) => name);
  }

  get last(): Leg {
    return this.all.at(-1)!;
  }

  /** Creates a dialer, and a function that dials with it. */
  racing(options?: TransportOptions): (url?: string, more?: RaceOptions) => Promise<Connection> {
    const dial: RacingDialer = raceTransports(this, options);
    return (url = "wss://example.com/", more = {}) =>
      dial(url, { onFallback: (fallback) => void this.fallbacks.push(fallback), ...more });
  }

  /** Dials. The first leg fails, and the other one opens. */
  async lose(dial: () => Promise<Connection>, error?: unknown): Promise<void> {
    const dialing = dial();
    await turns();
    this.last.fail(error);
    await turns();
    this.last.up();
    assertStrictEquals(await dialing, this.last.pair.client);
  }

  /** Dials. WebSocket wins the race, and WebTransport is late. */
  async beLate(time: FakeTime, dial: () => Promise<Connection>): Promise<[late: Leg, taken: Leg]> {
    const dialing = dial();
    await time.tickAsync(500);
    const [late, taken] = this.all.slice(-2) as [Leg, Leg];
    taken.up();
    await dialing;
    return [late, taken];
  }

  /** Dials, opens the first leg, and returns its transport. */
  async firstOf(dial: () => Promise<Connection>): Promise<TransportName> {
    const at = this.all.length;
    const dialing = dial();
    await turns();
    const { name, up } = this.all[at]!;
    up();
    await (await dialing)[Symbol.asyncDispose]();
    return name;
  }

  #dialer(name: TransportName) {
    return (url: URL, options: DialWebTransportOptions) => {
      const { promise, resolve, reject } = Promise.withResolvers<Connection>();
      options.signal!.addEventListener("abort", () => reject(options.signal!.reason));
      const pair = memoryPair();
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

Deno.test("raceTransports() gives WebTransport a head start, and uses it without calling onFallback", async () => {
  using time = new FakeTime();
  const legs = new Legs();
  const dialing = legs.racing()("wss://example.com:8443/a/b?c=d%20e#f");
  await time.tickAsync(499);
  assertEquals(legs.names, ["webtransport"]);
  assertEquals(legs.last.url, "wss://example.com:8443/a/b?c=d%20e");
  legs.last.up();
  assertStrictEquals(await dialing, legs.last.pair.client);
  await time.tickAsync(60_000);
  assertEquals(legs.names, ["webtransport"]);
  assertEquals(legs.fallbacks, []);
});

Deno.test("raceTransports() starts WebSocket after the head start, and the first that opens wins", async () => {
  for (const winner of [0, 1]) {
    using time = new FakeTime();
    const legs = new Legs();
    const dialing = legs.racing({ headStartMs: 200 })();
    await time.tickAsync(200);
    assertEquals(legs.names, ["webtransport", "websocket"]);
    const [won, lost] = [legs.all[winner]!, legs.all[1 - winner]!];
    won.up();
    assertStrictEquals(await dialing, won.pair.client);
    // A WebSocket that opens in addition to WebTransport would be a second session at the server.
    assertEquals(lost.options.signal!.aborted, winner === 0);
    await time.tickAsync(LATE_LEG_MS - 1);
    assertEquals(lost.options.signal!.aborted, winner === 0, "WebTransport gets its time");
    await time.tickAsync(1);
    assert(lost.options.signal!.aborted, "the loser continues");
    const names = legs.fallbacks.map(({ transport }) => transport);
    assertEquals(names, winner === 0 ? [] : ["webtransport"]);
    if (winner === 1) assert(legs.fallbacks[0]!.error instanceof TimeoutError);
  }
});

Deno.test("raceTransports() leaves half of a short timeout to WebSocket", async () => {
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

Deno.test("raceTransports() starts WebSocket immediately when WebTransport fails", async () => {
  using _time = new FakeTime();
  const legs = new Legs();
  const error = new ConnectionError("Opening handshake failed");
  await legs.lose(legs.racing(), error);
  assertEquals(legs.names, ["webtransport", "websocket"]);
  assertEquals(legs.fallbacks, [{ transport: "webtransport", error }]);
});

Deno.test("raceTransports() starts WebSocket immediately if there is no WebTransport, and reports why", async () => {
  using _time = new FakeTime();
  const legs = new Legs();
  legs.webTransport = "Run it with a flag";
  const dial = legs.racing();
  // A transport that was not tried is not remembered, so the reason is reported each time.
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
});

Deno.test("raceTransports() closes a loser that opens despite its aborted signal", async () => {
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

Deno.test("raceTransports() rejects when its signal aborts at any stage, and aborts all attempts", async () => {
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

Deno.test("raceTransports() remembers for a while that a server has only WebSocket", async () => {
  using time = new FakeTime();
  const legs = new Legs();
  const dial = legs.racing();
  const error = new ConnectionError("Blocked");
  await legs.lose(dial, error);

  await time.tickAsync(FIRST_REMEMBER_MS - 1);
  const second = dial("wss://example.com/other?path");
  await time.tickAsync(1);
  assertEquals(legs.names.slice(2), ["websocket"]);
  // There is no head start, so the dialer waits for a slow WebSocket.
  await time.tickAsync(5_000);
  assertEquals(legs.names.slice(2), ["websocket"]);
  legs.last.up();
  await second;
  assertEquals(legs.fallbacks[1], { transport: "webtransport", error });

  assertEquals(await legs.firstOf(() => dial("wss://example.com:8443/")), "webtransport");
  assertEquals(await legs.firstOf(dial), "webtransport");
  assertEquals(legs.fallbacks.length, 2);
});

Deno.test("raceTransports() forgets a failure in time, however the clock is set", async () => {
  for (const setMs of [-3_600_000, -1_000, 3_600_000]) {
    using time = new FakeTime();
    const legs = new Legs();
    const dial = legs.racing();
    await legs.lose(dial);
    using _set = clockAhead(setMs);
    await time.tickAsync(REMEMBER_MS + 1_000);
    assertEquals(await legs.firstOf(dial), "webtransport", `${setMs}`);
  }
});

Deno.test("raceTransports() tries WebTransport after all when the remembered WebSocket fails", async () => {
  using _time = new FakeTime();
  const legs = new Legs();
  const dial = legs.racing();
  await legs.lose(dial);
  await legs.lose(dial);
  assertEquals(legs.names.slice(2), ["websocket", "webtransport"]);
  // The failure is no longer remembered.
  assertEquals(await legs.firstOf(dial), "webtransport");
});

Deno.test("raceTransports() remembers 64 servers, and forgets the oldest", async () => {
  using time = new FakeTime();
  const legs = new Legs();
  const dial = legs.racing();
  const lose = (host: number) => legs.lose(() => dial(`wss://host-${host}/`));
  for (let host = 0; host <= MAX_REMEMBERED; host++) await lose(host);
  const firstOf = (url: string) => legs.firstOf(() => dial(url));
  assertEquals(await firstOf("wss://host-0/"), "webtransport");
  assertEquals(await firstOf("wss://host-1/"), "websocket");
  assertEquals(await firstOf(`wss://host-${MAX_REMEMBERED}/`), "websocket");
  // Another failure makes a server the newest one.
  await time.tickAsync(FIRST_REMEMBER_MS);
  for (const host of [1, 100]) await lose(host);
  assertEquals(await firstOf("wss://host-1/"), "websocket");
});

Deno.test("raceTransports() reports both causes when both fail, in either order", async () => {
  for (const first of [0, 1]) {
    using time = new FakeTime();
    const legs = new Legs();
    const dialing = legs.racing()();
    dialing.catch(() => {});
    await time.tickAsync(500);
    const [h3, ws] = [new ConnectionError("No response"), new ConnectionError("No socket")];
    const fail = [() => legs.all[0]!.fail(h3), () => legs.all[1]!.fail(ws)];
    fail[first]!();
    await turns();
    fail[1 - first]!();
    const error = await assertRejects(() => dialing, ConnectionError, "No socket; No response");
    assert(error.cause instanceof AggregateError);
    assertEquals(error.cause.errors, [h3, ws]);
    assertEquals(legs.all.length, 2);
  }
});

Deno.test("raceTransports() does not wait long for WebTransport after WebSocket failed", async () => {
  using time = new FakeTime();
  const legs = new Legs();
  const dialing = legs.racing()();
  dialing.catch(() => {});
  await time.tickAsync(500);
  legs.last.fail();
  await time.tickAsync(LATE_LEG_MS - 1);
  assert(!legs.all[0]!.options.signal!.aborted);
  await time.tickAsync(1);
  await assertRejects(() => dialing, ConnectionError, `within ${LATE_LEG_MS} ms`);
  assert(legs.all[0]!.options.signal!.aborted);
});

Deno.test("raceTransports() fails with the error of the only transport that was tried", async () => {
  const error = new ConnectionError("Rejected", { status: 403 });
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

Deno.test("raceTransports() prefers WebSocket if it is first in the list", async () => {
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

Deno.test("raceTransports() passes on the URL, the options, and the certificates", async () => {
  const legs = new Legs();
  const runtime = platformRuntime();
  const dialing = legs.racing({ serverCertificateHashes: HASHES })("ws://example.com/x?y#z", {
    runtime,
    protocols: ["skein.1"],
    headers: { a: "b" },
    timeoutMs: 10_000,
  });
  await turns();
  const { url, options: { signal, ...options } } = legs.last;
  assertEquals(url, "ws://example.com/x?y");
  assertEquals(options, {
    runtime,
    protocols: ["skein.1"],
    headers: { a: "b" },
    timeoutMs: 10_000,
    serverCertificateHashes: HASHES,
    flowControl: undefined,
    onWorn: undefined,
  });
  assert(!signal!.aborted);
  legs.last.up();
  await dialing;
});

Deno.test("raceTransports() does not remember a server that does not offer WebTransport", async () => {
  const legs = new Legs();
  const dial = legs.racing({ headStartMs: 1_000_000 });
  const error = new UnsupportedError("The server does not offer it");
  await legs.lose(dial, error);
  assertEquals(legs.last.name, "websocket");
  assertEquals(legs.fallbacks, [{ transport: "webtransport", error }]);
  // A restarted server may have WebTransport.
  assertEquals(await legs.firstOf(dial), "webtransport");
});

Deno.test("raceTransports() rejects invalid arguments", async () => {
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
    const error = await assertRejects(() => legs.racing()(url), TypeError, "url must start with");
    assert(!error.message.includes("secret"));
  }
  assertEquals(legs.all, []);
});

Deno.test("raceTransports() closes a WebTransport connection that opens late, and remembers nothing", async () => {
  using time = new FakeTime();
  const legs = new Legs();
  const dial = legs.racing();
  const [late, taken] = await legs.beLate(time, dial);
  await time.tickAsync(LATE_LEG_MS - 1);
  late.up();
  assertEquals(await late.pair.server.closed, { closeCode: 0, reason: "" });
  await time.tickAsync(0);
  assertEquals(late.pair.server.incomingBidirectionalStreams.locked, false);
  assert(!taken.options.signal!.aborted);
  assertEquals(await legs.firstOf(dial), "webtransport");
});

Deno.test("raceTransports() passes a WebTransport connection that opens late to onLate, once", async () => {
  using time = new FakeTime();
  const legs = new Legs();
  const dial = legs.racing();
  const came: Connection[] = [];
  const onLate = (connection: Connection) => void came.push(connection);
  const [late] = await legs.beLate(time, () => dial(undefined, { onLate }));
  late.up();
  await turns();
  assertEquals(came, [late.pair.client]);
  late.pair.client.close();
  // A late connection is closed if the session has ended, or if the caller has aborted.
  const giveUp = new AbortController();
  for (
    const end of [
      (taken: Leg) => taken.pair.client.close(),
      () => giveUp.abort("enough"),
    ]
  ) {
    const pair = memoryPair();
    const stubborn = Promise.withResolvers<Connection>();
    legs.webTransport = () => stubborn.promise;
    const dialing = legs.racing()(undefined, { onLate, signal: giveUp.signal });
    await time.tickAsync(500);
    const taken = legs.last;
    taken.up();
    await dialing;
    end(taken);
    await time.tickAsync(0);
    stubborn.resolve(pair.client);
    assertEquals(await pair.server.closed, { closeCode: 0, reason: "" });
    assertEquals(came.length, 1);
  }
});

Deno.test("raceTransports() ends a late attempt when the chosen session ends, and remembers nothing", async () => {
  using time = new FakeTime();
  const legs = new Legs();
  const dial = legs.racing();
  const [late, taken] = await legs.beLate(time, dial);
  taken.pair.client.close();
  await time.tickAsync(0);
  assert(late.options.signal!.aborted);
  assertEquals(await legs.firstOf(dial), "webtransport");
});

Deno.test("raceTransports() remembers a late attempt that fails, and one that never opens", async () => {
  for (const fails of [true, false]) {
    using time = new FakeTime();
    const legs = new Legs();
    const dial = legs.racing();
    const [late] = await legs.beLate(time, dial);
    if (fails) late.fail();
    else await time.tickAsync(LATE_LEG_MS);
    assert(fails || late.options.signal!.aborted);
    await turns();
    assertEquals(await legs.firstOf(dial), "websocket");
    await time.tickAsync(FIRST_REMEMBER_MS);
    assertEquals(await legs.firstOf(dial), "webtransport");
  }
});

Deno.test("raceTransports() remembers twice as long after each failure, up to ten minutes, until a success", async () => {
  using time = new FakeTime();
  const legs = new Legs();
  const dial = legs.racing();
  for (const seconds of [30, 60, 120, 240, 480, 600, 600]) {
    await legs.lose(dial);
    await time.tickAsync(seconds * 1_000 - 1);
    assertEquals(await legs.firstOf(dial), "websocket", `${seconds} s`);
    await time.tickAsync(1);
  }
  assertEquals(await legs.firstOf(dial), "webtransport");
  await legs.lose(dial);
  await time.tickAsync(FIRST_REMEMBER_MS);
  assertEquals(await legs.firstOf(dial), "webtransport");
});

Deno.test("raceTransports() counts a session that fell silent as a failure, unless both transports fail afterwards", async () => {
  using time = new FakeTime();
  const legs = new Legs();
  const dial = legs.racing();
  const error = new TimeoutError("No sign of life", 60_000);
  const silent = { url: "wss://example.com/chat", transport: "webtransport", error } as const;
  const next = dial(undefined, { silent });
  await turns();
  assertEquals(legs.names, ["websocket"]);
  legs.last.up();
  await next;
  assertEquals(legs.fallbacks, [{ transport: "webtransport", error }]);
  assertEquals(await legs.firstOf(dial), "websocket");
  assertEquals(await legs.firstOf(() => dial("wss://elsewhere.com/")), "webtransport");
  // The network was down.
  const failing = dial(undefined, { silent });
  failing.catch(() => {});
  for (let i = 0; i < 2; i++) {
    await turns();
    legs.last.fail();
  }
  await assertRejects(() => failing, ConnectionError);
  assertEquals(await legs.firstOf(dial), "webtransport");
  // A failure that is remembered for the other transport does not apply to this one.
  const other = { ...silent, transport: "websocket" } as const;
  assertEquals(await legs.firstOf(() => dial(undefined, { silent: other })), "webtransport");
  await time.tickAsync(0);
});

Deno.test("raceTransports() takes no session that opens and falls silent for a success", async () => {
  using time = new FakeTime();
  const legs = new Legs();
  const dial = legs.racing();
  const error = new TimeoutError("No hello in time", 10_000);
  const silent = { url: "wss://example.com/chat", transport: "webtransport", error } as const;
  assertEquals(await legs.firstOf(dial), "webtransport");
  for (const seconds of [30, 60, 120, 240, 480, 600, 600]) {
    await time.tickAsync(10_000);
    assertEquals(await legs.firstOf(() => dial(undefined, { silent })), "websocket");
    await time.tickAsync(seconds * 1_000 - 1);
    assertEquals(await legs.firstOf(dial), "websocket", `${seconds} s`);
    await time.tickAsync(1);
    assertEquals(await legs.firstOf(dial), "webtransport");
  }
  // The session worked for a while.
  await time.tickAsync(120_000);
  assertEquals(await legs.firstOf(() => dial(undefined, { silent })), "websocket");
  await time.tickAsync(30_000);
  assertEquals(await legs.firstOf(dial), "webtransport");
});

Deno.test("raceTransports() uses a defective WebTransport only if WebSocket fails, unless transports is set", async () => {
  using time = new FakeTime();
  const legs = Object.assign(new Legs(), { defect: "It stops after 16 MiB" });
  const first = legs.racing()();
  await time.tickAsync(60_000);
  assertEquals(legs.names, ["websocket"]);
  legs.last.up();
  await first;
  const [{ transport, error }] = legs.fallbacks as [TransportFallback];
  assert(error instanceof UnsupportedError);
  assertEquals([transport, error.message], ["webtransport", "It stops after 16 MiB"]);
  await legs.lose(legs.racing());
  assertEquals(legs.last.name, "webtransport");
  assertEquals(legs.fallbacks.length, 1);
  const chosen = legs.racing({ transports: ["webtransport", "websocket"] });
  assertEquals(await legs.firstOf(chosen), "webtransport");
});
