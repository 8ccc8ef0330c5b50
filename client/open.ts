/**
 * One attempt to open a session: from the URL to the server's `hello`, in one time.
 *
 * @module
 */
import {
  CloseCode,
  type CloseInfo,
  ConnectionError,
  SessionClosedError,
  TimeoutError,
} from "../errors.ts";
import type { Connection } from "../transport/connection.ts";
import { absoluteUrl, publicUrl, withUrl } from "../transport/url.ts";
import { TOKEN_MARK } from "../transport/webtransport.ts";
import { startTimer, within } from "../transport/within.ts";
import type { Dialer, Fresh } from "./client_options.ts";
import { closedError } from "../session/core.ts";
import type { Instrumentation } from "../session/insight/instrumentation.ts";
import { insight, internals, Session, SKEIN_PROTOCOL } from "../session/session.ts";
import type { SessionSettings } from "../session/settings.ts";
import { withoutToken } from "../session/url.ts";
import type { TransportFallback } from "../transport/race/options.ts";

/** How a session is opened. */
export interface OpenOptions {
  /** Where to. */
  readonly url: Fresh<string | URL>;
  /** Opens the connection. */
  readonly dial: Dialer;
  /** Subprotocols to offer. */
  readonly protocols: readonly string[];
  /** Settings of the session. */
  readonly settings: SessionSettings;
  /** Sent in band before anything else. */
  readonly token?: Fresh<string | undefined> | undefined;
  /** Request headers. */
  readonly headers?: HeadersInit | undefined;
  /** How long all of it may take, in milliseconds; `Infinity` is for ever. */
  readonly timeoutMs: number;
  /** Gives up. */
  readonly signal?: AbortSignal | undefined;
  /** See {@linkcode Dialer}. */
  readonly hooks?: Pick<Parameters<Dialer>[1], "onLate" | "onWorn"> | undefined;
  /** Watches it. */
  readonly instrumentation?: Instrumentation | undefined;
}

/**
 * Opens a session. What was begun is closed again when it fails.
 *
 * @param options See {@linkcode OpenOptions}.
 * @returns The session, established.
 * @throws {TimeoutError} If it takes longer than `timeoutMs`.
 * @throws {SessionClosedError} If the server refused it, or it closed before it was established.
 * @throws {ConnectionError} If there is a token, and the server does not speak `skein.1`.
 */
export async function openSession(options: OpenOptions): Promise<Session> {
  // Where the part that watches does not load, nobody watches.
  const part = options.instrumentation && await insight().catch(() => undefined);
  return await (part
    ? part.openWatched(options, (url) => open({ ...options, url }))
    : open(options));
}

async function open(options: OpenOptions): Promise<Session> {
  const { protocols, headers, timeoutMs, settings } = options;
  const late = new AbortController();
  let place: string | undefined;
  const timer = startTimer(timeoutMs, (ms) => {
    const to = place === undefined ? "" : ` to ${publicUrl(place)}`;
    late.abort(new TimeoutError(`Cannot connect${to} within ${ms} ms`, ms));
  });
  const signal = options.signal ? AbortSignal.any([options.signal, late.signal]) : late.signal;
  let connection: Connection | undefined;
  let session: Session | undefined;
  try {
    signal.throwIfAborted();
    const url = await within(fresh(options.url), { signal });
    place = absoluteUrl(url)?.href ?? String(url);
    const token = await within(fresh(options.token), { signal });
    let fallback: TransportFallback | undefined;
    connection = await options.dial(url, {
      // The server waits for a token only where it was told that one follows.
      protocols: token === undefined ? protocols : [...protocols, TOKEN_MARK],
      signal,
      timeoutMs,
      onFallback: (told) => fallback = told,
      ...options.hooks,
      ...(headers === undefined ? {} : { headers }),
    }).catch((error) => {
      throw refusalOf(error, url) ?? withUrl(error, url);
    });
    if (token !== undefined && connection.protocol !== SKEIN_PROTOCOL) {
      throw new ConnectionError(
        `Cannot connect to ${
          publicUrl(place)
        }: the server does not speak ${SKEIN_PROTOCOL}, which the token needs`,
      );
    }
    session = new Session(connection, settings, {
      url: withoutToken(place),
      fallback,
      token,
    });
    await within(session.ready, { signal }).catch((error) => {
      throw error instanceof SessionClosedError ? refusedAt(url, error.info) : error;
    });
    return session;
  } catch (error) {
    const isLate = late.signal.aborted;
    const code = isLate ? CloseCode.timedOut : CloseCode.normal;
    if (session === undefined) connection?.close();
    else session[internals].abort(code, isLate ? "No hello in time" : "", error);
    throw error;
  } finally {
    clearTimeout(timer);
  }
}

/**
 * Checks how long one attempt to connect may take.
 *
 * @param connectTimeoutMs The time, in milliseconds; 10,000 if left out.
 * @returns The time.
 * @throws {RangeError} If it is negative, or no number.
 */
export function checkConnectTimeout(connectTimeoutMs: number = 10_000): number {
  if (connectTimeoutMs >= 0) return connectTimeoutMs;
  throw new RangeError(
    `Cannot connect: connectTimeoutMs must be from 0, received ${connectTimeoutMs}`,
  );
}

/** Where a dialer failed because the server refused, and said so: the same as a close, as on every wire. */
function refusalOf(error: unknown, url: string | URL): SessionClosedError | undefined {
  if (!(error instanceof ConnectionError)) return undefined;
  const { message: reason, status = 0 } = error;
  if (status < 400) return undefined;
  return refusedAt(url, { code: 4000 + status, reason, by: "remote", error });
}

function refusedAt(url: string | URL, info: CloseInfo | undefined): SessionClosedError {
  return closedError(`Cannot connect to ${publicUrl(absoluteUrl(url) ?? url)}`, info);
}

async function fresh<T>(value: Fresh<T>): Promise<T> {
  return typeof value === "function" ? await (value as () => T | Promise<T>)() : value;
}
