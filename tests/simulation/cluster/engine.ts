/** The engine of a simulated cluster, as the cluster uses one. */
import type { Broker } from "../../../pubsub/broker.ts";
import type { Host } from "../../../testing/simulation/host.ts";
import type { SimulatedNetwork } from "../../../testing/simulation/network/network.ts";
import type { Simulation } from "../../../testing/simulation/simulation.ts";
import type { Journal } from "./journal.ts";

/** A fault of an engine that is under way: with a text and an end. */
export interface EngineFault {
  /** The fault, for people. */
  readonly text: string;
  /** Ends the fault; absent for one that is over at once. */
  readonly heal?: () => void;
}

/** Bounds and times of a broker; the library's own by default. */
export interface WaitingBounds {
  /** Most operations. */
  readonly maxWaiting?: number;
  /** Most bytes of all together. */
  readonly maxWaitingBytes?: number;
  /** Longest wait of a publication, in milliseconds. */
  readonly giveUpMs?: number;
  /** Time for which the engine remembers the position of a history, in milliseconds. */
  readonly rememberMs?: number;
}

/** The engine of a cluster. */
export interface ClusterEngine extends Disposable {
  /**
   * Faults by kind, each beginning with `engine-`. A fault gets a size from 0 to 1, and is
   * `undefined` if it cannot begin now.
   */
  readonly faults: Readonly<Record<string, (amount: number) => EngineFault | undefined>>;
  /**
   * Makes the broker of a node.
   *
   * @param host The host of the node, in the present life.
   * @param bounds See {@linkcode WaitingBounds}; ignored by engines that nodes reach without a network.
   * @returns The broker; `undefined` for nodes on their own.
   */
  broker(host: Host, bounds?: WaitingBounds): Broker | undefined;
  /** False if both of two changes of one row at once may pass; absent for an engine without rows. */
  readonly hasExactRows?: boolean;
  /** Ends all faults, and starts all servers of the engine that have ended. */
  heal(): void;
  /** False while the one process of the engine and the nodes has ended; absent without such. */
  readonly isUp?: boolean;
  /** Called when that process is back, and the nodes may start. */
  onRestart?: () => void;
  /** Closes an engine that has files. */
  close?(): Promise<void>;
}

/** Parts of a cluster that engines use. */
export interface EngineParts {
  readonly simulation: Simulation;
  readonly network: SimulatedNetwork;
  readonly journal: Journal;
}
