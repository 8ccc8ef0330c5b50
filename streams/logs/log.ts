/** The contract between durable streams and the broker that keeps their logs. */
import type { Broker } from "../../pubsub/broker.ts";

/** One record of a log: JSON or other text as a string, anything else as bytes. */
export type LogRecord = string | Uint8Array;

/** The end of a log: no more records follow. */
export interface LogEnd {
  /**
   * The reason, for people and programs, if the writer stopped early; absent for a complete log.
   */
  readonly error?: string | undefined;
  /** Code of the error, for programs, if the writer gave one. */
  readonly code?: string | undefined;
}

/** Number of a producer's append, which identifies a repetition. */
export interface LogProducer {
  /** Name of the producer. */
  readonly id: string;
  /** Number of the producer's start. A higher number fences all lower numbers. */
  readonly epoch: number;
  /** Number of the append within the epoch, counted from 0 without gaps. */
  readonly seq: number;
}

/** A client that appends to a keyed log. */
export interface LogCaller {
  /** A name of the client in letters, digits, `-` and `_`, the same on all servers; empty for guests. */
  readonly id: string;
  /** A name of the client's network in the same characters; empty if it is unknown. */
  readonly network: string;
}

/** The log that a fork was created from. Records before `position` belong to that log. */
export interface LogOrigin {
  /** Id of the source. */
  readonly id: string;
  /**
   * Identity of the source, so that another log with the same id is never mistaken for the source.
   */
  readonly identity: string;
  /** Position in the source at which the fork begins. */
  readonly position: number;
  /** The fork's name at the source, which is the fork's identity. */
  readonly fork: string;
  /**
   * Number of bytes of the record at `position` that form the fork's first own record; absent if
   * there is no such record.
   */
  readonly subOffset?: number | undefined;
  /** Identities for the positions up to `position`, oldest first, from the source's own origins. */
  readonly lineage: readonly { readonly identity: string; readonly until: number }[];
}

/** The newest records of a keyed log that are kept although later records replace their rows. */
export interface LogTail {
  /** Number of records to keep, however old. */
  readonly records: number;
  /** Age up to which all records are kept, in milliseconds. */
  readonly ms: number;
  /** Maximum number of bytes of these records, counted by `countedBytes`. */
  readonly bytes: number;
}

/** A row of a keyed log: the newest change of one key. */
export interface LogRow {
  /**
   * Name of the row, unique within the log. If it starts with `["$skein`, the row is hidden:
   *
   * - It is read by name, and belongs to no record and no page of rows.
   * - It changes together with other rows: if none of them changes, it does not change either.
   * - After a deletion or its expiry, it is forgotten.
   */
  readonly row: string;
  /** Position of the record that changed the row last. The row's version is one higher. */
  readonly position: number;
  /** The change, as readers receive it. */
  readonly text: string;
  /** Bytes of the text in UTF-8, if they were counted. */
  readonly bytes?: number | undefined;
  /** Present if the row was deleted, with the time of the deletion. */
  readonly deletedAt?: number | undefined;
  /** Time at which the row expires, in milliseconds since the Unix epoch. */
  readonly until?: number | undefined;
}

/** A change of a row that a writer requests. */
export interface RowChange {
  /** Name of the row. */
  readonly row: string;
  /** Bytes of the name in UTF-8. */
  readonly nameBytes: number;
  /**
   * `set` writes an `insert` or an `update`, depending on whether the row exists. `update` requires
   * that the row exists. `delete` has no effect on a row that does not exist. `check` changes
   * nothing: the transaction only takes effect if the row meets `expect` and `since`.
   */
  readonly operation: "set" | "update" | "delete" | "check";
  /** The text of the change before and after the name of the operation. */
  readonly text: readonly [before: string, after: string];
  /** Bytes of the text in UTF-8, with any operation: all have six letters. */
  readonly bytes: number;
  /** Version that the row must have; 0 if it must not exist. */
  readonly expect?: number | undefined;
  /**
   * Position after which the row must not have changed. A deletion counts as a change, and if the
   * log may have forgotten one, the row counts as changed.
   */
  readonly since?: number | undefined;
  /** Time after which the row expires, in milliseconds. */
  readonly ttlMs?: number | undefined;
}

/** Bounds on the rows of a keyed log. */
export interface RowBounds {
  /** Maximum number of rows that exist. */
  readonly rows: number;
  /** Maximum number of deleted rows that are remembered. */
  readonly deletions: number;
  /** Time for which a deleted row is remembered, in milliseconds. */
  readonly deletionMs: number;
}

/** The state of the rows of a keyed log. */
export interface RowStats {
  /** Number of rows that exist. */
  readonly count: number;
  /** Number of deleted rows that are remembered. */
  readonly deletions: number;
  /** Bytes of all these rows. */
  readonly bytes: number;
  /**
   * Position after the newest deletion that was forgotten, or 0. A reader before this position may
   * still show a row that was deleted.
   */
  readonly forgotten: number;
  /**
   * The hidden rows, which count in `bytes` alone: how many exist, and the position after the last
   * change of one that is forgotten, or 0. Absent in a log that has had no hidden rows.
   */
  readonly hidden?: { readonly count: number; readonly forgotten: number } | undefined;
}

/** Settings of a log that its creation fixes. */
export interface LogConfig {
  /** Media type of the records, as given. */
  readonly contentType: string;
  /** Time after the last append, read or renewal at which the log expires, in milliseconds. */
  readonly ttlMs?: number | undefined;
  /** Time at which the log expires, in milliseconds since the Unix epoch. */
  readonly expiresAt?: number | undefined;
  /** The log that this one was forked from. */
  readonly origin?: LogOrigin | undefined;
  /**
   * Keys of the user or guest and of the networks to which a log belongs, separated by spaces. The
   * broker returns them unchanged. If a broker bounds the bytes of all logs, each key has a share
   * of the bound.
   */
  readonly owner?: string | undefined;
  /**
   * Makes the log keyed: its records are transactions that change rows. Readers receive the newest
   * change of each row, and the tail is kept in addition.
   */
  readonly keyed?: LogTail | undefined;
}

/** The state of a log. */
export interface LogInfo extends LogConfig {
  /** Eight characters `[0-9a-z]` that no other log uses, including later ones with the same id. */
  readonly identity: string;
  /** Position of the first own record: 0, or the position of the fork in the source. */
  readonly first: number;
  /** Position of the oldest record that is kept; above `first` only with retention. */
  readonly start: number;
  /** Position after the newest record. Positions count records: the record at `p` ends at `p + 1`. */
  readonly tail: number;
  /** Bytes of the content of all kept records; bounds count `ENTRY_BYTES` more for each record. */
  readonly bytes: number;
  /** Present once the log has ended. */
  readonly end?: LogEnd | undefined;
  /** Reason why a reader asked the writer to stop. */
  readonly cancelled?: string | undefined;
  /** Present if the log was deleted and is kept only for its forks. */
  readonly isDeleted?: true | undefined;
  /** The rows of a keyed log. */
  readonly rows?: RowStats | undefined;
  /** The form of the rows of a keyed log; see {@linkcode AppendLogOptions.form}. */
  readonly form?: string | undefined;
}

/**
 * A rejection of bytes while more than half of the broker's bytes are used: the streams of the user
 * or address that created the stream would exceed its share. Responses, and logs without an owner,
 * don't count toward any share.
 */
export interface LogOverShare {
  /** Distinguishes this result from others. */
  readonly kind: "over-share";
  /** The level of the share's holder. */
  readonly level: "address" | "user";
  /** Maximum number of bytes of its streams. */
  readonly most: number;
}

/** Options for {@linkcode BrokerLogs.create}. */
export interface CreateLogOptions {
  /** Settings of the new log. */
  readonly config: LogConfig;
  /** Identity of the new log. */
  readonly identity: string;
  /** First records. */
  readonly records: readonly LogRecord[];
  /**
   * First rows of a keyed log, ordered by position. A copy has no records: all positions are before
   * `config.origin.position`, and `forgotten` is the {@linkcode RowStats.forgotten} of the source.
   * Otherwise, the rows are those after the first `records`, which are transactions.
   */
  readonly rows?: {
    readonly set: readonly LogRow[];
    readonly forgotten: number;
    /** Form of these rows; see {@linkcode AppendLogOptions.form}. */
    readonly form?: string | undefined;
  } | undefined;
  /** Ends the log immediately. */
  readonly end?: LogEnd | undefined;
  /** The lease of a writer; see {@linkcode AppendLogOptions.writer}. */
  readonly writer?: { readonly holder: string; readonly ttlMs: number } | undefined;
  /**
   * Maximum number of the broker's logs with the {@linkcode logKind} of this one, including those
   * that are deleted and kept for forks.
   */
  readonly maxLogs: number;
}

/**
 * Result of {@linkcode BrokerLogs.create}:
 *
 * - `created`: the log is new. `count` is the number of logs of its kind, including this one. It
 *   may be too high if the broker counts only from time to time.
 * - `exists`: there already is a log with this id, possibly a deleted log that is kept for forks.
 * - `expired`: there is an expired log with this id, which must be deleted first.
 * - `too-many`: the broker already keeps the maximum number of logs of this kind.
 * - `no-space`: the broker already keeps the maximum number of bytes of all logs.
 * - `over-share`: see {@linkcode LogOverShare}.
 */
export type LogCreated =
  | { readonly kind: "created"; readonly info: LogInfo; readonly count: number }
  | { readonly kind: "exists"; readonly info: LogInfo }
  | LogOverShare
  | { readonly kind: "expired" | "too-many" | "no-space" };

/** Options for {@linkcode BrokerLogs.append}. */
export interface AppendLogOptions {
  /** Identity that the log must have. A different log with this id counts as `missing`. */
  readonly identity?: string | undefined;
  /**
   * The records. Either all or none are kept. May be empty, to only end the log or renew a lease.
   */
  readonly records: readonly LogRecord[];
  /** Ends the log after the records. */
  readonly end?: LogEnd | undefined;
  /** Number of the append, so that a repetition is recorded once. */
  readonly producer?: LogProducer | undefined;
  /**
   * The client to which `producer` and `sequence` belong in a keyed log. Each client has its own, and
   * both are forgotten 7 days after the last append with them. Has no effect
   * in a log that is not keyed. By default, they belong to a caller of their own.
   */
  readonly caller?: LogCaller | undefined;
  /**
   * A string that must be greater, compared by UTF-16 code units, than that of every earlier
   * append.
   */
  readonly sequence?: string | undefined;
  /**
   * The lease of a writer, renewed for `ttlMs` by this append. While a lease is held, or has lapsed
   * without a successor, appends with another `holder` are `fenced`, unless `takes` is set and the
   * lease has lapsed. Appends without `writer` ignore leases.
   *
   * With `releases`, the lease has no holder for `ttlMs`: an append that `takes` gets the lease
   * immediately, and appends of all other writers are `fenced`, including the former holder's.
   */
  readonly writer?: {
    readonly holder: string;
    readonly ttlMs: number;
    readonly takes?: true | undefined;
    readonly releases?: true | undefined;
  } | undefined;
  /** Does nothing unless the lease of a writer has lapsed; then the result is `held`. */
  readonly ifWriterLost?: true | undefined;
  /** Reason why a reader asks the writer to stop; the first reason is kept. */
  readonly cancel?: string | undefined;
  /**
   * Maximum number of bytes of all kept records, counted by `countedBytes`; an append beyond it is
   * `full`.
   */
  readonly maxBytes: number;
  /**
   * Retention: the oldest records beyond these bounds are dropped. Bytes are counted with
   * `countedBytes`. By default, all records are kept.
   */
  readonly keep?: { readonly records: number; readonly bytes: number } | undefined;
  /**
   * Changes of the rows of a keyed log, which together become one record, a transaction. Then there
   * are no `records`, and `keep` has no effect.
   */
  readonly changes?: readonly RowChange[] | undefined;
  /**
   * Position that the log's tail must have for `changes`: nothing has changed since the caller read
   * the rows. If the tail is another one, nothing happens, and the result is `moved`.
   */
  readonly ifTail?: number | undefined;
  /** Deletes rows that have expired, in addition to `changes`. */
  readonly expiresRows?: true | undefined;
  /**
   * The form that the rows of a keyed log must have, such as a version, as a text in ASCII that is
   * empty for a log without one. A log that has had no records takes any form. `next` replaces it
   * with the append. Without `form`, an append fits any form.
   */
  readonly form?: { readonly is: string; readonly next?: string | undefined } | undefined;
  /** Bounds for `changes`; required with them. */
  readonly rowBounds?: RowBounds | undefined;
}

/**
 * Result of {@linkcode BrokerLogs.append}:
 *
 * - `appended`: all of the options took effect.
 * - `repeated`: the producer has made this append before; `seq` is its newest number. This is also
 *   the result of ending a log without records if it has already ended.
 * - `missing`: there is no log with this id, or it has another identity. `deleted`: the log is kept
 *   only for forks. `expired`: the log must be deleted.
 * - `ended`: the log has already ended.
 * - `stale`: the producer's epoch is `epoch`, which is above the given epoch.
 * - `unstarted`: a new epoch of a producer must start with 0.
 * - `skipped`: the producer's next number is `expected`.
 * - `out-of-sequence`: `sequence` is not above the newest sequence, which the result contains.
 * - `fenced`: another writer holds the lease, or has taken over the caller's lease. `held`: see
 *   `ifWriterLost`.
 * - `full`: the log would exceed `maxBytes`, even without the deleted rows that it remembers.
 *   `no-space`: the broker already keeps the maximum number of bytes of all logs. `over-share`: see
 *   {@linkcode LogOverShare}.
 * - `too-many-producers`: the log already remembers the maximum number of producers, in all, of the
 *   caller, or of its network.
 * - `conflict`: `row` has another version than `expect`, has changed after `since`, or does not
 *   exist for an `update`. `version` is its present version, and `text` its present change. If the
 *   row does not exist, `version` is 0, and `since` is the position after the log's newest record.
 * - `moved`: the log's tail is not `ifTail`, but `info.tail`.
 * - `too-many-rows`: the log would have more rows than allowed.
 * - `other-kind`: the log is keyed and the append has records or a writer's lease, or the log is
 *   not keyed and the append has changes or a form.
 * - `other-form`: the rows have the form `form`, and not the one of the append.
 */
export type LogAppended =
  | { readonly kind: "appended"; readonly info: LogInfo }
  | { readonly kind: "repeated"; readonly info: LogInfo; readonly seq?: number | undefined }
  | { readonly kind: "missing" | "deleted" | "expired" }
  | { readonly kind: "ended" | "moved"; readonly info: LogInfo }
  | { readonly kind: "stale"; readonly epoch: number }
  | { readonly kind: "skipped"; readonly expected: number }
  | { readonly kind: "out-of-sequence"; readonly sequence: string }
  | { readonly kind: "other-form"; readonly form: string }
  | LogOverShare
  | {
    readonly kind: "conflict";
    readonly row: string;
    readonly version: number;
    readonly text?: string | undefined;
    readonly since?: number | undefined;
  }
  | {
    readonly kind:
      | "unstarted"
      | "fenced"
      | "held"
      | "full"
      | "no-space"
      | "too-many-producers"
      | "too-many-rows"
      | "other-kind";
  };

/** Options for {@linkcode BrokerLogs.retain}. */
export interface RetainLogOptions {
  /** Identity that the source must have. */
  readonly identity: string;
  /** Maximum number of forks of the source. */
  readonly maxForks: number;
}

/**
 * Result of {@linkcode BrokerLogs.retain}: `missing` if the source is missing, expired, deleted, or
 * has another identity; `too-many` if the source already has the maximum number of forks.
 */
export type LogRetained = "retained" | "missing" | "too-many";

/** Options for {@linkcode BrokerLogs.read}. */
export interface ReadLogOptions {
  /** Position of the first record to read. If it is below `start`, the page is empty. */
  readonly after: number;
  /** Maximum number of records in the page; 0 to read only the state. */
  readonly maxRecords: number;
  /** Maximum size of the page in bytes; a single record may be larger. */
  readonly maxBytes: number;
  /** Renews the time to live. */
  readonly renews: boolean;
  /** Reads the transactions in the tail of a keyed log, as JSON arrays, instead of its rows. */
  readonly tail?: true | undefined;
  /**
   * Names of rows of a keyed log. The page then consists of those that exist, in the order of the
   * names, whatever `after` and `maxRecords` are. It ends before a row that exceeds `maxBytes`, and
   * its `next` is the number of names that it covers. The cost MUST NOT depend on the number of
   * other rows, unless the broker has to read all of them for an append too.
   */
  readonly rows?: readonly string[] | undefined;
  /** Ends the wait for the broker. */
  readonly signal?: AbortSignal | undefined;
}

/** A part of a log. */
export interface LogPage {
  /** The state at the time of reading. */
  readonly info: LogInfo;
  /**
   * Records starting at `after`; the record with index `i` is at `after + i`. For a keyed log, the
   * changes of all rows that changed at `after` or later, in the order of their positions.
   */
  readonly records: readonly LogRecord[];
  /** Positions of these changes; absent for other logs. */
  readonly positions?: readonly number[] | undefined;
  /** Times at which the changed rows expire, 0 for none; absent for other logs. */
  readonly expiries?: readonly number[] | undefined;
  /** Position after the page of a keyed log; absent for other logs. */
  readonly next?: number | undefined;
}

/**
 * Keeps logs: records with positions, and a state. A log and its state change together.
 *
 * - `create`, `append` and `delete` MUST be atomic in the broker: concurrent calls of all nodes
 *   behave as if they were made one after another, and each takes effect completely or not at all.
 *   An append follows the rules of `decideAppend`.
 * - A confirmed change MUST survive everything that the broker's histories survive.
 * - A log that lost confirmed records, or its end, SHOULD get another identity, so that readers and
 *   writers detect the loss.
 * - Once a change is in force, it MUST be announced by a publication on `logTopic(id)`, which also
 *   reaches subscriptions on the same node. Announcements may get lost while the broker is
 *   unreachable; `onInterrupted` covers that.
 * - The payload of an announcement is empty. For an append that neither ended nor cancelled the log,
 *   it may instead carry all appended records, in the form that `readCarried` reads, if they take at
 *   most `MAX_CARRIED_BYTES`. If the log is keyed, the append MUST be a transaction that changes one
 *   row once. If any announcement carries records, the announcements of a log MUST keep the order of
 *   the changes.
 * - The records of an append MUST become readable together with the state that the append created:
 *   a reader that sees `tail` or `end` can read all records before it.
 * - Only `delete` and the retention of `append` remove records, and only `delete` removes a log: an
 *   expired log is reported as `expired` until it is deleted.
 * - `read` of a log that is `isDeleted` MUST still return the records. `read` MUST NOT create state.
 * - A record MUST be returned with its original type and content.
 * - Readers MUST NOT receive hidden rows, unless they name them; see {@linkcode LogRow.row}. An
 *   append that only deletes expired hidden rows MUST NOT be announced.
 * - The rows of a keyed log MUST change together with its records. A page of rows MUST contain
 *   whole transactions, as far as they fit: only the first one may be larger than the page.
 * - All calls MUST reject with a `BrokerError` while the broker is unreachable, and with a
 *   `RangeError` for an id that the broker does not support. Ids of 240 bytes of UTF-8 MUST be
 *   supported.
 */
export interface BrokerLogs {
  /** Maximum number of bytes of records in one append. */
  readonly maxAppendBytes: number;
  /** True if logs may be keyed. */
  readonly keepsRows?: boolean | undefined;
  /**
   * Creates a log, unless it exists.
   *
   * @param id A name that the caller chose.
   * @param options See {@linkcode CreateLogOptions}.
   * @returns The state of the new or existing log.
   * @throws {BrokerError} If the broker is unreachable.
   */
  create(id: string, options: CreateLogOptions): Promise<LogCreated>;
  /**
   * Appends records, ends the log, or records a cancellation.
   *
   * @param id The id, as passed to `create`.
   * @param options See {@linkcode AppendLogOptions}.
   * @returns The result.
   * @throws {BrokerError} If the broker is unreachable. The append may have taken effect.
   */
  append(id: string, options: AppendLogOptions): Promise<LogAppended>;
  /**
   * Reads records and the state.
   *
   * @param id The id, as passed to `create`.
   * @param options See {@linkcode ReadLogOptions}.
   * @returns The page; `undefined` if there is no log with this id, and `"expired"` if the log has
   * expired.
   * @throws {BrokerError} If the broker is unreachable.
   */
  read(id: string, options: ReadLogOptions): Promise<LogPage | "expired" | undefined>;
  /**
   * Deletes a log. If it has forks, it is kept for them as `isDeleted`.
   *
   * @param id The id, as passed to `create`.
   * @param options With `ifExpired`, deletes the log only if it has expired.
   * @returns The result. After `removed`, the caller has to `release` the origin. A log that was
   * deleted before is `deleted`.
   * @throws {BrokerError} If the broker is unreachable.
   */
  delete(
    id: string,
    options?: { readonly ifExpired?: boolean | undefined },
  ): Promise<
    | { readonly kind: "removed"; readonly origin?: LogOrigin | undefined }
    | { readonly kind: "kept" | "missing" | "deleted" | "alive" }
  >;
  /**
   * Records that a fork depends on the log. Idempotent: a fork that is already recorded uses no
   * second slot.
   *
   * @param id The id of the source.
   * @param fork The fork's unique name: its identity.
   * @param options See {@linkcode RetainLogOptions}.
   * @returns The result.
   * @throws {BrokerError} If the broker is unreachable.
   */
  retain(id: string, fork: string, options: RetainLogOptions): Promise<LogRetained>;
  /**
   * Records that a fork is gone. Removes the source if it is deleted and has no other forks.
   * Idempotent.
   *
   * @param id The id of the source.
   * @param fork The fork's name, as for `retain`.
   * @returns The origin of the source, to be released next, if the source was removed.
   * @throws {BrokerError} If the broker is unreachable.
   */
  release(id: string, fork: string): Promise<LogOrigin | undefined>;
  /**
   * Lists logs that need attention: expired logs that are not deleted yet, and open logs whose
   * writer's lease has lapsed.
   *
   * @param options Maximum number of ids to list.
   * @returns The ids, the longest overdue first.
   * @throws {BrokerError} If the broker is unreachable.
   */
  overdue(options: { readonly limit: number }): Promise<string[]>;
  /**
   * Lists the logs of a kind, one page at a time, except deleted logs. A log that exists from the
   * first page to the last is listed, possibly twice. Streams without an owner may be left out.
   *
   * @param kind `answer` for responses, whose ids start with `answer:`; `stream` for the logs of
   * clients and applications.
   * @param options The approximate number of logs to list, and `next` of the previous page.
   * @returns Ids and owners of some logs, and where the next page starts.
   * @throws {BrokerError} If the broker is unreachable, or no longer knows where the page starts.
   */
  list(
    kind: "answer" | "stream",
    options: { readonly limit: number; readonly after?: string | undefined },
  ): Promise<{
    /** The logs, in no order. */
    readonly logs: readonly {
      readonly id: string;
      /** {@linkcode LogConfig.owner}, if given. */
      readonly owner?: string | undefined;
      /** Time of the end, in milliseconds since the Unix epoch; absent while the log is open. */
      readonly endedAt?: number | undefined;
    }[];
    /** Where the next page starts, valid only for the same broker; absent on the last page. */
    readonly next?: string | undefined;
  }>;
}

/**
 * A broker that keeps logs. {@linkcode testBrokerLogs} is the test suite that every implementation
 * must pass, in addition to the suite of {@linkcode Broker}.
 */
export interface LogBroker extends Broker {
  /** Logs of durable streams. */
  readonly logs: BrokerLogs;
}
