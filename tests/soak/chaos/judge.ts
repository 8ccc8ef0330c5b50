/**
 * Checks the clients' logs after any kind of failure.
 *
 * @module
 */
import type { Check } from "../webtransport.ts";
import { check as checkLog } from "./check.ts";
import { HISTORY, TOPICS } from "./broker.ts";
import type { Outcome } from "./fleet.ts";
import type { Outage } from "./log.ts";

/**
 * Time after an outage during which clients may report its consequences. Disconnected clients
 * return within seconds.
 */
const SLACK_MS = 15_000;

/** Description of a run. */
export interface Trouble {
  /** Prefix of the lines. */
  readonly title: string;
  /** Description of the failures. */
  readonly blows: string;
  readonly clients: number;
  /** Outages of the broker. */
  readonly outages: readonly Outage[];
}

/** Checks the clients' logs and prints four lines. */
export function judge(check: Check, outcome: Outcome, trouble: Trouble): void {
  const { published, received, lacking, failures, state } = outcome;
  const { title, blows, clients, outages } = trouble;
  const { size, ttlMs } = HISTORY;
  const found = checkLog(received, published, { size, ttlMs, outages, slackMs: SLACK_MS });
  const total = published.reduce((all, { last }) => all + last, 0);
  const unsure = published.reduce((all, each) => all + each.unsure.length, 0);
  check(
    `${title}: every client receives everything in the end`,
    lacking === 0,
    `${total} published on ${TOPICS} topics, ${unsure} of them not acknowledged, ` +
      `${found.delivered} deliveries, ${lacking} missing; ${blows}`,
  );
  check(
    `${title}: exactly once, in order, or a gap with the correct reason`,
    found.faults.length === 0,
    found.faults.length > 0
      ? found.faults.join("\n       ")
      : `${state.sessions} sessions, ${state.recovered} times recovered, ${state.failed} times ` +
        `not (${JSON.stringify(found.gaps)}), ${found.missing} messages missing and reported`,
  );
  check(
    `${title}: no subscription closed`,
    failures.length === 0,
    failures.slice(0, 5).join("; ") || "none",
  );
  check(
    `${title}: all clients are subscribed at the end`,
    state.connected === clients && state.subscribed === received.length,
    `${state.connected} connected, ${state.subscribed} of ${received.length} subscribed`,
  );
}
