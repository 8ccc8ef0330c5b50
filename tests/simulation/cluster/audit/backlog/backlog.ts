/** Backlogs: full queues, slow readers, streams and answers left early, and rates, on servers of their own. */
import type { Audit } from "../audit.ts";
import { auditAnswers } from "./answers.ts";
import { auditPosts } from "./posts.ts";
import { auditRates } from "./rates.ts";
import { auditReplays } from "./replays.ts";
import { auditSends } from "./sends.ts";
import { auditCredit } from "./streams.ts";

/** All parts. */
const PARTS = [
  auditSends,
  auditAnswers,
  auditReplays,
  auditPosts,
  auditRates,
  auditCredit,
] as const;

/** Number of parts in one run, for the time that these take. */
const PARTS_AT_ONCE = 3;

/**
 * Examines backlogs: some parts in each run.
 *
 * @param audit The audit.
 */
export async function auditBacklog(audit: Audit): Promise<void> {
  const random = audit.chanceOf("backlog");
  const left = [...PARTS];
  const drawn = Array.from(
    { length: PARTS_AT_ONCE },
    () => left.splice(Math.floor(left.length * random()), 1)[0]!,
  );
  await Promise.all(drawn.map((part) => part(audit, audit.chanceOf(part.name))));
}
