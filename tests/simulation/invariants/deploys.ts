/** Deploys: draining nodes move their clients without losing anything. */
import { CloseCode, QueueFullError } from "../../../errors.ts";
import type { Invariant } from "../facts.ts";
import { seconds } from "./texts.ts";

/**
 * Maximum time that a client spends without a session, including delays before attempts, in
 * milliseconds.
 */
const AWAY_MS = 6_000;

/** Maximum delay of a close notice, in milliseconds. */
const NOTICE_MS = 500;

/** Time for which a user's slot may stay in use after a node dies or the broker fails. */
const PLACE_MS = 120_000;

/**
 * A deploy of a quiet cluster does not cut a session and does not lose a publication of a history.
 */
export const smoothDeploys: Invariant = {
  name: "smooth-deploys",
  promise:
    "A drain cuts no session and closes each one with 4503 when announced, and clients miss nothing.",
  source: "docs/protocol.md 7.10; docs/deploy/operations.md, Failures and their effects",
  watch(report, terms) {
    let isUnderWay = false;
    let lostMs = -Infinity;
    const away = new Map<string, number>();
    /** Announced ends of sessions, by the client's host. */
    const ends = new Map<string, number>();
    /**
     * Publications in outboxes, by host and id. The value is false if the program has abandoned the
     * publication.
     */
    const kept = new Map<string, Map<string, boolean>>();
    return {
      brokerLost: ({ atMs }) => void (lostMs = Math.max(lostMs, atMs)),
      faulted({ scope, kind, atMs, lastsMs = 0 }) {
        const leavesPlaces = scope === "broker" || kind === "kill" || kind === "power";
        if (leavesPlaces) lostMs = Math.max(lostMs, atMs + lastsMs);
      },
      deploy: ({ isOver }) => void (isUnderWay = !isOver),
      goAway: ({ host, retryAfterMs, atMs }) => void ends.set(host, atMs + retryAfterMs),
      drained(fact) {
        const { cut, closed } = fact;
        if (!isUnderWay || cut === 0) return;
        report(fact, `expected no session to be cut, received ${cut} beside ${closed} closed`);
      },
      sessionClosed(fact) {
        const { side, host, session, code, atMs } = fact;
        if (!isUnderWay || side !== "client") return;
        away.set(host, atMs);
        const endMs = ends.get(host) ?? atMs;
        ends.delete(host);
        if (atMs < endMs - NOTICE_MS) {
          report(fact, `expected session ${session} up to ${seconds(endMs)}, as announced`);
        }
        if (code === CloseCode.draining) return;
        report(fact, `expected ${CloseCode.draining} for session ${session}, received ${code}`);
      },
      sessionOpened(fact) {
        const { side, host, atMs } = fact;
        const sinceMs = away.get(host);
        if (side !== "client" || sinceMs === undefined) return;
        away.delete(host);
        const mayBeFull = terms.hasSharedLimits && atMs < lostMs + PLACE_MS;
        if (atMs <= sinceMs + AWAY_MS || mayBeFull) return;
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
      published({ id, host, isAtLeastOnce, givesUp = false }) {
        if (!isUnderWay || !isAtLeastOnce) return;
        const all = kept.get(host);
        if (all === undefined) kept.set(host, new Map([[id, !givesUp]]));
        else all.set(id, !givesUp);
      },
      acknowledged: ({ id, host }) => void kept.get(host)?.delete(id),
      publishFailed(fact) {
        const { id, host, error } = fact;
        const all = kept.get(host);
        const isReliable = all?.get(id) ?? false;
        // The failed publication is not in the outbox.
        const isFull = all !== undefined && all.size > terms.outbox.maxMessages;
        all?.delete(id);
        if (!isUnderWay || !isReliable || isFull && error instanceof QueueFullError) return;
        report(fact, `expected ${id} to be kept until a session takes it, received ${error}`);
      },
    };
  },
};
