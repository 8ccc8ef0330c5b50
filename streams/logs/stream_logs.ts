/**
 * The durable streams of one node: logs of the broker with forks, expiry, and readers that wait.
 */
import { checkType } from "../../base/error_text.ts";
import type { Runtime } from "../../base/runtime.ts";
import type { Account } from "../../base/quotas/accounts.ts";
import { type Quota, Quotas, type QuotaShares, type Slot } from "../../base/quotas/shares.ts";
import { within } from "../../base/wait.ts";
import {
  BrokerError,
  LimitError,
  type RequestError,
  TimeoutError,
  UnsupportedError,
} from "../../errors.ts";
import {
  type Broker,
  type BrokerSubscription,
  countedBytes,
  type Publication,
} from "../../pubsub/broker.ts";
import { Followed } from "../../pubsub/followed.ts";
import type {
  AppendLogOptions,
  BrokerLogs,
  CreateLogOptions,
  LogAppended,
  LogCreated,
  LogInfo,
  LogOrigin,
  LogOverShare,
  LogPage,
  LogRecord,
  LogRetained,
  LogRow,
  ReadLogOptions,
  RowStats,
} from "./log.ts";
import { type CarriedRecords, CarriedTail, readCarried } from "./announcement.ts";
import { Copies, type ReadPage } from "./copies.ts";
import { requestBytes } from "./change_message.ts";
import { isDamaged, soundLogs } from "./sound_logs.ts";
import { OverdueSearch } from "./overdue_search.ts";
import {
  type ForkRejection,
  type ForkRequest,
  isSame,
  planCopy,
  planFork,
  planStream,
  type StreamFacts,
  type StreamPlan,
  type WantedStream,
} from "./forks.ts";
import { logKind, logTopic, MAX_LOG_ID_BYTES, type OwnedKind, requestLog } from "./log_names.ts";
import { logsOf } from "./logs_of.ts";
import { recordBytes, type RetainedLogs } from "./rules.ts";
import { rowsStateOf, sizeOf } from "./rows.ts";
import { utf8Length } from "../../session/wire/utf8.ts";

/** Longest time between two checks of a stream that has waiting readers, in milliseconds. */
const CHECK_INTERVAL_MS = 20_000;

/**
 * Most transactions by which a reader of each change may be behind. Readers further behind receive
 * the newest change of each row, so that slow readers catch up.
 */
const MAX_TRANSACTIONS_BEHIND = 100;

/** Longest wait for the subscription to a stream's announcements, in milliseconds. */
const READY_MS = 5_000;

/** Interval between searches for expired streams and lost writers, in milliseconds. */
export const SWEEP_INTERVAL_MS = 5_000;

/** The same interval on a node that can take over the streams of lost writers. */
export const RESCUE_INTERVAL_MS = 1_000;

/**
 * Time for which a stream with a request stays open without a writer, in milliseconds, so that a
 * node that can take over has several searches to find it.
 */
const SPARE_MS = 20_000;

/**
 * Time for which the broker remembers that a response has expired or was dropped, in milliseconds.
 * Otherwise, a page that requests such a response would start another one, which may cost money.
 */
const REMEMBERED_MS = 604_800_000;

/** Bounds on the deleted rows that a keyed stream remembers: 100,000, for 7 days. */
const REMEMBERED_ROWS = { deletions: 100_000, deletionMs: 604_800_000 };

/** Digits of an identity: 41 bits. */
const IDENTITY_LENGTH = 8;

/** Bounds on a broker's durable streams. */
export interface StreamBounds {
  /**
   * Maximum number of streams, including deleted streams that forks still need. Responses don't
   * count.
   */
  readonly maxStreams: number;
  /** Maximum number of responses. */
  readonly maxRetained: number;
  /** Maximum size of one stream in bytes, counted by {@linkcode countedBytes}. */
  readonly maxStreamBytes: number;
  /** Maximum number of forks of one stream. */
  readonly maxForks: number;
  /** Maximum number of readers of this node that wait for new records. */
  readonly maxReaders: number;
  /** Shares of these readers; none by default. */
  readonly readerShares?: QuotaShares | undefined;
  /**
   * Retention of each stream that is neither keyed nor a response. By default, all records stay until
   * the stream is deleted or expires.
   */
  readonly keep?: { readonly records: number; readonly bytes: number } | undefined;
  /** Maximum number of rows of a keyed stream. */
  readonly maxRows: number;
}

/** The forms of the rows of keyed streams, in which this node reads and writes them. */
export interface RowForms {
  /**
   * Returns the form that the rows of a stream must have for this node's changes, as for
   * {@linkcode AppendLogOptions.form}; `undefined` if the node writes rows of any form.
   */
  of(id: string): string | undefined;
  /**
   * Waits until this node may read the rows of a stream; `undefined` if there is nothing to wait for.
   * Rejects with a `RequestError` if they cannot be read for now.
   */
  ready(id: string, signal: AbortSignal | undefined): Promise<void> | undefined;
  /** Called after a change was rejected, because the rows have another form. MUST NOT throw. */
  differs(id: string, form: string): void;
}

/** Options for {@linkcode StreamLogs}. */
export interface StreamLogsOptions {
  readonly runtime: Runtime;
  readonly broker: Broker;
  readonly bounds: StreamBounds;
  /** All quotas of the server, which count the readers; by default, a separate registry. */
  readonly quotas?: Quotas | undefined;
  /** The forms of rows; by default, rows have any form. */
  readonly forms?: RowForms | undefined;
  /** Receives errors of the search for overdue streams. MUST NOT throw. */
  readonly onError: (error: unknown) => void;
  /**
   * Receives an error for each stream that turns out to be damaged; by default, `onError` does. MUST
   * NOT throw.
   */
  readonly onDamage?: ((error: RequestError) => void) | undefined;
  /**
   * Called when a reader of this node has read to the end of a completed response. MUST NOT throw.
   */
  readonly onReadToEnd?: ((id: string) => void) | undefined;
  /**
   * Takes over a stream with a request if the stream has lost its writer. Resolves to false if this
   * node cannot take it over now. By default, this node leaves such streams to other nodes for 20
   * seconds.
   */
  readonly rescue?: ((id: string) => Promise<boolean>) | undefined;
  /**
   * Called when the first reader of a stream on this node starts to follow it, when the last reader
   * has left, and for each read that does not wait. MUST NOT throw.
   */
  readonly onRead?: ((id: string) => void) | undefined;
}

/** Options of {@linkcode StreamLogs.create}. */
export interface CreateStreamOptions extends StreamFacts {
  readonly end?: CreateLogOptions["end"] | undefined;
  readonly writer?: CreateLogOptions["writer"] | undefined;
  readonly fork?: ForkRequest | undefined;
  /** The source of the fork, if the caller has just read it. */
  readonly source?: StreamRead | undefined;
  /** Identity of the new stream, from {@linkcode StreamLogs.newIdentity}; by default, a new one. */
  readonly identity?: string | undefined;
  /** The client that forks a keyed stream; by default, the application. */
  readonly account?: Account | undefined;
  /** Called once the rows of a keyed stream were copied, before the fork is created. May throw. */
  readonly check?: (() => void) | undefined;
  /**
   * Fits the rows of a keyed fork into this node's form of the new stream. Resolves to `undefined` if
   * they stay as they are, in the form of the source.
   */
  readonly fitCopy?:
    | ((source: string, rows: readonly LogRow[]) => Promise<readonly LogRow[] | undefined>)
    | undefined;
  /** Rejects a fork of a keyed stream, as `keyed`. */
  readonly isPlain?: boolean | undefined;
}

/** The same for a fork. */
type CreateForkOptions = CreateStreamOptions & {
  readonly fork: ForkRequest;
  readonly identity: string;
};

/**
 * Result of {@linkcode StreamLogs.create}:
 *
 * - `created` and `exists`: the result contains the stream. An existing stream may have different
 *   settings; `isSame` compares them.
 * - `deleted`: the id belongs to a deleted stream that forks need.
 * - `source-missing`, `source-deleted`: the source of a fork is missing or was deleted.
 *   `other-type`: the source has a different media type.
 * - `bad-offset`: the fork would start after the end of the source, or at an offset at which the
 *   source has no record.
 * - `keyed`: the fork is keyed and the source is not, or the fork has records or a writer and the
 *   source is keyed.
 * - `gone`: the fork would start at an offset of another stream or before the kept records, or
 *   before the end of a keyed stream.
 * - `too-deep`: the source is itself nested too many forks deep. `too-many-forks`: it has too many
 *   forks. `too-many`: there are too many streams. `full`: the records or rows exceed the bound of
 *   a stream, or of an append. `no-space`: the records exceed the bound of all streams.
 *   `over-share`: they exceed the share of the account.
 */
export type StreamCreated =
  | { readonly kind: "created"; readonly info: LogInfo }
  | { readonly kind: "exists"; readonly info: LogInfo; readonly isSame: boolean }
  | LogOverShare
  | {
    readonly kind:
      | "deleted"
      | "source-missing"
      | "source-deleted"
      | ForkRejection
      | "too-many-forks"
      | "too-many"
      | "full"
      | "no-space";
  };

/** Result of an append to a stream. An expired stream is `missing`. */
export type StreamAppended =
  | Exclude<LogAppended, { readonly kind: "missing" | "deleted" | "expired" }>
  | {
    readonly kind: "missing" | "deleted";
  };

/** The part of a stream to read. */
export interface ReadStreamOptions {
  /** Position of the first record. */
  readonly after: number;
  /** Starts at the oldest kept record if that is after `after`. */
  readonly startsAtOldest?: boolean | undefined;
  /** See {@linkcode StreamPage.snapshot}. */
  readonly snapshot?: number | undefined;
  /**
   * Reads each change of a keyed stream, with one record for each transaction: its changes,
   * separated by commas. If the tail lacks a transaction, or the page has no room for all of them,
   * reads the newest change of each row instead, unless `always`.
   */
  readonly eachChange?: boolean | "always" | undefined;
  /** Identity that the stream must have. A different stream counts as `missing`. */
  readonly identity?: string | undefined;
  /** Maximum number of records in a page. */
  readonly maxRecords: number;
  /** Maximum size of a page in bytes; a single record may be larger. */
  readonly maxBytes: number;
  /**
   * The rows that a keyed stream shows before it exists. `follow` returns this page, and waits until
   * someone creates the stream. If its `identity` is that of the page, the reader goes on after the
   * page.
   */
  readonly unwritten?: StreamPage | undefined;
  /** Ends the wait for the broker, and for new records. */
  readonly signal?: AbortSignal | undefined;
  /** The reader; by default, the application. */
  readonly account?: Account | undefined;
}

/** Records of a stream, together with its state. */
export interface StreamPage {
  readonly kind: "page";
  readonly info: LogInfo;
  readonly records: readonly LogRecord[];
  /** Positions of the changes of a keyed stream; absent for other streams. */
  readonly positions?: readonly number[] | undefined;
  /** Position of the first record. */
  readonly after: number;
  /** Position after these records. */
  readonly next: number;
  /** True if no record follows yet. If there is an `info.end`, the stream is then complete. */
  readonly isUpToDate: boolean;
  /**
   * Present on the pages of a snapshot of a keyed stream: the end of the stream when the snapshot
   * began. The read after the page repeats it unless `next` has reached it.
   */
  readonly snapshot?: number | undefined;
}

/**
 * Result of reading a stream:
 *
 * - a page;
 * - `missing` if there is no such stream;
 * - `dropped` for a response that was dropped within the last week to make room;
 * - `deleted` for a deleted stream that forks still need;
 * - `trimmed` for a position before the kept records, the first of which is `oldest`;
 * - `too-many` if too many readers of this node are waiting, with the bound or share that was
 *   reached.
 */
export type StreamRead =
  | StreamPage
  | { readonly kind: "missing" | "dropped" | "deleted" }
  | { readonly kind: "too-many"; readonly rejection: LimitError }
  | { readonly kind: "trimmed"; readonly oldest: number };

/**
 * The durable streams of one node. All state is in the broker, so streams outlive this object.
 *
 * - **Forks:** a fork reads the records before its start from its source. A deleted source stays in
 *   the broker until its last fork is gone.
 * - **Expiry:** an expired stream counts as missing immediately, and any node deletes it soon
 *   after. If the broker has a store, it remembers for a week the ids of expired or dropped streams
 *   that kept responses.
 * - **Writers:** a stream's writer holds a lease. If it lapses, any node ends the stream with the
 *   error `writer-lost`. If the broker also keeps the request that the stream responds to, a node
 *   waits for 20 s first, in which another node can take over the response.
 * - **Readers:** all readers of one stream on this node share one subscription to its
 *   announcements, and share their reads from the broker.
 */
export class StreamLogs implements AsyncDisposable {
  readonly #runtime: Runtime;
  readonly #broker: Broker;
  readonly #logs: BrokerLogs;
  readonly #bounds: StreamBounds;
  readonly #forms: RowForms | undefined;
  readonly #onReadToEnd: StreamLogsOptions["onReadToEnd"];
  readonly #counts: Record<OwnedKind, number> = { answer: 0, stream: 0 };
  readonly #rescue: StreamLogsOptions["rescue"];
  readonly #onRead: StreamLogsOptions["onRead"];
  readonly #followed = new Map<string, FollowedStream>();
  readonly #readers: Quota;
  readonly #copies: Copies;
  readonly #search: OverdueSearch;
  /** Streams with a request that one search found without a writer. */
  #spared = new Map<string, { readonly tail: number; readonly since: number }>();
  #isClosed = false;

  /**
   * Starts to search for overdue streams.
   *
   * @param options See {@linkcode StreamLogsOptions}.
   * @throws {UnsupportedError} If the broker keeps no logs.
   */
  constructor(options: StreamLogsOptions) {
    const { runtime, broker, bounds, onError, onDamage, rescue, onRead, onReadToEnd } = options;
    const { quotas = new Quotas(runtime) } = options;
    const logs = logsOf(broker);
    if (logs === undefined) {
      throw new UnsupportedError(
        `Cannot create server: the ${broker.name} broker stores no durable streams`,
      );
    }
    this.#runtime = runtime;
    this.#broker = broker;
    this.#logs = soundLogs(logs, onDamage ?? onError);
    this.#bounds = bounds;
    this.#readers = quotas.open({
      limit: "maxReaders",
      verb: "read",
      what: "readers that wait",
      max: bounds.maxReaders,
      shares: {},
      ...bounds.readerShares,
    });
    this.#copies = new Copies(runtime, quotas);
    this.#forms = options.forms;
    this.#onReadToEnd = onReadToEnd;
    this.#rescue = rescue;
    this.#onRead = onRead;
    this.#search = new OverdueSearch({
      runtime,
      intervalMs: rescue === undefined ? SWEEP_INTERVAL_MS : RESCUE_INTERVAL_MS,
      // If a killed process left writers in a file, they are already lost.
      isUrgent: rescue !== undefined,
      find: (limit) => this.#findOverdue(limit),
      tend: (id) =>
        this.#tend(id).catch((error) => {
          // It was reported when it was found.
          if (!isDamaged(error)) throw error;
        }),
      onError,
    });
  }

  get maxAppendBytes(): number {
    return this.#logs.maxAppendBytes;
  }

  /** True if streams may be keyed. */
  get keepsRows(): boolean {
    return this.#logs.keepsRows === true;
  }

  /** True after `close`. */
  get isClosed(): boolean {
    return this.#isClosed;
  }

  /**
   * Returns the number of logs of a kind, which the broker counted when this node created the
   * newest one.
   */
  countOf(kind: OwnedKind): number {
    return this.#counts[kind];
  }

  /** Number of readers of this node that wait for new records. */
  get readers(): number {
    return this.#readers.taken;
  }

  /** Returns true if a client may wait for new records as one more reader of this node. */
  hasRoom(account: Account): boolean {
    return this.#readers.levelFull(account) === undefined;
  }

  /**
   * Creates a stream, unless it exists.
   *
   * @param options See {@linkcode CreateStreamOptions}.
   * @returns The result.
   * @throws {RangeError} If the id is empty or too long.
   * @throws {UnsupportedError} If the stream would be keyed, and the broker keeps no rows.
   * @throws {LimitError} If the client forks too many large keyed streams at the same time.
   * @throws {BrokerError} If the broker is unreachable.
   */
  async create(id: string, options: CreateStreamOptions): Promise<StreamCreated> {
    checkId(id);
    if (options.keyed !== undefined && !this.keepsRows) {
      throw new UnsupportedError(
        `Cannot create stream: the ${this.#broker.name} broker stores no keyed streams`,
      );
    }
    const { identity = this.newIdentity(), fork } = options;
    if (fork === undefined) {
      return await this.#put(id, planStream(options), { ...options, identity });
    }
    const source = options.source ?? await this.info(fork.source);
    if (source.kind === "deleted") return { kind: "source-deleted" };
    if (source.kind !== "page") return { kind: "source-missing" };
    const { info } = source;
    const part = { ...options, identity, fork };
    const made = info.keyed === undefined
      ? await this.#fork(id, part, info)
      : await this.#copy(id, part, info);
    if (typeof made === "object") return made;
    const present = await this.info(id);
    return present.kind === "page"
      ? { kind: "exists", info: present.info, isSame: false }
      : { kind: made };
  }

  /**
   * Returns the result of {@linkcode StreamLogs.create} for a stream that is no fork, and exists.
   *
   * @param options See {@linkcode CreateStreamOptions}.
   * @returns The result; `undefined` if there is no stream with this id.
   * @throws {BrokerError} If the broker is unreachable.
   */
  async existing(id: string, options: CreateStreamOptions): Promise<StreamCreated | undefined> {
    const { config } = planStream(options);
    return await this.#existing(id, { config, end: options.end, fork: undefined });
  }

  /** Creates a stream as planned, unless it exists. */
  async #put(
    id: string,
    plan: StreamPlan,
    { identity, end, writer, fork }: CreateStreamOptions & { readonly identity: string },
  ): Promise<StreamCreated> {
    const { origin, keyed } = plan.config;
    if (keyed !== undefined && writer !== undefined) return { kind: "keyed" };
    const bytes = recordBytes(plan.records);
    const counted = countedBytes(bytes, plan.records.length);
    const rows = plan.rows && rowsStateOf(plan.rows);
    if (counted > this.#bounds.maxStreamBytes || this.#isTooLarge(bytes, rows)) {
      return { kind: "full" };
    }
    const creation = {
      ...plan,
      // A copy has the form of its source.
      rows: plan.rows && fork === undefined
        ? { ...plan.rows, form: this.#forms?.of(id) || undefined }
        : plan.rows,
      identity,
      maxLogs: logKind(id) === "stream" ? this.#bounds.maxStreams : this.#bounds.maxRetained,
      end,
      writer,
    };
    // A copy of rows needs no source.
    const retained = keyed === undefined ? await this.#retain(origin) : "retained";
    if (retained === "missing") return { kind: "source-deleted" };
    const wanted = { ...creation, end, fork };
    if (retained === "too-many") {
      return await this.#existing(id, wanted) ?? { kind: "too-many-forks" };
    }
    const created = await this.#createLog(id, creation).catch(async (error) => {
      // If the broker did not respond, the stream may exist and depend on its source.
      if (!(error instanceof BrokerError)) await this.#release(origin);
      throw error;
    });
    if (created.kind === "created") {
      const kind = logKind(id);
      if (kind !== "request") this.#counts[kind] = created.count;
      return { kind: "created", info: created.info };
    }
    await this.#release(origin);
    if (created.kind === "expired") return { kind: "too-many" };
    if (created.kind === "over-share") return created;
    if (created.kind !== "exists") return { kind: created.kind };
    const { info } = created;
    if (info.isDeleted) return { kind: "deleted" };
    return { kind: "exists", info, isSame: isSame(info, wanted) };
  }

  /** True if a new stream with these first records and rows exceeds a bound. */
  #isTooLarge(recordBytes: number, rows: RowStats | undefined): boolean {
    const rowBytes = rows === undefined ? 0 : sizeOf(rows);
    return rowBytes > this.#bounds.maxStreamBytes || recordBytes + rowBytes > this.maxAppendBytes;
  }

  /**
   * Appends records, ends a stream, or records a cancellation.
   *
   * @param options The options of the append, without the bounds.
   * @returns The result.
   * @throws {BrokerError} If the broker is unreachable. The append may have taken effect.
   */
  async append(
    id: string,
    options: Omit<AppendLogOptions, "maxBytes" | "keep" | "rowBounds">,
  ): Promise<StreamAppended> {
    if (!isId(id)) return { kind: "missing" };
    const { maxStreamBytes, keep, maxRows } = this.#bounds;
    const { records, changes, expiresRows } = options;
    const isTransaction = changes !== undefined || expiresRows === true;
    // Responses, and the requests of those that another node may continue, are kept whole.
    const isWhole = isTransaction || logKind(id) !== "stream";
    const is = changes && this.#forms?.of(id);
    const form = options.form ?? (is === undefined ? undefined : { is });
    const bytes = recordBytes(records) + requestBytes(changes ?? []);
    if (bytes > this.maxAppendBytes) return { kind: "full" };
    const result = await this.#logs.append(id, {
      ...options,
      form,
      maxBytes: maxStreamBytes,
      keep: isWhole ? undefined : keep,
      rowBounds: isTransaction ? { ...REMEMBERED_ROWS, rows: maxRows } : undefined,
    });
    switch (result.kind) {
      case "expired":
      case "missing":
        return { kind: "missing" };
      case "deleted":
        return { kind: "deleted" };
      case "other-form":
        if (options.form === undefined) this.#forms?.differs(id, result.form);
        return result;
      default:
        return result;
    }
  }

  /**
   * Reads rows of a keyed stream, whatever their form.
   *
   * @param options The part of the rows.
   * @returns The page; `undefined` if there is no such stream.
   * @throws {BrokerError} If the broker is unreachable.
   */
  async rows(
    id: string,
    options: Pick<ReadStreamOptions, "after" | "maxBytes" | "maxRecords">,
  ): Promise<LogPage | undefined> {
    return await this.#readLog(id, options, false);
  }

  /**
   * Reads rows of a keyed stream by name, once the rows have the form of this node. Does not renew
   * the time to live.
   *
   * @param options See {@linkcode ReadLogOptions.rows}, and a signal that ends the wait.
   * @returns The page; `undefined` if there is no keyed stream with this id.
   * @throws {RequestError} If the rows cannot be read for now.
   * @throws {BrokerError} If the broker is unreachable.
   */
  async namedRows(
    id: string,
    { signal, ...options }:
      & Required<Pick<ReadLogOptions, "maxBytes" | "rows">>
      & Pick<ReadLogOptions, "signal">,
  ): Promise<LogPage | undefined> {
    await this.#forms?.ready(id, signal);
    const page = await this.#readLog(id, { ...options, after: 0, maxRecords: 0, signal }, false);
    const isRead = page?.info.keyed !== undefined && page.info.isDeleted === undefined;
    return isRead ? page : undefined;
  }

  /**
   * Reads a page, without waiting for new records. Renews the time to live.
   *
   * @param options See {@linkcode ReadStreamOptions}.
   * @returns The result.
   * @throws {RequestError} If the rows cannot be read for now.
   * @throws {BrokerError} If the broker is unreachable.
   */
  async read(id: string, options: ReadStreamOptions): Promise<StreamRead> {
    this.#onRead?.(id);
    await this.#forms?.ready(id, options.signal);
    const result = await this.#read(id, options, true);
    this.#noteRead(id, result);
    return result;
  }

  /**
   * Reads the state of a stream. Does not renew the time to live.
   *
   * @returns An empty page.
   * @throws {BrokerError} If the broker is unreachable.
   */
  async info(id: string): Promise<StreamRead> {
    const page = await this.#readLog(id, STATE_ALONE, false);
    if (page === undefined) return await this.#missing(id);
    const { info } = page;
    if (info.isDeleted) return { kind: "deleted" };
    const { tail } = info;
    return { kind: "page", info, records: [], after: tail, next: tail, isUpToDate: true };
  }

  /**
   * Reads a stream to its end, page by page, and waits for new records. An empty page means that
   * the reader has caught up. The last page of an ended stream contains its last records, if any
   * are left. Renews the time to live while the reader waits.
   *
   * @param options See {@linkcode ReadStreamOptions}. The signal and `close` end the pages without
   * an error.
   * @returns The pages. If a result is not a page, it is the last one. `next(position)` continues
   * at a later position, up to which the reader has received the records otherwise.
   * @throws {RequestError} If the rows of the stream cannot be read for now.
   * @throws {BrokerError} If the broker is unreachable.
   */
  async *follow(
    id: string,
    options: ReadStreamOptions,
  ): AsyncGenerator<StreamRead, void, number | undefined> {
    const { signal, account } = options;
    if (!isId(id)) {
      yield { kind: "missing" };
      return;
    }
    let slot: Slot;
    try {
      slot = this.#readers.take(account);
    } catch (error) {
      if (!(error instanceof LimitError)) throw error;
      yield { kind: "too-many", rejection: error };
      return;
    }
    using _slot = slot;
    const followed = this.#enter(id);
    const isLeaving = () => signal?.aborted || this.#isClosed;
    // Readers share a listener and have no timer of their own, because a page may arrive for every
    // record.
    let wake = () => {};
    const onAbort = () => wake();
    signal?.addEventListener("abort", onAbort);
    const settled = (promise: Promise<unknown>) =>
      new Promise<unknown>((resolve) => {
        wake = () => resolve(undefined);
        promise.then(resolve, resolve);
        if (isLeaving()) wake();
      });
    try {
      // An announcement from before the subscription is in force is not missed, because the read
      // comes later.
      const ready = this.#untilReady(followed, signal);
      await settled(ready);
      if (!isLeaving()) await ready;
      const formed = this.#forms?.ready(id, signal);
      if (formed !== undefined) {
        await settled(formed);
        if (isLeaving()) return;
        await formed;
      }
      let { after, identity, startsAtOldest = false, snapshot, unwritten } = options;
      for (let isTold = false; !isLeaving();) {
        const { version } = followed;
        const part = { ...options, after, identity, startsAtOldest, snapshot };
        const reading = this.#share(followed, id, part, isTold);
        await settled(reading);
        if (isLeaving()) return;
        let result = await reading;
        if (result.kind === "page") unwritten = undefined;
        else if (unwritten !== undefined && result.kind === "missing") {
          // The stream may exist with another identity.
          const finding = followed.shareNext("info", () => this.info(id));
          await settled(finding);
          if (isLeaving()) return;
          const found = await finding;
          if (found.kind === "missing") result = pageAfter(unwritten, after);
          else if (found.kind === "page" && found.info.identity === identity) continue;
        }
        if (result.kind !== "page") {
          yield result;
          return;
        }
        const { info, records, next, isUpToDate } = result;
        const isOver = isUpToDate && info.end !== undefined;
        if (isOver) this.#noteRead(id, result);
        let moved: number | undefined;
        if (records.length > 0 || isOver || isUpToDate && !isTold) moved = yield result;
        if (isOver) return;
        isTold ||= isUpToDate;
        identity = info.identity;
        after = moved ?? next;
        snapshot = next < (result.snapshot ?? 0) ? result.snapshot : undefined;
        startsAtOldest = false; // Records that are dropped from now on are missed.
        const isBehind = moved !== undefined || !isUpToDate || followed.version !== version;
        if (isBehind || isLeaving()) continue;
        await new Promise<void>((resolve) => {
          wake = resolve;
          followed.wait(resolve, this.#checkMs(info));
        });
        followed.forget(wake);
      }
    } finally {
      signal?.removeEventListener("abort", onAbort);
      this.#leave(id, followed);
    }
  }

  /**
   * Calls back on each change of a stream; possibly too early, or not at all if the announcement
   * gets lost.
   *
   * @param onChange Receives the records of the change if it appended nothing else and the
   * announcement carries them. Also called once the broker is reachable after an outage. MUST NOT
   * throw.
   * @returns A disposable that ends the calls.
   */
  watch(id: string, onChange: (carried?: CarriedRecords) => void): BrokerSubscription {
    const listener = ({ payload }: Publication) => onChange(readCarried(payload));
    return this.#broker.subscribe(logTopic(id), listener, { onInterrupted: () => onChange() });
  }

  /**
   * Deletes a stream; its forks stay.
   *
   * @param options With `ifExpired`, deletes the stream only if it has expired.
   * @returns `removed`, `missing` if there is no such stream, or `deleted` if it was deleted
   * before.
   * @throws {BrokerError} If the broker is unreachable.
   */
  async delete(
    id: string,
    options: { readonly ifExpired?: boolean | undefined } = {},
  ): Promise<"removed" | "missing" | "deleted"> {
    if (!isId(id)) return "missing";
    if (!options.ifExpired) {
      const identity = await this.#identityOf(id);
      if (identity === undefined) options = { ifExpired: true };
      else await this.#noteDeletion(id, identity);
    }
    const result = await this.#logs.delete(id, options);
    if (result.kind === "removed") await this.#release(result.origin);
    if (result.kind === "deleted") return "deleted";
    const isOwn = !options.ifExpired && (result.kind === "removed" || result.kind === "kept");
    return isOwn ? "removed" : "missing";
  }

  /**
   * Finds a response, or what happened to it within the last week.
   *
   * @returns Its state; `undefined` if the response never existed or was deleted. Without a store,
   * the broker remembers no past responses.
   * @throws {BrokerError} If the broker is unreachable.
   */
  async findResponse(id: string): Promise<"kept" | "expired" | "dropped" | undefined> {
    const log = await this.#logs.read(id, STATE_ALONE);
    if (log === "expired") return log;
    if (log !== undefined && !log.info.isDeleted) return "kept";
    return await this.#fateOf(id);
  }

  /**
   * Drops a completed response to make room for another one. Its readers receive the reason, and
   * its name cannot start another response for a week.
   *
   * @returns True if there is room now; false if the response is missing, is still running, or has
   * forks.
   * @throws {BrokerError} If the broker is unreachable.
   */
  async drop(id: string): Promise<boolean> {
    const { store } = this.#broker;
    const log = await this.#logs.read(id, STATE_ALONE);
    if (typeof log !== "object" || log.info.end === undefined) return false;
    await store?.advance(expiredRow(id), DROPPED, REMEMBERED_MS);
    const result = await this.#logs.delete(id);
    if (result.kind !== "removed") return false;
    await this.#release(result.origin);
    return true;
  }

  /**
   * Finds out whether a stream that is missing, or that was replaced by another one, was lost by the
   * broker. A deletion within the last week is remembered by the broker's store, with the identity
   * of the stream. An expired stream is not remembered.
   *
   * @param id The id of the stream.
   * @param info The stream as it was.
   * @returns False if it was deleted, may have expired, or if the broker has no store.
   * @throws {BrokerError} If the broker is unreachable.
   */
  async wasLost(id: string, info: LogInfo): Promise<boolean> {
    const { store } = this.#broker;
    const mayExpire = info.ttlMs !== undefined || info.expiresAt !== undefined;
    if (store === undefined || mayExpire || logKind(id) !== "stream") return false;
    return await store.newest(deletedRow(id, info.identity), REMEMBERED_MS) < 0;
  }

  /** Makes all readers of a stream read it again, because a writer has found a change. */
  recheck(id: string): void {
    this.#followed.get(id)?.notify();
  }

  /**
   * Says that a stream is gone that a caller has read before, and that may have been deleted.
   *
   * @param id The id of the stream.
   * @param options `mayBeLost` adds that a broker in memory loses its streams with the server.
   */
  goneReason(id: string, options: { readonly mayBeLost?: boolean } = {}): string {
    const what = isId(id) && logKind(id) === "answer" ? "response" : "stream";
    const isHinted = options.mayBeLost === true && this.#broker.name === "memory";
    return `This server no longer has the ${what}` +
      (isHinted ? `; its broker keeps ${what}s in memory` : "");
  }

  /**
   * Lists the logs of a kind that the broker keeps. Streams without an owner may be left out.
   *
   * @param options The approximate number of logs to list, and `next` of the previous page.
   * @returns A page of the list.
   * @throws {BrokerError} If the broker is unreachable.
   */
  async list(
    kind: OwnedKind,
    options: { readonly limit: number; readonly after?: string | undefined },
  ): Promise<RetainedLogs> {
    return await this.#logs.list(kind, options);
  }

  /** Searches for overdue streams immediately, because a writer has released one. */
  search(): void {
    this.#search.search();
  }

  /** Ends all readers and the search for overdue streams. The streams stay. Idempotent. */
  async close(): Promise<void> {
    this.#isClosed = true;
    for (const followed of this.#followed.values()) followed.notify();
    this.#copies.close();
    await this.#search.close();
  }

  /** Closes the streams of this node; called by `await using`. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  /** Returns an identity that no stream has. */
  newIdentity(): string {
    let identity = "";
    while (identity.length < IDENTITY_LENGTH) {
      identity += Math.floor(this.#runtime.random() * 36).toString(36);
    }
    return identity;
  }

  /** Creates a fork of a stream that is not keyed. */
  async #fork(
    id: string,
    options: CreateForkOptions,
    info: LogInfo,
  ): Promise<StreamCreated | ForkRejection> {
    const { identity, fork: request } = options;
    const recordsAt = async (after: number) => {
      const page = await this.#read(request.source, { after, maxRecords: 1, maxBytes: 1 }, false);
      if (page.kind === "trimmed") return undefined;
      return page.kind === "page" ? page.records : [];
    };
    const plan = await planFork(identity, options, { request, info, recordsAt });
    return typeof plan === "string" ? plan : await this.#put(id, plan, options);
  }

  /**
   * Creates a fork of a keyed stream, which starts with a copy of the rows. They are read only if
   * the fork may be created.
   */
  async #copy(
    id: string,
    options: CreateForkOptions,
    source: LogInfo,
  ): Promise<StreamCreated | ForkRejection> {
    const { identity, fork: request, end, account, check } = options;
    if (options.isPlain) return "keyed";
    // The rows of a source with an earlier version of the contract are moved first.
    await this.#forms?.ready(request.source, undefined);
    const config = planCopy(identity, options, { request, info: source });
    if (typeof config === "string") return config;
    const present = await this.#existing(id, { config, end, fork: request });
    if (present !== undefined) return present;
    if (this.#isTooLarge(0, source.rows)) return { kind: "full" };
    using copy = this.#copies.begin(source, account);
    const read: ReadPage = (bounds) => this.#readLog(request.source, bounds, false);
    const copied = await copy.rows(read, this.maxAppendBytes);
    if (copied === "missing") return { kind: "source-missing" };
    if (copied === "full") return { kind: copied };
    const { info, set } = copied;
    // The source may have changed while it was read.
    const current = planCopy(identity, options, { request, info });
    if (typeof current === "string") return current;
    const fitted = await options.fitCopy?.(request.source, set);
    const form = fitted === undefined ? info.form : this.#forms?.of(id) || undefined;
    const rows = { set: fitted ?? set, forgotten: info.rows!.forgotten, form };
    check?.();
    const created = await this.#put(id, { config: current, records: [], rows }, options);
    copy.wasRefused = created.kind !== "created";
    return created;
  }

  /** Creates a log, in place of an expired one. */
  async #createLog(id: string, options: CreateLogOptions): Promise<LogCreated> {
    const created = await this.#logs.create(id, options);
    if (created.kind !== "expired") return created;
    await this.#deleteExpired(id);
    return await this.#logs.create(id, options);
  }

  /** Reserves a slot among a source's forks. */
  async #retain(origin: LogOrigin | undefined): Promise<LogRetained> {
    if (origin === undefined) return "retained";
    const { maxForks } = this.#bounds;
    return await this.#logs.retain(origin.id, origin.fork, { identity: origin.identity, maxForks });
  }

  /** Returns the result of a creation if the stream already exists, which needs no further slot. */
  async #existing(id: string, wanted: WantedStream): Promise<StreamCreated | undefined> {
    const found = await this.info(id);
    if (found.kind === "deleted") return { kind: "deleted" };
    if (found.kind !== "page") return undefined;
    return { kind: "exists", info: found.info, isSame: isSame(found.info, wanted) };
  }

  /** Releases an origin, and the origins of logs that were kept for it. */
  async #release(origin: LogOrigin | undefined): Promise<void> {
    for (let next = origin; next !== undefined;) {
      next = await this.#logs.release(next.id, next.fork);
    }
  }

  async #read(id: string, options: ReadStreamOptions, renews: boolean): Promise<StreamRead> {
    for (let { after } = options;;) {
      const result = await this.#readAfter(id, { ...options, after }, renews);
      const isBehind = result.kind === "trimmed" && options.startsAtOldest === true;
      if (!isBehind || result.oldest === after) return result;
      after = result.oldest;
    }
  }

  /** The identity of a stream that readers may see; empty if the stream is damaged. */
  async #identityOf(id: string): Promise<string | undefined> {
    try {
      return (await this.#readLog(id, STATE_ALONE, false))?.info.identity;
    } catch (error) {
      if (isDamaged(error)) return "";
      throw error;
    }
  }

  /** Remembers in the broker that a stream is about to be deleted, so that it does not seem lost. */
  async #noteDeletion(id: string, identity: string): Promise<void> {
    if (logKind(id) !== "stream") return;
    await this.#broker.store?.advance(deletedRow(id, identity), 1, REMEMBERED_MS);
  }

  /** The result of reading a stream that does not exist. */
  async #missing(id: string): Promise<StreamRead> {
    const isResponse = isId(id) && logKind(id) === "answer";
    return { kind: isResponse && await this.#fateOf(id) === "dropped" ? "dropped" : "missing" };
  }

  async #fateOf(id: string): Promise<"expired" | "dropped" | undefined> {
    const number = await this.#broker.store?.newest(expiredRow(id), REMEMBERED_MS);
    return number === DROPPED ? "dropped" : number === EXPIRED ? "expired" : undefined;
  }

  #noteRead(id: string, result: StreamRead): void {
    if (result.kind !== "page" || !result.isUpToDate || result.info.end === undefined) return;
    if (logKind(id) === "answer") this.#onReadToEnd?.(id);
  }

  async #readAfter(id: string, options: ReadStreamOptions, renews: boolean): Promise<StreamRead> {
    const { after, identity } = options;
    const changes = await this.#readChanges(id, options);
    const page = changes ?? await this.#readLog(id, options, renews);
    if (page === undefined) return await this.#missing(id);
    const { info } = page;
    if (identity !== undefined && identity !== info.identity) return { kind: "missing" };
    if (info.isDeleted) return { kind: "deleted" };
    if (info.rows !== undefined && changes === undefined) return pageOfRows(page, options);
    // A keyed fork has copied its rows, and inherits no transactions.
    if (after >= info.first || info.keyed !== undefined) {
      return after < info.start
        ? { kind: "trimmed", oldest: info.start }
        : pageOf(info, after, page.records);
    }
    const inherited = await this.#readInherited(info, options);
    return "oldest" in inherited
      ? { kind: "trimmed", oldest: inherited.oldest }
      : pageOf(info, after, inherited.records);
  }

  /** Reads all transactions of a keyed log that a reader lacks, if they fit into one page. */
  async #readChanges(id: string, options: ReadStreamOptions): Promise<LogPage | undefined> {
    const { after, snapshot, startsAtOldest, eachChange } = options;
    // A snapshot consists of rows.
    const isAlways = eachChange === "always";
    if (!isAlways && (!eachChange || startsAtOldest || snapshot !== undefined)) return undefined;
    const page = await this.#readLog(id, { ...options, tail: true }, true);
    if (page?.info.keyed === undefined) return page;
    const { info, records } = page;
    const isWhole = after >= info.start && after + records.length >= info.tail;
    if (!isAlways && (!isWhole || records.length > MAX_TRANSACTIONS_BEHIND)) return undefined;
    // The brackets of the lists are left out, because the page is one list.
    return { info, records: records.map((record) => record.slice(1, -1)) };
  }

  /** Reads records of one log. Resolves to `undefined` if there is no log that readers may see. */
  async #readLog(
    id: string,
    { after, maxRecords, maxBytes, rows, tail, signal }:
      & ReadStreamOptions
      & Pick<ReadLogOptions, "rows" | "tail">,
    renews: boolean,
  ): Promise<LogPage | undefined> {
    if (!isId(id)) return undefined;
    const options = { after, maxRecords, maxBytes, rows, tail, renews, signal };
    const page = await this.#logs.read(id, options);
    return page === "expired" ? undefined : page;
  }

  /** Reads a fork's records from its source, or returns the oldest position that is kept. */
  async #readInherited(
    fork: LogInfo,
    { after, maxRecords, ...options }: ReadStreamOptions,
  ): Promise<{ readonly records: readonly LogRecord[] } | { readonly oldest: number }> {
    let { origin } = fork;
    let until = fork.first;
    while (origin !== undefined) {
      until = Math.min(until, origin.position);
      const part = { ...options, after, maxRecords: Math.min(maxRecords, until - after) };
      let page = await this.#readLog(origin.id, part, false);
      if (page === undefined) {
        // An expired source is kept for its forks, like a deleted one.
        await this.#deleteExpired(origin.id);
        page = await this.#readLog(origin.id, part, false);
      }
      if (page === undefined || page.info.identity !== origin.identity) break;
      const { info, records } = page;
      if (after >= info.first) {
        return after < info.start ? { oldest: Math.min(info.start, until) } : { records };
      }
      origin = info.origin;
    }
    return { oldest: until };
  }

  /**
   * Reads a page together with all readers that want the same page, after the same announcement.
   * A reader that was not told yet that it has caught up shares no read from before it came, and no
   * announcement, because this node may not have heard of the newest records yet.
   */
  #share(
    followed: FollowedStream,
    id: string,
    options: ReadStreamOptions,
    isTold: boolean,
  ): Promise<StreamRead> {
    const { after, identity = "", maxRecords, maxBytes, startsAtOldest = false, snapshot } =
      options;
    const kind = `${startsAtOldest} ${snapshot} ${options.eachChange}`;
    const key = `${after} ${maxRecords} ${maxBytes} ${identity} ${kind}`;
    const { carried } = followed;
    const read = async () => {
      const { changes } = carried;
      // One reader's signal must not end the read for the others.
      const result = await this.#read(id, { ...options, signal: undefined }, true);
      if (result.kind === "page") carried.learn(result.info, changes);
      return result;
    };
    if (!isTold) return followed.shareNext(key, read);
    return followed.share(key, async () => pageOfCarried(carried, options) ?? await read());
  }

  isFollowed(id: string): boolean {
    return this.#followed.has(id);
  }

  /** Lists the streams that readers of this node follow, with the number of readers. */
  *followed(): Generator<readonly [id: string, readers: number]> {
    for (const [id, { readers }] of this.#followed) yield [id, readers];
  }

  /** Time until the next check of a stream, which renews the time to live. */
  #checkMs({ ttlMs = Infinity }: LogInfo): number {
    return Math.min(CHECK_INTERVAL_MS, ttlMs / 2) * (1 + this.#runtime.random()) / 2;
  }

  #enter(id: string): FollowedStream {
    if (this.#isClosed) {
      throw new UnsupportedError("Cannot read stream: the server is closed");
    }
    let followed = this.#followed.get(id);
    if (followed === undefined) {
      followed = new FollowedStream(this.#runtime, (onChange) => this.watch(id, onChange));
      this.#followed.set(id, followed);
      this.#onRead?.(id);
    }
    followed.readers++;
    return followed;
  }

  async #untilReady(
    { subscription }: FollowedStream,
    signal: AbortSignal | undefined,
  ): Promise<void> {
    try {
      await within(this.#runtime, subscription.ready, { timeoutMs: READY_MS, signal });
    } catch (error) {
      if (!(error instanceof TimeoutError)) throw error;
      throw new BrokerError(
        `Cannot read stream: no reply from the broker within ${READY_MS} ms`,
        { cause: error },
      );
    }
  }

  #leave(id: string, followed: FollowedStream): void {
    if (--followed.readers > 0) return;
    this.#followed.delete(id);
    this.#onRead?.(id);
    void followed.subscription[Symbol.asyncDispose]();
  }

  async #findOverdue(limit: number): Promise<string[]> {
    const ids = await this.#logs.overdue({ limit });
    this.#spared = new Map([...this.#spared].filter(([id]) => ids.includes(id)));
    return ids;
  }

  /** Ends a stream that lost its writer, or deletes it if it has expired. */
  async #tend(id: string): Promise<void> {
    if (await this.#isSpared(id)) return;
    const { kind } = await this.append(id, {
      records: [],
      end: { error: WRITER_LOST },
      ifWriterLost: true,
    });
    if (kind === "missing") return await this.#deleteExpired(id);
    // The other reason for which a log is overdue.
    if (kind === "held") await this.append(id, { records: [], expiresRows: true });
    this.#spared.delete(id) && await this.delete(requestLog(id));
  }

  /** Deletes a stream if it has expired, and remembers its id if it was a response. */
  async #deleteExpired(id: string): Promise<void> {
    const { store } = this.#broker;
    const isNamed = store !== undefined && logKind(id) === "answer";
    if (isNamed && await this.#logs.read(id, STATE_ALONE) === "expired") {
      await store.advance(expiredRow(id), EXPIRED, REMEMBERED_MS);
    }
    await this.delete(id, { ifExpired: true });
  }

  /** True if an overdue stream has a new writer, or may get one from another node. */
  async #isSpared(id: string): Promise<boolean> {
    const request = requestLog(id);
    if (!isId(request) || (await this.info(request)).kind !== "page") return false;
    const found = await this.info(id);
    if (found.kind !== "page") return false; // Expired.
    if (await this.#rescue?.(id)) return true;
    const { tail } = found.info;
    const now = this.#runtime.monotonic();
    const before = this.#spared.get(id);
    // A stream with new records had a writer between two searches.
    const since = before?.tail === tail ? before.since : now;
    this.#spared.set(id, { tail, since });
    return now - since < SPARE_MS;
  }
}

/** A stream that readers of this node follow. */
class FollowedStream extends Followed<StreamRead> {
  readonly carried: CarriedTail;

  constructor(
    runtime: Runtime,
    watch: (onChange: (carried?: CarriedRecords) => void) => BrokerSubscription,
  ) {
    const tail = new CarriedTail();
    super(runtime, (onChange) =>
      watch((carried) => {
        tail.add(carried);
        onChange();
      }));
    this.carried = tail;
  }
}

/** The page of records that announcements have carried; `undefined` if a reader has to read. */
function pageOfCarried(carried: CarriedTail, options: ReadStreamOptions): StreamPage | undefined {
  const { after, startsAtOldest, snapshot, eachChange } = options;
  if (startsAtOldest || snapshot !== undefined) return undefined;
  const page = carried.read({ ...options, eachChange: Boolean(eachChange) });
  // A read of a keyed stream from its start is a snapshot.
  if (page === undefined || page.info.keyed !== undefined && after === 0) return undefined;
  const { info, records, positions } = page;
  return { kind: "page", info, records, positions, after, next: info.tail, isUpToDate: true };
}

/** The rest of the page of a stream that does not exist. */
function pageAfter(page: StreamPage, after: number): StreamPage {
  return after < page.next ? page : { ...page, records: [], positions: [], after };
}

const STATE_ALONE = { after: 0, maxRecords: 0, maxBytes: 0, renews: false } as const;

/** A page of a keyed stream, unless deletions after the position have been forgotten. */
function pageOfRows(
  { info, records, positions = [], next = info.tail }: LogPage,
  { after, snapshot = after === 0 ? info.tail : undefined }: ReadStreamOptions,
): StreamRead {
  const { forgotten } = info.rows!;
  const hasMissed = after > 0 && after < forgotten && (snapshot ?? 0) < forgotten;
  if (hasMissed) return { kind: "trimmed", oldest: 0 };
  const isUpToDate = next >= info.tail;
  return { kind: "page", info, records, positions, after, next, isUpToDate, snapshot };
}

/** Numbers in the row of a response: expired, or dropped. */
const [EXPIRED, DROPPED] = [1, 2];

/** The reason for `dropped`, for readers. */
export const DROPPED_REASON = "The response was dropped to make room for newer ones";

function expiredRow(id: string): string {
  return `expired:${id}`;
}

/** Key of the mark that a stream was deleted. */
function deletedRow(id: string, identity: string): string {
  return `deleted:${identity}:${id}`;
}

export const NO_SPACE = "this server has no room for more bytes of streams and histories";

/** Results of appends and creations, in words. */
const OUTCOMES: Readonly<Record<string, string>> = {
  "bad-offset": "the offset is beyond the end of the source",
  deleted: "a stream with this id was deleted",
  full: "the rows need more than maxStreamBytes",
  "no-space": NO_SPACE,
  "other-type": "the source has another content type",
  "too-deep": "the source is itself a fork of too many levels",
  "too-many": "there are too many durable streams (maxStreams)",
  "too-many-rows": "there are more rows than maxRows",
};

/** Says why a stream was not created or changed. */
export function outcomeText({ kind }: { readonly kind: string }): string {
  return OUTCOMES[kind] ?? "another program has changed the stream";
}

/** Code of a stream whose writer stopped renewing its lease. */
export const WRITER_LOST = "writer-lost";

/** True if a stream can have this id. The broker is never asked for any other id. */
export function isId(id: string): boolean {
  if (typeof id !== "string") return false;
  const bytes = utf8Length(id);
  return bytes > 0 && bytes <= MAX_LOG_ID_BYTES && id.isWellFormed() && !id.includes("\0");
}

function checkId(id: string): void {
  if (isId(id)) return;
  checkType("use stream", "id", id, "string");
  throw new RangeError(
    `Cannot use stream: the id must have 1 to ${MAX_LOG_ID_BYTES} bytes, be ` +
      `well-formed and have no zero characters, received ${utf8Length(id)} bytes`,
  );
}

function pageOf(info: LogInfo, after: number, records: readonly LogRecord[]): StreamPage {
  const next = Math.max(after, after + records.length);
  return { kind: "page", info, records, after, next, isUpToDate: next >= info.tail };
}
