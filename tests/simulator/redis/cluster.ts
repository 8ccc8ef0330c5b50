/** A simulated Redis Cluster: masters with shares of the slots, and clients that follow them. */
import { EventEmitter } from "node:events";
import process from "node:process";
import type { Runtime, Timer } from "../../../base/runtime.ts";
import type { RedisClient } from "../../../brokers/redis/options.ts";
import { slotOf } from "../../../brokers/redis/format.ts";
import type { Host } from "../host.ts";
import type { SimulatedNetwork } from "../network/network.ts";
import type { Simulation } from "../simulation.ts";
import { SimulatedRedisClient, type SimulatedRedisClientOptions } from "./client.ts";
import { ScriptEngine } from "./lua.ts";
import { textOf } from "./replies.ts";
import { REDIS_PORT, RedisServer } from "./server.ts";

const SLOTS = 16_384;

/** Most `MOVED` replies to one command, as in ioredis. */
const MAX_REDIRECTIONS = 16;

/** Error of commands whose connection has closed, or without any server. */
const CLOSED = "Connection is closed.";

interface ClusterParts {
  readonly simulation: Simulation;
  readonly network: SimulatedNetwork;
  /** Hosts of the masters. */
  readonly hosts: readonly Host[];
}

/**
 * Masters without replicas, initially with even shares of the slots. A moved slot loses its keys,
 * as after a failover to an empty replica.
 */
export class SimulatedRedisCluster {
  /** The masters. */
  readonly servers: readonly RedisServer[];
  readonly #parts: ClusterParts;
  /** Index of the master of each slot. */
  readonly #owners: number[];

  private constructor(parts: ClusterParts, scripts: ScriptEngine) {
    const { hosts } = parts;
    this.#parts = parts;
    this.#owners = Array.from({ length: SLOTS }, (_, i) => Math.floor(i * hosts.length / SLOTS));
    this.servers = hosts.map((host) => {
      const movedTo = (key: string) => {
        const slot = slotOf(textOf(key));
        const owner = hosts[this.#owners[slot]!]!;
        return owner === host ? undefined : `${slot} ${addressOf(owner)}`;
      };
      const settings = { persistence: "none", snapshotMs: 60_000, loadingMs: 0, movedTo } as const;
      return new RedisServer({ ...parts, host, scripts, settings, onLost() {} });
    });
  }

  /**
   * Starts the servers. Loading the script interpreter takes real time.
   *
   * @param parts The simulation, the network, and the hosts of the masters.
   */
  static async create(parts: ClusterParts): Promise<SimulatedRedisCluster> {
    return new SimulatedRedisCluster(parts, await ScriptEngine.load());
  }

  /** Returns the index of the master of a key or channel. */
  ownerOf(name: string): number {
    return this.#owners[slotOf(name)]!;
  }

  /** The address of the master of each slot. */
  get slots(): string[] {
    return this.#owners.map((owner) => addressOf(this.#parts.hosts[owner]!));
  }

  /**
   * Moves slots to another master.
   *
   * @param isMoved Chooses the slots by their number and the index of their master.
   * @param to Index of the other master.
   */
  move(isMoved: (slot: number, owner: number) => boolean, to: number): void {
    for (const [slot, owner] of this.#owners.entries()) {
      if (isMoved(slot, owner)) this.#owners[slot] = to;
    }
    for (const server of this.servers) server.dropMoved();
  }

  /**
   * Creates a client for a program on a host, for the option `client` of `RedisBroker`.
   *
   * @param host The program's host, in its current life.
   * @returns The client, which does not connect itself; its duplicates do.
   */
  client(host: Host): RedisClient {
    const { simulation, network, hosts } = this.#parts;
    const connect = (address: string, options: SimulatedRedisClientOptions) => {
      const server = hosts.find((one) => addressOf(one) === address)!;
      return new SimulatedRedisClient({
        network,
        host,
        find: () => server,
        onUnheard: (error) => simulation.note(`${error}`, host.name, { kind: "broker" }),
      }, { ...options, host: server.name, port: REDIS_PORT });
    };
    const parts = { runtime: host.runtime, cluster: this, connect };
    return new ClusterClient(parts, { lazyConnect: true }) as unknown as RedisClient;
  }
}

function addressOf(host: Host): string {
  return `${host.name}:${REDIS_PORT}`;
}

/** Options of a client, with the names of ioredis. */
interface ClusterClientOptions {
  readonly lazyConnect?: boolean;
  readonly redisOptions?: SimulatedRedisClientOptions;
  readonly clusterRetryStrategy?: (attempts: number) => number;
}

interface ClusterClientParts {
  readonly runtime: Runtime;
  readonly cluster: SimulatedRedisCluster;
  readonly connect: (address: string, options: SimulatedRedisClientOptions) => SimulatedRedisClient;
}

/**
 * A client with the parts of the ioredis 5 `Cluster` that brokers use: a connection to each master
 * with slots, without automatic reconnects; the map of slots, requested at the start and after a
 * `MOVED` reply; and a queue while no server is known.
 */
class ClusterClient extends EventEmitter {
  readonly isCluster = true;
  readonly options: ClusterClientOptions;
  status = "wait";
  /** Addresses of the servers of each slot. */
  readonly slots: string[][] = [];
  readonly #parts: ClusterClientParts;
  readonly #pool = new Map<string, SimulatedRedisClient>();
  readonly #scripts: [string, Parameters<SimulatedRedisClient["defineCommand"]>[1]][] = [];
  #queue: (() => void)[] = [];
  #retry: Timer | undefined;
  #attempts = 0;
  #isRefreshing = false;
  #isEnding = false;

  constructor(parts: ClusterClientParts, options: ClusterClientOptions) {
    super();
    this.#parts = parts;
    this.options = options;
    if (!options.lazyConnect) this.#connect();
  }

  duplicate(_nodes: readonly unknown[], options: ClusterClientOptions): ClusterClient {
    return new ClusterClient(this.#parts, { ...this.options, ...options });
  }

  nodes(): SimulatedRedisClient[] {
    return [...this.#pool.values()];
  }

  disconnect(): void {
    this.#isEnding = true;
    this.#parts.runtime.clearTimeout(this.#retry);
    if (this.status === "end") return;
    this.#setStatus("disconnecting");
    const nodes = this.nodes();
    this.#pool.clear();
    for (const node of nodes) node.disconnect();
    this.#onDrain();
  }

  defineCommand(
    name: string,
    definition: Parameters<SimulatedRedisClient["defineCommand"]>[1],
  ): void {
    this.#scripts.push([name, definition]);
    for (const node of this.#pool.values()) node.defineCommand(name, definition);
    // Without a fixed number of keys, the number precedes the first key.
    const at = definition.numberOfKeys === undefined ? 1 : 0;
    for (const verb of [name, `${name}Buffer`]) {
      const run = (...args: unknown[]) => this.#run(`${args[at]}`, verb, args);
      Object.defineProperty(this, verb, { value: run, configurable: true });
    }
  }

  spublish(channel: string, message: unknown): Promise<unknown> {
    return this.#run(channel, "spublish", [channel, message]);
  }

  zcard(key: string): Promise<unknown> {
    return this.#run(key, "zcard", [key]);
  }

  zscan(key: string, ...rest: unknown[]): Promise<unknown> {
    return this.#run(key, "zscan", [key, ...rest]);
  }

  hmget(key: string, ...fields: string[]): Promise<unknown> {
    return this.#run(key, "hmget", [key, ...fields]);
  }

  get(key: string): Promise<unknown> {
    return this.#run(key, "get", [key]);
  }

  zrem(key: string, ...members: string[]): Promise<unknown> {
    return this.#run(key, "zrem", [key, ...members]);
  }

  /** Requests the map of slots from any server. */
  refreshSlotsCache(): void {
    if (this.#isRefreshing) return;
    this.#isRefreshing = true;
    void this.#refresh().then(() => this.#isRefreshing = false);
  }

  #setStatus(status: string): void {
    this.status = status;
    process.nextTick(() => this.emit(status));
  }

  #connect(): void {
    this.#setStatus("connecting");
    for (const address of new Set(this.#parts.cluster.slots)) this.#nodeOf(address);
    this.refreshSlotsCache();
  }

  async #refresh(): Promise<void> {
    for (const node of this.nodes()) {
      const asking = node.duplicate({
        retryStrategy: null,
        enableOfflineQueue: true,
        lazyConnect: true,
      });
      asking.on("error", () => {});
      const hasReplied = await asking.ping().then(() => true, () => false);
      asking.disconnect();
      if (this.#isEnding) return;
      if (!hasReplied) continue;
      const { slots } = this.#parts.cluster;
      this.slots.splice(0, this.slots.length, ...slots.map((address) => [address]));
      const known = new Set(slots);
      for (const [address, other] of [...this.#pool]) {
        if (known.has(address)) continue;
        this.#pool.delete(address);
        other.disconnect();
      }
      for (const address of known) this.#nodeOf(address);
      this.emit("refresh");
      if (this.status === "connecting") this.#becomeReady();
      return;
    }
    if (this.status !== "connecting") return;
    this.emit("error", new Error("Failed to refresh slots cache."));
    for (const node of this.nodes()) node.disconnect();
    this.#pool.clear();
    this.#onDrain();
  }

  #becomeReady(): void {
    this.#setStatus("connect");
    this.#setStatus("ready");
    this.#attempts = 0;
    for (const send of this.#queue.splice(0)) send();
  }

  /** Finds or opens the connection to a server. */
  #nodeOf(address: string): SimulatedRedisClient {
    const known = this.#pool.get(address);
    if (known !== undefined) return known;
    const node = this.#parts.connect(address, {
      ...this.options.redisOptions,
      retryStrategy: null,
      enableOfflineQueue: true,
      lazyConnect: true,
    });
    for (const [name, definition] of this.#scripts) node.defineCommand(name, definition);
    node.on("error", () => {});
    node.once("end", () => {
      if (this.#pool.get(address) !== node) return;
      this.#pool.delete(address);
      if (this.#pool.size === 0) this.#onDrain();
    });
    this.#pool.set(address, node);
    return node;
  }

  #onDrain(): void {
    if (this.status === "close" || this.status === "reconnecting" || this.status === "end") return;
    this.#setStatus("close");
    const delayMs = this.#isEnding
      ? undefined
      : this.options.clusterRetryStrategy?.(++this.#attempts);
    if (delayMs === undefined) {
      this.#setStatus("end");
      for (const send of this.#queue.splice(0)) send();
      return;
    }
    this.#setStatus("reconnecting");
    this.#retry = this.#parts.runtime.setTimeout(() => this.#connect(), delayMs);
  }

  async #run(key: string, verb: string, args: readonly unknown[]): Promise<unknown> {
    for (let left = MAX_REDIRECTIONS;; left--) {
      if (this.status !== "ready" && this.status !== "end") {
        await new Promise<void>((resolve) => this.#queue.push(resolve));
      }
      if (this.status === "end") throw new Error(CLOSED);
      const [address] = this.slots[slotOf(key)] ?? [];
      const node = address === undefined ? undefined : this.#pool.get(address);
      const to = (node ?? this.nodes()[0]) as unknown as Record<
        string,
        (...args: readonly unknown[]) => Promise<unknown>
      >;
      try {
        return await to[verb]!(...args);
      } catch (error) {
        const [kind, slot, place] = (error as Error).message.split(" ");
        if (kind !== "MOVED") throw error;
        if (left === 1) {
          throw new Error(`Too many Cluster redirections. Last error: ${error}`, { cause: error });
        }
        this.slots[Number(slot)] = [place!];
        this.#nodeOf(place!);
        this.refreshSlotsCache();
      }
    }
  }
}
