/**
 * The contract of the page and its server.
 *
 * @module
 */
import * as z from "zod/mini";
import { defineContract } from "../../client.ts"; // jsr:@skein/skein/client
import { NAME } from "../shared/visitors.ts";

const TEXT = z.string().check(z.trim(), z.minLength(1), z.maxLength(200));

/** The id of a run, which the page creates, so that a request that is sent twice starts one run. */
const ID = z.string().check(z.regex(/^[\w-]{16,64}$/));

/** A step of a run. All of them together are the agent's memory: it continues after the last one. */
const STEP = z.discriminatedUnion("kind", [
  /** A word of the agent. */
  z.object({ kind: z.literal("word"), text: z.string() }),
  /** The agent calls a tool; the key of a call stays the same when it is repeated. */
  z.object({ kind: z.literal("call"), key: z.string(), tool: z.string(), input: z.string() }),
  z.object({ kind: z.literal("result"), key: z.string(), output: z.string() }),
  /** The agent has read a note of the user. */
  z.object({ kind: z.literal("note"), key: z.string(), text: z.string() }),
]);

/** A row for each run, which only the server writes. */
const RUN = z.object({
  task: TEXT,
  state: z.enum(["working", "asking", "done", "stopped", "failed"]),
  cents: z.number(),
  /** Time of the start, in milliseconds since 1970. */
  at: z.number(),
});

/** A question of a run to its user, who answers once. */
const QUESTION = z.object({
  run: ID,
  text: z.string(),
  answer: z.optional(z.enum(["yes", "no"])),
});

/** A note of the user to a run that is working. */
const NOTE = z.object({ run: ID, text: TEXT });

/** A step of a run. */
export type Step = z.infer<typeof STEP>;

/** A run, as the page lists it. */
export type Run = z.infer<typeof RUN>;

/** The rows of each user's agent, and the request that starts a run. */
export const contract = defineContract({
  state: {
    "agent:{user}": {
      runs: RUN,
      questions: QUESTION,
      notes: NOTE,
      /** The tables that the agent has booked, by the keys of its calls. */
      bookings: z.string(),
    },
  },
  requests: {
    /** Starts a run of a user, who must be the caller. */
    run: { input: z.object({ id: ID, task: TEXT, user: NAME }), stream: STEP, resume: true },
    /** Kills the server without a warning. */
    crash: { input: z.null(), output: z.null() },
  },
});
