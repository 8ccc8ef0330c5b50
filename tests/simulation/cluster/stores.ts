/** Models of the stores that the nodes of a simulated cluster share. */
import type { BrokerName } from "../plan.ts";
import type { ClusterStore, StoreParts } from "./store.ts";
import { MemoryStore } from "./store_memory.ts";

/**
 * Starts a store.
 *
 * @param parts See {@linkcode StoreParts}.
 * @throws {TypeError} If the store has no model.
 */
export async function startStore(name: BrokerName, parts: StoreParts): Promise<ClusterStore> {
  switch (name) {
    case "memory":
      return new MemoryStore(parts.simulation);
    case "none":
      return { faults: {}, broker: () => undefined, heal() {}, [Symbol.dispose]() {} };
    case "redis": {
      const { RedisStore } = await import("./store_redis.ts");
      return await RedisStore.start(parts);
    }
    case "nats": {
      const { NatsStore } = await import("./store_nats.ts");
      return new NatsStore(parts);
    }
    case "sqlite": {
      const { SqliteStore } = await import("./store_sqlite.ts");
      return await SqliteStore.start(parts);
    }
    default:
      throw new TypeError(
        `Cannot run plan: the broker must have a model, received "${name}"`,
      );
  }
}
