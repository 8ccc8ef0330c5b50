/** SQLite, with faults of its disk and of the process that has the file open. */
import type { Broker } from "../../../pubsub/broker.ts";
import type { Host } from "../../simulator/host.ts";
import { SimulatedSqlite } from "../../simulator/sqlite/broker.ts";
import { SimulatedDisk } from "../../simulator/sqlite/disk.ts";
import type { ClusterStore, StoreFault, StoreParts } from "./store.ts";
import { NodePorts } from "./node_ports.ts";

/** Path of the file. */
const PATH = "cluster.db";

/** Time between the end of the process and its next start, in milliseconds. */
const RESTART_MS = 2_000;

/**
 * Time after a machine has booted during which opening a file that was not closed always starts a
 * new epoch, unless each commit is synced. See docs/deploy/sqlite.md, Durability.
 */
const YOUNG_MS = 5_000;

/** Points within a write or a sync at which the process ends or the disk fails. */
const DISK_FAULTS = ["error", "kill", "power"] as const;

/** Maximum number of disk operations before a fault. */
const MAX_OPERATIONS = 50;

/** Maximum number of consecutive operations that fail. */
const MAX_FAILURES = 5;

/**
 * One process that runs all nodes and has the file open, as with `serveWorkers`. If the process
 * ends, the nodes end too. A supervisor restarts the process.
 */
export class SqliteStore implements ClusterStore {
  /** Faults by kind. */
  readonly faults: ClusterStore["faults"] = {
    "broker-kill": () => this.#kill(false),
    "broker-power": () => this.#kill(true),
    "broker-full": () => this.#fill(),
    "broker-disk": (amount) => this.#fail(amount),
  };
  /** True, because one thread owns the file. */
  readonly hasExactRows = true;
  /** Called when the process is running again. */
  onRestart?: () => void;
  readonly #parts: StoreParts;
  readonly #host: Host;
  readonly #disk: SimulatedDisk;
  readonly #sqlite: SimulatedSqlite;
  readonly #synchronous: "full" | "normal";
  readonly #random: () => number;
  readonly #nodes = new Set<Host>();
  #open: { readonly broker: Broker; readonly ports: NodePorts } | undefined;
  #isClosed = false;

  private constructor(parts: StoreParts, sqlite: SimulatedSqlite) {
    const { simulation } = parts;
    this.#parts = parts;
    this.#host = simulation.host("broker");
    this.#disk = new SimulatedDisk(simulation, this.#host);
    this.#sqlite = sqlite;
    this.#random = simulation.chanceOf("sqlite");
    this.#synchronous = this.#random() < 0.5 ? "full" : "normal";
    this.#start();
  }

  /**
   * Starts the process, with an empty file.
   *
   * @param parts Parts of the cluster.
   */
  static async start(parts: StoreParts): Promise<SqliteStore> {
    return new SqliteStore(parts, await SimulatedSqlite.load(parts.simulation));
  }

  /** True while the process runs. */
  get isUp(): boolean {
    return this.#open !== undefined;
  }

  /** Creates the broker of a node for one life of the host. */
  broker(host: Host): Broker {
    this.#nodes.add(host);
    return this.#open!.ports.broker(host);
  }

  /** Ends the disk faults. The process restarts by itself. */
  heal(): void {
    this.#disk.heal();
  }

  /** Does nothing, because no globals were replaced. */
  [Symbol.dispose](): void {}

  /** Closes the file. */
  async close(): Promise<void> {
    this.#isClosed = true;
    await this.#open?.broker.close();
  }

  #start(): void {
    const { simulation, journal } = this.#parts;
    const host = this.#host;
    host.onEnd((isPowerLoss) => this.#end(isPowerLoss));
    if (this.#synchronous === "normal" && this.#disk.uptimeMs < YOUNG_MS) {
      journal.tell("brokerLost", host.name, { why: "the machine has just started" });
    }
    try {
      const broker = this.#sqlite.open(this.#disk, PATH, { synchronous: this.#synchronous });
      this.#open = { broker, ports: new NodePorts(simulation, host, broker) };
    } catch (error) {
      // The file could not be opened, so the program ends and the supervisor retries.
      simulation.note(`cannot open the file: ${error}`, host.name, { kind: "broker" });
      host.kill();
    }
  }

  #end(isPowerLoss: boolean): void {
    const { simulation, journal } = this.#parts;
    this.#open = undefined;
    for (const node of this.#nodes) node.kill({ power: isPowerLoss });
    if (isPowerLoss && this.#synchronous === "normal") {
      journal.tell("brokerLost", this.#host.name, { why: "unsynced writes" });
    }
    simulation.after(RESTART_MS, () => {
      if (this.#isClosed) return;
      this.#host.start();
      this.#start();
      if (this.isUp) this.onRestart?.();
    });
  }

  #kill(power: boolean): StoreFault | undefined {
    if (!this.isUp) return undefined;
    this.#host.kill({ power });
    return { text: `the machine of all nodes ${power ? "loses its power" : "kills the process"}` };
  }

  #fill(): StoreFault {
    this.#disk.fail({ kind: "full", times: Infinity });
    return { text: "the disk is full", heal: () => this.#disk.heal() };
  }

  #fail(amount: number): StoreFault {
    const kind = DISK_FAULTS[Math.floor(amount * DISK_FAULTS.length)]!;
    const operation = this.#random() < 0.6 ? "write" : "sync";
    const after = Math.floor(this.#random() * MAX_OPERATIONS);
    const times = 1 + Math.floor(this.#random() * MAX_FAILURES);
    this.#disk.fail({ kind, operation, after, times });
    return {
      text: `${kind} of the disk at a ${operation}, after ${after} more`,
      heal: () => this.#disk.heal(),
    };
  }
}
