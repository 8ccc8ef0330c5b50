/**
 * The rows of one keyed log on this node, built from the log's messages.
 *
 * Each row is held by one message: the message that changed the row last, or a later one to which
 * the row was carried. To remove old messages, a writer carries their rows to a new message, oldest
 * message first. The messages of a log are therefore complete from some message on, and a row is
 * what the newest message with this row says.
 */
import { Fifo } from "../../../pubsub/broker/queue.ts";
import type { LogPage, LogRow, ReadLogOptions } from "../../../streams/logs/log.ts";
import { MemoryRows } from "../../../streams/logs/memory_rows.ts";
import { entriesOf, namedRows, type RowView } from "../../../streams/logs/rows.ts";
import { utf8Length } from "../../../session/wire/utf8.ts";
import { infoOf } from "../../../streams/logs/rules.ts";
import { areOfOneLog, isKept, type LiveMessage, storedOf } from "./format.ts";
import { PLACE_BYTES, rowsOf } from "./row_format.ts";

/** Bytes of old messages that are not worth a removal. */
const SLACK_BYTES = 262_144;

/** Old messages are removed when they take this many times the bytes of all rows. */
const MAX_SHARE = 3;

/** Bytes of the rows that one message carries. A single row, or the log's state, may be larger. */
const CARRIED_BYTES = 65_536;

/** Memory of a row, a message or a name in it, in addition to the texts, in bytes. */
const ENTRY_COST = 256;

/** In place of records, which are not remembered. */
const NO_BYTES = new Uint8Array();

/** A message with records or carried rows. */
interface Kept {
  readonly seq: number;
  /** Position after the newest record; 0 for a message without records. */
  readonly end: number;
  readonly bytes: number;
  /** Rows that the message held when it was written. */
  readonly names: readonly string[];
}

/** Rows to copy to a new message, so that earlier messages can be removed. */
export interface Compaction {
  readonly rows: readonly LogRow[];
  /** Sequence of the oldest message that is still needed afterwards. */
  readonly from: number;
}

/** The rows of a log, up to one of its messages. */
export class LogRows {
  readonly #rows = new MemoryRows();
  /** Rows in no order, until all messages have been read. */
  #found: Map<string, LogRow> | undefined = new Map();
  /** Sequence of the message that holds each row. */
  readonly #holders = new Map<string, number>();
  readonly #messages = new Fifo<Kept>();
  /** Number of the names in these messages. */
  #names = 0;
  /** Number of messages before the tail, and their bytes. */
  #old = { count: 0, bytes: 0 };
  #deletions = 0;
  /** Number of the next message; `undefined` before the first one. */
  #next: number | undefined;
  #newest: LiveMessage | undefined;

  /** The newest message, without its records; `undefined` before the first one. */
  get newest(): LiveMessage | undefined {
    return this.#newest;
  }

  /** The rows as decisions see them. */
  get view(): RowView {
    return this.#rows;
  }

  /** Approximate memory in bytes. */
  get cost(): number {
    const { rows } = this.#newest?.head.state ?? {};
    if (rows === undefined) return 0;
    return rows.bytes + ENTRY_COST * (entriesOf(rows) + this.#messages.length + this.#names);
  }

  /** True if all messages up to the newest one have been added. */
  get isComplete(): boolean {
    return this.#found === undefined;
  }

  /** True if the rows belong to the same log as a message. */
  isOf(message: LiveMessage): boolean {
    return this.#newest !== undefined && areOfOneLog(this.#newest, message);
  }

  /** True if the rows include all changes up to a message. */
  covers(message: LiveMessage): boolean {
    return this.isComplete && this.isOf(message) && this.#newest!.seq >= message.seq;
  }

  /** True if a message follows the newest one, without other messages that hold rows between. */
  isNext(message: LiveMessage): boolean {
    return this.isOf(message) && this.#newest!.seq < message.seq &&
      message.head.number === this.#next;
  }

  /**
   * Adds a message and the rows that it holds.
   *
   * @param message The first message that is needed, or a message that `isNext`.
   */
  add(message: LiveMessage): void {
    const { seq, head, bytes } = message;
    if (isKept(head)) {
      const { set, gone } = rowsOf(message);
      for (const row of set) this.#set(row, seq);
      for (const name of gone) this.#drop(name);
      const end = head.count === 0 ? 0 : head.state.tail;
      this.#messages.push({ seq, end, bytes, names: set.map(({ row }) => row) });
      this.#names += set.length;
    }
    this.#next = head.number + (isKept(head) ? 1 : 0);
    this.#newest = { ...message, body: NO_BYTES };
    if (this.#found === undefined) this.#settle();
  }

  /** Puts the rows in order, once all messages have been added. */
  complete(): void {
    if (this.#found === undefined) return;
    const found = [...this.#found.values()].sort((a, b) => a.position - b.position);
    this.#found = undefined;
    this.#rows.write({ set: found, forget: [] });
    this.#deletions = found.filter(({ deletedAt }) => deletedAt !== undefined).length;
    this.#settle();
  }

  /** Reads a page; see {@linkcode MemoryRows.read} and {@linkcode namedRows}. */
  read(
    { rows, ...bounds }: Pick<ReadLogOptions, "after" | "maxBytes" | "maxRecords" | "rows">,
  ): LogPage {
    const { state } = this.#newest!.head;
    const page = rows === undefined
      ? this.#rows.read(bounds, state.tail)
      : namedRows(this.#rows, rows, bounds.maxBytes);
    return { info: infoOf(storedOf(state)), ...page };
  }

  /**
   * Plans a removal of old messages.
   *
   * @param headBytes Size of a message without rows.
   * @returns The plan; `undefined` if the old messages take too few bytes.
   */
  planCompaction(headBytes: number): Compaction | undefined {
    const { bytes = 0 } = this.#newest?.head.state.rows ?? {};
    if (this.#old.bytes <= MAX_SHARE * bytes + 4 * headBytes + SLACK_BYTES) return undefined;
    const most = Math.max(CARRIED_BYTES, headBytes);
    const rows: LogRow[] = [];
    let carried = 0;
    for (let i = 0;; i++) {
      const { seq, names } = this.#messages.at(i)!;
      if (i === this.#old.count) return { rows, from: seq };
      for (const name of names) {
        if (this.#holders.get(name) !== seq) continue;
        const row = this.#rows.find(name)!;
        carried += utf8Length(row.text) + PLACE_BYTES;
        if (carried > most && rows.length > 0) return { rows, from: seq };
        rows.push(row);
      }
    }
  }

  #set(row: LogRow, seq: number): void {
    const name = row.row;
    const known = this.#found?.get(name) ?? this.#rows.find(name);
    this.#holders.set(name, seq);
    if (known?.position === row.position) return;
    if (this.#found !== undefined) {
      // The row moves to the end: rows of one transaction stay in order.
      this.#found.delete(name);
      this.#found.set(name, row);
      return;
    }
    this.#deletions += deletionsIn(row) - deletionsIn(known);
    this.#rows.write({ set: [row], forget: [] });
  }

  #drop(name: string): void {
    this.#holders.delete(name);
    this.#found?.delete(name);
    const row = this.#rows.find(name);
    if (row !== undefined) this.#rows.write({ set: [], forget: [row] });
  }

  /** Forgets deletions and messages as the newest state says. */
  #settle(): void {
    const { state, from = 0 } = this.#newest!.head;
    const excess = this.#deletions - (state.rows?.deletions ?? 0);
    const forget = excess > 0 ? this.#rows.deletions(excess) : [];
    for (const { row } of forget) this.#holders.delete(row);
    if (forget.length > 0) this.#rows.write({ set: [], forget });
    this.#deletions -= forget.length;
    const old = this.#old;
    while (this.#messages.first !== undefined && this.#messages.first.seq < from) {
      const { bytes, names } = this.#messages.shift()!;
      this.#names -= names.length;
      if (old.count === 0) continue;
      old.count--;
      old.bytes -= bytes;
    }
    // The newest message is never old, because it has to remain.
    while (old.count < this.#messages.length - 1) {
      const { end, bytes } = this.#messages.at(old.count)!;
      if (end > state.start) break;
      old.count++;
      old.bytes += bytes;
    }
  }
}

function deletionsIn(row: LogRow | undefined): number {
  return row?.deletedAt === undefined ? 0 : 1;
}
