import { assert, assertEquals, assertRejects } from "@std/assert";
import { type HistoryPosition, MemoryBroker, UnsupportedError } from "../mod.ts";
import { testServer } from "../testing/mod.ts";
import { listen } from "./servers.ts";
import { until } from "./waiting.ts";
import { fail, FaultyStore, waitFor } from "./faulty_broker.ts";
import { Page } from "./peers/page.ts";

/** Waits for a number of envelopes, and returns them without their random tags. */
async function take(page: Page, count: number): Promise<string[]> {
  return (await page.take(count)).map((text) => text.replace(/,"tag":"[\w-]{6}"/, ""));
}

Deno.test("A client that subscribes with `last` or `since` receives the reply before any other message", async () => {
  await using server = listen({ authorize: () => true, history: { "chat:{room}": {} } });
  await using page = await Page.open(server.url, "skein.1");
  assert((page.hello!["features"] as string[]).includes("history"));
  for (const text of ["a", "b", "c"]) server.publish("chat:x", text);
  page.socket.send('{"subscribe":"chat:x","id":1,"last":2}');
  const [reply, ...messages] = await take(page, 3);
  const { epoch } = JSON.parse(reply!).data;
  assertEquals([reply, ...messages], [
    `{"reply":1,"data":{"epoch":"${epoch}","offset":1,"head":3}}`,
    '{"topic":"chat:x","data":"b","offset":2,"prev":1}',
    '{"topic":"chat:x","data":"c","offset":3,"prev":2}',
  ]);
  const ask = (id: number, more: string) =>
    page.socket.send(`{"subscribe":"chat:x","id":${id}${more}}`);
  ask(2, `,"since":{"epoch":"${epoch}","offset":2}`);
  assertEquals(await take(page, 2), [
    `{"reply":2,"data":{"epoch":"${epoch}","offset":2,"head":3,"recovered":true}}`,
    '{"topic":"chat:x","data":"c","offset":3,"prev":2}',
  ]);
  ask(3, `,"since":{"epoch":"${epoch}","offset":4}`);
  ask(4, `,"since":{"epoch":"old","offset":1}`);
  ask(5, "");
  const at = `"epoch":"${epoch}","offset":3,"head":3`;
  // The fourth request replaces the third, which may already have had its reply.
  const replies = (await take(page, 3)).map((text) => JSON.parse(text));
  const fourth = replies.find(({ reply }) => reply === 4);
  assertEquals(JSON.stringify(fourth.data), `{${at},"recovered":false,"reason":"new-epoch"}`);
  const third = replies.find(({ reply }) => reply === 3);
  const why = third.error?.code ?? third.data.reason;
  assert(["beyond-head", "superseded"].includes(why), JSON.stringify(third));
  page.socket.send('{"subscribe":"other","id":6,"since":{"epoch":"e","offset":1}}');
  page.socket.send('{"subscribe":"more","id":7,"last":1}');
  page.socket.send('{"publish":"chat:x","data":"d","id":8}');
  const rest = await take(page, 4);
  assertEquals(rest.toSorted(), [
    '{"reply":6,"data":{"recovered":false,"reason":"no-history"}}',
    '{"reply":7,"data":{}}',
    '{"reply":8,"data":{}}',
    '{"topic":"chat:x","data":"d","offset":4,"prev":3}',
  ]);
});

Deno.test("A position includes its publication's tag; another publication at its offset means a new epoch", async () => {
  await using server = listen({ authorize: () => true, history: { t: {} } });
  await using page = await Page.open(server.url, "skein.1");
  for (const text of ["a", "b", "c"]) server.publish("t", text);
  const ask = async (id: number, question: object, count: number) => {
    page.socket.send(JSON.stringify({ subscribe: "t", id, ...question }));
    const [reply, ...rest] = (await page.take(count)).map((text) => JSON.parse(text));
    return [reply.data, ...rest];
  };
  const [{ epoch }, a, b, c] = await ask(1, { last: 3 }, 4);
  assertEquals(new Set([a.tag, b.tag, c.tag]).size, 3);
  assertEquals(await ask(2, { since: { epoch, offset: 2, tag: b.tag } }, 2), [
    { epoch, offset: 2, tag: b.tag, head: 3, recovered: true },
    c,
  ]);
  const lost = { epoch, offset: 3, tag: c.tag, head: 3, recovered: false, reason: "new-epoch" };
  assertEquals(await ask(3, { since: { epoch, offset: 2, tag: a.tag } }, 1), [lost]);
  // Only the numbers of a position without a tag are compared.
  assertEquals((await ask(4, { since: { epoch, offset: 2 } }, 2))[0].recovered, true);
  page.socket.send(`{"subscribe":"t","id":5,"since":{"epoch":"${epoch}","offset":2,"tag":7}}`);
  const [malformed] = (await take(page, 1)).map((text) => JSON.parse(text));
  assertEquals([malformed.reply, malformed.error.code], [5, "malformed"]);
});

Deno.test("A read that is replaced or ended before its reply is rejected with `superseded`", async () => {
  const broker = new FaultyStore().connect();
  const gate = Promise.withResolvers<void>();
  broker.make("history.read", waitFor(gate.promise));
  await using server = listen({ broker, authorize: () => true, history: { "{any}": {} } });
  await using page = await Page.open(server.url, "skein.1");
  page.socket.send('{"subscribe":"a","id":1}');
  page.socket.send('{"subscribe":"a","id":2,"since":{"epoch":"e","offset":1}}');
  page.socket.send('{"subscribe":"a","id":3,"last":1}');
  page.socket.send('{"subscribe":"b","id":4,"last":1}');
  page.socket.send('{"unsubscribe":"b","id":5}');
  const early = (await take(page, 4)).map((text) => JSON.parse(text));
  // A request for only the position does not replace a subscription. The reply follows once the
  // position is known.
  page.socket.send('{"subscribe":"a","id":6}');
  page.socket.send('{"subscribe":"a","id":7}');
  const [sixth] = (await take(page, 1)).map((text) => JSON.parse(text));
  gate.resolve();
  const [late, standing] = (await take(page, 2)).map((text) => JSON.parse(text));
  assertEquals(early.map(({ reply, error }) => [reply, error?.code]), [
    [1, "superseded"],
    [2, "superseded"],
    [4, "superseded"],
    [5, undefined],
  ]);
  assertEquals([sixth.reply, sixth.error?.code], [6, "superseded"]);
  assertEquals({ reply: late.reply, head: late.data.head, reason: late.data.reason }, {
    reply: 3,
    head: 0,
    reason: undefined,
  });
  assertEquals(standing, { reply: 7, data: late.data });
});

Deno.test("A client that reconnects to another server receives exactly the missed publications", async () => {
  await using broker = new MemoryBroker();
  const options = { broker, authorize: () => true, history: { t: {} } };
  await using near = listen(options);
  await using far = listen(options);
  let since: unknown;
  {
    await using page = await Page.open(near.url, "skein.1");
    page.socket.send('{"subscribe":"t","id":1}');
    const { epoch } = JSON.parse((await take(page, 1))[0]!).data;
    near.publish("t", 1);
    const { offset } = JSON.parse((await take(page, 1))[0]!);
    since = { epoch, offset };
  }
  for (let i = 2; i <= 3_000; i++) near.publish("t", i);
  far.topics.publish("t", 3_001);
  await using page = await Page.open(far.url, "skein.1");
  page.socket.send(JSON.stringify({ subscribe: "t", id: 1, since }));
  const [reply, ...rest] = (await take(page, 1)).map((text) => JSON.parse(text));
  assertEquals({ recovered: reply.data.recovered, reason: reply.data.reason, rest }, {
    recovered: false,
    reason: "too-old",
    rest: [],
  });
  page.socket.send(
    JSON.stringify({ subscribe: "t", id: 2, since: { ...since as object, offset: 2_001 } }),
  );
  const [again, ...messages] = (await take(page, 1_001)).map((text) => JSON.parse(text));
  assertEquals([again.data.recovered, messages[0].data], [true, 2_002]);
  for (const [i, { offset, prev, data }] of messages.entries()) {
    assertEquals({ offset, prev, data }, { offset: 2_002 + i, prev: 2_001 + i, data: 2_002 + i });
  }
});

Deno.test("A plain page receives the part of the history that the server chooses, as plain messages", async () => {
  await using server = listen({
    history: { t: {} },
    onOpen: (session) => void server.subscribe(session, "t", { last: 2 }),
  });
  for (let i = 1; i <= 3; i++) server.publish("t", i);
  await using page = await Page.open(server.url);
  const past = await take(page, 2);
  server.publish("t", 4);
  assertEquals([...past, ...await take(page, 1)], [
    '{"topic":"t","data":2,"offset":2,"prev":1}',
    '{"topic":"t","data":3,"offset":3,"prev":2}',
    '{"topic":"t","data":4,"offset":4,"prev":3}',
  ]);
});

Deno.test("A room with a history sends its members first, then the history", async () => {
  await using server = listen({
    authorize: () => true,
    rooms: ["room:{name}"],
    history: { "room:{name}": {} },
  });
  for (let i = 1; i <= 3; i++) server.publish("room:a", i);
  await using page = await Page.open(server.url, "skein.1");
  page.socket.send('{"subscribe":"room:a","id":1,"last":2}');
  const envelopes = (await take(page, 4)).map((text) => JSON.parse(text));
  const at = (test: (envelope: Record<string, unknown>) => boolean) => envelopes.findIndex(test);
  const [members, reply] = [
    at(({ topic }) => topic === "presence:room:a"),
    at((e) => "reply" in e),
  ];
  const messages = envelopes.filter(({ topic }) => topic === "room:a").map(({ data }) => data);
  assertEquals(messages, [2, 3]);
  assertEquals([members, reply].toSorted(), [0, 1]);
  assertEquals(envelopes[reply].data.offset, 1);
});

Deno.test("A client's publication is confirmed after the broker stored it, or rejected with `unavailable`", async () => {
  const broker = new FaultyStore().connect();
  await using server = listen({ broker, authorize: () => true, history: { t: {} } });
  await using page = await Page.open(server.url, "skein.1");
  page.socket.send('{"publish":"t","data":1,"id":1}');
  assertEquals(await take(page, 1), ['{"reply":1,"data":{}}']);
  broker.make("history.append", fail);
  page.socket.send('{"publish":"t","data":2,"id":2}');
  const [rejection] = (await take(page, 1)).map((text) => JSON.parse(text));
  assertEquals([rejection.reply, rejection.error.code], [2, "unavailable"]);
  server.publish("t", 3);
  await until(() => server.topics.stats.failedPublications === 1);
});

Deno.test("A client does not recover publications of a topic that it may not subscribe to", async () => {
  await using server = listen({
    authorize: (_session, topic) => topic !== "secret",
    history: { "{any}": {} },
  });
  server.publish("secret", 1);
  await using page = await Page.open(server.url, "skein.1");
  page.socket.send('{"subscribe":"secret","id":1,"last":5}');
  const [rejection] = (await take(page, 1)).map((text) => JSON.parse(text));
  assertEquals([rejection.reply, rejection.error.code], [1, "forbidden"]);
  page.socket.send('{"subscribe":"open","id":2,"last":-1}');
  const [malformed] = (await take(page, 1)).map((text) => JSON.parse(text));
  assertEquals([malformed.reply, malformed.error.code], [2, "malformed"]);
});

Deno.test("A client that subscribes since the position of a topic misses no later publication", async () => {
  await using server = testServer({ authorize: () => true, history: { tasks: {} } });
  await using client = server.connect();
  const follow = async (since: HistoryPosition, count: number) => {
    await using changes = client.subscribe("tasks", { since });
    const data: unknown[] = [];
    for await (const change of changes) {
      data.push(change.data);
      if (data.length === count) break;
    }
    return [data, changes.recovery?.recovered];
  };
  const empty = await server.topics.position("tasks");
  assertEquals(empty.offset, 0);
  await server.topics.append("tasks", "a");
  const one = await server.topics.position("tasks");
  assertEquals(one.offset, 1);
  await server.topics.append("tasks", "b");
  assertEquals(await follow(one, 1), [["b"], true]);
  assertEquals(await follow(empty, 2), [["a", "b"], true]);
});

Deno.test("Topics.position() rejects without a history, or when aborted", async () => {
  await using server = testServer({ history: { tasks: {} } });
  await assertRejects(() => server.topics.position("chat"), UnsupportedError, "has no history");
  const signal = AbortSignal.abort(new Error("enough"));
  await assertRejects(() => server.topics.position("tasks", { signal }), Error, "enough");
});
