/**
 * Nodes that share a broker, either behind a balancer or on one port, with publishers and with
 * clients that log all messages. Nodes, publishers and groups of clients are separate processes.
 *
 * @module
 */
import { Balancer } from "../../../examples/cluster/balancer.ts";
import { lowPort } from "../../networks/ports.ts";
import { LineProcess, sleep } from "../processes/processes.ts";
import type { ClientsState, LastNumbers } from "./clients.ts";
import type { BrokerServer } from "./broker.ts";
import type { Published, Received } from "./log.ts";

const CLIENT_PROCESSES = 2;

/** Longest wait for the remaining messages at the end of a run, in milliseconds. */
const SETTLE_MS = 60_000;

/** Options for how clients reach the nodes. */
export interface FleetStartOptions {
  /** Number of nodes at the start. */
  readonly nodes: number;
  /**
   * If true, all nodes listen on one port, the kernel distributes the connections, and clients
   * bypass the balancer. The balancer is written in JavaScript and uses more CPU time than a node.
   *
   * @default {false}
   */
  readonly sharesPort?: boolean;
}

/** The clients and the publications. */
export interface FleetOptions {
  /** Number of clients on all nodes together. */
  readonly clients: number;
  /** Topics of each client. */
  readonly topicsEach: number;
  /** Messages per second over all topics, for each of the two publishers. */
  readonly perSecond: number;
  /**
   * If true, each client is a separate user, which the broker also tracks.
   *
   * @default {false}
   */
  readonly hasUsers?: boolean;
}

export interface FleetNode {
  /** Port of the node. It stays the same after a restart. */
  readonly port: number;
  /** The process while it is running. */
  process: LineProcess;
}

/** Logs of all processes. */
export interface Outcome {
  /** The published messages. */
  readonly published: readonly Published[];
  /** The received messages of the clients. */
  readonly received: readonly Received[];
  /** Reasons why subscriptions closed. The array should be empty. */
  readonly failures: readonly string[];
  /** Number of messages that the clients had still not received when the wait ended. */
  readonly lacking: number;
  /** Sum of the clients' final states. */
  readonly state: ClientsState;
}

export class Fleet implements AsyncDisposable {
  readonly balancer: Balancer = new Balancer(0, []);
  readonly nodes: FleetNode[] = [];
  readonly #broker: BrokerServer;
  /** The port of all nodes, or 0 if each node has a separate port. */
  readonly #port: number;
  readonly #clients: LineProcess[] = [];
  readonly #publishers: LineProcess[] = [];

  private constructor(broker: BrokerServer, port: number) {
    this.#broker = broker;
    this.#port = port;
  }

  static async start(
    broker: BrokerServer,
    { nodes, sharesPort = false }: FleetStartOptions,
  ): Promise<Fleet> {
    const fleet = new Fleet(broker, sharesPort ? lowPort() : 0);
    await Promise.all(Array.from({ length: nodes }, () => fleet.add()));
    return fleet;
  }

  /** Starts another node. */
  async add(): Promise<FleetNode> {
    const port = this.#port || lowPort();
    const node = { port, process: await this.#startNode(port) };
    this.nodes.push(node);
    this.use(this.nodes);
    return node;
  }

  /** Starts clients and publishers. Resolves once all clients are subscribed. */
  async begin({ clients, topicsEach, perSecond, hasUsers }: FleetOptions): Promise<void> {
    const url = `ws://127.0.0.1:${this.#port || this.balancer.port}/`;
    // Clients of one port are spread over addresses.
    const spread = this.#port === 0 ? url : url.replace("127.0.0.1", "127.0.0.#");
    const each = [`${clients / CLIENT_PROCESSES}`, `${topicsEach}`];
    for (let i = 0; i < CLIENT_PROCESSES; i++) {
      const to = hasUsers ? `${spread}?user=*` : spread;
      this.#clients.push(
        new LineProcess(import.meta.resolve("./clients.ts"), `c${i}`, to, ...each),
      );
    }
    for (const [kind, to] of [["node", this.#broker.url], ["client", url]] as const) {
      const args = [kind, kind, to, `${perSecond}`];
      this.#publishers.push(new LineProcess(import.meta.resolve("./publisher.ts"), ...args));
    }
    await Promise.all([...this.#clients, ...this.#publishers].map((process) => process.line()));
  }

  /** Routes new connections to these nodes. */
  use(nodes: readonly FleetNode[]): void {
    this.balancer.use(nodes.map(({ port }) => port));
  }

  /** Kills a node as `kill -9` does. */
  async kill(node: FleetNode): Promise<void> {
    node.process.kill("SIGKILL");
    await node.process.end();
  }

  /** Restarts a node that was killed. */
  async restart(node: FleetNode): Promise<void> {
    node.process = await this.#startNode(node.port);
  }

  /** Ids of the processes of clients. */
  get clientPids(): number[] {
    return this.#clients.map(({ pid }) => pid);
  }

  /** Ids of the processes of publishers. */
  get publisherPids(): number[] {
    return this.#publishers.map(({ pid }) => pid);
  }

  /** Sends a command to all client processes. */
  ask<T>(command: string): Promise<T[]> {
    return Promise.all(this.#clients.map((process) => process.ask<T>(command)));
  }

  /**
   * Stops the publishers, waits until the clients have received all messages, and reads the logs.
   */
  async settle(): Promise<Outcome> {
    const asked = this.#publishers.map((publisher) => publisher.ask<Published[]>("stop"));
    const published = (await Promise.all(asked)).flat();
    const lacking = await this.#untilNone(lastNumbers(published));
    const states = await this.ask<ClientsState>("state");
    const logs = await this.ask<{ failures: string[]; received: Received[] }>("read");
    return {
      published,
      lacking,
      received: logs.flatMap(({ received }) => received),
      failures: logs.flatMap(({ failures }) => failures),
      state: states.reduce((sum, state) => ({
        connected: sum.connected + state.connected,
        subscribed: sum.subscribed + state.subscribed,
        sessions: sum.sessions + state.sessions,
        recovered: sum.recovered + state.recovered,
        failed: sum.failed + state.failed,
        lateMs: Math.max(sum.lateMs, state.lateMs),
      })),
    };
  }

  /** Stops all processes. */
  async [Symbol.asyncDispose](): Promise<void> {
    const all = [...this.#publishers, ...this.#clients, ...this.nodes.map((node) => node.process)];
    await Promise.all(all.map((process) => {
      try {
        process.kill("SIGKILL");
      } catch {
        // The process has already exited.
      }
      return process.end();
    }));
    await this.balancer[Symbol.asyncDispose]();
  }

  async #startNode(port: number): Promise<LineProcess> {
    const shared = this.#port === 0 ? [] : ["shared"];
    const process = new LineProcess(
      import.meta.resolve("./server.ts"),
      `${port}`,
      this.#broker.url,
      ...shared,
    );
    await process.line();
    return process;
  }

  /**
   * Waits until the clients have received all messages or the time is up. Returns the number of
   * missing messages.
   */
  async #untilNone(last: LastNumbers): Promise<number> {
    const until = Date.now() + SETTLE_MS;
    while (true) {
      const each = await this.ask<number>(`lacking ${JSON.stringify(last)}`);
      const lacking = each.reduce((sum, one) => sum + one, 0);
      if (lacking === 0 || Date.now() > until) return lacking;
      await sleep(250);
    }
  }
}

/** The last acknowledged number of each publisher on each topic. */
function lastNumbers(published: readonly Published[]): LastNumbers {
  const numbers: Record<string, Record<string, number>> = {};
  for (const { publisher, topic, last, unsure } of published) {
    const missing = new Set(unsure);
    let number = last;
    while (missing.has(number)) number--;
    (numbers[topic] ??= {})[publisher] = number;
  }
  return numbers;
}
