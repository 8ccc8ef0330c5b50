/** Locks between the pages of an origin. */
import type { Locks } from "../../transport/http/places.ts";

/** A lock that this page holds. */
export interface LockHeld {
  readonly name: string;
  /** Resolves if another page takes the lock away with {@linkcode stealLock}. */
  readonly stolen?: Promise<void> | undefined;
  release(): void;
}

function locksOfPage(): Locks | undefined {
  return (globalThis as { navigator?: { locks?: Locks } }).navigator?.locks;
}

/** True if pages exclude each other. */
export function hasLocks(): boolean {
  return locksOfPage() !== undefined;
}

/** Number of requests of this page that wait until another page gives a lock back. */
let waiting = 0;

/**
 * Takes the locks from pages in the browser's back/forward cache, if this page waits for any.
 *
 * Chromium discards a cached page when another page requests its lock, or queries locks. A request
 * from before the page was cached doesn't count, and would wait until the cache expires.
 */
export async function discardCachedPages(): Promise<void> {
  // It rejects in a page that is itself on its way out.
  if (waiting > 0) await locksOfPage()?.query().catch(() => {});
}

/**
 * Takes a lock that one page at a time may have. Where there are no locks, for example in a page that
 * is not secure, each page has each lock.
 *
 * @param signal Waits for the lock until the signal aborts; without one, does not wait.
 * @returns The lock; `undefined` if another page has it, or the wait was aborted.
 */
export async function holdLock(name: string, signal?: AbortSignal): Promise<LockHeld | undefined> {
  if (signal === undefined) return await request(name, { ifAvailable: true });
  waiting++;
  const lock = await request(name, { signal });
  waiting--;
  return lock;
}

/** Takes a lock that another page may have, which thereby loses it. */
export function stealLock(name: string): Promise<LockHeld | undefined> {
  return request(name, { steal: true });
}

function request(
  name: string,
  options: Parameters<Locks["request"]>[1],
): Promise<LockHeld | undefined> {
  const locks = locksOfPage();
  if (locks === undefined) return Promise.resolve({ name, release() {} });
  const stolen = Promise.withResolvers<void>();
  return new Promise((resolve) => {
    locks.request(name, options, (lock) => {
      if (lock === null) return void resolve(undefined);
      return new Promise((release) => resolve({ name, stolen: stolen.promise, release }));
    }).catch(() => {
      resolve(undefined);
      stolen.resolve();
    });
  });
}
