/** Loops over a status that take time for each value, beside a callback that hears all values. */
import type { StatusFeed } from "../../../../../base/status_feed.ts";
import { between } from "../../chance.ts";
import { type Audit, outcomeOf } from "../audit.ts";

/** Longest time of a loop for one value, in milliseconds, and the share of values without a wait. */
const [VALUE_MS, PROMPT_SHARE] = [400, 0.3] as const;

/** Share of values behind which a loop ends, and another one begins. */
const AGAIN_SHARE = 0.15;

/** Longest time until the loops have the latest value: eight loops in a row may begin with the same one. */
const LATEST_MS = 8 * VALUE_MS;

/** Loops over one status at once. */
const LOOPS = 2;

/** A loop, with the values that the loop got. */
interface Loop {
  /** Indexes in the values that the callback heard. */
  readonly got: number[];
  /** True while the loop waits for a value. */
  isWaiting: boolean;
  isOver: boolean;
}

/** Reads a status by a callback and by slow loops. */
export class StatusReader<T> {
  readonly #audit: Audit;
  readonly #name: string;
  readonly #status: StatusFeed<T>;
  readonly #heard: T[] = [];
  readonly #loops: Loop[] = [];

  /**
   * Begins to read.
   *
   * @param audit The audit.
   * @param name Name of the status.
   * @param status The status.
   */
  constructor(audit: Audit, name: string, status: StatusFeed<T>) {
    this.#audit = audit;
    this.#name = name;
    this.#status = status;
    status.subscribe((value) => this.#heard.push(value));
    const random = audit.chanceOf(name);
    for (let left = LOOPS; left > 0; left--) {
      const loop: Loop = { got: [], isWaiting: true, isOver: false };
      this.#loops.push(loop);
      void outcomeOf(this.#read(loop, random)).then((outcome) => {
        loop.isOver = true;
        audit.examine("lives", `loop over the status of ${name}`, "fulfilled", outcome);
      });
    }
  }

  /** Examines the loops once the status is at rest: each got the latest value, and waits. */
  async examine(about: string): Promise<void> {
    const latest = () => [this.#latest, this.#status.isEnded ? "over" : "waits"];
    const isThere = () => this.#loops.every((loop) => `${placeOf(loop)}` === `${latest()}`);
    await this.#audit.until(isThere, LATEST_MS);
    const what = `loops over the status of ${this.#name} ${about}`;
    const all = this.#heard.map((value) => JSON.stringify(value));
    const expected = [all, ...this.#loops.map(latest)];
    const received = [all, ...this.#loops.map(placeOf)];
    this.#audit.examine("lives", what, expected, received);
    const isLatest = this.#heard.at(-1) === this.#status.current;
    this.#audit.examine("lives", `callback and ${what}`, true, isLatest);
  }

  /** Reads by one loop after the other, until the status ends. */
  async #read(loop: Loop, random: () => number): Promise<void> {
    for (let isAgain = true; isAgain;) {
      isAgain = false;
      // A loop begins with the value of this time.
      let due: number | undefined = this.#latest;
      for await (const value of this.#status) {
        loop.isWaiting = false;
        this.#take(loop, value, due);
        isAgain = random() < AGAIN_SHARE && !this.#status.isEnded;
        if (random() >= PROMPT_SHARE) await this.#audit.pause(between(random, 0, VALUE_MS));
        loop.isWaiting = true;
        if (isAgain) break;
        // The latest change of the meantime comes at once; without one, the loop waits.
        due = this.#latest > loop.got.at(-1)! ? this.#latest : undefined;
      }
    }
  }

  /** Notes a value: the one that is due, or else a later one than the last. */
  #take({ got }: Loop, value: T, due: number | undefined): void {
    const last = got.at(-1) ?? -1;
    const index = due ?? this.#heard.lastIndexOf(value);
    const isRight = due === undefined ? index > last : this.#heard[due] === value;
    const what = `value of a loop over the status of ${this.#name}`;
    this.#audit.examine("lives", what, true, isRight || [value, due, last, this.#heard]);
    got.push(index);
  }

  /** Index of the latest value. */
  get #latest(): number {
    return this.#heard.length - 1;
  }
}

/** The last value of a loop, and the state of the loop. */
function placeOf({ got, isWaiting, isOver }: Loop): readonly unknown[] {
  return [got.at(-1) ?? -1, isOver ? "over" : isWaiting ? "waits" : "reads"];
}
