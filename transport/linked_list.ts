/**
 * A list through its items themselves.
 *
 * @module
 */

/** What is in a {@linkcode LinkedList}: in one at a time. */
export interface Linked<T> {
  /** Its neighbour. */
  previous: T | undefined;
  /** See `previous`. */
  next: T | undefined;
}

/**
 * Items that come and go often. A `Set` leaves tables behind when they do, which keep what was in
 * them from the quick collections of garbage.
 *
 * @typeParam T The type of an item.
 */
export class LinkedList<T extends Linked<T>> {
  #first: T | undefined = undefined;
  #size = 0;

  /** How many there are. */
  get size(): number {
    return this.#size;
  }

  /**
   * Adds an item.
   *
   * @param item One that is in no list.
   */
  add(item: T): void {
    item.next = this.#first;
    if (this.#first !== undefined) this.#first.previous = item;
    this.#first = item;
    this.#size++;
  }

  /**
   * Takes an item off; one that is not in the list stays so.
   *
   * @param item The item.
   */
  delete(item: T): void {
    const { previous, next } = item;
    if (previous !== undefined) previous.next = next;
    else if (this.#first === item) this.#first = next;
    else return;
    if (next !== undefined) next.previous = previous;
    item.previous = item.next = undefined;
    this.#size--;
  }

  /**
   * Lists all of them, to be gone through while they come and go.
   *
   * @returns The items, the newest first.
   */
  toArray(): T[] {
    const items: T[] = [];
    for (let item = this.#first; item !== undefined; item = item.next) items.push(item);
    return items;
  }
}
