/**
 * Properties of the clients' logs after any failure.
 *
 * @module
 */
import type { Check } from "../webtransport.ts";
import { check as checkLog } from "./check.ts";
import { HISTORY, TOPICS } from "./engine.ts";
import type { Outcome } from "./fleet.ts";
import type { Outage } from "./log.ts";

/**
 * Time after an outage in which its consequences may be reported: disconnected clients return
 * within seconds.
 */
const SLACK_MS = 15_000;

/** Description of the run. */
export interface Trouble {
  /** Prefix of the lines. */
  readonly title: string;
  /** In words. */
  readonly blows: string;
  /** Number of clients. */
  readonly clients: number;
  /** When the engine was away. */
  readonly outages: readonly Outage[];
}

/** Checks the clients' logs; four lines. */
export function judge(check: Check, outcome: Outcome, trouble: Trouble): void {
  const { published, received, lacking, failures, state } = outcome;
  const { title, blows, clients, outages } = trouble;
  const { size, ttlMs } = HISTORY;
  const found = checkLog(received, published, { size, ttlMs, outages, slackMs: SLACK_MS });
  const total = published.reduce((all, { last }) => all + last, 0);
  const unsure = published.reduce((all, each) => all + each.unsure.length, 0);
  check(
    `${title}: every client has everything in the end`,
    lacking === 0,
    `${total} published on ${TOPICS} topics, ${unsure} of them not acknowledged, ` +
      `${found.delivered} deliveries, ${lacking} lacking; ${blows}`,
  );
  check(
    `${title}: once and in order, or a gap with a true reason`,
    found.faults.length === 0,
    found.faults.length > 0
      ? found.faults.join("\n       ")
      : `${state.sessions} sessions, ${state.recovered} times recovered, ${state.failed} times ` +
        `not (${JSON.stringify(found.gaps)}), ${found.missing} messages missing and told`,
  );
  check(
    `${title}: no subscription ended`,
    failures.length === 0,
    failures.slice(0, 5).join("; ") || "none",
  );
  check(
    `${title}: all are subscribed in the end`,
    state.connected === clients && state.subscribed === received.length,
    `${state.connected} connected, ${state.subscribed} of ${received.length} subscribed`,
  );
}
