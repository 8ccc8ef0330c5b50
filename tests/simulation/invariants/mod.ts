/** All guarantees of the library that every run checks. */
import type { Invariant } from "../facts.ts";
import { responsesInOrder } from "./responses.ts";
import { smoothDeploys } from "./deploys.ts";
import { recordsInOrder } from "./durable.ts";
import { nothingUnhandled, onlyKnownErrors } from "./errors.ts";
import {
  brokersKeepContract,
  deadNodesForgotten,
  fullQueuesAct,
  graceIsKept,
  limitsHold,
  livesGoOn,
  pacedAttempts,
  silenceEnds,
  timersEnd,
  waitsEnd,
} from "./examined.ts";
import { noSilentGap } from "./delivery/gaps.ts";
import { interruptionsTold } from "./delivery/interruptions.ts";
import { emptyFigures, nothingLeaks } from "./leaks.ts";
import { boundedQueues, rates, sessionsPerUser } from "./limits.ts";
import {
  handledOnce,
  onlyToTheUser,
  ownReplies,
  requestsOnce,
  sentIsHandled,
  toAllOfTheUser,
} from "./delivery/messages.ts";
import { epochsStay, onceInOrder, onePosition, producerOrder } from "./delivery/order.ts";
import { joinsAndLeaves, presenceConverges, presenceHasData } from "./presence.ts";
import { acknowledgedArrives, trueReasons } from "./delivery/recovery.ts";
import {
  calmSessionsStay,
  endsAgree,
  gonePeersNoticed,
  knownCloseCodes,
  sessionsAgree,
  sessionsEndOnce,
  trueFigures,
} from "./sessions.ts";
import { statusesInOrder, subscriptionsInForceStay } from "./statuses.ts";
import { streamsInOrder, trueDatagrams } from "./streams.ts";
import {
  noEcho,
  nothingAfterLeaving,
  onlyAllowed,
  rightsComeBack,
  sameTopics,
} from "./subscriptions.ts";
import { everyWaitEnds, nothingPending } from "./waits.ts";

export const INVARIANTS: readonly Invariant[] = [
  noSilentGap,
  onceInOrder,
  onePosition,
  producerOrder,
  epochsStay,
  trueReasons,
  acknowledgedArrives,
  interruptionsTold,
  nothingAfterLeaving,
  noEcho,
  onlyAllowed,
  rightsComeBack,
  sameTopics,
  sentIsHandled,
  handledOnce,
  ownReplies,
  requestsOnce,
  onlyToTheUser,
  toAllOfTheUser,
  responsesInOrder,
  recordsInOrder,
  streamsInOrder,
  trueDatagrams,
  joinsAndLeaves,
  presenceConverges,
  presenceHasData,
  sessionsPerUser,
  rates,
  boundedQueues,
  knownCloseCodes,
  calmSessionsStay,
  sessionsEndOnce,
  endsAgree,
  sessionsAgree,
  gonePeersNoticed,
  statusesInOrder,
  subscriptionsInForceStay,
  trueFigures,
  smoothDeploys,
  everyWaitEnds,
  nothingPending,
  brokersKeepContract,
  timersEnd,
  limitsHold,
  waitsEnd,
  silenceEnds,
  graceIsKept,
  fullQueuesAct,
  deadNodesForgotten,
  pacedAttempts,
  livesGoOn,
  nothingLeaks,
  emptyFigures,
  nothingUnhandled,
  onlyKnownErrors,
];
