/** Refusals of clients: a status over HTTP, a close code over other wires. */
import { AuthenticationError, type RefusalStatus } from "../../../errors.ts";
import { MoqSessionCode } from "../wire/error_codes.ts";
import { MoqError } from "../wire/errors.ts";

/** Thrown when a client gets no session. */
export class MoqRefusal extends Error {
  readonly status: RefusalStatus;

  /**
   * Creates a refusal.
   *
   * @param status HTTP status.
   * @param message Reason, which the client reads.
   * @param options Standard error options.
   */
  constructor(status: RefusalStatus, message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = "MoqRefusal";
    this.status = status;
  }

  /** Close code: MoQ's own for 401 and 403, otherwise 4000 plus the status. */
  get closeCode(): number {
    const isOfPeer = this.status === 401 || this.status === 403;
    return isOfPeer ? MoqSessionCode.unauthorized : 4000 + this.status;
  }

  /** The refusal as an error of a session. */
  get asMoqError(): MoqError {
    const { closeCode: moqCode, message, cause } = this;
    const reason = moqCode === MoqSessionCode.unauthorized ? "unauthorized" : "setupFailed";
    return new MoqError("session", reason, message, { moqCode, cause });
  }
}

/**
 * Converts an error of the application to a refusal.
 *
 * @param error The thrown value. The client reads the message of an `AuthenticationError` or a
 * `MoqError`.
 * @returns The refusal; 401 for errors of other classes.
 */
export function refusalOf(error: unknown): MoqRefusal {
  if (error instanceof MoqRefusal) return error;
  if (error instanceof AuthenticationError) {
    return new MoqRefusal(error.status, error.message, { cause: error });
  }
  if (error instanceof MoqError) return new MoqRefusal(403, error.message, { cause: error });
  return new MoqRefusal(401, "Refused", { cause: error });
}

/**
 * Returns `true` if a refusal may stem from a fault in the application: its cause is neither an
 * `AuthenticationError` nor a `MoqError`.
 */
export function isFault({ cause }: MoqRefusal): boolean {
  return cause !== undefined && !(cause instanceof AuthenticationError) &&
    !(cause instanceof MoqError);
}
