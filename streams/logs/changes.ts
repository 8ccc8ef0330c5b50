/**
 * Decides the changes of logs, in one place for all brokers.
 *
 * A decision depends only on the log and the time. Its effect says what the broker has to write, in
 * the same atomic step in which the broker read the log. A broker that cannot lock the log checks,
 * when it writes, that the log is still as it was read, and decides again if another node has
 * changed it.
 */
import { withoutUndefined } from "../../base/options/options.ts";
import { countedBytes } from "../../pubsub/broker.ts";
import { CallerMarks, type MarkView, type MarkWrites, NO_CALLER } from "./callers.ts";
import type {
  AppendLogOptions,
  BrokerLogs,
  CreateLogOptions,
  LogAppended,
  LogCreated,
  LogOrigin,
  LogOverShare,
  LogProducer,
  LogRecord,
  LogRetained,
  RetainLogOptions,
} from "./log.ts";
import {
  decideRows,
  NO_ROWS,
  rowsStateOf,
  type RowView,
  type RowWrites,
  type StoredRows,
} from "./rows.ts";
import {
  expiryOf,
  infoOf,
  isExpired,
  isWriterLost,
  type LogDeleted,
  MAX_LOG_PRODUCERS,
  recordBytes,
  type StoredLog,
} from "./rules.ts";

/** The changes by name: the options and the result of each. */
export interface LogChanges {
  readonly create: readonly [options: CreateLogOptions, result: LogCreated];
  readonly append: readonly [options: AppendLogOptions, result: LogAppended];
  readonly delete: readonly [options: { readonly ifExpired: boolean }, result: LogDeleted];
  readonly retain: readonly [
    options: RetainLogOptions & { readonly fork: string },
    result: LogRetained,
  ];
  readonly release: readonly [
    options: { readonly fork: string },
    result: LogOrigin | undefined,
  ];
}

export type LogChangeName = keyof LogChanges;

export type LogChangeOptions<N extends LogChangeName> = LogChanges[N][0];

export type LogChangeResult<N extends LogChangeName> = LogChanges[N][1];

/** Descriptions of the changes, for errors. */
export const CHANGE_WORDS: Readonly<Record<LogChangeName, string>> = {
  create: "create a log",
  append: "append to a log",
  delete: "delete a log",
  retain: "fork a log",
  release: "release a log",
};

/** The store of a broker with logs. Each method follows the rules of {@linkcode BrokerLogs}. */
export interface LogStore extends Pick<BrokerLogs, "list" | "overdue" | "read"> {
  /**
   * Changes a log: reads it, calls `decide`, and applies the effect, all in one atomic step.
   * Announces each write that is not quiet, and each removal.
   *
   * @param id The id of the log.
   * @returns The result of the effect.
   * @throws {BrokerError} If the broker is unreachable.
   */
  change<N extends LogChangeName>(
    id: string,
    name: N,
    options: LogChangeOptions<N>,
  ): Promise<LogChangeResult<N>>;
}

/** A log as decisions see it. A broker may look up values only when they are needed. */
export interface LogView {
  readonly state: StoredLog;
  /** The numbers and sequences of callers; required for a keyed log. */
  readonly marks?: MarkView | undefined;
  /** Number of producers whose number is remembered. */
  readonly producerCount: number;
  /** Number of forks that depend on the log. */
  readonly forkCount: number;
  /** The rows; required for a keyed log. */
  readonly rows?: RowView | undefined;
  /** Newest epoch and number of a producer. */
  numbersOf(producer: string): readonly [epoch: number, seq: number] | undefined;
  /** True if a fork is registered. */
  hasFork(fork: string): boolean;
}

/** The circumstances of a decision. */
export interface LogMoment {
  /** Time of the broker, in milliseconds since the Unix epoch. */
  readonly now: number;
  /** Number of logs of the kind. */
  readonly count: number;
}

/** The rejection of a write for which a broker has no room. */
export type LogRejection = LogOverShare | { readonly kind: "no-space" };

/** A fork that starts or stops depending on its source. */
export interface ForkNote {
  readonly name: string;
  readonly isGone: boolean;
}

/** Bounds on the kept records. */
export interface Retention {
  readonly records: number;
  readonly bytes: number;
  /** Position from which on records are kept although there are more than `records`. */
  readonly recentFrom?: number | undefined;
}

/** A write to a log, or of a new log. */
export interface LogWrite<R> {
  readonly kind: "write";
  /** The next state, before the retention. */
  readonly next: StoredLog;
  readonly records: readonly LogRecord[];
  /** Retention to apply; see {@linkcode retained}. */
  readonly keep?: Retention | undefined;
  /** Changes of the rows of a keyed log. */
  readonly rows?: RowWrites | undefined;
  /** The changes that the record of a transaction consists of; absent for a new log. */
  readonly texts?: readonly string[] | undefined;
  /** True if some of the changes delete expired rows, in addition to what the caller requested. */
  readonly expires?: boolean | undefined;
  /** The new number of a producer. */
  readonly producer?: LogProducer | undefined;
  /** True if the producer, or a mark of a caller, is new. */
  readonly isNewProducer?: boolean | undefined;
  /** Changes of the marks of callers. */
  readonly marks?: MarkWrites | undefined;
  /** A fork to register or to remove. */
  readonly fork?: ForkNote | undefined;
  /** True if the change is not announced. */
  readonly isQuiet?: true | undefined;
  /** Creates the result from the state that was written. */
  readonly result: (written: StoredLog) => R;
  /** Creates the result if the broker has no room. Without it, the broker always writes. */
  readonly rejected?: ((rejection: LogRejection) => R) | undefined;
}

/**
 * Effect of a change on a log: no effect, a write, or the removal of the log with everything that
 * belongs to it.
 */
export type LogEffect<R> =
  | { readonly kind: "none"; readonly result: R }
  | { readonly kind: "remove"; readonly result: R }
  | LogWrite<R>;

type LogDecisions = {
  readonly [N in LogChangeName]: (
    log: LogView | undefined,
    options: LogChangeOptions<N>,
    moment: LogMoment,
  ) => LogEffect<LogChangeResult<N>>;
};

const DECISIONS: LogDecisions = {
  create: decideCreate,
  append: decideAppend,
  delete: decideDelete,
  retain: decideRetain,
  release: decideRelease,
};

/**
 * Decides on a change. Does not modify the log.
 *
 * @param log The log; `undefined` if there is none.
 * @param moment The circumstances.
 * @returns The effect, which the broker applies.
 */
export function decide<N extends LogChangeName>(
  log: LogView | undefined,
  [name, options]: readonly [name: N, options: LogChangeOptions<N>],
  moment: LogMoment,
): LogEffect<LogChangeResult<N>> {
  return DECISIONS[name](log, options, moment);
}

/**
 * Applies a retention to a write.
 *
 * @param sizeOf Returns the size of a record in bytes. It is called for the kept records and then
 * for the added records, starting with the oldest. `undefined` means that the broker has lost the
 * record, which stops the retention.
 * @returns The state without the oldest records beyond the retention. The newest record is always
 * kept.
 */
export function retained<R>(
  { next, keep }: LogWrite<R>,
  sizeOf: (index: number) => number | undefined,
): StoredLog {
  if (keep === undefined) return next;
  let { start, bytes } = next;
  while (isBeyondRetention({ start, tail: next.tail, bytes }, keep)) {
    const size = sizeOf(start - next.start);
    if (size === undefined) break;
    bytes -= size;
    start++;
  }
  return start === next.start ? next : { ...next, start, bytes };
}

/** True if the oldest record of a log is beyond a retention; the newest record always stays. */
export function isBeyondRetention(
  { start, tail, bytes }: Pick<StoredLog, "start" | "tail" | "bytes">,
  { records, bytes: most, recentFrom = tail }: Retention,
): boolean {
  const count = tail - start;
  const isBeyondCount = count > records && start < recentFrom;
  return count > 1 && (isBeyondCount || countedBytes(bytes, count) > most);
}

function none<R>(result: R): LogEffect<R> {
  return { kind: "none", result };
}

function decideCreate(
  log: LogView | undefined,
  options: CreateLogOptions,
  { now, count }: LogMoment,
): LogEffect<LogCreated> {
  if (log !== undefined) {
    const { state } = log;
    const isGone = isExpired(state, now) && !state.isDeleted;
    return none(isGone ? { kind: "expired" } : { kind: "exists", info: infoOf(state) });
  }
  if (count >= options.maxLogs) return none({ kind: "too-many" });
  const { config, identity, records, rows, end, writer } = options;
  const first = config.origin?.position ?? 0;
  return {
    kind: "write",
    next: {
      ...config,
      identity,
      first,
      start: first,
      tail: first + records.length,
      bytes: recordBytes(records),
      until: expiryOf(config, now),
      end,
      endedAt: end && now,
      writer: writer && { holder: writer.holder, until: now + writer.ttlMs },
      rows: config.keyed && (rows === undefined ? NO_ROWS : rowsStateOf(rows)),
      ...(rows?.form && { form: rows.form }),
    },
    records,
    rows: rows && { set: rows.set, forget: [] },
    result: (written) => ({ kind: "created", info: infoOf(written), count: count + 1 }),
    rejected: itself,
  };
}

function decideRetain(
  log: LogView | undefined,
  { fork, identity, maxForks }: LogChangeOptions<"retain">,
  { now }: LogMoment,
): LogEffect<LogRetained> {
  const isThere = log?.state.identity === identity && !log.state.isDeleted &&
    !isExpired(log.state, now);
  if (!isThere) return none("missing");
  if (log.hasFork(fork)) return none("retained");
  if (log.forkCount >= maxForks) return none("too-many");
  return noted(log.state, { name: fork, isGone: false }, "retained");
}

function decideRelease(
  log: LogView | undefined,
  { fork }: LogChangeOptions<"release">,
): LogEffect<LogOrigin | undefined> {
  if (!log?.hasFork(fork)) return none(undefined);
  const { state } = log;
  const isLast = state.isDeleted && log.forkCount === 1;
  if (isLast) return { kind: "remove", result: state.origin };
  return noted(state, { name: fork, isGone: true }, undefined);
}

/**
 * A write that concerns only a fork, about which readers and writers of the log need not be
 * notified.
 */
function noted<R>(state: StoredLog, fork: ForkNote, result: R): LogEffect<R> {
  return { kind: "write", next: state, records: [], fork, isQuiet: true, result: () => result };
}

function decideDelete(
  log: LogView | undefined,
  { ifExpired }: LogChangeOptions<"delete">,
  { now }: LogMoment,
): LogEffect<LogDeleted> {
  if (log === undefined) return none({ kind: "missing" });
  const { state } = log;
  if (state.isDeleted) return none({ kind: "deleted" });
  if (ifExpired && !isExpired(state, now)) return none({ kind: "alive" });
  if (log.forkCount === 0) {
    const { origin } = state;
    return { kind: "remove", result: withoutUndefined({ kind: "removed", origin }) };
  }
  const next: StoredLog = { ...state, isDeleted: true };
  return { kind: "write", next, records: [], result: () => ({ kind: "kept" }) };
}

/**
 * Decides on an append. The rules apply in the order of the Durable Streams protocol (section 5.2):
 * first the end of the log, then producers, whose repetitions succeed, then the sequence, then the
 * size.
 */
function decideAppend(
  log: LogView | undefined,
  options: AppendLogOptions,
  { now }: LogMoment,
): LogEffect<LogAppended> {
  const { identity, producer } = options;
  if (log === undefined || identity !== undefined && identity !== log.state.identity) {
    return none({ kind: "missing" });
  }
  const { state } = log;
  if (isExpired(state, now)) return none({ kind: "expired" });
  if (state.isDeleted) return none({ kind: "deleted" });
  const caller = state.keyed && log.marks && (options.caller ?? NO_CALLER);
  const marked = caller && new CallerMarks(log.marks!, { ...options, caller }, now);
  const known = marked ? marked.numbers : producer && log.numbersOf(producer.id);
  const sequence = marked ? marked.sequence : state.sequence;
  const bytes = recordBytes(options.records);
  const rejection = rejectionOfEnd(state, options) ?? rejectionOfLease(state, options, now) ??
    (producer && rejectionOfProducer(log, producer, { known, isShared: marked === undefined })) ??
    rejectionOfContent({ ...state, sequence }, options, bytes);
  if (rejection !== undefined) return none(rejection);
  const marks = marked?.after(options);
  if (marked !== undefined && marks === undefined) return none({ kind: "too-many-producers" });
  const isTransaction = options.changes !== undefined || options.expiresRows === true;
  const content = isTransaction ? transactionOf(log, options, now) : recordsOf(state, options);
  if ("kind" in content) return none(content);
  const { stats, bytes: size = bytes, ...written } = content;
  const { records } = written;
  const own = marked && { producer: options.producer, sequence: undefined };
  const next = appended(state, { ...options, ...own, records }, { now, bytes: size });
  return {
    kind: "write",
    next: stats === undefined ? next : { ...next, rows: stats },
    ...written,
    producer: marked === undefined ? producer : undefined,
    isNewProducer: marks?.isLarger ?? (producer && known === undefined),
    marks,
    result: appendedTo,
    rejected: itself,
  };
}

/** Records and changes of rows to write, with the state of the rows after them. */
type Content =
  & Pick<LogWrite<LogAppended>, "expires" | "isQuiet" | "keep" | "records" | "rows" | "texts">
  & {
    readonly stats?: StoredRows;
    /** Bytes of the record of a transaction. */
    readonly bytes?: number;
  };

function recordsOf({ keyed }: StoredLog, { records, keep }: AppendLogOptions): Content {
  return { records, keep: keyed === undefined ? keep : undefined };
}

/**
 * Decides on the changes of rows in an append whose other options are accepted. It is quiet if it
 * only deletes hidden rows, or none at all, because they have expired.
 */
function transactionOf(
  { state, rows: view }: LogView,
  options: AppendLogOptions,
  now: number,
): Content | LogAppended {
  const { keyed: tail, rows: before } = state;
  if (tail === undefined || before === undefined || view === undefined) {
    return { kind: "other-kind" };
  }
  const { ifTail = state.tail } = options;
  if (ifTail !== state.tail) return { kind: "moved", info: infoOf(state) };
  const at = { position: state.tail, stats: before, tail, now };
  const decided = decideRows(view, options, at);
  if ("kind" in decided) return decided;
  const { record, recordBytes: bytes, writes: rows, ...rest } = decided;
  const records = record === undefined ? [] : [record];
  const { changes, end, cancel, form } = options;
  const isUnseen = (changes ?? end ?? cancel ?? form ?? record) === undefined;
  return { records, bytes, rows, isQuiet: isUnseen || undefined, ...rest };
}

function appendedTo(written: StoredLog): LogAppended {
  return { kind: "appended", info: infoOf(written) };
}

function itself(rejection: LogRejection): LogRejection {
  return rejection;
}

/** The state after an append, without the retention. */
function appended(
  state: StoredLog,
  { records, end, producer, sequence, writer, cancel, form }: AppendLogOptions,
  { now, bytes }: { readonly now: number; readonly bytes: number },
): StoredLog {
  return {
    ...state,
    tail: state.tail + records.length,
    bytes: state.bytes + bytes,
    until: expiryOf(state, now),
    sequence: sequence ?? state.sequence,
    ...(writer && {
      writer: {
        holder: writer.releases ? undefined : writer.holder,
        until: now + writer.ttlMs,
      },
    }),
    ...(end && { end: producer === undefined ? end : { ...end, by: producer }, endedAt: now }),
    ...(cancel !== undefined && { cancelled: state.cancelled ?? cancel }),
    ...((form?.next ?? form?.is) && { form: form!.next ?? form!.is }),
  };
}

function rejectionOfEnd(
  state: StoredLog,
  { records, end, producer, ifWriterLost }: AppendLogOptions,
): LogAppended | undefined {
  if (state.end === undefined) return undefined;
  if (ifWriterLost) return { kind: "held" };
  const info = infoOf(state);
  if (producer !== undefined && isSame(producer, state.end.by)) {
    return { kind: "repeated", info, seq: producer.seq };
  }
  const isEndOnly = end !== undefined && records.length === 0 && producer === undefined;
  return isEndOnly ? { kind: "repeated", info } : { kind: "ended", info };
}

function rejectionOfLease(
  state: StoredLog,
  { writer, ifWriterLost }: AppendLogOptions,
  now: number,
): LogAppended | undefined {
  if (ifWriterLost && !isWriterLost(state, now)) return { kind: "held" };
  const lease = state.writer;
  if (writer === undefined || lease === undefined) return undefined;
  const isFree = lease.until <= now || lease.holder === undefined;
  const isOwn = lease.holder === writer.holder;
  const isFenced = writer.takes ? !isFree && !isOwn : isFree || !isOwn;
  return isFenced ? { kind: "fenced" } : undefined;
}

function rejectionOfProducer(
  log: LogView,
  { epoch, seq }: LogProducer,
  { known, isShared }: {
    readonly known: readonly [epoch: number, seq: number] | undefined;
    /** True if the producers of all callers share one bound. */
    readonly isShared: boolean;
  },
): LogAppended | undefined {
  if (known === undefined) {
    if (seq > 0) return { kind: "skipped", expected: 0 };
    const isFull = isShared && log.producerCount >= MAX_LOG_PRODUCERS;
    return isFull ? { kind: "too-many-producers" } : undefined;
  }
  const [lastEpoch, lastSeq] = known;
  if (epoch < lastEpoch) return { kind: "stale", epoch: lastEpoch };
  if (epoch > lastEpoch) return seq === 0 ? undefined : { kind: "unstarted" };
  if (seq <= lastSeq) return { kind: "repeated", info: infoOf(log.state), seq: lastSeq };
  return seq === lastSeq + 1 ? undefined : { kind: "skipped", expected: lastSeq + 1 };
}

/** Rejects by the sequence, then by the size. */
function rejectionOfContent(
  state: StoredLog,
  { records, sequence, keep, maxBytes, writer, form }: AppendLogOptions,
  bytes: number,
): LogAppended | undefined {
  const hasLogWriter = records.length > 0 || writer !== undefined;
  if (state.keyed !== undefined && hasLogWriter) return { kind: "other-kind" };
  if (form !== undefined) {
    const { form: present = "" } = state;
    if (state.keyed === undefined) return { kind: "other-kind" };
    const isUnused = state.tail === 0 && present === "";
    if (form.is !== present && !isUnused) return { kind: "other-form", form: present };
  }
  if (sequence !== undefined && state.sequence !== undefined && sequence <= state.sequence) {
    return { kind: "out-of-sequence", sequence: state.sequence };
  }
  const kept = keep === undefined ? countedBytes(state.bytes, state.tail - state.start) : 0;
  const needed = kept + countedBytes(bytes, records.length);
  return records.length > 0 && needed > maxBytes ? { kind: "full" } : undefined;
}

function isSame(one: LogProducer, other: LogProducer | undefined): boolean {
  return one.id === other?.id && one.epoch === other.epoch && one.seq === other.seq;
}
