/**
 * A tRPC router over sessions, for the link in `trpc_client.ts`: queries, mutations, and
 * subscriptions as streaming responses, with the router's errors and transformer.
 *
 * ```ts ignore
 * serve({ requests: trpcRequests({ router, createContext: ({ user }) => ({ user }) }) });
 * ```
 *
 * @module
 */
import {
  type AnyTRPCRouter,
  callTRPCProcedure,
  getTRPCErrorFromUnknown,
  getTRPCErrorShape,
  type inferRouterContext,
  isTrackedEnvelope,
  transformTRPCResponse,
  type TRPCError,
  type TRPCProcedureType,
} from "npm:@trpc/server@^11";
import { isObservable, observableToAsyncIterable } from "npm:@trpc/server@^11/observable";
import type { Session } from "../../mod.ts"; // jsr:@skein/skein

/** Options for {@linkcode trpcRequests}. */
export interface TrpcOptions<R extends AnyTRPCRouter> {
  readonly router: R;
  /** Creates the context of a call. */
  readonly createContext?: (
    session: Session,
  ) => inferRouterContext<R> | Promise<inferRouterContext<R>>;
  /** Called for each error of a procedure. */
  readonly onError?: (failure: { error: TRPCError; path: string; input: unknown }) => void;
}

/** A call, as the link sends it. */
interface TrpcCall {
  readonly type: TRPCProcedureType;
  readonly input?: unknown;
  /** Id of the last tracked event, for a subscription that continues. */
  readonly lastEventId?: string;
}

/** A request, as a handler in `requests` receives it. */
interface Request {
  readonly params: Readonly<Record<string, string>>;
  readonly data: unknown;
  readonly signal: AbortSignal;
}

/** Creates the handlers of a router, for the option `requests` of `serve`. */
export function trpcRequests<R extends AnyTRPCRouter>(options: TrpcOptions<R>) {
  const { router, createContext, onError } = options;
  const config = router._def._config;

  /** Calls a procedure, and yields its result or all items of a subscription. */
  async function* run(
    { params: { path = "" }, data, signal }: Request,
    session: Session,
  ): AsyncGenerator<unknown> {
    const { type, input: raw, lastEventId } = data as TrpcCall;
    let input: unknown;
    let ctx: inferRouterContext<R> | undefined;
    try {
      input = config.transformer.input.deserialize(raw);
      if (lastEventId !== undefined) input = { ...input as object, lastEventId };
      ctx = await createContext?.(session);
      const getRawInput = () => Promise.resolve(input);
      const call = { router, path, getRawInput, ctx, type, signal, batchIndex: 0 };
      const result = await callTRPCProcedure(call);
      if (type !== "subscription") {
        return yield transformTRPCResponse(config, { result: { data: result } });
      }
      yield { result: { type: "started" } };
      const items = isObservable(result) ? observableToAsyncIterable(result, signal) : result;
      for await (const item of items as AsyncIterable<unknown>) {
        const [id, value] = isTrackedEnvelope(item) ? item : [];
        const data = id === undefined ? item : { id, data: value };
        yield transformTRPCResponse(config, {
          result: { type: "data", data, id },
        });
      }
    } catch (cause) {
      const error = getTRPCErrorFromUnknown(cause);
      onError?.({ error, path, input });
      const shape = getTRPCErrorShape({ config, error, type, path, input, ctx });
      yield transformTRPCResponse(config, { error: shape });
    }
  }

  // A single result is also a streaming response, so that calls don't wait for each other.
  return { "trpc:{path}": run };
}
