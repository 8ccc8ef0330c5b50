/**
 * Order and number of publications: each publication arrives once, in order, and at one position.
 */
import type { Fact, Invariant } from "../../facts.ts";
import type { HistoryPosition } from "../../../../session/wire/recovery.ts";
import { Failures } from "./failures.ts";
import { Spread } from "./spread.ts";
import { place, seconds } from "../texts.ts";

/** Maximum time for which the notice of a new epoch may be in flight, in milliseconds. */
const UNDER_WAY_MS = 10_000;

/**
 * Reasons for a gap after which a broker may deliver the same publications again, because another
 * history has started.
 */
const BEGINS_ANEW: ReadonlySet<string> = new Set(["new-epoch", "beyond-head"]);

/**
 * Publications that may be repeated or late on a topic without a history. There are three causes. A
 * client with at-least-once delivery resends a publication whose number was not stored because a
 * node or the broker failed. A publication that waits for the broker reaches clients that have
 * moved to another node in the meantime. A client has sessions on two nodes during such a move.
 */
class Repetitions extends Failures {
  readonly #times = new Map<string, number>();
  readonly #spread = new Spread();

  published({ id, atMs }: Fact<"published">): void {
    this.#times.set(id, atMs);
  }

  sessionOpened(fact: Fact<"sessionOpened">): void {
    this.#spread.opened(fact);
  }

  sessionClosed(fact: Fact<"sessionClosed">): void {
    this.#spread.closed(fact);
  }

  has({ id, position, host }: Fact<"received">): boolean {
    const atMs = this.#times.get(id) ?? Infinity;
    return position === undefined &&
      (this.hasFailedSince(atMs) || this.#spread.wasSince(host, atMs));
  }
}

/** Each subscription yields a publication once per epoch, and offsets increase. */
export const onceInOrder: Invariant = {
  name: "once-in-order",
  promise: "A subscription yields each publication once per epoch, and positions increase.",
  source: "docs/protocol.md 10.3, 10.20, 10.22, 11.11; docs/guide/reconnect.md, At least once; " +
    "docs/concepts/nodes.md; docs/guide/reconnect.md, Handover",
  watch(report) {
    const repetitions = new Repetitions();
    const readings = new Map<string, {
      last: HistoryPosition | undefined;
      /** Ids, with the epoch in which each of them arrived. */
      seen: Map<string, string>;
    }>();
    const readingOf = (subscription: string) => {
      let reading = readings.get(subscription);
      if (reading === undefined) {
        readings.set(subscription, reading = { last: undefined, seen: new Map() });
      }
      return reading;
    };
    return {
      published: (fact) => repetitions.published(fact),
      sessionOpened: (fact) => repetitions.sessionOpened(fact),
      sessionClosed: (fact) => repetitions.sessionClosed(fact),
      faulted: (fact) => repetitions.faulted(fact),
      brokerElects: (fact) => repetitions.brokerElects(fact),
      brokerLost: (fact) => repetitions.brokerLost(fact),
      subscribing: ({ subscription }) => void readings.delete(subscription),
      recovery({ subscription, recovered, reason = "", position }) {
        if (recovered) return;
        const reading = readingOf(subscription);
        if (BEGINS_ANEW.has(reason)) reading.seen.clear();
        reading.last = position;
      },
      received(fact) {
        const { subscription, topic, id, position } = fact;
        const reading = readingOf(subscription);
        const { last, seen } = reading;
        const epoch = position?.epoch ?? "";
        if (seen.get(id) === epoch && !repetitions.has(fact)) {
          report(
            fact,
            `expected ${id} once on "${topic}" (${subscription}), received it again` +
              (position === undefined ? "" : `, at ${place(position)}`),
          );
        } else if (last?.epoch === epoch && position!.offset <= last.offset) {
          report(
            fact,
            `expected ${id} after ${place(last)} on "${topic}" (${subscription}), received it ` +
              `at ${position!.offset}`,
          );
        }
        seen.set(id, epoch);
        reading.last = position;
      },
    };
  },
};

/** All programs see a publication at the same position, and at no other position in the epoch. */
export const onePosition: Invariant = {
  name: "one-position",
  promise: "A position in an epoch identifies one publication, and a publication has one position.",
  source: "docs/protocol.md 10.1, 10.2, 10.25",
  watch(report) {
    const topics = new Map<string, { ids: Map<string, string>; positions: Map<string, number> }>();
    const check = (
      fact: { readonly atMs: number; readonly host: string },
      topic: string,
      id: string,
      { epoch, offset }: HistoryPosition,
    ) => {
      let known = topics.get(topic);
      if (known === undefined) topics.set(topic, known = { ids: new Map(), positions: new Map() });
      const at = `${offset} ${epoch}`;
      const other = known.ids.get(at);
      if (other === undefined) known.ids.set(at, id);
      else if (other !== id) {
        report(
          fact,
          `expected ${other} at ${place({ epoch, offset })} of "${topic}", received ${id} there`,
        );
      }
      const where = `${id} ${epoch}`;
      const first = known.positions.get(where);
      if (first === undefined) known.positions.set(where, offset);
      else if (first !== offset) {
        report(
          fact,
          `expected ${id} of "${topic}" at ${place({ epoch, offset: first })} alone, received it ` +
            `at ${offset} too`,
        );
      }
    };
    return {
      received({ topic, id, position, ...fact }) {
        if (position !== undefined) check(fact, topic, id, position);
      },
      acknowledged({ topic, id, position, ...fact }) {
        if (position !== undefined) check(fact, topic, id, position);
      },
      brokerLost({ topic }) {
        if (topic === undefined) topics.clear();
        else topics.delete(topic);
      },
    };
  },
};

/** A publication as its producer made it. */
interface Produced {
  readonly producer: string;
  /** Number of the publication among the producer's publications on the topic. */
  readonly number: number;
  /**
   * The session that a client without at-least-once delivery used, once it has one. A moving client
   * has two sessions.
   */
  session: string | undefined;
  hasFailed: boolean;
}

/**
 * A producer's publications on a topic arrive in the order of the calls, except publications of two
 * sessions without at-least-once delivery. A failed publication may still be in flight and arrive
 * late.
 */
export const producerOrder: Invariant = {
  name: "producer-order",
  promise: "A subscriber receives a producer's publications in the order of its calls.",
  source: "docs/protocol.md 9.5; docs/concepts/nodes.md; pubsub/broker.ts, Broker",
  watch(report) {
    const published = new Map<string, Produced>();
    const counts = new Map<string, number>();
    const newest = new Map<string, Map<string, string>>();
    /** Publications that wait for the next session in a host's client. */
    const waiting = new Map<string, Produced[]>();
    const repetitions = new Repetitions();
    /** Ids that a subscription received. The invariant "once-in-order" checks repetitions. */
    const seen = new Map<string, Set<string>>();
    const forget = (subscription: string) => {
      newest.delete(subscription);
      seen.delete(subscription);
    };
    return {
      faulted: (fact) => repetitions.faulted(fact),
      brokerElects: (fact) => repetitions.brokerElects(fact),
      brokerLost: (fact) => repetitions.brokerLost(fact),
      published(fact) {
        const { topic, id, producer, isAtLeastOnce } = fact;
        const session = isAtLeastOnce ? undefined : fact.session;
        repetitions.published(fact);
        const number = (counts.get(`${producer} ${topic}`) ?? 0) + 1;
        counts.set(`${producer} ${topic}`, number);
        const made: Produced = { producer, number, session, hasFailed: false };
        published.set(id, made);
        if (fact.user === undefined || isAtLeastOnce || session !== undefined) return;
        const others = waiting.get(fact.host);
        if (others === undefined) waiting.set(fact.host, [made]);
        else others.push(made);
      },
      sessionClosed: (fact) => repetitions.sessionClosed(fact),
      sessionOpened(fact) {
        repetitions.sessionOpened(fact);
        const { side, session, host } = fact;
        if (side === "node") return;
        for (const made of waiting.get(host) ?? []) made.session = session;
        waiting.delete(host);
      },
      publishFailed({ id }) {
        const known = published.get(id);
        if (known !== undefined) known.hasFailed = true;
      },
      subscribing: ({ subscription }) => forget(subscription),
      recovery({ subscription, recovered, reason = "" }) {
        if (!recovered && BEGINS_ANEW.has(reason)) forget(subscription);
      },
      received(fact) {
        const { subscription, topic, id } = fact;
        const known = published.get(id);
        if (known === undefined) {
          report(fact, `expected a publication that was made, received "${id}"`);
          return;
        }
        let ids = seen.get(subscription);
        if (ids === undefined) seen.set(subscription, ids = new Set());
        if (ids.has(id)) return;
        ids.add(id);
        let byProducer = newest.get(subscription);
        if (byProducer === undefined) newest.set(subscription, byProducer = new Map());
        const before = byProducer.get(known.producer);
        const last = before === undefined ? undefined : published.get(before)!;
        if (last === undefined || known.number > last.number) byProducer.set(known.producer, id);
        else if (!known.hasFailed && !repetitions.has(fact) && !isApart(known, last)) {
          report(
            fact,
            `expected ${id} before ${before} on "${topic}" (${subscription}), as ` +
              `${known.producer} published, received it after`,
          );
        }
      },
    };
  },
};

/** Returns true for publications that different sessions of a client may carry concurrently. */
function isApart({ session }: Produced, other: Produced): boolean {
  return session !== undefined && other.session !== undefined && session !== other.session;
}

/**
 * The epoch of a topic ends only when the broker may have lost publications, or has forgotten a
 * topic that was idle for the TTL of the history.
 */
export const epochsStay: Invariant = {
  name: "epochs-stay",
  promise: "The epoch of a topic changes only when the broker may have lost part of its history.",
  source: "docs/protocol.md 10.1; pubsub/broker.ts, BrokerHistory",
  watch(report, terms) {
    const current = new Map<string, {
      epoch: string;
      sinceMs: number;
      lastMs: number;
      /** Earlier epochs, which slow readers may still see. */
      past: Set<string>;
    }>();
    let lostMs = -Infinity;
    const lostByTopic = new Map<string, number>();
    const see = (
      { atMs, host }: { readonly atMs: number; readonly host: string },
      topic: string,
      epoch: string,
    ) => {
      const known = current.get(topic);
      if (known === undefined) {
        current.set(topic, { epoch, sinceMs: atMs, lastMs: atMs, past: new Set() });
      } else if (known.epoch === epoch) known.lastMs = atMs;
      else if (!known.past.has(epoch)) {
        const lostAt = Math.max(lostMs, lostByTopic.get(topic) ?? -Infinity);
        const quietMs = terms.historyOf(topic)?.ttlMs ?? 0;
        const isUnexplained = lostAt < known.sinceMs - UNDER_WAY_MS;
        if (!terms.isApart && isUnexplained && atMs - known.lastMs < quietMs) {
          report(
            { atMs, host },
            `expected epoch ${known.epoch.slice(0, 8)} of "${topic}", seen until ` +
              `${seconds(known.lastMs)}, to continue, as the broker lost nothing, received epoch ` +
              epoch.slice(0, 8),
          );
        }
        known.past.add(known.epoch);
        Object.assign(known, { epoch, sinceMs: atMs, lastMs: atMs });
      }
    };
    return {
      brokerLost({ topic, atMs }) {
        if (topic === undefined) lostMs = atMs;
        else lostByTopic.set(topic, atMs);
      },
      acknowledged(fact) {
        if (fact.position !== undefined) see(fact, fact.topic, fact.position.epoch);
      },
      received(fact) {
        if (fact.position !== undefined) see(fact, fact.topic, fact.position.epoch);
      },
      subscribed(fact) {
        if (fact.position !== undefined) see(fact, fact.topic, fact.position.epoch);
      },
    };
  },
};
