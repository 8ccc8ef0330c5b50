/** Reports failed attempts, and faults of the path to the server. */
import {
  CloseCode,
  type CloseInfo,
  ConnectionError,
  SessionClosedError,
  UnsupportedError,
} from "../errors.ts";
import type { OpenStep } from "./open.ts";
import { report, type SessionSettings, tellLoss } from "../session/settings/settings.ts";
import { internals, type Session } from "../session/session.ts";
import { publicUrl, withUrl } from "../transport/url.ts";

/**
 * The reaction of a client to the end of a session or attempt. It closes, waits as `rejected`, or
 * retries after its usual delay, after the longest delay, or soon with a new token.
 */
export type Verdict = "closed" | "rejected" | "usual" | "longest" | "fresh-token";

/** A failed attempt, or the close of a client. */
export interface Failure {
  /** The step that failed; `token` calls the application's function. */
  readonly during: OpenStep | "session";
  readonly info: CloseInfo;
  readonly verdict: Verdict;
  /** The URL of the attempt, without secrets. */
  readonly url: string;
}

/** The words for failures after which a client does not retry on its own. */
const OUTCOMES = { closed: "has ended", rejected: "was rejected" };

/**
 * Reports a failure once for each URL, to `onError`, or to the console if there is no such handler.
 * A normal close is none.
 *
 * @param settings The settings of the client's sessions.
 */
export function reportFailure(settings: SessionSettings, failure: Failure): void {
  const { during, info, verdict, url } = failure;
  const { by, code, reason, error } = info;
  if (code === CloseCode.normal) return;
  if (code === CloseCode.queueFull) return tellLoss(settings, { kind: "full", info });
  const why = error === undefined ? `${code}${reason && ` ${reason}`}` : reason;
  const what = during === "token" ? `token() failed: ${why}` : why;
  const named = withUrl(new ConnectionError(what), url) as ConnectionError;
  const isOver = verdict === "closed" || verdict === "rejected";
  const line = isOver
    ? `The client${url && ` of ${url}`} ${OUTCOMES[verdict]}: ${why}`
    : `${named.message}; retrying, see client.status`;
  const needsToken = isOver && code === CloseCode.unauthenticated && by === "remote";
  const cure = needsToken ? "; give connect() a token that is valid" : "";
  tell(settings, { kind: isOver ? verdict : "unreachable", line: line + cure, info, url });
}

/** Passes a line to `onError`, or to the console if there is no such handler. */
function tell(
  settings: SessionSettings,
  { kind, line, info, url, cause = info?.error }: Partial<Pick<Failure, "info">> & {
    readonly kind: string;
    readonly line: string;
    readonly url: string;
    readonly cause?: unknown;
  },
): void {
  const toHandler = (line: string) => {
    const error = info === undefined
      ? new ConnectionError(line, { cause })
      : new SessionClosedError(line, { info, cause });
    report(settings, error);
  };
  settings.console.tell(kind, line, { about: url, to: settings.handlers.onError && toHandler });
}

/**
 * The minimum age of a connection, in milliseconds. A server that crashes soon after its start also
 * breaks connections at the same age.
 */
const MIN_AGE_MS = 5_000;

/**
 * How much the ages of two connections may differ, in milliseconds. Proxies measure in seconds, and
 * their timers start at the last byte of the first subscriptions.
 */
const SAME_MS = 1_000;

/** The number of connections in a row that broke at the same age: two may be two restarts. */
const SAME_CUTS = 3;

/** The minimum share of its age that an idle connection was silent. */
const IDLE_SHARE = 0.8;

/** Finds faults of the path to the server in the sessions of one client, and reports them. */
export class PathFaults {
  #lastAgeMs = 0;
  /** How many connections in a row broke at this age. */
  #cuts = 0;
  #isTold = false;

  /**
   * Reports a session over HTTP on a path where a WebSocket has failed.
   *
   * @param session A session that has opened.
   */
  opened({ transport, fallback, url: full, [internals]: { settings } }: Session): void {
    if (transport !== "http" || fallback?.transport !== "websocket") return;
    if (fallback.error instanceof UnsupportedError) return; // The platform has no WebSocket.
    const url = publicUrl(full);
    const line = `HTTP works, but WebSocket fails: ${fallback.message}; to find the reason, run ` +
      `skein doctor ${url}`;
    tell(settings, { kind: "fallback", line, url, cause: fallback.error });
  }

  /**
   * Compares how old connections were when they broke, without a close from either side. Several
   * in a row at the same age are no accident, so it reports them, once per client.
   *
   * @param session A session that has ended after it had opened.
   */
  ended(session: Session): void {
    const { info, readyAt, closedAt, receiving, settings } = session[internals];
    const { lastReceivedAt, heartbeat } = receiving;
    if (info?.code !== CloseCode.abnormal || !heartbeat || this.#isTold) return;
    const ageMs = closedAt! - readyAt!;
    const isSame = Math.abs(ageMs - this.#lastAgeMs) <= SAME_MS;
    this.#lastAgeMs = ageMs;
    this.#cuts = isSame ? this.#cuts + 1 : 1;
    if (this.#cuts < SAME_CUTS || ageMs < MIN_AGE_MS) return;
    this.#isTold = true;
    const seconds = (ms: number) => `${Math.round(ms / 1_000)} s`;
    const [kind, bound] = closedAt! - lastReceivedAt < ageMs * IDLE_SHARE ? ["", "time limit"] : [
      "idle ",
      "idle timeout above session.heartbeat.intervalMs of the server " +
      `(${seconds(heartbeat.intervalMs)})`,
    ];
    const url = publicUrl(session.url);
    const line = `Something closes ${kind}connections to ${url} after ${seconds(ageMs)}; ` +
      `if it is a proxy, raise its ${bound}`;
    tell(settings, { kind: "cut", line, info, url });
  }
}
