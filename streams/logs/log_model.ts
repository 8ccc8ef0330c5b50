/**
 * Reference model of a store's logs: the correct results of each call, and the state after it.
 */
import { countedBytes } from "../../pubsub/broker.ts";
import type {
  AppendLogOptions,
  BrokerLogs,
  CreateLogOptions,
  LogAppended,
  LogConfig,
  LogEnd,
  LogInfo,
  LogProducer,
  LogRecord,
  ReadLogOptions,
  RetainLogOptions,
} from "./log.ts";
import { recordBytes } from "./rules.ts";

/** Fraction of the time to live by which a store may keep a log longer after it was used. */
const SPARE_SHARE = 1 / 8;

/**
 * A store may skip a renewal within this fraction of the time to live, or within this many
 * milliseconds.
 */
const RENEWAL_STEP = { share: 1 / 100, ms: 100 };

/** Maximum difference between two clocks that show whole milliseconds. */
const TICK_MS = 2;

/** A moment that lies between two others, in milliseconds since the Unix epoch. */
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
  readonly endedBy?: LogProducer;
  readonly cancelled?: string;
  readonly sequence?: string;
  readonly producers: ReadonlyMap<string, readonly [epoch: number, seq: number]>;
  /** The lease of a writer; without a holder once released. */
  readonly lease?: Span & { readonly holder?: string };
  readonly expiry?: Span;
  readonly forks: readonly string[];
  readonly isDeleted?: true;
}

export type ModelState = ModelLog | undefined;

export type LogCall =
  | { readonly kind: "create"; readonly options: CreateLogOptions }
  | { readonly kind: "append"; readonly options: AppendLogOptions }
  | { readonly kind: "read"; readonly options: ReadLogOptions }
  | { readonly kind: "delete"; readonly ifExpired: boolean }
  | { readonly kind: "retain"; readonly fork: string; readonly options: RetainLogOptions }
  | { readonly kind: "release"; readonly fork: string };

/** A correct result, and the state after it. */
export interface ModelOutcome {
  readonly result: unknown;
  readonly next: ModelState;
}

/** Properties of a store that affect the correct results. */
export interface StoreFacts {
  /**
   * Number of other logs of the same kind.
   *
   * @default {0}
   */
  readonly others?: number;
  /** True for a store that reads as many records as fit on average. */
  readonly hasShortPages?: boolean;
}

/** Conditions that depend on the time of a call. */
interface Moment {
  readonly at: Span;
  readonly isLapsed: boolean;
  readonly isExpired: boolean;
}

export async function makeCall(logs: BrokerLogs, id: string, call: LogCall): Promise<unknown> {
  switch (call.kind) {
    case "create":
      return await logs.create(id, call.options);
    case "append":
      return await logs.append(id, call.options);
    case "read":
      return await logs.read(id, call.options);
    case "delete":
      return await logs.delete(id, { ifExpired: call.ifExpired });
    case "retain":
      return await logs.retain(id, call.fork, call.options);
    case "release":
      return await logs.release(id, call.fork);
  }
}

/**
 * Reads all records after a position, which does not count as a use of the log unless it renews.
 */
export function readAll(
  { after = 0, renews = false }: { readonly after?: number; readonly renews?: boolean } = {},
): LogCall {
  return { kind: "read", options: { after, maxRecords: 1_000, maxBytes: 1 << 26, renews } };
}

/**
 * Formats a value as text with sorted keys. Leaves out the number of all logs, because a store
 * may count only now and then.
 */
export function textOf(value: unknown): string {
  return JSON.stringify(value, (_key, part) => {
    if (part instanceof Uint8Array) return { bytes: [...part] };
    if (part instanceof Map) return [...part];
    if (typeof part !== "object" || part === null || Array.isArray(part)) return part;
    const { count: _count, ...rest } = part;
    return Object.fromEntries(Object.entries(rest).sort(([a], [b]) => a < b ? -1 : 1));
  }) ?? "undefined";
}

/**
 * Lists the correct outcomes of a call. There are several if it is uncertain whether a time has
 * passed, or if a store may choose the size of a page.
 *
 * @param state The state before the call.
 * @param at Time between the call and its result.
 * @param facts See {@linkcode StoreFacts}.
 */
export function outcomesOf(
  state: ModelState,
  call: LogCall,
  at: Span,
  { others = 0, hasShortPages = false }: StoreFacts = {},
): readonly ModelOutcome[] {
  return momentsOf(state, at).flatMap((moment) => {
    const outcome = outcomeOf(state, call, moment, others);
    // A log may expire between a read and the renewal that belongs to it.
    const isShort = call.kind === "read" && !moment.isExpired &&
      isOver(state?.expiry, at).includes(true);
    const outcomes = isShort ? [outcome, { ...outcome, next: state }] : [outcome];
    return outcomes.flatMap((one) =>
      hasShortPages ? [one, ...shorterPages(one, state, call)] : [one]
    );
  });
}

/** The time from which a log needs attention; `undefined` if never, or if the time is unknown. */
export function dueSpan(state: ModelState): Span | undefined {
  if (state === undefined || state.isDeleted) return undefined;
  const lease = state.end === undefined ? state.lease : undefined;
  const { expiry } = state;
  if (lease === undefined || expiry === undefined) return lease ?? expiry;
  return {
    fromMs: Math.min(lease.fromMs, expiry.fromMs),
    toMs: Math.min(lease.toMs, expiry.toMs),
  };
}

/** Lists whether a moment has passed: no, yes, or both if it lies within the span. */
export function isOver(moment: Span | undefined, at: Span): readonly boolean[] {
  if (moment === undefined || at.toMs < moment.fromMs) return [false];
  return at.fromMs > moment.toMs ? [true] : [false, true];
}

/**
 * The states after concurrent calls; none if no order explains their results.
 *
 * @param calls The calls, each with the text of its result.
 */
export function statesAfter(
  state: ModelState,
  calls: readonly { readonly call: LogCall; readonly result: string }[],
  at: Span,
  facts: StoreFacts = {},
): readonly ModelState[] {
  if (calls.length === 0) return [state];
  return calls.flatMap(({ call, result }, i) =>
    outcomesOf(state, call, at, facts)
      .filter((outcome) => textOf(outcome.result) === result)
      .flatMap(({ next }) => statesAfter(next, calls.toSpliced(i, 1), at, facts))
  );
}

/** Bytes of records as bounds count them. */
export function countedOf(records: readonly LogRecord[]): number {
  return countedBytes(recordBytes(records), records.length);
}

/** Pages with fewer records than fit. */
function shorterPages(
  { result, next }: ModelOutcome,
  state: ModelState,
  call: LogCall,
): readonly ModelOutcome[] {
  if (call.kind !== "read" || typeof result !== "object" || state === undefined) return [];
  if (call.options.maxBytes >= recordBytes(state.records)) return [];
  const { info, records } = result as { readonly info: object; readonly records: LogRecord[] };
  return records.slice(1).map((_, i) => ({
    result: { info, records: records.slice(0, i + 1) },
    next,
  }));
}

function momentsOf(state: ModelState, at: Span): readonly Moment[] {
  // Stores may renew a deleted log, which lives as long as its forks do.
  const isUnknown = state?.isDeleted && state.expiry !== undefined;
  const expiries = isUnknown ? [true, false] : isOver(state?.expiry, at);
  const lapses = isOver(state?.lease, at);
  return expiries.flatMap((isExpired) => lapses.map((isLapsed) => ({ at, isExpired, isLapsed })));
}

function outcomeOf(
  state: ModelState,
  call: LogCall,
  moment: Moment,
  others: number,
): ModelOutcome {
  const { at, isExpired } = moment;
  const isGone = isExpired && state !== undefined && !state.isDeleted;
  switch (call.kind) {
    case "create": {
      const { options } = call;
      if (isGone) return { result: { kind: "expired" }, next: state };
      if (state) return { result: { kind: "exists", info: infoOf(state) }, next: state };
      if (others >= options.maxLogs) return { result: { kind: "too-many" }, next: state };
      const next = newLog(options, at);
      return { result: { kind: "created", info: infoOf(next) }, next };
    }
    case "append": {
      const { options } = call;
      const result = rejectionOf(state, options, moment);
      if (result !== undefined) return { result, next: state };
      const next = appended(state!, options, at);
      return { result: { kind: "appended", info: infoOf(next) }, next };
    }
    case "read": {
      const { options } = call;
      if (state === undefined) return { result: undefined, next: state };
      if (isGone) return { result: "expired", next: state };
      const next = options.renews && !state.isDeleted ? used(state, at) : state;
      return { result: { info: infoOf(state), records: pageOf(state, options) }, next };
    }
    case "delete":
      return deleted(state, call.ifExpired && !isExpired);
    case "retain": {
      const { fork, options: { identity, maxForks } } = call;
      const isThere = state?.identity === identity && !state.isDeleted && !isExpired;
      if (!isThere) return { result: "missing", next: state };
      if (state.forks.includes(fork)) return { result: "retained", next: state };
      if (state.forks.length >= maxForks) return { result: "too-many", next: state };
      return { result: "retained", next: { ...state, forks: [...state.forks, fork] } };
    }
    case "release": {
      if (state === undefined) return { result: undefined, next: state };
      const forks = state.forks.filter((one) => one !== call.fork);
      return forks.length === 0 && state.isDeleted
        ? { result: state.config.origin, next: undefined }
        : { result: undefined, next: { ...state, forks } };
    }
  }
}

function deleted(state: ModelState, isAlive: boolean): ModelOutcome {
  if (state === undefined) return { result: { kind: "missing" }, next: state };
  if (state.isDeleted) return { result: { kind: "deleted" }, next: state };
  if (isAlive) return { result: { kind: "alive" }, next: state };
  if (state.forks.length > 0) {
    return { result: { kind: "kept" }, next: { ...state, isDeleted: true } };
  }
  const { origin } = state.config;
  return { result: { kind: "removed", ...(origin && { origin }) }, next: undefined };
}

/** The result of a rejected append, by the first rule that rejects it. */
function rejectionOf(
  state: ModelState,
  options: AppendLogOptions,
  { isExpired, isLapsed }: Moment,
): LogAppended | undefined {
  const { identity, records, sequence, ifWriterLost, maxBytes, keep } = options;
  if (state === undefined) return { kind: "missing" };
  if (identity !== undefined && identity !== state.identity) return { kind: "missing" };
  if (isExpired) return { kind: "expired" };
  if (state.isDeleted) return { kind: "deleted" };
  if (state.end !== undefined) return rejectionOfEnd(state, options);
  if (ifWriterLost && !isLapsed) return { kind: "held" };
  const rejection = rejectionOfLease(state, options, isLapsed) ??
    rejectionOfProducer(state, options);
  if (rejection !== undefined) return rejection;
  if (sequence !== undefined && state.sequence !== undefined && sequence <= state.sequence) {
    return { kind: "out-of-sequence", sequence: state.sequence };
  }
  const kept = keep === undefined ? countedOf(state.records) : 0;
  const isFull = records.length > 0 && kept + countedOf(records) > maxBytes;
  return isFull ? { kind: "full" } : undefined;
}

function rejectionOfEnd(
  state: ModelLog,
  { records, end, producer, ifWriterLost }: AppendLogOptions,
): LogAppended {
  const info = infoOf(state);
  if (ifWriterLost) return { kind: "held" };
  if (producer && textOf(producer) === textOf(state.endedBy)) {
    return { kind: "repeated", info, seq: producer.seq };
  }
  const isEndAlone = end !== undefined && records.length === 0 && producer === undefined;
  return isEndAlone ? { kind: "repeated", info } : { kind: "ended", info };
}

function rejectionOfLease(
  { lease }: ModelLog,
  { writer }: AppendLogOptions,
  isLapsed: boolean,
): LogAppended | undefined {
  if (writer === undefined || lease === undefined) return undefined;
  const isHolder = writer.holder === lease.holder && !isLapsed;
  const isFree = isLapsed || lease.holder === undefined;
  return isHolder || isFree && writer.takes ? undefined : { kind: "fenced" };
}

function rejectionOfProducer(
  state: ModelLog,
  { producer }: AppendLogOptions,
): LogAppended | undefined {
  if (producer === undefined) return undefined;
  const [epoch, seq] = state.producers.get(producer.id) ?? [producer.epoch, -1];
  if (producer.epoch < epoch) return { kind: "stale", epoch };
  if (producer.epoch > epoch) return producer.seq > 0 ? { kind: "unstarted" } : undefined;
  if (producer.seq <= seq) return { kind: "repeated", info: infoOf(state), seq };
  return producer.seq > seq + 1 ? { kind: "skipped", expected: seq + 1 } : undefined;
}

function newLog({ config, identity, records, end, writer }: CreateLogOptions, at: Span): ModelLog {
  const first = config.origin?.position ?? 0;
  return used({
    config,
    identity,
    records,
    first,
    start: first,
    producers: new Map(),
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
      producers: new Map([...state.producers, [producer.id, [producer.epoch, producer.seq]]]),
    }),
    ...(sequence !== undefined && { sequence }),
    ...(writer && { lease: leaseOf(writer, at) }),
    ...(end && { end, ...(producer && { endedBy: producer }) }),
    ...(cancel !== undefined && { cancelled: state.cancelled ?? cancel }),
  }, at);
  if (keep === undefined) return next;
  let kept = next.records;
  while (kept.length > 1 && (kept.length > keep.records || countedOf(kept) > keep.bytes)) {
    kept = kept.slice(1);
  }
  return { ...next, records: kept, start: next.start + next.records.length - kept.length };
}

/** The state after a use, which moves the expiry. */
function used(state: ModelLog, { fromMs, toMs }: Span): ModelLog {
  const { ttlMs, expiresAt = Infinity } = state.config;
  if (ttlMs === undefined && expiresAt === Infinity) return state;
  const early = Math.max(RENEWAL_STEP.ms, (ttlMs ?? 0) * RENEWAL_STEP.share) + TICK_MS;
  const late = (ttlMs ?? 0) * SPARE_SHARE + TICK_MS;
  return {
    ...state,
    expiry: {
      fromMs: Math.min(fromMs + (ttlMs ?? Infinity) - early, expiresAt - TICK_MS),
      toMs: Math.min(toMs + (ttlMs ?? Infinity) + late, expiresAt + TICK_MS),
    },
  };
}

function leaseOf(
  { holder, ttlMs, releases }: NonNullable<AppendLogOptions["writer"]>,
  { fromMs, toMs }: Span,
): NonNullable<ModelLog["lease"]> {
  const lapse = { fromMs: fromMs + ttlMs - TICK_MS, toMs: toMs + ttlMs + TICK_MS };
  return {
    ...(!releases && { holder }),
    // A lease with a duration of 0 is over immediately.
    ...(ttlMs === 0 ? { fromMs: -Infinity, toMs: -Infinity } : lapse),
  };
}

function infoOf(log: ModelLog): LogInfo {
  const { config, identity, first, start, records, end, cancelled, isDeleted } = log;
  return {
    ...config,
    identity,
    first,
    start,
    tail: start + records.length,
    bytes: recordBytes(records),
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
  while (page.length > 1 && recordBytes(page) > maxBytes) page.pop();
  return page;
}
