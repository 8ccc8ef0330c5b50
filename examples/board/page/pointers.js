/**
 * The pointers: this page's own, sent at most 20 times per second, and those of others, drawn with
 * their names. They are messages on a topic, not rows: only the newest counts, and none is stored.
 *
 * @module
 */
import { makePointer } from "../../shared/people.js";

/** Minimum time between two sent positions, in milliseconds. */
const SEND_MS = 50;

/**
 * A pointer at rest is sent again after this time, in milliseconds, for pages that have just
 * opened.
 */
const REPEAT_MS = 1_000;

/** A pointer without an update for this time is removed, in milliseconds. */
const GONE_MS = 3_500;

/** Maximum number of pointers that are shown. */
const MAX_SHOWN = 40;

export class Pointers {
  /** The users who hold a card, by its key. */
  holders = new Map();
  #container;
  #page;
  #columns;
  #hueOf;
  #onNews;
  #client;
  #topic = "";
  #subscription;
  /** The pointers of other pages, by the ids of the pages. */
  #others = new Map();
  #own = { at: null };
  #isPaused = false;
  #timer;
  #sentAt = 0;
  #isSending = false;

  /**
   * Draws into an element. `page` is the id of this page, `columns` the list of columns, `hueOf`
   * returns a user's colour, and `onNews` requests a frame.
   */
  constructor(container, { page, columns, hueOf, onNews }) {
    this.#container = container;
    this.#page = page;
    this.#columns = columns;
    this.#hueOf = hueOf;
    this.#onNews = onNews;
    addEventListener("pointermove", (event) => {
      if (event.pointerType !== "touch" || this.#own.holds) this.point(event);
    });
    document.documentElement.addEventListener("pointerleave", () => this.point(undefined));
    addEventListener("pointerup", ({ pointerType }) => {
      if (pointerType === "touch") this.point(undefined);
    });
    for (const type of ["scroll", "resize"]) {
      addEventListener(type, () => this.place(), { capture: true, passive: true });
    }
  }

  /** Shows the pointers of a board. */
  open(client, board) {
    this.#client = client;
    this.#topic = `board:${board}`;
    for (const id of this.#others.keys()) this.#remove(id);
    void this.#subscription?.unsubscribe().catch(() => {});
    void this.#read(client.subscribe(this.#topic));
  }

  async #read(subscription) {
    this.#subscription = subscription;
    try {
      for await (const { data, from } of subscription) this.#take(data, from);
    } catch (error) {
      console.warn(error);
    }
  }

  /** Sets this page's pointer; `undefined` once it has left the window. */
  point(event) {
    const at = event === undefined || this.#isPaused ? null : this.#placeOf(event);
    if (at === null && this.#own.at === null) return;
    this.#own = { ...this.#own, at };
    this.#plan();
  }

  /** Takes this page's pointer off the boards of others, or shows it again with its next move. */
  pause(isPaused) {
    this.#isPaused = isPaused;
    if (isPaused) this.point(undefined);
  }

  /** Sets the card that this page's user holds; `undefined` for none. */
  hold(key) {
    if (key === this.#own.holds) return;
    this.#own = { ...this.#own, holds: key };
    this.#plan();
  }

  /** Removes the pointers of a user who left. */
  leave(user) {
    for (const [id, other] of this.#others) if (other.user === user) this.#remove(id);
  }

  /** Places all pointers on the columns as they are now. */
  place() {
    const columns = new Map([...this.#columns.children].map((one) => [one.dataset.key, one]));
    const frame = this.#container.getBoundingClientRect();
    for (const { element, user, at } of this.#others.values()) {
      const column = at && columns.get(at.column);
      element.hidden = !column;
      if (!column) continue;
      const { left, top, width } = column.getBoundingClientRect();
      const { scrollTop } = column.querySelector(".cards");
      const x = left + at.x * width - frame.left;
      const y = top + at.y - scrollTop - frame.top;
      element.style.translate = `${x}px ${y}px`;
      element.style.setProperty("--hue", this.#hueOf(user));
    }
  }

  /** Returns the place of an event in a column, so that it is right on windows of other sizes. */
  #placeOf({ clientX, clientY }) {
    for (const column of this.#columns.children) {
      const { left, right, top, width } = column.getBoundingClientRect();
      if (clientX < left || clientX > right) continue;
      const y = clientY - top + column.querySelector(".cards").scrollTop;
      return { column: column.dataset.key, x: (clientX - left) / width, y: Math.round(y) };
    }
    return null;
  }

  #plan() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#send(), this.#sentAt + SEND_MS - performance.now());
  }

  /** Sends the pointer. While one is under way, newer ones replace each other. */
  async #send() {
    clearTimeout(this.#timer);
    const own = this.#own;
    const { at, holds } = own;
    if (at !== null || holds) this.#timer = setTimeout(() => this.#send(), REPEAT_MS);
    if (this.#isSending || !this.#client?.isConnected) return;
    this.#sentAt = performance.now();
    this.#isSending = true;
    const pointer = { page: this.#page, at, ...(holds && { holds }) };
    // A lost pointer is replaced by the next one.
    await this.#client.publish(this.#topic, pointer, { except: "self" }).catch(() => {});
    this.#isSending = false;
    if (own !== this.#own) this.#plan();
  }

  #take({ page, at, holds }, user) {
    if (page === this.#page) return;
    const known = this.#others.get(page);
    clearTimeout(known?.timer);
    if (at === null && !holds) return this.#remove(page);
    if (known === undefined && this.#others.size >= MAX_SHOWN) return;
    const timer = setTimeout(() => this.#remove(page), GONE_MS);
    const element = known?.element ?? this.#add(user);
    this.#others.set(page, { element, user, at, holds, timer });
    if (holds === known?.holds) this.place();
    else this.#noteHolders();
  }

  #noteHolders() {
    this.holders = new Map();
    for (const { holds, user } of this.#others.values()) if (holds) this.holders.set(holds, user);
    this.#onNews();
  }

  #add(user) {
    const element = makePointer(user);
    this.#container.append(element);
    return element;
  }

  #remove(page) {
    const other = this.#others.get(page);
    if (other === undefined) return;
    clearTimeout(other.timer);
    other.element.remove();
    this.#others.delete(page);
    this.#noteHolders();
  }
}
