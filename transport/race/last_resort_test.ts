import { assert, assertEquals, assertRejects } from "@std/assert";
import { platformRuntime } from "../../base/runtime.ts";
import { ConnectionError } from "../../errors.ts";
import { until } from "../../tests/waiting.ts";
import { HttpEnds } from "../../tests/pairs/http.ts";
import type { Connection } from "../connection.ts";
import { memoryPair } from "../memory/memory.ts";
import { withLastResort } from "./last_resort.ts";
import {
  checkTransports,
  type ClientDialer,
  type RaceOptions,
  type TransportFallback,
  type TransportName,
} from "./options.ts";
import { FIRST_REMEMBER_MS } from "./losses.ts";

/** A client with its own clock. The test sets what the other transports do. */
class Bench implements AsyncDisposable {
  readonly ends = new HttpEnds();
  readonly fallbacks: TransportFallback[] = [];
  /** How often the other transports were dialed. */
  dials = 0;
  /** The only transport to try in the last of these dials; `undefined` for all. */
  only: string | undefined;
  /** How often the code of HTTP was loaded. */
  loads = 0;
  load = () => import("./http_fallback.ts");
  /** The outcome of the other transports. */
  outcome: () => Promise<Connection> = () => Promise.reject(new ConnectionError("No socket"));
  /** True if the other transports open despite an abort. */
  ignoresAbort = false;
  now = 1_000_000;
  readonly #dial: ClientDialer;

  constructor(transports?: readonly TransportName[]) {
    const others: ClientDialer = (_url, { only, signal }) => {
      this.dials++;
      this.only = only;
      if (this.ignoresAbort) return this.outcome();
      const { promise, reject } = Promise.withResolvers<never>();
      signal.addEventListener("abort", () => reject(signal.reason));
      return Promise.race([promise, this.outcome()]);
    };
    this.#dial = withLastResort(
      others,
      checkTransports({ transports }),
      () => {
        this.loads++;
        return this.load();
      },
    );
  }

  /** Dials, and returns the name of the transport. */
  async dial(
    options: RaceOptions & {
      readonly timeoutMs?: number;
      readonly url?: string;
      readonly protocols?: string[];
    } = {},
  ): Promise<string> {
    const { url = this.ends.url } = options;
    await using connection = await this.#dial(url, {
      runtime: Object.assign(platformRuntime(), { now: () => this.now }),
      protocols: ["skein.1"],
      signal: new AbortController().signal,
      timeoutMs: 10_000,
      onFallback: (fallback) => void this.fallbacks.push(fallback),
      ...options,
    });
    return connection.transport;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.ends[Symbol.asyncDispose]();
  }
}

Deno.test("withLastResort() opens HTTP if the others fail, and reports which transport to try again", async () => {
  await using bench = new Bench();
  const outcome = bench.outcome;
  bench.outcome = () => {
    assertEquals(bench.loads, bench.dials - 1, "The code of HTTP loads after the others fail");
    return outcome();
  };
  assertEquals(await bench.dial(), "http");
  // WebTransport does not fail where UDP is dropped, so waiting for it would delay HTTP.
  assertEquals([bench.dials, bench.only], [2, "websocket"], "WebSocket is tried once more");
  const [{ transport, error }] = bench.fallbacks as [TransportFallback];
  assertEquals([transport, (error as Error).message], ["websocket", "No socket"]);
});

Deno.test("withLastResort() does not use HTTP if another transport opens", async () => {
  await using bench = new Bench();
  bench.outcome = () => Promise.resolve(memoryPair().client);
  assertEquals([await bench.dial(), bench.dials], ["memory", 1]);
  assertEquals({
    fallbacks: bench.fallbacks,
    connections: bench.ends.connections.size,
    loads: bench.loads,
  }, { fallbacks: [], connections: 0, loads: 0 });
});

Deno.test("withLastResort() leaves HTTP out if the protocols have no skein.1, or HTTP is not among the transports", async () => {
  await using bench = new Bench();
  await assertRejects(() => bench.dial({ protocols: ["chat"] }), ConnectionError, "No socket");
  await using chosen = new Bench(["websocket"]);
  await assertRejects(() => chosen.dial(), ConnectionError, "No socket");
  assertEquals([bench.loads, chosen.loads], [0, 0]);
});

Deno.test("withLastResort() fails with the others' error if the code of HTTP does not load, and loads it again", async () => {
  await using bench = new Bench();
  const { load } = bench;
  const cause = new TypeError("Failed to fetch dynamically imported module");
  bench.load = () => Promise.reject(cause);
  await assertRejects(() => bench.dial(), ConnectionError, "No socket");
  // An invalid argument is also a TypeError, and would end the client.
  const alone = await assertRejects(() => bench.dial({ only: "http" }), ConnectionError);
  assertEquals([alone.message, alone.cause], ["Cannot load HTTP", cause]);
  bench.load = load;
  assertEquals([await bench.dial(), bench.loads], ["http", 3]);
});

Deno.test("withLastResort() waits for the others if the code of HTTP does not load", async () => {
  await using bench = new Bench();
  const opening = Promise.withResolvers<Connection>();
  bench.outcome = () => opening.promise;
  bench.load = () => {
    opening.resolve(memoryPair().client);
    return Promise.reject(new TypeError("Failed to fetch"));
  };
  assertEquals(await bench.dial({ timeoutMs: 20 }), "memory");
});

Deno.test("withLastResort() uses the first transport that opens after the others are late", async () => {
  await using bench = new Bench();
  const opening = Promise.withResolvers<Connection>();
  bench.outcome = () => opening.promise;
  const { load } = bench;
  bench.load = async () => {
    const part = await load();
    opening.resolve(memoryPair().client);
    return part;
  };
  assertEquals([await bench.dial({ timeoutMs: 20 }), bench.fallbacks], ["memory", []]);
});

Deno.test("withLastResort() closes a connection that opens after HTTP", async () => {
  await using bench = new Bench();
  const opening = Promise.withResolvers<Connection>();
  bench.outcome = () => opening.promise;
  bench.ignoresAbort = true;
  assertEquals(await bench.dial({ timeoutMs: 1_000 }), "http");
  const { client } = memoryPair();
  opening.resolve(client);
  await client.closed;
});

Deno.test("withLastResort() gives the others at most half of the time", async () => {
  await using bench = new Bench();
  bench.outcome = () => new Promise(() => {});
  assertEquals(await bench.dial({ timeoutMs: 1_000 }), "http");
  const [{ error }] = bench.fallbacks as [TransportFallback];
  assertEquals((error as Error).message, "Cannot open webtransport or websocket within 500 ms");
});

Deno.test("withLastResort() tries HTTP first after a failure, for a while", async () => {
  await using bench = new Bench();
  await bench.dial();
  bench.now += FIRST_REMEMBER_MS - 1;
  assertEquals([await bench.dial(), bench.dials], ["http", 2]);
  assertEquals(bench.fallbacks.length, 2);
  bench.now += 1;
  bench.outcome = () => Promise.resolve(memoryPair().client);
  assertEquals([await bench.dial(), bench.dials], ["memory", 3]);
  // A success clears the memory.
  assertEquals([await bench.dial(), bench.dials], ["memory", 4]);
});

Deno.test("withLastResort() does not stay on HTTP if the server started after the others had failed", async () => {
  await using bench = new Bench();
  const { outcome } = bench;
  bench.outcome = () => bench.dials === 1 ? outcome() : Promise.resolve(memoryPair().client);
  assertEquals([await bench.dial(), bench.dials, bench.fallbacks], ["memory", 2, []]);
  await until(() => bench.ends.connections.size === 0);
  // HTTP is not tried first afterwards.
  assertEquals([await bench.dial(), bench.dials], ["memory", 3]);
});

Deno.test("withLastResort() closes HTTP if the others are rejected when they are tried once more", async () => {
  await using bench = new Bench();
  const { outcome } = bench;
  const rejection = new ConnectionError("Go away", { status: 403 });
  bench.outcome = () => bench.dials === 1 ? outcome() : Promise.reject(rejection);
  assertEquals(await assertRejects(() => bench.dial()), rejection);
  await until(() => bench.ends.connections.size === 0);
});

Deno.test("withLastResort() counts two silences of a WebSocket in a row as a failure", async () => {
  await using bench = new Bench();
  const part = await bench.load();
  bench.load = () => Promise.resolve(part);
  bench.outcome = () => Promise.resolve(memoryPair().client);
  const { url } = bench.ends;
  const silent = { url, transport: "websocket", error: new Error("silence") };
  assertEquals(await bench.dial({ silent }), "memory");
  bench.now += 10_000;
  assertEquals(await bench.dial({ silent }), "http");
});

Deno.test("withLastResort() takes no WebSocket that opens and falls silent for a success", async () => {
  await using bench = new Bench();
  const part = await bench.load();
  bench.load = () => Promise.resolve(part);
  bench.outcome = () => Promise.resolve(memoryPair().client);
  const { url } = bench.ends;
  const silent = { url, transport: "websocket", error: new Error("silence") };
  assertEquals(await bench.dial({ silent }), "memory");
  bench.now += 10_000;
  assertEquals(await bench.dial({ silent }), "http");
  for (const seconds of [30, 60, 120, 240, 480, 600, 600]) {
    bench.now += seconds * 1_000 - 1;
    assertEquals(await bench.dial(), "http", `${seconds} s`);
    bench.now += 1;
    assertEquals(await bench.dial(), "memory");
    bench.now += 10_000;
    assertEquals(await bench.dial({ silent }), "http");
  }
  bench.now += 600_000;
  assertEquals(await bench.dial(), "memory");
  // The session worked for a while.
  bench.now += 120_000;
  assertEquals(await bench.dial({ silent }), "memory");
});

Deno.test("withLastResort() ends the attempt on a rejection, an abort or a TypeError of the others", async () => {
  const rejection = new ConnectionError("Go away", { status: 403 });
  for (const error of [rejection, new TypeError("Bad argument")]) {
    await using bench = new Bench();
    bench.outcome = () => Promise.reject(error);
    const thrown = await assertRejects(() => bench.dial());
    assertEquals([thrown, bench.ends.connections.size], [error, 0]);
  }
  await using bench = new Bench();
  const aborted = new AbortController();
  bench.outcome = () => new Promise(() => {});
  const dialing = bench.dial({ signal: aborted.signal });
  aborted.abort(new Error("enough"));
  await assertRejects(() => dialing, Error, "enough");
});

Deno.test("withLastResort() reports the reasons of all transports if none opens", async () => {
  await using bench = new Bench();
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = listener.addr;
  listener.close();
  const url = `http://127.0.0.1:${port}/`;
  const error = await assertRejects(() => bench.dial({ url }), ConnectionError);
  assert(error.message.startsWith(`Cannot connect: No socket; Cannot open HTTP to ${url}: `));
  assertEquals(bench.fallbacks, []);
});

Deno.test("withLastResort() opens only the requested transport", async () => {
  await using bench = new Bench();
  bench.outcome = () => Promise.resolve(memoryPair().client);
  assertEquals([await bench.dial({ only: "http" }), bench.dials], ["http", 0]);
  assertEquals([await bench.dial({ only: "websocket" }), bench.dials], ["memory", 1]);
  bench.outcome = () => Promise.reject(new ConnectionError("No socket"));
  await assertRejects(() => bench.dial({ only: "websocket" }), ConnectionError, "No socket");
});

Deno.test("withLastResort() opens HTTP if it is the only transport", async () => {
  await using bench = new Bench(["http"]);
  assertEquals({ dial: await bench.dial(), dials: bench.dials, fallbacks: bench.fallbacks }, {
    dial: "http",
    dials: 0,
    fallbacks: [],
  });
});
