/** Made-up runs, given fact by fact, that show when an invariant holds and when it is broken. */
import { assertEquals } from "@std/assert";
import { Host } from "../../simulator/host.ts";
import { EventLoop } from "../../simulator/event_loop.ts";
import type {
  Cluster,
  FactKind,
  Facts,
  Invariant,
  LiveClient,
  LiveServer,
  Terms,
} from "../facts.ts";
import { Witness } from "../witness.ts";

/** Default terms of a story. Histories keep 100 publications for a minute. */
export const TERMS: Terms = {
  historyOf: (topic) =>
    topic.startsWith("plain") ? undefined : { size: 100, ttlMs: 60_000, bytes: 1 << 20 },
  isRoom: (topic) => topic.startsWith("room"),
  isApart: false,
  maxSessionsPerUser: 2,
  hasSharedLimits: true,
  hasExactPlaces: true,
  hasResetCodes: true,
  rates: {},
  sendQueue: { maxMessages: 256, maxBytes: 1 << 20, drops: false },
  heartbeat: { intervalMs: 5_000, timeoutMs: 12_000 },
  outbox: { maxMessages: 100, maxBytes: 1 << 18 },
};

/** A made-up run for one invariant. Each fact happens a second after the previous fact. */
export class Story {
  /** State of the cluster. */
  readonly cluster: {
    nowMs: number;
    hosts: Map<string, Host>;
    pending: Cluster["pending"];
    isBehind: Cluster["isBehind"];
    servers: LiveServer[];
    clients: LiveClient[];
  } = {
    nowMs: 0,
    hosts: new Map(),
    pending: () => [],
    isBehind: () => false,
    servers: [],
    clients: [],
  };
  readonly #witness: Witness;
  readonly #events = new EventLoop({ seed: 1 });
  readonly #invariant: Invariant;

  /**
   * Starts a run.
   *
   * @param invariant The checked invariant.
   * @param terms The terms that differ from {@linkcode TERMS}.
   */
  constructor(invariant: Invariant, terms: Partial<Terms> = {}) {
    this.#invariant = invariant;
    this.#witness = new Witness({
      clock: this.cluster,
      terms: { ...TERMS, ...terms },
      invariants: [invariant],
    });
  }

  /** Adds a running host. */
  host(name: string): Host {
    let host = this.cluster.hosts.get(name);
    if (host === undefined) this.cluster.hosts.set(name, host = new Host(this.#events, name, {}));
    return host;
  }

  /** Lets time pass. */
  passes(ms: number): this {
    this.cluster.nowMs += ms;
    return this;
  }

  /** Reports a fact, on host `h` by default. */
  tells<K extends FactKind>(kind: K, fact: Facts[K], host = "h"): this {
    this.cluster.nowMs += 1_000;
    this.#witness.tell(kind, host, fact);
    return this;
  }

  /** Publishes ids on a topic, as producer `p`. */
  publishes(topic: string, ...ids: string[]): this {
    for (const id of ids) this.tells("published", { topic, id, producer: "p" });
    return this;
  }

  /** Adds subscription `s` of client `c`, at an offset of epoch `e`. */
  subscribes(topic: string, offset = 0, subscription = "s"): this {
    const client = subscription.replace("s", "c");
    this.tells("subscribing", { client, subscription, topic });
    const position = topic.startsWith("plain") ? {} : { position: { epoch: "e", offset } };
    this.tells("subscribed", { client, subscription, topic, ...position });
    const status = {
      isEnded: false,
      topic,
      status: { current: "subscribed" },
    } as LiveClient["subscriptions"] extends ReadonlyMap<string, infer S> ? S : never;
    this.cluster.clients.push({
      name: client,
      host: this.host(client),
      client: {} as LiveClient["client"],
      subscriptions: new Map([[subscription, status]]),
      readers: new Map(),
    });
    return this;
  }

  /**
   * Makes a subscription receive ids. The offset is the number at the end of the id, such as 7 for
   * `p7`.
   */
  gets(topic: string, ids: readonly string[], subscription = "s", epoch = "e"): this {
    const client = subscription.replace("s", "c");
    for (const id of ids) {
      const offset = Number(/\d+$/.exec(id)![0]);
      const position = topic.startsWith("plain") ? {} : { position: { epoch, offset } };
      this.tells("received", { client, subscription, topic, id, ...position });
    }
    return this;
  }

  /** Notifies a subscription of a recovery. */
  recovers(
    topic: string,
    how: Omit<Facts["recovery"], "client" | "subscription" | "topic">,
    subscription = "s",
  ): this {
    const client = subscription.replace("s", "c");
    return this.tells("recovery", { client, subscription, topic, ...how });
  }

  /** Checks the state as it is checked at every step. */
  steps(): this {
    this.#witness.checkStep(this.cluster);
    return this;
  }

  /** Checks the state as it is checked at the end. */
  ends(): this {
    this.#witness.checkEnd(this.cluster);
    return this;
  }

  /** Checks the state as it is checked after all parts have closed. */
  closes(): this {
    this.#witness.checkClosed(this.cluster);
    return this;
  }

  /** Asserts the texts of all findings. */
  finds(...texts: string[]): void {
    assertEquals(this.#witness.findings.map(({ text }) => text), texts);
    for (const { invariant } of this.#witness.findings) {
      assertEquals(invariant, this.#invariant.name);
    }
  }
}
