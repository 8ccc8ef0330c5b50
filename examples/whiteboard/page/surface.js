/**
 * The surface: the visible part of the board, and its strokes. There are two layered canvases, so
 * that an unfinished line does not redraw all others.
 *
 * @module
 */
import { boxOf } from "../geometry.ts";

const ZOOM = { least: 0.1, most: 4 };

/** Space around a drawing that is shown as a whole, in pixels, for bars and buttons. */
const MARGIN = { x: 24, top: 88, bottom: 120 };

/** Maximum distance from a point within which a bend is rounded, in board units. */
const MAX_BEND = 24;

/** Cached paths, one per stroke. */
const paths = new WeakMap();

export class Surface {
  /** Position of the board in the middle of the screen, and pixels per board unit. */
  view = { x: 0, y: 0, zoom: 1 };
  #still;
  #live;
  #onView;

  /** Draws on two canvases; `onView` is called when the visible part changes. */
  constructor(still, live, onView) {
    this.#still = still.getContext("2d");
    this.#live = live.getContext("2d");
    this.#onView = onView;
    new ResizeObserver(() => this.#resize()).observe(live);
    this.#resize();
  }

  get canvas() {
    return this.#live.canvas;
  }

  /** The place on the board below a place on the screen. */
  toBoard(x, y) {
    const { clientWidth, clientHeight } = this.canvas;
    const { view } = this;
    return [
      view.x + (x - clientWidth / 2) / view.zoom,
      view.y + (y - clientHeight / 2) / view.zoom,
    ];
  }

  /** The place on the screen above a place on the board. */
  toScreen(x, y) {
    const { clientWidth, clientHeight } = this.canvas;
    const { view } = this;
    return [
      (x - view.x) * view.zoom + clientWidth / 2,
      (y - view.y) * view.zoom + clientHeight / 2,
    ];
  }

  /** Moves the board on the screen, in pixels. */
  pan(dx, dy) {
    const { x, y, zoom } = this.view;
    this.#show({ x: x - dx / zoom, y: y - dy / zoom, zoom });
  }

  /** Zooms by a factor; the place below (x, y) stays fixed. */
  zoomAt(factor, x = this.canvas.clientWidth / 2, y = this.canvas.clientHeight / 2) {
    const zoom = Math.max(ZOOM.least, Math.min(ZOOM.most, this.view.zoom * factor));
    const [boardX, boardY] = this.toBoard(x, y);
    const part = this.view.zoom / zoom;
    this.#show({
      x: boardX + (this.view.x - boardX) * part,
      y: boardY + (this.view.y - boardY) * part,
      zoom,
    });
  }

  /** Shows all strokes, at a zoom of at most 100 %. */
  fit(strokes) {
    const box = boxOf(strokes);
    if (box === undefined) return this.#show({ x: 0, y: 0, zoom: 1 });
    const { clientWidth, clientHeight } = this.canvas;
    const zoom = Math.max(
      ZOOM.least,
      Math.min(
        1,
        (clientWidth - 2 * MARGIN.x) / (box.right - box.left),
        (clientHeight - MARGIN.top - MARGIN.bottom) / (box.bottom - box.top),
      ),
    );
    this.#show({
      x: (box.left + box.right) / 2,
      y: (box.top + box.bottom) / 2 + (MARGIN.bottom - MARGIN.top) / 2 / zoom,
      zoom,
    });
  }

  /** Draws the board's strokes; those in `waiting` are pale. */
  draw(strokes, waiting) {
    this.#begin(this.#still);
    for (const stroke of strokes) {
      this.#still.globalAlpha = waiting.has(stroke.id) ? 0.4 : 1;
      this.#stroke(this.#still, stroke);
    }
    this.#still.globalAlpha = 1;
  }

  /** Draws unfinished lines. */
  drawLive(strokes) {
    this.#begin(this.#live);
    for (const stroke of strokes) this.#stroke(this.#live, stroke);
  }

  #show(view) {
    this.view = view;
    this.#onView();
  }

  #resize() {
    for (const { canvas } of [this.#still, this.#live]) {
      canvas.width = canvas.clientWidth * devicePixelRatio;
      canvas.height = canvas.clientHeight * devicePixelRatio;
    }
    this.#onView();
  }

  #begin(context) {
    const { canvas } = context;
    const { x, y, zoom } = this.view;
    const scale = zoom * devicePixelRatio;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, canvas.width, canvas.height);
    context.setTransform(
      scale,
      0,
      0,
      scale,
      canvas.width / 2 - x * scale,
      canvas.height / 2 - y * scale,
    );
    context.lineCap = "round";
    context.lineJoin = "round";
  }

  #stroke(context, stroke) {
    context.strokeStyle = getComputedStyle(this.canvas).getPropertyValue(`--${stroke.color}`);
    for (const { path, width } of pathsOf(stroke)) {
      context.lineWidth = width;
      context.stroke(path);
    }
  }
}

/**
 * Returns one path for a line of constant pressure; otherwise each piece has its own width. Bends
 * are rounded, corners stay sharp.
 */
function pathsOf({ points: line, width }) {
  const known = paths.get(line);
  if (known?.length === line.length) return known.parts;
  const widthAt = (pressure) => width * (0.4 + 1.2 * pressure);
  const isEven = line.every(([, , pressure]) => pressure === line[0][2]);
  const points = isEven ? line : line.flatMap((point, i) => between(line[i - 1] ?? point, point));
  const parts = [];
  let path = new Path2D();
  path.moveTo(...points[0].slice(0, 2));
  for (const [i, [x, y, pressure]] of points.entries()) {
    const [before, next] = [points[i - 1], points[i + 1]];
    let end = [x, y];
    if (before && next) {
      const [start, middle] = [before, next].map(bendTowards([x, y], before, next));
      end = middle;
      path.lineTo(...start);
      path.quadraticCurveTo(x, y, ...end);
    } else path.lineTo(x, y);
    if (isEven) continue;
    parts.push({ path, width: widthAt(pressure) });
    path = new Path2D();
    path.moveTo(...end);
  }
  if (isEven) parts.push({ path, width: widthAt(points[0][2]) });
  paths.set(line, { length: line.length, parts });
  return parts;
}

/** Interpolates points between two others, so that the width changes gradually. */
function between(from, to) {
  const steps = Math.ceil(Math.hypot(to[0] - from[0], to[1] - from[1]) / 4) || 1;
  return Array.from(
    { length: steps },
    (_, i) => from.map((value, axis) => value + (to[axis] - value) * (i + 1) / steps),
  );
}

/** Returns where a bend at a point starts and ends; for a corner, the point itself. */
function bendTowards([x, y], [ax, ay], [bx, by]) {
  const turn = (x - ax) * (bx - x) + (y - ay) * (by - y);
  const cosine = turn / (Math.hypot(x - ax, y - ay) * Math.hypot(bx - x, by - y) || 1);
  const most = Math.max(0, Math.min(0.5, cosine - 0.3));
  return ([toX, toY]) => {
    const part = Math.min(most, MAX_BEND / (Math.hypot(toX - x, toY - y) || 1));
    return [x + (toX - x) * part, y + (toY - y) * part];
  };
}
