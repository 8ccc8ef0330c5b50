/** The keys of mutations over HTTP, which tell a repeated request from a new one. */
import { RequestError } from "../../errors.ts";
import type { Runtime } from "../../base/runtime.ts";
import { MUTATIONS, rowName } from "../../session/wire/rows.ts";
import { rowChange, rowCheck } from "../logs/change_message.ts";
import type { RowChange } from "../logs/log.ts";
import { hash32 } from "../../session/rows/row_hash.ts";
import { type Mark, MARK_MS } from "./mutation_marks.ts";

/** Number of rows with the keys of one caller in a state. */
export const CALLER_SLOTS = 64;

/** The same for all guests, who share their keys: a guest may change its network. */
export const GUEST_KEY_SLOTS = 1_024;

/** Maximum number of keys in a row, so that it stays small: about 3 KiB. */
export const MAX_KEYS = 100;

/**
 * Time for which a key is remembered in any case, in milliseconds: long enough for the retries of a
 * program. A caller that uses the keys of a row faster is rejected.
 */
export const MIN_KEY_MS = 60_000;

/** Characters of a key's digest: 72 bits. */
const NAME_LENGTH = 12;

/** Characters of the digest of a request: 48 bits, which find mistakes and no attacks. */
const PRINT_LENGTH = 8;

/** The key of a request. */
export interface MutationKey {
  /** Digest of the key. */
  readonly key: string;
  /** Digest of the mutation and its input. */
  readonly request: string;
  /** Digest of the caller; `undefined` for a guest. */
  readonly caller: string | undefined;
}

/**
 * The mark of a mutation over HTTP: a hidden row of the state with the newest keys of a caller, which
 * is written together with the mutation's own changes.
 *
 * A request does not say whether it was sent before. So a key is only forgotten after a day, or for
 * a newer one, and never in its first minute.
 */
export class KeyMark implements Mark {
  readonly mayBeMade = true;
  readonly row: string;
  readonly #runtime: Runtime;
  readonly #key: string;
  readonly #name: string;
  readonly #print: string;
  /** Version of the row; 0 if there is none. */
  #expect = 0;
  /** The keys of the last day, oldest first. */
  #keys: readonly string[] = [];

  /** Creates the mark of a request. */
  constructor(runtime: Runtime, { key, request, caller }: MutationKey) {
    this.#runtime = runtime;
    this.#name = key.slice(0, NAME_LENGTH);
    this.#print = request.slice(0, PRINT_LENGTH);
    const slot = hash32(this.#name) % (caller === undefined ? GUEST_KEY_SLOTS : CALLER_SLOTS);
    this.#key = `${caller ?? ""}/${slot}`;
    this.row = rowName(MUTATIONS, this.#key);
  }

  change(): RowChange {
    const now = this.#runtime.now();
    const isFull = this.#keys.length >= MAX_KEYS;
    const leftMs = isFull ? timeOf(this.#keys[0]!) + MIN_KEY_MS - now : 0;
    if (leftMs > 0) {
      throw new RequestError(
        "too-many",
        "Cannot mutate: the state remembers each Idempotency-Key for at least " +
          `${MIN_KEY_MS / 1_000} s, and this caller has used ${MAX_KEYS} in this time`,
        { retryAfterMs: leftMs },
      );
    }
    const kept = isFull ? this.#keys.slice(1) : this.#keys;
    const value = JSON.stringify([...kept, `${this.#name}${this.#print}${now.toString(36)}`]);
    const of = { ...this.#condition, operation: "upsert", value, ttlMs: MARK_MS } as const;
    return rowChange(of, now);
  }

  check(): RowChange {
    return rowCheck(this.#condition);
  }

  learn(
    { text, version }: { readonly text?: string | undefined; readonly version: number },
  ): number | undefined {
    const now = this.#runtime.now();
    const stored: readonly string[] = text === undefined ? [] : JSON.parse(text).value;
    const keys = stored.filter((entry) => now - timeOf(entry) < MARK_MS);
    const known = keys.find((entry) => entry.startsWith(this.#name));
    if (known === undefined) {
      [this.#keys, this.#expect] = [keys, version];
      return undefined;
    }
    if (known.startsWith(this.#name + this.#print)) return version;
    throw new RequestError(
      "key-reused",
      "Cannot mutate: the Idempotency-Key was used for another mutation or input",
    );
  }

  get #condition() {
    return { type: MUTATIONS, key: this.#key, row: this.row, expect: this.#expect };
  }
}

/** The time of an entry, in milliseconds since the Unix epoch. */
function timeOf(entry: string): number {
  return Number.parseInt(entry.slice(NAME_LENGTH + PRINT_LENGTH), 36);
}
