/** Measured costs of the parts of a service, for the model of many sessions. */

/** Costs of a broker. Times are CPU time of one of its processes, in milliseconds. */
export interface BrokerCosts {
  /** A user's session: the claim of a slot, and the user's topic. */
  readonly userMs: number;
  /** A topic with a history that a node starts to follow: the subscription and the first reads. */
  readonly topicMs: number;
  /** A publication on a topic with a history. */
  readonly publicationMs: number;
  /** A copy of a publication to one node. */
  readonly copyMs: number;
  /** Commands for a user's session, as the broker counts them. */
  readonly userCommands: number;
  /** Commands for a topic that a node starts to follow. */
  readonly topicCommands: number;
}

/** Costs of a service. Times are CPU time of one process, in milliseconds. */
export interface Costs {
  /** A session until its greeting, on its node. */
  readonly sessionMs: number;
  /** Additional cost of a user's session: authentication, and the claim of a slot. */
  readonly userMs: number;
  /** A subscription with its recovery, on the node of the session. */
  readonly subscriptionMs: number;
  /** Total extra work of a new process's first sessions, because code is not compiled yet. */
  readonly warmUpMs: number;
  /** Closing a connection of an ended process, in the operating system. */
  readonly closeMs: number;
  /** A reconnect, in a client process; 0 for clients on separate machines. */
  readonly clientMs: number;
  /** A delivery, in a client process. */
  readonly clientDeliveryMs: number;
  /** A publication that reaches a node, without its deliveries. */
  readonly receiptMs: number;
  /** A delivery of a publication to one of many sessions of a node. */
  readonly deliveryMs: number;
  /** A copy of a publication from one node to another, on each of the two. */
  readonly relayMs: number;
  readonly broker: BrokerCosts;
}

/**
 * A service on Redis. Node costs are from the tables on the sizing page, at half load; broker costs
 * are commands of 10 µs, and scripts measured with `bench/appends.ts`.
 */
export const REDIS_COSTS: Costs = {
  sessionMs: 0.15,
  userMs: 0.1,
  subscriptionMs: 0.15,
  warmUpMs: 100,
  closeMs: 0.03,
  clientMs: 0,
  clientDeliveryMs: 0,
  receiptMs: 0.012,
  deliveryMs: 0.001,
  relayMs: 0.01,
  broker: {
    userMs: 0.03,
    topicMs: 0.06,
    publicationMs: 0.03,
    copyMs: 0.003,
    userCommands: 8,
    topicCommands: 6,
  },
};

/** A service on NATS: the same nodes, and a broker with more expensive claims. */
export const NATS_COSTS: Costs = {
  ...REDIS_COSTS,
  userMs: 0.2,
  broker: {
    userMs: 0.4,
    topicMs: 0.1,
    publicationMs: 0.036,
    copyMs: 0.005,
    userCommands: 5,
    topicCommands: 20,
  },
};
