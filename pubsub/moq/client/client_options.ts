/**
 * What a client that comes back can be told, and what it tells.
 *
 * @module
 */
import type { BackoffOptions } from "../../../session/base/backoff.ts";
import type { TrackMux } from "../track/mux.ts";
import type { MoqSession } from "../session/session.ts";
import type { MoqCloseInfo } from "../session/session_info.ts";

/** What a dial function gets beside its signal. */
export interface MoqDialContext {
  /** What the session has to serve: pass it on to `dialMoq()` or `MoqSession.open()`. */
  readonly mux: TrackMux;
  /** Where a server asked to go instead, after it passed the rule; absent for the usual place. */
  readonly uri?: string;
}

/**
 * Opens one session.
 *
 * - It MUST open the session with the mux of the context: nothing would be announced otherwise.
 * - It SHOULD give up when the signal is aborted; what comes too late is closed.
 * - A `TypeError`, a `RangeError`, an `UnsupportedError` or a refusal that it throws ends the client.
 */
export type MoqDial = (signal: AbortSignal, context: MoqDialContext) => Promise<MoqSession>;

/** Decides whether to go where a server says in GOAWAY. What it throws is a no. */
export type AllowMigration = (to: URL, from: URL | undefined) => boolean;

/** When to try again, and when to give up. */
export interface MoqRetryOptions extends BackoffOptions {
  /**
   * Upper end of the first delay, in milliseconds; every delay is drawn between nothing and the whole.
   *
   * @default {500}
   */
  readonly firstDelayMs?: number;
  /**
   * Upper end of every delay, in milliseconds; the first one doubles up to here.
   *
   * @default {10000}
   */
  readonly maxDelayMs?: number;
  /**
   * Attempts in a row before giving up: sessions count that did not hold for `stableMs`.
   *
   * @default {Infinity}
   */
  readonly maxAttempts?: number;
  /**
   * Gives up after this many milliseconds without a session that held; `Infinity` is never.
   *
   * @default {300000}
   */
  readonly giveUpAfterMs?: number;
  /**
   * A session that lived for this many milliseconds held: delays, attempts and the time to give up
   * begin anew after it. A server that takes sessions and drops them at once is waited for longer
   * and longer.
   *
   * @default {10000}
   */
  readonly stableMs?: number;
  /**
   * After GOAWAY the session is left once the next one is there, or after this many milliseconds
   * without: a server that restarts waits for it to go.
   *
   * @default {5000}
   */
  readonly leaveAfterMs?: number;
}

/** Options for {@linkcode MoqClient}, of all but how to dial. */
export interface MoqClientSettings {
  /** What is published to the server; an empty one by default. */
  readonly mux?: TrackMux;
  /**
   * When to try again, and when to give up.
   *
   * @default {{ firstDelayMs: 500, maxDelayMs: 10000, giveUpAfterMs: 300000, stableMs: 10000, leaveAfterMs: 5000 }}
   */
  readonly retry?: MoqRetryOptions;
  /**
   * How long one attempt may take, in milliseconds; `Infinity` is for ever.
   *
   * @default {10000}
   */
  readonly connectTimeoutMs?: number;
  /**
   * Whether to go where a server says in GOAWAY, for one session. By default only to the same origin
   * (scheme, host and port): another place would get what is published here, and could tell anything.
   * Without a yes the client comes back to its usual place.
   */
  readonly allowMigration?: AllowMigration;
  /**
   * Gets each session once it is there, such as to hand it to a relay whose `mux` is the client's. If it
   * throws, the session is closed, and the client comes back.
   */
  readonly onSession?: (session: MoqSession) => void | Promise<void>;
  /** Closes the client for good. */
  readonly signal?: AbortSignal;
}

/** Options for {@linkcode MoqClient}. */
export interface MoqClientOptions extends MoqClientSettings {
  /** Opens each session. */
  readonly dial: MoqDial;
  /** Where that goes, to judge a GOAWAY by; without it none is the same origin. */
  readonly url?: string | URL | (() => string | URL | undefined);
}

/** Why there is no session, or not for long any more. */
export interface MoqClientCause {
  /** What the last session ended with, or the last attempt failed of. */
  readonly error: unknown;
  /** How the session ended; absent where there was none, or it lives on for a while after GOAWAY. */
  readonly info?: MoqCloseInfo;
}

/** How a client ended. */
export interface MoqClientEnd {
  /**
   * `closed` by the application; `refused`, where trying again is no use; `exhausted`, where a limit of
   * `retry` was reached.
   */
  readonly name: "closed" | "refused" | "exhausted";
  /** Why; `undefined` if the application closed it. */
  readonly error: unknown;
}

/** How a client is doing. */
export type MoqClientStatus =
  | { readonly name: "connecting" }
  | { readonly name: "connected"; readonly session: MoqSession }
  | {
    readonly name: "reconnecting";
    /** Attempts since the last session that held. */
    readonly attempt: number;
    /** How long the client waits, in milliseconds. */
    readonly delayMs: number;
    /** When it tries again, in milliseconds since the Unix epoch. */
    readonly retryAt: number;
    /** Why. After GOAWAY the session lives on for a while, see `leaveAfterMs`. */
    readonly cause: MoqClientCause;
  }
  | MoqClientEnd;

/** The settings of `retry`, with every default filled in. */
export type MoqRetry = Required<Omit<MoqRetryOptions, "random">> & Pick<MoqRetryOptions, "random">;

/**
 * Fills in the defaults.
 *
 * @param options The options.
 * @returns All of them.
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
