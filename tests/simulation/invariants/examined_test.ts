import type { Facts, Invariant } from "../facts.ts";
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
import { Story } from "./story.ts";

const PARTS: Readonly<Record<Facts["examined"]["part"], Invariant>> = {
  brokers: brokersKeepContract,
  heartbeat: silenceEnds,
  leaks: timersEnd,
  limits: limitsHold,
  lives: livesGoOn,
  nodes: deadNodesForgotten,
  pacing: pacedAttempts,
  presence: graceIsKept,
  queues: fullQueuesAct,
  waits: waitsEnd,
};

const ALL = Object.entries(PARTS) as [Facts["examined"]["part"], Invariant][];

const OUTCOME = { what: "one session more", expected: "rejected 4429" };

Deno.test("invariants of examinations hold for documented outcomes, and ignore other parts", () => {
  for (const [part, invariant] of ALL) {
    const other = part === "limits" ? "waits" : "limits";
    new Story(invariant)
      .tells("examined", { ...OUTCOME, part, received: "rejected 4429" })
      .tells("examined", { ...OUTCOME, part: other, received: "connected" })
      .finds();
  }
});

Deno.test("invariants of examinations find an undocumented outcome", () => {
  for (const [part, invariant] of ALL) {
    new Story(invariant)
      .tells("examined", { ...OUTCOME, part, received: "connected" })
      .finds('expected "rejected 4429" for one session more, received "connected"');
  }
});
