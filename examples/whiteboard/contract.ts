/**
 * The whiteboard's contract: the server checks everything that pages send. Strict objects reject
 * unknown keys, such as an author: only the server sets the user.
 *
 * @module
 */
import * as z from "zod";
import { defineContract } from "../../client.ts"; // jsr:@skein/skein/client
import { BOARD, NAME, PERSON } from "../shared/visitors.ts";
import { COLORS, LIMITS, WIDTHS } from "./drawing.ts";

const ID = z.string().regex(/^[A-Za-z0-9-]{8,48}$/);
const PLACE = z.number().min(-LIMITS.reach).max(LIMITS.reach);
const POINT = z.tuple([PLACE, PLACE, z.number().min(0).max(1)]).readonly();
const PEN = { id: ID, color: z.enum(COLORS), width: z.literal(WIDTHS) };
const STROKE = { ...PEN, points: z.array(POINT).min(1).max(LIMITS.points).readonly() };

const CHANGE = z.discriminatedUnion("kind", [
  z.strictObject({ kind: z.literal("draw"), ...STROKE }),
  z.strictObject({
    kind: z.literal("erase"),
    id: ID,
    ids: z.array(ID).min(1).max(LIMITS.erased),
  }),
  z.strictObject({ kind: z.literal("clear"), id: ID }),
]);

/**
 * The pointer of a page on a board; `null` once it has left. While drawing, `pen` describes the
 * stroke and its start.
 */
export const CURSOR = z.strictObject({
  board: BOARD,
  at: z.tuple([PLACE, PLACE]).nullable(),
  pen: z.strictObject({ ...PEN, from: z.tuple([PLACE, PLACE]) }).optional(),
});

/** Pointers of other pages. A higher `sequence` is newer, because datagrams may be reordered. */
export const CURSORS = z.object({
  board: BOARD,
  sequence: z.int(),
  cursors: z.array(CURSOR.omit({ board: true }).extend({ id: z.int(), user: NAME })),
});

/** The pointer of a page. */
export type Cursor = z.infer<typeof CURSOR>;

/** Pointers of other pages. */
export type CursorNews = z.infer<typeof CURSORS>;

/** Structured datagrams: pages send the first kind, the server sends the second. */
export const datagrams = { 1: CURSOR, 2: CURSORS };

/** The messages and requests between server and pages. */
export const contract = defineContract({
  // Pointers are sent as messages if the transport has no datagrams.
  toServer: { cursor: CURSOR },
  toClient: {
    /** Changes of a board: pages publish them, and the server adds the user (`from`). */
    "board:{board}": CHANGE,
    cursors: CURSORS,
  },
  requests: {
    /** Returns the strokes of a board, oldest first, in several parts. */
    "strokes:{board}": {
      input: z.null(),
      stream: z.object({
        strokes: z.array(z.object({ ...STROKE, by: z.optional(NAME) })),
        /** Position of the strokes in the board's history; absent before the first change. */
        position: z.object({
          epoch: z.string(),
          offset: z.int(),
          tag: z.string().optional(),
        }).optional(),
      }),
    },
  },
  presence: { "board:{board}": PERSON },
});
