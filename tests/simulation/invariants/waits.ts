/** Waits: each promise of the library settles within the documented time. */
import type { Cluster, Fact, Invariant } from "../facts.ts";
import { seconds } from "./texts.ts";

/** Time for the way there and back, in milliseconds. */
const SLACK_MS = 1_000;

/** Share by which a clock may run slow. */
const SLOWEST_CLOCK = 0.1;

/**
 * Each promise settles in time. Timers of a frozen host run after the thaw, so the time counts from
 * there again. A wait ends with the life of the host.
 */
export const everyWaitEnds: Invariant = {
  name: "every-wait-ends",
  promise: "Every promise of the library settles within its documented time.",
  source: "docs/guide/limits.md, Bounds",
  watch(report) {
    const open = new Map<number, Fact<"waits">>();
    const frozenMs = new Map<string, number>();
    let nextMs = Infinity;
    const check = ({ nowMs, hosts }: Cluster) => {
      for (const host of hosts.values()) if (host.isFrozen) frozenMs.set(host.name, nowMs);
      if (nowMs < nextMs) return;
      nextMs = Infinity;
      for (const [wait, fact] of open) {
        const host = hosts.get(fact.host);
        if (host?.isAlive && host.life === fact.life) {
          const dueMs = dueOf(fact, frozenMs.get(fact.host));
          if (dueMs > nowMs) {
            nextMs = Math.min(nextMs, dueMs);
            continue;
          }
          const text = `expected ${fact.what}, begun at ${seconds(fact.atMs)}, to settle within ` +
            `${fact.withinMs} ms, received nothing until now`;
          report({ atMs: nowMs, host: fact.host }, text);
        }
        open.delete(wait);
      }
    };
    return {
      waits(fact) {
        open.set(fact.wait, fact);
        nextMs = Math.min(nextMs, dueOf(fact));
      },
      waited: ({ wait }) => void open.delete(wait),
      step: check,
      end: check,
    };
  },
};

/** Latest end of a wait, in virtual time. */
function dueOf({ atMs, withinMs }: Fact<"waits">, frozenMs = 0): number {
  return Math.max(atMs, frozenMs) + withinMs * (1 + SLOWEST_CLOCK) + SLACK_MS;
}
