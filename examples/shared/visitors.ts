/**
 * The parts of contracts that several examples have in common: the names of visitors and boards,
 * and the presence data of the people on a board.
 *
 * @module
 */
// Pages load contracts too, and this entry of zod is smaller.
import * as z from "zod/mini";

/** A visitor's name. */
export const NAME = z.string().check(
  z.trim(),
  z.regex(
    /^[\p{L}\p{N}]([\p{L}\p{N} ._'-]{0,22}[\p{L}\p{N}.])?$/u,
    "A name has 1 to 24 letters, digits, spaces and . _ ' -",
  ),
);

/** A board's name. */
export const BOARD = z.string().check(z.regex(
  /^[a-z0-9][a-z0-9-]{0,31}$/,
  "A board's name has 1 to 32 lowercase letters, digits and -",
));

/** A user on a board, with a color, as a hue; `away` while the page is hidden. */
export const PERSON = z.strictObject({
  hue: z.int().check(z.minimum(0), z.maximum(359)),
  away: z.optional(z.boolean()),
});
