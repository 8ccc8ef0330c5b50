import { platformRuntime } from "../../base/runtime.ts";
import { assert, assertEquals, assertInstanceOf, assertRejects, assertThrows } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import "../recovery.ts";
import { z } from "zod";
import { internals } from "../../session/core.ts";
import { QueueFullError, RequestError, SessionClosedError, TimeoutError } from "../../errors.ts";
import { Network, settled } from "../../tests/clients.ts";
import { passTime, turns } from "../../tests/waiting.ts";
import { HELLO, type Peer } from "../../tests/sessions.ts";
import type { Client } from "../client.ts";
import { defineContract } from "../../session/contract.ts";
import type { Session } from "../../session/session.ts";
import { RequestService, type SessionServices } from "../../session/serving/requests.ts";
import type { Subscription } from "./subscription.ts";

/** A server's services that record their requests. */
function services(
  log: string[],
  subscribe: NonNullable<SessionServices["subscribe"]> = () => ({}),
  unsubscribe: NonNullable<SessionServices["unsubscribe"]> = () => ({}),
): { services: RequestService } {
  return {
    services: new RequestService(platformRuntime(), {
      subscribe: (session, topic, request) => {
        log.push(`+${topic}`);
        return subscribe(session, topic, request);
      },
      unsubscribe: (session, topic) => {
        log.push(`-${topic}`);
        return unsubscribe(session, topic);
      },
    }),
  };
}

/** Lets microtasks run. */
async function pauses(count: number): Promise<void> {
  for (let i = 0; i < count; i++) await null;
}

Deno.test("Subscription gets the messages of its topic, and the client all others", async () => {
  const network = new Network(services([]));
  const client = network.client();
  const news = client.subscribe("news");
  const others = Array.fromAsync(client, ({ topic }) => topic);
  await news.ready;
  for (const topic of ["news", "other", "news"]) network.last.send(topic, topic);
  await turns();
  const got: unknown[] = [];
  for await (const { data } of news) if (got.push(data) === 2) break;
  assertEquals([got, news.isEnded], [["news", "news"], false]);
  await client.close();
  assertEquals(await others, ["other"]);
  assertEquals(await Array.fromAsync(news), []);
});

Deno.test("Subscription is requested again in every new session", async () => {
  using time = new FakeTime();
  const log: string[] = [];
  const network = new Network(services(log));
  await using client = network.client();
  const early = client.subscribe("early");
  await turns();
  const late = client.subscribe("late");
  await Promise.all([early.ready, late.ready]);
  await network.reconnect(time);
  assertEquals(client.status.current.name, "connected");
  assertEquals(log, ["+early", "+late", "+early", "+late"]);
  network.last.send("late", "after");
  for await (const { data } of late) {
    assertEquals(data, "after");
    break;
  }
});

Deno.test("Subscription that is rejected ends with the reason, and no other does", async () => {
  const network = new Network(services([], (_session, topic) => {
    if (topic === "secret") throw new RequestError("forbidden", "Not you");
    return {};
  }));
  await using client = network.client();
  const secret = client.subscribe("secret");
  const open = client.subscribe("open");
  const error = await assertRejects(() => secret.ready, RequestError, "Not you");
  assertEquals(error.failure.code, "forbidden");
  await assertRejects(() => Array.fromAsync(secret), RequestError, "Not you");
  await open.ready;
  assertEquals({
    hasRejectedEnded: secret.isEnded,
    hasOtherEnded: open.isEnded,
    isConnected: client.isConnected,
  }, { hasRejectedEnded: true, hasOtherEnded: false, isConnected: true });
  network.last.send("secret", 1);
  for await (const { topic } of client) {
    assertEquals(topic, "secret", "messages without a subscription go to the client");
    break;
  }
  const again = client.subscribe("secret");
  await assertRejects(() => again.ready, RequestError);
});

Deno.test("Subscription whose loop falls behind leaves its topic, and throws after all queued messages", async () => {
  using time = new FakeTime();
  for (
    const { pending, isSilent } of [
      { pending: 0, isSilent: false },
      // As many requests are pending as the server allows.
      { pending: 64, isSilent: false },
      // The server never replies that the client has left.
      { pending: 0, isSilent: true },
    ]
  ) {
    const log: string[] = [];
    const gate = Promise.withResolvers<void>();
    const network = new Network({
      ...services(log, () => ({}), isSilent ? () => new Promise<never>(() => {}) : undefined),
      onMessage: () => gate.promise,
      sendQueue: { maxMessages: 10_000 },
    });
    await using client = network.client();
    const news = client.subscribe("news");
    await news.ready;
    const asked = Array.from(
      { length: pending },
      () => assertRejects(() => client.request("slow")),
    );
    const got: unknown[] = [];
    const slow = Promise.withResolvers<void>();
    const reading = assertRejects(
      async () => {
        for await (const { data } of news) {
          got.push(data);
          await slow.promise;
        }
      },
      QueueFullError,
      '"news" fell behind',
    );
    network.last.send("news", 0);
    await turns(20);
    for (let i = 1; i <= 4_097; i++) network.last.send("news", i);
    await turns(20);
    assertEquals({ status: news.status.current, log, got }, {
      status: "ended",
      log: ["+news", "-news"],
      got: [0],
    });
    if (isSilent) await time.tickAsync(30_000);
    slow.resolve();
    await reading;
    assertEquals({ count: got.length, first: got[0], last: got.at(-1) }, {
      count: 4_097,
      first: 0,
      last: 4_096,
    });
    // If other requests were rejected, this one was not.
    if (!isSilent) await client.subscribe("news").ready;
    gate.resolve();
    await Promise.all(asked);
    assert(client.isConnected);
  }
});

Deno.test("Subscription.unsubscribe() rejects if the server does not reply, and has ended anyway", async () => {
  using time = new FakeTime();
  const network = new Network(services([], undefined, () => new Promise<never>(() => {})));
  await using client = network.client();
  const news = client.subscribe("news");
  await news.ready;
  const left = assertRejects(() => news.unsubscribe(), TimeoutError, 'unsubscribe "news"');
  await turns();
  await time.tickAsync(30_000);
  await left;
  assertEquals(news.isEnded, true);
  await news.unsubscribe();
});

Deno.test("Subscription without a reply in time can be left, and the client's loop receives no message of the topic", async () => {
  using time = new FakeTime();
  const log: string[] = [];
  const late = Promise.withResolvers<void>();
  const network = new Network(services(log, async () => {
    await late.promise;
    return {};
  }));
  await using client = network.client();
  const others = Array.fromAsync(client, ({ topic }) => topic);
  const news = client.subscribe("news");
  await turns();
  // Do this in steps, so that the server responds to the client's pings in between.
  await passTime(time, 30_000);
  assertEquals(news.status.current, "pending");
  const left = news.unsubscribe();
  late.resolve();
  network.last.send("news", "after the late reply");
  await left;
  network.last.send("other", 1);
  await turns();
  assertEquals(log, ["+news", "-news"]);
  await client.close();
  assertEquals(await others, ["other"]);
});

Deno.test("Subscription that ends keeps in-flight messages out of the client's loop", async () => {
  const network = new Network(services([], undefined, (session) => {
    session.send("news", "in flight");
    return {};
  }));
  await using client = network.client();
  const news = client.subscribe("news");
  await news.ready;
  await news.unsubscribe();
  network.last.send("other", 1);
  for await (const { topic } of client) {
    assertEquals(topic, "other");
    break;
  }
});

Deno.test("Subscription yields messages that no other subscription to the topic shares", async () => {
  const network = new Network(services([]));
  await using client = network.client();
  const subscriptions = [1, 2, 3].map(() => client.subscribe("news"));
  await Promise.all(subscriptions.map(({ ready }) => ready));
  network.last.send("news", { list: [1] });
  network.last.send("news", new Uint8Array([1]));
  for (const news of subscriptions) {
    const loop = news[Symbol.asyncIterator]();
    const data = (await loop.next()).value?.data as { list: number[] };
    assertEquals(data, { list: [1] });
    data.list.push(2);
    const bytes = (await loop.next()).value?.data as Uint8Array;
    assertEquals(bytes, new Uint8Array([1]));
    bytes.fill(2);
  }
});

Deno.test("Subscription rejects a second loop, and continues in a later one", async () => {
  const network = new Network(services([]));
  await using client = network.client();
  const news = client.subscribe("news");
  await news.ready;
  for (let i = 0; i < 3; i++) network.last.send("news", i);
  const messages = news[Symbol.asyncIterator]();
  assertEquals((await messages.next()).value?.data, 0);
  await assertRejects(() => news[Symbol.asyncIterator]().next(), TypeError, "another loop");
  assertEquals((await messages.next()).value?.data, 1);
  await messages.return();
  for await (const { data } of news) {
    assertEquals(data, 2);
    break;
  }
});

Deno.test("Client.subscribe() and publish() are typed by the messages of the contract to clients", () => {
  const contract = defineContract({
    toClient: { "room:{name}": z.number(), people: z.array(z.string()) },
    toServer: { say: z.string() },
  });
  const untyped = (client: Client) => {
    const any: string = "a";
    void client.publish(any, new Date());
    return client.subscribe(any);
  };
  function check(client: Client<typeof contract>, session: Session<unknown, typeof contract>) {
    const room: string = "a";
    const one = client.subscribe(`room:${room}`);
    const both: Subscription<typeof contract> = Math.random() > 0.5
      ? one
      : client.subscribe("people");
    void client.publish("room:a", 1);
    void session.publish("people", ["ann"]);
    void session.subscribe("people");
    // @ts-expect-error Only clients send this topic.
    client.subscribe("say");
    // @ts-expect-error Notices belong to their room.
    client.subscribe("presence:room:a");
    // @ts-expect-error A string may not be a topic of the contract.
    client.subscribe(room);
    // @ts-expect-error The data of another topic.
    void client.publish("room:a", ["ann"]);
    // @ts-expect-error Topics of clients cannot be published.
    void client.publish("say", "hi");
    // @ts-expect-error The data of another topic.
    void session.publish("people", 1);
    // @ts-expect-error Not a topic of the contract.
    void session.subscribe("nope");
    async function read() {
      for await (const message of one) {
        const data: number = message.data;
        const pattern: "room:{name}" = message.pattern;
        return [data, pattern, message.params.name];
      }
      for await (const message of both) {
        if (message.pattern === "people") return message.data.length;
        // @ts-expect-error There are two patterns, and both were checked.
        if (message.pattern !== "room:{name}") return message.data;
      }
    }
    return read;
  }
  assertEquals([untyped.length, check.length], [1, 2]);
});

Deno.test("Subscription.unsubscribe() leaves the topic once, and keeps received messages", async () => {
  const log: string[] = [];
  const network = new Network(services(log));
  await using client = network.client();
  const news = client.subscribe("news");
  await news.ready;
  network.last.send("news", 1);
  await turns();
  await news.unsubscribe();
  await news.unsubscribe();
  assertEquals(log, ["+news", "-news"]);
  assertEquals((await Array.fromAsync(news)).map(({ data }) => data), [1]);
  {
    await using again = client.subscribe("news");
    await again.ready;
  }
  assertEquals(log, ["+news", "-news", "+news", "-news"]);
});

Deno.test("Subscription that is left while disconnected is not requested again", async () => {
  using time = new FakeTime();
  const log: string[] = [];
  const network = new Network(services(log));
  await using client = network.client();
  const news = client.subscribe("news");
  await news.ready;
  network.cut();
  await turns();
  await news.unsubscribe();
  await time.tickAsync(250);
  assertEquals(await settled(client), "connected");
  assertEquals(log, ["+news"]);
});

Deno.test("Subscription that the server ends throws its code after earlier messages, and can be started again", async () => {
  const network = new Network(services([]));
  await using client = network.client();
  const news = client.subscribe("news");
  await news.ready;
  const told: unknown[] = [];
  client.session!.events.addEventListener("unsubscribed", ({ detail }) => told.push(detail));
  network.last.send("news", 1);
  network.last[internals].sending.post({ unsubscribed: "news", code: "banned", reason: "Be kind" });
  network.last.send("news", 2);
  await turns();
  const got: unknown[] = [];
  const error = await assertRejects(
    async () => {
      for await (const { data } of news) got.push(data);
    },
    RequestError,
    "Be kind",
  );
  assertEquals({ got, code: error.failure.code, status: news.status.current }, {
    got: [1],
    code: "banned",
    status: "ended",
  });
  assertEquals(told, [{ unsubscribed: "news", code: "banned", reason: "Be kind" }]);
  // Later messages go to the client's own loop.
  for await (const { topic, data } of client) {
    assertEquals([topic, data], ["news", 2]);
    break;
  }
  await client.subscribe("news").ready;
});

Deno.test("Subscription that the server ends temporarily is requested again", async () => {
  using time = new FakeTime();
  for (const code of ["unavailable", "too-many"]) {
    const log: string[] = [];
    const network = new Network(services(log));
    await using client = network.client();
    const news = client.subscribe("news");
    await news.ready;
    network.last[internals].sending.post({ unsubscribed: "news", code, reason: "" });
    await turns();
    assertEquals([log, news.status.current], [["+news"], "lost"]);
    for (let i = 0; i < 10 && news.status.current === "lost"; i++) await time.tickAsync(100);
    assertEquals([log, news.status.current], [["+news", "+news"], "subscribed"]);
  }
});

Deno.test("Subscription ignores an end from the server while its own request is pending", async () => {
  const log: string[] = [];
  const gates = [Promise.withResolvers<object>(), Promise.withResolvers<object>()];
  const network = new Network(services(log, () => gates[log.length - 1]!.promise));
  await using client = network.client();
  const news = client.subscribe("news");
  await turns();
  const word = { unsubscribed: "news", code: "removed", reason: "" };
  network.last[internals].sending.post(word);
  await turns();
  assertEquals([news.isEnded, log], [false, ["+news"]]);
  gates[0]!.resolve({});
  await news.ready;
  // A subscription that had a reply has ended, even if the reply came in another session.
  network.cut();
  for await (const status of news.status) if (status === "lost") break;
  client.retryNow();
  while (log.length < 2) await turns();
  network.last[internals].sending.post(word);
  await turns();
  assertEquals(news.isEnded, false);
  gates[1]!.resolve({});
  await turns();
  assertEquals(news.status.current, "subscribed");
  network.last[internals].sending.post(word);
  await assertRejects(
    () => Array.fromAsync(news),
    RequestError,
    'The server ended the subscription to "news"',
  );
});

Deno.test("Subscription ends when the server ends it in the frame of its reply", async () => {
  const network = new Network(services([], async (session) => {
    const reply = Promise.resolve({});
    // In the turn of the reply, and after it.
    void reply.then(() => pauses(8)).then(() =>
      session[internals].sending.post({ unsubscribed: "news", code: "removed", reason: "" })
    );
    return await reply;
  }));
  await using client = network.client();
  const news = client.subscribe("news");
  await news.ready;
  await assertRejects(
    () => Array.fromAsync(news),
    RequestError,
    'The server ended the subscription to "news"',
  );
});

Deno.test("Subscription that is left while others are requested is not requested", async () => {
  const log: string[] = [];
  const gate = Promise.withResolvers<object>();
  const network = new Network(services(log, () => gate.promise));
  await using client = network.client();
  for (let i = 0; i < 32; i++) client.subscribe(`t${i}`);
  const last = client.subscribe("last");
  await turns();
  const leaving = last.unsubscribe();
  gate.resolve({});
  await leaving;
  await turns(10);
  assertEquals(log.includes("+last"), false);
  assertEquals(log.filter((entry) => entry.startsWith("+")).length, 32);
});

Deno.test("Subscriptions that all end at once stay within a slow server's limit of pending requests", async () => {
  const log: string[] = [];
  const gate = Promise.withResolvers<object>();
  const network = new Network(services(log, () => gate.promise));
  await using client = network.client();
  const all = Array.from({ length: 128 }, (_, i) => client.subscribe(`t${i}`));
  await turns();
  const leaving = Promise.all(all.map((subscription) => subscription.unsubscribe()));
  const again = client.subscribe("t0");
  await turns();
  gate.resolve({});
  await leaving;
  await again.ready;
  assertEquals([network.sessions.length, network.last.isClosed], [1, false]);
  assertEquals(log.filter((entry) => entry.startsWith("-")).length, 128);
  assertEquals(log.filter((entry) => entry.endsWith("t0")), ["+t0", "-t0", "+t0"]);
});

Deno.test("Subscription that waits to leave stops waiting once its session is lost", async () => {
  const log: string[] = [];
  const network = new Network(services(log, () => new Promise(() => {})));
  await using client = network.client();
  const all = Array.from({ length: 64 }, (_, i) => client.subscribe(`t${i}`));
  await turns();
  const leaving = Promise.all(all.map((subscription) => subscription.unsubscribe()));
  await turns();
  network.cut();
  await leaving;
  assertEquals(log, ["+t0"]);
});

Deno.test("Subscription to a topic that is left and subscribed again stays the new one", async () => {
  const log: string[] = [];
  let reject = true;
  const gate = Promise.withResolvers<void>();
  const network = new Network(services(log, async () => {
    await gate.promise;
    if (!reject) return {};
    reject = false;
    throw new RequestError("forbidden", "Not yet");
  }));
  await using client = network.client();
  await client.whenConnected();
  const old = client.subscribe("news");
  await turns();
  const leaving = old.unsubscribe();
  const fresh = client.subscribe("news");
  gate.resolve();
  await leaving;
  await fresh.ready;
  network.last.send("news", 1);
  for await (const { data } of fresh) {
    assertEquals(data, 1);
    break;
  }
});

Deno.test("Subscription has its initial position before the first message; null means none", async () => {
  const since: unknown[] = [];
  const network = new Network({
    services: new RequestService(platformRuntime(), {
      hasHistory: true,
      subscribe: (_session, _topic, request) => {
        since.push(request.since);
        return { epoch: "e", offset: 3, head: 3, ...(request.since && { recovered: true }) };
      },
    }),
  });
  await using client = network.client();
  const position = { epoch: "e", offset: 3 };
  const news = client.subscribe("news", { since: position });
  // On a page without a stored position, `JSON.parse(localStorage.getItem("position"))` returns
  // this.
  const nowhere = client.subscribe("nowhere", { since: JSON.parse("null") });
  assertEquals([news.position, nowhere.position], [position, undefined]);
  await Promise.all([news.ready, nowhere.ready]);
  assertEquals(since, [position, undefined]);
  assertEquals([nowhere.position, nowhere.recovery], [position, undefined]);
});

Deno.test("Subscription outlives a session that the application closes during the request", async () => {
  using time = new FakeTime();
  const network = new Network({
    services: new RequestService(platformRuntime(), { hasHistory: true, subscribe: () => ({}) }),
  });
  await using client = network.client();
  const session = await client.whenConnected();
  const { link } = network.pairs[0]!;
  link.stall("to-server");
  for (let i = 0; i < 10; i++) session.send("other", "x".repeat(50_000));
  await turns(20);
  const news = client.subscribe("news");
  const closing = session.close({ code: 4000 });
  await turns(20);
  assertEquals({ isReady: session.isReady, isClosed: session.isClosed, isEnded: news.isEnded }, {
    isReady: false,
    isClosed: false,
    isEnded: false,
  });
  link.resume("to-server");
  await closing;
  await turns();
  await time.tickAsync(250);
  await turns();
  await news.ready;
});

Deno.test("Subscription that was in force is requested again after a temporary rejection", async () => {
  using time = new FakeTime();
  const log: string[] = [];
  const failures = [
    new RequestError("too-many", "Too fast", { retryAfterMs: 2_000 }),
    new RequestError("too-many", "Too fast", { retryAfterMs: 60_000 }),
    new RequestError("unavailable", "Later"),
  ];
  let isRejected = false;
  const network = new Network(services(log, () => {
    const failure = isRejected && failures.shift();
    if (failure) throw failure;
    return {};
  }));
  await using client = network.client();
  const news = client.subscribe("news");
  await news.ready;
  isRejected = true;
  await network.reconnect(time);
  assertEquals([log.length, news.status.current], [2, "lost"]);
  for (const [pauseMs, asked] of [[1_999, 2], [1, 3], [59_999, 3], [1, 4]] as const) {
    await time.tickAsync(pauseMs);
    await turns(20);
    assertEquals([log.length, news.status.current], [asked, "lost"]);
  }
  await passTime(time, 700);
  assertEquals([log.length, news.status.current], [5, "subscribed"]);
});

Deno.test("Subscriptions that a limit rejected are requested one after another, as fast as the server says", async () => {
  using time = new FakeTime();
  const log: string[] = [];
  let room = Infinity;
  const network = new Network(services(log, () => {
    if (room-- > 0) return {};
    throw new RequestError("too-many", "Too fast", { retryAfterMs: 1_000, level: "session" });
  }));
  await using client = network.client();
  const all = Array.from({ length: 20 }, (_, i) => client.subscribe(`t${i}`));
  await Promise.all(all.map(({ ready }) => ready));
  room = 5;
  await network.reconnect(time);
  for (let left = 15; left > 0; left--) {
    assertEquals(all.filter(({ status }) => status.current === "lost").length, left);
    room = 1;
    await time.tickAsync(1_000);
    await turns(20);
  }
  assert(all.every(({ status }) => status.current === "subscribed"));
  assertEquals(log.length, 20 + 20 + 15);
});

Deno.test("Subscription that waits for its retry delays no other, even after it has ended", async () => {
  using time = new FakeTime();
  const log: string[] = [];
  const rejections = new Map([
    ["hour", [new RequestError("unavailable", "Later", { retryAfterMs: 3_600_000 })]],
    ["never", Array.from({ length: 100 }, () => new RequestError("unavailable", "Never"))],
    ["soon", [new RequestError("unavailable", "Soon", { retryAfterMs: 200 })]],
    ["next", [new RequestError("unavailable", "Soon", { retryAfterMs: 200 })]],
  ]);
  const network = new Network(services(log, (_session, topic) => {
    const rejection = rejections.get(topic)!.shift();
    if (rejection) throw rejection;
    return {};
  }));
  await using client = network.client({ onError() {} });
  const [hour, never] = [client.subscribe("hour"), client.subscribe("never")];
  await passTime(time, 60_000);
  const soon = client.subscribe("soon");
  await passTime(time, 250);
  assertEquals([soon, never].map(({ status }) => status.current), ["subscribed", "pending"]);
  await hour.unsubscribe();
  const next = client.subscribe("next");
  await passTime(time, 250);
  assertEquals(next.status.current, "subscribed");
  await passTime(time, 3_600_000);
  assertEquals(log.filter((entry) => entry === "+hour").length, 1);
});

Deno.test("Subscriptions that fail again and again together are requested rarely, and soon after a success", async () => {
  using time = new FakeTime();
  const log: string[] = [];
  let isDown = true;
  let running = 0;
  let most = 0;
  const network = new Network(services(log, async () => {
    most = Math.max(most, ++running);
    await turns();
    running--;
    if (isDown) throw new RequestError("unavailable", "The database is unreachable");
    return {};
  }));
  await using client = network.client({ onError() {} });
  const all = Array.from({ length: 30 }, (_, i) => client.subscribe(`t${i}`));
  await passTime(time, 1_000);
  most = 0;
  await passTime(time, 60_000);
  assert(log.length > 60 && log.length < 90, `${log.length}`);
  assertEquals(most, 1);
  isDown = false;
  await passTime(time, 35_000);
  assertEquals(all.map(({ status }) => status.current), all.map(() => "subscribed"));
  assert(log.length < 120, `${log.length}`);
});

Deno.test("Subscription that is temporarily rejected, and ends in the meantime, leaves nothing behind", async () => {
  using time = new FakeTime();
  const log: string[] = [];
  let isRejected = false;
  const network = new Network(services(log, () => {
    if (!isRejected) return {};
    throw new RequestError("too-many", "Too fast", { retryAfterMs: 1_000 });
  }));
  const client = network.client();
  const [one, two] = [client.subscribe("one"), client.subscribe("two")];
  await Promise.all([one.ready, two.ready]);
  isRejected = true;
  await network.reconnect(time);
  await one.unsubscribe();
  for (let i = 0; i < 2; i++) {
    await time.tickAsync(1_000);
    await turns(20);
  }
  assertEquals(log.slice(4), ["-one", "+two", "+two"]);
  await client.close();
  assertEquals(await Array.fromAsync(two), []);
});

Deno.test("Subscription whose request was superseded is requested again, even the first time", async () => {
  using time = new FakeTime();
  const log: string[] = [];
  const network = new Network(services(log, () => {
    if (log.length === 1) throw new RequestError("superseded", "Requested again");
    return {};
  }));
  await using client = network.client();
  const news = client.subscribe("news");
  await turns(20);
  assertEquals([log, news.status.current], [["+news"], "pending"]);
  await time.tickAsync(200);
  await turns(20);
  await news.ready;
  assertEquals(log, ["+news", "+news"]);
});

Deno.test("Subscription that a rate limit rejects is requested again when the limit allows it, even the first time", async () => {
  using time = new FakeTime();
  const log: string[] = [];
  let retryAfterMs = 30_001;
  const network = new Network(services(log, () => {
    if (log.length > 2) return {};
    throw new RequestError("too-many", "Too fast", { retryAfterMs });
  }));
  await using client = network.client();
  const first = client.subscribe("first");
  const error = await assertRejects(() => first.ready, RequestError);
  assertEquals(error.failure.retryAfterMs, 30_001);
  retryAfterMs = 30_000;
  const second = client.subscribe("second");
  await turns(20);
  await time.tickAsync(29_999);
  await turns(20);
  assertEquals([log, second.status.current], [["+first", "+second"], "pending"]);
  await time.tickAsync(1);
  await turns(20);
  await second.ready;
  assertEquals(log.length, 3);
});

Deno.test("Subscription ends after a final rejection, and if new, after a limit without a time", async () => {
  using time = new FakeTime();
  let code = "too-many";
  const network = new Network(services([], (_session, topic) => {
    if (topic === "first" || code === "forbidden") throw new RequestError(code, "No");
    return {};
  }));
  await using client = network.client();
  const [first, news] = [client.subscribe("first"), client.subscribe("news")];
  const error = await assertRejects(() => first.ready, RequestError);
  assertEquals(error.failure.code, "too-many");
  await news.ready;
  code = "forbidden";
  await network.reconnect(time);
  assertEquals(news.status.current, "ended");
  await assertRejects(() => Array.fromAsync(news), RequestError, "No");
});

Deno.test("Subscription waits while the server cannot serve its first request, and reports that once", async () => {
  using time = new FakeTime();
  const log: string[] = [];
  const errors: string[] = [];
  let isDown = true;
  const network = new Network(services(log, (_session, topic) => {
    if (isDown && topic === "news") {
      throw new RequestError("unavailable", "The database is unreachable");
    }
    return {};
  }));
  await using client = network.client({ onError: (error) => void errors.push(String(error)) });
  const [news, other] = [client.subscribe("news"), client.subscribe("other")];
  await other.ready;
  await passTime(time, 10_000);
  assertEquals(news.status.current, "pending");
  const asked = log.filter((entry) => entry === "+news").length;
  assert(asked > 3 && asked < 30, `${asked}`);
  assertEquals(errors, ["RequestError: The database is unreachable"]);
  isDown = false;
  await passTime(time, 30_000);
  await news.ready;
  assertEquals(news.status.current, "subscribed");
});

Deno.test("Subscription is requested again if its first request gets no reply in time", async () => {
  using time = new FakeTime();
  const log: string[] = [];
  const errors: unknown[] = [];
  const network = new Network(services(log, () => {
    if (log.length > 1) return {};
    return new Promise<object>((resolve) => setTimeout(() => resolve({}), 1_500));
  }));
  await using client = network.client({
    requestTimeoutMs: 1_000,
    onError: (error) => void errors.push(error),
  });
  const news = client.subscribe("news");
  await turns();
  await passTime(time, 900);
  assertEquals([log, errors], [["+news"], []]);
  await passTime(time, 1_000);
  await news.ready;
  assertEquals(log, ["+news", "+news"]);
  assertInstanceOf(errors[0], TimeoutError);
});

Deno.test("Client.subscribe() rejects invalid topics", async () => {
  const network = new Network(services([]));
  await using client = network.client();
  assertThrows(() => client.subscribe(""), TypeError, "Cannot subscribe");
  assertThrows(() => client.subscribe("x".repeat(256)), RangeError, "Cannot subscribe");
});

Deno.test("Subscription ends with its client: normally if closed, with the cause under endOnRejection", async () => {
  const network = new Network(services([]));
  const closed = network.client();
  const one = closed.subscribe("news");
  await one.ready;
  await closed.close();
  assertEquals(await Array.fromAsync(one), []);
  network.outcomes.push(network.reject(4403));
  const rejected = network.client({ endOnRejection: true });
  const other = rejected.subscribe("news");
  await assertRejects(() => other.ready, SessionClosedError, "4403");
  await assertRejects(() => Array.fromAsync(other), SessionClosedError, "4403");
});

Deno.test("Subscription checks its messages, and skips invalid ones", async () => {
  const contract = defineContract({ toClient: { "room:{name}": z.number() } });
  const rejected: unknown[] = [];
  const network = new Network({
    ...services([]),
    onMessageRejected: ({ failure }) => void rejected.push(failure.code),
  });
  await using client = network.client({ contract });
  const room = client.subscribe("room:a");
  await room.ready;
  network.last.send("room:a", "no number");
  network.last.send("room:a", 7);
  for await (const message of room) {
    assert(message.pattern === "room:{name}");
    assertEquals([message.data, message.params.name], [7, "a"]);
    break;
  }
  await turns();
  assertEquals(rejected, ["invalid"]);
});

Deno.test("Client.publish() publishes through the server, and returns its reply", async () => {
  const published: unknown[] = [];
  const network = new Network({
    services: new RequestService(platformRuntime(), {
      publish: (_session, topic, data) => {
        if (topic === "closed") throw new RequestError("forbidden", "Not you");
        published.push([topic, data]);
        return {};
      },
    }),
  });
  await using client = network.client();
  await client.publish("open", { a: 1 });
  await client.publish("open", new Uint8Array([1]));
  await client.publish("open");
  await assertRejects(() => client.publish("closed", 1), RequestError, "Not you");
  assertEquals(published, [["open", { a: 1 }], ["open", new Uint8Array([1])], ["open", undefined]]);
});

Deno.test("Subscriptions of up to 128 topics are restored in one round trip, if the server has histories", async () => {
  for (const [features, atOnce] of [[["history"], 128], [[], 32]] as const) {
    const network = new Network();
    let peer: Peer | undefined;
    network.outcomes.push(network.byHand((hand) => peer = hand));
    await using client = network.client();
    for (let i = 0; i < 130; i++) client.subscribe(`topic:${i}`);
    await turns();
    peer!.say({ hello: { ...HELLO.hello, features } });
    await turns();
    assertEquals(peer!.envelopes.map(({ subscribe }) => subscribe).length, atOnce);
    assertEquals(peer!.frames.length, 1);
    peer!.connection.close();
  }
});
