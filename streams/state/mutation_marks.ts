/** The numbers of mutations, which tell a repetition from a new one. */
import { hash32 } from "../../session/rows/row_hash.ts";
import type { Runtime } from "../../base/runtime.ts";
import { RequestError } from "../../errors.ts";
import { MUTATIONS, rowName } from "../../session/wire/rows.ts";
import { rowChange, rowCheck } from "../logs/change_message.ts";
import type { RowChange } from "../logs/log.ts";

/** Time for which the server remembers the last mutation of a client: one day. */
export const MARK_MS = 86_400_000;

/** The same for a client that keeps its mutations in a store: a week, as long as it keeps them. */
export const STORED_MARK_MS = 604_800_000;

/**
 * Length of the name of such a client, which has at least 128 random bits. Of a guest, the name is the
 * proof that the mutation is the guest's, who may have another name after a reload.
 */
const PROOF_LENGTH = 22;

/**
 * Number of rows with the marks of one user. Two clients of a user may share a row; then the older
 * mark is lost, and a repetition of that mutation is told so.
 */
export const USER_SLOTS = 64;

/** The same for all guests of a state. */
export const GUEST_SLOTS = 4_096;

/** A hidden row that is written together with a mutation, and tells a repetition of it. */
export interface Mark {
  /** Name of the row. */
  readonly row: string;
  /** True if the mutation may have been made before. */
  readonly mayBeMade: boolean;
  /** Returns the change of the row, with a condition that no other mutation has changed it. */
  change(runtime: Runtime): RowChange;
  /** Returns that condition alone. */
  check(): RowChange;
  /**
   * Looks at the row after it did not meet the condition.
   *
   * @param found The text of the row, and its version; 0 without a row.
   * @returns A version of the state with this mutation if it was made before; `undefined` if it was
   * not, and may now be made.
   * @throws {RequestError} With the code `unknown` if this cannot be told.
   */
  learn(
    found: { readonly text?: string | undefined; readonly version: number },
  ): number | undefined;
}

/** The client of a mutation, as its marks name it. */
export interface MutationCaller {
  /** Digest of the user; `undefined` for a guest. */
  readonly user?: string | undefined;
  /** Digest of the guest's name; `undefined` if it has none. */
  readonly guest?: string | undefined;
}

export interface MutationNumber {
  /** A name that the client has chosen. */
  readonly client: string;
  /** Its number, which is higher than that of each earlier one. */
  readonly n: number;
  /** The version of the state that the client had when it first sent the mutation. */
  readonly since: number;
  /** True if it may have been made before. */
  readonly isAgain: boolean;
}

/**
 * The mark of one mutation: a hidden row of the state, which is written together with the mutation's
 * own changes. It has the number of the client's last mutation.
 *
 * At first, the condition is that the row has not changed since the client sent the mutation. If it
 * has, the row tells whether this mutation, an earlier one or another client has changed it.
 */
export class MutationMark implements Mark {
  readonly #number: MutationNumber;
  readonly #row: string;
  readonly #key: string;
  /** The client's name in the mark, which no one else can use. */
  readonly #name: string;
  /** True if the client keeps its mutations in a store. */
  readonly #isStored: boolean;
  /** Version that the row must have, once it is known. */
  #expect: number | undefined;

  /**
   * @param caller The client.
   * @param expect Version of the row after an earlier mutation of the same client.
   */
  constructor(number: MutationNumber, { user, guest = "" }: MutationCaller, expect?: number) {
    this.#number = number;
    const { client } = number;
    this.#isStored = client.length >= PROOF_LENGTH;
    this.#name = user !== undefined || this.#isStored ? client : `${guest}/${client}`;
    const slot = hash32(this.#name) % (user === undefined ? GUEST_SLOTS : USER_SLOTS);
    this.#key = `${user ?? ""}:${slot}`;
    this.#row = rowName(MUTATIONS, this.#key);
    this.#expect = expect;
  }

  /** Name of the row. */
  get row(): string {
    return this.#row;
  }

  /** Version of the row after the mutation, if it is known. */
  get version(): number | undefined {
    return this.#expect;
  }

  /** Notes the version of the row after the mutation. */
  written(version: number): void {
    this.#expect = version;
  }

  get mayBeMade(): boolean {
    return this.#number.isAgain;
  }

  change(runtime: Runtime): RowChange {
    const value = JSON.stringify({ c: this.#name, n: this.#number.n });
    const ttlMs = this.#isStored ? STORED_MARK_MS : MARK_MS;
    const of = { ...this.#condition, operation: "upsert", value, ttlMs } as const;
    return rowChange(of, runtime.now());
  }

  check(): RowChange {
    return rowCheck(this.#condition);
  }

  get #condition() {
    const { since } = this.#number;
    const condition = this.#expect === undefined ? { since } : { expect: this.#expect };
    return { type: MUTATIONS, key: this.#key, row: this.#row, ...condition };
  }

  learn(
    { text, version }: { readonly text?: string | undefined; readonly version: number },
  ): number | undefined {
    const { n, since } = this.#number;
    const { c, n: last } = text === undefined ? {} : JSON.parse(text).value;
    if (c === this.#name && last >= n) return version;
    // Its mark may have been there since the row was last known, and been replaced or forgotten.
    const isLost = c !== this.#name && (version > (this.#expect ?? since) || version === 0);
    if (this.mayBeMade && isLost) {
      const message = "Cannot tell if the mutation was made: it was sent too long ago";
      throw new RequestError("unknown", message);
    }
    this.#expect = version;
    return undefined;
  }
}
