/** The current transaction, as far as memory is concerned. */

/** A table whose rows change, with owners identified by id. */
export type ChangingTable = "topics" | "logs";

/** Changes in memory that a transaction has to undo or to pass to a copy of the file. */
export class SqliteTransaction {
  /** Ids of the topics and logs that changed or were deleted. */
  readonly changed: Readonly<Record<ChangingTable, Set<number>>> = {
    topics: new Set(),
    logs: new Set(),
  };
  #undo: (() => void)[] = [];

  /**
   * Registers how to undo a change in memory. `undo` MUST NOT need the file, because the file may
   * fail to roll back.
   */
  onRollback(undo: () => void): void {
    this.#undo.push(undo);
  }

  /** Discards everything registered, once the transaction has taken effect. */
  committed(): void {
    this.#undo = [];
    this.changed.topics.clear();
    this.changed.logs.clear();
  }

  /** Undoes all changes in memory, newest first, because the transaction had no effect. */
  rolledBack(): void {
    for (const undo of this.#undo.reverse()) undo();
    this.committed();
  }
}
