/** Helpers for the tests of send queues. */
import { platformRuntime } from "../../base/runtime.ts";
import { assert, assertEquals } from "@std/assert";
import type { QueueFullError } from "../../errors.ts";
import type { Frame, MessageFrames } from "../../transport/connection.ts";
import type { QueuedMessage } from "./frames.ts";
import { DropPolicy } from "./overflow.ts";
import { Flusher } from "./flusher.ts";
import {
  HIGH_WATER_MARK,
  SendQueue,
  type SendQueueBounds,
  type SendQueueOwner,
} from "./send_queue.ts";

/** A connection that accepts every frame, or none while `isStalled`. */
export class FakeFrames implements MessageFrames {
  readonly sent: Frame[] = [];
  readonly lowWaterMark = 0;
  isStalled = false;
  bufferedAmount = 0;
  #drained = Promise.withResolvers<void>();

  send(frame: Frame): void {
    this.sent.push(frame);
    if (this.isStalled) this.bufferedAmount += frame.length;
  }

  drained(): Promise<void> {
    return this.#drained.promise;
  }

  receive(): void {}

  async drain(): Promise<void> {
    this.isStalled = false;
    this.bufferedAmount = 0;
    this.#drained.resolve();
    this.#drained = Promise.withResolvers();
    await Promise.resolve();
  }

  /** The envelopes sent since the last call. */
  take(): string[] {
    return this.sent.splice(0).flatMap((frame) => (frame as string).split("\n"));
  }
}

/** A flusher that flushes only when a test calls it. */
export function flusherByHand(): Flusher {
  return new Flusher(Object.assign(platformRuntime(), { schedule() {} }));
}

/** A queue on such a connection. */
export interface Bench {
  readonly frames: FakeFrames;
  readonly flusher: Flusher;
  readonly queue: SendQueue;
  readonly overflows: QueueFullError[];
  /** An entry with its sequence number. */
  entry(frame: Frame, options?: Partial<QueuedMessage>): QueuedMessage;
  push(...frames: string[]): void;
  /** Fills the connection's buffer up to its limit. */
  hold(): void;
}

/** Creates a queue with these limits. */
export function bench(limits: Partial<SendQueueBounds> = {}, joins = true): Bench {
  const frames = new FakeFrames();
  const flusher = flusherByHand();
  const overflows: QueueFullError[] = [];
  const owner: SendQueueOwner = {
    joins,
    abort: (_code, _reason, error) => {
      overflows.push(error);
      queue.end();
    },
  };
  const queue: SendQueue = new SendQueue(frames, owner, {
    flusher,
    sendQueue: { maxMessages: 256, maxBytes: 1_048_576, policy: "close", ...limits },
    overflow: limits.policy && new DropPolicy(limits.policy),
  });
  const entry = (frame: Frame, options: Partial<QueuedMessage> = {}): QueuedMessage => ({
    frame,
    size: frame.length,
    topic: String(frame).slice(0, 1),
    sequence: flusher.nextSequence(),
    isProtected: false,
    isShared: true,
    ...options,
  });
  return {
    frames,
    flusher,
    queue,
    overflows,
    entry,
    push: (...texts) => texts.forEach((text) => queue.push(entry(text))),
    hold: () => {
      frames.isStalled = true;
      queue.push(entry("#".repeat(HIGH_WATER_MARK)));
      flusher.flush();
      assertEquals(frames.sent.splice(0).length, 1);
      assert(!queue.isFlushed);
    },
  };
}
