/**
 * Stands in for your application in AG-UI's program of `docs/guide/ai-libraries.md`: a table of
 * threads, and an agent that needs no key and asks before it acts. Copy this file as `your_app.ts`,
 * and replace its parts.
 *
 * @module
 */
import { type BaseEvent, EventType, type Message, type RunAgentInput } from "npm:@ag-ui/client@^1";
import { DatabaseSync } from "node:sqlite";
import { continueRun } from "./ag_ui.ts";

/**
 * Returns the user of a token. In production, verify the token.
 *
 * @param token The token of the session, if any.
 */
export const userOfToken = (token: string | undefined): string | null => token ?? null;

const db = new DatabaseSync("threads.db");
db.exec(`CREATE TABLE IF NOT EXISTS threads (id TEXT PRIMARY KEY, owner TEXT, newest TEXT);
  CREATE TABLE IF NOT EXISTS answers (id TEXT PRIMARY KEY)`);
const row = (id: string) => db.prepare("SELECT owner, newest FROM threads WHERE id = ?").get(id);

/** The threads, in SQLite. */
export const threads = {
  /** Adds a thread, and returns its id. */
  add(owner: string): string {
    const id = crypto.randomUUID();
    db.prepare("INSERT INTO threads (id, owner) VALUES (?, ?)").run(id, owner);
    return id;
  },
  ownerOf: (id: string) => row(id)?.owner as string | undefined,
  newestRunOf: (id: string) => row(id)?.newest as string | null,
  setNewestRun: (id: string, run: string) =>
    db.prepare("UPDATE threads SET newest = ? WHERE id = ?").run(run, id),
  /** Returns false for the second of two devices that answer an interrupt. */
  answer: (thread: string, interrupt: string) =>
    db.prepare("INSERT OR IGNORE INTO answers VALUES (?)").run(`${thread}/${interrupt}`).changes >
      0,
};

/** Asks before it acts. The messages come first, for a device that only connects. */
export async function* agent(
  { threadId, runId, messages, resume }: RunAgentInput,
  signal: AbortSignal,
): AsyncGenerator<BaseEvent> {
  const started = { type: EventType.RUN_STARTED, threadId, runId };
  yield started;
  yield { type: EventType.MESSAGES_SNAPSHOT, messages };
  if (resume === undefined) {
    const interrupts = [{ id: `book-${runId}`, reason: "confirmation", message: "Shall I?" }];
    const outcome = { type: "interrupt", interrupts };
    yield { type: EventType.RUN_FINISHED, threadId, runId, outcome };
    return;
  }
  yield* continueRun({ threadId, runId }, [started], (text) => model(messages, text, signal));
}

/** Writes the rest of its answer: a stand-in for a model. */
export async function* model(
  _messages: readonly Message[],
  before: string,
  signal: AbortSignal,
): AsyncGenerator<string> {
  const text = "Done: the room is booked for Friday, and everybody has an invitation.";
  for (const word of text.slice(before.length).match(/\S+\s*/g) ?? []) {
    await new Promise((resolve) => setTimeout(resolve, 100));
    signal.throwIfAborted();
    yield word;
  }
}
