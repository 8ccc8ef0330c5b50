/**
 * An answer that outlives node after node: those that leave on purpose do not count as lost ones, and
 * do not take back what they offer.
 */
import { RESCUE_INTERVAL_MS } from "../../../../../pubsub/logs/stream_logs.ts";
import { RESUME_LEASE_MS } from "../../../../../server/durable/answers.ts";
import { between, oneOf, shuffled } from "../../chance.ts";
import type { Audit, Expect } from "../audit.ts";
import { range } from "../../../../properties/outcomes.ts";
import { AnswerNode } from "./answer_node.ts";
import { LogMachine } from "./machine.ts";

/** Nodes that leave on purpose, one after the other: more than the most takeovers of lost nodes. */
const LEAVING = 6;

/** Numbers of nodes that are lost in between, of which one is drawn. */
const LOST = [0, 1, 2, 2, 2] as const;

/** Ways of a node to leave: some stay for a while, beside the next one or alone at first. */
const WAYS = ["leaves", "leaves", "drains", "drains", "drains alone"] as const;

/** Longest time of a drain without another node, in milliseconds. */
const ALONE_MS = 1_200;

/** Time between two items, in milliseconds. */
const ITEM_MS = 120;

/** Shortest and longest time for which a node has the answer, in milliseconds. */
const STAY_MS = [50, 400] as const;

/** Pause of the takeover of the second lost node, in milliseconds; of the first one there is none. */
const SECOND_MS = 1_000;

/** Time for the calls of one takeover, and for those of an end, in milliseconds. */
const [CALLS_MS, SLACK_MS] = [900, 2_500];

/** Time between two looks at a takeover, in milliseconds. */
const LOOK_MS = 20;

/** Most answers of a node. */
const PLACES = 2;

/**
 * Hands one answer from node to node.
 *
 * @param audit The audit.
 */
export async function auditHandovers(audit: Audit): Promise<void> {
  const random = audit.chanceOf("handovers");
  const losses = oneOf(random, LOST);
  const ways = range(1, LEAVING + losses).map((i) => i <= losses ? "lost" : oneOf(random, WAYS));
  const ends = shuffled(random, ways);
  const hosts = ["reader", "near", "far", ...range(1, losses).map((i) => `lost-${i}`)];
  const names = hosts.map((name) => `handovers-${name}`);
  await LogMachine.use(audit, names, async ([onReader, ...machines]) => {
    const expect: Expect = (what, ...values) =>
      audit.examine("durable", `${what} of an answer behind [${ends}]`, ...values);
    const stays = machines.slice(0, 2);
    const goes = machines.slice(2);
    const reader = new AnswerNode(onReader!, PLACES, { resumes: false });
    // A node that is lost has a machine of its own; the others come back on the same two.
    const nodeFor = (turn: number) =>
      new AnswerNode(ends[turn] === "lost" ? goes.pop()! : stays[turn % 2]!, PLACES);
    let node = nodeFor(0);
    const id = await node.begin("audited-answer-handed-01", 10_000, { everyMs: ITEM_MS });
    const reading = reader.read(id);
    let lost = 0;
    for (const [turn, end] of ends.entries()) {
      await audit.pause(between(random, ...STAY_MS));
      const leaving = node;
      const isDraining = end === "drains" || end === "drains alone";
      const isLost = end === "lost";
      if (end === "drains alone") {
        await drain(leaving);
        await audit.pause(ALONE_MS * random());
        if (random() < 0.5) await leaving.machine.run(() => leaving.streams.search());
        await audit.pause(CALLS_MS);
        expect(`answers that node ${turn} took back`, 0, leaving.answers.running);
      }
      const next = nodeFor(turn + 1);
      if (end === "drains") await drain(leaving);
      if (isLost) leaving.machine.end();
      else if (!isDraining) await leaving.close();
      if (isLost) lost++;
      node = next;
      // A node that starts behind the offer finds the answer by a search.
      const searchMs = isLost || end === "drains alone" ? RESCUE_INTERVAL_MS : 0;
      const dueMs = audit.nowMs + (isLost ? RESUME_LEASE_MS : 0) + searchMs + SLACK_MS;
      while (node.answers.running === 0 && audit.nowMs < dueMs) await audit.pause(LOOK_MS);
      expect(`takeovers ${turn + 1}`, 1, node.answers.running);
      const fromMs = audit.nowMs;
      // The pause comes of the lost nodes so far, also if the last one left on purpose.
      const pauseMs = lost < 2 ? 0 : SECOND_MS;
      const byMs = fromMs + pauseMs + CALLS_MS;
      while (node.generators.length === 0 && audit.nowMs < byMs) await audit.pause(LOOK_MS);
      const tookMs = Math.round(audit.nowMs - fromMs);
      expect(`generators ${turn + 1} after ${tookMs} ms`, 1, node.generators.length);
      const isEarly = tookMs < pauseMs - 2 * LOOK_MS;
      expect(`early generator ${turn + 1} after ${tookMs} ms`, false, isEarly);
      if (isDraining) {
        expect(`answers that node ${turn} took back`, 0, leaving.answers.running);
        await leaving.close();
      }
      if (node.generators.length === 0) break;
    }
    await node.machine.run(() => node.node.cancel(id, "enough"));
    const text = await audit.inTime(reading, SLACK_MS, "no end in time");
    const [items, outcome] = text.split(" ");
    const counted = items!.split(",").filter((item) => item !== "").map(Number);
    expect("items", range(0, counted.length - 1), counted);
    expect("end", "cancelled", outcome);
    await audit.until(() => node.answers.running === 0, SLACK_MS);
    expect("places that are taken", 0, node.answers.running);
    await Promise.all([node.close(), reader.close()]);
  }, audit.engine.apart!("handovers"));
}

/** Lets a node offer its answers to others, and stay. */
function drain({ machine, answers }: AnswerNode): Promise<void> {
  return machine.run(() => answers.drain({ hasOthers: true, withinMs: SLACK_MS }));
}
