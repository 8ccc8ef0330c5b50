/** Public types of nodes. */
import type { Runtime } from "../../base/runtime.ts";
import type { Broker } from "../broker.ts";

/** A node: one process, from its start to its end. */
export interface NodeInfo {
  /** Id of the node; a new one at each start. */
  readonly id: string;
  /** Name of the node for people; empty if not set. */
  readonly name: string;
  /** Time of the last message from the node, in milliseconds since the Unix epoch. */
  readonly lastHeardAt: number;
}

/** An event among the nodes; branch on `type`. */
export type NodeEvent =
  | {
    /** A node joined; or a node left, by a farewell or after too long a silence. */
    readonly type: "join" | "leave";
    /** The node that joined or left. */
    readonly node: NodeInfo;
  }
  | {
    /** The engine was away, or this process was suspended: messages may have been missed. */
    readonly type: "restored";
  };

/** Options for {@linkcode Nodes}. */
export interface NodesOptions {
  /** Broker that connects the nodes. Closing the nodes does not close the broker. */
  readonly broker: Broker;
  /**
   * Clocks, timers and randomness of this node.
   *
   * @default {platformRuntime()}
   */
  readonly runtime?: Runtime;
  /**
   * Name of this node for people.
   *
   * @default {""}
   */
  readonly name?: string;
  /**
   * Time from one heartbeat of a node to the next, in milliseconds.
   *
   * @default {2000}
   */
  readonly heartbeatMs?: number;
  /**
   * Silence after which a node is gone, in milliseconds; the same on every node.
   *
   * @default {7000}
   */
  readonly goneAfterMs?: number;
  /**
   * Gets the errors that handlers and listeners throw.
   *
   * @default {console.error}
   */
  readonly onError?: (error: unknown) => void;
}

/** Handles a message of another node; the value returned or resolved with is the answer. */
export type NodeHandler = (data: unknown, from: string) => unknown;

/** Options for {@linkcode Nodes.ask}. */
export interface NodeAskOptions {
  /**
   * Most time to wait for the slowest node, in milliseconds.
   *
   * @default {2000}
   */
  readonly timeoutMs?: number;
}

/** Result of {@linkcode Nodes.ask}. */
export interface NodeAnswers {
  /** One answer for each node that answered in time, this node not included. */
  readonly answers: readonly { readonly node: string; readonly data: unknown }[];
  /** True if every node that was alive answered. */
  readonly isComplete: boolean;
}
