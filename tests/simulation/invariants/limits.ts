/** Limits: sessions per user, rates, and queue limits. */
import type { SendQueue } from "../../../session/queue/send_queue.ts";
import { internals } from "../../../session/session.ts";
import { CLIENT_QUEUE } from "../cluster/settings.ts";
import { GUEST } from "../cluster/tour/holds.ts";
import type { Invariant } from "../facts.ts";

/**
 * Time after a fault of a node or the broker during which nodes may count separately, in
 * milliseconds. A claim lasts for two minutes.
 */
const CLAIM_MS = 120_000;

/** Maximum number of a session's messages that wait for a handler. */
const MAX_RECEIVED = 4_096;

/** Maximum number of pending requests of one end, including the library's own requests. */
const MAX_REQUESTS = 64 + 64 + 128 + 32;

/** A user never has more sessions than the limit. */
export const sessionsPerUser: Invariant = {
  name: "sessions-per-user",
  promise: "A user has at most maxSessionsPerUser sessions, on all nodes together.",
  source: "docs/reference/limits.md, Bounds; docs/reference/nodes.md, Shared state",
  watch(report, { maxSessionsPerUser: max, hasSharedLimits }) {
    let disturbedMs = -Infinity;
    const told = new Set<string>();
    return {
      faulted({ scope, atMs, lastsMs = 0 }) {
        if (scope === "node" || scope === "broker") {
          disturbedMs = Math.max(disturbedMs, atMs + lastsMs);
        }
      },
      step({ servers, nowMs }) {
        let sessions = 0;
        for (const { host, server } of servers) {
          if (host.isFrozen) disturbedMs = Math.max(disturbedMs, nowMs);
          sessions += server.manager.count;
        }
        if (sessions <= max) return; // A user cannot have more sessions than all users.
        const all = new Map<string, number>();
        for (const { host, server } of servers) {
          const own = new Map<string, number>();
          for (const { user, state } of server.manager.all()) {
            // The tour examines guests, which have another session while they move.
            if (state === "connected" && !user.startsWith(GUEST)) {
              own.set(user, (own.get(user) ?? 0) + 1);
            }
          }
          for (const [user, count] of own) {
            if (count > max) tell(host.name, user, count);
            all.set(user, (all.get(user) ?? 0) + count);
          }
        }
        if (!hasSharedLimits || nowMs < disturbedMs + CLAIM_MS) return;
        for (const [user, count] of all) if (count > max) tell("", user, count);

        function tell(host: string, user: string, count: number): void {
          if (told.has(`${host} ${user}`)) return;
          told.add(`${host} ${user}`);
          report(
            { atMs: nowMs, host },
            `expected at most ${max} sessions of ${user} on ${
              host || "all nodes"
            }, received ${count}`,
          );
        }
      },
    };
  },
};

/** Messages above a rate are rejected, and no others. */
export const rates: Invariant = {
  name: "rates",
  promise: "A rate allows exactly its burst and its messages per second.",
  source: "docs/protocol.md 13.1; docs/reference/limits.md, Rate limits",
  watch(report, terms) {
    const buckets = new Map<string, { tokens: number; atMs: number }>();
    return {
      rated(fact) {
        const { scope, of, isRejected, atMs } = fact;
        const rate = terms.rates[scope];
        if (rate === undefined) return;
        const bucket = buckets.get(`${scope} ${of}`) ?? { tokens: rate.burst, atMs };
        buckets.set(`${scope} ${of}`, bucket);
        const added = (atMs - bucket.atMs) / 1_000 * rate.perSecond;
        bucket.tokens = Math.min(rate.burst, bucket.tokens + added);
        bucket.atMs = atMs;
        // Each node may allow a burst before the counts of the others arrive.
        const least = scope === "session" ? -1 : -rate.burst;
        if (isRejected) {
          if (bucket.tokens < rate.burst / 2 + 1) return;
          report(
            fact,
            `expected room for a message of ${of}, with ${bucket.tokens.toFixed(1)} of ` +
              `${rate.burst}, received a rejection`,
          );
        } else if (--bucket.tokens < least) {
          report(
            fact,
            `expected at most ${rate.burst} messages of ${of} at once and ${rate.perSecond} a ` +
              `second, received ${(-bucket.tokens).toFixed(1)} more`,
          );
          bucket.tokens = 0;
        }
      },
    };
  },
};

/** Each queue stays within its limit at every step. */
export const boundedQueues: Invariant = {
  name: "bounded-queues",
  promise: "Each queue of a session, a client and a broker stays within its limit.",
  source: "docs/reference/limits.md, Bounds",
  watch(report, { sendQueue, outbox }) {
    const told = new Set<string>();
    return {
      step({ servers, clients, nowMs }) {
        const check = (host: string, queue: string, count: number, bound: number) => {
          if (count <= bound || told.has(`${host} ${queue}`)) return;
          told.add(`${host} ${queue}`);
          report({ atMs: nowMs, host }, `expected at most ${bound} ${queue}, received ${count}`);
        };
        const checkQueue = (
          host: string,
          queue: SendQueue | undefined,
          { maxMessages, maxBytes }: { readonly maxMessages: number; readonly maxBytes: number },
        ) => {
          if (queue === undefined || queue.isFlushed) return;
          const { queuedMessages, queuedBytes } = queue.stats;
          check(host, "messages in a send queue", queuedMessages, maxMessages);
          if (queuedMessages > 1) check(host, "bytes in a send queue", queuedBytes, maxBytes);
        };
        // Each dropped message may leave a notice next to each message that remains.
        const most = sendQueue.maxMessages * (sendQueue.drops ? 2 : 1);
        for (const { host: { name }, server } of servers) {
          for (const session of server.manager.all()) {
            // Bursts to guests are examined separately, including drops.
            if (session.user?.startsWith(GUEST)) continue;
            const core = session[internals];
            checkQueue(name, core.queue, { ...sendQueue, maxMessages: most });
            check(name, "requests of one end", core.sending.openRequests, MAX_REQUESTS);
            check(name, "received messages", core.receiving.stats.waitingMessages, MAX_RECEIVED);
          }
        }
        for (const { host: { name }, client } of clients) {
          checkQueue(name, client.session?.[internals].queue, CLIENT_QUEUE);
          const { messages, bytes } = client.outbox;
          check(name, "messages in the outbox", messages, outbox.maxMessages);
          check(name, "bytes in the outbox", bytes, outbox.maxBytes);
        }
      },
    };
  },
};
