/** Refusals of sessions, reported to the application or printed. */
import type { AdmissionOptions } from "./admission_options.ts";
import { AuthenticationError, LimitError, type RefusalStatus } from "../errors.ts";
import type { SessionManager } from "../manager/session_manager.ts";
import { attempt } from "../base/call_safely.ts";
import type { ConsoleReport } from "../base/console_report.ts";

/**
 * Shortest time between two printed faults, in milliseconds: peers can cause refusals at any rate.
 */
const FAULT_SILENT_MS = 1_000;

/** Properties of a {@linkcode Refused} beside status and message. */
interface RefusedOptions extends ErrorOptions {
  /** `true` if the application may be at fault, and should be informed. */
  readonly isFault?: boolean;
  /**
   * Sends the text in a close over WebTransport, because pages cannot read the status of a refusal.
   */
  readonly isToldByClose?: boolean;
}

/** Thrown internally, and answered at the edge; the peer gets the message. */
export class Refused extends Error {
  /** HTTP status; the close code is 4000 more. */
  readonly status: RefusalStatus;
  readonly isFault: boolean;
  readonly isToldByClose: boolean;

  constructor(status: RefusalStatus, message: string, options: RefusedOptions = {}) {
    super(message, options);
    this.status = status;
    this.isFault = options.isFault ?? false;
    this.isToldByClose = options.isToldByClose ?? false;
  }
}

/** Converts the {@linkcode LimitError} of an operation to a refusal. */
export function withinLimits<T>(manager: SessionManager, take: () => T): T {
  try {
    return take();
  } catch (error) {
    if (!(error instanceof LimitError)) throw error;
    throw new Refused(manager.isDraining ? 503 : 429, error.message, { cause: error });
  }
}

/** The peer of a refusal. */
interface RefusedPeer {
  /** Network address, where known. */
  readonly address: string | undefined;
  /** Finds the token, which is never printed. */
  readonly token?: () => string | undefined;
}

/** Reports refusals to `onRefusal`, or on the console. */
export class RefusalReport {
  readonly #onRefusal: AdmissionOptions<never>["onRefusal"];
  readonly #console: ConsoleReport;

  constructor(onRefusal: AdmissionOptions<never>["onRefusal"], console: ConsoleReport) {
    this.#onRefusal = onRefusal;
    this.#console = console;
  }

  /** Reports a refusal. */
  tell(refused: Refused, { address, token }: RefusedPeer): void {
    const { status, message: reason, cause } = refused;
    const onRefusal = this.#onRefusal;
    if (onRefusal === undefined) return this.#print(refused, token?.());
    const error = cause === undefined ? {} : { error: cause };
    attempt(() => onRefusal({ status, reason, address, ...error }), (failure) => {
      this.#console.tell("onRefusal", `onRefusal failed: ${textOf(failure)}`, {
        silentMs: FAULT_SILENT_MS,
      });
    });
  }

  #print({ status, message, cause, isFault }: Refused, token: string | undefined): void {
    // A draining server refuses all sessions, as intended.
    if (status === 503 && cause instanceof LimitError) return;
    const isOwnText = !(cause instanceof AuthenticationError);
    const behind = isOwnText ? cause : cause.cause;
    const isTold = isFault || behind !== undefined && !(behind instanceof LimitError);
    // A text of the application may contain the token.
    const mask = (text: string) => token ? text.replaceAll(token, "<token>") : text;
    const reason = isOwnText ? message : mask(message);
    const more = isTold ? `: ${mask(textOf(behind))}` : "";
    const line = `A session was refused with ${status}: ${reason}${more}`;
    if (isFault) this.#console.tell("fault", line, { silentMs: FAULT_SILENT_MS });
    else this.#console.tell(`refusal-${status}`, line, { about: reason });
  }
}

function textOf(error: unknown): string {
  if (error instanceof Error) return `${error.name}: ${error.message}`;
  return typeof error === "string" ? error : `a throw of ${typeof error}`;
}
