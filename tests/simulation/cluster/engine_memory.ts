/** An engine in memory, on a host of its own. */
import type { Broker } from "../../../pubsub/broker.ts";
import { MemoryBroker } from "../../../pubsub/memory/broker.ts";
import type { Host } from "../../../testing/simulation/host.ts";
import type { Simulation } from "../../../testing/simulation/simulation.ts";
import type { ClusterEngine } from "./engine.ts";
import { NodePorts } from "./node_ports.ts";

/**
 * An engine in memory on a host of its own, without faults. Nodes reach the engine as workers reach
 * the engine of their process.
 */
export class MemoryEngine implements ClusterEngine {
  /** No fault: this engine is always there. */
  readonly faults = {};
  /** True: one thread has all rows. */
  readonly hasExactRows = true;
  readonly #ports: NodePorts;

  /**
   * Starts the engine.
   *
   * @param simulation The simulation.
   */
  constructor(simulation: Simulation) {
    const host = simulation.host("engine");
    this.#ports = new NodePorts(simulation, host, new MemoryBroker({ runtime: host.runtime }));
  }

  /** Makes the broker of a node, for one life of the host. */
  broker(host: Host): Broker {
    return this.#ports.broker(host);
  }

  /** No fault to end. */
  heal(): void {}

  /** No global to give back. */
  [Symbol.dispose](): void {}
}
