/**
 * The contract of the boards: their columns, cards and pointers, which are rows of a state, and
 * presence. The server checks everything that pages send.
 *
 * @module
 */
import * as z from "zod";
import { defineContract } from "../../client.ts"; // jsr:@skein/skein/client
import { PERSON } from "../shared/visitors.ts";
import { isOrder } from "./order.ts";

const KEY = z.string().min(1).max(64);
const TITLE = z.string().trim().min(1).max(120);
const ORDER = z.string().refine(
  (text) => isOrder(text),
  "An order key has the digits of a fraction",
);

const COLUMN = z.strictObject({ title: TITLE, order: ORDER }).readonly();

const CARD = z.strictObject({
  title: TITLE,
  note: z.string().max(2_000),
  /** Key of the column. */
  column: KEY,
  /** Order key within the column. */
  order: ORDER,
}).readonly();

/** A row of the collection `columns`. */
export type Column = z.infer<typeof COLUMN>;

/** A row of the collection `cards`. */
export type Card = z.infer<typeof CARD>;

/** The pointer of a page. Columns are as wide as the window allows, and may be scrolled. */
const POINTER = z.strictObject({
  /** The page's user, as the server knows it. */
  user: z.string().default(""),
  /** The place in a column: a part of its width, and pixels from the top; `null` outside. */
  at: z.strictObject({
    column: KEY,
    x: z.number().min(0).max(1),
    y: z.number().min(-1_000).max(100_000),
  }).nullable(),
  /** Key of the card that the user holds. */
  holds: KEY.optional(),
});

/** A row of the collection `pointers`; its key is the id of a page, for a user may have several. */
export type Pointer = z.infer<typeof POINTER>;

/** The rows of boards, and who is there. */
export const contract = defineContract({
  state: {
    "board:{board}": {
      columns: COLUMN,
      cards: CARD,
      pointers: { schema: POINTER, ephemeral: true },
    },
  },
  presence: { "board:{board}": PERSON },
});
