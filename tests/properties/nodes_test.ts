/**
 * Nodes on one broker, with questions to all nodes and with nodes that miss each other's messages.
 */
import { assert, assertEquals } from "@std/assert";
import fc from "fast-check";
import { pause } from "../../base/wait.ts";
import type { Broker, Publication } from "../../pubsub/broker.ts";
import { keyOf } from "./draw.ts";
import { type BareNode, BEAT_MS, GONE_MS, KNOWN_MS, meet, startNodes, TRIP_MS } from "./nodes.ts";
import { FailingStore } from "./failing_store.ts";
import { property } from "./property.ts";
import type { World } from "./world.ts";

/** Timeout of a question, and duration of a late reply, in milliseconds. */
const [ASK_MS, LATE_MS] = [700, 5_000] as const;

/** Maximum number of concurrent questions from a node, and from all nodes to one node. */
const MOST_QUESTIONS = 1_000;

/** Replies of a node. Only "answers" is counted. */
const REPLIES = ["answers", "fails", "says what no message takes", "is late"] as const;

/**
 * Faults of a node that is replying to a question, with the time until the question ends in
 * milliseconds.
 */
const FAULTS = {
  none: { isComplete: false, withinMs: [ASK_MS, ASK_MS] },
  closed: { isComplete: true, withinMs: [0, TRIP_MS] },
  killed: { isComplete: true, withinMs: [GONE_MS / 2, KNOWN_MS] },
  frozen: { isComplete: true, withinMs: [GONE_MS / 2, KNOWN_MS] },
  "asker closed": { isComplete: false, withinMs: [0, TRIP_MS] },
} as const;

/** A question with the reply of each node, by the node's number. */
interface Question {
  readonly id: number;
  readonly replies: readonly string[];
  readonly workMs: number;
}

const nodeCount = fc.constantFrom(2, 3, 4);

property("a question to all nodes returns the replies in time, and reports a missing one", {
  cases: fc.record({
    nodeCount,
    questions: fc.array(
      fc.record({
        asker: fc.nat(3),
        replies: fc.array(fc.constantFrom(REPLIES[0], REPLIES[0], ...REPLIES), {
          minLength: 4,
          maxLength: 4,
        }),
        workMs: fc.constantFrom(0, 100, 400),
        atMs: fc.constantFrom(0, 0, 50, 500),
      }),
      { maxLength: 8 },
    ),
  }),
  async check(world, { nodeCount, questions }) {
    const all = await startAsking(world, nodeCount);
    await Promise.all(questions.map(async ({ asker, atMs, ...question }, id) => {
      const others = all.filter((_, i) => i !== asker % nodeCount);
      const right = others.filter((node) => question.replies[all.indexOf(node)] === "answers");
      const isLate = others.some((node) => question.replies[all.indexOf(node)] === "is late");
      await world.pause(atMs);
      const { replies, isComplete, tookMs } = await ask(world, all[asker % nodeCount]!, {
        id,
        ...question,
      });
      assertEquals(replies, right.map(({ nodes }) => `${nodes.id} ${id}`).toSorted());
      assertEquals(isComplete, right.length === others.length);
      assertTime(tookMs, isLate ? [ASK_MS, ASK_MS] : [0, question.workMs]);
    }));
  },
});

property("a question does not wait for a node that is gone, and ends when its own node closes", {
  cases: fc.record({
    nodeCount,
    fault: keyOf(FAULTS),
    asker: fc.nat(3),
    step: fc.integer({ min: 1, max: 3 }),
  }),
  async check(world, { nodeCount, fault, asker: drawn, step }) {
    const all = await startAsking(world, nodeCount);
    const asker = all[drawn % nodeCount]!;
    const busy = all[(drawn + 1 + step % (nodeCount - 1)) % nodeCount]!;
    const { isComplete, withinMs } = FAULTS[fault];
    const timeoutMs = fault === "none" ? ASK_MS : LATE_MS;
    const replies = all.map((node) => node === busy ? "is late" : "answers");
    const asking = ask(world, asker, { id: 0, replies, workMs: 0 }, timeoutMs);
    await world.pause(TRIP_MS);
    if (fault === "closed") void busy.nodes.close();
    if (fault === "killed") busy.host.kill({ power: true });
    if (fault === "frozen") busy.host.freeze();
    if (fault === "asker closed") void asker.nodes.close();
    const { tookMs, ...asked } = await asking;
    const rest = all.filter((node) => node !== asker && node !== busy);
    const expected = rest.map(({ nodes }) => `${nodes.id} 0`).toSorted();
    assertEquals(asked, { replies: expected, isComplete });
    assertTime(tookMs, withinMs);
    if (fault !== "asker closed") return;
    const { replies: none, isComplete: isOver } = await asker.nodes.ask("test");
    assertEquals([none, isOver], [[], false]);
  },
});

property("a node asks up to a thousand questions at once, and as many again once they end", {
  cases: fc.array(fc.constantFrom("fails", "says what no message takes", "is late"), {
    minLength: 1,
    maxLength: 3,
  }),
  runs: 2,
  async check(world, rounds) {
    const all = await startAsking(world, 3);
    const [asker, , third] = all as readonly [BareNode, BareNode, BareNode];
    const prompt = { id: 0, replies: REPLIES.map(() => "answers"), workMs: 0 };
    for (const reply of rounds) {
      const replies = ["", reply, "answers"];
      const asking = Array.from(
        { length: MOST_QUESTIONS },
        (_, id) => ask(world, asker, { id, replies, workMs: 0 }),
      );
      await world.pause(TRIP_MS);
      if (reply === "is late") {
        const { replies, isComplete } = await asker.nodes.ask("test", prompt);
        assertEquals([replies, isComplete], [[], false]);
        // The late node cannot accept a question from another node either.
        const asked = await ask(world, third, prompt);
        assertEquals(asked.replies, [`${asker.nodes.id} 0`]);
        await world.pause(LATE_MS);
      }
      for (const { isComplete } of await Promise.all(asking)) assert(!isComplete);
      const { isComplete } = await ask(world, asker, prompt);
      assert(isComplete, "a question after a thousand");
    }
  },
});

/** The messages that a node misses. */
type Misses = "none" | "all" | "its own";

property("a node that misses messages declares no other node gone, and reports its return once", {
  cases: fc.record({
    nodeCount: fc.constantFrom(2, 3),
    rounds: fc.array(
      fc.record({
        fault: fc.constantFrom("none", "misses all", "misses its own", "frozen"),
        /** The fate of another node in the meantime. */
        other: fc.constantFrom("stays", "stays", "closes", "dies"),
        forMs: fc.constantFrom(2 * BEAT_MS + 110, GONE_MS, 3 * GONE_MS),
      }),
      { minLength: 1, maxLength: 2 },
    ),
  }),
  async check(world, { nodeCount, rounds }) {
    const store = new FailingStore(world);
    const misses = new Map<string, Misses>();
    const all = startNodes(
      world,
      nodeCount,
      (host) =>
        listening(store.broker(host), ({ payload }) => {
          const what = misses.get(host.name) ?? "none";
          const { id } = all.find((node) => node.host === host)!.nodes;
          return what === "none" || what === "its own" && !`${payload}`.includes(id);
        }),
    );
    const events = all.map(({ nodes }) => {
      const own: string[] = [];
      nodes.subscribe((event) => {
        own.push(event.type === "restored" ? "restored" : `${event.type} ${event.node.id}`);
      });
      return own;
    });
    await meet(world, all);
    let left = [...all.keys()];
    for (const { fault, other: act, forMs } of rounds) {
      if (left.length < 2) return;
      const [first, second] = left as [number, number];
      const [node, other] = [all[first]!, all[second]!];
      // A node knows the other nodes once it has listened long enough.
      await world.pause(KNOWN_MS + BEAT_MS);
      for (const own of events) own.length = 0;
      assert(node.nodes.isGone("unknown"));
      const isDeaf = fault.startsWith("misses");
      if (isDeaf) misses.set(node.host.name, fault === "misses all" ? "all" : "its own");
      if (fault === "frozen") node.host.freeze();
      const firstMs = isDeaf ? 2 * BEAT_MS + 50 : forMs / 2;
      await world.pause(firstMs);
      if (act === "closes") void other.nodes.close();
      if (act === "dies") other.host.kill({ power: true });
      const leftMs = world.nowMs;
      await world.pause(forMs - firstMs);
      if (isDeaf) {
        assertEquals([events[first]!.includes("restored"), node.nodes.isGone("unknown")], [
          false,
          false,
        ]);
      }
      if (fault === "frozen") node.host.thaw();
      misses.clear();
      const healedMs = world.nowMs;
      if (fault !== "none") {
        await world.pause(BEAT_MS + TRIP_MS);
        assertEquals(events[first]!.filter((event) => event === "restored"), ["restored"]);
        assertEquals(node.nodes.isGone("unknown"), false);
      }
      if (fault === "misses all") {
        // All timeouts start over, even for a node whose farewell was lost.
        await world.pause(healedMs + GONE_MS - BEAT_MS / 2 - TRIP_MS - world.nowMs);
        assertEquals(events[first]!.filter((event) => event.startsWith("leave")), []);
      }
      const byMs = Math.max(healedMs + BEAT_MS + TRIP_MS, leftMs) + KNOWN_MS + BEAT_MS;
      await world.pause(Math.max(0, byMs - world.nowMs));
      const leaves = act === "stays" ? [] : [`leave ${other.nodes.id}`];
      const expected = fault === "none" ? leaves : [...leaves, "restored"];
      assertEquals(events[first]!.toSorted(), expected);
      if (fault !== "frozen" || forMs < GONE_MS / 2) {
        for (const i of left.slice(act === "stays" ? 1 : 2)) assertEquals(events[i], leaves);
      }
      assert(node.nodes.isGone("unknown"));
      // The next round uses another node.
      left = left.filter((i) => act === "stays" || i !== second).toReversed();
    }
  },
});

/** Starts nodes that reply as the question instructs them. */
async function startAsking(world: World, count: number): Promise<readonly BareNode[]> {
  world.expectErrors(
    /^A handler or listener of nodes failed: (Error: planned|.* serialize a BigInt)$/,
  );
  const store = new FailingStore(world);
  const all = startNodes(world, count, (host) => store.broker(host));
  for (const [i, { host, nodes }] of all.entries()) {
    nodes.handle("test", async (data) => {
      const { id, replies, workMs } = data as Question;
      const reply = replies[i];
      await pause(host.runtime, reply === "is late" ? LATE_MS : workMs);
      if (reply === "fails") throw new Error("planned");
      return reply === "says what no message takes" ? 1n : id;
    });
  }
  await meet(world, all);
  return all;
}

/** Asks all other nodes. */
async function ask(world: World, { nodes }: BareNode, data: Question, timeoutMs: number = ASK_MS) {
  const startMs = world.nowMs;
  const { replies, isComplete } = await nodes.ask("test", data, { timeoutMs });
  return {
    replies: replies.map(({ node, data }) => `${node} ${data}`).toSorted(),
    isComplete,
    tookMs: world.nowMs - startMs,
  };
}

/** Expects the question to end within a time range, plus the time that the messages take. */
function assertTime(ms: number, [least, most]: readonly [number, number]): void {
  assert(ms >= least - 1 && ms <= most + TRIP_MS, `${ms} ms, not ${least} to ${most}`);
}

/** Creates a broker whose subscriptions receive only some publications. */
function listening(broker: Broker, hears: (publication: Publication) => boolean): Broker {
  const subscribe: Broker["subscribe"] = (topic, listener, options) =>
    broker.subscribe(topic, (publication) => {
      if (hears(publication)) listener(publication);
    }, options);
  return new Proxy(broker, {
    get: (target, name) => {
      if (name === "subscribe") return subscribe;
      const value = Reflect.get(target, name, target);
      return typeof value === "function" ? value.bind(target) : value;
    },
  });
}
