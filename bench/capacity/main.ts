/**
 * Models a service of up to a million sessions: lost nodes, a restarted balancer, a deploy, a topic
 * with many subscribers. Prints tables in Markdown.
 *
 * ```sh
 * deno task bench:capacity
 * deno task bench:capacity --real 1000,5000,15000
 * ```
 *
 * `--real` runs the storm of the soak test with that many clients, beside the prediction of the
 * model. The model then has the costs that one storm of 2,500 clients measured before. Needs
 * `redis-server`, an idle machine, and as many open files.
 *
 * @module
 */
import { argument } from "../args.ts";
import { measureStorm } from "../../tests/soak/storm.ts";
import { TOPICS } from "../../tests/soak/chaos/engine.ts";
import { type Costs, REDIS_COSTS } from "./costs.ts";
import type { FleetOptions, FleetResult } from "./fleet.ts";
import { deploy, hotTopic, loseNodes, moveToSpareNodes, restartBalancer } from "./scenarios.ts";

/** Clients of the storm that measures the costs. */
const CALIBRATION = 2_500;

/** A million users on 50 nodes: rooms of five users, three for each. */
const MILLION: FleetOptions = {
  sessions: 1_000_000,
  nodes: 50,
  nodesPerMachine: 8,
  coresPerMachine: 8,
  topics: 600_000,
  topicsEach: 3,
  hasUsers: true,
  shards: 9,
  usualLoad: 0.3,
  firstDelayMs: 500,
  maxDelayMs: 30_000,
  connectTimeoutMs: 10_000,
  clientWayMs: 20,
  engineWayMs: 0.5,
  balancer: "least",
  localClients: 0,
  costs: REDIS_COSTS,
  seed: 1,
};

const real = argument(Deno.args, "real");
if (real === undefined) printModel();
else await compare(real.split(",").map(Number));

function printModel(): void {
  say(
    "| event | half back | 99 % | all | longest absence | still away | given up | engine, busiest 0.2 s | node behind | shard behind |",
  );
  say("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |");
  const row = (name: string, result: FleetResult) => {
    const { halfMs, mostMs, allMs, longestMs, away, givenUp, peakCommands } = result;
    const { nodeQueueMs, shardQueueMs } = result;
    const cells = [
      ...[halfMs, mostMs, allMs, longestMs].map(seconds),
      away.toLocaleString("en"),
      givenUp.toLocaleString("en"),
      `${Math.round(peakCommands).toLocaleString("en")}/s`,
      ...[nodeQueueMs, shardQueueMs].map(seconds),
    ];
    say(`| ${name} | ${cells.join(" | ")} |`);
  };
  row("a node dies", loseNodes(MILLION, 1));
  row("a machine of 8 nodes dies", loseNodes(MILLION, 8));
  for (const firstDelayMs of [500, 20_000, 60_000]) {
    const options = { ...MILLION, firstDelayMs, maxDelayMs: Math.max(30_000, firstDelayMs) };
    row(`the balancer restarts, firstDelayMs ${firstDelayMs}`, restartBalancer(options));
  }
  row("the balancer restarts, 36 shards", restartBalancer({ ...MILLION, shards: 36 }));
  for (const together of [1, 5]) {
    const times = { withinMs: 30_000, restartMs: 15_000, together };
    row(`a deploy, ${together} at a time`, deploy(MILLION, times));
  }
  say("");
  say(
    "| subscribers of one topic | nodes | publications/s | relays | half | 99 % | engine | node |",
  );
  say("| --- | --- | --- | --- | --- | --- | --- | --- |");
  for (const [subscribers, nodes] of [[100_000, 50], [1_000_000, 50], [1_000_000, 500]] as const) {
    for (const perSecond of [10, 100, 400]) {
      for (const relays of [0, Math.round(Math.sqrt(nodes))]) {
        const result = hotTopic({
          subscribers,
          nodes,
          perSecond,
          relays,
          durationMs: 30_000,
          wayMs: 0.5,
          costs: REDIS_COSTS,
          seed: 1,
        });
        const { halfMs, mostMs, engineLoad, nodeLoad } = result;
        const cells = [halfMs, mostMs].map(seconds).concat(percent(engineLoad), percent(nodeLoad));
        say(`| ${subscribers} | ${nodes} | ${perSecond} | ${relays} | ${cells.join(" | ")} |`);
      }
    }
  }
}

/** Runs storms, and prints these beside their predictions. */
async function compare(sizes: readonly number[]): Promise<void> {
  const known = await measureStorm({ engine: "redis", clients: CALIBRATION, hasUsers: false });
  const nodeMs = known.nodesCpuMs / CALIBRATION;
  const costs: Costs = {
    ...REDIS_COSTS,
    sessionMs: nodeMs / 2,
    subscriptionMs: nodeMs / 2,
    clientMs: known.clientsCpuMs / CALIBRATION,
  };
  say(
    `${CALIBRATION}: ${costs.clientMs.toFixed(2)} ms of a client, ${nodeMs.toFixed(2)} of a node`,
  );
  say("| clients | half back: model, real | 99 % | all |");
  say("| --- | --- | --- | --- |");
  for (const clients of [CALIBRATION, ...sizes]) {
    const { delays } = clients === CALIBRATION
      ? known
      : await measureStorm({ engine: "redis", clients, hasUsers: false });
    const at = (part: number) => delays[Math.ceil(delays.length * part) - 1] ?? Infinity;
    const { halfMs, mostMs, allMs } = moveToSpareNodes(local(clients, costs), 1);
    const cells = [[halfMs, at(0.5)], [mostMs, at(0.99)], [allMs, at(1)]] as const;
    const texts = cells.map(([model, measured]) =>
      `${seconds(model)}, ${seconds(measured)} (${(model / measured).toFixed(2)})`
    );
    say(`| ${clients} | ${texts.join(" | ")} |`);
  }
}

/** The storm of the soak test, as a model: nodes, clients and engine on one machine. */
function local(clients: number, costs: Costs): FleetOptions {
  return {
    ...MILLION,
    sessions: clients,
    nodes: 3,
    nodesPerMachine: 3,
    coresPerMachine: navigator.hardwareConcurrency,
    topics: TOPICS,
    topicsEach: 1,
    hasUsers: false,
    shards: 1,
    usualLoad: 0,
    firstDelayMs: 200,
    maxDelayMs: 3_000,
    clientWayMs: 0.05,
    engineWayMs: 0.05,
    balancer: "random",
    localClients: 2,
    costs,
  };
}

function seconds(ms: number): string {
  return ms < 1_000 ? `${ms.toPrecision(2)} ms` : `${(ms / 1_000).toPrecision(3)} s`;
}

function percent(part: number): string {
  return `${(part * 100).toPrecision(2)} %`;
}

function say(text: string): void {
  // deno-lint-ignore no-console
  console.log(text);
}
