/** A list linked through its items. */

/** The links of an item. An item is in at most one {@linkcode LinkedList} at a time. */
export interface Linked<T> {
  /** Previous item. */
  previous: T | undefined;
  /** Next item. */
  next: T | undefined;
}

/**
 * A list for items that are added and deleted often. A `Set` used this way leaves old hash tables
 * in memory, which keep deleted items alive through minor garbage collections.
 *
 * @typeParam T The type of an item.
 */
export class LinkedList<T extends Linked<T>> {
  #first: T | undefined = undefined;
  #last: T | undefined = undefined;
  #size = 0;

  /** Number of items. */
  get size(): number {
    return this.#size;
  }

  /** The item that was added first; `undefined` in an empty list. */
  get oldest(): T | undefined {
    return this.#last;
  }

  /**
   * Adds an item.
   *
   * @param item An item that is not in a list.
   */
  add(item: T): void {
    item.next = this.#first;
    if (this.#first === undefined) this.#last = item;
    else this.#first.previous = item;
    this.#first = item;
    this.#size++;
  }

  /** Deletes an item, if it is in the list. */
  delete(item: T): void {
    const { previous, next } = item;
    if (previous !== undefined) previous.next = next;
    else if (this.#first === item) this.#first = next;
    else return;
    if (next !== undefined) next.previous = previous;
    else this.#last = previous;
    item.previous = item.next = undefined;
    this.#size--;
  }

  /**
   * Copies all items, so that the list may change during iteration.
   *
   * @returns The items, the newest first.
   */
  toArray(): T[] {
    const items: T[] = [];
    for (let item = this.#first; item !== undefined; item = item.next) items.push(item);
    return items;
  }
}
