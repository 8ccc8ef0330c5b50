/** Nodes without servers. */
import type { Broker } from "../../pubsub/broker.ts";
import { Nodes } from "../../pubsub/nodes/nodes.ts";
import type { Host } from "../simulator/mod.ts";
import type { World } from "./world.ts";

/** Time between two heartbeats of a node, and silence after which it is gone, in milliseconds. */
export const [BEAT_MS, GONE_MS] = [400, 1_600] as const;

/** Time within which every other node notices a death, in milliseconds. */
export const KNOWN_MS: number = GONE_MS + BEAT_MS / 2 + 100;

/** Time for messages between nodes, in milliseconds. */
export const TRIP_MS = 80;

/** A node without a server. */
export interface BareNode {
  readonly host: Host;
  readonly nodes: Nodes;
}

/**
 * Starts nodes without servers. They are closed at the end.
 *
 * @param of The number of nodes or their machines.
 * @param broker Creates the broker of a machine.
 * @returns The nodes and their machines.
 */
export function startNodes(
  world: World,
  of: number | readonly Host[],
  broker: (host: Host) => Broker,
): readonly BareNode[] {
  const hosts = typeof of === "number"
    ? Array.from({ length: of }, (_, i) => world.host(`node-${i}`))
    : of;
  return hosts.map((host) => {
    const times = { heartbeatMs: BEAT_MS, goneAfterMs: GONE_MS };
    const nodes = new Nodes({ broker: broker(host), runtime: host.runtime, ...times });
    world.onEnd(() => host.isAlive ? nodes.close() : undefined);
    return { host, nodes };
  });
}

/**
 * Waits until all nodes know each other.
 *
 * @param all All nodes.
 */
export async function meet(
  world: World,
  all: readonly BareNode[],
): Promise<readonly BareNode[]> {
  const areMet = () => all.every(({ nodes }) => nodes.size === all.length - 1);
  await world.until("nodes that know each other", areMet);
  await Promise.all(all.map(({ nodes }) => nodes.ready));
  return all;
}
