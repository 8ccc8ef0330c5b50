/** The publications of clients that the application decides about, by `onPublish`. */
import type { OutputOf } from "../../base/standard_schema.ts";
import type { Contract, EntrySchema, IsUntyped, SectionOf } from "../../session/contract.ts";
import type { Session } from "../../session/session.ts";
import type { ParamsOf, TopicOf } from "../../session/wire/topic_pattern.ts";

/**
 * A publication that a client requests, for `onPublish`, by one pattern of the contract.
 *
 * @typeParam P The pattern, as a literal.
 * @typeParam Data The output of the schema.
 * @typeParam S The type of the sessions.
 */
export interface ContractPublication<P extends string, Data, S = Session> {
  /** The pattern that the topic matches. It narrows the types of the other members. */
  readonly pattern: P;
  /** The topic. */
  readonly topic: TopicOf<P>;
  /** The parameters of the topic. */
  readonly params: ParamsOf<P>;
  /** The data, as the contract's schema returned it, frozen. */
  readonly data: Data;
  /** The client's user, as `userOf` returned it; `undefined` for a client without a user. */
  readonly user: string | undefined;
  /** The session; `undefined` for a publication over the HTTP API. */
  readonly session: S | undefined;
  /**
   * Id of the publication, of 22 or 36 characters. It stays the same if the client repeats the
   * publication, also on another node, so it can be the key of a row in your database.
   */
  readonly id: string;
  /** Aborted once the server no longer waits: after five seconds, or when it closes. */
  readonly signal: AbortSignal;
}

/**
 * A publication that a client requests, for `onPublish`, without a contract.
 *
 * @typeParam S The type of the sessions.
 */
export interface RequestedPublication<S = Session>
  extends Omit<ContractPublication<string, unknown, S>, "pattern"> {
  /** The contract's pattern; `undefined` without a contract, and the parameters are then empty. */
  readonly pattern: string | undefined;
}

/**
 * Every publication that a client may request, as a union that is discriminated by `pattern`.
 *
 * @typeParam C The contract.
 * @typeParam S The type of the sessions.
 */
export type PublicationOf<C extends Contract, S = Session> = IsUntyped<C> extends true
  ? RequestedPublication<S>
  : {
    [P in keyof SectionOf<C, "server"> & string]: ContractPublication<
      P,
      OutputOf<EntrySchema<SectionOf<C, "server">[P], "input">>,
      S
    >;
  }[keyof SectionOf<C, "server"> & string];

/**
 * A decision of `onPublish`: nothing, so that the publication goes out as it is, or other data. The
 * data is what a client would pass, and the contract's schema checks it again.
 */
export type PublishDecision = void | { readonly data: unknown };

/** Decides about a publication. */
export type OnPublish = (
  publication: RequestedPublication,
) => PublishDecision | Promise<PublishDecision>;
