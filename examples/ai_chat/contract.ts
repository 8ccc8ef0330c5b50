/**
 * The contract of the page and its server.
 *
 * @module
 */
import * as z from "zod";
import { defineContract } from "../../client.ts"; // jsr:@skein/skein/client

/** Id that the page creates, so that a request that is sent twice counts once. */
const ID = z.string().regex(/^[A-Za-z0-9_-]{16,64}$/);

const QUESTION = z.object({
  id: ID,
  conversation: ID,
  question: z.string().trim().min(1).max(4_000),
  /** The turn that this one retries. */
  replaces: ID.optional(),
});

const TURN = QUESTION.extend({
  /** Text of an answer that has ended; while it is being written, the text arrives as a stream. */
  answer: z.string(),
  state: z.enum(["writing", "complete", "stopped", "failed"]),
  /** Reason why the answer failed. */
  reason: z.string(),
});

const CONVERSATION = z.object({ id: ID, title: z.string() });

/** A question; its id names the turn and the answer's stream. */
export type Question = z.infer<typeof QUESTION>;

/** A question and the answer. */
export type Turn = z.infer<typeof TURN>;

/** An entry of the list of conversations. */
export type Conversation = z.infer<typeof CONVERSATION>;

/** The messages and requests between server and page. */
export const contract = defineContract({
  toClient: {
    /** All conversations, newest first. */
    conversations: z.array(CONVERSATION),
    /** A turn that has started or ended. */
    turn: TURN,
  },
  requests: {
    /** Returns all conversations. */
    list: { input: z.null(), output: z.array(CONVERSATION) },
    /** Returns the turns of a conversation. */
    open: { input: ID, output: z.array(TURN) },
    /** Deletes a conversation. */
    remove: { input: ID, output: z.null() },
    /**
     * Asks a question; the answer streams word by word, and survives page and server. Asking again
     * with the same id reads the same answer.
     */
    ask: { input: QUESTION, stream: z.string(), resume: true },
  },
});
