/** Interruptions: subscribers to topics without a history are notified of a broker outage. */
import type { Invariant } from "../../facts.ts";
import { seconds } from "../texts.ts";

/** A subscription to a topic without a history. */
interface Listening {
  readonly topic: string;
  /** Time at which the broker ended. It is set until a notice follows. */
  endedMs: number | undefined;
}

/**
 * If the whole broker ends, the connections of all nodes break, and publications from other nodes
 * may be lost until the next connection. Each subscriber therefore receives a notice, which is
 * `interrupted` or the notice of a reconnect.
 */
export const interruptionsTold: Invariant = {
  name: "interruptions-told",
  promise: "A subscriber to a topic without a history is notified of a broker outage.",
  source: "docs/protocol.md 10.14; docs/reference/sessions.md, interrupted",
  watch(report, terms) {
    const subscriptions = new Map<string, Listening>();
    return {
      subscribed({ subscription, topic }) {
        if (terms.isApart || terms.historyOf(topic) !== undefined) return;
        subscriptions.set(subscription, { topic, endedMs: undefined });
      },
      unsubscribed: ({ subscription }) => void subscriptions.delete(subscription),
      brokerEnded({ atMs }) {
        for (const one of subscriptions.values()) one.endedMs ??= atMs;
      },
      recovery({ subscription, recovered }) {
        const one = subscriptions.get(subscription);
        if (one !== undefined && !recovered) one.endedMs = undefined;
      },
      end({ clients, nowMs }) {
        for (const { host, subscriptions: own } of clients) {
          for (const [name, { isEnded, status }] of own) {
            const { topic, endedMs } = subscriptions.get(name) ?? {};
            if (endedMs === undefined || isEnded || status.current !== "subscribed") continue;
            report(
              { atMs: nowMs, host: host.name },
              `expected a notice on "${topic}" (${name}), as the broker ended at ` +
                `${seconds(endedMs)}, received none`,
            );
          }
        }
      },
    };
  },
};
