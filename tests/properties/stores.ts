/** Helpers for the stores that properties use. */
import { assert } from "@std/assert";
import type { Broker } from "../../pubsub/broker.ts";
import type { CreateLogOptions } from "../../streams/logs/log.ts";
import type { Host } from "../simulator/mod.ts";
import { type FaultyBroker, FaultyStore } from "../faulty_broker.ts";
import type { ClusterStore } from "../simulation/cluster/store.ts";
import { outcomeOf } from "./outcomes.ts";
import type { World } from "./world.ts";
import { logsOf } from "../../streams/logs/logs_of.ts";

/** Maximum time until a store has started or is reachable again, in milliseconds. */
const REACHED_MS = 20_000;

/** Repeats a store call until it succeeds, because a cluster starts without a leader. */
export async function untilReached(world: World, call: () => Promise<unknown>): Promise<void> {
  const endMs = world.nowMs + REACHED_MS;
  while (await outcomeOf(call()) !== "fulfilled") {
    assert(world.nowMs < endMs, `expected a reply of the broker within ${REACHED_MS} ms`);
    await world.pause(200);
  }
}

/**
 * Waits until a store stores logs. Its servers may have to elect a leader first.
 *
 * @param node A machine with a broker of the store.
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
  const probe = () => logsOf(broker)!.create(id, options).then(() => logsOf(broker)!.delete(id));
  await untilReached(world, () => world.run(host, probe));
}

/**
 * Creates a node's broker, whose calls fail as the case determines.
 *
 * @param host The node's machine, in its current life.
 * @returns The broker. Closing it also closes the store's broker.
 */
export function faultyBroker(store: ClusterStore, host: Host): FaultyBroker {
  const inner = store.broker(host)!;
  const broker = new FaultyStore({ runtime: host.runtime, make: () => inner }).connect();
  const close = broker.close.bind(broker);
  broker.close = async () => {
    await close();
    await inner.close();
  };
  return broker;
}
