/** A simulated Redis: a primary, replicas, and clients that find the primary. */
import type { OptionKinds } from "../../../base/options/options.ts";
import { checkOptions, POSITIVE, TIME } from "../../../base/options/option_checks.ts";
import type { Host } from "../host.ts";
import type { SimulatedNetwork } from "../network/network.ts";
import type { Simulation } from "../simulation.ts";
import type { RedisClient } from "../../../brokers/redis/options.ts";
import { SimulatedRedisClient } from "./client.ts";
import type { RedisLoss, RedisPersistence } from "./effects.ts";
import { ScriptEngine } from "./lua.ts";
import { RedisServer } from "./server.ts";
import type { EvictionPolicy } from "./values.ts";

/** A server of a {@linkcode SimulatedRedis}, with its faults. */
export interface SimulatedRedisServer {
  /** The host, which can be killed and frozen. */
  readonly host: Host;
  readonly isReplica: boolean;
  /** Names of all keys. */
  readonly keys: readonly string[];
  /** Bytes of all keys. */
  readonly bytes: number;
  /** Number of open connections of clients with subscriptions. */
  readonly subscribers: number;
  /** Number of subscriptions of all clients; a channel counts once per connection. */
  readonly subscriptions: number;
  /**
   * Makes each command take time.
   *
   * @param commandMs Time of a command, in milliseconds; 0 for none.
   */
  slow(commandMs: number): void;
  /**
   * Simulates a long-running script of another client. Clients first receive no replies, then
   * `BUSY` errors.
   *
   * @param ms Duration of the script, in milliseconds.
   */
  busy(ms: number): void;
  /**
   * Makes a replica apply writes later.
   *
   * @param ms Delay after the arrival, in milliseconds; 0 for none.
   */
  lag(ms: number): void;
  /**
   * Limits the memory of all keys, and immediately evicts keys beyond the limit.
   *
   * @param maxBytes The limit in bytes; 0 for no limit.
   * @param policy How keys are chosen; `noeviction` rejects writes instead.
   */
  limitMemory(maxBytes: number, policy?: EvictionPolicy): void;
  /**
   * Rejects each write with an error, as without a replica or with a failing disk.
   *
   * @param error The error; none to accept writes again.
   */
  rejectWrites(error?: string): void;
  /** Removes all scripts, as `SCRIPT FLUSH` does. */
  flushScripts(): void;
  /** Removes all keys, as `FLUSHALL` does. */
  flushAll(): void;
  /**
   * Closes the connections of subscribers, as a full output buffer does
   * (`client-output-buffer-limit`).
   */
  dropSubscribers(): void;
  /** Closes the connections of all clients, as `CLIENT KILL` does. */
  dropClients(): void;
}

/** Options for {@linkcode SimulatedRedis.create}. */
export interface SimulatedRedisOptions {
  readonly simulation: Simulation;
  readonly network: SimulatedNetwork;
  /** Hosts of the servers: the primary, and any number of replicas. */
  readonly hosts: readonly [Host, ...Host[]];
  /**
   * Writes that survive the end of a server.
   *
   * @default {"none"}
   */
  readonly persistence?: RedisPersistence | undefined;
  /**
   * Interval of snapshots, in milliseconds.
   *
   * @default {60_000}
   */
  readonly snapshotMs?: number | undefined;
  /**
   * Duration of loading the files at a start, in milliseconds.
   *
   * @default {0}
   */
  readonly loadingMs?: number | undefined;
  /** Called with each loss of acknowledged writes. */
  readonly onLost?: ((loss: RedisLoss) => void) | undefined;
}

const OPTIONS: OptionKinds<SimulatedRedisOptions> = {
  hosts: "array",
  loadingMs: TIME,
  network: "object",
  onLost: "function",
  persistence: ["none", "snapshot", "everysec", "always"],
  simulation: "object",
  snapshotMs: POSITIVE,
};

/**
 * A simulated Redis 7, for `RedisBroker` and any program that uses the same commands.
 *
 * - **Semantics** of commands and scripts are tested against the installed `redis-server`. Scripts
 *   run unchanged, on Lua 5.1.
 * - **Clients** connect as with Sentinel: each attempt finds the current primary.
 * - **Losses** of acknowledged writes are those that Redis documents: a restart without the newest
 *   writes, and a failover to a replica without the newest writes. `onLost` receives each loss.
 *
 * Faults follow the Redis documentation and Jepsen reports, and are not tested against real
 * servers: see `tests/simulation/README.md` for the sources.
 *
 * @example A server on a Redis that loses all keys
 * ```ts
 * import {
 *   SimulatedNetwork,
 *   SimulatedRedis,
 *   SimulatedServer,
 *   Simulation,
 * } from "../mod.ts";
 * import { RedisBroker } from "@skein/skein/redis";
 * import { assertNotEquals } from "@std/assert";
 *
 * const simulation = new Simulation({ seed: 1 });
 * const network = new SimulatedNetwork(simulation);
 * const host = simulation.host("redis");
 * const redis = await SimulatedRedis.create({ simulation, network, hosts: [host] });
 * const program = new SimulatedServer(network, simulation.host("server"), (host) => ({
 *   broker: new RedisBroker({ client: redis.client(host) }, { runtime: host.runtime }),
 *   history: { news: { size: 100 } },
 * }));
 * const append = async () => {
 *   const appended = program.server.topics.append("news", "text");
 *   await Promise.allSettled([appended, simulation.run(20_000)]);
 *   return (await appended).position?.epoch;
 * };
 * const before = await append();
 * host.kill();
 * redis.restart(); // Without files: `persistence` is "none".
 * await simulation.run(10_000);
 * assertNotEquals(await append(), before);
 * ```
 */
export class SimulatedRedis {
  /** The servers, in the order of the hosts. */
  readonly servers: readonly SimulatedRedisServer[];
  readonly #servers: readonly RedisServer[];
  readonly #simulation: Simulation;
  readonly #network: SimulatedNetwork;
  readonly #onLost: (loss: RedisLoss) => void;
  #primary: RedisServer;

  private constructor(options: SimulatedRedisOptions, scripts: ScriptEngine) {
    const { simulation, network, hosts, onLost = () => {} } = options;
    const { persistence = "none", snapshotMs = 60_000, loadingMs = 0 } = options;
    this.#simulation = simulation;
    this.#network = network;
    this.#onLost = (loss) => {
      const { server, writes, why } = loss;
      simulation.note(`loses ${writes} writes by a ${why}`, server, { kind: "broker" });
      onLost(loss);
    };
    const settings = { persistence, snapshotMs, loadingMs };
    this.servers = this.#servers = hosts.map((host) =>
      new RedisServer({ simulation, network, host, scripts, settings, onLost: this.#onLost })
    );
    this.#primary = this.#servers[0]!;
    for (const replica of this.#servers.slice(1)) replica.follow(this.#primary);
  }

  /**
   * Starts the servers. Loading the script interpreter takes real time, so await this call before
   * the simulation runs.
   *
   * @param options See {@linkcode SimulatedRedisOptions}.
   * @returns The servers.
   */
  static async create(options: SimulatedRedisOptions): Promise<SimulatedRedis> {
    checkOptions("start Redis", options, OPTIONS);
    return new SimulatedRedis(options, await ScriptEngine.load());
  }

  get primary(): SimulatedRedisServer {
    return this.#primary;
  }

  /**
   * Creates a client for a program on a host, for the option `client` of `RedisBroker`. The client
   * connects with its first command.
   *
   * @param host The program's host, in its current life.
   */
  client(host: Host): RedisClient {
    return new SimulatedRedisClient({
      network: this.#network,
      host,
      find: () => this.#primary.host,
      onUnheard: (error) => this.#simulation.note(`${error}`, host.name, { kind: "broker" }),
    }, { lazyConnect: true });
  }

  /** Restarts the servers whose hosts have ended; all but the primary are replicas. */
  restart(): void {
    for (const server of this.#servers) {
      if (server === this.#primary) server.start();
      else server.start(this.#primary);
    }
  }

  /**
   * Promotes the replica with the newest writes to primary. Acknowledged writes that have not
   * reached this replica are lost. If the old primary is running, it accepts commands for
   * `demoteAfterMs`, so there are two primaries for a while.
   *
   * @param options `demoteAfterMs`: time until the old primary becomes a replica, in milliseconds.
   * `keepClients`: true if the clients of the old primary then stay connected until a write is
   * rejected, as they do without Sentinel.
   * @returns `false` if no replica is running.
   */
  failOver(
    { demoteAfterMs = 1_000, keepClients = false }: {
      readonly demoteAfterMs?: number | undefined;
      readonly keepClients?: boolean | undefined;
    } = {},
  ): boolean {
    const old = this.#primary;
    const [next] = this.#servers
      .filter((server) => server !== old && server.host.isAlive && server.isReplica)
      .sort((a, b) => b.offset - a.offset);
    if (next === undefined) return false;
    this.#simulation.note("becomes the primary", next.host.name, { kind: "broker" });
    this.#primary = next;
    const common = old.commonWith(next);
    next.lead();
    let isDemoted = false;
    const demote = () => {
      if (isDemoted) return;
      isDemoted = true;
      const loss = old.lossSince(common);
      if (loss !== undefined) this.#onLost(loss);
      if (old.host.isAlive && this.#primary !== old) old.follow(this.#primary, { keepClients });
    };
    if (old.host.isAlive) {
      old.host.after(demoteAfterMs, demote);
      old.host.onEnd(demote);
    } else demote();
    for (const server of this.#servers) {
      if (server !== old && server !== next && server.host.isAlive) server.follow(next);
    }
    return true;
  }
}
