/** Topics that a part of the server handles in its own way, such as durable streams. */
import type { Decision } from "../../pubsub/decisions.ts";
import type { ResumableRequest } from "../../session/responses/request_table.ts";
import type { Session } from "../../session/session.ts";
import type { RequestedMutation } from "./mutations.ts";
import type { Account } from "../../base/quotas/accounts.ts";

/**
 * The action of a client on a topic. `presence` sets the client's presence data in a room, `cancel`
 * asks the writer of a durable stream to stop, `close` ends a keyed stream, and `mutate` calls a
 * mutation of a live state.
 */
export type AuthorizedAction =
  | "subscribe"
  | "publish"
  | "presence"
  | "cancel"
  | "close"
  | "mutate";

/** A publication of a client that `authorize` has allowed. */
export interface AllowedPublication {
  /** The data, as received. */
  readonly data: unknown;
  /** The decision of `authorize`, which a revocation may still overrule. */
  readonly decision: Decision;
  /** The account of the session, for quotas. */
  readonly account: Account;
  /** Checks whether the client may also read the topic. */
  readonly mayRead: () => Promise<boolean>;
  /**
   * Checks whether the client may call a mutation. `authorize` was not asked yet about a publication
   * whose action is `mutate`.
   *
   * @throws {RequestError} If it may not.
   */
  readonly mayMutate: (mutation: RequestedMutation) => Promise<void>;
}

/** Handles requests of clients on all topics with the same prefix. */
export interface TopicHandler {
  /** The start of its topics, such as `stream:`. Contracts do not contain them. */
  readonly prefix: string;
  /**
   * Finds the topic that `authorize` decides about.
   *
   * @returns The topic; `undefined` if the client needs no permission.
   * @throws {RequestError} If no client has access to the topic.
   */
  subjectOf(
    session: Session,
    topic: string,
    action: AuthorizedAction,
  ): Promise<string | undefined>;
  /**
   * Finds the action that a publication stands for.
   *
   * @throws {RequestError} If the data is malformed.
   */
  actionOf(data: unknown): AuthorizedAction;
  /** Handles a publication, and returns the data of the reply. */
  publish(session: Session, topic: string, publication: AllowedPublication): Promise<unknown>;
}

/** Stores responses that outlive the sessions of their callers. */
export interface ResumableResponses {
  /** Called once a session is established. MUST NOT throw. */
  opened(session: Session, account: Account): void;
  /**
   * Counts a response of a resumable handler that is requested without a name, and so ends with its
   * session.
   *
   * @throws {LimitError} If a limit on running responses is reached.
   */
  take(account: Account): Disposable;
  /** Starts a response unless it has started already, and replies to the request. */
  reply(
    request: ResumableRequest & { readonly make: NonNullable<ResumableRequest["make"]> },
    session: Session,
    account: Account,
  ): Promise<void>;
}
