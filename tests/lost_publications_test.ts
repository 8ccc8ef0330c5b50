/** Tests publications whose session is lost before the reply: sent again, or reported as unknown. */
import { assertEquals, assertRejects } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { type Client, QueueFullError, RequestError, SessionClosedError } from "../mod.ts";
import { passTime, type TestServer, testServer, turns } from "../testing/mod.ts";

const HISTORY = { "chat:{room}": {} };

const range = (length: number) => Array.from({ length }, (_, i) => i);

/** The publications of a topic, in the order in which the server published them. */
async function received(server: TestServer, topic: string): Promise<unknown[]> {
  const seen: unknown[] = [];
  const session = await server.dial({
    onMessage: (message) => void (message.topic === topic && seen.push(message.data)),
  });
  await session.subscribe(topic);
  return seen;
}

/** Loses the client's session, and each reply that the server sends before that. */
async function lose(server: TestServer, client: Client): Promise<void> {
  const link = server.network.linkOf(client.session!);
  await turns();
  link.disconnect();
}

/** Publishes in a session whose replies are lost. */
async function publishUnheard<T>(
  server: TestServer,
  client: Client,
  publish: () => T,
): Promise<T> {
  await client.whenConnected();
  server.network.linkOf(client.session!).stall("to-client");
  const publishing = publish();
  await lose(server, client);
  return publishing;
}

Deno.test("Client.publish() on a topic with a history arrives once, in order, after a lost session", async () => {
  using time = new FakeTime();
  await using server = testServer({ history: HISTORY, authorize: () => true });
  const seen = await received(server, "chat:a");
  await using client = server.connect();
  const { made } = await publishUnheard(server, client, () => ({
    made: Promise.all(range(100).map((n) => client.publish("chat:a", n))),
  }));
  const later = range(3).map((n) => client.publish("chat:a", 100 + n));
  await passTime(time, 2_000);
  await Promise.all([made, ...later]);
  assertEquals(seen, range(103));
  assertEquals(client.outbox, { messages: 0, bytes: 0 });
});

Deno.test("Client.publish() reports an unknown outcome on a topic without a history, and with at-most-once", async () => {
  using time = new FakeTime();
  await using server = testServer({ history: HISTORY, authorize: () => true });
  const seen = await received(server, "cursor");
  const chat = await received(server, "chat:a");
  await using client = server.connect();
  const { made } = await publishUnheard(server, client, () => ({
    made: Promise.allSettled([
      client.publish("cursor", 1),
      client.publish("chat:a", 1, { delivery: "at-most-once" }),
    ]),
  }));
  await passTime(time, 2_000);
  for (const { reason } of await made as PromiseRejectedResult[]) {
    assertEquals(reason instanceof SessionClosedError, true, String(reason));
  }
  await client.publish("cursor", 2);
  await client.publish("chat:a", 2);
  await turns();
  assertEquals([seen, chat], [[1, 2], [1, 2]]);
});

Deno.test("Client.publish() rejects immediately if no topic of the server has a history", async () => {
  using _time = new FakeTime();
  await using server = testServer({ authorize: () => true });
  await using client = server.connect({ backoff: { firstDelayMs: 60_000 } });
  const { made } = await publishUnheard(server, client, () => ({
    made: assertRejects(() => client.publish("cursor", 1), SessionClosedError),
  }));
  await made;
});

Deno.test("Client.publish() with at-least-once arrives once on a topic without a history", async () => {
  using time = new FakeTime();
  for (const by of ["client", "call"]) {
    await using server = testServer({ authorize: () => true });
    const seen = await received(server, "cursor");
    const delivery = "at-least-once";
    await using client = server.connect(by === "client" ? { delivery } : {});
    const options = by === "call" ? { delivery } as const : {};
    const { made } = await publishUnheard(server, client, () => ({
      made: Promise.all(range(50).map((n) => client.publish("cursor", n, options))),
    }));
    await passTime(time, 2_000);
    await made;
    assertEquals(seen, range(50), by);
  }
});

Deno.test("Client.publish() publishes once if the earlier session is still deciding", async () => {
  using time = new FakeTime();
  const gate = Promise.withResolvers<void>();
  let decisions = 0;
  await using server = testServer({
    history: HISTORY,
    authorize: async (_session, _topic, action) => {
      if (action === "publish" && decisions++ === 0) await gate.promise;
      return true;
    },
  });
  const seen = await received(server, "chat:a");
  await using client = server.connect();
  await client.whenConnected();
  const made = Promise.all(range(3).map((n) => client.publish("chat:a", n)));
  await lose(server, client);
  await passTime(time, 2_000);
  await made;
  gate.resolve();
  await turns();
  assertEquals(seen, range(3));
});

Deno.test("Client.publish() publishes once, in order, during a handover", async () => {
  for (const topic of ["chat:a", "cursor"]) {
    let isSlow = true;
    const gate = Promise.withResolvers<void>();
    await using server = testServer({
      history: HISTORY,
      authorize: async (_session, topic, action) => {
        if (action === "publish" && topic === "chat:a" && isSlow) await gate.promise;
        return true;
      },
    });
    const seen = await received(server, topic);
    await using client = server.connect();
    await client.whenConnected();
    const made = range(3).map((n) => client.publish(topic, n));
    await turns();
    isSlow = false;
    assertEquals(await client.handOver(), true);
    made.push(client.publish(topic, 3));
    await turns();
    gate.resolve();
    await Promise.all(made);
    assertEquals(seen, range(4), topic);
  }
});

Deno.test("Client.publish() is not sent again when brokers may have forgotten its number", async () => {
  using time = new FakeTime();
  await using server = testServer({ history: HISTORY, authorize: () => true });
  const seen = await received(server, "chat:a");
  await using client = server.connect({ backoff: { firstDelayMs: 100_000, maxDelayMs: 100_000 } });
  const { made } = await publishUnheard(server, client, () => ({
    made: assertRejects(() => client.publish("chat:a", 1), SessionClosedError),
  }));
  const waiting = client.publish("chat:a", 2);
  await passTime(time, 200_000);
  await Promise.all([made, waiting]);
  assertEquals(seen, [1, 2]);
});

/** Loses the replies to three publications, and checks that each arrives once, in order. */
async function assertEachArrives(server: TestServer, time: FakeTime): Promise<void> {
  const seen = await received(server, "chat:a");
  await using client = server.connect();
  const { made } = await publishUnheard(server, client, () => ({
    made: Promise.all(range(3).map((n) => client.publish("chat:a", n))),
  }));
  await passTime(time, 2_000);
  await made;
  assertEquals(seen, range(3));
}

Deno.test("Client.publish() loses no publication that failed before a later one, if the replies are lost", async () => {
  using time = new FakeTime();
  let isFaulty = true;
  await using server = testServer({
    history: HISTORY,
    authorize: (_session, _topic, action) => {
      if (action === "publish" && isFaulty) {
        isFaulty = false;
        throw new Error("the database is down");
      }
      return true;
    },
    onError: () => {},
  });
  await assertEachArrives(server, time);
});

Deno.test("Client.publish() loses no publication that was denied before a later one, if the replies are lost", async () => {
  using time = new FakeTime();
  let decisions = 0;
  await using server = testServer({
    history: HISTORY,
    authorize: (_session, _topic, action) => action !== "publish" || decisions++ > 0,
  });
  await assertEachArrives(server, time);
});

Deno.test("Client.publish() does not report a stored publication as unavailable", async () => {
  using time = new FakeTime();
  let decisions = 0;
  await using server = testServer({
    history: HISTORY,
    authorize: (_session, _topic, action) => {
      if (action === "publish" && decisions++ > 0) throw new RequestError("unavailable", "Later");
      return true;
    },
  });
  const seen = await received(server, "chat:a");
  await using client = server.connect();
  const { made } = await publishUnheard(server, client, () => ({
    made: assertRejects(() => client.publish("chat:a", 1), SessionClosedError),
  }));
  await passTime(time, 2_000);
  await made;
  assertEquals(seen, [1]);
});

Deno.test("Client.publish() keeps the order while an earlier session is still deciding", async () => {
  for (const delivery of [undefined, "at-most-once", "at-least-once"] as const) {
    for (const topic of ["chat:a", "cursor"]) {
      let decisions = 0;
      const gate = Promise.withResolvers<void>();
      await using server = testServer({
        history: HISTORY,
        authorize: async (_session, _topic, action) => {
          if (action === "publish" && decisions++ === 0) await gate.promise;
          return true;
        },
      });
      const seen = await received(server, topic);
      await using client = server.connect();
      await client.whenConnected();
      const made = range(2).map((n) => client.publish(topic, n, { delivery }));
      await turns();
      assertEquals(await client.handOver(), true);
      made.push(client.publish(topic, 2, { delivery }));
      await turns();
      gate.resolve();
      await Promise.all(made);
      assertEquals(seen, range(3), `${topic} ${delivery}`);
    }
  }
});

Deno.test("Client.publish() goes on after a failure, without the publications in between", async () => {
  let isFaulty = true;
  await using server = testServer({
    history: HISTORY,
    authorize: (_session, topic, action) => {
      if (action === "publish" && topic === "chat:a" && isFaulty) {
        throw new RequestError("unavailable", "Later");
      }
      return true;
    },
  });
  const seen = await received(server, "chat:a");
  await using client = server.connect();
  await client.whenConnected();
  const failing = range(3).map((n) => client.publish("chat:a", n));
  const other = client.publish("chat:b", 1);
  const failed = await Promise.allSettled(failing);
  isFaulty = false;
  for (const { reason } of failed as PromiseRejectedResult[]) {
    assertEquals((reason as RequestError).failure.code, "unavailable");
  }
  await other;
  await client.publish("chat:a", 3);
  await turns();
  assertEquals(seen, [3]);
});

Deno.test("Client.publish() is received by a subscription that was made before it", async () => {
  await using server = testServer({ history: HISTORY, authorize: () => true });
  await using client = server.connect();
  for (const topic of ["a", "b"]) { // Before the client is connected, and afterwards.
    const subscription = client.subscribe(topic);
    void client.publish(topic, 1);
    for await (const { data } of subscription) {
      assertEquals(data, 1);
      break;
    }
  }
});

Deno.test("Client.publish() rejects again what a lost reply rejected", async () => {
  using time = new FakeTime();
  await using server = testServer({
    history: HISTORY,
    authorize: (_session, topic) => topic !== "chat:secret",
  });
  await using client = server.connect();
  const { made } = await publishUnheard(server, client, () => ({
    made: assertRejects(() => client.publish("chat:secret", 1), RequestError, "may not publish"),
  }));
  await passTime(time, 2_000);
  await made;
});

Deno.test("authorize of one topic delays no publication on another topic", async () => {
  const gate = Promise.withResolvers<void>();
  await using server = testServer({
    history: HISTORY,
    authorize: async (_session, topic) => {
      if (topic === "chat:slow") await gate.promise;
      return true;
    },
  });
  for (const delivery of [undefined, "at-most-once", "at-least-once"] as const) {
    await using client = server.connect({ delivery });
    const slow = client.publish("chat:slow", 1);
    const subscribing = client.subscribe("chat:slow");
    await client.publish("chat:a", 2);
    await client.publish("cursor", 3);
    slow.catch(() => {});
    subscribing.ready.catch(() => {});
  }
  gate.resolve();
});

Deno.test("Client.publish() accepts a thousand publications that no one awaits, in order", async () => {
  await using server = testServer({ history: HISTORY, authorize: () => true });
  const seen = await received(server, "chat:a");
  await using client = server.connect();
  const made = range(1_000).map((n) => client.publish("chat:a", n));
  await assertRejects(() => client.publish("chat:a"), QueueFullError, "the outbox is full (1000");
  await Promise.all(made);
  await turns();
  assertEquals(seen, range(1_000));
});
