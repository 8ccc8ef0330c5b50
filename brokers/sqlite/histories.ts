/** Histories of topics in a file. */
import {
  type AppendOptions,
  countedBytes,
  type HistoryBounds,
  type HistoryPage,
  keptBounds,
  KEY_WINDOW_MS,
  type Publication,
  type PublicationKey,
  type ReadHistoryOptions,
} from "../../pubsub/broker.ts";
import { MAX_TOPIC_KEYS, withNumber } from "../../pubsub/broker/keys.ts";
import { Holders, Publishers } from "../../pubsub/history/publishers.ts";
import { type Database, metaOf, prepareAll, setMeta, type Statements } from "./database.ts";
import type { SqliteTransaction } from "./transaction.ts";

/** Number of publications that one statement scans for the bounds of a history. */
const SCAN = 64;

/**
 * Maximum number of publications that one operation deletes, because more would block all other
 * operations.
 */
export const MAX_DELETED = 1_000;

/** Maximum number of topics from which one sweep drops expired publications. */
const MAX_SWEPT_TOPICS = 100;

/** A publication with the tag of its position. */
export interface TaggedPublication extends Omit<Publication, "position"> {
  readonly bytes: number;
  readonly tag: string;
}

export interface RetainedOffsets {
  readonly offset: number;
  readonly prev: number;
}

/** The result of an append whose topic has no room for another key. */
export interface FullKeys {
  /** Time until the topic forgets its oldest key, in milliseconds. */
  readonly fullForMs: number;
}

/** The oldest kept publication of a topic, and the number of bytes from there on. */
interface Start {
  oldest: number;
  oldest_at: number;
  bytes: number;
}

/** A row of the topics. */
interface Topic extends Start {
  readonly id: number;
  readonly topic: string;
  head: number;
  ttl: number;
  used: number;
  /** Bounds given by the last append in this transaction. */
  bounds?: HistoryBounds;
}

interface Scanned {
  readonly offset: number;
  readonly at: number;
  readonly bytes: number;
}

const SQL = {
  find: "SELECT * FROM topics WHERE topic = ?",
  create:
    "INSERT INTO topics (topic, head, oldest, bytes, oldest_at, ttl, used) VALUES (?, ?, ?, 0, 0, 0, 0)",
  update:
    "UPDATE topics SET head = ?, oldest = ?, bytes = ?, oldest_at = ?, ttl = ?, expires = ?, used = ? WHERE id = ?",
  insert:
    "INSERT INTO publications (topic, offset, at, bytes, tag, except_id, is_text, payload) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
  scan:
    "SELECT offset, at, bytes FROM publications WHERE topic = ? AND offset >= ? ORDER BY offset LIMIT ?",
  page:
    "SELECT offset, bytes, tag, except_id, is_text, payload FROM publications WHERE topic = ? AND offset BETWEEN ? AND ? ORDER BY offset",
  tag: "SELECT tag FROM publications WHERE topic = ? AND offset = ?",
  trim: "DELETE FROM publications WHERE topic = ? AND offset < ?",
  producer: "SELECT numbers FROM append_producers WHERE topic = ? AND producer = ?",
  setProducer: "INSERT OR REPLACE INTO append_producers VALUES (?, ?, ?, ?)",
  key: "SELECT until FROM append_keys WHERE topic = ? AND key = ?",
  keyAt: "SELECT until FROM append_keys WHERE topic = ? AND number = ?",
  newestKey: "SELECT max(number) AS number FROM append_keys WHERE topic = ?",
  setKey: "INSERT OR REPLACE INTO append_keys VALUES (?, ?, ?, ?)",
  expired: "SELECT topic FROM topics WHERE expires <= ? LIMIT ?",
  quietest: "SELECT * FROM topics ORDER BY used LIMIT 1",
  forget: "DELETE FROM topics WHERE id = ?",
  note: "INSERT INTO gone_topics VALUES (?)",
};

const encoder = new TextEncoder();
const decoder = new TextDecoder("utf-8", { ignoreBOM: true });

/** Returns the bytes that the file keeps for a text or bytes. */
export function encodeBlob(content: string | Uint8Array): Uint8Array {
  return typeof content === "string" ? encoder.encode(content) : content;
}

/** Returns the text or the bytes that the file keeps. */
export function decodeBlob(isText: unknown, blob: unknown): string | Uint8Array {
  return isText === 1 ? decoder.decode(blob as Uint8Array) : blob as Uint8Array;
}

/**
 * The histories in a file. Both the number of publications per topic and the number of topics are
 * bounded.
 *
 * - **Reading creates no topic:** a topic without a row starts at the highest offset of any
 *   forgotten topic. Although all topics share one epoch, an epoch and an offset therefore never
 *   identify two publications of a topic.
 * - **Listeners:** forgetting a topic does not disturb listeners. The offsets of a topic with
 *   listeners continue after the last one.
 * - **Bounds:** a read applies the bounds exactly. Later appends and sweeps delete the rows beyond
 *   the bounds.
 */
export class Histories {
  readonly #db: Database;
  readonly #sql: Statements<typeof SQL>;
  readonly #epoch: string;
  readonly #maxTopics: number;
  /** Rows used by the current transaction, by topic. */
  readonly #open = new Map<string, Topic>();
  /** Maps each topic with listeners to the offset at which a new history continues. */
  readonly #followed = new Map<string, number>();
  /** The highest offset of any forgotten topic. */
  #floor: number;
  #count: number;
  #used: number;
  /** Publishers of the topics created by this process; other topics are forgotten by their last use. */
  readonly #publishers: Publishers;
  /** Bytes of the same topics, by publisher. */
  readonly #holders = new Holders();
  readonly #transaction: SqliteTransaction;
  #forgotten = 0;

  constructor(
    db: Database,
    { epoch, maxTopics, transaction }: {
      readonly epoch: string;
      readonly maxTopics: number;
      readonly transaction: SqliteTransaction;
    },
  ) {
    this.#db = db;
    this.#sql = prepareAll(db, SQL);
    this.#epoch = epoch;
    this.#maxTopics = maxTopics;
    this.#publishers = new Publishers(maxTopics);
    this.#transaction = transaction;
    const row = db.prepare("SELECT count(*) AS count, max(used) AS used FROM topics").get()!;
    this.#count = Number(row.count);
    this.#used = Number(row.used ?? 0);
    this.#floor = Number(metaOf(db, "floor") ?? 0);
  }

  /** Number of topics with publications that were forgotten because there were too many topics. */
  get forgotten(): number {
    return this.#forgotten;
  }

  /** Records that a topic has its first listener. */
  follow(topic: string): void {
    this.#followed.set(topic, this.#row(topic)?.head ?? this.#floor);
  }

  /** Records that a topic's last listener has left. */
  unfollow(topic: string): void {
    this.#followed.delete(topic);
  }

  /** Keeps a publication. Returns `undefined` for a repetition. */
  append(
    publication: TaggedPublication,
    { bounds: own, key, publisher }: AppendOptions,
    now: number,
  ): RetainedOffsets | FullKeys | undefined {
    const bounds = keptBounds(own);
    if (typeof key === "string") {
      const admitted = this.#admit(publication.topic, key, now);
      if (admitted !== "new") return admitted;
    }
    const before = this.#count;
    const topic = this.#touch(publication.topic);
    if (this.#count > before) {
      this.#publishers.note(publication.topic, publisher, now);
      this.#holders.note(publication.topic, publisher);
    }
    this.#holders.use(publication.topic);
    if (typeof key === "object" && !this.#isNew(topic, key, now)) return undefined;
    const { payload, bytes, tag, except = null } = publication;
    if (topic.bounds === undefined) {
      // Makes room first, so that a full file accepts publications in place of old ones.
      const room = {
        size: bounds.size - 1,
        bytes: bounds.bytes - countedBytes(bytes, 1),
        ttlMs: bounds.ttlMs,
      };
      this.#drop(topic, room, now);
    }
    topic.bounds = bounds;
    topic.ttl = Math.min(Math.ceil(bounds.ttlMs), Number.MAX_SAFE_INTEGER - now);
    const prev = topic.head++;
    const isText = typeof payload === "string" ? 1 : 0;
    this.#sql.insert.run(
      topic.id,
      topic.head,
      now,
      bytes,
      tag,
      except,
      isText,
      encodeBlob(payload),
    );
    if (topic.oldest === topic.head) topic.oldest_at = now;
    topic.bytes += bytes;
    topic.used = ++this.#used;
    return { offset: topic.head, prev };
  }

  /** Reads a page; a topic without a row is empty. */
  read(topic: string, options: ReadHistoryOptions, now: number): HistoryPage {
    const { bounds, after, last, maxMessages, maxBytes } = options;
    const epoch = this.#epoch;
    const row = this.#row(topic);
    if (row === undefined) return { epoch, head: this.#floorOf(topic), publications: [] };
    const { id, head } = row;
    const { oldest } = this.#startWithin(row, bounds, now);
    let from = oldest;
    if (after !== undefined) from = Math.max(from, after + 1);
    else if (last !== undefined) from = Math.max(from, head - last + 1);
    let to = from - 1;
    let bytes = 0;
    for (const scanned of this.#scanFrom(id, from, maxMessages)) {
      bytes += scanned.bytes;
      if (bytes > maxBytes && to >= from) break;
      to = scanned.offset;
    }
    const rows = to < from ? [] : this.#sql.page.all(id, from, to);
    const publications = rows.map((kept): Publication => {
      const offset = Number(kept.offset);
      return {
        topic,
        payload: decodeBlob(kept.is_text, kept.payload),
        bytes: Number(kept.bytes),
        except: kept.except_id === null ? undefined : String(kept.except_id),
        position: { epoch, offset, prev: offset - 1, tag: String(kept.tag) },
      };
    });
    const isKept = after !== undefined && after >= oldest && after <= head;
    const anchor = isKept ? String(this.#sql.tag.get(id, after)!.tag) : undefined;
    return { epoch, head, publications, anchor };
  }

  /** Deletes expired publications and expired producers. Returns true if more are left. */
  sweep(now: number): boolean {
    const topics = this.#sql.expired.all(now, MAX_SWEPT_TOPICS);
    for (const { topic: name } of topics) {
      const topic = this.#touch(String(name));
      this.#drop(topic, { size: Infinity, bytes: Infinity, ttlMs: topic.ttl }, now);
    }
    return topics.length === MAX_SWEPT_TOPICS;
  }

  /** Writes the changed rows, before the commit. */
  finish(now: number): void {
    for (const topic of this.#open.values()) {
      if (topic.bounds !== undefined) this.#drop(topic, topic.bounds, now);
      const { id, head, oldest, bytes, oldest_at, ttl } = topic;
      const isEmpty = oldest > head;
      const expires = isEmpty ? null : oldest_at + ttl;
      const used = isEmpty ? 0 : topic.used;
      this.#holders.count(topic.topic, countedBytes(bytes, head - oldest + 1));
      this.#sql.update.run(head, oldest, bytes, oldest_at, ttl, expires, used, id);
      this.#transaction.changed.topics.add(id);
    }
    this.#open.clear();
    while (this.#count > this.#maxTopics) this.#forgetTopic(this.#mostDispensable(now));
  }

  /**
   * Forgets the quietest history of the client whose histories use the most space in a nearly full
   * file. The rows are deleted later.
   *
   * @param usedBytes Bytes of the file that are in use.
   * @returns False if no client holds an eighth of the bytes. Histories of the application itself
   * are never forgotten.
   */
  giveWay(usedBytes: number): boolean {
    for (let held = this.#holders.first(usedBytes); held !== undefined;) {
      const row = this.#sql.find.get(held) as unknown as Topic | undefined;
      if (row !== undefined) {
        this.#forgetTopic(row);
        return true;
      }
      this.#holders.forget(held); // Its transaction was rolled back.
      held = this.#holders.first(usedBytes);
    }
    return false;
  }

  #floorOf(topic: string): number {
    return this.#followed.get(topic) ?? this.#floor;
  }

  #row(topic: string): Topic | undefined {
    return this.#open.get(topic) ?? this.#sql.find.get(topic) as Topic | undefined;
  }

  /** Returns a topic's row for a change, which `finish` writes. */
  #touch(topic: string): Topic {
    let row = this.#row(topic);
    if (row === undefined) {
      const head = this.#floorOf(topic);
      this.#sql.create.run(topic, head, head + 1);
      this.#count++;
      this.#transaction.onRollback(() => this.#count--);
      row = this.#sql.find.get(topic) as unknown as Topic;
    }
    if (this.#open.size === 0) this.#transaction.onRollback(() => this.#open.clear());
    this.#open.set(topic, row);
    return row;
  }

  /** Remembers a key, unless it is a repetition or the topic has no room for it. */
  #admit(topic: string, key: string, now: number): "new" | FullKeys | undefined {
    const known = this.#sql.key.get(topic, key);
    if (known !== undefined && Number(known.until) > now) return undefined;
    const number = Number(this.#sql.newestKey.get(topic)!.number ?? 0) + 1;
    // Numbers are consecutive, so the topic is full if it still remembers this one.
    const oldest = this.#sql.keyAt.get(topic, number - MAX_TOPIC_KEYS);
    const fullForMs = oldest === undefined ? 0 : Number(oldest.until) - now;
    if (fullForMs > 0) return { fullForMs };
    this.#sql.setKey.run(topic, key, number, now + KEY_WINDOW_MS);
    return "new";
  }

  /** Remembers a producer's number, unless it is a repetition. */
  #isNew(
    { id }: Topic,
    { producer, number }: Exclude<PublicationKey, string>,
    now: number,
  ): boolean {
    const known = this.#sql.producer.get(id, producer);
    const numbers = withNumber(`${known?.numbers ?? ""}`, number);
    if (numbers === undefined) return false;
    this.#sql.setProducer.run(id, producer, numbers, now + KEY_WINDOW_MS);
    return true;
  }

  #scanFrom(id: number, from: number, limit: number): Scanned[] {
    return this.#sql.scan.all(id, from, limit) as unknown as Scanned[];
  }

  /** Finds the oldest publication within the bounds. */
  #startWithin(topic: Topic, bounds: HistoryBounds, now: number): Start {
    let { oldest, bytes, oldest_at } = topic;
    const fits = (at: number) =>
      topic.head - oldest < bounds.size && now - at < bounds.ttlMs &&
      countedBytes(bytes, topic.head - oldest + 1) <= bounds.bytes;
    while (oldest <= topic.head && !fits(oldest_at)) {
      const rows = this.#scanFrom(topic.id, oldest, SCAN);
      // Rows are missing only if another program edited the file.
      if (rows.length === 0) return { oldest: topic.head + 1, bytes: 0, oldest_at };
      for (const scanned of rows) {
        oldest_at = scanned.at;
        if (fits(oldest_at)) break;
        oldest = scanned.offset + 1;
        bytes -= scanned.bytes;
      }
    }
    return { oldest, bytes, oldest_at };
  }

  /** Deletes publications beyond the bounds, at most {@linkcode MAX_DELETED}. */
  #drop(topic: Topic, bounds: HistoryBounds, now: number): void {
    const start = this.#startWithin(topic, bounds, now);
    if (start.oldest === topic.oldest) return;
    if (start.oldest - topic.oldest > MAX_DELETED) {
      const deleted = this.#scanFrom(topic.id, topic.oldest, MAX_DELETED + 1);
      const next = deleted.pop()!;
      start.oldest = next.offset;
      start.oldest_at = next.at;
      start.bytes = topic.bytes - deleted.reduce((sum, { bytes }) => sum + bytes, 0);
    }
    this.#sql.trim.run(topic.id, start.oldest);
    Object.assign(topic, start);
  }

  #mostDispensable(now: number): Topic {
    const quietest = this.#sql.quietest.get() as unknown as Topic;
    if (quietest.used === 0) return quietest; // Without publications.
    for (
      let made = this.#publishers.first(now);
      made !== undefined;
      made = this.#publishers.first(now)
    ) {
      const row = this.#sql.find.get(made) as unknown as Topic | undefined;
      if (row !== undefined) return row;
      this.#publishers.forget(made); // Its transaction was rolled back.
    }
    return quietest;
  }

  #forgetTopic({ id, topic, head, oldest }: Topic): void {
    this.#publishers.forget(topic);
    this.#holders.forget(topic);
    this.#sql.forget.run(id);
    this.#sql.note.run(id);
    this.#transaction.changed.topics.add(id);
    const [floor, forgotten, followed] = [this.#floor, this.#forgotten, this.#followed.get(topic)];
    this.#transaction.onRollback(() => {
      this.#count++;
      [this.#floor, this.#forgotten] = [floor, forgotten];
      if (followed !== undefined) this.#followed.set(topic, followed);
    });
    this.#count--;
    if (oldest <= head) this.#forgotten++;
    if (followed !== undefined) this.#followed.set(topic, head);
    if (head <= this.#floor) return;
    this.#floor = head;
    setMeta(this.#db, "floor", head);
  }
}
