/** Spare engines by name. */
import type { EngineName } from "../../plan.ts";
import type { SpareEngine, SpareParts } from "./spare.ts";

/** Number of spare engines, and the function that starts each. */
interface Spares {
  readonly count: number;
  readonly start: (parts: SpareParts) => Promise<SpareEngine>;
}

/** The spare engines. Running trials concurrently gives more faults in the same virtual time. */
const SPARES: Readonly<Partial<Record<EngineName, Spares>>> = {
  redis: {
    count: 4,
    start: async (parts) => await (await import("./spare_redis.ts")).startSpareRedis(parts),
  },
  nats: {
    count: 2,
    start: async (parts) => (await import("./spare_nats.ts")).startSpareNats(parts),
  },
};

/**
 * Starts spare engines of the cluster's kind. This happens before virtual time starts, because the
 * models are loaded from files.
 *
 * @param engine Name of the engine.
 * @param within Virtual time and network.
 * @returns The engines. The list is empty if the engine has no server on the network.
 */
export async function startSpares(
  engine: EngineName,
  within: Omit<SpareParts, "random" | "number">,
): Promise<SpareEngine[]> {
  const spares = SPARES[engine];
  const started: SpareEngine[] = [];
  for (let number = 0; spares !== undefined && number < spares.count; number++) {
    const random = within.simulation.chanceOf(`spare engine/${number}`);
    started.push(await spares.start({ ...within, random, number }));
  }
  return started;
}
