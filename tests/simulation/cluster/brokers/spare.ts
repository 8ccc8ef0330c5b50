/** Separate stores for trials of brokers. They fail without affecting the nodes. */
import type { Broker } from "../../../../pubsub/broker.ts";
import type { Host } from "../../../simulator/host.ts";
import type { StoreParts } from "../store.ts";

/** Prefix of the machine names of spare stores. A number follows it. */
export const SPARE_HOST = "spare-";

/** Limits and times of the brokers on a spare store. */
export interface SpareSettings {
  /** Maximum time that a publication waits, in milliseconds. */
  readonly giveUpMs: number;
  /** Maximum number of waiting publications. */
  readonly maxWaiting: number;
  /** Interval of the pings of each connection, in milliseconds. */
  readonly pingMs: number;
}

/** A short fault of a server, which ends by itself. */
export interface Hiccup {
  /** Time of the fault, in milliseconds. */
  readonly lastsMs: number;
  /** Starts the fault. */
  readonly begin: () => void;
  /**
   * The requests that may be lost while the connections stay open. By default, no request is lost.
   */
  readonly loses?: "all requests" | "some requests";
  /**
   * True if requests are rejected until the fault ends, and requests right after that are stored.
   */
  readonly rejects?: boolean;
  /**
   * True if only the part of the store that stores publications fails and no connection breaks.
   */
  readonly keepsConnections?: boolean;
}

/** A store on a separate machine, which brokers reach over the network. */
export interface SpareStore {
  /** The running machine. */
  readonly host: Host;
  /** True if the epochs of histories survive a restart of the store, with all publications. */
  readonly keepsEpochs: boolean;
  /** True if the store's rows survive a restart of the store. */
  readonly keepsRows: boolean;
  /** True if a broker sends the store only a limited number of unacknowledged bytes. */
  readonly hasWindow: boolean;
  /** True if a broker has a single connection. */
  readonly hasOneConnection: boolean;
  /** Short faults of the server, by name. */
  readonly hiccups: Readonly<Record<string, Hiccup>>;
  /** Number of subscriptions of all connections. */
  readonly subscriptions: number;
  /**
   * Creates a broker.
   *
   * @param host The machine of the broker.
   * @param settings See {@linkcode SpareSettings}.
   */
  broker(host: Host, settings: SpareSettings): Broker;
  /** Restarts the store after its process has ended. */
  restart(): void;
}

export interface SpareParts extends Omit<StoreParts, "journal"> {
  /** Number of the store. */
  readonly number: number;
  /** Random numbers for the settings. */
  readonly random: () => number;
}
