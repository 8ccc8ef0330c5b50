/**
 * What the processes of the chaos test write down, and what is read from it.
 *
 * @module
 */
import type { RecoveryReason } from "../../../session/wire/recovery.ts";

/** Numbers that came one after the other: from the first to the last, both included. */
export type Run = readonly [from: number, to: number];

/** What a client got of a topic between two gaps. */
export interface Stretch {
  /** Why it began, where it was not the beginning: the client was told that messages are missing. */
  readonly gap?: GapNote;
  /** The numbers of each publisher, in the order in which they came. */
  readonly runs: Readonly<Record<string, readonly Run[]>>;
}

/** A client was told that messages may be missing. */
export interface GapNote {
  /** Why, by the server's word. */
  readonly reason: RecoveryReason;
  /** When, in milliseconds since the Unix epoch. */
  readonly at: number;
  /** When the client had its last message of the topic, or subscribed. */
  readonly since: number;
}

/** All that one client got of one topic. */
export interface Received {
  /** Who. */
  readonly client: string;
  /** Of what. */
  readonly topic: string;
  /** In order. */
  readonly stretches: readonly Stretch[];
  /** What must not be: offsets that went back, and the like, in words. */
  readonly faults: readonly string[];
}

/** All that one publisher put on one topic. Its numbers are 1, 2, 3 and so on, in that order. */
export interface Published {
  /** Who. */
  readonly publisher: string;
  /** On what. */
  readonly topic: string;
  /** The last number that was tried. */
  readonly last: number;
  /** Numbers that the engine did not acknowledge: they may have come, or not. */
  readonly unsure: readonly number[];
  /** When each hundredth number was acknowledged, in milliseconds since the Unix epoch: the first is of number 1. */
  readonly times: readonly number[];
}

/** Numbers of {@linkcode Published.times} lie so far apart. */
export const TIMES_STEP = 100;

/** When the engine was away: from its end to its next start, in milliseconds since the Unix epoch. */
export interface Outage {
  /** When it was ended. */
  readonly from: number;
  /** When it answered again. */
  readonly to: number;
}

/** Writes down what a client gets of one topic. */
export class Recorder {
  readonly #client: string;
  readonly #topic: string;
  readonly #stretches: { gap?: GapNote; runs: Record<string, [number, number][]> }[] = [];
  readonly #faults: string[] = [];
  #epoch = "";
  #offset = 0;
  #lastAt: number;

  /** Begins to write. */
  constructor(client: string, topic: string, now: number) {
    this.#client = client;
    this.#topic = topic;
    this.#lastAt = now;
    this.#stretches.push({ runs: {} });
  }

  /** A message came. */
  message(
    publisher: string,
    number: number,
    place: { readonly epoch: string; readonly offset: number } | undefined,
    now: number,
  ): void {
    this.#lastAt = now;
    if (place === undefined) this.#faults.push(`${publisher} ${number} has no place`);
    else {
      if (place.epoch === this.#epoch && place.offset <= this.#offset) {
        this.#faults.push(`offset ${place.offset} after ${this.#offset} of ${place.epoch}`);
      }
      this.#epoch = place.epoch;
      this.#offset = place.offset;
    }
    const runs = this.#stretches.at(-1)!.runs[publisher] ??= [];
    const run = runs.at(-1);
    if (run !== undefined && number === run[1] + 1) run[1] = number;
    else runs.push([number, number]);
  }

  /** The client was told of a gap. */
  gap(reason: RecoveryReason, now: number): void {
    this.#stretches.push({ gap: { reason, at: now, since: this.#lastAt }, runs: {} });
    this.#lastAt = now;
  }

  /** The last number of a publisher, 0 if there was none. */
  last(publisher: string): number {
    for (const { runs } of this.#stretches.toReversed()) {
      const run = runs[publisher]?.at(-1);
      if (run !== undefined) return run[1];
    }
    return 0;
  }

  /** What was written. */
  read(): Received {
    return {
      client: this.#client,
      topic: this.#topic,
      stretches: this.#stretches,
      faults: this.#faults,
    };
  }
}
