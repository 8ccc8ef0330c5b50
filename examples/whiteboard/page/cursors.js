/**
 * The pointers: this page's own, sent at most 30 times per second, and those of others, drawn with
 * their names and moving smoothly.
 *
 * @module
 */
import { makePointer } from "../../shared/people.js";

/** Minimum time between two sent positions, in milliseconds. */
const SEND_MS = 33;

/**
 * A pointer at rest is sent again after this time, in milliseconds, because datagrams may be lost.
 */
const REPEAT_MS = 500;

/** A pointer without an update for this time is removed, in milliseconds. */
const GONE_MS = 1_800;

/** Time in which a pointer covers most of the distance to its newest position, in milliseconds. */
const GLIDE_MS = 60;

/** A pen trail whose stroke does not arrive is removed after this time, in milliseconds. */
const TRAIL_MS = 1_000;
const MAX_TRAIL = 1_000;

/** Accepts all data: the server validates its input, and the page trusts the server. */
const asItComes = { "~standard": { version: 1, vendor: "page", validate: (value) => ({ value }) } };

export class Cursors {
  #container;
  #hueOf;
  #onNews;
  #others = new Map();
  #session;
  #datagrams;
  #board = "";
  #own = { at: null };
  #timer;
  #sentAt = 0;

  /** Draws into an element; `hueOf` returns a user's color, `onNews` requests a frame. */
  constructor(container, { hueOf, onNews }) {
    this.#container = container;
    this.#hueOf = hueOf;
    this.#onNews = onNews;
  }

  /** Switches to a session; `undefined` if there is none. */
  async use(session) {
    this.#session = session;
    this.#datagrams = undefined;
    this.#forget();
    if (session === undefined || session.connection.capabilities.datagrams === "none") return;
    try {
      const datagrams = await session.structuredDatagrams({
        registry: { 1: asItComes, 2: asItComes },
      });
      if (this.#session === session) this.#datagrams = datagrams;
      for await (const { data } of datagrams) this.take(data);
    } catch (error) {
      if (!session.isClosed) console.warn(error);
    }
  }

  /** Shows the pointers of another board. */
  open(board) {
    this.point(undefined);
    this.#flush();
    this.#board = board;
    this.#forget();
  }

  /** Sets this page's pointer, with the current stroke; `undefined` once it has left the board. */
  point(place, pen) {
    if (!place && this.#own.at === null) return;
    this.#own = { at: place ? [place[0], place[1]] : null, ...(place && pen && { pen }) };
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#flush(), this.#sentAt + SEND_MS - performance.now());
  }

  #flush() {
    clearTimeout(this.#timer);
    this.#sentAt = performance.now();
    if (this.#own.at !== null) this.#timer = setTimeout(() => this.#flush(), REPEAT_MS);
    const cursor = { board: this.#board, ...this.#own };
    if (!this.#session?.isReady || this.#board === "") return;
    if (this.#datagrams) void this.#datagrams.send(1, cursor).catch(() => {});
    else this.#session.send("cursor", cursor);
  }

  /** Receives other pointers, from a datagram or a message. */
  take({ board, sequence, cursors }) {
    if (board !== this.#board) return;
    for (const { id, user, at, pen } of cursors) {
      const known = this.#others.get(id);
      if (known && known.sequence > sequence) continue;
      if (at === null) {
        this.#remove(id);
        continue;
      }
      const heardAt = performance.now();
      const other = known ?? { drawn: at, element: this.#add(user), trail: [] };
      Object.assign(other, { user, at, sequence, heardAt, isDown: pen !== undefined });
      this.#others.set(id, other);
      if (pen === undefined) continue;
      if (pen.id !== other.pen?.id) other.trail = [[...pen.from, 0.5]];
      other.trail.push([...at, 0.5]);
      if (other.trail.length > MAX_TRAIL) other.trail.shift();
      Object.assign(other, { pen, penAt: heardAt });
    }
    this.#onNews();
  }

  /** Draws all pointers; returns the strokes that others are drawing. */
  draw(now, elapsedMs, { toScreen, isKnown }) {
    const part = matchMedia("(prefers-reduced-motion: reduce)").matches
      ? 1
      : 1 - Math.exp(-elapsedMs / GLIDE_MS);
    const strokes = [];
    for (const [id, other] of this.#others) {
      if (now - other.heardAt > GONE_MS) {
        this.#remove(id);
        continue;
      }
      other.drawn = other.drawn.map((value, i) => value + (other.at[i] - value) * part);
      const [x, y] = toScreen(...other.drawn);
      other.element.style.translate = `${x}px ${y}px`;
      other.element.style.setProperty("--hue", this.#hueOf(other.user));
      const { pen, trail, isDown, drawn } = other;
      // The trail stays until the stroke itself has arrived.
      if (pen === undefined || isKnown(pen.id) || now - other.penAt > TRAIL_MS) continue;
      strokes.push({ ...pen, points: isDown ? [...trail.slice(0, -1), [...drawn, 0.5]] : trail });
    }
    return strokes;
  }

  /** True while a pointer is on the board. */
  get isBusy() {
    return this.#others.size > 0;
  }

  /** Removes the pointers of a user who left. */
  leave(user) {
    for (const [id, other] of this.#others) if (other.user === user) this.#remove(id);
  }

  #add(user) {
    const element = makePointer(user);
    this.#container.append(element);
    return element;
  }

  #remove(id) {
    this.#others.get(id)?.element.remove();
    this.#others.delete(id);
  }

  #forget() {
    for (const id of this.#others.keys()) this.#remove(id);
  }
}
