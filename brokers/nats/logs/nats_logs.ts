/** Logs of durable streams in JetStream. */
import { BrokerError } from "../../../errors.ts";
import { within } from "../../../base/wait.ts";
import { textOf } from "../../../base/error_text.ts";
import type { Runtime } from "../../../base/runtime.ts";
import type { WaitingBudget } from "../../../pubsub/engine/queue.ts";
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
} from "../../../pubsub/logs/log.ts";
import {
  decideAppend,
  decideDelete,
  decideFork,
  expiryOf,
  infoOf,
  isExpired,
  type KeptLogs,
  type LogDeleted,
  type LogKind,
  logKind,
  newLog,
  type OwnedKind,
  presentLog,
  type WholeLog,
} from "../../../pubsub/logs/rules.ts";
import { type Names, subjectPart } from "../format.ts";
import type { EngineClock } from "../clock.ts";
import type { Link } from "../link.ts";
import type { NatsSettings } from "../options.ts";
import { DueIndex } from "./due_index.ts";
import { encodedBytes, liveIn, stateBytes } from "./format.ts";
import { LogReader, MAX_READ_ATTEMPTS, unreadable } from "./log_reader.ts";
import { LogStreams } from "./log_streams.ts";
import { type LogOperation, LogWriter } from "./log_writer.ts";

/**
 * Part of the time to live by which a use may outlast it. A log that is read all the time is then
 * renewed once in this part, and not with each read.
 */
const SPARE_SHARE = 1 / 8;

/** Longest use of a count of logs, in milliseconds. */
const COUNT_MS = 1_000;

/** Number of logs of one kind. */
interface Count {
  /** The number, with the logs that this node is about to create. */
  number: number;
  atMs: number;
  counting: Promise<void> | undefined;
}

/** The logs of one broker. All logs are in one stream; each change is one message. */
export class NatsLogs implements BrokerLogs {
  readonly #runtime: Runtime;
  readonly #clock: EngineClock;
  readonly #streams: LogStreams;
  readonly #reader: LogReader;
  readonly #due: DueIndex;
  readonly #writer: LogWriter;
  readonly #counts: Readonly<Record<LogKind, Count>> = {
    answer: { number: 0, atMs: -Infinity, counting: undefined },
    request: { number: 0, atMs: -Infinity, counting: undefined },
    stream: { number: 0, atMs: -Infinity, counting: undefined },
  };
  #isClosed = false;

  constructor(link: Link, names: Names, settings: NatsSettings, budget: WaitingBudget) {
    const { runtime, clock } = link;
    this.#runtime = runtime;
    this.#clock = clock;
    this.#streams = new LogStreams(link, names.logs, settings);
    this.#reader = new LogReader(this.#streams);
    this.#due = new DueIndex(clock, this.#streams);
    this.#writer = new LogWriter(link, this.#streams, this.#reader, this.#due, budget);
  }

  /** Most bytes of the records of one append: half of a message of the server. */
  get maxAppendBytes(): number {
    return this.#streams.maxAppendBytes;
  }

  /** Describes streams that are not available. */
  issues(): string[] {
    const { problem } = this.#streams;
    return problem === undefined ? [] : [`Logs are not available: ${textOf(problem)}`];
  }

  /** Refuses further calls; changes under way go on. */
  end(): void {
    this.#isClosed = true;
  }

  /** Resolves once no change is under way. */
  async idle(): Promise<void> {
    await this.#writer.idle();
  }

  async create(id: string, options: CreateLogOptions): Promise<LogCreated> {
    const part = this.#check("create a log", id);
    const { records, maxLogs } = options;
    const bytes = encodedBytes(records);
    const maxBytes = this.#streams.maxRecordBytes;
    if (bytes > maxBytes) {
      throw new RangeError(
        `Cannot create a log: the records must take at most ${maxBytes} bytes, received ${bytes}`,
      );
    }
    const count = this.#counts[logKind(id)];
    const isFull = await this.#isFull(logKind(id), maxLogs);
    count.number++;
    let isCreated = false;
    try {
      const result = await this.#writer.change<LogCreated>(id, part, bytes, (state, now) => {
        if (state !== undefined) return { kind: "none", result: presentLog(state, now) };
        if (isFull) return { kind: "none", result: { kind: "too-many" } };
        const next = used({ ...newLog(options, now), producers: {}, forks: [] }, now);
        this.#checkState("create a log", next);
        return {
          kind: "write",
          next,
          records,
          result: (written) => ({
            kind: "created",
            info: infoOf(written),
            count: count.number,
          }),
        };
      });
      isCreated = result.kind === "created";
      return result;
    } finally {
      if (!isCreated) count.number--;
    }
  }

  async append(id: string, options: AppendLogOptions): Promise<LogAppended> {
    const part = this.#check("append", id);
    const { records, producer, keep } = options;
    const bytes = encodedBytes(records);
    if (bytes > this.#streams.maxRecordBytes) return { kind: "full" };
    return await this.#writer.change<LogAppended>(id, part, bytes, (state, now) => {
      const decision = decideAppend(state, options, now);
      if (decision.kind !== "append") return { kind: "none", result: decision };
      const next = used(decision.next, now);
      const isNew = producer !== undefined && !Object.hasOwn(state!.producers, producer.id);
      if (isNew && stateBytes(next) > this.#streams.maxStateBytes) {
        return { kind: "none", result: { kind: "too-many-producers" } };
      }
      return {
        kind: "write",
        next,
        records,
        ...(keep && { keep }),
        result: (written) => ({ kind: "appended", info: infoOf(written) }),
      };
    });
  }

  async read(
    id: string,
    options: ReadLogOptions,
  ): Promise<LogPage | "expired" | undefined> {
    const part = this.#check("read a log", id);
    const { signal } = options;
    signal?.throwIfAborted();
    return await within(this.#runtime, this.#read(id, part, options), { signal });
  }

  async delete(
    id: string,
    { ifExpired = false }: { readonly ifExpired?: boolean } = {},
  ): Promise<LogDeleted> {
    return await this.#change<LogDeleted>("delete a log", id, (state, now) => {
      const result = decideDelete(state, { ifExpired, forks: state?.forks.length ?? 0 }, now);
      if (result.kind === "removed") return { kind: "remove", result };
      if (result.kind !== "kept") return { kind: "none", result };
      const next: WholeLog = { ...state!, isDeleted: true };
      return { kind: "write", next, records: [], result: () => result };
    });
  }

  async retain(id: string, fork: string, options: RetainLogOptions): Promise<LogRetained> {
    return await this.#change<LogRetained>("fork a log", id, (state, now) => {
      const isKnown = state?.forks.includes(fork) ?? false;
      const known = { forks: state?.forks.length ?? 0, isKnown };
      const result = decideFork(state, { ...options, ...known }, now);
      if (isKnown || result !== "retained") return { kind: "none", result };
      const next = { ...state!, forks: [...state!.forks, fork] };
      this.#checkState("fork a log", next);
      return { kind: "write", next, records: [], isQuiet: true, result: () => result };
    });
  }

  async release(id: string, fork: string): Promise<LogOrigin | undefined> {
    return await this.#change("delete a log", id, (state) => {
      const isKnown = state?.forks.includes(fork);
      if (!isKnown) return { kind: "none", result: undefined };
      const forks = state!.forks.filter((one) => one !== fork);
      if (forks.length === 0 && state!.isDeleted) return { kind: "remove", result: state!.origin };
      const next = { ...state!, forks };
      return { kind: "write", next, records: [], isQuiet: true, result: () => undefined };
    });
  }

  async overdue({ limit }: { readonly limit: number }): Promise<string[]> {
    if (this.#isClosed) throw closed("list logs");
    return await this.#due.list(limit);
  }

  async list(
    kind: OwnedKind,
    options: { readonly limit: number; readonly after?: string },
  ): Promise<KeptLogs> {
    if (this.#isClosed) throw closed("list logs");
    return await this.#streams.list(kind, options);
  }

  async #change<T>(what: string, id: string, operation: LogOperation<T>): Promise<T> {
    return await this.#writer.change(id, this.#check(what, id), 0, operation);
  }

  async #read(
    id: string,
    part: string,
    { after, maxRecords, maxBytes, renews, signal }: ReadLogOptions,
  ): Promise<LogPage | "expired" | undefined> {
    await this.#streams.open(signal);
    for (let attempt = 0; attempt < MAX_READ_ATTEMPTS; attempt++) {
      const newest = liveIn(await this.#streams.newest(part));
      if (newest === undefined) return undefined;
      const { state } = newest.head;
      const now = this.#clock.now();
      this.#due.saw(id, state);
      if (isExpired(state, now) && !state.isDeleted) return "expired";
      const renewing = renews && isDueForRenewal(state, now)
        ? this.#renew(id, part, state.identity)
        : undefined;
      const isWithin = after >= state.start && after < state.tail && maxRecords > 0;
      const reading: Promise<LogRecord[] | undefined> = isWithin
        ? this.#reader.read(part, newest, after, { maxRecords, maxBytes })
        : Promise.resolve([]);
      const [records] = await Promise.all([reading, renewing]);
      if (records !== undefined) return { info: infoOf(state), records };
    }
    throw unreadable(after);
  }

  async #renew(id: string, part: string, identity: string): Promise<void> {
    await this.#writer.change(id, part, 0, (state, now) => {
      // A log that this node takes for expired may be in use on another one, or be another log.
      if (state?.identity !== identity || isExpired(state, now)) {
        return { kind: "none", result: undefined };
      }
      if (!isDueForRenewal(state, now)) return { kind: "none", result: undefined, isSure: true };
      const next = used(state, now);
      return { kind: "write", next, records: [], isQuiet: true, result: () => undefined };
    });
  }

  /** Tells whether there are too many logs for another one, by a count of the last second. */
  async #isFull(kind: LogKind, maxLogs: number): Promise<boolean> {
    const count = this.#counts[kind];
    const isOld = this.#runtime.monotonic() - count.atMs >= COUNT_MS;
    if (isOld || count.number >= maxLogs) {
      // Calls at once share one request.
      count.counting ??= this.#countLogs(kind, maxLogs).finally(() => count.counting = undefined);
      await count.counting;
    }
    return count.number >= maxLogs;
  }

  /** Counts the logs of a kind, or of all kinds while there is plenty of room. */
  async #countLogs(kind: LogKind, maxLogs: number): Promise<void> {
    const now = this.#runtime.monotonic();
    const all = await this.#streams.count();
    const number = all * 2 < maxLogs ? all : await this.#countKind(kind, all);
    Object.assign(this.#counts[kind], { number, atMs: now });
  }

  async #countKind(kind: LogKind, all: number): Promise<number> {
    if (kind !== "stream") return await this.#streams.countKind(kind);
    const others = [this.#streams.countKind("answer"), this.#streams.countKind("request")];
    const [answers = 0, requests = 0] = await Promise.all(others);
    return Math.max(0, all - answers - requests);
  }

  #checkState(what: string, state: WholeLog): void {
    const most = this.#streams.maxStateBytes;
    const bytes = stateBytes(state);
    if (bytes <= most) return;
    throw new RangeError(
      `Cannot ${what}: the state of the log must take at most ${most} bytes, received ${bytes}`,
    );
  }

  /** Returns the subject part of a log. */
  #check(what: string, id: string): string {
    if (this.#isClosed) throw closed(what);
    return subjectPart(id);
  }
}

/** The state after a use; the log stays some time longer than promised, by {@linkcode SPARE_SHARE}. */
function used(state: WholeLog, now: number): WholeLog {
  return { ...state, until: expiryOf(state, now + (state.ttlMs ?? 0) * SPARE_SHARE) };
}

/** Tells whether a log would expire before the time to live after a use is over. */
function isDueForRenewal(state: WholeLog, now: number): boolean {
  const until = expiryOf(state, now);
  return !state.isDeleted && until !== undefined && state.until !== undefined &&
    until > state.until;
}

function closed(what: string): BrokerError {
  return new BrokerError(`Cannot ${what}: the broker is closed`);
}
