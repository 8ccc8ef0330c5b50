/** Sends the records of durable streams to sessions. */
import {
  BrokerError,
  type LimitLevel,
  QueueFullError,
  RequestError,
  UnsupportedError,
} from "../errors.ts";
import type { LogInfo, LogRecord } from "./logs/log.ts";
import { withVersion } from "./logs/change_message.ts";
import { identityAt, oldestPosition, parseOffset, writeOffset } from "./logs/offset.ts";
import { isJson } from "./logs/rules.ts";
import { isDamaged } from "./logs/sound_logs.ts";
import {
  DROPPED_REASON,
  type StreamLogs,
  type StreamPage,
  type StreamRead,
  WRITER_LOST,
} from "./logs/stream_logs.ts";
import { withoutUndefined } from "../base/options/options.ts";
import type { Account } from "../base/quotas/accounts.ts";
import { replyOnce } from "../pubsub/history/replay.ts";
import type { JoinOptions } from "../pubsub/topic_options.ts";
import type { Topics, TopicSource } from "../pubsub/topics.ts";
import { internals, type Session } from "../session/session.ts";
import { utf8Length } from "../session/wire/utf8.ts";
import { encodeBinary, type EncodedMessage, framed } from "../session/wire/encode.ts";
import {
  type HistoryOptions,
  STREAM_ENDED,
  STREAM_EPOCH,
  STREAM_PREFIX,
  type SubscribeReply,
} from "../session/wire/recovery.ts";
import { keyedPage, maxListBytes, maxRecordBytes } from "./streams.ts";
import type { UnwrittenStates } from "./state/unwritten.ts";
import { ABORTED } from "./writer.ts";

/** Maximum number of records and bytes of a page, even if send queues are larger. */
const MAX_PAGE = { maxRecords: 128, maxBytes: 524_288 };

/** Maximum size of the key `slice` in bytes, with two numbers of at most ten digits. */
const MAX_SLICE_KEY_BYTES = 40;

/** Minimum size of a slice in bytes: enough for a few of the longest characters in JSON. */
const MIN_SLICE_BYTES = 64;

/** Reason for removing a session from a stream. */
interface End {
  readonly code: string;
  readonly reason: string;
  readonly retryAfterMs?: number | undefined;
  readonly level?: LimitLevel | undefined;
}

const LOST: End = { code: "lost", reason: "The broker has lost the state, or its newest rows" };

/** A position in a stream, as clients receive it. */
type StreamStanding = SubscribeReply & { readonly offset: number };

/** The messages of a page. */
interface EncodedPage {
  readonly messages: readonly EncodedMessage[];
  /** Size of the messages, and of the largest one, in bytes. */
  readonly bytes: number;
  readonly largest: number;
}

export interface SessionReading {
  readonly session: Session;
  readonly topic: string;
  /** Start position. */
  readonly options: JoinOptions;
  /** Aborted once the session stops reading the stream or restarts the reading. */
  readonly signal: AbortSignal;
  /** The sessions that have received the newest record of the stream. */
  readonly live: LiveReadings;
  /** The position that the session has reached, once known. */
  standing: StreamStanding | undefined;
  /** Replies to the subscription; later calls have no effect. */
  reply(reply: SubscribeReply): void;
  /**
   * Removes the session from the topic. No notice is sent if the reply already tells the client.
   */
  leave(end?: End): void;
}

/** Parts of {@linkcode StreamSender}. */
export interface SenderParts {
  /** Returns the account of a session, for quotas. */
  readonly accountOf: (session: Session) => Account;
  /** Returns the collections of a state in the contract. */
  readonly kindsOf: (id: string) => Pick<SubscribeReply, "ephemeral" | "stored">;
  /** The states of the contract that are not stored. */
  readonly unwritten: UnwrittenStates;
}

/**
 * Sends durable streams to sessions.
 *
 * - **Pace:** a page fills at most half of a session's send queue, and is sent when less than half
 *   of the queue is in use. A slow session keeps one page in memory.
 * - **Once:** a page is encoded once for all sessions that read it at the same time. Sessions that
 *   have received the newest record share one loop, which a slow session leaves.
 * - **Keyed streams:** a page is one message, the list of its changes with their versions. It names
 *   the newest position if it does not reach it.
 * - **Slices:** a record of bytes or text that is larger than a message is sent in several
 *   messages.
 * - **End:** the session is removed from the topic after the last record. If the stream is
 *   complete, the code is `ended`; otherwise, it is `writer-lost`, the writer's own code, or
 *   `aborted`. Other codes are `not-found` before the first record, `gone` if the stream was
 *   deleted or replaced or the records were dropped, `damaged` if the broker has evicted a part of
 *   the stream or another program has changed it, `lost` if the broker has lost a keyed stream,
 *   `too-large` for a JSON record that does not fit into a message, and the temporary codes
 *   `too-many` and `unavailable`.
 */
export class StreamSender {
  readonly #streams: StreamLogs;
  readonly #of: SenderParts;
  readonly #encoded = new WeakMap<StreamPage, EncodedPage>();

  /** Creates a sender for the streams of this node. */
  constructor(streams: StreamLogs, of: SenderParts) {
    this.#streams = streams;
    this.#of = of;
  }

  /** Sends the records of a stream to a session until either of them ends. Never rejects. */
  async send(reading: SessionReading): Promise<void> {
    const { session, signal, options } = reading;
    try {
      const end = await this.#send(reading);
      if (end === undefined || signal.aborted) return;
      if (reading.standing !== undefined || !options.isRequested) return reading.leave(end);
      // The reply comes first, because the end of a reading replies, too.
      const { code, reason: message, ...rest } = end;
      reading.reply({ rejection: { code, message, ...rest } });
      reading.leave();
    } catch (error) {
      // A full queue has already closed the session.
      if (error instanceof QueueFullError || session.isClosed) return;
      session[internals].failed(error, "The durable stream failed");
    }
  }

  async #send(reading: SessionReading): Promise<End | undefined> {
    try {
      let end: End | "again" | undefined;
      do end = await this.#read(reading); while (end === "again");
      return end;
    } catch (error) {
      if (isDamaged(error)) return { code: "damaged", reason: (error as Error).message };
      if (error instanceof RangeError) return { code: "not-found", reason: error.message };
      if (error instanceof RequestError) {
        const { code, message: reason, retryAfterMs, level } = error.failure;
        return { code, reason, retryAfterMs, level };
      }
      const isAway = error instanceof BrokerError || error instanceof UnsupportedError;
      if (!isAway || reading.session.isClosed) throw error;
      return { code: "unavailable", reason: "The broker of the durable streams is unreachable" };
    }
  }

  /**
   * Reads until the stream ends or the reading is stopped. Resolves to `again` if another writer has
   * created the state before the session was told its first rows.
   */
  async #read(reading: SessionReading): Promise<End | "again" | undefined> {
    const { session, topic, signal, options, live } = reading;
    const id = topic.slice(STREAM_PREFIX.length);
    const found = await this.#streams.info(id);
    if (signal.aborted) return undefined;
    const wasThere = options.since !== undefined;
    const gone = wasThere ? this.#streams.goneReason(id, { mayBeLost: true }) : undefined;
    using state = found.kind === "missing" ? this.#of.unwritten.enter(id) : undefined;
    const unwritten = (await state?.view())?.page;
    if (signal.aborted) return undefined;
    const page = unwritten ?? found;
    if (page.kind !== "page") {
      const end = missing(page, gone);
      const hint = end.code === "not-found" ? this.#of.unwritten.hintFor(id) : "";
      return { ...end, reason: end.reason + hint };
    }
    const { info } = page;
    const after = firstPosition(info, options);
    if (after === undefined) return missing({ kind: "missing" }, gone);
    const { identity } = info;
    const account = this.#of.accountOf(session);
    const bounds = pageOf(reading, info.keyed && id);
    const pages = this.#streams.follow(id, {
      ...bounds,
      after,
      // Records may be dropped before the first page is read.
      startsAtOldest: options.since === undefined && info.keyed === undefined,
      identity,
      signal,
      account,
      unwritten,
    });
    let position: number | undefined;
    let isStored = unwritten === undefined;
    try {
      while (true) {
        const { value: page, done } = await pages.next(position);
        if (done) return undefined;
        if (page.kind !== "page") {
          const isOther = page.kind === "missing" && !isStored && reading.standing === undefined;
          if (isOther) return "again";
          const isLost = page.kind === "missing" && info.keyed !== undefined && isStored &&
            await this.#streams.wasLost(id, info);
          return isLost ? LOST : missing(page, this.#streams.goneReason(id));
        }
        isStored ||= page.info !== unwritten!.info;
        if (reading.standing === undefined) {
          // The rows before the end of an empty page were deleted, and forgotten.
          const start = page.records.length === 0 ? page.next : Math.max(after, page.after);
          const standing = moveTo(reading, page.info, start);
          const told = { ...standing, ...this.#of.kindsOf(id) };
          reading.reply(wasThere ? { ...told, recovered: true } : told);
        }
        const isSent = await this.#sendPage(reading, page);
        if (isSent !== true) return isSent;
        if (page.isUpToDate && page.info.end !== undefined) return sessionEnd(page.info.end);
        position = page.isUpToDate ? await live.enter(reading, page.info.identity) : undefined;
      }
    } finally {
      live.leave(reading, signal.aborted ? "one" : "all");
      await pages.return();
    }
  }

  /**
   * Sends a page in parts that fit into the session's queue. Resolves to true once all records are
   * sent.
   */
  async #sendPage(reading: SessionReading, page: StreamPage): Promise<true | End | undefined> {
    const { session, signal, topic } = reading;
    const core = session[internals];
    const queue = core.queue!;
    const { maxRecords, maxBytes } = pageOf(reading);
    let encoded = this.#encoded.get(page);
    if (encoded === undefined) this.#encoded.set(page, encoded = encodePage(topic, page));
    if (reading.live.send(reading, page, encoded)) return true;
    const { messages } = encoded;
    const first = page.after;
    for (let sent = 0; sent < messages.length;) {
      if (!queue.isFlushed) await queue.flushed();
      if (signal.aborted || queue.isOver) return undefined;
      if (!queue.isFlushed) continue;
      let bytes = 0;
      for (const begin = sent; sent < messages.length && sent - begin < maxRecords; sent++) {
        const message = messages[sent]!;
        if (message.size > core.sending.maxSendBytes) {
          if (sent > begin) break;
          const isSent = await this.#sendSlices(reading, page, sent);
          if (isSent !== true) return isSent;
          sent++;
          break;
        }
        bytes += message.size;
        if (bytes > maxBytes && sent > begin) break;
        core.sending.push(message, true);
        if (signal.aborted) return undefined;
      }
      moveTo(reading, page.info, first + sent);
    }
    moveTo(reading, page.info, page.next);
    return true;
  }

  /**
   * Sends a record that is larger than a message in slices. Resolves to true once all slices are
   * sent.
   */
  async #sendSlices(
    reading: SessionReading,
    { info, records, after }: StreamPage,
    index: number,
  ): Promise<true | End | undefined> {
    const { session, signal, topic } = reading;
    const core = session[internals];
    const record = records[index]!;
    const id = topic.slice(STREAM_PREFIX.length);
    const most = Math.min(core.sending.maxSendBytes, pageOf(reading).maxBytes);
    const maxBytes = maxRecordBytes(id, most) - MAX_SLICE_KEY_BYTES;
    if (isJson(info.contentType) || maxBytes < MIN_SLICE_BYTES) {
      return { code: "too-large", reason: `A record is larger than a message of ${most} bytes` };
    }
    const queue = core.queue!;
    const prev = after + index;
    let start = 0;
    for (const slice of slicesOf(record, maxBytes)) {
      while (!queue.isFlushed && !queue.isOver) await queue.flushed();
      if (signal.aborted || queue.isOver) return undefined;
      core.sending.push(
        encodeRecord(topic, slice, { info, prev, slice: [start, record.length] }),
        true,
      );
      start += slice.length;
    }
    return signal.aborted ? undefined : true;
  }
}

/**
 * The sessions of a stream that have received its newest record. One of them, the leader, reads for
 * all others, which are suspended.
 *
 * A session that cannot take a page immediately leaves, and reads the page by itself.
 */
class LiveReadings {
  #leader: SessionReading | undefined;
  /** Identity of the leader's stream. */
  #identity: string | undefined;
  /** Resumes the suspended sessions. Bounded by the readers of the node. */
  readonly #suspended = new Map<SessionReading, (error?: unknown) => void>();

  /**
   * Suspends a session that has received the newest record while the leader reads for it.
   *
   * @returns The position that the session has reached; `undefined` if it has to read by itself.
   */
  async enter(reading: SessionReading, identity: string): Promise<number | undefined> {
    if (this.#leader === undefined) [this.#leader, this.#identity] = [reading, identity];
    const leader = this.#leader;
    const isBehind = reading.standing!.offset < leader.standing!.offset;
    const { signal } = reading;
    if (leader === reading || isBehind || identity !== this.#identity || signal.aborted) {
      return undefined;
    }
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const resume = (error?: unknown) => {
      this.#suspended.delete(reading);
      signal.removeEventListener("abort", onAbort);
      error === undefined ? resolve() : reject(error);
    };
    const onAbort = () => resume();
    signal.addEventListener("abort", onAbort);
    this.#suspended.set(reading, resume);
    await promise;
    return reading.standing!.offset;
  }

  /**
   * Sends a page to a session, and to all sessions for which it reads. Returns false if the session
   * has to send the page by itself.
   */
  send(reading: SessionReading, page: StreamPage, encoded: EncodedPage): boolean {
    const { info, after, next } = page;
    const { flusher } = reading.session[internals].settings;
    const entries = encoded.messages.map((message) => ({
      ...message,
      sequence: flusher.nextSequence(),
      isProtected: true,
      isShared: true,
    }));
    const standing = standingAt(info, next);
    const give = (reading: SessionReading) => {
      if (!hasRoom(reading, encoded)) return false;
      const queue = reading.session[internals].queue!;
      for (const entry of entries) queue.push(entry);
      reading.standing = standing;
      return !reading.signal.aborted;
    };
    if (reading === this.#leader) {
      for (const [follower, resume] of this.#suspended) {
        const { offset } = follower.standing!;
        if (offset >= next) continue;
        try {
          if (offset !== after || !give(follower)) resume();
        } catch (error) {
          resume(error);
        }
      }
    }
    if (give(reading)) return true;
    this.leave(reading, "one");
    return false;
  }

  /** Replaces a leader that stops reading. `all` suspended sessions read the end of a stream. */
  leave(reading: SessionReading, resumed: "one" | "all"): void {
    if (this.#leader !== reading) return;
    this.#leader = undefined;
    for (const [follower, resume] of this.#suspended) {
      this.#leader ??= follower;
      if (this.#leader === follower || resumed === "all") resume();
    }
  }
}

/** True if a session's queue has room for a page, which may fill half of it. */
function hasRoom(reading: SessionReading, { messages, bytes, largest }: EncodedPage): boolean {
  const { queue, sending } = reading.session[internals];
  const { maxRecords, maxBytes } = pageOf(reading);
  const isSmall = messages.length <= maxRecords && bytes <= maxBytes &&
    largest <= sending.maxSendBytes;
  return isSmall && !reading.signal.aborted && !queue!.isOver && queue!.hasRoom;
}

function moveTo(reading: SessionReading, info: LogInfo, offset: number): StreamStanding {
  return reading.standing = standingAt(info, offset);
}

function standingAt(info: LogInfo, offset: number): StreamStanding {
  const tag = identityAt(info, offset);
  return { epoch: STREAM_EPOCH, offset, tag, head: Math.max(offset, info.tail) };
}

/**
 * The sessions of a topic `stream:<id>`. Each session reads the stream at its own pace. Sessions
 * share the stream's announcements, and also the page if they are at the same position.
 */
export class StreamFeed implements TopicSource {
  readonly #topic: string;
  readonly #topics: Topics;
  readonly #sender: StreamSender;
  readonly #live = new LiveReadings();
  readonly #readings = new Map<Session, SessionReading & { readonly stop: AbortController }>();

  constructor(topic: string, topics: Topics, sender: StreamSender) {
    this.#topic = topic;
    this.#topics = topics;
    this.#sender = sender;
  }

  get size(): number {
    return this.#readings.size;
  }

  sessions(): Iterable<Session> {
    return this.#readings.keys();
  }

  admit(session: Session, options: JoinOptions): (() => SubscribeReply) | undefined {
    const before = this.#readings.get(session);
    const isPlain = options.since === undefined && options.last === undefined;
    const standing = before?.standing;
    if (isPlain && standing !== undefined) return () => before?.standing ?? standing;
    // A reading whose position is still unknown starts as first requested, but replies to the
    // newest call.
    const begin = isPlain && before ? { ...before.options, ...withoutUndefined(options) } : options;
    this.#begin(session, begin);
    // This comes last, because it calls the application, which may remove the session.
    if (before !== undefined) endReading(before);
    return undefined;
  }

  delete(session: Session): void {
    const reading = this.#readings.get(session);
    this.#readings.delete(session);
    if (reading !== undefined) endReading(reading);
  }

  #begin(session: Session, options: JoinOptions): void {
    const topic = this.#topic;
    const stop = new AbortController();
    const reading = {
      session,
      topic,
      options,
      stop,
      signal: stop.signal,
      live: this.#live,
      standing: undefined,
      reply: replyOnce(session, options.onReply),
      leave: (end?: End) => {
        this.#topics.leave(session, topic, end && { code: end.code, reason: end.reason });
      },
    };
    this.#readings.set(session, reading);
    void this.#sender.send(reading);
  }
}

/** Ends a reading; an unanswered subscription has been replaced. */
function endReading(reading: SessionReading & { readonly stop: AbortController }): void {
  reading.stop.abort();
  reading.reply({ isSuperseded: true });
}

/** The start position of a session; `undefined` if the stream does not have it. */
function firstPosition(info: LogInfo, { since, last }: HistoryOptions): number | undefined {
  if (since === undefined) return Math.max(oldestPosition(info), info.tail - (last ?? 0));
  const { epoch, offset, tag } = since;
  const isKnown = epoch === STREAM_EPOCH && offset <= info.tail &&
    (tag === undefined || parseOffset(info, writeOffset(offset, tag)) === offset);
  return isKnown ? offset : undefined;
}

/** The bounds of a page. A page of the keyed stream `keyed` fits into one message. */
function pageOf(
  { session }: SessionReading,
  keyed?: string,
): { maxRecords: number; maxBytes: number } {
  const { settings: { sendQueue }, sending } = session[internals];
  const { maxMessages, maxBytes } = sendQueue;
  const bytes = Math.max(1, Math.min(MAX_PAGE.maxBytes, maxBytes >> 1));
  if (keyed === undefined) {
    const maxRecords = Math.max(1, Math.min(MAX_PAGE.maxRecords, maxMessages >> 1));
    return { maxRecords, maxBytes: bytes };
  }
  return keyedPage(Math.min(bytes, maxListBytes(keyed, sending.maxSendBytes)));
}

/** The end of a reading without records; `gone` is the reason if the session had a part of them. */
function missing(result: Exclude<StreamRead, StreamPage>, gone: string | undefined): End {
  const { kind } = result;
  if (kind === "too-many") {
    const { message: reason, retryAfterMs, level } = result.rejection;
    return { code: kind, reason, retryAfterMs, level };
  }
  if (kind === "trimmed") return { code: "gone", reason: "The records are no longer kept" };
  if (kind === "dropped") return { code: "gone", reason: DROPPED_REASON };
  return gone === undefined
    ? { code: "not-found", reason: "There is no such durable stream" }
    : { code: "gone", reason: gone };
}

function sessionEnd({ error, code }: NonNullable<LogInfo["end"]>): End {
  if (error === undefined) return { code: STREAM_ENDED, reason: "The durable stream is complete" };
  return error === WRITER_LOST
    ? { code: WRITER_LOST, reason: "The writer of the durable stream was lost" }
    : { code: code ?? ABORTED, reason: error };
}

/** Encodes the records of a page as messages with positions. */
function encodePage(topic: string, page: StreamPage): EncodedPage {
  const { info, records, positions, after, next } = page;
  let messages: EncodedMessage[];
  if (info.keyed === undefined) {
    messages = records.map((record, i) => encodeRecord(topic, record, { info, prev: after + i }));
  } else {
    const changes = records.map((record, i) => withVersion(record as string, positions![i]!));
    const list = `[${changes.join(",")}]`;
    const head = page.isUpToDate ? undefined : info.tail;
    const place = { info, prev: after, next, head };
    messages = records.length === 0 ? [] : [encodeRecord(topic, list, place)];
  }
  const sizes = messages.map(({ size }) => size);
  const bytes = sizes.reduce((sum, size) => sum + size, 0);
  return { messages, bytes, largest: Math.max(0, ...sizes) };
}

/** Encodes a record, or a slice of a record, as a message with a position. */
function encodeRecord(
  topic: string,
  record: LogRecord,
  { info, prev, next = prev + 1, head: newest, slice }: {
    readonly info: LogInfo;
    readonly prev: number;
    readonly next?: number;
    /** The newest position, if these changes do not reach it. */
    readonly head?: number | undefined;
    readonly slice?: readonly [start: number, length: number];
  },
): EncodedMessage {
  const head = `{"topic":${JSON.stringify(topic)}`;
  const behind = newest === undefined ? "" : `,"head":${newest}`;
  const end = slice === undefined ? `${behind}}` : `,"slice":[${slice}]}`;
  const place = `,"offset":${next},"prev":${prev},"tag":"${identityAt(info, next)}"${end}`;
  if (typeof record !== "string") return framed(encodeBinary(head + place, record), topic);
  const data = isJson(info.contentType) ? oneLine(record) : JSON.stringify(record);
  return framed(`${head},"data":${data}${place}`, topic);
}

/** JSON text without line feeds, which separate the envelopes of a frame. */
function oneLine(json: string): string {
  // Within a string, JSON escapes a line feed.
  return json.includes("\n") ? json.replaceAll("\n", " ") : json;
}

/**
 * Splits a record into slices. Text is split between characters.
 *
 * @param maxBytes Maximum size of a slice in bytes, as JSON if it is text; at least 64.
 * @returns The slices, in order.
 */
export function* slicesOf(record: LogRecord, maxBytes: number): Generator<LogRecord> {
  for (let at = 0; at < record.length;) {
    const slice = record.slice(at, at + maxBytes);
    const cut = typeof slice === "string"
      ? fitting(slice, maxBytes, at + slice.length < record.length)
      : slice;
    yield cut;
    at += cut.length;
  }
}

/** Shortens a text to a number of bytes in JSON, without splitting a character. */
function fitting(text: string, maxBytes: number, isCut: boolean): string {
  let slice = text;
  while (utf8Length(JSON.stringify(slice)) > maxBytes) slice = slice.slice(0, slice.length >> 1);
  const mayBreak = isCut || slice.length < text.length;
  // The first of two UTF-16 units of a character.
  return mayBreak && /[\ud800-\udbff]$/.test(slice) ? slice.slice(0, -1) : slice;
}
