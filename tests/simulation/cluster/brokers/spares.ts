/** Spare engines by name. */
import type { EngineName } from "../../plan.ts";
import type { SpareEngine, SpareParts } from "./spare.ts";

/**
 * Starts a spare engine of the kind that the cluster has.
 *
 * @param engine Name of the engine.
 * @param parts See {@linkcode SpareParts}.
 * @returns The engine; `undefined` for engines without a server on the network.
 */
export async function startSpare(
  engine: EngineName,
  parts: SpareParts,
): Promise<SpareEngine | undefined> {
  if (engine === "redis") return await (await import("./spare_redis.ts")).startSpareRedis(parts);
  if (engine === "nats") return (await import("./spare_nats.ts")).startSpareNats(parts);
  return undefined;
}
