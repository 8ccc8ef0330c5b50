/**
 * Other nodes take over the responses of a lost node while store calls fail, wait or lose their
 * replies.
 */
import { assertEquals } from "@std/assert";
import fc from "fast-check";
import { RESCUE_INTERVAL_MS } from "../../streams/logs/stream_logs.ts";
import { RESUME_LEASE_MS } from "../../streams/responses/stored_responses.ts";
import { fail, type Fate, loseReply, pass, replyAfter, waitFor } from "../faulty_broker.ts";
import { type Asked, readAtAnotherNode, ResponseNode, untilIdle } from "./response_nodes.ts";
import { keyOf, maybe } from "./draw.ts";
import { reach } from "./stores.ts";
import { range } from "./outcomes.ts";
import { property } from "./property.ts";

/** Number of slots on each node. */
const PLACES = 2;

/** Latest start of a fault after the first node ends, and its maximum duration, in milliseconds. */
const [LATEST_MS, LASTS_MS] = [RESUME_LEASE_MS + 3_000, 3_000] as const;

/**
 * Maximum time from the end of all faults until a node continues, in milliseconds. If the reply to
 * a takeover was lost, the takeover's lease must expire first. The node that took over then counts
 * as lost, so the next takeover waits again.
 */
const GOES_ON_MS = 2 * (RESUME_LEASE_MS + RESCUE_INTERVAL_MS) + 10_000;

/** Returns the fate of calls that fail until a promise resolves. */
const FATES: Readonly<Record<string, (healed: Promise<void>) => Fate>> = {
  "fail": () => fail,
  "lose their replies": () => loseReply,
  "wait": waitFor,
  "are answered late": replyAfter,
};

property("a response of a lost node continues on exactly one node, even if broker calls fail", {
  cases: fc.record({
    store: fc.constantFrom("memory", "redis", "nats", "sqlite"),
    end: fc.constantFrom("kill", "close", "freeze", "calls that fail"),
    others: fc.integer({ min: 1, max: 2 }),
    faults: fc.array(
      fc.record({
        node: fc.nat(1),
        calls: fc.constantFrom("logs", "logs.read", "logs.append", "logs.overdue"),
        fate: keyOf(FATES),
        atMs: fc.nat(LATEST_MS),
        lastsMs: fc.integer({ min: 1, max: LASTS_MS }),
      }),
      { maxLength: 5 },
    ),
    /**
     * The single call of each node that fails, as the number of earlier calls. Searches are not
     * counted.
     */
    single: maybe(
      fc.record({ before: fc.nat(14), fate: fc.constantFrom("fail", "lose their replies") }),
      2,
    ),
  }),
  regressions: {
    "one call that fails after a takeover ends the response as failed": {
      store: "memory",
      end: "kill",
      others: 1,
      faults: [],
      single: { before: 5, fate: "fail" },
    },
  },
  runs: 3,
  async check(world, { store: name, end, others: count, faults, single }) {
    const store = await world.store(name);
    const start = (name: string, resumes = true) =>
      new ResponseNode(world, { name, store, slots: PLACES, resumes });
    const [first, desk] = [start("first"), start("desk", false)];
    const [read] = await readAtAnotherNode(world, [first, desk], ["answer"]) as [Asked];
    const others = range(1, count).map((i) => start(`node-${i}`));
    await Promise.all(others.map((node) => reach(world, node)));

    const { host, server, broker } = first;
    if (end === "kill") host.kill();
    else if (end === "freeze") host.freeze();
    else if (end === "close") void world.run(host, () => server.close());
    else broker.make("logs", fail);
    for (const { broker } of single === undefined ? [] : others) {
      let calls = 0;
      broker.make("logs.overdue", pass);
      broker.make("logs", (run, call) => {
        return (calls++ === single!.before ? FATES[single!.fate]!(world.pause(0)) : pass)(
          run,
          call,
        );
      });
    }
    for (const { node, calls, fate, atMs, lastsMs } of faults) {
      const { host, broker } = others[node % count]!;
      const healed = Promise.withResolvers<void>();
      world.simulation.after(atMs, () => {
        world.note(`${calls} ${fate} for ${lastsMs} ms`, host.name);
        broker.make(calls as "logs", FATES[fate]!(healed.promise));
      });
      world.simulation.after(atMs + lastsMs, () => {
        broker.make(calls as "logs", pass);
        healed.resolve();
      });
    }
    await world.pause(LATEST_MS + LASTS_MS);
    const holders = () => others.filter(({ generators }) => generators.length > 0);
    await world.until("a takeover", () => holders().length === 1, GOES_ON_MS);
    if (end === "calls that fail") broker.make("logs", pass);
    host.thaw();
    const { length } = read.items;
    await world.until("more items", () => read.items.length > length + 1);
    assertEquals(holders().length, 1);
    const alive = [first, ...others].filter(({ host }) => host.isAlive);
    const taken = () => alive.reduce((sum, { taken }) => sum + taken, 0);
    await world.until("one slot in use", () => taken() === 1);
    await read.cancel();
    await world.until("the end", () => read.outcome !== undefined);
    assertEquals([read.outcome, read.items], ["cancelled", range(0, read.items.length - 1)]);
    for (const node of alive) await untilIdle(world, node);
  },
});
