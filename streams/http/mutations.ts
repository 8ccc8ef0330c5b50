/** Mutations of live states over HTTP, for programs without Skein. */
import type { DurableStreamAction } from "../options.ts";
import { digest } from "../options.ts";
import { noMutations, type StreamParts } from "../parts.ts";
import { KeyMark } from "../state/mutation_keys.ts";
import { rejectedMutation } from "./problems.ts";
import { badRequest } from "./request.ts";
import { jsonOf } from "../../server/http/body.ts";
import type { GuardedRequest } from "../../server/http/guard.ts";
import type { Quota, Quotas } from "../../base/quotas/shares.ts";
import type { Runtime } from "../../base/runtime.ts";
import { RequestError } from "../../errors.ts";
import type { SessionManager } from "../../manager/session_manager.ts";

/** Maximum number of mutations of one address whose right is not known yet, once half of all are. */
const MAX_PER_ADDRESS = 64;

/** Format of a key, as in the HTTP API. */
const KEY = /^[\x21-\x7e]{1,255}$/;

/** The mutations of a server's states. */
export type HttpMutationStates = Pick<StreamParts, "checkMutation" | "makeMutation" | "mutations">;

/** Parts of {@linkcode HttpMutations}. */
export interface HttpMutationsParts {
  readonly runtime: Runtime;
  readonly quotas: Quotas;
  /** The states; `undefined` on a server without any. */
  readonly states: HttpMutationStates | undefined;
  /** Counts mutations toward the rates of the server's sessions. */
  readonly rates: Pick<SessionManager, "publish" | "spend"> | undefined;
  /** Maximum number of requests whose right is not known yet. */
  readonly maxRequests: number;
  readonly maxBodyBytes: number;
}

/**
 * The mutations of a server's states over HTTP.
 *
 * - **Right:** `authorize` decides about the name and the input, so the body is read first. Such
 *   requests have a quota of their own: strangers take no slots of other changes.
 * - **Once:** a request with an `Idempotency-Key` is made once; see {@linkcode KeyMark}.
 */
export class HttpMutations {
  readonly #parts: HttpMutationsParts;
  readonly #undecided: Quota;

  /** Creates the mutations of one feature. */
  constructor(parts: HttpMutationsParts) {
    this.#parts = parts;
    this.#undecided = parts.quotas.open({
      limit: "maxRequests",
      name: "durableStreams.mutations",
      verb: "mutate",
      what: "mutations whose right is not known yet",
      max: parts.maxRequests,
      shares: { address: MAX_PER_ADDRESS },
      retryAfterMs: 1_000,
    });
  }

  /**
   * Responds to a call of a mutation.
   *
   * @param id The id of the state.
   * @param name Name of the mutation.
   * @returns The version of the state.
   * @throws {Problem} If the mutation is rejected.
   * @throws {BrokerError} If the broker is unreachable. The mutation may have been made.
   */
  async respond(
    asked: GuardedRequest<DurableStreamAction>,
    id: string,
    name: string,
  ): Promise<Response> {
    try {
      const { version, isRepeated } = await this.#make(asked, id, name);
      return new Response(`${JSON.stringify({ version })}\n`, {
        headers: {
          "content-type": "application/json",
          "cache-control": "no-store",
          ...(isRepeated && { "idempotency-replayed": "true" }),
        },
      });
    } catch (error) {
      if (!(error instanceof RequestError)) throw error;
      // The user was disconnected meanwhile.
      asked.checkRevoked();
      throw rejectedMutation(error);
    }
  }

  async #make(
    asked: GuardedRequest<DurableStreamAction>,
    id: string,
    name: string,
  ): Promise<{ readonly version: number; readonly isRepeated: boolean }> {
    const { rates, runtime, states } = this.#parts;
    const { request } = asked;
    const key = readKey(request.headers);
    const { input, body, user } = await this.#allowed(asked, id, name);
    const { publisher, decision } = asked;
    rates?.publish(publisher, { verb: "mutate", user, count: 1, size: body.length });
    const caller = publisher.user;
    const mark = key === undefined ? undefined : new KeyMark(runtime, {
      key: await digest(runtime, key),
      request: await digest(runtime, `${name}\n${new TextDecoder().decode(body)}`),
      caller: caller === undefined ? undefined : await digest(runtime, caller),
    });
    const source = { account: publisher, user, session: undefined, request, decision };
    const spend = (count: number) => rates?.spend(publisher, { user, count });
    return await states!.makeMutation(id, { name, input, mark, source, spend });
  }

  /** Reads the input, and checks it and the right. */
  async #allowed(
    { account, request, readBody, authorize }: GuardedRequest<DurableStreamAction>,
    id: string,
    name: string,
  ): Promise<{
    readonly input: unknown;
    readonly body: Uint8Array<ArrayBuffer>;
    readonly user: string | undefined;
  }> {
    const { maxBodyBytes, states } = this.#parts;
    if (states === undefined) throw noMutations();
    await states.mutations();
    using _slot = this.#undecided.take(account);
    const body = await readBody(maxBodyBytes);
    const received = jsonOf(request, body);
    const input = await states.checkMutation(id, { name, input: received });
    const user = await authorize("mutate", id, { mutation: { name, input } });
    return { input, body, user };
  }
}

function readKey(headers: Headers): string | undefined {
  const key = headers.get("idempotency-key");
  if (key === null || KEY.test(key)) return key ?? undefined;
  throw badRequest(
    "bad-header",
    "Cannot mutate: Idempotency-Key must have 1 to 255 visible characters of ASCII, received " +
      key.length,
  );
}
