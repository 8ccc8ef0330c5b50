/**
 * Adds HTTP as a client's last transport. Every page loads this module. The HTTP transport, and the
 * code that chooses a transport after a failure, are loaded only after the others have failed.
 */
import { anySignal, within } from "../../base/wait.ts";
import { ConnectionError } from "../../errors.ts";
import type {
  CheckedTransports,
  ClientDialer,
  FallBackDialer,
  LastResortOptions,
  Leg,
  LoadHttp,
} from "./options.ts";

/**
 * The time for which the other transports are tried alone, in milliseconds. It is limited to half
 * of the time for the whole attempt, because some networks never respond to a WebSocket request.
 */
const ALONE_MS = 5_000;

/**
 * Adds HTTP as the last transport to a client's dialer.
 *
 * - **Order:** HTTP is tried after the others have failed, or in parallel with them after 5 s (at
 *   most half of the time for the attempt). The first transport that opens is used. If the server
 *   rejects the client, the attempt ends, because the server would reject HTTP too. An attempt
 *   tries HTTP once. If the others failed and HTTP opens, WebSocket is tried once more, for up to
 *   2 s, because the server may have started in the meantime.
 * - **Code:** the code of the HTTP transport is loaded once all others have failed for the first
 *   time, or once a WebSocket has fallen silent. If loading fails, the attempt fails.
 * - **Memory:** if all others fail, or if a WebSocket falls silent for the second time within 2
 *   minutes, HTTP is tried first for 30 s. Each failure in a row doubles that time, up to 10
 *   minutes. A WebSocket that opens afterwards and falls silent within 2 minutes is a failure in a
 *   row.
 * - **Protocols:** HTTP carries only `skein.1`, and is not used if that protocol is not offered.
 *
 * @param dial The dialer of the other transports. Ignored if there are no other transports.
 * @returns The dialer for one client, or `dial` itself if HTTP is not among the transports.
 */
export function withLastResort(
  dial: ClientDialer,
  { transports, hasHttp }: CheckedTransports,
  load: LoadHttp,
): ClientDialer {
  if (!hasHttp) return dial;
  const others = { dial, names: transports };
  let fallBack: FallBackDialer | undefined;
  const ready = (silentAt?: number) =>
    load().then((part) => fallBack ??= part.fallBackToHttp(dial, { transports, silentAt }));

  return async (url, options) => {
    const { only, protocols, runtime, signal, silent } = options;
    const isAlone = !transports[0] || only === "http";
    if (!isAlone && (only || !protocols.includes("skein.1"))) return await dial(url, options);
    if (fallBack) return await fallBack(url, options);
    if (silent?.transport === "websocket") ready(runtime.now()).catch(() => {});
    const first = isAlone ? undefined : await openAlone(others, url, options);
    if (first && !first.error) return await first.opening;
    try {
      await within(runtime, ready(), { signal });
    } catch (cause) {
      signal.throwIfAborted();
      if (first) return await first.opening;
      throw new ConnectionError("Cannot load HTTP", { cause });
    }
    return await fallBack!(url, options, first);
  };
}

/**
 * Tries some of the transports alone for a limited time.
 *
 * @returns The attempt, once it has opened a connection, failed, or run out of time.
 * @throws The error, if the server rejected the client, the attempt was aborted, or the arguments
 * are wrong, because other transports would fail in the same way.
 */
export async function openAlone(
  { dial, names }: { readonly dial: ClientDialer; readonly names: readonly string[] },
  url: string | URL,
  options: LastResortOptions,
): Promise<Leg> {
  const { runtime, signal, timeoutMs } = options;
  const stop = new AbortController();
  const opening = dial(url, { ...options, signal: anySignal(signal, stop.signal) });
  try {
    await within(runtime, opening, {
      late: `Cannot open ${names.join(" or ")} within`,
      timeoutMs: Math.min(ALONE_MS, timeoutMs / 2),
    });
    return { opening, stop };
  } catch (error) {
    if (isFinal(error, signal)) throw error;
    return { opening, stop, error };
  }
}

/** Returns whether another transport would fail in the same way. */
export function isFinal(error: unknown, signal: AbortSignal): boolean {
  return signal.aborted || error instanceof TypeError ||
    (error as { status?: number } | null)?.status !== undefined;
}
