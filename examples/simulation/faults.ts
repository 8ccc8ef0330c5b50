/** Faults of a simulated run, as the page sends them. */
import * as z from "zod";

export const NODES = ["oslo", "lima", "cairo"] as const;

export const CLIENTS = ["ada", "ben", "cho", "dia", "eva", "fio", "gus", "hal"] as const;

/** Name of the Redis host. */
export const ENGINE = "redis";

/** Virtual duration of a run, in milliseconds. */
export const DURATION_MS = 60_000;

const MAX_FAULTS = 30;

const FAULT = z.strictObject({
  /** Virtual time of the fault, in milliseconds. */
  atMs: z.number().min(0).max(DURATION_MS),
  /** The host. */
  host: z.enum([ENGINE, ...NODES, ...CLIENTS]),
  /** Kills, powers off, freezes, or cuts the host off from all others. */
  kind: z.enum(["kill", "power", "freeze", "cut"]),
});

/** A run: the seed of all randomness, and the faults. */
export const RUN = z.strictObject({
  seed: z.int().min(0).max(2 ** 32 - 1),
  faults: z.array(FAULT).max(MAX_FAULTS),
});

/** A fault of a run. */
export type Fault = z.infer<typeof FAULT>;

/** A run: the seed of all randomness, and the faults. */
export type Run = z.infer<typeof RUN>;
