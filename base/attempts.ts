/** Attempts to connect. A wake-up starts another one beside one that hangs. */
import type { Runtime, Timer } from "./runtime.ts";

/**
 * The time after which an attempt counts as hanging, in milliseconds. On most networks, a session
 * opens sooner.
 */
export const HANGING_MS = 1_000;

/**
 * The operations of {@linkcode Attempts}.
 *
 * @typeParam R The result of an attempt: a session, or a failure.
 */
export interface AttemptParts<R> {
  readonly runtime: Runtime;
  /** Makes one attempt. Never rejects: a failure is returned. */
  readonly open: (signal: AbortSignal) => Promise<R>;
  /** Returns whether a result ends the other attempt too, such as a session or a rejection. */
  readonly isFinal: (result: R) => boolean;
  /** Closes a session that opened after its attempt was aborted. */
  readonly discard: (result: R) => void;
  /** Called when an attempt hangs. */
  readonly onHang?: (() => void) | undefined;
  /** Called before a wake-up starts an attempt beside one that hangs. */
  readonly onBeside?: (() => void) | undefined;
}

/**
 * The attempts of a client, of which at most two run at a time.
 *
 * - **Beside:** if an attempt hangs, {@linkcode Attempts.hurry} starts another one. The first
 *   attempt continues, because it may be slow rather than lost.
 * - **Winner:** the first session that opens is used, and the other attempt is aborted. A response
 *   of the server also ends both attempts.
 * - **Failure:** if one attempt fails on the network, the other one continues.
 *
 * @typeParam R The result of an attempt.
 */
export class Attempts<R> {
  readonly #parts: AttemptParts<R>;
  /** The running attempts, the oldest first. */
  #running: AbortController[] = [];
  #done: (result: R) => void = () => {};
  #timer: Timer | undefined;
  #isHanging = false;
  /** True if a wake-up arrived before the attempt counted as hanging. */
  #isHurried = false;

  constructor(parts: AttemptParts<R>) {
    this.#parts = parts;
  }

  /** Starts an attempt. Resolves with its result, or that of an attempt beside it. */
  run(): Promise<R> {
    return new Promise((resolve) => {
      this.#done = resolve;
      void this.#start();
    });
  }

  /**
   * Starts a second attempt as soon as the running one hangs. If two are running, replaces the
   * newer one once it hangs, so that repeated wake-ups cannot abort all attempts.
   */
  hurry(): void {
    const { length } = this.#running;
    if (!this.#isHanging) this.#isHurried = length === 1;
    else if (length > 0) {
      if (length > 1) this.#running.pop()!.abort();
      this.#parts.onBeside?.();
      void this.#start();
    }
  }

  async #start(): Promise<void> {
    const { runtime, open, isFinal, discard, onHang } = this.#parts;
    const attempt = new AbortController();
    this.#running.push(attempt);
    this.#isHanging = this.#isHurried = false;
    runtime.clearTimeout(this.#timer);
    this.#timer = runtime.setTimeout(() => {
      this.#isHanging = true;
      onHang?.();
      if (this.#isHurried) this.hurry();
    }, HANGING_MS);
    const result = await open(attempt.signal);
    // Two attempts may open in the same turn.
    if (attempt.signal.aborted) return discard(result);
    this.#running = this.#running.filter((other) => other !== attempt);
    if (!isFinal(result) && this.#running.length > 0) return;
    runtime.clearTimeout(this.#timer);
    for (const other of this.#running) other.abort();
    this.#running = [];
    this.#isHanging = false;
    this.#done(result);
  }
}
