/** Nodes for the examination of users, on an engine of their own that may lose all claims. */
import { SimulatedServer } from "../../../../../testing/simulation/programs.ts";
import type { SimulatedServerOptions } from "../../../../../testing/simulation/programs.ts";
import type { Contract } from "../../../../../session/contract.ts";
import type { Host } from "../../../../../testing/simulation/host.ts";
import type { Audit } from "../audit.ts";
import { ForgetfulBroker } from "./forgetful_broker.ts";

/** Number of nodes, if a part needs no other number. */
const NODES = 2;

/** A node; the token of a client is the name of the user. */
export type UserNode = SimulatedServer<string>;

/** Options of the servers. */
export type UserNodeOptions = Partial<SimulatedServerOptions<string, Contract>>;

/** The nodes and the engine. */
export class UserNodes {
  /** The nodes. */
  readonly all: readonly UserNode[];
  /** The engine. */
  readonly engine: ForgetfulBroker;
  /** The machines of the engine and the nodes. */
  readonly #hosts: readonly Host[];

  /**
   * Starts the nodes.
   *
   * @param audit The audit.
   * @param name Beginning of the names of the machines.
   * @param options Options of each server beside the broker and the identity.
   * @param canCount True if the nodes share rates.
   * @param speed See {@linkcode UserNodes.hurry}.
   * @param count Number of nodes.
   */
  constructor(
    audit: Audit,
    name: string,
    options: UserNodeOptions,
    { canCount = false, speed = 1, count = NODES }: {
      readonly canCount?: boolean;
      readonly speed?: number;
      readonly count?: number;
    } = {},
  ) {
    const engineHost = audit.host(`${name}-engine`);
    this.engine = new ForgetfulBroker(engineHost, canCount);
    const ports = audit.portsOf(engineHost, this.engine);
    const hosts = Array.from({ length: count }, (_, i) => audit.host(`${name}-node${i}`));
    this.#hosts = [engineHost, ...hosts];
    // Before the nodes start: a timer keeps the speed at which the clock ran when the timer was set.
    this.hurry(speed);
    this.all = hosts.map(
      (own) =>
        new SimulatedServer<string>(audit.network, own, (host) => ({
          broker: ports.broker(host),
          allowTokenMessage: true,
          authenticate: ({ token = "nobody" }) => token,
          authorize: () => true,
          onMessage() {},
          ...options,
        })),
    );
  }

  /** Resolves once the nodes know each other. */
  async ready(): Promise<void> {
    await Promise.all(this.all.map(({ server }) => server.nodes!.ready));
  }

  /**
   * Lets the clocks of nodes and engine run fast.
   *
   * @param times How many times as fast as the clocks of clients.
   */
  hurry(times: number): void {
    for (const host of this.#hosts) host.setDrift(times - 1);
  }

  /** Closes the servers. */
  async close(): Promise<void> {
    await Promise.all(this.all.map(({ server }) => server.close()));
  }
}
