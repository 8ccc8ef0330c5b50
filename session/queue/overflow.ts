/**
 * Policies that drop messages from a full send queue. A page loads this module only if it sets such
 * a policy.
 */
import { unawaited } from "../../base/call_safely.ts";
import { encodeEnvelope } from "../wire/encode.ts";
import { utf8Length } from "../wire/utf8.ts";
import type { QueuedMessage } from "./frames.ts";
import type { Overflow, OverflowPolicy, SendQueue, SendQueueBounds } from "./send_queue.ts";

/** Names of the policies. */
export const POLICIES: readonly OverflowPolicy[] = [
  "close",
  "drop-oldest",
  "drop-newest",
  "latest",
];

/** Drops messages from any number of queues, and leaves notices in their place. */
export class DropPolicy implements Overflow {
  readonly #policy: SendQueueBounds["policy"];

  constructor(policy: SendQueueBounds["policy"]) {
    this.#policy = policy;
  }

  /** Makes room for an entry, see {@linkcode Overflow}. */
  settles(queue: SendQueue, entry: QueuedMessage): boolean {
    if (isNotice(entry)) {
      addNotice(queue, entry, queue.entries.length);
      return true;
    }
    const policy = this.#policyOf(queue, entry);
    if (queue.isHeld && policy === "latest" && !entry.isProtected) dropOlder(queue, entry.topic);
    while (policy !== "close" && queue.isFullFor(entry)) {
      if (policy === "drop-newest") {
        noteDrop(queue, entry.topic, queue.entries.length);
        return true;
      }
      if (!dropOldest(queue)) break;
    }
    return false;
  }

  /**
   * Returns the policy for an entry. A protected entry makes room by `drop-oldest` instead of
   * `drop-newest`, which would drop the entry itself.
   */
  #policyOf(queue: SendQueue, entry: QueuedMessage): OverflowPolicy {
    const policy = this.#policy;
    const own = typeof policy === "function" ? ask(queue, policy, entry.topic) : policy;
    return entry.isProtected && own === "drop-newest" ? "drop-oldest" : own;
  }
}

/**
 * Calls the application's policy. This can happen during a flush of many sessions, so an error
 * closes only this session.
 */
function ask(
  queue: SendQueue,
  policy: (topic: string) => OverflowPolicy,
  topic: string,
): OverflowPolicy {
  try {
    const chosen: unknown = policy(topic);
    if (POLICIES.includes(chosen as OverflowPolicy)) return chosen as OverflowPolicy;
    unawaited(chosen, () => {});
    throw new TypeError(`sendQueue.policy returned ${chosen}`);
  } catch (error) {
    queue.policyError = error;
    return "close";
  }
}

function dropOlder(queue: SendQueue, topic: string): boolean {
  return drop(
    queue,
    queue.entries.findLastIndex((entry) => entry.topic === topic && !entry.isProtected),
  );
}

function dropOldest(queue: SendQueue): boolean {
  return drop(queue, queue.entries.findIndex((entry) => !entry.isProtected));
}

function drop(queue: SendQueue, at: number): boolean {
  if (at < 0) return false;
  const [entry] = queue.remove(at, 1);
  joinNotices(queue, at);
  noteDrop(queue, entry!.topic, 0);
  return true;
}

function noteDrop(queue: SendQueue, topic: string, at: number): void {
  queue.dropped++;
  if (!queue.joins) return;
  const beside = queue.entries[at && at - 1];
  addNotice(queue, new DropNotice(1, topic, beside?.sequence ?? 0), at);
}

/**
 * Adds a notice at one end of the queue. There is always room for it, because the message that it
 * replaces is gone.
 */
function addNotice(queue: SendQueue, notice: DropNotice, at: number): void {
  queue.insert(notice, at);
  joinNotices(queue, at || 1);
}

/** Merges two adjacent notices, so that there are always fewer notices than messages. */
function joinNotices(queue: SendQueue, at: number): void {
  const [before, after] = [queue.entries[at - 1], queue.entries[at]];
  if (!(before && after && isNotice(before) && isNotice(after))) return;
  queue.remove(at - 1, 2);
  queue.insert(before.and(after), at - 1);
}

function isNotice(entry: QueuedMessage): entry is DropNotice {
  return entry instanceof DropNotice;
}

/** Notifies the peer of the number of messages missing at this position. */
class DropNotice implements QueuedMessage {
  declare readonly frame: string;
  declare readonly size: number;
  readonly isProtected = true;
  readonly isNotice = true;
  readonly #count: number;

  /** Creates a notice for one topic, or for several topics if `topic` is empty. */
  constructor(count: number, readonly topic: string, readonly sequence: number) {
    this.#count = count;
    this.frame = encodeEnvelope(topic === "" ? { dropped: count } : { dropped: count, topic });
    this.size = utf8Length(this.frame);
  }

  /** Returns the sum of two notices, at the position of this one. */
  and(other: DropNotice): DropNotice {
    const topic = other.topic === this.topic ? this.topic : "";
    return new DropNotice(this.#count + other.#count, topic, this.sequence);
  }
}
