/** Logs of durable streams in JetStream. */
import { abortable } from "@std/async/abortable";
import type { Runtime } from "../../../base/runtime.ts";
import { DamageError } from "../../../pubsub/broker/damage.ts";
import { BrokerError } from "../../../errors.ts";
import { BrokerOutbox, type WaitingBudget } from "../../../pubsub/broker/queue.ts";
import {
  CHANGE_WORDS,
  decide,
  type LogChangeName,
  type LogChangeOptions,
  type LogChangeResult,
  type LogStore,
  type LogWrite,
} from "../../../streams/logs/changes.ts";
import type {
  AppendLogOptions,
  CreateLogOptions,
  LogCreated,
  LogPage,
  LogRecord,
  ReadLogOptions,
} from "../../../streams/logs/log.ts";
import { readCarried } from "../../../streams/logs/announcement.ts";
import { type LogKind, logKind, type OwnedKind } from "../../../streams/logs/log_names.ts";
import {
  expiryOf,
  infoOf,
  isExpired,
  type RetainedLogs,
  type StoredLog,
} from "../../../streams/logs/rules.ts";
import { type NatsNames, subjectPart } from "../format.ts";
import type { NatsClock } from "../clock.ts";
import { textOf } from "../../../base/error_text.ts";
import { limitText } from "../limits.ts";
import type { NatsLink } from "../link.ts";
import type { NatsSettings } from "../options.ts";
import { DueIndex } from "./due_index.ts";
import { HeardLogs, isBehind } from "./heard_logs.ts";
import {
  chainOf,
  encodedBytes,
  liveIn,
  type LiveMessage,
  stateBytes,
  storedOf,
  viewOf,
  wholeAfter,
  type WholeLog,
} from "./format.ts";
import { LogReader, MAX_READ_ATTEMPTS, unreadable } from "./log_reader.ts";
import { LogStreams } from "./log_streams.ts";
import { LogWriter, type WholeEffect } from "./log_writer.ts";
import { changeBytes } from "../../../streams/logs/change_message.ts";
import { RETRY_MS, RowCache } from "./row_cache.ts";
import { carriedRows, PLACE_BYTES, TRANSACTION_BYTES } from "./row_format.ts";

/**
 * Fraction of the time to live by which a log may be kept longer. A log that is constantly read is
 * then renewed once in this time instead of with each read.
 */
const SPARE_SHARE = 1 / 8;

/** Number of times that the leader has to confirm a loss, and the pause in between. */
const CONFIRMATIONS = 2;
const CONFIRM_MS = 1_000;

/** Pause after a loss that the leader did not confirm, in milliseconds. */
const LATE_MS = 100;

/** The error for a call while the servers of a cluster disagree about the newest changes. */
function late(what: string): BrokerError {
  return new BrokerError(`Cannot ${what}: the leader of its stream lacks changes for now`);
}

/** Thrown within a change of a log that seems to have lost changes. */
class BehindError extends Error {}

/** Time for which a count of logs is reused, in milliseconds. */
const COUNT_MS = 1_000;

interface Count {
  /** The number, including the logs that this node is about to create. */
  number: number;
  atMs: number;
  counting: Promise<void> | undefined;
}

/** The logs of one broker, spread over several streams. Each change is one message. */
export class NatsLogs implements LogStore {
  readonly #link: NatsLink;
  readonly #runtime: Runtime;
  readonly #clock: NatsClock;
  readonly #streams: LogStreams;
  readonly #reader: LogReader;
  readonly #due: DueIndex;
  readonly #rows: RowCache;
  readonly #writer: LogWriter;
  readonly #heard = new HeardLogs();
  /** Logs that seem to have lost changes; bounded by the calls that wait for them. */
  readonly #renewing = new Map<string, Promise<void>>();
  readonly #counts: Readonly<Record<LogKind, Count>> = {
    answer: { number: 0, atMs: -Infinity, counting: undefined },
    request: { number: 0, atMs: -Infinity, counting: undefined },
    stream: { number: 0, atMs: -Infinity, counting: undefined },
  };

  constructor(link: NatsLink, names: NatsNames, settings: NatsSettings, budget: WaitingBudget) {
    const { runtime, clock } = link;
    this.#link = link;
    this.#runtime = runtime;
    this.#clock = clock;
    this.#streams = new LogStreams(link, names, settings);
    this.#reader = new LogReader(this.#streams);
    this.#due = new DueIndex(clock, this.#streams);
    // A change has its own time limits, so the outbox drops none.
    const outbox = new BrokerOutbox({ ...settings, broker: "NATS", giveUpMs: undefined, budget });
    this.#rows = new RowCache(link, this.#streams);
    this.#writer = new LogWriter(link, this.#streams, this.#reader, this.#due, this.#rows, outbox);
  }

  issues(): string[] {
    // The broker's lifecycle describes limits.
    const problems = this.#streams.problems.filter((problem) => limitText(problem) === undefined);
    return [...new Set(problems.map(textOf))].map((text) => `Logs are not available: ${text}`);
  }

  /** Remembers the state that an announcement carries. It may be older than another identity. */
  hear(id: string, payload: string | Uint8Array): void {
    const carried = readCarried(payload);
    const known = this.#heard.newest(id);
    if (carried === undefined || known !== undefined && known.identity !== carried.identity) return;
    this.#heard.note(id, carried);
  }

  /** Resolves once no change is in flight. */
  async idle(): Promise<void> {
    await this.#writer.idle();
  }

  async change<N extends LogChangeName>(
    id: string,
    name: N,
    options: LogChangeOptions<N>,
  ): Promise<LogChangeResult<N>> {
    const part = this.#check(CHANGE_WORDS[name], id);
    const { records = [], changes, rows, maxLogs } = options as Partial<
      AppendLogOptions & CreateLogOptions
    >;
    const rowBytes = encodedBytes(rows === undefined ? [] : carriedRows(rows.set));
    const transactionBytes = changes === undefined
      ? 0
      : TRANSACTION_BYTES + changeBytes(changes, PLACE_BYTES);
    const bytes = encodedBytes(records) + transactionBytes + rowBytes;
    const maxBytes = this.#streams.maxRecordBytes;
    if (bytes > maxBytes) {
      if (name === "append") return { kind: "full" } as LogChangeResult<N>;
      throw new RangeError(
        `Cannot create a log: the records must take at most ${maxBytes} bytes, received ${bytes}`,
      );
    }
    const changeOnce = (count: number) => {
      // A change that this node hears of meanwhile is not lost.
      const heard = this.#heard.newest(id);
      return this.#writer.change<LogChangeResult<N>>(id, part, bytes, (state, now, rows) => {
        if (isBehind(state, heard)) throw new BehindError();
        const effect = decide(state && viewOf(state, rows), [name, options], { now, count });
        if (effect.kind !== "write") return effect;
        const result = (written: StoredLog) => {
          this.#heard.note(id, written);
          return effect.result(written);
        };
        return this.#whole(name, state, { ...effect, result }, now);
      });
    };
    const change = async (count: number) => {
      for (let attempt = 1;; attempt++) {
        try {
          return await changeOnce(count);
        } catch (error) {
          if (!(error instanceof BehindError)) throw error;
          if (attempt === MAX_READ_ATTEMPTS) throw late(CHANGE_WORDS[name]);
          // The writer's memory, which it has forgotten now, may have been older than an announcement.
          if (attempt > 1) await this.#renewIfBehind(id, part);
        }
      }
    };
    if (name === "delete") return await this.#delete(id, part, () => change(0));
    if (maxLogs === undefined) return await change(0);
    const create = change as (count: number) => Promise<LogCreated>;
    return await this.#counted(logKind(id), maxLogs, create) as LogChangeResult<N>;
  }

  async read(
    id: string,
    options: ReadLogOptions,
  ): Promise<LogPage | "expired" | undefined> {
    const part = this.#check("read a log", id);
    const { signal } = options;
    signal?.throwIfAborted();
    const reading = this.#read(id, part, options);
    return await (signal ? abortable(reading, signal) : reading);
  }

  async overdue({ limit }: { readonly limit: number }): Promise<string[]> {
    this.#link.life.checkCall("list logs");
    return await this.#due.list(limit);
  }

  async list(
    kind: OwnedKind,
    options: { readonly limit: number; readonly after?: string | undefined },
  ): Promise<RetainedLogs> {
    this.#link.life.checkCall("list logs");
    return await this.#streams.list(kind, options);
  }

  /** Deletes a log. If its messages are damaged, all of them are removed. */
  async #delete<R>(id: string, part: string, change: () => Promise<R>): Promise<R> {
    try {
      return await change();
    } catch (error) {
      if (!(error instanceof DamageError)) throw error;
      await this.#streams.purge(part);
      this.#writer.forget(id);
      this.#rows.forget(part);
      return { kind: "removed" } as R;
    }
  }

  /** A write of the whole state, if it fits into a message. */
  #whole<N extends LogChangeName>(
    name: N,
    before: WholeLog | undefined,
    write: LogWrite<LogChangeResult<N>>,
    now: number,
  ): WholeEffect<LogChangeResult<N>> {
    const whole = wholeAfter(before, write);
    const next = name === "create" || name === "append" ? used(whole, now) : whole;
    const most = this.#streams.maxStateBytes;
    const isLarger = before === undefined || write.isNewProducer || write.fork?.isGone === false;
    const bytes = isLarger ? stateBytes(next) : 0;
    if (bytes <= most) return { ...write, next };
    if (name === "append") {
      return { kind: "none", result: { kind: "too-many-producers" } as LogChangeResult<N> };
    }
    throw new RangeError(
      `Cannot ${CHANGE_WORDS[name]}: the state of the log must take at most ${most} bytes, ` +
        `received ${bytes}`,
    );
  }

  /** Counts a log that is about to be created. */
  async #counted(
    kind: LogKind,
    maxLogs: number,
    create: (count: number) => Promise<LogCreated>,
  ): Promise<LogCreated> {
    const count = this.#counts[kind];
    const number = await this.#countOf(kind, maxLogs);
    count.number++;
    let isCreated = false;
    try {
      const result = await create(number);
      if (result.kind !== "created") return result;
      isCreated = true;
      return { ...result, count: count.number };
    } finally {
      if (!isCreated) count.number--;
    }
  }

  async #read(
    id: string,
    part: string,
    options: ReadLogOptions,
  ): Promise<LogPage | "expired" | undefined> {
    const { after, maxRecords, maxBytes, renews, tail, signal } = options;
    await this.#streams.open(part, signal);
    let before: LiveMessage | undefined;
    let isChanging = false;
    for (let attempt = 0; attempt < MAX_READ_ATTEMPTS; attempt++) {
      // A change that this node makes meanwhile is not lost.
      const heard = this.#heard.newest(id);
      const newest = liveIn(await this.#streams.newest(part));
      if (newest === undefined) return undefined;
      if (before !== undefined) {
        isChanging ||= newest.seq !== before.seq;
        if (!isChanging) await this.#link.pause(RETRY_MS * attempt ** 3);
      }
      before = newest;
      const { state } = newest.head;
      if (isBehind(state, heard)) {
        if (attempt === MAX_READ_ATTEMPTS - 1) throw late("read a log");
        await this.#renewIfBehind(id, part);
        continue;
      }
      this.#heard.note(id, state);
      const now = this.#clock.now();
      this.#due.noteDue(id, state);
      if (isExpired(state, now) && !state.isDeleted) return "expired";
      const renewing = renews && isDueForRenewal(state, now)
        ? this.#renew(id, part, state.identity)
        : undefined;
      if (state.keyed !== undefined && !tail) {
        const [page] = await Promise.all([this.#readRows(part, newest, options), renewing]);
        if (page !== undefined) return page;
        continue;
      }
      const isWithin = after >= state.start && after < state.tail && maxRecords > 0;
      const reading: Promise<LogRecord[] | undefined> = isWithin
        ? this.#reader.read(part, newest, after, { maxRecords, maxBytes })
        : Promise.resolve([]);
      const [records] = await Promise.all([reading, renewing]);
      if (records !== undefined) return { info: infoOf(storedOf(state)), records };
    }
    throw unreadable(after, isChanging);
  }

  /** Reads rows; `undefined` if the log has been removed in the meantime. */
  async #readRows(
    part: string,
    newest: LiveMessage,
    options: ReadLogOptions,
  ): Promise<LogPage | undefined> {
    const { state } = newest.head;
    const { after, maxRecords, rows } = options;
    if (rows !== undefined ? state.tail > 0 : maxRecords > 0 && after < state.tail) {
      return (await this.#rows.at(part, newest))?.read(options);
    }
    const next = rows?.length ?? (maxRecords > 0 ? after : Math.min(after, state.tail));
    return { info: infoOf(storedOf(state)), records: [], next };
  }

  /**
   * Gives a log another identity if the leader of the stream confirms, twice, that it has lost
   * changes that this node has seen. A replica may only be late, and so may be a server that was the
   * leader before.
   */
  async #renewIfBehind(id: string, part: string): Promise<void> {
    let renewing = this.#renewing.get(id);
    if (renewing === undefined) {
      renewing = this.#renewLost(id, part).finally(() => this.#renewing.delete(id));
      this.#renewing.set(id, renewing);
    }
    await renewing;
  }

  async #renewLost(id: string, part: string): Promise<void> {
    for (let i = 0; i < CONFIRMATIONS; i++) {
      if (i > 0) await this.#link.pause(CONFIRM_MS);
      const heard = this.#heard.newest(id);
      const newest = liveIn(await this.#streams.newestAtLeader(part));
      // The next read may still be late.
      if (!isBehind(newest?.head.state, heard)) return await this.#link.pause(LATE_MS);
    }
    // The memory of this node may include the lost changes.
    this.#writer.forget(id);
    this.#rows.forget(part);
    await this.#writer.change<void>(id, part, 0, (state) => {
      if (state === undefined || !isBehind(state, this.#heard.newest(id))) {
        return { kind: "none", result: undefined };
      }
      const identity = this.#runtime.randomUUID().slice(0, 8);
      const next = { ...state, identity, chain: chainOf(state) };
      const result = (written: StoredLog) => this.#heard.note(id, written);
      return { kind: "write", next, records: [], result };
    });
  }

  async #renew(id: string, part: string, identity: string): Promise<void> {
    await this.#writer.change(id, part, 0, (state, now) => {
      // A log that has expired for this node may be in use on another node, or may be a different
      // log.
      if (state?.identity !== identity || isExpired(state, now)) {
        return { kind: "none", result: undefined };
      }
      if (!isDueForRenewal(state, now)) return { kind: "none", result: undefined, isFinal: true };
      const next = used(state, now);
      return { kind: "write", next, records: [], isQuiet: true, result: () => undefined };
    });
  }

  /** The number of logs of a kind, from a count within the last second. */
  async #countOf(kind: LogKind, maxLogs: number): Promise<number> {
    const count = this.#counts[kind];
    const isOld = this.#runtime.monotonic() - count.atMs >= COUNT_MS;
    if (isOld || count.number >= maxLogs) {
      // Concurrent calls share one request.
      count.counting ??= this.#countLogs(kind, maxLogs).finally(() => count.counting = undefined);
      await count.counting;
    }
    return count.number;
  }

  /** Counts the logs of a kind, or of all kinds while there is plenty of room. */
  async #countLogs(kind: LogKind, maxLogs: number): Promise<void> {
    const now = this.#runtime.monotonic();
    const all = await this.#streams.count();
    const number = all * 2 < maxLogs ? all : await this.#countKind(kind, all);
    Object.assign(this.#counts[kind], { number, atMs: now });
  }

  async #countKind(kind: LogKind, all: number): Promise<number> {
    if (kind !== "stream") return await this.#streams.count(kind);
    const others = [this.#streams.count("answer"), this.#streams.count("request")];
    const [answers = 0, requests = 0] = await Promise.all(others);
    return Math.max(0, all - answers - requests);
  }

  /** Returns a log's part of a subject. */
  #check(what: string, id: string): string {
    this.#link.life.checkCall(what);
    return subjectPart(id);
  }
}

/** The state after a use. The log is kept longer than promised, by {@linkcode SPARE_SHARE}. */
function used(state: WholeLog, now: number): WholeLog {
  return { ...state, until: expiryOf(state, now + (state.ttlMs ?? 0) * SPARE_SHARE) };
}

/** True if a log would expire before its full time to live after a use. */
function isDueForRenewal(state: WholeLog, now: number): boolean {
  const until = expiryOf(state, now);
  return !state.isDeleted && until !== undefined && state.until !== undefined &&
    until > state.until;
}
