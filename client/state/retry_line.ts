/** The repeated requests of a client's states for which its session has no room. */
import type { Runtime } from "../../base/runtime.ts";
import { pause } from "../../base/wait.ts";
import type { RequestFailure } from "../../errors.ts";

/** Pause before each repeated request if the server specifies no time, in milliseconds. */
const PAUSE_MS = 250;

/** Longest pause, in milliseconds: the other states wait too. */
const MAX_PAUSE_MS = 5_000;

/**
 * A line in which the states of a client wait until others have left the topics of the session. All
 * of them together repeat one request per pause, because a server closes a session after too many
 * rejections.
 */
export class RetryLine {
  readonly #runtime: Runtime;
  /** The end of the last pause. The states that wait bound the line. */
  #last: Promise<void> = Promise.resolve();

  constructor(runtime: Runtime) {
    this.#runtime = runtime;
  }

  /**
   * Waits until a rejected request may be repeated.
   *
   * @param signal Leaves the line.
   */
  wait({ retryAfterMs = 0 }: RequestFailure, signal: AbortSignal): Promise<void> {
    const pauseMs = Math.max(PAUSE_MS, Math.min(MAX_PAUSE_MS, retryAfterMs));
    return this.#last = this.#last.then(() => pause(this.#runtime, pauseMs, signal));
  }
}
