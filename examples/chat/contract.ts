/**
 * What the chat's two ends say to each other, shared by both.
 *
 * @module
 */
import { z } from "zod";
import { defineContract } from "../../client.ts"; // jsr:@skein/skein/client

/** A visitor's name. */
export const NAME = z.string().trim().regex(
  /^[\p{L}\p{N}]([\p{L}\p{N} ._'-]{0,22}[\p{L}\p{N}.])?$/u,
  "A name has 1 to 24 letters, digits, spaces and . _ ' -",
);

/** A room's name. */
export const ROOM = z.string().regex(
  /^[a-z0-9][a-z0-9-]{0,19}$/,
  "A room's name has 1 to 20 small letters, digits and -",
);

/** What somebody wrote: no control characters but line breaks, no halves of characters. */
const TEXT = z.string().trim().min(1).max(1_000).refine(
  (text) => text.isWellFormed() && !/[^\P{Cc}\n]/u.test(text),
  "Control characters cannot be sent",
);

/** Made by the page, so that what is sent twice is taken once. */
const ID = z.string().min(8).max(64);

const LINE = z.object({
  id: ID,
  from: NAME,
  text: TEXT,
  /** When the server took it, in milliseconds since the Unix epoch; no two are the same. */
  at: z.number(),
});

const LETTER = LINE.extend({ to: NAME });

/** A line in a room. */
export type Line = z.infer<typeof LINE>;

/** A direct message. */
export type Letter = z.infer<typeof LETTER>;

/** What server and pages say. */
export const contract = defineContract({
  toClient: {
    "room:{room}": LINE,
    letter: LETTER,
    /** Everybody who is here, and the rooms that they are in. */
    people: z.array(z.object({ user: NAME, rooms: z.array(ROOM) })),
  },
  requests: {
    /** Says something in a room. */
    say: {
      input: z.object({ id: ID, room: ROOM, text: TEXT }),
      output: z.object({ at: z.number() }),
    },
    /** Writes to one user. */
    tell: {
      input: z.object({ id: ID, to: NAME, text: TEXT }),
      output: z.object({ at: z.number() }),
    },
    /** What was said in a room lately. */
    recent: { input: z.object({ room: ROOM }), output: z.array(LINE) },
    /** The asker's direct messages of late, both ways. */
    letters: { input: z.null(), output: z.array(LETTER) },
  },
});
