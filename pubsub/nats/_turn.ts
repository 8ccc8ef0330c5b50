/**
 * Gathering what one turn of the event loop brings, so that it is one write here and one read at the
 * server.
 *
 * @module
 */
import { platformSchedule, type Schedule } from "../../session/queue/schedule.ts";

/** Bytes after which it goes at once: more would not make it cheaper. */
const MAX_GATHERED_BYTES = 32_768;

/** Has something done once at the end of a turn. */
export class Turn {
  readonly #act: () => void;
  readonly #schedule: Schedule;
  #isScheduled = false;
  #bytes = 0;

  /**
   * Does nothing yet.
   *
   * @param act What to do.
   * @param schedule Calls back at the end of a turn.
   */
  constructor(act: () => void, schedule: Schedule = platformSchedule()) {
    this.#act = act;
    this.#schedule = schedule;
  }

  /** Has it done at the end of the turn, or at once where so much was gathered. */
  gather(bytes: number): void {
    this.#bytes += bytes;
    if (this.#bytes >= MAX_GATHERED_BYTES) return this.end();
    if (this.#isScheduled) return;
    this.#isScheduled = true;
    this.#schedule(() => {
      this.#isScheduled = false;
      this.end();
    });
  }

  /** Does it now. */
  end(): void {
    this.#bytes = 0;
    this.#act();
  }
}
