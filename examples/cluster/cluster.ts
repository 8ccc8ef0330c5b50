/**
 * Two nodes, each a process, and the balancer in front of them.
 *
 * @module
 */
import { Balancer } from "./balancer.ts";
import type { NodeState, Verb } from "./contract.ts";
import { type BrokerServer, freePort } from "./broker.ts";

const NODES = 2;

interface Node {
  readonly number: number;
  readonly port: number;
  state: NodeState;
  process?: Deno.ChildProcess;
}

/** The nodes, with methods to start, drain and kill each one. */
export class Cluster implements AsyncDisposable {
  /** Called when the state of a node changes. */
  onChange: () => void = () => {};
  readonly #broker: BrokerServer;
  readonly #origin: string;
  readonly #balancer = new Balancer(0, []);
  readonly #nodes: readonly Node[];

  private constructor(broker: BrokerServer, origin: string) {
    this.#broker = broker;
    this.#origin = origin;
    this.#nodes = Array.from(
      { length: NODES },
      (_, i) => ({ number: i + 1, port: freePort(), state: "down" }),
    );
  }

  /** Starts the nodes. Pages from the origin may connect. */
  static async start(broker: BrokerServer, origin = "http://localhost"): Promise<Cluster> {
    const cluster = new Cluster(broker, origin);
    await Promise.all(cluster.#nodes.map(({ number }) => cluster.do("start", number)));
    return cluster;
  }

  get port(): number {
    return this.#balancer.port;
  }

  /** The summary that is sent to all pages. */
  get summary(): { broker: string; port: number; nodes: { number: number; state: NodeState }[] } {
    const nodes = this.#nodes.map(({ number, state }) => ({ number, state }));
    return { broker: this.#broker.name, port: this.port, nodes };
  }

  /**
   * Performs an action on a node, and waits until it is done. An action that does not fit the
   * node's state is ignored.
   */
  async do(verb: Verb, number: number): Promise<void> {
    const node = this.#nodes.find((node) => node.number === number);
    if (node === undefined) return;
    if (verb === "start" && node.state === "down") return await this.#start(node);
    if (verb === "drain" && node.state === "up") {
      // Stops new connections before the signal is sent.
      this.#set(node, "draining");
      node.process?.kill("SIGTERM");
    }
    if (verb === "kill" && node.state !== "down") node.process?.kill("SIGKILL");
    if (verb !== "start") await node.process?.status;
  }

  /** Stops the nodes and the balancer. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.onChange = () => {};
    await Promise.all(this.#nodes.map(({ number }) => this.do("kill", number)));
    await this.#balancer[Symbol.asyncDispose]();
  }

  async #start(node: Node): Promise<void> {
    const { name, url } = this.#broker;
    const file = new URL("./node.ts", import.meta.url).href;
    const values = {
      number: node.number,
      port: node.port,
      broker: name,
      url,
      origin: this.#origin,
    };
    const args = Object.entries(values).map(([option, value]) => `--${option}=${value}`);
    const process = node.process = new Deno.Command(Deno.execPath(), {
      args: ["run", "-A", "--quiet", file, ...args],
      // Never written to. If this program ends, the pipe closes and the node ends too.
      stdin: "piped",
      stdout: "piped",
    }).spawn();
    this.#set(node, "starting");
    const reader = process.stdout.getReader();
    const { done } = await reader.read();
    void reader.cancel();
    if (!done) this.#set(node, "up");
    void process.status.then(() => this.#set(node, "down"));
    if (done) await process.status;
  }

  #set(node: Node, state: NodeState): void {
    node.state = state;
    this.#balancer.use(this.#nodes.filter(({ state }) => state === "up").map(({ port }) => port));
    this.onChange();
  }
}
