/** Producers as a server sees them, whatever a client sends. */
import { assert, assertEquals } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { BrokerError, guest, RequestError, type ServeOptions } from "../mod.ts";
import { liveState } from "../streams/mod.ts";
import { type TestServer, testServer } from "../testing/mod.ts";
import { fail, type Fate, FaultyStore, loseReply, waitFor } from "./faulty_broker.ts";
import { named, ProducingPeer, short } from "./peers/producing_peer.ts";
import { passTime, turns } from "./waiting.ts";

/** A server that records what it handles. */
function recording(options: ServeOptions<string> = {}): { server: TestServer; seen: unknown[] } {
  const seen: unknown[] = [];
  const server = testServer({
    authorize: () => true,
    onMessage: ({ data }) => void seen.push(data),
    ...options,
  }) as TestServer;
  return { server, seen };
}

Deno.test("A producer's messages are handled once, and acknowledged, in several sessions", async () => {
  const { server, seen } = recording();
  await using _server = server;
  using first = await ProducingPeer.open(server);
  assert((first.envelopes[0]!.hello as { features: string[] }).features.includes("producers"));
  assertEquals(await first.introduce(named("a")), 0);
  const told = await first.tell(
    { topic: "t", data: 1, seq: 1 },
    { topic: "t", data: 2, seq: 2 },
  );
  assertEquals(told, [{ ack: 1 }, { ack: 2 }]);
  using second = await ProducingPeer.open(server);
  assertEquals(await second.introduce(named("a"), { acked: 1, sent: 2 }), 2);
  assertEquals(
    await second.tell({ topic: "t", data: 2, seq: 2 }, { topic: "t", data: 3, seq: 3 }),
    [{ ack: 2 }, { ack: 3 }],
  );
  assertEquals(seen, [1, 2, 3]);
});

Deno.test("Publications, messages and requests of a producer share one order", async () => {
  const { server, seen } = recording({
    authorize: async (_session, topic) => {
      await turns(topic === "slow" ? 20 : 1);
      seen.push(topic);
      return true;
    },
    onMessage: async (message) => {
      await turns(5);
      seen.push(message.data);
      if (message.isRequest) message.reply("done");
    },
  });
  await using _server = server;
  using peer = await ProducingPeer.open(server);
  await peer.introduce(named("a"));
  const told = await peer.tell(
    { publish: "slow", data: 1, id: 1, seq: 1 },
    { topic: "t", data: 2, seq: 2 },
    { topic: "t", data: 3, id: 2, seq: 3 },
    { publish: "quick", data: 4, id: 3, seq: 4 },
  );
  assertEquals(seen, ["slow", 2, 3, "quick"]);
  assertEquals(told, [
    { reply: 1, data: {} },
    { ack: 1 },
    { ack: 2 },
    { reply: 2, data: "done" },
    { ack: 3 },
    { reply: 3, data: {} },
    { ack: 4 },
  ]);
});

Deno.test("A repeated publication is not made again, and a repeated request is unanswered", async () => {
  const { server, seen } = recording({
    onMessage: (message) => {
      seen.push(message.data);
      if (message.isRequest) message.reply("done");
    },
    history: { news: {} },
  });
  await using _server = server;
  using reader = await ProducingPeer.open(server);
  await reader.tell({ subscribe: "news", id: 1 }, { subscribe: "talk", id: 2 });
  const envelopes = [
    { publish: "news", data: 1, id: 1, seq: 1 },
    { publish: "talk", data: 2, id: 2, seq: 2 },
    { topic: "t", data: 3, id: 3, seq: 3 },
  ];
  using first = await ProducingPeer.open(server);
  await first.introduce(named("a"));
  await first.tell(...envelopes);
  using second = await ProducingPeer.open(server);
  assertEquals(await second.introduce(named("a"), { sent: 3 }), 3);
  assertEquals(await second.tell(...envelopes), [
    { reply: 1, data: {} },
    { ack: 1 },
    { reply: 2, data: {} },
    { ack: 2 },
    { reply: 3, error: "unanswered" },
    { ack: 3 },
  ]);
  assertEquals(seen, [3]);
  const published = reader.envelopes.filter(({ topic }) => topic !== undefined);
  assertEquals(published.map(({ data }) => data), [1, 2]);
});

Deno.test("A publication that the server rejects for good is acknowledged", async () => {
  const { server } = recording({ authorize: (_session, topic) => topic === "open" });
  await using _server = server;
  using peer = await ProducingPeer.open(server);
  await peer.introduce(named("a"));
  assertEquals(
    await peer.tell(
      { publish: "shut", data: 1, id: 1, seq: 1 },
      { publish: "open", data: 2, id: 2, seq: 2 },
    ),
    [{ reply: 1, error: "forbidden" }, { ack: 1 }, { reply: 2, data: {} }, { ack: 2 }],
  );
});

Deno.test("A publication that can't be made now suspends its producer until it is introduced again", async () => {
  let isReady = false;
  const seen: unknown[] = [];
  const { server } = recording({
    onPublish: ({ data }) => {
      if (!isReady) throw new RequestError("unavailable", "Later", { retryAfterMs: 5 });
      seen.push(data);
    },
  });
  await using _server = server;
  using peer = await ProducingPeer.open(server);
  await peer.introduce(named("a"));
  const envelopes = [
    { publish: "t", data: 1, id: 1, seq: 1 },
    { publish: "t", data: 2, id: 2, seq: 2 },
    { topic: "m", data: 3, seq: 3 },
  ];
  assertEquals(await peer.tell(...envelopes), [
    { reply: 1, error: "unavailable" },
    { reply: 2, error: "unavailable" },
  ]);
  isReady = true;
  assertEquals(await peer.tell({ publish: "t", data: 9, id: 9, seq: 9 }), [
    { reply: 9, error: "unavailable" },
  ]);
  assertEquals(await peer.introduce(named("a"), { sent: 9 }), 0);
  assertEquals(await peer.tell(...envelopes), [
    { reply: 1, data: {} },
    { ack: 1 },
    { reply: 2, data: {} },
    { ack: 2 },
    { ack: 3 },
  ]);
  assertEquals(seen, [1, 2]);
});

Deno.test("A producer that the server doesn't know is forgotten if anything was sent", async () => {
  const { server } = recording();
  await using _server = server;
  using peer = await ProducingPeer.open(server);
  assertEquals(await peer.introduce(named("a"), { sent: 1 }), "forgotten");
  assertEquals(await peer.introduce(named("b"), { acked: 1, sent: 1 }), "forgotten");
  assertEquals(await peer.introduce(named("a")), 0);
  // The row exists before the reply, so a lost reply loses nothing.
  assertEquals(await peer.introduce(named("a"), { sent: 5 }), 0);
  await peer.tell({ topic: "t", data: 1, seq: 5 });
  assertEquals(await peer.introduce(named("a"), { acked: 6, sent: 6 }), "forgotten");
  assertEquals(await peer.introduce(named("a"), { acked: 5, sent: 6 }), 5);
});

Deno.test("A producer belongs to a user, or to whoever knows the name of a guest's", async () => {
  const { server } = recording({
    authenticate: ({ token }) => token === undefined ? guest : token,
    userOf: (name: string) => name,
  } as ServeOptions<string>);
  await using _server = server;
  const as = (name: string) => ({ headers: { authorization: `Bearer ${name}` } });
  using ann = await ProducingPeer.open(server, as("ann"));
  assertEquals(await ann.introduce(named("a"), { user: "bob" }), "other-user");
  assertEquals(await ann.introduce(named("a"), { user: null }), "other-user");
  assertEquals(await ann.introduce(named("a"), { user: "ann" }), 0);
  await ann.tell({ topic: "t", data: 1, seq: 1 });
  using bob = await ProducingPeer.open(server, as("bob"));
  assertEquals(await bob.introduce(named("a"), { user: "ann", sent: 1 }), "other-user");
  // The same name is another producer, of which nothing is known.
  assertEquals(await bob.introduce(named("a"), { user: "bob", sent: 1 }), "forgotten");
  using first = await ProducingPeer.open(server);
  assertEquals(await first.introduce(named("a"), { user: "ann", sent: 1 }), "other-user");
  assertEquals(await first.introduce(named("a"), { sent: 1 }), "forgotten");
  assertEquals(await first.introduce(named("g")), 0);
  await first.tell({ topic: "t", data: 1, seq: 1 });
  using second = await ProducingPeer.open(server);
  assertEquals(await second.introduce(named("g"), { sent: 1, epoch: 1 }), 1);
  // The first guest's tab is fenced.
  assertEquals(first.envelopes.filter(({ reply }) => reply === null).map(short), [
    { reply: null, error: "fenced" },
  ]);
  assertEquals(await first.tell({ topic: "t", data: 2, id: 7, seq: 2 }), [
    { reply: 7, error: "fenced" },
  ]);
  assertEquals(await first.introduce(named("g"), { sent: 2 }), "fenced");
});

/** Two nodes of a store, which record what each of them handles. */
function twoNodes(handle: (data: unknown, node: string) => unknown = () => {}) {
  const store = new FaultyStore();
  const seen: string[] = [];
  const nodes = ["a", "b"].map((name) => {
    const broker = store.connect();
    const server = testServer({
      broker,
      history: { news: {} },
      authorize: () => true,
      onMessage: async (message) => {
        seen.push(`${name}${message.data}`);
        await handle(message.data, name);
      },
    }) as TestServer;
    return { broker, server };
  });
  const [a, b] = nodes as [typeof nodes[0], typeof nodes[0]];
  return {
    store,
    seen,
    a,
    b,
    async [Symbol.asyncDispose](): Promise<void> {
      await a.server[Symbol.asyncDispose]();
      await b.server[Symbol.asyncDispose]();
    },
  };
}

Deno.test("A late number of an earlier session is neither handled nor acknowledged, on another node", async () => {
  using time = new FakeTime();
  const gate = Promise.withResolvers<void>();
  await using nodes = twoNodes((data, node) => data === 2 && node === "a" ? gate.promise : {});
  const { a, b, seen } = nodes;
  await passTime(time, 1_000);
  using old = await ProducingPeer.open(a.server);
  assertEquals(await old.introduce(named("a")), 0);
  const sent = [1, 2, 3].map((n) => ({ topic: "t", data: n, seq: n }));
  assertEquals(await old.tell(...sent), [{ ack: 1 }]);
  // The node of the old session loses its broker while a handler runs.
  a.broker.make("store", fail as Fate);
  using next = await ProducingPeer.open(b.server);
  const introduced = next.introduce(named("a"), { acked: 1, sent: 3, epoch: 1 });
  await passTime(time, 6_000);
  await introduced;
  assertEquals(next.envelopes.at(-1), { reply: 100, data: { handled: 1 } });
  assertEquals(await next.tell(...sent.slice(1)), [{ ack: 2 }, { ack: 3 }]);
  a.broker.make("store", (run) => run());
  gate.resolve();
  await passTime(time, 5_000);
  // The number in doubt is handled again, and no other.
  assertEquals(seen, ["a1", "a2", "b2", "b3"]);
  const acks = old.envelopes.filter(({ ack }) => ack !== undefined);
  assertEquals(acks, [{ ack: 1 }]);
  assertEquals(await old.tell({ topic: "t", data: 4, id: 9, seq: 4 }), [
    { reply: 9, error: "fenced" },
  ]);
  assertEquals(seen.length, 4);
});

Deno.test("A producer that is taken over waits for the handler on the other node", async () => {
  using time = new FakeTime();
  const gate = Promise.withResolvers<void>();
  await using nodes = twoNodes((data) => data === 1 ? gate.promise : undefined);
  const { a, b, seen } = nodes;
  await passTime(time, 1_000);
  using old = await ProducingPeer.open(a.server);
  await old.introduce(named("a"));
  await old.tell(...[1, 2].map((n) => ({ topic: "t", data: n, seq: n })));
  using next = await ProducingPeer.open(b.server);
  next.say({ producer: named("a"), id: 1, user: null, acked: 0, sent: 2, epoch: 1 });
  await passTime(time, 10_000);
  assertEquals([seen, next.replyTo(1)], [["a1"], undefined]);
  gate.resolve();
  await passTime(time, 5_000);
  assertEquals(next.replyTo(1)?.data, { handled: 1 });
  assertEquals(await next.tell({ topic: "t", data: 2, seq: 2 }), [{ ack: 2 }]);
  assertEquals(seen, ["a1", "b2"]);
  // The old node had learned meanwhile that it was fenced.
  assertEquals(old.envelopes.filter(({ ack }) => ack !== undefined), []);
  assertEquals(old.replyTo(null)?.error?.code, "fenced");
});

Deno.test("Nothing of a producer begins while the broker is unreachable, or before its number is stored", async () => {
  using time = new FakeTime();
  await using nodes = twoNodes();
  const { a, seen } = nodes;
  await passTime(time, 1_000);
  using peer = await ProducingPeer.open(a.server);
  assertEquals(await peer.introduce(named("a")), 0);
  a.broker.make("store.advance", fail as Fate);
  const sent = [1, 2, 3].map((n) => ({ topic: "t", data: n, seq: n }));
  assertEquals(await peer.tell(...sent), []);
  await passTime(time, 20_000);
  assertEquals(seen, ["a1"]);
  a.broker.make("store.advance", (run) => run());
  await passTime(time, 3_000);
  assertEquals(seen, ["a1", "a2", "a3"]);
  assertEquals(peer.envelopes.filter(({ ack }) => ack !== undefined), [
    { ack: 1 },
    { ack: 2 },
    { ack: 3 },
  ]);
  nodes.store.make("all", fail);
  assertEquals(await peer.introduce(named("b")), "unavailable");
});

/** Publishes on a topic while the broker fails, and returns the replies to the repetitions. */
async function doubted(
  topic: string,
  { fate, waitMs = 0 }: { readonly fate: Fate; readonly waitMs?: number },
) {
  using time = new FakeTime();
  await using nodes = twoNodes();
  const { a, b, store } = nodes;
  await passTime(time, 1_000);
  using reader = await ProducingPeer.open(b.server);
  await reader.tell({ subscribe: topic, id: 1 });
  using peer = await ProducingPeer.open(a.server);
  await peer.introduce(named("a"));
  await peer.tell({ publish: topic, data: 1, id: 1, seq: 1 });
  a.broker.make(topic === "news" ? "history.append" : "store.advance", fate);
  const first = await peer.tell(
    { publish: topic, data: 2, id: 2, seq: 2 },
    { publish: topic, data: 3, id: 3, seq: 3 },
  );
  store.make("all", (run) => run());
  await passTime(time, waitMs);
  using next = await ProducingPeer.open(b.server);
  next.say({ producer: named("a"), id: 1, user: null, acked: 1, sent: 3, epoch: 1 });
  await passTime(time, 6_000);
  const { handled } = next.replyTo(1)!.data!;
  const again = await next.tell(
    { publish: topic, data: 2, id: 2, seq: 2 },
    { publish: topic, data: 3, id: 3, seq: 3 },
  );
  // The server closes a session that replies to no ping.
  using late = await ProducingPeer.open(b.server);
  if (topic === "news") await late.tell({ subscribe: topic, id: 1, last: 10 });
  const { envelopes } = topic === "news" ? late : reader;
  const published = envelopes.filter((envelope) => envelope.topic === topic)
    .map(({ data }) => data);
  return { first, handled, again, published };
}

Deno.test("A publication in doubt is made once on a topic with a history, within 90 seconds", async () => {
  const unavailable = [{ reply: 2, error: "unavailable" }, { reply: 3, error: "unavailable" }];
  const made = [{ reply: 2, data: {} }, { ack: 2 }, { reply: 3, data: {} }, { ack: 3 }];
  assertEquals(await doubted("news", { fate: loseReply }), {
    first: unavailable,
    handled: 1,
    again: made,
    published: [1, 2, 3],
  });
  assertEquals(await doubted("news", { fate: fail }), {
    first: unavailable,
    handled: 1,
    again: made,
    published: [1, 2, 3],
  });
  assertEquals(await doubted("news", { fate: loseReply, waitMs: 90_000 }), {
    first: unavailable,
    handled: 1,
    again: [{ reply: 2, error: "unknown" }, { ack: 2 }, { reply: 3, data: {} }, { ack: 3 }],
    published: [1, 2, 3],
  });
});

Deno.test("A publication in doubt is not made again on a topic without a history", async () => {
  assertEquals(await doubted("talk", { fate: loseReply }), {
    first: [{ reply: 2, error: "unavailable" }, { reply: 3, error: "unavailable" }],
    handled: 1,
    again: [{ reply: 2, error: "unknown" }, { ack: 2 }, { reply: 3, data: {} }, { ack: 3 }],
    published: [1, 3],
  });
  // Its begin was not stored.
  assertEquals(await doubted("talk", { fate: fail }), {
    first: [{ reply: 2, error: "unavailable" }, { reply: 3, error: "unavailable" }],
    handled: 1,
    again: [{ reply: 2, data: {} }, { ack: 2 }, { reply: 3, data: {} }, { ack: 3 }],
    published: [1, 2, 3],
  });
});

Deno.test("A rejection whose reply was lost is sent again, although it is allowed by then", async () => {
  let isAllowed = false;
  const { server } = recording({ authorize: () => isAllowed });
  await using _server = server;
  using first = await ProducingPeer.open(server);
  await first.introduce(named("a"));
  await first.tell({ publish: "t", data: 1, id: 1, seq: 1 });
  isAllowed = true;
  await first.tell({ publish: "t", data: 2, id: 2, seq: 2 });
  using second = await ProducingPeer.open(server);
  await second.introduce(named("a"), { sent: 2 });
  assertEquals(
    await second.tell(
      { publish: "t", data: 1, id: 1, seq: 1 },
      { publish: "t", data: 2, id: 2, seq: 2 },
    ),
    [{ reply: 1, error: "forbidden" }, { ack: 1 }, { reply: 2, data: {} }, { ack: 2 }],
  );
});

Deno.test("A handler that fails because of the broker, or for now, leaves its number unhandled", async () => {
  const keys: (string | undefined)[] = [];
  let error: Error | undefined = new RequestError("unavailable", "Later");
  const { server } = recording({
    onMessage: (message) => {
      keys.push(message.idempotencyKey);
      if (error !== undefined) throw error;
      message.reply("done");
    },
    onError() {},
  });
  await using _server = server;
  using peer = await ProducingPeer.open(server);
  await peer.introduce(named("a"));
  const requests = [1, 2].map((n) => ({ topic: "t", data: n, id: n, seq: n }));
  assertEquals(await peer.tell(...requests), [
    { reply: 1, error: "unavailable" },
    { reply: 2, error: "unavailable" },
  ]);
  assertEquals(await peer.introduce(named("a"), { sent: 2 }), 0);
  error = new BrokerError("The broker is unreachable");
  await peer.tell(...requests);
  await peer.closed;
  error = undefined;
  using next = await ProducingPeer.open(server);
  assertEquals(await next.introduce(named("a"), { sent: 2 }), 0);
  assertEquals(await next.tell(...requests), [
    { reply: 1, data: "done" },
    { ack: 1 },
    { reply: 2, data: "done" },
    { ack: 2 },
  ]);
  assertEquals(keys.length, 4);
  assertEquals(new Set(keys.slice(0, 3)).size, 1);
  assert(keys[3] !== undefined && keys[3] !== keys[0]);
});

Deno.test("A rate limit delays a producer's publications, and loses and reorders none", async () => {
  using time = new FakeTime();
  const seen: unknown[] = [];
  await using server = testServer({
    authorize: () => true,
    rates: { perSession: { publications: { perSecond: 10, burst: 2 } } },
    onPublish: ({ data }) => void seen.push(data),
  });
  using peer = await ProducingPeer.open(server as TestServer);
  await peer.introduce(named("a"));
  await peer.tell(
    ...Array.from({ length: 6 }, (_, n) => ({ publish: "t", data: n, id: n, seq: n + 1 })),
  );
  assertEquals(seen, [0, 1]);
  await passTime(time, 1_000);
  assertEquals(seen, [0, 1, 2, 3, 4, 5]);
  assertEquals(peer.envelopes.at(-1), { ack: 6 });
});

Deno.test("A producer whose numbers are forged hurts only itself", async () => {
  const { server, seen } = recording();
  await using _server = server;
  using ann = await ProducingPeer.open(server);
  await ann.introduce(named("a"));
  await ann.tell({ topic: "t", data: 1, seq: 1 });
  using eve = await ProducingPeer.open(server);
  const last = 2 ** 32 - 1;
  assertEquals(await eve.introduce(named("e"), { epoch: last }), 0);
  assertEquals(await eve.introduce(named("e"), { acked: last, sent: last }), "fenced");
  assertEquals(
    await eve.introduce(named("e"), { acked: last, sent: last, epoch: last }),
    "forgotten",
  );
  assertEquals(await eve.introduce(named("e"), { sent: last, epoch: last }), 0);
  assertEquals(
    await eve.tell(
      { topic: "t", data: 2, id: 1, seq: 2 ** 32 },
      { topic: "t", data: 3, id: 2, seq: 0 },
      { topic: "t", data: 4, seq: last },
    ),
    [{ reply: 1, error: "malformed" }, { reply: 2, error: "malformed" }, { ack: last }],
  );
  assertEquals(await eve.tell({ topic: "t", data: 5, id: 3, seq: last }), [
    { reply: 3, error: "malformed" },
  ]);
  assertEquals(await ann.tell({ topic: "t", data: 6, seq: 2 }), [{ ack: 2 }]);
  assertEquals(seen, [1, 4, 6]);
});

Deno.test("A name of many bytes, and a user of many bytes, are rejected without being repeated", async () => {
  const { server } = recording({ session: { maxInvalidMessages: 100 } });
  await using _server = server;
  using peer = await ProducingPeer.open(server);
  const long = "x".repeat(200_000);
  assertEquals(await peer.introduce(long), "malformed");
  assertEquals(await peer.introduce(`${named("a")}\n`), "malformed");
  assertEquals(await peer.introduce(named("a"), { user: long }), "other-user");
  assertEquals(await peer.introduce(named("a"), { user: long, sent: -1 }), "malformed");
  const longest = Math.max(...peer.frames.map((frame) => frame.length));
  assert(longest < 500, `${longest} characters`);
  peer.say({ producer: "x".repeat(1_048_576), id: 1 });
  assertEquals((await peer.closed).closeCode, 4413);
});

Deno.test("A guest who creates 10,000 producers uses up only its own share of them", async () => {
  using time = new FakeTime();
  const broker = new FaultyStore().connect();
  await using server = testServer({ broker, authorize: () => true, onMessage() {} });
  await passTime(time, 1_000);
  let created = 0;
  let rejected = 0;
  while (created + rejected < 10_000) {
    using eve = await ProducingPeer.open(server as TestServer, { address: "203.0.113.66" });
    for (let i = 0; i < 1_000 && !eve.isClosed; i++) {
      const name = `${created + rejected}`.padStart(22, "p");
      eve.say({ producer: name, id: i, user: null, acked: 0, sent: 0, epoch: 0 });
      await turns(8);
      const reply = eve.replyTo(i);
      if (reply?.data !== undefined) created++;
      else rejected++;
      if (reply?.error !== undefined) assertEquals(reply.error.code, "too-many");
    }
    // A session that goes on after rejections is closed.
    if (created >= 1_024) break;
  }
  assert(created >= 1_024 && created < 1_100, `${created} created`);
  using eve = await ProducingPeer.open(server as TestServer, { address: "203.0.113.66" });
  assertEquals(await eve.introduce(named("e")), "too-many");
  const { retryAfterMs } = eve.replyTo(100)!.error!;
  assert(retryAfterMs! > 0 && retryAfterMs! <= 10_000);
  // A producer that exists is introduced.
  assertEquals(await eve.introduce("0".padStart(22, "p"), { sent: 1 }), 0);
  using ann = await ProducingPeer.open(server as TestServer, { address: "198.51.100.7" });
  assertEquals(await ann.introduce(named("a")), 0);
  await passTime(time, retryAfterMs!);
  using later = await ProducingPeer.open(server as TestServer, { address: "203.0.113.66" });
  assertEquals(await later.introduce(named("e")), 0);
});

Deno.test("Numbers of a producer that is not introduced count, and are not handled", async () => {
  const { server, seen } = recording({ session: { maxInvalidMessages: 3 } });
  await using _server = server;
  using peer = await ProducingPeer.open(server);
  // Without a producer, messages belong to the client's own name, and publications to none.
  assertEquals(await peer.tell({ publish: "t", data: 1, id: 1, seq: 1 }), [
    { reply: 1, error: "malformed" },
  ]);
  assertEquals(await peer.introduce(named("a"), { sent: 1 }), "forgotten");
  assertEquals(
    await peer.tell(
      { topic: "t", data: 2, seq: 1 },
      { topic: "t", data: 3, id: 2, seq: 2, client: "c" },
      { publish: "t", data: 4, id: 3, seq: 3 },
    ),
    [{ reply: 2, error: "unavailable" }, { reply: 3, error: "unavailable" }],
  );
  assertEquals(seen, []);
});

Deno.test("Publications of a producer that wait beyond the bounds come back, and none is lost", async () => {
  const gate = Promise.withResolvers<void>();
  const seen: unknown[] = [];
  const { server } = recording({
    onPublish: async ({ data }) => {
      seen.push(data);
      await gate.promise;
    },
    session: { maxRequests: 8 },
  });
  await using _server = server;
  using peer = await ProducingPeer.open(server);
  await peer.introduce(named("a"));
  const sent = Array.from({ length: 12 }, (_, n) => ({ publish: "t", data: n, id: n, seq: n + 1 }));
  // The ninth ends the producer in this session.
  assertEquals((await peer.tell(...sent)).length, sent.length);
  for (const { id } of sent) assertEquals(peer.replyTo(id)?.error?.code, "too-many");
  gate.resolve();
  assertEquals(await peer.introduce(named("a"), { sent: 12 }), 0);
  assertEquals((await peer.tell(...sent.slice(0, 8))).at(-1), { ack: 8 });
  assertEquals((await peer.tell(...sent.slice(8))).at(-1), { ack: 12 });
  assertEquals(seen, sent.map(({ data }) => data));
});

Deno.test("A state takes no changes with the number of a producer", async () => {
  const states = liveState();
  const { server } = recording({ features: [states] });
  await using _server = server;
  const state = await states.open("board");
  using peer = await ProducingPeer.open(server);
  await peer.introduce(named("a"));
  const change = { type: "cards", key: "1", value: 1, headers: { operation: "upsert" } };
  assertEquals(
    await peer.tell({ publish: "stream:board", data: { writes: [[change]] }, id: 1, seq: 1 }),
    [{ reply: 1, error: "invalid" }, { ack: 1 }],
  );
  assertEquals(state.collection("cards").size, 0);
});

Deno.test("A publication whose decision outlives the claim of its node is made, once it is renewed", async () => {
  using time = new FakeTime();
  const store = new FaultyStore();
  const broker = store.connect();
  const [decided, claimed] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
  await using server = testServer({
    broker,
    history: { news: {} },
    authorize: () => true,
    onPublish: () => decided.promise,
  });
  await passTime(time, 1_000);
  using peer = await ProducingPeer.open(server as TestServer);
  await peer.introduce(named("a"));
  const sent = [
    { publish: "news", data: 1, id: 1, seq: 1 },
    { publish: "talk", data: 2, id: 2, seq: 2 },
  ];
  assertEquals(await peer.tell(...sent), []);
  // The node renews its claim late.
  broker.make("store.claim", waitFor(claimed.promise));
  await passTime(time, 2_100);
  decided.resolve();
  await turns(20);
  claimed.resolve();
  await passTime(time, 100);
  assertEquals(peer.envelopes.slice(-4), [
    { reply: 1, data: {} },
    { ack: 1 },
    { reply: 2, data: {} },
    { ack: 2 },
  ]);
});
