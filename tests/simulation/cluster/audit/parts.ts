/** All parts of the audit. */
import type { AuditName } from "../../plan.ts";
import type { Audit } from "./audit.ts";
import { auditAnswers } from "./backlog/answers.ts";
import { auditBehind } from "./backlog/behind.ts";
import { auditPosts } from "./backlog/posts.ts";
import { auditRates } from "./backlog/rates.ts";
import { auditReplays } from "./backlog/replays.ts";
import { auditSends } from "./backlog/sends.ts";
import { auditCredit } from "./backlog/streams.ts";
import { auditBounds } from "./bounds.ts";
import { auditCarriers } from "./carriers.ts";
import { auditContract } from "./contracts.ts";
import { auditStreams } from "./durable.ts";
import { auditExpiry } from "./expiry.ts";
import { auditFlows } from "./flows.ts";
import { auditClosings } from "./histories/closings.ts";
import { auditCopies } from "./histories/copies.ts";
import { auditEngineHistory } from "./histories/engine_history.ts";
import { auditFailingFile } from "./histories/failing_file.ts";
import { auditForgetting } from "./histories/forgetting.ts";
import { auditGivenUp } from "./histories/given_up.ts";
import { auditOrders } from "./histories/orders.ts";
import { auditRedisCluster } from "./histories/redis_cluster.ts";
import { auditRemovals } from "./histories/removals.ts";
import { auditReplays as auditFeeds } from "./histories/replays.ts";
import { auditRestarts } from "./histories/restarts.ts";
import { auditReturns } from "./histories/returns.ts";
import { auditSweeps } from "./histories/sweeps.ts";
import { auditTails } from "./histories/tails.ts";
import { auditWaitingRoom } from "./histories/waiting_room.ts";
import { auditHistory, auditLong } from "./history.ts";
import { auditHoles } from "./holes.ts";
import { auditInspector } from "./inspector.ts";
import { auditChains } from "./lives/chains.ts";
import { auditComebacks } from "./lives/comebacks.ts";
import { auditLives } from "./lives/lives.ts";
import { auditPassages } from "./lives/passages.ts";
import { auditCalls } from "./logs/calls.ts";
import { auditOverdue } from "./logs/overdue.ts";
import { auditFollowers } from "./logs/followers.ts";
import { auditLaggards } from "./logs/laggards.ts";
import { auditLostRecords } from "./logs/lost_records.ts";
import { auditTakeovers } from "./logs/takeovers.ts";
import { auditWriters } from "./logs/writers.ts";
import { auditOptions } from "./options.ts";
import { auditPacing } from "./pacing.ts";
import { auditClaims } from "./places/claims.ts";
import { auditDirectories } from "./places/directories.ts";
import { auditLapses } from "./places/lapses.ts";
import { auditNewcomers } from "./places/newcomers.ts";
import { auditNodeCalls } from "./places/node_calls.ts";
import { auditQuestions } from "./places/questions.ts";
import { auditVisitors } from "./places/visitors.ts";
import { auditWorkers } from "./places/workers.ts";
import { auditRenewals } from "./renewals.ts";
import { auditSeats } from "./seats.ts";
import { auditDrains } from "./services/drains.ts";
import { auditKeys } from "./services/keys.ts";
import { auditOperations } from "./services/operations.ts";
import { auditRefusals } from "./services/refusals.ts";
import { auditStates } from "./services/streams.ts";
import { auditTimers } from "./timers.ts";
import { auditAccounts } from "./users/accounts.ts";
import { auditAttendance } from "./users/attendance.ts";
import { auditBursts } from "./users/bursts.ts";
import { auditCrowds } from "./users/crowds.ts";
import { auditDoors } from "./users/doors.ts";
import { auditFollowings } from "./users/followings.ts";
import { auditLists } from "./users/lists.ts";
import { auditManagers } from "./users/managers.ts";
import { auditShares } from "./users/shares.ts";
import { auditTabs } from "./users/tabs.ts";
import { auditW3cSessions } from "./w3c/sessions.ts";
import { auditDeploys } from "./wires/deploys.ts";
import { auditEnds } from "./wires/ends.ts";
import { auditFarewells } from "./wires/farewells.ts";
import { auditHandlers } from "./wires/handlers.ts";
import { auditHooks } from "./wires/hooks.ts";
import { auditNested } from "./wires/nested.ts";
import { auditRelays } from "./wires/relays.ts";
import { auditTokens } from "./wires/tokens.ts";
import { auditTyped } from "./wires/typed.ts";

/** Examines one part. */
type Part = (audit: Audit) => Promise<void>;

/** Parts with servers of their own, on any cluster. */
const OWN = {
  accounts: auditAccounts,
  answers: auditAnswers,
  bounds: auditBounds,
  bursts: auditBursts,
  comebacks: auditComebacks,
  contracts: auditContract,
  credit: auditCredit,
  crowds: (audit) => Promise.all([auditCrowds(audit), auditAttendance(audit)]).then(() => {}),
  deploys: (audit) => Promise.all([auditDeploys(audit), auditWorkers(audit)]).then(() => {}),
  directories: auditDirectories,
  doors: auditDoors,
  ends: auditEnds,
  expiry: auditExpiry,
  "failing-file": (audit) =>
    Promise.all([auditFailingFile(audit), auditSweeps(audit), auditRemovals(audit)]).then(() => {}),
  farewells: auditFarewells,
  feeds: (audit) => {
    auditTails(audit);
    return Promise.all([auditFeeds(audit), auditOrders(audit)]).then(() => {});
  },
  flows: (audit) => Promise.all([auditFlows(audit), auditW3cSessions(audit)]).then(() => {}),
  forgetting: auditForgetting,
  handlers: auditHandlers,
  holes: auditHoles,
  hooks: auditHooks,
  inspector: auditInspector,
  laggards: auditLaggards,
  lists: (audit) => Promise.all([auditLists(audit), auditFollowings(audit)]).then(() => {}),
  lives: auditLives,
  long: auditLong,
  managers: auditManagers,
  nested: auditNested,
  "node-calls": auditNodeCalls,
  options: auditOptions,
  pacing: auditPacing,
  passages: (audit) => Promise.all([auditPassages(audit), auditChains(audit)]).then(() => {}),
  posts: (audit) => Promise.all([auditPosts(audit), auditBehind(audit)]).then(() => {}),
  questions: auditQuestions,
  rates: auditRates,
  relays: auditRelays,
  renewals: auditRenewals,
  replays: auditReplays,
  restarts: (audit) => Promise.all([auditRestarts(audit), auditCopies(audit)]).then(() => {}),
  returns: auditReturns,
  seats: auditSeats,
  sends: auditSends,
  shares: auditShares,
  tabs: auditTabs,
  timers: auditTimers,
  tokens: auditTokens,
  typed: auditTyped,
} satisfies Partial<Record<AuditName, Part>>;

/** Parts on the nodes or on their engine, which these share, in clusters of one release. */
const SHARED = {
  calls: (audit) => {
    const onEngine = auditOverdue(audit).then(() => auditCalls(audit));
    return Promise.all([onEngine, auditLostRecords(audit)]).then(() => {});
  },
  carriers: auditCarriers,
  claims: auditClaims,
  closings: (audit) =>
    Promise.all([auditClosings(audit), auditWaitingRoom(audit), auditGivenUp(audit)])
      .then(() => {}),
  drains: auditDrains,
  durable: auditStreams,
  "engine-history": (audit) =>
    Promise.all([auditEngineHistory(audit), auditRedisCluster(audit)]).then(() => {}),
  followers: auditFollowers,
  history: auditHistory,
  keys: auditKeys,
  lapses: auditLapses,
  newcomers: auditNewcomers,
  operations: auditOperations,
  refusals: auditRefusals,
  states: auditStates,
  takeovers: auditTakeovers,
  visitors: auditVisitors,
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
