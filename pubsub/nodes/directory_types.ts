/** Public types of a directory: scopes, entries, and changes. */

/** A change in a scope, made at another node. */
export interface DirectoryChange<T> {
  /** Id of the node. */
  readonly node: string;
  /** Key of the entry. */
  readonly key: string;
  /** New value of the entry; `undefined` if the entry was deleted. */
  readonly value: T | undefined;
  /** True if the entry was deleted because the node is gone. */
  readonly isSwept: boolean;
}

/** An entry of a scope. */
export interface DirectoryEntry<T> {
  /** Id of the node that set the entry; this node, too. */
  readonly node: string;
  /** Key of the entry. */
  readonly key: string;
  /** Value of the entry. */
  readonly value: T;
}

/** Gets the changes of a scope. MUST NOT throw. */
export type DirectoryListener<T> = (change: DirectoryChange<T>) => void;

/**
 * A scope that this node has open. The node may set entries, and sees those of all other nodes.
 *
 * @typeParam T The type of the values.
 */
export interface DirectoryScope<T> extends Disposable {
  /** Name of the scope. */
  readonly name: string;
  /** Resolves when all nodes that were alive sent their entries, or after `openMs`; never rejects. */
  readonly ready: Promise<void>;
  /** True when {@linkcode DirectoryScope.ready} has resolved. */
  readonly isReady: boolean;
  /**
   * Sets an entry of this node.
   *
   * @param key The key.
   * @param value Any value that JSON can hold, except `undefined`.
   */
  set(key: string, value: T): void;
  /**
   * Deletes an entry of this node. Idempotent.
   *
   * @param key The key.
   */
  delete(key: string): void;
  /**
   * Lists the entries of all nodes, those of this node first.
   *
   * @returns The entries.
   */
  entries(): IterableIterator<DirectoryEntry<T>>;
  /** Closes the scope: deletes the entries of this node, and does not call the listener any more. */
  [Symbol.dispose](): void;
}
