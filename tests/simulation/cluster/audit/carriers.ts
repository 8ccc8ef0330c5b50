/** Sessions over HTTP behind a balancer, whose requests and answers get lost. */
import type { Host } from "../../../../testing/simulation/host.ts";
import { type Audit, outcomeOf } from "./audit.ts";
import { range, read } from "./history.ts";

/** Topic of the audit, one of `audit-many:`. */
const TOPIC = "audit-many:http";

/** Publications of one round. */
const COUNT = 3;

/** Time between two publications, in milliseconds. */
const BETWEEN_MS = 20;

/** Time without an answer before all connections end, in milliseconds. */
const SILENCE_MS = 60;

/** Longest wait for all publications of a round, in milliseconds. */
const ROUND_MS = 8_000;

/** A round: the way that is silent from some time on. */
interface Round {
  readonly lost: "nothing" | "answers" | "requests" | "both";
  /** Time behind the publications, in milliseconds. */
  readonly afterMs: number;
}

/** Times at which answers get lost: between the end of a request and the arrival of its answer. */
const AFTER_MS = [20, 45, 70, 95, 120] as const;

/** All rounds. */
const ROUNDS: readonly Round[] = [
  { lost: "nothing", afterMs: 0 },
  ...AFTER_MS.map((afterMs) => ({ lost: "answers", afterMs }) as const),
  { lost: "requests", afterMs: 0 },
  { lost: "both", afterMs: 50 },
];

/** Time before the last round, longer than failures in a row may last, in milliseconds. */
const REST_MS = 31_000;

/** Conditions of a way on which nothing arrives. */
const BLOCKED = { isBlocked: true } as const;

/** Conditions of a way on which all arrives. */
const OPEN = { isBlocked: false } as const;

/**
 * Publishes over HTTP and reads the same topic, while requests and answers get lost: each publication
 * comes once, in order. Each request goes to the next node, which is rarely that of the session.
 *
 * @param audit The audit.
 */
export async function auditCarriers(audit: Audit): Promise<void> {
  const { network } = audit;
  const nodes = audit.nodes.map(({ host }) => host);
  const front = audit.host("balancer");
  network.front(front, nodes);
  const host = audit.host("carrier");
  const client = audit.connect("carrier", front, { transports: ["http"], onMessage() {} });
  // An engine that has evicted keys cannot tell whether a new history is the first of its topic.
  await audit.node(0).server.topics.append(TOPIC, { n: 0 });
  const { subscription, got, recoveries } = read(client, TOPIC);
  await audit.until(() => subscription.status.current === "subscribed");
  const { session } = client;
  let count = 0;
  for (const [i, { lost, afterMs }] of ROUNDS.entries()) {
    // Failures long ago do not count.
    if (i === ROUNDS.length - 1) await audit.pause(REST_MS);
    const ways: (readonly [Host, Host])[] = [];
    if (lost === "answers" || lost === "both") ways.push([front, host]);
    if (lost === "requests" || lost === "both") ways.push([host, front]);
    const outcomes: Promise<string>[] = [];
    const expected: number[] = [];
    for (let n = 0; n < COUNT; n++) {
      expected.push(++count);
      const published = client.publish(TOPIC, { n: count }, { timeoutMs: ROUND_MS });
      outcomes.push(outcomeOf(published));
      await audit.pause(BETWEEN_MS);
    }
    await audit.pause(afterMs);
    for (const [from, to] of ways) network.change(from, to, BLOCKED);
    await audit.pause(SILENCE_MS);
    // In each second round the nodes learn nothing, and go on to answer.
    if (ways.length > 0) audit.cut(host, i % 2 === 0 ? "server" : false);
    for (const [from, to] of ways) network.change(from, to, OPEN);
    const all = new Set(await Promise.all(outcomes));
    await audit.until(() => got.length >= count, ROUND_MS);
    const what = `${lost} lost after ${afterMs} ms`;
    audit.examine("carriers", `publications over HTTP, ${what}`, ["fulfilled"], [...all]);
    audit.examine("carriers", `read over HTTP, ${what}`, expected, got.slice(-COUNT));
  }
  audit.examine("carriers", "all over HTTP", range(1, count), got);
  const told = recoveries.map(({ reason, recovered }) => reason ?? recovered);
  audit.examine("carriers", "recoveries over HTTP", [], told);
  audit.examine(
    "carriers",
    "session over HTTP",
    session?.id ?? "none",
    client.session?.id ?? "gone",
  );
  await client.close();
}
