/**
 * Starts Redis servers on loopback for tests, using the installed system package.
 *
 * @module
 */
import { deadline } from "@std/async/deadline";
import { delay } from "@std/async/delay";
import { lowPort } from "../networks/ports.ts";
import { isMissing } from "./programs.ts";

/** The longest wait for a server's reply, in milliseconds. */
const PATIENCE_MS = 40_000;

const PROGRAM = "redis-server";

/** The offset between a node's port and the port of its cluster bus. */
const BUS = 10_000;

/** Options for {@linkcode RedisServer.start}. */
export interface RedisServerOptions {
  /**
   * The append-only file's sync policy. With `no`, no data survives the process.
   *
   * @default {"no"}
   */
  readonly append?: "no" | "everysec" | "always";
  /** More settings, as in `redis.conf`. */
  readonly settings?: Readonly<Record<string, string>>;
}

/**
 * True if Redis is not installed and its tests are skipped. In runs that require all tests, these
 * tests fail instead.
 */
export const isRedisMissing: boolean = await isMissing(PROGRAM, "Redis");

/** A server with a temporary folder, which is removed when the server is disposed of. */
export class RedisServer implements AsyncDisposable {
  readonly port: number;
  readonly folder: string;
  readonly #args: readonly string[];
  #process: Deno.ChildProcess | undefined;

  private constructor(port: number, folder: string, options: RedisServerOptions) {
    const { append = "no", settings = {} } = options;
    const all = {
      port: `${port}`,
      bind: "127.0.0.1",
      dir: folder,
      save: "",
      daemonize: "no",
      // Starts to fill replicas without a delay.
      "repl-diskless-sync-delay": "0",
      appendonly: append === "no" ? "no" : "yes",
      ...(append === "no" ? {} : { appendfsync: append }),
      ...settings,
    };
    this.port = port;
    this.folder = folder;
    this.#args = Object.entries(all).flatMap(([name, value]) => [`--${name}`, value]);
  }

  /** Starts a server on a free port. */
  static async start(options: RedisServerOptions = {}): Promise<RedisServer> {
    const folder = await Deno.makeTempDir({ prefix: "skein-redis-" });
    const server = new RedisServer(lowPort({ beside: BUS }), folder, options);
    await server.restart();
    return server;
  }

  get url(): string {
    return `redis://127.0.0.1:${this.port}`;
  }

  get pid(): number {
    return this.#process!.pid;
  }

  /** Starts the process; resolves once the server replies. */
  async restart(): Promise<void> {
    this.#process = new Deno.Command(PROGRAM, {
      args: [...this.#args],
      stdin: "null",
      stdout: "null",
      stderr: "null",
    }).spawn();
    await deadline(this.#answers(), PATIENCE_MS);
  }

  /** Kills the process like `kill -9`. */
  async kill(): Promise<void> {
    this.#process?.kill("SIGKILL");
    await this.#process?.status;
    this.#process = undefined;
  }

  /** Pauses the process without closing connections. */
  freeze(): void {
    this.#process!.kill("SIGSTOP");
  }

  /** Resumes the process. */
  thaw(): void {
    this.#process!.kill("SIGCONT");
  }

  /** Runs a command with `redis-cli`; returns the output. */
  async run(...command: string[]): Promise<string> {
    const { stdout } = await new Deno.Command("redis-cli", {
      args: ["-p", `${this.port}`, ...command],
    }).output();
    return new TextDecoder().decode(stdout).trim();
  }

  /** Names of all keys in order, without version marks. */
  async keys(): Promise<string[]> {
    const lines = (await this.run("keys", "*")).split("\n");
    return lines.filter((key) => key !== "" && !key.endsWith(":version")).toSorted();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.kill();
    await Deno.remove(this.folder, { recursive: true });
  }

  async #answers(): Promise<void> {
    while (await this.run("ping") !== "PONG") await delay(20);
  }
}

/** A cluster of three masters; by default, they have no replicas. */
export class RedisCluster implements AsyncDisposable {
  readonly nodes: readonly RedisServer[];

  private constructor(nodes: readonly RedisServer[]) {
    this.nodes = nodes;
  }

  /** Starts a cluster; resolves once all nodes know that every slot is served. */
  static async start({ replicas = 0 } = {}): Promise<RedisCluster> {
    // A busy node must not count as lost: not at all if no replica takes its place.
    const timeoutMs = replicas === 0 ? 60_000 : 5_000;
    const settings = { "cluster-enabled": "yes", "cluster-node-timeout": `${timeoutMs}` };
    const nodes = await Promise.all(
      Array.from({ length: 3 * (1 + replicas) }, () => RedisServer.start({ settings })),
    );
    const cluster = new RedisCluster(nodes);
    const addresses = nodes.map(({ port }) => `127.0.0.1:${port}`);
    await nodes[0]!.run(
      ...["--cluster", "create", ...addresses],
      ...["--cluster-replicas", `${replicas}`, "--cluster-yes"],
    );
    for (const node of nodes) await deadline(isServing(node), PATIENCE_MS);
    return cluster;
  }

  /** The nodes that clients connect to first. */
  get startupNodes(): { host: string; port: number }[] {
    return this.nodes.map(({ port }) => ({ host: "127.0.0.1", port }));
  }

  /** The port of the master that serves a slot. */
  async masterOf(slot: number): Promise<number> {
    const lines = (await this.nodes[0]!.run("cluster", "slots")).split("\n").map((x) => x.trim());
    // Each entry is the first and last slot, then the address, port and id of the master and of
    // each replica.
    for (let i = 0; i + 3 < lines.length; i++) {
      const [first, last, host, port] = lines.slice(i, i + 4);
      if (host === "127.0.0.1" && Number(first) <= slot && slot <= Number(last)) {
        return Number(port);
      }
    }
    throw new Error(`Slot ${slot} has no master`);
  }

  /** Moves a slot and its keys to another master. */
  async moveSlot(slot: number): Promise<void> {
    const port = await this.masterOf(slot);
    const from = this.nodes.find((node) => node.port === port)!;
    const to = this.nodes.find((node) => node.port !== port)!;
    const [fromId, toId] = [await from.run("cluster", "myid"), await to.run("cluster", "myid")];
    await to.run("cluster", "setslot", `${slot}`, "importing", fromId);
    await from.run("cluster", "setslot", `${slot}`, "migrating", toId);
    const keys = (await from.run("cluster", "getkeysinslot", `${slot}`, "1000")).split("\n");
    const target = ["127.0.0.1", `${to.port}`, "", "0", "5000", "keys"];
    if (keys[0] !== "") await from.run("migrate", ...target, ...keys);
    for (const node of [to, from]) await node.run("cluster", "setslot", `${slot}`, "node", toId);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.nodes.map((node) => node[Symbol.asyncDispose]()));
  }
}

async function isServing(node: RedisServer): Promise<void> {
  while (!(await node.run("cluster", "info")).includes("cluster_state:ok")) await delay(50);
  const isFilling = async () =>
    (await node.run("info", "replication")).includes("master_link_status:down");
  while (await isFilling()) await delay(50);
}
