/** Engines beside that of the cluster, for trials of brokers: each fails without harm to the nodes. */
import type { Broker } from "../../../../pubsub/broker.ts";
import type { Host } from "../../../../testing/simulation/host.ts";
import type { EngineParts } from "../engine.ts";

/** Beginning of the names of the machines of spare engines; a number follows. */
export const SPARE_HOST = "spare-";

/** Bounds and times of the brokers on a spare engine. */
export interface SpareSettings {
  /** Longest wait of a publication, in milliseconds. */
  readonly giveUpMs: number;
  /** Most publications that wait. */
  readonly maxWaiting: number;
  /** Interval of the pings of each connection, in milliseconds. */
  readonly pingMs: number;
}

/** A short fault of a server, which is over by itself. */
export interface Hiccup {
  /** Time of the fault, in milliseconds. */
  readonly lastsMs: number;
  /** Begins the fault. */
  readonly begin: () => void;
  /** Requests that may be lost while the connections last; none by default. */
  readonly loses?: "all requests" | "some requests";
  /** True if requests are refused up to the end, and those right behind are kept. */
  readonly refuses?: boolean;
  /** True if only the part of the engine that keeps publications fails, and no connection breaks. */
  readonly keepsConnections?: boolean;
}

/** An engine on a machine of its own, which brokers reach over the network. */
export interface SpareEngine {
  /** The machine, which runs. */
  readonly host: Host;
  /** True if the epochs of histories outlast the end of the engine, with all publications. */
  readonly keepsEpochs: boolean;
  /** True if the rows of the store outlast the end of the engine. */
  readonly keepsRows: boolean;
  /** True if a broker hands a bounded number of bytes to the engine without an answer. */
  readonly hasWindow: boolean;
  /** True if all connections of a broker are one. */
  readonly hasOneConnection: boolean;
  /** Short faults of the server, by name. */
  readonly hiccups: Readonly<Record<string, Hiccup>>;
  /** Number of subscriptions of all connections. */
  readonly subscriptions: number;
  /**
   * Makes a broker.
   *
   * @param host The machine of the broker.
   * @param settings See {@linkcode SpareSettings}.
   * @returns The broker.
   */
  broker(host: Host, settings: SpareSettings): Broker;
  /** Starts the engine again, after the end of the process. */
  restart(): void;
}

/** Parts for a spare engine. */
export interface SpareParts extends Omit<EngineParts, "journal"> {
  /** Number of the engine. */
  readonly number: number;
  /** Chance of the settings. */
  readonly random: () => number;
}
