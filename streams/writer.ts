/** The writer of a durable stream: ordered, exactly-once appends under a lease. */
import { checkOptions } from "../base/options/option_checks.ts";
import { BrokerError, QueueFullError, RequestError } from "../errors.ts";
import { describe } from "../base/error_text.ts";
import { encodeJson } from "../base/json.ts";
import type { Runtime, Timer } from "../base/runtime.ts";
import type { BrokerSubscription } from "../pubsub/broker.ts";
import type { AppendLogOptions, LogEnd, LogInfo, LogRecord } from "./logs/log.ts";
import { overShareReason } from "./logs/log_shares.ts";
import { formatOffset } from "./logs/offset.ts";
import { isJson, MAX_REASON_LENGTH, recordBytes } from "./logs/rules.ts";
import { isName, MAX_NAME_LENGTH } from "../session/wire/envelope.ts";
import { MOVED, STREAM_ENDED } from "../session/wire/recovery.ts";
import {
  NO_SPACE,
  outcomeText,
  type StreamAppended,
  type StreamLogs,
  WRITER_LOST,
} from "./logs/stream_logs.ts";
import { whileUnreachable } from "./repeat.ts";

/** Time for which a stream waits for a sign of life of its writer, in milliseconds. */
export const LEASE_MS = 15_000;

/** Time for which a released stream waits for the next writer, in milliseconds. */
const RELEASED_MS = 5_000;

/**
 * Time by which the lease of an offered stream is backdated, in milliseconds. Each node makes its
 * own estimate of the NATS clock, and the next writer's estimate may be behind.
 */
const LAPSED_MS = 1_000;

/** Renewals per lease, so that a failed renewal can be repeated before the lease expires. */
export const RENEWALS_PER_LEASE = 5;

/**
 * Fraction of the lease without a confirmed renewal after which another writer may have taken over.
 * The rest covers the time that a renewal takes to reach the broker.
 */
const UNCERTAIN_SHARE = 0.8;

/** Most records of one append call of the broker. */
const MAX_BATCH_RECORDS = 1_000;

/** Most records and bytes that wait for the broker. */
const MAX_WAITING_RECORDS = 10_000;
const MAX_WAITING_BYTES = 8_388_608;

/** Number of records and bytes waiting for the broker at which `ready` starts to wait. */
const PACE_RECORDS = 64;
const PACE_BYTES = 1_048_576;

/** Default code of an abort. */
export const ABORTED = "aborted";

/** Codes with another meaning for readers. */
const RESERVED_CODES: readonly string[] = [STREAM_ENDED, MOVED, "too-many", "unavailable"];

/** Checks whether a writer may end a stream with a code. */
export function isEndCode(code: unknown): code is string {
  return isName(code) && code.isWellFormed() && !RESERVED_CODES.includes(code);
}

/** Reason of a stream whose writer was disposed of without `close`. */
const UNFINISHED = "The writer ended before the stream was complete";

/** The result of an append that was not rejected. */
type LogResult = Extract<StreamAppended, { readonly kind: "appended" | "repeated" }>;

/** A record that waits for the broker, and the promise of its append. */
interface WaitingRecord extends PromiseWithResolvers<string> {
  readonly record: LogRecord;
  readonly bytes: number;
}

/** Parts of a {@linkcode DurableStreamWriter}. */
export interface WriterOptions {
  readonly runtime: Runtime;
  readonly streams: StreamLogs;
  /** Id of the stream, whose lease `holder` has. */
  readonly id: string;
  readonly info: LogInfo;
  readonly holder: string;
  /** Duration of the lease, in milliseconds. */
  readonly leaseMs: number;
  /** Monotonic time at which the request for the lease was sent. */
  readonly leasedAt: number;
  /** Maximum size of a record in bytes, so that it fits into a session message. */
  readonly maxRecordBytes: number;
  /** Called once when the writer has ended. MUST NOT throw. */
  readonly onOver: (writer: DurableStreamWriter) => void;
}

/**
 * The writer of a durable stream. A stream has one writer at a time.
 *
 * - **Order:** records are stored in the order of the `append` calls. Calls during a pending append
 *   are batched. At most 10,000 records or 8 MiB can wait.
 * - **Once:** if the broker does not respond to an append, the append is retried for 15 s. It is
 *   stored only once.
 * - **Lease:** the stream ends with the error `writer-lost` if the writer sends no sign of life for
 *   15 s. A writer that returns too late is rejected.
 * - **Pace:** `ready` resolves when the broker has stored most of the appended records.
 * - **Stop:** `signal` aborts when a reader cancels the stream, and when the writer cannot
 *   continue. The stream stays open until `close` or `abort`.
 * - **Failure:** after a failed append, all later appends fail with the same error, because a
 *   stream has no gaps. An append that is rejected at once, because its data is invalid or too much
 *   is waiting, has no effect; unless you handle its error, `close` rejects with it.
 * - **Handover:** `release` hands the stream to a writer on another server.
 * - **Disposal** without `close` aborts the stream, so that a partial stream never looks complete.
 *
 * Errors are {@linkcode RequestError}s with these codes: `writer-lost`, `fenced` (another writer
 * has taken over), `ended` (another program ended the stream), `gone` (the stream was deleted),
 * `full` (the stream has reached its limit). A {@linkcode BrokerError} means that the broker is
 * unreachable; the records may have been stored.
 *
 * @typeParam T Type of a record.
 */
export class DurableStreamWriter<T = unknown> implements AsyncDisposable {
  /** Id of the stream. */
  readonly id: string;
  /** Media type of the stream. */
  readonly contentType: string;
  readonly #runtime: Runtime;
  readonly #streams: StreamLogs;
  readonly #holder: string;
  readonly #leaseMs: number;
  readonly #maxRecordBytes: number;
  readonly #onOver: (writer: DurableStreamWriter) => void;
  readonly #isJson: boolean;
  readonly #stop = new AbortController();
  readonly #over = new AbortController();
  readonly #announcements: BrokerSubscription;
  #info: LogInfo;
  /** Number of the next append, by which the broker recognizes a retry. */
  #epoch = 0;
  #number = 0;
  #waiting: WaitingRecord[] = [];
  #waitingBytes = 0;
  #sending: Promise<void> | undefined;
  /** The requested end of the stream, and the result of its append. */
  #end: LogEnd | undefined;
  #ending: Promise<void> | undefined;
  #failure: unknown;
  /** Rejected appends that were not queued and that no caller waits for, and the first error. */
  #ignored = 0;
  #firstIgnored: unknown;
  #renewal: Timer | undefined;
  /** Monotonic time at which the newest confirmed sign of life was sent. */
  #confirmedAt: number;
  /** Resolved by the next confirmed sign of life. */
  #confirmed: PromiseWithResolvers<void> | undefined;
  #wasAppended = false;
  #isReleased = false;
  #isLost = false;
  #isTold = false;
  #isLooking = false;

  /** Starts to renew the lease. Writers are created by `DurableStreams`. */
  constructor(options: WriterOptions) {
    const { runtime, streams, id, info, holder, leaseMs, maxRecordBytes, onOver } = options;
    this.#confirmedAt = options.leasedAt;
    this.id = id;
    this.contentType = info.contentType;
    this.#runtime = runtime;
    this.#streams = streams;
    this.#holder = holder;
    this.#leaseMs = leaseMs;
    this.#info = info;
    this.#maxRecordBytes = Math.min(maxRecordBytes, streams.maxAppendBytes);
    this.#onOver = onOver;
    this.#isJson = isJson(info.contentType);
    const tell = () => {
      this.#isTold = true;
      void this.#look();
    };
    this.#announcements = streams.watch(id, (carried) => {
      // The append did not end or cancel the stream.
      if (carried?.identity !== this.#info.identity) tell();
    });
    // A reader may have cancelled before this node received announcements.
    void this.#announcements.ready.then(tell);
    this.#planRenewal();
  }

  /**
   * Aborts when a reader on any node cancels the stream; the abort reason is a {@linkcode
   * RequestError} with the code `cancelled` and the reader's reason as its message. It also aborts
   * when the writer cannot continue, with the error of the failed append.
   */
  get signal(): AbortSignal {
    return this.#stop.signal;
  }

  /** Offset after the newest record that is known to be kept. */
  get offset(): string {
    return formatOffset(this.#info, this.#info.tail);
  }

  /** Number of records that wait for the broker. */
  get waiting(): number {
    return this.#waiting.length;
  }

  /**
   * Resolves once at most 64 records or 1 MiB are waiting for the broker. A loop that awaits it
   * before each `append` runs at the broker's pace, and never fills the queue. Rejects with the
   * error of a failed append.
   */
  get ready(): Promise<void> {
    if (this.#failure !== undefined) return quiet(Promise.reject(this.#failure));
    const mostBytes = Math.min(PACE_BYTES, MAX_WAITING_BYTES - this.#maxRecordBytes);
    const isFull = this.#waiting.length >= PACE_RECORDS || this.#waitingBytes > mostBytes;
    return isFull ? quiet(this.#waiting.at(-1)!.promise.then(() => {})) : Promise.resolve();
  }

  /**
   * True if the broker has confirmed no renewal for so long that another writer may have taken
   * over.
   *
   * @ignore
   */
  get isUncertain(): boolean {
    return this.#runtime.monotonic() - this.#confirmedAt >= this.#leaseMs * UNCERTAIN_SHARE;
  }

  /**
   * Resolves with the next confirmed renewal; stays pending if the writer is lost.
   *
   * @ignore
   */
  get confirmed(): Promise<void> {
    return (this.#confirmed ??= Promise.withResolvers()).promise;
  }

  /**
   * Appends a record. You need not await one append before the next one.
   *
   * @param data For the media type `application/json`, any value that JSON can represent;
   * otherwise, a string, or bytes that MUST NOT be changed afterwards.
   * @returns The offset after the record, once it is stored. A read after this offset misses no
   * later record. If the broker stored the record at an attempt whose reply was lost, and other
   * programs append too, the read may begin earlier. You may ignore the promise: if the append
   * rejects, so does `close`.
   * @throws {TypeError} If the data does not fit the media type.
   * @throws {RangeError} If the record is too large.
   * @throws {QueueFullError} If too many records wait.
   * @throws {RequestError} If the writer has ended, or the stream accepts no more records.
   * @throws {BrokerError} If the broker is unreachable for too long.
   */
  append(data: T): Promise<string> {
    try {
      return this.#append(data);
    } catch (error) {
      if (this.#ending !== undefined) return quiet(Promise.reject(error));
      if (this.#ignored++ === 0) this.#firstIgnored = error;
      return RejectedAppend.with(error, () => this.#ignored--);
    }
  }

  /**
   * Ends the stream as complete, after all records have been stored. Idempotent; it has no effect
   * after `abort`.
   *
   * @returns Resolves when the end has been stored.
   * @throws {RequestError} If an append failed, or the stream has ended in another way.
   * @throws {BrokerError} If the broker is unreachable for too long.
   */
  close(): Promise<void> {
    const failure = this.#failureOfAppends;
    if (failure !== undefined) return quiet(Promise.reject(failure));
    // The server has closed first: readers know that the stream is incomplete.
    if (this.#end?.error === WRITER_LOST) return quiet(Promise.reject(this.#endedError(this.#end)));
    if (this.#isReleased) {
      const reason = `Cannot close: "${this.id}" was released, so its next writer closes it`;
      return quiet(Promise.reject(new RequestError("ended", reason)));
    }
    return this.#finish({});
  }

  /**
   * Ends the stream with an error, after all records have been stored. Idempotent; it has no effect
   * after `close`, or once the writer is lost.
   *
   * @param reason Reason for the readers; cut to 1,024 characters.
   * @param options The code of the error that readers receive.
   * @returns Resolves when the end has been stored.
   * @throws {TypeError} If the reason is empty, or the code is invalid.
   * @throws {BrokerError} If the broker is unreachable for too long.
   */
  abort(reason: string, options: {
    /**
     * The code of the error that readers receive: at most 64 characters, except `ended`, `handover`,
     * `too-many` and `unavailable`.
     *
     * @default {"aborted"}
     */
    readonly code?: string | undefined;
  } = {}): Promise<void> {
    checkOptions("abort", options, { code: "string" });
    const { code = ABORTED } = options;
    if (typeof reason !== "string" || reason === "") {
      throw new TypeError(
        `Cannot abort: reason must be a non-empty string, received ${describe(reason)}`,
      );
    }
    if (!isEndCode(code)) {
      throw new TypeError(
        `Cannot abort: code must have 1 to ${MAX_NAME_LENGTH} characters and not be reserved, ` +
          `received ${JSON.stringify(code)}`,
      );
    }
    if (this.#over.signal.aborted) return this.#ending ?? Promise.resolve();
    return this.#finish({
      error: reason.slice(0, MAX_REASON_LENGTH).toWellFormed(),
      code: code === ABORTED ? undefined : code,
    });
  }

  /**
   * Leaves the stream open for another writer, after all records have been stored. For 5 s, `open`
   * takes over immediately, on any server. If no writer has taken over by then, the stream ends
   * with `writer-lost` within about 5 more seconds. This has no effect after `close` or `abort`.
   *
   * @returns Resolves when another writer can take over the stream.
   * @throws {RequestError} If an append failed, or the stream already has another writer or has
   * ended.
   * @throws {BrokerError} If the broker is unreachable; another writer can take over once the lease
   * has expired.
   */
  release(): Promise<void> {
    return this.#leave({ holder: this.#holder, ttlMs: RELEASED_MS, releases: true });
  }

  /**
   * Leaves the stream open as `release` does, but it is overdue immediately: the searches of all
   * servers find the stream, and leave it open while its request is kept for a server that can
   * continue.
   *
   * @ignore
   */
  offer(): Promise<void> {
    return this.#leave({ holder: this.#holder, ttlMs: -LAPSED_MS });
  }

  /**
   * Drops the stream without calling the broker, for a server that closes while the broker is
   * unreachable.
   *
   * @ignore
   */
  drop(): void {
    this.#finished();
  }

  /** Aborts the stream unless `close` was called; called by `await using`. */
  async [Symbol.asyncDispose](): Promise<void> {
    await (this.#ending ?? this.abort(UNFINISHED));
  }

  /** The error because of which the stream lacks a record. */
  get #failureOfAppends(): unknown {
    return this.#failure ?? (this.#ignored > 0 ? this.#firstIgnored : undefined);
  }

  #append(data: T): Promise<string> {
    if (this.#failure !== undefined) throw this.#failure;
    if (this.#end !== undefined || this.#isReleased) {
      throw new RequestError("ended", `Cannot append: the writer of "${this.id}" is closed`);
    }
    const record = this.#encode(data);
    const bytes = recordBytes([record]);
    const size = this.#isJson || typeof record !== "string"
      ? bytes
      : recordBytes([JSON.stringify(record)]);
    if (size > this.#maxRecordBytes) {
      throw new RangeError(
        `Cannot append: a record must have at most ${this.#maxRecordBytes} bytes, received ${size}`,
      );
    }
    const isFull = this.#waiting.length >= MAX_WAITING_RECORDS ||
      this.#waitingBytes + bytes > MAX_WAITING_BYTES && this.#waiting.length > 0;
    if (isFull) {
      throw new QueueFullError(
        `Cannot append: at most ${MAX_WAITING_RECORDS} records or ${MAX_WAITING_BYTES} bytes wait`,
      );
    }
    const waiting = { ...Promise.withResolvers<string>(), record, bytes };
    this.#waiting.push(waiting);
    this.#waitingBytes += bytes;
    this.#send();
    return quiet(waiting.promise);
  }

  #encode(data: T): LogRecord {
    if (this.#isJson) return encodeJson(data, "append");
    if (typeof data === "string" || data instanceof Uint8Array) return data;
    throw new TypeError(
      `Cannot append: data of ${this.contentType} must be a string or a Uint8Array, received ${
        describe(data)
      }`,
    );
  }

  #finish(end: LogEnd): Promise<void> {
    if (this.#ending === undefined) {
      this.#end = end;
      this.#ending = quiet(this.#sendEnd(end));
    }
    return this.#ending;
  }

  async #sendEnd(end: LogEnd): Promise<void> {
    await this.#send();
    const isAborted = end.error !== undefined;
    if (this.#failure !== undefined && !isAborted) {
      // The stream is incomplete; an abort can notify the readers.
      this.#end = this.#ending = undefined;
      throw this.#failure;
    }
    if (this.#over.signal.aborted) return;
    try {
      await this.#keep([], end);
    } catch (error) {
      // The stream has another writer, or has ended: nothing is left to abort.
      if (!this.#isLost) throw error;
    } finally {
      this.#finished();
    }
  }

  #leave(lease: NonNullable<AppendLogOptions["writer"]>): Promise<void> {
    if (this.#ending === undefined) {
      this.#isReleased = true;
      this.#ending = quiet(this.#sendRelease(lease));
    }
    return this.#ending;
  }

  async #sendRelease(writer: NonNullable<AppendLogOptions["writer"]>): Promise<void> {
    this.#runtime.clearTimeout(this.#renewal);
    await this.#send();
    try {
      const failure = this.#failureOfAppends;
      if (failure !== undefined) throw failure;
      if (this.#over.signal.aborted) return;
      const { identity } = this.#info;
      this.#heed(await this.#streams.append(this.id, { identity, writer, records: [] }));
    } finally {
      this.#finished();
    }
  }

  /** Appends all waiting records; calls during an append wait for the next one. */
  #send(): Promise<void> {
    return this.#sending ??= this.#sendAll();
  }

  async #sendAll(): Promise<void> {
    // The caller may append more in this turn.
    await Promise.resolve();
    while (this.#failure === undefined && !this.#over.signal.aborted) {
      const batch = this.#takeBatch();
      const end = this.#waiting.length === 0 ? this.#end : undefined;
      if (batch.length === 0 && end === undefined) break;
      try {
        const start = await this.#keep(batch.map(({ record }) => record), end);
        for (const [i, { resolve }] of batch.entries()) {
          resolve(formatOffset(this.#info, start + i + 1));
        }
        if (end !== undefined) this.#finished();
      } catch (error) {
        for (const { reject } of batch) reject(error);
        this.#failed(error);
      }
    }
    // This happens in the same step that found nothing to send, so that the next append restarts
    // the loop.
    this.#sending = undefined;
    void this.#look();
  }

  #takeBatch(): WaitingRecord[] {
    let bytes = 0;
    let count = 0;
    for (const waiting of this.#waiting) {
      bytes += waiting.bytes;
      if (count >= MAX_BATCH_RECORDS || bytes > this.#streams.maxAppendBytes) break;
      this.#waitingBytes -= waiting.bytes;
      count++;
    }
    return this.#waiting.splice(0, count);
  }

  /**
   * Makes one append, with retries while the broker is unreachable.
   *
   * @returns The position of the first record. If an earlier attempt was stored whose reply was
   * lost, the record is there or later.
   */
  async #keep(records: readonly LogRecord[], end: LogEnd | undefined): Promise<number> {
    const { signal } = this.#over;
    const { tail } = this.#info;
    const producer = { id: this.#holder, epoch: this.#epoch, seq: this.#number };
    const result = await whileUnreachable(() => this.#show({ records, producer, end }), {
      runtime: this.#runtime,
      signal,
      // After that the lease has expired.
      withinMs: this.#leaseMs,
      isOver: () => signal.aborted || this.#streams.isClosed,
    });
    this.#number++;
    return result.kind === "appended" ? result.info.tail - records.length : tail;
  }

  /** Makes an append, which also renews the lease. */
  async #show(
    append: Pick<AppendLogOptions, "records" | "producer" | "end">,
  ): Promise<LogResult> {
    const { identity } = this.#info;
    const writer = { holder: this.#holder, ttlMs: this.#leaseMs };
    const sentAt = this.#runtime.monotonic();
    const result = this.#heed(await this.#streams.append(this.id, { ...append, identity, writer }));
    this.#confirmedAt = Math.max(this.#confirmedAt, sentAt);
    this.#confirmed?.resolve();
    this.#confirmed = undefined;
    return result;
  }

  /** Applies the result of an append. Throws if the append was rejected. */
  #heed(result: StreamAppended): LogResult {
    switch (result.kind) {
      case "appended":
      case "repeated":
        this.#wasAppended = true;
        this.#note(result.info);
        return result;
      case "ended":
        throw this.#lost(this.#endedError(result.info.end));
      case "fenced":
        throw this.#lost(
          new RequestError(
            "fenced",
            `Cannot append: the lease of this writer of "${this.id}" has expired`,
          ),
        );
      case "missing":
      case "deleted":
        throw this.#lost(
          new RequestError(
            "gone",
            `Cannot append: the server no longer has the stream "${this.id}"`,
          ),
        );
      case "other-kind":
        throw new RequestError(
          "wrong-type",
          `Cannot append: "${this.id}" is keyed; write its rows with liveState()`,
        );
      case "full":
        throw new RequestError("full", `Cannot append: "${this.id}" has no room for the records`);
      case "no-space":
        throw new RequestError("full", `Cannot append: ${NO_SPACE}`);
      case "over-share":
        throw new RequestError("full", overShareReason("append", result));
      default:
        throw new RequestError("failed", `Cannot append to "${this.id}": ${outcomeText(result)}`);
    }
  }

  #endedError(end: LogEnd | undefined): RequestError {
    const why = this.#end === end ? "its server has closed" : "it confirmed nothing in time";
    return end?.error === WRITER_LOST
      ? new RequestError(WRITER_LOST, `The writer of "${this.id}" was lost: ${why}`)
      : new RequestError("ended", `Another program closed the stream "${this.id}"`);
  }

  #note(info: LogInfo): void {
    if (info.tail >= this.#info.tail) this.#info = info;
    const { cancelled } = info;
    if (cancelled !== undefined) this.#stop.abort(new RequestError("cancelled", cancelled));
  }

  /** Checks for a cancellation after an announcement, unless an append will report it. */
  async #look(): Promise<void> {
    if (this.#isLooking || this.#sending !== undefined) return;
    this.#isLooking = true;
    while (this.#isTold && !this.#over.signal.aborted) {
      this.#isTold = false;
      try {
        const found = await this.#streams.info(this.id);
        if (this.#over.signal.aborted) break;
        if (this.#sending !== undefined) {
          this.#isTold = true;
          break;
        }
        const isSame = found.kind === "page" && found.info.identity === this.#info.identity;
        if (!isSame) this.#heed({ kind: "missing" });
        else if (found.info.end) this.#heed({ kind: "ended", info: found.info });
        else this.#note(found.info);
      } catch (error) {
        // The broker announces when it is reachable again; renewals of the lease also detect
        // cancellations.
        if (!(error instanceof BrokerError)) this.#failed(error);
      }
    }
    this.#isLooking = false;
  }

  #planRenewal(): void {
    this.#renewal = this.#runtime.setTimeout(() => {
      const isDue = !this.#wasAppended && this.#sending === undefined;
      this.#wasAppended = false;
      this.#planRenewal();
      if (isDue) void this.#renew();
    }, this.#leaseMs / RENEWALS_PER_LEASE);
  }

  async #renew(): Promise<void> {
    try {
      await this.#show({ records: [] });
    } catch (error) {
      // While the broker is unreachable, the lease may still be valid; the next renewal or append
      // shows whether it is.
      if (!(error instanceof BrokerError) && this.#end === undefined) this.#failed(error);
    }
  }

  /** Records an error after which this writer is lost. */
  #lost(error: RequestError): RequestError {
    this.#isLost = true;
    this.#finished();
    return error;
  }

  #failed(error: unknown): void {
    if (this.#failure !== undefined) return;
    this.#failure = error;
    // It is unknown whether the broker stored the failed append, so the next one starts a new
    // epoch.
    this.#epoch++;
    this.#number = 0;
    // Unless the application aborts the stream, the expiry of the lease notifies the readers.
    this.#runtime.clearTimeout(this.#renewal);
    for (const { reject } of this.#waiting.splice(0)) reject(error);
    this.#waitingBytes = 0;
    this.#stop.abort(error);
  }

  #finished(): void {
    if (this.#over.signal.aborted) return;
    this.#over.abort();
    this.#runtime.clearTimeout(this.#renewal);
    void this.#announcements[Symbol.asyncDispose]();
    this.#onOver(this as DurableStreamWriter);
  }
}

/**
 * The promise of an append that was not queued. It tells if someone waits for it, because otherwise
 * the error is reported elsewhere.
 */
class RejectedAppend extends Promise<string> {
  #onHandled = () => {};

  static with(error: unknown, onHandled: () => void): RejectedAppend {
    const rejected = new RejectedAppend((_resolve, reject) => reject(error));
    quiet(rejected);
    rejected.#onHandled = onHandled;
    return rejected;
  }

  /** Promises that are derived from this one are plain. */
  static override get [Symbol.species](): PromiseConstructor {
    return Promise;
  }

  override then<R = string, E = never>(
    ...handlers: Parameters<Promise<string>["then"]>
  ): Promise<R | E> {
    this.#onHandled();
    this.#onHandled = () => {};
    return super.then(...handlers) as Promise<R | E>;
  }
}

/** Marks a promise as handled, because the application also receives the error elsewhere. */
function quiet<R>(promise: Promise<R>): Promise<R> {
  promise.catch(() => {});
  return promise;
}
