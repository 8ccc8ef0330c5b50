/** Waits: each promise of the library settles within the documented time. */
import { internals } from "../../../session/session.ts";
import type { Cluster, Fact, Invariant } from "../facts.ts";
import { seconds } from "./texts.ts";

/** Round-trip time, in milliseconds. */
const SLACK_MS = 1_000;

/** Time within which an idle session has no request for at least a moment, in milliseconds. */
const REST_MS = 10_000;

/** Maximum share by which a clock may run slow. */
const SLOWEST_CLOCK = 0.1;

/**
 * Each promise must settle in time. The timers of a frozen host run only after it thaws, so the
 * time starts over then. A wait ends when the host's life ends.
 */
export const everyWaitEnds: Invariant = {
  name: "every-wait-ends",
  promise: "Every promise of the library settles within its documented time.",
  source: "docs/reference/limits.md, Bounds",
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

/** Finished waits leave no request behind: each session has no request for at least a moment. */
export const nothingPending: Invariant = {
  name: "nothing-pending",
  promise: "Once programs are idle, no request of a session is still waiting for a reply.",
  source: "docs/reference/limits.md, session.requestTimeoutMs; docs/protocol.md 6.8",
  watch(report) {
    let isSettled = false;
    const states = new WeakMap<object, { readonly sinceMs: number; isIdle: boolean }>();
    const visit = (
      { servers, clients }: Cluster,
      look: (core: Pending, host: string, end: string) => void,
    ) => {
      for (const { host, server } of servers) {
        for (const session of server.manager.all()) look(session[internals], host.name, "node");
      }
      for (const { host, client } of clients) {
        if (client.session !== undefined) look(client.session[internals], host.name, "client");
      }
    };
    return {
      settled: () => void (isSettled = true),
      step(cluster) {
        if (!isSettled) return;
        visit(cluster, (core) => {
          const state = states.get(core) ?? { sinceMs: cluster.nowMs, isIdle: false };
          state.isIdle ||= core.sending.openRequests === 0;
          states.set(core, state);
        });
      },
      end(cluster) {
        const { nowMs } = cluster;
        visit(cluster, (core, host, end) => {
          const { sinceMs, isIdle } = states.get(core) ?? { sinceMs: nowMs, isIdle: true };
          if (isIdle || nowMs - sinceMs < REST_MS) return;
          report(
            { atMs: nowMs, host },
            `expected no request of a ${end} since ${seconds(sinceMs)}, received ` +
              `${core.sending.openRequests} that wait`,
          );
        });
      },
    };
  },
};

/** The part of a session that counts requests. */
interface Pending {
  readonly sending: { readonly openRequests: number };
}

/** The latest end of a wait, in virtual time. */
function dueOf({ atMs, withinMs }: Fact<"waits">, frozenMs = 0): number {
  return Math.max(atMs, frozenMs) + withinMs * (1 + SLOWEST_CLOCK) + SLACK_MS;
}
