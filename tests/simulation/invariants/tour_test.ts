import type { Facts } from "../facts.ts";
import { Story } from "./story.ts";
import {
  deadNodesForgotten,
  fullQueuesAct,
  graceIsKept,
  limitsHold,
  silenceEnds,
  waitsEnd,
} from "./tour.ts";

const PARTS = [
  ["limits", limitsHold],
  ["waits", waitsEnd],
  ["heartbeat", silenceEnds],
  ["presence", graceIsKept],
  ["queues", fullQueuesAct],
  ["nodes", deadNodesForgotten],
] as const;

const OUTCOME = { what: "one session more", expected: "refused 4429" };

/** A guest got an outcome, for the invariant of a part. */
function came(part: Facts["examined"]["part"], received: string, judge = part): Story {
  const invariant = PARTS.find(([name]) => name === judge)![1];
  return new Story(invariant).tells("examined", { ...OUTCOME, part, received });
}

Deno.test("limitsHold and the others of a tour hold for promised outcomes, and other parts", () => {
  for (const [part] of PARTS) {
    came(part, "refused 4429").finds();
    came(part, "connected", part === "limits" ? "waits" : "limits").finds();
  }
});

Deno.test("limitsHold and the others of a tour find another outcome than the promised one", () => {
  for (const [part] of PARTS) {
    came(part, "connected").finds(
      'expected "refused 4429" for one session more, received "connected"',
    );
  }
});
