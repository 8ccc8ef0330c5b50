/**
 * Types of the handlers of requests: the option `requests` of either end.
 *
 * @module
 */
import type { Contract, IsUntyped, MessagesIn, Side } from "../contract.ts";
import type { UntypedMessage } from "../message.ts";
import type { Session } from "../session.ts";

/**
 * Handler of one kind of request; the result, or the result of the returned promise, is the answer.
 *
 * @typeParam M The message.
 * @typeParam S The session.
 */
export type RequestHandler<M extends { reply(data: never): void }, S> = (
  message: Omit<M, "reply" | "isRequest">,
  session: S,
) => Parameters<M["reply"]>[0] | Promise<Parameters<M["reply"]>[0]>;

/**
 * Handler of requests whose answers outlive the connection of their callers.
 *
 * @typeParam M The message.
 * @typeParam S The session.
 */
export interface ResumableHandler<M extends { reply(data: never): void }, S> {
  /** Makes the items of the answer. The session may end before the answer does. */
  readonly answer: RequestHandler<M, S>;
  /**
   * Makes the rest of the items, behind those that are kept: on another node after the node that
   * made the answer was lost or closed, or on a node that starts again. Exactly one node calls this.
   * Without this function such an answer ends as `writer-lost`.
   */
  readonly resume?:
    | ((
      input: Pick<M, Extract<"data" | "params" | "pattern" | "topic", keyof M>>,
      progress: {
        /** Newest items that are kept, oldest first: at most 10,000 and 1 MiB. */
        readonly written: readonly (
          Parameters<M["reply"]>[0] extends AsyncIterable<infer Item> ? Item : unknown
        )[];
        /** Number of all items that are kept. */
        readonly count: number;
        /** Aborted when a reader cancels the answer, and when this node has to leave the answer. */
        readonly signal: AbortSignal;
      },
    ) => Parameters<M["reply"]>[0])
    | undefined;
}

/**
 * Handlers of requests by pattern, as `serve` and `connect` take these: with a contract, the
 * patterns of its requests; otherwise topics, for `serve` also patterns such as `sum:{room}`.
 *
 * @example Usage
 * ```ts
 * import { serve } from "@skein/skein";
 * import type { RequestHandlers } from "@skein/skein/session";
 *
 * const requests: RequestHandlers = {
 *   async *count({ data, signal }) {
 *     for (let n = 1; n <= Number(data) && !signal.aborted; n++) yield n;
 *   },
 * };
 * await using server = serve({ port: 0, onListen() {}, requests });
 * ```
 *
 * @typeParam V The result of `authenticate`.
 * @typeParam C The contract.
 * @typeParam S This end's side.
 */
export type RequestHandlers<
  V = unknown,
  C extends Contract = Contract,
  S extends Side = Side,
> = IsUntyped<C> extends true ? Readonly<
    Record<
      string,
      | RequestHandler<UntypedMessage, Session<V, C, S>>
      | ResumableHandler<UntypedMessage, Session<V, C, S>>
    >
  >
  : C["definition"] extends { readonly requests: infer M } ? {
      readonly [P in keyof M & string]?:
        | RequestHandler<MessagesIn<Pick<M, P>>, Session<V, C, S>>
        | (M[P] extends { readonly resume: true }
          ? ResumableHandler<MessagesIn<Pick<M, P>>, Session<V, C, S>>
          : never);
    }
  : Record<never, never>;
