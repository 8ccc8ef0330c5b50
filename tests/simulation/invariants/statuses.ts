/** Statuses of clients and subscriptions change only as the documentation allows. */
import type { ClientStatus } from "../../../client/client_options.ts";
import type { Subscription } from "../../../client/subscriptions/subscription.ts";
import { CloseCode, RequestError, TimeoutError } from "../../../errors.ts";
import { nameAfter } from "../closes.ts";
import type { Fact, Invariant } from "../facts.ts";

/** Names of the statuses of a client. */
type ClientName = ClientStatus["name"];

/** Names of the statuses of a subscription. */
type SubscriptionName = Subscription["status"]["current"];

/** Statuses of a client that may follow each status. A move leads from one session to the next. */
const NEXT: Readonly<Record<ClientName, readonly ClientName[]>> = {
  connecting: ["connected", "reconnecting", "rejected", "closed"],
  connected: ["connected", "reconnecting", "rejected", "closed"],
  reconnecting: ["connecting", "closed"],
  rejected: ["connecting", "closed"],
  closed: [],
};

/** Statuses of a subscription that may follow each status. */
const NEXT_OF_SUBSCRIPTION: Readonly<Record<SubscriptionName, readonly SubscriptionName[]>> = {
  pending: ["subscribed", "ended"],
  subscribed: ["subscribed", "lost", "ended"],
  lost: ["subscribed", "ended"],
  ended: [],
};

/** Codes of rejections that do not end a live subscription. */
const FOR_NOW: ReadonlySet<string> = new Set(["too-many", "unavailable", "superseded"]);

/**
 * A client changes its status as documented, stays disconnected after a rejection, and is closed at
 * the end.
 */
export const statusesInOrder: Invariant = {
  name: "statuses-in-order",
  promise:
    "A client reconnects after each loss, stays disconnected after a rejection, and ends only with a close.",
  source: "docs/guide/reconnect.md; docs/protocol.md 15.4; client/client.ts, Client, Rejected",
  watch(report) {
    const last = new Map<string, ClientStatus>();
    const sessions = new Set<string>();
    /**
     * Clients whose last attempt was rejected with 4401. Each of them retries once with a fresh
     * token.
     */
    const refreshing = new Set<string>();
    return {
      clientStatus(fact) {
        const { client, status } = fact;
        const before = last.get(client);
        last.set(client, status);
        const next: readonly ClientName[] = before ? NEXT[before.name] : ["connecting"];
        if (!next.includes(status.name)) {
          report(
            fact,
            `expected ${next.join(" or ") || "no status"} of ${client} after ` +
              `${before?.name ?? "the start"}, received ${status.name}`,
          );
        }
        if (status.name === "connected") {
          if (sessions.has(status.session)) {
            report(fact, `expected a new session of ${client}, received ${status.session} again`);
          }
          sessions.add(status.session);
        } else if (status.name !== "connecting") {
          const right = nameAfter(status.cause, before?.name === "connected");
          const isFresh = right === "rejected" && status.name === "reconnecting" &&
            status.cause.code === CloseCode.unauthenticated && !refreshing.has(client);
          if (isFresh) refreshing.add(client);
          else refreshing.delete(client);
          if (isFresh || right === status.name) return;
          // This was the last attempt of a client whose number of attempts is limited.
          if (fact.isBounded && right === "reconnecting" && status.name === "closed") return;
          const { code, by } = status.cause;
          report(
            fact,
            `expected ${client} ${right} after ${code} by ${by} while ${before?.name}, received ` +
              status.name,
          );
        }
      },
    };
  },
};

/**
 * A subscription changes its status as documented. Temporary rejections do not end a live
 * subscription.
 */
export const subscriptionsInForceStay: Invariant = {
  name: "subscriptions-in-force-stay",
  promise:
    "A subscription that was live is requested again after a loss and a temporary rejection.",
  source: "docs/guide/reconnect.md, Subscriptions; docs/protocol.md 9.10",
  watch(report) {
    const last = new Map<string, SubscriptionName>();
    const inForce = new Set<string>();
    return {
      subscriptionStatus(fact) {
        const { subscription, status, topic } = fact;
        const before = last.get(subscription);
        last.set(subscription, status);
        if (status === "subscribed") inForce.add(subscription);
        const isNext = before === undefined
          ? status === "pending"
          : NEXT_OF_SUBSCRIPTION[before].includes(status);
        if (isNext) return;
        report(
          fact,
          `expected no ${status} after ${before ?? "the start"} of ${subscription} on "${topic}"`,
        );
      },
      unsubscribed(fact) {
        if (!inForce.has(fact.subscription) || !isForNow(fact)) return;
        report(
          fact,
          `expected ${fact.subscription} on "${fact.topic}", once in force, to continue after a ` +
            `rejection for now, received its end: ${fact.error}`,
        );
      },
      step({ clients, nowMs }) {
        for (const { host, client, subscriptions } of clients) {
          if (client.session !== undefined) continue;
          for (const [name, { topic, status }] of subscriptions) {
            if (status.current !== "subscribed") continue;
            report(
              { atMs: nowMs, host: host.name },
              `expected ${name} on "${topic}" to be lost without a session, received subscribed`,
            );
          }
        }
      },
    };
  },
};

function isForNow({ error }: Fact<"unsubscribed">): boolean {
  return error instanceof TimeoutError ||
    error instanceof RequestError && FOR_NOW.has(error.failure.code);
}
