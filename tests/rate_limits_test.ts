import { assert, assertEquals, assertRejects } from "@std/assert";
import { type CloseInfo, dial, RequestError, type Session, SessionClosedError } from "../client.ts";
import type { SharedCounts } from "../manager/mod.ts";
import { MemoryBroker } from "../pubsub/mod.ts";
import type { ServeOptions } from "../server.ts";
import { testServer } from "../testing/mod.ts";
import { listen, portOf, RawSocket } from "./servers.ts";
import { soon, turns, until } from "./waiting.ts";

/** A rate per second so low that no test gets a second token. */
const SLOW = 0.001;

const ANSWERING: ServeOptions<string> = {
  authenticate: ({ token = "nobody" }) => token,
  onMessage: (message) => {
    if (message.isRequest) message.reply("done");
  },
};

/** Sends requests and returns how many are answered. The others are rejected as too many. */
async function answered(session: Session<unknown>, count: number): Promise<number> {
  const answers = Array.from({ length: count }, () => session.request("ask"));
  let good = 0;
  for (const answer of await soon(Promise.allSettled(answers))) {
    if (answer.status === "fulfilled") good++;
    else {
      assert(answer.reason instanceof RequestError, `${answer.reason}`);
      assertEquals(answer.reason.failure.code, "too-many");
    }
  }
  return good;
}

Deno.test("Server rejects a flood, closes its session with 4429, and does not affect another client", async () => {
  const closed = Promise.withResolvers<CloseInfo>();
  const rejected: string[] = [];
  await using server = listen({
    ...ANSWERING,
    rates: { perSession: { messages: { perSecond: 5, burst: 100 } } },
    onClose: ({ user }, info) => {
      if (user === "flood") closed.resolve(info);
    },
  });
  const dialing = { transports: ["websocket"] } as const;
  await using polite = await dial(`${server.url}?token=ann`, dialing);
  await using flood = await dial(`${server.url}?token=flood`, {
    ...dialing,
    onMessageRejected: ({ failure }) => void rejected.push(`${failure.code}: ${failure.message}`),
  });
  assertEquals(await answered(flood, 50), 50);
  for (let i = 0; i < 100; i++) flood.send("say", i);
  // A reply shows that the earlier messages were handled or rejected.
  assertEquals(await answered(polite, 20), 20);
  await until(() => rejected.length > 0);
  assert(/^too-many: \d+ rejected: at most 5 messages a second per session$/.test(rejected[0]!));
  assert(flood.isReady);

  for (let i = 0; i < 200; i++) flood.send("say", i);
  const { code, reason, by } = await soon(closed.promise);
  assertEquals([code, by], [4429, "local"]);
  assertEquals(reason, "More than 100 rejections in 10 s: at most 5 messages a second per session");
  // The runtime drops a connection that sends while it is closing. The peer then receives 1006.
  const seen = await soon(flood.closed);
  assert([4429, 1006].includes(seen.code), JSON.stringify(seen));
  assertEquals([await answered(polite, 20), polite.isReady], [20, true]);
  const { rejected: counts, closed: count } = server.manager.stats().rates;
  assert(counts.session > 100);
  assertEquals(count, 1);
});

/**
 * Subscribes up to `most` times; returns how many subscriptions succeed before the first rejection.
 */
async function subscribed(raw: RawSocket, most: number): Promise<number> {
  for (let id = 0; id < most; id++) {
    await raw.frame(`{"subscribe":"t${id % 100}","id":${id}}`);
    const { error } = await raw.envelope() as { error?: { code: string; retryAfterMs: number } };
    if (error === undefined) continue;
    assertEquals([error.code, error.retryAfterMs > 0], ["too-many", true]);
    return id;
  }
  return most;
}

async function openRaw(options: ServeOptions): Promise<AsyncDisposable & { raw: RawSocket }> {
  const stack = new AsyncDisposableStack();
  const server = stack.use(listen({ authorize: () => true, ...options }));
  const raw = stack.use(await RawSocket.open(portOf(server), { protocol: "skein.1" }));
  await raw.envelope();
  return { raw, [Symbol.asyncDispose]: () => stack.disposeAsync() };
}

Deno.test("Server limits the rate of subscriptions by default, and rejections don't count as invalid input", async () => {
  await using server = listen({ authorize: () => true });
  using raw = await RawSocket.open(portOf(server), { protocol: "skein.1" });
  await raw.envelope();
  // A burst of 256, plus 20 per elapsed second.
  const count = await subscribed(raw, 10_000);
  assert(count >= 256 && count < 10_000, `${count} were answered`);
  const [session] = server.manager.all();
  assertEquals([session!.stats.invalidMessages, session!.isReady], [0, true]);
});

Deno.test("Server allows a burst of twice a session's topics, and any number if the rate is Infinity", async () => {
  await using many = await openRaw({ limits: { maxTopicsPerSession: 200 } });
  assertEquals(await subscribed(many.raw, 400), 400);
  const rates = { perSession: { subscriptions: { perSecond: Infinity } } };
  await using free = await openRaw({ rates });
  assertEquals(await subscribed(free.raw, 1_000), 1_000);
});

Deno.test("Server counts a user whose token is sent in band", async () => {
  await using server = testServer({
    ...ANSWERING,
    tokens: { inMessage: true },
    rates: {
      perUser: {
        messages: { perSecond: SLOW, burst: 3 },
        connections: { perSecond: SLOW, burst: 2 },
      },
    },
  });
  await using first = await server.dial({ token: "ann" });
  assertEquals(await answered(first, 5), 3);
  await using _second = await server.dial({ token: "ann" });
  const rejected = await assertRejects(() => server.dial({ token: "ann" }), SessionClosedError);
  const { code, reason } = rejected.info!;
  assertEquals(code, 4429);
  assertEquals(reason, "Cannot connect: at most 0.001 connections a second per user");
  await using _bob = await server.dial({ token: "bob" });
  assertEquals(server.manager.stats().rates.rejectedConnections, { user: 1, address: 0 });
});

Deno.test("Server rejects too many connections of an address with 429 and a retry delay", async () => {
  const limits: unknown[] = [];
  await using server = listen({
    rates: { perAddress: { connections: { perSecond: 0.02, burst: 2 } } },
    onSessionRejected: ({ status, error }) =>
      void limits.push([status, (error as { limit: string }).limit]),
  });
  for (let i = 0; i < 2; i++) {
    using raw = await RawSocket.open(portOf(server));
    assertEquals(raw.status, 101);
  }
  using plain = await RawSocket.open(portOf(server));
  assertEquals(plain.status, 429);
  const seconds = Number(/retry-after: (\d+)/i.exec(plain.head)?.[1]);
  assert(seconds >= 40 && seconds <= 50, plain.head);
  using skein = await RawSocket.open(portOf(server), { protocol: "skein.1" });
  assertEquals([skein.status, (await skein.closed())?.code], [101, 4429]);
  assertEquals(limits, Array(2).fill([429, "perAddress.connections"]));
});

Deno.test("Server counts connections by the address that clientAddress returns", async () => {
  await using server = testServer({
    clientAddress: (request) => request.headers.get("x-real-ip") ?? undefined,
    rates: { perAddress: { connections: { perSecond: SLOW, burst: 1 } } },
  });
  const from = (address: string) => server.dial({ headers: { "x-real-ip": address } });
  await using _first = await from("192.0.2.1");
  await using _second = await from("192.0.2.2");
  const rejected = await assertRejects(() => from("192.0.2.1"), SessionClosedError);
  assertEquals(rejected.info?.code, 4429);
});

class MemoryCounts implements SharedCounts {
  readonly keys = new Set<string>();
  readonly #store = new MemoryBroker().store;

  take(...args: Parameters<SharedCounts["take"]>): ReturnType<SharedCounts["take"]> {
    this.keys.add(args[0]);
    return this.#store.take!(...args);
  }
}

/**
 * Alternates between two servers after every 10 requests of ann; returns how many requests each
 * server answers.
 */
async function answeredByTwo(options: ServeOptions<string>): Promise<[number, number]> {
  await using one = testServer({ ...ANSWERING, ...options });
  await using two = testServer({ ...ANSWERING, ...options });
  const dialing = { headers: { authorization: "Bearer ann" } };
  await using first = await one.dial(dialing);
  await using second = await two.dial(dialing);
  const counts: [number, number] = [0, 0];
  for (let i = 0; i < 6; i++) {
    counts[0] += await answered(first, 10);
    await turns();
    counts[1] += await answered(second, 10);
    await turns();
  }
  return counts;
}

Deno.test("Servers share the rate of a user through a broker that can count, and otherwise count separately", async () => {
  const perUser = { messages: { perSecond: SLOW, burst: 50 } };
  const shared = new MemoryCounts();
  await using broker = new MemoryBroker();
  await using other = new MemoryBroker();
  const away = { take: () => Promise.reject(new Error("Away")) };
  const cases: [what: string, isShared: boolean, options: ServeOptions<string>][] = [
    ["shared counts", true, { rates: { perUser, shared } }],
    ["the store of the broker", true, { broker, rates: { perUser } }],
    ["an absent option", true, { broker: other, rates: { perUser, shared: undefined } }],
    ["nothing in common", false, { rates: { perUser } }],
    ["counts that are away", false, { rates: { perUser, shared: away } }],
  ];
  for (const [what, isShared, options] of cases) {
    const [first, second] = await answeredByTwo(options);
    const about = `${what}: ${first} and ${second}`;
    // 50 in total, plus the requests that each server may admit before the shared count rejects
    // them.
    if (isShared) assert(first + second >= 50 && first + second <= 70, about);
    else assertEquals([first, second], [50, 50], about);
    assert(first >= 20 && second >= 20, about);
  }
  assertEquals([...shared.keys], ["rate:user:messages:ann"]);
});
