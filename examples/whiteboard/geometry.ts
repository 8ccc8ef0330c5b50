/**
 * Lines made of points: simplifies lines, splits long ones, and finds lines under an eraser.
 *
 * @module
 */
import { LIMITS, type Point, type Stroke } from "./drawing.ts";

/** Weight of the pressure: a change from 0 to 1 counts as this many board units. */
const PRESSURE = 8;

/**
 * Simplifies a line: no removed point is farther than `tolerance` from the result
 * (Ramer-Douglas-Peucker).
 */
export function simplify(points: readonly Point[], tolerance: number): Point[] {
  const keep = new Set([0, points.length - 1]);
  const open: [first: number, last: number][] = [[0, points.length - 1]];
  for (let span = open.pop(); span !== undefined; span = open.pop()) {
    const [first, last] = span;
    let [farthest, most] = [first, tolerance];
    for (let i = first + 1; i < last; i++) {
      const distance = distanceTo(points[i]!, points[first]!, points[last]!, PRESSURE);
      if (distance > most) [farthest, most] = [i, distance];
    }
    if (farthest === first) continue;
    keep.add(farthest);
    open.push([first, farthest], [farthest, last]);
  }
  return points.filter((_, i) => keep.has(i));
}

/** Rounds to a tenth of a unit, within the reach of the board, and the pressure to a hundredth. */
export function round([x, y, pressure]: Point): Point {
  const place = (value: number) =>
    Math.round(Math.max(-LIMITS.reach, Math.min(LIMITS.reach, value)) * 10) / 10;
  return [place(x), place(y), Math.round(Math.max(0, Math.min(1, pressure)) * 100) / 100];
}

/**
 * Divides a line into pieces of at most `size` points. Each piece starts where the previous one
 * ends.
 */
export function pieces(points: readonly Point[], size: number = LIMITS.points): Point[][] {
  const all: Point[][] = [];
  for (let i = 0; i === 0 || i < points.length - 1; i += size - 1) {
    all.push(points.slice(i, i + size));
  }
  return all;
}

/** Returns true if an eraser with this radius, moved between two places, touches a stroke. */
export function isTouched(stroke: Stroke, from: Point, to: Point, radius: number): boolean {
  const { points, width } = stroke;
  const reach = radius + width / 2;
  return points.some((point, i) => {
    const before = points[i - 1] ?? point;
    return areCrossing(before, point, from, to) ||
      Math.min(
          distanceTo(point, from, to),
          distanceTo(from, before, point),
          distanceTo(to, before, point),
        ) <= reach;
  });
}

/** Returns the box around strokes; `undefined` without strokes. */
export function boxOf(
  strokes: Iterable<Stroke>,
): { left: number; top: number; right: number; bottom: number } | undefined {
  let box: ReturnType<typeof boxOf>;
  for (const { points, width } of strokes) {
    for (const [x, y] of points) {
      box ??= { left: x, top: y, right: x, bottom: y };
      box.left = Math.min(box.left, x - width);
      box.top = Math.min(box.top, y - width);
      box.right = Math.max(box.right, x + width);
      box.bottom = Math.max(box.bottom, y + width);
    }
  }
  return box;
}

/** Distance of a point to the line between two others, with a weight for the pressure. */
function distanceTo(point: Point, from: Point, to: Point, weight = 0): number {
  const [dx, dy, dz] = [to[0] - from[0], to[1] - from[1], (to[2] - from[2]) * weight];
  const [px, py, pz] = [point[0] - from[0], point[1] - from[1], (point[2] - from[2]) * weight];
  const length = dx * dx + dy * dy + dz * dz;
  const part = Math.max(0, Math.min(1, (px * dx + py * dy + pz * dz) / (length || 1)));
  return Math.hypot(px - part * dx, py - part * dy, pz - part * dz);
}

function areCrossing(a: Point, b: Point, c: Point, d: Point): boolean {
  const side = (p: Point, q: Point, r: Point) =>
    (q[0] - p[0]) * (r[1] - p[1]) - (q[1] - p[1]) * (r[0] - p[0]);
  return side(a, b, c) * side(a, b, d) < 0 && side(c, d, a) * side(c, d, b) < 0;
}
