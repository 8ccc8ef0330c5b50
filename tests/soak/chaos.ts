/**
 * The chaos test. While messages are published, nodes are killed, drained and restarted, the broker
 * is killed and restarted, and clients lose their network. The test then compares the logs of all
 * published and received messages: either each message arrives exactly once and in order, or a gap
 * is reported with a correct reason.
 *
 * @module
 */
import { type BrokerName, type BrokerServer, startBroker } from "./chaos/broker.ts";
import { Fleet } from "./chaos/fleet.ts";
import { judge } from "./chaos/judge.ts";
import type { Outage } from "./chaos/log.ts";
import { sleep } from "./processes/processes.ts";
import type { Check } from "./webtransport.ts";

const NODES = 4;

const TOPICS_EACH = 5;

/** Messages per second over all topics, for each of the two publishers. */
const PER_SECOND = 40;

interface Times {
  readonly clients: number;
  readonly totalMs: number;
  /** Interval between two failures of a node or the network. */
  readonly betweenMs: number;
  /** Interval between two kills of the broker. */
  readonly betweenBrokersMs: number;
  readonly drainMs: number;
}

const SHORT: Times = {
  clients: 100,
  totalMs: 14_000,
  betweenMs: 1_500,
  betweenBrokersMs: 6_000,
  drainMs: 1_000,
};

const LONG: Times = {
  clients: 400,
  totalMs: 300_000,
  betweenMs: 4_000,
  betweenBrokersMs: 45_000,
  drainMs: 3_000,
};

export const BROKERS: readonly BrokerName[] = [
  "redis",
  "redis-aof",
  "redis-snapshot",
  "nats",
  "nats-kept",
];

/**
 * The brokers of the short run if the arguments name no broker: one that loses all data when it is
 * killed, and one that loses none.
 */
const SHORT_BROKERS: readonly BrokerName[] = ["redis", "nats-kept"];

/** Runs the test on each of the given brokers, or on all brokers. */
export async function soakChaos(
  check: Check,
  isShort: boolean,
  names: readonly BrokerName[] = [],
): Promise<void> {
  const all = isShort ? SHORT_BROKERS : BROKERS;
  for (const name of names.length === 0 ? all : names) {
    await new Chaos(name, isShort ? SHORT : LONG).run(check);
  }
}

class Chaos {
  readonly #name: BrokerName;
  readonly #times: Times;
  readonly #outages: Outage[] = [];
  readonly #blows: Record<string, number> = {};

  constructor(name: BrokerName, times: Times) {
    this.#name = name;
    this.#times = times;
  }

  async run(check: Check): Promise<void> {
    const { clients, totalMs } = this.#times;
    await using broker = await startBroker(this.#name);
    await using fleet = await Fleet.start(broker, { nodes: NODES });
    await fleet.begin({ clients, topicsEach: TOPICS_EACH, perSecond: PER_SECOND });
    const end = Date.now() + totalMs;
    await Promise.all([this.#strike(fleet, end), this.#strikeBroker(broker, end)]);
    judge(check, await fleet.settle(), {
      title: `chaos on ${this.#name}`,
      blows: Object.entries(this.#blows).map(([what, times]) => `${times} x ${what}`).join(", "),
      clients,
      outages: this.#outages,
    });
  }

  /** Disturbs nodes and the network in turn. */
  async #strike(fleet: Fleet, end: number): Promise<void> {
    const { betweenMs, drainMs, clients } = this.#times;
    const { nodes, balancer } = fleet;
    for (let i = 0; Date.now() + betweenMs < end; i++) {
      await sleep(betweenMs);
      const node = nodes[i % NODES]!;
      switch (i % 3) {
        case 0:
          this.#count("kill -9 of a node");
          await fleet.kill(node);
          await fleet.restart(node);
          break;
        case 1:
          this.#count("network lost by a fifth of the clients");
          balancer.cut(clients / 5);
          break;
        case 2:
          this.#count("drain of a node");
          fleet.use(nodes.filter((other) => other !== node));
          await node.process.ask(`drain ${drainMs}`);
          await node.process.end();
          await fleet.restart(node);
          fleet.use(nodes);
      }
    }
  }

  async #strikeBroker(broker: BrokerServer, end: number): Promise<void> {
    const { betweenBrokersMs } = this.#times;
    for (let i = 0; Date.now() + betweenBrokersMs < end; i++) {
      await sleep(betweenBrokersMs);
      this.#count("kill -9 of the broker");
      const from = Date.now();
      await broker.kill();
      // Alternates between no delay and a delay.
      await sleep(i % 2 === 0 ? 0 : 2_000);
      await broker.restart();
      this.#outages.push({ from, to: Date.now() });
    }
  }

  #count(blow: string): void {
    this.#blows[blow] = (this.#blows[blow] ?? 0) + 1;
  }
}
