/** Ports between an engine and nodes in the same process, like the ports of a server's workers. */
import type { Broker } from "../../../pubsub/broker.ts";
import { MemoryBroker } from "../../../pubsub/memory/broker.ts";
import { EnginePorts } from "../../../pubsub/ports/engine_port.ts";
import { factsOf } from "../../../pubsub/ports/operations.ts";
import { PortBroker } from "../../../pubsub/ports/port_broker.ts";
import type { Host } from "../../simulator/host.ts";
import type { Simulation } from "../../simulator/simulation.ts";

/** Mean latency of a batch between a node and the engine, in milliseconds. */
const BATCH_MS = 0.5;

/** Ports to nodes. Batches arrive in order, each after a short delay. */
export class NodePorts {
  readonly #simulation: Simulation;
  readonly #host: Host;
  readonly #engine: Broker;
  readonly #ports: EnginePorts;

  /**
   * Creates the ports of an engine.
   *
   * @param simulation The simulation.
   * @param host The host of the engine, in its current life.
   * @param engine The engine.
   */
  constructor(simulation: Simulation, host: Host, engine: Broker) {
    this.#simulation = simulation;
    this.#host = host;
    this.#engine = engine;
    this.#ports = new EnginePorts(engine, host.runtime);
  }

  /** Creates the broker of a node for one life of the host. */
  broker(host: Host): Broker {
    const name = `${host.name}/${host.life}`;
    const toEngine = this.#lane(this.#host, `${name} to engine`);
    const toNode = this.#lane(host, `engine to ${name}`);
    const broker: PortBroker = new PortBroker({
      runtime: host.runtime,
      engine: factsOf(this.#engine),
      post: (batch) => toEngine(() => port.take(batch)),
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
 * Starts an engine in memory for some nodes.
 *
 * @param simulation The simulation.
 * @param host The running host of the engine.
 * @returns A function that creates the broker of a node for one life of the host.
 */
export function brokersInMemory(simulation: Simulation, host: Host): (host: Host) => Broker {
  const ports = new NodePorts(simulation, host, new MemoryBroker({ runtime: host.runtime }));
  return (node) => ports.broker(node);
}
