/** Errors of MoQ. */
import { type CloseInfo, SkeinError } from "../../../errors.ts";
import type { MoqErrorName, MoqErrorScope } from "./error_codes.ts";

/**
 * A session, an announcement, a subscription, a group, a fetch or a probe that ended early.
 *
 * @example Usage
 * ```ts
 * import { MoqError } from "@skein/skein/moq";
 * import { assertEquals } from "@std/assert";
 *
 * const error = new MoqError("subscribe", "notFound", "Cannot subscribe: there is no such track", {
 *   moqCode: 3,
 *   by: "remote",
 * });
 * assertEquals([error.code, error.scope, error.reason, error.moqCode], ["moq", "subscribe", "notFound", 3]);
 * ```
 */
export class MoqError extends SkeinError {
  /** The session, or the kind of stream, that ended. */
  readonly scope: MoqErrorScope;
  /** The reason by name; `unknown` if the peer's number is in no table. */
  readonly reason: MoqErrorName;
  /** The number, as on the wire; `undefined` without a number, as over Deno's QUIC. */
  readonly moqCode: number | undefined;
  /** The end that caused the error. */
  readonly by: CloseInfo["by"];

  /**
   * Creates the error.
   *
   * @param scope The session, or the kind of stream, that ended.
   * @param reason The reason by name.
   * @param message A message for people.
   * @param options The number, the end that caused the error, and standard error options.
   */
  constructor(
    scope: MoqErrorScope,
    reason: MoqErrorName,
    message: string,
    options: ErrorOptions & {
      readonly moqCode?: number | undefined;
      readonly by?: CloseInfo["by"];
    } = {},
  ) {
    super("moq", message, options);
    this.scope = scope;
    this.reason = reason;
    this.moqCode = options.moqCode;
    this.by = options.by ?? "local";
  }
}

/** Groups that a reader did not get, and will not get. */
export interface MissedGroups {
  /** The first one. */
  readonly first: number;
  /** The last one. */
  readonly last: number;
}

/** A reader fell behind a limit: groups were given up, and the next ones can still be read. */
export class MoqLaggedError extends MoqError {
  /** The groups that were given up. */
  readonly missed: MissedGroups;

  /**
   * Creates the error.
   *
   * @param message A message for people.
   * @param missed The groups that were given up.
   */
  constructor(message: string, missed: MissedGroups) {
    super("group", "tooFarBehind", message, { by: "local" });
    this.missed = missed;
  }
}
