/** Changes of logs, serialized across all nodes. */
import { BrokerError } from "../../../errors.ts";
import type { Runtime } from "../../../base/runtime.ts";
import type { NatsClock } from "../clock.ts";
import { ChangeAttempts, MAX_PAUSE_MS } from "../contention.ts";
import type { NatsLink } from "../link.ts";
import { BrokerLine, type BrokerOutbox, type Outgoing } from "../../../pubsub/broker/queue.ts";
import type { LogRecord, LogRow } from "../../../streams/logs/log.ts";
import {
  isBeyondRetention,
  type LogEffect,
  type LogWrite,
  type Retention,
} from "../../../streams/logs/changes.ts";
import { ChangedView, MemoryRows } from "../../../streams/logs/memory_rows.ts";
import { isHiddenRow, type RowView } from "../../../streams/logs/rows.ts";
import { encodeCarried } from "../../../streams/logs/announcement.ts";
import { logKind } from "../../../streams/logs/log_names.ts";
import { recordBytes, retainedOf } from "../../../streams/logs/rules.ts";
import type { DueIndex } from "./due_index.ts";
import {
  chainOf,
  decodeLog,
  encodedBytes,
  encodeLog,
  firstOf,
  isKept,
  liveIn,
  type LiveMessage,
  type LogHead,
  type LogMessage,
  recordsOf,
  storedOf,
  type WholeLog,
} from "./format.ts";
import type { LogReader } from "./log_reader.ts";
import type { Compaction, LogRows } from "./log_rows.ts";
import type { ChangeOptions, LogStreams } from "./log_streams.ts";
import type { RowCache } from "./row_cache.ts";
import { carriedRows, changedRows, type StoredTransaction } from "./row_format.ts";

/** Longest time for which a node changes a log without a pause, in milliseconds. */
const TURN_MS = 250;

/** The same for a shared log. */
const SHARED_TURN_MS = 20;

/** Time for which a log counts as shared after another node has changed it, in milliseconds. */
const SHARED_MS = 1_000;

/** Length of the pause in milliseconds: another node has time for an attempt. */
const GAP_MS = MAX_PAUSE_MS + 5;

/** Time without a change that makes the pause superfluous, in milliseconds. */
const IDLE_MS = 5;

/** Maximum number of logs whose newest message a node remembers. */
const MAX_CACHED_LOGS = 4_096;

/** Maximum size of all these messages in bytes, without the records. */
const MAX_CACHED_BYTES = 16_777_216;

/** Bounds on the oldest records, whose sizes are read together for the retention. */
const SIZES_PAGE = { maxRecords: 1_024, maxBytes: 1_048_576 };

/** Maximum number of transactions of a keyed log in one message. */
const MAX_TRANSACTIONS = 64;

/** Maximum number of concurrent removals. */
const MAX_CLEAN_UPS = 1_024;

/** Maximum number of messages to which a writer copies rows after a change. */
const MAX_COMPACTIONS = 8;

/** In place of records, which a node does not remember. */
const NO_BYTES = new Uint8Array();

/** The effect of an operation on a log. */
export type WholeEffect<R> =
  | Exclude<LogEffect<R>, LogWrite<R>> & {
    /** True if the result holds even if another node has changed the log. */
    readonly isFinal?: true | undefined;
  }
  | LogWrite<R> & { readonly next: WholeLog };

/**
 * Computes a change from the state of a log, and from the rows of a keyed log. It is called again
 * with a newer state if another node has changed the log first. If it throws, only this operation
 * fails.
 */
export type LogOperation<T> = (
  state: WholeLog | undefined,
  now: number,
  rows: RowView | undefined,
) => WholeEffect<T>;

interface Waiting extends Outgoing {
  readonly operation: LogOperation<unknown>;
  readonly resolve: (result: unknown) => void;
  readonly reject: (error: unknown) => void;
}

/** A message, with the sizes of its records. */
interface MessageSizes {
  readonly seq: number;
  /** Position of the first record. */
  readonly first: number;
  readonly sizes: readonly number[];
}

/** The newest message of a log, as this node knows it. */
interface CachedLog {
  readonly era: unknown;
  /** Sequence; 0 without a message. */
  readonly seq: number;
  readonly message: LiveMessage | undefined;
  readonly bytes: number;
  /** The oldest kept messages, as far as they have been read. */
  oldest: MessageSizes[];
  /** Time of the first of this node's changes that follow one another without a pause. */
  readonly turnStartMs: number;
  /** Time of this node's last change. */
  readonly lastWriteMs: number;
  /** Time of this node's last attempt in which another node was first. */
  readonly lastConflictMs: number;
}

interface Applied {
  /** State after the operations; `undefined` without a log. */
  state: WholeLog | undefined;
  records: LogRecord[];
  /** The transactions of a keyed log, each of which is one of the records. */
  transactions: StoredTransaction[];
  /** The changed hidden rows of a keyed log by name; `undefined` for those that are gone. */
  hidden: Map<string, LogRow | undefined>;
  carried: readonly LogRow[];
  isChanged: boolean;
  /** True if earlier messages no longer belong to the log. */
  isReplacing: boolean;
  isQuiet: boolean;
  /** True if an operation was rejected, and might succeed on a newer state. */
  mayBeOutdated: boolean;
  /** Sequences of messages of which no record is kept any more. */
  readonly dropped: number[];
  /**
   * Resolve the promises of the callers once the change is in force: one for each operation that was
   * applied.
   */
  readonly resolvers: (() => void)[];
}

/**
 * Writes the changes of logs.
 *
 * A change is a message. NATS stores it only if the log's newest message is still the one that this
 * node knows. Operations on a log wait for one another, and those that wait at the same time are
 * combined in one message.
 */
export class LogWriter {
  readonly #link: NatsLink;
  readonly #runtime: Runtime;
  readonly #clock: NatsClock;
  readonly #streams: LogStreams;
  readonly #reader: LogReader;
  readonly #due: DueIndex;
  readonly #rows: RowCache;
  readonly #outbox: BrokerOutbox;
  /** Logs with changes that wait or are in flight; bounded by the outbox. */
  readonly #lines = new Map<string, BrokerLine<Waiting>>();
  readonly #cache = new Map<string, CachedLog>();
  #cachedBytes = 0;
  readonly #cleanUps = new Set<Promise<void>>();

  constructor(
    link: NatsLink,
    streams: LogStreams,
    reader: LogReader,
    due: DueIndex,
    rows: RowCache,
    outbox: BrokerOutbox,
  ) {
    this.#link = link;
    this.#runtime = link.runtime;
    this.#clock = link.clock;
    this.#streams = streams;
    this.#reader = reader;
    this.#due = due;
    this.#rows = rows;
    this.#outbox = outbox;
  }

  /** Changes a log by an operation. `bytes` is the encoded size of its records. */
  change<T>(id: string, part: string, bytes: number, operation: LogOperation<T>): Promise<T> {
    const { promise, resolve, reject } = Promise.withResolvers<T>();
    const known = this.#lines.get(id);
    const line = known ?? this.#line();
    const isTaken = line.push({
      bytes,
      operation,
      resolve: resolve as () => void,
      reject,
      due: 0,
      isOver: false,
    });
    if (known !== undefined) return promise;
    if (isTaken) void this.#run(id, part, line);
    else line.leave();
    return promise;
  }

  /** Resolves once no change is in flight. */
  async idle(): Promise<void> {
    await this.#outbox.empty();
    await Promise.all(this.#cleanUps);
  }

  #line(): BrokerLine<Waiting> {
    return new BrokerLine(this.#outbox, ({ reject }, why) => {
      reject(new BrokerError(`Cannot change a log: ${why}`));
    });
  }

  async #run(id: string, part: string, line: BrokerLine<Waiting>): Promise<void> {
    this.#lines.set(id, line);
    const limits = { maxItems: Infinity, maxBytes: this.#streams.maxRecordBytes };
    while (line.isWaiting) {
      for (let batch = line.takeBatch(limits); batch.length > 0;) {
        let count = batch.length;
        try {
          const resolvers = await this.#commitBatch(id, part, batch);
          count = resolvers.length;
          for (const resolve of resolvers) resolve();
        } catch (error) {
          this.forget(id);
          for (const { reject } of batch) reject(error);
        }
        for (const waiting of batch.slice(0, count)) line.settle(waiting);
        batch = batch.slice(count);
      }
      const cached = this.#cache.get(id);
      if (cached !== undefined && isKeyed(cached)) {
        await this.#cleanUp(() => this.#compact(id, part));
      }
    }
    this.#lines.delete(id);
    line.leave();
  }

  /**
   * Applies operations, and writes the outcome. Returns the functions that resolve the callers'
   * promises. There are fewer functions than operations if the last operations must be applied
   * separately.
   */
  async #commitBatch(
    id: string,
    part: string,
    batch: readonly Waiting[],
  ): Promise<readonly (() => void)[]> {
    await this.#streams.open(part);
    let { turnStartMs, lastConflictMs } = await this.#yieldTurn(this.#lookUp(id, part));
    const attempts = new ChangeAttempts(this.#link);
    while (true) {
      const known = this.#lookUp(id, part);
      let cached = known ?? this.#cachedFrom(part, await this.#streams.newest(part));
      const rows = await this.#rowsAt(part, cached);
      // Rows that were read in the meantime are newer, but may be outdated as well.
      if (rows !== undefined && rows.newest!.seq !== cached.seq) {
        cached = this.#cachedFrom(part, rows.newest!);
      }
      const isGone = rows === undefined && isKeyed(cached);
      const applied = isGone ? undefined : await this.#apply(part, cached, rows, batch);
      // A successful write proves that the state was current.
      if (applied?.mayBeOutdated && !applied.isChanged && known !== undefined) {
        this.forget(id);
        continue;
      }
      if (applied?.isChanged === false) {
        this.#remember(id, cached);
        return applied.resolvers;
      }
      cached = { ...cached, turnStartMs, lastConflictMs };
      if (applied && await this.#write(id, part, cached, applied)) return applied.resolvers;
      this.forget(id);
      turnStartMs = lastConflictMs = this.#runtime.monotonic();
      await attempts.lost("a log");
    }
  }

  /**
   * Pauses if this node's turn is over. The node that changed a log last knows the newest message,
   * so its next change is faster than that of a node that must read the message first. Without
   * pauses, it would always win.
   */
  async #yieldTurn(
    cached: CachedLog | undefined,
  ): Promise<Pick<CachedLog, "turnStartMs" | "lastConflictMs">> {
    const nowMs = this.#runtime.monotonic();
    const { turnStartMs = nowMs, lastWriteMs = nowMs, lastConflictMs = -Infinity } = cached ?? {};
    if (nowMs - lastWriteMs >= IDLE_MS) return { turnStartMs: nowMs, lastConflictMs };
    if (nowMs - turnStartMs < (nowMs - lastConflictMs < SHARED_MS ? SHARED_TURN_MS : TURN_MS)) {
      return { turnStartMs, lastConflictMs };
    }
    await this.#link.pause(GAP_MS);
    return { turnStartMs: this.#runtime.monotonic(), lastConflictMs };
  }

  /** Writes the outcome of operations. Returns false if another node changed the log first. */
  async #write(id: string, part: string, cached: CachedLog, applied: Applied): Promise<boolean> {
    const { state, records, transactions, hidden, isReplacing, isQuiet } = applied;
    const look = await this.#due.ensure(id, state, cached.message?.head.look);
    const before = isReplacing ? undefined : cached.message?.head;
    const number = before === undefined ? 0 : numberAfter(before);
    const count = records.length;
    const from = before?.from;
    const carried = applied.carried.length + hidden.size || undefined;
    const head: LogHead | null = state === undefined
      ? null
      : { state, count, number, carried, look, from };
    const oldest = isReplacing ? [] : cached.oldest;
    const rows = applied.carried.length > 0
      ? carriedRows(applied.carried)
      : changedRows(transactions, hidden);
    const body = [...records, ...rows];
    const seq = await this.#send(id, part, { ...cached, oldest }, head, body, {
      // The last message of a removed log must not remain before the first message of a new log.
      isReplacing: isReplacing || cached.message === undefined && cached.seq > 0,
      isQuiet,
      carried: carriedBy(before, applied),
    });
    if (seq === undefined) return false;
    if (head === null) {
      this.forget(id);
      this.#rows.forget(part);
      void this.#cleanUp(() => this.#streams.remove(part, seq));
      return true;
    }
    const isSuperseded = before !== undefined && !isKept(before);
    const outdated = isSuperseded ? [cached.seq, ...applied.dropped] : applied.dropped;
    if (outdated.length > 0) {
      void this.#cleanUp(async () => {
        for (const seq of outdated) await this.#streams.remove(part, seq);
      });
    }
    return true;
  }

  /** Writes a message after the newest one. Returns its sequence if no other change was first. */
  async #send(
    id: string,
    part: string,
    cached: CachedLog,
    head: LogHead | null,
    records: readonly LogRecord[],
    options: Pick<ChangeOptions, "isReplacing" | "isQuiet" | "carried">,
  ): Promise<number | undefined> {
    const encoded = encodeLog(head, records);
    const kept = head !== null && isListed(id, head.state) ? retainedOf(id, head.state) : undefined;
    const seq = await this.#streams.write(part, encoded, { ...options, after: cached.seq, kept });
    if (seq === undefined || head === null) return seq;
    const message = liveIn(decodeLog(seq, encoded))!;
    const bytes = encoded.length - encodedBytes(records);
    this.#remember(id, { ...cached, seq, message, bytes, lastWriteMs: this.#runtime.monotonic() });
    if (head.state.keyed !== undefined) this.#rows.wrote(part, message, cached.seq);
    return seq;
  }

  /** The rows of a keyed log; `undefined` for another log, or if the log is gone. */
  async #rowsAt(part: string, cached: CachedLog): Promise<LogRows | undefined> {
    return isKeyed(cached) ? await this.#rows.at(part, cached.message!) : undefined;
  }

  /**
   * Removes old messages of a keyed log if they take too many bytes. Before that, copies the rows
   * that the old messages hold to a bounded number of new messages, each of which says which message
   * is the oldest one that is needed. If the node stops before the removal, the next removal
   * includes the messages.
   */
  async #compact(id: string, part: string): Promise<void> {
    let from: number | undefined;
    for (let i = 0; i < MAX_COMPACTIONS; i++) {
      const cached = this.#lookUp(id, part);
      const rows = cached && isKeyed(cached) ? this.#rows.peek(part, cached.seq) : undefined;
      const plan = rows?.planCompaction(cached!.bytes);
      if (plan === undefined || !await this.#compactOnce(id, part, cached!, plan)) break;
      from = plan.from;
    }
    if (from !== undefined) await this.#streams.purge(part, from);
  }

  /** Copies rows to a new message. Returns false if another node changed the log first. */
  async #compactOnce(
    id: string,
    part: string,
    cached: CachedLog,
    { rows, from }: Compaction,
  ): Promise<boolean> {
    const { head } = cached.message!;
    const number = numberAfter(head);
    const carried: LogHead = { ...head, count: 0, number, carried: rows.length, from };
    const options = { isReplacing: false, isQuiet: true };
    try {
      const seq = await this.#send(id, part, cached, carried, carriedRows(rows), options);
      if (seq === undefined) this.forget(id);
      return seq !== undefined;
    } catch (error) {
      this.forget(id);
      throw error;
    }
  }

  /** Applies operations one after another. Returns `undefined` if another node changed the log. */
  async #apply(
    part: string,
    cached: CachedLog,
    rows: LogRows | undefined,
    batch: readonly Waiting[],
  ): Promise<Applied | undefined> {
    const applied: Applied = {
      state: cached.message?.head.state,
      records: [],
      transactions: [],
      hidden: new Map(),
      carried: [],
      isChanged: false,
      isReplacing: false,
      isQuiet: true,
      mayBeOutdated: false,
      dropped: [],
      resolvers: [],
    };
    let view: ChangedView | undefined;
    for (const { operation, resolve, reject } of batch) {
      let change: WholeEffect<unknown>;
      view ??= viewFor(applied.state, rows);
      try {
        change = operation(applied.state, this.#clock.now(), view);
      } catch (error) {
        applied.mayBeOutdated = true;
        applied.resolvers.push(() => reject(error));
        continue;
      }
      const { kind, result } = change;
      if (kind === "none") {
        if (!change.isFinal) applied.mayBeOutdated = true;
        applied.resolvers.push(() => resolve(result));
        continue;
      }
      // Deletions of expired rows, which the batch does not count, get a message of their own.
      const { expires = false } = kind === "write" ? change : {};
      if (expires && applied.records.length + applied.hidden.size > 0) break;
      applied.isChanged = true;
      if (kind === "remove") {
        view = undefined;
        Object.assign(applied, {
          state: undefined,
          records: [],
          transactions: [],
          hidden: new Map(),
          isReplacing: true,
          isQuiet: false,
        });
        applied.resolvers.push(() => resolve(result));
        continue;
      }
      for (const record of change.records) applied.records.push(record);
      if (!change.isQuiet) applied.isQuiet = false;
      const state = change.keep === undefined
        ? change.next
        : await this.#trim(part, cached, applied, change.next, change.keep);
      if (state === undefined) return undefined;
      applied.state = state;
      applied.resolvers.push(() => resolve(result(storedOf(state))));
      if (change.rows === undefined) continue;
      const { texts, rows: written } = change;
      if (texts === undefined) {
        // A new log; its rows are a message of their own.
        applied.carried = written.set;
        break;
      }
      view?.write(written);
      for (const { row } of written.forget.filter(isHidden)) applied.hidden.set(row, undefined);
      for (const row of written.set.filter(isHidden)) applied.hidden.set(row.row, row);
      if (texts.length > 0) {
        applied.transactions.push({ texts, set: written.set.filter((row) => !isHidden(row)) });
      }
      if (expires || applied.transactions.length === MAX_TRANSACTIONS) break;
    }
    return applied;
  }

  /**
   * Drops the oldest records beyond the retention, but always keeps the newest record. Returns
   * `undefined` if another node changed the log.
   */
  async #trim(
    part: string,
    cached: CachedLog,
    { records, isReplacing, dropped }: Applied,
    next: WholeLog,
    keep: Retention,
  ): Promise<WholeLog | undefined> {
    let { start, bytes } = next;
    const own = next.tail - records.length;
    while (isBeyondRetention({ ...next, start, bytes }, keep)) {
      const size = start >= own
        ? recordBytes([records[start - own]!])
        : await this.#sizeAt(part, cached, start);
      if (size === undefined) return undefined;
      bytes -= size;
      start++;
      // Replaced messages are removed all at once.
      while (!isReplacing && cached.oldest[0] !== undefined && endOf(cached.oldest[0]) <= start) {
        const { seq } = cached.oldest.shift()!;
        // The messages of a keyed log may still hold rows.
        if (next.keyed === undefined) dropped.push(seq);
      }
    }
    return { ...next, start, bytes };
  }

  /** Size of a kept record; `undefined` if another node changed the log. */
  async #sizeAt(part: string, cached: CachedLog, position: number): Promise<number | undefined> {
    const isAt = (one: MessageSizes) => one.first <= position && endOf(one) > position;
    if (!cached.oldest.some(isAt)) {
      // Read again, because the known message has no records.
      const newest = liveIn(await this.#streams.newest(part));
      if (newest?.seq !== cached.seq) return undefined;
      const messages = await this.#reader.messages(part, newest, position, SIZES_PAGE) ?? [];
      cached.oldest = messages.map((message) => ({
        seq: message.seq,
        first: firstOf(message),
        sizes: recordsOf(message).map((record) => recordBytes([record])),
      }));
    }
    const found = cached.oldest.find(isAt);
    return found?.sizes[position - found.first];
  }

  /**
   * Drops messages that no longer belong to any log. If this fails, or if there are too many
   * concurrent removals, the messages take up space until the log is removed.
   */
  async #cleanUp(act: () => Promise<void>): Promise<void> {
    if (this.#cleanUps.size >= MAX_CLEAN_UPS) return;
    const cleaning = act().catch(() => {}).finally(() => this.#cleanUps.delete(cleaning));
    this.#cleanUps.add(cleaning);
    await cleaning;
  }

  #cachedFrom(part: string, found: LogMessage | undefined): CachedLog {
    const message = liveIn(found);
    const bytes = message === undefined ? 0 : JSON.stringify(message.head).length;
    const era = this.#streams.era(part);
    const times = { turnStartMs: -Infinity, lastWriteMs: -Infinity, lastConflictMs: -Infinity };
    return { era, seq: found?.seq ?? 0, message, bytes, oldest: [], ...times };
  }

  #lookUp(id: string, part: string): CachedLog | undefined {
    const cached = this.#cache.get(id);
    if (cached === undefined || cached.era === this.#streams.era(part)) return cached;
    this.forget(id);
    return undefined;
  }

  #remember(id: string, cached: CachedLog): void {
    this.forget(id);
    // Absence is not remembered, because otherwise the creation of a log would go unnoticed.
    if (cached.message === undefined) return;
    this.#cache.set(id, { ...cached, message: { ...cached.message, body: NO_BYTES } });
    this.#cachedBytes += cached.bytes;
    for (const [oldest] of this.#cache) {
      if (this.#cache.size <= MAX_CACHED_LOGS && this.#cachedBytes <= MAX_CACHED_BYTES) break;
      this.forget(oldest);
    }
  }

  /** Forgets what is known of a log. */
  forget(id: string): void {
    this.#cachedBytes -= this.#cache.get(id)?.bytes ?? 0;
    this.#cache.delete(id);
  }
}

/** The payload of the announcement of an append. */
function carriedBy(
  before: LogHead | undefined,
  { state, records, transactions, hidden, carried }: Applied,
): Uint8Array | undefined {
  if (before === undefined || state === undefined) return undefined;
  const isPlain = state.keyed === undefined ||
    transactions.length === 1 && transactions[0]!.texts.length === 1;
  const isAppend = isPlain && hidden.size === 0 && carried.length === 0;
  return isAppend ? encodeCarried(storedOf(before.state), storedOf(state), records) : undefined;
}

function isKeyed({ message }: CachedLog): boolean {
  return message?.head.state.keyed !== undefined;
}

/** The rows for operations on a keyed log. A log that was created in the meantime has none. */
function viewFor(state: WholeLog | undefined, rows: LogRows | undefined): ChangedView | undefined {
  if (state?.keyed === undefined) return undefined;
  const isPresent = rows?.newest !== undefined &&
    chainOf(rows.newest.head.state) === chainOf(state);
  return new ChangedView(isPresent ? rows!.view : new MemoryRows());
}

function isHidden({ row }: LogRow): boolean {
  return isHiddenRow(row);
}

/** Number of the message after another one. */
function numberAfter(before: LogHead): number {
  return before.number + (isKept(before) ? 1 : 0);
}

function endOf({ first, sizes }: MessageSizes): number {
  return first + sizes.length;
}

/** True if the lists include a log, which are all responses and the streams with an owner. */
function isListed(id: string, { isDeleted, owner }: WholeLog): boolean {
  const kind = logKind(id);
  return !isDeleted && (kind === "answer" || kind === "stream" && owner !== undefined);
}
