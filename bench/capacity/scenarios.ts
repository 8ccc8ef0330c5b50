/** Scenarios of the model: lost nodes, a restarted balancer, a deploy, a topic with many subscribers. */
import { seededRandom } from "../../transport/memory/path.ts";
import type { Costs } from "./costs.ts";
import { Fleet, type FleetOptions, type FleetResult } from "./fleet.ts";
import { Machine, ModelProcess, ModelTime } from "./machine.ts";

/**
 * Time after the last fault at which a scenario ends, in milliseconds. If attempts time out faster
 * than a node works, some sessions may never return.
 */
const HORIZON_MS = 300_000;

/** Share of a drain's time over which the sessions leave; same as in `Server.drain()`. */
const DRAIN_SPREAD = 0.8;

/**
 * Kills some nodes at once, as a failing machine would.
 *
 * @param options The service.
 * @param lost Number of killed nodes.
 * @returns The result; times are measured from when the nodes were killed.
 */
export function loseNodes(options: FleetOptions, lost: number): FleetResult {
  const fleet = new Fleet(options);
  fleet.settle();
  for (let index = 0; index < lost; index++) fleet.kill(index);
  fleet.time.run(HORIZON_MS);
  return fleet.result(0);
}

/**
 * Kills the nodes that hold all sessions, so that only spare nodes without sessions remain.
 *
 * @param options The service, with the spare nodes.
 * @param lost Number of killed nodes, which hold all sessions.
 * @returns The result; times are measured from when the nodes were killed.
 */
export function moveToSpareNodes(options: FleetOptions, lost: number): FleetResult {
  const fleet = new Fleet(options);
  for (let index = lost; index < options.nodes; index++) fleet.shut(index);
  fleet.settle();
  for (let index = lost; index < options.nodes; index++) fleet.open(index);
  for (let index = 0; index < lost; index++) fleet.kill(index);
  fleet.time.run(HORIZON_MS);
  return fleet.result(0);
}

/**
 * Restarts the balancer: all connections break, and all nodes keep running.
 *
 * @param options The service.
 * @returns The result; times are measured from the break.
 */
export function restartBalancer(options: FleetOptions): FleetResult {
  const fleet = new Fleet(options);
  fleet.settle();
  for (let index = 0; index < options.nodes; index++) fleet.disconnect(index);
  fleet.time.run(HORIZON_MS);
  return fleet.result(0);
}

/**
 * Restarts the broker without its data. In the result, topics on nodes are counted in place of
 * sessions.
 *
 * @param options The service.
 * @param downMs Time until the broker responds again, in milliseconds.
 * @returns The result; times are measured from when the broker was stopped.
 */
export function restartBroker(options: FleetOptions, downMs: number): FleetResult {
  const fleet = new Fleet(options);
  fleet.settle();
  fleet.restartBroker(downMs);
  fleet.time.run(HORIZON_MS);
  return fleet.result(0);
}

/** A rolling restart. */
export interface DeployOptions {
  /** Duration of each node's drain, in milliseconds. */
  readonly withinMs: number;
  /** Time from the end of a process until the next one accepts sessions, in milliseconds. */
  readonly restartMs: number;
  /** Number of nodes that restart at the same time. */
  readonly together: number;
  /**
   * Total number of nodes that restart.
   *
   * @default {all}
   */
  readonly nodes?: number;
}

/**
 * Restarts all nodes, a few at a time. Each node drains, exits, and starts again without sessions.
 *
 * @param options The service.
 * @param deploy See {@linkcode DeployOptions}.
 * @returns The result; times are measured from the start of the first drain.
 */
export function deploy(options: FleetOptions, deploy: DeployOptions): FleetResult {
  const { withinMs, restartMs, together, nodes: count = options.nodes } = deploy;
  const fleet = new Fleet(options);
  const random = seededRandom(options.seed + 1);
  fleet.settle();
  const roundMs = withinMs + restartMs;
  for (let first = 0; first < count; first += together) {
    const nodes = Array.from(
      { length: Math.min(together, count - first) },
      (_, i) => first + i,
    );
    fleet.time.after(first / together * roundMs, () => {
      for (const node of nodes) fleet.shut(node);
      for (const session of nodes.flatMap((node) => fleet.sessionsOf(node))) {
        fleet.time.after(random() * DRAIN_SPREAD * withinMs, () => fleet.move(session));
      }
      fleet.time.after(withinMs, () => {
        for (const node of nodes) fleet.kill(node);
      });
      fleet.time.after(roundMs, () => {
        for (const node of nodes) fleet.open(node);
      });
    });
  }
  fleet.time.run(Math.ceil(count / together) * roundMs + HORIZON_MS);
  return fleet.result(0);
}

/** Topics whose subscribers are on many nodes. */
export interface HotTopicOptions {
  /** Number of such topics, each with all subscribers. */
  readonly topics: number;
  /** Processes of the broker; each topic is in one of them. */
  readonly shards: number;
  /** Number of subscribers, spread evenly over the nodes. */
  readonly subscribers: number;
  /** Number of nodes with subscribers. */
  readonly nodes: number;
  /** Publications per second, over all topics. */
  readonly perSecond: number;
  /** Measured time, in milliseconds. */
  readonly durationMs: number;
  /**
   * Number of nodes that receive from the broker and forward copies to the others; 0 if the broker
   * sends a copy to each node.
   */
  readonly relays: number;
  /** One-way latency between node and broker, or two nodes, in milliseconds. */
  readonly wayMs: number;
  /** Costs of the parts. */
  readonly costs: Costs;
  /** Seed of all randomness: an integer. */
  readonly seed: number;
}

/** Result of a {@linkcode hotTopic}. */
export interface HotTopicResult {
  /** Median time from a publication to its last delivery, in milliseconds. */
  readonly halfMs: number;
  /** The same for 99 % of the publications. */
  readonly mostMs: number;
  /** Load of the busiest broker process, from 0 to 1. */
  readonly brokerLoad: number;
  /** Load of the busiest node, from 0 to 1. */
  readonly nodeLoad: number;
}

/**
 * Publishes on topics at random moments, and delivers to all subscribers. Each topic is in one
 * shard of the broker, so adding shards does not help a single topic.
 *
 * @param options See {@linkcode HotTopicOptions}.
 */
export function hotTopic(options: HotTopicOptions): HotTopicResult {
  const { subscribers, perSecond, durationMs, relays, wayMs, costs, seed } = options;
  const time = new ModelTime();
  const random = seededRandom(seed);
  const newProcess = () => new ModelProcess(new Machine(time, 1));
  const shards = Array.from({ length: options.shards }, newProcess);
  const nodes = Array.from({ length: options.nodes }, newProcess);
  const deliveries = subscribers / nodes.length * costs.deliveryMs;
  const latencies: number[] = [];
  const direct = relays === 0 ? nodes : nodes.slice(0, relays);

  const publish = () => {
    const sinceMs = time.nowMs;
    let missing = nodes.length;
    const deliver = (node: ModelProcess) =>
      node.work(costs.receiptMs + deliveries, () => {
        if (--missing === 0) latencies.push(time.nowMs - sinceMs);
      });
    const { publicationMs, copyMs } = costs.broker;
    const topic = Math.floor(random() * options.topics);
    shards[topic % shards.length]!.work(
      publicationMs + copyMs * direct.length,
      () =>
        void time.after(wayMs, () => {
          for (const [i, node] of direct.entries()) {
            // A relay first forwards the copies.
            const others = relays === 0
              ? []
              : nodes.filter((_, j) => j >= relays && j % relays === i);
            node.work(costs.relayMs * others.length, () => {
              deliver(node);
              time.after(wayMs, () => {
                for (const other of others) deliver(other);
              });
            });
          }
        }),
    );
  };
  const pauseMs = () => -1_000 / perSecond * Math.log(1 - random());
  for (let atMs = pauseMs(); atMs < durationMs; atMs += pauseMs()) {
    time.after(wayMs + atMs, publish);
  }
  time.run();
  latencies.sort((a, b) => a - b);
  const at = (part: number) => latencies[Math.ceil(latencies.length * part) - 1] ?? 0;
  const load = (all: readonly ModelProcess[]) =>
    Math.max(...all.map(({ busyMs }) => busyMs)) / durationMs;
  return {
    halfMs: at(0.5),
    mostMs: at(0.99),
    brokerLoad: load(shards),
    nodeLoad: load(nodes),
  };
}

/** Small topics, with their subscribers on random nodes or on one node. */
export interface RoomsOptions {
  /** Number of rooms, each a topic. */
  readonly rooms: number;
  /** Subscribers per room. */
  readonly members: number;
  /** Publications per second and room. */
  readonly perSecond: number;
  readonly nodes: number;
  /** Processes of the broker. */
  readonly shards: number;
  /** True if a hash of the room selects the node of its members. */
  readonly isHashed: boolean;
  /** Costs of the parts. */
  readonly costs: Costs;
}

/** Usual work of {@linkcode roomsLoad}. */
export interface RoomsResult {
  /** Mean number of nodes that receive a publication. */
  readonly copies: number;
  /** Load of each broker process, from 0 to 1. */
  readonly brokerLoad: number;
  /** Load of each node by the copies and their deliveries, from 0 to 1. */
  readonly nodeLoad: number;
}

/**
 * Computes the load that rooms cause in normal operation. This needs no simulation, because no part
 * is close to saturation.
 *
 * @param options See {@linkcode RoomsOptions}.
 */
export function roomsLoad(options: RoomsOptions): RoomsResult {
  const { rooms, members, perSecond, nodes, shards, isHashed, costs } = options;
  // A random node has no member with a probability of (1 - 1/nodes)^members.
  const copies = isHashed ? 1 : nodes * (1 - (1 - 1 / nodes) ** members);
  const perMs = rooms * perSecond / 1_000;
  const { publicationMs, copyMs } = costs.broker;
  return {
    copies,
    brokerLoad: perMs * (publicationMs + copies * copyMs) / shards,
    nodeLoad: perMs * (copies * costs.receiptMs + members * costs.deliveryMs) / nodes,
  };
}
