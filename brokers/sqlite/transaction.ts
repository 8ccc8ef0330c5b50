/** The transaction under way, as far as memory knows of it. */

/** A table whose rows change: each names its owners by id. */
export type ChangingTable = "topics" | "logs";

/** Notes that a transaction has to undo, or to hand to a copy of the file. */
export class Transaction {
  /** Ids of the topics and logs that changed, or that are gone. */
  readonly changed: Readonly<Record<ChangingTable, Set<number>>> = {
    topics: new Set(),
    logs: new Set(),
  };
  #undo: (() => void)[] = [];

  /** Notes how to undo a change in memory. MUST NOT need the file, which may fail to roll back. */
  onRollback(undo: () => void): void {
    this.#undo.push(undo);
  }

  /** Forgets all notes, once the transaction took effect. */
  committed(): void {
    this.#undo = [];
    this.changed.topics.clear();
    this.changed.logs.clear();
  }

  /** Undoes all changes in memory, the newest first: the transaction had no effect. */
  rolledBack(): void {
    for (const undo of this.#undo.reverse()) undo();
    this.committed();
  }
}
