/** Rejected sessions, reported to the application or printed. */
import type { AdmissionOptions } from "./admission_options.ts";
import { AuthenticationError, LimitError, type RejectionStatus } from "../../errors.ts";
import type { SessionManager } from "../../manager/session_manager.ts";
import { attempt } from "../../base/call_safely.ts";
import type { ConsoleReport } from "../../base/console_report.ts";
import { type DecisionFault, tellFault } from "../../base/decision.ts";

/**
 * Minimum length of a token that is hidden in a text. A shorter token is not secret, and occurs in
 * many words.
 */
const MIN_SECRET_LENGTH = 4;

/** Shortest time between two lines about a failing `onSessionRejected`, in milliseconds. */
const FAILED_SILENT_MS = 1_000;

/** Further properties of a {@linkcode Rejected}. */
interface RejectedOptions extends ErrorOptions {
  /** The application's fault, if any; the peer should retry. */
  readonly fault?: DecisionFault | undefined;
  /**
   * `true` to send the text in a close over WebTransport, because pages cannot read the status of a
   * rejection.
   */
  readonly isToldByClose?: boolean;
  /** `true` if the peer then connects in another way, so that the rejection is not reported. */
  readonly isRoutine?: boolean;
}

/**
 * Thrown internally, and converted to a response where requests arrive. The peer receives the
 * message.
 */
export class Rejected extends Error {
  /** HTTP status. The close code is this status plus 4000. */
  readonly status: RejectionStatus;
  /** The application's fault, if it caused the rejection. */
  readonly fault: DecisionFault | undefined;
  readonly isToldByClose: boolean;
  readonly isRoutine: boolean;

  constructor(status: RejectionStatus, message: string, options: RejectedOptions = {}) {
    super(message, options);
    this.status = status;
    this.fault = options.fault;
    this.isToldByClose = options.isToldByClose ?? false;
    this.isRoutine = options.isRoutine ?? false;
  }

  /**
   * The rejection for a peer that may not be a Skein client. For such a peer, a fault has the
   * status 401.
   */
  get forAnyPeer(): Rejected {
    if (this.fault === undefined) return this;
    const { message, cause, fault } = this;
    return new Rejected(401, message, { cause, fault });
  }
}

/** Converts the {@linkcode LimitError} of an operation to a rejection. */
export function withinLimits<T>(manager: SessionManager, take: () => T): T {
  try {
    return take();
  } catch (error) {
    if (!(error instanceof LimitError)) throw error;
    throw new Rejected(manager.isDraining ? 503 : 429, error.message, { cause: error });
  }
}

interface RejectedPeer {
  /** Network address, where known. */
  readonly address: string | undefined;
  /** Returns the token, which is never printed. */
  readonly token?: () => string | undefined;
}

/** Reports rejections to `onSessionRejected`, or on the console. */
export class RejectionReport {
  readonly #onSessionRejected: AdmissionOptions<never>["onSessionRejected"];
  readonly #console: ConsoleReport;

  constructor(
    onSessionRejected: AdmissionOptions<never>["onSessionRejected"],
    console: ConsoleReport,
  ) {
    this.#onSessionRejected = onSessionRejected;
    this.#console = console;
  }

  tell(rejected: Rejected, { address, token }: RejectedPeer): void {
    const { status, message: reason, cause, fault } = rejected;
    const onSessionRejected = this.#onSessionRejected;
    // The application's text may contain the token.
    const secret = token?.();
    const isSecret = secret !== undefined && secret.length >= MIN_SECRET_LENGTH;
    const mask = (text: string) => isSecret ? text.replaceAll(secret, "<token>") : text;
    if (fault) {
      tellFault(this.#console, fault, { mask, isReported: onSessionRejected !== undefined });
    } else if (onSessionRejected === undefined) this.#print(rejected, mask);
    if (onSessionRejected === undefined) return;
    const error = cause === undefined ? {} : { error: cause };
    attempt(() => onSessionRejected({ status, reason, address, ...error }), (failure) => {
      this.#console.tell(
        "onSessionRejected",
        `onSessionRejected failed: ${describeThrown(failure)}`,
        {
          silentMs: FAILED_SILENT_MS,
        },
      );
    });
  }

  #print({ status, message, cause }: Rejected, mask: (text: string) => string): void {
    // A draining server rejects all sessions, as intended.
    if (status === 503 && cause instanceof LimitError) return;
    const isOwnText = !(cause instanceof AuthenticationError);
    const behind = isOwnText ? cause : cause.cause;
    const isTold = behind !== undefined && !(behind instanceof LimitError);
    const reason = isOwnText ? message : mask(message);
    const more = isTold ? `: ${mask(describeThrown(behind))}` : "";
    const line = `A session was rejected with ${status}: ${reason}${more}`;
    this.#console.tell(`rejection-${status}`, line, { about: reason });
  }
}

function describeThrown(error: unknown): string {
  if (error instanceof Error) return `${error.name}: ${error.message}`;
  return typeof error === "string" ? error : `a thrown ${typeof error}`;
}
