/** The nodes that are alive, as observed by one node, and the public types of nodes. */
import type { Runtime } from "../../base/runtime.ts";
import type { Broker } from "../broker.ts";

/** A node: one process, from start to exit. */
export interface NodeInfo {
  /** Id of the node; a new one at each start. */
  readonly id: string;
  /** Name of the node, for humans; empty if not set. */
  readonly name: string;
  /** Time of the last message from the node, in milliseconds since the Unix epoch. */
  readonly lastSeenAt: number;
}

/** A change among the nodes; branch on `type`. */
export type NodeEvent =
  | {
    /** A node joined or left. It left with a farewell, or after it was silent for too long. */
    readonly type: "join" | "leave";
    /** The node that joined or left. */
    readonly node: NodeInfo;
  }
  | {
    /** The broker was unreachable, or this process was suspended: messages may have been missed. */
    readonly type: "restored";
  };

/**
 * Data that nodes send with their heartbeats. Neither function may throw.
 *
 * @ignore
 */
export interface BeatData {
  /**
   * Returns the data of this node, of at most about `maxBytes` as JSON; `undefined` if there is
   * none.
   */
  readonly report: (maxBytes: number) => unknown;
  /** Receives another node's data; `undefined` if it has none, or once the node is gone. */
  readonly receive: (node: string, data: unknown) => void;
}

/**
 * The digest of a node's options. `receive` may not throw.
 *
 * @ignore
 */
export interface AnnouncedDigest {
  /** The digest of this node. */
  readonly digest: string;
  /** Receives another node's digest; `undefined` if the node announces none. */
  readonly receive: (node: string, digest: string | undefined) => void;
  /** Describes the options that differ. */
  readonly issues: () => string[];
  /** Called when the node closes. */
  readonly close: () => void;
}

/** Options for {@linkcode Nodes}. */
export interface NodesOptions {
  /** Broker that connects the nodes. Closing the nodes does not close the broker. */
  readonly broker: Broker;
  /**
   * Clocks, timers and randomness of this node.
   *
   * @default {platformRuntime()}
   */
  readonly runtime?: Runtime | undefined;
  /**
   * Name of this node in statistics, for humans.
   *
   * @default {""}
   */
  readonly name?: string | undefined;
  /**
   * Interval of the heartbeats between nodes, in milliseconds. With more than 100 nodes, it is
   * twice as long, with more than 200 three times, and so on.
   *
   * @default {2000}
   */
  readonly heartbeatMs?: number | undefined;
  /**
   * Silence after which a node is considered gone, in milliseconds. It must be the same on every
   * node.
   *
   * It grows with the number of nodes as `heartbeatMs` does.
   *
   * @default {7000}
   */
  readonly goneAfterMs?: number | undefined;
  /**
   * Receives the errors that handlers and listeners throw.
   *
   * @default {console.error, at most 16 times a minute}
   */
  readonly onError?: ((error: unknown) => void) | undefined;
}

/** Maximum number of known nodes; further nodes are ignored. */
export const MAX_NODES = 1_000;

/**
 * Maximum number of nodes remembered after a farewell, so that a late message does not bring a node
 * back.
 */
const MAX_DEPARTED = 1_000;

/**
 * Ticks without its own messages after which a node is considered unable to receive messages from
 * other nodes.
 */
const MAX_DEAF_TICKS = 3;

/** Ticks of silence after which a node is considered silent: it has missed two heartbeats. */
const SILENT_TICKS = 4;

/**
 * Number of nodes for which heartbeats have their full rate. Every node receives the heartbeats of
 * all others: of more nodes, each sends fewer of them, and all times grow accordingly.
 */
export const NODES_AT_FULL_RATE = 100;

/**
 * Returns how much longer the times of heartbeats are because of the number of nodes: 1 for up to
 * `atFullRate` nodes, 2 for up to twice as many.
 */
export function stretchOf(nodes: number, atFullRate: number = NODES_AT_FULL_RATE): number {
  return Math.max(1, Math.ceil(nodes / atFullRate));
}

interface PeerNode {
  info: NodeInfo;
  silentTicks: number;
}

export class NodeLiveness {
  readonly #runtime: Runtime;
  readonly #goneTicks: number;
  readonly #peers = new Map<string, PeerNode>();
  readonly #departed = new Set<string>();
  /** Ticks since messages may last have been missed. */
  #calmTicks = 0;
  /** Ticks since this node received one of its own messages. */
  #deafTicks = 0;
  /** How much longer all times are, because there are many nodes. */
  #stretch = 1;

  /** Starts without nodes. A node that is silent for `goneTicks` is gone. */
  constructor(runtime: Runtime, goneTicks: number) {
    this.#runtime = runtime;
    this.#goneTicks = goneTicks;
  }

  get size(): number {
    return this.#peers.size;
  }

  /**
   * True if this node does not receive its own messages: the broker hangs or the network is
   * partitioned, and the broker has not noticed.
   */
  get isDeaf(): boolean {
    return this.#deafTicks > MAX_DEAF_TICKS * this.#stretch;
  }

  ids(): IterableIterator<string> {
    return this.#peers.keys();
  }

  /** The nodes that are alive, in the order of the first message from each. */
  infos(): NodeInfo[] {
    return Array.from(this.#peers.values(), ({ info }) => info);
  }

  has(id: string): boolean {
    return this.#peers.has(id);
  }

  /** True if a node said farewell. */
  hasDeparted(id: string): boolean {
    return this.#departed.has(id);
  }

  /**
   * True if a node is certainly gone, because messages from a live node would have arrived by now.
   */
  isGone(id: string): boolean {
    if (this.#peers.has(id)) return false;
    return this.#departed.has(id) || this.#calmTicks > this.#goneTicks * this.#stretch;
  }

  /** True if a node missed two heartbeats in a row. */
  isSilent(id: string): boolean {
    return (this.#peers.get(id)?.silentTicks ?? 0) >= SILENT_TICKS * this.#stretch;
  }

  /** Records a message from a node. Returns false if that node is not known to be alive. */
  see(id: string): boolean {
    const peer = this.#peers.get(id);
    if (peer === undefined) return false;
    peer.silentTicks = 0;
    peer.info = { ...peer.info, lastSeenAt: this.#runtime.now() };
    return true;
  }

  /** Records that this node received one of its own messages. */
  seeItself(): void {
    this.#deafTicks = 0;
  }

  /** Adds a node. Returns `undefined` if there are too many nodes. */
  meet(id: string, name: string): NodeInfo | undefined {
    if (this.#peers.size >= MAX_NODES) return undefined;
    const info = { id, name, lastSeenAt: this.#runtime.now() };
    this.#peers.set(id, { info, silentTicks: 0 });
    return info;
  }

  /** Records a node's farewell. */
  depart(id: string): void {
    this.#departed.add(id);
    if (this.#departed.size <= MAX_DEPARTED) return;
    for (const oldest of this.#departed) {
      this.#departed.delete(oldest);
      return;
    }
  }

  /** Removes a node that is no longer alive, and returns its last information. */
  forget(id: string): NodeInfo | undefined {
    const peer = this.#peers.get(id);
    this.#peers.delete(id);
    return peer?.info;
  }

  /** Counts a tick of normal operation, in which silence means that a node may be gone. */
  tick(): void {
    const stretch = stretchOf(this.#peers.size + 1);
    const isShorter = stretch < this.#stretch;
    this.#stretch = stretch;
    this.#deafTicks++;
    // If many nodes leave together, the others still send as few heartbeats as before.
    if (this.isDeaf || isShorter) return this.beCalm();
    this.#calmTicks++;
    for (const peer of this.#peers.values()) peer.silentTicks++;
  }

  /** Ids of the nodes that were silent for too long. */
  silent(): string[] {
    const goneTicks = this.#goneTicks * this.#stretch;
    return Array.from(this.#peers).filter(([, { silentTicks }]) => silentTicks >= goneTicks)
      .map(([id]) => id);
  }

  /** Restarts the time limit of every node, because their silence until now proves nothing. */
  beCalm(): void {
    this.#calmTicks = 0;
    for (const peer of this.#peers.values()) peer.silentTicks = 0;
  }

  clear(): void {
    this.#peers.clear();
  }
}
