/** The contract between durable streams and the engine that keeps their logs. */

/** One record of a log: JSON or other text as a string, anything else as bytes. */
export type LogRecord = string | Uint8Array;

/** The end of a log: no more records follow. */
export interface LogEnd {
  /** Reason, for people and programs, if the writer gave up; absent for a complete log. */
  readonly error?: string | undefined;
  /** Code of the error, for programs, if the writer gave one. */
  readonly code?: string | undefined;
}

/** Number of a producer's append, by which a repetition is recognized. */
export interface LogProducer {
  /** Name of the producer. */
  readonly id: string;
  /** Number of the producer's start; a higher one fences all lower ones. */
  readonly epoch: number;
  /** Number of the append within the epoch, from 0 without gaps. */
  readonly seq: number;
}

/** The log that a fork was made of. Records before `position` are those of this log. */
export interface LogOrigin {
  /** Id of the source. */
  readonly id: string;
  /** Identity of the source, so that another log with the same id is never taken for the source. */
  readonly identity: string;
  /** Position in the source at which the fork begins. */
  readonly position: number;
  /** Name under which the source knows the fork: the identity of the fork. */
  readonly fork: string;
  /** Bytes of the record at `position` that are the fork's first own record; absent for none. */
  readonly subOffset?: number | undefined;
  /** Identities for the positions up to `position`, oldest first: those of the source's own origins. */
  readonly lineage: readonly { readonly identity: string; readonly until: number }[];
}

/** Facts of a log that its creation sets once and for all. */
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
   * Keys of the parties that a log is kept for, separated by spaces; the engine gives them back as
   * they are. One with a bound of all bytes gives each party a share of it.
   */
  readonly owner?: string | undefined;
}

/** The state of a log. */
export interface LogInfo extends LogConfig {
  /** Eight characters `[0-9a-z]` that no other log has, also not a later one with the same id. */
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
  /** Reason for which a reader asked the writer to stop. */
  readonly cancelled?: string | undefined;
  /** Present while the log was deleted, and is kept for its forks only. */
  readonly isDeleted?: true | undefined;
}

/**
 * A refusal of bytes while more than half of the engine is used: the streams of a party that created
 * the stream would have more than its share. Answers, and logs without an owner, count for no party.
 */
export interface LogOverShare {
  /** Tells this outcome from others. */
  readonly kind: "over-share";
  /** The level of the party. */
  readonly level: "address" | "user";
  /** Most bytes of its streams. */
  readonly most: number;
}

/** Options for {@linkcode BrokerLogs.create}. */
export interface CreateLogOptions {
  /** Facts of the new log. */
  readonly config: LogConfig;
  /** Identity of the new log. */
  readonly identity: string;
  /** First records. */
  readonly records: readonly LogRecord[];
  /** Ends the log at once. */
  readonly end?: LogEnd | undefined;
  /** The lease of a writer; see {@linkcode AppendLogOptions.writer}. */
  readonly writer?: { readonly holder: string; readonly ttlMs: number } | undefined;
  /**
   * Most logs of the engine that have the {@linkcode logKind} of this one, those that are deleted and
   * kept for forks included.
   */
  readonly maxLogs: number;
}

/**
 * Result of {@linkcode BrokerLogs.create}:
 *
 * - `created`: the log is new. `count` is the number of logs of its kind, this one included; an engine
 *   that counts now and then returns a number that may be too high.
 * - `exists`: there is a log with this id already, possibly a deleted one that is kept for forks.
 * - `expired`: there is an expired log with this id, which has to be deleted first.
 * - `too-many`: the engine keeps the greatest number of logs of this kind.
 * - `no-space`: the engine keeps the most bytes of all logs.
 * - `over-share`: see {@linkcode LogOverShare}.
 */
export type LogCreated =
  | { readonly kind: "created"; readonly info: LogInfo; readonly count: number }
  | { readonly kind: "exists"; readonly info: LogInfo }
  | LogOverShare
  | { readonly kind: "expired" | "too-many" | "no-space" };

/** Options for {@linkcode BrokerLogs.append}. */
export interface AppendLogOptions {
  /** Identity that the log must have; another log with the id counts as `missing`. */
  readonly identity?: string | undefined;
  /** The records, all or none of which are kept; empty to end the log or to renew a lease only. */
  readonly records: readonly LogRecord[];
  /** Ends the log after the records. */
  readonly end?: LogEnd | undefined;
  /** Number of the append, so that a repetition counts once. */
  readonly producer?: LogProducer | undefined;
  /** A text that must be greater, by UTF-16 code units, than that of every earlier append. */
  readonly sequence?: string | undefined;
  /**
   * The lease of a writer, renewed for `ttlMs` by this append. While a lease is held, or has lapsed
   * without a successor, appends with another `holder` are `fenced`, unless `takes` is set and the
   * lease has lapsed. Appends without `writer` ignore leases.
   *
   * With `releases`, the lease has no holder for `ttlMs`: an append that `takes` gets the lease at
   * once, and appends of all other writers are `fenced`, those of the former holder included.
   */
  readonly writer?: {
    readonly holder: string;
    readonly ttlMs: number;
    readonly takes?: true | undefined;
    readonly releases?: true | undefined;
  } | undefined;
  /** Does nothing unless the lease of a writer has lapsed; then the result is `held`. */
  readonly ifWriterLost?: true | undefined;
  /** Reason for which a reader asks the writer to stop; the first reason stays. */
  readonly cancel?: string | undefined;
  /** Most bytes of all kept records, counted by `countedBytes`; an append beyond is `full`. */
  readonly maxBytes: number;
  /**
   * Retention: the oldest records beyond these bounds are dropped, with bytes counted by
   * `countedBytes`. Left out, all records stay.
   */
  readonly keep?: { readonly records: number; readonly bytes: number } | undefined;
}

/**
 * Result of {@linkcode BrokerLogs.append}:
 *
 * - `appended`: all of the options took effect.
 * - `repeated`: the producer made this append before; `seq` is the producer's newest number. Also for
 *   an end without records of a log that has ended.
 * - `missing`: no log with this id, or another identity. `deleted`: kept for forks only. `expired`:
 *   has to be deleted.
 * - `ended`: the log has ended before.
 * - `stale`: the producer's epoch is `epoch`, above the given one.
 * - `unstarted`: a new epoch of a producer has to begin with 0.
 * - `skipped`: the producer's next number is `expected`.
 * - `out-of-sequence`: `sequence` is not above the newest, `sequence` of the result.
 * - `fenced`: another writer holds the log, or the caller's lease was taken. `held`: see
 *   `ifWriterLost`.
 * - `full`: the log would exceed `maxBytes`. `no-space`: the engine keeps the most bytes of all logs.
 *   `over-share`: see {@linkcode LogOverShare}.
 * - `too-many-producers`: the log knows the greatest number of producers.
 */
export type LogAppended =
  | { readonly kind: "appended"; readonly info: LogInfo }
  | { readonly kind: "repeated"; readonly info: LogInfo; readonly seq?: number | undefined }
  | { readonly kind: "missing" | "deleted" | "expired" }
  | { readonly kind: "ended"; readonly info: LogInfo }
  | { readonly kind: "stale"; readonly epoch: number }
  | { readonly kind: "skipped"; readonly expected: number }
  | { readonly kind: "out-of-sequence"; readonly sequence: string }
  | LogOverShare
  | {
    readonly kind: "unstarted" | "fenced" | "held" | "full" | "no-space" | "too-many-producers";
  };

/** Options for {@linkcode BrokerLogs.retain}. */
export interface RetainLogOptions {
  /** Identity that the source must have. */
  readonly identity: string;
  /** Most forks of the source. */
  readonly maxForks: number;
}

/**
 * Result of {@linkcode BrokerLogs.retain}: `missing` if the source is missing, expired, deleted, or has
 * another identity; `too-many` if the source has the greatest number of forks.
 */
export type LogRetained = "retained" | "missing" | "too-many";

/** Options for {@linkcode BrokerLogs.read}. */
export interface ReadLogOptions {
  /** Position of the first record to read; below `start`, the page is empty. */
  readonly after: number;
  /** Most records of the page; 0 to read the state only. */
  readonly maxRecords: number;
  /** Most bytes of the page; a single record may be larger. */
  readonly maxBytes: number;
  /** Renews the time to live. */
  readonly renews: boolean;
  /** Ends the wait for the engine. */
  readonly signal?: AbortSignal | undefined;
}

/** A part of a log. */
export interface LogPage {
  /** The state at the time of reading. */
  readonly info: LogInfo;
  /** Records from `after` on; the record with index `i` stands at `after + i`. */
  readonly records: readonly LogRecord[];
}

/**
 * Keeps logs: records with positions, and a state. A log and its state change together.
 *
 * - `create`, `append` and `delete` MUST be atomic in the engine: concurrent calls of all nodes act
 *   as if one came after the other, and each takes effect wholly or not at all. The rules of an append
 *   are those of `decideAppend`.
 * - A change that a result confirms MUST outlast everything that histories of the engine outlast.
 * - A log that lost confirmed records, or its end, SHOULD get another identity, so that readers and
 *   writers learn of the loss.
 * - Each change MUST be announced, once in force, by a publication with an empty payload on
 *   `logTopic(id)`, also to subscriptions of the same node. Announcements may get lost while the
 *   engine is away, and are then covered by `onInterrupted`.
 * - Records of an append MUST be read together with the state that the append made: a reader that
 *   sees `tail` or `end` can read all records before.
 * - Nothing but `delete` and the retention of `append` removes records, and nothing but `delete`
 *   removes a log: an expired log is reported as `expired` until deleted.
 * - `read` of a log that is `isDeleted` MUST still return the records. `read` MUST NOT create state.
 * - A record is returned with the type and the content that were given.
 * - All calls MUST reject with a `BrokerError` while the engine is away, and with a `RangeError` for
 *   an id that the engine cannot take. Ids of 240 bytes of UTF-8 MUST be taken.
 */
export interface BrokerLogs {
  /** Most bytes of the records of one append. */
  readonly maxAppendBytes: number;
  /**
   * Creates a log, unless there is one.
   *
   * @param id The id.
   * @param options See {@linkcode CreateLogOptions}.
   * @returns The state of the log, new or not.
   * @throws {BrokerError} If the engine is away.
   */
  create(id: string, options: CreateLogOptions): Promise<LogCreated>;
  /**
   * Appends records, ends the log, or notes a cancellation.
   *
   * @param id The id.
   * @param options See {@linkcode AppendLogOptions}.
   * @returns The result.
   * @throws {BrokerError} If the engine is away. The append may have taken effect.
   */
  append(id: string, options: AppendLogOptions): Promise<LogAppended>;
  /**
   * Reads records and the state.
   *
   * @param id The id.
   * @param options See {@linkcode ReadLogOptions}.
   * @returns The page; `undefined` without a log of this id, `"expired"` for an expired one.
   * @throws {BrokerError} If the engine is away.
   */
  read(id: string, options: ReadLogOptions): Promise<LogPage | "expired" | undefined>;
  /**
   * Deletes a log; if the log has forks, the log is kept for these, as `isDeleted`.
   *
   * @param id The id.
   * @param options With `ifExpired`, deletes the log only if expired.
   * @returns The result. After `removed`, the caller has to `release` the origin. An expired log with
   * forks that is deleted already stays `kept`.
   * @throws {BrokerError} If the engine is away.
   */
  delete(
    id: string,
    options?: { readonly ifExpired?: boolean | undefined },
  ): Promise<
    | { readonly kind: "removed"; readonly origin?: LogOrigin | undefined }
    | { readonly kind: "kept" | "missing" | "deleted" | "alive" }
  >;
  /**
   * Notes that a fork needs the log. Idempotent: a fork that is noted takes no second place.
   *
   * @param id The id of the source.
   * @param fork Name of the fork, which no other fork has: the identity of the fork.
   * @param options See {@linkcode RetainLogOptions}.
   * @returns The result.
   * @throws {BrokerError} If the engine is away.
   */
  retain(id: string, fork: string, options: RetainLogOptions): Promise<LogRetained>;
  /**
   * Notes that a fork is gone. Removes the source if deleted and without other forks. Idempotent.
   *
   * @param id The id of the source.
   * @param fork Name of the fork, as for `retain`.
   * @returns The origin of the source, to be released next, if the source was removed.
   * @throws {BrokerError} If the engine is away.
   */
  release(id: string, fork: string): Promise<LogOrigin | undefined>;
  /**
   * Lists logs that need attention: expired ones that are not deleted yet, and open ones whose writer's
   * lease has lapsed.
   *
   * @param options Most ids to list.
   * @returns The ids, those longest overdue first.
   * @throws {BrokerError} If the engine is away.
   */
  overdue(options: { readonly limit: number }): Promise<string[]>;
  /**
   * Lists the logs of a kind, a page at a time, without those that are deleted. A log that is there
   * from the first page to the last one is listed; it may be listed twice. Streams without an owner
   * may be left out.
   *
   * @param kind `answer` for the logs whose ids begin with `answer:`, `stream` for those of clients
   * and applications.
   * @param options About how many logs to list, and `next` of the page before.
   * @returns The page.
   * @throws {BrokerError} If the engine is away, or no longer knows the place of the page.
   */
  list(
    kind: "answer" | "stream",
    options: { readonly limit: number; readonly after?: string | undefined },
  ): Promise<{
    /** The logs, in no order. */
    readonly logs: readonly {
      /** The id. */
      readonly id: string;
      /** {@linkcode LogConfig.owner}, if given. */
      readonly owner?: string | undefined;
      /** Time of the end, in milliseconds since the Unix epoch; absent while the log is open. */
      readonly endedAt?: number | undefined;
    }[];
    /** Where the next page begins, for the same engine alone; absent on the last page. */
    readonly next?: string | undefined;
  }>;
}
