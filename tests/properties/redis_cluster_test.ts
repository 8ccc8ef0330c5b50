/**
 * Brokers on a Redis cluster whose slots move and whose masters fail. Each topic must be at its
 * master.
 */
import { assertEquals } from "@std/assert";
import fc from "fast-check";
import { RedisNames, slotOf } from "../../brokers/redis/format.ts";
import { RedisBroker } from "../../brokers/redis/mod.ts";
import type { Broker, BrokerSubscription, HistoryBounds } from "../../pubsub/broker.ts";
import { logTopic } from "../../streams/logs/log_names.ts";
import type { Host } from "../simulator/mod.ts";
import { SimulatedRedisCluster } from "../simulator/redis/cluster.ts";
import type { Drawn } from "./draw.ts";
import { property } from "./property.ts";
import type { World } from "./world.ts";
import { logsOf } from "../../streams/logs/logs_of.ts";

/** The topics. Every second one has a history. */
const TOPICS = ["plain-0", "kept-1", "plain-2", "kept-3", "plain-4", "kept-5"] as const;

const BOUNDS: HistoryBounds = { size: 100, ttlMs: 600_000, bytes: 1 << 20 };

/** The log that both brokers watch, and the maximum number of logs on all masters together. */
const [LOG, MAX_LOGS] = ["log", 3] as const;

/**
 * The interval of pings, and the time until they detect a silently broken connection, in
 * milliseconds.
 */
const [PING_MS, FOUND_MS] = [1_000, 5_000] as const;

/**
 * Maximum time until all subscriptions are live again, and time that a message takes, in
 * milliseconds.
 */
const [CALM_MS, TRIP_MS] = [9_000, 400] as const;

const toggles = fc.array(fc.record({ broker: fc.nat(1), topic: fc.nat(TOPICS.length - 1) }), {
  maxLength: 6,
});
const cases = fc.record({
  masters: fc.integer({ min: 2, max: 3 }),
  /** Subscriptions that are toggled at the start, and in each round during its fault. */
  first: toggles,
  rounds: fc.array(
    fc.record({
      fault: fc.constantFrom("none", "one moves", "all move", "kill", "cut", "silent cut", "drop"),
      /** The topic whose master fails, and the broker that is cut off. */
      topic: fc.nat(TOPICS.length - 1),
      broker: fc.nat(1),
      lastsMs: fc.integer({ min: 100, max: 2_500 }),
      toggles,
    }),
    { maxLength: 5 },
  ),
});
type Round = Drawn<typeof cases>["rounds"][number];

property("brokers follow each topic only at its master, and receive each publication once", {
  cases,
  async check(world, { masters, first, rounds }) {
    const { simulation, network } = world;
    const hosts = Array.from({ length: masters }, (_, i) => world.host(`redis-${i}`));
    const cluster = await simulation.hold(
      SimulatedRedisCluster.create({ simulation, network, hosts }),
    );
    const brokers = await Promise.all(["near", "far"].map(async (name) => {
      const host = world.host(name);
      const broker = await world.run(host, () => {
        const options = { runtime: host.runtime, heartbeatMs: PING_MS };
        return new RedisBroker({ client: cluster.client(host) }, options);
      });
      return new ClusterBroker(world, host, broker);
    }));
    const play = new ClusterRounds(world, cluster, brokers);
    await play.toggle(first);
    await play.settle();
    await play.createLogs();
    await play.publishAll();
    for (const round of rounds) await play.play(round);
    for (const { host, broker } of brokers) await world.run(host, () => broker.close());
  },
});

/** A subscription of a broker. */
interface Listening {
  readonly subscription: BrokerSubscription;
  readonly heard: string[];
  interruptions: number;
}

/** A broker on its own machine. */
class ClusterBroker {
  readonly listenings = new Map<string, Listening>();
  /** Number of announcements about the log. */
  announced = 0;

  constructor(readonly world: World, readonly host: Host, readonly broker: Broker) {}

  run<T>(act: (broker: Broker) => T | Promise<T>): Promise<T> {
    return this.world.run(this.host, () => act(this.broker));
  }

  /** Subscribes to a topic, or unsubscribes from it. */
  async toggle(topic: string): Promise<void> {
    const known = this.listenings.get(topic);
    if (known !== undefined) {
      this.listenings.delete(topic);
      return await this.run(async () => await known.subscription[Symbol.asyncDispose]());
    }
    const heard: string[] = [];
    const listening = await this.run((broker): Listening => ({
      heard,
      interruptions: 0,
      subscription: broker.subscribe(topic, ({ payload }) => void heard.push(`${payload}`), {
        ...(topic.startsWith("kept") && { history: BOUNDS }),
        onInterrupted: () => void listening.interruptions++,
      }),
    }));
    this.listenings.set(topic, listening);
  }
}

/** The brokers, masters and topic that a fault affects. */
interface Hit {
  readonly brokers: readonly number[];
  readonly masters: readonly number[];
  readonly topic?: string;
}

class ClusterRounds {
  readonly #names = new RedisNames("skein");
  #followsLog = false;
  /** True once slots have moved. A broker may notice that by a reply that breaks a connection. */
  #haveMoved = false;
  /** Masters that lost all slots, with the brokers that followed topics there. */
  readonly #idle = new Map<Host, readonly ClusterBroker[]>();
  #newest = 0;

  constructor(
    readonly world: World,
    readonly cluster: SimulatedRedisCluster,
    readonly brokers: readonly ClusterBroker[],
  ) {}

  async toggle(toggles: Round["toggles"]): Promise<void> {
    for (const { broker, topic } of toggles) await this.brokers[broker]!.toggle(TOPICS[topic]!);
  }

  /** Plays a fault, and expects exactly the affected subscriptions to be interrupted. */
  async play(round: Round): Promise<void> {
    const before = this.brokers.map(({ listenings }) =>
      [...listenings].map(([topic, listening]) => {
        const { interruptions } = listening;
        return { topic, listening, interruptions, master: this.#masterOf(topic) };
      })
    );
    const hit = await this.#begin(round);
    await this.toggle(round.toggles);
    await this.settle();
    await this.publishAll();
    for (const [i, subscriptions] of before.entries()) {
      for (const { topic, listening, interruptions, master } of subscriptions) {
        if (this.brokers[i]!.listenings.get(topic) !== listening) continue;
        const isTold = listening.interruptions > interruptions;
        if (isTold && this.#haveMoved) continue;
        const isHit = hit.brokers.includes(i) && hit.masters.includes(master) &&
          (hit.topic ?? topic) === topic;
        assertEquals(isTold, isHit, `${round.fault} interrupts ${topic} of broker ${i}`);
      }
    }
  }

  #followersOf(master: number): ClusterBroker[] {
    return this.brokers.filter(({ listenings }) =>
      [...listenings.keys()].some((topic) => this.#masterOf(topic) === master)
    );
  }

  #channelOf(topic: string): string {
    return topic.startsWith("kept") ? this.#names.of("log", topic) : this.#names.channel(topic);
  }

  #masterOf(topic: string): number {
    return this.cluster.ownerOf(this.#channelOf(topic));
  }

  /** Moves a master's slots to the next master. Brokers that follow topics there are affected. */
  #move(from: number, isMoved?: (slot: number) => boolean): void {
    this.#haveMoved = true;
    if (isMoved === undefined) {
      this.#idle.set(this.cluster.servers[from]!.host, this.#followersOf(from));
    }
    const to = (from + 1) % this.cluster.servers.length;
    this.cluster.move((slot, owner) => owner === from && (isMoved?.(slot) ?? true), to);
    this.#idle.delete(this.cluster.servers[to]!.host);
  }

  async #begin({ fault, topic: index, broker, lastsMs }: Round): Promise<Hit> {
    const { servers } = this.cluster;
    const world = this.world;
    const topic = TOPICS[index]!;
    const master = this.#masterOf(topic);
    const both = { brokers: [0, 1], masters: [master] };
    switch (fault) {
      case "none":
        return { brokers: [], masters: [] };
      case "one moves": {
        const slot = slotOf(this.#channelOf(topic));
        this.#move(master, (one) => one === slot);
        return { ...both, topic };
      }
      case "all move":
        this.#move(master);
        return both;
      case "kill": {
        const followers = this.#followersOf(master);
        servers[master]!.host.kill();
        await world.pause(lastsMs);
        for (const { broker } of followers) assertEquals(broker.status.current.name, "interrupted");
        this.#move(master);
        await world.pause(lastsMs);
        servers[master]!.start();
        return both;
      }
      case "cut":
      case "silent cut":
        world.cut(this.brokers[broker]!.host, fault === "cut" ? false : "client");
        if (fault === "silent cut") await world.pause(FOUND_MS);
        return { brokers: [broker], masters: [...servers.keys()] };
      case "drop":
        servers[master]!.dropSubscribers();
        return both;
    }
  }

  /** Creates the maximum number of logs and one more. Both brokers watch one of the logs. */
  async createLogs(): Promise<void> {
    const kinds: string[] = [];
    for (let n = 0; n <= MAX_LOGS; n++) {
      const id = n === 0 ? LOG : `${LOG}-${n}`;
      const created = await this.brokers[n % 2]!.run((broker) => create(broker, id, []));
      kinds.push(created.kind);
    }
    assertEquals(kinds, [...Array(MAX_LOGS).fill("created"), "too-many"]);
    this.#followsLog = true;
    for (const one of this.brokers) {
      await one.run((broker) => broker.subscribe(logTopic(LOG), () => void one.announced++).ready);
    }
  }

  /** Waits until each subscription is live at its topic's master and nowhere else. */
  async settle(): Promise<void> {
    const { servers } = this.cluster;
    const log = this.#names.channel(logTopic(LOG));
    const wanted = () =>
      [...servers.keys()].map((i) => {
        const counts = new Map<string, number>();
        let brokers = 0;
        for (const { listenings } of this.brokers) {
          const own = [...listenings.keys()].filter((topic) => this.#masterOf(topic) === i)
            .map((topic) => this.#channelOf(topic));
          if (this.#followsLog && this.cluster.ownerOf(log) === i) own.push(log);
          for (const channel of own) counts.set(channel, (counts.get(channel) ?? 0) + 1);
          if (own.length > 0) brokers++;
        }
        return shown(brokers, [...counts]);
      });
    const present = () =>
      servers.map(({ subscribers, shardChannels }) => shown(subscribers, shardChannels));
    const isConnected = ({ broker }: ClusterBroker) => broker.status.current.name === "connected";
    await this.world.pause(TRIP_MS);
    const isCalm = () => `${wanted()}` === `${present()}` && this.brokers.every(isConnected);
    await this.world.until("calm", isCalm, CALM_MS).catch(() => {});
    assertEquals(present(), wanted());
    assertEquals(this.brokers.map(isConnected), [true, true]);
    const isFree = () =>
      !this.world.network.links.some(({ client, server }) =>
        this.#idle.get(server)?.some(({ host }) => host === client)
      );
    await this.world.until("no connection to a master without slots", isFree, CALM_MS);
    const ready = this.brokers.flatMap(({ listenings }) =>
      [...listenings.values()].map(({ subscription }) => subscription.ready)
    );
    await this.world.inTime("subscriptions in force", Promise.all(ready), CALM_MS);
  }

  /**
   * Publishes on each topic. Each listener must receive the publication once, and both brokers must
   * read the same.
   */
  async publishAll(): Promise<void> {
    for (const { listenings } of this.brokers) {
      for (const { heard } of listenings.values()) heard.length = 0;
    }
    const expected = new Map<string, string>();
    await Promise.all(TOPICS.map(async (topic, i) => {
      const payload = `${++this.#newest}`;
      expected.set(topic, payload);
      const [one, other] = [this.brokers[i % 2]!, this.brokers[(i + this.#newest) % 2]!];
      if (topic.startsWith("plain")) {
        return await one.run((broker) => broker.publish({ topic, payload }));
      }
      const appending = one.run(({ history }) =>
        history!.append({ topic, payload }, { bounds: BOUNDS })
      );
      const { position } = await this.world.inTime("an append", appending, CALM_MS);
      const options = { bounds: BOUNDS, last: 1, maxMessages: 1, maxBytes: 1_000 };
      const page = await other.run(({ history }) => history!.read(topic, options));
      assertEquals(
        { payload: page.publications[0]?.payload, epoch: page.epoch, head: page.head },
        { payload, epoch: position?.epoch, head: position?.offset },
      );
    }));
    const announced = this.brokers.map((one) => one.announced);
    await this.brokers[this.#newest % 2]!.run(async (broker) => {
      const { kind } = await logsOf(broker)!.append(LOG, { records: ["1"], maxBytes: 1 << 20 });
      // A slot that moves leaves its keys behind.
      if (kind !== "appended") await create(broker, LOG, ["1"]);
    });
    await this.world.pause(TRIP_MS);
    for (const [i, { listenings, announced: now }] of this.brokers.entries()) {
      assertEquals(now > announced[i]!, true, `announcements of the log at broker ${i}`);
      for (const [topic, { heard }] of listenings) {
        assertEquals(heard, [expected.get(topic)], `${topic} at broker ${i}`);
      }
    }
  }
}

function create(broker: Broker, id: string, records: readonly string[]) {
  const config = { contentType: "text/plain" };
  const maxLogs = records.length > 0 ? 100 : MAX_LOGS;
  return logsOf(broker)!.create(id, { config, identity: "sharded0", records, maxLogs });
}

/** Returns a text with the channels at a master and the number of brokers that have any. */
function shown(brokers: number, channels: Iterable<readonly [string, number]>): string {
  const texts = Array.from(channels, ([name, count]) => `${name} ${count}`);
  return `${brokers} brokers at ${texts.toSorted()}`;
}
