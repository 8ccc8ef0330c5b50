/**
 * The bounded memory of the chat server.
 *
 * @module
 */

/**
 * The latest lines of each place. Beyond the limit, the place without a new line for longest is
 * dropped.
 */
export class Recent<Line> {
  readonly #places = new Map<string, Line[]>();
  readonly #maxPlaces: number;
  readonly #maxLines: number;

  /** Creates an empty memory. */
  constructor(limits: { readonly maxPlaces: number; readonly maxLines: number }) {
    this.#maxPlaces = limits.maxPlaces;
    this.#maxLines = limits.maxLines;
  }

  /** Adds a line. */
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

/** Performs an action once for each id, even if a client asks again after a lost reply. */
export class Once {
  readonly #done = new Map<string, number>();
  readonly #maxIds: number;
  #last = 0;

  /** Creates an empty memory. */
  constructor(limits: { readonly maxIds: number }) {
    this.#maxIds = limits.maxIds;
  }

  /**
   * Performs the action unless the id is known, and returns the time of the action. Times are
   * unique.
   */
  do(id: string, act: (at: number) => void): number {
    const known = this.#done.get(id);
    if (known !== undefined) return known;
    const at = this.#last = Math.max(Date.now(), this.#last + 1);
    act(at);
    this.#done.set(id, at);
    if (this.#done.size > this.#maxIds) this.#done.delete(firstOf(this.#done));
    return at;
  }
}

function firstOf(map: ReadonlyMap<string, unknown>): string {
  for (const key of map.keys()) return key;
  return "";
}
