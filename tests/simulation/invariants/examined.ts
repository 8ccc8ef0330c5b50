/** Examinations: on an idle cluster, all outcomes are as documented. */
import type { Facts, Invariant } from "../facts.ts";

/** Creates the invariant for one part of the library. */
function examined(
  part: Facts["examined"]["part"],
  about: Pick<Invariant, "name" | "promise" | "source">,
): Invariant {
  return {
    ...about,
    watch: (report) => ({
      examined(fact) {
        const { what, expected, received } = fact;
        if (fact.part !== part || expected === received) return;
        report(fact, `expected "${expected}" for ${what}, received "${received}"`);
      },
    }),
  };
}

/** Brokers keep their contract while their store fails. */
export const brokersKeepContract: Invariant = examined("brokers", {
  name: "brokers-keep-contract",
  promise: "A broker keeps its contract during each store failure, and recovers fully.",
  source: "pubsub/broker.ts; docs/deploy/nats.md, Outages; redis.md, When Redis is unreachable",
});

/** Timers end when their sessions end. */
export const timersEnd: Invariant = examined("leaks", {
  name: "timers-end",
  promise: "No timer, entry or count outlives its session, and a client that returns adds none.",
  source: "docs/reference/sessions.md; server/server.ts; client/client.ts, Client.close",
});

/** Limits reject what exceeds them and nothing else. */
export const limitsHold: Invariant = examined("limits", {
  name: "limits-hold",
  promise:
    "A limit admits what fits, rejects anything above it with its code, and has space again later.",
  source: "docs/reference/limits.md, Bounds; docs/protocol.md 15.2",
});

/** Waits end at their timeout or when their signal is aborted. */
export const waitsEnd: Invariant = examined("waits", {
  name: "waits-end-by-time-and-signal",
  promise: "A wait ends at its timeout or when its signal aborts, and the other side is cancelled.",
  source:
    "docs/reference/limits.md, session.requestTimeoutMs; docs/guide/reconnect.md; session/types.ts, WaitOptions",
});

/** Sessions of silent peers end in time, others stay. */
export const silenceEnds: Invariant = examined("heartbeat", {
  name: "silence-ends-sessions",
  promise:
    "A session ends with 4408 once the peer was silent for the timeout, neither earlier nor later.",
  source: "docs/protocol.md 7.6, 7.7; docs/reference/limits.md, session.heartbeat",
});

/** Users leave a room after the grace period. */
export const graceIsKept: Invariant = examined("presence", {
  name: "grace-is-kept",
  promise: "A user leaves a room after the grace period, unless the user returns within it.",
  source: "docs/concepts/presence.md; docs/reference/limits.md, presence.graceMs",
});

/** Full queues close the session or drop messages, depending on the policy. */
export const fullQueuesAct: Invariant = examined("queues", {
  name: "full-queues-act",
  promise: "A full send queue follows its policy, and no queue exceeds its limit.",
  source: "docs/reference/limits.md, Back-pressure",
});

/** The other nodes forget a node that died. */
export const deadNodesForgotten: Invariant = examined("nodes", {
  name: "dead-nodes-forgotten",
  promise:
    "A dead node and its users, members and slots are gone after goneAfterMs, and not earlier.",
  source: "docs/reference/nodes.md, Shared state",
});

/** Clients reconnect at the documented times. */
export const pacedAttempts: Invariant = examined("pacing", {
  name: "paced-attempts",
  promise: "A client waits before each attempt as documented, and reconnects once the server runs.",
  source: "docs/protocol.md 7.10, 15.4; docs/reference/connect-options.md, backoff",
});

/** However a client's sessions end, nothing of the client is lost, duplicated or leaked. */
export const livesGoOn: Invariant = examined("lives", {
  name: "lives-go-on",
  promise:
    "After a loss or a move, a client has its topics, members and numbers, and nodes have no others.",
  source: "docs/protocol.md 9.12, 11, 23; docs/guide/reconnect.md; docs/guide/users.md",
});
