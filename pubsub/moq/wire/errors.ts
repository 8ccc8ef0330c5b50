/**
 * What goes wrong with MoQ.
 *
 * @module
 */
import { type ClosedBy, SkeinError } from "../../../errors.ts";
import type { MoqErrorName, MoqErrorScope } from "./error_codes.ts";

/**
 * A session, an announcement, a subscription, a group, a fetch or a probe that ended before its end.
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
  /** What ended. */
  readonly scope: MoqErrorScope;
  /** Why, by name; `unknown` where the peer's number is in no table. */
  readonly reason: MoqErrorName;
  /** The number as it stood on the wire; `undefined` where there was none, as over Deno's QUIC. */
  readonly moqCode: number | undefined;
  /** Who ended it. */
  readonly by: ClosedBy;

  /**
   * Creates the error.
   *
   * @param scope What ended.
   * @param reason Why.
   * @param message For people.
   * @param options The number, who did it, and standard error options.
   */
  constructor(
    scope: MoqErrorScope,
    reason: MoqErrorName,
    message: string,
    options: ErrorOptions & {
      readonly moqCode?: number | undefined;
      readonly by?: ClosedBy;
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

/** A reader fell behind its bound: groups were given up, and the next ones can still be read. */
export class MoqLaggedError extends MoqError {
  /** What was given up. */
  readonly missed: MissedGroups;

  /**
   * Creates the error.
   *
   * @param message For people.
   * @param missed What was given up.
   */
  constructor(message: string, missed: MissedGroups) {
    super("group", "tooFarBehind", message, { by: "local" });
    this.missed = missed;
  }
}
