/** The servers' part of a tour: their limits, policies and request handlers. */
import { pause } from "../../../../base/wait.ts";
import type { Runtime } from "../../../../base/runtime.ts";
import type { OverflowPolicy } from "../../../../session/queue/send_queue.ts";

/** Prefix of the names of guests, which are used for their machines and users. */
export const GUEST = "guest-";

/** Limits of servers in plans with the feature `limits`, in addition to the limit per user. */
export const LIMITS = { maxSessionsPerAddress: 8, maxTopicsPerSession: 16 } as const;

/** Prefix of the topics of bursts. The name of the policy follows it. */
export const BURST = "burst:";

/** Policies that drop messages. */
export const DROPS = ["drop-oldest", "drop-newest", "latest"] as const;

/** Time for which a response stalls, in milliseconds. */
const STALL_MS = 20_000;

/** A request for {@linkcode Holds.handle}. */
interface HeldRequest {
  readonly data: unknown;
  readonly signal: AbortSignal;
}

/** Requests that a handler holds for a time, or until the caller cancels. */
export class Holds {
  /** Ids of pending requests, in order. */
  readonly open: Set<string> = new Set();
  /** Maximum number of concurrent requests. */
  most = 0;

  /**
   * Handles a request. The handler waits for as long as the request's data says, and ends
   * immediately when the request is aborted.
   *
   * @param runtime Timers of the handler's host.
   * @returns The id in the request's data.
   */
  async handle({ data, signal }: HeldRequest, runtime: Runtime): Promise<string> {
    const { id, ms } = data as { readonly id: string; readonly ms: number };
    this.open.add(id);
    this.most = Math.max(this.most, this.open.size);
    await pause(runtime, ms, signal);
    this.open.delete(id);
    return id;
  }
}

/**
 * Returns the policy of the servers' queues for a topic.
 *
 * @returns For the topic of a burst, the policy in its name; for other topics, the default.
 */
export function queuePolicy(topic: string): OverflowPolicy {
  const named = topic.startsWith(BURST) && topic.slice(BURST.length);
  return DROPS.find((policy) => policy === named) ?? "close";
}

/**
 * Produces responses whose second item never arrives.
 *
 * @param runtime Timers of the node.
 * @param signal Aborted when the response is cancelled.
 */
export async function* stall(
  runtime: Runtime,
  signal: AbortSignal,
): AsyncGenerator<number> {
  yield 0;
  await pause(runtime, STALL_MS, signal);
}
