/** Changes of logs, serialized across all nodes. */
import { BrokerError } from "../../../errors.ts";
import { pause } from "../../../base/wait.ts";
import type { Runtime } from "../../../base/runtime.ts";
import type { EngineClock } from "../clock.ts";
import type { Link } from "../link.ts";
import { Line, type Outbox, type Outgoing } from "../../../pubsub/engine/queue.ts";
import type { AppendLogOptions, LogRecord } from "../../../pubsub/logs/log.ts";
import { isBeyondRetention, type LogEffect, type LogWrite } from "../../../pubsub/logs/changes.ts";
import { keptOf, logKind, recordBytes } from "../../../pubsub/logs/rules.ts";
import type { DueIndex } from "./due_index.ts";
import {
  encodedBytes,
  encodeLog,
  firstOf,
  liveIn,
  type LiveMessage,
  type LogHead,
  type LogMessage,
  recordsOf,
  storedOf,
  type WholeLog,
} from "./format.ts";
import type { LogReader } from "./log_reader.ts";
import type { LogStreams } from "./log_streams.ts";

/** Maximum number of attempts to change a log while other nodes change it. */
const MAX_ATTEMPTS = 64;

/** Longest pause before the next attempt, in milliseconds. */
const MAX_PAUSE_MS = 20;

/** Maximum number of logs whose newest message a node remembers. */
const MAX_HOT_LOGS = 4_096;

/** Maximum size of these messages in bytes, without the records. */
const MAX_HOT_BYTES = 16_777_216;

/** Records at the start of a log whose sizes are read together, for the retention. */
const FRONT = { maxRecords: 1_024, maxBytes: 1_048_576 };

/** Maximum number of concurrent removals. */
const MAX_TIDYING = 1_024;

/** In place of records, which a node does not remember. */
const NO_BYTES = new Uint8Array();

/** The effect of an operation on a log. */
export type WholeEffect<R> =
  | Exclude<LogEffect<R>, LogWrite<R>>
  | LogWrite<R> & { readonly next: WholeLog }
  /** A result that holds even if another node has changed the log. */
  | { readonly kind: "sure"; readonly result: R };

/**
 * Computes a change from the state of a log. It is called again with a newer state if another node
 * has changed the log first. If it throws, only this operation fails.
 */
export type LogOperation<T> = (state: WholeLog | undefined, now: number) => WholeEffect<T>;

interface Waiting extends Outgoing {
  readonly operation: LogOperation<unknown>;
  readonly resolve: (result: unknown) => void;
  readonly reject: (error: unknown) => void;
}

interface FrontMessage {
  readonly seq: number;
  readonly first: number;
  readonly sizes: readonly number[];
}

/** The newest message of a log, as this node knows it. */
interface Hot {
  readonly era: unknown;
  /** Sequence; 0 without a message. */
  readonly seq: number;
  readonly message: LiveMessage | undefined;
  readonly bytes: number;
  /** The oldest kept messages, as far as they have been read. */
  front: FrontMessage[];
}

interface Applied {
  /** State after the operations; `undefined` without a log. */
  state: WholeLog | undefined;
  records: LogRecord[];
  isChanged: boolean;
  /** True if earlier messages no longer belong to the log. */
  isReplacing: boolean;
  isQuiet: boolean;
  /** True if an operation was rejected, possibly because the state is outdated. */
  isUnsure: boolean;
  /** Sequences of messages of which no record is kept any more. */
  readonly dropped: number[];
  /** Passes the results to the callers, once the change is in force. */
  readonly tell: (() => void)[];
}

/**
 * Writes the changes of logs.
 *
 * A change is a message. NATS stores it only if the log's newest message is still the one that this
 * node knows. Operations on a log wait for one another, and those that wait at the same time are
 * combined in one message.
 */
export class LogWriter {
  readonly #runtime: Runtime;
  readonly #clock: EngineClock;
  readonly #streams: LogStreams;
  readonly #reader: LogReader;
  readonly #due: DueIndex;
  readonly #outbox: Outbox;
  /** Logs with changes that wait or are in flight; bounded by the outbox. */
  readonly #lines = new Map<string, Line<Waiting>>();
  readonly #hot = new Map<string, Hot>();
  #hotBytes = 0;
  readonly #tidying = new Set<Promise<void>>();

  constructor(
    { runtime, clock }: Pick<Link, "runtime" | "clock">,
    streams: LogStreams,
    reader: LogReader,
    due: DueIndex,
    outbox: Outbox,
  ) {
    this.#runtime = runtime;
    this.#clock = clock;
    this.#streams = streams;
    this.#reader = reader;
    this.#due = due;
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
    await Promise.all(this.#tidying);
  }

  #line(): Line<Waiting> {
    return new Line(this.#outbox, ({ reject }, why) => {
      reject(new BrokerError(`Cannot change a log: ${why}`));
    });
  }

  async #run(id: string, part: string, line: Line<Waiting>): Promise<void> {
    this.#lines.set(id, line);
    const most = { maxItems: Infinity, maxBytes: this.#streams.maxRecordBytes };
    while (line.isWaiting) {
      const batch = line.takeBatch(most);
      try {
        for (const tell of await this.#settle(id, part, batch)) tell();
      } catch (error) {
        this.#forget(id);
        for (const { reject } of batch) reject(error);
      }
      for (const waiting of batch) line.settle(waiting);
    }
    this.#lines.delete(id);
    line.leave();
  }

  /** Applies operations, and returns the functions that pass on the results. */
  async #settle(
    id: string,
    part: string,
    batch: readonly Waiting[],
  ): Promise<readonly (() => void)[]> {
    await this.#streams.open();
    for (let attempt = 0; attempt < MAX_ATTEMPTS;) {
      const known = this.#known(id);
      const hot = known ?? this.#note(await this.#streams.newest(part));
      const applied = await this.#apply(part, hot, batch);
      if (applied?.isUnsure && known !== undefined) {
        this.#forget(id);
        continue;
      }
      if (applied?.isChanged === false) {
        this.#remember(id, hot);
        return applied.tell;
      }
      if (applied && await this.#write(id, part, hot, applied)) return applied.tell;
      this.#forget(id);
      attempt++;
      const pauseMs = this.#runtime.random() * Math.min(MAX_PAUSE_MS, attempt);
      await pause(this.#runtime, pauseMs);
    }
    throw new BrokerError(
      `Cannot change a log: other nodes changed it ${MAX_ATTEMPTS} times first`,
    );
  }

  /** Writes the outcome of operations. Returns false if another node changed the log first. */
  async #write(id: string, part: string, hot: Hot, applied: Applied): Promise<boolean> {
    const { state, records, isReplacing, isQuiet } = applied;
    const look = await this.#due.ensure(id, state, hot.message?.head.look);
    const before = isReplacing ? undefined : hot.message?.head;
    const number = before === undefined ? 0 : before.number + Math.sign(before.count);
    const head: LogHead | null = state === undefined
      ? null
      : { state, count: records.length, number, look };
    const message = encodeLog(head, records);
    const after = hot.seq;
    const seq = await this.#streams.write(part, message, {
      after,
      // The last message of a removed log must not remain before the first message of a new log.
      isReplacing: isReplacing || hot.message === undefined && after > 0,
      isQuiet,
      kept: state !== undefined && isListed(id, state) ? keptOf(id, state) : undefined,
    });
    if (seq === undefined) return false;
    if (head === null) {
      this.#forget(id);
      this.#tidy(() => this.#streams.remove(seq));
      return true;
    }
    const isSuperseded = before?.count === 0;
    const outdated = isSuperseded ? [after, ...applied.dropped] : applied.dropped;
    if (outdated.length > 0) {
      this.#tidy(async () => {
        for (const seq of outdated) await this.#streams.remove(seq);
      });
    }
    const bytes = message.length - encodedBytes(records);
    const front = isReplacing ? [] : hot.front;
    this.#remember(id, { ...hot, seq, message: { seq, head, body: NO_BYTES }, bytes, front });
    return true;
  }

  /** Applies operations one after another. Returns `undefined` if another node changed the log. */
  async #apply(
    part: string,
    hot: Hot,
    batch: readonly Waiting[],
  ): Promise<Applied | undefined> {
    const applied: Applied = {
      state: hot.message?.head.state,
      records: [],
      isChanged: false,
      isReplacing: false,
      isQuiet: true,
      isUnsure: false,
      dropped: [],
      tell: [],
    };
    for (const { operation, resolve, reject } of batch) {
      let change: WholeEffect<unknown>;
      try {
        change = operation(applied.state, this.#clock.now());
      } catch (error) {
        applied.isUnsure = true;
        applied.tell.push(() => reject(error));
        continue;
      }
      const { kind, result } = change;
      if (kind === "none" || kind === "sure") {
        if (kind === "none") applied.isUnsure = true;
        applied.tell.push(() => resolve(result));
        continue;
      }
      applied.isChanged = true;
      if (kind === "remove") {
        Object.assign(applied, {
          state: undefined,
          records: [],
          isReplacing: true,
          isQuiet: false,
        });
        applied.tell.push(() => resolve(result));
        continue;
      }
      for (const record of change.records) applied.records.push(record);
      if (!change.isQuiet) applied.isQuiet = false;
      const state = change.keep === undefined
        ? change.next
        : await this.#trim(part, hot, applied, change.next, change.keep);
      if (state === undefined) return undefined;
      applied.state = state;
      applied.tell.push(() => resolve(result(storedOf(state))));
    }
    return applied;
  }

  /**
   * Drops the oldest records beyond the retention, but always keeps the newest record. Returns
   * `undefined` if another node changed the log.
   */
  async #trim(
    part: string,
    hot: Hot,
    { records, isReplacing, dropped }: Applied,
    next: WholeLog,
    keep: NonNullable<AppendLogOptions["keep"]>,
  ): Promise<WholeLog | undefined> {
    let { start, bytes } = next;
    const own = next.tail - records.length;
    while (isBeyondRetention({ ...next, start, bytes }, keep)) {
      const size = start >= own
        ? recordBytes([records[start - own]!])
        : await this.#sizeAt(part, hot, start);
      if (size === undefined) return undefined;
      bytes -= size;
      start++;
      // Replaced messages are removed all at once.
      while (!isReplacing && hot.front[0] !== undefined && endOf(hot.front[0]) <= start) {
        dropped.push(hot.front.shift()!.seq);
      }
    }
    return { ...next, start, bytes };
  }

  /** Size of a kept record; `undefined` if another node changed the log. */
  async #sizeAt(part: string, hot: Hot, position: number): Promise<number | undefined> {
    const isAt = (one: FrontMessage) => one.first <= position && endOf(one) > position;
    if (!hot.front.some(isAt)) {
      // Read again, because the known message has no records.
      const newest = liveIn(await this.#streams.newest(part));
      if (newest?.seq !== hot.seq) return undefined;
      const messages = await this.#reader.messages(part, newest, position, FRONT) ?? [];
      hot.front = messages.map((message) => ({
        seq: message.seq,
        first: firstOf(message),
        sizes: recordsOf(message).map((record) => recordBytes([record])),
      }));
    }
    const found = hot.front.find(isAt);
    return found?.sizes[position - found.first];
  }

  /**
   * Drops messages that no longer belong to any log. If this fails, or if there are too many
   * concurrent removals, the messages take up space until the log is removed.
   */
  #tidy(act: () => Promise<void>): void {
    if (this.#tidying.size >= MAX_TIDYING) return;
    const tidying = act().catch(() => {}).finally(() => this.#tidying.delete(tidying));
    this.#tidying.add(tidying);
  }

  #note(found: LogMessage | undefined): Hot {
    const message = liveIn(found);
    const bytes = message === undefined ? 0 : JSON.stringify(message.head).length;
    const era = this.#streams.era;
    return { era, seq: found?.seq ?? 0, message, bytes, front: [] };
  }

  #known(id: string): Hot | undefined {
    const hot = this.#hot.get(id);
    if (hot === undefined || hot.era === this.#streams.era) return hot;
    this.#forget(id);
    return undefined;
  }

  #remember(id: string, hot: Hot): void {
    this.#forget(id);
    // Absence is not remembered, because otherwise the creation of a log would go unnoticed.
    if (hot.message === undefined) return;
    this.#hot.set(id, { ...hot, message: { ...hot.message, body: NO_BYTES } });
    this.#hotBytes += hot.bytes;
    for (const [oldest] of this.#hot) {
      if (this.#hot.size <= MAX_HOT_LOGS && this.#hotBytes <= MAX_HOT_BYTES) break;
      this.#forget(oldest);
    }
  }

  #forget(id: string): void {
    this.#hotBytes -= this.#hot.get(id)?.bytes ?? 0;
    this.#hot.delete(id);
  }
}

function endOf({ first, sizes }: FrontMessage): number {
  return first + sizes.length;
}

/** True if the lists include a log, which are all responses and the streams with an owner. */
function isListed(id: string, { isDeleted, owner }: WholeLog): boolean {
  const kind = logKind(id);
  return !isDeleted && (kind === "answer" || kind === "stream" && owner !== undefined);
}
