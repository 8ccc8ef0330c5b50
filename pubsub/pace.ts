/**
 * How much of what an engine brings is handed on in one turn of the event loop.
 *
 * @module
 */
import { platformSchedule, type Schedule } from "../session/queue/schedule.ts";

/**
 * Bytes of one turn: half of what a session's wire holds before its queue fills. A node that was
 * busy for a moment finds megabytes at once; handed on in one turn they would overflow the queues
 * of sessions that are not behind at all.
 */
const TURN_BYTES = 32_768;

/** What a message costs besides its bytes. */
const MESSAGE_BYTES = 64;

/** Most that is held; past it everything is handed on at once, since nothing may be lost here. */
const MAX_HELD_BYTES = 67_108_864;

interface Held {
  readonly bytes: number;
  readonly handOn: () => void;
}

/** Hands on what comes, in order, so much in each turn. */
export class Pace {
  readonly #schedule: Schedule;
  #held: Held[] = [];
  #heldBytes = 0;
  #room = TURN_BYTES;
  #isScheduled = false;

  /**
   * Creates one that holds nothing.
   *
   * @param schedule Tells the end of a turn.
   */
  constructor(schedule: Schedule = platformSchedule()) {
    this.#schedule = schedule;
  }

  /**
   * Hands on a message, or holds it for a later turn.
   *
   * @param bytes How large it is.
   * @param handOn Does it. Must not throw.
   */
  take(bytes: number, handOn: () => void): void {
    this.#wake();
    const cost = bytes + MESSAGE_BYTES;
    if (this.#held.length === 0 && this.#room > 0) {
      this.#room -= cost;
      return handOn();
    }
    this.#held.push({ bytes: cost, handOn });
    this.#heldBytes += cost;
    if (this.#heldBytes > MAX_HELD_BYTES) this.#release(Infinity);
  }

  #wake(): void {
    if (this.#isScheduled) return;
    this.#isScheduled = true;
    this.#schedule(() => {
      this.#isScheduled = false;
      this.#release(TURN_BYTES);
    });
  }

  #release(room: number): void {
    this.#room = room === Infinity ? 0 : room;
    let count = 0;
    const held = this.#held;
    for (; count < held.length && room > 0; count++) {
      const { bytes, handOn } = held[count]!;
      room -= bytes;
      this.#heldBytes -= bytes;
      handOn();
    }
    this.#room = Math.min(this.#room, room);
    this.#held = count === held.length ? [] : held.slice(count);
    if (this.#held.length > 0) this.#wake();
  }
}
