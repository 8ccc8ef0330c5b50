/**
 * Types of a directory: entries of all nodes, and their changes.
 *
 * @module
 */

/** What changed in a scope, at another node. */
export interface DirectoryChange<T> {
  /** The node. */
  readonly node: string;
  /** The key. */
  readonly key: string;
  /** What it is now; `undefined` if it is no more. */
  readonly value: T | undefined;
  /** Whether it is no more because the node is gone. */
  readonly isSwept: boolean;
}

/** An entry of a scope. */
export interface DirectoryEntry<T> {
  /** The node that has it; this one, too. */
  readonly node: string;
  /** The key. */
  readonly key: string;
  /** What it is. */
  readonly value: T;
}

/** Gets the changes of a scope. MUST NOT throw. */
export type DirectoryListener<T> = (change: DirectoryChange<T>) => void;

/**
 * A scope that this node has open: it may have entries in it, and sees those of all others.
 *
 * @typeParam T The type of the values.
 */
export interface DirectoryScope<T> extends Disposable {
  /** Its name. */
  readonly name: string;
  /** Resolves when all nodes that were alive said what they have, or `openMs` are over; never rejects. */
  readonly ready: Promise<void>;
  /** Whether that is so. */
  readonly isReady: boolean;
  /**
   * Sets an entry of this node.
   *
   * @param key The key.
   * @param value Any value that JSON can hold, but for `undefined`.
   */
  set(key: string, value: T): void;
  /**
   * Takes an entry of this node back. Idempotent.
   *
   * @param key The key.
   */
  delete(key: string): void;
  /**
   * Lists the entries of all nodes, this one's first.
   *
   * @returns The entries.
   */
  entries(): IterableIterator<DirectoryEntry<T>>;
  /** Takes this node's entries back and forgets those of others, without a word to the listener. */
  [Symbol.dispose](): void;
}
