/** Tools for programs on separate machines that examine an idle cluster. */
import type { Client } from "../../../client/client.ts";
import type { ConnectOptions } from "../../../client/connect.ts";
import type { Host } from "../../simulator/host.ts";
import type { LinkConditions } from "../../simulator/network/conditions.ts";
import type { SimulatedNetwork } from "../../simulator/network/network.ts";
import { simulatedClient } from "../../simulator/programs.ts";
import type { Simulation } from "../../simulator/simulation.ts";
import type { Facts } from "../facts.ts";
import type { Journal } from "./journal.ts";
import type { Settings } from "./settings.ts";
import type { Tokens } from "./tokens.ts";

/** Interval between checks of a state, in milliseconds. */
export const LOOK_MS = 20;

/** Number of checks of a machine's timers. */
const TIMER_LOOKS = 5;

/**
 * The host of a server, several hosts in the order of the connection attempts, or a function that
 * returns the host for each attempt.
 */
export type ServerHosts = Host | readonly Host[] | (() => Host | Promise<Host>);

/** The parts of a cluster that an {@linkcode Examination} uses. */
export interface ExaminationParts {
  readonly simulation: Simulation;
  readonly network: SimulatedNetwork;
  readonly journal: Journal;
  readonly settings: Settings;
  readonly tokens: Tokens;
}

/** The tools of an examination: it creates machines and clients, and waits for states. */
export abstract class Examination {
  /** The name of the examination. */
  abstract readonly name: string;
  readonly network: SimulatedNetwork;
  readonly settings: Settings;
  readonly tokens: Tokens;
  readonly simulation: Simulation;
  protected readonly journal: Journal;
  readonly #prefix: string;
  readonly #patienceMs: number;
  readonly #clients: { readonly host: Host; readonly client: Client }[] = [];

  /**
   * Creates an examination.
   *
   * @param parts See {@linkcode ExaminationParts}.
   * @param prefix Prefix of the names of machines and users.
   * @param patienceMs Maximum wait for a state, in milliseconds.
   */
  constructor(parts: ExaminationParts, prefix: string, patienceMs: number) {
    this.network = parts.network;
    this.settings = parts.settings;
    this.tokens = parts.tokens;
    this.journal = parts.journal;
    this.simulation = parts.simulation;
    this.#prefix = prefix;
    this.#patienceMs = patienceMs;
  }

  /** Virtual time, in milliseconds. */
  get nowMs(): number {
    return this.simulation.nowMs;
  }

  /** Lets time pass, in milliseconds. */
  abstract pause(ms: number): Promise<void>;

  /**
   * Returns the machine with the given name, and creates it if needed.
   *
   * @param name Name of the machine.
   */
  host(name: string): Host {
    const { simulation } = this;
    return simulation.hosts.get(this.#prefix + name) ?? simulation.host(this.#prefix + name);
  }

  /** Creates the token of a user. */
  token(name: string): string {
    return this.tokens.make(this.#prefix + name);
  }

  /**
   * Waits for a state.
   *
   * @param isThere Returns true once the state is reached.
   * @param withinMs Maximum wait, in milliseconds.
   * @returns False if the state is not reached within the maximum wait.
   */
  async until(isThere: () => boolean, withinMs: number = this.#patienceMs): Promise<boolean> {
    const endMs = this.nowMs + withinMs;
    while (!isThere()) {
      if (this.nowMs >= endMs) return false;
      await this.pause(LOOK_MS);
    }
    return true;
  }

  /**
   * Waits for a promise.
   *
   * @param withinMs Maximum wait, in milliseconds.
   * @param late The result if the promise takes longer.
   * @returns The result of the promise, or `late`.
   */
  inTime<T, L>(promise: Promise<T>, withinMs: number, late: L): Promise<T | L> {
    return Promise.race([promise, this.pause(withinMs).then(() => late)]);
  }

  /**
   * Blocks or unblocks both directions between two machines.
   *
   * @param one A machine.
   * @param other The other machine.
   * @param isBlocked True to block, false to unblock.
   */
  block(one: Host, other: Host, isBlocked = true): void {
    this.change(one, other, { isBlocked });
  }

  /**
   * Changes both directions between two machines.
   *
   * @param one A machine.
   * @param other The other machine.
   * @param conditions The conditions that change.
   */
  change(one: Host, other: Host, conditions: Partial<LinkConditions>): void {
    this.network.change(one, other, conditions);
    this.network.change(other, one, conditions);
  }

  /**
   * Reports an outcome.
   *
   * @param part The examined part of the library.
   * @param what The operation.
   * @param expected The documented outcome.
   * @param received The outcome.
   */
  examine(
    part: Facts["examined"]["part"],
    what: string,
    expected: unknown,
    received: unknown,
  ): void {
    const text = (value: unknown) =>
      typeof value === "string" ? value : JSON.stringify(value) ?? "undefined";
    this.journal.tell("examined", "", {
      part,
      what,
      expected: text(expected),
      received: text(received),
    });
  }

  /**
   * Counts the timers of a machine. The result is the minimum of several checks, because packets
   * come and go in between.
   *
   * @param host The machine.
   */
  async timersOf(host: Host): Promise<number> {
    let fewest = Infinity;
    for (let look = 0; look < TIMER_LOOKS; look++) {
      let count = 0;
      for (const event of this.simulation.pending()) if (event.host === host) count++;
      fewest = Math.min(fewest, count);
      await this.pause(LOOK_MS);
    }
    return fewest;
  }

  /** Connects a client over WebSocket. {@linkcode closeClients} closes it. */
  protected open(host: Host, server: ServerHosts, options: ConnectOptions): Client {
    const servers = typeof server === "function" ? server : [server].flat();
    const client = simulatedClient(this.network, host, servers, {
      transports: ["websocket"],
      endOnRejection: true,
      ...options,
    });
    const name = `${this.name}/${host.name}.${this.#clients.push({ host, client })}`;
    const isBounded = options.backoff?.maxAttempts !== undefined;
    client.status.observe((status) => {
      this.journal.tell("clientStatus", host.name, { client: name, status, isBounded });
    });
    return client;
  }

  /** Closes all clients, except those on machines that have ended. */
  protected async closeClients(): Promise<void> {
    const left = this.#clients.filter(({ host }) => host.isAlive);
    await Promise.all(left.map(({ client }) => client.close()));
  }
}
