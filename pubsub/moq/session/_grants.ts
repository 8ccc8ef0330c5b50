/**
 * What a session does with the application's word on who may do what.
 *
 * @module
 */
import { describe } from "../../../session/wire/envelope.ts";
import { MAX_TIMER_MS } from "../../../transport/within.ts";
import type { SessionContext } from "./_context.ts";
import type { MoqAction, MoqGrant } from "./access.ts";
import { checkShare } from "./limits.ts";
import type { BroadcastPath } from "../wire/path.ts";

/**
 * Tells whether a grant allows anything now.
 *
 * @param grant The grant.
 * @returns Whether it does.
 */
export function isGranted(grant: MoqGrant): boolean {
  if (typeof grant === "boolean") return grant;
  return !("until" in grant) || grant.until.getTime() > Date.now();
}

/**
 * Calls back when a grant is over.
 *
 * @param grant The grant.
 * @param onExpired Called once.
 * @returns Dispose of it when nobody needs the grant any more.
 */
export function watchGrant(grant: MoqGrant, onExpired: () => void): Disposable {
  if (typeof grant === "boolean" || !("until" in grant)) return { [Symbol.dispose]() {} };
  let timer: ReturnType<typeof setTimeout> | undefined;
  const wait = () => {
    const leftMs = grant.until.getTime() - Date.now();
    if (leftMs <= 0) return onExpired();
    timer = setTimeout(wait, Math.min(leftMs, MAX_TIMER_MS));
  };
  wait();
  return { [Symbol.dispose]: () => clearTimeout(timer) };
}

/**
 * Asks the application, once.
 *
 * @param context The session.
 * @param path What it is about.
 * @param action What the peer wants.
 * @returns The grant; no, where the application threw, or gave a grant that makes no sense.
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

/** A program without types may answer anything: what cannot be read is a no. */
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

/** The grants of the paths that a peer announced, each until it is over, or nobody needs it. */
export class Grants {
  readonly #watched = new Map<BroadcastPath, Disposable>();
  #isOver = false;

  /**
   * Watches a grant, in place of an earlier one for the path.
   *
   * @param path The path.
   * @param grant What is allowed.
   * @param onExpired Called once, when it is over.
   */
  watch(path: BroadcastPath, grant: MoqGrant, onExpired: () => void): void {
    this.drop(path);
    if (typeof grant === "boolean" || this.#isOver) return;
    let isExpired = false;
    const watched = watchGrant(grant, () => {
      isExpired = true;
      this.#watched.delete(path);
      onExpired();
    });
    if (!isExpired) this.#watched.set(path, watched);
  }

  /**
   * Watches the grant of a path no more.
   *
   * @param path The path.
   */
  drop(path: BroadcastPath): void {
    this.#watched.get(path)?.[Symbol.dispose]();
    this.#watched.delete(path);
  }

  /** Watches no more. */
  end(): void {
    this.#isOver = true;
    for (const watched of this.#watched.values()) watched[Symbol.dispose]();
    this.#watched.clear();
  }
}
