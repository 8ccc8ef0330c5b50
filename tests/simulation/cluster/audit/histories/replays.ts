/** Replays: readers come, ask again, move and leave while publications come, on a bad day of two nodes. */
import {
  SimulatedServer,
  type SimulatedServerOptions,
} from "../../../../../testing/simulation/programs.ts";
import type { Client } from "../../../../../client/client.ts";
import type { Server } from "../../../../../server.ts";
import type { Contract } from "../../../../../session/contract.ts";
import type { Host } from "../../../../../testing/simulation/host.ts";
import { oneOf } from "../../chance.ts";
import { type Audit, outcomeOf } from "../audit.ts";
import { UnsteadyBroker } from "./unsteady_broker.ts";
import { UnsteadyEngine } from "./unsteady_engine.ts";
import { type ReadNode, type Start, WireReader } from "./wire_reader.ts";

/** Readers, authors and nodes of one audit. */
const [READERS, AUTHORS, NODES] = [3, 2, 2];

/** Steps of the workload, and the mean time of one, in milliseconds. */
const [STEPS, STEP_MS] = [110, 70];

/** Share of audits in which the engine loses all publications at a step. */
const LOSS_SHARE = 0.35;

/** Most deaths of nodes, longest time of one behind a publication, and longest absence, in milliseconds. */
const [DEATHS, DEATH_MS, DEAD_MS] = [3, 250, 1_500];

/** Most publications of one step. */
const MAX_BURST = 4;

/**
 * Shares of long publications, of which one is drawn, and the text of one: a node has room for a dozen
 * of a topic.
 */
const [LONG_SHARES, LONG] = [[0.1, 0.1, 0.6], "x".repeat(40_000)] as const;

/** Bytes that pass to a slow reader in a second. */
const SLOW_BYTES = 200_000;

/** Longest time between a question and the leave, for a reader who stays only for a moment. */
const SOON_MS = 150;

/** Time between two signs of life, and the silence that ends a session, in milliseconds. */
const [BEAT_MS, SILENCE_MS] = [1_000, 1_500];

/** Longest outage of the engine, in milliseconds. */
const AWAY_MS = 1_500;

/**
 * Time for all readers to catch up, once all is well: feeds ask the engine for seven seconds. The claim
 * of a node that died to an author lasts four.
 */
const CALM_MS = 9_000;

/** Steps between two rests of the publishers, and the longest time of one, in milliseconds. */
const [REST_EVERY, REST_MS] = [18, 6_000];

/** Share of deliveries that are lost before a rest, most publications then, and the time between two. */
const [STUMBLE_LOST, STUMBLES, STUMBLE_MS] = [0.5, 6, 150];

/** Speed of the clocks of the nodes while the last publications are lost. */
const SPEED = 5;

/** Longest time between two comparisons of silent topics with the engine, and a read, in milliseconds. */
const COMPARED_MS = 20_000 / SPEED + 200;

/** Losses of the last publications, most publications that come live before, and a time between two. */
const [LOSSES, MAX_LIVE, LIVE_MS] = [2, 3, 1_500];

/** Share of audits in which all reads fail from a step on, and the bound of that step. */
const [MUTE_SHARE, MUTE_FROM] = [0.3, 10];

/** Most bytes of a history, beyond those of all publications: size and time alone are judged. */
const HISTORY_BYTES = 8_388_608;

/** Topic without a history. */
const PLAIN = "talk";

/** Publications of one program, each of which the client repeats until a node answers. */
interface Author {
  readonly name: string;
  readonly client: Client;
  readonly outcomes: Map<string, string>;
}

/**
 * Reads histories on two servers, each of which has a slow way to the engine that fails now and then.
 *
 * @param audit The audit.
 */
export async function auditReplays(audit: Audit): Promise<void> {
  await new Replays(audit).run();
}

/** A node, over all of its lives. */
class UnsteadyNode implements ReadNode {
  readonly program: SimulatedServer;
  #broker: UnsteadyBroker | undefined;

  constructor(
    audit: Audit,
    host: Host,
    { brokerOf, ...options }:
      & { readonly brokerOf: (host: Host) => UnsteadyBroker }
      & Pick<SimulatedServerOptions<unknown, Contract>, "history" | "session">,
  ) {
    this.program = new SimulatedServer(audit.network, host, () => ({
      ...options,
      authorize: () => true,
      broker: this.#broker = brokerOf(host),
      onError() {},
    }));
  }

  /** The machine. */
  get host(): Host {
    return this.program.host;
  }

  /** The broker of the present life. */
  get broker(): UnsteadyBroker {
    return this.#broker!;
  }

  /** The server of the present life. */
  get server(): Server {
    return this.program.server;
  }
}

/** The nodes, the readers, and the state of the engine. */
class Replays {
  readonly #audit: Audit;
  readonly #random: () => number;
  readonly #engine: UnsteadyEngine;
  readonly #nodes: readonly UnsteadyNode[];
  readonly #readers: readonly WireReader[];
  readonly #authors: readonly Author[];
  /** Topics of each reader: one of all readers, one of this reader, one without a history. */
  readonly #topics: readonly (readonly string[])[];
  /** Time of a publication in the topic of a reader, in milliseconds. */
  readonly #briefMs: number;
  /** Share of long publications. */
  readonly #longShare: number;
  /** Start of the last question, by topic. */
  readonly #starts = new Map<string, Start>();
  #deaths = 0;
  /** True while all reads fail, also at nodes that begin. */
  #isMute = false;
  /** True once no node dies any more. */
  #isCalm = false;

  constructor(audit: Audit) {
    this.#audit = audit;
    const random = this.#random = audit.random;
    const engine = this.#engine = new UnsteadyEngine(audit.host("unsteady-engine"));
    this.#briefMs = 500 + this.#draw(2_000);
    this.#longShare = oneOf(random, LONG_SHARES);
    const options = {
      history: {
        all: { size: 10 + this.#draw(40), bytes: HISTORY_BYTES },
        "brief:{name}": { size: 100, ttlMs: this.#briefMs, bytes: HISTORY_BYTES },
      },
      session: {
        sendQueue: { maxMessages: 8 + this.#draw(24) },
        heartbeat: { intervalMs: BEAT_MS, timeoutMs: SILENCE_MS },
      },
      brokerOf: (host: Host) => {
        const broker = new UnsteadyBroker(engine, { host, random });
        broker.isMute = this.#isMute;
        return broker;
      },
    };
    const nodes = this.#nodes = Array.from(
      { length: NODES },
      (_, i) => new UnsteadyNode(audit, audit.host(`unsteady-${i}`), options),
    );
    this.#topics = Array.from({ length: READERS }, (_, i) => ["all", `brief:${i}`, PLAIN]);
    this.#readers = this.#topics.map((_, i) =>
      new WireReader({
        network: audit.network,
        host: audit.host(`unsteady-reader-${i}`),
        engine,
        pickNode: () => oneOf(random, nodes),
        hasHistory: (topic) => topic !== PLAIN,
        onDifference: (rule, expected, received) => this.#expect(rule, expected, received),
      })
    );
    this.#authors = Array.from({ length: AUTHORS }, (_, i): Author => {
      const name = `unsteady-author-${i}`;
      const hosts = nodes.map(({ host }) => host);
      const client = audit.connect(name, i % 2 === 0 ? hosts : hosts.reverse(), {
        token: undefined,
        delivery: "at-least-once",
        onError() {},
      });
      return { name, client, outcomes: new Map() };
    });
  }

  async run(): Promise<void> {
    for (const [i, reader] of this.#readers.entries()) {
      for (const topic of this.#topics[i]!) reader.ask(topic);
      if (this.#draw(2) === 0) this.#setWay(reader, SLOW_BYTES);
    }
    // Longer than feeds ask again, in most cases.
    const muteFrom = this.#random() < MUTE_SHARE ? this.#draw(MUTE_FROM) : STEPS;
    const lostAt = this.#random() < LOSS_SHARE ? this.#draw(STEPS) : STEPS;
    for (let step = 0; step < STEPS; step++) {
      if (step === muteFrom) this.#setMute(true);
      if (step === lostAt) this.#loseAll();
      this.#step();
      if (step % REST_EVERY === REST_EVERY - 1) await this.#rest();
      await this.#audit.pause(-STEP_MS * Math.log(1 - this.#random()));
    }
    if (this.#isMute) {
      // Nodes give up earlier questions, and then those about publications that the nodes miss.
      await this.#audit.pause(2 * CALM_MS);
      await this.#stumble("all", 1);
      await this.#audit.pause(CALM_MS);
    }
    await this.#settle();
    await this.#loseLast();
    for (const reader of this.#readers) reader.close();
    await Promise.all(this.#authors.map(({ client }) => client.close()));
    await Promise.all(this.#nodes.map(({ server }) => server.close()));
    await this.#engine.close();
  }

  /** Draws a whole number below a bound. */
  #draw(below: number): number {
    return Math.floor(this.#random() * below);
  }

  #expect(what: string, expected: unknown, received: unknown): void {
    this.#audit.examine("history", `replays: ${what}`, expected, received);
  }

  #step(): void {
    const i = this.#draw(READERS);
    const reader = this.#readers[i]!;
    const topic = this.#topics[i]![this.#draw(3)]!;
    const { broker } = this.#node();
    const chance = this.#random();
    if (chance < 0.35) this.#publish(topic);
    else if (chance < 0.4) reader.publish(topic);
    else if (chance < 0.5) this.#write();
    else if (chance < 0.7) this.#ask(reader, topic);
    else if (chance < 0.78) this.#leave(reader, topic);
    else if (chance < 0.86) this.#disconnect(reader);
    else if (chance < 0.88) this.#leaveEngine(broker);
    else if (chance < 0.91 && !broker.isAway) broker.comeBack();
  }

  #setWay({ host: to }: WireReader, bytesPerSecond: number): void {
    for (const { host } of this.#nodes) this.#audit.network.change(host, to, { bytesPerSecond });
  }

  #setMute(isMute: boolean): void {
    this.#isMute = isMute;
    for (const { broker } of this.#nodes) broker.isMute = isMute;
  }

  /** Sets the share of deliveries to the nodes that are lost; undefined for the usual chance. */
  #setLoss(share: number | undefined): void {
    for (const { broker } of this.#nodes) broker.lossShare = share;
  }

  #node(): UnsteadyNode {
    const up = this.#nodes.filter(({ host }) => host.isAlive);
    return oneOf(this.#random, up);
  }

  #publish(topic: string): void {
    const { server } = this.#node();
    for (let left = 1 + this.#draw(MAX_BURST); left > 0; left--) {
      const text = this.#random() < this.#longShare ? LONG : "";
      server.publish(topic, { text });
    }
  }

  /** Lets an author publish; a node may die before the number of the publication is stored. */
  #write(): void {
    const { name, client, outcomes } = oneOf(this.#random, this.#authors);
    const id = `${name} ${outcomes.size}`;
    outcomes.set(id, "none");
    void outcomeOf(client.publish("all", { id })).then((outcome) => outcomes.set(id, outcome));
    if (this.#deaths === DEATHS || this.#draw(2) > 0) return;
    this.#deaths++;
    const { program, host } = this.#node();
    this.#engine.host.after(DEATH_MS * this.#random(), () => {
      // One node at least goes on.
      if (this.#isCalm || this.#nodes.some((node) => !node.host.isAlive)) return;
      host.kill();
      this.#engine.host.after(DEAD_MS * this.#random(), () => program.restart());
    });
  }

  /** Asks for a topic from a drawn place, or from that of the last question about the topic. */
  #ask(reader: WireReader, topic: string): void {
    const known = this.#starts.get(topic);
    const start = known && this.#draw(3) === 0 ? known : this.#drawStart(reader, topic);
    this.#starts.set(topic, start);
    // Most often a replay is under way then.
    if (this.#draw(3) === 0) {
      this.#engine.host.after(SOON_MS * this.#random(), () => this.#leave(reader, topic));
    }
    reader.ask(topic, start);
  }

  /** Ends the connection of a reader, who comes back; the node may still have the session then. */
  #disconnect(reader: WireReader): void {
    if (this.#draw(2) === 0) this.#audit.cut(reader.host, "server");
    else reader.disconnect();
  }

  /** Draws a place: behind the last publication, earlier, or beyond the head. */
  #drawStart(reader: WireReader, topic: string): Start {
    const place = reader.placeOf(topic);
    const kind = this.#draw(5);
    if (kind === 0 || place === undefined) return {};
    if (kind === 1) return { last: this.#draw(12) };
    const { epoch, offset } = place;
    // A client of the other node may have publications that have yet to arrive at this one.
    const isAhead = this.#draw(2) === 0 && epoch === this.#engine.epoch;
    const since = isAhead ? { epoch, offset: this.#engine.headOf(topic) } : place;
    if (kind === 2) return { since };
    const other = Math.max(0, offset + 3 - this.#draw(kind === 3 ? 12 : 60));
    return {
      since: { epoch: this.#draw(20) === 0 ? "another" : epoch, offset: other },
      ...(this.#draw(4) === 0 && { last: this.#draw(6) }),
    };
  }

  /** Leaves a topic, and comes back at once, or around the time at which publications are forgotten. */
  #leave(reader: WireReader, topic: string): void {
    reader.leave(topic);
    const since = reader.placeOf(topic);
    const again = () => reader.ask(topic, { since });
    if (this.#draw(3) === 0) return again();
    const awayMs = this.#briefMs * [0.1, 0.5, 0.95, 1.05, 1.5][this.#draw(5)]!;
    this.#engine.host.after(awayMs, again);
  }

  /**
   * Publishes nothing for a time, in which reads succeed: each publication that reached the node goes
   * to the readers, with all before.
   */
  async #rest(): Promise<void> {
    const brokers = this.#nodes.map(({ broker }) => broker);
    const isAway = () => brokers.some((one) => one.isAway);
    if (isAway() || this.#isMute) return;
    for (const broker of brokers) broker.isReadable = true;
    await this.#stumble(oneOf(this.#random, this.#topics)[this.#draw(2)]!);
    const behind = () =>
      this.#topics.flatMap((topics, i) => {
        const reader = this.#readers[i]!;
        const places = topics.filter((topic) => topic !== PLAIN)
          .map((topic) => [topic, reader.placeOf(topic)?.offset ?? 0] as const);
        return places.filter(([topic, offset]) =>
          reader.quietTopics.includes(topic) && offset < reader.node.broker.reachedOf(topic)
        ).map(([topic, offset]) => `${reader.name} on ${topic}, behind ${offset}`);
      });
    const calm = () => this.#audit.until(() => behind().length === 0 || isAway(), REST_MS / 2);
    await calm();
    const before = new Set(behind());
    await calm();
    // A reader on a slow way may still be at the rest of a long history.
    const stuck = behind().filter((one) => before.has(one));
    if (!isAway()) this.#expect("readers behind a publication of the node", [], stuck);
    for (const broker of brokers) broker.isReadable = false;
  }

  /**
   * Publishes while many publications are lost on the way to the nodes. Readers ask for what the engine
   * has, which the nodes have to read then, also while an earlier read is under way.
   */
  async #stumble(topic: string, lostShare = STUMBLE_LOST): Promise<void> {
    this.#setLoss(lostShare);
    for (let left = 1 + this.#draw(STUMBLES); left > 0; left--) {
      this.#publish(topic);
      for (const reader of this.#readers) {
        const place = reader.placeOf(topic);
        if (place?.epoch !== this.#engine.epoch || this.#draw(2) === 0) continue;
        const { epoch } = place;
        reader.ask(topic, { since: { epoch, offset: this.#engine.headOf(topic) } });
      }
      await this.#audit.pause(STUMBLE_MS * this.#random());
    }
    this.#setLoss(undefined);
  }

  /** The engine leaves one node alone for a while. */
  #leaveEngine(broker: UnsteadyBroker): void {
    if (broker.isAway) return;
    broker.goAway();
    this.#engine.host.after(AWAY_MS * this.#random(), () => {
      if (broker.isAway) broker.comeBack();
    });
  }

  /** The engine begins anew, of which all nodes learn by an interruption. */
  #loseAll(): void {
    this.#engine.lose();
    for (const { broker, host } of this.#nodes) {
      if (!host.isAlive) continue;
      broker.subscribeAnew();
      if (!broker.isAway) broker.comeBack();
    }
  }

  /** Compares the state of all with that of the engine, once all is well. */
  async #settle(): Promise<void> {
    const [audit, engine] = [this.#audit, this.#engine];
    this.#isCalm = true;
    await audit.until(() => this.#nodes.every(({ host }) => host.isAlive));
    const brokers = this.#nodes.map(({ broker }) => broker);
    this.#setMute(false);
    // On a narrow way, publications hold the pings back for long enough to end a session.
    for (const reader of this.#readers) this.#setWay(reader, Infinity);
    for (const broker of brokers) {
      broker.isSteady = true;
      broker.comeBack();
    }
    // Readers that left are back then, and sessions without a client are over.
    await audit.pause(
      Math.max(100 + SOON_MS + 1.5 * this.#briefMs, BEAT_MS + SILENCE_MS + SOON_MS),
    );
    const wanted = this.#topics.flatMap((topics, i) =>
      topics.map((topic) => ({ topic, reader: this.#readers[i]! }))
    );
    const topics = new Set(this.#topics.flat());
    for (const topic of topics) this.#node().server.publish(topic, { text: "" });
    const hasAll = ({ topic, reader }: typeof wanted[number]) =>
      !reader.quietTopics.includes(topic) || topic === PLAIN ||
      reader.placeOf(topic)?.offset === engine.headOf(topic);
    const areAnswered = () =>
      this.#authors.every(({ outcomes }) =>
        !outcomes.values().some((outcome) => outcome === "none")
      );
    await audit.until(
      () => areAnswered() && this.#readers.every(({ isQuiet }) => isQuiet) && wanted.every(hasAll),
      CALM_MS,
    );
    for (const reader of this.#readers) {
      this.#expect(`answers to ${reader.name}`, true, reader.isQuiet);
    }
    for (const { topic, reader } of wanted) {
      if (topic === PLAIN || !reader.quietTopics.includes(topic)) continue;
      this.#expect(
        `newest offset of ${topic}`,
        engine.headOf(topic),
        reader.placeOf(topic)?.offset,
      );
    }
    for (const { server, host } of this.#nodes) {
      for (const topic of topics) {
        const inForce = this.#readers.filter(({ quietTopics, node }) =>
          node.host === host && quietTopics.includes(topic)
        );
        const { length } = server.topics.subscribers(topic);
        this.#expect(`subscribers of ${topic}`, inForce.length, length);
      }
    }
    for (const author of this.#authors) this.#compare(author);
    await this.#reachAll("before the interruption");
    const before = this.#readers.map((reader) => reader.interruptionsOf(PLAIN));
    for (const broker of brokers) broker.comeBack();
    await this.#reachAll("behind the interruption");
    await audit.pause(1_000); // No notice comes later, either.
    for (const [i, reader] of this.#readers.entries()) {
      const told = reader.quietTopics.includes(PLAIN) ? 1 : 0;
      const received = reader.interruptionsOf(PLAIN) - before[i]!;
      this.#expect(`notices of an interruption to ${reader.name}`, told, received);
    }
  }

  /**
   * Loses the last publications, which shows once the nodes compare the silent topics with the engine.
   * Publications may have come live before, shortly or long ago. The clocks of the nodes run fast.
   */
  async #loseLast(): Promise<void> {
    const [audit, readers] = [this.#audit, this.#readers];
    for (const [i, reader] of readers.entries()) {
      for (const topic of this.#topics[i]!) reader.leave(topic);
    }
    await audit.until(() => readers.every(({ isQuiet }) => isQuiet));
    // Before the nodes follow the topic again: a timer keeps the speed at which the timer began.
    for (const { host } of this.#nodes) host.setDrift(SPEED - 1);
    // Sessions whose heartbeat began before end for their silence, and readers come back.
    await audit.pause(BEAT_MS + SILENCE_MS);
    await audit.until(() => readers.every(({ isQuiet }) => isQuiet));
    for (const [reader, topic] of this.#followed) {
      reader.ask(topic, { since: reader.placeOf(topic) });
    }
    await audit.until(() => readers.every(({ isQuiet }) => isQuiet));
    for (let loss = 0; loss < LOSSES; loss++) {
      const lives = this.#draw(MAX_LIVE + 1);
      let reads = 0;
      for (let live = 0; live < lives; live++) {
        await this.#publishShort();
        if (live === 0) reads = this.#reads;
        await audit.pause(LIVE_MS * this.#random());
      }
      // A topic whose publications come more often than comparisons is not silent.
      if (lives > 0) this.#expect("reads of a topic that is not silent", reads, this.#reads);
      await this.#reachHead(`${lives} publications that came live`, SOON_MS);
      // Behind one comparison, a topic without a publication since is silent.
      const isSilent = lives === 0 || this.#draw(2) === 0;
      if (isSilent && lives > 0) await audit.pause(COMPARED_MS);
      this.#setLoss(1);
      await this.#publishShort();
      this.#setLoss(undefined);
      const withinMs = isSilent ? COMPARED_MS : 2 * COMPARED_MS;
      const before = isSilent ? "a silence" : `${lives} publications`;
      await this.#reachHead(`a loss of the last one behind ${before}`, withinMs);
    }
  }

  /** Number of reads of the topic of all that the nodes began. */
  get #reads(): number {
    return this.#nodes.reduce((sum, { broker }) => sum + broker.readsOf("all"), 0);
  }

  /** Each reader with each topic of the reader that has a history. */
  get #followed(): [WireReader, string][] {
    return this.#readers.flatMap((reader, i) =>
      this.#topics[i]!.filter((topic) => topic !== PLAIN)
        .map((topic): [WireReader, string] => [reader, topic])
    );
  }

  /** Publishes some short publications on each topic, which are then delivered or lost. */
  async #publishShort(): Promise<void> {
    for (const topic of new Set(this.#followed.map(([, topic]) => topic))) {
      const { server } = this.#node();
      for (let left = 1 + this.#draw(MAX_BURST); left > 0; left--) {
        server.publish(topic, { text: "" });
      }
    }
    await this.#audit.pause(SOON_MS);
  }

  /** Expects that all readers have the newest publications of their topics, within a time. */
  async #reachHead(behind: string, withinMs: number): Promise<void> {
    const heads = `${this.#followed.map(([, topic]) => this.#engine.headOf(topic))}`;
    const places = () =>
      `${this.#followed.map(([reader, topic]) => reader.placeOf(topic)?.offset)}`;
    await this.#audit.until(() => places() === heads, withinMs);
    this.#expect(`places behind ${behind}`, heads, places());
  }

  /** Publishes on the topic without a history, and waits until all readers of the topic have that. */
  async #reachAll(text: string): Promise<void> {
    const readers = this.#readers.filter(({ quietTopics }) => quietTopics.includes(PLAIN));
    this.#node().server.publish(PLAIN, { text });
    await this.#audit.until(
      () => readers.every((reader) => reader.textOf(PLAIN) === text),
      CALM_MS,
    );
  }

  /** Compares the publications of an author with those that the engine took (11.4, 11.5). */
  #compare({ name, outcomes }: Author): void {
    const { taken, lives } = this.#engine;
    const own = taken.flatMap(({ life, text }) => {
      const { id } = JSON.parse(text).data as { readonly id?: string };
      return id?.startsWith(`${name} `) ? [{ life, id }] : [];
    });
    for (let life = 0; life <= lives; life++) {
      const ids = own.filter((one) => one.life === life).map(({ id }) => id);
      const inOrder = [...outcomes.keys()].filter((id) => ids.includes(id));
      this.#expect(`publications of ${name} in life ${life}`, inOrder, ids);
    }
    const missing = [...outcomes].filter(([id, outcome]) =>
      outcome === "fulfilled" && !own.some((one) => one.id === id)
    );
    this.#expect(`answered publications of ${name} that no history took`, [], missing);
    const failed = [...outcomes].filter(([_, outcome]) => outcome !== "fulfilled");
    this.#expect(`publications of ${name} without success`, [], failed);
  }
}
