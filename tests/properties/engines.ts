/** The engines of properties. */
import type { Broker } from "../../pubsub/broker.ts";
import type { CreateLogOptions } from "../../pubsub/logs/log.ts";
import type { Host } from "../../testing/simulation/mod.ts";
import { type FaultyBroker, FaultyEngine } from "../faulty_broker.ts";
import type { ClusterEngine } from "../simulation/cluster/engine.ts";
import type { World } from "./world.ts";

/**
 * Waits until an engine keeps logs, whose servers may have to agree on a leader first.
 *
 * @param world The world.
 * @param node A machine with a broker of the engine.
 */
export async function reach(
  world: World,
  { host, broker }: { readonly host: Host; readonly broker: Broker },
): Promise<void> {
  const options: CreateLogOptions = {
    config: { contentType: "text/plain" },
    identity: "probe000",
    records: [],
    maxLogs: 1_000_000,
  };
  const id = `probe-${host.name}`;
  const probe = () => broker.logs!.create(id, options).then(() => broker.logs!.delete(id));
  for (let left = 100; left > 0; left--) {
    const isThere = await world.run(host, probe).then(() => true, () => false);
    if (isThere) return;
    await world.pause(200);
  }
}

/**
 * Makes a broker of a node whose calls fail as a case decides.
 *
 * @param engine The engine.
 * @param host The machine of the node, in its present life.
 * @returns The broker, which closes that of the engine too.
 */
export function faultyBroker(engine: ClusterEngine, host: Host): FaultyBroker {
  const inner = engine.broker(host)!;
  const broker = new FaultyEngine({ runtime: host.runtime, make: () => inner }).connect();
  const close = broker.close.bind(broker);
  broker.close = async () => {
    await close();
    await inner.close();
  };
  return broker;
}
