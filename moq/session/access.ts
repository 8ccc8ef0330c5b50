/** Permissions and limits of a peer. */
import type { Runtime, Timer } from "../../base/runtime.ts";
import { MAX_TIMER_MS } from "../../base/wait.ts";
import { withDefaults } from "../../base/options/options.ts";
import { DecisionFault, type PermissionForm, permissionOf } from "../../base/decision.ts";
import { describe } from "../../base/error_text.ts";
import type { BroadcastPath } from "../wire/path.ts";

const DEFAULTS = {
  maxSubscriptions: 16_384,
  maxRequests: 1_024,
  maxFrameBytes: 16_777_216,
};

/** Complete limits of a session, documented in `MoqSessionOptions`. */
export type MoqSessionLimits = Readonly<typeof DEFAULTS>;

/** Fills in the defaults. */
export function sessionLimits(limits: Partial<MoqSessionLimits> = {}): MoqSessionLimits {
  return withDefaults(DEFAULTS, limits);
}

/**
 * Checks a share of a relay's slots.
 *
 * @throws {RangeError} If the share is not a number above 0 and up to 1.
 */
function checkShare(share: unknown): void {
  if (typeof share === "number" && share > 0 && share <= 1) return;
  throw new RangeError(
    `Cannot authorize: share must be above 0 and up to 1, received ${String(share)}`,
  );
}

/**
 * The action that a peer requests: to announce a broadcast here (`publish`), to receive a broadcast
 * from here (`subscribe`), or to follow the announcements below a prefix (`announce`).
 */
export type MoqAction = "publish" | "subscribe" | "announce";

/**
 * Allows or denies an action, or allows it with conditions.
 *
 * - **`until`:** the expiry of the grant. Only the granted action ends: a subscription ends as
 *   `unauthorized`, a fetch is aborted, and all broadcasts that were announced to the peer are
 *   announced as ended. A broadcast that the peer announced ends, and its announcement stream is
 *   closed as `bannedPrefix`, because no version can reject a single path.
 * - **`share`:** the fraction of a relay's `maxBroadcasts` and `maxTracks` that the session may use
 *   from now on, above 0 and up to 1, instead of the relay's `maxShare`. Grant 1 to another relay.
 *   The share applies until another grant of the session sets a new one.
 */
export type MoqGrant =
  | boolean
  | { readonly until: Date; readonly share?: number | undefined }
  | { readonly share: number };

/**
 * Returns true if a grant allows anything now.
 *
 * @returns True unless the grant denies the action or has expired.
 */
export function isGranted(runtime: Runtime, grant: MoqGrant): boolean {
  if (typeof grant === "boolean") return grant;
  return !("until" in grant) || grant.until.getTime() > runtime.now();
}

const UNWATCHED: Disposable = { [Symbol.dispose]() {} };

/**
 * Calls back when a grant expires.
 *
 * @param onExpired Called once.
 * @returns A handle that stops watching when disposed.
 */
export function watchGrant(runtime: Runtime, grant: MoqGrant, onExpired: () => void): Disposable {
  if (typeof grant === "boolean" || !("until" in grant)) return UNWATCHED;
  let timer: Timer | undefined;
  const wait = () => {
    const leftMs = grant.until.getTime() - runtime.now();
    if (leftMs <= 0) return onExpired();
    timer = runtime.setTimeout(wait, Math.min(leftMs, MAX_TIMER_MS));
  };
  wait();
  return { [Symbol.dispose]: () => runtime.clearTimeout(timer) };
}

const GRANT: PermissionForm<{ readonly until: Date; readonly share: number }> = {
  expected: "true, false, or an object with until or share",
  members: { until: "any", share: "any" },
};

/**
 * Checks a grant: an untyped application may return anything, and an invalid grant must deny the
 * action.
 */
export function checkGrant(grant: unknown): asserts grant is MoqGrant {
  // A missing `return` is a mistake, after which the peer may retry.
  if (grant === undefined || grant === null) {
    throw DecisionFault.returned("authorize", GRANT.expected, grant);
  }
  const given = permissionOf("authorize", grant, GRANT);
  if (typeof given !== "object") return;
  const { until, share }: { readonly until?: unknown; readonly share?: unknown } = given;
  if ("until" in given && !(until instanceof Date)) {
    throw new TypeError(`Cannot authorize: until must be a Date, received ${describe(until)}`);
  }
  if (share !== undefined) checkShare(share);
}

/** Watches the grants of the broadcasts that a peer announced. */
export class GrantTimers {
  readonly #runtime: Runtime;
  readonly #watched = new Map<BroadcastPath, Disposable>();
  #isOver = false;

  constructor(runtime: Runtime) {
    this.#runtime = runtime;
  }

  /**
   * Watches a grant, replacing an earlier one for the path.
   *
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

  /** Stops watching the grant of a path. */
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
