/**
 * What a peer is told that gets no session: a status where there is HTTP, a close code elsewhere.
 *
 * @module
 */
import { AuthenticationError, type RefusalStatus } from "../../../errors.ts";
import { MoqSessionCode } from "../wire/error_codes.ts";
import { MoqError } from "../wire/errors.ts";

/** A peer that gets no session. */
export class MoqRefusal extends Error {
  /** HTTP status. */
  readonly status: RefusalStatus;

  /**
   * Refuses.
   *
   * @param status HTTP status.
   * @param message Told to the peer.
   * @param options Standard error options.
   */
  constructor(status: RefusalStatus, message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = "MoqRefusal";
    this.status = status;
  }

  /** The code of a close: MoQ's own where it has one, else that of Skein. */
  get closeCode(): number {
    const isOfPeer = this.status === 401 || this.status === 403;
    return isOfPeer ? MoqSessionCode.unauthorized : 4000 + this.status;
  }

  /** The same as an error of a session. */
  get asMoqError(): MoqError {
    const { closeCode: moqCode, message, cause } = this;
    const reason = moqCode === MoqSessionCode.unauthorized ? "unauthorized" : "setupFailed";
    return new MoqError("session", reason, message, { moqCode, cause });
  }
}

/**
 * Makes a refusal of what the application threw.
 *
 * @param error What it threw. The text of an `AuthenticationError` or a `MoqError` is told to the peer.
 * @returns The refusal.
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
 * Tells whether a refusal may be a fault of the application.
 *
 * @param refusal The refusal.
 * @returns Whether something was thrown that is no plain refusal.
 */
export function isFault({ cause }: MoqRefusal): boolean {
  return cause !== undefined && !(cause instanceof AuthenticationError) &&
    !(cause instanceof MoqError);
}
