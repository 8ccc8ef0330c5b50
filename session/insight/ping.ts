/** Ping of a peer, with the round-trip time. */
import { UnsupportedError } from "../../errors.ts";
import type { Inside } from "../receiving.ts";
import { MAX_PINGS, PendingRequests } from "../sending.ts";
import type { WaitOptions } from "../types.ts";

const PING_TIMEOUT_MS = 10_000;

/** Implements `ping` of a session. */
export async function ping(core: Inside, options: WaitOptions): Promise<number> {
  const { timeoutMs = PING_TIMEOUT_MS, signal } = options;
  if (!core.joins) {
    throw new UnsupportedError(
      `Cannot ping: a ${core.connection.transport} connection has no pings without skein.1`,
    );
  }
  core.checkOpen("ping");
  core.sending.pings ??= new PendingRequests(core.settings.runtime, core.settings.maxRequests);
  let sentAt = 0;
  await core.sending.pings.ask({
    what: "pong",
    timeoutMs,
    signal,
    send: (id) => {
      sentAt = core.settings.runtime.monotonic();
      core.sending.post({ ping: MAX_PINGS + id });
      core.settings.flusher.flush();
    },
    cancel: (_id, reason) => core.sending.gaveUp(reason),
  });
  return core.sending.roundTripMs = core.settings.runtime.monotonic() - sentAt;
}
