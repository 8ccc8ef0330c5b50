/** Deploys: nodes that drain send their clients elsewhere, and nothing is lost. */
import { CloseCode } from "../../../errors.ts";
import type { Invariant } from "../facts.ts";
import { seconds } from "./texts.ts";

/** Longest time of a client without a session, in milliseconds: pauses before attempts included. */
const AWAY_MS = 6_000;

/** A deploy of a quiet cluster cuts no session, and loses no publication of a history. */
export const smoothDeploys: Invariant = {
  name: "smooth-deploys",
  promise:
    "A node that drains cuts no session, and closes with 4503; clients come back and miss nothing.",
  source: "docs/protocol.md 7.10; docs/deploy/operations.md, What breaks, and what users see",
  watch(report, terms) {
    let isUnderWay = false;
    const away = new Map<string, number>();
    /** Publications of the deploy that clients keep. */
    const reliable = new Set<string>();
    return {
      deploy: ({ isOver }) => void (isUnderWay = !isOver),
      drained(fact) {
        const { cut, closed } = fact;
        if (!isUnderWay || cut === 0) return;
        report(fact, `expected no session to be cut, received ${cut} beside ${closed} closed`);
      },
      sessionClosed(fact) {
        const { side, host, session, code, atMs } = fact;
        if (!isUnderWay || side !== "client") return;
        away.set(host, atMs);
        if (code === CloseCode.draining) return;
        report(fact, `expected ${CloseCode.draining} for session ${session}, received ${code}`);
      },
      sessionOpened(fact) {
        const { side, host, atMs } = fact;
        const sinceMs = away.get(host);
        if (side !== "client" || sinceMs === undefined) return;
        away.delete(host);
        if (atMs <= sinceMs + AWAY_MS) return;
        report(
          fact,
          `expected a session within ${AWAY_MS} ms, received one after ${seconds(atMs - sinceMs)}`,
        );
      },
      recovery(fact) {
        const { recovered, reason, topic, subscription } = fact;
        if (!isUnderWay || recovered || terms.historyOf(topic) === undefined) return;
        report(
          fact,
          `expected the missed publications of "${topic}" (${subscription}), received ${reason}`,
        );
      },
      publishFailed(fact) {
        const { id, error } = fact;
        if (!isUnderWay || !reliable.has(id)) return;
        report(fact, `expected ${id} to be kept until a session takes it, received ${error}`);
      },
      published({ id, isAtLeastOnce }) {
        if (isUnderWay && isAtLeastOnce) reliable.add(id);
      },
    };
  },
};
