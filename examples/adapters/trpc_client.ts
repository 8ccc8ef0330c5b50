/**
 * A tRPC link over a session: any number of calls and subscriptions on one connection, with
 * `trpc_server.ts` on the server.
 *
 * ```ts ignore
 * const trpc = createTRPCClient<AppRouter>({ links: [skeinLink({ client: connect("/") })] });
 * ```
 *
 * @module
 */
import { TRPCClientError, type TRPCLink } from "npm:@trpc/client@^11";
import type { AnyTRPCRouter, TRPCDataTransformer } from "npm:@trpc/server@^11";
import type { TRPCResultMessage } from "npm:@trpc/server@^11/rpc";
import { observable } from "npm:@trpc/server@^11/observable";
import { type Client, SessionClosedError } from "../../client.ts"; // jsr:@skein/skein/client

/** Options for {@linkcode skeinLink}. */
export interface SkeinLinkOptions {
  readonly client: Client;
  /** Transformer of the router, such as superjson; none by default. */
  readonly transformer?: TRPCDataTransformer;
}

type Result = TRPCResultMessage<unknown>["result"];

const PLAIN: TRPCDataTransformer = { serialize: (data) => data, deserialize: (data) => data };

/**
 * Creates a link. If the connection is lost, a pending call fails, because the server may have
 * handled it; a subscription continues in the next session, after the last tracked event.
 */
export function skeinLink<R extends AnyTRPCRouter>(options: SkeinLinkOptions): TRPCLink<R> {
  const { client, transformer = PLAIN } = options;

  function resultOf(answer: unknown): Result {
    const { result, error } = answer as { readonly result: Result; readonly error?: unknown };
    if (error !== undefined) throw TRPCClientError.from({ error: transformer.deserialize(error) });
    if ("type" in result && result.type !== "data") return result;
    return { ...result, data: transformer.deserialize(result.data) };
  }

  return () => ({ op: { type, path, input, signal: given } }) =>
    observable((observer) => {
      const end = new AbortController();
      const signal = given ? AbortSignal.any([given, end.signal]) : end.signal;
      const isSubscription = type === "subscription";
      const limits = { signal, ...(isSubscription && { itemTimeoutMs: Infinity }) };
      let lastEventId: string | undefined;

      async function run(): Promise<void> {
        while (true) {
          const call = { type, input: transformer.serialize(input), lastEventId };
          try {
            for await (const answer of client.requestStream(`trpc:${path}`, call, limits)) {
              const result = resultOf(answer);
              if ("id" in result) lastEventId = result.id;
              observer.next({ result });
            }
            return;
          } catch (error) {
            const isLost = error instanceof SessionClosedError && !client.status.isEnded;
            if (!isSubscription || !isLost) throw error;
            const cause = TRPCClientError.from<R>(error);
            observer.next({ result: { type: "state", state: "connecting", error: cause } });
          }
        }
      }

      run().then(
        () => observer.complete(),
        (error) => observer.error(TRPCClientError.from(error)),
      );
      return () => end.abort();
    });
}
