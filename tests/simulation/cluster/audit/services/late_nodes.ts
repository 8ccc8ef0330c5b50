/** An inspector beside a node that answers late, too late, and in time again. */
import { oneOf } from "../../chance.ts";
import type { Audit } from "../audit.ts";
import { UserNodes } from "../users/user_nodes.ts";
import { askInspector, type List } from "./inspections.ts";

/** Wait for the answer of a node, and wait while the last one did not come in time, in milliseconds. */
const [ANSWER_MS, LATE_MS] = [1_500, 250] as const;

/** Times for which a node does not run: below both waits, between these, and above both, in milliseconds. */
const [SHORT_MS, LONG_MS, TOO_LONG_MS] = [[0, 60, 130], [400, 800, 1_200], [1_700]] as const;

/** Times of the questions in a row: each kind of answer comes behind each other one. */
const STALLS_MS = [
  SHORT_MS,
  LONG_MS,
  TOO_LONG_MS,
  LONG_MS,
  SHORT_MS,
  LONG_MS,
  TOO_LONG_MS,
  SHORT_MS,
]
  .map((times): readonly number[] => times);

/** Time between two questions, in milliseconds. */
const BETWEEN_MS = 300;

/** Time for messages on their way, in milliseconds. */
const SLACK_MS = 250;

/** Name of the machines. */
const NAME = "late-nodes";

/** The answer of one node, as far as it matters. */
interface Told {
  readonly node: { readonly isSelf: boolean };
  readonly failure?: string;
}

/**
 * Asks an inspector for the figures of two nodes, while one of these stands still for a while.
 *
 * @param audit The audit.
 */
export async function auditLateNodes(audit: Audit): Promise<void> {
  const random = audit.chanceOf(NAME);
  const nodes = new UserNodes(audit, NAME, { inspector: { authorize: () => true } });
  await nodes.ready();
  await audit.pause(BETWEEN_MS);
  const [asked, slow] = nodes.all;
  const hosts = { viewer: audit.host(`${NAME}-viewer`), host: asked!.host };
  let isLate = false;
  const first = Math.floor(STALLS_MS.length * random());
  // The first question opens the connection.
  await askInspector<List>(audit, hosts, "sessions", {});
  for (let question = first; question < first + STALLS_MS.length; question++) {
    const stallMs = oneOf(random, STALLS_MS[question % STALLS_MS.length]!);
    const isList = random() < 0.4;
    const waitMs: number = isLate ? LATE_MS : ANSWER_MS;
    const isDue = stallMs < waitMs;
    const beganMs = audit.nowMs;
    if (stallMs > 0) slow!.host.freeze();
    const thawing = audit.pause(stallMs).then(() => slow!.host.thaw());
    let failure: string | undefined;
    if (isList) {
      const { missing } = await askInspector<List>(audit, hosts, "sessions", {});
      failure = missing.length > 0 ? "late" : undefined;
    } else {
      const { nodes: all } = await askInspector<{ readonly nodes: readonly Told[] }>(
        audit,
        hosts,
        "overview",
        {},
      );
      failure = all.find(({ node }) => !node.isSelf)?.failure;
    }
    const tookMs = audit.nowMs - beganMs;
    const about = `${isLate ? "behind a late answer" : "behind one in time"}, in an inspector`;
    const what = `node that stands still for ${stallMs} ms ${about}`;
    audit.examine("figures", what, isDue ? "in time" : "late", failure ?? "in time");
    const dueMs = isDue ? stallMs : waitMs;
    const isInTime = tookMs >= dueMs && tookMs <= dueMs + SLACK_MS;
    audit.examine("figures", `time of a question to a ${what}`, true, isInTime || tookMs);
    isLate = !isDue;
    await thawing;
    await audit.pause(BETWEEN_MS);
  }
  await nodes.close();
}
