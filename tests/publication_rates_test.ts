/**
 * Tests publications and numbered messages that exceed a rate limit: they are rejected, sent again
 * in order, or delayed.
 */
import { assert, assertEquals, assertRejects } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import {
  type Client,
  connect,
  QueueFullError,
  RequestError,
  type Session,
  TimeoutError,
} from "../mod.ts";
import type { Rate } from "../manager/mod.ts";
import type { RateLimitsOptions } from "../manager/mod.ts";
import { passTime, type TestServer, testServer, turns } from "../testing/mod.ts";
import { listen } from "./servers.ts";
import { Peer } from "./sessions.ts";
import { soon, until } from "./waiting.ts";
import { statesOf, streamFeatures } from "./stream_features.ts";

/** Maximum number of publications in flight per client. */
const WINDOW = 60;

/** Steps of the fake time, in milliseconds. */
const STEP_MS = 20;

/**
 * A server that allows everything, and the publications and notes in the order in which they
 * arrived.
 */
async function serverWith(rates?: RateLimitsOptions): Promise<
  AsyncDisposable & { readonly server: TestServer<string>; readonly published: unknown[] }
> {
  const published: unknown[] = [];
  const server = testServer<string>({
    authenticate: ({ token = "nobody" }) => token,
    authorize: () => true,
    onMessage: (message) => {
      if (message.isRequest) message.reply("pong");
      else if (message.topic === "note") published.push(message.data);
    },
    ...(rates && { rates }),
  });
  const listener = await server.dial({
    headers: { authorization: "Bearer listener" },
    address: "192.0.2.99",
    onMessage: ({ data }) => void published.push(data),
  });
  await listener.subscribe("news");
  return { server, published, [Symbol.asyncDispose]: () => server.close() };
}

function perSession(publications: Rate): RateLimitsOptions {
  return { perSession: { publications } };
}

function range(length: number): number[] {
  return Array.from({ length }, (_, i) => i);
}

/** Publishes numbers in order, a window at a time; resolves when all are accepted. */
async function publishAll(
  publish: (n: number) => Promise<void>,
  count: number,
): Promise<void> {
  const open = new Set<Promise<void>>();
  for (let n = 0; n < count; n++) {
    const done = publish(n).finally(() => open.delete(done));
    open.add(done);
    if (open.size >= WINDOW) await Promise.race(open);
  }
  await Promise.all(open);
}

/** Advances the time until a promise settles; returns the elapsed time, in milliseconds. */
async function passUntil(time: FakeTime, done: Promise<unknown>): Promise<number> {
  let isDone = false;
  done.finally(() => isDone = true).catch(() => {});
  const startMs = Date.now();
  while (await turns(), !isDone) await time.tickAsync(STEP_MS);
  return Date.now() - startMs;
}

/** Publishes, and returns the rejection. */
async function rejectionOf(session: Session<unknown>, n: number): Promise<RequestError["failure"]> {
  const error = await assertRejects(() => session.publish("news", n), RequestError);
  return error.failure;
}

Deno.test("Server accepts a burst of 1,000 publications per session, and says when to send the next", async () => {
  using time = new FakeTime();
  await using subject = await serverWith();
  const { server, published } = subject;
  await using session = await server.dial();
  await publishAll((n) => session.publish("news", n), 1_000);
  assertEquals(await rejectionOf(session, 1_000), {
    code: "too-many",
    message: "Rejected: at most 200 publications a second per session",
    retryAfterMs: 10,
    level: "session",
  });
  // Nothing else counts towards this rate limit.
  assertEquals(await session.request("ping"), "pong");
  for (const n of range(2_000)) session.send("say", n);
  await passTime(time, 10);
  await session.publish("news", 1_000);
  assertEquals(published, range(1_001));
  assertEquals(server.manager.stats().rates.rejected.session, 1);
});

Deno.test("Client.publish() waits for the server's rate, and keeps the order", async () => {
  using time = new FakeTime();
  await using subject = await serverWith({ maxRejections: 1 });
  const { server, published } = subject;
  await using client = server.connect();
  const tookMs = await passUntil(time, publishAll((n) => client.publish("news", n), 3_000));
  assertEquals(published, range(3_000));
  assert(tookMs >= 9_500 && tookMs <= 11_000, `2,000 beyond the burst took ${tookMs} ms`);
  const { rejected, closed } = server.manager.stats().rates;
  assert(rejected.session > 0, "None was rejected");
  assertEquals(closed, 0);
});

Deno.test("Client.publish() keeps the order even if the rate has room before a rejection arrives", async () => {
  using time = new FakeTime();
  await using subject = await serverWith(perSession({ perSecond: 100, burst: 5 }));
  const { server, published } = subject;
  server.network.setFaults({ delayMs: 60 });
  const client = server.connect();
  await passUntil(time, client.whenConnected());
  const all: Promise<void>[] = [];
  for (const n of range(50)) {
    all.push(client.publish(n % 2 ? "news" : "other", n));
    await time.tickAsync(3);
  }
  await passUntil(time, Promise.all(all));
  assertEquals(published, range(50).filter((n) => n % 2));
  await passUntil(time, client.close());
});

Deno.test("Server reports rejected publications without an id", async () => {
  using _time = new FakeTime();
  await using subject = await serverWith(perSession({ perSecond: 1, burst: 2 }));
  const { server, published } = subject;
  const rejected: unknown[] = [];
  await using session = await server.dial({
    onMessageRejected: ({ failure }) => void rejected.push(failure),
  });
  const near = server.manager.all().at(-1)!;
  for (const n of range(3)) {
    session.connection.frames!.send(JSON.stringify({ publish: "news", data: n }));
  }
  await turns();
  assertEquals(published, [0, 1]);
  const message = "1 rejected: at most 1 publications a second per session";
  assertEquals(rejected, [{ code: "too-many", message, retryAfterMs: 1_000, level: "session" }]);
  assert(near.isReady);
});

Deno.test("Server delays numbered messages above the rate, and rejects none", async () => {
  using time = new FakeTime();
  const rates = { perSession: { messages: { perSecond: 200, burst: 100 } }, maxRejections: 1 };
  await using subject = await serverWith(rates);
  const { server, published } = subject;
  await using client = server.connect({
    delivery: "at-least-once",
    outbox: { maxMessages: 3_000, maxBytes: 1_000_000 },
  });
  await client.whenConnected();
  for (const n of range(2_500)) client.send("note", n);
  const tookMs = await passUntil(time, client.flushed());
  assertEquals(published, range(2_500));
  assert(tookMs >= 12_000 && tookMs <= 13_000, `2,400 beyond the burst took ${tookMs} ms`);
  assertEquals(server.manager.stats().rates.rejected.session, 0);
});

Deno.test("Server delays numbered messages until the session closes, and receives the rest again", async () => {
  // This test uses real time, so that a wait that outlives its session leaks a timer and fails
  // the test.
  const rates = { perSession: { messages: { perSecond: 0.001, burst: 2 } } };
  await using subject = await serverWith(rates);
  const { server, published } = subject;
  await using client = server.connect({
    delivery: "at-least-once",
    backoff: { firstDelayMs: 1 },
  });
  for (const n of range(3)) client.send("note", n);
  await turns();
  const session = client.session!;
  // An envelope without a number is rejected immediately.
  const error = await assertRejects(() => session.request("ping"), RequestError);
  assertEquals(error.failure.code, "too-many");
  assertEquals([published, client.outbox.messages], [[0, 1], 1]);
  // The next session has its own token bucket.
  server.network.linkOf(session).disconnect();
  await soon(client.flushed());
  assertEquals(published, range(3));
});

Deno.test("Client.publish() with at-least-once waits for any rate, and keeps the order", async () => {
  using time = new FakeTime();
  await using subject = await serverWith(perSession({ perSecond: 0.03, burst: 2 }));
  const { server, published } = subject;
  await using client = server.connect({ delivery: "at-least-once" });
  const all = Promise.all(range(3).map((n) => client.publish("news", n)));
  await passUntil(time, all);
  assertEquals(published, range(3));
});

for (const transport of ["websocket", "webtransport", "http"] as const) {
  Deno.test(`serve() over ${transport} keeps the order of publications above the rate with any delivery`, async () => {
    const published: string[] = [];
    await using server = listen({
      authorize: () => true,
      rates: { ...perSession({ perSecond: 500, burst: 5 }), maxRejections: 1 },
    });
    const transports = [transport];
    await using listener = connect(server.url, {
      transports,
      onMessage: ({ data }) => void published.push(data as string),
    });
    await (await soon(listener.whenConnected())).subscribe("news");
    await using numbered = connect(server.url, { transports, delivery: "at-least-once" });
    await using plain = connect(server.url, { transports });
    const publish = (client: Client, name: string) =>
      Promise.all(range(40).map((n) => client.publish("news", `${name} ${n}`)));
    await soon(Promise.all([publish(numbered, "numbered"), publish(plain, "plain")]));
    await until(() => published.length >= 80);
    for (const name of ["numbered", "plain"]) {
      const own = published.filter((text) => text.startsWith(name));
      assertEquals(own, range(40).map((n) => `${name} ${n}`));
    }
  });
}

Deno.test("Server does not limit publications if the rate is Infinity", async () => {
  await using subject = await serverWith(perSession({ perSecond: Infinity }));
  const { server, published } = subject;
  await using client = server.connect();
  await publishAll((n) => client.publish("news", n), 3_000);
  assertEquals([published.length, server.manager.stats().rates.rejected.session], [3_000, 0]);
});

for (const [scope, level] of [["perUser", "user"], ["perAddress", "address"]] as const) {
  Deno.test(`Server counts publications ${scope} across sessions, and clients share the rate`, async () => {
    using time = new FakeTime();
    const publications = { perSecond: 100, burst: 10 };
    await using subject = await serverWith({ [scope]: { publications }, maxRejections: 1 });
    const { server, published } = subject;
    const who = { headers: { authorization: "Bearer ann" }, address: "192.0.2.1" };
    await using desk = server.connect(who);
    await using phone = server.connect(who);
    await using bob = await server.dial({
      headers: { authorization: "Bearer bob" },
      address: "192.0.2.2",
    });
    await Promise.all([desk.whenConnected(), phone.whenConnected()]);
    const all = Promise.all(
      [desk, phone].map((client, i) => publishAll((n) => client.publish("news", [i, n]), 150)),
    );
    await turns();
    await publishAll((n) => bob.publish("news", ["bob", n]), 10);
    assertEquals((await rejectionOf(bob, 10)).level, level);
    const tookMs = await passUntil(time, all);
    for (const i of [0, 1]) {
      const own = published.filter((data) => (data as unknown[])[0] === i);
      assertEquals(own, range(150).map((n) => [i, n]));
    }
    assert(tookMs >= 2_800 && tookMs < 6_000, `${tookMs} ms`);
    assertEquals(server.manager.stats().rates.closed, 0);
  });
}

Deno.test("Server closes a session that keeps publishing before its retry delay ends", async () => {
  using _time = new FakeTime();
  await using subject = await serverWith();
  const { server } = subject;
  await using session = await server.dial();
  let rejected = 0;
  for (let n = 0; !session.isClosed && n < 2_000; n++) {
    await session.publish("news", n).catch(() => rejected++);
  }
  const { code, reason } = await session.closed;
  assertEquals(code, 4429);
  assertEquals(
    reason,
    "More than 100 rejections in 10 s: at most 200 publications a second per session",
  );
  // The first rejection included the delay, and the last rejection came with the close.
  assertEquals([rejected, server.manager.stats().rates.closed], [102, 1]);
});

Deno.test("Client.publish() rejects by signal and timeout during the pause, and publishes nothing later", async () => {
  using time = new FakeTime();
  await using subject = await serverWith(perSession({ perSecond: 0.1, burst: 1 }));
  const { server, published } = subject;
  await using client = server.connect();
  await client.publish("news", "first");
  const leaving = new AbortController();
  const aborted = client.publish("news", "aborted", { signal: leaving.signal });
  const late = client.publish("news", "late", { timeoutMs: 1_000 });
  await turns();
  const later = client.publish("news", "later", { timeoutMs: 2_000 });
  const kept = client.publish("news", "kept");
  leaving.abort(new Error("Enough"));
  await assertRejects(() => aborted, Error, "Enough");
  const timedOut = Promise.allSettled([late, later]);
  await passTime(time, 2_000);
  for (const { reason } of await timedOut as PromiseRejectedResult[]) {
    assert(reason instanceof TimeoutError);
  }
  await passUntil(time, kept);
  await passTime(time, 20_000);
  assertEquals(published, ["first", "kept"]);
});

Deno.test("Client.publish() throws QueueFullError if the outbox is full of publications", async () => {
  using time = new FakeTime();
  await using subject = await serverWith(perSession({ perSecond: 10, burst: 1 }));
  const { server, published } = subject;
  await using client = server.connect({ outbox: { maxMessages: 4 } });
  await client.publish("news", 0);
  const all = range(4).map((n) => client.publish("news", n + 1));
  await turns();
  await assertRejects(
    () => client.publish("news", 9),
    QueueFullError,
    "Cannot publish: the outbox is full (4 messages",
  );
  await passUntil(time, Promise.all(all));
  assertEquals(published, range(5));
});

Deno.test("Client.publish() keeps a rejected publication while the session has too many requests", async () => {
  using time = new FakeTime();
  await using subject = await serverWith(perSession({ perSecond: 10, burst: 1 }));
  const { server, published } = subject;
  await using client = server.connect({ maxRequests: 2 });
  await client.publish("news", 0);
  const rejected = client.publish("news", 1);
  await turns();
  server.network.setFaults({ delayMs: 300 }, "to-client");
  const asked = Promise.all([client.request("ping"), client.request("ping")]);
  await passUntil(time, Promise.all([asked, rejected]));
  assertEquals(published, [0, 1]);
});

Deno.test("Client.publish() rejects if the retry delay exceeds 30 s", async () => {
  using _time = new FakeTime();
  await using subject = await serverWith(perSession({ perSecond: 0.01, burst: 1 }));
  const { server } = subject;
  await using client = server.connect();
  await client.publish("news", 0);
  const error = await assertRejects(() => client.publish("news", 1), RequestError);
  assertEquals([error.failure.code, error.failure.retryAfterMs], ["too-many", 100_000]);
});

Deno.test("Client.publish() rejects immediately if authorize denies it", async () => {
  using _time = new FakeTime();
  await using server = testServer({
    authorize: () => {
      throw new RequestError("too-many", "Slow mode", { retryAfterMs: 1_000 });
    },
  });
  await using client = server.connect();
  const error = await assertRejects(() => client.publish("news", 1), RequestError, "Slow mode");
  assertEquals(error.failure.level, undefined);
});

Deno.test("Client sends rejected publications in the next session if the current one is lost", async () => {
  using time = new FakeTime();
  await using subject = await serverWith(perSession({ perSecond: 0.1, burst: 1 }));
  const { server, published } = subject;
  await using client = server.connect({ backoff: { firstDelayMs: 1 } });
  await client.publish("news", 0);
  const all = Promise.all([1, 2].map((n) => client.publish("news", n)));
  await turns();
  server.network.linkOf(client.session!).disconnect();
  const tookMs = await passUntil(time, all);
  assertEquals(published, range(3));
  assert(tookMs >= 10_000 && tookMs <= 20_500, `${tookMs} ms`);
});

Deno.test("Client.close() rejects publications that wait for a rate", async () => {
  using _time = new FakeTime();
  await using subject = await serverWith(perSession({ perSecond: 0.1, burst: 1 }));
  const { server, published } = subject;
  const client = server.connect();
  await client.publish("news", 0);
  const waiting = client.publish("news", 1);
  waiting.catch(() => {});
  await turns();
  await client.close();
  await assertRejects(() => waiting, Error, "the client is closed");
  assertEquals(published, [0]);
});

Deno.test("Servers call authorizeChange for 1,000 changes of a session, then for 200 a second", async () => {
  using time = new FakeTime();
  let calls = 0;
  await using host = testServer({
    authorize: () => true,
    authorizeChange: () => ++calls > 0,
    features: streamFeatures(),
  });
  await using _own = await statesOf(host).open("list");
  const peer = new Peer(await host.open());
  const remove = (key: number) => ({ type: "t", key: `${key}`, headers: { operation: "delete" } });
  let id = 0;
  const write = async (changes: number) => {
    peer.say({ publish: "stream:list", data: { writes: [range(changes).map(remove)] }, id: ++id });
    const find = () => peer.envelopes.find(({ reply }) => reply === id);
    while (find() === undefined) await turns(1);
    return find()!["error"] as { readonly code: string; readonly retryAfterMs: number } | undefined;
  };
  assertEquals(await write(1_000), undefined);
  assertEquals(calls, 1_000);
  const { code, retryAfterMs } = (await write(1_000))!;
  assertEquals([code, retryAfterMs, calls], ["too-many", 5_000, 1_000]);
  await passTime(time, 5_000);
  peer.say({ pong: 0 });
  assertEquals([await write(1_000), calls], [undefined, 2_000]);
});

Deno.test("A client writes many rows in transactions, as fast as the rate allows", async () => {
  using time = new FakeTime();
  const rates = perSession({ perSecond: 20, burst: 100 });
  await using host = testServer({ authorize: () => true, features: streamFeatures(), rates });
  await using own = await statesOf(host).open("list");
  await using client = host.connect();
  const state = await client.state("list");
  const write = (round: number) =>
    Promise.all(
      range(3).map((part) =>
        state.transaction((to) => {
          for (const i of range(100)) to.set("t", `${round}-${part}-${i}`, i);
        })
      ),
    );
  await write(1); // More than a burst in one publication, which the next one waits for.
  let isDone = false;
  const done = write(2).then(() => isDone = true);
  const startMs = Date.now();
  while (!isDone) await passTime(time, 1_000);
  await done;
  assertEquals(own.collection("t").size, 600);
  const tookMs = Date.now() - startMs;
  assert(tookMs >= 14_000 && tookMs <= 20_000, `${tookMs} ms`);
});
