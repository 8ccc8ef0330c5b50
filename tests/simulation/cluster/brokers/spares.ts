/** Spare stores by name. */
import type { BrokerName } from "../../plan.ts";
import type { SpareParts, SpareStore } from "./spare.ts";

/** Number of spare stores, and the function that starts each. */
interface Spares {
  readonly count: number;
  readonly start: (parts: SpareParts) => Promise<SpareStore>;
}

/** The spare stores. Running trials concurrently gives more faults in the same virtual time. */
const SPARES: Readonly<Partial<Record<BrokerName, Spares>>> = {
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
 * Starts spare stores of the cluster's kind. This happens before virtual time starts, because the
 * models are loaded from files.
 *
 * @param within Virtual time and network.
 * @returns The stores. The list is empty if the store has no server on the network.
 */
export async function startSpares(
  store: BrokerName,
  within: Omit<SpareParts, "random" | "number">,
): Promise<SpareStore[]> {
  const spares = SPARES[store];
  const started: SpareStore[] = [];
  for (let number = 0; spares !== undefined && number < spares.count; number++) {
    const random = within.simulation.chanceOf(`spare broker/${number}`);
    started.push(await spares.start({ ...within, random, number }));
  }
  return started;
}
