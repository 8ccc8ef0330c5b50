/** Rows of states on the wire: names, change messages, and writes of clients. */
import { RequestError } from "../../errors.ts";
import { checkType } from "../../base/error_text.ts";
import { MAX_TTL_MS } from "../../base/wait.ts";
import { utf8Length } from "./utf8.ts";

/** Maximum size of a collection's name or of a key in bytes, in UTF-8. */
export const MAX_ROW_NAME_BYTES = 1_024;

/**
 * Prefix of the names of collections that servers keep for themselves, whose rows no reader
 * receives. Applications and clients cannot use these names.
 */
export const HIDDEN_PREFIX = "$skein";

/** Maximum number of changes in one transaction. */
export const MAX_CHANGES = 1_000;

/** Maximum number of transactions in one publication of a client. */
export const MAX_WRITES = 64;

/**
 * Prefix of the topic with the ephemeral rows of a state, whose id follows. Streams of applications
 * have no such ids.
 */
export const EPHEMERAL_PREFIX = "stream:$skein:";

/** The collection with the numbers of mutations. */
export const MUTATIONS = "$skein:mutations";

/** Maximum number of ephemeral rows of one session in one state. */
export const MAX_SESSION_ROWS = 64;

/** The error for a time to live of an ephemeral row. */
export const NO_TTL = "Cannot write state: ttlMs is not available for ephemeral rows";

/** The error for a condition of a write to an ephemeral row, whose versions are not comparable. */
export const NO_EXPECT =
  "Cannot write state: insert and expect are not available for ephemeral rows";

/** Changes of ephemeral rows, as a server sends them. */
export interface EphemeralRowsPart {
  readonly rows: readonly EphemeralRow[];
  /** Index of this part in a list of all rows, from 0; absent for changes. */
  readonly page?: number | undefined;
  /** True if another part of the list follows. */
  readonly more?: true | undefined;
}

/**
 * An ephemeral row in a message. The version increases with each change of any row of the state,
 * until the server sends another list. Without a value, the row is deleted.
 */
export type EphemeralRow = readonly [type: string, key: string, version: number, value?: unknown];

/** A change of an ephemeral row as a client requests it; without a value, a deletion. */
export type EphemeralWrite = readonly [type: string, key: string, value?: unknown];

/** A change as readers receive it: a change message of the Durable Streams State Protocol. */
export interface RowMessage {
  readonly type: string;
  readonly key: string;
  /** Absent for a deletion. */
  readonly value?: unknown;
  readonly headers: {
    readonly operation: "insert" | "update" | "delete";
    /** The writer's name of the transaction. */
    readonly txid?: string | undefined;
  };
}

/** A change as readers over sessions receive it. */
export interface VersionedRowMessage extends RowMessage {
  readonly version: number;
}

/** A change as a client requests it. */
export interface RowWriteMessage {
  readonly type: string;
  readonly key: string;
  readonly value?: unknown;
  readonly headers: {
    /** A `check` changes nothing: its conditions are about a row, or a collection if `key` is `""`. */
    readonly operation: "insert" | "update" | "upsert" | "delete" | "check";
    readonly txid: string;
    /** Version that the row must have; 0 if it must not exist. */
    readonly expect?: number | undefined;
    /** Version of the state after which the row must not have changed, or been deleted. */
    readonly since?: number | undefined;
    /** Time after which the row expires, in seconds. */
    readonly ttl?: number | undefined;
  };
}

/** The outcome of one transaction of a client. */
export type WriteResult =
  /** All changes took effect. Their rows have this version. */
  | { readonly version: number }
  /**
   * None took effect: the row has another version, or has changed. If it does not exist, its version
   * is 0, and `since` is the version of the state.
   */
  | {
    readonly conflict:
      & Pick<VersionedRowMessage, "type" | "key" | "version">
      & Partial<RowMessage>
      & {
        readonly since?: number | undefined;
        /** True if the server lets other updates of the row wait for the next one of this client. */
        readonly turn?: true | undefined;
      };
  }
  /** None took effect. After a code of {@linkcode FOR_NOW}, the client sends them again. */
  | {
    readonly error: {
      readonly code: string;
      readonly message: string;
      readonly path?: readonly (string | number)[] | undefined;
      readonly retryAfterMs?: number | undefined;
    };
  };

/** Time for which a client waits for the reply to writes, unless it says otherwise, in milliseconds. */
export const WRITE_TIMEOUT_MS = 30_000;

/** Codes of writes that the server can't make for now, if they have `retryAfterMs`. */
export const FOR_NOW: ReadonlySet<string> = new Set(["undecided", "unavailable"]);

/**
 * Returns the time after which a client sends a write again that took no effect, in milliseconds;
 * `undefined` if it was made, or rejected.
 */
export function retryAfterMsOf(result: WriteResult): number | undefined {
  if (!("error" in result) || !FOR_NOW.has(result.error.code)) return undefined;
  return result.error.retryAfterMs;
}

/**
 * Checks the name of a collection, or a key.
 *
 * @param verb The operation, for the error.
 * @param what The parameter, for the error.
 * @param name The name or key.
 * @throws {TypeError} If it is not a text.
 * @throws {RangeError} If it is empty or too long.
 */
export function checkRowName(verb: string, what: string, name: string): void {
  checkType(verb, what, name, "string");
  const bytes = utf8Length(name);
  if (bytes > 0 && bytes <= MAX_ROW_NAME_BYTES) return;
  throw new RangeError(
    `Cannot ${verb}: ${what} must have 1 to ${MAX_ROW_NAME_BYTES} bytes, received ${bytes}`,
  );
}

/**
 * Checks the name of a collection, as {@linkcode checkRowName} does.
 *
 * @throws {TypeError} If it is not a text.
 * @throws {RangeError} If it is empty, too long, or reserved.
 */
export function checkCollectionName(verb: string, what: string, name: string): void {
  checkRowName(verb, what, name);
  if (!name.startsWith(HIDDEN_PREFIX)) return;
  throw new RangeError(
    `Cannot ${verb}: ${what} must not start with "${HIDDEN_PREFIX}", which is reserved, ` +
      `received "${name}"`,
  );
}

/**
 * Checks the collection and the key of a row to write.
 *
 * @throws {TypeError} If one of them is not a text.
 * @throws {RangeError} If one of them is empty or too long, or the name of the collection is
 * reserved.
 */
export function checkRow(type: string, key: string): void {
  checkCollectionName("write state", "collection", type);
  checkRowName("write state", "key", key);
}

/**
 * Checks the version that a row must have.
 *
 * @throws {RangeError} If it is no integer, or negative.
 */
export function checkExpected(expect: number | undefined): void {
  if (expect === undefined || Number.isSafeInteger(expect) && expect >= 0) return;
  throw new RangeError(`Cannot write state: expect must be 0 or more, received ${expect}`);
}

/**
 * Checks the time after which a row expires.
 *
 * @throws {RangeError} If it is no integer, below 1 or above 100 years.
 */
export function checkTtl(ttlMs: number | undefined): void {
  if (ttlMs === undefined || Number.isInteger(ttlMs) && ttlMs > 0 && ttlMs <= MAX_TTL_MS) return;
  throw new RangeError(
    `Cannot write state: ttlMs must be an integer from 1 to ${MAX_TTL_MS}, received ${ttlMs}`,
  );
}

/** Creates the error for an `update` of a row that does not exist. */
export function noRow(
  { type, key }: { readonly type: string; readonly key: string },
): RequestError {
  return new RequestError("conflict", `Cannot update: there is no row "${key}" in "${type}"`);
}

/**
 * Creates the error for a row that is not as a write expects.
 *
 * @param what What happened to it.
 */
export function conflict(
  { type, key }: { readonly type: string; readonly key: string },
  what: string,
): RequestError {
  return new RequestError("conflict", `Cannot write state: the row "${key}" of "${type}" ${what}`);
}

/**
 * Creates the error for a row that does not have the expected version.
 *
 * @param expect The expected version; 0 for no row.
 */
export function unexpected(
  row: { readonly type: string; readonly key: string },
  expect: number,
): RequestError {
  return conflict(row, expect === 0 ? "already exists" : `no longer has the version ${expect}`);
}

/**
 * Finds the limit that a number of changes in one transaction exceeds.
 *
 * @returns The rule and the number; `undefined` if there are not too many.
 */
export function countFault(count: number): string | undefined {
  if (count <= MAX_CHANGES) return undefined;
  return `a transaction must have at most ${MAX_CHANGES} changes, received ${count}`;
}

/**
 * Returns the name of a row.
 *
 * @param type The collection.
 * @returns The name, unique for each pair.
 */
export function rowName(type: string, key: string): string {
  return JSON.stringify([type, key]);
}

/** Returns the collection and the key of a row. */
export function readRowName(row: string): readonly [type: string, key: string] {
  return JSON.parse(row);
}
