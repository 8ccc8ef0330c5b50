/** Calls to a node that has just started, some of which are given up before the node is known. */
import { NodeCalls } from "../../../../../pubsub/nodes/node_calls.ts";
import { pause } from "../../../../../base/wait.ts";
import { between, oneOf } from "../../chance.ts";
import type { Audit, Expect } from "../audit.ts";
import { type UserNode, UserNodes } from "../users/user_nodes.ts";
import { codeOf } from "./half_calls.ts";

/** Fewest and most calls. */
const CALLS = [4, 9] as const;

/** Time in which the called node does not run, in milliseconds: calls wait for a second. */
const SILENT_MS = [150, 800] as const;

/** Time for messages under way, longest work of a handler, and that of a call that ends, in milliseconds. */
const [TRIP_MS, WORK_MS, LONG_MS] = [80, 60, 4_000];

/** Longest time of a call, in milliseconds. */
const CALL_MS = 20_000;

/** Time until a node that never comes counts as gone, in milliseconds. */
const GONE_MS = [900, 1_200] as const;

/** Ways of a call, with the outcome. */
const WAYS = [
  { way: "stays", outcome: "reply" },
  { way: "ends by its signal", outcome: "DOMException" },
  { way: "ends by its time", outcome: "TimeoutError" },
] as const;

/**
 * Lets a node call another one, which starts at the same time and does not run yet. A call that was
 * given up by then never reaches the other node; all others do, once.
 *
 * @param audit The audit.
 */
export async function auditEarlyCalls(audit: Audit): Promise<void> {
  const random = audit.chanceOf("early");
  const expect: Expect = (...outcome) => audit.examine("places", ...outcome);
  const nodes = new UserNodes(audit, "early-callers", {});
  const begun: number[] = [];
  const serve = ({ host: { runtime }, server }: UserNode) =>
    new NodeCalls({
      nodes: server.nodes!,
      name: "early",
      onError() {},
      answer: async (data, { signal }) => {
        begun.push(data[0]!);
        await pause(runtime, data[1] === 0 ? LONG_MS : WORK_MS * random(), signal);
        return data;
      },
    });
  const [one, other] = nodes.all as readonly [UserNode, UserNode];
  const [calls, answers] = [serve(one), serve(other)];
  other.host.freeze();
  const silentMs = between(random, ...SILENT_MS);
  const beganMs = audit.nowMs;
  const thawed = audit.pause(silentMs).then(() => other.host.thaw());
  const call = (to: string, data: number[], options: Parameters<NodeCalls["call"]>[2]) =>
    calls.call(to, new Uint8Array(data), options).then(() => "reply", codeOf);
  const strange = call("nobody", [0, 0], { timeoutMs: CALL_MS }).then((outcome) => {
    const tookMs = audit.nowMs - beganMs;
    expect("outcome of an early call to nobody", "gone", outcome);
    expect("time of an early call to nobody", GONE_MS.join(" to "), within(tookMs, GONE_MS));
  });
  const count = Math.round(between(random, ...CALLS));
  const ways = Array.from({ length: count }, () => oneOf(random, WAYS));
  await Promise.all(ways.map(async ({ way, outcome }, n) => {
    await audit.pause(between(random, 0, silentMs / 2));
    const stop = new AbortController();
    const leftMs = Math.floor(between(random, 1, silentMs / 2 - TRIP_MS / 2));
    if (way === "ends by its signal") void audit.pause(leftMs).then(() => stop.abort());
    const received = await call(other.server.nodes!.id, [n, way === "stays" ? 1 : 0], {
      timeoutMs: way === "ends by its time" ? leftMs : CALL_MS,
      signal: stop.signal,
    });
    expect(`outcome of an early call that ${way}`, outcome, received);
  }));
  await Promise.all([thawed, strange]);
  await audit.pause(TRIP_MS + WORK_MS);
  const due = ways.flatMap(({ way }, n) => way === "stays" ? [n] : []);
  // A call that was given up may be on the way if the other node was known before.
  const reached = begun.filter((n) => due.includes(n)).toSorted((a, b) => a - b);
  expect("early calls that reached a node", due, reached);
  for (const { waiting, answering, ignored } of [calls, answers]) {
    expect("early calls under way", [0, 0, 0], [waiting, answering, ignored]);
  }
  for (const one of [calls, answers]) await one[Symbol.asyncDispose]();
  await nodes.close();
}

/** Shows a time: as the bounds, if it lies within these. */
function within(ms: number, bounds: readonly [number, number]): string {
  return ms >= bounds[0] && ms <= bounds[1] ? bounds.join(" to ") : `${ms}`;
}
