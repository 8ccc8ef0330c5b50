/**
 * Compares real storms with predictions of the model, whose costs come from storms of other sizes.
 */
import { TOPICS } from "../../tests/soak/chaos/broker.ts";
import { measureStorm, PER_SECOND, SPARE } from "../../tests/soak/storm.ts";
import { type Costs, NATS_COSTS, REDIS_COSTS } from "./costs.ts";
import type { FleetOptions, FleetResult } from "./fleet.ts";
import { moveToSpareNodes } from "./scenarios.ts";

/** Sizes of the storms that measure the costs. */
const CALIBRATION: readonly [number, number] = [500, 2_500];

/**
 * Default share of the machine that other programs may use, at most; otherwise a storm does not
 * count.
 */
const MOST_FOREIGN = 0.15;

export type StormBroker = "redis" | "nats";

/** Costs of the brokers, for the parts that storms don't measure. */
const COSTS: Readonly<Record<StormBroker, Costs>> = { redis: REDIS_COSTS, nats: NATS_COSTS };

/** Publisher processes in the test. */
const PUBLISHERS = 2;

/** Client processes in the test. */
const CLIENT_PROCESSES = 2;

/** Time until which the model of the test publishes, in milliseconds. */
const MODEL_MS = 60_000;

/** Measurements of a real storm. Times are in milliseconds. */
export interface StormFigures {
  readonly clients: number;
  /** Time from the kill until half, 99 % and all were back. */
  readonly halfMs: number;
  readonly mostMs: number;
  readonly allMs: number;
  /** Length of the measured interval, which starts with the kill. */
  readonly ms: number;
  /**
   * CPU times in that interval: of the nodes that took over, the clients, and the rest of the test.
   */
  readonly nodesCpuMs: number;
  readonly clientsCpuMs: number;
  readonly restCpuMs: number;
  /** CPU times per second after the storm, of nodes and clients. */
  readonly nodesCalmMs: number;
  readonly clientsCalmMs: number;
  /** Time until the killed process was gone. */
  readonly endMs: number;
  /** Share of the machine that other programs used during the storm, from 0 to 1. */
  readonly foreign: number;
}

/** Costs of the test on this machine, for {@linkcode predict}. */
export interface LocalCosts {
  /** Costs of the parts. */
  readonly costs: Costs;
  /** Share of a core that publishers, broker, test and timers use. */
  readonly restLoad: number;
}

/**
 * Runs a storm.
 *
 * @param clients Number of clients.
 * @returns The measurements.
 */
export async function runStorm(clients: number, broker: StormBroker): Promise<StormFigures> {
  const result = await measureStorm({ broker, clients, hasUsers: false });
  const { delays, load, calm } = result;
  const at = (part: number) => delays[Math.ceil(clients * part) - 1] ?? Infinity;
  return {
    clients,
    halfMs: at(0.5),
    mostMs: at(0.99),
    allMs: at(1),
    ms: load.ms,
    nodesCpuMs: result.nodesCpuMs,
    clientsCpuMs: result.clientsCpuMs,
    restCpuMs: result.restCpuMs,
    nodesCalmMs: calm.nodes,
    clientsCalmMs: calm.clients,
    endMs: result.endMs,
    foreign: result.foreign,
  };
}

/**
 * Derives the model's costs from storms. After a storm, CPU time grows linearly with the number of
 * deliveries; a line fitted through all storms yields the cost of a delivery. The rest of a storm's
 * CPU time is the work of its reconnects. Storms of two sizes yield its cost per session and the
 * warm-up of the nodes.
 *
 * @param storms Storms of all sizes.
 * @param broker Their broker.
 */
export function costsOf(
  storms: readonly StormFigures[],
  broker: StormBroker = "redis",
): LocalCosts {
  const [small, large] = CALIBRATION;
  const few = storms.filter(({ clients }) => clients === small);
  const many = storms.filter(({ clients }) => clients === large);
  if (few.length === 0 || many.length === 0) {
    throw new Error(`Cannot derive costs: needs storms of ${small} and of ${large} clients`);
  }
  const known = [...few, ...many];
  // In milliseconds per second, per client.
  const nodesLoad = growth(storms.map(({ clients, nodesCalmMs }) => [clients, nodesCalmMs]));
  const clientsLoad = growth(storms.map(({ clients, clientsCalmMs }) => [clients, clientsCalmMs]));
  const onNodes = ({ nodesCpuMs, clients, ms }: StormFigures) =>
    nodesCpuMs - nodesLoad * clients * ms / 1_000;
  const onClients = ({ clientsCpuMs, clients, ms }: StormFigures) =>
    clientsCpuMs - clientsLoad * clients * ms / 1_000;
  const [low, high] = [mean(few.map(onNodes)), mean(many.map(onNodes))];
  const nodeMs = (high - low) / (large - small);
  const deliveriesPerSecond = PUBLISHERS * PER_SECOND / TOPICS;
  const costs = {
    ...COSTS[broker],
    sessionMs: nodeMs / 2,
    subscriptionMs: nodeMs / 2,
    warmUpMs: Math.max(0, low - nodeMs * small) / SPARE,
    closeMs: mean(many.map(({ endMs }) => endMs)) / large,
    deliveryMs: nodesLoad / deliveriesPerSecond,
    clientMs: mean(known.map((storm) => onClients(storm) / storm.clients)),
    clientDeliveryMs: clientsLoad / deliveriesPerSecond,
  };
  return { costs, restLoad: mean(known.map(({ restCpuMs, ms }) => restCpuMs / ms)) };
}

/** Slope of the line through points, by least squares. */
function growth(points: readonly (readonly [number, number])[]): number {
  const [x, y] = [mean(points.map(([x]) => x)), mean(points.map(([, y]) => y))];
  const slope = mean(points.map((p) => (p[0] - x) * (p[1] - y))) /
    mean(points.map((p) => (p[0] - x) ** 2));
  return Math.max(0, slope);
}

/**
 * Predicts the costs of a storm in the soak test, which runs all nodes, clients and the broker on
 * one machine.
 *
 * @param clients Number of clients.
 * @param local Costs; see {@linkcode costsOf}.
 * @param cores Number of the machine's cores, minus those that other programs use.
 */
export function predict(clients: number, local: LocalCosts, cores: number): FleetResult {
  const options: FleetOptions = {
    sessions: clients,
    nodes: 1 + SPARE,
    nodesPerMachine: 1 + SPARE,
    coresPerMachine: cores,
    topics: TOPICS,
    topicsEach: 1,
    hasUsers: false,
    shards: 1,
    usualLoad: 0,
    firstDelayMs: 200,
    maxDelayMs: 3_000,
    connectTimeoutMs: 10_000,
    clientWayMs: 0.05,
    brokerWayMs: 0.05,
    balancer: "random",
    local: {
      processes: CLIENT_PROCESSES,
      perSecond: PUBLISHERS * PER_SECOND,
      restLoad: local.restLoad,
      untilMs: MODEL_MS,
    },
    costs: local.costs,
    seed: 1,
  };
  return moveToSpareNodes(options, 1);
}

/**
 * Runs storms, and prints their measurements next to the predictions.
 *
 * @param sizes Numbers of clients.
 * @param options Number of `runs` of each size, and the `log` to which their measurements are
 * appended. Earlier runs in the log are also evaluated. `broker` is the broker, and `maxForeign` the
 * share of the machine that other programs may use: predictions leave it out.
 * @param say Prints a line.
 */
export async function compare(
  sizes: readonly number[],
  options: {
    readonly runs: number;
    readonly log: string | undefined;
    readonly broker: StormBroker;
    readonly maxForeign?: number;
  },
  say: (text: string) => void,
): Promise<void> {
  const { runs, log, broker, maxForeign = MOST_FOREIGN } = options;
  const storms = log === undefined ? [] : await readLog(log);
  for (let run = 0; run < runs; run++) {
    for (const clients of sizes) {
      const storm = await runStorm(clients, broker);
      storms.push(storm);
      say(JSON.stringify(storm));
      if (log !== undefined) {
        await Deno.writeTextFile(log, `${JSON.stringify(storm)}\n`, { append: true });
      }
    }
  }
  const valid = storms.filter(({ foreign }) => foreign <= maxForeign);
  say(`${storms.length - valid.length} of ${storms.length} storms do not count: a busy machine`);
  const local = costsOf(valid, broker);
  // A prediction must not use storms of its own size.
  const isKnown = (clients: number) => CALIBRATION.some((size) => size === clients);
  say(JSON.stringify({ ...local.costs, broker: undefined, restLoad: local.restLoad }));
  say("| clients | runs | others | half back: model; real | 99 % | all |");
  say("| --- | --- | --- | --- | --- | --- |");
  for (const [clients, all] of Map.groupBy(valid, ({ clients }) => clients)) {
    const foreign = median(all.map(({ foreign }) => foreign));
    const others = valid.filter((storm) => isKnown(storm.clients) || storm.clients !== clients);
    const model = predict(
      clients,
      costsOf(others, broker),
      navigator.hardwareConcurrency * (1 - foreign),
    );
    const cells = (["halfMs", "mostMs", "allMs"] as const).map((key) => {
      const real = all.map((storm) => storm[key]).sort((a, b) => a - b);
      const texts = [real[0]!, median(real), real.at(-1)!].map(seconds);
      return `${seconds(model[key])}; ${texts.join(", ")} (${
        (model[key] / median(real)).toFixed(2)
      })`;
    });
    say(`| ${clients} | ${all.length} | ${(foreign * 100).toFixed(0)} % | ${cells.join(" | ")} |`);
  }
}

async function readLog(path: string): Promise<StormFigures[]> {
  try {
    return (await Deno.readTextFile(path)).trim().split("\n").map((line) => JSON.parse(line));
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return [];
    throw error;
  }
}

function mean(values: readonly number[]): number {
  return values.reduce((all, value) => all + value, 0) / values.length;
}

function median(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)]!;
}

function seconds(ms: number): string {
  return `${(ms / 1_000).toPrecision(3)} s`;
}
