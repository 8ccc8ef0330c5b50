/** An engine in memory that a case makes unreachable, slow or forgetful, for several nodes. */
import { BrokerError } from "../../errors.ts";
import { pause } from "../../base/wait.ts";
import type { Runtime } from "../../base/runtime.ts";
import { StatusFeed } from "../../base/status_feed.ts";
import {
  type Broker,
  type BrokerStats,
  type BrokerStatus,
  type BrokerStore,
  type BrokerSubscribeOptions,
  type BrokerSubscription,
  INTERNAL_PREFIX,
  type Publication,
} from "../../pubsub/broker.ts";
import { MemoryBroker } from "../../pubsub/mod.ts";
import type { Host } from "../../testing/simulation/mod.ts";
import { NodePorts } from "../simulation/cluster/node_ports.ts";
import type { World } from "./world.ts";

/** Topic by which nodes notice that the others are alive. */
const BEATS = `${INTERNAL_PREFIX}nodes`;

/** Publications and a store, without histories. */
export class FailingEngine implements Broker {
  readonly name = "failing";
  readonly delivery = "at-most-once";
  readonly status: StatusFeed<BrokerStatus> = new StatusFeed<BrokerStatus>({ name: "connected" });
  readonly store: BrokerStore;
  /** Time of a claim, and of a count of a rate, in milliseconds. */
  callMs = { claim: 0, take: 0 };
  /** Claims that began, and have no reply yet. */
  claiming = 0;
  /** Share of the messages among nodes that are lost, except for heartbeats. */
  lostShare = 0;
  /** Longest delay of the messages of a subscription that begins, in milliseconds. */
  delayMs = 0;
  readonly #inner: MemoryBroker;
  readonly #ports: NodePorts;
  readonly #runtime: Runtime;
  readonly #interrupted = new Set<() => void>();
  readonly #scopes = new Set<string>();
  #isAway = false;
  /** Number of times at which the engine forgot everything. */
  #life = 0;

  /**
   * Starts an engine.
   *
   * @param world The world.
   * @param canCount False if each node counts rates alone.
   */
  constructor(world: World, { canCount = true }: { readonly canCount?: boolean } = {}) {
    const host = world.host("engine");
    const runtime = this.#runtime = host.runtime;
    this.#inner = new MemoryBroker({ runtime });
    const { store } = this.#inner;
    const reach = (key: string) => {
      if (this.#isAway) throw new BrokerError("Cannot reach the engine");
      return `${this.#life}/${key}`;
    };
    this.store = {
      advance: async (key, ...rest) => await store.advance(reach(key), ...rest),
      newest: async (key, windowMs) => await store.newest(reach(key), windowMs),
      claim: async (scope, ...rest) => {
        this.claiming++;
        await pause(runtime, this.callMs.claim);
        this.claiming--;
        this.#scopes.add(scope);
        return await store.claim(reach(scope), ...rest);
      },
      release: async (scope, member) => await store.release(reach(scope), member),
      claims: async (scope) => await store.claims(reach(scope)),
      ...(canCount && {
        take: async (key, ...rest) => {
          await pause(runtime, this.callMs.take);
          return await store.take!(reach(key), ...rest);
        },
      }),
    };
    this.#ports = new NodePorts(world.simulation, host, this);
  }

  get stats(): BrokerStats {
    return this.#inner.stats;
  }

  /** Makes the broker of a node, for one life of its machine. */
  broker(host: Host): Broker {
    return this.#ports.broker(host);
  }

  /** Makes the engine unreachable: all calls fail, and publications are lost. */
  goAway(): void {
    this.#isAway = true;
  }

  /** Makes the engine reachable; subscriptions notice that they may have missed publications. */
  comeBack(): void {
    if (!this.#isAway) return;
    this.#isAway = false;
    for (const tell of [...this.#interrupted]) tell();
  }

  /** Loses all claims, numbers and counts. */
  forget(): void {
    this.#life++;
  }

  /**
   * Counts the claims of the sessions of a user.
   *
   * @param user The user.
   * @returns The number.
   */
  async claimsOf(user: string): Promise<number> {
    const scopes = [...this.#scopes].filter((scope) => scope.endsWith(`:${user}`));
    const claims = await Promise.all(scopes.map((scope) => this.store.claims(scope)));
    return claims.flat().length;
  }

  issues(): string[] {
    return [];
  }

  publish(publication: Publication): void {
    if (!this.#isAway) this.#inner.publish(publication);
  }

  subscribe(
    topic: string,
    listener: (publication: Publication) => void,
    { onInterrupted }: BrokerSubscribeOptions = {},
  ): BrokerSubscription {
    const isBetweenNodes = topic.startsWith(INTERNAL_PREFIX) && topic !== BEATS;
    // Messages of one topic stay in order, and overtake messages of another topic.
    const delayMs = isBetweenNodes ? this.delayMs * this.#runtime.random() : 0;
    const inner = this.#inner.subscribe(topic, (publication) => {
      if (this.#isAway) return;
      if (isBetweenNodes && this.#runtime.random() < this.lostShare) return;
      if (delayMs === 0) listener(publication);
      else this.#runtime.setTimeout(() => listener(publication), delayMs);
    });
    const tell = () => onInterrupted?.();
    this.#interrupted.add(tell);
    return {
      ready: inner.ready,
      [Symbol.asyncDispose]: () => {
        this.#interrupted.delete(tell);
        return inner[Symbol.asyncDispose]();
      },
    };
  }

  close(): Promise<void> {
    return this.#inner.close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}
