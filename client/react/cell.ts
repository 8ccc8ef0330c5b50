/**
 * Values that a page's components watch. The values are updated together, and at most once per
 * frame.
 */
import type { Runtime, Timer } from "../../base/runtime.ts";

/** The shortest time between two rounds, in milliseconds: one frame at 60 frames per second. */
const FRAME_MS = 16;

/**
 * Groups changes into rounds. For the first change, listeners are called when the current turn of
 * the event loop ends. For later changes, they are called at most once per frame. A burst of
 * messages therefore renders once or twice.
 */
export class Rounds {
  readonly #runtime: Runtime;
  readonly #waiting = new Set<() => void>();
  #timer: Timer | undefined;
  #isDue = false;
  #isStopped = false;
  #last = -Infinity;

  constructor(runtime: Runtime) {
    this.#runtime = runtime;
  }

  /**
   * Adds a callback to the next round. Adding it again has no effect.
   *
   * @param tell Called in the round. It MUST NOT throw.
   */
  add(tell: () => void): void {
    this.#waiting.add(tell);
    if (this.#isDue || this.#isStopped) return;
    this.#isDue = true;
    const restMs = this.#last + FRAME_MS - this.#runtime.monotonic();
    if (restMs > 0) this.#timer = this.#runtime.setTimeout(this.#run, restMs);
    else this.#runtime.schedule(this.#run);
  }

  /** Lets the pending round and later changes wait until `start`. No timer keeps running. */
  stop(): void {
    this.#isStopped = true;
    this.#runtime.clearTimeout(this.#timer);
  }

  /** Runs the round that has waited. */
  start(): void {
    this.#isStopped = false;
    if (this.#waiting.size > 0) this.#run();
  }

  readonly #run = (): void => {
    this.#timer = undefined;
    this.#isDue = false;
    if (this.#isStopped) return;
    this.#last = this.#runtime.monotonic();
    const round = [...this.#waiting];
    this.#waiting.clear();
    for (const tell of round) tell();
  };
}

/**
 * A value for a component, in the shape that `useSyncExternalStore` expects. `get` has no side
 * effects, and returns the same object until the value changes.
 *
 * @typeParam S The type of the value.
 */
export interface View<S> {
  /** Calls a listener after each change, until the returned function is called. */
  readonly watch: (listener: () => void) => () => void;
  readonly get: () => S;
}

/**
 * A value that components watch. The snapshot is replaced, never modified, and only in a round, so
 * that all components of one render see the same value.
 *
 * @typeParam S The type of the snapshot.
 */
export abstract class Cell<S> implements View<S> {
  #snapshot: S;
  readonly #rounds: Rounds;
  readonly #listeners = new Set<() => void>();

  constructor(rounds: Rounds, first: S) {
    this.#rounds = rounds;
    this.#snapshot = first;
  }

  /** The value of the last round. */
  get snapshot(): S {
    return this.#snapshot;
  }

  /** Calls a listener after each change; see {@linkcode View}. */
  readonly watch = (listener: () => void): () => void => {
    this.#listeners.add(listener);
    return () => void this.#listeners.delete(listener);
  };

  /** Returns the snapshot; see {@linkcode View}. */
  readonly get = (): S => this.#snapshot;

  /** Creates the snapshot after a change. */
  protected abstract take(): S;

  /** Replaces the snapshot in the next round. */
  protected changed(): void {
    this.#rounds.add(this.refresh);
  }

  /** Replaces the snapshot immediately. Use this for changes by a user's own action. */
  protected readonly refresh = (): void => {
    this.#snapshot = this.take();
    for (const listener of [...this.#listeners]) listener();
  };
}

/**
 * Converts any thrown value to an error.
 *
 * @param thrown The value.
 * @returns The value if it is an `Error`, otherwise an error with the value as its cause.
 */
export function errorOf(thrown: unknown): Error {
  return thrown instanceof Error ? thrown : new Error(String(thrown), { cause: thrown });
}
