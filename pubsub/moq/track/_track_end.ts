/**
 * When a track that ends is over: groups come on streams of their own, and so behind its end too.
 *
 * @module
 */
import type { Sequences } from "./_sequences.ts";
import type { MissedGroups } from "../wire/errors.ts";
import type { SubscribeFields } from "../wire/messages.ts";

/**
 * How long after the publisher's end, or after the last group that came behind it, others may still
 * come, on versions that do not tell the last one.
 */
export const END_GRACE_MS = 500;

/** The same where the last one is known, and not all before it came. */
export const END_WAIT_MS = 5_000;

/** Looks after the end of one track. */
export class TrackEnd {
  readonly #settled: Sequences;
  readonly #onOver: () => void;
  #first: number | undefined = undefined;
  /** The one behind the last. */
  #end: number | undefined = undefined;
  #timer: ReturnType<typeof setTimeout> | undefined = undefined;

  /** Begins with a track that does not end yet. */
  constructor(settled: Sequences, onOver: () => void) {
    this.#settled = settled;
    this.#onOver = onOver;
  }

  /** The publisher told its first group. */
  begin(first: number): void {
    this.#first = first;
  }

  /** The number behind the last group, as far as somebody told. */
  behind(end: number | undefined): void {
    this.#end = end ?? this.#end;
  }

  /** Something came, or was dropped: it is over, or others may still come. */
  wait(wanted: SubscribeFields): void {
    this.stop();
    if (this.#isWhole(wanted)) return this.#onOver();
    const waitMs = this.#end === undefined ? END_GRACE_MS : END_WAIT_MS;
    this.#timer = setTimeout(() => this.#onOver(), waitMs);
  }

  /** Nothing is waited for any more. */
  stop(): void {
    clearTimeout(this.#timer);
  }

  /** The groups that were wanted, from the first one there is to the last; `undefined` if there are none. */
  range({ startGroup, endGroup = Infinity }: SubscribeFields): MissedGroups | undefined {
    const { lowest, highest = -1 } = this.#settled;
    const first = this.#first ?? startGroup ?? lowest;
    if (first === undefined) return undefined;
    const begin = Math.max(startGroup ?? 0, Math.min(first, lowest ?? first));
    const last = Math.min(this.#end === undefined ? highest : this.#end - 1, endGroup);
    return last < begin ? undefined : { first: begin, last };
  }

  #isWhole(wanted: SubscribeFields): boolean {
    if (this.#end === undefined) return false;
    const range = this.range(wanted);
    return range === undefined || this.#settled.has(range.first, range.last);
  }
}
