/** A reference of the contract of logs: each operation on a log, with all outcomes that are right. */
import { countedBytes } from "../../../../../pubsub/broker.ts";
import type {
  AppendLogOptions,
  CreateLogOptions,
  LogAppended,
  LogConfig,
  LogEnd,
  LogProducer,
  LogRecord,
  ReadLogOptions,
  RetainLogOptions,
} from "../../../../../pubsub/logs/log.ts";

/** Part of the time to live by which an engine may let a log live longer after a use. */
const SPARE_SHARE = 1 / 8;

/** Part of the time to live, and time in milliseconds, before which an engine may leave out a renewal. */
const STEP = { share: 1 / 100, ms: 100 };

/** Difference of two clocks that show whole milliseconds. */
const TICK_MS = 2;

/** A time that is known to lie between two others, in milliseconds. */
export interface Span {
  readonly fromMs: number;
  readonly toMs: number;
}

/** A log as the contract knows it. */
export interface ModelLog {
  readonly config: LogConfig;
  readonly identity: string;
  readonly records: readonly LogRecord[];
  /** Positions of the first own record, and of the oldest kept one. */
  readonly first: number;
  readonly start: number;
  readonly end?: LogEnd;
  /** The append that ended the log. */
  readonly endedBy?: string;
  readonly cancelled?: string;
  readonly sequence?: string;
  readonly producers: Readonly<Record<string, readonly [epoch: number, seq: number]>>;
  /** The lease of a writer; without a holder once released. */
  readonly lease?: Span & { readonly holder?: string };
  readonly expiry?: Span;
  readonly forks: readonly string[];
  readonly isDeleted?: true;
}

/** The state of an id: a log, or none. */
export type ModelState = ModelLog | undefined;

/** An operation of the interface. */
export type LogOperation =
  | { readonly kind: "create"; readonly options: CreateLogOptions }
  | { readonly kind: "append"; readonly options: AppendLogOptions }
  | { readonly kind: "read"; readonly options: ReadLogOptions }
  | { readonly kind: "delete"; readonly ifExpired: boolean }
  | { readonly kind: "retain"; readonly fork: string; readonly options: RetainLogOptions }
  | { readonly kind: "release"; readonly fork: string }
  | { readonly kind: "is-overdue" };

/** A result that is right, and the state behind. */
export interface ModelOutcome {
  readonly result: unknown;
  readonly next: ModelState;
}

/** Facts that the time decides. */
interface Moment {
  readonly isLapsed: boolean;
  readonly isExpired: boolean;
}

/**
 * Tells all right outcomes of an operation. There is more than one only where a time may be over or
 * not.
 *
 * @param state The state before.
 * @param operation The operation.
 * @param at Time of the call and of the answer.
 * @returns The outcomes.
 */
export function outcomesOf(
  state: ModelState,
  operation: LogOperation,
  at: Span,
): readonly ModelOutcome[] {
  return momentsOf(state, at).flatMap((moment) => {
    const outcome = outcomeOf(state, operation, { at, ...moment });
    // A log that is read may expire before the renewal that belongs to the read.
    const isShort = operation.kind === "read" && !moment.isExpired &&
      over(state?.expiry, at).includes(true);
    const outcomes = isShort ? [outcome, { ...outcome, next: state }] : [outcome];
    return outcomes.flatMap((one) => [one, ...shorterPages(one, state, operation)]);
  });
}

/**
 * Pages with fewer records than fit: an engine reads as many messages as hold the bytes of a page by
 * the average of the log.
 */
function shorterPages(
  { result, next }: ModelOutcome,
  state: ModelState,
  operation: LogOperation,
): readonly ModelOutcome[] {
  if (operation.kind !== "read" || typeof result !== "object" || state === undefined) return [];
  if (operation.options.maxBytes >= bytesOf(state.records)) return [];
  const { info, records } = result as { readonly info: object; readonly records: LogRecord[] };
  return records.slice(1).map((_, i) => ({
    result: { info, records: records.slice(0, i + 1) },
    next,
  }));
}

/**
 * Tells the states that a search of a node for overdue logs may make of a state.
 *
 * @param state The state.
 * @param at Time of the search.
 * @returns The other states; none for a log that is not due.
 */
export function tendedStates(state: ModelState, at: Span): readonly ModelState[] {
  const lost = {
    records: [],
    end: { error: "writer-lost" },
    ifWriterLost: true,
    maxBytes: 0,
  } as const;
  const tended: ModelState[] = [];
  for (const moment of momentsOf(state, at)) {
    if (state === undefined || state.isDeleted) continue;
    if (moment.isExpired) tended.push(deleted(state));
    else if (moment.isLapsed && state.end === undefined) {
      tended.push(appended(state, lost, at));
    }
  }
  return tended;
}

/** The facts that may hold at a time. */
function momentsOf(state: ModelState, at: Span): readonly Moment[] {
  const lapses = over(state?.lease, at);
  // Engines may renew a deleted log, which lives for as long as the forks do, and the renewal by a read
  // beside the deletion may be lost.
  const isOpen = state?.isDeleted && state.expiry !== undefined;
  const expiries = isOpen ? [true, false] : over(state?.expiry, at);
  return expiries.flatMap((isExpired) => lapses.map((isLapsed) => ({ isExpired, isLapsed })));
}

/** Tells whether a time is over: yes, no, or perhaps. */
function over(time: Span | undefined, { fromMs, toMs }: Span): readonly boolean[] {
  if (time === undefined || toMs < time.fromMs) return [false];
  return fromMs > time.toMs ? [true] : [true, false];
}

function outcomeOf(
  state: ModelState,
  operation: LogOperation,
  { at, isExpired, isLapsed }: Moment & { readonly at: Span },
): ModelOutcome {
  const isGone = isExpired && state !== undefined && !state.isDeleted;
  switch (operation.kind) {
    case "create": {
      if (isGone) return { result: { kind: "expired" }, next: state };
      if (state !== undefined) {
        return { result: { kind: "exists", info: infoOf(state) }, next: state };
      }
      const next = newLog(operation.options, at);
      return { result: { kind: "created", info: infoOf(next) }, next };
    }
    case "append": {
      const { options } = operation;
      const result = refusalOf(state, options, { isExpired, isLapsed });
      if (result !== undefined) return { result, next: state };
      const next = appended(state!, options, at);
      return { result: { kind: "appended", info: infoOf(next) }, next };
    }
    case "read": {
      if (state === undefined) return { result: undefined, next: state };
      if (isGone) return { result: "expired", next: state };
      const { options } = operation;
      const next = options.renews && !state.isDeleted ? used(state, at) : state;
      return { result: { info: infoOf(state), records: pageOf(state, options) }, next };
    }
    case "delete": {
      if (state === undefined) return { result: { kind: "missing" }, next: state };
      if (state.isDeleted) return { result: { kind: "deleted" }, next: state };
      if (operation.ifExpired && !isExpired) return { result: { kind: "alive" }, next: state };
      const { origin } = state.config;
      return state.forks.length > 0
        ? { result: { kind: "kept" }, next: deleted(state) }
        : { result: { kind: "removed", ...(origin && { origin }) }, next: undefined };
    }
    case "retain": {
      const { fork, options: { identity, maxForks } } = operation;
      const isThere = state?.identity === identity && !state.isDeleted && !isExpired;
      if (!isThere) return { result: "missing", next: state };
      if (state.forks.includes(fork)) return { result: "retained", next: state };
      if (state.forks.length >= maxForks) return { result: "too-many", next: state };
      return { result: "retained", next: { ...state, forks: [...state.forks, fork] } };
    }
    case "release": {
      if (state === undefined) return { result: undefined, next: state };
      const forks = state.forks.filter((one) => one !== operation.fork);
      return forks.length === 0 && state.isDeleted
        ? { result: state.config.origin, next: undefined }
        : { result: undefined, next: { ...state, forks } };
    }
    case "is-overdue": {
      const isLost = state?.end === undefined && isLapsed;
      return {
        result: state !== undefined && !state.isDeleted && (isExpired || isLost),
        next: state,
      };
    }
  }
}

/** The answer to an append without effect, by the first rule that refuses. */
function refusalOf(
  state: ModelState,
  options: AppendLogOptions,
  { isExpired, isLapsed }: Moment,
): LogAppended | undefined {
  const { identity, records, end, producer, sequence, writer, ifWriterLost } = options;
  if (state === undefined) return { kind: "missing" };
  if (identity !== undefined && identity !== state.identity) return { kind: "missing" };
  if (isExpired) return { kind: "expired" };
  if (state.isDeleted) return { kind: "deleted" };
  const info = infoOf(state);
  if (state.end !== undefined) {
    if (ifWriterLost) return { kind: "held" };
    if (producer && nameOf(producer) === state.endedBy) {
      return { kind: "repeated", info, seq: producer.seq };
    }
    const isEndAlone = end !== undefined && records.length === 0 && producer === undefined;
    return isEndAlone ? { kind: "repeated", info } : { kind: "ended", info };
  }
  if (ifWriterLost && !isLapsed) return { kind: "held" };
  if (writer !== undefined && state.lease !== undefined) {
    const { holder } = state.lease;
    const isHolder = writer.holder === holder && !isLapsed;
    const isSuccessor = (isLapsed || holder === undefined) && writer.takes === true;
    if (!isHolder && !isSuccessor) return { kind: "fenced" };
  }
  if (producer !== undefined) {
    const [epoch, seq] = Object.hasOwn(state.producers, producer.id)
      ? state.producers[producer.id]!
      : [producer.epoch, -1];
    if (producer.epoch < epoch) return { kind: "stale", epoch };
    if (producer.epoch > epoch && producer.seq > 0) return { kind: "unstarted" };
    if (producer.epoch === epoch) {
      if (producer.seq <= seq) return { kind: "repeated", info, seq };
      if (producer.seq > seq + 1) return { kind: "skipped", expected: seq + 1 };
    }
  }
  if (sequence !== undefined && state.sequence !== undefined && sequence <= state.sequence) {
    return { kind: "out-of-sequence", sequence: state.sequence };
  }
  const kept = options.keep === undefined ? countedOf(state.records) : 0;
  const isFull = records.length > 0 && kept + countedOf(records) > options.maxBytes;
  return isFull ? { kind: "full" } : undefined;
}

function newLog({ config, identity, records, end, writer }: CreateLogOptions, at: Span): ModelLog {
  const first = config.origin?.position ?? 0;
  return used({
    config,
    identity,
    records,
    first,
    start: first,
    producers: {},
    forks: [],
    ...(end && { end }),
    ...(writer && { lease: leaseOf(writer, at) }),
  }, at);
}

function appended(state: ModelLog, options: AppendLogOptions, at: Span): ModelLog {
  const { records, end, producer, sequence, writer, cancel, keep } = options;
  const next = used({
    ...state,
    records: [...state.records, ...records],
    ...(producer && {
      producers: { ...state.producers, [producer.id]: [producer.epoch, producer.seq] as const },
    }),
    ...(sequence !== undefined && { sequence }),
    ...(writer && { lease: leaseOf(writer, at) }),
    ...(end && { end, ...(producer && { endedBy: nameOf(producer) }) }),
    ...(cancel !== undefined && { cancelled: state.cancelled ?? cancel }),
  }, at);
  if (keep === undefined) return next;
  let drops = 0;
  const isBeyond = () =>
    next.records.length - drops > keep.records ||
    countedOf(next.records.slice(drops)) > keep.bytes;
  while (next.records.length - drops > 1 && isBeyond()) drops++;
  return { ...next, records: next.records.slice(drops), start: next.start + drops };
}

/** The state of a log that was deleted; `undefined` without forks. */
function deleted(state: ModelLog): ModelState {
  return state.forks.length > 0 ? { ...state, isDeleted: true } : undefined;
}

/** The state after a use, which moves the expiry. */
function used(state: ModelLog, { fromMs, toMs }: Span): ModelLog {
  const { ttlMs } = state.config;
  if (ttlMs === undefined) return state;
  const early = Math.max(STEP.ms, ttlMs * STEP.share) + TICK_MS;
  const late = ttlMs * SPARE_SHARE + TICK_MS;
  return { ...state, expiry: { fromMs: fromMs + ttlMs - early, toMs: toMs + ttlMs + late } };
}

function leaseOf(
  { holder, ttlMs, releases }: NonNullable<AppendLogOptions["writer"]>,
  { fromMs, toMs }: Span,
): NonNullable<ModelLog["lease"]> {
  const lapse = { fromMs: fromMs + ttlMs - TICK_MS, toMs: toMs + ttlMs + TICK_MS };
  // A lease of no time is over at once.
  return {
    ...(!releases && { holder }),
    ...(ttlMs === 0 ? { fromMs: -Infinity, toMs: -Infinity } : lapse),
  };
}

/** The state as an engine shows it. */
function infoOf({ config, identity, first, start, records, end, cancelled, isDeleted }: ModelLog) {
  return {
    ...config,
    identity,
    first,
    start,
    tail: start + records.length,
    bytes: bytesOf(records),
    ...(end && { end }),
    ...(cancelled !== undefined && { cancelled }),
    ...(isDeleted && { isDeleted }),
  };
}

function pageOf(
  { records, start }: ModelLog,
  { after, maxRecords, maxBytes }: ReadLogOptions,
): readonly LogRecord[] {
  if (after < start) return [];
  const page = records.slice(after - start, after - start + maxRecords);
  while (page.length > 1 && bytesOf(page) > maxBytes) page.pop();
  return page;
}

function nameOf({ id, epoch, seq }: LogProducer): string {
  return JSON.stringify([id, epoch, seq]);
}

/** Bytes of records as bounds count them. */
export function countedOf(records: readonly LogRecord[]): number {
  return countedBytes(bytesOf(records), records.length);
}

function bytesOf(records: readonly LogRecord[]): number {
  return records.reduce((sum, record) => sum + sizeOf(record), 0);
}

function sizeOf(record: LogRecord): number {
  return typeof record === "string" ? new TextEncoder().encode(record).length : record.length;
}
