/** The interface of a simulated cluster's store. */
import type { Broker } from "../../../pubsub/broker.ts";
import type { Host } from "../../simulator/host.ts";
import type { SimulatedNetwork } from "../../simulator/network/network.ts";
import type { Simulation } from "../../simulator/simulation.ts";
import type { Journal } from "./journal.ts";

/** An active fault of a store. */
export interface StoreFault {
  /** Description of the fault, for readers. */
  readonly text: string;
  /** Ends the fault. It is absent if the fault is instantaneous. */
  readonly heal?: () => void;
}

/** Limits and times of a broker. Values that are absent are the library's defaults. */
export interface WaitingBounds {
  /** Maximum number of operations. */
  readonly maxWaiting?: number;
  /** Maximum total number of bytes. */
  readonly maxWaitingBytes?: number;
  /** Maximum time that a publication waits, in milliseconds. */
  readonly giveUpMs?: number;
  /** Time for which the store remembers the position of a history, in milliseconds. */
  readonly rememberMs?: number;
}

export interface ClusterStore extends Disposable {
  /**
   * Faults by kind. Each kind starts with `broker-`. The function that starts a fault receives a
   * size from 0 to 1, and returns `undefined` if the fault cannot start now.
   */
  readonly faults: Readonly<Record<string, (amount: number) => StoreFault | undefined>>;
  /**
   * Creates the broker of a node.
   *
   * @param host The host of the node, in its current life.
   * @param bounds See {@linkcode WaitingBounds}. A store that nodes reach without a network
   * ignores them.
   * @returns The broker, or `undefined` for independent nodes.
   */
  broker(host: Host, bounds?: WaitingBounds): Broker | undefined;
  /**
   * False if two concurrent changes of one row may both succeed. It is absent if the store has no
   * rows.
   */
  readonly hasExactRows?: boolean;
  /** Ends all faults, and starts all servers of the store that are down. */
  heal(): void;
  /**
   * False while the process that the store and the nodes share is down. It is absent if there is
   * no such process.
   */
  readonly isUp?: boolean;
  /** Called when that process is running again and the nodes may start. */
  onRestart?: () => void;
  /** Closes the files of a store that has any. */
  close?(): Promise<void>;
}

/** The parts of a cluster that stores use. */
export interface StoreParts {
  readonly simulation: Simulation;
  readonly network: SimulatedNetwork;
  readonly journal: Journal;
}
