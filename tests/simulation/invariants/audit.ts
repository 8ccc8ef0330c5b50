/** The audit: outcomes on a cluster at rest are the documented ones. */
import type { Facts, Invariant } from "../facts.ts";

/** Makes the invariant of one part of the audit. */
function audited(
  part: Facts["audited"]["part"],
  about: Pick<Invariant, "name" | "promise" | "source">,
): Invariant {
  return {
    ...about,
    watch: (report) => ({
      audited(fact) {
        const { what, expected, received } = fact;
        if (fact.part !== part || expected === received) return;
        report(fact, `expected ${expected} for "${what}", received ${received}`);
      },
    }),
  };
}

/** The audit comes to an end. */
export const auditEnds: Invariant = audited("audit", {
  name: "audit-ends",
  promise: "A quiet cluster answers each operation.",
  source: "docs/guide/limits.md, Bounds",
});

/** Histories have exactly the publications within the bounds. */
export const exactHistory: Invariant = audited("history", {
  name: "exact-history",
  promise: "A subscription gets exactly the publications behind its position, within the bounds.",
  source: "docs/protocol.md 10.5 to 10.14; docs/concepts/history.md, Bounds",
});

/** Data outside the contract, and actions without a right, are refused by codes. */
export const contractHolds: Invariant = audited("contract", {
  name: "contract-holds",
  promise: "Data that fits passes and is changed once; all else is refused by the documented code.",
  source: "docs/guide/topics.md, Contracts and requests; docs/protocol.md 6.9, 6.11",
});

/** Durable streams are the same over HTTP and sessions. */
export const exactStreams: Invariant = audited("durable", {
  name: "exact-streams",
  promise: "A durable stream has the same records at each offset, over HTTP and over sessions.",
  source: "docs/guide/durable-streams-http.md; docs/guide/durable-streams.md",
});

/** Streams carry all bytes within little credit. */
export const exactFlows: Invariant = audited("flows", {
  name: "exact-flows",
  promise: "Streams carry all bytes and codes within little credit, and credit comes back.",
  source: "docs/guide/streams.md",
});

/** Sessions end at the end of the tokens. */
export const trueExpiry: Invariant = audited("expiry", {
  name: "true-expiry",
  promise: "A session ends at the end of its token, neither before nor later, unless renewed.",
  source: "docs/protocol.md 8.11 to 8.13; docs/guide/users.md",
});

/** Metrics agree with what happened. */
export const trueMetrics: Invariant = audited("figures", {
  name: "true-metrics",
  promise: "Metrics count what happened, and gauges are zero once nothing is left.",
  source: "docs/reference/metrics.md",
});
