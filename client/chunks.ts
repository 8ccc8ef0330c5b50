/**
 * Loads the parts of a client that a page does not need at first.
 *
 * @module
 */

/** Loads the code that notices a lost server faster than the heartbeat does. */
export const life = (): Promise<typeof import("./chunk_life.ts")> => import("./chunk_life.ts");

/** Loads the code of recovery: topics with a history, and the outbox's deliveries. */
export const lasting = (): Promise<typeof import("./chunk_lasting.ts")> =>
  import("./chunk_lasting.ts");
