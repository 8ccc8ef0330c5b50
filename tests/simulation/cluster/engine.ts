/** The interface of a simulated cluster's engine. */
import type { Broker } from "../../../pubsub/broker.ts";
import type { Host } from "../../../testing/simulation/host.ts";
import type { SimulatedNetwork } from "../../../testing/simulation/network/network.ts";
import type { Simulation } from "../../../testing/simulation/simulation.ts";
import type { Journal } from "./journal.ts";

/** An active fault of an engine. */
export interface EngineFault {
  /** Description of the fault, for readers. */
  readonly text: string;
  /** Ends the fault; absent for an instantaneous one. */
  readonly heal?: () => void;
}

/** Limits and times of a broker; the library's defaults by default. */
export interface WaitingBounds {
  /** Most operations. */
  readonly maxWaiting?: number;
  /** Maximum total bytes. */
  readonly maxWaitingBytes?: number;
  /** Maximum wait of a publication, in milliseconds. */
  readonly giveUpMs?: number;
  /** Time for which the engine remembers the position of a history, in milliseconds. */
  readonly rememberMs?: number;
}

/** The engine of a cluster. */
export interface ClusterEngine extends Disposable {
  /**
   * Faults by kind, each starting with `engine-`. A fault receives a size from 0 to 1, and returns
   * `undefined` if it cannot start now.
   */
  readonly faults: Readonly<Record<string, (amount: number) => EngineFault | undefined>>;
  /**
   * Creates the broker of a node.
   *
   * @param host The host of the node, in its current life.
   * @param bounds See {@linkcode WaitingBounds}; ignored by engines that nodes reach without a network.
   * @returns The broker; `undefined` for independent nodes.
   */
  broker(host: Host, bounds?: WaitingBounds): Broker | undefined;
  /**
   * False if two concurrent changes of one row may both succeed; absent for an engine without rows.
   */
  readonly hasExactRows?: boolean;
  /** Ends all faults, and starts all servers of the engine that have ended. */
  heal(): void;
  /** False while the shared process of engine and nodes is down; absent without such a process. */
  readonly isUp?: boolean;
  /** Called when that process is back, and the nodes may start. */
  onRestart?: () => void;
  /** Closes an engine with files. */
  close?(): Promise<void>;
}

/** The parts of a cluster that engines use. */
export interface EngineParts {
  readonly simulation: Simulation;
  readonly network: SimulatedNetwork;
  readonly journal: Journal;
}
