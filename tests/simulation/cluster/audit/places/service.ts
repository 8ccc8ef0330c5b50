/** Nodes of a service beside the cluster, on the same engine: the two do not meet. */
import type { Client } from "../../../../../client/client.ts";
import type { ConnectOptions } from "../../../../../client/connect.ts";
import type { Contract } from "../../../../../session/contract.ts";
import type { UntypedMessage } from "../../../../../session/message.ts";
import type { Broker } from "../../../../../pubsub/broker.ts";
import type { Host } from "../../../../../testing/simulation/host.ts";
import {
  SimulatedServer,
  type SimulatedServerOptions,
} from "../../../../../testing/simulation/programs.ts";
import type { Audit } from "../audit.ts";

/** Time between two heartbeats of a node, in milliseconds. */
export const BEAT_MS = 400;

/** Silence after which a node is gone, in milliseconds. */
export const GONE_MS = 1_600;

/**
 * Silence of a node that the others surely overlook, in milliseconds: without the time behind the
 * last heartbeat, and half a heartbeat of the resolution of silence.
 */
export const QUIET_MS = GONE_MS - BEAT_MS - BEAT_MS / 2 - 50;

/** Time behind a death after which each other node knows, in milliseconds. */
export const KNOWN_MS = GONE_MS + BEAT_MS / 2 + 100;

/** Time for messages under way between clients, nodes and the engine, in milliseconds. */
export const ROUND_MS = 300;

/** Options of a {@linkcode Service}. */
export interface ServiceOptions {
  /** Most sessions of a user; by default the default of the library. */
  readonly maxSessionsPerUser?: number;
  /** Time within which a user without sessions may come back, in milliseconds. */
  readonly presenceGraceMs?: number;
  /** Handles a message at a node. */
  readonly onMessage?: (node: ServiceNode, message: UntypedMessage) => Promise<void> | void;
  /** Further options of each server. */
  readonly server?: Partial<SimulatedServerOptions<string, Contract>>;
  /** Makes the broker of a node, for one life of the host; by default on the engine of the cluster. */
  readonly brokerOf?: (host: Host) => Broker;
}

/** A node of a service. */
export type ServiceNode = SimulatedServer<string>;

/** Nodes of one service; the token of a client is the name of the user. */
export class Service {
  readonly #audit: Audit;
  readonly #name: string;
  readonly #options: ServiceOptions;
  readonly #nodes: ServiceNode[] = [];
  readonly #brokerOf: (host: Host) => Broker;
  #clients = 0;

  /**
   * Starts no node yet.
   *
   * @param audit The audit, on a cluster with an engine.
   * @param name Name of the service, and beginning of the names of machines.
   * @param options See {@linkcode ServiceOptions}.
   */
  constructor(audit: Audit, name: string, options: ServiceOptions = {}) {
    this.#audit = audit;
    this.#name = name;
    this.#options = options;
    this.#brokerOf = options.brokerOf ?? audit.engine.apart!(name);
  }

  /** Nodes that run. */
  get nodes(): readonly ServiceNode[] {
    return this.#nodes.filter(({ host }) => host.isAlive);
  }

  /**
   * Starts a node on a new machine.
   *
   * @returns The node.
   */
  start(): ServiceNode {
    const { presenceGraceMs, maxSessionsPerUser, onMessage, server } = this.#options;
    const audit = this.#audit;
    const host = audit.host(`${this.#name}-${this.#nodes.length}`);
    const node: ServiceNode = new SimulatedServer(audit.network, host, (host) => ({
      broker: this.#brokerOf(host),
      node: { heartbeatMs: BEAT_MS, goneAfterMs: GONE_MS },
      allowTokenMessage: true,
      authenticate: ({ token = "nobody" }) => token,
      authorize: () => true,
      rooms: ["room:{name}"],
      ...(presenceGraceMs !== undefined && { presenceGraceMs }),
      ...(maxSessionsPerUser !== undefined && { limits: { maxSessionsPerUser } }),
      onMessage: (message) => onMessage?.(node, message),
      ...server,
    }));
    this.#nodes.push(node);
    return node;
  }

  /**
   * Connects a user to a node.
   *
   * @param user The user.
   * @param node The node.
   * @param options Options of `connect()`.
   * @returns The client, which the audit closes.
   */
  enter(user: string, node: ServiceNode, options: ConnectOptions = {}): Client {
    return this.#audit.connect(`${this.#name}-${user}-${this.#clients++}`, node.host, {
      token: user,
      onMessage() {},
      onRefused() {},
      ...options,
    });
  }

  /**
   * Freezes a node for a while.
   *
   * @param node The node.
   * @param forMs The time, in milliseconds.
   */
  async freeze({ host }: ServiceNode, forMs: number): Promise<void> {
    host.freeze();
    await this.#audit.pause(forMs);
    host.thaw();
  }

  /**
   * Ends the program of a node in order, which may start again.
   *
   * @param node The node.
   */
  async stop(node: ServiceNode): Promise<void> {
    await end(node);
    node.host.kill();
  }

  /** Closes all nodes and brokers. */
  async close(): Promise<void> {
    await Promise.all(this.nodes.map(end));
  }
}

/** Closes a node and its broker. */
async function end({ server }: ServiceNode): Promise<void> {
  await server.close();
  await server.topics.broker.close();
}
