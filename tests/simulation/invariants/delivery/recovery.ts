/** Recoveries: the reported reasons are true, and everything that was acknowledged arrives. */
import type { HistoryPosition } from "../../../../session/wire/recovery.ts";
import type { Invariant, LiveClient } from "../../facts.ts";
import { Elections, Failures } from "./failures.ts";
import { list, seconds } from "../texts.ts";

/** Number of publications that may be in flight while the library decides. */
const UNDER_WAY = 5;

/** Maximum size of a publication in a run, in bytes. */
const MAX_PUBLICATION_BYTES = 1_024;

/**
 * Share of a history's TTL during which no publication is removed. It is less than the whole TTL
 * because clocks drift.
 */
const SURE_SHARE = 0.8;

/** Maximum time for which a publication waits for an unreachable broker, in milliseconds. */
const GIVE_UP_MS = 30_000;

/** Maximum time from a request to the reply `unavailable`, in milliseconds. */
const ANSWER_MS = 20_000;

/** The known publications of a topic. */
class Publications {
  /** Times of the publications whose offset is unknown, by id. */
  readonly #unplaced = new Map<string, number>();
  readonly #times = new Map<string, number>();
  /** Offsets of each epoch in ascending order, with the times of the publications. */
  readonly #epochs = new Map<string, (readonly [offset: number, atMs: number])[]>();

  add(id: string, atMs: number): void {
    this.#times.set(id, atMs);
    this.#unplaced.set(id, atMs);
  }

  place(id: string, { epoch, offset }: HistoryPosition): void {
    this.#unplaced.delete(id);
    let offsets = this.#epochs.get(epoch);
    if (offsets === undefined) this.#epochs.set(epoch, offsets = []);
    const index = offsets.findLastIndex(([known]) => known <= offset);
    if (offsets[index]?.[0] === offset) return;
    offsets.splice(index + 1, 0, [offset, this.#times.get(id) ?? -Infinity]);
  }

  /**
   * Returns the times of the publications that may be after a position. A publication whose offset
   * is unknown may have waited for the broker.
   */
  behind({ epoch, offset }: HistoryPosition): number[] {
    const offsets = this.#epochs.get(epoch) ?? [];
    const index = offsets.findLastIndex(([known]) => known <= offset);
    const fromMs = offsets[index]?.[0] === offset ? offsets[index]![1] - GIVE_UP_MS : -Infinity;
    const placed = offsets.slice(index + 1).map(([, atMs]) => atMs);
    return [...placed, ...[...this.#unplaced.values()].filter((atMs) => atMs >= fromMs)];
  }
}

/**
 * The reason in a notice of a loss is true: if the history reaches back far enough, it must be
 * used. Without this rule, a library could report a loss after each reconnect and break no
 * guarantee.
 *
 * Missed publications are counted by offset, because after an outage the broker may store
 * publications of several producers in an order that differs from the order of the calls.
 */
export const trueReasons: Invariant = {
  name: "true-reasons",
  promise: "A recovery fails only for a true reason: within its limits, a history is used.",
  source: "docs/protocol.md 10.14; docs/reference/limits.md, history",
  watch(report, terms) {
    const topics = new Map<string, Publications>();
    const positions = new Map<string, HistoryPosition | undefined>();
    let hasBrokerFailed = false;
    // A cluster of servers starts without a leader. This takes longer than a node waits for
    // replies.
    const elections = new Elections();
    /** Time until which a node's clock is wrong. The clock determines the age of publications. */
    let wrongClockUntilMs = -Infinity;
    const publicationsOf = (topic: string): Publications => {
      let publications = topics.get(topic);
      if (publications === undefined) topics.set(topic, publications = new Publications());
      return publications;
    };
    return {
      faulted({ scope, kind, atMs, lastsMs = 0 }) {
        hasBrokerFailed ||= scope === "broker";
        if (kind === "jump-clock") {
          wrongClockUntilMs = Math.max(wrongClockUntilMs, atMs + lastsMs);
        }
      },
      brokerLost: () => void (hasBrokerFailed = true),
      brokerElects: (fact) => elections.brokerElects(fact),
      published({ topic, id, atMs }) {
        publicationsOf(topic).add(id, atMs);
      },
      acknowledged({ topic, id, position }) {
        if (position) publicationsOf(topic).place(id, position);
      },
      subscribing({ subscription, since }) {
        positions.set(subscription, since);
      },
      subscribed({ subscription, position }) {
        if (positions.get(subscription) === undefined) positions.set(subscription, position);
      },
      received({ subscription, topic, id, position }) {
        if (position === undefined) return;
        publicationsOf(topic).place(id, position);
        positions.set(subscription, position);
      },
      recovery(fact) {
        const { recovered, reason, topic, subscription } = fact;
        if (recovered || terms.isApart) return;
        const bounds = terms.historyOf(topic);
        const lie = (why: string) =>
          report(
            fact,
            `expected the missed publications of "${topic}" (${subscription}), as ${why}, ` +
              `received recovered: false, "${reason}"`,
          );
        if (bounds === undefined) {
          if (reason === "interrupted" && !hasBrokerFailed) lie("the broker was never away");
          return;
        }
        const known = positions.get(subscription);
        positions.set(subscription, fact.position);
        switch (reason) {
          case "no-history":
            return lie("the topic has a history");
          case "new-epoch":
          case "beyond-head":
          case "interrupted":
            if (!hasBrokerFailed) lie("the broker never failed");
            return;
          case "unavailable":
            if (hasBrokerFailed || elections.isUnderWay) return;
            if (fact.atMs - elections.lastMs < ANSWER_MS) return;
            return lie("the broker never failed");
          case "dropped":
            if (!terms.sendQueue.drops) lie("full send queues close the session");
            return;
          case "too-old": {
            // A publication from that time seems too old or too young for as long as the history
            // keeps it.
            if (known === undefined || fact.atMs < wrongClockUntilMs + bounds.ttlMs) return;
            const missed = publicationsOf(topic).behind(known);
            const count = missed.length;
            const ageMs = fact.atMs - missed.reduce((a, b) => Math.min(a, b), fact.atMs);
            if (
              count + UNDER_WAY < bounds.size && ageMs < bounds.ttlMs * SURE_SHARE &&
              (count + UNDER_WAY) * MAX_PUBLICATION_BYTES < bounds.bytes
            ) {
              lie(
                `${count} were missed in ${seconds(ageMs)}, of a history of ${bounds.size} for ` +
                  seconds(bounds.ttlMs),
              );
            }
          }
        }
      },
    };
  },
};

/** Progress of one subscription. */
interface Reader {
  readonly client: string;
  readonly topic: string;
  /** Time since which each publication must arrive or be replaced by a notice. */
  sinceMs: number;
  readonly received: Set<string>;
}

/**
 * Publications that the broker acknowledged reach each earlier subscriber, or the subscriber
 * receives a notice. After the cluster has settled, this applies to all publications, including
 * publications on topics without a history.
 */
export const acknowledgedArrives: Invariant = {
  name: "acknowledged-arrives",
  promise:
    "An acknowledged publication reaches each subscriber, or the subscriber receives a notice.",
  source: "docs/protocol.md 10.22, 10.24, 11.11; docs/concepts/nodes.md; docs/guide/reconnect.md",
  watch(report, terms) {
    interface Made {
      readonly id: string;
      readonly atMs: number;
      readonly except: string | undefined;
      /**
       * Number of the first session that sent the publication. It is `undefined` if no other
       * session repeats it.
       */
      readonly session: number | undefined;
      /**
       * Time of the acknowledgment, in milliseconds. It is `undefined` unless an acknowledgment
       * is certain.
       */
      acknowledgedMs: number | undefined;
      hasFailed: boolean;
      /** True once any subscriber has received the publication. */
      isReceived: boolean;
      /** True if the broker may have lost the publication without a trace for subscribers. */
      mayBeLost: boolean;
    }
    const made = new Map<string, Made[]>();
    const byId = new Map<string, Made>();
    const readers = new Map<string, Reader>();
    /** Number of sessions of each host's client. */
    const sessions = new Map<string, number>();
    /** Failures of the broker. */
    const failures = new Failures();
    let settledMs = Infinity;
    return {
      settled: ({ atMs }) => void (settledMs = atMs),
      faulted(fact) {
        if (fact.scope === "broker") failures.faulted(fact);
      },
      brokerLost(fact) {
        failures.brokerLost(fact);
        const { leavesNoTrace = false, fromMs = Infinity } = fact;
        for (const one of byId.values()) {
          if (one.acknowledgedMs === undefined) continue;
          one.mayBeLost ||= leavesNoTrace && !one.isReceived || one.acknowledgedMs >= fromMs;
        }
      },
      sessionOpened({ side, host }) {
        if (side === "client") sessions.set(host, (sessions.get(host) ?? 0) + 1);
      },
      published(fact) {
        const { topic, id, atMs, except, host } = fact;
        const next = (sessions.get(host) ?? 0) + (fact.session === undefined ? 1 : 0);
        const session = fact.isAtLeastOnce ? next : undefined;
        const one: Made = {
          id,
          atMs,
          except,
          session,
          acknowledgedMs: undefined,
          hasFailed: false,
          isReceived: false,
          mayBeLost: false,
        };
        byId.set(id, one);
        const others = made.get(topic);
        if (others === undefined) made.set(topic, [one]);
        else others.push(one);
      },
      acknowledged({ id, host, atMs: acknowledgedMs }) {
        const one = byId.get(id);
        if (one === undefined) return;
        const { session = Infinity, atMs } = one;
        const isRepeated = (sessions.get(host) ?? 0) > session;
        // The rejection may be lost with its session, or arrive after the reply in the next
        // session.
        const mayBeRejected = terms.rates.user !== undefined || failures.hasFailedSince(atMs);
        one.acknowledgedMs = isRepeated && mayBeRejected ? undefined : acknowledgedMs;
      },
      publishFailed({ id }) {
        const one = byId.get(id);
        if (one !== undefined) one.hasFailed = true;
      },
      subscribed({ client, subscription, topic, atMs }) {
        readers.set(subscription, { client, topic, sinceMs: atMs, received: new Set() });
      },
      received({ subscription, id }) {
        readers.get(subscription)?.received.add(id);
        const one = byId.get(id);
        if (one !== undefined) one.isReceived = true;
      },
      recovery({ subscription, recovered, atMs }) {
        const reader = readers.get(subscription);
        if (reader !== undefined && !recovered) reader.sinceMs = atMs;
      },
      end({ clients, nowMs }) {
        for (const { subscriptions, host } of clients) {
          for (const [name, reader] of open(subscriptions)) {
            const hasHistory = terms.historyOf(reader.topic) !== undefined;
            const fromMs = hasHistory && !terms.isApart
              ? reader.sinceMs
              : Math.max(reader.sinceMs, settledMs);
            const lost = (made.get(reader.topic) ?? []).filter((one) =>
              one.atMs > fromMs && (one.acknowledgedMs !== undefined || one.atMs >= settledMs) &&
              !one.hasFailed && !one.mayBeLost && one.except !== reader.client &&
              !reader.received.has(one.id)
            );
            if (lost.length === 0) continue;
            report(
              { atMs: nowMs, host: host.name },
              `expected ${list(lost.map(({ id }) => id))}, published from ` +
                `${seconds(lost[0]!.atMs)} to ${seconds(lost.at(-1)!.atMs)} on "${reader.topic}" ` +
                `(${name}), received neither these nor a notice`,
            );
          }
        }
      },
    };

    function* open(subscriptions: LiveClient["subscriptions"]): Generator<[string, Reader]> {
      for (const [name, { isEnded }] of subscriptions) {
        const reader = readers.get(name);
        if (reader !== undefined && !isEnded) yield [name, reader];
      }
    }
  },
};
