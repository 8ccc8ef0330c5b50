/** Models of the engines that the nodes of a simulated cluster share. */
import type { EngineName } from "../plan.ts";
import type { ClusterEngine, EngineParts } from "./engine.ts";
import { MemoryEngine } from "./engine_memory.ts";

/**
 * Starts an engine.
 *
 * @param name The engine.
 * @param parts See {@linkcode EngineParts}.
 * @returns The engine.
 * @throws {TypeError} If the engine has no model.
 */
export async function startEngine(name: EngineName, parts: EngineParts): Promise<ClusterEngine> {
  switch (name) {
    case "memory":
      return new MemoryEngine(parts.simulation);
    case "none":
      return { faults: {}, broker: () => undefined, heal() {}, [Symbol.dispose]() {} };
    case "redis": {
      const { RedisEngine } = await import("./engine_redis.ts");
      return await RedisEngine.start(parts);
    }
    case "nats": {
      const { NatsEngine } = await import("./engine_nats.ts");
      return new NatsEngine(parts);
    }
    case "sqlite": {
      const { SqliteEngine } = await import("./engine_sqlite.ts");
      return await SqliteEngine.start(parts);
    }
    default:
      throw new TypeError(
        `Cannot run plan: the engine must have a model, received "${name}"`,
      );
  }
}
