/**
 * Simulates a cluster of servers and clients in one process, on virtual time, with faults of the
 * network, hosts, disks and brokers. One seed determines the whole run.
 *
 * - {@linkcode Simulation}: hosts, virtual time, random numbers, and the trace with its findings.
 * - {@linkcode SimulatedNetwork}: delay, loss, partitions, and failing handshakes between hosts.
 * - {@linkcode SimulatedServer}, {@linkcode simulatedClient}: servers that can be killed and
 *   restarted, and clients on hosts.
 * - {@linkcode SimulatedSqlite}, {@linkcode SimulatedDisk}: SQLite on disks with faults.
 * - {@linkcode SimulatedRedis}: a model of Redis with replicas, failover and lost writes.
 * - {@linkcode simulate}: runs your module in a thread whose globals are on virtual time.
 * - {@linkcode timeline}, {@linkcode firstDifference}: the facts before a finding, and the first
 *   fact that differs between two runs.
 *
 * @example A message that arrives although the server was killed
 * ```ts
 * import {
 *   simulatedClient,
 *   SimulatedNetwork,
 *   SimulatedServer,
 *   Simulation,
 * } from "./mod.ts";
 * import { assertEquals } from "@std/assert";
 *
 * for (let seed = 1; seed <= 3; seed++) {
 *   const simulation = new Simulation({ seed });
 *   const network = new SimulatedNetwork(simulation, { delayMs: 20, lossRate: 0.01 });
 *   const received: unknown[] = [];
 *   const server = new SimulatedServer(network, simulation.host("server"), () => ({
 *     onMessage: ({ data }) => void received.push(data),
 *   }));
 *   const client = simulatedClient(network, simulation.host("client"), [server.host], {
 *     delivery: "at-least-once", // By default, the message would be lost with the connection.
 *   });
 *
 *   simulation.after(1_000, () => server.host.kill());
 *   simulation.after(2_000, () => client.send("say", "hello"));
 *   simulation.after(5_000, () => server.restart());
 *   await simulation.run(60_000); // A minute that takes some milliseconds.
 *   assertEquals(received, ["hello"], `seed ${seed}`);
 * }
 * ```
 *
 * @module
 */
export {
  type Checkpoint,
  type EventHost,
  EventLoop,
  type SimulatedEvent,
  type SimulationOptions,
  type TraceDetails,
  type TraceEntry,
  type TraceKind,
} from "./event_loop.ts";
export { type ClockFaults, Host } from "./host.ts";
export type { HandshakeFault, LinkConditions } from "./network/conditions.ts";
export type { DisconnectOptions, LinkKind, SimulatedLink } from "./network/link.ts";
export { type ConnectSocketOptions, SimulatedNetwork } from "./network/network.ts";
export type { SimulatedSocket } from "./network/sockets.ts";
export { simulatedClient, SimulatedServer, type SimulatedServerOptions } from "./programs.ts";
export type { RedisLoss, RedisPersistence } from "./redis/effects.ts";
export {
  SimulatedRedis,
  type SimulatedRedisOptions,
  type SimulatedRedisServer,
} from "./redis/redis.ts";
export type { EvictionPolicy } from "./redis/values.ts";
export {
  simulate,
  type SimulateOptions,
  type SimulationContext,
  type SimulationResult,
} from "./simulate.ts";
export { Simulation } from "./simulation.ts";
export { SimulatedSqlite, type SimulatedSqliteOptions } from "./sqlite/broker.ts";
export { type DiskFault, SimulatedDisk } from "./sqlite/disk.ts";
export { firstDifference, type RunRecord, timeline, type TimelineOptions } from "./timeline.ts";
