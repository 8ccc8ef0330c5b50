/** Hosts on one virtual time, whose whole run follows from one seed. */
import { EventLoop } from "./event_loop.ts";
import { type ClockFaults, Host } from "./host.ts";

/**
 * Hosts on one virtual time, in one process. Each host draws from sequences of random numbers of its
 * own, so that a host more or less changes no draw of another one.
 *
 * @example A server that is killed, and a client that comes back
 * ```ts
 * import {
 *   simulatedClient,
 *   SimulatedNetwork,
 *   SimulatedServer,
 *   Simulation,
 * } from "@skein/skein/simulation";
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
   * Adds a host: a machine with one process, a clock and chance of its own.
   *
   * @param name Name of the host, once in a simulation.
   * @param clock Faults of the clock from the start; none by default.
   * @returns The host, which runs.
   * @throws {TypeError} If the name is taken.
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
