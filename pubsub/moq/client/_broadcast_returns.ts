/**
 * Waiting for a broadcast that is gone.
 *
 * @module
 */
import { startTimer } from "../../../transport/within.ts";
import { pause } from "./_pause.ts";
import type { MoqSession } from "../session/session.ts";
import type { BroadcastPath } from "../wire/path.ts";

/** For what, and for how long. */
export interface BroadcastReturnsOptions {
  /** The broadcast. */
  readonly path: BroadcastPath;
  /** When to give up, in milliseconds. */
  readonly leftMs: number;
  /** How long at least, in milliseconds: it may be there, and refuse all the same. */
  readonly delayMs: number;
  /** Gives up. */
  readonly signal: AbortSignal;
}

/**
 * Waits until a session announces a broadcast, and at least for a delay.
 *
 * @param session Is asked; its end ends the wait.
 * @param options See {@linkcode BroadcastReturnsOptions}.
 * @returns Resolves however the wait ended; never rejects.
 */
export async function broadcastReturns(
  session: MoqSession,
  { path, leftMs, delayMs, signal }: BroadcastReturnsOptions,
): Promise<void> {
  const since = Date.now();
  const over = new AbortController();
  const timer = startTimer(leftMs, () => over.abort());
  const onEnd = () => over.abort();
  const signals = [signal, session.signal];
  for (const one of signals) one.addEventListener("abort", onEnd, { once: true });
  try {
    const parent = path.slice(0, path.lastIndexOf("/")) || "/";
    const announcements = await session.acceptAnnounce(parent, { signal: over.signal });
    for await (const announcement of announcements) {
      if (announcement.active && announcement.path === path) break;
    }
  } catch {
    // Who may not ask for announcements tries again by time.
  } finally {
    clearTimeout(timer);
    for (const one of signals) one.removeEventListener("abort", onEnd);
  }
  await pause(Math.min(leftMs, delayMs) - (Date.now() - since), signals);
}
