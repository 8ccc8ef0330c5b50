/** Work at the end of a turn of the event loop. */
import { platformSchedule, type Schedule } from "../../session/queue/schedule.ts";

/** Bytes that are sent at once: gathering more would not be cheaper. */
const MAX_GATHERED_BYTES = 32_768;

/**
 * Calls a function once at the end of a turn, so that the messages of one turn are one write here
 * and one read at the server.
 */
export class Turn {
  readonly #act: () => void;
  readonly #schedule: Schedule;
  #isScheduled = false;
  #bytes = 0;

  /**
   * Creates an idle turn.
   *
   * @param act Called at the end of a turn.
   * @param schedule Calls back at the end of a turn.
   */
  constructor(act: () => void, schedule: Schedule = platformSchedule()) {
    this.#act = act;
    this.#schedule = schedule;
  }

  /** Schedules the call for the end of the turn; calls at once after many bytes. */
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

  /** Calls now. */
  end(): void {
    this.#bytes = 0;
    this.#act();
  }
}
