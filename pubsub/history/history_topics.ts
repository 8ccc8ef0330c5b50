/** The topics with a history of one node, and the resources that their feeds share. */
import { UnsupportedError } from "../../errors.ts";
import { PRESENCE_PREFIX } from "../../session/wire/presence_notice.ts";
import type { Session } from "../../session/session.ts";
import type { Runtime, Timer } from "../../base/runtime.ts";
import { checkLimits, withoutUndefined } from "../../base/options/options.ts";
import { type HistoryPosition, STREAM_PREFIX } from "../../session/wire/recovery.ts";
import { TopicRouter } from "../../session/wire/topic_pattern.ts";
import type { Flusher } from "../../session/queue/flusher.ts";
import { stamp } from "./replay.ts";
import { Semaphore } from "./semaphore.ts";
import { TailBudget } from "./tail_cache.ts";
import type { Broker, BrokerHistory, HistoryBounds, Publication, TopicHistory } from "../broker.ts";
import { type Agreement, widestWith } from "../nodes/agreement.ts";
import { decodeBinary } from "../../session/wire/encode.ts";
import { waitFor } from "../../base/wait.ts";
import { type FeedCounts, type FeedHost, TopicFeed } from "./topic_feed.ts";

export const DEFAULT_BOUNDS: HistoryBounds = { size: 1_000, ttlMs: 300_000, bytes: 1_048_576 };

/**
 * Maximum number of pages replayed in a turn of the event loop, and of concurrent reads from the
 * broker for replays.
 */
export const MAX_REPLAYS = 64;

/** Maximum number of topics that catch up with the broker at the same time. */
const MAX_SYNCS = 64;

/** Interval in which each silent topic is compared with the broker once, in milliseconds. */
const CHECK_INTERVAL_MS = 20_000;

/** Maximum number of publications and of payload bytes in a page that the application reads. */
const READ_PAGE = { maxMessages: 256, maxBytes: 1_048_576 };

/** Prefixes of topics that no pattern matches. */
const INTERNAL_PREFIXES = [PRESENCE_PREFIX, STREAM_PREFIX, "$skein:"];

/**
 * Bounds within which publications are kept while the bounds of other nodes are not known yet, in
 * the first moments of a node.
 */
const UNKNOWN_BOUNDS: HistoryBounds = { size: 1e9, ttlMs: 604_800_000, bytes: 1e12 };

interface HistoryTopicsOptions {
  readonly runtime: Runtime;
  /** Broker that delivers and keeps the publications. */
  readonly broker: Broker;
  /** Flushes all sessions. */
  readonly flusher: Flusher;
  /** Pattern of topics to the bounds of their histories. */
  readonly history: Readonly<Record<string, Partial<HistoryBounds>>>;
  readonly sessionOf: (id: string) => Session | undefined;
}

/** All feeds of a node. */
export class HistoryTopics {
  readonly counts: FeedCounts = {
    duplicates: 0,
    recovered: 0,
    gaps: 0,
    reads: 0,
    replays: 0,
    replayed: 0,
  };
  /** The patterns of topics with a history on this node, with their bounds. */
  readonly patterns: Readonly<Record<string, HistoryBounds>>;
  readonly #runtime: Runtime;
  readonly #router: TopicRouter<{
    readonly bounds: HistoryBounds;
    readonly history: TopicHistory;
    /** The same history, once all nodes agree. */
    readonly agreed: TopicHistory;
  }>;
  readonly #host: FeedHost | undefined;
  readonly #feeds = new Set<TopicFeed>();
  #timer: Timer | undefined;
  #agreement: Agreement | undefined;

  /**
   * @param options See {@linkcode HistoryTopicsOptions}.
   * @throws {TypeError} If a pattern is malformed, or two patterns overlap.
   * @throws {RangeError} If a bound is not a positive integer.
   * @throws {UnsupportedError} If the broker keeps no history.
   */
  constructor({ runtime, broker, flusher, history, sessionOf }: HistoryTopicsOptions) {
    this.#runtime = runtime;
    const routes = Object.entries(history).map(([pattern, given]) => {
      const of = `server: history of "${pattern}": `;
      const bounds = checkLimits(DEFAULT_BOUNDS as Bounds, given, { of });
      const history: TopicHistory = { ...bounds, pattern };
      return [pattern, {
        bounds,
        history,
        agreed: { ...history, isAgreed: true as const },
      }] as const;
    });
    this.patterns = Object.fromEntries(routes.map(([pattern, { bounds }]) => [pattern, bounds]));
    this.#router = new TopicRouter(routes, "create server");
    if (routes.length === 0) return;
    if (broker.history === undefined) {
      throw new UnsupportedError(
        `Cannot create server: the ${broker.name} broker keeps no history`,
      );
    }
    this.#host = {
      runtime,
      broker,
      history: broker.history,
      flusher,
      tails: new TailBudget(),
      catchingUp: new Semaphore(runtime, MAX_SYNCS),
      replaying: new Semaphore(runtime, MAX_REPLAYS),
      counts: this.counts,
      underWay: new Map(),
      aheadBytes: 0,
      sessionOf,
      others: {
        held: () => this.#agreement?.held,
        historiesOf: (topic) => this.historiesOf(topic),
        wasOutside: (topic) => this.#agreement?.wasOutside(topic) ?? false,
        historyOf: (topic) => this.historyOf(topic)!,
      },
    };
  }

  /** Receives what nodes with other options publish, from now on. */
  agree(agreement: Agreement): void {
    this.#agreement = agreement;
  }

  /**
   * Lists how other nodes may publish on a topic: with a history, or `undefined` for without one.
   */
  historiesOf(topic: string): Iterable<TopicHistory | undefined> {
    if (this.#agreement === undefined || isReserved(topic)) return [];
    const histories = this.#agreement.historiesOf(topic);
    // The options of the others are not known yet.
    return this.#agreement.isSettled ? histories : [...histories, undefined];
  }

  /** The history of the broker; `undefined` if no topic has a history. */
  get history(): BrokerHistory | undefined {
    return this.#host?.history;
  }

  /** Bytes of publications kept in memory for replays. */
  get tailBytes(): number {
    return this.#host?.tails.bytes ?? 0;
  }

  /** Number of a session's subscriptions that wait for the broker, or are being replayed. */
  underWay(session: Session): number {
    return this.#host?.underWay.get(session) ?? 0;
  }

  /** Bytes of pages that have been read and wait for slow sessions. */
  get waitingBytes(): number {
    return this.#host?.aheadBytes ?? 0;
  }

  get waiting(): number {
    return this.#host?.replaying.waiting ?? 0;
  }

  /** The history of a topic for the broker; `undefined` if the topic has no history. */
  historyOf(topic: string): TopicHistory | undefined {
    const match = this.#match(topic);
    if (match === undefined) return undefined;
    const { bounds, history, agreed } = match;
    if (this.#agreement === undefined) return history;
    if (this.#agreement.isAgreed) return agreed;
    const widest = this.#agreement.isSettled
      ? this.#agreement.widestOf(topic, bounds)
      : widestWith(UNKNOWN_BOUNDS, bounds);
    return widest === undefined ? history : { ...history, widest };
  }

  #match(topic: string) {
    // An untyped program may pass a value that is not a string, which is rejected later.
    const isNone = this.#host === undefined || typeof topic !== "string" || isReserved(topic);
    return isNone ? undefined : this.#router.match(topic);
  }

  /** Reads the publications that a topic keeps when the first page is read. */
  async *read(
    topic: string,
    bounds: TopicHistory,
    { after, signal }: {
      readonly after: number | undefined;
      readonly signal?: AbortSignal | undefined;
    },
  ): AsyncGenerator<Publication, void, undefined> {
    let until = Infinity;
    for (let next = after; next === undefined || next < until;) {
      const page = await waitFor(
        this.#runtime,
        this.history!.read(topic, {
          bounds,
          ...READ_PAGE,
          after: next,
          signal,
        }),
        { what: "reply from the broker", signal },
      );
      until = Math.min(until, page.head);
      next = page.publications.at(-1)?.position?.offset ?? until;
      for (const publication of page.publications) {
        if (publication.position!.offset <= until) yield publication;
      }
    }
  }

  /** Finds the position of the newest publication at the time of the call. */
  async position(
    topic: string,
    bounds: TopicHistory,
    { signal }: { readonly signal?: AbortSignal | undefined },
  ): Promise<HistoryPosition> {
    const reading = this.history!.read(topic, {
      bounds,
      ...READ_PAGE,
      last: 1,
      signal,
    });
    const { epoch, head: offset, publications } = await waitFor(this.#runtime, reading, {
      what: "reply from the broker",
      signal,
    });
    const newest = publications.at(-1)?.position;
    const tag = offset === 0 ? stamp(this.#runtime.now()) : newest?.tag;
    const isNewest = offset === 0 || newest?.offset === offset;
    return withoutUndefined({ epoch, offset, tag: isNewest ? tag : undefined });
  }

  /** Starts to follow a topic. */
  open(topic: string): TopicFeed {
    const feed = new TopicFeed(topic, this.#host!);
    this.#feeds.add(feed);
    this.#timer ??= this.#startTimer();
    return feed;
  }

  /** Stops following a topic. */
  close(feed: TopicFeed): void {
    this.#feeds.delete(feed);
    feed.close();
    if (this.#feeds.size > 0) return;
    this.#runtime.clearTimeout(this.#timer);
    this.#timer = undefined;
  }

  /**
   * Compares silent topics with the broker, because if the last publication is lost, this does not
   * show until another one follows.
   */
  #startTimer(): Timer {
    const delayMs = CHECK_INTERVAL_MS * (1 + this.#runtime.random()) / 2;
    return this.#runtime.setTimeout(() => {
      for (const feed of this.#feeds) if (!feed.takeHeard()) void feed.sync();
      this.#timer = this.#startTimer();
    }, delayMs);
  }
}

/**
 * Decodes the payload of a publication.
 *
 * @param publication The publication, as the broker returned it.
 * @returns The data, which is a `Uint8Array` for a binary message, and the publisher, if named.
 */
export function contentOf({ payload }: Publication): {
  readonly data?: unknown;
  readonly from?: string;
} {
  if (typeof payload === "string") return JSON.parse(payload);
  const parts = decodeBinary(payload);
  return parts === undefined ? {} : { ...JSON.parse(parts.head), data: parts.data };
}

/** True for a topic that no pattern matches. */
function isReserved(topic: string): boolean {
  return INTERNAL_PREFIXES.some((prefix) => topic.startsWith(prefix));
}

type Bounds = Record<keyof HistoryBounds, number>;
