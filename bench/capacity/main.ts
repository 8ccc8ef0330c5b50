/**
 * Models a service with up to a million sessions. The scenarios are lost nodes, a restarted
 * balancer, a deploy, and a topic with many subscribers. The results are printed as Markdown
 * tables.
 *
 * ```sh
 * deno task bench:capacity
 * deno task bench:capacity --scale 5
 * deno task bench:capacity --only "Redis, a deploy"
 * deno task bench:capacity --traffic 50,200
 * deno task bench:capacity --real 500,2500,1000,5000,15000 --runs 3 --log storms.jsonl
 * ```
 *
 * Running all scenarios takes many minutes. `--scale 5` models a fifth of the sessions, nodes,
 * rooms and shards of Redis, so that the work per node and shard stays the same. NATS has the
 * broker's own default numbers of shards, unless `--histories` and `--buckets` give others. `--only`
 * selects the scenarios whose name matches a regular expression.
 *
 * `--traffic` measures what the given numbers of nodes tell each other through their broker, with
 * the library's own nodes, presence and quotas on virtual time. `--only` selects the kinds of work,
 * and `--seconds` sets the measured virtual time.
 *
 * `--real` runs the soak test's storm with each of the given numbers of clients, and prints the
 * results next to the model's predictions. The model's costs come from storms of 500 and 2,500
 * clients. `--log` stores the measurements of all storms, so that runs can be spread over idle
 * times. `--runs 0` only prints the table for a log. `--real` needs Linux, `redis-server` or, with
 * `--broker nats`, `nats-server`, an idle machine, and a limit on open files that allows all
 * connections. `--foreign 0.8` also counts storms in which other programs used 80 % of the machine.
 *
 * @module
 */
import { DEFAULT_SHARDS } from "../../brokers/nats/shards.ts";
import { argument, numberArgument } from "../args.ts";
import { NATS_COSTS, REDIS_COSTS } from "./costs.ts";
import type { FleetOptions, FleetResult } from "./fleet.ts";
import { compare } from "./real.ts";
import { measureTraffic, WORKS } from "./traffic.ts";
import {
  deploy,
  hotTopic,
  type HotTopicOptions,
  loseNodes,
  restartBalancer,
  restartBroker,
  roomsLoad,
} from "./scenarios.ts";

/** A million users on 50 nodes, each in three rooms of five users. */
const MILLION: FleetOptions = {
  sessions: 1_000_000,
  nodes: 50,
  nodesPerMachine: 8,
  coresPerMachine: 8,
  topics: 600_000,
  topicsEach: 3,
  hasUsers: true,
  shards: 10,
  usualLoad: 0.3,
  firstDelayMs: 500,
  maxDelayMs: 30_000,
  connectTimeoutMs: 10_000,
  clientWayMs: 20,
  brokerWayMs: 0.5,
  balancer: "least",
  costs: REDIS_COSTS,
  seed: 1,
};

/** Downtime of the broker in a restart, in milliseconds. */
const DOWN_MS = 1_000;

/** Scale of the modeled service: each node and shard has the same work as in the whole. */
const scale = numberArgument(Deno.args, "scale", 1);

/** Publications of a hot topic, unless these take more than half a minute. */
const PUBLICATIONS = 4_000;

const only = new RegExp(argument(Deno.args, "only") ?? "");
/** Virtual time for which traffic is measured, in seconds. */
const trafficSeconds = numberArgument(Deno.args, "seconds", 30);

const real = argument(Deno.args, "real");
const traffic = argument(Deno.args, "traffic");
if (traffic !== undefined) await printTraffic(traffic.split(",").map(Number));
else if (real === undefined) printModel();
else {
  const runs = numberArgument(Deno.args, "runs", 1);
  const broker = argument(Deno.args, "broker") === "nats" ? "nats" : "redis";
  const maxForeign = numberArgument(Deno.args, "foreign", 0.15);
  const log = argument(Deno.args, "log");
  await compare(real.split(",").map(Number), { runs, log, broker, maxForeign }, say);
}

function printModel(): void {
  const { sessions, nodes, topics, shards } = MILLION;
  const part = {
    ...MILLION,
    sessions: sessions / scale,
    nodes: nodes / scale,
    topics: topics / scale,
    shards: shards / scale,
  };
  printStorms("Redis", { ...part, costs: REDIS_COSTS });
  printStorms("NATS", {
    ...part,
    costs: NATS_COSTS,
    shards: numberArgument(Deno.args, "histories", DEFAULT_SHARDS.histories),
    userShards: numberArgument(Deno.args, "buckets", DEFAULT_SHARDS.buckets),
  });
  if (only.test("hot topics")) printHotTopics();
  if (only.test("small rooms")) printRooms();
}

function printStorms(broker: string, options: FleetOptions): void {
  say(
    `| ${broker} | half back | 99 % | all | longest absence | still away | given up | broker, busiest 0.2 s | one shard | node behind | shard behind |`,
  );
  say("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |");
  const row = (name: string, run: () => FleetResult) => {
    if (!only.test(`${broker}, ${name}`)) return;
    const result = run();
    const { halfMs, mostMs, allMs, longestMs, away, givenUp } = result;
    const { peakCommands, peakShardCommands, nodeQueueMs, shardQueueMs } = result;
    const cells = [
      ...[halfMs, mostMs, allMs, longestMs].map(seconds),
      away.toLocaleString("en"),
      givenUp.toLocaleString("en"),
      ...[peakCommands, peakShardCommands].map((count) =>
        `${Math.round(count).toLocaleString("en")}/s`
      ),
      ...[nodeQueueMs, shardQueueMs].map(seconds),
    ];
    say(`| ${name} | ${cells.join(" | ")} |`);
  };
  row("a node dies", () => loseNodes(options, 1));
  row("8 nodes die", () => loseNodes(options, 8));
  row(
    "8 nodes die, firstDelayMs 4,000",
    () => loseNodes({ ...options, firstDelayMs: 4_000 }, 8),
  );
  for (const firstDelayMs of [500, 20_000, 60_000]) {
    const maxDelayMs = Math.max(30_000, firstDelayMs);
    const delays = { ...options, firstDelayMs, maxDelayMs };
    const name = `the balancer restarts, firstDelayMs ${firstDelayMs.toLocaleString("en")}`;
    row(name, () => restartBalancer(delays));
    if (firstDelayMs !== 20_000) continue;
    row(`${name}, 40 shards`, () => restartBalancer({ ...delays, shards: 4 * options.shards }));
    row(`${name}, by rooms`, () => restartBalancer({ ...delays, balancer: "topic" }));
  }
  row("the broker restarts", () => restartBroker(options, DOWN_MS));
  row(
    "the broker restarts, 40 shards",
    () => restartBroker({ ...options, shards: 4 * options.shards }, DOWN_MS),
  );
  row(
    "the broker restarts, by rooms",
    () => restartBroker({ ...options, balancer: "topic" }, DOWN_MS),
  );
  for (const together of [1, 5]) {
    const times = { withinMs: 30_000, restartMs: 15_000, together };
    row(`a deploy, ${together} at a time`, () => deploy(options, times));
    // All rounds are the same.
    row(
      `a round of a deploy, ${together} at a time`,
      () => deploy(options, { ...times, nodes: together }),
    );
  }
  say("");
}

function printHotTopics(): void {
  say(
    "| subscribers | nodes | topics | shards | publications/s | relays | half | 99 % | broker | node |",
  );
  say("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |");
  const row = (options: Partial<HotTopicOptions> & { readonly perSecond: number }) => {
    const durationMs = Math.min(30_000, PUBLICATIONS * 1_000 / options.perSecond);
    const all = {
      ...{ subscribers: 1_000_000, nodes: 50, topics: 1, shards: 10, relays: 0, durationMs },
      ...{ wayMs: 0.5, costs: REDIS_COSTS, seed: 1 },
      ...options,
    };
    const { halfMs, mostMs, brokerLoad, nodeLoad } = hotTopic(all);
    const cells = [all.subscribers, all.nodes, all.topics, all.shards, all.perSecond, all.relays]
      .map((count) => count.toLocaleString("en"))
      .concat([halfMs, mostMs].map(seconds), percent(brokerLoad), percent(nodeLoad));
    say(`| ${cells.join(" | ")} |`);
  };
  for (const relays of [0, 7]) {
    for (const perSecond of [10, 40]) row({ perSecond, relays });
    row({ subscribers: 100_000, perSecond: 400, relays });
    for (const topics of [1, 10]) row({ subscribers: 1_000, perSecond: 5_000, topics, relays });
  }
  for (const relays of [0, 22]) row({ nodes: 500, perSecond: 400, relays });
  say("");
}

function printRooms(): void {
  say("| members' nodes | copies | broker, each of 10 | node |");
  say("| --- | --- | --- | --- |");
  const rooms = { rooms: 600_000, members: 5, perSecond: 0.2, nodes: 50, shards: 10 };
  for (const isHashed of [false, true]) {
    const result = roomsLoad({ ...rooms, isHashed, costs: REDIS_COSTS });
    const { copies, brokerLoad, nodeLoad } = result;
    const cells = [copies.toFixed(1), percent(brokerLoad), percent(nodeLoad)];
    say(`| ${isHashed ? "by a hash of the room" : "by chance"} | ${cells.join(" | ")} |`);
  }
}

async function printTraffic(counts: readonly number[]): Promise<void> {
  say(
    "| nodes | work | publications | into the broker | busiest second | longest | copies | out of the broker | to each node |",
  );
  say("| --- | --- | --- | --- | --- | --- | --- | --- | --- |");
  for (const work of WORKS.filter((name) => only.test(name))) {
    for (const nodes of counts) {
      const result = await measureTraffic({ nodes, work, seconds: trafficSeconds });
      const { published, bytesIn, peakIn, longest, copies, bytesOut } = result;
      const cells = [
        `${Math.round(published).toLocaleString("en")}/s`,
        `${size(bytesIn)}/s`,
        ...[peakIn, longest].map(size),
        `${Math.round(copies).toLocaleString("en")}/s`,
        ...[bytesOut, bytesOut / nodes].map((bytes) => `${size(bytes)}/s`),
      ];
      say(`| ${nodes} | ${work} | ${cells.join(" | ")} |`);
    }
  }
}

function size(bytes: number): string {
  return bytes >= 1e6 ? `${(bytes / 1e6).toPrecision(3)} MB` : `${(bytes / 1e3).toPrecision(3)} kB`;
}

function seconds(ms: number): string {
  if (ms >= 1_000) return `${(ms / 1_000).toPrecision(3)} s`;
  return ms < 10 ? `${ms.toPrecision(2)} ms` : `${Math.round(ms)} ms`;
}

function percent(part: number): string {
  return `${(part * 100).toPrecision(2)} %`;
}

function say(text: string): void {
  // deno-lint-ignore no-console
  console.log(text);
}
