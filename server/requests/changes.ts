/** The changes of live states that the application decides about, by `authorizeChange`. */
import type { Session } from "../../session/session.ts";

/**
 * A change of a row that a client requests, for `authorizeChange`.
 *
 * @typeParam S The type of the sessions.
 */
export interface RequestedChange<S = Session> {
  /** The id of the state. */
  readonly id: string;
  /** Name of the collection. */
  readonly collection: string;
  /** Key of the row. */
  readonly key: string;
  /**
   * The action: to write the row, whether or not it exists, or to delete it. A write that would let a
   * row expire that did not expire before is asked about as `set`, and if you return `true`, also as
   * `delete`.
   */
  readonly action: "set" | "delete";
  /**
   * The operation that the client requests. `insert` and `upsert` write the row whether or not it
   * exists, `update` only if it exists.
   */
  readonly operation: "insert" | "update" | "upsert" | "delete";
  /**
   * Time after which the row would be deleted, in milliseconds; `undefined` for a row that stays. In
   * the question about `delete`, present if the row would be deleted after this time.
   */
  readonly ttlMs: number | undefined;
  /** Version of the state after which the row must not have changed, if the client names one. */
  readonly since: number | undefined;
  /** The new row, as the contract's schema returned it, frozen; `undefined` for a deletion. */
  readonly value: unknown;
  /** The present row, frozen; `undefined` if it does not exist. */
  readonly before: unknown;
  /** The client's user, as `userOf` returned it; `undefined` for a client without a user. */
  readonly user: string | undefined;
  /** The session; `undefined` for a change over HTTP. */
  readonly session: S | undefined;
  /** The HTTP request, whose body must not be read; `undefined` for a change over a session. */
  readonly request: Request | undefined;
}

/** A decision of `authorizeChange`: allowed, denied, or allowed with another row or expiry. */
export type ChangeDecision =
  | boolean
  | {
    /** The row to store, which must be plain JSON. */
    readonly value: unknown;
    /** See the other object. */
    readonly ttlMs?: number | undefined;
  }
  | {
    /**
     * Time after which the row is deleted, in milliseconds, instead of the client's; `undefined` for
     * a row that stays. If you name it, the change is not asked about as `delete`.
     */
    readonly ttlMs: number | undefined;
  };

/** Decides about a change. */
export type AuthorizeChange = (
  change: RequestedChange,
) => ChangeDecision | Promise<ChangeDecision>;
