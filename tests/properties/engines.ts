/** Helpers for the engines that properties use. */
import { assert } from "@std/assert";
import type { Broker } from "../../pubsub/broker.ts";
import type { CreateLogOptions } from "../../pubsub/logs/log.ts";
import type { Host } from "../simulator/mod.ts";
import { type FaultyBroker, FaultyEngine } from "../faulty_broker.ts";
import type { ClusterEngine } from "../simulation/cluster/engine.ts";
import { outcomeOf } from "./outcomes.ts";
import type { World } from "./world.ts";

/** Maximum time until an engine has started or is reachable again, in milliseconds. */
const REACHED_MS = 20_000;

/**
 * Repeats an engine call until it succeeds, because a cluster starts without a leader.
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
 * Waits until an engine stores logs. Its servers may have to elect a leader first.
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
 * Creates a node's broker, whose calls fail as the case determines.
 *
 * @param engine The engine.
 * @param host The node's machine, in its current life.
 * @returns The broker. Closing it also closes the engine's broker.
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
