/**
 * Compares received messages with published ones. Either each message arrives exactly once and in
 * order, or a gap is reported with a correct reason.
 *
 * @module
 */
import type { RecoveryReason } from "../../../session/wire/recovery.ts";
import {
  type GapNote,
  type Outage,
  type Published,
  type Received,
  type Run,
  TIMES_STEP,
} from "./log.ts";

/** The retention of the broker, its outages, and the time that clients have to report an outage. */
export interface Truth {
  /** Maximum number of publications that a topic keeps. */
  readonly size: number;
  /** Retention of messages, in milliseconds. */
  readonly ttlMs: number;
  /** Outages of the broker. */
  readonly outages: readonly Outage[];
  /** Time after an outage during which clients may report its consequences, in milliseconds. */
  readonly slackMs: number;
}

/** Findings of the check. */
export interface Findings {
  /** Number of delivered messages. */
  readonly delivered: number;
  /** Acknowledged messages that were not delivered because of a reported gap. */
  readonly missing: number;
  /**
   * Messages that were delivered again in a new epoch, because the broker published them, crashed
   * before it replied, and lost them.
   */
  readonly repeated: number;
  /** Reported gaps, by reason. */
  readonly gaps: Readonly<Partial<Record<RecoveryReason, number>>>;
  /** Descriptions of faults: silent gaps, duplicates, wrong order, wrong reasons. */
  readonly faults: readonly string[];
}

/** The most messages of one publisher on one topic that were in flight when the broker crashed. */
const MOST_REPEATED = 50;

const MOST_FAULTS = 20;

/** Checks all clients. */
export function check(
  received: readonly Received[],
  published: readonly Published[],
  truth: Truth,
): Findings {
  const byTopic = Map.groupBy(published, ({ topic }) => topic);
  const faults: string[] = [];
  const gaps: Partial<Record<RecoveryReason, number>> = {};
  let [delivered, missing, repeated, count] = [0, 0, 0, 0];
  for (const { client, topic, stretches, faults: own } of received) {
    const fault = (text: string) => {
      count++;
      if (faults.length < MOST_FAULTS) faults.push(`${client} ${topic}: ${text}`);
    };
    own.forEach(fault);
    for (const { gap } of stretches) {
      if (gap === undefined) continue;
      gaps[gap.reason] = (gaps[gap.reason] ?? 0) + 1;
    }
    for (const each of byTopic.get(topic) ?? []) {
      const outcome = follow(stretches, each, truth, fault);
      delivered += outcome.delivered;
      missing += outcome.missing;
      repeated += outcome.repeated;
    }
  }
  if (count > faults.length) faults.push(`and ${count - faults.length} more`);
  return { delivered, missing, repeated, gaps, faults };
}

/** Checks one publisher's messages in one client's log of a topic. */
function follow(
  stretches: Received["stretches"],
  published: Published,
  truth: Truth,
  fault: (text: string) => void,
): { delivered: number; missing: number; repeated: number } {
  const { publisher, last } = published;
  const unsure = new Set(published.unsure);
  let [delivered, missing, repeated, seen] = [0, 0, 0, 0];
  let told: GapNote[] = [];
  const lacks = (from: number, to: number) => {
    let lost = 0;
    for (let number = from; number <= to; number++) if (!unsure.has(number)) lost++;
    return lost;
  };
  const hole = (from: number, to: number) => {
    const lost = lacks(from, to);
    if (lost === 0) return;
    missing += lost;
    if (told.length === 0) {
      return fault(`${lost} of ${publisher} from ${from} to ${to} are missing without a report`);
    }
    if (!told.some((gap) => isTrue(gap, published, [from, to], truth))) {
      const { reason, since, at } = told[0]!;
      fault(
        `${lost} of ${publisher} from ${from} to ${to} are missing: "${reason}" is wrong ` +
          `(reported at ${at}, last message at ${since})`,
      );
    }
  };
  for (const { gap, runs } of stretches) {
    if (gap !== undefined) told.push(gap);
    for (const [from, to] of runs[publisher] ?? []) {
      if (from > seen) hole(seen + 1, from - 1);
      else if (told.some(({ reason }) => reason === "new-epoch") && seen - from < MOST_REPEATED) {
        repeated += seen - from + 1;
      } else fault(`${publisher} ${from} came after ${seen}`);
      delivered += to - from + 1;
      seen = Math.max(seen, to);
      told = [];
    }
  }
  if (seen < last) hole(seen + 1, last);
  return { delivered, missing, repeated };
}

/** Returns true if the reason for a gap explains the missing numbers. */
function isTrue(gap: GapNote, published: Published, hole: Run, truth: Truth): boolean {
  const { reason, since, at } = gap;
  const wasAway = truth.outages.some(({ from, to }) =>
    to + truth.slackMs >= since && from - truth.slackMs <= at
  );
  switch (reason) {
    case "new-epoch":
    case "beyond-head":
    case "interrupted":
    case "unavailable":
      return wasAway;
    case "too-old": {
      const age = at - timeOf(published, hole[0]);
      return hole[1] - hole[0] + 1 + TIMES_STEP >= truth.size ||
        age + truth.slackMs >= truth.ttlMs ||
        wasAway;
    }
    case "dropped":
      return true;
    case "no-history":
    case "too-large":
      return false;
  }
}

/** The approximate time at which a number was acknowledged. */
function timeOf({ times }: Published, number: number): number {
  return times[Math.floor((number - 1) / TIMES_STEP)] ?? times.at(-1) ?? 0;
}
