/**
 * Measures the traffic of nodes through their broker: real nodes, presence and quotas on virtual
 * time, with a broker in memory that counts each publication.
 */
import { Flusher } from "../../session/queue/flusher.ts";
import { internals, type Session } from "../../session/session.ts";
import { settingsWith } from "../../session/settings/session_settings.ts";
import { ConsoleReport } from "../../base/console_report.ts";
import { type Quota, Quotas, type Slot } from "../../base/quotas/shares.ts";
import type { Runtime } from "../../base/runtime.ts";
import type { SessionManager } from "../../manager/mod.ts";
import {
  type Broker,
  type BrokerSubscribeOptions,
  type BrokerSubscription,
  payloadBytes,
  type Publication,
  type PublicationListener,
} from "../../pubsub/broker.ts";
import { Topics } from "../../pubsub/mod.ts";
import { presenceOf } from "../../server/server_parts.ts";
import type { PresenceParts } from "../../server/users.ts";
import { FaultyBroker, FaultyStore } from "../../tests/faulty_broker.ts";
import { type Host, Simulation } from "../../tests/simulator/mod.ts";

/** Kinds of work during which the traffic is measured. */
export const WORKS = [
  "idle",
  "attack",
  "large rooms",
  "small rooms",
  "new rooms",
  "all restored",
] as const;

/** The name of a work. */
export type Work = typeof WORKS[number];

/** Options of {@linkcode measureTraffic}. */
export interface TrafficOptions {
  readonly nodes: number;
  readonly work: Work;
  /** Measured time, in seconds. */
  readonly seconds: number;
}

/** Traffic of all nodes through their broker. */
export interface Traffic {
  /** Publications per second into the broker. */
  readonly published: number;
  /** Bytes of topics and payloads per second into the broker. */
  readonly bytesIn: number;
  /** Bytes into the broker in the busiest second. */
  readonly peakIn: number;
  /** The longest publication, in bytes. */
  readonly longest: number;
  /** Copies per second from the broker to all nodes together. */
  readonly copies: number;
  /** Bytes per second from the broker to all nodes together. */
  readonly bytesOut: number;
}

/** Time for which the nodes meet, and for which they then work, before the measurement. */
const [MEET_MS, SETTLE_MS] = [5_000, 15_000] as const;

/** Attacking clients at each node that use much of their share, with long names. */
const ATTACKERS = 1_000;

/** Connections that attackers close or open at each node in a second. */
const ATTACKS_PER_SECOND = 500;

/** Rooms whose members are spread across all nodes, and members of each room. */
const LARGE = { rooms: 10, members: 200 } as const;

/** Users who leave or enter a large room in a second. */
const MOVES_PER_SECOND = 100;

/** Small rooms, whose members are at up to five nodes. */
const SMALL = { rooms: 1_000, members: 5 } as const;

/** Rooms with one user each that replace others in a second, at random nodes. */
const NEW_ROOMS_PER_SECOND = 100;

/** A broker in memory that counts. */
class CountingBroker extends FaultyBroker {
  #bytesIn = 0;
  #peakIn = 0;
  #longest = 0;
  #published = 0;
  #copies = 0;
  #bytesOut = 0;
  #second = { at: -1, bytes: 0 };
  readonly #runtime: Runtime;

  constructor(runtime: Runtime) {
    super(new FaultyStore({ runtime }), { without: ["history", "logs"] });
    this.#runtime = runtime;
  }

  override publish(publication: Publication): void {
    const bytes = sizeOf(publication);
    this.#published++;
    this.#bytesIn += bytes;
    this.#longest = Math.max(this.#longest, bytes);
    const at = Math.floor(this.#runtime.monotonic() / 1_000);
    if (this.#second.at !== at) this.#second = { at, bytes: 0 };
    this.#second.bytes += bytes;
    this.#peakIn = Math.max(this.#peakIn, this.#second.bytes);
    super.publish(publication);
  }

  override subscribe(
    topic: string,
    listener: PublicationListener,
    options?: BrokerSubscribeOptions,
  ): BrokerSubscription {
    return super.subscribe(topic, (publication) => {
      this.#copies++;
      this.#bytesOut += sizeOf(publication);
      listener(publication);
    }, options);
  }

  clear(): void {
    this.#bytesIn =
      this.#bytesOut =
      this.#published =
      this.#copies =
        0;
    this.#peakIn = this.#longest = 0;
    this.#second = { at: -1, bytes: 0 };
  }

  over(seconds: number): Traffic {
    return {
      published: this.#published / seconds,
      bytesIn: this.#bytesIn / seconds,
      peakIn: this.#peakIn,
      longest: this.#longest,
      copies: this.#copies / seconds,
      bytesOut: this.#bytesOut / seconds,
    };
  }
}

function sizeOf(publication: Publication): number {
  return publication.topic.length + payloadBytes(publication);
}

/** The parts of a server that talk to other nodes. */
class TalkingNode {
  readonly parts: PresenceParts;
  readonly #quotas: Quotas;
  readonly #quota: Quota;
  readonly #topics: Topics;
  readonly #held = new Map<string, Slot[]>();
  readonly #random: () => number;

  constructor(readonly host: Host, broker: Broker, readonly index: number) {
    const { runtime } = host;
    this.#random = () => runtime.random();
    this.#quotas = new Quotas(runtime);
    this.#quota = this.#quotas.open({
      limit: "maxSessions",
      verb: "connect",
      what: "sessions",
      max: 10_000_000,
      shares: { address: 32, user: 32 },
    });
    const settings = settingsWith({ flusher: new Flusher(runtime) }, { side: "server", runtime });
    this.#topics = new Topics({ settings, runtime, broker });
    this.parts = presenceOf({ broker, node: { name: `node-${index}` } }, {
      runtime,
      console: new ConsoleReport(runtime),
      topics: this.#topics,
      manager: { isDraining: false } as SessionManager,
      quotas: this.#quotas,
    });
  }

  /** Closes or opens a connection of an attacker. */
  attack(): void {
    const at = Math.floor(this.#random() * ATTACKERS);
    const guest = `g${at}`.padEnd(250, "x");
    const slots = this.#held.get(guest) ?? [];
    this.#held.set(guest, slots);
    const isLess = this.#random() < slots.length / 32;
    if (isLess) return void slots.pop()?.[Symbol.dispose]();
    const address = `2001:db8:${at.toString(16)}::1`;
    const slot = this.#quota.tryTake(this.#quotas.accounts.of({ address, guest }));
    if (typeof slot !== "string") slots.push(slot);
  }

  enter(user: string, room: string): Session {
    const session = { user, isClosed: false, [internals]: { whenEnded() {} } };
    this.parts.presence.enter(session as unknown as Session, room);
    return session as unknown as Session;
  }

  move(users: Session[], room: string): void {
    const i = Math.floor(this.#random() * users.length);
    this.parts.presence.leave(users[i]!, undefined, { isFinal: true });
    users[i] = this.enter(`user-${this.host.runtime.randomUUID()}`, room);
  }

  /** Waits for a random part of the time first, so that nodes don't act at the same moment. */
  every(ms: number, act: () => void): void {
    const { runtime } = this.host;
    const again = () => {
      act();
      runtime.setTimeout(again, ms);
    };
    runtime.setTimeout(again, runtime.random() * ms);
  }
}

/**
 * Runs nodes that share a broker, and measures their traffic.
 *
 * @param options See {@linkcode TrafficOptions}.
 */
export async function measureTraffic({ nodes, work, seconds }: TrafficOptions): Promise<Traffic> {
  const simulation = new Simulation({ seed: 1 });
  const broker = new CountingBroker(simulation.host("broker").runtime);
  const all: TalkingNode[] = [];
  for (let i = 0; i < nodes; i++) {
    const host = simulation.host(`node-${i}`);
    // Nodes of a service don't start at the same moment.
    simulation.after(i * 10, () => void all.push(new TalkingNode(host, broker, i)), host);
  }
  await simulation.run(MEET_MS);
  for (const node of all) simulation.after(0, () => start(node, work, all), node.host);
  await simulation.run(SETTLE_MS);
  broker.clear();
  if (work === "all restored") simulation.after(0, () => broker.interrupt());
  await simulation.run(seconds * 1_000);
  return broker.over(seconds);
}

function start(node: TalkingNode, work: Work, all: readonly TalkingNode[]): void {
  switch (work) {
    case "idle":
      return;
    case "attack":
      for (let i = 0; i < ATTACKERS * 20; i++) node.attack();
      return node.every(1_000, () => {
        for (let i = 0; i < ATTACKS_PER_SECOND; i++) node.attack();
      });
    case "large rooms":
      for (let room = 0; room < LARGE.rooms; room++) {
        const name = `large:${room}`;
        const users = Array.from(
          { length: LARGE.members / all.length },
          (_, i) => node.enter(`user-${node.index}-${room}-${i}`, name),
        );
        const movesPerSecond = MOVES_PER_SECOND / LARGE.rooms / all.length;
        node.every(1_000 / movesPerSecond, () => node.move(users, name));
      }
      return;
    case "new rooms": {
      const users = Array.from(
        { length: 10 },
        (_, i) => node.enter(`user-${node.index}-${i}`, `${node.index}-${i}`),
      );
      let rooms = 0;
      node.every(1_000 * all.length / NEW_ROOMS_PER_SECOND, () => {
        node.move(users, `${node.index}:${rooms++}`);
      });
      return;
    }
    case "small rooms":
    case "all restored":
      for (let room = node.index; room < SMALL.rooms; room += all.length) {
        for (let i = 0; i < SMALL.members; i++) {
          const other = all[Math.floor(node.host.runtime.random() * all.length)]!;
          other.enter(`user-${room}-${i}`, `small:${room}`);
        }
      }
  }
}
