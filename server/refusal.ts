/**
 * Why a session was refused: told to the application, or printed.
 *
 * @module
 */
import type { AdmissionOptions } from "./admission_options.ts";
import { AuthenticationError, LimitError, type RefusalStatus } from "../errors.ts";
import type { SessionManager } from "../manager/mod.ts";
import { attempt } from "../session/base/call_safely.ts";
import type { ConsoleReport } from "../session/insight/console_report.ts";

/** One fault is printed in so many milliseconds: anybody can be refused as often as they like. */
const FAULT_SILENT_MS = 1_000;

/** What a {@linkcode Refused} has beside its status and text. */
export interface RefusedOptions extends ErrorOptions {
  /** Whether the application may be at fault, and should hear of it. */
  readonly isFault?: boolean;
  /** Has WebTransport tell it by a close with the text: pages see no status of a refusal. */
  readonly isToldByClose?: boolean;
}

/** Thrown inside, turned into an answer at the edge; the message is told to the peer. */
export class Refused extends Error {
  /** HTTP status; the close code is 4000 more. */
  readonly status: RefusalStatus;
  /** Whether the application may be at fault, and should hear of it. */
  readonly isFault: boolean;
  /** Has WebTransport tell it by a close with the text: pages see no status of a refusal. */
  readonly isToldByClose: boolean;

  /** Creates a refusal. */
  constructor(status: RefusalStatus, message: string, options: RefusedOptions = {}) {
    super(message, options);
    this.status = status;
    this.isFault = options.isFault ?? false;
    this.isToldByClose = options.isToldByClose ?? false;
  }
}

/** Takes what has a limit; one that is reached is a refusal. */
export function withinLimits<T>(manager: SessionManager, take: () => T): T {
  try {
    return take();
  } catch (error) {
    if (!(error instanceof LimitError)) throw error;
    throw new Refused(manager.isDraining ? 503 : 429, error.message, { cause: error });
  }
}

/** The peer of a refusal. */
export interface RefusedPeer {
  /** The network address, where it is known. */
  readonly address: string | undefined;
  /** Finds the token, which is never printed. */
  readonly token?: () => string | undefined;
}

/** Tells the application of refusals: by `onRefusal`, or else on the console. */
export class RefusalReport {
  readonly #onRefusal: AdmissionOptions<never>["onRefusal"];
  readonly #console: ConsoleReport;

  /** Tells `onRefusal`, if there is one. */
  constructor(onRefusal: AdmissionOptions<never>["onRefusal"], console: ConsoleReport) {
    this.#onRefusal = onRefusal;
    this.#console = console;
  }

  /** Tells of one refusal. */
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
    // A server that winds up refuses everybody, as it was told to.
    if (status === 503 && cause instanceof LimitError) return;
    const isOwnText = !(cause instanceof AuthenticationError);
    const behind = isOwnText ? cause : cause.cause;
    const isTold = isFault || behind !== undefined && !(behind instanceof LimitError);
    // A text of the application may have the token in it.
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
