/**
 * The conversations in a file, as in an application's own database. The file contains answers that
 * have ended, not their streams.
 *
 * @module
 */
import { DatabaseSync } from "node:sqlite";
import type { Conversation, Question, Turn } from "./contract.ts";

/** Maximum conversations in the list, and turns of a conversation on the page. */
const MAX_LISTED = 200;

const TITLE_LENGTH = 60;

const TABLES = `
  PRAGMA journal_mode = WAL;
  PRAGMA foreign_keys = ON;
  CREATE TABLE IF NOT EXISTS conversations (
    id TEXT PRIMARY KEY, title TEXT NOT NULL, at INTEGER NOT NULL
  ) STRICT;
  CREATE TABLE IF NOT EXISTS turns (
    number INTEGER PRIMARY KEY,
    id TEXT UNIQUE NOT NULL,
    conversation TEXT NOT NULL REFERENCES conversations ON DELETE CASCADE,
    question TEXT NOT NULL,
    answer TEXT NOT NULL DEFAULT '',
    state TEXT NOT NULL DEFAULT 'writing',
    reason TEXT NOT NULL DEFAULT ''
  ) STRICT;
  CREATE INDEX IF NOT EXISTS turns_of ON turns (conversation);`;

const COLUMNS = "id, conversation, question, answer, state, reason";

export class Conversations implements Disposable {
  readonly #db: DatabaseSync;

  /** Opens or creates a file. `:memory:` keeps nothing after the process ends. */
  constructor(path: string) {
    this.#db = new DatabaseSync(path);
    this.#db.exec(TABLES);
  }

  /** Returns the conversations, newest first. */
  list(): Conversation[] {
    return this.#rows(`SELECT id, title FROM conversations ORDER BY at DESC LIMIT ${MAX_LISTED}`);
  }

  /** Returns the newest turns of a conversation, in chronological order. */
  turns(conversation: string): Turn[] {
    return this.#rows<Turn>(
      `SELECT ${COLUMNS} FROM turns WHERE conversation = ? ORDER BY number DESC LIMIT ${MAX_LISTED}`,
      conversation,
    ).reverse();
  }

  turn(id: string): Turn | undefined {
    return this.#rows<Turn>(`SELECT ${COLUMNS} FROM turns WHERE id = ?`, id)[0];
  }

  /** Stores a question, once per id. The new turn replaces the turn `replaces`. */
  begin({ id, conversation, question, replaces = "" }: Question): void {
    const title = [...question.replace(/\s+/g, " ")].slice(0, TITLE_LENGTH).join("");
    this.#run(
      "INSERT INTO conversations VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET at = excluded.at",
      conversation,
      title,
      Date.now(),
    );
    this.#run("DELETE FROM turns WHERE id = ? AND conversation = ?", replaces, conversation);
    this.#run(
      "INSERT INTO turns (id, conversation, question) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
      id,
      conversation,
      question,
    );
  }

  /** Stores how the answer of a turn ended. */
  end(id: string, { state, answer, reason }: Pick<Turn, "state" | "answer" | "reason">): void {
    this.#run(
      "UPDATE turns SET state = ?, answer = ?, reason = ? WHERE id = ?",
      state,
      answer,
      reason,
      id,
    );
  }

  /** Deletes a conversation with all its turns. */
  remove(conversation: string): void {
    this.#run("DELETE FROM conversations WHERE id = ?", conversation);
  }

  /** Closes the file. */
  [Symbol.dispose](): void {
    this.#db.close();
  }

  #rows<Row>(sql: string, ...values: string[]): Row[] {
    return this.#db.prepare(sql).all(...values) as Row[];
  }

  #run(sql: string, ...values: (string | number)[]): void {
    this.#db.prepare(sql).run(...values);
  }
}
