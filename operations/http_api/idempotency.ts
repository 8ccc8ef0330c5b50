/** Executes requests once that clients repeat with the same key. */
import { concat } from "../../base/bytes.ts";
import { Problem } from "../../server/http/problem.ts";
import type { BrokerStore } from "../../pubsub/broker.ts";
import { outside, type Runtime } from "../../base/runtime.ts";

/** Longest time for which a pending request blocks others with its key, in milliseconds. */
const UNDER_WAY_MS = 60_000;

/** Format of a key: visible ASCII characters, so that logs and brokers can store it. */
const KEY = /^[\x21-\x7e]{1,255}$/;

const encoder = new TextEncoder();

/** Options of {@linkcode IdempotencyKeys}. */
export interface IdempotencyOptions {
  readonly runtime: Runtime;
  /** Stores the keys and the results. */
  readonly store: () => BrokerStore;
  /** Time for which a key is remembered, in milliseconds. */
  readonly windowMs: number;
}

export interface KeyedRequest {
  /** The key, as the client sent it. */
  readonly key: string;
  /** The caller of the request; callers do not share keys. */
  readonly caller: string;
  /** Method, path and body. */
  readonly method: string;
  readonly path: string;
  readonly body: Uint8Array;
}

/**
 * Keys of requests, with the results of finished requests.
 *
 * - **Same key, same request:** returns the result of the first request, without executing it
 *   again.
 * - **Same key, another request:** 422.
 * - **Same key, at the same time:** responds with 409; a later retry receives the result.
 * - **A failed request** may be sent again. Its key still belongs to its method, path and body.
 *
 * Keys are kept in the store for all nodes. The store contains a digest of the key and the request,
 * and the result.
 */
export class IdempotencyKeys {
  readonly #options: IdempotencyOptions;

  /** Creates a view of the keys in a store. */
  constructor(options: IdempotencyOptions) {
    this.#options = options;
  }

  /**
   * Executes a request, unless a request with the same key has already been executed.
   *
   * @param run Executes the request. It receives an id that all retries share.
   * @returns The result of this execution or of an earlier one. `isRepeated` is true if it comes
   * from an earlier execution.
   * @throws {Problem} With 400, 409 or 422.
   * @throws {BrokerError} If the store is unreachable.
   */
  async once(
    { key, caller, method, path, body }: KeyedRequest,
    run: (id: string) => Promise<unknown>,
  ): Promise<{ readonly result: unknown; readonly isRepeated: boolean }> {
    if (!KEY.test(key)) {
      throw new Problem(400, {
        code: "malformed",
        detail: "Idempotency-Key must have 1 to 255 visible characters of ASCII, " +
          `received ${key.length}`,
      });
    }
    const { runtime, windowMs: ttlMs } = this.#options;
    const store = this.#options.store();
    const id = await digest(runtime, encoder.encode(JSON.stringify([caller, key])));
    const head = encoder.encode(`${method} ${path}\n`);
    const fingerprint = await digest(runtime, concat([head, body]));
    if (!await store.claim(`api-key:${id}`, fingerprint, { max: 1, ttlMs })) {
      throw new Problem(422, {
        code: "key-reused",
        detail: `Idempotency-Key ${key} was used for another request; use another key`,
      });
    }
    const known = await this.#resultOf(store, id);
    if (known !== undefined) return known;
    const owner = runtime.randomUUID();
    const lock = `api-run:${id}`;
    if (!await store.claim(lock, owner, { max: 1, ttlMs: Math.min(UNDER_WAY_MS, ttlMs) })) {
      throw new Problem(409, {
        code: "in-progress",
        detail: `The request with Idempotency-Key ${key} is still running`,
        headers: { "retry-after": "1" },
      });
    }
    try {
      // The earlier request may have finished in between.
      const late = await this.#resultOf(store, id);
      if (late !== undefined) return late;
      const result = await run(id);
      await store.claim(`api-result:${id}`, JSON.stringify(result), { max: 1, ttlMs });
      return { result, isRepeated: false };
    } finally {
      await store.release(lock, owner);
    }
  }

  async #resultOf(
    store: BrokerStore,
    id: string,
  ): Promise<{ readonly result: unknown; readonly isRepeated: true } | undefined> {
    const [result] = await store.claims(`api-result:${id}`);
    return result === undefined ? undefined : { result: JSON.parse(result), isRepeated: true };
  }
}

async function digest(runtime: Runtime, bytes: Uint8Array<ArrayBuffer>): Promise<string> {
  const hash = await outside(runtime, crypto.subtle.digest("SHA-256", bytes));
  return new Uint8Array(hash).toBase64({ alphabet: "base64url", omitPadding: true });
}
