/**
 * What the two ends of a file transfer say to each other.
 *
 * - `offer` tells what will come; its answer, how much of that is there already.
 * - A unidirectional stream brings the rest, as fast as the disk at the other end.
 * - `stored` tells meanwhile how much is on the disk.
 * - `finish` has the SHA-256 of all of it compared.
 *
 * A session has one file at a time: the one that it offered last.
 *
 * @module
 */
import { z } from "zod";
import { defineContract } from "../../mod.ts"; // In your own project: jsr:@skein/skein

/** Largest file that is taken. */
const MAX_FILE_BYTES = 16 * 2 ** 30;

const offer = z.object({
  name: z.string().min(1).max(255),
  size: z.int().min(0).max(MAX_FILE_BYTES),
  /** Stands for the file, too: what has the same bytes is the same file. */
  sha256: z.string().regex(/^[0-9a-f]{64}$/),
});

/** A file that somebody has to send. */
export type Offer = z.infer<typeof offer>;

/** Checked by who receives; known to the compiler at both ends. */
export const transfer = defineContract({
  toClient: { stored: z.object({ bytes: z.int() }) },
  requests: {
    offer: { input: offer, output: z.object({ offset: z.int() }) },
    finish: { input: z.undefined(), output: z.object({ path: z.string() }) },
  },
});
