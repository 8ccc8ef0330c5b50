/**
 * A tour of the quiet cluster at the end of a run: guests on machines of their own reach each bound
 * once, and leave it again. No fault disturbs a tour, so that each answer and each time is known.
 */
import type { Client } from "../../../../client/client.ts";
import type { ConnectOptions } from "../../../../client/connect.ts";
import type { Host } from "../../../../testing/simulation/host.ts";
import type { SimulatedNetwork } from "../../../../testing/simulation/network/network.ts";
import { simulatedClient } from "../../../../testing/simulation/programs.ts";
import type { Simulation } from "../../../../testing/simulation/simulation.ts";
import type { Facts } from "../../facts.ts";
import type { Journal } from "../journal.ts";
import type { ClusterNode } from "../node.ts";
import type { Settings } from "../settings.ts";
import type { Tokens } from "../tokens.ts";
import { GUEST, type Holds } from "./holds.ts";

/** Time between two looks at a state, in milliseconds. */
const LOOK_MS = 20;

/** Longest wait for a state, in milliseconds. */
const PATIENCE_MS = 3_000;

/** Parts of a cluster for a tour. */
export interface TourParts {
  readonly simulation: Simulation;
  readonly network: SimulatedNetwork;
  readonly journal: Journal;
  readonly settings: Settings;
  readonly tokens: Tokens;
  readonly holds: Holds;
  /** The nodes, all of which run. */
  readonly nodes: readonly ClusterNode[];
}

/** One part of a tour. */
export type Visit = (tour: Tour) => Promise<void>;

/** A tour: the tools of all visits. */
export class Tour {
  /** The network. */
  readonly network: SimulatedNetwork;
  /** The settings. */
  readonly settings: Settings;
  /** Requests that nodes hold. */
  readonly holds: Holds;
  /** The nodes. */
  readonly nodes: readonly ClusterNode[];
  readonly #parts: TourParts;
  readonly #clients: { readonly host: Host; readonly client: Client }[] = [];

  /**
   * Prepares a tour.
   *
   * @param parts See {@linkcode TourParts}.
   */
  constructor(parts: TourParts) {
    this.#parts = parts;
    this.network = parts.network;
    this.settings = parts.settings;
    this.holds = parts.holds;
    this.nodes = parts.nodes;
  }

  /** Virtual time, in milliseconds. */
  get nowMs(): number {
    return this.#parts.simulation.nowMs;
  }

  /**
   * Makes visits side by side. Each has machines and users of its own.
   *
   * @param visits The visits.
   */
  async run(visits: readonly Visit[]): Promise<void> {
    await Promise.all(visits.map(async (visit) => {
      try {
        await visit(this);
      } catch (error) {
        this.#parts.journal.tell("unhandled", "", { error });
      }
    }));
    const left = this.#clients.filter(({ host }) => host.isAlive);
    await Promise.all(left.map(({ client }) => client.close()));
  }

  /**
   * Ends a node by a loss of power, and starts the node again.
   *
   * @param node The node.
   * @param lastsMs Time until the next start.
   */
  bury(node: ClusterNode, lastsMs: number): void {
    const { journal, simulation } = this.#parts;
    const { name: target } = node.host;
    journal.fault({ scope: "node", kind: "power", target, lastsMs }, "loses its power on the tour");
    node.host.kill({ power: true });
    simulation.after(lastsMs, () => node.restart());
  }

  /**
   * Makes the machine of a guest.
   *
   * @param name Name of the machine.
   * @returns The host.
   */
  host(name: string): Host {
    const { simulation } = this.#parts;
    return simulation.hosts.get(GUEST + name) ?? simulation.host(GUEST + name);
  }

  /**
   * Picks the node of a visit: another one for each visit and each seed.
   *
   * @param number Number of the visit.
   * @returns The node.
   */
  node(number: number): ClusterNode {
    return this.nodes[(this.#parts.simulation.seed + number) % this.nodes.length]!;
  }

  /** Makes the token of a guest. */
  token(name: string): string {
    return this.#parts.tokens.make(GUEST + name);
  }

  /**
   * Connects a guest over WebSocket.
   *
   * @param host The machine.
   * @param name Name of the user.
   * @param node The node.
   * @param options Options of `connect`.
   * @returns The client, which the tour closes.
   */
  guest(host: Host, name: string, node: ClusterNode, options: ConnectOptions = {}): Client {
    const client = simulatedClient(this.network, host, [node.host], {
      token: () => this.token(name),
      transports: ["websocket"],
      onMessage: () => {},
      onError: () => {},
      onRefused: () => {},
      ...options,
    });
    this.#clients.push({ host, client });
    return client;
  }

  /** Lets time pass, in milliseconds. */
  pause(ms: number): Promise<void> {
    return new Promise((resolve) => void this.#parts.simulation.after(ms, resolve));
  }

  /**
   * Waits for a state.
   *
   * @param isThere Tells if the state is there.
   * @param withinMs Longest wait.
   * @returns False after the longest wait.
   */
  async until(isThere: () => boolean, withinMs: number = PATIENCE_MS): Promise<boolean> {
    const endMs = this.nowMs + withinMs;
    while (!isThere()) {
      if (this.nowMs >= endMs) return false;
      await this.pause(LOOK_MS);
    }
    return true;
  }

  /**
   * Waits for the outcome of the first attempt to connect.
   *
   * @param client The client.
   * @returns `connected`, or `refused` with the close code.
   */
  async outcome(client: Client): Promise<string> {
    await this.until(() => client.status.current.name !== "connecting");
    const { current } = client.status;
    return "cause" in current ? `refused ${current.cause.code}` : current.name;
  }

  /**
   * Tells what came out.
   *
   * @param part The part that was examined.
   * @param what The operation.
   * @param expected The outcome that the documentation promises.
   * @param received The outcome.
   */
  examine(
    part: Facts["examined"]["part"],
    what: string,
    expected: string,
    received: string | number | boolean,
  ): void {
    this.#parts.journal.tell("examined", "", { part, what, expected, received: `${received}` });
  }

  /**
   * Examines the time at which a promise settles, and how.
   *
   * @param part The part that is examined.
   * @param what The operation.
   * @param promise The promise.
   * @param expected Name of the error, or `fulfilled`, and the times.
   */
  async settles(
    part: Facts["examined"]["part"],
    what: string,
    promise: Promise<unknown>,
    { as, fromMs, toMs }: { readonly as: string; readonly fromMs: number; readonly toMs: number },
  ): Promise<void> {
    const startMs = this.nowMs;
    let outcome = "pending";
    let tookMs = 0;
    promise.then(() => "fulfilled", nameOfError).then((name) => {
      outcome = name;
      tookMs = this.nowMs - startMs;
    });
    await this.until(() => outcome !== "pending", toMs + LOOK_MS);
    const isInTime = tookMs >= fromMs && tookMs <= toMs;
    this.examine(
      part,
      what,
      `${as} after ${fromMs} to ${toMs} ms`,
      outcome === as && isInTime
        ? `${as} after ${fromMs} to ${toMs} ms`
        : `${outcome} after ${Math.round(tookMs || this.nowMs - startMs)} ms`,
    );
  }
}

/**
 * Names an error.
 *
 * @param error The error.
 * @returns Name of the class, with the code of a refusal.
 */
export function nameOfError(error: unknown): string {
  const { name = typeof error, failure } = Object(error) as {
    readonly name?: string;
    readonly failure?: { readonly code: string };
  };
  return failure === undefined ? name : `${name} ${failure.code}`;
}
