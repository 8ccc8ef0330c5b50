/** Rules of logs that all engines share: names, sizes, and the decision about an append. */
import { utf8Length } from "../../session/wire/utf8.ts";
import { countedBytes, INTERNAL_PREFIX } from "../broker.ts";
import type {
  AppendLogOptions,
  BrokerLogs,
  CreateLogOptions,
  LogAppended,
  LogConfig,
  LogCreated,
  LogEnd,
  LogInfo,
  LogProducer,
  LogRecord,
  LogRetained,
  RetainLogOptions,
} from "./log.ts";

/** Most producers of one log with a remembered number. */
export const MAX_LOG_PRODUCERS = 1_000;

/** Most bytes of the id of a log, in UTF-8. */
export const MAX_LOG_ID_BYTES = 240;

/** Most characters of the reason of a cancellation, or of an end. */
export const MAX_REASON_LENGTH = 1_024;

/**
 * Makes the topic on which the engine announces changes of a log.
 *
 * @param id The id of the log.
 * @returns The topic, closed to sessions and applications.
 */
export function logTopic(id: string): string {
  return `${INTERNAL_PREFIX}log:${id}`;
}

/** Begins the ids of the logs that keep answers, by names that clients gave. */
export const ANSWER_PREFIX = "answer:";

/** Begins the ids of the logs that keep requests. */
export const REQUEST_PREFIX = `${INTERNAL_PREFIX}request:`;

/**
 * The kinds of logs. Each kind has a bound of its own, so that no kind can take the place of another:
 * answers, the requests of answers that another node may resume, and all other durable streams.
 */
export type LogKind = "answer" | "request" | "stream";

/** The kinds of logs that engines list: those that callers own. */
export type OwnedKind = Exclude<LogKind, "request">;

/**
 * Finds the kind of a log.
 *
 * @param id The id of the log.
 * @returns The kind.
 */
export function logKind(id: string): LogKind {
  if (id.startsWith(ANSWER_PREFIX)) return "answer";
  return id.startsWith(REQUEST_PREFIX) ? "request" : "stream";
}

/**
 * Makes the id of the log that keeps the request for which a log is written. A writer that takes the
 * log over reads the request; a log whose writer is lost waits for such a writer.
 *
 * @param id The id of the log.
 * @returns The id of the request's log.
 */
export function requestLog(id: string): string {
  return REQUEST_PREFIX + id;
}

/**
 * Counts the bytes of records, in UTF-8 for texts.
 *
 * @param records The records.
 * @returns The bytes.
 */
export function recordBytes(records: readonly LogRecord[]): number {
  return records.reduce(
    (sum, record) => sum + (typeof record === "string" ? utf8Length(record) : record.length),
    0,
  );
}

/** The state of a log as an engine keeps it beside the records and the producers. */
export interface StoredLog extends Omit<LogInfo, "end"> {
  /** Time at which the log expires, in milliseconds since the Unix epoch; moved by each use. */
  readonly until?: number | undefined;
  /** Present once the log has ended; `by` is the append that ended the log. */
  readonly end?: LogEnd & { readonly by?: LogProducer };
  /** Time of the end, in milliseconds since the Unix epoch. */
  readonly endedAt?: number;
  /** Newest {@linkcode AppendLogOptions.sequence}. */
  readonly sequence?: string;
  /** Newest lease of a writer; without a holder once released. */
  readonly writer?: { readonly holder?: string; readonly until: number };
}

/** The state by which an append is decided. */
export interface LogState extends StoredLog {
  /** Newest epoch and number of each producer. */
  readonly producers: Readonly<Record<string, readonly [epoch: number, seq: number]>>;
}

/** The whole state of a log, for an engine that keeps all of it in one value. */
export interface WholeLog extends LogState {
  /** Forks that need the log, as given to `retain`. */
  readonly forks: readonly string[];
}

/** A page of the list of answers. */
export type KeptLogs = Awaited<ReturnType<BrokerLogs["list"]>>;

/** A log that keeps an answer, in the list of all of them. */
export type KeptLog = KeptLogs["logs"][number];

/** Result of the deletion of a log. */
export type LogDeleted = Awaited<ReturnType<BrokerLogs["delete"]>>;

/** Makes the state of a new log. */
export function newLog(
  { config, identity, records, end, writer }: CreateLogOptions,
  now: number,
): StoredLog {
  const first = config.origin?.position ?? 0;
  return {
    ...config,
    identity,
    first,
    start: first,
    tail: first + records.length,
    bytes: recordBytes(records),
    until: expiryOf(config, now),
    ...(end && { end, endedAt: now }),
    ...(writer && { writer: { holder: writer.holder, until: now + writer.ttlMs } }),
  };
}

/** The public part of a state. */
export function infoOf(state: StoredLog & Partial<WholeLog>): LogInfo {
  const { until: _until, sequence: _sequence, writer: _writer, endedAt: _endedAt, ...rest } = state;
  const { producers: _producers, forks: _forks, end, ...info } = rest;
  if (end === undefined) return info;
  const { by: _by, ...shown } = end;
  return { ...info, end: shown };
}

/** A log as the lists of logs have it. */
export function keptOf(
  id: string,
  { owner, endedAt }: {
    readonly owner?: string | undefined;
    readonly endedAt?: number | undefined;
  },
): KeptLog {
  return {
    id,
    ...(owner !== undefined && { owner }),
    ...(endedAt !== undefined && { endedAt }),
  };
}

/** The time at which a log expires after a use at `now`; `undefined` for never. */
export function expiryOf({ ttlMs, expiresAt }: LogConfig, now: number): number | undefined {
  if (ttlMs === undefined) return expiresAt;
  return Math.min(now + ttlMs, expiresAt ?? Infinity);
}

/** Tells whether the writer of an open log has stopped renewing the lease. */
export function isWriterLost({ end, writer }: StoredLog, now: number): boolean {
  return end === undefined && writer !== undefined && writer.until <= now;
}

/** Tells whether a log has expired. */
export function isExpired({ until }: Pick<StoredLog, "until">, now: number): boolean {
  return until !== undefined && until <= now;
}

/** Result of the creation of a log where there is one already. */
export function presentLog(state: StoredLog, now: number): LogCreated {
  if (isExpired(state, now) && !state.isDeleted) return { kind: "expired" };
  return { kind: "exists", info: infoOf(state) };
}

/** Tells whether the oldest record of a log is beyond a retention; the newest record always stays. */
export function isBeyond(
  { start, tail, bytes }: Pick<StoredLog, "start" | "tail" | "bytes">,
  keep: NonNullable<AppendLogOptions["keep"]>,
): boolean {
  const count = tail - start;
  return count > 1 && (count > keep.records || countedBytes(bytes, count) > keep.bytes);
}

/**
 * Decides about a fork. Does not change the state.
 *
 * @param state The state of the source; `undefined` without a log.
 * @param options The call, the number of forks, and whether this one is among them.
 * @param now Time of the call, in milliseconds since the Unix epoch.
 * @returns The result.
 */
export function decideFork(
  state: StoredLog | undefined,
  { identity, maxForks, forks, isKnown }: RetainLogOptions & {
    readonly forks: number;
    readonly isKnown: boolean;
  },
  now: number,
): LogRetained {
  const isThere = state?.identity === identity && !state.isDeleted && !isExpired(state, now);
  if (!isThere) return "missing";
  return isKnown || forks < maxForks ? "retained" : "too-many";
}

/**
 * Decides about a deletion. Does not change the state.
 *
 * @param state The state; `undefined` without a log.
 * @param options Number of forks that need the log; with `ifExpired`, the log goes only if expired.
 * @param now Time of the deletion, in milliseconds since the Unix epoch.
 * @returns The result: a `removed` log has to go, and a `kept` one becomes `isDeleted`.
 */
export function decideDelete(
  state: StoredLog | undefined,
  { ifExpired, forks }: { readonly ifExpired: boolean; readonly forks: number },
  now: number,
): LogDeleted {
  if (state === undefined) return { kind: "missing" };
  if (state.isDeleted) return { kind: "deleted" };
  if (ifExpired && !isExpired(state, now)) return { kind: "alive" };
  if (forks > 0) return { kind: "kept" };
  return { kind: "removed", ...(state.origin && { origin: state.origin }) };
}

/** A decision about an append: a refusal, or the next state without the retention. */
export type LogDecision<State extends LogState> =
  | { readonly kind: "append"; readonly next: State }
  | Exclude<LogAppended, { readonly kind: "appended" }>;

/**
 * Decides about an append. Does not change the state.
 *
 * The order of the rules is that of the Durable Streams protocol (section 5.2): the end of the log
 * first, then producers, whose repetitions succeed, then the sequence, then the size.
 *
 * @param state The state; `undefined` without a log.
 * @param options The append.
 * @param now Time of the append, in milliseconds since the Unix epoch.
 * @returns The decision.
 */
export function decideAppend<State extends LogState>(
  state: State | undefined,
  options: AppendLogOptions,
  now: number,
): LogDecision<State> {
  const { identity, records, end, producer, sequence, writer, ifWriterLost, cancel } = options;
  if (state === undefined || identity !== undefined && identity !== state.identity) {
    return { kind: "missing" };
  }
  if (isExpired(state, now)) return { kind: "expired" };
  if (state.isDeleted) return { kind: "deleted" };
  const lease = state.writer;
  if (state.end !== undefined) {
    const info = infoOf(state);
    if (ifWriterLost) return { kind: "held" };
    if (producer !== undefined && isSame(producer, state.end.by)) {
      return { kind: "repeated", info, seq: producer.seq };
    }
    const isEndOnly = end !== undefined && records.length === 0 && producer === undefined;
    return isEndOnly ? { kind: "repeated", info } : { kind: "ended", info };
  }
  if (ifWriterLost && !isWriterLost(state, now)) return { kind: "held" };
  if (writer !== undefined && lease !== undefined) {
    const isFree = lease.until <= now || lease.holder === undefined;
    const isOwn = lease.holder === writer.holder;
    if (writer.takes ? !isFree && !isOwn : isFree || !isOwn) return { kind: "fenced" };
  }
  const known = producer && Object.hasOwn(state.producers, producer.id)
    ? state.producers[producer.id]
    : undefined;
  if (producer !== undefined) {
    const refusal = checkProducer(producer, known, state);
    if (refusal !== undefined) return refusal;
  }
  if (sequence !== undefined && state.sequence !== undefined && sequence <= state.sequence) {
    return { kind: "out-of-sequence", sequence: state.sequence };
  }
  const added = recordBytes(records);
  const kept = options.keep === undefined ? countedBytes(state.bytes, state.tail - state.start) : 0;
  const needed = kept + countedBytes(added, records.length);
  if (records.length > 0 && needed > options.maxBytes) return { kind: "full" };
  return {
    kind: "append",
    next: {
      ...state,
      tail: state.tail + records.length,
      bytes: state.bytes + added,
      until: expiryOf(state, now),
      ...(producer && {
        producers: { ...state.producers, [producer.id]: [producer.epoch, producer.seq] },
      }),
      ...(sequence !== undefined && { sequence }),
      ...(writer && {
        writer: { ...(!writer.releases && { holder: writer.holder }), until: now + writer.ttlMs },
      }),
      ...(end && { end: producer === undefined ? end : { ...end, by: producer }, endedAt: now }),
      ...(cancel !== undefined && { cancelled: state.cancelled ?? cancel }),
    },
  };
}

function checkProducer(
  { epoch, seq }: LogProducer,
  known: readonly [epoch: number, seq: number] | undefined,
  state: LogState,
): Exclude<LogAppended, { readonly kind: "appended" }> | undefined {
  if (known === undefined) {
    if (seq > 0) return { kind: "skipped", expected: 0 };
    const isFull = Object.keys(state.producers).length >= MAX_LOG_PRODUCERS;
    return isFull ? { kind: "too-many-producers" } : undefined;
  }
  const [lastEpoch, lastSeq] = known;
  if (epoch < lastEpoch) return { kind: "stale", epoch: lastEpoch };
  if (epoch > lastEpoch) return seq === 0 ? undefined : { kind: "unstarted" };
  if (seq <= lastSeq) return { kind: "repeated", info: infoOf(state), seq: lastSeq };
  return seq === lastSeq + 1 ? undefined : { kind: "skipped", expected: lastSeq + 1 };
}

function isSame(one: LogProducer, other: LogProducer | undefined): boolean {
  return one.id === other?.id && one.epoch === other.epoch && one.seq === other.seq;
}
