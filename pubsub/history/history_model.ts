/** Reference model of one history at a broker: the pages that a read may return. */
import {
  countedBytes,
  type HistoryBounds,
  type HistoryPage,
  type Publication,
  type PublicationPosition,
  type ReadHistoryOptions,
} from "../broker.ts";

/** Maximum difference between the clocks of nodes and broker, in milliseconds. */
const CLOCK_MS = 250;

export interface Span {
  readonly fromMs: number;
  readonly toMs: number;
}

/** A publication that the broker acknowledged. */
export interface Acknowledged {
  readonly payload: string;
  readonly position: Pick<PublicationPosition, "epoch" | "offset" | "tag">;
  /** Time in which the broker accepted the publication. */
  readonly taken: Span;
}

export type Query = Omit<ReadHistoryOptions, "bounds" | "signal">;

/** A difference between a page and the model. */
export interface Difference {
  readonly expected: string;
  readonly received: string;
}

/**
 * One history, by the contract of `BrokerHistory`. Payloads are ASCII, so a character is a byte.
 */
export class HistoryModel {
  readonly #bounds: HistoryBounds;
  readonly #hasExactBytes: boolean;
  readonly #all: Acknowledged[] = [];

  /**
   * @param options `hasExactBytes` is false for a broker that may keep publications beyond the bytes.
   */
  constructor(
    bounds: HistoryBounds,
    { hasExactBytes = true }: { readonly hasExactBytes?: boolean } = {},
  ) {
    this.#bounds = bounds;
    this.#hasExactBytes = hasExactBytes;
  }

  /** All publications so far, also those that are no longer kept, by offset. */
  get all(): readonly Acknowledged[] {
    return this.#all;
  }

  /** The newest offset; 0 without publications. */
  get head(): number {
    return this.#all.at(-1)?.position.offset ?? 0;
  }

  /**
   * Adds publications.
   *
   * @param publications The publications, in any order.
   */
  add(publications: readonly Acknowledged[]): void {
    this.#all.push(...publications);
    this.#all.sort((a, b) => a.position.offset - b.position.offset);
  }

  /**
   * Compares a page with the contract.
   *
   * @param query The part that was read.
   * @param read Time of the read.
   * @returns The first difference; `undefined` if there is none.
   */
  differenceOf(query: Query, page: HistoryPage, read: Span): Difference | undefined {
    const starts = this.#startsAt(read);
    const pages = starts.map((start) => this.#pageFrom(start, query));
    const received = textOf(page.publications);
    const { length } = page.publications;
    // A page may be shorter than its bounds, as long as it lets the reader continue.
    const right = pages.find((one) =>
      textOf(one.slice(0, length)) === received && (length > 0 || one.length === 0)
    );
    if (right === undefined) {
      return differs("page", pages.map(textOf).join(" or "), received);
    }
    const newest = this.#all.at(-1);
    if (newest === undefined) return undefined;
    const { epoch } = newest.position;
    if (page.epoch !== epoch) return differs("epoch", epoch, page.epoch);
    // A broker may return any later offset as the head of an empty history.
    const isEmpty = starts.includes(this.#all.length);
    if (isEmpty ? page.head < this.head : page.head !== this.head) {
      return differs("head", this.head, page.head);
    }
    return this.#positionsDifference(query, page, right) ?? this.#anchorDifference(query, page);
  }

  #positionsDifference(
    query: Query,
    { publications }: HistoryPage,
    right: readonly Acknowledged[],
  ): Difference | undefined {
    for (const [i, { position }] of publications.entries()) {
      const { offset, tag, prev } = position!;
      const expected = right[i]!.position;
      if (offset !== expected.offset) return differs("offset", expected.offset, offset);
      if (tag !== expected.tag) return differs("tag", expected.tag, tag);
      const before = this.#all[this.#all.indexOf(right[i]!) - 1]?.position.offset ?? 0;
      const isRight = i > 0 ? prev === before : isFirstPrev(prev, { before, offset }, query);
      if (!isRight) return differs(`prev of ${offset}`, before, prev);
    }
    return undefined;
  }

  #anchorDifference({ after }: Query, { anchor }: HistoryPage): Difference | undefined {
    const at = this.#all.find(({ position }) => position.offset === after);
    if (at === undefined) {
      return anchor == null ? undefined : differs("tag at no publication", undefined, anchor);
    }
    const { tag } = at.position;
    return anchor === undefined || anchor === tag
      ? undefined
      : differs(`tag at ${after}`, tag, anchor);
  }

  /** Indices of the oldest kept publication at a time, several of them if clocks differ. */
  #startsAt(read: Span): number[] {
    const { size, bytes: most, ttlMs } = this.#bounds;
    const all = this.#all;
    let oldest = all.length;
    for (let bytes = 0; oldest > 0 && all.length - oldest < size; oldest--) {
      bytes += countedBytes(all[oldest - 1]!.payload.length, 1);
      if (bytes > most) break;
    }
    const starts: number[] = [];
    if (!this.#hasExactBytes) {
      for (let i = Math.max(0, all.length - size); i < oldest; i++) starts.push(i);
    }
    for (let i = oldest; i <= all.length; i++) {
      const taken = all[i]?.taken;
      if (taken !== undefined && read.fromMs - taken.toMs >= ttlMs + CLOCK_MS) continue;
      starts.push(i);
      if (taken !== undefined && read.toMs - taken.fromMs < ttlMs - CLOCK_MS) break;
    }
    return starts;
  }

  /** The page of a query, if the oldest kept publication has an index. */
  #pageFrom(start: number, { after, last, maxMessages, maxBytes }: Query): Acknowledged[] {
    const kept = this.#all.slice(start);
    const wanted = after !== undefined
      ? kept.filter(({ position }) => position.offset > after)
      : kept.slice(last === undefined ? 0 : Math.max(0, kept.length - last));
    const page: Acknowledged[] = [];
    let bytes = 0;
    for (const one of wanted.slice(0, maxMessages)) {
      bytes += one.payload.length;
      if (bytes > maxBytes && page.length > 0) break;
      page.push(one);
    }
    return page;
  }
}

/**
 * Checks the first `prev` of a page, which may be inexact if the previous publication is no longer
 * kept: a reader compares it with the position after which it reads.
 */
function isFirstPrev(
  prev: number,
  { before, offset }: { readonly before: number; readonly offset: number },
  { after }: Query,
): boolean {
  if (prev >= offset || before > 0 && prev < before) return false;
  return after === undefined || after === 0 || (prev <= after) === (before <= after);
}

function differs(what: string, expected: unknown, received: unknown): Difference {
  return { expected: `${what} ${expected}`, received: `${what} ${received}` };
}

/** Lists the payloads, without the padding that makes them long. */
function textOf(publications: readonly Pick<Publication, "payload">[]): string {
  return publications.map(({ payload }) => `${payload}`.trim()).join(" ");
}
