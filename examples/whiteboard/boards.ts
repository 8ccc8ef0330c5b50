/**
 * The boards on the server. A board's changes are published on a topic with a history, which the
 * broker stores. From time to time the whole drawing is saved as one sheet. So a new page loads the
 * current strokes instead of every change, and a restarted server reads one sheet and the changes
 * after it.
 *
 * @module
 */
import type { Topics } from "../../pubsub/mod.ts"; // jsr:@skein/skein/pubsub
import { type Change, Drawing, type Stroke } from "./drawing.ts";

/** Number of changes after which a drawing is saved as a sheet. */
const SHEET_EVERY = 500;

/**
 * Number of publications after which the server reads a board's history, even if no page opens it.
 */
const READ_EVERY = 100;

/** A hundred years: boards do not expire. */
const TTL_MS = 100 * 365 * 86_400_000;

/**
 * Limits of a board's history: twice as many changes as the server leaves unsaved, so that a change
 * is in the sheet before the history drops it.
 */
export const HISTORY = { size: 4 * SHEET_EVERY, bytes: 32 * 1_048_576, ttlMs: TTL_MS };

/** Only the newest sheet is kept; 4,000 strokes with all their points are 24 MB. */
const SHEET = { size: 1, bytes: 64 * 1_048_576, ttlMs: TTL_MS };

/** Boards in memory; others are loaded again when needed. */
const MAX_BOARDS = 64;

/** Points per part of the strokes, far below the maximum message size. */
const PART_POINTS = 2_000;

/** A position in the history of a board. */
type Position = { readonly epoch: string; readonly offset: number; readonly tag?: string };

export class Boards {
  readonly #topics: Topics;
  readonly #boards = new Map<string, Board>();

  constructor(topics: Topics) {
    this.#topics = topics;
  }

  /** Returns a board; creates it if necessary. */
  get(name: string): Board {
    const board = this.#boards.get(name) ?? new Board(this.#topics, name);
    // Keeps the most recently used board last in the map.
    this.#boards.delete(name);
    this.#boards.set(name, board);
    if (this.#boards.size > MAX_BOARDS) {
      for (const oldest of this.#boards.keys()) {
        this.#boards.delete(oldest);
        break;
      }
    }
    return board;
  }
}

/** One board: a drawing that follows the history. */
class Board {
  readonly #topics: Topics;
  readonly #name: string;
  #drawing = new Drawing();
  #position: Position | undefined;
  /** Changes that are not in a sheet yet. */
  #unsaved = 0;
  /** Publications since the last read of the history; the first one triggers a read. */
  #unread = READ_EVERY;
  #isLoaded = false;
  #reading: Promise<void> | undefined;

  constructor(topics: Topics, name: string) {
    this.#topics = topics;
    this.#name = name;
  }

  /** Counts a change that is about to be published, and saves the drawing after enough changes. */
  async willChange(): Promise<void> {
    if (++this.#unread >= READ_EVERY) await this.#read();
  }

  /** Yields a snapshot of all strokes, in parts. */
  async *strokes(): AsyncGenerator<{ strokes: Stroke[]; position?: Position }> {
    await this.#read();
    const all = this.#drawing.strokes;
    const position = this.#position;
    let start = 0;
    do {
      let [end, points] = [start, 0];
      while (end < all.length && points < PART_POINTS) points += all[end++]!.points.length;
      yield { strokes: all.slice(start, end), position };
      start = end;
    } while (start < all.length);
  }

  /** Reads new changes from the history; concurrent calls share one read. */
  #read(): Promise<void> {
    return this.#reading ??= this.#follow().finally(() => this.#reading = undefined);
  }

  async #follow(): Promise<void> {
    if (!this.#isLoaded) await this.#load();
    this.#isLoaded = true;
    this.#unread = 0;
    const after = this.#position?.offset ?? 0;
    for await (const change of this.#topics.read(`board:${this.#name}`, { after })) {
      // The contract was checked before the publication.
      this.#drawing.apply(change.data as Change, change.from);
      this.#position = change.position as Position;
      this.#unsaved++;
    }
    if (this.#unsaved >= SHEET_EVERY) await this.#save();
  }

  // A sheet may be larger than a message, so it is written to the history directly.

  async #load(): Promise<void> {
    const { publications: [newest] } = await this.#topics.broker.history!.read(this.#sheet, {
      bounds: SHEET,
      last: 1,
      maxMessages: 1,
      maxBytes: SHEET.bytes,
    });
    if (newest === undefined) return;
    const sheet: { strokes: Stroke[]; position: Position } = JSON.parse(String(newest.payload));
    this.#drawing = new Drawing(sheet.strokes);
    this.#position = sheet.position;
  }

  async #save(): Promise<void> {
    const payload = JSON.stringify({ strokes: this.#drawing.strokes, position: this.#position });
    await this.#topics.broker.history!.append({ topic: this.#sheet, payload }, { bounds: SHEET });
    this.#unsaved = 0;
  }

  get #sheet(): string {
    return `sheet:${this.#name}`;
  }
}
