import {
  auditEnds,
  contractHolds,
  exactFlows,
  exactHistory,
  exactStreams,
  trueExpiry,
  trueMetrics,
} from "./audit.ts";
import type { Facts, Invariant } from "../facts.ts";
import { Story } from "./story.ts";

/** Invariants by their part of the audit. */
const PARTS: readonly (readonly [Invariant, Facts["audited"]["part"]])[] = [
  [auditEnds, "audit"],
  [exactHistory, "history"],
  [contractHolds, "contract"],
  [exactStreams, "durable"],
  [trueExpiry, "expiry"],
  [trueMetrics, "figures"],
  [exactFlows, "flows"],
];

Deno.test("the audit finds outcomes that differ from the documented ones", () => {
  for (const [invariant, part] of PARTS) {
    new Story(invariant)
      .tells("audited", { part, what: "an operation", expected: "[1,2]", received: "[1]" })
      .finds('expected [1,2] for "an operation", received [1]');
  }
});

Deno.test("the audit accepts documented outcomes, and leaves other parts to others", () => {
  for (const [invariant, part] of PARTS) {
    const other = part === "audit" ? "expiry" : "audit";
    new Story(invariant)
      .tells("audited", { part, what: "an operation", expected: "[1]", received: "[1]" })
      .tells("audited", { part: other, what: "another", expected: "[1]", received: "[2]" })
      .finds();
  }
});
