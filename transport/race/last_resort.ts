/** HTTP as the last resort of a client: tried once the race of the other transports failed. */
import { anySignal } from "../../base/wait.ts";
import { ConnectionError, TimeoutError, UnsupportedError } from "../../errors.ts";
import { textOf } from "../../base/error_text.ts";
import { dialHttp, type HttpPath } from "../http/client.ts";
import { parseServerUrl } from "../url.ts";
import { Losses } from "./race.ts";
import type { ClientDialer, TransportName } from "./options.ts";

/**
 * Longest time for all other transports together, in milliseconds, and at most half of the time for
 * the whole attempt: some networks answer no request for a WebSocket.
 */
export const OTHERS_MS = 5_000;

/**
 * Time between two silences of sessions on a WebSocket that count as a failure, in milliseconds: a
 * network that lets a WebSocket open and drops what follows.
 */
const SILENCES_MS = 120_000;

/** Options for {@linkcode fallBackToHttp}. */
export interface LastResortOptions {
  /** The other transports, the preferred one first. */
  readonly transports: readonly TransportName[];
  /** Sends requests; by default the `fetch` of the platform. */
  readonly fetch?: typeof fetch;
}

/**
 * Makes a dialer that opens HTTP where the other transports fail.
 *
 * - **Order:** HTTP is tried once the others failed, or after {@linkcode OTHERS_MS} without any. A
 *   refusal of the server ends the attempt, because HTTP would be refused too.
 * - **Memory:** after a failure of all others HTTP is tried first for 30 s, and each failure in a
 *   row doubles that time, up to 10 minutes.
 * - **Polls:** once a proxy held an event stream back, the client polls, for its whole life.
 *
 * @param dial Dialer of the other transports; unused without any.
 * @param options See {@linkcode LastResortOptions}.
 * @returns The dialer; one for each client.
 */
export function fallBackToHttp(
  dial: ClientDialer,
  { transports, fetch }: LastResortOptions,
): ClientDialer {
  const path: HttpPath = { polls: false };
  const losses = new Losses();
  // A client on HTTP moves to WebSocket first, which more networks let through.
  const next = transports.includes("websocket") ? "websocket" : transports[0];
  let silentAt = -Infinity;

  const dialOthers: ClientDialer = async (url, options) => {
    const { runtime, signal, timeoutMs } = options;
    const ms = Math.min(OTHERS_MS, timeoutMs / 2);
    const late = new AbortController();
    const timer = runtime.setTimeout(() => {
      late.abort(new TimeoutError(`Cannot open ${transports.join(" or ")} within ${ms} ms`, ms));
    }, ms);
    try {
      return await dial(url, { ...options, signal: anySignal(signal, late.signal) });
    } finally {
      runtime.clearTimeout(timer);
    }
  };

  return async (url, options) => {
    const { runtime, only, silent, signal, onFallback } = options;
    if (only !== undefined && only !== "http") return await dial(url, options);
    const { origin } = parseServerUrl(url);
    const openHttp = async (error?: unknown) => {
      const connection = await dialHttp(url, { ...options, path, fetch });
      if (next !== undefined && error !== undefined) onFallback?.({ transport: next, error });
      return connection;
    };
    if (only === "http" || next === undefined) return await openHttp();
    if (silent?.transport === "websocket") {
      const isSecond = runtime.now() - silentAt < SILENCES_MS;
      silentAt = runtime.now();
      if (isSecond) losses.remember(origin, runtime.now(), silent.error);
    }
    const known = losses.get(origin);
    let failure: unknown;
    if (known !== undefined && known.until > runtime.now()) {
      try {
        return await openHttp(known.error);
      } catch (error) {
        if (isFinal(error, signal)) throw error;
        failure = error;
      }
    }
    try {
      const connection = await dialOthers(url, options);
      losses.delete(origin);
      return connection;
    } catch (error) {
      if (isFinal(error, signal)) throw error;
      if (failure !== undefined) throw combined(failure, error);
      const connection = await openHttp(error).catch((failure) => {
        throw isFinal(failure, signal) ? failure : combined(failure, error);
      });
      losses.remember(origin, runtime.now(), error);
      return connection;
    }
  };
}

/** Tells whether another transport would fail in the same way. */
function isFinal(error: unknown, signal: AbortSignal): boolean {
  const { status } = Object(error) as { status?: number };
  return signal.aborted || status !== undefined || error instanceof TypeError;
}

function combined(http: unknown, others: unknown): ConnectionError {
  if (others instanceof UnsupportedError && http instanceof ConnectionError) return http;
  return new ConnectionError(`Cannot connect: ${textOf(http)}; ${textOf(others)}`, {
    cause: new AggregateError([http, others]),
  });
}
