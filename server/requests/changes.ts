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
  /** The action: to write the row, whether or not it exists, or to delete it. */
  readonly action: "set" | "delete";
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

/** A decision of `authorizeChange`: allowed, denied, or allowed with another row. */
export type ChangeDecision = boolean | {
  /** The row to store, which must be plain JSON. */
  readonly value: unknown;
};

/** Decides about a change. */
export type AuthorizeChange = (
  change: RequestedChange,
) => ChangeDecision | Promise<ChangeDecision>;
