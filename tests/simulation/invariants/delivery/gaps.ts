/** Gaps: a subscriber to a topic with a history misses nothing silently. */
import type { Cluster, Invariant } from "../../facts.ts";
import { place } from "../texts.ts";

/**
 * Size of a history that is large enough for all publications that arrive while a node reads a new
 * epoch.
 */
const LONG = 64;

/** Publications of one epoch of one topic, by offset. */
class Epoch {
  readonly offsets: number[] = [];
  readonly ids: string[] = [];
  /** Moves of subscribers from one offset to the next, without a known gap. */
  readonly moves: (readonly [reading: Reading, from: number, to: number, atMs: number])[] = [];
  /** True if a publication became known after a publication with a higher offset. */
  isLate = false;

  add(offset: number, id: string): void {
    const at = this.indexAfter(offset);
    if (this.offsets[at - 1] === offset) return;
    if (at < this.offsets.length) this.isLate = true;
    this.offsets.splice(at, 0, offset);
    this.ids.splice(at, 0, id);
  }

  /** Index of the first publication after an offset. Most searches are near the end. */
  indexAfter(offset: number): number {
    let at = this.offsets.length;
    for (let looked = 0; looked < 8; looked++, at--) {
      if (at === 0 || this.offsets[at - 1]! <= offset) return at;
    }
    let low = 0;
    while (low < at) {
      const middle = (low + at) >> 1;
      if (this.offsets[middle]! <= offset) low = middle + 1;
      else at = middle;
    }
    return low;
  }
}

/** Progress of one subscription. */
interface Reading {
  readonly host: string;
  readonly client: string;
  readonly subscription: string;
  readonly topic: string;
  epoch: string | undefined;
  offset: number;
  /**
   * True from the notice of a new epoch, whose oldest publications may be gone, until its first
   * publication arrives.
   */
  isAnew: boolean;
}

/**
 * There is no known publication between two publications that a subscriber receives without a
 * notice, and at the end each subscriber has received the newest one. A publication is known once
 * any subscriber has received it or `append` has resolved.
 */
export const noSilentGap: Invariant = {
  name: "no-silent-gap",
  promise: "A subscriber to a topic with a history misses no publication without a notice.",
  source: "docs/protocol.md 10.22; docs/concepts/history.md",
  watch(report, terms) {
    const topics = new Map<string, Map<string, Epoch>>();
    const newest = new Map<string, string>();
    const readings = new Map<string, Reading>();
    const leftOut = new Map<string, string>();
    const ended = new Set<string>();

    const epochOf = (topic: string, name: string): Epoch => {
      let epochs = topics.get(topic);
      if (epochs === undefined) topics.set(topic, epochs = new Map());
      let epoch = epochs.get(name);
      if (epoch === undefined) epochs.set(name, epoch = new Epoch());
      return epoch;
    };
    const readingOf = (
      { host, client, subscription, topic }: Omit<Reading, "epoch" | "offset" | "isAnew">,
    ) => {
      let reading = readings.get(subscription);
      if (reading === undefined) {
        const start = { epoch: undefined, offset: 0, isAnew: false };
        reading = { host, client, subscription, topic, ...start };
        readings.set(subscription, reading);
      }
      return reading;
    };
    /** Ids between two offsets that the subscriber should have received. */
    const missing = (reading: Reading, epoch: Epoch, from: number, to: number): string[] => {
      const [first, end] = [epoch.indexAfter(from), epoch.indexAfter(to - 1)];
      if (first === end) return [];
      return epoch.ids.slice(first, end).filter((id) => leftOut.get(id) !== reading.client);
    };
    const lacks = (reading: Reading, ids: readonly string[], from: number, to: number) =>
      `expected ${ids[0]}${ids.length > 1 ? ` to ${ids.at(-1)} (${ids.length})` : ""} between ` +
      `${place({ epoch: reading.epoch!, offset: from })} and ${to === Infinity ? "the end" : to} ` +
      `on "${reading.topic}" ` +
      `(${reading.subscription}), received neither these nor a notice`;
    /** Moves a reader forward. `to` is the first offset that need not have arrived. */
    const move = (reading: Reading, to: number, atMs: number) => {
      const epoch = epochOf(reading.topic, reading.epoch!);
      const ids = missing(reading, epoch, reading.offset, to);
      if (ids.length === 0) epoch.moves.push([reading, reading.offset, to, atMs]);
      else report({ atMs, host: reading.host }, lacks(reading, ids, reading.offset, to));
      reading.offset = to;
    };

    return {
      published({ id, except }) {
        if (except !== undefined) leftOut.set(id, except);
      },
      acknowledged({ topic, id, position }) {
        if (position === undefined) return;
        epochOf(topic, position.epoch).add(position.offset, id);
        newest.set(topic, position.epoch);
      },
      // The broker has lost publications that some subscribers have received, and reuses their
      // offsets.
      brokerLost({ topic }) {
        if (topic === undefined) topics.clear();
        else topics.delete(topic);
      },
      subscribing(fact) {
        const reading = readingOf(fact);
        reading.epoch = fact.since?.epoch;
        reading.offset = fact.since?.offset ?? 0;
      },
      subscribed(fact) {
        const reading = readingOf(fact);
        if (reading.epoch !== undefined || fact.position === undefined) return;
        reading.epoch = fact.position.epoch;
        reading.offset = fact.position.offset;
      },
      unsubscribed: ({ subscription }) => void ended.add(subscription),
      received(fact) {
        const { topic, id, position } = fact;
        if (position === undefined) return;
        const reading = readingOf(fact);
        epochOf(topic, position.epoch).add(position.offset, id);
        newest.set(topic, position.epoch);
        if (reading.epoch === undefined) {
          reading.epoch = position.epoch;
          reading.offset = position.offset;
        } else if (reading.epoch !== position.epoch) {
          report(
            fact,
            `expected a notice before ${id} at ${place(position)} on "${topic}", as the position ` +
              `was ${place({ epoch: reading.epoch, offset: reading.offset })}, received none`,
          );
          reading.epoch = position.epoch;
          reading.offset = position.offset;
        } else if (position.offset > reading.offset) {
          const { size = Infinity } = terms.historyOf(topic) ?? {};
          if (reading.isAnew && size < LONG) reading.offset = position.offset;
          else move(reading, position.offset, fact.atMs);
        }
        reading.isAnew = false;
      },
      recovery(fact) {
        const { recovered, reason, position } = fact;
        const reading = readingOf(fact);
        reading.isAnew = reason === "new-epoch";
        if (recovered && reading.epoch !== undefined && position?.epoch === reading.epoch) {
          // Publications that are not for this client move the position silently.
          if (position.offset > reading.offset) {
            move(reading, position.offset + 1, fact.atMs);
            reading.offset = position.offset;
          }
        } else if (recovered) {
          const was = reading.epoch === undefined
            ? "none"
            : place({ epoch: reading.epoch, offset: reading.offset });
          report(
            fact,
            `expected recovered: true on "${fact.topic}" only at the known position, ${was}, ` +
              `received it at ${place(position)}`,
          );
        }
        // A subscription that receives no position continues from the known position in the next
        // session.
        if (!recovered && position === undefined && reason === "unavailable") return;
        if (!recovered || reading.epoch === undefined) {
          reading.epoch = position?.epoch;
          reading.offset = position?.offset ?? 0;
        }
      },
      end(cluster) {
        for (const epochs of topics.values()) {
          for (const epoch of epochs.values()) if (epoch.isLate) lateGaps(epoch);
        }
        for (const reading of openReadings(cluster)) atHead(reading, cluster.nowMs);
      },
    };

    /** Finds gaps that appear only when the publications become known. */
    function lateGaps(epoch: Epoch): void {
      for (const [reading, from, to, atMs] of epoch.moves) {
        const ids = missing(reading, epoch, from, to);
        if (ids.length > 0) report({ atMs, host: reading.host }, lacks(reading, ids, from, to));
      }
    }

    function* openReadings({ clients }: Cluster): Generator<Reading> {
      for (const { subscriptions } of clients) {
        for (const [name, { isEnded }] of subscriptions) {
          const reading = readings.get(name);
          if (reading !== undefined && !isEnded && !ended.has(name)) yield reading;
        }
      }
    }

    /** Checks that a subscriber has received the newest publication of the topic. */
    function atHead(reading: Reading, nowMs: number): void {
      const current = newest.get(reading.topic);
      const epoch = current && topics.get(reading.topic)?.get(current);
      if (!epoch || terms.historyOf(reading.topic) === undefined) return;
      const fact = { atMs: nowMs, host: reading.host };
      if (reading.epoch !== current) {
        const was = reading.epoch === undefined
          ? "its start"
          : place({ epoch: reading.epoch, offset: reading.offset });
        const head = place({ epoch: current!, offset: epoch.offsets.at(-1) ?? 0 });
        report(
          fact,
          `expected ${reading.subscription} to come to ${head} on "${reading.topic}", received ` +
            `nothing after ${was}`,
        );
        return;
      }
      const ids = missing(reading, epoch, reading.offset, Infinity);
      if (ids.length > 0) report(fact, lacks(reading, ids, reading.offset, Infinity));
    }
  },
};
