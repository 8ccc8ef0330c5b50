/**
 * States of Yjs documents in one SQLite file, for `yjs_server.ts` on one machine. For nodes on
 * several machines, run the same two statements on a shared database.
 *
 * @module
 */
import { DatabaseSync } from "node:sqlite";
import type { YjsStore } from "./yjs_server.ts";

/** A store in a file that several processes may open. */
export class SqliteYjsStore implements YjsStore, Disposable {
  readonly #database: DatabaseSync;

  constructor(path: string) {
    this.#database = new DatabaseSync(path, { timeout: 5_000 });
    this.#database.exec(`PRAGMA journal_mode = WAL; CREATE TABLE IF NOT EXISTS yjs_documents (
      name TEXT PRIMARY KEY, state BLOB NOT NULL) WITHOUT ROWID`);
  }

  load(name: string): Uint8Array | undefined {
    const query = this.#database.prepare("SELECT state FROM yjs_documents WHERE name = ?");
    return query.get(name)?.state as Uint8Array | undefined;
  }

  replace(name: string, change: (state: Uint8Array | undefined) => Uint8Array): void {
    // Locks before the read, so that no other process saves a state in between.
    this.#database.exec("BEGIN IMMEDIATE");
    try {
      const state = change(this.load(name));
      this.#database.prepare("REPLACE INTO yjs_documents VALUES (?, ?)").run(name, state);
      this.#database.exec("COMMIT");
    } catch (error) {
      this.#database.exec("ROLLBACK");
      throw error;
    }
  }

  [Symbol.dispose](): void {
    this.#database.close();
  }
}
