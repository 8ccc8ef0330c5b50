/**
 * A store in memory for several nodes. A case can make it unreachable or slow, and can make it
 * lose data.
 */
import { pause } from "../../base/wait.ts";
import type { Runtime } from "../../base/runtime.ts";
import {
  type Broker,
  type BrokerSubscribeOptions,
  type BrokerSubscription,
  INTERNAL_PREFIX,
  type PublicationListener,
} from "../../pubsub/broker.ts";
import type { Host, SimulatedServer } from "../simulator/mod.ts";
import { FaultyBroker, FaultyStore } from "../faulty_broker.ts";
import { NodePorts } from "../simulation/cluster/node_ports.ts";
import { BEAT_MS, GONE_MS } from "./nodes.ts";
import { byToken, type World } from "./world.ts";

/** Topic of the nodes' heartbeats. */
const BEATS = `${INTERNAL_PREFIX}nodes`;

/** A broker with publications and a store but without histories. */
export class FailingStore extends FaultyBroker {
  /** Time that it takes to claim a slot or to take tokens of a rate, in milliseconds. */
  callMs = { claim: 0, take: 0 };
  /** Number of claims that have not been answered yet. */
  claiming = 0;
  /** Share of lost messages between nodes, except heartbeats. */
  lostShare = 0;
  /** Maximum delay of messages to new subscriptions, in milliseconds. */
  delayMs = 0;
  readonly #store: FaultyStore;
  readonly #ports: NodePorts;
  readonly #runtime: Runtime;
  readonly #scopes = new Set<string>();

  /** Starts a store. */
  constructor(world: World) {
    const host = world.host("broker");
    const { runtime } = host;
    const store = new FaultyStore({ runtime });
    super(store, { without: ["history", "logs"] });
    this.#store = store;
    this.#runtime = runtime;
    this.make("store.claim", async (run, { args: [scope] }) => {
      this.claiming++;
      await pause(runtime, this.callMs.claim);
      this.claiming--;
      this.#scopes.add(scope);
      return await run();
    });
    this.make("store.take", async (run) => {
      await pause(runtime, this.callMs.take);
      return await run();
    });
    this.#ports = new NodePorts(world.simulation, host, this);
  }

  /** Creates a node's broker for one life of its machine. */
  broker(host: Host): Broker {
    return this.#ports.broker(host);
  }

  /**
   * Makes the store unreachable. Calls fail and publications are lost, but nodes see no change of
   * status.
   */
  goAway(): void {
    this.#store.isAway = true;
  }

  /**
   * Makes the store reachable again. Subscriptions notice that they may have missed publications.
   */
  comeBack(): void {
    if (!this.#store.isAway) return;
    this.#store.isAway = false;
    this.interrupt();
  }

  /** Loses all claims, numbers and counts. */
  forget(): void {
    this.#store.lose();
  }

  /**
   * Counts the claims of a user's sessions.
   *
   * @returns The number of claims.
   */
  async claimsOf(user: string): Promise<number> {
    const scopes = [...this.#scopes].filter((scope) => scope.endsWith(`:${user}`));
    const claims = await Promise.all(scopes.map((scope) => this.store!.claims(scope)));
    return claims.flat().length;
  }

  override subscribe(
    topic: string,
    listener: PublicationListener,
    options?: BrokerSubscribeOptions,
  ): BrokerSubscription {
    if (!topic.startsWith(INTERNAL_PREFIX) || topic === BEATS) {
      return super.subscribe(topic, listener, options);
    }
    // Messages stay in order within a topic but may overtake messages of other topics.
    const delayMs = this.delayMs * this.#runtime.random();
    return super.subscribe(topic, (publication) => {
      if (this.#runtime.random() < this.lostShare) return;
      if (delayMs === 0) listener(publication);
      else this.#runtime.setTimeout(() => listener(publication), delayMs);
    }, options);
  }
}

/**
 * Starts a node with rooms. A client's token is its user.
 *
 * @param name Name of the machine.
 * @param store The store of all nodes.
 * @param graceMs Grace period of a user without sessions, in milliseconds.
 * @returns The node.
 */
export function serveRooms(
  world: World,
  name: string,
  store: FailingStore,
  graceMs: number,
): SimulatedServer<string> {
  return world.serve<string>(name, (host) => ({
    ...byToken,
    broker: store.broker(host),
    node: { heartbeatMs: BEAT_MS, goneAfterMs: GONE_MS },
    authorize: () => true,
    rooms: ["room:{name}"],
    presence: { graceMs },
    onMessage() {},
  }));
}
