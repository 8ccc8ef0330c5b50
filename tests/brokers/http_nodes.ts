/**
 * Runs nodes as separate processes on Redis or NATS, behind a proxy that blocks all transports
 * except HTTP.
 *
 * @module
 */
import { type Client, connect, type ConnectOptions } from "../../client.ts";
import type { Recovery } from "../../session/wire/recovery.ts";
import { RoundRobin, type RoundRobinOptions } from "../networks/round_robin.ts";
import { LineProcess } from "../soak/processes/processes.ts";
import { noTimers } from "./receiving.ts";
import { isNatsMissing, NatsServer } from "./nats_server.ts";
import { isRedisMissing, RedisServer } from "./redis_server.ts";

/** A running store, and the arguments that make a node use it. */
export interface BrokerServer extends AsyncDisposable {
  readonly args: readonly string[];
  readonly pid: number;
}

/**
 * The stores that processes can share. Each entry says whether its program is missing, and has a
 * function that starts it.
 */
export const BROKERS: Readonly<
  Record<string, [ignore: boolean, start: () => Promise<BrokerServer>]>
> = {
  redis: [isRedisMissing, async () => {
    const server = await RedisServer.start();
    const end = () => server[Symbol.asyncDispose]();
    return { args: ["redis", server.url], pid: server.pid, [Symbol.asyncDispose]: end };
  }],
  nats: [isNatsMissing, async () => {
    const server = await NatsServer.start();
    const end = () => server[Symbol.asyncDispose]();
    return { args: ["nats", server.servers], pid: server.pid, [Symbol.asyncDispose]: end };
  }],
};

export interface NodeProcess {
  readonly process: LineProcess;
  readonly port: number;
}

/** The publications that a client received on a topic, and its recoveries. */
export class Reading {
  readonly got: unknown[] = [];
  readonly recoveries: Recovery[] = [];
  readonly ready: Promise<unknown>;

  constructor(client: Client, topic: string) {
    const subscription = client.subscribe(topic, {
      last: 0,
      onRecovery: (recovery) => void this.recoveries.push(recovery),
    });
    this.ready = subscription.ready;
    void (async () => {
      for await (const { data } of subscription) this.got.push(data);
    })();
  }
}

/** Nodes that share a store, behind a proxy. */
export class ProcessSite implements AsyncDisposable {
  readonly nodes: NodeProcess[] = [];
  readonly #store: BrokerServer;
  readonly #folder: string;
  #proxy: RoundRobin | undefined;

  private constructor(store: BrokerServer, folder: string) {
    this.#store = store;
    this.#folder = folder;
  }

  /** Starts two nodes and the proxy. If a folder is given, the nodes serve its files. */
  static async open(
    store: BrokerServer,
    { folder = "", ...options }: RoundRobinOptions & { readonly folder?: string } = {},
  ): Promise<ProcessSite> {
    const site = new ProcessSite(store, folder);
    site.nodes.push(...await Promise.all([site.#start(), site.#start()]));
    site.#proxy = await RoundRobin.start(site.nodes.map(({ port }) => port), options);
    return site;
  }

  /** The processes of the store and the nodes. */
  get pids(): number[] {
    return [this.#store.pid, ...this.nodes.map(({ process }) => process.pid)];
  }

  get proxy(): RoundRobin {
    return this.#proxy!;
  }

  /** Connects a client that falls back to HTTP. */
  connect(options: ConnectOptions = {}): Client {
    return connect(this.proxy.url.replace("http", "ws"), {
      transports: ["websocket", "http"],
      backoff: { firstDelayMs: 50, maxDelayMs: 500 },
      ...options,
    });
  }

  /** Kills a node like `kill -9`, and starts a new one in its place. */
  async kill(node: number): Promise<void> {
    const { process } = this.nodes[node]!;
    process.kill("SIGKILL");
    await process.end();
    const started = this.nodes[node] = await this.#start();
    this.proxy.use(node, started.port);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#proxy?.[Symbol.asyncDispose]();
    for (const { process } of this.nodes) await process.end();
    await this.#store[Symbol.asyncDispose]();
    await noTimers();
  }

  async #start(): Promise<NodeProcess> {
    const process = new LineProcess(
      import.meta.resolve("./http_node.ts"),
      ...this.#store.args,
      this.#folder,
    );
    return { process, port: Number(await process.line()) };
  }
}
