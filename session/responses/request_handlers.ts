/**
 * Types of request handlers: the option `requests` of `serve` and `connect`.
 *
 * @module
 */
import type { Contract, IsUntyped, MessagesIn, Side } from "../contract.ts";
import type { UntypedMessage } from "../message.ts";
import type { Session } from "../session.ts";

/**
 * The handler for one kind of request. Its result, or the value of the promise that it returns, is
 * the response.
 *
 * @typeParam M The message.
 * @typeParam S The session.
 */
export type RequestHandler<M extends { reply(data: never): void }, S> = (
  message: Omit<M, "reply" | "isRequest">,
  session: S,
) => Parameters<M["reply"]>[0] | Promise<Parameters<M["reply"]>[0]>;

/**
 * The handler for requests that cost money or much time. The server counts their cost against the
 * rates `rates.perUser.cost` and `rates.perAddress.cost`, and rejects a request beyond them with
 * `too-many` before it calls the handler. On a client, costs are not counted.
 *
 * @typeParam M The message.
 * @typeParam S The session.
 */
export interface CostlyHandler<M extends { reply(data: never): void }, S> {
  /** Cost of one request, such as 1 for a call of a small model, and 5 for a large one. */
  readonly cost: number;
  /** Produces the response. */
  readonly handle: RequestHandler<M, S>;
}

/**
 * The handler for requests with resumable responses, which outlive the caller's connection.
 *
 * @typeParam M The message.
 * @typeParam S The session.
 */
export interface ResumableHandler<M extends { reply(data: never): void }, S> {
  /** Stores the responses: `resumable` of `@skein/skein/streams`. */
  readonly resumable: () => object;
  /** Produces the items of the response. The session may close before the response ends. */
  readonly handle: RequestHandler<M, S>;
  /**
   * Cost of the start of one response, which counts against `rates.perUser.cost` and
   * `rates.perAddress.cost`; 0 for a response that may start at any rate.
   *
   * Reading a response that has started costs nothing.
   *
   * @default {1}
   */
  readonly cost?: number | undefined;
  /**
   * Produces the items that follow the stored items if the node that produced the response crashed,
   * closed or restarted. Without it, such a response ends with `writer-lost`.
   *
   * Exactly one node calls this function.
   */
  readonly resume?:
    | ((
      input: Pick<M, Extract<"data" | "params" | "pattern" | "topic", keyof M>> & {
        /** The caller's verified user; `undefined` for a guest. */
        readonly user: string | undefined;
      },
      progress: {
        /** The newest stored items, oldest first. The list has at most 10,000 items and 1 MiB. */
        readonly written: readonly (
          Parameters<M["reply"]>[0] extends AsyncIterable<infer Item> ? Item : unknown
        )[];
        /** Number of all stored items. */
        readonly count: number;
        /** Aborted when a reader cancels the response, or when this node must stop producing it. */
        readonly signal: AbortSignal;
      },
    ) => Parameters<M["reply"]>[0])
    | undefined;
}

/**
 * Request handlers by pattern, for `serve` and `connect`. With a contract, the keys are the
 * patterns of its requests. Otherwise, they are topics; for `serve`, they can also be patterns such
 * as `sum:{room}`.
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
 * @typeParam S This side's side.
 */
export type RequestHandlers<
  V = unknown,
  C extends Contract = Contract,
  S extends Side = Side,
> = {
  readonly [
    P in IsUntyped<C> extends true ? string
      : C["definition"] extends { readonly requests: infer M } ? keyof M & string
      : never
  ]?:
    // TypeScript resolves a conditional type before it has read the `authenticate` of the same
    // literal. Without a contract, the condition therefore does not include the session. With one,
    // it includes the response, whose type TypeScript needs to check literals.
    | (
      & (
        | RequestHandler<UntypedMessage, Session<V, Contract, S>>
        | CostlyHandler<UntypedMessage, Session<V, Contract, S>>
        | ResumableHandler<UntypedMessage, Session<V, Contract, S>>
      )
      & (IsUntyped<C> extends true ? unknown : never)
    )
    | (IsUntyped<C> extends true ? never
      : C["definition"] extends { readonly requests: infer M }
        ? P extends keyof M
          ? (M[P] extends { readonly resume: true }
            ? ResumableHandler<MessagesIn<Pick<M, P>>, Session<V, C, S>>
            :
              | RequestHandler<MessagesIn<Pick<M, P>>, Session<V, C, S>>
              | CostlyHandler<MessagesIn<Pick<M, P>>, Session<V, C, S>>)
        : never
      : never);
};
