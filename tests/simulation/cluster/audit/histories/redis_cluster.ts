/** Brokers on a cluster of Redis: each topic at its master, also behind moved slots and lost masters. */
import type { BrokerSubscription, HistoryBounds } from "../../../../../pubsub/broker.ts";
import { Names, slotOf } from "../../../../../brokers/redis/format.ts";
import { logTopic } from "../../../../../pubsub/logs/rules.ts";
import { RedisBroker } from "../../../../../brokers/redis/mod.ts";
import type { SimulatedRedisCluster } from "../../../../../testing/simulation/redis/cluster.ts";
import { between, oneOf } from "../../chance.ts";
import type { Audit } from "../audit.ts";
import { LogMachine } from "../logs/machine.ts";

/** Numbers of masters, of which one is drawn, and names of the machines of brokers. */
const [MASTERS, BROKERS] = [[2, 3], ["sharded-near", "sharded-far"]] as const;

/** Rounds, and topics of which each second one has a history. */
const [ROUNDS, TOPICS] = [6, 8] as const;

/** Bounds of the histories. */
const BOUNDS: HistoryBounds = { size: 100, ttlMs: 600_000, bytes: 1 << 20 };

/** Share of the topics that each broker has at first, and of those that change in a round. */
const [FIRST, CHANGED] = [0.6, 0.25] as const;

/** Faults of a round. */
const FAULTS = [
  "none",
  "one moves",
  "all move",
  "all move",
  "killed",
  "cut",
  "cut silently",
  "dropped",
] as const;

/** The log of which both brokers hear, and most logs of all parts. */
const [LOG, MAX_LOGS] = ["sharded", 5] as const;

/** Interval of pings, and fewest and most milliseconds until another master has the slots of a lost one. */
const [PING_MS, LOST_MS] = [1_000, [100, 2_500]] as const;

/** Time until pings have found each connection that broke silently, in milliseconds. */
const FOUND_MS = 5 * PING_MS;

/** Longest time until all is in force again, of a message, and of connections that end, in milliseconds. */
const [CALM_MS, TRIP_MS, END_MS] = [9_000, 400, 3_500] as const;

/** Options of a new log. */
const NEW_LOG = {
  config: { contentType: "text/plain" },
  identity: "sharded0",
  records: [] as string[],
};

/** A subscription of a broker. */
interface Listening {
  readonly subscription: BrokerSubscription;
  readonly heard: string[];
  interruptions: number;
}

/** A machine with a broker. */
interface Seat {
  readonly machine: LogMachine;
  readonly listenings: Map<string, Listening>;
}

/**
 * Moves slots, ends masters and breaks connections while two brokers follow topics.
 *
 * @param audit The audit.
 */
export async function auditRedisCluster(audit: Audit): Promise<void> {
  const { startRedisCluster } = audit.engine;
  if (startRedisCluster === undefined) return;
  const random = audit.chanceOf("redis cluster");
  const hosts = Array.from(
    { length: oneOf(random, MASTERS) },
    (_, i) => audit.host(`sharded-redis${i}`),
  );
  const cluster = await startRedisCluster(hosts);
  await LogMachine.use(audit, BROKERS, async (machines) => {
    const seats = machines.map((machine): Seat => ({ machine, listenings: new Map() }));
    await new ClusterRounds(audit, random, cluster, seats).run();
  }, (host) => {
    const { runtime } = host;
    return new RedisBroker({ client: cluster.client(host) }, { runtime, heartbeatMs: PING_MS });
  });
  for (const host of hosts) host.kill();
}

/** The rounds of two brokers. */
class ClusterRounds {
  readonly #audit: Audit;
  readonly #random: () => number;
  readonly #cluster: SimulatedRedisCluster;
  readonly #seats: readonly Seat[];
  readonly #names = new Names("skein");
  readonly #topics = Array.from({ length: TOPICS }, (_, i) => `${i % 2 ? "kept" : "plain"}-${i}`);
  #isFollowingLog = false;
  /** Announcements of the log, by broker. */
  readonly #announced = [0, 0];
  /** True once slots have moved: a broker may learn of these by an answer that breaks a connection. */
  #haveMoved = false;
  /** Number of the newest publication. */
  #newest = 0;

  constructor(
    audit: Audit,
    random: () => number,
    cluster: SimulatedRedisCluster,
    seats: readonly Seat[],
  ) {
    this.#audit = audit;
    this.#random = random;
    this.#cluster = cluster;
    this.#seats = seats;
  }

  async run(): Promise<void> {
    for (const seat of this.#seats) await this.#change(seat, FIRST);
    await this.#settle("the start");
    await this.#createLogs();
    await this.#publishAll("the start");
    for (let round = 0; round < ROUNDS; round++) {
      const fault = oneOf(this.#random, FAULTS);
      const before = this.#seats.map(({ listenings }) =>
        new Map([...listenings].map(([topic, listening]) => [topic, {
          listening,
          interruptions: listening.interruptions,
          owner: this.#ownerOf(topic),
        }]))
      );
      const hit = await this.#begin(fault);
      for (const seat of this.#seats) await this.#change(seat, CHANGED);
      await this.#settle(fault);
      await this.#publishAll(fault);
      for (const [i, { listenings }] of this.#seats.entries()) {
        for (const [topic, { listening, interruptions, owner }] of before[i]!) {
          if (listenings.get(topic) !== listening) continue;
          const told = listening.interruptions - interruptions;
          if (told > 0 && this.#haveMoved) continue;
          const expected = hit.seats.includes(i) && hit.owners.includes(owner) &&
            (hit.topic === undefined || hit.topic === topic);
          this.#expect(`${topic} of broker ${i} is interrupted by ${fault}`, expected, told > 0);
        }
      }
    }
    await this.#close();
  }

  #expect(what: string, expected: unknown, received: unknown): void {
    this.#audit.examine("brokers", `on a cluster of Redis: ${what}`, expected, received);
  }

  #channelOf(topic: string): string {
    return topic.startsWith("kept") ? this.#names.of("log", topic) : this.#names.channel(topic);
  }

  #ownerOf(topic: string): number {
    return this.#cluster.ownerOf(this.#channelOf(topic));
  }

  /** Begins a fault; returns the brokers, masters and the topic that are hit. */
  async #begin(fault: typeof FAULTS[number]): Promise<{
    readonly seats: readonly number[];
    readonly owners: readonly number[];
    readonly topic?: string;
  }> {
    const { servers } = this.#cluster;
    const all = servers.map((_, i) => i);
    const from = this.#ownerOf(oneOf(this.#random, this.#topics));
    const to = oneOf(this.#random, all.filter((i) => i !== from));
    const both = [0, 1];
    switch (fault) {
      case "none":
        return { seats: [], owners: [] };
      case "one moves": {
        const topic = oneOf(
          this.#random,
          this.#topics.filter((one) => this.#ownerOf(one) === from),
        );
        const slot = slotOf(this.#channelOf(topic));
        this.#haveMoved = true;
        this.#cluster.move((one) => one === slot, to);
        return { seats: both, owners: [from], topic };
      }
      case "all move": {
        this.#haveMoved = true;
        const hosts = this.#seats.filter(({ listenings }) =>
          [...listenings.keys()].some((topic) => this.#ownerOf(topic) === from)
        ).map(({ machine }) => machine.host);
        this.#cluster.move((_, owner) => owner === from, to);
        const links = () =>
          this.#audit.network.links.filter(({ client, server }) =>
            hosts.includes(client) && server === servers[from]!.host
          ).length;
        await this.#audit.until(() => links() === 0, CALM_MS);
        this.#expect("connections to a master without slots", 0, links());
        return { seats: both, owners: [from] };
      }
      case "killed": {
        const { host } = servers[from]!;
        host.kill();
        await this.#audit.pause(between(this.#random, ...LOST_MS));
        for (const [i, { machine, listenings }] of this.#seats.entries()) {
          if (![...listenings.keys()].some((topic) => this.#ownerOf(topic) === from)) continue;
          const { name } = machine.broker.status.current;
          this.#expect(`status of broker ${i} without a master`, "interrupted", name);
        }
        this.#haveMoved = true;
        this.#cluster.move((_, owner) => owner === from, to);
        await this.#audit.pause(between(this.#random, ...LOST_MS));
        servers[from]!.start();
        return { seats: both, owners: [from] };
      }
      case "cut":
      case "cut silently": {
        const seat = oneOf(this.#random, both);
        this.#audit.cut(this.#seats[seat]!.machine.host, fault === "cut" ? false : "client");
        if (fault === "cut silently") await this.#audit.pause(FOUND_MS);
        return { seats: [seat], owners: all };
      }
      case "dropped":
        servers[from]!.dropSubscribers();
        return { seats: both, owners: [from] };
    }
  }

  /** Appends to the log, which is gone where the slot has moved. */
  async #appendLog({ broker }: LogMachine): Promise<void> {
    const options = { records: ["1"], maxBytes: 1 << 20 };
    const { kind } = await broker.logs!.append(LOG, options);
    if (kind === "appended") return;
    await broker.logs!.create(LOG, { ...NEW_LOG, records: ["1"], maxLogs: 100 });
  }

  /** Creates as many logs as all parts may have together, and one more; both brokers hear of one. */
  async #createLogs(): Promise<void> {
    const kinds: string[] = [];
    for (let n = 0; n <= MAX_LOGS; n++) {
      const { machine } = oneOf(this.#random, this.#seats);
      const id = n === 0 ? LOG : `${LOG}-${n}`;
      const create = () => machine.broker.logs!.create(id, { ...NEW_LOG, maxLogs: MAX_LOGS });
      kinds.push((await machine.run(create)).kind);
    }
    this.#isFollowingLog = true;
    this.#expect("logs", [...Array(MAX_LOGS).fill("created"), "too-many"], kinds);
    await Promise.all(this.#seats.map(({ machine }, i) =>
      machine.run(() => {
        const hear = () => void this.#announced[i]!++;
        return machine.broker.subscribe(logTopic(LOG), hear).ready;
      })
    ));
  }

  /** Subscribes a broker to some topics, and ends subscriptions. */
  async #change({ machine, listenings }: Seat, share: number): Promise<void> {
    for (const topic of this.#topics) {
      if (this.#random() >= share) continue;
      const known = listenings.get(topic);
      if (known !== undefined) {
        listenings.delete(topic);
        await machine.run(async () => await known.subscription[Symbol.asyncDispose]());
        continue;
      }
      const heard: string[] = [];
      const listening = await machine.run((): Listening => ({
        heard,
        interruptions: 0,
        subscription: machine.broker.subscribe(
          topic,
          ({ payload }) => void heard.push(`${payload}`),
          {
            ...(topic.startsWith("kept") && { history: BOUNDS }),
            onInterrupted: () => void listening.interruptions++,
          },
        ),
      }));
      listenings.set(topic, listening);
    }
  }

  /** Waits until each subscription is in force at the master of the topic, and nowhere else. */
  async #settle(behind: string): Promise<void> {
    const { servers } = this.#cluster;
    const followers = new Map<string, number>();
    for (const { listenings } of this.#seats) {
      for (const topic of listenings.keys()) followers.set(topic, (followers.get(topic) ?? 0) + 1);
    }
    const log = this.#isFollowingLog ? [this.#names.log(LOG).channel] : [];
    const wanted = () =>
      servers.map((_, i) => {
        const own = [...followers].filter(([topic]) => this.#ownerOf(topic) === i);
        const brokers = this.#seats.filter(({ listenings }) =>
          own.some(([topic]) => listenings.has(topic))
        );
        const logs = log.filter((channel) => this.#cluster.ownerOf(channel) === i);
        return shown(logs.length > 0 ? this.#seats.length : brokers.length, [
          ...own.map(([topic, count]) => [this.#channelOf(topic), count] as const),
          ...logs.map((channel) => [channel, this.#seats.length] as const),
        ]);
      });
    const present = () =>
      servers.map(({ subscribers, shardChannels }) => shown(subscribers, shardChannels));
    const states = () => this.#seats.map(({ machine }) => machine.broker.status.current.name);
    const isCalm = () =>
      `${wanted()}` === `${present()}` && states().every((state) => state === "connected");
    await this.#audit.pause(TRIP_MS);
    await this.#audit.until(isCalm, CALM_MS);
    this.#expect(`masters behind ${behind}`, wanted(), present());
    this.#expect(`brokers behind ${behind}`, ["connected", "connected"], states());
    const ready = this.#seats.flatMap(({ listenings }) =>
      [...listenings.values()].map(({ subscription }) => subscription.ready.then(() => true))
    );
    const isReady = await this.#audit.inTime(Promise.all(ready), TRIP_MS, undefined);
    this.#expect(`subscriptions are ready behind ${behind}`, true, isReady !== undefined);
  }

  /** Publishes on each topic, and expects that each listener hears that once. */
  async #publishAll(behind: string): Promise<void> {
    for (const { listenings } of this.#seats) {
      for (const { heard } of listenings.values()) heard.length = 0;
    }
    const expected = new Map<string, string>();
    await Promise.all(this.#topics.map(async (topic) => {
      const payload = `${++this.#newest}`;
      expected.set(topic, payload);
      const { machine } = oneOf(this.#random, this.#seats);
      const { broker } = machine;
      if (topic.startsWith("plain")) {
        return await machine.run(() => broker.publish({ topic, payload }));
      }
      const bounds = BOUNDS;
      const appended = machine.run(() => broker.history!.append({ topic, payload }, { bounds }));
      const { position } = await this.#audit.inTime(appended, CALM_MS, { position: undefined });
      const reader = oneOf(this.#random, this.#seats).machine;
      const page = await reader.run(() =>
        reader.broker.history!.read(topic, { bounds, last: 1, maxMessages: 1, maxBytes: 1_000 })
      );
      this.#expect(
        `newest publication of ${topic} behind ${behind}`,
        [payload, position?.epoch, position?.offset],
        [`${page.publications[0]?.payload}`, page.epoch, page.head],
      );
    }));
    const { machine } = oneOf(this.#random, this.#seats);
    const heard = this.#announced.slice();
    await machine.run(() => this.#appendLog(machine));
    await this.#audit.pause(TRIP_MS);
    const told = this.#announced.map((count, i) => count > heard[i]!);
    this.#expect(`brokers that hear of a log behind ${behind}`, [true, true], told);
    for (const [i, { listenings }] of this.#seats.entries()) {
      for (const [topic, { heard }] of listenings) {
        this.#expect(`${topic} at broker ${i} behind ${behind}`, [expected.get(topic)], heard);
      }
    }
  }

  /** Closes the brokers, which leave no connection. */
  async #close(): Promise<void> {
    await Promise.all(this.#seats.map(({ machine }) => machine.run(() => machine.broker.close())));
    await this.#audit.pause(END_MS);
    const hosts = this.#seats.map(({ machine }) => machine.host);
    const { length } = this.#audit.network.links.filter(({ client }) => hosts.includes(client));
    this.#expect("connections of closed brokers", 0, length);
  }
}

/** Shows the channels at a master, and the number of brokers with any. */
function shown(brokers: number, channels: readonly (readonly [string, number])[]): string {
  return `${brokers} brokers at ${channels.map(([name, count]) => `${name} ${count}`).toSorted()}`;
}
