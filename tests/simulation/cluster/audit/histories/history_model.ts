/** A reference model of one history at an engine: the pages that a broker may return. */
import {
  countedBytes,
  type HistoryBounds,
  type HistoryPage,
  type Publication,
  type PublicationPosition,
  type ReadHistoryOptions,
} from "../../../../../pubsub/broker.ts";

/** Difference between the clocks of nodes and engine that no promise forbids, in milliseconds. */
const CLOCK_MS = 250;

/** A span of true time, in milliseconds. */
export interface Span {
  readonly fromMs: number;
  readonly toMs: number;
}

/** A publication that the engine acknowledged. */
export interface Acknowledged {
  readonly payload: string;
  readonly position: Pick<PublicationPosition, "epoch" | "offset" | "tag">;
  /** The time in which the engine took the publication. */
  readonly taken: Span;
}

/** The part of a history that a read asks for. */
export type Query = Omit<ReadHistoryOptions, "bounds" | "signal">;

/**
 * One history, as the contract of `BrokerHistory` describes it. Payloads are ASCII, so that the bytes
 * of a payload are the characters.
 */
export class HistoryModel {
  readonly #bounds: HistoryBounds;
  readonly #hasExactBytes: boolean;
  /** All publications so far, by offset. */
  readonly #all: Acknowledged[] = [];

  /**
   * Creates an empty history.
   *
   * @param bounds Bounds of the history.
   * @param options `hasExactBytes` is false for an engine that may keep publications beyond the
   * bytes, and return these behind one that is still kept.
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
   * @param query The part that was asked for.
   * @param page The page.
   * @param read The time of the read.
   * @returns The first difference, as expected and received; `undefined` for a good page.
   */
  differenceOf(
    query: Query,
    page: HistoryPage,
    read: Span,
  ): { readonly expected: string; readonly received: string } | undefined {
    const all = this.#all;
    const difference = (what: string, expected: unknown, received: unknown) => ({
      expected: `${what} ${expected}`,
      received: `${what} ${received}`,
    });
    const starts = this.#startsAt(read);
    const pages = starts.map((start) => this.#pageFrom(start, query));
    const received = textOf(page.publications);
    const { length } = page.publications;
    // A page may be shorter than its bounds, as long as a reader gets on.
    const right = pages.find((one) =>
      textOf(one.slice(0, length)) === received && (length > 0 || one.length === 0)
    );
    if (right === undefined) return difference("page", pages.map(textOf).join(" or "), received);
    const newest = all.at(-1);
    if (newest === undefined) return undefined;
    if (page.epoch !== newest.position.epoch) {
      return difference("epoch", newest.position.epoch, page.epoch);
    }
    // An engine may name any offset behind an empty history, after which no publication was lost.
    const isEmpty = starts.includes(all.length);
    if (isEmpty ? page.head < this.head : page.head !== this.head) {
      return difference("head", this.head, page.head);
    }
    for (const [i, { position }] of page.publications.entries()) {
      const { offset, tag, prev } = position!;
      const expected = right[i]!.position;
      if (offset !== expected.offset) return difference("offset", expected.offset, offset);
      if (tag !== expected.tag) return difference("tag", expected.tag, tag);
      const before = all[all.indexOf(right[i]!) - 1]?.position.offset ?? 0;
      const isRight = i > 0 ? prev === before : this.#isPrev(prev, { before, offset }, query);
      if (!isRight) return difference(`prev of ${offset}`, before, prev);
    }
    return this.#anchorDifference(query, page.anchor, difference);
  }

  /**
   * The first `prev` of a page may be inexact, if the publication before is no longer kept. A reader
   * relies on the comparison with the position of the reader.
   */
  #isPrev(
    prev: number,
    { before, offset }: { readonly before: number; readonly offset: number },
    { after }: Query,
  ): boolean {
    if (prev >= offset || before > 0 && prev < before) return false;
    return after === undefined || after === 0 || (prev <= after) === (before <= after);
  }

  #anchorDifference<T>(
    { after }: Query,
    anchor: HistoryPage["anchor"],
    difference: (what: string, expected: unknown, received: unknown) => T,
  ): T | undefined {
    const at = this.#all.find(({ position }) => position.offset === after);
    if (at === undefined) {
      return anchor == null ? undefined : difference("tag at no publication", undefined, anchor);
    }
    return anchor === undefined || anchor === at.position.tag
      ? undefined
      : difference(`tag at ${after}`, at.position.tag, anchor);
  }

  /** Indices of the oldest kept publication at a time, of which clocks leave some open. */
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
      const { taken } = all[i] ?? { taken: undefined };
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

/** Lists the payloads, without the spaces that make them long. */
function textOf(publications: readonly Pick<Publication, "payload">[]): string {
  return publications.map(({ payload }) => `${payload}`.trim()).join(" ");
}
