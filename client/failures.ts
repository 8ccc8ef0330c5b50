/** Reports failures to applications that do not read the client's status. */
import { CloseCode, type CloseInfo, ConnectionError, SessionClosedError } from "../errors.ts";
import { report, type SessionSettings, tellLoss } from "../session/settings/settings.ts";
import { withUrl } from "../transport/url.ts";

/**
 * The reaction of a client to the end of a session or attempt. It closes, waits as `rejected`, or
 * retries after its usual delay, after the longest delay, or soon with a new token.
 */
export type Verdict = "closed" | "rejected" | "usual" | "longest" | "fresh-token";

/** A failed attempt, or the close of a client. */
export interface Failure {
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
 * @param failure The failure.
 */
export function reportFailure(settings: SessionSettings, { info, verdict, url }: Failure): void {
  const { by, code, reason, error } = info;
  if (code === CloseCode.normal) return;
  if (code === CloseCode.queueFull) return tellLoss(settings, { kind: "full", info });
  const why = error === undefined ? `${code}${reason && ` ${reason}`}` : reason;
  const named = withUrl(new ConnectionError(why), url) as ConnectionError;
  const isOver = verdict === "closed" || verdict === "rejected";
  const line = isOver
    ? `The client of ${url} ${OUTCOMES[verdict]}: ${why}`
    : `${named.message}; retrying, see client.status`;
  const needsToken = isOver && code === CloseCode.unauthenticated && by === "remote";
  const cure = needsToken ? "; give connect() a token that is valid" : "";
  const toHandler = (line: string) =>
    report(settings, new SessionClosedError(line, { info, cause: error }), undefined);
  settings.console.tell(isOver ? verdict : "unreachable", line + cure, {
    about: url,
    to: settings.handlers.onError && toHandler,
  });
}
