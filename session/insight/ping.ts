/**
 * Asking a peer for a sign of life, and how long that takes.
 *
 * @module
 */
import { UnsupportedError } from "../../errors.ts";
import { MAX_PINGS, type SessionCore } from "../core.ts";
import { Asks } from "../pending_requests.ts";
import type { WaitOptions } from "../types.ts";

/** How long `ping` waits, in milliseconds. */
const PING_TIMEOUT_MS = 10_000;

/** See `ping` of a session. */
export async function ping(core: SessionCore, options: WaitOptions): Promise<number> {
  const { timeoutMs = PING_TIMEOUT_MS, signal } = options;
  if (!core.joins) {
    throw new UnsupportedError(
      `Cannot ping: a ${core.connection.transport} connection has no pings without skein.1`,
    );
  }
  core.checkOpen("ping");
  core.pings ??= new Asks(core.settings.maxRequests);
  let sentAt = 0;
  await core.pings.ask({
    what: "the pong",
    timeoutMs,
    signal,
    send: (id) => {
      sentAt = performance.now();
      core.post({ ping: MAX_PINGS + id });
      core.settings.turn.flush();
    },
    cancel: (_id, reason) => core.gaveUp(reason),
  });
  return core.roundTripMs = performance.now() - sentAt;
}
