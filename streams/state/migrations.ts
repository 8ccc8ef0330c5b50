/** Moves the rows of states to the version of this server's contract. */
import { checkOptions, TTL } from "../../base/options/option_checks.ts";
import type { OptionKinds } from "../../base/options/options.ts";
import { pause, waitFor, within } from "../../base/wait.ts";
import type { Runtime } from "../../base/runtime.ts";
import { BrokerError, RequestError } from "../../errors.ts";
import { isThenable } from "../../session/mutations/transaction.ts";
import type { StateWriteOptions } from "../../session/state_types.ts";
import { checkRow, MAX_CHANGES, type RowMessage, rowName } from "../../session/wire/rows.ts";
import {
  type Change,
  changeBytes,
  encodeTransaction,
  MAX_VERSION_BYTES,
} from "../logs/change_message.ts";
import type { LogInfo, LogPage, RowChange } from "../logs/log.ts";
import {
  outcomeText,
  type RowForms,
  type StreamAppended,
  type StreamLogs,
} from "../logs/stream_logs.ts";
import type { ChangeGate } from "./gate.ts";
import { RETRY_MS, serverClosed } from "./rejections.ts";
import { encodeRow } from "../../session/rows/row_values.ts";

/** Maximum number of rows that a piece of a migration reads, and the size of these rows in bytes. */
export const PIECE = { maxRecords: 500, maxBytes: 262_144 };

/**
 * Time without progress after which another server continues a migration, in milliseconds: its
 * server has died, or is suspended.
 */
const ABANDONED_MS = 30_000;

/** Time after which a server shows its progress even if the piece is not complete, in milliseconds. */
const PROGRESS_MS = 10_000;

/** Longest time for `migrate` with one row, in milliseconds, so that a server shows its progress. */
const MAX_ROW_MS = 10_000;

/** Time between two looks at a migration of another server, in milliseconds. */
const LOOK_MS = 500;

/** Longest pause after a failed migration, in milliseconds; the first one is {@linkcode RETRY_MS}. */
const MAX_PAUSE_MS = 60_000;

/**
 * Longest pause that a rejection recommends, in milliseconds: a client sends its rejected requests
 * again one after another, so those for other streams would wait too.
 */
const MAX_RETRY_MS = 5_000;

/** Maximum number of migrations at the same time, each with a piece of rows in memory. */
export const MAX_MIGRATIONS = 16;

/** Maximum number of failed migrations that a server remembers, to pause before the next attempt. */
export const MAX_FAILURES = 1_000;

/** Maximum number of times that a piece is read again because some of its rows have expired. */
const MAX_REREADS = 5;

/** Time after which a migration lets other events be handled, in milliseconds. */
const MAX_TURN_MS = 5;

/** A row of an earlier version of the contract, for `migrate`. */
export interface StateMigration {
  /** The id of the state. */
  readonly id: string;
  /** Name of the collection, which the contract may no longer have. */
  readonly collection: string;
  /** Key of the row. */
  readonly key: string;
  /** The row as it is stored. The present schema was not applied to it. */
  readonly value: unknown;
  /**
   * The version of the rows before. If a server died during a migration to a version between `from`
   * and `to`, the row may already have that version.
   */
  readonly from: number;
  /** The version of the contract. */
  readonly to: number;
}

/** Kinds of the options of a migrated row. */
const ROW: OptionKinds<Pick<StateWriteOptions, "ttlMs">> = { ttlMs: TTL };

/** Collects the changes that a migration makes for a row. They take effect together. */
export interface MigratedRows {
  /**
   * Writes a row, whether or not it exists.
   *
   * @param collection Name of the collection.
   * @param key Key of the row.
   * @param value Plain JSON; see `set` of a collection.
   * @param options See {@linkcode StateWriteOptions}.
   */
  set(
    collection: string,
    key: string,
    value: unknown,
    options?: Pick<StateWriteOptions, "ttlMs">,
  ): void;
  /**
   * Deletes a row, if it exists.
   *
   * @param collection Name of the collection.
   * @param key Key of the row.
   */
  delete(collection: string, key: string): void;
}

/**
 * Moves a row to the version of the contract.
 *
 * @param row A row as an earlier version of the contract stored it.
 * @param rows Collects the changes, which take effect together.
 */
export type MigrateRow = (row: StateMigration, rows: MigratedRows) => void | Promise<void>;

/**
 * The form of a state's rows. While they are moved, the text is different with each piece, so that
 * only one server moves them, and all writes are rejected.
 */
interface RowsForm {
  /** The version before. */
  readonly version: number;
  /** Present while the rows are moved. */
  readonly moving?: {
    readonly to: number;
    /** Position from which on the rows have the new version. */
    readonly end: number;
    /** The server that moves them; empty if it has stopped. */
    readonly by: string;
    readonly piece: number;
  } | undefined;
}

/** The migrations of an application. */
export interface StateMigrations {
  /** Moves a row. By default, the rows stay as they are, with the new version. */
  readonly migrate: MigrateRow | undefined;
}

interface MigrationParts {
  readonly runtime: Runtime;
  readonly logs: () => StreamLogs;
  readonly gate: () => ChangeGate;
  readonly maxTransactionBytes: (id: string) => number;
  /** `undefined` if this server may not move rows, because it has no live state. */
  readonly options: StateMigrations | undefined;
  /** Time limit for `migrate` with one row, in milliseconds; at most {@linkcode MAX_ROW_MS}. */
  readonly timeoutMs: number;
  readonly report: (what: string, error: unknown) => void;
}

/**
 * The migrations of a server.
 *
 * - **Where the version is:** in the broker's state of the stream, next to the tail. It is read with
 *   the rows, and each append compares it in the step that writes the rows. So a write of an older
 *   server never comes after a migration, and readers see no row for it. It costs no read, no record
 *   and no key; a stream of version 1 stores nothing.
 * - **Once:** the server whose append marks the state as moving moves the rows. Each piece is one
 *   transaction that replaces the mark, so a server that was suspended changes nothing afterwards.
 * - **Resumed:** a server that finds a mark without progress goes on. Rows that were written since
 *   the mark have the new version, and are left out.
 * - **Order:** all rows that may not fit yet are before the position of the mark, because no one else
 *   writes meanwhile.
 */
export class Migrations implements RowForms {
  readonly #parts: MigrationParts;
  readonly #node: string;
  /** Migrations under way, by id; bounded. */
  readonly #running = new Map<string, Promise<void>>();
  /** Failed migrations by id, oldest first; bounded. */
  readonly #failed = new Map<string, { readonly count: number; readonly againAt: number }>();
  readonly #stop = new AbortController();

  constructor(parts: MigrationParts) {
    this.#parts = parts;
    this.#node = parts.runtime.getRandomValues(new Uint32Array(2)).join("-");
  }

  of(id: string): string | undefined {
    const version = this.#parts.gate().versionOf(id);
    return version === undefined ? undefined : formText({ version });
  }

  ready(id: string, signal: AbortSignal | undefined): Promise<void> | undefined {
    const version = this.#parts.gate().versionOf(id) ?? 1;
    return version > 1 && this.#parts.options !== undefined
      ? this.#ready(id, version, signal)
      : undefined;
  }

  differs(id: string, form: string): void {
    const version = this.#parts.gate().versionOf(id) ?? 1;
    if (this.#parts.options === undefined || !isOlder(readForm(form), version)) return;
    // The writer has its rejection, and a failure is reported.
    this.#share(id, version).catch(() => {});
  }

  /** Resolves to true if the rows of a state have a newer version than this node's contract. */
  async isNewer(id: string): Promise<boolean> {
    const version = this.#parts.gate().versionOf(id);
    const found = version === undefined ? undefined : await this.#info(id);
    if (found === undefined) return false;
    const { version: present, moving } = readForm(found.form);
    return (moving?.to ?? present) > version!;
  }

  /** Ends the migrations. Other servers go on with them. */
  close(): void {
    this.#stop.abort(
      serverClosed(),
    );
  }

  async #ready(id: string, version: number, signal: AbortSignal | undefined): Promise<void> {
    const info = await this.#info(id);
    if (!isPast(info, version)) return;
    await within(this.#parts.runtime, this.#share(id, version), { signal });
  }

  async #info(id: string): Promise<LogInfo | undefined> {
    const found = await this.#parts.logs().info(id);
    return found.kind === "page" ? found.info : undefined;
  }

  /** Takes part in the migration of a state. */
  #share(id: string, to: number): Promise<void> {
    const running = this.#running.get(id);
    if (running !== undefined) return running;
    const { runtime } = this.#parts;
    const waitMs = (this.#failed.get(id)?.againAt ?? 0) - runtime.monotonic();
    if (waitMs > 0) return Promise.reject(unready(id, Math.min(waitMs, MAX_RETRY_MS)));
    if (this.#stop.signal.aborted || this.#running.size >= MAX_MIGRATIONS) {
      return Promise.reject(unready(id));
    }
    const migration = this.#run(id, to).finally(() => this.#running.delete(id));
    this.#running.set(id, migration);
    return migration;
  }

  async #run(id: string, to: number): Promise<void> {
    try {
      await this.#migrate(id, to);
      this.#failed.delete(id);
    } catch (error) {
      if (error instanceof BrokerError || this.#stop.signal.aborted) throw error;
      this.#fail(id, error);
      throw unready(id, RETRY_MS, error);
    }
  }

  #fail(id: string, error: unknown): void {
    const { runtime, report } = this.#parts;
    const { count = 0 } = this.#failed.get(id) ?? {};
    const pauseMs = Math.min(MAX_PAUSE_MS, RETRY_MS * 2 ** count);
    this.#failed.delete(id);
    this.#failed.set(id, { count: count + 1, againAt: runtime.monotonic() + pauseMs });
    const [oldest] = this.#failed.keys();
    if (this.#failed.size > MAX_FAILURES) this.#failed.delete(oldest!);
    if (count === 0) report(`The migration of the state "${id}"`, error);
  }

  async #migrate(id: string, to: number): Promise<void> {
    const { runtime } = this.#parts;
    const { signal } = this.#stop;
    let seen: { readonly form: string | undefined; readonly atMs: number } | undefined;
    while (true) {
      signal.throwIfAborted();
      const info = await this.#info(id);
      if (!isPast(info, to)) return;
      const { form, identity } = info;
      const { version, moving } = readForm(form);
      if (moving !== undefined && moving.by !== "" && moving.by !== this.#node) {
        const now = runtime.monotonic();
        if (seen === undefined || seen.form !== form) seen = { form, atMs: now };
        if (now - seen.atMs < ABANDONED_MS) {
          await pause(runtime, LOOK_MS, signal);
          continue;
        }
      }
      const mark = new Mark(this.#parts, {
        id,
        identity,
        version,
        to,
        end: moving?.to === to ? moving.end : info.tail,
        by: this.#node,
        piece: (moving?.piece ?? -1) + 1,
      });
      if (!await mark.take(form)) continue;
      try {
        await this.#move(mark);
        await mark.replace([], formText({ version: to }));
        return;
      } catch (error) {
        // This server was suspended, and another one has taken over.
        if (error instanceof Superseded) continue;
        // Otherwise, another server would wait until it takes the mark for abandoned.
        await mark.release();
        throw error;
      }
    }
  }

  /** Moves all rows, piece by piece. */
  async #move(mark: Mark): Promise<void> {
    const { runtime } = this.#parts;
    const { migrate } = this.#parts.options!;
    if (migrate === undefined) return;
    let turnMs = runtime.monotonic();
    let rereads = 0;
    for (let after = 0; after < mark.end;) {
      this.#stop.signal.throwIfAborted();
      const page = await this.#parts.logs().rows(mark.id, { ...PIECE, after });
      if (page?.info.identity !== mark.identity) throw unready(mark.id);
      if (await this.#movePage(mark, page, migrate)) {
        after = page.next ?? mark.end;
        rereads = 0;
      } else if (++rereads > MAX_REREADS) throw unready(mark.id);
      // A broker in memory replies within the turn, in which clients could do nothing.
      if (runtime.monotonic() - turnMs > MAX_TURN_MS) {
        await new Promise<void>((end) => runtime.schedule(end));
        turnMs = runtime.monotonic();
      }
    }
  }

  /** Moves the rows of a page. Returns false if one of them has changed meanwhile. */
  async #movePage(mark: Mark, page: LogPage, migrate: MigrateRow): Promise<boolean> {
    const { runtime, maxTransactionBytes } = this.#parts;
    const maxBytes = maxTransactionBytes(mark.id);
    let piece: RowChange[] = [];
    let bytes = 0;
    const write = async () => {
      const changes = piece;
      [piece, bytes] = [[], 0];
      return await mark.replace(changes);
    };
    const left = rowsBefore(page, mark.end);
    for (const row of left.values()) {
      const changes = await this.#changesOf(mark, row, migrate);
      const encoded = encodeTransaction(changes, { now: runtime.now(), maxBytes });
      if (encoded.fault !== undefined) {
        const { type, key } = row;
        throw new RangeError(`Cannot migrate the row "${key}" of "${type}": ${encoded.fault}`);
      }
      // A changed row is moved, as it would be if it were on a later page. Its old value would
      // replace the change.
      for (const change of encoded.changes) left.delete(change.row);
      const moreBytes = changeBytes(encoded.changes, MAX_VERSION_BYTES);
      const isFull = piece.length + changes.length > MAX_CHANGES || bytes + moreBytes > maxBytes;
      const isLate = runtime.monotonic() - mark.replacedAtMs > PROGRESS_MS;
      if ((isFull || isLate) && !await write()) return false;
      piece.push(...encoded.changes);
      bytes += moreBytes;
    }
    // Without changes, this tells other servers that the migration goes on.
    return await write();
  }

  /** Asks the application for the changes that move a row. */
  async #changesOf(
    { id, version: from, to }: Mark,
    { type, key, value, version, until }: OldRow,
    migrate: MigrateRow,
  ): Promise<readonly Change[]> {
    const { runtime } = this.#parts;
    const timeoutMs = Math.min(this.#parts.timeoutMs, MAX_ROW_MS);
    const { signal } = this.#stop;
    const leftMs = until > 0 ? Math.max(1, until - runtime.now()) : undefined;
    const changes = new Map<string, Change>();
    const put = (change: Change) => {
      checkRow(change.type, change.key);
      const row = rowName(change.type, change.key);
      const isSource = change.type === type && change.key === key;
      changes.set(row, isSource ? { ...change, expect: version } : change);
    };
    const rows: MigratedRows = {
      set: (type, key, value, options = {}) => {
        checkOptions("migrate row", options, ROW);
        const { ttlMs = leftMs } = options;
        put({ type, key, operation: "upsert", value: encodeRow(value, "migrate row"), ttlMs });
      },
      delete: (type, key) => put({ type, key, operation: "delete" }),
    };
    const what = `result from migrate for the row "${key}" of "${type}"`;
    const migrated = migrate({ id, collection: type, key, value, from, to }, rows);
    if (isThenable(migrated)) {
      await waitFor(runtime, Promise.resolve(migrated), { what, timeoutMs, signal });
    }
    return await this.#parts.gate().check(id, [...changes.values()]);
  }
}

/** The facts of a migration. */
interface MarkFacts {
  readonly id: string;
  /** Identity of the stream. */
  readonly identity: string;
  /** The version before. */
  readonly version: number;
  readonly to: number;
  /** See {@linkcode RowsForm}. */
  readonly end: number;
  /** This server. */
  readonly by: string;
  /** Number of the next piece, higher than those of other servers. */
  readonly piece: number;
}

/** The mark of a state whose rows this server moves. */
class Mark {
  readonly id: string;
  readonly identity: string;
  readonly version: number;
  readonly to: number;
  readonly end: number;
  /** Time of the last change of the mark. */
  replacedAtMs = 0;
  readonly #parts: MigrationParts;
  readonly #by: string;
  #piece: number;
  #form = "";

  constructor(parts: MigrationParts, { id, identity, version, to, end, by, piece }: MarkFacts) {
    this.#parts = parts;
    this.id = id;
    this.identity = identity;
    this.version = version;
    this.to = to;
    this.end = end;
    this.#by = by;
    this.#piece = piece;
  }

  /**
   * Marks the state, whose rows have a form. Returns false if it has changed meanwhile: another
   * server was first, or the stream was closed or deleted.
   *
   * @throws {RequestError} If the broker has no room.
   */
  async take(form = ""): Promise<boolean> {
    this.#form = form;
    const result = await this.#append([], this.#next(this.#by));
    if (result.kind === "appended") return true;
    if (CHANGED.has(result.kind)) return false;
    throw this.#rejection(result);
  }

  /**
   * Changes rows, and replaces the mark. Returns false if a row has changed.
   *
   * @throws {Superseded} If another server has taken over.
   * @throws {RequestError} If the state has no room.
   */
  async replace(
    changes: readonly RowChange[],
    next: string = this.#next(this.#by),
  ): Promise<boolean> {
    const result = await this.#append(changes, next);
    switch (result.kind) {
      case "appended":
        return true;
      case "conflict":
        return false;
      case "other-form":
        throw new Superseded();
      default:
        throw this.#rejection(result);
    }
  }

  /** Lets other servers go on immediately. */
  async release(): Promise<void> {
    try {
      await this.#append([], this.#next(""));
    } catch (error) {
      // They go on once they take the mark for abandoned.
      if (!(error instanceof BrokerError)) throw error;
    }
  }

  async #append(changes: readonly RowChange[], next: string): Promise<StreamAppended> {
    const { id, identity } = this;
    const { runtime, logs } = this.#parts;
    const result = await logs().append(id, {
      identity,
      records: [],
      changes: changes.length > 0 ? changes : undefined,
      form: { is: this.#form, next },
    });
    if (result.kind === "appended") {
      this.#form = next;
      this.replacedAtMs = runtime.monotonic();
    }
    return result;
  }

  #rejection(result: StreamAppended): RequestError {
    const why = outcomeText(result);
    return new RequestError("full", `Cannot migrate the rows of "${this.id}": ${why}`);
  }

  #next(by: string): string {
    const { version, to, end } = this;
    return formText({ version, moving: { to, end, by, piece: this.#piece++ } });
  }
}

/** A row as an earlier version of the contract stored it. */
interface OldRow {
  readonly type: string;
  readonly key: string;
  readonly value: unknown;
  readonly version: number;
  /** The time at which it expires; 0 if it does not. */
  readonly until: number;
}

/** Returns the rows of a page that are before a position, in order, by name. */
function rowsBefore(page: LogPage, end: number): Map<string, OldRow> {
  const rows = new Map<string, OldRow>();
  for (const [i, record] of page.records.entries()) {
    const position = page.positions![i]!;
    if (position >= end) break;
    const { type, key, value, headers }: RowMessage = JSON.parse(record as string);
    if (headers.operation === "delete") continue;
    const until = page.expiries?.[i] || 0;
    rows.set(rowName(type, key), { type, key, value, version: position + 1, until });
  }
  return rows;
}

/** Results of an append to a stream that is not as it was read. */
const CHANGED: ReadonlySet<StreamAppended["kind"]> = new Set([
  "deleted",
  "ended",
  "missing",
  "other-form",
  "other-kind",
]);

/** Another server moves the rows. */
class Superseded extends Error {}

/** True if the rows of a stream have to be moved to a version. */
function isPast(info: LogInfo | undefined, version: number): info is LogInfo {
  // A stream that was closed takes no changes, and an unused one takes the version of its first.
  if (info?.keyed === undefined || info.end !== undefined) return false;
  if (info.tail === 0 && info.form === undefined) return false;
  return isOlder(readForm(info.form), version);
}

function isOlder({ version, moving }: RowsForm, than: number): boolean {
  return moving === undefined ? version < than : moving.to <= than;
}

/** Writes a form: the version, or a list while the rows are moved; empty for version 1. */
function formText({ version, moving }: RowsForm): string {
  if (moving === undefined) return version === 1 ? "" : String(version);
  const { to, end, by, piece } = moving;
  return JSON.stringify([version, to, end, by, piece]);
}

function readForm(form = ""): RowsForm {
  if (!form.startsWith("[")) return { version: Number(form || 1) };
  const [version, to, end, by, piece] = JSON.parse(form);
  return { version, moving: { to, end, by, piece } };
}

/** The error for a state whose rows are being moved, or could not be moved. */
function unready(id: string, retryAfterMs = RETRY_MS, cause?: unknown): RequestError {
  return new RequestError(
    "unavailable",
    `Cannot read state "${id}": its rows do not have the version of the contract yet`,
    { retryAfterMs: Math.ceil(retryAfterMs), cause },
  );
}
