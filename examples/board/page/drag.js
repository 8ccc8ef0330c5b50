/**
 * Moves cards: with the mouse, with a finger or a pen on the dots of a card, and with the keyboard.
 * The page shows a held card at its new place; the row is written when the card is dropped.
 *
 * @module
 */
import { findCard, placeOf, withCardAt } from "../rows.ts";

/** Distance in pixels that the pointer moves before a card is lifted. A click moves less. */
const SLOP = 5;

/** Distance from an edge, in pixels, in which the board scrolls, and the pixels per frame. */
const EDGE = 40;
const SCROLL = 12;

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

export class Drag {
  /** The held card: its key, its place, and whether the keyboard holds it. */
  held;
  #plan;
  #on;
  /** The pointer that is down on a card. */
  #pressed;
  /** The element under the pointer. */
  #ghost;
  /** True after a drop, until the next press: the click that follows does not open the card. */
  #isDropped = false;

  /**
   * Listens to the list of columns. `columns()` returns the columns without the drag, `isLocked()`
   * whether cards must stay, `onDrop` receives the card's key and place, and `say` sentences for
   * screen readers.
   */
  constructor(plan, on) {
    this.#plan = plan;
    this.#on = on;
    plan.addEventListener("pointerdown", (event) => this.#press(event));
    plan.addEventListener("pointermove", (event) => this.#move(event));
    plan.addEventListener("pointerup", (event) => this.#release(event));
    plan.addEventListener("pointercancel", (event) => this.#lose(event));
    plan.addEventListener("lostpointercapture", (event) => {
      // The dots of a card lose a finger to the list when the card is lifted.
      if (event.target === plan) this.#lose(event);
    });
    plan.addEventListener("click", (event) => {
      // Clicks by the keyboard have no detail.
      if (!this.#isDropped || event.detail === 0) return;
      event.preventDefault();
      event.stopPropagation();
    }, { capture: true });
    plan.addEventListener("dragstart", (event) => event.preventDefault());
    plan.addEventListener("keydown", (event) => this.#key(event));
    // In some browsers the space bar clicks a button when it is released.
    plan.addEventListener("keyup", (event) => {
      if (event.key === " " && event.target.closest(".task")) event.preventDefault();
    });
    document.addEventListener("keydown", ({ key }) => {
      if (key === "Escape") this.cancel();
    });
  }

  /** The columns as the user sees them. */
  get columns() {
    const columns = this.#on.columns();
    return this.held === undefined ? columns : withCardAt(columns, this.held.key, this.held.place);
  }

  /** Puts the card back. */
  cancel() {
    this.#pressed = undefined;
    if (this.held === undefined) return;
    this.#end();
    this.#on.say("The card is back at its place.");
  }

  /** Lets go of a card that someone else deleted, or whose new column is gone. */
  check() {
    const columns = this.#on.columns();
    const { key, place } = this.held;
    if (findCard(columns, key) && columns.some((column) => column.key === place.column)) return;
    this.cancel();
  }

  /* Pointers */

  #press(event) {
    this.#isDropped = false;
    if (this.held?.byKeys) this.cancel();
    const item = event.target.closest(".item");
    if (this.#on.isLocked()) return;
    if (item === null || !event.isPrimary || event.button !== 0) return;
    // A finger on the rest of a card scrolls.
    if (event.pointerType !== "mouse" && event.target.closest(".grip") === null) return;
    const { left, top } = item.getBoundingClientRect();
    const { pointerId: id, clientX: x, clientY: y } = event;
    this.#pressed = { id, item, x, y, startX: x, startY: y, offset: [x - left, y - top] };
  }

  #move({ pointerId, clientX, clientY }) {
    const pressed = this.#pressed;
    if (pressed?.id !== pointerId) return;
    Object.assign(pressed, { x: clientX, y: clientY });
    if (this.held === undefined) {
      if (Math.hypot(pressed.x - pressed.startX, pressed.y - pressed.startY) < SLOP) return;
      this.#lift(pressed);
    }
    this.#follow();
  }

  #lift({ id, item }) {
    const { key } = item.dataset;
    const place = placeOf(this.#on.columns(), key);
    if (place === undefined) return;
    this.held = { key, place, byKeys: false };
    // The list of columns receives the pointer, because the card's element may be replaced.
    this.#plan.setPointerCapture(id);
    this.#plan.classList.add("dragging");
    this.#ghost = item.cloneNode(true);
    this.#ghost.classList.add("ghost");
    this.#ghost.ariaHidden = "true";
    this.#ghost.inert = true;
    this.#ghost.style.width = `${item.offsetWidth}px`;
    document.body.append(this.#ghost);
    this.#on.onChange();
    requestAnimationFrame(() => this.#scroll());
  }

  /** Moves the held card to the pointer. */
  #follow() {
    if (this.#ghost === undefined) return;
    const { x, y, offset } = this.#pressed;
    this.#ghost.style.translate = `${x - offset[0]}px ${y - offset[1]}px`;
    this.#put(this.#placeAt(x, y));
  }

  #placeAt(x, y) {
    let [nearest, least] = [undefined, Infinity];
    for (const column of this.#plan.children) {
      const { left, right } = column.getBoundingClientRect();
      const distance = Math.max(left - x, x - right, 0);
      if (distance < least) [nearest, least] = [column, distance];
    }
    const above = [...nearest.querySelectorAll(".item")].filter((item) => {
      const { top, height } = item.getBoundingClientRect();
      return item.dataset.key !== this.held.key && top + height / 2 < y;
    });
    return { column: nearest.dataset.key, index: above.length };
  }

  #put(place) {
    const { place: before } = this.held;
    if (place.column === before.column && place.index === before.index) return;
    this.held = { ...this.held, place };
    this.#on.onChange();
  }

  /** Scrolls while the pointer is at an edge. */
  #scroll() {
    if (this.#ghost === undefined) return;
    const { x, y } = this.#pressed;
    const list = this.#plan.querySelector(
      `[data-key="${CSS.escape(this.held.place.column)}"] .cards`,
    );
    const board = this.#plan.parentElement.getBoundingClientRect();
    this.#plan.parentElement.scrollBy(SCROLL * edgeAt(x, board.left, board.right), 0);
    if (list !== null) {
      const { top, bottom } = list.getBoundingClientRect();
      list.scrollBy(0, SCROLL * edgeAt(y, top, bottom));
    }
    this.#follow();
    requestAnimationFrame(() => this.#scroll());
  }

  #release({ pointerId }) {
    if (this.#pressed?.id !== pointerId) return;
    this.#pressed = undefined;
    if (this.held === undefined) return;
    this.#isDropped = true;
    this.#drop();
  }

  #lose({ pointerId }) {
    if (this.#pressed?.id === pointerId) this.cancel();
  }

  /* The keyboard */

  #key(event) {
    const task = event.target.closest(".task");
    if (task === null || event.ctrlKey || event.metaKey || event.altKey) return;
    const isHeld = this.held?.byKeys === true;
    if (event.key === " ") {
      if (!event.repeat) isHeld ? this.#drop() : this.#liftByKeys(task);
    } else if (!isHeld) return;
    else if (event.key === "Enter") this.#drop();
    else if (event.key in ARROWS) this.#step(ARROWS[event.key]);
    else if (event.key === "Tab") return this.cancel();
    else return;
    event.preventDefault();
  }

  #liftByKeys(task) {
    const { key } = task.closest(".item").dataset;
    const place = placeOf(this.#on.columns(), key);
    if (place === undefined || this.held !== undefined) return;
    this.held = { key, place, byKeys: true };
    this.#on.say(`Lifted. ${this.#whereWords()} Arrow keys move it, Space drops it.`);
    this.#on.onChange();
  }

  #step([across, down]) {
    const columns = this.columns;
    const { key, place } = this.held;
    const at = columns.findIndex((column) => column.key === place.column);
    const target = columns[at + across];
    if (target === undefined) return;
    const others = target.cards.filter((card) => card.key !== key).length;
    this.#put({
      column: target.key,
      index: Math.max(0, Math.min(others, place.index + down)),
    });
    this.#on.say(this.#whereWords());
    this.#reveal(key);
  }

  /** Describes the place of the held card. */
  #whereWords() {
    const { column, index } = this.held.place;
    const { title, cards } = this.columns.find(({ key }) => key === column);
    return `${index + 1} of ${cards.length} in ${title}.`;
  }

  /* Both */

  #drop() {
    const { key, place } = this.held;
    this.#on.say(`Dropped. ${this.#whereWords()}`);
    // The card stays where it is shown: the write is shown at once.
    this.#on.onDrop(key, place);
    this.#end();
    this.#reveal(key);
  }

  /** Scrolls to a card, after it is drawn at its new place. */
  #reveal(key) {
    requestAnimationFrame(() => {
      const item = this.#plan.querySelector(`.item[data-key="${CSS.escape(key)}"]`);
      for (const part of [item?.closest(".column"), item]) {
        part?.scrollIntoView({ inline: "nearest", block: "nearest" });
      }
    });
  }

  #end() {
    this.held = undefined;
    this.#ghost?.remove();
    this.#ghost = undefined;
    this.#plan.classList.remove("dragging");
    this.#on.onChange();
  }
}

/** Returns -1 near the start, 1 near the end, and 0 elsewhere. */
function edgeAt(at, start, end) {
  return at < start + EDGE ? -1 : at > end - EDGE ? 1 : 0;
}
