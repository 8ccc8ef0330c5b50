/** Ports between a store and nodes in the same process, like the ports of a server's workers. */
import type { Broker } from "../../../pubsub/broker.ts";
import { MemoryBroker } from "../../../pubsub/memory/broker.ts";
import { BrokerPorts } from "../../../pubsub/ports/broker_port.ts";
import { PortBroker } from "../../../pubsub/ports/port_broker.ts";
import { LOGS_PART } from "../../../streams/logs/logs_of.ts";
import type { Host } from "../../simulator/host.ts";
import type { Simulation } from "../../simulator/simulation.ts";

/** Mean latency of a batch between a node and the store, in milliseconds. */
const BATCH_MS = 0.5;

/** Ports to nodes. Batches arrive in order, each after a short delay. */
export class NodePorts {
  readonly #simulation: Simulation;
  readonly #host: Host;
  readonly #ports: BrokerPorts;

  /**
   * Creates the ports of a store.
   *
   * @param host The host of the store, in its current life.
   */
  constructor(simulation: Simulation, host: Host, store: Broker) {
    this.#simulation = simulation;
    this.#host = host;
    this.#ports = new BrokerPorts(store, host.runtime, [LOGS_PART]);
  }

  /** Creates the broker of a node for one life of the host. */
  broker(host: Host): Broker {
    const name = `${host.name}/${host.life}`;
    const toBroker = this.#lane(this.#host, `${name} to broker`);
    const toNode = this.#lane(host, `broker to ${name}`);
    const broker: PortBroker = new PortBroker({
      runtime: host.runtime,
      broker: this.#ports.facts,
      post: (batch) => toBroker(() => port.take(batch)),
    });
    const port = this.#ports.open((batch) => toNode(() => broker.take(batch)));
    host.onEnd(() => this.#host.after(0, () => port.end()));
    return broker;
  }

  /** Creates one direction of a port. Batches arrive in order. */
  #lane(to: Host, name: string): (arrive: () => void) => void {
    const random = this.#simulation.chanceOf(name);
    let lastMs = 0;
    return (arrive) => {
      const { nowMs } = this.#simulation;
      lastMs = Math.max(lastMs, nowMs - BATCH_MS * Math.log(1 - random()));
      to.after(lastMs - nowMs, arrive);
    };
  }
}

/**
 * Starts a store in memory for some nodes.
 *
 * @param host The running host of the store.
 * @returns A function that creates the broker of a node for one life of the host.
 */
export function brokersInMemory(simulation: Simulation, host: Host): (host: Host) => Broker {
  const ports = new NodePorts(simulation, host, new MemoryBroker({ runtime: host.runtime }));
  return (node) => ports.broker(node);
}
