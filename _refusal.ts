/**
 * Why a session was refused: told to the application, or printed.
 *
 * @module
 */
import type { AdmissionOptions } from "./_admission_options.ts";
import { LimitError, type RefusalStatus } from "./errors.ts";
import type { SessionManager } from "./manager/mod.ts";
import { ConsoleReport } from "./session/console_report.ts";

/** One fault is printed in so many milliseconds: anybody can be refused as often as they like. */
const FAULT_SILENT_MS = 1_000;

/** What a {@linkcode Refused} has beside its status and text. */
export interface RefusedOptions extends ErrorOptions {
  /** Whether the application may be at fault, and should hear of it. */
  readonly isFault?: boolean;
  /** Whether WebTransport tells it by a close with the text; pages see no status of a refusal. */
  readonly isToldByClose?: boolean;
}

/** Thrown inside, turned into an answer at the edge; the message is told to the peer. */
export class Refused extends Error {
  /** HTTP status; the close code is 4000 more. */
  readonly status: RefusalStatus;
  /** Whether the application may be at fault, and should hear of it. */
  readonly isFault: boolean;
  /** Whether WebTransport tells it by a close with the text; pages see no status of a refusal. */
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

/** Who was refused. */
export interface RefusedPeer {
  /** The network address, where it is known. */
  readonly address: string | undefined;
  /** The token, which is never printed. */
  readonly token: string | undefined;
}

/** Tells the application of refusals: by `onRefusal`, or by printing what may be its own fault. */
export class RefusalReport {
  readonly #onRefusal: AdmissionOptions<never>["onRefusal"];
  readonly #console = new ConsoleReport();

  /** Tells `onRefusal`, if there is one. */
  constructor(onRefusal: AdmissionOptions<never>["onRefusal"]) {
    this.#onRefusal = onRefusal;
  }

  /** Tells of one refusal. */
  tell({ status, message: reason, cause, isFault }: Refused, peer: RefusedPeer): void {
    const { address, token } = peer;
    if (this.#onRefusal !== undefined) {
      const error = cause === undefined ? {} : { error: cause };
      this.#onRefusal({ status, reason, address, ...error });
    } else if (isFault) this.#print(status, cause, token);
  }

  #print(status: RefusalStatus, error: unknown, token: string | undefined): void {
    let text = textOf(error);
    if (token) text = text.replaceAll(token, "<token>");
    this.#console.tell(
      "authenticate",
      `authentication failed, a session was refused with ${status}: ${text}`,
      { silentMs: FAULT_SILENT_MS },
    );
  }
}

function textOf(error: unknown): string {
  if (error instanceof Error) return `${error.name}: ${error.message}`;
  return typeof error === "string" ? error : `a throw of ${typeof error}`;
}
