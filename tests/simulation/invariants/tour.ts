/** Outcomes of a tour: guests reach each bound of the quiet cluster once. */
import type { Facts, Invariant } from "../facts.ts";

/** Limits refuse what is beyond these, and nothing else. */
export const limitsHold: Invariant = {
  name: "limits-hold",
  promise:
    "A limit lets in what fits, refuses one more by its code, and has room again afterwards.",
  source: "docs/guide/limits.md, Bounds; docs/protocol.md 15.2",
  watch: examined("limits"),
};

/** Waits end by their time or signal. */
export const waitsEnd: Invariant = {
  name: "waits-end-by-time-and-signal",
  promise:
    "A wait ends at its time or when its signal is aborted, and the other end is told to stop.",
  source:
    "docs/guide/limits.md, session.requestTimeoutMs; docs/guide/client.md; session/types.ts, WaitOptions",
  watch: examined("waits"),
};

/** Silent peers lose their session in time, others keep theirs. */
export const silenceEnds: Invariant = {
  name: "silence-ends-sessions",
  promise:
    "A session ends by 4408 once the peer was silent for the timeout, neither earlier nor later.",
  source: "docs/protocol.md 7.6, 7.7; docs/guide/limits.md, session.heartbeat",
  watch: examined("heartbeat"),
};

/** Users leave a room once the grace is over. */
export const graceIsKept: Invariant = {
  name: "grace-is-kept",
  promise: "A user leaves a room once the grace is over, and not if the user is back before.",
  source: "docs/concepts/presence.md; docs/guide/limits.md, presenceGraceMs",
  watch: examined("presence"),
};

/** Full queues close the session or drop messages, by policy. */
export const fullQueuesAct: Invariant = {
  name: "full-queues-act",
  promise: "A full send queue acts by its policy, and no queue is deeper than its bound.",
  source: "docs/guide/limits.md, Back-pressure",
  watch: examined("queues"),
};

/** The other nodes forget a node that died. */
export const deadNodesForgotten: Invariant = {
  name: "dead-nodes-forgotten",
  promise:
    "A dead node is gone after goneAfterMs, with its users, its members and its places, not earlier.",
  source: "docs/deploy/many-nodes.md, Nodes, Presence, maxSessionsPerUser",
  watch: examined("nodes"),
};

/** Compares the outcomes of one part. */
function examined(of: Facts["examined"]["part"]): Invariant["watch"] {
  return (report) => ({
    examined(fact) {
      const { part, what, expected, received } = fact;
      if (part !== of || received === expected) return;
      report(fact, `expected "${expected}" for ${what}, received "${received}"`);
    },
  });
}
