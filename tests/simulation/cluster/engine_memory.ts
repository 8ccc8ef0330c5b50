/** An engine in memory, on a separate host. */
import type { Broker } from "../../../pubsub/broker.ts";
import { MemoryBroker } from "../../../pubsub/memory/broker.ts";
import type { Host } from "../../simulator/host.ts";
import type { Simulation } from "../../simulator/simulation.ts";
import type { ClusterEngine } from "./engine.ts";
import { NodePorts } from "./node_ports.ts";

/**
 * An engine in memory on a separate host, without faults. Nodes reach it in the same way as workers
 * reach the engine of their process.
 */
export class MemoryEngine implements ClusterEngine {
  /** There are no faults, because this engine is always reachable. */
  readonly faults = {};
  /** True, because one thread owns all rows. */
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

  /** Creates the broker of a node for one life of the host. */
  broker(host: Host): Broker {
    return this.#ports.broker(host);
  }

  /** Does nothing, because this engine has no faults. */
  heal(): void {}

  /** Does nothing, because no globals were replaced. */
  [Symbol.dispose](): void {}
}
