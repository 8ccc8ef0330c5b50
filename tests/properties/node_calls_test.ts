/** Calls between nodes. Each call receives a reply or fails, and leaks nothing on either node. */
import { assert, assertEquals } from "@std/assert";
import fc from "fast-check";
import { Quotas } from "../../base/quotas/shares.ts";
import { pause } from "../../base/wait.ts";
import { NodeCallError, NodeCalls } from "../../pubsub/nodes/node_calls.ts";
import type { Nodes } from "../../pubsub/nodes/nodes.ts";
import type { Host } from "../simulator/mod.ts";
import { keyOf } from "./draw.ts";
import { BEAT_MS, KNOWN_MS, meet, startNodes, TRIP_MS } from "./nodes.ts";
import { FailingStore } from "./failing_store.ts";
import { property } from "./property.ts";
import type { World } from "./world.ts";

const NODES = 3;

/** Maximum size of a request or reply in bytes. A part has 196,608 bytes. */
const MAX_BYTES = 300_000;

/** Timeout of a call, and of a call that times out before the reply, in milliseconds. */
const [CALL_MS, SHORT_MS] = [20_000, 150] as const;

/** Duration of a handler, and of a handler whose caller does not wait for it, in milliseconds. */
const [WORK_MS, LONG_MS] = [60, 7_000] as const;

/** Kinds of calls, with their outcomes. */
const CALLS = {
  "is replied to": { outcome: "reply", ms: WORK_MS },
  "fails": { outcome: "failed", ms: WORK_MS },
  "is replied to with too much": { outcome: "failed", ms: WORK_MS },
  "takes too long": { outcome: "TimeoutError", ms: LONG_MS },
  "is given up": { outcome: "DOMException", ms: LONG_MS },
  "asks too much": { outcome: "RangeError", ms: 0 },
  "asks a stranger": { outcome: "gone", ms: 0 },
} as const;

/** Faults of the first node during calls, with the outcomes of calls to that node and from it. */
const FAULTS: Readonly<
  Record<string, {
    readonly to: string;
    /** The outcome is absent if the caller cannot know it. */
    readonly from?: string;
    /** The outcome of calls between the other nodes. */
    readonly others?: string;
    /** Maximum time until that outcome, in milliseconds. */
    readonly withinMs: number;
  }>
> = {
  none: { to: "reply", from: "reply", withinMs: LONG_MS + TRIP_MS },
  killed: { to: "silent", withinMs: 2 * BEAT_MS + 600 },
  frozen: { to: "silent", withinMs: 2 * BEAT_MS + 600 },
  closed: { to: "gone", from: "gone", withinMs: TRIP_MS },
  "without the broker": {
    to: "lost",
    from: "lost",
    others: "lost",
    withinMs: KNOWN_MS,
  },
};

const size = fc.constantFrom(0, 40, 70_000, 196_608, 250_000, MAX_BYTES);

/** The caller and its distance to the called node. */
const ends = { from: fc.nat(NODES - 1), step: fc.integer({ min: 1, max: NODES - 1 }) };

/** Instructions for the handler. */
interface Work {
  readonly id: number;
  readonly name: string;
  readonly ms: number;
}

/** A node with calls. */
interface Caller {
  readonly host: Host;
  readonly nodes: Nodes;
  readonly calls: NodeCalls;
  readonly quotas: Quotas;
}

/** A call that a handler has started. */
interface Begun {
  readonly id: number;
  readonly from: string;
  readonly signal: AbortSignal;
}

property("a call between nodes returns its reply or its failure, and leaves nothing behind", {
  cases: fc.record({
    calls: fc.array(
      fc.record({
        ...ends,
        name: keyOf(CALLS),
        size,
        atMs: fc.constantFrom(0, 0, 20, 100),
      }),
      { maxLength: 12, size: "max" },
    ),
    /**
     * Time from the start for which the first node is frozen. It makes no calls during this time.
     */
    frozenMs: fc.constantFrom(0, 150, 700),
  }),
  async check(world, { calls, frozenMs }) {
    const { callers, begun } = await startCallers(world, frozenMs);
    await Promise.all(calls.map(async ({ from: drawn, step, name, size, atMs }, id) => {
      await world.pause(atMs);
      const from = frozenMs > 0 ? Math.max(1, drawn) : drawn;
      const [caller, called] = [callers[from]!, callers[(from + step) % NODES]!];
      const data = workOf({ id, name, ms: CALLS[name].ms }, size);
      const stop = new AbortController();
      const bytes = name === "asks too much" ? new Uint8Array(MAX_BYTES + 1) : data;
      const to = name === "asks a stranger" ? "stranger" : called.nodes.id;
      const calling = world.run(caller.host, () => {
        const timeoutMs = name === "takes too long" ? SHORT_MS : CALL_MS;
        if (name === "is given up") {
          caller.host.runtime.setTimeout(() => stop.abort(), SHORT_MS);
        }
        return outcomeOf(caller.calls.call(to, bytes, { timeoutMs, signal: stop.signal }), data);
      });
      assertEquals(await world.inTime("the end of a call", calling), CALLS[name].outcome);
      await world.pause(frozenMs + TRIP_MS);
      const handled = begun.filter((one) => one.id === id);
      // A call that ended before the other node was running may not arrive.
      const reaches = CALLS[name].ms > 0 && (CALLS[name].ms < LONG_MS || handled.length > 0);
      assertEquals(handled.map((one) => one.from), reaches ? [caller.nodes.id] : []);
      const isAborted = CALLS[name].ms === LONG_MS;
      assertEquals(handled.map(({ signal }) => signal.aborted), handled.map(() => isAborted));
    }));
    assertRest(callers);
    assertEquals(callers.map(({ calls }) => calls.ignored), callers.map(() => 0));
  },
});

property("a node that dies, freezes or loses the broker fails only its own calls", {
  cases: fc.record({
    fault: keyOf(FAULTS),
    calls: fc.array(fc.record({ ...ends, size }), { maxLength: 6 }),
  }),
  async check(world, { fault, calls }) {
    const { callers, begun, store } = await startCallers(world);
    const { to, from, others = "reply", withinMs } = FAULTS[fault]!;
    const [first] = callers as [Caller];
    const ending = calls.map(({ from, step, size }, id) => {
      const [caller, called] = [callers[from]!, callers[(from + step) % NODES]!];
      const data = workOf({ id, name: "is replied to", ms: LONG_MS }, size);
      const outcome = outcomeOf(
        caller.calls.call(called.nodes.id, data, { timeoutMs: CALL_MS }),
        data,
      );
      return { id, caller, called, outcome };
    });
    await world.pause(2 * TRIP_MS);
    assertEquals(begun.length, calls.length);
    const startMs = world.nowMs;
    if (fault === "killed") first.host.kill({ power: true });
    if (fault === "frozen") first.host.freeze();
    if (fault === "closed") void first.calls[Symbol.asyncDispose]();
    if (fault === "closed") void first.nodes.close();
    if (fault === "without the broker") {
      store.goAway();
      world.simulation.after(500, () => store.comeBack());
    }
    await Promise.all(ending.map(async ({ id, caller, called, outcome }) => {
      const expected = caller === first ? from : called === first ? to : others;
      if (expected === undefined) return;
      const received = await world.inTime(`the end of call ${id}`, outcome, CALL_MS / 2);
      assertEquals(received, expected, `${caller.host.name} to ${called.host.name}`);
      if (received !== "reply") assert(world.nowMs - startMs <= withinMs, "late failure");
    }));
    first.host.thaw();
    await world.pause(LONG_MS + KNOWN_MS);
    const isEnded = fault === "killed" || fault === "closed";
    for (const { id, caller } of ending) {
      const { signal } = begun.find((one) => one.id === id)!;
      if (caller === first && isEnded) assert(signal.aborted, "work for a node that ended");
      if (caller !== first && fault === "none") assert(!signal.aborted);
    }
    assertRest(callers.filter(({ host }) => host.isAlive));
  },
});

/**
 * Starts nodes that respond calls according to the instructions in the request. The first node may
 * be frozen at first.
 */
async function startCallers(world: World, frozenMs = 0) {
  const store = new FailingStore(world);
  const begun: Begun[] = [];
  const all = startNodes(world, NODES, (host) => store.broker(host));
  const callers: readonly Caller[] = all.map(({ host, nodes }) => {
    const quotas = new Quotas(host.runtime);
    const calls = new NodeCalls({
      nodes,
      name: "test",
      maxBytes: MAX_BYTES,
      quotas,
      onError() {},
      respond: async (data, { from, signal }) => {
        const { id, name, ms } = JSON.parse(new TextDecoder().decode(data)) as Work;
        begun.push({ id, from, signal });
        await pause(host.runtime, ms, signal);
        if (name === "fails") throw new Error("planned");
        return name === "is replied to with too much"
          ? new Uint8Array(MAX_BYTES + 1)
          : data.toReversed();
      },
    });
    world.onEnd(() => host.isAlive ? calls[Symbol.asyncDispose]() : undefined);
    return { host, nodes, calls, quotas };
  });
  if (frozenMs > 0) {
    callers[0]!.host.freeze();
    world.simulation.after(frozenMs, () => callers[0]!.host.thaw());
  } else await meet(world, all);
  return { callers, begun, store };
}

/** Creates a request of a given size. It is at least as large as its instructions. */
function workOf(work: Work, size: number): Uint8Array {
  return new TextEncoder().encode(JSON.stringify(work).padEnd(size));
}

/**
 * Returns the name of a call's outcome, which is the expected reply, another reply, or a failure.
 */
async function outcomeOf(calling: Promise<Uint8Array>, request: Uint8Array): Promise<string> {
  try {
    const reply = await calling;
    const isRight = reply.length === request.length &&
      reply.every((byte, i) => byte === request.at(-1 - i));
    return isRight ? "reply" : "another reply";
  } catch (error) {
    return error instanceof NodeCallError ? error.code : (error as Error).constructor.name;
  }
}

/** Expects no pending calls. */
function assertRest(callers: readonly Caller[]): void {
  for (const { calls: { waiting, running, gatheredBytes }, quotas } of callers) {
    const used = Object.values(quotas.stats).map(({ taken }) => taken);
    assertEquals([waiting, running, gatheredBytes, ...used], [0, 0, 0, 0, 0]);
  }
}
