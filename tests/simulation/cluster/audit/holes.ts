/** Holes: publications that a full send queue dropped, or that a node missed, come again. */
import type { OverflowPolicy } from "../../../../session/queue/turn.ts";
import { HIGH_WATER_MARK } from "../../../../session/queue/turn.ts";
import { SimulatedServer } from "../../../../testing/simulation/programs.ts";
import type { Audit } from "./audit.ts";
import { auditMissed } from "./histories/missed.ts";
import { range, read, type Reading } from "./history.ts";

/** Policies that drop publications, each on topics of its own. */
const POLICIES = ["drop-oldest", "drop-newest"] as const satisfies readonly OverflowPolicy[];

/** Room of the send queue, in messages. */
const ROOM = 4;

/** Publications of each topic in one burst. */
const BURST = 3 * ROOM;

/** Size of the publication that fills the buffer of the connection. */
const FILL = "x".repeat(HIGH_WATER_MARK);

/** Silence of the way to the client during a burst, in milliseconds. */
const BLOCKED_MS = 50;

/**
 * Reads topics behind a queue with little room, and topics whose publications a node misses.
 *
 * @param audit The audit.
 */
export async function auditHoles(audit: Audit): Promise<void> {
  await Promise.all([auditQueues(audit), auditMissed(audit)]);
}

/** Reads two topics behind a queue with little room, on a server without other nodes. */
async function auditQueues(audit: Audit): Promise<void> {
  const host = audit.host("holes");
  const { server } = new SimulatedServer(audit.network, host, () => ({
    authorize: () => true,
    history: { "{policy}:{name}": {} },
    session: {
      sendQueue: {
        maxMessages: ROOM,
        policy: (topic) => POLICIES.find((policy) => topic.startsWith(policy)) ?? "close",
      },
    },
  }));
  await Promise.all(POLICIES.map(async (policy) => {
    const client = audit.connect(policy, host, { token: undefined, onMessage() {} });
    const [one, other] = [`${policy}:1`, `${policy}:2`]
      .map((topic) => read(client, topic)) as [Reading, Reading];
    await audit.until(() => server.topics.subscribers(other.subscription.topic).length > 0);
    let count = 0;
    /** Publishes in one turn while nothing reaches the client. */
    const burst = async (readers: readonly Reading[]): Promise<void> => {
      const client = audit.host(policy);
      audit.network.change(host, client, { isBlocked: true });
      server.publish(readers[0]!.subscription.topic, { n: ++count, text: FILL });
      await audit.pause(1);
      for (let i = 0; i < BURST; i++) {
        count++;
        for (const { subscription: { topic } } of readers) server.publish(topic, { n: count });
      }
      await audit.pause(BLOCKED_MS);
      audit.network.change(host, client, { isBlocked: false });
    };
    /** The last number of a reader comes. */
    const comes = ({ got }: Reading) => audit.until(() => got.at(-1) === count, 2_000);

    await burst([one, other]);
    await Promise.all([comes(one), comes(other)]);
    audit.examine("history", `dropped publications (${policy})`, range(1, count), one.got);
    audit.examine("history", `dropped beside these (${policy})`, range(2, count), other.got);
    await burst([one]);
    await comes(one);
    audit.examine("history", `publications dropped later (${policy})`, range(1, count), one.got);
    audit.examine("history", `recoveries (${policy})`, [], [
      ...one.recoveries,
      ...other.recoveries,
    ]);
    await client.close();
  }));
  await server.close();
}
