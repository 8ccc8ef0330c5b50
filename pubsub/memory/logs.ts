/** Logs of durable streams in the memory of one process. */
import type { Runtime } from "../../base/runtime.ts";
import { BrokerError } from "../../errors.ts";
import { Fifo } from "../engine_flow.ts";
import type {
  AppendLogOptions,
  BrokerLogs,
  CreateLogOptions,
  LogAppended,
  LogCreated,
  LogOrigin,
  LogPage,
  LogRecord,
  LogRetained,
  ReadLogOptions,
  RetainLogOptions,
} from "../logs/log.ts";
import {
  decideAppend,
  decideDelete,
  decideFork,
  expiryOf,
  infoOf,
  isBeyond,
  isExpired,
  isWriterLost,
  type LogDeleted,
  type LogState,
  logTopic,
  newLog,
  presentLog,
  recordBytes,
  type StoredLog,
} from "../logs/rules.ts";

/** Most bytes of one append: as many as an engine behind a network connection takes. */
const MAX_APPEND_BYTES = 8_388_608;

interface Log {
  state: StoredLog;
  /** Newest epoch and number of each producer: not part of the state, which each append copies. */
  readonly producers: Map<string, LogState["producers"][string]>;
  /** Forks that need the log. */
  readonly forks: Set<string>;
  /** The records from `state.start` on. */
  readonly records: Fifo<LogRecord>;
}

/** The logs of a {@linkcode MemoryBroker}. */
export class MemoryLogs implements BrokerLogs {
  readonly maxAppendBytes: number = MAX_APPEND_BYTES;
  readonly #runtime: Runtime;
  readonly #announce: (topic: string) => void;
  readonly #logs = new Map<string, Log>();
  #isClosed = false;

  /**
   * Begins without logs.
   *
   * @param runtime Clocks of the node.
   * @param announce Tells the subscriptions of a topic of a change. MUST NOT throw.
   */
  constructor(runtime: Runtime, announce: (topic: string) => void) {
    this.#runtime = runtime;
    this.#announce = announce;
  }

  async create(id: string, options: CreateLogOptions): Promise<LogCreated> {
    const now = this.#check("create");
    const present = this.#logs.get(id);
    if (present !== undefined) return presentLog(present.state, now);
    if (this.#logs.size >= options.maxLogs) return { kind: "too-many" };
    const state = newLog(options, now);
    const records = new Fifo<LogRecord>();
    for (const record of options.records) records.push(record);
    this.#logs.set(id, { state, records, producers: new Map(), forks: new Set() });
    this.#announce(logTopic(id));
    return await Promise.resolve({ kind: "created", info: infoOf(state) });
  }

  async append(id: string, options: AppendLogOptions): Promise<LogAppended> {
    const now = this.#check("append");
    const log = this.#logs.get(id);
    const { producer } = options;
    const state = log && { ...log.state, producers: producersOf(log, producer?.id) };
    const decision = decideAppend(state, options, now);
    if (decision.kind !== "append") return await Promise.resolve(decision);
    for (const record of options.records) log!.records.push(record);
    if (producer !== undefined) log!.producers.set(producer.id, [producer.epoch, producer.seq]);
    const { producers: _known, ...next } = decision.next;
    log!.state = trim(next, log!.records, options.keep);
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
    else if (decision.kind === "removed") this.#logs.delete(id);
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
    if (result === "retained") log!.forks.add(fork);
    return await Promise.resolve(result);
  }

  async release(id: string, fork: string): Promise<LogOrigin | undefined> {
    this.#check("delete");
    const log = this.#logs.get(id);
    if (log === undefined) return await Promise.resolve(undefined);
    log.forks.delete(fork);
    if (log.forks.size > 0 || !log.state.isDeleted) return undefined;
    this.#logs.delete(id);
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

  /** Forgets all logs; later calls reject. */
  close(): void {
    this.#isClosed = true;
    this.#logs.clear();
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

/** Drops the oldest records beyond the retention; the newest one stays. */
function trim(
  state: StoredLog,
  records: Fifo<LogRecord>,
  keep: AppendLogOptions["keep"],
): StoredLog {
  let { start, bytes } = state;
  while (keep !== undefined && isBeyond({ ...state, start, bytes }, keep)) {
    bytes -= recordBytes([records.shift()!]);
    start++;
  }
  return { ...state, start, bytes };
}
