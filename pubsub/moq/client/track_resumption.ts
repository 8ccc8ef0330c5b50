/**
 * How the groups of a track follow each other across a loss.
 *
 * @module
 */
import type { TrackReader } from "../track/track_reader.ts";
import type { MissedGroups } from "../wire/errors.ts";

/** How a track goes on after a loss: what the first group of the new subscription has to do with those before. */
export interface TrackResumption {
  /** The highest number that was yielded before. */
  readonly after: number;
  /** The number of the first group since. */
  readonly sequence: number;
  /** Groups between the two, which nobody gets any more; `undefined` if there are none, or none can be told. */
  readonly missed: MissedGroups | undefined;
  /**
   * `next`, without a gap; `gap`, with groups missing; `again`, the group that was the last one, whole;
   * `restarted`, where the numbers are lower: the publisher began anew, and what is missing nobody knows.
   */
  readonly kind: "next" | "gap" | "again" | "restarted";
}

/** Follows the numbers of groups over one subscription after the other. */
export class Resumptions {
  #reading: TrackReader | undefined = undefined;
  #last: number | undefined = undefined;
  #latest: TrackResumption | undefined = undefined;
  #count = 0;

  /** How the last group follows those before it, if it is the first after a loss. */
  get latest(): TrackResumption | undefined {
    return this.#latest;
  }

  /** How often the track went on after a loss. */
  get count(): number {
    return this.#count;
  }

  /**
   * Takes note of a group.
   *
   * @param reader The subscription that it came by.
   * @param sequence Its number.
   * @returns How it follows those before, if it is the first after a loss.
   */
  note(reader: TrackReader, sequence: number): TrackResumption | undefined {
    const after = this.#last;
    const isSame = reader === this.#reading;
    this.#reading = reader;
    this.#latest = undefined;
    if (isSame || after === undefined) {
      this.#last = Math.max(after ?? 0, sequence);
      return undefined;
    }
    this.#last = sequence;
    this.#count++;
    const kind = kindOf(after, sequence);
    const missed = kind === "gap" ? { first: after + 1, last: sequence - 1 } : undefined;
    return this.#latest = { after, sequence, missed, kind };
  }
}

function kindOf(after: number, sequence: number): TrackResumption["kind"] {
  if (sequence === after + 1) return "next";
  if (sequence === after) return "again";
  return sequence < after ? "restarted" : "gap";
}
