import { assertEquals, assertRejects } from "@std/assert";
import { BrokerError } from "../mod.ts";
import type { Publication } from "../pubsub/mod.ts";
import {
  fail,
  FaultyStore,
  hang,
  loseReply,
  pass,
  repeat,
  replyAfter,
  waitFor,
} from "./faulty_broker.ts";
import { settlesSoon, turns } from "./waiting.ts";

const BOUNDS = { size: 100, ttlMs: 60_000, bytes: 100_000 };
const READING = { bounds: BOUNDS, maxMessages: 100, maxBytes: 100_000 };

/** Two brokers of one store, and the publications on a topic that the first one receives. */
function bench() {
  const store = new FaultyStore();
  const [broker, other] = [store.connect(), store.connect()];
  const heard: string[] = [];
  broker.subscribe("t", ({ payload }) => void heard.push(`${payload}`), { history: BOUNDS });
  const append = (payload: string, by = broker) =>
    by.history!.append({ topic: "t", payload }, { bounds: BOUNDS });
  const kept = async () => {
    const { publications } = await other.history!.read("t", READING);
    return publications.map(({ payload }) => payload);
  };
  return { store, broker, other, heard, append, kept };
}

Deno.test("FaultyBroker.make() decides the effect of a call, and what its caller receives", async () => {
  const { broker, append, kept } = bench();
  broker.make("history.append", fail);
  await assertRejects(() => append("failed"), BrokerError);
  broker.make("history.append", hang);
  assertEquals(await settlesSoon(append("hung")), false);
  assertEquals(await kept(), []);
  broker.make("history.append", loseReply);
  await assertRejects(() => append("unanswered"), BrokerError);
  broker.make("history.append", repeat);
  await append("twice");
  assertEquals(await kept(), ["unanswered", "twice", "twice"]);
  const gate = Promise.withResolvers<void>();
  broker.make("history.append", waitFor(gate.promise));
  const waiting = append("waited");
  broker.make("history.append", replyAfter(gate.promise));
  const replied = append("replied late");
  await turns();
  assertEquals((await kept()).slice(3), ["replied late"]);
  gate.resolve();
  await Promise.all([waiting, replied]);
  assertEquals((await kept()).slice(3), ["replied late", "waited"]);
});

Deno.test("FaultyBroker.make() prefers operation to part, part to all, and node to store", async () => {
  const { store, broker, other } = bench();
  const state = broker.store;
  store.make("all", fail);
  for (const { store } of [broker, other]) await assertRejects(() => store!.newest("k", 1));
  broker.make("store.newest", pass);
  assertEquals(await state!.newest("k", 1), -1);
  await assertRejects(() => state!.claims("s"));
  broker.make("store", pass);
  broker.make("store.newest", fail);
  assertEquals(await state!.claims("s"), []);
  await assertRejects(() => state!.newest("k", 1));
  await assertRejects(() => other.logs!.overdue({ limit: 1 }));
  assertEquals(broker.callsOf("store.claims"), [["s"], ["s"]]);
});

Deno.test("FaultyBroker.onDelivery() loses, repeats and delays publications of the store", async () => {
  const { broker, other, heard, append } = bench();
  const held: Publication[] = [];
  broker.onDelivery = (one, deliver) => {
    if (one.payload === "held") held.push(one);
    else for (let copies = one.payload === "twice" ? 2 : 0; copies > 0; copies--) deliver(one);
  };
  for (const payload of ["lost", "held", "twice"]) await append(payload, other);
  assertEquals(heard, ["twice", "twice"]);
  for (const one of held) broker.deliver(one);
  assertEquals(heard.at(-1), "held");
});

Deno.test("FaultyStore disconnects a node, becomes unreachable for all, and loses all data", async () => {
  const { store, broker, other, heard, append, kept } = bench();
  let interruptions = 0;
  broker.subscribe("t", () => {}, { history: BOUNDS, onInterrupted: () => void interruptions++ });
  broker.cut();
  await append("missed", other);
  await assertRejects(() => append("never sent"), BrokerError);
  broker.mend();
  store.goAway();
  assertEquals(broker.status.current.name, "interrupted");
  await assertRejects(kept, BrokerError);
  store.comeBack();
  assertEquals({ name: broker.status.current.name, interruptions, heard }, {
    name: "connected",
    interruptions: 1,
    heard: [],
  });
  store.lose();
  await append("first of a new life", other);
  assertEquals([await kept(), heard], [["first of a new life"], ["first of a new life"]]);
});

Deno.test("FaultyBroker without a part acts like the broker of a store that lacks the feature", () => {
  const { history, logs } = new FaultyStore().connect({ without: ["logs"] });
  assertEquals([history === undefined, logs], [false, undefined]);
});
