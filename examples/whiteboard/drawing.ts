/**
 * A drawing: the strokes of a board after all changes so far. Server and pages apply the same
 * changes in the same order, so they have the same drawing.
 *
 * @module
 */

/** Colors of strokes; the page has a shade of each for light and for dark. */
export const COLORS = ["ink", "blue", "green", "red", "amber"] as const;

/** Widths of strokes, in units of the board: pixels at a zoom of 100 %. */
export const WIDTHS = [2, 5, 12] as const;

/** Bounds of a board and of one change. */
export const LIMITS = {
  /** Maximum strokes of a board; one more removes the oldest. */
  strokes: 4_000,
  /** Maximum points of a stroke; the page divides a longer line. */
  points: 256,
  /** Maximum strokes that one change erases. */
  erased: 100,
  /** Maximum coordinate, from the middle of the board. */
  reach: 20_000,
} as const;

/** A place on the board, and the pressure of the pen from 0 to 1: 0.5 for a mouse or a finger. */
export type Point = readonly [x: number, y: number, pressure: number];

/** A line of one color and width. */
export interface Stroke {
  /** Id that the page creates, so that a stroke that is sent twice counts once. */
  readonly id: string;
  readonly color: (typeof COLORS)[number];
  readonly width: (typeof WIDTHS)[number];
  readonly points: readonly Point[];
  /** The user who drew the stroke, set by the server; absent while the stroke waits. */
  readonly by?: string;
}

/** A change of a board. By the id, a page recognizes its own changes when they arrive. */
export type Change =
  | { readonly kind: "draw" } & Omit<Stroke, "by">
  | { readonly kind: "erase"; readonly id: string; readonly ids: readonly string[] }
  | { readonly kind: "clear"; readonly id: string };

/** The strokes of a board, oldest first. */
export class Drawing {
  readonly #strokes: Map<string, Stroke>;

  /** Starts with these strokes, oldest first. */
  constructor(strokes: Iterable<Stroke> = []) {
    this.#strokes = new Map();
    for (const stroke of strokes) this.add(stroke);
  }

  /** The strokes, oldest first. */
  get strokes(): Stroke[] {
    return [...this.#strokes.values()];
  }

  get(id: string): Stroke | undefined {
    return this.#strokes.get(id);
  }

  /** Adds a stroke on top; a known stroke keeps its place. */
  add(stroke: Stroke): void {
    if (this.#strokes.has(stroke.id)) return;
    this.#strokes.set(stroke.id, stroke);
    if (this.#strokes.size <= LIMITS.strokes) return;
    for (const oldest of this.#strokes.keys()) return void this.#strokes.delete(oldest);
  }

  /** Applies a user's change. Applying a change again has no effect. */
  apply(change: Change, by?: string): void {
    switch (change.kind) {
      case "draw": {
        const { kind: _, ...stroke } = change;
        return this.add(by === undefined ? stroke : { ...stroke, by });
      }
      case "erase":
        for (const id of change.ids) this.#strokes.delete(id);
        return;
      case "clear":
        this.#strokes.clear();
    }
  }
}
