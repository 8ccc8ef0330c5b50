/** Hosts on one virtual time, whose whole run is determined by one seed. */
import { EventLoop } from "./event_loop.ts";
import { type ClockFaults, Host } from "./host.ts";

/**
 * Hosts on one virtual time, in one process. Each host has its own sequences of random numbers, so
 * that adding or removing a host does not change the others.
 *
 * @example A server that is killed, and a client that reconnects
 * ```ts
 * import {
 *   simulatedClient,
 *   SimulatedNetwork,
 *   SimulatedServer,
 *   Simulation,
 * } from "./mod.ts";
 * import { assertEquals } from "@std/assert";
 *
 * const simulation = new Simulation({ seed: 1 });
 * const network = new SimulatedNetwork(simulation, { delayMs: 20, lossRate: 0.01 });
 * const server = new SimulatedServer(network, simulation.host("server"), () => ({
 *   requests: { double: ({ data }) => Number(data) * 2 },
 * }));
 * const client = simulatedClient(network, simulation.host("client"), [server.host]);
 * simulation.after(1_000, () => server.host.kill());
 * simulation.after(5_000, () => server.restart());
 *
 * const answers: unknown[] = [];
 * simulation.after(60_000, async () => answers.push(await client.request("double", 21)));
 * await simulation.run(61_000); // A minute that takes some milliseconds.
 * assertEquals(answers, [42]);
 * ```
 */
export class Simulation extends EventLoop {
  readonly #hosts = new Map<string, Host>();

  /** The host of the running event; `undefined` for the scenario, and between two runs. */
  override get current(): Host | undefined {
    return super.current as Host | undefined;
  }

  /** All hosts by name. */
  get hosts(): ReadonlyMap<string, Host> {
    return this.#hosts;
  }

  /**
   * Adds a host: a machine with one process and its own clock and random numbers.
   *
   * @param name Name of the host, unique in a simulation.
   * @param clock Faults of the clock from the start; none by default.
   * @returns The running host.
   * @throws {TypeError} If the name is already used.
   */
  host(name: string, clock: ClockFaults = {}): Host {
    if (this.#hosts.has(name)) {
      throw new TypeError(`Cannot add host: the name must be new, received "${name}"`);
    }
    const host = new Host(this, name, clock);
    this.#hosts.set(name, host);
    return host;
  }
}
