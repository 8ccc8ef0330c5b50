/** Sends the ephemeral rows of states to sessions. */
import { QueueFullError, RequestError } from "../../errors.ts";
import { replyOnce } from "../../pubsub/history/replay.ts";
import type { JoinOptions } from "../../pubsub/topic_options.ts";
import type { TopicSource } from "../../pubsub/topics.ts";
import { internals, type Session } from "../../session/session.ts";
import { type EncodedMessage, framed } from "../../session/wire/encode.ts";
import type { SubscribeReply } from "../../session/wire/recovery.ts";
import { EPHEMERAL_PREFIX } from "../../session/wire/rows.ts";
import { utf8Length } from "../../session/wire/utf8.ts";
import {
  type EphemeralRows,
  type EphemeralStates,
  MAX_STATE_ROWS,
  type RowFeed,
} from "./ephemeral_rows.ts";

/** Maximum size of a message with several rows, in bytes. A larger row has a message of its own. */
const MAX_MESSAGE_BYTES = 16_384;

/** Maximum size of the rest of a message, with the topic, in bytes. */
const MAX_REST_BYTES = 1_024;

/** A session that reads the rows. */
interface Reader {
  readonly session: Session;
  /** Replies to the subscription; later calls have no effect. */
  reply(reply: SubscribeReply): void;
  /**
   * Rows whose newest values the session lacks, also if they are deleted. If too many of them are, a
   * new list of all rows replaces the names.
   */
  readonly waiting: Set<string>;
  /** Index of the next part of the list of all rows; `undefined` once the list is complete. */
  page: number | undefined;
  /** True while messages wait for the session's queue. */
  isBehind: boolean;
  isOver: boolean;
}

/**
 * The sessions that read the ephemeral rows of one state.
 *
 * - **List:** each session first receives all rows, after the other nodes have sent theirs.
 * - **Once:** changes are encoded once for all sessions that keep up.
 * - **Pace:** a slow session receives the newest values when its queue is empty, so it keeps only the
 *   names of rows in memory.
 * - **Writers:** a session that no longer reads the rows loses its own: immediately if it
 *   unsubscribes, and after the grace period if it closes or its client moves.
 */
export class EphemeralFeed implements TopicSource, RowFeed {
  readonly #topic: string;
  readonly #rows: EphemeralRows;
  readonly #readers = new Map<Session, Reader>();

  /**
   * Opens the rows.
   *
   * @param topic The topic of the rows.
   * @param states The ephemeral rows of the server.
   * @throws {RequestError} With the code `not-found` if the state has no ephemeral collections.
   */
  constructor(topic: string, states: EphemeralStates) {
    const id = topic.slice(EPHEMERAL_PREFIX.length);
    const rows = states.open(id);
    if (rows === undefined) {
      throw new RequestError("not-found", `The state "${id}" has no ephemeral rows`);
    }
    this.#topic = topic;
    this.#rows = rows;
    rows.feed = this;
  }

  get size(): number {
    return this.#readers.size;
  }

  sessions(): Iterable<Session> {
    return this.#readers.keys();
  }

  has(session: Session): boolean {
    return this.#readers.has(session);
  }

  admit(session: Session, options: JoinOptions): undefined {
    const before = this.#readers.get(session);
    const reader: Reader = {
      session,
      reply: replyOnce(session, options.onReply),
      waiting: new Set(),
      page: 0,
      isBehind: true,
      isOver: false,
    };
    this.#readers.set(session, reader);
    void this.#begin(reader);
    // This comes last, because it calls the application, which may remove the session.
    if (before !== undefined) end(before);
  }

  delete(session: Session): void {
    const reader = this.#readers.get(session);
    if (reader === undefined) return;
    this.#readers.delete(session);
    const hasMoved = session[internals].lineage.movedTo !== undefined;
    this.#rows.leave(session, session.isClosed || hasMoved);
    if (this.#readers.size === 0) {
      this.#rows.feed = undefined;
      this.#rows.release();
    }
    end(reader);
  }

  flush(names: ReadonlySet<string>): void {
    const messages = [...this.#encode(new Set(names), MAX_MESSAGE_BYTES)];
    const bytes = messages.reduce((sum, { size }) => sum + size, 0);
    for (const reader of this.#readers.values()) {
      const { queue, sending, settings } = reader.session[internals];
      const { maxMessages, maxBytes } = settings.sendQueue;
      const isSmall = sending.maxSendBytes < MAX_MESSAGE_BYTES + MAX_REST_BYTES;
      // The half of the queue that `hasRoom` leaves.
      const isFitting = messages.length * 2 <= maxMessages && bytes * 2 <= maxBytes;
      if (reader.isBehind || isSmall || !isFitting || !queue!.hasRoom) {
        for (const name of names) reader.waiting.add(name);
        if (reader.waiting.size > this.#rows.size + MAX_STATE_ROWS) this.#list(reader);
        if (!reader.isBehind) void this.#send(reader);
        continue;
      }
      for (const message of messages) push(reader, message);
    }
  }

  async #begin(reader: Reader): Promise<void> {
    await this.#rows.ready;
    if (reader.isOver) return;
    reader.reply({});
    this.#list(reader);
    await this.#send(reader);
  }

  /** Starts a list of all rows. */
  #list(reader: Reader): void {
    reader.waiting.clear();
    for (const name of this.#rows.all) reader.waiting.add(name);
    reader.page = 0;
  }

  /** Sends the newest values of the waiting rows, as fast as the session reads them. */
  async #send(reader: Reader): Promise<void> {
    reader.isBehind = true;
    const { queue, sending } = reader.session[internals];
    const maxBytes = Math.min(MAX_MESSAGE_BYTES, sending.maxSendBytes - MAX_REST_BYTES);
    while (reader.waiting.size > 0 || reader.page !== undefined) {
      if (!queue!.isFlushed) await queue!.flushed();
      if (reader.isOver || queue!.isOver) return;
      if (!queue!.isFlushed) continue;
      const { waiting, page } = reader;
      const [message] = this.#encode(waiting, maxBytes, page);
      if (page !== undefined) reader.page = waiting.size > 0 ? page + 1 : undefined;
      if (message !== undefined) push(reader, message);
    }
    reader.isBehind = false;
  }

  /** Encodes rows as messages. Removes each row from `names` before its message is yielded. */
  *#encode(names: Set<string>, maxBytes: number, page?: number): Generator<EncodedMessage> {
    do {
      const rows: string[] = [];
      let bytes = 0;
      for (const name of names) {
        const row = JSON.stringify(this.#rows.describe(name));
        bytes += utf8Length(row) + 1;
        if (rows.length > 0 && bytes > maxBytes) break;
        rows.push(row);
        names.delete(name);
      }
      const list = page === undefined
        ? ""
        : `,"page":${page}${names.size > 0 ? ',"more":true' : ""}`;
      const data = `{"rows":[${rows.join(",")}]${list}}`;
      yield framed(`{"topic":${JSON.stringify(this.#topic)},"data":${data}}`, this.#topic);
    } while (names.size > 0);
  }
}

function push({ session }: Reader, message: EncodedMessage): void {
  try {
    session[internals].sending.push(message, true);
  } catch (error) {
    // A full queue has already closed the session.
    if (!(error instanceof QueueFullError)) throw error;
  }
}

/** Ends a reading; an unanswered subscription has been replaced. */
function end(reader: Reader): void {
  reader.isOver = true;
  reader.reply({ isSuperseded: true });
}
