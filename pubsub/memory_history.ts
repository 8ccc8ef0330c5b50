/**
 * Histories of topics in the memory of one process.
 *
 * @module
 */
import type { Publication } from "./broker.ts";
import type {
  Appended,
  AppendOptions,
  HistoryBounds,
  HistoryPage,
  PublicationKey,
  ReadHistoryOptions,
} from "./history.ts";

/** Topics whose history, or place in it, is remembered; the one that is idle longest goes first. */
const MAX_LOGS = 10_000;

/** Producers of a topic whose last number is remembered. */
const MAX_PRODUCERS = 10_000;

interface Kept {
  readonly publication: Publication;
  readonly bytes: number;
  readonly at: number;
}

/** One topic. Offsets are 1, 2, 3 and so on. */
class Log {
  readonly epoch = crypto.randomUUID().slice(0, 8);
  readonly #producers = new Map<string, number>();
  #kept: Kept[] = [];
  /** Where the oldest stands in `#kept`: what is before it is cut off now and then. */
  #start = 0;
  #bytes = 0;
  #head = 0;

  /** Whether nothing is kept. */
  get isEmpty(): boolean {
    return this.#start === this.#kept.length;
  }

  /** Whether this is no repetition; notes it. */
  admit({ producer, number }: PublicationKey): boolean {
    const last = this.#producers.get(producer);
    if (last !== undefined && number <= last) return false;
    this.#producers.delete(producer);
    this.#producers.set(producer, number);
    if (this.#producers.size > MAX_PRODUCERS) deleteFirst(this.#producers);
    return true;
  }

  /** Keeps a publication, and gives it its place. */
  add(publication: Publication, bounds: HistoryBounds, now: number): Publication {
    const prev = this.#head++;
    const placed: Publication = {
      ...publication,
      position: { epoch: this.epoch, offset: this.#head, prev },
    };
    const bytes = publication.payload.length;
    this.#kept.push({ publication: placed, bytes, at: now });
    this.#bytes += bytes;
    this.trim(bounds, now);
    return placed;
  }

  /** Lets go of what is beyond the bounds. */
  trim({ size, ttlMs, bytes }: HistoryBounds, now: number): void {
    const kept = this.#kept;
    while (this.#start < kept.length) {
      const oldest = kept[this.#start]!;
      const isWithin = kept.length - this.#start <= size && this.#bytes <= bytes &&
        now - oldest.at < ttlMs;
      if (isWithin) break;
      this.#bytes -= oldest.bytes;
      this.#start++;
    }
    if (this.#start * 2 > kept.length) {
      this.#kept = kept.slice(this.#start);
      this.#start = 0;
    }
  }

  /** Reads a page. */
  read({ after, last, maxMessages, maxBytes }: ReadHistoryOptions): HistoryPage {
    const kept = this.#kept;
    const oldest = this.#head - (kept.length - this.#start) + 1;
    let from = this.#start;
    if (after !== undefined) from += Math.max(0, after + 1 - oldest);
    else if (last !== undefined) from = Math.max(from, kept.length - last);
    const publications: Publication[] = [];
    let bytes = 0;
    for (let i = from; i < kept.length && publications.length < maxMessages; i++) {
      bytes += kept[i]!.bytes;
      if (bytes > maxBytes && publications.length > 0) break;
      publications.push(kept[i]!.publication);
    }
    return { epoch: this.epoch, head: this.#head, publications };
  }
}

/** The histories of a {@linkcode MemoryBroker}; what they keep is bounded by topic, and topics are. */
export class MemoryHistories {
  /** In the order of their last publication. */
  readonly #logs = new Map<string, { readonly log: Log; readonly bounds: HistoryBounds }>();

  /** Keeps a publication; `undefined` if it is a repetition. */
  append(publication: Publication, { bounds, key }: AppendOptions): Publication | undefined {
    const { topic } = publication;
    const log = this.#logs.get(topic)?.log ?? new Log();
    this.#logs.delete(topic);
    this.#logs.set(topic, { log, bounds });
    if (this.#logs.size > MAX_LOGS) deleteFirst(this.#logs);
    if (key !== undefined && !log.admit(key)) return undefined;
    const now = Date.now();
    this.#trimIdlest(now);
    return log.add(publication, bounds, now);
  }

  /** Reads a page; a topic that nobody published on begins its history by that. */
  read(topic: string, options: ReadHistoryOptions): HistoryPage {
    let entry = this.#logs.get(topic);
    if (entry === undefined) {
      entry = { log: new Log(), bounds: options.bounds };
      this.#logs.set(topic, entry);
      if (this.#logs.size > MAX_LOGS) deleteFirst(this.#logs);
    }
    entry.log.trim(options.bounds, Date.now());
    return entry.log.read(options);
  }

  /** Forgets everything. */
  clear(): void {
    this.#logs.clear();
  }

  /** So that what nobody reads or writes any more is let go of when its time is over. */
  #trimIdlest(now: number): void {
    for (const { log, bounds } of this.#logs.values()) {
      if (log.isEmpty) continue;
      log.trim(bounds, now);
      return;
    }
  }
}

/** What became of an append that the memory took. */
export function appended(placed: Publication | undefined): Appended {
  return placed?.position === undefined ? {} : { position: placed.position };
}

function deleteFirst(map: Map<string, unknown>): void {
  for (const key of map.keys()) {
    map.delete(key);
    return;
  }
}
