/** Tests each place where a time goes into a broker: a time that some broker cannot store is rejected. */
import { assertEquals, assertRejects, assertThrows } from "@std/assert";
import { Topics } from "../pubsub/mod.ts";
import { httpApi } from "../operations/http_api/mod.ts";
import { NatsBroker } from "../brokers/nats/mod.ts";
import { RedisBroker } from "../brokers/redis/mod.ts";
import { durableStreams, liveState, resumable } from "../streams/mod.ts";
import { testServer } from "../testing/mod.ts";

const MAX_TTL_MS = 100 * 365 * 86_400_000;
const RULE = `to ${MAX_TTL_MS}, received`;

Deno.test("A time to live of more than 100 years is rejected at the call", async () => {
  const streams = durableStreams({ path: "/streams", authorize: () => true });
  const states = liveState();
  await using server = testServer({ features: [streams, states], authorize: () => true });
  await using state = await states.open("board");
  const cards = state.collection<number>("cards");
  await using client = server.connect();
  const page = await client.state("board");
  await page.ready;
  const rows = page.collection<number>("cards");
  const nats = { servers: "127.0.0.1:1" };
  const redis = { url: "redis://127.0.0.1:1" };

  /** The calls that take a time, with how they end for a time that can be stored. */
  const calls: Record<string, (ms: number) => unknown> = {
    "serve: history": (ttlMs) => testServer({ history: { "a:{b}": { ttlMs } } }).close(),
    "Topics: history": (ttlMs) => void new Topics({ history: { "a:{b}": { ttlMs } } }),
    "StateCollection.set": (ttlMs) => cards.set("a", 1, { ttlMs }),
    "StateCollection.insert": (ttlMs) => cards.insert("b", 1, { ttlMs }),
    "State.transaction": (ttlMs) =>
      state.transaction((rows) => rows.set("cards", "a", 1, { ttlMs })),
    "ClientStateCollection.set": (ttlMs) => rows.set("a", 1, { ttlMs }),
    "ClientStateCollection.insert": (ttlMs) => rows.insert("c", 1, { ttlMs }),
    "ClientState.transaction": (ttlMs) =>
      page.transaction((rows) => rows.set("cards", "a", 1, { ttlMs })),
    "DurableStreams.create": async (ttlMs) => {
      await using _ = await streams.create("stream", { ttlMs });
    },
    "DurableStreams.create: keyed": (ttlMs) => streams.create("keyed", { keyed: true, ttlMs }),
    "durableStreams: tail.ms": (ms) => void durableStreams({ tail: { records: 1, bytes: 1, ms } }),
    "resumable: retainMs": (retainMs) => void resumable({ retainMs }),
    "httpApi: idempotencyWindowMs": (idempotencyWindowMs) =>
      void httpApi({ path: "/api", authorize: () => true, idempotencyWindowMs }),
    "RedisBroker: rememberMs": (rememberMs) => new RedisBroker(redis, { rememberMs }).close(),
    "NatsBroker: rememberMs": (rememberMs) => new NatsBroker(nats, { rememberMs }).close(),
    "NatsBroker: storeTtlMs": (storeTtlMs) => new NatsBroker(nats, { storeTtlMs }).close(),
  };
  for (const [name, call] of Object.entries(calls)) {
    for (const ms of [MAX_TTL_MS + 1, Number.MAX_SAFE_INTEGER]) {
      await assertRejects(async () => await call(ms), RangeError, RULE, name);
    }
    await call(MAX_TTL_MS);
  }
  const expiresAt = 8.64e15 + 1;
  await assertRejects(
    () => streams.create("late", { expiresAt }),
    RangeError,
    "to 8640000000000000",
  );

  const put = async (headers: Record<string, string>) => {
    const init = { method: "PUT", headers: { "content-type": "application/json", ...headers } };
    const response = await server.fetch(new Request("http://a.test/streams/http", init));
    await response.body?.cancel();
    return response.status;
  };
  assertEquals(await put({ "stream-ttl": `${MAX_TTL_MS / 1_000 + 1}` }), 400);
  assertEquals(await put({ "stream-ttl": `${MAX_TTL_MS / 1_000}` }), 201);
  assertThrows(() => void new Topics({ history: { "a:{b}": { ttlMs: 0 } } }), RangeError, "from 1");
});
