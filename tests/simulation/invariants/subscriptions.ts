/** Subscriptions: publications reach only subscribers that may receive them. */
import { STREAM_PREFIX } from "../../../session/wire/recovery.ts";
import type { Fact, Invariant } from "../facts.ts";
import { list, seconds } from "./texts.ts";

/** Maximum time until a server knows that a client has left a topic, in milliseconds. */
const LEAVING_MS = 30_000;

/** A client that left a topic receives no further publications of it. */
export const nothingAfterLeaving: Invariant = {
  name: "nothing-after-leaving",
  promise: "A client that has left a topic receives no further messages from it.",
  source: "docs/protocol.md 9.3, 9.7",
  watch(report) {
    const publishedMs = new Map<string, number>();
    const left = new Map<string, number>();
    const ended = new Set<string>();
    return {
      published: ({ id, atMs }) => void publishedMs.set(id, atMs),
      subscribing: ({ client, topic }) => void left.delete(`${client} ${topic}`),
      unsubscribed({ client, subscription, topic, atMs }) {
        ended.add(subscription);
        left.set(`${client} ${topic}`, atMs);
      },
      received(fact) {
        if (!ended.has(fact.subscription)) return;
        report(
          fact,
          `expected nothing more on "${fact.topic}" after the end of ${fact.subscription}, ` +
            `received ${fact.id}`,
        );
      },
      strayed(fact) {
        const leftMs = left.get(`${fact.client} ${fact.topic}`);
        if (leftMs === undefined || (publishedMs.get(fact.id) ?? 0) < leftMs + LEAVING_MS) return;
        report(
          fact,
          `expected no publication of "${fact.topic}" at ${fact.client}, which left the topic at ` +
            `${seconds(leftMs)}, received ${fact.id}`,
        );
      },
    };
  },
};

/** A publication without an echo does not return to its publisher. */
export const noEcho: Invariant = {
  name: "no-echo",
  promise: "A client receives none of the publications that exclude it.",
  source: "docs/protocol.md 9.12",
  watch(report) {
    const leftOut = new Map<string, string>();
    return {
      published({ id, except }) {
        if (except !== undefined) leftOut.set(id, except);
      },
      received(fact) {
        if (leftOut.get(fact.id) !== fact.client) return;
        report(
          fact,
          `expected ${fact.id} on "${fact.topic}" without an echo, received it at ${fact.client}`,
        );
      },
    };
  },
};

/** While a user may not use a topic, the user neither receives nor makes publications on it. */
export const onlyAllowed: Invariant = {
  name: "only-allowed",
  promise: "A client neither receives nor makes publications on a topic that its user may not use.",
  source: "docs/protocol.md 8.8, 9.2",
  watch(report) {
    const denied = new Map<string, number>();
    const users = new Map<string, string>();
    const publishedMs = new Map<string, number>();
    /**
     * Publications that a denied user tried to make. The key is the id, the value is the user and
     * the topic.
     */
    const tried = new Map<string, string>();
    const forbid = (fact: Fact<"received" | "acknowledged">, what: string) => {
      const key = tried.get(fact.id);
      const deniedMs = key === undefined ? undefined : denied.get(key);
      // A publication may wait until the user may use the topic again.
      if (deniedMs === undefined || publishedMs.get(fact.id)! < deniedMs) return;
      report(
        fact,
        `expected no publication of "${fact.topic}" by ${key!.split(" ")[0]}, denied since ` +
          `${seconds(deniedMs)}, received ${fact.id}${what}`,
      );
    };
    return {
      permission({ user, topic, isAllowed, atMs }) {
        if (isAllowed) denied.delete(`${user} ${topic}`);
        else denied.set(`${user} ${topic}`, atMs);
      },
      subscribing({ subscription, user }) {
        if (user !== undefined) users.set(subscription, user);
      },
      published({ id, atMs, user, topic }) {
        publishedMs.set(id, atMs);
        const key = `${user} ${topic}`;
        if (denied.has(key)) tried.set(id, key);
      },
      acknowledged: (fact) => forbid(fact, " as acknowledged"),
      received(fact) {
        forbid(fact, "");
        const user = users.get(fact.subscription);
        const deniedMs = denied.get(`${user} ${fact.topic}`);
        if (deniedMs === undefined || (publishedMs.get(fact.id) ?? 0) < deniedMs) return;
        report(
          fact,
          `expected nothing on "${fact.topic}" for ${user}, denied since ${seconds(deniedMs)}, ` +
            `received ${fact.id}`,
        );
      },
    };
  },
};

/** A client that may use its topics is subscribed to all of them at the end. */
export const rightsComeBack: Invariant = {
  name: "rights-come-back",
  promise: "A client that requests a topic that its user may receive is subscribed.",
  source: "docs/protocol.md 9.1, 9.7; docs/guide/topics.md",
  watch(report) {
    const wanted = new Map<string, Set<string>>();
    return {
      subscribing({ client, topic }) {
        const topics = wanted.get(client);
        if (topics === undefined) wanted.set(client, new Set([topic]));
        else topics.add(topic);
      },
      // All rights have been restored since the last fault.
      end({ clients, nowMs }) {
        for (const { name, host, client, subscriptions } of clients) {
          if (client.session === undefined) continue;
          const lacking = new Set(wanted.get(name));
          for (const { topic, isEnded, status } of subscriptions.values()) {
            if (!isEnded && status.current === "subscribed") lacking.delete(topic);
          }
          if (lacking.size === 0) continue;
          report(
            { atMs: nowMs, host: host.name },
            `expected subscriptions of ${name} to ${list([...lacking])}, received none`,
          );
        }
      },
    };
  },
};

/** At the end, each session's topics on its node match the client's. */
export const sameTopics: Invariant = {
  name: "same-topics",
  promise: "A session is subscribed to the topics of its client, and to no others.",
  source: "docs/protocol.md 9.1, 9.3, 10.22",
  watch: (report) => ({
    end({ servers, clients, nowMs }) {
      const wanted = new Map<string, { host: string; topics: Set<string>; read: Set<string> }>();
      for (const { host, client, subscriptions, readers } of clients) {
        if (client.session === undefined) continue;
        const topics = new Set<string>();
        for (const { topic, isEnded, status } of subscriptions.values()) {
          if (!isEnded && status.current === "subscribed") topics.add(topic);
        }
        // A reader waits while a stream is open, and at that moment it may be between two
        // subscriptions.
        const read = new Set([...readers.values()].map((stream) => STREAM_PREFIX + stream));
        wanted.set(client.session.id, { host: host.name, topics, read });
      }
      for (const { host, server } of servers) {
        for (const session of server.manager.all()) {
          const want = wanted.get(session.id);
          if (want === undefined) continue;
          const has = server.topics.requestedBy(session);
          const extra = has.filter((topic) => !want.topics.has(topic) && !want.read.has(topic));
          const lacking = [...want.topics].filter((topic) => !has.includes(topic));
          if (extra.length === 0 && lacking.length === 0) continue;
          report(
            { atMs: nowMs, host: host.name },
            `expected the topics of ${want.host} in session ${session.id}, received ` +
              `${list(extra)} too, and ${list(lacking)} not`,
          );
        }
      }
    },
  }),
};
