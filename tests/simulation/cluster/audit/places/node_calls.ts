/** Calls among nodes: each has the reply or the failure that is documented, and ends at both nodes. */
import { NodeCalls } from "../../../../../pubsub/nodes/node_calls.ts";
import { pause } from "../../../../../base/wait.ts";
import { between, oneOf } from "../../chance.ts";
import type { Audit } from "../audit.ts";
import { type UserNode, UserNodes } from "../users/user_nodes.ts";
import { auditEarlyCalls } from "./early_calls.ts";
import { codeOf, makeHalfCalls } from "./half_calls.ts";

/** Most bytes of a request and of a reply. */
const MAX_BYTES = 300_000;

/** Sizes of requests, in bytes: of one part, of exactly one full part, of several, and the largest one. */
const SIZES = [0, 40, 70_000, 196_608, 250_000, MAX_BYTES] as const;

/** Number of nodes: calls of two nodes may meet at the third one. */
const NODES = 3;

/** Fewest and most calls of a round, and the rounds. */
const [CALLS, ROUNDS] = [[3, 12], 3] as const;

/** Share of rounds in which all calls are for one node, by the others in turn. */
const MEETS = 0.6;

/** Longest time between the beginnings of the calls of a round, in milliseconds. */
const SPREAD_MS = 40;

/** Longest work of a handler, that of a late one, and that of one whose caller gives up, in milliseconds. */
const [WORK_MS, LATE_MS, LONG_MS] = [80, 500, 5_000];

/** Time of a call, and of one that gives up, in milliseconds. */
const [CALL_MS, SHORT_MS] = [20_000, 150];

/** Time for messages under way, in milliseconds. */
const TRIP_MS = 80;

/** Longest time of a call that asks no other node, in milliseconds. */
const AT_ONCE_MS = 50;

/** Shortest and longest time until a node counts as silent, in milliseconds (`NodeCalls`, Silent). */
const SILENT_MS = [1_500, 5_500] as const;

/** Ways of one call, with the outcome and whether the handler hears of the end. */
const WAYS = [
  { way: "replies", outcome: "reply", isAborted: false },
  { way: "replies", outcome: "reply", isAborted: false },
  { way: "replies late", outcome: "reply", isAborted: false },
  { way: "replies late", outcome: "reply", isAborted: false },
  { way: "fails", outcome: "failed", isAborted: false },
  { way: "answers too much", outcome: "failed", isAborted: false },
  { way: "takes too long", outcome: "TimeoutError", isAborted: true },
  { way: "is given up", outcome: "DOMException", isAborted: true },
  { way: "asks too much", outcome: "RangeError", isAborted: undefined },
  { way: "asks a stranger", outcome: "gone", isAborted: undefined },
] as const;

/** Work that ends behind each trouble, in milliseconds. */
const BEHIND_MS = 7_000;

/**
 * Troubles while a call waits, with the outcome and the time until then, in milliseconds. `beside` is
 * the outcome of the call of a third node to the same node.
 */
const TROUBLES = [
  { trouble: "node killed", outcome: "silent", beside: "silent", afterMs: SILENT_MS },
  { trouble: "node frozen", outcome: "silent", beside: "silent", afterMs: SILENT_MS },
  { trouble: "node closed", outcome: "gone", beside: "gone", afterMs: [0, 1_000] },
  { trouble: "caller closed", outcome: "gone", beside: "reply", afterMs: [0, TRIP_MS] },
  { trouble: "node of the caller closed", outcome: "gone", beside: "reply", afterMs: [0, 1_000] },
  { trouble: "engine away", outcome: "lost", beside: "lost", afterMs: [0, 3_000] },
] as const;

/** A request, as the handler reads one. */
interface Work {
  readonly way: string;
  readonly id: number;
  readonly ms: number;
}

/** A node with calls. */
interface CallingNode {
  readonly node: UserNode;
  readonly calls: NodeCalls;
}

/** A handler that began. */
interface Begun {
  /** Id of the calling node, as the handler learns. */
  readonly from: string;
  readonly signal: AbortSignal;
}

/** Nodes that call each other. */
class Callers {
  readonly audit: Audit;
  readonly random: () => number;
  readonly nodes: UserNodes;
  /** Handlers that began, by id of the work. */
  readonly begun = new Map<number, Begun>();
  readonly ends: readonly CallingNode[];
  #count = 0;

  constructor(audit: Audit) {
    this.audit = audit;
    this.random = audit.random;
    this.nodes = new UserNodes(audit, "callers", {}, { count: NODES });
    this.ends = this.nodes.all.map((node) => {
      const { runtime } = node.host;
      const calls = new NodeCalls({
        nodes: node.server.nodes!,
        name: "audit",
        maxBytes: MAX_BYTES,
        onError() {},
        answer: async (data, { from, signal }) => {
          const { way, id, ms } = JSON.parse(new TextDecoder().decode(data)) as Work;
          this.begun.set(id, { from, signal });
          await pause(runtime, ms, signal);
          if (way === "fails") throw new Error("planned failure");
          return way === "answers too much" ? new Uint8Array(MAX_BYTES + 1) : data.toReversed();
        },
      });
      return { node, calls };
    });
  }

  /** Makes some calls at about the same time, and examines these. */
  async round(): Promise<void> {
    const { random, audit } = this;
    const [met, ...callers] = this.#shuffled();
    const meets = random() < MEETS;
    const ways = Array.from({ length: Math.round(between(random, ...CALLS)) }, (_, i) => {
      const [to, from] = meets ? [met, callers[i % callers.length]!] : this.#shuffled();
      return { way: oneOf(random, WAYS), from, to, delayMs: SPREAD_MS * random() };
    });
    const isAtOnce = random() < 0.5;
    await Promise.all(ways.map(async ({ way, from, to, delayMs }) => {
      if (!isAtOnce) await audit.pause(delayMs);
      await this.call(way, from, to);
    }));
    this.examineRest();
  }

  /** Makes one call, and examines the outcome at both nodes. */
  async call(
    { way, outcome, isAborted }: typeof WAYS[number],
    from: CallingNode,
    to: CallingNode,
  ): Promise<void> {
    const { random, audit } = this;
    const isShort = isAborted === true;
    const ms = isShort ? LONG_MS : (way === "replies late" ? LATE_MS : WORK_MS) * random();
    const size = way === "asks too much" ? MAX_BYTES + 1 : oneOf(random, SIZES);
    const { id, data } = this.#work(way, ms, size);
    const stop = new AbortController();
    const stranger = way === "asks a stranger";
    const calling = from.calls.call(stranger ? "nobody" : to.node.server.nodes!.id, data, {
      timeoutMs: way === "takes too long" ? SHORT_MS : CALL_MS,
      signal: stop.signal,
    });
    if (way === "is given up") void audit.pause(SHORT_MS).then(() => stop.abort());
    const reply = data.toReversed();
    const received = await outcomeOf(calling, reply);
    const about = `a call of ${size} bytes that ${way}`;
    this.expect(`outcome of ${about}`, outcome, received);
    await audit.pause(TRIP_MS);
    const begun = this.begun.get(id);
    this.expect(`signal of ${about}`, isAborted, begun?.signal.aborted);
    const caller = isAborted === undefined ? undefined : from.node.server.nodes!.id;
    this.expect(`caller of ${about}`, caller, begun?.from);
  }

  /** Waits for a reply that does not come, in trouble, beside a call of a third node. */
  async wait(
    { trouble, outcome, beside, afterMs: [least, most] }: typeof TROUBLES[number],
  ): Promise<void> {
    const { audit, random, nodes } = this;
    const [to, from, other] = this.#shuffled();
    const ask = (node: CallingNode, ms: number, asked = to) => {
      const { id, data } = this.#work("waits", ms, oneOf(random, SIZES));
      const calling = node.calls.call(asked.node.server.nodes!.id, data, { timeoutMs: CALL_MS });
      return { id, ending: outcomeOf(calling, data.toReversed()) };
    };
    const { id, ending } = ask(from, CALL_MS);
    const second = ask(other, BEHIND_MS);
    // A node in trouble ends no call between the others.
    const isApart = trouble.startsWith("node ") && !trouble.includes("caller");
    const apart = isApart ? ask(other, BEHIND_MS, from) : undefined;
    await audit.pause(TRIP_MS * (1 + random()));
    const beganMs = audit.nowMs;
    if (trouble === "node killed") to.node.host.kill();
    if (trouble === "node frozen") to.node.host.freeze();
    if (trouble === "node closed") void to.node.server.close();
    if (trouble === "caller closed") void from.calls[Symbol.asyncDispose]();
    if (trouble === "node of the caller closed") {
      void from.calls[Symbol.asyncDispose]();
      void from.node.server.close();
    }
    if (trouble === "engine away") {
      nodes.engine.goAway();
      await audit.pause(between(random, 0, 1_000));
      nodes.engine.comeBack();
    }
    const received = await audit.inTime(ending, CALL_MS / 2, "none");
    const tookMs = audit.nowMs - beganMs;
    this.expect(`outcome of a wait (${trouble})`, outcome, received);
    const isInTime = tookMs >= least && tookMs <= most;
    this.expect(`end of a wait (${trouble}) after ${Math.round(tookMs)} ms`, true, isInTime);
    if (trouble === "node closed") {
      const askedMs = audit.nowMs;
      const late = await audit.inTime(ask(other, 0).ending, CALL_MS / 2, "none");
      const isAtOnce = audit.nowMs - askedMs <= AT_ONCE_MS;
      this.expect("outcome of a call behind a farewell, at once", ["gone", true], [late, isAtOnce]);
    }
    const third = await audit.inTime(second.ending, CALL_MS / 2, "none");
    this.expect(`outcome of a wait beside another one (${trouble})`, beside, third);
    if (apart !== undefined) {
      const reply = await audit.inTime(apart.ending, CALL_MS / 2, "none");
      this.expect(`outcome of a call between other nodes (${trouble})`, "reply", reply);
    }
    if (trouble === "node frozen") to.node.host.thaw();
    if (trouble === "node of the caller closed") {
      this.expect(`signal of a wait (${trouble})`, true, this.begun.get(id)?.signal.aborted);
    }
    if (beside === "reply") {
      const isAborted = this.begun.get(second.id)?.signal.aborted;
      this.expect(`signal of a wait beside another one (${trouble})`, false, isAborted);
    }
    await audit.pause(TRIP_MS);
    this.expect(`calls of the caller that wait (${trouble})`, 0, from.calls.waiting);
  }

  /** Examines that all calls are over. */
  examineRest(): void {
    for (const { calls, node } of this.ends) {
      const { waiting, answering, ignored, gatheredBytes } = calls;
      this.expect(
        `calls at ${node.host.name}`,
        { waiting: 0, answering: 0, ignored: 0, gatheredBytes: 0 },
        { waiting, answering, ignored, gatheredBytes },
      );
    }
  }

  /** Ends calls and nodes. */
  async close(): Promise<void> {
    for (const { calls, node } of this.ends) {
      if (node.host.isAlive) await calls[Symbol.asyncDispose]();
    }
    await this.nodes.close();
  }

  expect(what: string, expected: unknown, received: unknown): void {
    this.audit.examine("places", what, expected, received);
  }

  /** The nodes in any order, behind a first one. */
  #shuffled(
    first = oneOf(this.random, this.ends),
  ): readonly [CallingNode, CallingNode, CallingNode] {
    const [one, other] = this.ends.filter((end) => end !== first) as [CallingNode, CallingNode];
    return this.random() < 0.5 ? [first, one, other] : [first, other, one];
  }

  /** Makes a request of a size, which is larger if the instructions need that. */
  #work(way: string, ms: number, size: number): { readonly id: number; readonly data: Uint8Array } {
    const work: Work = { way, id: this.#count++, ms };
    const data = new TextEncoder().encode(JSON.stringify(work).padEnd(size));
    return { id: work.id, data };
  }
}

/** Names the outcome of a call: the expected reply, another one, or the code of a failure. */
async function outcomeOf(calling: Promise<Uint8Array>, reply: Uint8Array): Promise<string> {
  try {
    const data = await calling;
    const isSame = data.length === reply.length && data.every((byte, i) => byte === reply[i]);
    return isSame ? "reply" : "another reply";
  } catch (error) {
    return codeOf(error);
  }
}

/**
 * Calls among three nodes, with replies, failures and ends of all kinds.
 *
 * @param audit The audit.
 */
export async function auditNodeCalls(audit: Audit): Promise<void> {
  await Promise.all([auditCalls(audit), auditEarlyCalls(audit)]);
}

/** Lets nodes call each other that know each other. */
async function auditCalls(audit: Audit): Promise<void> {
  const callers = new Callers(audit);
  await callers.nodes.ready();
  await Promise.all(callers.ends.map(({ calls }) => calls.ready));
  for (let round = 0; round < ROUNDS; round++) {
    await callers.round();
  }
  const [from, to] = callers.ends;
  await makeHalfCalls(audit, from!.node, to!.node);
  await callers.wait(oneOf(callers.random, TROUBLES));
  await callers.close();
}
