/** Places, numbers and presences that nodes share, on nodes beside the cluster. */
import type { Audit } from "../audit.ts";
import { auditClaims } from "./claims.ts";
import { auditLapses } from "./lapses.ts";
import { auditNewcomers } from "./newcomers.ts";
import { auditVisitors } from "./visitors.ts";

/** A part, and the share of plans that have it. */
interface DrawnPart {
  readonly part: (audit: Audit) => Promise<void>;
  readonly share: number;
}

/** All parts: a plan has some, as each costs more than an audit of one server. */
const PARTS: readonly DrawnPart[] = [
  { part: auditClaims, share: 0.5 },
  { part: auditLapses, share: 0.4 },
  { part: auditNewcomers, share: 0.4 },
  { part: auditVisitors, share: 0.4 },
];

/**
 * Examines the facts that nodes share.
 *
 * @param audit The audit.
 */
export async function auditPlaces(audit: Audit): Promise<void> {
  if (audit.engine.apart === undefined || audit.settings.has("two-wires")) return;
  const random = audit.chanceOf("places");
  const drawn = PARTS.filter(({ share }) => random() < share);
  await Promise.all(drawn.map(({ part }) => part(audit)));
}
