/** Notices within 3 s that a server is silent. */
import type { Runtime } from "../../base/runtime.ts";
import { pause } from "../../base/wait.ts";
import type { Client } from "../../client/client.ts";
import { CloseCode, TimeoutError } from "../../errors.ts";
import { internals } from "../../session/core.ts";
import { ping } from "../../session/insight/ping.ts";
import type { Session } from "../../session/session.ts";

/** Pause between a pong and the next ping, in milliseconds. */
const PAUSE_MS = 1_000;

/** Time without a pong after which the server is considered silent, in milliseconds. */
export const SILENT_MS = 1_500;

/**
 * Time without a pong after which the session is considered lost, in milliseconds. A server that is
 * only busy responds within this time.
 */
const LOST_MS = 10_000;

/** Options for {@linkcode watchSilence}. */
export interface SilenceOptions {
  /** Clocks and timers. */
  readonly runtime: Runtime;
  /** Stops the watch. */
  readonly signal: AbortSignal;
  /** Called when the server becomes silent, and when it responds again in the same session. */
  readonly onChange: (isSilent: boolean) => void;
}

/**
 * Pings the server every second, in addition to the client's own pings. If the server is silent for
 * 10 s, this function closes the session, so that the client reconnects. Never rejects.
 *
 * @param options See {@linkcode SilenceOptions}.
 */
export async function watchSilence(
  client: Pick<Client, "session">,
  options: SilenceOptions,
): Promise<void> {
  const { runtime, signal } = options;
  while (true) {
    await pause(runtime, PAUSE_MS, signal);
    if (signal.aborted) return;
    if (client.session !== undefined) await check(client.session, options);
  }
}

async function check(
  session: Session,
  { runtime, signal, onChange }: SilenceOptions,
): Promise<void> {
  let isSilent = false;
  const timer = runtime.setTimeout(() => {
    isSilent = !session.isClosed;
    if (isSilent) onChange(true);
  }, SILENT_MS);
  try {
    await ping(session[internals], { signal, timeoutMs: LOST_MS });
    if (isSilent) onChange(false);
  } catch (error) {
    // The session has closed, or the server accepts no more pings.
    if (!(error instanceof TimeoutError) || session.isClosed) return;
    const late = new TimeoutError(
      `No reply from the server within ${LOST_MS} ms`,
      LOST_MS,
      {
        cause: error,
      },
    );
    session[internals].abort(CloseCode.timedOut, "No sign of life", late, "network");
  } finally {
    runtime.clearTimeout(timer);
  }
}
