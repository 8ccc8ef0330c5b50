import { assert, assertEquals, assertRejects } from "@std/assert";
import { platformRuntime } from "../../base/runtime.ts";
import { ConnectionError } from "../../errors.ts";
import { HttpEnds } from "../../tests/http_pair.ts";
import type { Connection } from "../connection.ts";
import { memoryPair } from "../memory/memory.ts";
import { fallBackToHttp } from "./last_resort.ts";
import type { ClientDialer, RaceOptions, TransportFallback, TransportName } from "./options.ts";
import { FIRST_REMEMBER_MS } from "./race.ts";

/** A client with a clock of its own, whose other transports answer by hand. */
class Bench implements AsyncDisposable {
  readonly ends = new HttpEnds();
  readonly fallbacks: TransportFallback[] = [];
  /** Number of dials of the other transports. */
  dials = 0;
  /** Outcome of the other transports. */
  outcome: () => Promise<Connection> = () => Promise.reject(new ConnectionError("No socket"));
  now = 1_000_000;
  readonly #dial: ClientDialer;

  constructor(transports: readonly TransportName[] = ["webtransport", "websocket"]) {
    const others: ClientDialer = (_url, { signal }) => {
      this.dials++;
      const { promise, reject } = Promise.withResolvers<never>();
      signal.addEventListener("abort", () => reject(signal.reason));
      return Promise.race([promise, this.outcome()]);
    };
    this.#dial = fallBackToHttp(others, { transports });
  }

  /** Dials, and returns the name of the transport. */
  async dial(
    options: RaceOptions & { readonly timeoutMs?: number; readonly url?: string } = {},
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

Deno.test("fallBackToHttp() opens HTTP where the others fail, and tells which to try again", async () => {
  await using bench = new Bench();
  assertEquals(await bench.dial(), "http");
  assertEquals(bench.dials, 1);
  const [{ transport, error }] = bench.fallbacks as [TransportFallback];
  assertEquals([transport, (error as Error).message], ["websocket", "No socket"]);
});

Deno.test("fallBackToHttp() takes no HTTP where another transport opens", async () => {
  await using bench = new Bench();
  bench.outcome = () => Promise.resolve(memoryPair().client);
  assertEquals([await bench.dial(), bench.dials], ["memory", 1]);
  assertEquals([bench.fallbacks, bench.ends.connections.size], [[], 0]);
});

Deno.test("fallBackToHttp() gives the others half of the time", async () => {
  await using bench = new Bench();
  bench.outcome = () => new Promise(() => {});
  assertEquals(await bench.dial({ timeoutMs: 1_000 }), "http");
  const [{ error }] = bench.fallbacks as [TransportFallback];
  assertEquals((error as Error).message, "Cannot open webtransport or websocket within 500 ms");
});

Deno.test("fallBackToHttp() tries HTTP first after a failure, for a while", async () => {
  await using bench = new Bench();
  await bench.dial();
  bench.now += FIRST_REMEMBER_MS - 1;
  assertEquals([await bench.dial(), bench.dials], ["http", 1]);
  assertEquals(bench.fallbacks.length, 2);
  bench.now += 1;
  bench.outcome = () => Promise.resolve(memoryPair().client);
  assertEquals([await bench.dial(), bench.dials], ["memory", 2]);
  // A success clears the memory.
  assertEquals([await bench.dial(), bench.dials], ["memory", 3]);
});

Deno.test("fallBackToHttp() counts two silences of a WebSocket in a row as a failure", async () => {
  await using bench = new Bench();
  bench.outcome = () => Promise.resolve(memoryPair().client);
  const { url } = bench.ends;
  const silent = { url, transport: "websocket", error: new Error("silence") };
  assertEquals(await bench.dial({ silent }), "memory");
  bench.now += 10_000;
  assertEquals(await bench.dial({ silent }), "http");
});

Deno.test("fallBackToHttp() ends with a refusal, an abort and a TypeError of the others", async () => {
  const refusal = new ConnectionError("Go away", { status: 403 });
  for (const error of [refusal, new TypeError("Bad argument")]) {
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

Deno.test("fallBackToHttp() has the reasons of all transports if none opens", async () => {
  await using bench = new Bench();
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = listener.addr;
  listener.close();
  const url = `http://127.0.0.1:${port}/`;
  const error = await assertRejects(() => bench.dial({ url }), ConnectionError, "; No socket");
  assert(error.message.startsWith(`Cannot connect: Cannot open HTTP to ${url}: `));
  assertEquals(bench.fallbacks, []);
});

Deno.test("fallBackToHttp() opens the one transport that is asked for", async () => {
  await using bench = new Bench();
  bench.outcome = () => Promise.resolve(memoryPair().client);
  assertEquals([await bench.dial({ only: "http" }), bench.dials], ["http", 0]);
  assertEquals([await bench.dial({ only: "websocket" }), bench.dials], ["memory", 1]);
  bench.outcome = () => Promise.reject(new ConnectionError("No socket"));
  await assertRejects(() => bench.dial({ only: "websocket" }), ConnectionError, "No socket");
});

Deno.test("fallBackToHttp() opens HTTP alone without other transports", async () => {
  await using bench = new Bench([]);
  assertEquals([await bench.dial(), bench.dials, bench.fallbacks], ["http", 0, []]);
});
