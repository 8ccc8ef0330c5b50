/**
 * What the chat remembers while it runs, all of it bounded.
 *
 * @module
 */

/** The latest lines of each place; places where nothing was said for longest are forgotten first. */
export class Recent<Line> {
  readonly #places = new Map<string, Line[]>();
  readonly #maxPlaces: number;
  readonly #maxLines: number;

  /** Remembers nothing yet. */
  constructor(limits: { readonly maxPlaces: number; readonly maxLines: number }) {
    this.#maxPlaces = limits.maxPlaces;
    this.#maxLines = limits.maxLines;
  }

  /** Remembers a line. */
  add(place: string, line: Line): void {
    const lines = this.#places.get(place) ?? [];
    this.#places.delete(place);
    this.#places.set(place, lines);
    lines.push(line);
    if (lines.length > this.#maxLines) lines.shift();
    if (this.#places.size > this.#maxPlaces) this.#places.delete(firstOf(this.#places));
  }

  /** The lines of a place, oldest first. */
  of(place: string): readonly Line[] {
    return this.#places.get(place) ?? [];
  }
}

/** Does what has an id once, even if it is asked for again after a lost answer. */
export class Once {
  readonly #done = new Map<string, number>();
  readonly #maxIds: number;
  #last = 0;

  /** Has done nothing yet. */
  constructor(limits: { readonly maxIds: number }) {
    this.#maxIds = limits.maxIds;
  }

  /** Does it, unless it was done; tells when that was. No two times are the same. */
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
