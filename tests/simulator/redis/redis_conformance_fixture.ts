/**
 * Runs the requirements of every broker for RedisBroker on a simulated Redis, in virtual time.
 *
 * @module
 */
import { testBroker } from "../../../pubsub/conformance/suite.ts";
import { testBrokerLogs } from "../../../streams/conformance/suite.ts";
import { RedisBroker } from "../../../brokers/redis/mod.ts";
import { installGlobals } from "../globals.ts";
import { SimulatedNetwork } from "../network/network.ts";
import { Simulation } from "../simulation.ts";
import { SimulatedRedis } from "./redis.ts";

/** Longest virtual time of a test, in milliseconds. */
const PATIENCE_MS = 120_000;

/** A test of the suite. */
export interface Requirement {
  readonly name: string;
  readonly fn: () => void | Promise<void>;
}

/** Clock error of each further node, in milliseconds. */
const AHEAD_MS = 20_000;

/** Runs each requirement in its own simulation. */
export class Bench {
  simulation = new Simulation({ seed: 0 });
  network = new SimulatedNetwork(this.simulation);
  redis!: SimulatedRedis;
  #nodes = 0;

  node(): RedisBroker {
    // Leases and expiry follow the broker's clock, not the nodes' clocks.
    const offsetMs = this.#nodes * AHEAD_MS;
    const host = this.simulation.host(`node${this.#nodes++}`, { offsetMs });
    return new RedisBroker({ client: this.redis.client(host) }, { runtime: host.runtime });
  }

  /** Runs a requirement; returns the digest of its simulation. */
  async run({ name, fn }: Requirement, seed: number): Promise<string> {
    const simulation = this.simulation = new Simulation({ seed });
    const network = this.network = new SimulatedNetwork(simulation);
    const hosts = [simulation.host("redis"), simulation.host("replica")] as const;
    this.redis = await SimulatedRedis.create({ simulation, network, hosts });
    this.#nodes = 0;
    let result: { readonly error?: unknown } | undefined;
    using _globals = installGlobals(simulation);
    simulation.after(0, () => {
      Promise.resolve(fn()).then(() => result = {}, (error) => result = { error });
    });
    for (let ms = 0; result === undefined && ms < PATIENCE_MS; ms += 1_000) {
      await simulation.run(1_000);
    }
    if (result === undefined) throw new Error(`${name}: expected an end within ${PATIENCE_MS} ms`);
    if ("error" in result) throw new Error(`${name}: seed ${seed}`, { cause: result.error });
    return simulation.digest;
  }
}

/** Collects the tests of the suite, instead of `Deno.test`. */
export function requirementsOf(bench: Bench): Requirement[] {
  const all: Requirement[] = [];
  const registry: { test: unknown } = Deno;
  const { test } = registry;
  try {
    registry.test = (requirement: Requirement) => void all.push(requirement);
    for (const suite of [testBroker, testBrokerLogs]) {
      suite("RedisBroker", () => bench.node(), {
        makePair: () => [bench.node(), bench.node()],
        skipSlow: true,
      });
    }
  } finally {
    registry.test = test;
  }
  return all;
}
