/**
 * Stands in for your application in the AI SDK's program of `docs/guide/ai-libraries.md`: a table of
 * chats, and a model that needs no key. Copy this file as `your_app.ts`, and replace its parts.
 *
 * @module
 */
import { MockLanguageModelV4, simulateReadableStream } from "npm:ai@^7/test";
import { DatabaseSync } from "node:sqlite";

/**
 * Returns the user of a token. In production, verify the token.
 *
 * @param token The token of the session, if any.
 */
export const userOfToken = (token: string | undefined): string | null => token ?? null;

const db = new DatabaseSync("chats.db");
db.exec("CREATE TABLE IF NOT EXISTS chats (id TEXT PRIMARY KEY, owner TEXT, active TEXT)");
const row = (id: string) => db.prepare("SELECT owner, active FROM chats WHERE id = ?").get(id);

/** The chats, in SQLite. */
export const chats = {
  /** Adds a chat, and returns its id. */
  add(owner: string): string {
    const id = crypto.randomUUID();
    db.prepare("INSERT INTO chats (id, owner) VALUES (?, ?)").run(id, owner);
    return id;
  },
  ownerOf: (id: string) => row(id)?.owner as string | undefined,
  /** Returns the id of the response in progress. */
  activeOf: (id: string) => row(id)?.active as string | null,
  setActive: (id: string, answer: string | null) =>
    db.prepare("UPDATE chats SET active = ? WHERE id = ?").run(answer, id),
};

const TEXT = "This is no model, only a text of a few words, which takes about three seconds.";
const total = { total: 1, noCache: 1, cacheRead: undefined, cacheWrite: undefined };
const usage = { inputTokens: total, outputTokens: { total: 1, text: 1, reasoning: undefined } };

/** Writes a text, or the rest of it: a stand-in for a model such as `openai("gpt-5-mini")`. */
export const model = new MockLanguageModelV4({
  doStream({ prompt }) {
    const [part] = prompt.at(-1)!.content;
    const isCut = prompt.at(-1)!.role === "assistant";
    const before = isCut && typeof part === "object" && part.type === "text" ? part.text : "";
    const words = TEXT.slice(before.length).match(/\S+\s*/g) ?? [];
    const stream = simulateReadableStream({
      chunkDelayInMs: 200,
      chunks: [
        { type: "text-start" as const, id: "0" },
        ...words.map((delta) => ({ type: "text-delta" as const, id: "0", delta })),
        { type: "text-end" as const, id: "0" },
        { type: "finish" as const, finishReason: { unified: "stop" as const, raw: "" }, usage },
      ],
    });
    return Promise.resolve({ stream });
  },
});
