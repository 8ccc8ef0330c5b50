/** All parts of the audit. */
import type { AuditName } from "../../plan.ts";
import type { Audit } from "./audit.ts";
import { auditContract } from "./contracts.ts";
import { auditStreams } from "./durable.ts";
import { auditFailingFile } from "./histories/failing_file.ts";
import { auditFollowers } from "./logs/followers.ts";
import { auditLaggards } from "./logs/laggards.ts";
import { auditLostRecords } from "./logs/lost_records.ts";
import { auditTakeovers } from "./logs/takeovers.ts";
import { auditWriters } from "./logs/writers.ts";
import { auditRefusals } from "./services/refusals.ts";
import { auditStates } from "./services/streams.ts";
import { auditFollowings } from "./users/followings.ts";
import { auditEnds } from "./wires/ends.ts";
import { auditRelays } from "./wires/relays.ts";
import { auditTyped } from "./wires/typed.ts";

/** Examines one part. */
type Part = (audit: Audit) => Promise<void>;

/** Parts with servers of their own, on any cluster. */
const OWN = {
  contracts: auditContract,
  ends: auditEnds,
  "failing-file": auditFailingFile,
  laggards: auditLaggards,
  lists: auditFollowings,
  relays: auditRelays,
  typed: auditTyped,
} satisfies Partial<Record<AuditName, Part>>;

/** Parts on the nodes or on their engine, which these share, in clusters of one release. */
const SHARED = {
  calls: auditLostRecords,
  durable: auditStreams,
  followers: auditFollowers,
  refusals: auditRefusals,
  states: auditStates,
  takeovers: auditTakeovers,
  writers: auditWriters,
} satisfies Partial<Record<AuditName, Part>>;

/** All parts. */
const ALL: Readonly<Record<AuditName, Part>> = { ...OWN, ...SHARED };

/**
 * Lists the parts of the audit.
 *
 * @param isShared True for nodes that share an engine.
 * @returns Names and functions.
 */
export function partsOf(isShared: boolean): readonly [AuditName, Part][] {
  return Object.entries(isShared ? ALL : OWN) as [AuditName, Part][];
}
