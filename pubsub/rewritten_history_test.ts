/** Histories whose store lost a publication, and stored another one with the same offset. */
import { assert, assertEquals } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import type { HistoryPosition, SubscribeReply } from "../session/wire/recovery.ts";
import { turns, until } from "../tests/waiting.ts";
import { Random } from "../tests/random.ts";
import { Client, type Line } from "./clients_fixture.ts";
import { ScriptedStore } from "./scripted_broker_fixture.ts";
import { pass, replyAfter } from "../tests/faulty_broker.ts";
import { Topics } from "./topics.ts";

const HISTORY = { t: { size: 1_000_000 } };

/**
 * Reads the reply to a client's position, from a node that follows the topic only for that client.
 */
async function ask(
  topics: Topics,
  client: Client,
  since: HistoryPosition,
): Promise<SubscribeReply> {
  client.lines.length = 0;
  const reply = () => client.lines.find(({ topic }) => topic === "reply");
  client.subscribe(topics, "t", { since });
  const { data } = await until(reply);
  topics.leave(client.session, "t");
  return data as SubscribeReply;
}

Deno.test("Clients whose publication was rewritten below the head, 10,000 times, are never reported recovered", async () => {
  const store = new ScriptedStore();
  store.hasTags = true;
  await using topics = new Topics({ broker: store.node(), history: HISTORY });
  await using client = new Client(topics.flusher);
  const random = new Random(13);
  for (let i = 0; i < 300; i++) store.publish("the same");
  const told = { recovered: 0, newEpoch: 0, recoveredWithoutTag: 0, recoveredUnharmed: 0 };
  for (let i = 0; i < 10_000; i++) {
    const offset = 1 + random.below(store.head - 1);
    const since = { epoch: store.epoch, offset, tag: store.tagAt(offset) };
    store.rewrite(offset);
    const reply = await ask(topics, client, since);
    if (reply.recovered) told.recovered++;
    if (reply.reason === "new-epoch") told.newEpoch++;
    // Now and then a correct position, to show that the test notices a recovery, and that only
    // wrong positions are rejected.
    if (i % 50 > 0) continue;
    const { recovered: isBlind } = await ask(topics, client, { ...since, tag: undefined });
    if (isBlind) told.recoveredWithoutTag++;
    const now = { ...since, tag: store.tagAt(offset) };
    if ((await ask(topics, client, now)).recovered) told.recoveredUnharmed++;
  }
  assertEquals(told, {
    recovered: 0,
    newEpoch: 10_000,
    recoveredWithoutTag: 200,
    recoveredUnharmed: 200,
  });
});

Deno.test("TopicFeed reports another history at its members' position, even with the same name", async () => {
  using time = new FakeTime();
  const store = new ScriptedStore();
  store.hasTags = true;
  const broker = store.node();
  await using topics = new Topics({ broker, history: HISTORY });
  await using client = new Client(topics.flusher);
  client.subscribe(topics);
  await turns();
  for (const data of ["a", "b"]) store.publish(data);
  await turns();
  assertEquals(client.take().slice(1), [["a", 1, 0], ["b", 2, 1]]);
  store.rewrite(2);
  broker.onDelivery = () => {};
  store.publish("c");
  broker.interrupt();
  await time.tickAsync(100);
  await turns();
  // All known publications of the other history follow, from the oldest.
  const gap = { gap: "t", reason: "new-epoch", epoch: "e1", offset: 0 };
  assertEquals(client.take(), [gap, ["a", 1, 0], ["b", 2, 1], ["c", 3, 2]]);
  broker.interrupt();
  await time.tickAsync(100);
  await turns();
  assertEquals(client.take(), []);
});

Deno.test("TopicFeed reports another history to a session with a running replay", async () => {
  const store = new ScriptedStore();
  store.hasTags = true;
  const broker = store.node();
  await using topics = new Topics({ broker, history: HISTORY });
  await using keeper = new Client(topics.flusher);
  await using slow = new Client(topics.flusher, { sendQueue: { maxMessages: 20 } });
  for (let i = 1; i <= 100; i++) store.publish("x".repeat(3_000));
  keeper.subscribe(topics);
  await turns();
  slow.pair.link.stall("to-client");
  slow.subscribe(topics, "t", { last: 100 });
  await turns();
  store.rewrite(100);
  broker.interrupt();
  await turns();
  slow.pair.link.resume("to-client");
  const lines: Line[] = slow.lines;
  const gapAt = await until(() => {
    const at = lines.findIndex(({ gap }) => gap !== undefined);
    return at >= 0 && lines.length > at + 100 && at;
  });
  assertEquals([lines[gapAt]!.reason, lines[gapAt]!.offset], ["new-epoch", 0]);
  assert(gapAt > 0 && gapAt < 60, `the gap is line ${gapAt}`);
  const after = lines.slice(gapAt + 1).map(({ offset }) => offset);
  assertEquals(after, Array.from({ length: 100 }, (_, i) => i + 1));
});

Deno.test("Replay does not trust a position whose publication has expired, nor one before all kept ones", async () => {
  using time = new FakeTime();
  const store = new ScriptedStore();
  store.hasTags = true;
  store.step = 2;
  const broker = store.node();
  Object.assign(broker.history!, { remembersMs: 3_600_000 });
  await using topics = new Topics({ broker, history: HISTORY });
  const askAnew = async (since: HistoryPosition) => {
    await using client = new Client(topics.flusher);
    return await ask(topics, client, since);
  };
  const empty = await askAnew({ epoch: "e1", offset: 0 });
  assertEquals(empty.recovered, true);
  // A position before the first publication carries the time when it was sent.
  const start = { epoch: "e1", offset: 0, tag: empty.tag };
  assert(empty.tag!.startsWith("~"));
  for (let i = 0; i < 300; i++) store.publish(i);
  await time.tickAsync(1_700_000);
  assertEquals((await askAnew(start)).recovered, true);
  await time.tickAsync(200_000);
  assertEquals((await askAnew(start)).reason, "too-old");
  // There never was a publication between two offsets.
  for (const offset of [3, 501]) {
    const since = { epoch: "e1", offset, tag: "abcdef" };
    assertEquals((await askAnew(since)).reason, "new-epoch");
  }
});

Deno.test("Replay of the newest publications sends none from a history that started over under the same name meanwhile", async () => {
  const store = new ScriptedStore();
  store.hasTags = true;
  const broker = store.node();
  await using topics = new Topics({ broker, history: HISTORY });
  await using follower = new Client(topics.flusher);
  await using client = new Client(topics.flusher);
  for (let i = 0; i < 200; i++) store.publish("old");
  follower.subscribe(topics);
  await turns(40);
  const gate = Promise.withResolvers<void>();
  let reads = 0;
  const late = replyAfter(gate.promise);
  broker.make("history.read", (run, call) => (++reads === 1 ? late : pass)(run, call));
  client.subscribe(topics, "t", { last: 200 });
  await turns(40);
  broker.onDelivery = () => {};
  store.beginEpoch("e1", 200);
  for (let i = 0; i < 200; i++) store.publish("new");
  broker.interrupt();
  await turns(40);
  gate.resolve();
  await turns(200);
  assertEquals(client.takeData(), Array(200).fill("new"));
});
