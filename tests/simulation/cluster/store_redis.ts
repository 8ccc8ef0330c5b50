/** A model of Redis, with faults of its servers. */
import type { Broker } from "../../../pubsub/broker.ts";
import { RedisBroker } from "../../../brokers/redis/mod.ts";
import type { Host } from "../../simulator/host.ts";
import { SimulatedRedis } from "../../simulator/redis/redis.ts";
import { oneOf } from "./chance.ts";
import type { ClusterStore, StoreFault, StoreParts, WaitingBounds } from "./store.ts";

/** Persistence modes of the servers. */
const PERSISTENCE = ["none", "snapshot", "everysec", "always"] as const;

/** Maximum duration of a command on a slow server, in milliseconds. */
const COMMAND_MS = 20;

/** Maximum time for which a script blocks the server, in milliseconds. */
const BUSY_MS = 8_000;

/** Maximum lag of a replica, in milliseconds. */
const LAG_MS = 2_000;

/** Memory of a server, too small for a run, in bytes. */
const SMALL_BYTES = 200_000;

/** Maximum time during which there are two primaries, in milliseconds. */
const SPLIT_MS = 5_000;

/** A Redis primary that nodes reach over the network. In half of all runs, it has a replica. */
export class RedisStore implements ClusterStore {
  /** Faults by kind. */
  readonly faults: ClusterStore["faults"] = {
    "broker-kill": () => this.#end(false),
    "broker-power": () => this.#end(true),
    "broker-freeze": () => this.#freeze(),
    "broker-slow": (amount) => this.#slow(amount),
    "broker-busy": (amount) => this.#busy(amount),
    "broker-lag": (amount) => this.#lag(amount),
    "broker-failover": (amount) => this.#failOver(amount),
    "broker-full": (amount) => this.#fill(amount),
    "broker-scripts": () => this.#forgetScripts(),
    "broker-subscribers": () => this.#dropSubscribers(),
    "broker-clients": () => this.#dropClients(),
  };
  /** True, because scripts run one at a time. */
  readonly hasExactRows = true;
  readonly #redis: SimulatedRedis;
  readonly #onLost: (why: string) => void;
  readonly #onEnded: () => void;

  private constructor(
    redis: SimulatedRedis,
    onLost: (why: string) => void,
    onEnded: () => void,
  ) {
    this.#redis = redis;
    this.#onLost = onLost;
    this.#onEnded = onEnded;
  }

  /**
   * Starts the servers.
   *
   * @param parts Parts of the cluster.
   */
  static async start(parts: StoreParts): Promise<RedisStore> {
    const { simulation, network, journal } = parts;
    const random = simulation.chanceOf("redis");
    const persistence = oneOf(random, PERSISTENCE);
    const primary = simulation.host("redis0");
    const replicas = random() < 0.5 ? [simulation.host("redis1")] : [];
    const onLost = (why: string, fromMs?: number) =>
      journal.tell("brokerLost", primary.name, { why, ...(fromMs !== undefined && { fromMs }) });
    const redis = await SimulatedRedis.create({
      simulation,
      network,
      hosts: [primary, ...replicas],
      persistence,
      onLost: ({ why, fromMs }) => onLost(why, why === "failover" ? fromMs : undefined),
    });
    const onEnded = () => journal.tell("brokerEnded", primary.name, {});
    return new RedisStore(redis, onLost, onEnded);
  }

  /** Creates the broker of a node for one life of the host. */
  broker(host: Host, bounds?: WaitingBounds): Broker {
    const { runtime } = host;
    return new RedisBroker({ client: this.#redis.client(host) }, { runtime, ...bounds });
  }

  /** Ends all faults, and starts the servers that are down. */
  heal(): void {
    const { servers } = this.#redis;
    for (const server of servers) {
      server.host.thaw();
      server.slow(0);
      server.lag(0);
      server.limitMemory(0);
    }
    this.#redis.restart();
  }

  /** Does nothing, because no globals were replaced. */
  [Symbol.dispose](): void {}

  #end(power: boolean): StoreFault | undefined {
    const { host } = this.#redis.primary;
    if (!host.isAlive) return undefined;
    host.kill({ power });
    if (this.#redis.servers.length === 1) this.#onEnded();
    return {
      text: `Redis ${power ? "loses its power" : "is killed"}`,
      heal: () => {
        this.#onLost("restart");
        this.#redis.restart();
      },
    };
  }

  #freeze(): StoreFault | undefined {
    const { host } = this.#redis.primary;
    if (!host.isAlive || host.isFrozen) return undefined;
    const { life } = host;
    host.freeze();
    return {
      text: "Redis is frozen",
      heal: () => {
        if (host.life === life) host.thaw();
      },
    };
  }

  #slow(amount: number): StoreFault {
    const server = this.#redis.primary;
    server.slow(COMMAND_MS * amount);
    return { text: "Redis is slow", heal: () => server.slow(0) };
  }

  #busy(amount: number): StoreFault | undefined {
    const server = this.#redis.primary;
    if (!server.host.isAlive) return undefined;
    server.busy(BUSY_MS * amount);
    return { text: "Redis runs a script of another program" };
  }

  #lag(amount: number): StoreFault | undefined {
    const replica = this.#redis.servers.find(({ isReplica }) => isReplica);
    if (replica === undefined) return undefined;
    replica.lag(LAG_MS * amount);
    return { text: "the replica of Redis lags", heal: () => replica.lag(0) };
  }

  #failOver(amount: number): StoreFault | undefined {
    if (!this.#redis.failOver({ demoteAfterMs: SPLIT_MS * amount })) return undefined;
    this.#onLost("failover");
    return { text: "Redis fails over" };
  }

  #fill(amount: number): StoreFault {
    const server = this.#redis.primary;
    const evicts = amount >= 0.5;
    const lose = () => {
      if (evicts) this.#onLost("eviction");
    };
    lose();
    server.limitMemory(SMALL_BYTES, evicts ? "allkeys-lru" : "noeviction");
    return {
      text: `the memory of Redis is full${evicts ? ", and keys are evicted" : ""}`,
      heal: () => {
        server.limitMemory(0);
        lose();
      },
    };
  }

  #forgetScripts(): StoreFault {
    this.#redis.primary.flushScripts();
    return { text: "Redis forgets all scripts" };
  }

  #dropSubscribers(): StoreFault {
    this.#redis.primary.dropSubscribers();
    return { text: "Redis drops slow subscribers" };
  }

  #dropClients(): StoreFault {
    this.#redis.primary.dropClients();
    return { text: "Redis drops all clients" };
  }
}
