/**
 * Tests several subscriptions of one client to one topic. The client sends one subscription, and
 * each of the subscriptions in the client keeps its own position.
 *
 * @module
 */
import { assert, assertEquals, assertRejects } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import {
  type Client,
  type ClientSubscribeOptions,
  type Recovery,
  RequestError,
  type Subscription,
} from "../client.ts";
import { passTime, testServer, type TestServerOptions } from "../testing/mod.ts";
import { soon, turns } from "./waiting.ts";

const history = { "room:{name}": { size: 1_000 } };

/** A server that records requests for topics. */
function serving(options: TestServerOptions = {}) {
  const asked: string[] = [];
  const server = testServer({
    history,
    authorize: (_session, topic, action) => {
      if (action === "subscribe") asked.push(topic);
      return true;
    },
    ...options,
  });
  return { server, asked };
}

/** Reads a topic, and collects the results: the data, and the reasons of gaps. */
function read(client: Client, topic: string, options: ClientSubscribeOptions = {}) {
  const got: unknown[] = [];
  const subscription: Subscription = client.subscribe(topic, {
    ...options,
    onRecovery: ({ recovered, reason }) => {
      if (!recovered) got.push(reason);
    },
  });
  const done = (async () => {
    for await (const { data } of subscription) got.push(data);
  })();
  done.catch(() => {});
  return { got, subscription, done };
}

const numbers = (from: number, to: number) =>
  Array.from({ length: to - from + 1 }, (_, i) => from + i);

Deno.test("Client.subscribe() twice to a topic delivers each message to both, and subscribes at the server once", async () => {
  const { server, asked } = serving();
  await using _server = server;
  await using client = server.connect();
  const one = read(client, "plain");
  const two = read(client, "plain");
  await Promise.all([one.subscription.ready, two.subscription.ready]);
  const three = read(client, "plain");
  await soon(three.subscription.ready);
  for (const data of [1, 2]) server.publish("plain", data);
  await turns(20);
  for (const { got } of [one, two, three]) assertEquals(got, [1, 2]);
  assertEquals(asked, ["plain"]);
});

Deno.test("Client.subscribe() twice to a topic leaves it when the last subscription ends", async () => {
  const { server, asked } = serving();
  await using _server = server;
  await using client = server.connect();
  const [one, two] = [read(client, "plain"), read(client, "plain")];
  await Promise.all([one.subscription.ready, two.subscription.ready]);
  await one.subscription.unsubscribe();
  assertEquals(server.topics.subscribers("plain").length, 1);
  server.publish("plain", 1);
  await turns(20);
  assertEquals([one.got, two.got], [[], [1]]);
  await two.subscription.unsubscribe();
  assertEquals(server.topics.subscribers("plain").length, 0);
  const again = read(client, "plain");
  await soon(again.subscription.ready);
  server.publish("plain", 2);
  await turns(20);
  assertEquals([again.got, asked.length], [[2], 2]);
  await Promise.all([one.done, two.done]);
});

Deno.test("Client.subscribe() with last or since to a subscribed topic reads its own history, without repeats elsewhere", async () => {
  const { server, asked } = serving();
  await using _server = server;
  for (const data of numbers(1, 300)) server.publish("room:a", data);
  await using client = server.connect();
  const whole = read(client, "room:a", { last: 1_000 });
  await soon(whole.subscription.ready);
  // The replay is still running.
  const newest = read(client, "room:a", { last: 3 });
  const plain = read(client, "room:a");
  await Promise.all([newest.subscription.ready, plain.subscription.ready]);
  await turns(100);
  server.publish("room:a", 301);
  await turns(100);
  const { epoch } = whole.subscription.position!;
  const since = read(client, "room:a", { since: { epoch, offset: 290 } });
  await soon(since.subscription.ready);
  server.publish("room:a", 302);
  await turns(100);
  assertEquals(whole.got, numbers(1, 302));
  assertEquals(newest.got, numbers(298, 302));
  assertEquals(plain.got, [301, 302]);
  assertEquals(since.got, numbers(291, 302));
  for (const { subscription } of [whole, newest, plain, since]) {
    assertEquals(subscription.position, { ...whole.subscription.position!, epoch, offset: 302 });
  }
  assert(asked.length >= 3 && asked.length <= 6, `${asked.length} questions`);
});

Deno.test("Client.subscribe() from an expired position reports the gap only to that loop", async () => {
  const { server } = serving();
  await using _server = server;
  await using client = server.connect();
  const live = read(client, "room:a");
  await soon(live.subscription.ready);
  server.publish("room:a", 1);
  await turns(20);
  const lost = read(client, "room:a", { since: { epoch: "another", offset: 7 } });
  await soon(lost.subscription.ready);
  server.publish("room:a", 2);
  await turns(20);
  assertEquals([live.got, lost.got], [[1, 2], ["new-epoch", 2]]);
});

Deno.test("Client.subscribe() twice to a topic recovers after a lost connection with one request", async () => {
  using time = new FakeTime();
  const { server, asked } = serving();
  await using _server = server;
  await using client = server.connect();
  const readers = [
    read(client, "room:a"),
    read(client, "room:a", { last: 5 }),
    read(client, "plain"),
    read(client, "plain"),
  ];
  await turns(50);
  server.publish("room:a", 1);
  server.publish("plain", 1);
  await turns(50);
  asked.length = 0;
  server.network.disconnect();
  await turns(20);
  for (const data of [2, 3]) server.publish("room:a", data);
  await passTime(time, 1_000);
  await turns(50);
  for (const topic of ["room:a", "plain"]) server.publish(topic, 4);
  await turns(50);
  assertEquals(readers.map(({ got }) => got), [
    [1, 2, 3, 4],
    [1, 2, 3, 4],
    [1, "no-history", 4],
    [1, "no-history", 4],
  ]);
  assertEquals(asked.sort(), ["plain", "room:a"]);
});

Deno.test("Client.subscribe() twice to a topic drops messages only of the subscription without a reader", async () => {
  const { server } = serving({ session: { sendQueue: { maxMessages: 10_000 } } });
  await using _server = server;
  await using client = server.connect();
  const recoveries: Recovery[] = [];
  const slow = client.subscribe("plain", { onRecovery: (it) => void recoveries.push(it) });
  const fast = read(client, "plain");
  await Promise.all([slow.ready, fast.subscription.ready]);
  for (const data of numbers(1, 4_097)) {
    server.publish("plain", data);
    if (data % 512 === 0) await turns(5);
  }
  await turns(50);
  assertEquals(fast.got.length, 4_097);
  assertEquals(recoveries, []);
  const late: unknown[] = [];
  for await (const { data } of slow) {
    late.push(data);
    if (data === 4_097) break;
  }
  assertEquals(late, numbers(2, 4_097));
  assertEquals(recoveries, [{ recovered: false, reason: "dropped" }]);
});

Deno.test("Client.subscribe() twice to a topic ends both if the server rejects or removes them", async () => {
  let isAllowed = false;
  const { server, asked } = serving({
    authorize: (_session, topic) => {
      asked.push(topic);
      return isAllowed;
    },
  });
  await using _server = server;
  await using client = server.connect();
  const rejected = [client.subscribe("room:a"), client.subscribe("room:a", { last: 1 })];
  for (const { ready } of rejected) await assertRejects(() => soon(ready), RequestError, "may not");
  assertEquals(asked.length, 1);

  isAllowed = true;
  const removed = [client.subscribe("room:a"), client.subscribe("room:a", { last: 1 })];
  await Promise.all(removed.map(({ ready }) => soon(ready)));
  const [session] = server.manager.all();
  server.unsubscribe(session!, "room:a", { code: "banned", reason: "Be kind" });
  for (const subscription of removed) {
    await assertRejects(() => soon(Array.fromAsync(subscription)), RequestError, "Be kind");
  }
});
