/** Deliveries from a broker, spread over several turns. */
import type { Runtime } from "../../base/runtime.ts";
import { Fifo } from "./queue.ts";

/**
 * Bytes delivered in one turn: half of the bytes that a session's connection buffers before the
 * send queue fills. After a busy moment, a node may receive megabytes at once. Delivering them in
 * one turn would overflow the queues even of sessions that keep up.
 */
const TURN_BYTES = 32_768;

/** Fixed cost of a message, added to the size in bytes. */
const MESSAGE_BYTES = 64;

/**
 * Maximum number of bytes held; beyond that, all messages are delivered immediately, because no
 * message may be lost here.
 */
const MAX_HELD_BYTES = 67_108_864;

/** Delivers messages from a broker in order, a bounded number of bytes in each turn. */
export class Pace {
  readonly #runtime: Runtime;
  readonly #held = new Fifo<{ readonly cost: number; readonly deliver: () => void }>();
  #heldBytes = 0;
  /** Bytes that may still be delivered in this turn. */
  #room = TURN_BYTES;
  #isScheduled = false;

  /** @param runtime Calls back at the end of a turn. */
  constructor(runtime: Runtime) {
    this.#runtime = runtime;
  }

  /**
   * Delivers a message, or holds it for a later turn.
   *
   * @param bytes Size of the message.
   * @param deliver Delivers the message. MUST NOT throw.
   */
  take(bytes: number, deliver: () => void): void {
    this.#wake();
    const cost = bytes + MESSAGE_BYTES;
    if (this.#held.length === 0 && this.#room > 0) {
      this.#room -= cost;
      return deliver();
    }
    this.#held.push({ cost, deliver });
    this.#heldBytes += cost;
    if (this.#heldBytes > MAX_HELD_BYTES) {
      this.#release(Infinity);
      this.#room = 0;
    }
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
    // Messages that arrive during a delivery are queued after the held messages.
    this.#room = 0;
    let left = room;
    while (left > 0) {
      const next = this.#held.shift();
      if (next === undefined) break;
      left -= next.cost;
      this.#heldBytes -= next.cost;
      next.deliver();
    }
    this.#room = left;
    if (this.#held.length > 0) this.#wake();
  }
}
