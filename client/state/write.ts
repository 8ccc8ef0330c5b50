/** One write of a client to a state: its changes, and what may become of it. */
import { RequestError } from "../../errors.ts";
import type { Backoff } from "../../base/backoff.ts";
import { textOf } from "../../base/error_text.ts";
import type { Runtime, Timer } from "../../base/runtime.ts";
import type { StatusFeed } from "../../base/status_feed.ts";
import { retryAfterMsOf, type RowWriteMessage, type WriteResult } from "../../session/wire/rows.ts";
import type { Program, ProgramFunction } from "./programs.ts";
import type { ClientRows, KnownRow, RowWriter, WrittenRow } from "./rows.ts";

/** Time for which a client repeats a write that its server can't decide about, in milliseconds. */
export const UNDECIDED_MS = 60_000;

/** Number of conflicts in a row after which a `set` or `delete` is sent without a condition. */
export const MAX_CONFLICTS = 5;

/** A row that others changed after a write of this client was made, and before it was sent. */
export interface StateConflict {
  /** Name of the collection. */
  readonly collection: string;
  /** Key of the row. */
  readonly key: string;
  /** The value that this client writes; `undefined` to delete the row. */
  readonly mine: unknown;
  /** The present value; `undefined` if the row does not exist. */
  readonly theirs: unknown;
}

/** Decides about a conflict: which value wins, or a third one. */
export type OnConflict = (
  conflict: StateConflict,
) => "mine" | "theirs" | { readonly value: unknown };

export interface WriteChange extends WrittenRow {
  readonly ttlMs?: number | undefined;
  /** Version that the row must have; 0 for no row. */
  readonly expect?: number | undefined;
  /** Version of the row to which the write was last adapted; 0 without a row. */
  readonly seen: number;
  /** Without a row, the version of the state to which the write was last adapted. */
  readonly since?: number | undefined;
  /** The value from which `update` has computed the new one. */
  readonly base?: unknown;
  /** True if the row must still have that version, because a function has read it. */
  readonly isRead?: boolean | undefined;
}

/** A condition of a transaction: a row that must not change, or without a key, a collection. */
export type WriteCheck = Pick<RowWriteMessage, "type" | "key"> & {
  readonly expect?: number | undefined;
  readonly since?: number | undefined;
};

/** The handle of a state through which the application writes. */
export interface StateWriter {
  readonly onConflict: OnConflict | undefined;
  /** Number of its writes whose outcome is unknown. */
  readonly pendingWrites: StatusFeed<number>;
}

/** A write, as the application makes it. */
export interface NewWrite {
  readonly writer: StateWriter;
  readonly changes: readonly WriteChange[];
  /** Computes the value of the only row from its present value; the write requires this row. */
  readonly update?: ((value: unknown) => unknown) | undefined;
  /** Takes the write back if it was not sent yet. */
  readonly signal?: AbortSignal | undefined;
  /** True if the changes take effect together, even if there is only one. */
  readonly isTransaction?: boolean | undefined;
}

/** A write that a function makes, as the application calls it. */
export interface NewProgram extends Pick<NewWrite, "writer" | "signal"> {
  readonly function: ProgramFunction;
}

/** The parts of a state that its writes use. */
export interface WriteTarget {
  readonly runtime: Runtime;
  /** Longest time for a run of a function, in milliseconds. */
  readonly timeoutMs: number;
  readonly rows: ClientRows;
  /** Returns false if a row does not fit the schema of the contract. */
  fits(row: WrittenRow): boolean;
  /** Aborts when no more writes are sent. */
  readonly signal: AbortSignal;
  /** Writes the changes in another way, if they are about rows that are not in the stream. */
  divert(write: NewWrite): Promise<number> | undefined;
  /** Returns whether the client reads the state, so that it ends if there is no such state. */
  isReading(): boolean;
  /** Resolves once the client is connected, and has the present rows. */
  whenCurrent(): Promise<void>;
  /** Keeps the writes in the client's store. */
  keeping(): WriteKeeping | undefined;
  /** Returns false for a collection whose rows are not stored. */
  isStored(collection: string): boolean;
  /** Resolves once writes may be sent, because the store belongs to the client's user. */
  whenOwned(): Promise<void>;
  /** Sends a publication, and returns the data of the reply. */
  publish(data: object): Promise<unknown>;
}

/** A promise to settle. Pages may be compiled without the type `PromiseWithResolvers`. */
export interface Settling {
  readonly promise: Promise<number>;
  readonly resolve: (version: number | PromiseLike<number>) => void;
  readonly reject: (reason?: unknown) => void;
}

/** A value of a row that waits, and the promise of those who wrote it. */
export interface Attempt {
  changes: readonly WriteChange[];
  bytes: number;
  settling: Settling;
}

export interface QueuedWrite extends Attempt, RowWriter {
  readonly writer: StateWriter;
  /** True if an earlier page has made it, or a handle that is closed: no promise tells its outcome. */
  readonly isRestored?: boolean | undefined;
  /** Name of the opening that made it; `undefined` for this one. */
  readonly page: string | undefined;
  /** True if it stays in the store when its handle is closed. */
  isKept: boolean;
  /** The function that makes the changes; none once they no longer depend on rows. */
  program: Program | undefined;
  /** Conditions on rows that the write does not change. */
  checks: readonly WriteCheck[];
  readonly txid: string;
  readonly update: NewWrite["update"];
  readonly signal: AbortSignal | undefined;
  readonly isTransaction: boolean | undefined;
  /** The value before the newest one, which is sent if the server rejects the newest one. */
  earlier: Attempt | undefined;
  conflicts: number;
  /** Runs until it is sent again. Later writes of its rows wait for it. */
  timer: Timer | undefined;
  pauses: Backoff | undefined;
  /** Time since which others change its rows faster than the server can make it. */
  undecidedSinceMs: number | undefined;
  /** Why versions can't tell whether the write took effect: the reason to read the rows anew. */
  untraceable: RequestError | undefined;
  /**
   * - `new`: it has to be adapted to the present rows before it is sent.
   * - `adapted`: it can be sent.
   * - `uncertain`: it was sent, and may have taken effect.
   */
  state: "new" | "adapted" | "uncertain";
}

/** Keeps writes in the client's store. None of the calls rejects because the store fails. */
export interface WriteKeeping {
  /** Keeps a write, as it is now, until it is dropped. */
  put(write: QueuedWrite): void;
  /** Keeps writes as they are sent. Resolves once they are stored, or the store has failed. */
  sending(writes: readonly QueuedWrite[]): Promise<void>;
  /**
   * Notes that the server has made a write, which is deleted once its rows are kept.
   *
   * @param version The version of its rows; 0 if it may belong to an earlier stream.
   */
  made(write: QueuedWrite, version: number): void;
  /**
   * Deletes a write whose outcome is known.
   *
   * @param reason The error, if it took no effect or this is unknown.
   */
  drop(write: QueuedWrite, reason?: unknown): void;
}

/** Returns true if the server could not decide about a write for too long. */
export function isUndecided(
  write: { undecidedSinceMs: number | undefined },
  result: WriteResult,
  runtime: Runtime,
): boolean {
  if (!("error" in result) || result.error.code !== "undecided") return false;
  const now = runtime.monotonic();
  write.undecidedSinceMs ??= now;
  return now - write.undecidedSinceMs >= UNDECIDED_MS;
}

/** True if the server did not begin a write after this result of an earlier one. */
export function isEnd(result: WriteResult, { program }: QueuedWrite): boolean {
  if (program?.of.mutation !== undefined) return !("version" in result);
  return "conflict" in result || retryAfterMsOf(result) !== undefined;
}

/** True if a write may be taken back, or depends on a condition, so that it is sent by itself. */
export function isAlone(
  { changes: [change], update, signal, isTransaction = false }: NewWrite,
): boolean {
  const isConditional = update !== undefined || change?.expect !== undefined;
  return isConditional || signal !== undefined || isTransaction;
}

/** Returns the messages of a write: its changes, and then the other rows that it depends on. */
export function encode(write: QueuedWrite): RowWriteMessage[] {
  const { txid, update, state, conflicts } = write;
  const changes = write.changes.map((change): RowWriteMessage => {
    const { type, key, value, ttlMs, expect, seen, since, isRead } = change;
    // A copy that a server handles late must not replace newer rows, or bring back deleted ones.
    // After some conflicts, the last write wins in any case.
    const hasCondition = conflicts < MAX_CONFLICTS || state === "uncertain" ||
      expect !== undefined || isRead || isConditional(write);
    const headers = {
      txid,
      expect: hasCondition ? seen : undefined,
      since: hasCondition && value !== undefined ? since : undefined,
      ttl: ttlMs && Math.ceil(ttlMs / 1_000),
    };
    if (value === undefined) return { type, key, headers: { ...headers, operation: "delete" } };
    const operation = update ? "update" : expect === 0 ? "insert" : "upsert";
    return { type, key, value, headers: { ...headers, operation } };
  });
  const checks = write.checks.map(({ type, key, ...condition }): RowWriteMessage => {
    return { type, key, headers: { operation: "check", txid, ...condition } };
  });
  return [...changes, ...checks];
}

/** True if a write depends on the present rows. */
export function isConditional({ update, writer, program }: QueuedWrite): boolean {
  return update !== undefined || program === undefined && writer.onConflict !== undefined;
}

/** True for a mutation that is sent again because its outcome is unknown. */
export function isRepeated({ program, state }: QueuedWrite): boolean {
  return program?.of.mutation !== undefined && program.madeAt === undefined &&
    state === "uncertain";
}

/** Tells a row from others. */
export function isOf(
  { type, key }: Pick<WriteChange, "type" | "key">,
): (change: WriteChange) => boolean {
  return (change) => change.type === type && change.key === key;
}

/** True for a write that its page had to settle before it sent another one, which has a row of it. */
export function isBefore(write: QueuedWrite, other: QueuedWrite): boolean {
  return write.page !== undefined && write.page === other.page && write.order < other.order &&
    write.program === undefined && write.state === "uncertain" &&
    write.changes.some((change) => other.changes.some(isOf(change)));
}

/** Returns a change that was made after a write of the same row, which has this version. */
export function seenBy(change: WriteChange, write: QueuedWrite, version: number): WriteChange {
  const own = write.changes.find(isOf(change));
  return own ? { ...change, seen: versionOf({ value: own.value, version }) } : change;
}

/** The version that a write expects. */
export function versionOf({ value, version }: KnownRow): number {
  return value === undefined ? 0 : version;
}

/** Why the outcome of a write whose reply was lost is unknown. */
export const CHANGED = "has changed since the write was sent";

/** The error for rows that don't fit into a message, which the server may also be the one to find. */
export function tooLarge(cause: RangeError): RequestError {
  return new RequestError("too-large", cause.message, { cause });
}

export function notReadable(row?: { readonly type: string; readonly key: string }): RequestError {
  const what = row ? `row "${row.key}" of "${row.type}", which update needs` : "rows, as it does";
  return new RequestError("forbidden", `Cannot write state: this client may not read the ${what}`);
}

export function unknownOutcome(cause: unknown): RequestError {
  return new RequestError(
    "unknown",
    `Cannot tell if the state was written: ${textOf(cause).replace("Cannot write state: ", "")}`,
    { cause },
  );
}
