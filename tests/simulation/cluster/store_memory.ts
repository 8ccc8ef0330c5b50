/** A store in memory, on a separate host. */
import type { Broker } from "../../../pubsub/broker.ts";
import { MemoryBroker } from "../../../pubsub/memory/broker.ts";
import type { Host } from "../../simulator/host.ts";
import type { Simulation } from "../../simulator/simulation.ts";
import type { ClusterStore } from "./store.ts";
import { NodePorts } from "./node_ports.ts";

/**
 * A store in memory on a separate host, without faults. Nodes reach it in the same way as workers
 * reach the store of their process.
 */
export class MemoryStore implements ClusterStore {
  /** There are no faults, because this store is always reachable. */
  readonly faults = {};
  /** True, because one thread owns all rows. */
  readonly hasExactRows = true;
  readonly #ports: NodePorts;

  /** Starts the store. */
  constructor(simulation: Simulation) {
    const host = simulation.host("broker");
    this.#ports = new NodePorts(simulation, host, new MemoryBroker({ runtime: host.runtime }));
  }

  /** Creates the broker of a node for one life of the host. */
  broker(host: Host): Broker {
    return this.#ports.broker(host);
  }

  /** Does nothing, because this store has no faults. */
  heal(): void {}

  /** Does nothing, because no globals were replaced. */
  [Symbol.dispose](): void {}
}
