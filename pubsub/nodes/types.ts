/**
 * What there is to say of nodes.
 *
 * @module
 */
import type { Broker } from "../broker.ts";

/** A node: one process, from its start to its end. */
export interface NodeInfo {
  /** Made anew at each start. */
  readonly id: string;
  /** What people call it; empty if it was not named. */
  readonly name: string;
  /** When it last said something, in milliseconds since the Unix epoch. */
  readonly lastHeardAt: number;
}

/** What happened among the nodes; branch on `type`. */
export type NodeEvent =
  | {
    /** A node came; or it left, by a farewell or because it was silent for too long. */
    readonly type: "join" | "leave";
    /** Which. */
    readonly node: NodeInfo;
  }
  | {
    /** The engine was away, or this process was suspended: anything may have been missed. */
    readonly type: "restored";
  };

/** Options for {@linkcode Nodes}. */
export interface NodesOptions {
  /** Connects the nodes. It is not closed. */
  readonly broker: Broker;
  /**
   * What people call this node.
   *
   * @default {""}
   */
  readonly name?: string;
  /**
   * How often a node says that it is there, in milliseconds.
   *
   * @default {2000}
   */
  readonly heartbeatMs?: number;
  /**
   * After how long without a word a node is gone, in milliseconds; the same on every node.
   *
   * @default {7000}
   */
  readonly goneAfterMs?: number;
  /**
   * Sees what a handler or a listener threw.
   *
   * @default {console.error}
   */
  readonly onError?: (error: unknown) => void;
}

/** Takes what another node tells or asks; what it returns, or resolves with, is the answer. */
export type NodeHandler = (data: unknown, from: string) => unknown;

/** Options for {@linkcode Nodes.ask}. */
export interface NodeAskOptions {
  /**
   * How long to wait for the slowest, in milliseconds.
   *
   * @default {2000}
   */
  readonly timeoutMs?: number;
}

/** What {@linkcode Nodes.ask} resolves with. */
export interface NodeAnswers {
  /** One for each node that answered in time, this one not included. */
  readonly answers: readonly { readonly node: string; readonly data: unknown }[];
  /** Whether every node that was alive answered. */
  readonly isComplete: boolean;
}
