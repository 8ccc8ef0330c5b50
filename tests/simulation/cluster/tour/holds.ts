/** Requests of guests that wait for their end, on nodes and on clients. */
import { pause } from "../../../../base/wait.ts";
import type { Runtime } from "../../../../base/runtime.ts";

/** Beginning of the names of guests: their machines and users. */
export const GUEST = "guest-";

/** A request for {@linkcode Holds.handle}. */
interface HeldRequest {
  readonly data: unknown;
  readonly signal: AbortSignal;
}

/** Requests that a handler holds until a time is over, or the requester gives up. */
export class Holds {
  /** Ids of requests under way, in order. */
  readonly open: Set<string> = new Set();
  /** Most requests under way at once. */
  most = 0;

  /**
   * Handles a request: waits as long as its data say, and ends at once when the request is aborted.
   *
   * @param request The request.
   * @param runtime Timers of the handler's host.
   * @returns The id.
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
