/**
 * The contract of the two sides of a file transfer.
 *
 * - `offer` announces a file; the reply says how many bytes the receiver already has.
 * - A unidirectional stream carries the rest, as fast as the receiver's disk accepts it.
 * - Meanwhile `stored` reports how many bytes are on the disk.
 * - `finish` asks the receiver to compare the SHA-256 of the whole file.
 *
 * A session transfers one file at a time: the one in the latest offer.
 *
 * @module
 */
import * as z from "zod";
import { defineContract } from "../../mod.ts"; // In your own project: jsr:@skein/skein

/** Largest accepted file. */
const MAX_FILE_BYTES = 16 * 2 ** 30;

const offer = z.object({
  name: z.string().min(1).max(255),
  size: z.int().min(0).max(MAX_FILE_BYTES),
  /** Also identifies the file: equal bytes are the same file. */
  sha256: z.string().regex(/^[0-9a-f]{64}$/),
});

/** A file that the sender offers. */
export type Offer = z.infer<typeof offer>;

/** The receiver validates these messages; the compiler checks both sides. */
export const transfer = defineContract({
  toClient: { stored: z.object({ bytes: z.int() }) },
  requests: {
    offer: { input: offer, output: z.object({ offset: z.int() }) },
    finish: { input: z.undefined(), output: z.object({ path: z.string() }) },
  },
});
