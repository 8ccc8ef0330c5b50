/**
 * The contract of the chat, shared by server and pages.
 *
 * @module
 */
import * as z from "zod";
import { defineContract } from "../../client.ts"; // jsr:@skein/skein/client
import { NAME } from "../shared/visitors.ts";

/** A room's name. */
export const ROOM = z.string().regex(
  /^[a-z0-9][a-z0-9-]{0,19}$/,
  "A room's name has 1 to 20 lowercase letters, digits and -",
);

/** Text that a user wrote: no control characters except line breaks, and no lone surrogates. */
const TEXT = z.string().trim().min(1).max(1_000).refine(
  (text) => text.isWellFormed() && !/[^\P{Cc}\n]/u.test(text),
  "Control characters cannot be sent",
);

/**
 * Id that the page creates, so that the server accepts a message once even if the page sends it
 * twice.
 */
const ID = z.string().min(8).max(64);

const LINE = z.object({
  id: ID,
  from: NAME,
  text: TEXT,
  /** Time at which the server accepted the line, in milliseconds since the Unix epoch; unique. */
  at: z.number(),
});

const LETTER = LINE.extend({ to: NAME });

/** A line in a room. */
export type Line = z.infer<typeof LINE>;

/** A direct message. */
export type Letter = z.infer<typeof LETTER>;

/** The messages and requests between server and pages. */
export const contract = defineContract({
  toClient: {
    "room:{room}": LINE,
    letter: LETTER,
    /**
     * All users who are online, each with their rooms. `awaySince` is the time at which the user's
     * last page was lost, in milliseconds since the Unix epoch.
     */
    people: z.array(
      z.object({ user: NAME, rooms: z.array(ROOM), awaySince: z.number().optional() }),
    ),
  },
  requests: {
    /** Sends a line to a room. */
    say: {
      input: z.object({ id: ID, room: ROOM, text: TEXT }),
      output: z.object({ at: z.number() }),
    },
    /** Sends a direct message to a user. */
    tell: {
      input: z.object({ id: ID, to: NAME, text: TEXT }),
      output: z.object({ at: z.number() }),
    },
    /** Returns the latest lines of a room. */
    recent: { input: z.object({ room: ROOM }), output: z.array(LINE) },
    /** Returns the latest direct messages of the caller, sent and received. */
    letters: { input: z.null(), output: z.array(LETTER) },
  },
});
