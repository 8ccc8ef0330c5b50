/**
 * Loads the parts of a client that a page does not need at first.
 *
 * @module
 */

/** Loads the code that notices a lost server, and the code of recovery and handover. */
export const lasting = (): Promise<typeof import("./chunk_lasting.ts")> =>
  import("./chunk_lasting.ts");
