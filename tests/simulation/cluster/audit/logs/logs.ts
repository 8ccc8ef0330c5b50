/** The audit of logs and durable streams below HTTP and sessions: some parts in each run. */
import type { Audit } from "../audit.ts";
import { auditCalls } from "./calls.ts";
import { auditFollowers } from "./followers.ts";
import { auditTakeovers } from "./takeovers.ts";
import { auditWriters } from "./writers.ts";

/** Parts of one audit: all would cost too much. */
const PARTS = 2;

/**
 * Examines logs and durable streams from machines that share the engine with the nodes.
 *
 * @param audit The audit.
 */
export async function auditLogs(audit: Audit): Promise<void> {
  const { terms, has } = audit.settings;
  if (terms.isApart || has("two-wires")) return;
  const random = audit.chanceOf("logs");
  const parts = [auditCalls, auditFollowers, auditTakeovers, auditWriters];
  while (parts.length > PARTS) parts.splice(Math.floor(parts.length * random()), 1);
  await Promise.all(parts.map((part) => part(audit)));
}
