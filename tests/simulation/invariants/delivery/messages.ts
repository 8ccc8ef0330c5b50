/**
 * Messages from clients to nodes are handled at least once and in order, and each request receives
 * its own reply.
 */
import type { Fact, Invariant } from "../../facts.ts";
import { Failures } from "./failures.ts";
import { Spread } from "./spread.ts";
import { list } from "../texts.ts";

/** A message that a client sent. */
interface Sent {
  readonly fact: Fact<"sent">;
  /** Number of the message among the client's messages, starting at 0. */
  readonly number: number;
  times: number;
  hasFailed: boolean;
}

/** All messages of each client, in the order in which they were sent. */
class Messages {
  readonly byId = new Map<string, Sent>();
  readonly byClient = new Map<string, Sent[]>();

  add(fact: Fact<"sent">): void {
    let all = this.byClient.get(fact.client);
    if (all === undefined) this.byClient.set(fact.client, all = []);
    const sent = { fact, number: all.length, times: 0, hasFailed: false };
    all.push(sent);
    this.byId.set(fact.id, sent);
  }

  /** Ids of a client's messages that must be handled but are not. */
  unhandled(client: string, end = Infinity): string[] {
    return (this.byClient.get(client) ?? [])
      .filter(({ fact, times, hasFailed, number }) =>
        fact.isAtLeastOnce && times === 0 && !hasFailed && number < end
      )
      .map(({ fact }) => fact.id);
  }
}

/** Each message of a client with at-least-once delivery is handled before `flushed()` resolves. */
export const sentIsHandled: Invariant = {
  name: "sent-is-handled",
  promise: "Each message of a client with at-least-once delivery is handled.",
  source: "docs/protocol.md 11.6, 11.8; docs/guide/reconnect.md, At least once",
  watch(report) {
    const messages = new Messages();
    return {
      sent: (fact) => messages.add(fact),
      sendFailed({ id }) {
        const sent = messages.byId.get(id);
        if (sent !== undefined) sent.hasFailed = true;
      },
      handled({ id }) {
        const sent = messages.byId.get(id);
        if (sent !== undefined) sent.times++;
      },
      flushed(fact) {
        const last = messages.byId.get(fact.upTo);
        if (last === undefined) return;
        const lacking = messages.unhandled(fact.client, last.number + 1);
        if (lacking.length === 0) return;
        report(
          fact,
          `expected flushed() of ${fact.client} after ${list(lacking)} were handled, received it ` +
            "before",
        );
      },
      end({ clients, nowMs }) {
        for (const { name, host } of clients) {
          const lacking = messages.unhandled(name);
          if (lacking.length === 0) continue;
          report(
            { atMs: nowMs, host: host.name },
            `expected ${
              list(lacking)
            } of ${name} to be handled, received none of these at any node`,
          );
        }
      },
    };
  },
};

/**
 * Messages are handled in the order of the `send` calls. Each is handled once, unless a node or the
 * broker failed after the call.
 */
export const handledOnce: Invariant = {
  name: "handled-once-in-order",
  promise:
    "A client's messages are handled in order, and only a failed node or broker causes repetitions.",
  source: "docs/protocol.md 6.7, 11.4; docs/guide/reconnect.md, At least once",
  watch(report) {
    const messages = new Messages();
    const newest = new Map<string, Sent>();
    const failures = new Failures();
    return {
      faulted: (fact) => failures.faulted(fact),
      brokerElects: (fact) => failures.brokerElects(fact),
      brokerLost: (fact) => failures.brokerLost(fact),
      sent: (fact) => messages.add(fact),
      handled(fact) {
        const sent = messages.byId.get(fact.id);
        if (sent === undefined || sent.fact.client !== fact.client) {
          report(fact, `expected a message that ${fact.client} sent, received "${fact.id}"`);
          return;
        }
        if (++sent.times > 1) {
          if (!sent.fact.isAtLeastOnce || !failures.hasFailedSince(sent.fact.atMs)) {
            report(
              fact,
              `expected ${fact.id} once, as no node or broker failed, received it again`,
            );
          }
          return;
        }
        const last = newest.get(fact.client);
        if (last === undefined || sent.number > last.number) newest.set(fact.client, sent);
        // Without at-least-once delivery, sessions overlap, and an older message may be late.
        else if (sent.fact.isAtLeastOnce) {
          report(fact, `expected ${fact.id} before ${last.fact.id}, as sent, received it after`);
        }
      },
    };
  },
};

/** Each request receives its own reply exactly once. */
export const ownReplies: Invariant = {
  name: "own-answers",
  promise: "A request receives its own reply exactly once.",
  source: "docs/protocol.md 6.1, 6.4",
  watch(report) {
    const answers = new Map<string, number>();
    return {
      requestSent: ({ id }) => void answers.set(id, 0),
      requestReplied(fact) {
        const { id, answerTo } = fact;
        const count = answers.get(id);
        if (answerTo !== id) {
          report(fact, `expected the answer to ${id}, received the answer to ${answerTo}`);
        } else if (count !== 0) {
          report(
            fact,
            count === undefined
              ? `expected answers to requests alone, received one to "${id}"`
              : `expected one answer to ${id}, received another one`,
          );
        }
        answers.set(id, (count ?? 0) + 1);
      },
    };
  },
};

/** A request without `retry` is handled at most once. */
export const requestsOnce: Invariant = {
  name: "requests-once",
  promise: "A request is handled at most once, unless the program allows a retry.",
  source: "docs/protocol.md 11.5; docs/guide/reconnect.md, Sent is not received",
  watch(report) {
    const isHandled = new Map<string, boolean>();
    return {
      requestSent({ id, isResent }) {
        if (!isResent) isHandled.set(id, false);
      },
      requestHandled(fact) {
        const { id } = fact;
        if (isHandled.get(id)) report(fact, `expected ${id} to be handled once, received it again`);
        if (isHandled.has(id)) isHandled.set(id, true);
      },
    };
  },
};

/**
 * Messages to a user reach that user's clients once. They are repeated only to a client that moved
 * while a node or the broker was unreachable, or that temporarily has sessions on several nodes.
 */
export const onlyToTheUser: Invariant = {
  name: "only-to-the-user",
  promise: "A message to a user reaches only that user's clients, and each of them once.",
  source: "docs/concepts/nodes.md; docs/guide/reconnect.md, Handover; server/server.ts, Server.to",
  watch(report) {
    const sent = new Map<string, Fact<"sentToUser">>();
    const received = new Set<string>();
    const failures = new Failures();
    const spread = new Spread();
    return {
      faulted: (fact) => failures.faulted(fact),
      brokerLost: (fact) => failures.brokerLost(fact),
      sessionOpened: (fact) => spread.opened(fact),
      sessionClosed: (fact) => spread.closed(fact),
      sentToUser: (fact) => void sent.set(fact.id, fact),
      receivedAsUser(fact) {
        const { id, user, client, host } = fact;
        const { user: meant = "no user", atMs = 0 } = sent.get(id) ?? {};
        const mayRepeat = failures.hasFailedSince(atMs) || spread.wasSince(host, atMs);
        if (meant !== user) {
          report(fact, `expected ${id} at clients of ${meant}, received at ${user}`);
        } else if (received.has(`${client} ${id}`) && !mayRepeat) {
          report(fact, `expected ${id} once at ${client}, received it again`);
        }
        received.add(`${client} ${id}`);
      },
    };
  },
};

/** After the cluster has settled, each of a user's clients receives the messages to the user. */
export const toAllOfTheUser: Invariant = {
  name: "to-all-of-the-user",
  promise: "On a settled cluster, a message to a user reaches each client of the user on any node.",
  source: "docs/concepts/nodes.md; server/server.ts, Server.to",
  watch(report, terms) {
    let isSettled = false;
    const sent = new Map<string, Fact<"sentToUser">[]>();
    const received = new Set<string>();
    return {
      settled: () => void (isSettled = true),
      sentToUser(fact) {
        if (!isSettled) return;
        const all = sent.get(fact.user);
        if (all === undefined) sent.set(fact.user, [fact]);
        else all.push(fact);
      },
      receivedAsUser({ client, id }) {
        if (isSettled) received.add(`${client} ${id}`);
      },
      end({ clients, nowMs }) {
        if (terms.isApart) return;
        for (const { name, host, client, user = "" } of clients) {
          if (!client.isConnected) continue;
          const lacking = (sent.get(user) ?? []).filter(({ id }) => !received.has(`${name} ${id}`));
          if (lacking.length === 0) continue;
          report(
            { atMs: nowMs, host: host.name },
            `expected ${list(lacking.map(({ id }) => id))} to ${user}, sent on ` +
              `${lacking[0]!.host}, at ${name}, received none of these`,
          );
        }
      },
    };
  },
};
