/** Limits the publications from an engine that are delivered in one turn of the event loop. */
import type { Runtime } from "../base/runtime.ts";

/**
 * Bytes of one turn: half of the bytes that the connection of a session buffers before the send queue
 * fills. After a busy moment a node finds megabytes at once; delivered in one turn, these would
 * overflow the queues of sessions that are not behind at all.
 */
const TURN_BYTES = 32_768;

/** Fixed cost of a message, added to the size in bytes. */
const MESSAGE_BYTES = 64;

/** Most bytes held; beyond that, all messages go on at once, since no message may be lost here. */
const MAX_HELD_BYTES = 67_108_864;

interface Held {
  readonly bytes: number;
  readonly handOn: () => void;
}

/** Hands on messages in order, a bounded number of bytes in each turn. */
export class Pace {
  readonly #runtime: Runtime;
  #held: Held[] = [];
  #heldBytes = 0;
  #room = TURN_BYTES;
  #isScheduled = false;

  /**
   * Starts without held messages.
   *
   * @param runtime Calls back at the end of a turn.
   */
  constructor(runtime: Runtime) {
    this.#runtime = runtime;
  }

  /**
   * Hands on a message, or holds it for a later turn.
   *
   * @param bytes Size of the message.
   * @param handOn Delivers the message. MUST NOT throw.
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
    this.#runtime.schedule(() => {
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
