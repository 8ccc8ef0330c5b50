/** Spare engines by name. */
import type { EngineName } from "../../plan.ts";
import type { SpareEngine, SpareParts } from "./spare.ts";

/**
 * Starts a spare engine of the kind that the cluster has, before the time of a run passes: models
 * load from files.
 *
 * @param engine Name of the engine.
 * @param within Virtual time and network.
 * @returns The engine; `undefined` for engines without a server on the network.
 */
export async function startSpare(
  engine: EngineName,
  within: Omit<SpareParts, "random">,
): Promise<SpareEngine | undefined> {
  const parts = { ...within, random: within.simulation.chanceOf("spare engine") };
  if (engine === "redis") return await (await import("./spare_redis.ts")).startSpareRedis(parts);
  if (engine === "nats") return (await import("./spare_nats.ts")).startSpareNats(parts);
  return undefined;
}
