/** Sessions and transports: handlers, ends and streams, on servers of their own. */
import type { Audit } from "../audit.ts";
import { auditEnds } from "./ends.ts";
import { auditHandlers } from "./handlers.ts";
import { auditNested } from "./nested.ts";
import { auditTyped } from "./typed.ts";

/** All parts. */
const PARTS = [auditEnds, auditHandlers, auditNested, auditTyped] as const;

/**
 * Examines sessions and transports.
 *
 * @param audit The audit.
 */
export async function auditWires(audit: Audit): Promise<void> {
  await Promise.all(PARTS.map((part) => part(audit, audit.chanceOf(part.name))));
}
