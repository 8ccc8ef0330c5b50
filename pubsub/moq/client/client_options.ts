/** Options, state and end of a client that reconnects. */
import type { BackoffOptions } from "../../../base/backoff.ts";
import type { Runtime } from "../../../base/runtime.ts";
import type { TrackMux } from "../track/mux.ts";
import type { MoqSession } from "../session/session.ts";
import type { MoqCloseInfo } from "../session/session_info.ts";

/** Context of a dial function. */
export interface MoqDialContext {
  /** Broadcasts of the session: pass the mux on to `dialMoq()` or `MoqSession.open()`. */
  readonly mux: TrackMux;
  /** The URL of a GOAWAY that the client decided to follow; absent for the usual place. */
  readonly uri?: string;
}

/**
 * Opens one session.
 *
 * - The function MUST open the session with the mux of the context: without that, no broadcast is
 *   announced.
 * - The function SHOULD give up when the signal is aborted; a session that opens later is closed.
 * - A `TypeError`, a `RangeError`, an `UnsupportedError` or a refusal ends the client.
 */
export type MoqDial = (signal: AbortSignal, context: MoqDialContext) => Promise<MoqSession>;

/** Decides whether to follow the URL of a GOAWAY. An error counts as a no. */
export type AllowMigration = (to: URL, from: URL | undefined) => boolean;

/** Delays between attempts, and limits for giving up. */
export interface MoqRetryOptions extends BackoffOptions {
  /**
   * Upper end of the first delay, in milliseconds; every delay is drawn between 0 and the upper
   * end.
   *
   * @default {500}
   */
  readonly firstDelayMs?: number;
  /**
   * Upper end of every delay, in milliseconds; the first one doubles up to this limit.
   *
   * @default {10000}
   */
  readonly maxDelayMs?: number;
  /**
   * Attempts in a row before giving up; a session that did not hold for `stableMs` counts as an
   * attempt.
   *
   * @default {Infinity}
   */
  readonly maxAttempts?: number;
  /**
   * Time without a session that held, in milliseconds, after which the client gives up; `Infinity`
   * for no limit.
   *
   * @default {300000}
   */
  readonly giveUpAfterMs?: number;
  /**
   * Age at which a session counts as held, in milliseconds: then delays, attempts and the time to
   * give up start anew. For a server that accepts sessions and drops them at once, the delays keep
   * growing.
   *
   * @default {10000}
   */
  readonly stableMs?: number;
  /**
   * Time after GOAWAY, in milliseconds, after which the client leaves the session even without a
   * next one: a server that restarts waits for the client to leave.
   *
   * @default {5000}
   */
  readonly leaveAfterMs?: number;
}

/** Options for {@linkcode MoqClient}, without the dial function. */
export interface MoqClientSettings {
  /**
   * Clocks, timers and randomness of this node.
   *
   * @default {platformRuntime()}
   */
  readonly runtime?: Runtime;
  /** Broadcasts to publish to the server; an empty mux by default. */
  readonly mux?: TrackMux;
  /**
   * Delays between attempts, and limits for giving up.
   *
   * @default {{ firstDelayMs: 500, maxDelayMs: 10000, giveUpAfterMs: 300000, stableMs: 10000, leaveAfterMs: 5000 }}
   */
  readonly retry?: MoqRetryOptions;
  /**
   * Time limit of one attempt, in milliseconds; `Infinity` for no limit.
   *
   * @default {10000}
   */
  readonly connectTimeoutMs?: number;
  /**
   * Decides whether to follow the URL of a GOAWAY, for one session. By default the client follows a
   * URL of the same origin (scheme, host and port) only: a server elsewhere would receive the
   * published broadcasts, and could send forged ones. Otherwise the client comes back to the usual
   * place.
   */
  readonly allowMigration?: AllowMigration;
  /**
   * Receives each new session, for example to hand the session to a relay whose `mux` is the
   * client's. On an error, the session is closed, and the client reconnects.
   */
  readonly onSession?: (session: MoqSession) => void | Promise<void>;
  /** Closes the client for good. */
  readonly signal?: AbortSignal;
}

/** Options for {@linkcode MoqClient}. */
export interface MoqClientOptions extends MoqClientSettings {
  /** Opens each session. */
  readonly dial: MoqDial;
  /**
   * The URL that `dial` connects to, to compare with the URL of a GOAWAY; without this URL, no URL
   * counts as the same origin.
   */
  readonly url?: string | URL | (() => string | URL | undefined);
}

/** The reason for the end of a session, or for a failed attempt. */
export interface MoqClientCause {
  /** The error of the last session, or of the last attempt. */
  readonly error: unknown;
  /**
   * The end of the session; absent after a failed attempt, and while the session lives on after
   * GOAWAY.
   */
  readonly info?: MoqCloseInfo;
}

/** The end of a client. */
export interface MoqClientEnd {
  /**
   * `closed` by the application; `refused`, where another attempt would fail as well; `exhausted`,
   * where a limit of `retry` was reached.
   */
  readonly name: "closed" | "refused" | "exhausted";
  /** The error; `undefined` after a close by the application. */
  readonly error: unknown;
}

/** The state of a client. */
export type MoqClientStatus =
  | { readonly name: "connecting" }
  | { readonly name: "connected"; readonly session: MoqSession }
  | {
    readonly name: "reconnecting";
    /** Attempts since the last session that held. */
    readonly attempt: number;
    /** Delay before the next attempt, in milliseconds. */
    readonly delayMs: number;
    /** Time of the next attempt, in milliseconds since the Unix epoch. */
    readonly retryAt: number;
    /** The reason. After GOAWAY the session lives on for a while, see `leaveAfterMs`. */
    readonly cause: MoqClientCause;
  }
  | MoqClientEnd;

/** The settings of `retry`, with all defaults. */
export type MoqRetry = Required<Omit<MoqRetryOptions, "random">> & Pick<MoqRetryOptions, "random">;

/**
 * Fills in the defaults.
 *
 * @param options The options.
 * @returns All settings.
 * @throws {RangeError} If a time is negative or no number.
 */
export function retrySettings(options: MoqRetryOptions = {}): MoqRetry {
  const { firstDelayMs = 500, maxDelayMs = 10_000, maxAttempts = Infinity } = options;
  const { giveUpAfterMs = 300_000, stableMs = 10_000, leaveAfterMs = 5_000, random } = options;
  for (const [name, value] of Object.entries({ giveUpAfterMs, stableMs, leaveAfterMs })) {
    if (value >= 0) continue;
    throw new RangeError(`Cannot create client: ${name} must be from 0, received ${value}`);
  }
  return {
    firstDelayMs,
    maxDelayMs,
    maxAttempts,
    giveUpAfterMs,
    stableMs,
    leaveAfterMs,
    ...(random && { random }),
  };
}
