/** Users with sessions on several nodes: messages, places, rates, and lists of members. */
import { oneOf } from "../../chance.ts";
import type { Audit } from "../audit.ts";
import { auditAccounts } from "./accounts.ts";
import { auditCrowds } from "./crowds.ts";
import { auditDoors } from "./doors.ts";
import { auditShares } from "./shares.ts";
import { auditTabs } from "./tabs.ts";

/** All parts: a plan has one, as each costs more than an audit of one server. */
const PARTS = [auditAccounts, auditCrowds, auditDoors, auditShares, auditTabs] as const;

/**
 * Examines what nodes know about users.
 *
 * @param audit The audit.
 */
export async function auditUsers(audit: Audit): Promise<void> {
  await oneOf(audit.chanceOf("users"), PARTS)(audit);
}
