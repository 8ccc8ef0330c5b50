/**
 * The logs of the chaos test's processes, written and read.
 *
 * @module
 */
import type { RecoveryReason } from "../../../session/wire/recovery.ts";

/** Numbers that came one after the other: from the first to the last, both included. */
export type Run = readonly [from: number, to: number];

/** A client's messages of a topic between two gaps. */
export interface Stretch {
  /** Reason of the gap before these messages; absent at the start. */
  readonly gap?: GapNote;
  /** The numbers of each publisher, in order of arrival. */
  readonly runs: Readonly<Record<string, readonly Run[]>>;
}

/** A client was told that messages may be missing. */
export interface GapNote {
  /** Why, by the server's word. */
  readonly reason: RecoveryReason;
  /** When, in milliseconds since the Unix epoch. */
  readonly at: number;
  /** Time of the client's last message of the topic, or of the subscription. */
  readonly since: number;
}

/** All that one client got of one topic. */
export interface Received {
  /** Name of the client. */
  readonly client: string;
  /** Name of the topic. */
  readonly topic: string;
  /** In order. */
  readonly stretches: readonly Stretch[];
  /** Faults in words, such as offsets that went back. */
  readonly faults: readonly string[];
}

/** All messages of one publisher on one topic, numbered 1, 2, 3 and so on. */
export interface Published {
  /** Name of the publisher. */
  readonly publisher: string;
  /** Name of the topic. */
  readonly topic: string;
  /** The last number that was tried. */
  readonly last: number;
  /** Numbers without an acknowledgement of the engine: these messages may have arrived or not. */
  readonly unsure: readonly number[];
  /** When each hundredth number was acknowledged, in milliseconds since the Unix epoch: the first is of number 1. */
  readonly times: readonly number[];
}

/** Numbers of {@linkcode Published.times} lie so far apart. */
export const TIMES_STEP = 100;

/**
 * An outage of the engine: from the end to the next start, in milliseconds since the Unix epoch.
 */
export interface Outage {
  /** Time of the engine's end. */
  readonly from: number;
  /** Time of the first answer after the restart. */
  readonly to: number;
}

/** Logs a client's messages of one topic. */
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

  /** Returns the last number of a publisher, or 0. */
  last(publisher: string): number {
    for (const { runs } of this.#stretches.toReversed()) {
      const run = runs[publisher]?.at(-1);
      if (run !== undefined) return run[1];
    }
    return 0;
  }

  /** Returns the log. */
  read(): Received {
    return {
      client: this.#client,
      topic: this.#topic,
      stretches: this.#stretches,
      faults: this.#faults,
    };
  }
}
