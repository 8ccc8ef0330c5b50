/** Faults of a simulated run, as the page sends these. */
import * as z from "zod";

/** Names of the servers. */
export const NODES = ["oslo", "lima", "cairo"] as const;

/** Names of the clients. */
export const CLIENTS = ["ada", "ben", "cho", "dia", "eva", "fio", "gus", "hal"] as const;

/** Name of the host of Redis. */
export const ENGINE = "redis";

/** Virtual time of a run, in milliseconds. */
export const DURATION_MS = 60_000;

/** Most faults of a run. */
const MAX_FAULTS = 30;

const FAULT = z.strictObject({
  /** Virtual time of the fault, in milliseconds. */
  atMs: z.number().min(0).max(DURATION_MS),
  /** The host. */
  host: z.enum([ENGINE, ...NODES, ...CLIENTS]),
  /** Killed, without power, frozen, or cut off from all others. */
  kind: z.enum(["kill", "power", "freeze", "cut"]),
});

/** A run: the seed of all chance, and the faults. */
export const RUN = z.strictObject({
  seed: z.int().min(0).max(2 ** 32 - 1),
  faults: z.array(FAULT).max(MAX_FAULTS),
});

/** A fault of a run. */
export type Fault = z.infer<typeof FAULT>;

/** A run: the seed of all chance, and the faults. */
export type Run = z.infer<typeof RUN>;
