/**
 * The contract of the boards: their columns, cards and pointers, which are rows of a state, the
 * mutations by which pages change them, and presence. The server checks everything that pages send.
 *
 * @module
 */
import * as z from "zod/mini";
import { defineContract } from "../../client.ts"; // jsr:@skein/skein/client
import { PERSON } from "../shared/visitors.ts";
import { isOrder } from "./order.ts";

const KEY = z.string().check(z.minLength(1), z.maxLength(64));
const TITLE = z.string().check(
  z.trim(),
  z.minLength(1, "A title has at least one character"),
  z.maxLength(120, "A title has at most 120 characters"),
);
const NOTE = z.string().check(z.maxLength(2_000, "A note has at most 2,000 characters"));
const ORDER = z.string().check(
  z.refine((text) => isOrder(text), "An order key has the digits of a fraction"),
);

const COLUMN = z.readonly(z.strictObject({ title: TITLE, order: ORDER }));

const CARD = z.readonly(z.strictObject({
  title: TITLE,
  note: NOTE,
  column: KEY,
  /** Order key within the column. */
  order: ORDER,
}));

/** A row of the collection `columns`. */
export type Column = z.infer<typeof COLUMN>;

/** A row of the collection `cards`. */
export type Card = z.infer<typeof CARD>;

/** The pointer of a page. Columns are as wide as the window allows, and may be scrolled. */
const POINTER = z.strictObject({
  /** The page's user, as the server knows it. */
  user: z._default(z.string(), ""),
  /** The place in a column: a part of its width, and pixels from the top; `null` outside. */
  at: z.nullable(z.strictObject({
    column: KEY,
    x: z.number().check(z.minimum(0), z.maximum(1)),
    y: z.number().check(z.minimum(-1_000), z.maximum(100_000)),
  })),
  /** Key of the card that the user holds. */
  holds: z.optional(KEY),
});

/** A row of the collection `pointers`; its key is the id of a page, for a user may have several. */
export type Pointer = z.infer<typeof POINTER>;

/** The rows of boards, and who is there. */
export const contract = defineContract({
  state: {
    "board:{board}": {
      collections: {
        columns: COLUMN,
        cards: CARD,
        pointers: { schema: POINTER, ephemeral: true },
      },
      mutations: {
        addColumn: z.strictObject({ key: KEY, title: TITLE, order: ORDER }),
        changeColumn: z.strictObject({
          key: KEY,
          title: z.optional(TITLE),
          order: z.optional(ORDER),
        }),
        deleteColumn: z.strictObject({ key: KEY }),
        addCard: z.strictObject({ key: KEY, title: TITLE, column: KEY, order: ORDER }),
        changeCard: z.strictObject({ key: KEY, title: z.optional(TITLE), note: z.optional(NOTE) }),
        moveCard: z.strictObject({ key: KEY, column: KEY, order: ORDER }),
        deleteCard: z.strictObject({ key: KEY }),
      },
      writes: "mutations",
    },
  },
  presence: { "board:{board}": PERSON },
});
