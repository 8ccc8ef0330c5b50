import { assertEquals, assertRejects } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { platformRuntime } from "../base/runtime.ts";
import { BrokerError } from "../errors.ts";
import { internals } from "../session/session.ts";
import { passTime, turns } from "../tests/waiting.ts";
import { Client } from "./clients_fixture.ts";
import { ScriptedStore } from "./scripted_broker_fixture.ts";
import { Topics } from "./topics.ts";

/** A node whose store confirms subscriptions when the test says so. */
function unconfirmed() {
  const store = new ScriptedStore();
  const broker = store.node();
  const ready = Promise.withResolvers<void>();
  broker.ready = ready.promise;
  const runtime = Object.assign(platformRuntime(), { monotonic: () => Date.now() });
  const topics = new Topics({ broker, runtime, history: { t: {} } });
  return { store, broker, ready, topics };
}

/** A topic with a history, and one without. */
const TOPICS = ["t", "plain"];

/** The current value of a promise; `"pending"` if it is not settled. */
async function valueOf(promise: Promise<unknown>): Promise<unknown> {
  await turns();
  return await Promise.race([promise.catch((error) => error), Promise.resolve("pending")]);
}

for (const topic of TOPICS) {
  const test = (name: string, fn: (node: ReturnType<typeof unconfirmed>) => Promise<void>) => {
    Deno.test(`Topics.subscribe() to the topic "${topic}" ${name}`, async () => {
      const node = unconfirmed();
      await using _topics = node.topics;
      await fn(node);
    });
  };

  test("takes effect immediately, and resolves once the broker has confirmed", async ({ ready, topics }) => {
    await using client = new Client(topics.flusher);
    const inForce = topics.subscribe(client.session, topic);
    assertEquals(topics.has(client.session, topic), true);
    assertEquals(await valueOf(inForce), "pending");
    ready.resolve();
    assertEquals(await inForce, true);
    assertEquals(await topics.subscribe(client.session, topic), true);
  });

  test("resolves to false when the session leaves or closes first", async ({ topics }) => {
    await using leaving = new Client(topics.flusher);
    const left = topics.subscribe(leaving.session, topic);
    topics.unsubscribe(leaving.session, topic);
    assertEquals(await left, false);
    await using closing = new Client(topics.flusher);
    const closed = topics.subscribe(closing.session, topic);
    await closing.session.close();
    assertEquals(await closed, false);
    assertEquals(await topics.subscribe(closing.session, topic), false);
  });

  test("reports a broker that does not confirm, and rejects", async ({ ready, topics }) => {
    using time = new FakeTime();
    const errors: unknown[] = [];
    const onError = (error: unknown) => void errors.push(error);
    await using client = new Client(topics.flusher);
    Object.assign(client.session[internals].settings, { handlers: { onError } });
    // The first call is not awaited: its rejection is handled.
    topics.subscribe(client.session, topic);
    const inForce = topics.subscribe(client.session, topic);
    await passTime(time, 10_000);
    const error = await assertRejects(() => inForce, BrokerError);
    assertEquals(
      error.message,
      `Cannot subscribe: the broker has not confirmed "${topic}" within 10000 ms`,
    );
    assertEquals(errors.length, 2);
    assertEquals(topics.has(client.session, topic), true);
    ready.resolve();
    await turns();
    assertEquals(await topics.subscribe(client.session, topic), true);
  });

  test("replies to a client once the broker has confirmed", async ({ ready, topics }) => {
    await using client = new Client(topics.flusher);
    client.subscribe(topics, topic, { isRequested: true });
    await turns();
    assertEquals(client.take(), []);
    ready.resolve();
    await turns();
    assertEquals(client.take(), [topic === "t" ? { epoch: "e1", offset: 0, head: 0 } : {}]);
  });

  test("replies before the first publication, which proves the confirmation", async (node) => {
    const { store, broker, topics } = node;
    await using client = new Client(topics.flusher);
    client.subscribe(topics, topic, { isRequested: true });
    await turns();
    if (topic === "t") store.publish(1);
    else broker.deliver({ topic, payload: JSON.stringify({ topic, data: 1 }) });
    await turns();
    const [reply, message] = client.take();
    assertEquals(reply, topic === "t" ? { epoch: "e1", offset: 1, head: 1 } : {});
    if (topic === "plain") assertEquals(message, [1, undefined, undefined]);
  });

  test("replies `unavailable` to a client if the broker does not confirm", async (node) => {
    using time = new FakeTime();
    const { ready, topics } = node;
    await using client = new Client(topics.flusher);
    client.subscribe(topics, topic, { isRequested: true });
    await passTime(time, 10_000);
    assertEquals(client.take()[0], { reason: "unavailable" });
    ready.resolve();
    await passTime(time, 1_000);
    const gap = client.take().at(-1);
    if (topic === "plain") assertEquals(gap, { gap: topic, reason: "interrupted" });
  });
}

Deno.test("Topics.subscribe() starts at the call, not at the confirmation", async () => {
  const { store, broker, ready, topics } = unconfirmed();
  await using _topics = topics;
  store.publish("before the call");
  await using client = new Client(topics.flusher);
  const inForce = topics.subscribe(client.session, "t");
  await turns();
  // Another node publishes, and the store does not send this node anything yet.
  broker.onDelivery = () => {};
  store.publish("after the call");
  await turns();
  assertEquals(client.takeData(), []);
  ready.resolve();
  assertEquals(await inForce, true);
  await turns();
  assertEquals(client.takeData(), ["after the call"]);
});
