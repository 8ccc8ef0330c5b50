/** Which nodes are alive, as far as one of them hears. Time is counted in ticks, half a heartbeat each. */
import type { NodeInfo } from "./types.ts";

/** Nodes that are known at once; others are ignored. */
const MAX_NODES = 1_000;

/** Nodes that said farewell and are remembered, so that what comes late does not bring them back. */
const MAX_DEPARTED = 1_000;

/** A node that hears nothing of what it says itself for more ticks than this cannot hear others either. */
const MAX_DEAF_TICKS = 3;

interface Peer {
  info: NodeInfo;
  /** Ticks since it was heard. */
  silentTicks: number;
}

/** The other nodes that are alive. */
export class Alive {
  readonly #goneTicks: number;
  readonly #peers = new Map<string, Peer>();
  readonly #departed = new Set<string>();
  /** Ticks since anything may have been missed. */
  #calmTicks = 0;
  /** Ticks since this node heard itself. */
  #deafTicks = 0;

  /** Knows nobody yet; who is silent for so many ticks is gone. */
  constructor(goneTicks: number) {
    this.#goneTicks = goneTicks;
  }

  /** How many there are. */
  get size(): number {
    return this.#peers.size;
  }

  /** Whether this node does not even hear itself: an engine that hangs, or a cut network, not noticed yet. */
  get isDeaf(): boolean {
    return this.#deafTicks > MAX_DEAF_TICKS;
  }

  /** Their ids. */
  ids(): IterableIterator<string> {
    return this.#peers.keys();
  }

  /** All of them, in the order in which they were heard first. */
  infos(): NodeInfo[] {
    return Array.from(this.#peers.values(), ({ info }) => info);
  }

  /** Whether a node is among them. */
  has(id: string): boolean {
    return this.#peers.has(id);
  }

  /** Whether a node said farewell. */
  hasDeparted(id: string): boolean {
    return this.#departed.has(id);
  }

  /** Whether a node would have been heard, if it were alive. */
  isGone(id: string): boolean {
    if (this.#peers.has(id)) return false;
    return this.#departed.has(id) || this.#calmTicks > this.#goneTicks;
  }

  /** A node said something; whether it was known to be alive. */
  hear(id: string): boolean {
    const peer = this.#peers.get(id);
    if (peer === undefined) return false;
    peer.silentTicks = 0;
    peer.info = { ...peer.info, lastHeardAt: Date.now() };
    return true;
  }

  /** This node heard itself. */
  hearItself(): void {
    this.#deafTicks = 0;
  }

  /** A node came; `undefined` if there are too many. */
  meet(id: string, name: string): NodeInfo | undefined {
    if (this.#peers.size >= MAX_NODES) return undefined;
    const info = { id, name, lastHeardAt: Date.now() };
    this.#peers.set(id, { info, silentTicks: 0 });
    return info;
  }

  /** A node said farewell. */
  depart(id: string): void {
    this.#departed.add(id);
    if (this.#departed.size <= MAX_DEPARTED) return;
    for (const oldest of this.#departed) {
      this.#departed.delete(oldest);
      return;
    }
  }

  /** A node is alive no more; what was known of it. */
  forget(id: string): NodeInfo | undefined {
    const peer = this.#peers.get(id);
    this.#peers.delete(id);
    return peer?.info;
  }

  /** A tick passed in which nothing says that anybody's silence has another reason. */
  tick(): void {
    this.#deafTicks++;
    if (this.isDeaf) return this.beCalm();
    this.#calmTicks++;
    for (const peer of this.#peers.values()) peer.silentTicks++;
  }

  /** Who was silent for too long. */
  silent(): string[] {
    return Array.from(this.#peers).filter(([, { silentTicks }]) => silentTicks >= this.#goneTicks)
      .map(([id]) => id);
  }

  /** Nobody's silence until now says anything. */
  beCalm(): void {
    this.#calmTicks = 0;
    for (const peer of this.#peers.values()) peer.silentTicks = 0;
  }

  /** Forgets everybody. */
  clear(): void {
    this.#peers.clear();
  }
}
