/** Asks the application for grants, and watches when grants expire. */
import type { Runtime, Timer } from "../../../base/runtime.ts";
import { describe } from "../../../session/wire/envelope.ts";
import { MAX_TIMER_MS } from "../../../base/wait.ts";
import type { SessionContext } from "./_context.ts";
import type { MoqAction, MoqGrant } from "./access.ts";
import { checkShare } from "./limits.ts";
import type { BroadcastPath } from "../wire/path.ts";

/**
 * Tells whether a grant allows anything now.
 *
 * @param runtime Clock of this node.
 * @param grant The grant.
 * @returns True unless the grant is a refusal or has expired.
 */
export function isGranted(runtime: Runtime, grant: MoqGrant): boolean {
  if (typeof grant === "boolean") return grant;
  return !("until" in grant) || grant.until.getTime() > runtime.now();
}

/**
 * Calls back when a grant expires.
 *
 * @param runtime Clock and timers of this node.
 * @param grant The grant.
 * @param onExpired Called once.
 * @returns A handle that ends the watch on disposal.
 */
export function watchGrant(runtime: Runtime, grant: MoqGrant, onExpired: () => void): Disposable {
  if (typeof grant === "boolean" || !("until" in grant)) return { [Symbol.dispose]() {} };
  let timer: Timer | undefined;
  const wait = () => {
    const leftMs = grant.until.getTime() - runtime.now();
    if (leftMs <= 0) return onExpired();
    timer = runtime.setTimeout(wait, Math.min(leftMs, MAX_TIMER_MS));
  };
  wait();
  return { [Symbol.dispose]: () => runtime.clearTimeout(timer) };
}

/**
 * Asks the application, once.
 *
 * @param context The session.
 * @param path The path of the request.
 * @param action The action of the request.
 * @returns The grant; `false` if the application threw, or returned an invalid grant.
 */
export async function decide(
  context: SessionContext,
  path: BroadcastPath,
  action: MoqAction,
): Promise<MoqGrant> {
  const { authorize } = context;
  if (authorize === undefined) return true;
  try {
    const grant = await authorize(path, action);
    checkGrant(grant);
    if (typeof grant !== "boolean" && grant.share !== undefined) context.share = grant.share;
    return grant;
  } catch (error) {
    context.report(error);
    return false;
  }
}

/**
 * Checks a grant: an application without type checks may return anything, and an invalid grant must
 * count as a refusal.
 */
function checkGrant(grant: MoqGrant): void {
  if (typeof grant === "boolean") return;
  const given: unknown = grant;
  if (typeof given !== "object" || given === null || !("until" in given || "share" in given)) {
    throw new TypeError(
      `Cannot authorize: a grant must be a boolean or have until or share, received ${
        describe(given)
      }`,
    );
  }
  const { until, share } = given as { readonly until?: unknown; readonly share?: unknown };
  if ("until" in given && !(until instanceof Date)) {
    throw new TypeError(`Cannot authorize: until must be a Date, received ${describe(until)}`);
  }
  if (share !== undefined) checkShare("authorize: share", share);
}

/** Watches the grants of the broadcasts that a peer announced. */
export class Grants {
  readonly #runtime: Runtime;
  readonly #watched = new Map<BroadcastPath, Disposable>();
  #isOver = false;

  constructor(runtime: Runtime) {
    this.#runtime = runtime;
  }

  /**
   * Watches a grant, in place of an earlier one for the path.
   *
   * @param path The path.
   * @param grant The grant.
   * @param onExpired Called once when the grant expires.
   */
  watch(path: BroadcastPath, grant: MoqGrant, onExpired: () => void): void {
    this.drop(path);
    if (typeof grant === "boolean" || this.#isOver) return;
    let isExpired = false;
    const watched = watchGrant(this.#runtime, grant, () => {
      isExpired = true;
      this.#watched.delete(path);
      onExpired();
    });
    if (!isExpired) this.#watched.set(path, watched);
  }

  /**
   * Stops watching the grant of a path.
   *
   * @param path The path.
   */
  drop(path: BroadcastPath): void {
    this.#watched.get(path)?.[Symbol.dispose]();
    this.#watched.delete(path);
  }

  /** Stops watching all grants. */
  end(): void {
    this.#isOver = true;
    for (const watched of this.#watched.values()) watched[Symbol.dispose]();
    this.#watched.clear();
  }
}
