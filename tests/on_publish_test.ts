/**
 * Tests the option `onPublish`: all ways in which clients publish pass it, in order, once for each
 * publication, within its limits.
 *
 * @module
 */
import { assert, assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { z } from "zod";
import {
  BrokerError,
  type Client,
  connect,
  defineContract,
  MemoryBroker,
  type PublicationOf,
  type PublishDecision,
  type RequestedPublication,
  RequestError,
  type Session,
} from "../mod.ts";
import type { ServeOptions, Server } from "../server.ts";
import { httpApi } from "../operations/http_api/mod.ts";
import { passTime, testServer, type TestServerOptions } from "../testing/mod.ts";
import { captureConsole } from "./console_lines.ts";
import { FaultyStore } from "./faulty_broker.ts";
import { Cable } from "./networks/cable.ts";
import { Page, type Reply } from "./peers/page.ts";
import { listen, portOf } from "./servers.ts";
import { statesOf, streamFeatures } from "./stream_features.ts";
import { settlesSoon, soon, turns, until } from "./waiting.ts";

/** The data of a publication that is changed, and of one that is rejected. */
const [CHANGED, REJECTED] = ["damn", "spam"];

const rejection = () => new RequestError("no-spam", "Spam is not published");

/** Calls of `onPublish`, which changes and rejects some data, and may wait. */
class Moderator {
  readonly seen: RequestedPublication[] = [];
  /** Publications wait until this is resolved. */
  gate: Promise<unknown> | undefined;

  readonly decide = async (publication: RequestedPublication): Promise<PublishDecision> => {
    this.seen.push(publication);
    await this.gate;
    const { data } = publication;
    if (data === REJECTED) throw rejection();
    if (data === CHANGED) return { data: "****" };
  };

  get data(): unknown[] {
    return this.seen.map(({ data }) => data);
  }
}

function options(moderator: Moderator): ServeOptions<string> {
  return {
    authenticate: ({ token }) => token ?? "anyone",
    authorize: () => true,
    onPublish: moderator.decide,
    history: { "log:{id}": {} },
    features: [httpApi({ path: "/api", authorize: () => true })],
  };
}

/** The data that goes out on a topic. */
class Heard {
  readonly #server: Server;
  readonly #topic: string;
  readonly #live: unknown[] = [];

  constructor(server: object, topic: string) {
    this.#server = server as Server;
    this.#topic = topic;
    this.#server.topics.broker.subscribe(
      topic,
      ({ payload }) => this.#live.push(JSON.parse(payload as string).data),
    );
  }

  async data(): Promise<unknown[]> {
    const { topics } = this.#server;
    if (topics.historyOf(this.#topic) === undefined) return [...this.#live];
    return (await Array.fromAsync(topics.read(this.#topic))).map(({ data }) => data);
  }
}

/** A way in which clients publish; returns the code of a rejection. */
interface Way {
  readonly name: string;
  readonly topic: string;
  readonly isOverHttp?: boolean;
  readonly publish: (server: Server, topic: string, data: string) => Promise<string | undefined>;
}

async function byClient(
  server: Server,
  options: Parameters<typeof connect>[1],
  act: (client: Client) => Promise<unknown>,
): Promise<string | undefined> {
  await using client = connect(`${server.url}?token=ann`, options);
  return await codeOf(() => act(client));
}

async function codeOf(act: () => Promise<unknown>): Promise<string | undefined> {
  try {
    await soon(act());
    return undefined;
  } catch (error) {
    if (error instanceof RequestError) return error.failure.code;
    throw error;
  }
}

async function post({ url }: Server, path: string, body: object, headers = {}): Promise<Response> {
  return await fetch(`${url.replace("ws:", "http:")}api/${path}`, {
    method: "POST",
    headers: { authorization: "Bearer ann", "content-type": "application/json", ...headers },
    body: JSON.stringify(body),
  });
}

async function byHttp(server: Server, path: string, body: object): Promise<string | undefined> {
  const response = await post(server, path, body);
  const { code } = await response.json();
  assertEquals(response.status, code === undefined ? 200 : 403);
  return code;
}

const WAYS: readonly Way[] = [
  ...(["websocket", "webtransport", "http"] as const).flatMap((transport): Way[] =>
    ["chat:a", "log:a"].map((topic) => ({
      name: `a client over ${transport}`,
      topic,
      publish: (server, topic, data) =>
        byClient(server, { transports: [transport] }, (client) => client.publish(topic, data)),
    }))
  ),
  ...["chat:a", "log:a"].map((topic): Way => ({
    name: "a client, at least once",
    topic,
    publish: (server, topic, data) =>
      byClient(
        server,
        {},
        (client) => client.publish(topic, data, { delivery: "at-least-once" }),
      ),
  })),
  {
    name: "a client, except itself",
    topic: "chat:a",
    publish: (server, topic, data) =>
      byClient(server, {}, (client) => client.publish(topic, data, { except: "self" })),
  },
  {
    name: "one session",
    topic: "chat:a",
    publish: (server, topic, data) =>
      byClient(server, {}, async (client) => (await client.whenConnected()).publish(topic, data)),
  },
  {
    name: "a page without the library",
    topic: "log:a",
    async publish(server, topic, data) {
      await using page = await Page.open(`${server.url}?token=ann`, "skein.1");
      return (await page.ask({ publish: topic, data })).error?.code;
    },
  },
  ...["chat:a", "log:a"].map((topic): Way => ({
    name: "the HTTP API",
    topic,
    isOverHttp: true,
    publish: (server, topic, data) => byHttp(server, `topics/${topic}/publications`, { data }),
  })),
  {
    name: "a batch over the HTTP API",
    topic: "log:a",
    isOverHttp: true,
    publish: (server, topic, data) =>
      byHttp(server, "publications", { publications: [{ topic, data }] }),
  },
];

for (const { name, topic, isOverHttp = false, publish } of WAYS) {
  Deno.test(`onPublish sees, changes and rejects publications on ${topic} by ${name}`, async () => {
    const moderator = new Moderator();
    await using server = listen({ ...options(moderator) });
    const heard = new Heard(server, topic);
    const codes: unknown[] = [];
    for (const text of ["fine", CHANGED, REJECTED]) {
      codes.push(await publish(server, topic, text));
    }
    await until(async () => (await heard.data()).length === 2);
    assertEquals(codes, [undefined, undefined, "no-spam"]);
    assertEquals(await heard.data(), ["fine", "****"]);
    assertEquals(moderator.data, ["fine", CHANGED, REJECTED]);
    for (const { topic: seen, user, session, signal, pattern, params } of moderator.seen) {
      assertEquals({ seen, user, pattern, params }, {
        seen: topic,
        user: "ann",
        pattern: undefined,
        params: {},
      });
      assertEquals([session === undefined, signal.aborted], [isOverHttp, false]);
    }
    assertEquals(new Set(moderator.seen.map(({ id }) => id)).size, 3);
    assertEquals(server.quotaStats["publications.waitingBytes"]?.taken, 0);
  });
}

Deno.test("onPublish receives binary publications, and may return others", async () => {
  await using server = testServer({
    authorize: () => true,
    onPublish({ data }) {
      assert(data instanceof Uint8Array);
      return { data: data.toReversed() };
    },
  });
  await using client = server.connect();
  const news = client.subscribe("news");
  await news.ready;
  await client.publish("news", new Uint8Array([1, 2, 3]));
  for await (const { data } of news) {
    assertEquals(data, new Uint8Array([3, 2, 1]));
    break;
  }
});

Deno.test("onPublish does not see what the server publishes, states and presence data", async () => {
  const moderator = new Moderator();
  await using server = listen({
    ...options(moderator),
    broker: new MemoryBroker(),
    rooms: ["room:{id}"],
    features: streamFeatures({ path: "/streams", authorize: () => true }),
  });
  await using client = connect(server.url);
  await client.subscribe("room:a").ready;
  await client.presence("room:a", { isTyping: true });
  await using _state = await statesOf(server).open("board");
  const board = await client.state("board");
  await board.ready;
  await board.collection("cards").set("1", { title: "Write" });
  server.publish("room:a", "hello");
  await server.topics.append("log:a", "hello");
  server.topics.publish("room:a", "hello");
  await client.publish("room:a", "hello");
  assertEquals(moderator.data, ["hello"]);
});

Deno.test("onPublish is typed by the contract, whose schema has checked its data and checks the result", async () => {
  const contract = defineContract({
    toClient: {
      "chat:{room}": z.object({ text: z.string().max(9), at: z.number().default(7) }),
      count: z.string().transform(Number).pipe(z.number()),
    },
  });
  const seen: unknown[] = [];
  const errors: unknown[] = [];
  await using server = testServer<string, typeof contract>({
    contract,
    authenticate: () => "ann",
    authorize: () => true,
    onError: (error) => void errors.push(error),
    onPublish(publication) {
      const _typed: PublicationOf<typeof contract, Session<string, typeof contract, "server">> =
        publication;
      if (publication.pattern === "count") {
        const value: number = publication.data;
        seen.push(value, publication.session?.value);
        return { data: String(value + 1) };
      }
      const { params: { room }, data: { text, at } } = publication;
      seen.push([room, text, at, Object.isFrozen(publication.data)]);
      if (text === "long") return { data: { text: "much too long" } };
      return text === "keep" ? undefined : { data: { text: `${room}: ${text}` } };
    },
  });
  await using client = server.connect({ contract });
  const chat = client.subscribe("chat:tea");
  const count = client.subscribe("count");
  await Promise.all([chat.ready, count.ready]);
  await client.publish("chat:tea", { text: "hi" });
  await client.publish("chat:tea", { text: "keep", at: 1 });
  await client.publish("count", "41");
  // That is the application's fault, and not the client's.
  const long = await assertRejects(
    () => client.publish("chat:tea", { text: "long" }),
    RequestError,
  );
  const wrong = { text: 1 } as unknown as { text: string };
  const invalid = await assertRejects(() => client.publish("chat:tea", wrong), RequestError);
  const received: unknown[] = [];
  for await (const { data } of chat) if (received.push(data) === 2) break;
  for await (const { data } of count) {
    received.push(data);
    break;
  }
  assertEquals(received, [{ text: "tea: hi", at: 7 }, { text: "keep", at: 1 }, 42]);
  assertEquals([long.failure.code, invalid.failure.code], ["unavailable", "invalid"]);
  assertEquals(seen, [
    ["tea", "hi", 7, true],
    ["tea", "keep", 1, true],
    ...[41, "ann"],
    ["tea", "long", 7, true],
  ]);
  assert(
    errors.length === 1 && String(errors[0]).includes("data must fit the contract"),
    `${errors}`,
  );
});

Deno.test("onPublish that fails or returns something else publishes nothing, and tells the application", async () => {
  const results: Readonly<Record<string, () => unknown>> = {
    "onPublish threw TypeError: no database": () => {
      throw new TypeError("no database");
    },
    "onPublish threw TypeError: later": () => Promise.reject(new TypeError("later")),
    "onPublish returned false": () => false,
    "onPublish returned Object": () => ({ data: 1, error: null }),
    "onPublish threw TypeError: Cannot publish": () => ({ data: 1n }),
    "onPublish threw RangeError: Cannot publish": () => ({ data: "x".repeat(300_000) }),
    "onPublish threw TypeError: Cannot assign to read only": (): unknown => undefined,
  };
  for (const [line, result] of Object.entries(results)) {
    using printed = captureConsole();
    await using server = testServer({
      authorize: () => true,
      onPublish: ((publication: { data: { text: string } }) => {
        if (line.includes("read only")) publication.data.text = "changed in place";
        return result();
      }) as () => void,
    });
    await using client = server.connect();
    const heard = new Heard(server, "news");
    const error = await assertRejects(() => client.publish("news", { text: "hi" }), RequestError);
    assertEquals(error.failure.code, "unavailable");
    assert(!error.message.includes("database"));
    assertEquals(await heard.data(), []);
    const [first = ""] = printed.lines;
    assertStringIncludes(first, line);
    assert(!first.includes("clients will try again"), first);
    assertStringIncludes(first, "throw RequestError");
  }
});

Deno.test("onPublish may return any thenable", async () => {
  class Query {
    then(resolve: (rows: undefined) => void): void {
      resolve(undefined);
    }
  }
  await using server = testServer({
    authorize: () => true,
    onPublish: (() => new Query()) as unknown as () => Promise<void>,
  });
  await using client = server.connect();
  await client.publish("news", 1);
});

/** Publishes in a session, and tells how it ended. */
class Publishing {
  readonly done: string[] = [];
  readonly #session: Session;

  constructor(session: Session) {
    this.#session = session;
  }

  start(topic: string, data: unknown): Promise<void> {
    return this.#session.publish(topic, data).then(
      () => void this.done.push(`${data}`),
      (error) => void this.done.push(`${data}: ${error.failure.code}`),
    );
  }
}

Deno.test("Only publications of the same session and topic wait for onPublish", async () => {
  const waiting = Promise.withResolvers<void>();
  const seen: unknown[] = [];
  await using server = testServer({
    authorize: () => true,
    async onPublish({ data }) {
      seen.push(data);
      if (data === "slow") await waiting.promise;
    },
  });
  const heard = new Heard(server, "chat");
  await using one = await server.dial();
  await using two = await server.dial();
  const publishing = new Publishing(one as Session);
  const all = [
    publishing.start("chat", "slow"),
    publishing.start("chat", "next"),
    publishing.start("other", "other topic"),
    new Publishing(two as Session).start("chat", "other session"),
  ];
  await until(() => seen.length === 3);
  await until(() => publishing.done.length === 1);
  await all[3];
  assertEquals([seen, await heard.data()], [["slow", "other topic", "other session"], [
    "other session",
  ]]);
  waiting.resolve();
  await Promise.all(all);
  assertEquals(publishing.done, ["other topic", "slow", "next"]);
  assertEquals(await heard.data(), ["other session", "slow", "next"]);
});

Deno.test("No other request waits for onPublish, even on the same topic", async () => {
  const { promise, resolve } = Promise.withResolvers<void>();
  const seen: unknown[] = [];
  await using server = testServer({
    authenticate: () => ({ name: "ann" }),
    userOf: ({ name }) => name,
    authorize: () => true,
    rooms: ["room:{id}"],
    tokens: { inMessage: true },
    onPublish({ data }) {
      seen.push(data);
      return data === "slow" ? promise : undefined;
    },
  });
  await using session = await server.dial({ token: "t" });
  const slow = session.publish("room:a", "slow");
  await until(() => seen.length === 1);
  await session.subscribe("room:a");
  await session.presence("room:a", { isTyping: true });
  await session.unsubscribe("room:a");
  await session.authenticate("t");
  await session.publish("room:b", "other");
  assertEquals(seen, ["slow", "other"]);
  resolve();
  await slow;
});

Deno.test("A rejection by onPublish is about one publication, and not about those that follow it", async () => {
  const moderator = new Moderator();
  await using server = testServer(options(moderator) as TestServerOptions<string>);
  await using client = server.connect();
  for (const topic of ["chat:a", "log:a"]) {
    const heard = new Heard(server, topic);
    const texts = ["one", REJECTED, "two", REJECTED, "three"];
    const settled = await Promise.allSettled(texts.map((text) => client.publish(topic, text)));
    assertEquals(settled.map(({ status }) => status[0]).join(""), "frfrf");
    assertEquals(await heard.data(), ["one", "two", "three"]);
  }
});

Deno.test("onPublish has five seconds, and then the client receives unavailable", async () => {
  using time = new FakeTime();
  const signals: AbortSignal[] = [];
  const late = Promise.withResolvers<void>();
  const errors: unknown[] = [];
  await using server = testServer({
    authorize: () => true,
    onError: (error) => void errors.push(error),
    onPublish({ data, signal }) {
      if (data !== "slow") return;
      signals.push(signal);
      return late.promise;
    },
  });
  const heard = new Heard(server, "chat");
  await using session = await server.dial();
  const publishing = new Publishing(session as Session);
  const all = [publishing.start("chat", "slow"), publishing.start("chat", "next")];
  await passTime(time, 4_900);
  assertEquals([publishing.done, signals[0]!.aborted], [[], false]);
  await passTime(time, 200);
  await Promise.all(all);
  assertEquals(publishing.done, ["slow: unavailable", "next"]);
  assertEquals([signals[0]!.aborted, `${signals[0]!.reason}`.includes("5000 ms")], [true, true]);
  assertEquals(`${errors}`.includes("onPublish within 5000 ms"), true);
  // Its result comes too late.
  late.resolve();
  await turns();
  assertEquals(await heard.data(), ["next"]);
});

// Repetitions.

/** The data that goes out for the data of a publication. */
function goingOut(data: string): string[] {
  return data === REJECTED ? [] : [data === CHANGED ? "****" : data];
}

/** A page that numbers its publications, with the name of its client. */
async function numbering(server: Server, user = "ann", client = "page"): Promise<{
  readonly page: Page;
  publish(topic: string, data: unknown, keys?: object): Promise<Reply>;
}> {
  const page = await Page.open(`${server.url}?token=${user}`, "skein.1");
  return {
    page,
    publish: (topic, data, keys = {}) => page.ask({ publish: topic, data, n: 1, client, ...keys }),
  };
}

const again = { again: true };

Deno.test("A repeated publication gets the first decision", async (t) => {
  for (const topic of ["log:a", "chat:a"]) {
    for (const data of ["fine", CHANGED, REJECTED]) {
      await t.step(`${topic}, ${data}`, async () => {
        const moderator = new Moderator();
        await using server = listen(options(moderator));
        const heard = new Heard(server, topic);
        const keys = topic === "chat:a" ? { once: true } : {};
        const first = await numbering(server);
        const code = (await first.publish(topic, data, keys)).error?.code;
        await first.page.close();
        const second = await numbering(server);
        // A client cannot use the decision for other data.
        const other = { ...keys, ...again };
        assertEquals((await second.publish(topic, "other", other)).error?.code, code);
        assertEquals(moderator.data, [data]);
        assertEquals(await heard.data(), goingOut(data));
        await second.page.close();
      });
    }
  }
});

Deno.test("A publication that a client repeats while onPublish runs is decided and published once", async () => {
  const moderator = new Moderator();
  const { promise, resolve } = Promise.withResolvers<void>();
  moderator.gate = promise;
  await using server = listen(options(moderator));
  const heard = new Heard(server, "log:a");
  const first = await numbering(server);
  void first.publish("log:a", CHANGED);
  await until(() => moderator.seen.length === 1);
  await first.page.close();
  const second = await numbering(server);
  const reply = second.publish("log:a", CHANGED, again);
  const next = second.publish("log:a", "next", { n: 2 });
  assertEquals(await settlesSoon(reply), false);
  resolve();
  assertEquals([(await reply).error, (await next).error], [undefined, undefined]);
  assertEquals(await heard.data(), ["****", "next"]);
  assertEquals(moderator.data, [CHANGED, "next"]);
  await second.page.close();
});

Deno.test("A publication goes out if its session closes while onPublish runs", async () => {
  const moderator = new Moderator();
  const { promise, resolve } = Promise.withResolvers<void>();
  moderator.gate = promise;
  await using server = listen(options(moderator));
  const heard = new Heard(server, "chat:a");
  const { page } = await numbering(server);
  void page.ask({ publish: "chat:a", data: "fine" });
  void page.ask({ publish: "chat:a", data: "never handled" });
  await until(() => moderator.seen.length === 1);
  await page.close();
  await until(() => server.manager.count === 0);
  resolve();
  await until(async () => (await heard.data()).length === 1);
  await until(() => server.quotaStats["publications.waitingBytes"]!.taken === 0);
  assertEquals([await heard.data(), moderator.data], [["fine"], ["fine"]]);
});

Deno.test("A decision is for one user, one topic and one number", async () => {
  const moderator = new Moderator();
  await using server = listen(options(moderator));
  const ann = await numbering(server);
  const bob = await numbering(server, "bob");
  for (const { publish } of [ann, bob]) {
    for (const topic of ["log:a", "log:b"]) {
      for (const n of [1, 2]) await publish(topic, `${topic} ${n}`, { n });
    }
  }
  assertEquals([moderator.seen.length, new Set(moderator.seen.map(({ id }) => id)).size], [8, 8]);
  await Promise.all([ann.page.close(), bob.page.close()]);
});

Deno.test("A publication that onPublish could not decide about is decided when it is repeated, with the same id", async () => {
  const ids: string[] = [];
  await using server = listen({
    ...options(new Moderator()),
    onError() {},
    onPublish({ id }) {
      if (ids.push(id) === 1) throw new TypeError("no database");
      if (ids.length === 2) throw new RequestError("later", "Try later", { retryAfterMs: 1 });
    },
  });
  const heard = new Heard(server, "log:a");
  const codes: unknown[] = [];
  for (const keys of [{}, again, again, again]) {
    const { page, publish } = await numbering(server);
    codes.push((await publish("log:a", "fine", keys)).error?.code);
    await page.close();
  }
  assertEquals(codes, ["unavailable", "later", undefined, undefined]);
  assertEquals([ids.length, new Set(ids).size, await heard.data()], [3, 1, ["fine"]]);
});

Deno.test("Client publishes once if it loses its connection while onPublish runs, also on another node", async (t) => {
  for (const isOther of [false, true]) {
    for (const data of ["fine", CHANGED, REJECTED]) {
      await t.step(`${data}, ${isOther ? "another" : "the same"} node`, async () => {
        const moderator = new Moderator();
        const { promise, resolve } = Promise.withResolvers<void>();
        moderator.gate = promise;
        await using broker = new MemoryBroker();
        await using one = listen({ ...options(moderator), broker });
        await using two = listen({ ...options(moderator), broker });
        await Promise.all([one.nodes!.ready, two.nodes!.ready]);
        const heard = new Heard(one, "log:a");
        await using cable = new Cable(portOf(one));
        await using client = connect(`${cable.url}?token=ann`, {
          transports: ["websocket"],
          backoff: { firstDelayMs: 4, maxDelayMs: 8 },
        });
        const publishing = codeOf(() => client.publish("log:a", data));
        await until(() => moderator.seen.length === 1);
        if (isOther) cable.port = portOf(two);
        cable.cut();
        await until(() => (isOther ? two : one).manager.count > 0);
        resolve();
        assertEquals(await publishing, data === REJECTED ? "no-spam" : undefined);
        assertEquals(moderator.data, [data]);
        assertEquals(await heard.data(), goingOut(data));
      });
    }
  }
});

Deno.test("A node calls onPublish again for a publication of a node that died, with the same id", async () => {
  const moderator = new Moderator();
  await using broker = new MemoryBroker();
  const one = listen({ ...options(moderator), broker });
  await using two = listen({ ...options(moderator), broker });
  await Promise.all([one.nodes!.ready, two.nodes!.ready]);
  const heard = new Heard(two, "log:a");
  const first = await numbering(one);
  assertEquals((await first.publish("log:a", "fine")).error, undefined);
  await one.close();
  const second = await numbering(two);
  assertEquals((await second.publish("log:a", "fine", again)).error, undefined);
  const [before, after, ...more] = moderator.seen;
  assertEquals([before!.id === after!.id, more, await heard.data()], [true, [], ["fine"]]);
  await second.page.close();
});

Deno.test("A request that is repeated with its Idempotency-Key has the same ids", async () => {
  const moderator = new Moderator();
  await using server = listen(options(moderator));
  const heard = new Heard(server, "log:a");
  const send = async (data: string[], key: string) => {
    const publications = data.map((data) => ({ topic: "log:a", data }));
    const response = await post(server, "publications", { publications }, {
      "idempotency-key": key,
    });
    await response.body?.cancel();
    return response.status;
  };
  // A failed request is forgotten, and may be sent again.
  for (const key of ["a", "a"]) assertEquals(await send(["one", REJECTED], key), 403);
  for (const key of ["b", "b"]) assertEquals(await send(["two", CHANGED], key), 200);
  const ids = moderator.seen.map(({ id }) => id);
  assertEquals(moderator.data, ["one", REJECTED, "one", REJECTED, "two", CHANGED]);
  assertEquals([ids[0] === ids[2], ids[1] === ids[3], new Set(ids).size], [true, true, 4]);
  assertEquals(await heard.data(), ["two", "****"]);
});

Deno.test("A batch asks onPublish in order on each topic, about all topics at once", async () => {
  const moderator = new Moderator();
  const { promise, resolve } = Promise.withResolvers<void>();
  moderator.gate = promise;
  await using server = listen(options(moderator));
  const publications = ["a", "b", "a"].map((id, i) => ({ topic: `log:${id}`, data: `${id}${i}` }));
  const response = post(server, "publications", { publications });
  await until(() => moderator.seen.length === 2);
  assertEquals(moderator.data, ["a0", "b1"]);
  resolve();
  assertEquals((await (await response).json()).publications.length, 3);
  assertEquals(moderator.data, ["a0", "b1", "a2"]);
});

Deno.test("A batch asks onPublish about nothing more after a rejection", async () => {
  const seen: unknown[] = [];
  const { promise, resolve } = Promise.withResolvers<void>();
  await using server = listen({
    ...options(new Moderator()),
    onPublish({ topic, data }) {
      seen.push(data);
      if (topic === "log:b") throw rejection();
      return promise;
    },
  });
  const publications = ["a", "b", "a"].map((id, i) => ({ topic: `log:${id}`, data: `${id}${i}` }));
  const response = await post(server, "publications", { publications });
  assertEquals([response.status, (await response.json()).code], [403, "no-spam"]);
  resolve();
  await turns();
  assertEquals(seen, ["a0", "b1"]);
});

// Bounds.

Deno.test("Publications that wait for onPublish are bounded in bytes, with a share for each session", async () => {
  const moderator = new Moderator();
  const { promise, resolve } = Promise.withResolvers<void>();
  moderator.gate = promise;
  await using server = listen({ ...options(moderator), session: { maxMessageBytes: 8_388_608 } });
  const stats = () => server.quotaStats["publications.waitingBytes"]!;
  const data = "x".repeat(7_000_000);
  const greedy = await Promise.all(
    Array.from("0123456789", (user) => Page.open(`${server.url}?token=${user}`, "skein.1")),
  );
  const replies = greedy.map((page) => page.ask({ publish: "chat:a", data }));
  await until(() => moderator.seen.length === greedy.length);
  // Half of the limit is used: a session has its share, and others have room.
  const { error } = await greedy[0]!.ask({ publish: "chat:b", data });
  assertEquals([error?.code, error?.level], ["too-many", "session"]);
  assertEquals(stats().rejected, { server: 0, address: 0, user: 0, session: 1 });
  await using modest = await Page.open(`${server.url}?token=modest`, "skein.1");
  const small = modest.ask({ publish: "chat:a", data: "hi" });
  await until(() => moderator.seen.length === greedy.length + 1);
  resolve();
  assertEquals((await small).error, undefined);
  for (const reply of replies) assertEquals((await reply).error, undefined);
  assertEquals(stats().taken, 0);
  await Promise.all(greedy.map((page) => page.close()));
});

Deno.test("Rejections that are remembered are bounded in bytes", async () => {
  const message = "x".repeat(100_000);
  let calls = 0;
  await using server = listen({
    ...options(new Moderator()),
    onPublish() {
      calls++;
      throw new RequestError("no", message);
    },
  });
  const kept = () => server.quotaStats["publications.rememberedBytes"]!;
  const { page, publish } = await numbering(server);
  for (let n = 1; n <= 100; n++) assertEquals((await publish("chat", n, { n })).error?.code, "no");
  // The newest 64 of the client are remembered.
  assertEquals([Math.floor(kept().taken / 100_000), calls], [64, 100]);
  assertEquals((await publish("log:a", 100, { n: 100, ...again })).error?.code, "no");
  await page.close();
  assertEquals(server.quotaStats["publications.waitingBytes"]!.taken, 0);
});

Deno.test("A server that closes waits for no call of onPublish", async () => {
  const reasons: unknown[] = [];
  const server = testServer({
    authorize: () => true,
    onPublish: ({ signal }) => {
      const { promise, reject } = Promise.withResolvers<void>();
      signal.onabort = () => {
        reasons.push(signal.reason.message);
        reject(signal.reason);
      };
      return promise;
    },
  });
  const session = await server.dial();
  void session.publish("chat", 1).catch(() => {});
  await until(() => server.quotaStats["publications.waitingBytes"]!.taken > 0);
  await server[Symbol.asyncDispose]();
  assertEquals(reasons, ["The server is shutting down"]);
  await until(() => server.quotaStats["publications.waitingBytes"]!.taken === 0);
});

Deno.test("onPublish is not called after the server has closed", async () => {
  const seen: unknown[] = [];
  const { promise, resolve } = Promise.withResolvers<boolean>();
  const asked = Promise.withResolvers<void>();
  const server = testServer({
    authorize() {
      asked.resolve();
      return promise;
    },
    onPublish: ({ data }) => void seen.push(data),
  });
  const client = server.connect();
  void client.publish("chat", 1, { delivery: "at-least-once" }).catch(() => {});
  await asked.promise;
  await server[Symbol.asyncDispose]();
  resolve(true);
  await turns();
  assertEquals(seen, []);
  await client.close();
});

Deno.test("A publication that the broker did not store goes out with its first decision when it is repeated", async () => {
  const moderator = new Moderator();
  const store = new FaultyStore();
  await using broker = store.connect();
  await using server = listen({ ...options(moderator), broker });
  const heard = new Heard(server, "log:a");
  broker.make("history.append", () => Promise.reject(new BrokerError("The broker is unreachable")));
  const first = await numbering(server);
  assertEquals((await first.publish("log:a", CHANGED)).error?.code, "unavailable");
  const kept = () => server.quotaStats["publications.rememberedBytes"]!.taken;
  // The data that may go out is kept, because the client may repeat the number with other data.
  await until(() => kept() > 0);
  await first.page.close();
  broker.make("history.append", (run) => run());
  const second = await numbering(server);
  assertEquals((await second.publish("log:a", "other", again)).error, undefined);
  assertEquals([await heard.data(), moderator.data, kept()], [["****"], [CHANGED], 0]);
  await second.page.close();
});
