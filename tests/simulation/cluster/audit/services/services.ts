/** The audit of services over HTTP: some parts in each run. */
import type { Audit } from "../audit.ts";
import { auditDrains } from "./drains.ts";
import { auditKeys } from "./keys.ts";
import { auditOperations } from "./operations.ts";
import { auditRefusals } from "./refusals.ts";
import { auditStates } from "./streams.ts";

/** A part, and the share of plans that have it. */
interface DrawnPart {
  readonly part: (audit: Audit) => Promise<void>;
  readonly share: number;
}

/** All parts: a plan has some, as each needs servers of its own. */
const PARTS: readonly DrawnPart[] = [
  { part: auditDrains, share: 0.25 },
  { part: auditKeys, share: 0.35 },
  { part: auditOperations, share: 0.35 },
  { part: auditRefusals, share: 0.25 },
  { part: auditStates, share: 0.35 },
];

/**
 * Examines the operations of servers over HTTP.
 *
 * @param audit The audit.
 */
export async function auditServices(audit: Audit): Promise<void> {
  if (audit.settings.has("two-wires")) return;
  const random = audit.chanceOf("services");
  const drawn = PARTS.filter(({ share }) => random() < share);
  await Promise.all(drawn.map(({ part }) => part(audit)));
}
