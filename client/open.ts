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
import { absoluteUrl, publicUrl, withUrl } from "../transport/url.ts";
import { TOKEN_MARK } from "../transport/webtransport.ts";
import { anySignal, startTimer, within } from "../base/wait.ts";
import type { Dialer, Fresh } from "./client_options.ts";
import type { ClientPlatform } from "./platform.ts";
import { closedError } from "../session/core.ts";
import type { Instrumentation } from "../session/insight/instrumentation.ts";
import { internals, Session, SKEIN_PROTOCOL } from "../session/session.ts";
import type { SessionSettings } from "../session/settings.ts";
import { withoutToken } from "../session/url.ts";
import type { TransportFallback } from "../transport/race/options.ts";

/** The options for {@linkcode openSession}. */
export interface OpenOptions extends Pick<ClientPlatform, "dial" | "insight" | "responses"> {
  /** The URL of the server, or a function that returns it. */
  readonly url: Fresh<string | URL>;
  /** The subprotocols to offer. */
  readonly protocols: readonly string[];
  /** The session's settings. */
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

/** Thrown if the function for the token says that there is no token. */
export class NoToken extends SessionClosedError {}

/** Thrown if the server does not support the client's protocol, which no later attempt can fix. */
export class NoCommonProtocol extends ConnectionError {}

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
  // If the code for instrumentation cannot be loaded, the session opens without it.
  const { responses, insight, instrumentation, settings } = options;
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
  const part = instrumentation && await insight().catch(() => undefined);
  return await (part?.openWatched(options, (url) => open({ ...options, url })) ?? open(options));
}

async function open(options: OpenOptions): Promise<Session> {
  const { protocols, headers, timeoutMs, settings } = options;
  const { runtime } = settings;
  const late = new AbortController();
  let place: string | undefined;
  const timer = startTimer(runtime, timeoutMs, (ms) => {
    const to = place === undefined ? "" : ` to ${publicUrl(place)}`;
    late.abort(new TimeoutError(`Cannot connect${to} within ${ms} ms`, ms));
  });
  const signal = options.signal ? anySignal(options.signal, late.signal) : late.signal;
  let connection: Connection | undefined;
  let session: Session | undefined;
  try {
    signal.throwIfAborted();
    const url = await within(runtime, fresh(options.url, signal), { signal });
    place = absoluteUrl(url)?.href ?? String(url);
    const asked = fresh(options.token, signal).catch((error) => {
      throw noTokenOf(error) ?? error;
    });
    const token = await within(runtime, asked, { signal }) ?? undefined;
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
      throw rejectionOf(error, url) ?? withUrl(error, url);
    });
    if (token !== undefined && connection.protocol !== SKEIN_PROTOCOL) {
      throw new NoCommonProtocol(
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
    if (token !== undefined) session[internals].lineage.hasToken = true;
    await within(runtime, session.ready, { signal }).catch((error) => {
      throw error instanceof SessionClosedError ? rejectedAt(url, error.info) : error;
    });
    return session;
  } catch (error) {
    const isLate = late.signal.aborted;
    const code = isLate ? CloseCode.timedOut : CloseCode.normal;
    if (session === undefined) connection?.close();
    else session[internals].abort(code, isLate ? "No hello in time" : "", error);
    throw error;
  } finally {
    runtime.clearTimeout(timer);
  }
}

/**
 * Checks the time limit of one attempt to connect.
 *
 * @param connectTimeoutMs The time limit, in milliseconds; 10,000 by default.
 * @returns The time limit.
 * @throws {RangeError} If the time limit is negative or `NaN`.
 */
export function checkConnectTimeout(connectTimeoutMs: number = 10_000): number {
  if (connectTimeoutMs >= 0) return connectTimeoutMs;
  throw new RangeError(
    `Cannot connect: connectTimeoutMs must be 0 or more, received ${connectTimeoutMs}`,
  );
}

/** Converts an error that the function for the token threw instead of providing one. */
function noTokenOf(error: unknown): NoToken | undefined {
  let code: number;
  if (error instanceof AuthenticationError) code = 4_000 + error.status;
  else if (!(error instanceof RequestError)) return undefined;
  else if (error.failure.code === "unauthenticated") code = CloseCode.unauthenticated;
  else if (error.failure.code === "forbidden") code = CloseCode.forbidden;
  else return undefined;
  const reason = error.message;
  return new NoToken(reason, { info: { code, reason, by: "local", error }, cause: error });
}

/** Converts a dialer's error with an HTTP status to the close code for that status. */
function rejectionOf(error: unknown, url: string | URL): SessionClosedError | undefined {
  if (!(error instanceof ConnectionError)) return undefined;
  const { message: reason, status = 0 } = error;
  if (status < 400) return undefined;
  return rejectedAt(url, { code: 4000 + status, reason, by: "remote", error });
}

function rejectedAt(url: string | URL, info: CloseInfo | undefined): SessionClosedError {
  return closedError(`Cannot connect to ${publicUrl(absoluteUrl(url) ?? url)}`, info);
}

/** Returns a value, or the result of the function that provides it. */
export async function fresh<T>(value: Fresh<T>, signal: AbortSignal): Promise<T> {
  if (typeof value !== "function") return value;
  return await (value as (options: { signal: AbortSignal }) => T | Promise<T>)({ signal });
}
