/** Publications without history, on their way to the server. */
import type { Timer } from "../../base/runtime.ts";
import type { Link } from "./_link.ts";
import { type Budget, Queue, TurnBatch } from "./_queue.ts";

/**
 * Most bytes sent without confirmation. The client library buffers without a bound for a slow
 * socket; further publications wait here, within a bound.
 */
const WINDOW_BYTES = 4 * 1_048_576;

interface WaitingMessage {
  readonly subject: string;
  readonly message: Uint8Array;
  readonly atMs: number;
}

/**
 * Sends the publications of each turn together. Publications that have to wait keep their order,
 * and are given up after a time.
 */
export class PublishQueue {
  /** Publications that were given up. */
  dropped = 0;
  readonly #link: Link;
  readonly #budget: Budget;
  readonly #giveUpMs: number;
  readonly #waiting = new Queue<WaitingMessage>();
  #unconfirmed = 0;
  #isConfirming = false;
  #timer: Timer | undefined;
  #refusal: unknown;
  readonly #turn: TurnBatch;

  constructor(link: Link, budget: Budget, giveUpMs: number) {
    this.#link = link;
    this.#budget = budget;
    this.#giveUpMs = giveUpMs;
    this.#turn = new TurnBatch(link.runtime, () => this.#pump());
  }

  /** Last error of the client library at a publication, such as a message that is too large. */
  get refusal(): unknown {
    return this.#refusal;
  }

  /** Sends a message with all others of the turn, or lets the message wait. */
  publish(subject: string, message: Uint8Array): void {
    if (this.#budget.take(message.length)) {
      this.#waiting.push({ subject, message, atMs: this.#link.runtime.monotonic() });
      if (this.#hasRoom) this.#turn.gather(message.length);
      else this.#watch();
      return;
    }
    this.send();
    if (this.#hasRoom) this.#send(subject, message);
    else this.dropped++;
  }

  /** Sends the publications of this turn so far. */
  send(): void {
    this.#turn.end();
  }

  /** Sends the waiting publications when the server is there again. */
  resume(): void {
    this.#unconfirmed = 0;
    this.#pump();
  }

  /** Resolves once the server has all publications, or went away. */
  async idle(): Promise<void> {
    this.send();
    while (await this.#link.flush() && this.#waiting.length > 0);
  }

  /** Gives up all waiting publications. */
  close(): void {
    this.#link.runtime.clearTimeout(this.#timer);
    this.#timer = undefined;
    for (const { message } of this.#waiting.clear()) this.#drop(message);
  }

  get #hasRoom(): boolean {
    return this.#link.isUp && this.#unconfirmed < WINDOW_BYTES;
  }

  #send(subject: string, message: Uint8Array): void {
    try {
      this.#link.open.publish(subject, message);
    } catch (error) {
      this.#refusal = error;
      this.dropped++;
      return;
    }
    this.#unconfirmed += message.length;
    if (!this.#isConfirming && this.#unconfirmed >= WINDOW_BYTES / 2) void this.#confirm();
  }

  /** Waits until the server took the publications sent so far. */
  async #confirm(): Promise<void> {
    this.#isConfirming = true;
    const confirmed = this.#unconfirmed;
    const isTaken = await this.#link.flush();
    this.#isConfirming = false;
    if (!isTaken) return;
    this.#unconfirmed = Math.max(0, this.#unconfirmed - confirmed);
    this.#pump();
    if (this.#unconfirmed >= WINDOW_BYTES / 2 && !this.#isConfirming) void this.#confirm();
  }

  #pump(): void {
    while (this.#hasRoom) {
      const next = this.#waiting.shift();
      if (next === undefined) {
        this.#link.runtime.clearTimeout(this.#timer);
        this.#timer = undefined;
        return;
      }
      this.#budget.give(next.message.length);
      this.#send(next.subject, next.message);
    }
    if (this.#waiting.length > 0) this.#watch();
  }

  /** Starts the timer that gives up old publications. */
  #watch(): void {
    this.#timer ??= this.#startTimer(this.#giveUpMs);
  }

  #startTimer(ms: number): Timer {
    return this.#link.runtime.setTimeout(() => this.#giveUp(), ms);
  }

  #giveUp(): void {
    this.#timer = undefined;
    const now = this.#link.runtime.monotonic();
    for (let oldest = this.#waiting.first; oldest; oldest = this.#waiting.first) {
      const leftMs = this.#giveUpMs - (now - oldest.atMs);
      if (leftMs > 0) {
        this.#timer = this.#startTimer(leftMs);
        return;
      }
      this.#drop(this.#waiting.shift()!.message);
    }
  }

  #drop(message: Uint8Array): void {
    this.#budget.give(message.length);
    this.dropped++;
  }
}
