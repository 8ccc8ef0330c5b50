/**
 * The bounded storage of the chat server, in memory or in a file.
 *
 * @module
 */
import type { BrokerHistory } from "../../pubsub/mod.ts";

/** The latest lines of each place. */
export interface Lines<Line> {
  /** Adds a line. */
  add(place: string, line: Line): void | Promise<void>;
  /** Returns the lines of a place, oldest first. */
  of(place: string): readonly Line[] | Promise<readonly Line[]>;
}

/** Lines in a broker's histories. In a file, they survive a server restart. */
export class Kept<Line extends { readonly id: string }> implements Lines<Line> {
  readonly #history: BrokerHistory;
  readonly #kind: string;
  readonly #maxLines: number;

  /** Stores lines of one kind. */
  constructor(history: BrokerHistory, kind: string, limits: { readonly maxLines: number }) {
    this.#history = history;
    this.#kind = kind;
    this.#maxLines = limits.maxLines;
  }

  /** Adds a line. A line that was also added before a server restart is kept once. */
  async add(place: string, line: Line): Promise<void> {
    await this.#history.append(
      { topic: this.#topicOf(place), payload: JSON.stringify(line) },
      { bounds: this.#bounds, key: line.id },
    );
  }

  /** Returns the lines of a place, oldest first. */
  async of(place: string): Promise<readonly Line[]> {
    const { publications } = await this.#history.read(this.#topicOf(place), {
      bounds: this.#bounds,
      maxMessages: this.#maxLines,
      maxBytes: this.#bounds.bytes,
    });
    return publications.map(({ payload }) => JSON.parse(String(payload)));
  }

  get #bounds() {
    return { size: this.#maxLines, ttlMs: 30 * 86_400_000, bytes: 1_048_576 };
  }

  #topicOf(place: string): string {
    return `${this.#kind}:${place}`;
  }
}

/** Lines in memory. Beyond the limit, the place with the oldest newest line is dropped. */
export class Recent<Line> implements Lines<Line> {
  readonly #places = new Map<string, Line[]>();
  readonly #maxPlaces: number;
  readonly #maxLines: number;

  /** Creates an empty memory. */
  constructor(limits: { readonly maxPlaces: number; readonly maxLines: number }) {
    this.#maxPlaces = limits.maxPlaces;
    this.#maxLines = limits.maxLines;
  }

  add(place: string, line: Line): void {
    const lines = this.#places.get(place) ?? [];
    this.#places.delete(place);
    this.#places.set(place, lines);
    lines.push(line);
    if (lines.length > this.#maxLines) lines.shift();
    if (this.#places.size > this.#maxPlaces) this.#places.delete(firstOf(this.#places));
  }

  /** Returns the lines of a place, oldest first. */
  of(place: string): readonly Line[] {
    return this.#places.get(place) ?? [];
  }
}

/** Performs an action once per id, even if a client retries after a lost reply. */
export class Once {
  readonly #done = new Map<string, { readonly at: number; readonly acted: unknown }>();
  readonly #maxIds: number;
  #last = 0;

  /** Creates an empty memory. */
  constructor(limits: { readonly maxIds: number }) {
    this.#maxIds = limits.maxIds;
  }

  /**
   * Performs an action once for each id, and returns the time at which it was performed. Each
   * action has a different time. An action that rejects can be retried with the same id.
   */
  async do(id: string, act: (at: number) => unknown): Promise<number> {
    const known = this.#done.get(id);
    if (known !== undefined) {
      await known.acted;
      return known.at;
    }
    const at = this.#last = Math.max(Date.now(), this.#last + 1);
    const acted = act(at);
    this.#done.set(id, { at, acted });
    if (this.#done.size > this.#maxIds) this.#done.delete(firstOf(this.#done));
    try {
      await acted;
    } catch (error) {
      this.#done.delete(id);
      throw error;
    }
    return at;
  }
}

function firstOf(map: ReadonlyMap<string, unknown>): string {
  for (const key of map.keys()) return key;
  return "";
}
