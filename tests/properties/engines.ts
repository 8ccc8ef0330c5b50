/** The engines of properties. */
import { assert } from "@std/assert";
import type { Broker } from "../../pubsub/broker.ts";
import type { CreateLogOptions } from "../../pubsub/logs/log.ts";
import type { Host } from "../../testing/simulation/mod.ts";
import { type FaultyBroker, FaultyEngine } from "../faulty_broker.ts";
import type { ClusterEngine } from "../simulation/cluster/engine.ts";
import { outcomeOf } from "./outcomes.ts";
import type { World } from "./world.ts";

/** Longest time in which an engine starts, or is reached again, in milliseconds. */
const REACHED_MS = 20_000;

/**
 * Repeats a call of an engine until it succeeds: a cluster starts without a leader.
 *
 * @param world The world.
 * @param call The call.
 */
export async function untilReached(world: World, call: () => Promise<unknown>): Promise<void> {
  const endMs = world.nowMs + REACHED_MS;
  while (await outcomeOf(call()) !== "fulfilled") {
    assert(world.nowMs < endMs, `expected a reply of the engine within ${REACHED_MS} ms`);
    await world.pause(200);
  }
}

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
  await untilReached(world, () => world.run(host, probe));
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
