/** Users with sessions on several nodes: messages, places, rates, and lists of members. */
import type { Audit } from "../audit.ts";
import { auditAccounts } from "./accounts.ts";
import { auditCrowds } from "./crowds.ts";
import { auditDoors } from "./doors.ts";
import { auditTabs } from "./tabs.ts";

/** A part, and the share of plans that have it. */
interface DrawnPart {
  readonly part: (audit: Audit) => Promise<void>;
  readonly share: number;
}

/** All parts: a plan has some of these. */
const PARTS: readonly DrawnPart[] = [
  { part: auditTabs, share: 0.35 },
  { part: auditDoors, share: 0.25 },
  { part: auditCrowds, share: 0.35 },
  { part: auditAccounts, share: 0.3 },
];

/**
 * Examines what nodes know about users.
 *
 * @param audit The audit.
 */
export async function auditUsers(audit: Audit): Promise<void> {
  const random = audit.chanceOf("users");
  const drawn = PARTS.filter(({ share }) => random() < share);
  await Promise.all(drawn.map(({ part }) => part(audit)));
}
