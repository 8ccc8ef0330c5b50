/** Logs of durable streams in the memory of one process. */
import type { Runtime } from "../../base/runtime.ts";
import { BrokerError } from "../../errors.ts";
import { Fifo } from "../engine/queue.ts";
import { LogShares } from "../logs/log_shares.ts";
import type {
  AppendLogOptions,
  BrokerLogs,
  CreateLogOptions,
  LogAppended,
  LogCreated,
  LogOrigin,
  LogOverShare,
  LogPage,
  LogProducer,
  LogRecord,
  LogRetained,
  ReadLogOptions,
  RetainLogOptions,
} from "../logs/log.ts";
import { COSTS, type Counted, Sum } from "./space.ts";
import {
  decideAppend,
  decideDelete,
  decideFork,
  expiryOf,
  infoOf,
  isBeyond,
  isExpired,
  isWriterLost,
  type KeptLog,
  type KeptLogs,
  keptOf,
  type LogDeleted,
  type LogKind,
  logKind,
  type LogState,
  logTopic,
  newLog,
  type OwnedKind,
  presentLog,
  recordBytes,
  type StoredLog,
} from "../logs/rules.ts";

/** Most bytes of one append: as many as an engine behind a network connection takes. */
const MAX_APPEND_BYTES = 8_388_608;

/** A log, with what it takes in memory. */
class Log implements Counted {
  readonly id: string;
  readonly kind: LogKind;
  /** Number of the log among all that were ever created. */
  readonly number: number;
  state: StoredLog;
  /** Newest epoch and number of each producer: not part of the state, which each append copies. */
  readonly producers = new Map<string, LogState["producers"][string]>();
  /** Forks that need the log. */
  readonly forks = new Set<string>();
  /** The records from `state.start` on. */
  readonly records = new Fifo<LogRecord>();
  counted = 0;
  /** Bytes of the records in addition to their content. */
  #overhead = 0;
  #producerBytes = 0;

  constructor(id: string, number: number, state: StoredLog) {
    this.id = id;
    this.kind = logKind(id);
    this.number = number;
    this.state = state;
  }

  get cost(): number {
    return COSTS.log + this.id.length + this.state.bytes + this.#overhead + this.#producerBytes +
      COSTS.producer * this.producers.size + COSTS.fork * this.forks.size;
  }

  /** Appends records, and drops the oldest ones that the next state no longer has. */
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

  /** Bytes by which a change lets the log grow. */
  growth(next: StoredLog, records: readonly LogRecord[]): number {
    let growth = next.bytes - this.state.bytes;
    for (const record of records) growth += overheadOf(record);
    const drops = Math.min(next.start - this.state.start, this.records.length);
    for (let i = 0; i < drops; i++) growth -= overheadOf(this.records.at(i)!);
    return growth;
  }

  /** Notes the newest number of a producer. */
  note({ id, epoch, seq }: LogProducer): void {
    if (!this.producers.has(id)) this.#producerBytes += id.length;
    this.producers.set(id, [epoch, seq]);
  }
}

/** The logs of a {@linkcode MemoryBroker}. */
export class MemoryLogs implements BrokerLogs {
  readonly maxAppendBytes: number = MAX_APPEND_BYTES;
  readonly #runtime: Runtime;
  readonly #announce: (topic: string) => void;
  readonly #hasRoom: (bytes: number) => boolean;
  /** In the order of their creation. */
  readonly #logs = new Map<string, Log>();
  readonly #counts: Record<LogKind, number> = { answer: 0, request: 0, stream: 0 };
  #created = 0;
  readonly #sum = new Sum();
  readonly #shares: LogShares;
  #isClosed = false;

  /**
   * Begins without logs.
   *
   * @param runtime Clocks of the node.
   * @param options `announce` tells the subscriptions of a topic of a change, and MUST NOT throw.
   * `hasRoom` makes room for so many bytes of all logs, if there can be so many. `maxBytes` is the
   * bound of which clients have shares.
   */
  constructor(
    runtime: Runtime,
    { announce, hasRoom, maxBytes }: {
      readonly announce: (topic: string) => void;
      readonly hasRoom: (bytes: number) => boolean;
      readonly maxBytes: number;
    },
  ) {
    this.#runtime = runtime;
    this.#announce = announce;
    this.#hasRoom = hasRoom;
    // Histories give way to logs, and so take no room of a share.
    this.#shares = new LogShares({ maxBytes, usedBytes: () => this.bytes });
  }

  /** Bytes that all logs take. */
  get bytes(): number {
    return this.#sum.bytes;
  }

  async create(id: string, options: CreateLogOptions): Promise<LogCreated> {
    const now = this.#check("create");
    const present = this.#logs.get(id);
    if (present !== undefined) return presentLog(present.state, now);
    const kind = logKind(id);
    if (this.#counts[kind] >= options.maxLogs) return { kind: "too-many" };
    const state = newLog(options, now);
    const log = new Log(id, this.#created++, state);
    log.change(state, options.records);
    if (kind === "stream") this.#shares.note(id, state.owner);
    const refusal = this.#refusalOf(id, log.cost);
    if (refusal !== undefined) {
      this.#shares.forget(id);
      return refusal;
    }
    this.#logs.set(id, log);
    const count = ++this.#counts[kind];
    this.#count(log);
    this.#announce(logTopic(id));
    return await Promise.resolve({ kind: "created", info: infoOf(state), count });
  }

  async append(id: string, options: AppendLogOptions): Promise<LogAppended> {
    const now = this.#check("append");
    const log = this.#logs.get(id);
    const { producer } = options;
    const state = log && { ...log.state, producers: producersOf(log, producer?.id) };
    const decision = decideAppend(state, options, now);
    if (decision.kind !== "append") return await Promise.resolve(decision);
    const { records, keep } = options;
    const { producers: _known, ...whole } = decision.next;
    const recordAt = (i: number) => log!.records.at(i) ?? records[i - log!.records.length]!;
    const next = retained(whole, keep, recordAt);
    const refusal = this.#refusalOf(id, log!.growth(next, records));
    if (refusal !== undefined) return refusal;
    log!.change(next, records);
    if (producer !== undefined) log!.note(producer);
    this.#count(log!);
    this.#announce(logTopic(id));
    return { kind: "appended", info: infoOf(log!.state) };
  }

  async read(
    id: string,
    { after, maxRecords, maxBytes, renews }: ReadLogOptions,
  ): Promise<LogPage | "expired" | undefined> {
    const now = this.#check("read");
    const log = this.#logs.get(id);
    if (log === undefined) return await Promise.resolve(undefined);
    if (isExpired(log.state, now) && !log.state.isDeleted) return "expired";
    if (renews) log.state = { ...log.state, until: expiryOf(log.state, now) };
    const { start, tail } = log.state;
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

  async delete(
    id: string,
    { ifExpired = false }: { readonly ifExpired?: boolean } = {},
  ): Promise<LogDeleted> {
    const now = this.#check("delete");
    const log = this.#logs.get(id);
    const decision = decideDelete(log?.state, { ifExpired, forks: log?.forks.size ?? 0 }, now);
    if (decision.kind === "kept") log!.state = { ...log!.state, isDeleted: true };
    else if (decision.kind === "removed") this.#remove(log!);
    else return await Promise.resolve(decision);
    this.#announce(logTopic(id));
    return decision;
  }

  async retain(id: string, fork: string, options: RetainLogOptions): Promise<LogRetained> {
    const now = this.#check("fork");
    const log = this.#logs.get(id);
    const isKnown = log?.forks.has(fork) ?? false;
    const known = { forks: log?.forks.size ?? 0, isKnown };
    const result = decideFork(log?.state, { ...options, ...known }, now);
    if (result === "retained") {
      log!.forks.add(fork);
      this.#count(log!);
    }
    return await Promise.resolve(result);
  }

  async release(id: string, fork: string): Promise<LogOrigin | undefined> {
    this.#check("delete");
    const log = this.#logs.get(id);
    if (log === undefined) return await Promise.resolve(undefined);
    log.forks.delete(fork);
    this.#count(log);
    if (log.forks.size > 0 || !log.state.isDeleted) return undefined;
    this.#remove(log);
    return log.state.origin;
  }

  async overdue({ limit }: { readonly limit: number }): Promise<string[]> {
    const now = this.#check("list");
    const due: { readonly id: string; readonly at: number }[] = [];
    for (const [id, { state }] of this.#logs) {
      if (state.isDeleted) continue;
      if (isExpired(state, now)) due.push({ id, at: state.until! });
      else if (isWriterLost(state, now)) due.push({ id, at: state.writer!.until });
    }
    due.sort((a, b) => a.at - b.at);
    return await Promise.resolve(due.slice(0, limit).map(({ id }) => id));
  }

  async list(
    wanted: OwnedKind,
    { limit, after = "-1" }: { readonly limit: number; readonly after?: string },
  ): Promise<KeptLogs> {
    this.#check("list");
    const logs: KeptLog[] = [];
    for (const { id, kind, number, state } of this.#logs.values()) {
      if (kind !== wanted || state.isDeleted || number <= Number(after)) continue;
      logs.push(keptOf(id, state));
      if (logs.length === limit) return { logs, next: `${number}` };
    }
    return await Promise.resolve({ logs });
  }

  /** Forgets all logs; later calls reject. */
  close(): void {
    this.#isClosed = true;
    this.#logs.clear();
    Object.assign(this.#counts, { answer: 0, request: 0, stream: 0 });
    this.#sum.clear();
    this.#shares.clear();
  }

  /** Finds the bound that a log would exceed; makes room if there can be so many bytes. */
  #refusalOf(id: string, growth: number): LogOverShare | { readonly kind: "no-space" } | undefined {
    const overShare = this.#shares.exceeded(id, growth);
    if (overShare !== undefined) return overShare;
    return growth > 0 && !this.#hasRoom(this.bytes + growth) ? { kind: "no-space" } : undefined;
  }

  /** Counts the bytes of a log anew, after a change. */
  #count(log: Log): void {
    this.#sum.update(log);
    this.#shares.count(log.id, log.counted);
  }

  #remove(log: Log): void {
    this.#logs.delete(log.id);
    this.#counts[log.kind]--;
    this.#sum.remove(log);
    this.#shares.forget(log.id);
  }

  /** Returns the time; throws if the broker is closed. */
  #check(verb: string): number {
    if (this.#isClosed) throw new BrokerError(`Cannot ${verb}: the broker is closed`);
    return this.#runtime.now();
  }
}

/** The own number of a producer, or those of all producers if this one is new. */
function producersOf({ producers }: Log, id: string | undefined): LogState["producers"] {
  const own = id === undefined ? undefined : producers.get(id);
  if (own !== undefined) return { [id!]: own };
  return id === undefined ? {} : Object.fromEntries(producers);
}

/** The state without the oldest records beyond the retention; the newest one stays. */
function retained(
  state: StoredLog,
  keep: AppendLogOptions["keep"],
  recordAt: (index: number) => LogRecord,
): StoredLog {
  if (keep === undefined) return state;
  let { start, bytes } = state;
  while (isBeyond({ ...state, start, bytes }, keep)) {
    bytes -= recordBytes([recordAt(start - state.start)]);
    start++;
  }
  return { ...state, start, bytes };
}

/** Bytes of memory that a record takes in addition to its content. */
function overheadOf(record: LogRecord): number {
  return typeof record === "string" ? COSTS.text : COSTS.bytes;
}
