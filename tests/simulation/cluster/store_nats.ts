/** A model of NATS, with faults of its servers. */
import type { Broker } from "../../../pubsub/broker.ts";
import { NatsBroker, type NatsShards } from "../../../brokers/nats/mod.ts";
import { installGlobals } from "../../simulator/globals.ts";
import type { Host } from "../../simulator/host.ts";
import { simulatedNatsConnect } from "../../simulator/nats/client.ts";
import { SimulatedNats } from "../../simulator/nats/nats.ts";
import type { SimulatedNetwork } from "../../simulator/network/network.ts";
import type { ClusterStore, StoreFault, StoreParts, WaitingBounds } from "./store.ts";

/** Maximum time over which a stopping server disconnects its clients, in milliseconds. */
const LAME_MS = 5_000;

/** Numbers of shards of all kinds; `undefined` for the default ones. */
const SHARDS = [undefined, 1, 4, 16];

/**
 * One NATS server or a cluster of three, which nodes reach over the network. The client library
 * uses the platform's clocks and random numbers, so the simulation replaces the globals of the
 * process.
 */
export class NatsStore implements ClusterStore {
  /** Faults by kind. The size picks a server. */
  readonly faults: ClusterStore["faults"] = {
    "broker-kill": (amount) => this.#end(amount, false),
    "broker-power": (amount) => this.#end(amount, true),
    "broker-freeze": (amount) => this.#freeze(amount),
    "broker-failover": () => this.#changeLeader(),
    "broker-lag": () => this.#loseConsumers(),
    "broker-subscribers": (amount) => this.#dropClients(amount),
    "broker-clients": (amount) => this.#dropAll(amount),
  };
  readonly #nats: SimulatedNats;
  readonly #network: SimulatedNetwork;
  readonly #shards: NatsShards | undefined;
  readonly #globals: Disposable;
  readonly #onLost: (why: string, leavesNoTrace?: boolean) => void;
  readonly #onEnded: () => void;

  /**
   * Starts the servers.
   *
   * @param parts Parts of the cluster.
   */
  constructor({ simulation, network, journal }: StoreParts) {
    const random = simulation.chanceOf("nats");
    const count = random() < 0.6 ? 1 : 3;
    const hosts = Array.from({ length: count }, (_, i) => simulation.host(`nats${i}`));
    const number = SHARDS[Math.floor(simulation.chanceOf("nats shards")() * SHARDS.length)];
    this.#shards = number === undefined
      ? undefined
      : { histories: number, logs: number, buckets: number };
    this.#onLost = (why, leavesNoTrace = false) =>
      journal.tell("brokerLost", hosts[0]!.name, { why, leavesNoTrace });
    this.#onEnded = () => journal.tell("brokerEnded", hosts[0]!.name, {});
    this.#network = network;
    this.#globals = installGlobals(simulation);
    this.#nats = new SimulatedNats(simulation, network, hosts, {
      onLost: ({ stream }) => this.#onLost(`writes of ${stream}`, true),
      onElection: (group, isOver) =>
        journal.tell("brokerElects", hosts[0]!.name, { group, isOver }),
    });
  }

  /** Creates the broker of a node for one life of the host. */
  broker(host: Host, bounds?: WaitingBounds): Broker {
    const { hosts, servers } = this.#nats;
    const connect = simulatedNatsConnect(this.#network, host, hosts);
    const source = { servers, ignoreClusterUpdates: true, connect };
    return new NatsBroker(source, {
      runtime: host.runtime,
      replicas: hosts.length,
      shards: this.#shards,
      ...bounds,
    });
  }

  /**
   * True for a single server. In a cluster, the leader compares rows before it replicates a change,
   * so two changes may succeed. See docs/deploy/nats.md, Outages.
   */
  get hasExactRows(): boolean {
    return this.#nats.hosts.length === 1;
  }

  /** Ends all faults, and starts the servers that are down. */
  heal(): void {
    for (const host of this.#nats.hosts) {
      host.thaw();
      this.#restart(host);
    }
  }

  /** Restores the globals of the process. */
  [Symbol.dispose](): void {
    this.#globals[Symbol.dispose]();
  }

  #end(amount: number, power: boolean): StoreFault | undefined {
    const host = this.#pick(amount);
    if (!host.isAlive) return undefined;
    host.kill({ power });
    if (this.#nats.hosts.length === 1) this.#onEnded();
    return {
      text: `${host.name} ${power ? "loses its power" : "is killed"}`,
      heal: () => this.#restart(host),
    };
  }

  #restart(host: Host): void {
    if (host.isAlive) return;
    this.#onLost("restart");
    this.#nats.restart(host);
  }

  #freeze(amount: number): StoreFault | undefined {
    const host = this.#pick(amount);
    if (!host.isAlive || host.isFrozen) return undefined;
    const { life } = host;
    host.freeze();
    return {
      text: `${host.name} is frozen`,
      heal: () => {
        if (host.life === life) host.thaw();
      },
    };
  }

  #changeLeader(): StoreFault {
    this.#nats.changeLeader();
    return { text: "NATS changes all leaders" };
  }

  #loseConsumers(): StoreFault {
    this.#nats.loseConsumers();
    return { text: "NATS loses all consumers" };
  }

  #dropClients(amount: number): StoreFault | undefined {
    const host = this.#pick(amount);
    if (!host.isAlive) return undefined;
    this.#nats.disconnectClients(host);
    return { text: `${host.name} drops slow clients` };
  }

  #dropAll(amount: number): StoreFault | undefined {
    const host = this.#pick(amount);
    if (!host.isAlive) return undefined;
    this.#nats.lameDuck(host, LAME_MS * amount);
    return {
      text: `${host.name} is about to stop`,
      heal: () => {
        host.kill();
        this.#restart(host);
      },
    };
  }

  #pick(amount: number): Host {
    const { hosts } = this.#nats;
    return hosts[Math.min(hosts.length - 1, Math.floor(amount * hosts.length))]!;
  }
}
