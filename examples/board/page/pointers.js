/**
 * The pointers: this page's own, and those of others, drawn with their names. They are ephemeral
 * rows of the board: each leaves with its page.
 *
 * @module
 */
import { makePointer } from "../../shared/people.js";

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
  #state;
  #rows;
  #stop = () => {};
  /** The pointers of other pages, by the ids of the pages. */
  #others = new Map();
  #own = { at: null };
  #isPaused = false;

  /**
   * Draws into an element. `page` is the id of this page, `columns` the list of columns, `hueOf`
   * returns a user's color, and `onNews` requests a frame.
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
  open(state) {
    this.#stop();
    this.#state = state;
    this.#rows = state.collection("pointers");
    this.#stop = this.#rows.subscribe((rows) => this.#show(rows));
  }

  /** Sets this page's pointer; `undefined` once it has left the window. */
  point(event) {
    const at = event === undefined || this.#isPaused ? null : this.#placeOf(event);
    if (at === null && this.#own.at === null) return;
    this.#own = { ...this.#own, at };
    this.#write();
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
    this.#write();
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

  /** Writes the pointer; the client sends the newest one, once per frame. */
  #write() {
    if (this.#state?.status.current !== "live") return; // No one sees it, and it isn't kept.
    const { at, holds } = this.#own;
    const writing = at === null && !holds
      ? this.#rows.delete(this.#page)
      : this.#rows.set(this.#page, { at, ...(holds && { holds }) });
    // The next pointer follows soon.
    writing?.catch(() => {});
  }

  #show(rows) {
    for (const [page, { element }] of this.#others) {
      if (rows.has(page)) continue;
      element.remove();
      this.#others.delete(page);
    }
    const holders = new Map();
    for (const [page, { user, at, holds }] of rows) {
      if (page === this.#page) continue;
      const known = this.#others.get(page);
      if (known === undefined && this.#others.size >= MAX_SHOWN) continue;
      this.#others.set(page, { element: known?.element ?? this.#add(user), user, at });
      if (holds) holders.set(holds, user);
    }
    this.place();
    const isSame = holders.size === this.holders.size &&
      [...holders].every(([key, user]) => this.holders.get(key) === user);
    this.holders = holders;
    if (!isSame) this.#onNews();
  }

  #add(user) {
    const element = makePointer(user);
    this.#container.append(element);
    return element;
  }
}
