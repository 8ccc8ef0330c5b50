/** Pages of one topic's history, read from the broker. */
import { MAX_TAG_LENGTH, placed } from "../../session/wire/encode.ts";
import { waitFor } from "../../base/wait.ts";
import type { Runtime } from "../../base/runtime.ts";
import type { PageBounds, Placed } from "./tail_cache.ts";
import type {
  BrokerHistory,
  HistoryPage,
  Publication,
  PublicationPosition,
  TopicHistory,
} from "../broker.ts";

/** Maximum number of publications and bytes in a page, even if send queues are larger. */
const MAX_PAGE = { maxMessages: 128, maxBytes: 524_288 };

/** Form of a tag from a broker. */
const TAG = new RegExp(`^[\\w-]{1,${MAX_TAG_LENGTH}}$`);

/** Time limit of one read, in milliseconds. */
const READ_TIMEOUT_MS = 5_000;

/** A publication of a topic with a history. */
export type Positioned = Publication & { readonly position: PublicationPosition };

/** The part of a history to read: after an offset, or the newest publications. */
export interface HistoryQuery {
  readonly after?: number | undefined;
  readonly last?: number | undefined;
}

export interface PositionedPage {
  readonly epoch: string;
  readonly head: number;
  readonly anchor: HistoryPage["anchor"];
  readonly publications: readonly Positioned[];
}

/** A page of encoded publications. */
export interface PlacedPage {
  readonly epoch: string;
  /** The newest offset at the time of reading. */
  readonly head: number;
  readonly anchor: HistoryPage["anchor"];
  readonly items: readonly Placed[];
}

/** Reads the history of one topic. */
export class HistoryReader {
  readonly #runtime: Runtime;
  readonly #topic: string;
  readonly #bounds: () => TopicHistory;
  readonly #history: BrokerHistory;
  readonly #signal: AbortSignal;
  readonly #counts: { reads: number };
  readonly #shared = new Map<string, Promise<PlacedPage>>();
  #page: PageBounds = MAX_PAGE;

  constructor(
    topic: string,
    bounds: () => TopicHistory,
    options: {
      readonly runtime: Runtime;
      readonly history: BrokerHistory;
      readonly counts: { reads: number };
      readonly signal: AbortSignal;
    },
  ) {
    this.#runtime = options.runtime;
    this.#topic = topic;
    this.#bounds = bounds;
    this.#history = options.history;
    this.#counts = options.counts;
    this.#signal = options.signal;
  }

  get page(): PageBounds {
    return this.#page;
  }

  /** Lowers the bounds of pages to those of a session. */
  narrow({ maxMessages, maxBytes }: PageBounds): void {
    this.#page = {
      maxMessages: Math.min(this.#page.maxMessages, maxMessages),
      maxBytes: Math.min(this.#page.maxBytes, maxBytes),
    };
  }

  /** Reads a page by a read that starts now. Rejects if the broker does not respond. */
  async read(query: HistoryQuery): Promise<PositionedPage> {
    this.#counts.reads++;
    const signal = this.#signal;
    const options = { ...query, ...this.#page, bounds: this.#bounds(), signal };
    const { epoch, head, anchor, publications } = await waitFor(
      this.#runtime,
      this.#history.read(this.#topic, options),
      { what: "reply from the broker", timeoutMs: READ_TIMEOUT_MS, signal },
    );
    // Publications up to `after` would make the caller request the same page repeatedly.
    const { after = -1 } = query;
    const asked = publications.filter(isPositioned).filter((one) => one.position.offset > after);
    return { epoch, head, anchor, publications: asked };
  }

  /** Reads a page for a replay; calls with the same query share a read in progress. */
  share(query: HistoryQuery): Promise<PlacedPage> {
    const key = `${query.after} ${query.last}`;
    let reading = this.#shared.get(key);
    if (reading === undefined) {
      reading = this.read(query)
        .then(({ epoch, head, anchor, publications }) => ({
          epoch,
          head,
          anchor,
          items: publications.map(place),
        }))
        .finally(() => this.#shared.delete(key));
      this.#shared.set(key, reading);
    }
    return reading;
  }
}

export function isPositioned(publication: Publication): publication is Positioned {
  return publication.position !== undefined;
}

/** Encodes a publication with its position, once for all subscribers. */
export function place({ topic, payload, bytes, position, except }: Positioned): Placed {
  const { offset, prev } = position;
  // The tag is written into the JSON unescaped.
  const tag = position.tag !== undefined && TAG.test(position.tag) ? position.tag : undefined;
  const message = { ...placed(payload, topic, { offset, prev, tag, bytes }), position };
  return { message, offset, prev, tag, except };
}
