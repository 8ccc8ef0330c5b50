/**
 * Makes one attempt to open a session, from the URL to the server's `hello`, within one time limit.
 */
import {
  AuthenticationError,
  CloseCode,
  type CloseInfo,
  ConnectionError,
  RequestError,
  SessionClosedError,
  TimeoutError,
} from "../errors.ts";
import type { Connection } from "../transport/connection.ts";
import { textOf } from "../base/error_text.ts";
import { absoluteUrl, publicUrl, withoutToken, withUrl } from "../transport/url.ts";
import { TOKEN_MARK } from "../transport/webtransport.ts";
import { anySignal, startTimer, within } from "../base/wait.ts";
import type { Dialer, Fresh } from "./client_options.ts";
import { closedError } from "../session/core.ts";
import type { Instrumentation } from "../session/insight/instrumentation.ts";
import { internals, Session, SKEIN_PROTOCOL } from "../session/session.ts";
import type { SessionSettings } from "../session/settings/settings.ts";
import type { TransportFallback } from "../transport/race/options.ts";

/** The options for {@linkcode openSession}. */
export interface OpenOptions {
  /** Opens the connection. */
  readonly dial: Dialer;
  /** Loads the code for an instrumentation. */
  readonly insight: () => Promise<WatchModule>;
  /** Loads the code for request handlers and drop policies. */
  readonly responses: () => Promise<HandlerModule>;
  /** The connections to another host than that of the URL, which receive no secrets. */
  readonly elsewhere?: WeakSet<Connection> | undefined;
  /** The URL of the server, or a function that returns it. */
  readonly url: Fresh<string | URL>;
  /** The subprotocols to offer. */
  readonly protocols: readonly string[];
  readonly settings: SessionSettings;
  /** The token, which is sent in band before all messages. `null` means that there is no token. */
  readonly token?: Fresh<string | null | undefined> | undefined;
  /** Request headers. */
  readonly headers?: HeadersInit | undefined;
  /** The time limit for the whole attempt, in milliseconds. `Infinity` means no limit. */
  readonly timeoutMs: number;
  /** Aborts the attempt. */
  readonly signal?: AbortSignal | undefined;
  /** Callbacks for events on the connection after the dial; see {@linkcode Dialer}. */
  readonly hooks?: Pick<Parameters<Dialer>[1], "onLate" | "onWorn"> | undefined;
  /** Observes the handshake and the session. */
  readonly instrumentation?: Instrumentation | undefined;
}

type WatchModule = Pick<typeof import("../session/insight/watch.ts"), "openWatched">;

type HandlerModule = Pick<
  typeof import("../session/responses/responses.ts"),
  "DropPolicy" | "RequestTable"
>;

/** The outcome of an attempt to open a session. */
export type Opening =
  | { readonly session: Session; readonly info?: undefined }
  | OpenFailure;

/** The steps of an attempt: the URL, the token, the connection, its protocol, and the `hello`. */
export type OpenStep = "url" | "token" | "dial" | "protocol" | "hello";

/** A failed attempt to open a session. */
export interface OpenFailure {
  readonly session?: undefined;
  /** The step that failed. */
  readonly during: OpenStep;
  /** The error that {@linkcode openSession} throws. */
  readonly error: unknown;
  /**
   * The reason, in the form of a close:
   *
   * - by the server, if it rejected the session or closed it before `hello`,
   * - by this side, if the next attempt would fail too: the function for the token threw instead of
   *   providing one, the dialer does not accept its arguments, such as the URL, or the server does
   *   not support the protocol,
   * - by the network otherwise.
   */
  readonly info: CloseInfo;
  /** The transport of the connection, if one was opened. */
  readonly transport: string | undefined;
}

/**
 * Opens a session. If the attempt fails, both the connection and the session are closed.
 *
 * @param options The options of the attempt.
 * @returns The established session.
 * @throws {TimeoutError} If the attempt takes longer than `timeoutMs`.
 * @throws {SessionClosedError} If the server rejected the session, or if the session closed before
 * `hello`.
 * @throws {ConnectionError} If there is a token and the server does not support `skein.1`.
 */
export async function openSession(options: OpenOptions): Promise<Session> {
  const opening = await attemptSession(options);
  if (!opening.session) throw opening.error;
  return opening.session;
}

/** Opens a session as {@linkcode openSession} does. Never rejects: a failure is returned. */
export async function attemptSession(options: OpenOptions): Promise<Opening> {
  const { insight, instrumentation } = options;
  // If the code for instrumentation cannot be loaded, the session opens without it.
  const part = instrumentation && await insight().catch(() => undefined);
  return await (part?.openWatched(options, (url) => open({ ...options, url })) ?? open(options));
}

/** Loads the code for request handlers and drop policies, if the settings need it. */
async function prepare({ responses, settings }: OpenOptions): Promise<void> {
  const { handlers: { requests }, sendQueue: { policy } } = settings;
  const load = (what: string) =>
    responses().catch((cause) => {
      throw new ConnectionError(`Cannot load ${what}`, { cause });
    });
  if (requests !== undefined) {
    const { RequestTable } = await load("the handlers of requests");
    settings.requests ??= new RequestTable(settings);
  }
  if (policy !== "close") {
    const { DropPolicy } = await load("the policy of sendQueue");
    settings.overflow ??= new DropPolicy(policy);
  }
}

async function open(options: OpenOptions): Promise<Opening> {
  const { protocols, headers, timeoutMs, settings } = options;
  const { runtime } = settings;
  const late = new AbortController();
  /** The start of error messages. */
  let failed = "Cannot connect";
  const timer = startTimer(runtime, timeoutMs, (ms) => {
    late.abort(new TimeoutError(`${failed} within ${ms} ms`, ms));
  });
  const signal = anySignal(options.signal, late.signal);
  // A handler that is not valid is like a URL that the dialer does not accept.
  let during: OpenStep = "dial";
  let connection: Connection | undefined;
  let session: Session | undefined;
  try {
    await prepare(options);
    during = "url";
    signal.throwIfAborted();
    const url = await within(runtime, fresh(options.url, signal), { signal });
    const place = absoluteUrl(url)?.href ?? String(url);
    failed += ` to ${publicUrl(place)}`;
    during = "token";
    const token = await within(runtime, fresh(options.token, signal), { signal }) ?? undefined;
    during = "dial";
    let fallback: TransportFallback | undefined;
    connection = await options.dial(url, {
      runtime,
      // This mark makes the server wait for a token.
      protocols: token === undefined ? protocols : [...protocols, TOKEN_MARK],
      signal,
      timeoutMs,
      onFallback: (told) => fallback = told,
      ...options.hooks,
      headers,
    }).catch((error) => {
      const info = closeOfStatus(error);
      throw info ? closedError(failed, info) : withUrl(error, url);
    });
    during = "protocol";
    const isElsewhere = options.elsewhere?.has(connection);
    if (token !== undefined && !isElsewhere && connection.protocol !== SKEIN_PROTOCOL) {
      throw new ConnectionError(
        `${failed}: the server does not speak ${SKEIN_PROTOCOL}, which the token needs`,
      );
    }
    during = "hello";
    session = new Session(connection, settings, {
      url: withoutToken(place),
      fallback,
      token: isElsewhere ? undefined : token,
    });
    const { lineage } = session[internals];
    if (token !== undefined) lineage.hasToken = true;
    await within(runtime, session.ready, { signal }).catch((error) => {
      throw error instanceof SessionClosedError ? closedError(failed, error.info) : error;
    });
    if (isElsewhere) Object.assign(lineage, { ticket: undefined, isElsewhere, hasToken: false });
    return { session };
  } catch (error) {
    const isLate = late.signal.aborted;
    const code = isLate ? CloseCode.timedOut : CloseCode.normal;
    if (session === undefined) connection?.close();
    else session[internals].abort(code, isLate ? "No hello in time" : "", error);
    return { during, error, info: closeOf(error, during), transport: connection?.transport };
  } finally {
    runtime.clearTimeout(timer);
  }
}

/** Describes the failure of a step in the form of a close. */
function closeOf(error: unknown, step: OpenStep): CloseInfo {
  const { abnormal, malformed } = CloseCode;
  const own = step === "token"
    ? codeOfNoToken(error)
    : step === "protocol"
    ? malformed
    : step === "dial" && error instanceof TypeError
    ? abnormal
    : undefined;
  // The functions for the URL and the token may throw the error of another session.
  const told = step !== "url" && step !== "token" && error instanceof SessionClosedError;
  return told && error.info ||
    {
      code: own ?? abnormal,
      reason: textOf(error),
      by: own === undefined ? "network" : "local",
      error,
    };
}

/**
 * Checks the time limit of one attempt to connect.
 *
 * @param connectTimeoutMs The time limit, in milliseconds; 10,000 by default.
 * @returns The time limit.
 * @throws {RangeError} If the time limit is not above 0.
 */
export function checkConnectTimeout(connectTimeoutMs: number = 10_000): number {
  if (connectTimeoutMs > 0) return connectTimeoutMs;
  throw new RangeError(
    `Cannot connect: connectTimeoutMs must be above 0, received ${connectTimeoutMs}`,
  );
}

/** The close code for an error that the function for the token threw instead of providing one. */
function codeOfNoToken(error: unknown): number | undefined {
  if (error instanceof AuthenticationError) return 4_000 + error.status;
  if (!(error instanceof RequestError)) return undefined;
  const { code } = error.failure;
  return code === "unauthenticated" || code === "forbidden" ? CloseCode[code] : undefined;
}

/** The close for the HTTP status with which a server rejected the connection. */
function closeOfStatus(error: unknown): CloseInfo | undefined {
  if (!(error instanceof ConnectionError)) return undefined;
  const { message: reason, status = 0 } = error;
  if (status < 300) return undefined;
  // After a redirect, there are no sessions at this URL.
  return { code: status < 400 ? CloseCode.notFound : 4000 + status, reason, by: "remote", error };
}

/** Returns a value, or the result of the function that provides it. */
export async function fresh<T>(value: Fresh<T>, signal: AbortSignal): Promise<T> {
  if (typeof value !== "function") return value;
  return await (value as (options: { signal: AbortSignal }) => T | Promise<T>)({ signal });
}
