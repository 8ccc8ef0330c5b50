/** Logs of durable streams in Redis. */
import { abortable } from "@std/async/abortable";
import { Buffer } from "node:buffer";
import type { Cluster, Redis } from "ioredis";
import { withoutUndefined } from "../../../base/options/options.ts";
import type { Runtime } from "../../../base/runtime.ts";
import { BrokerError } from "../../../errors.ts";
import { DamageError } from "../../../pubsub/broker/damage.ts";
import { WaitingBudget, type WaitingLimits } from "../../../pubsub/broker/queue.ts";
import {
  CHANGE_WORDS,
  type LogChangeName,
  type LogChangeOptions,
  type LogChangeResult,
  type LogStore,
} from "../../../streams/logs/changes.ts";
import type {
  AppendLogOptions,
  LogConfig,
  LogInfo,
  LogPage,
  LogProducer,
  LogRecord,
  LogRetained,
  LogRow,
  ReadLogOptions,
  RowChange,
  RowStats,
} from "../../../streams/logs/log.ts";
import { logKind, logTopic, type OwnedKind } from "../../../streams/logs/log_names.ts";
import {
  recordBytes,
  type RetainedLog,
  type RetainedLogs,
  retainedOf,
} from "../../../streams/logs/rules.ts";
import { readCarried } from "../../../streams/logs/announcement.ts";
import { requestBytes } from "../../../streams/logs/change_message.ts";
import { rowsStateOf } from "../../../streams/logs/rows.ts";
import { isCluster } from "../connections.ts";
import type { Run } from "../failures.ts";
import { checkName, readWellFormed, type RedisNames, wellFormed } from "../format.ts";
import { ChangeLines } from "./change_lines.ts";
import { RedisLogNames } from "./names.ts";
import { decodeChunks, encodeChunks, lostRecord, type StoredChunk } from "./log_chunks.ts";
import {
  commandOf,
  defineLogScripts,
  type LogScripts,
  type Reply,
  type ScriptName,
} from "./log_scripts.ts";

/**
 * Maximum number of logs whose newest position this node remembers, so that it notices if Redis has
 * lost records.
 */
const MAX_HEARD_LOGS = 16_384;

/** Descriptions of the scripts, for errors. */
const WORDS: Readonly<Record<ScriptName, string>> = { ...CHANGE_WORDS, read: "read a log" };

/** Result of a script. */
interface LogReply {
  readonly kind: string;
  readonly detail: string;
  /** The state; `undefined` if there is no log. */
  readonly info: LogInfo | undefined;
  /** Positions, each followed by bytes; for a conflict, the row and its change. */
  readonly page: readonly Buffer[];
}

/** The options of each change, in the form that the scripts read. */
const ASKS: { readonly [N in LogChangeName]: (options: LogChangeOptions<N>) => object } = {
  create: ({ config, identity, rows = NO_FIRST_ROWS, end, writer, maxLogs }) => ({
    identity,
    config: encodeCall(config),
    rowStats: config.keyed && rowsStateOf(rows),
    // An empty list would become an object.
    rows: rows.set.length > 0 ? rows.set.map(encodeRow) : undefined,
    form: rows.form,
    first: config.origin?.position ?? 0,
    ttlMs: config.ttlMs,
    expiresAt: config.expiresAt,
    ended: end && encodeCall(end),
    writer: writer && { ...writer, holder: wellFormed(writer.holder) },
    maxLogs,
  }),
  append: (
    {
      identity,
      end,
      producer,
      caller,
      sequence,
      writer,
      ifWriterLost,
      cancel,
      maxBytes,
      keep,
      ...rest
    },
  ) => ({
    identity,
    ended: end && encodeCall(end),
    producer: producer && producerOf(producer),
    caller,
    sequence: sequence === undefined ? undefined : encodeSequence(sequence),
    writer: writer && { ...writer, holder: wellFormed(writer.holder) },
    ifWriterLost,
    cancelled: cancel === undefined ? undefined : encodeCall(cancel),
    maxBytes,
    keep,
    changes: rest.changes?.map(encodeChange),
    ifTail: rest.ifTail,
    expiresRows: rest.expiresRows,
    rowBounds: rest.rowBounds,
    form: rest.form,
  }),
  delete: (options) => options,
  retain: ({ fork, identity, maxForks }) => ({ fork: wellFormed(fork), identity, maxForks }),
  release: ({ fork }) => ({ fork: wellFormed(fork) }),
};

/** Creates the result of each change from its script's reply. */
const RESULTS: { readonly [N in LogChangeName]: (reply: LogReply) => LogChangeResult<N> } = {
  create({ kind, detail, info }) {
    if (kind === "created") return { kind, info: info!, count: Number(detail) };
    return kind === "exists" ? { kind, info: info! } : { kind: kind as "expired" | "too-many" };
  },
  append({ kind, detail, info, page }) {
    switch (kind) {
      case "conflict": {
        const [row, text] = page.map((part) => part.toString());
        const version = Number(detail);
        return version === 0
          ? { kind, row: row!, version, since: info!.tail }
          : { kind, row: row!, version, text };
      }
      case "repeated":
        return { kind, info: info!, seq: detail === "" ? undefined : Number(detail) };
      case "appended":
      case "ended":
      case "moved":
        return { kind, info: info! };
      case "stale":
        return { kind, epoch: Number(detail) };
      case "skipped":
        return { kind, expected: Number(detail) };
      case "other-form":
        return { kind, form: detail };
      case "out-of-sequence":
        return { kind, sequence: decodeSequence(detail) };
      default:
        return { kind: kind as "missing" };
    }
  },
  delete({ kind, info }) {
    if (kind !== "removed") return { kind: kind as "kept" };
    return withoutUndefined({ kind, origin: info?.origin });
  },
  retain: ({ kind }) => kind as LogRetained,
  release: ({ kind, info }) => kind === "removed" ? info?.origin : undefined,
};

/** The rows of a new log without rows. */
const NO_FIRST_ROWS: NonNullable<LogChangeOptions<"create">["rows"]> = { set: [], forgotten: 0 };

/** One call of a script. */
interface Call {
  readonly ask: object;
  readonly records?: readonly LogRecord[] | undefined;
  /** Changes of rows in `ask`, as they were requested. */
  readonly changes?: readonly RowChange[] | undefined;
  /** True for changes that may share a call with others. */
  readonly isJoined?: boolean | undefined;
  /** Indexes of other partitions that the script counts. */
  readonly indexes?: readonly string[] | undefined;
}

/** The newest state of a log received by this node. */
interface HeardLog {
  readonly identity: string;
  readonly tail: number;
  readonly isEnded: boolean;
}

/** Collaborators and settings of {@linkcode RedisLogs}. */
interface RedisLogsOptions {
  readonly runtime: Runtime;
  readonly client: Redis | Cluster;
  readonly names: RedisNames;
  readonly limits: WaitingLimits;
  readonly run: Run;
}

/**
 * The logs of a `RedisBroker`. Times come from Redis.
 *
 * The logs are divided into partitions. All keys of a partition share a slot, so that a log, its
 * entry in the index and its announcement change together. Only the total number of logs spans all
 * partitions. If several nodes of a cluster create logs at the same moment, the total may therefore
 * exceed `maxLogs`.
 *
 * If a log has lost records that this node had received, it is given another identity.
 */
export class RedisLogs implements LogStore {
  readonly #runtime: Runtime;
  readonly #client: Redis | Cluster;
  readonly #scripts: LogScripts;
  readonly #names: RedisLogNames;
  readonly #budget: WaitingBudget;
  readonly #run: Run;
  /** The transactions of keyed logs. */
  readonly #changes = new ChangeLines<Reply>((id, asks) => this.#sendChanges(id, asks));
  /** The logs that were used last, in order of use. */
  readonly #heard = new Map<string, HeardLog>();

  constructor({ runtime, client, names, limits, run }: RedisLogsOptions) {
    this.#runtime = runtime;
    this.#client = client;
    this.#scripts = defineLogScripts(client);
    this.#names = new RedisLogNames(names);
    this.#budget = new WaitingBudget(limits);
    this.#run = run;
  }

  async change<N extends LogChangeName>(
    id: string,
    name: N,
    options: LogChangeOptions<N>,
  ): Promise<LogChangeResult<N>> {
    checkId(id);
    const others = name === "create" ? this.#indexesBeside(id) : [];
    const isCounted = others.length > 0 && isCluster(this.#client);
    // Only counting waits, so a create and the appends after it reach Redis in the order of the
    // calls.
    const elsewhere = isCounted ? await this.#count(others) : 0;
    const indexes = isCounted ? [] : others;
    const { records = [], changes, expiresRows } = options as Partial<AppendLogOptions>;
    const ask = { ...ASKS[name](options), elsewhere };
    // The expiry of many rows takes a call of its own.
    const isJoined = changes !== undefined && expiresRows === undefined && records.length === 0;
    return RESULTS[name](await this.#call(name, id, { ask, records, changes, isJoined, indexes }));
  }

  async read(id: string, options: ReadLogOptions): Promise<LogPage | "expired" | undefined> {
    const { after, maxRecords, maxBytes, renews, rows, tail, signal } = options;
    signal?.throwIfAborted();
    checkId(id);
    const ask = { after, maxRecords, maxBytes, renews, names: rows, tail };
    const reading = this.#call("read", id, { ask });
    const reply = await (signal ? abortable(reading, signal) : reading);
    if (reply.kind === "expired") return reply.kind;
    const { info, page } = reply;
    if (info === undefined) return undefined;
    if (reply.kind === "rows") return { info, ...rowsOf(page), next: Number(reply.detail) };
    const records = decodeChunks(chunksOf(page), options);
    const isInside = after >= info.start && after < info.tail && maxRecords > 0;
    if (isInside && records.length === 0) throw lostRecord(after);
    return { info, records };
  }

  async overdue({ limit }: { readonly limit: number }): Promise<string[]> {
    const { answer, request, stream } = this.#names.indexes;
    const overdueOf = (index: string, part: number) =>
      this.#scripts.skeinLogOverdue(answer[part]!, request[part]!, index, limit);
    const lists = await this.#run("list overdue logs", () => Promise.all(stream.map(overdueOf)));
    const all: { readonly id: string; readonly since: number }[] = [];
    for (const [part, list] of lists.entries()) {
      for (let i = 0; i < list.length; i += 2) {
        const id = idOf(list[i]!);
        if (id !== undefined) all.push({ id, since: Number(list[i + 1]) });
        else await this.#forget(part, list[i]!);
      }
    }
    all.sort((a, b) => a.since - b.since);
    return all.slice(0, limit).map(({ id }) => id);
  }

  /** Removes a name that belongs to no log from a partition's indexes. */
  async #forget(part: number, name: string): Promise<void> {
    for (const indexes of Object.values(this.#names.indexes)) {
      await this.#run("list overdue logs", () => this.#client.zrem(indexes[part]!, name));
    }
  }

  async list(
    kind: OwnedKind,
    { limit, after = "0 0" }: { readonly limit: number; readonly after?: string | undefined },
  ): Promise<RetainedLogs> {
    const indexes = this.#names.indexes[kind];
    const [first, place = "0"] = after.split(" ");
    const part = Number(first);
    const scan = () => this.#client.zscan(indexes[part]!, place, "COUNT", limit);
    const [cursor, list] = await this.#run("list logs", scan);
    // Members and scores alternate.
    const ids = list.flatMap((name, i) => i % 2 === 0 ? idOf(name) ?? [] : []);
    const stateOf = (id: string) => {
      const { state } = this.#names.of(id);
      return this.#client.hmget(state, "config", "endedAt", "deleted").catch(noState);
    };
    const found = await this.#run("list logs", () => Promise.all(ids.map(stateOf)));
    const logs = found.flatMap((fields, i) => readRetained(ids[i]!, fields));
    const next = cursor === "0" ? `${part + 1} 0` : `${part} ${cursor}`;
    return next === `${indexes.length} 0` ? { logs } : { logs, next };
  }

  async #call(
    script: ScriptName,
    id: string,
    { ask, records = [], changes = [], isJoined, indexes = [] }: Call,
  ): Promise<LogReply> {
    const what = WORDS[script];
    const { rowStats } = ask as { readonly rowStats?: RowStats | undefined };
    const bytes = recordBytes(records);
    const needed = bytes + requestBytes(changes) + (rowStats?.bytes ?? 0);
    if (!this.#budget.take(needed)) {
      throw new BrokerError(`Cannot ${what}: too many calls wait for Redis`);
    }
    try {
      const chunks = encodeChunks(records).flatMap(({ count, bytes }) => [`${count}`, bytes]);
      const whole = { ...ask, count: records.length, bytes };
      const [kind, detail, fields, page] = await this.#run(what, () => {
        if (isJoined) return this.#changes.add(id, { ask: whole, bytes: needed });
        this.#changes.flush(id);
        return this.#send(script, id, whole, { indexes, chunks }) as Promise<Reply>;
      });
      const reply = {
        kind: kind.toString(),
        detail: detail.toString(),
        info: infoOf(fields),
        page,
      };
      this.#hear(id, reply);
      return reply;
    } finally {
      this.#budget.give(needed);
    }
  }

  /** Calls a script. */
  #send(
    script: ScriptName,
    id: string,
    ask: object,
    { indexes = [], chunks = [] }: {
      readonly indexes?: readonly string[];
      readonly chunks?: readonly (string | Buffer)[];
    } = {},
  ): Promise<Reply | Reply[]> {
    const keys = [...Object.values(this.#names.of(id)), ...indexes];
    const heard = this.#heard.get(id);
    const call = encodeCall({
      ...ask,
      id: wellFormed(id),
      publish: isCluster(this.#client) ? "SPUBLISH" : "PUBLISH",
      heard,
      renewed: heard && this.#runtime.randomUUID().slice(0, 8),
    });
    const command = `${commandOf(script)}Buffer` as const;
    return this.#scripts[command](keys.length, ...keys, call, ...chunks).catch(explainLog);
  }

  /** Sends changes of one log in one call. */
  async #sendChanges(id: string, asks: readonly object[]): Promise<(Reply | Error)[]> {
    const ask = asks.length === 1 ? asks[0]! : { joined: asks };
    const reply = await this.#send("append", id, ask);
    const replies = asks.length === 1 ? [reply as Reply] : reply as Reply[];
    return replies.map((one) => one[0].toString() === "error" ? errorOf(one[1].toString()) : one);
  }

  /** Sends all changes that wait for others. */
  flush(): void {
    this.#changes.flushAll();
  }

  /**
   * Remembers the state that an announcement carries, if any. An announcement may be older than the
   * remembered state, so it does not replace another identity.
   *
   * @param id The id of the log.
   * @param payload The payload of the announcement.
   */
  hear(id: string, payload: string | Uint8Array): void {
    const carried = readCarried(payload);
    if (carried === undefined) return;
    const { identity, tail } = carried;
    const known = this.#heard.get(id);
    if (known === undefined || known.identity === identity) {
      this.#remember(id, { identity, tail, isEnded: false });
    }
  }

  /** Remembers the newest state of a log. */
  #hear(id: string, { kind, info }: LogReply): void {
    if (info === undefined || kind === "removed") this.#heard.delete(id);
    else this.#remember(id, { ...info, isEnded: info.end !== undefined });
  }

  #remember(id: string, { identity, tail, isEnded }: HeardLog): void {
    const before = this.#heard.get(id);
    this.#heard.delete(id);
    const known = before?.identity === identity ? before : { tail: 0, isEnded: false };
    this.#heard.set(id, {
      identity,
      tail: Math.max(tail, known.tail),
      isEnded: known.isEnded || isEnded,
    });
    if (this.#heard.size > MAX_HEARD_LOGS) this.#heard.delete(this.#heard.keys().next().value!);
  }

  /** Indexes of logs of the same kind in other partitions, which a script counts. */
  #indexesBeside(id: string): readonly string[] {
    const { index } = this.#names.of(id);
    return this.#names.indexes[logKind(id)].filter((other) => other !== index);
  }

  /**
   * Counts the logs in other partitions of a cluster, on which no script reaches all partitions.
   */
  async #count(indexes: readonly string[]): Promise<number> {
    const countOf = (index: string) => this.#client.zcard(index);
    const counts = await this.#run(WORDS.create, () => Promise.all(indexes.map(countOf)));
    return counts.reduce((sum, count) => sum + count, 0);
  }
}

/**
 * Rejects an id whose announcements would have a topic that is too long, before the call has any
 * effect.
 */
function checkId(id: string): void {
  checkName(logTopic(id));
}

/** Parses a log's name in an index. Returns `undefined` if another program wrote it. */
function idOf(name: string): string | undefined {
  try {
    const id = readWellFormed(name);
    return typeof id === "string" && wellFormed(id) === name ? id : undefined;
  } catch {
    return undefined;
  }
}

/**
 * Encodes a call, or a part of one that is kept, as JSON: with the greatest number in place of an
 * `Infinity` bound, and without lone surrogates, because Redis reads no JSON with them.
 */
function encodeCall(call: unknown): string {
  return JSON.stringify(call, (_key, value) => {
    if (typeof value === "string") return value.toWellFormed();
    return value === Infinity ? Number.MAX_SAFE_INTEGER : value;
  });
}

/** A row as scripts expect it. */
function encodeRow({ row, position, text, deletedAt, until }: LogRow): object {
  return { name: row, position, text, deleted: deletedAt, till: until };
}

/** A change of a row as scripts expect it, which count its bytes themselves. */
function encodeChange({ nameBytes: _name, bytes: _bytes, ...change }: RowChange): object {
  return change;
}

/** An append's producer as scripts expect it; `number` distinguishes the append from all others. */
function producerOf({ id, epoch, seq }: LogProducer): object {
  return { id: wellFormed(id), epoch, seq, number: `${epoch} ${seq} ${wellFormed(id)}` };
}

/** Encodes a text so that its order by bytes equals the order by UTF-16 code units. */
function encodeSequence(sequence: string): string {
  return Buffer.from(sequence, "utf16le").swap16().toString("hex");
}

function decodeSequence(code: string): string {
  return Buffer.from(code, "hex").swap16().toString("utf16le");
}

/** Parses the fields of a state in a reply. */
function infoOf(fields: readonly (Buffer | null)[]): LogInfo | undefined {
  const texts = fields.map((field) => field === null ? undefined : field.toString());
  const [identity, config, first, start, tail, bytes, ended, cancelled, deleted, ...rest] = texts;
  const [rows, form, hidden] = [rest.slice(0, 4), rest[4], rest.slice(5)];
  if (identity === undefined) return undefined;
  return withoutUndefined({
    ...JSON.parse(config!) as LogConfig,
    identity,
    first: Number(first),
    start: Number(start),
    tail: Number(tail),
    bytes: Number(bytes),
    end: ended === undefined ? undefined : JSON.parse(ended),
    cancelled: cancelled === undefined ? undefined : JSON.parse(cancelled),
    isDeleted: deleted === undefined ? undefined : true as const,
    rows: rows[0] === undefined ? undefined : statsOf(rows.map(Number), hidden),
    form,
  });
}

function statsOf(
  [count = 0, deletions = 0, bytes = 0, forgotten = 0]: number[],
  [hidden, hiddenForgotten]: (string | undefined)[],
): RowStats {
  const stats = { count, deletions, bytes, forgotten };
  if (hidden === undefined) return stats;
  return { ...stats, hidden: { count: Number(hidden), forgotten: Number(hiddenForgotten) } };
}

/**
 * Errors of scripts that found keys of another type, or keys whose content is not that of a log.
 */
const DAMAGED = /^(?:SKEIN |WRONGTYPE|ERR The ID specified in XADD|ERR user_script:)/;

/** Begins the errors with which scripts report missing keys. */
const EVICTED = "SKEIN ";

/** True if a script found keys of a log that were damaged by another program. */
function isDamage(error: unknown): boolean {
  return error instanceof Error && DAMAGED.test(error.message);
}

/** Throws the explanation of why a write to a damaged log failed. */
function explainLog(cause: unknown): never {
  throw explained(cause);
}

/** Returns the error of one of several changes, from its text. */
function errorOf(message: string): Error {
  return explained(Object.assign(new Error(message), { name: "ReplyError" })) as Error;
}

/** Returns the explanation of why a write to a damaged log failed. */
function explained(cause: unknown): unknown {
  if (!(cause instanceof Error) || !isDamage(cause)) return cause;
  const [, lost] = cause.message.split(EVICTED);
  return new DamageError(
    lost === undefined
      ? "keys of the log in Redis are damaged or lost; delete the log to drop it"
      : `${lost}; delete the log to drop it`,
    { cause },
  );
}

/** A state that another program damaged counts as none. */
function noState(error: unknown): (string | null)[] {
  if (isDamage(error)) return [];
  throw error;
}

/** Parses an entry of the list. Returns nothing if the log is gone, deleted or damaged. */
function readRetained(
  id: string,
  [config, endedAt, deleted]: readonly (string | null)[],
): RetainedLog[] {
  if (typeof config !== "string" || typeof deleted === "string") return [];
  const ended = typeof endedAt === "string" ? Number(endedAt) : undefined;
  return [retainedOf(id, { owner: ownerOf(config), endedAt: ended })];
}

/** Parses the owner in a log's settings; none if they are damaged. */
function ownerOf(config: string): string | undefined {
  try {
    return (JSON.parse(config) as LogConfig).owner;
  } catch {
    return undefined;
  }
}

/** Parses a page of rows: position, change and expiry of each. */
function rowsOf(page: readonly Buffer[]): Omit<LogPage, "info" | "next"> {
  const partsAt = (place: number) => page.filter((_, i) => i % 3 === place);
  return {
    records: partsAt(1).map((text) => text.toString()),
    positions: partsAt(0).map(Number),
    expiries: partsAt(2).map(Number),
  };
}

function chunksOf(page: readonly Buffer[]): StoredChunk[] {
  const chunks: StoredChunk[] = [];
  for (let i = 0; i < page.length; i += 2) {
    chunks.push({ position: Number(page[i]), bytes: page[i + 1]! });
  }
  return chunks;
}
