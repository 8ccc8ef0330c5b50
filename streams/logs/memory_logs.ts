/** Logs of durable streams in the memory of one process. */
import { Fifo } from "../../pubsub/broker/queue.ts";
import {
  CHANGE_WORDS,
  decide,
  type ForkNote,
  type LogChangeName,
  type LogChangeOptions,
  type LogChangeResult,
  type LogEffect,
  type LogRejection,
  type LogStore,
  type LogView,
  retained,
} from "./changes.ts";
import type { MarkView, MarkWrites } from "./callers.ts";
import type { BrokerLogs, LogPage, LogProducer, LogRecord, ReadLogOptions } from "./log.ts";
import { LogShares } from "./log_shares.ts";
import { MemoryRows } from "./memory_rows.ts";
import { entriesOf, namedRows } from "./rows.ts";
import { type LogKind, logKind, logTopic, type OwnedKind } from "./log_names.ts";
import {
  dueAt,
  expiryOf,
  infoOf,
  isExpired,
  recordBytes,
  type RetainedLog,
  type RetainedLogs,
  retainedOf,
  type StoredLog,
} from "./rules.ts";
import {
  ByteSum,
  type Counted,
  type MemoryTenant,
  type SharedMemory,
} from "../../pubsub/memory/space.ts";
import { logsOver } from "./late_logs.ts";

/** Maximum size of one append in bytes, which is as much as a broker across a network accepts. */
const MAX_APPEND_BYTES = 8_388_608;

/**
 * Bytes that each part uses in addition to its content, for objects, the headers of strings and
 * buffers, and map entries. They were measured in V8's heap and in the process.
 */
const COSTS = { log: 1_024, text: 64, bytes: 384, row: 256, producer: 128, fork: 128 } as const;

/** A log, with the memory that it uses. */
class Log implements Counted, LogView {
  readonly id: string;
  readonly kind: LogKind;
  /** Number of the log among all that were ever created. */
  readonly number: number;
  state: StoredLog;
  readonly #producers = new Map<string, readonly [epoch: number, seq: number]>();
  /** The marks of callers, by name. */
  readonly #marks = new Map<string, string>();
  readonly #forks = new Set<string>();
  /** The records from `state.start` on. */
  readonly records = new Fifo<LogRecord>();
  readonly rows: MemoryRows | undefined;
  counted = 0;
  /** Bytes that the records use in addition to their content. */
  #overhead = 0;
  /** Bytes of the names of producers, and of the marks with their names. */
  #producerBytes = 0;

  /** Creates a log without records; the first change adds them. */
  constructor(id: string, number: number, state: StoredLog) {
    this.id = id;
    this.kind = logKind(id);
    this.number = number;
    this.state = { ...state, bytes: 0 };
    this.rows = state.keyed && new MemoryRows();
  }

  get cost(): number {
    return COSTS.log + this.id.length + this.state.bytes + this.#overhead + this.#producerBytes +
      COSTS.producer * (this.producerCount + this.#marks.size) + COSTS.fork * this.forkCount +
      costOfRows(this.state);
  }

  get producerCount(): number {
    return this.#producers.size;
  }

  get forkCount(): number {
    return this.#forks.size;
  }

  numbersOf(producer: string): readonly [epoch: number, seq: number] | undefined {
    return this.#producers.get(producer);
  }

  get marks(): MarkView {
    return { mark: (name) => this.#marks.get(name), allMarks: () => this.#marks };
  }

  noteMarks({ set, drop }: MarkWrites): void {
    const forget = (name: string) => {
      const mark = this.#marks.get(name);
      if (mark === undefined) return;
      this.#producerBytes -= name.length + mark.length;
      this.#marks.delete(name);
    };
    for (const name of drop) forget(name);
    for (const [name, mark] of set) {
      forget(name);
      this.#marks.set(name, mark);
      this.#producerBytes += name.length + mark.length;
    }
  }

  hasFork(fork: string): boolean {
    return this.#forks.has(fork);
  }

  /** Appends records, and drops the oldest ones that the next state no longer includes. */
  change(next: StoredLog, records: readonly LogRecord[]): void {
    for (const record of records) {
      this.records.push(record);
      this.#overhead += overheadOf(record);
    }
    for (let drops = next.start - this.state.start; drops > 0; drops--) {
      this.#overhead -= overheadOf(this.records.shift()!);
    }
    this.state = next;
  }

  /** Bytes by which a change makes the log grow. */
  growth(next: StoredLog, records: readonly LogRecord[]): number {
    let growth = next.bytes - this.state.bytes + costOfRows(next) - costOfRows(this.state);
    for (const record of records) growth += overheadOf(record);
    const drops = Math.min(next.start - this.state.start, this.records.length);
    for (let i = 0; i < drops; i++) growth -= overheadOf(this.records.at(i)!);
    return growth;
  }

  noteProducer({ id, epoch, seq }: LogProducer): void {
    if (!this.#producers.has(id)) this.#producerBytes += id.length;
    this.#producers.set(id, [epoch, seq]);
  }

  /** Adds or removes a fork. */
  noteFork({ name, isGone }: ForkNote): void {
    if (isGone) this.#forks.delete(name);
    else this.#forks.add(name);
  }
}

/** The logs of a {@linkcode MemoryBroker}. */
export class MemoryLogs implements LogStore, MemoryTenant {
  readonly maxAppendBytes: number = MAX_APPEND_BYTES;
  readonly keepsRows = true;
  /** The logs, for callers. */
  readonly logs: BrokerLogs = logsOver(this, this);
  readonly #memory: SharedMemory;
  /** Ordered by creation. */
  readonly #logs = new Map<string, Log>();
  readonly #counts: Record<LogKind, number> = { answer: 0, request: 0, stream: 0 };
  #created = 0;
  readonly #sum = new ByteSum();
  readonly #shares: LogShares;

  constructor(memory: SharedMemory) {
    this.#memory = memory;
    const { maxBytes } = memory;
    // Histories give way to logs, so they use up no share.
    this.#shares = new LogShares({ maxBytes, usedBytes: () => this.bytes });
  }

  get bytes(): number {
    return this.#sum.bytes;
  }

  async change<N extends LogChangeName>(
    id: string,
    name: N,
    options: LogChangeOptions<N>,
  ): Promise<LogChangeResult<N>> {
    const now = this.#check(CHANGE_WORDS[name]);
    const log = this.#logs.get(id);
    const count = this.#counts[logKind(id)];
    const effect = decide(log, [name, options], { now, count });
    if (effect.kind === "none") return await Promise.resolve(effect.result);
    return this.#apply(id, log, effect);
  }

  async read(
    id: string,
    { after, maxRecords, maxBytes, renews, rows, tail: ofTail }: ReadLogOptions,
  ): Promise<LogPage | "expired" | undefined> {
    const now = this.#check("read a log");
    const log = this.#logs.get(id);
    if (log === undefined) return await Promise.resolve(undefined);
    if (isExpired(log.state, now) && !log.state.isDeleted) return "expired";
    if (renews) log.state = { ...log.state, until: expiryOf(log.state, now) };
    const { start, tail } = log.state;
    if (log.rows !== undefined && !ofTail) {
      const page = rows === undefined
        ? log.rows.read({ after, maxRecords, maxBytes }, tail)
        : namedRows(log.rows, rows, maxBytes);
      return { info: infoOf(log.state), ...page };
    }
    const records: LogRecord[] = [];
    let bytes = 0;
    for (let at = after; at >= start && at < tail && records.length < maxRecords; at++) {
      const record = log.records.at(at - start)!;
      bytes += recordBytes([record]);
      if (bytes > maxBytes && records.length > 0) break;
      records.push(record);
    }
    return { info: infoOf(log.state), records };
  }

  async overdue({ limit }: { readonly limit: number }): Promise<string[]> {
    const now = this.#check("list logs");
    const due: { readonly id: string; readonly at: number }[] = [];
    for (const [id, { state }] of this.#logs) {
      const at = dueAt(state);
      if (at !== undefined && at <= now) due.push({ id, at });
    }
    due.sort((a, b) => a.at - b.at);
    return await Promise.resolve(due.slice(0, limit).map(({ id }) => id));
  }

  async list(
    wanted: OwnedKind,
    { limit, after = "-1" }: { readonly limit: number; readonly after?: string | undefined },
  ): Promise<RetainedLogs> {
    this.#check("list logs");
    const logs: RetainedLog[] = [];
    for (const { id, kind, number, state } of this.#logs.values()) {
      if (kind !== wanted || state.isDeleted || number <= Number(after)) continue;
      logs.push(retainedOf(id, state));
      if (logs.length === limit) return { logs, next: `${number}` };
    }
    return await Promise.resolve({ logs });
  }

  clear(): void {
    this.#logs.clear();
    Object.assign(this.#counts, { answer: 0, request: 0, stream: 0 });
    this.#sum.clear();
    this.#shares.clear();
  }

  #apply<R>(
    id: string,
    present: Log | undefined,
    effect: Exclude<LogEffect<R>, { readonly kind: "none" }>,
  ): R {
    if (effect.kind === "remove") {
      this.#remove(present!);
      this.#memory.announce(logTopic(id));
      return effect.result;
    }
    const { records, rows, producer, marks, fork, isQuiet, result, rejected } = effect;
    const log = present ?? this.#opened(id, effect.next);
    const next = retained(effect, (i) => {
      return recordBytes([log.records.at(i) ?? records[i - log.records.length]!]);
    });
    const growth = log.growth(next, records) + (present === undefined ? log.cost : 0);
    const rejection = rejected && this.#rejectionOf(id, growth);
    if (rejected !== undefined && rejection !== undefined) {
      if (present === undefined) this.#shares.forget(id);
      return rejected(rejection);
    }
    if (present === undefined) {
      this.#logs.set(id, log);
      this.#counts[log.kind]++;
    }
    log.change(next, records);
    if (rows !== undefined) log.rows!.write(rows);
    if (producer !== undefined) log.noteProducer(producer);
    if (marks !== undefined) log.noteMarks(marks);
    if (fork !== undefined) log.noteFork(fork);
    this.#sum.update(log);
    this.#shares.count(id, log.counted);
    if (!isQuiet) this.#memory.announce(logTopic(id));
    return result(next);
  }

  /** Creates a log that is in no list yet. */
  #opened(id: string, state: StoredLog): Log {
    const log = new Log(id, this.#created++, state);
    if (log.kind === "stream") this.#shares.note(id, state.owner);
    return log;
  }

  /** Finds the bound that a log would exceed; makes room for the bytes if possible. */
  #rejectionOf(id: string, growth: number): LogRejection | undefined {
    const overShare = this.#shares.exceeded(id, growth);
    if (overShare !== undefined) return overShare;
    return growth > 0 && !this.#memory.hasRoom(this.bytes + growth)
      ? { kind: "no-space" }
      : undefined;
  }

  #remove(log: Log): void {
    this.#logs.delete(log.id);
    this.#counts[log.kind]--;
    this.#sum.remove(log);
    this.#shares.forget(log.id);
  }

  /** Returns the time; throws if the broker is closed. */
  #check(verb: string): number {
    this.#memory.life.checkCall(verb);
    return this.#memory.runtime.now();
  }
}

/** Bytes of memory that the rows of a log use. */
function costOfRows({ rows }: StoredLog): number {
  return rows === undefined ? 0 : rows.bytes + COSTS.row * entriesOf(rows);
}

/** Bytes of memory that a record uses in addition to its content. */
function overheadOf(record: LogRecord): number {
  return typeof record === "string" ? COSTS.text : COSTS.bytes;
}
