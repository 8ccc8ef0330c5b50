/** The durable streams of a server, for its application to write, read and cancel. */
import { checkType } from "../base/error_text.ts";
import { checkOptions, MOMENT, TTL, wrongKind } from "../base/options/option_checks.ts";
import { type OptionKinds, withoutUndefined } from "../base/options/options.ts";
import { LimitError, RequestError } from "../errors.ts";
import type { Runtime } from "../base/runtime.ts";
import { settlesWithin } from "../base/wait.ts";
import type { Decision } from "../pubsub/decisions.ts";
import type { LogEnd, LogInfo, LogRecord, LogRow, LogTail } from "./logs/log.ts";
import { logKind } from "./logs/log_names.ts";
import { isJson, JSON_TYPE, MAX_REASON_LENGTH } from "./logs/rules.ts";
import { withVersion } from "./logs/change_message.ts";
import { formatOffset, oldestPosition, parseOffset, snapshotOf } from "./logs/offset.ts";
import {
  type CreateStreamOptions,
  DROPPED_REASON,
  NO_SPACE,
  outcomeText,
  type ReadStreamOptions,
  type StreamCreated,
  type StreamLogs,
  type StreamPage,
  type StreamRead,
  WRITER_LOST,
} from "./logs/stream_logs.ts";
import { MAX_PLACE_BYTES } from "../session/wire/encode.ts";
import { offsetAfter } from "./snapshots.ts";
import { STREAM_PREFIX } from "../session/wire/recovery.ts";
import { MAX_CHANGES } from "../session/wire/rows.ts";
import { utf8Length } from "../session/wire/utf8.ts";
import { ABORTED, DurableStreamWriter, LEASE_MS, type WriterOptions } from "./writer.ts";

/** Limits of the pages in which a stream is read. */
export const PAGE = { maxRecords: 1_000, maxBytes: 1_048_576 };

/** Time limit for notifying the readers of open writers when the server closes, in milliseconds. */
const CLOSE_MS = 2_000;

/** Properties of a new durable stream. */
export interface CreateDurableStreamOptions {
  /**
   * Media type of the records. With `application/json`, a record is a JSON value; otherwise a
   * string or bytes.
   *
   * @default {"application/json"}
   */
  readonly contentType?: string | undefined;
  /**
   * Time after the last append or read at which the stream is deleted, in milliseconds; at most 100
   * years.
   *
   * Sessions and requests that wait for new records count as reading.
   *
   * @default {never deleted}
   */
  readonly ttlMs?: number | undefined;
  /**
   * Time at which the stream is deleted, in milliseconds since the Unix epoch. If it has passed, the
   * stream is deleted as soon as it is created, and no append succeeds.
   */
  readonly expiresAt?: number | undefined;
  /**
   * `{ source, offset }`: the stream that the new one continues, and the offset after which it
   * does, by default the end. The source is not changed.
   */
  readonly fork?: {
    /** Id of the source. */
    readonly source: string;
    /**
     * Offset in the source after which the new stream continues; by default the end of the source.
     */
    readonly offset?: string | undefined;
  } | undefined;
  /**
   * Creates a keyed stream: it holds rows, and keeps the newest change of each of them. Its media
   * type is JSON.
   *
   * If the id fits a pattern of the contract's states, it starts with the state's first rows. A
   * keyed fork starts with a copy of the rows that its source has now. They must fit the contract
   * if the id of the fork fits a pattern of its states.
   *
   * @default {false}
   */
  readonly keyed?: boolean | undefined;
}

/** The state of a durable stream. */
export interface DurableStreamInfo {
  /** True if the stream is keyed: it holds rows, which live states and HTTP write. */
  readonly keyed: boolean;
  /** Media type of the records. */
  readonly contentType: string;
  /** Offset after the newest record. */
  readonly offset: string;
  /** True once the stream has ended, complete or not. */
  readonly isEnded: boolean;
  /** Reason why an ended stream is incomplete; absent for a complete one. */
  readonly error?: string | undefined;
  /** Code of this error, if the writer set one. */
  readonly code?: string | undefined;
  /** Reason with which a reader asked the writer to stop. */
  readonly cancelled?: string | undefined;
  /**
   * Size of the records in bytes: for a fork, without the records of its source; for a keyed
   * stream, of the transactions in its tail.
   */
  readonly bytes: number;
  /** The rows of a keyed stream; absent for other streams. */
  readonly rows?:
    | {
      /** Number of rows that exist. */
      readonly count: number;
      /** Number of deleted rows that are remembered. */
      readonly deletions: number;
      /** Size of all these rows in bytes. */
      readonly bytes: number;
    }
    | undefined;
}

/**
 * A record, and the offset after it.
 *
 * @typeParam T Type of a record.
 */
export interface DurableStreamItem<T = unknown> {
  /** The record. */
  readonly data: T;
  /** Offset after the record: a read `after` this offset continues with the next record. */
  readonly offset: string;
}

/** Range of a durable stream to read. */
export interface ReadDurableStreamOptions {
  /**
   * Offset after which to read. `"-1"` reads from the oldest kept record, and `"now"` from the end.
   *
   * @default {"-1"}
   */
  readonly after?: string | undefined;
  /** Ends the loop, with the signal's reason. */
  readonly signal?: AbortSignal | undefined;
}

const CREATE: OptionKinds<CreateDurableStreamOptions> = {
  contentType: "string",
  expiresAt: MOMENT,
  fork: { offset: "string", source: "string" },
  keyed: "boolean",
  ttlMs: TTL,
};

/** Kinds of the options of `read` and `follow` of durable streams. */
const READ: OptionKinds<ReadDurableStreamOptions> = {
  after: "string",
  signal: "AbortSignal",
};

/** Properties of a new stream that is not keyed, including internal ones. */
export interface CreateLeasedOptions extends Omit<CreateDurableStreamOptions, "keyed"> {
  /** Time without a sign of life after which the writer counts as lost, in milliseconds. */
  readonly leaseMs?: number | undefined;
  /** See {@linkcode LogConfig.owner}. */
  readonly owner?: string | undefined;
}

/** Parts of {@linkcode StreamStore}. */
export interface StreamStoreParts {
  readonly runtime: Runtime;
  readonly streams: StreamLogs;
  /** The tail of new keyed streams. */
  readonly tail: LogTail;
  /** Most bytes of a message, so that sessions can read the records. */
  readonly maxMessageBytes: number;
  /** Creates a keyed stream, with the first rows of a state; by default, without rows. */
  readonly createKeyed?:
    | ((id: string, options: CreateStreamOptions) => Promise<StreamCreated>)
    | undefined;
  /**
   * Fits the rows of a keyed source into the contract; `undefined` if they need no check. By default,
   * none are checked.
   */
  readonly fitCopy?:
    | ((
      id: string,
      source: string,
      rows: readonly LogRow[],
    ) => Promise<readonly LogRow[] | undefined>)
    | undefined;
}

/** The durable streams of a server. See `DurableStreams` for its public methods. */
export class StreamStore {
  readonly #runtime: Runtime;
  readonly #streams: StreamLogs;
  readonly #tail: LogTail;
  readonly #maxMessageBytes: number;
  readonly #create: NonNullable<StreamStoreParts["createKeyed"]>;
  readonly #fitCopy: StreamStoreParts["fitCopy"];
  /** Open writers of this server; bounded by the streams. */
  readonly #writers = new Set<DurableStreamWriter>();
  #isClosed = false;

  constructor(parts: StreamStoreParts) {
    const { runtime, streams, tail, maxMessageBytes } = parts;
    this.#runtime = runtime;
    this.#streams = streams;
    this.#tail = tail;
    this.#maxMessageBytes = maxMessageBytes;
    this.#create = parts.createKeyed ?? ((id, options) => streams.create(id, options));
    this.#fitCopy = parts.fitCopy;
  }

  async create(
    id: string,
    options: CreateDurableStreamOptions & { readonly keyed: true },
  ): Promise<DurableStreamInfo>;

  async create<T = unknown>(
    id: string,
    options?: CreateDurableStreamOptions & { readonly keyed?: false | undefined },
  ): Promise<DurableStreamWriter<T>>;

  async create(
    id: string,
    options?: CreateDurableStreamOptions,
  ): Promise<DurableStreamWriter | DurableStreamInfo>;

  async create(
    id: string,
    options: CreateDurableStreamOptions = {},
  ): Promise<DurableStreamWriter | DurableStreamInfo> {
    const verb = "create stream";
    checkOptions(verb, options, CREATE);
    const { keyed, ...facts } = options;
    if (options.fork && options.fork.source === undefined) {
      throw wrongKind(undefined, "string", { verb, path: "fork.source" });
    }
    this.#checkOpen();
    if (keyed) return await this.#createKeyed(id, facts);
    return await this.#unlessClosed(await this.createLeased(id, facts));
  }

  /**
   * Creates a stream with an optional lease duration and owner.
   *
   * @ignore
   */
  async createLeased<T = unknown>(
    id: string,
    { leaseMs = LEASE_MS, owner, ...options }: CreateLeasedOptions,
  ): Promise<DurableStreamWriter<T>> {
    const { contentType, fork, ...lifetime } = options;
    const holder = this.#runtime.randomUUID();
    const leasedAt = this.#runtime.monotonic();
    const created = await this.#streams.create(id, {
      ...lifetime,
      // A fork has the type of the source by default.
      contentType: contentType ?? (fork === undefined ? JSON_TYPE : undefined),
      fork,
      owner,
      writer: { holder, ttlMs: leaseMs },
    });
    if (created.kind !== "created") throw rejectedCreation(id, created.kind);
    return this.#writer(id, created.info, { holder, leaseMs, leasedAt });
  }

  async open<T = unknown>(id: string): Promise<DurableStreamWriter<T>> {
    this.#checkOpen();
    return await this.#unlessClosed(await this.openLeased<T>(id, LEASE_MS));
  }

  /**
   * Takes over a stream with a lease duration.
   *
   * @ignore
   */
  async openLeased<T = unknown>(id: string, leaseMs: number): Promise<DurableStreamWriter<T>> {
    const holder = this.#runtime.randomUUID();
    const leasedAt = this.#runtime.monotonic();
    const result = await this.#streams.append(id, {
      records: [],
      writer: { holder, ttlMs: leaseMs, takes: true },
    });
    switch (result.kind) {
      case "appended":
      case "repeated":
        return this.#writer(id, result.info, { holder, leaseMs, leasedAt });
      case "fenced":
        throw new RequestError("held", `Cannot open stream "${id}": it has a writer`);
      case "other-kind":
        throw new RequestError(
          "wrong-type",
          `Cannot open stream "${id}": it is keyed; use liveState()`,
        );
      case "ended":
        throw new RequestError("ended", `Cannot open stream "${id}": it was closed`);
      default:
        throw new RequestError("not-found", `Cannot open: there is no durable stream "${id}"`);
    }
  }

  async info(id: string): Promise<DurableStreamInfo | undefined> {
    const found = await this.#streams.info(id);
    if (found.kind !== "page") return undefined;
    return stateOf(found.info);
  }

  async *read<T = unknown>(
    id: string,
    options: ReadDurableStreamOptions = {},
  ): AsyncGenerator<DurableStreamItem<T>, void, undefined> {
    checkOptions("read stream", options, READ);
    const { signal } = options;
    yield* this.#items(id, options, async function* (streams, start) {
      for (let part = start;;) {
        const page = await streams.read(id, { ...PAGE, ...part, signal });
        yield page;
        if (page.kind !== "page" || page.isUpToDate) return;
        const { next: after, snapshot } = page;
        part = { ...part, after, snapshot, startsAtOldest: false };
      }
    });
  }

  async *follow<T = unknown>(
    id: string,
    options: ReadDurableStreamOptions = {},
  ): AsyncGenerator<DurableStreamItem<T>, void, undefined> {
    checkOptions("read stream", options, READ);
    const { signal } = options;
    yield* this.#items(id, options, async function* (streams, start) {
      for await (const page of streams.follow(id, { ...PAGE, ...start, signal })) {
        yield page;
        const error = page.kind === "page" && page.isUpToDate && endError(id, page.info.end);
        if (error) throw error;
      }
      signal?.throwIfAborted();
      if (streams.isClosed) throw new RequestError("unavailable", "The server is closed");
    });
  }

  async cancel(id: string, reason: string = ""): Promise<boolean> {
    checkType("cancel", "reason", reason, "string");
    if (reason.length > MAX_REASON_LENGTH) {
      throw new RangeError(
        `Cannot cancel: the reason must have at most ${MAX_REASON_LENGTH} characters, ` +
          `received ${reason.length}`,
      );
    }
    const { kind } = await this.#streams.append(id, { records: [], cancel: reason });
    if (kind === "missing" || kind === "deleted") {
      throw new RequestError("not-found", `Cannot cancel: there is no durable stream "${id}"`);
    }
    return kind === "appended";
  }

  async delete(id: string): Promise<boolean> {
    return await this.#streams.delete(id) === "removed";
  }

  /**
   * Closes a keyed stream for a client: it takes no more changes. Has no effect on a closed stream.
   *
   * @ignore
   * @param decision The permission, which is checked again before the stream closes.
   * @throws {RequestError} With the code `not-found`, or `wrong-type` if the stream is not keyed.
   */
  async closeKeyed(id: string, decision: Decision): Promise<void> {
    const found = await this.#streams.info(id);
    const { keyed, identity } = found.kind === "page" ? found.info : {};
    if (found.kind === "page" && keyed === undefined) {
      throw new RequestError("wrong-type", `Cannot close: the durable stream "${id}" is not keyed`);
    }
    decision.check();
    const { kind } = identity === undefined
      ? found
      : await this.#streams.append(id, { identity, records: [], end: {} });
    if (kind === "missing" || kind === "deleted") {
      throw new RequestError("not-found", `Cannot close: there is no durable stream "${id}"`);
    }
  }

  /**
   * Lists the streams with a writer or readers on this node, for an inspector.
   *
   * @ignore
   * @returns The streams. If a stream has a writer, its offset and the number of waiting records
   * are included.
   */
  activity(): StreamActivity[] {
    const readers = new Map(this.#streams.followed());
    const writers = Array.from(this.#writers, (writer) => [writer.id, writer] as const);
    const writerOf = new Map(writers);
    return Array.from(new Set([...readers.keys(), ...writerOf.keys()]), (id) => {
      const writer = writerOf.get(id);
      return {
        id,
        readers: readers.get(id) ?? 0,
        isResponse: writer !== undefined && logKind(id) === "answer",
        writer: writer && { offset: writer.offset, waiting: writer.waiting },
      };
    });
  }

  /**
   * Aborts the streams of all open writers of this node, with the error `writer-lost`. From now on,
   * the application receives no writers.
   *
   * @ignore
   */
  async close(): Promise<void> {
    this.#isClosed = true;
    await this.#abandon(this.#writers);
  }

  async #abandon(writers: Iterable<Pick<DurableStreamWriter, "abort" | "drop">>): Promise<void> {
    const all = [...writers];
    const told = Promise.allSettled(all.map((writer) => writer.abort(WRITER_LOST)));
    await settlesWithin(this.#runtime, told, CLOSE_MS);
    for (const writer of all) writer.drop();
  }

  #checkOpen(): void {
    if (this.#isClosed) throw new RequestError("unavailable", "The server is closed");
  }

  /** Returns a new writer; if the server closed in the meantime, ends its stream instead. */
  async #unlessClosed<T>(writer: DurableStreamWriter<T>): Promise<DurableStreamWriter<T>> {
    if (this.#isClosed) {
      await this.#abandon([writer]);
      this.#checkOpen();
    }
    return writer;
  }

  async #createKeyed(
    id: string,
    { contentType = JSON_TYPE, ...options }: CreateLeasedOptions,
  ): Promise<DurableStreamInfo> {
    if (!isJson(contentType)) {
      const rule = `the contentType of a keyed stream must be ${JSON_TYPE}`;
      throw new TypeError(`Cannot create stream: ${rule}, received ${contentType}`);
    }
    const fit = this.#fitCopy;
    const facts = {
      ...options,
      contentType,
      keyed: this.#tail,
      fitCopy: fit && ((source: string, rows: readonly LogRow[]) => fit(id, source, rows)),
    };
    const created = await this.#create(id, facts);
    const isThere = created.kind === "created" || created.kind === "exists" && created.isSame;
    if (!isThere) throw rejectedCreation(id, created.kind);
    return stateOf(created.info);
  }

  #writer<T>(
    id: string,
    info: LogInfo,
    lease: Pick<WriterOptions, "holder" | "leaseMs" | "leasedAt">,
  ): DurableStreamWriter<T> {
    const writer = new DurableStreamWriter<T>({
      runtime: this.#runtime,
      streams: this.#streams,
      id,
      info,
      ...lease,
      maxRecordBytes: maxRecordBytes(id, this.#maxMessageBytes),
      onOver: (over) => this.#writers.delete(over),
    });
    this.#writers.add(writer as DurableStreamWriter);
    return writer;
  }

  async *#items<T>(
    id: string,
    { after, signal }: ReadDurableStreamOptions,
    read: (
      streams: StreamLogs,
      start: Pick<ReadStreamOptions, "after" | "identity" | "snapshot" | "startsAtOldest">,
    ) => AsyncIterable<StreamRead>,
  ): AsyncGenerator<DurableStreamItem<T>, void, undefined> {
    signal?.throwIfAborted();
    const { info } = checkPage(id, await this.#streams.info(id), false);
    const position = startPosition(info, after);
    if (typeof position === "string") throw badOffset(id, position, after);
    const start = {
      after: position,
      identity: info.identity,
      snapshot: snapshotOf(after),
      // Records may be dropped before the first page is read.
      startsAtOldest: info.keyed === undefined && isMoving(after),
    };
    for await (const result of read(this.#streams, start)) {
      const page = checkPage(id, result, true);
      const hasJson = isJson(page.info.contentType);
      if (page.info.keyed !== undefined) {
        const data = page.records.map((record, i) =>
          JSON.parse(withVersion(record as string, page.positions![i]!))
        ) as T;
        if (page.records.length > 0) yield { data, offset: offsetAfter(page) };
        continue;
      }
      let at = page.after;
      for (const record of page.records) {
        at++;
        yield { data: decode(record, hasJson) as T, offset: formatOffset(page.info, at) };
        signal?.throwIfAborted();
      }
    }
  }
}

/** The state of a stream, for the application. */
function stateOf(info: LogInfo): DurableStreamInfo {
  const { contentType, keyed, tail, bytes, end, cancelled, rows } = info;
  return withoutUndefined({
    keyed: keyed !== undefined,
    contentType,
    offset: formatOffset(info, tail),
    isEnded: end !== undefined,
    error: end?.error,
    code: end?.code,
    cancelled,
    bytes,
    rows: rows && { count: rows.count, deletions: rows.deletions, bytes: rows.bytes },
  });
}

/** A stream with a writer or readers on one node. */
export interface StreamActivity {
  readonly id: string;
  /** Readers on this node. */
  readonly readers: number;
  /** True if a response of this node writes the stream. */
  readonly isResponse: boolean;
  /** The writer on this node. */
  readonly writer?: { readonly offset: string; readonly waiting: number } | undefined;
}

/** Maximum size of the key `head` of a message with changes, in bytes. */
const MAX_HEAD_BYTES = 24;

/** Computes the size of the largest record that fits into a session message. */
export function maxRecordBytes(id: string, maxMessageBytes: number): number {
  const head = JSON.stringify({ topic: STREAM_PREFIX + id, data: 0 });
  return maxMessageBytes - utf8Length(head) - MAX_PLACE_BYTES;
}

/** Computes the size of the largest list of changes that fits into a session message. */
export function maxListBytes(id: string, maxMessageBytes: number): number {
  return maxRecordBytes(id, maxMessageBytes) - MAX_HEAD_BYTES;
}

/**
 * Returns the bounds of a page of a keyed stream, which is one message.
 *
 * @param maxBytes Maximum size of the record of the message in bytes.
 */
export function keyedPage(maxBytes: number): { maxRecords: number; maxBytes: number } {
  // A change has at least 90 bytes, and its version and a comma at most 30.
  return { maxRecords: MAX_CHANGES, maxBytes: Math.max(1, Math.floor(maxBytes * 3 / 4)) };
}

/**
 * Finds the position of an offset.
 *
 * @param after The offset; `"-1"` or `undefined` for the oldest record, `"now"` for the end.
 * @returns The position, or the error of the offset.
 */
function startPosition(
  info: LogInfo,
  after: string | undefined = "-1",
): number | "malformed" | "gone" {
  if (after === "now") return info.tail;
  if (after === "-1") return oldestPosition(info);
  const position = parseOffset(info, after);
  // A stream can end before an issued offset only if the broker lost records.
  return typeof position === "number" && position > info.tail ? "gone" : position;
}

/** True if a start is not an offset, but the oldest kept record or the end, which move. */
function isMoving(after: string | undefined): boolean {
  return after === undefined || after === "-1" || after === "now";
}

function badOffset(id: string, fault: "malformed" | "gone", after: string = ""): RequestError {
  return fault === "malformed"
    ? new RequestError(
      fault,
      `Cannot read "${id}": after must be -1, now or an offset of the stream, received "${after}"`,
    )
    : new RequestError(fault, `Cannot read "${id}": the offset belongs to another stream`);
}

/** Returns a page; throws an error for any other result of a read. */
function checkPage(id: string, result: StreamRead, wasThere: boolean): StreamPage {
  switch (result.kind) {
    case "page":
      return result;
    case "too-many":
      throw result.rejection;
    case "dropped":
      throw new RequestError("gone", `Cannot read "${id}": ${DROPPED_REASON}`);
    case "trimmed":
      throw new RequestError(
        "gone",
        `Cannot read "${id}": the records at this offset are no longer kept; read from -1`,
      );
    default:
      if (wasThere) {
        throw new RequestError("gone", `Cannot read "${id}": the server no longer has the stream`);
      }
      throw new RequestError("not-found", `Cannot read: there is no durable stream "${id}"`);
  }
}

/** The error for the readers of an incomplete stream. */
function endError(id: string, end: LogEnd | undefined): RequestError | undefined {
  if (end?.error === undefined) return undefined;
  return end.error === WRITER_LOST
    ? new RequestError(WRITER_LOST, `The writer of "${id}" was lost`)
    : new RequestError(end.code ?? ABORTED, end.error);
}

function rejectedCreation(
  id: string,
  kind: Exclude<StreamCreated["kind"], "created">,
): RequestError | LimitError {
  switch (kind) {
    case "exists":
    case "deleted":
      return new RequestError("exists", `Cannot create: there is a durable stream "${id}"`);
    case "too-many":
      return logKind(id) === "answer"
        ? new LimitError(
          "responses.maxRetained",
          `Cannot create "${id}": there are too many responses`,
        )
        : new LimitError("maxStreams", `Cannot create "${id}": there are too many streams`);
    case "no-space":
      return new LimitError("maxTotalBytes", `Cannot create "${id}": ${NO_SPACE}`);
    case "too-many-forks":
      return new LimitError("maxForks", `Cannot fork "${id}": the source has too many forks`);
    case "source-missing":
    case "source-deleted":
      return new RequestError("not-found", `Cannot fork "${id}": the source is missing`);
    case "keyed":
      return new RequestError(
        "wrong-type",
        `Cannot fork "${id}": either both streams are keyed or none`,
      );
    case "full":
      return new RequestError("full", `Cannot fork "${id}": the rows of the source are too large`);
    case "gone":
      return new RequestError("gone", `Cannot fork "${id}": the source has no such records`);
    default:
      return new RequestError("malformed", `Cannot fork "${id}": ${outcomeText({ kind })}`);
  }
}

function decode(record: LogRecord, hasJson: boolean): unknown {
  return hasJson && typeof record === "string" ? JSON.parse(record) : record;
}
