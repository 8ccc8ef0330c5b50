/**
 * Writes and reads the logs of the chaos test's processes.
 *
 * @module
 */
import type { RecoveryReason } from "../../../session/wire/recovery.ts";

/** Consecutive numbers, from the first to the last inclusive. */
export type Run = readonly [from: number, to: number];

/** A client's messages of a topic between two gaps. */
export interface Stretch {
  /** Reason for the gap before these messages. It is absent for the first stretch. */
  readonly gap?: GapNote;
  /** The numbers of each publisher, in order of arrival. */
  readonly runs: Readonly<Record<string, readonly Run[]>>;
}

/** A gap: the server reported to a client that messages may be missing. */
export interface GapNote {
  /** The reason that the server reported. */
  readonly reason: RecoveryReason;
  /** Time of the report, in milliseconds since the Unix epoch. */
  readonly at: number;
  /** Time of the client's last message of the topic, or of its subscription. */
  readonly since: number;
}

/** All messages that one client received on one topic. */
export interface Received {
  /** Name of the client. */
  readonly client: string;
  /** Name of the topic. */
  readonly topic: string;
  /** The stretches, in order. */
  readonly stretches: readonly Stretch[];
  /** Descriptions of faults, such as decreasing offsets. */
  readonly faults: readonly string[];
}

/** All messages of one publisher on one topic, numbered 1, 2, 3 and so on. */
export interface Published {
  /** Name of the publisher. */
  readonly publisher: string;
  /** Name of the topic. */
  readonly topic: string;
  /** The last number that the publisher sent. */
  readonly last: number;
  /** Numbers that the broker did not acknowledge. These messages may or may not have arrived. */
  readonly unsure: readonly number[];
  /**
   * Time at which every hundredth number, starting with number 1, was acknowledged, in milliseconds
   * since the Unix epoch.
   */
  readonly times: readonly number[];
}

/** Distance between the numbers of {@linkcode Published.times}. */
export const TIMES_STEP = 100;

/**
 * An outage of the broker, from its crash until it replies again, in milliseconds since the Unix
 * epoch.
 */
export interface Outage {
  /** Time of the crash. */
  readonly from: number;
  /** Time of the first reply after the restart. */
  readonly to: number;
}

/** Logs the messages that a client receives on one topic. */
export class Recorder {
  readonly #client: string;
  readonly #topic: string;
  readonly #stretches: { gap?: GapNote; runs: Record<string, [number, number][]> }[] = [];
  readonly #faults: string[] = [];
  #epoch = "";
  #offset = 0;
  #lastAt: number;

  /** Starts the log. */
  constructor(client: string, topic: string, now: number) {
    this.#client = client;
    this.#topic = topic;
    this.#lastAt = now;
    this.#stretches.push({ runs: {} });
  }

  /** Records a message. */
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

  /** Records a gap that was reported to the client. */
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
