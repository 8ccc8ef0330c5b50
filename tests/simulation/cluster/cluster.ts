/** A simulated cluster: a store, nodes and clients, with a workload. */
import type { Host } from "../../simulator/host.ts";
import { SimulatedNetwork } from "../../simulator/network/network.ts";
import { Simulation } from "../../simulator/simulation.ts";
import type { Cluster as LiveCluster, Invariant, LiveClient, LiveServer } from "../facts.ts";
import type { Plan } from "../plan.ts";
import { Witness } from "../witness.ts";
import type { SpareStore } from "./brokers/spare.ts";
import { startSpares } from "./brokers/spares.ts";
import { Trial } from "./brokers/trial.ts";
import { Vigil } from "./brokers/vigil.ts";
import { ClusterClient } from "./client.ts";
import type { ClusterStore } from "./store.ts";
import { startStore } from "./stores.ts";
import type { ExaminationParts } from "./examination.ts";
import { Examiner } from "./growth/examiner.ts";
import { Visits } from "./growth/visits.ts";
import { hardenedOptions } from "./hardened/options.ts";
import { simulateHardened } from "./hardened/servers.ts";
import { Journal } from "./journal.ts";
import { ClusterNode } from "./node.ts";
import { type Http3Network, simulateQuic } from "./quic/endpoints.ts";
import { internals } from "../../../session/core.ts";
import { Permissions } from "./permissions.ts";
import { NETWORK, type Settings, settingsOf } from "./settings.ts";
import { Tokens } from "./tokens.ts";
import { type ClusterTopic, topicsOf } from "./topics.ts";
import { visitGrave } from "./tour/grave.ts";
import { visitHeartbeats } from "./tour/heartbeats.ts";
import { Holds } from "./tour/holds.ts";
import { visitLimits } from "./tour/limits.ts";
import { visitOutbox } from "./tour/outbox.ts";
import { visitQueues } from "./tour/queues.ts";
import { visitRooms } from "./tour/rooms.ts";
import { Tour } from "./tour/tour.ts";
import { visitWaits } from "./tour/waits.ts";
import { handleMessage, sendToUser } from "./work/messages.ts";
import { DurableNames, writeStream } from "./work/durable.ts";

/** Mean time between two publications on a topic, in milliseconds. */
const PUBLISH_EVERY_MS = 500;

/** Mean time between two durable streams of one node, in milliseconds. */
const WRITE_EVERY_MS = 15_000;

/** Time between two checks of the state, in milliseconds. */
const STEP_MS = 250;

/** Time between the return of a node and the drain of the next node, in milliseconds. */
const ROLL_MS = 2_000;

/** Share of the publications that nodes make, if nodes publish. */
const NODE_SHARE = 0.3;

/** Options of a {@linkcode Cluster}. */
export interface ClusterOptions {
  /** Kinds of trace entries to record. See `SimulationOptions`. */
  readonly trace?: "facts" | "packets" | undefined;
  /** Invariants to check. By default, all are checked. */
  readonly invariants?: readonly Invariant[] | undefined;
}

/** The parts of a cluster that are created before the hosts. */
interface ClusterParts {
  readonly simulation: Simulation;
  readonly network: SimulatedNetwork;
  readonly witness: Witness;
  readonly journal: Journal;
  readonly store: ClusterStore;
  /** The stores for trials of brokers, if there are any. */
  readonly spares: readonly SpareStore[];
  readonly settings: Settings;
  /** The simulated QUIC, in plans with HTTP/3. */
  readonly quic: Http3Network & Disposable | undefined;
  /** The simulated sockets of node:net, in plans with the hardened engine. */
  readonly hardened: Disposable | undefined;
}

/** A running cluster. */
export class Cluster implements LiveCluster, Disposable {
  /** The virtual time and the hosts. */
  readonly simulation: Simulation;
  readonly network: SimulatedNetwork;
  /** The witness that checks the invariants. */
  readonly witness: Witness;
  /** The facts. */
  readonly journal: Journal;
  readonly store: ClusterStore;
  readonly nodes: readonly ClusterNode[];
  readonly machines: readonly ClusterClient[];
  readonly #topics: readonly ClusterTopic[];
  readonly #streams = new DurableNames();
  readonly #permissions = new Permissions();
  readonly #holds = new Holds();
  readonly #tokens: Tokens;
  readonly #spares: readonly SpareStore[];
  readonly #settings: Settings;
  readonly #quic: Http3Network & Disposable | undefined;
  readonly #hardened: Disposable | undefined;
  #isRolling = false;
  #isWorking = true;
  #isChecked = true;

  private constructor(plan: Plan, parts: ClusterParts) {
    const { simulation, network, witness, journal, store, settings } = parts;
    this.simulation = simulation;
    this.network = network;
    this.witness = witness;
    this.journal = journal;
    this.store = store;
    this.#spares = parts.spares;
    this.#settings = settings;
    this.#quic = parts.quic;
    this.#hardened = parts.hardened;
    const tokens = this.#tokens = new Tokens(simulation, settings.tokenMs);
    const topics = this.#topics = topicsOf(plan, simulation);
    const shared = { ...parts, tokens, permissions: this.#permissions, holds: this.#holds };
    const node = (_: unknown, i: number) =>
      new ClusterNode(simulation.host(`node${i}`), { ...shared, handle: handleMessage });
    this.nodes = Array.from({ length: plan.nodes }, node);
    store.onRestart = () => this.nodes.forEach((node) => node.restart());
    const servers = this.nodes.map(({ host }) => host);
    const machine = (_: unknown, i: number) =>
      new ClusterClient(simulation.host(`client${i}`), i, {
        ...shared,
        servers,
        streams: this.#streams,
        topics: topics.filter(({ subscribers }) => subscribers.includes(i)).map(({ name }) => name),
      });
    this.machines = Array.from({ length: plan.clients }, machine);
    for (const topic of topics) this.#publishOn(topic, settings.has("nodes-publish"));
    if (settings.has("durable")) { for (const node of this.nodes) this.#writeOn(node); }
    const check = () => {
      if (!this.#isChecked) return;
      this.witness.checkStep(this);
      simulation.after(STEP_MS, check);
    };
    check();
  }

  /**
   * Starts all hosts.
   *
   * @param options See {@linkcode ClusterOptions}.
   * @throws {TypeError} If the store has no model.
   */
  static async start(
    plan: Plan,
    { trace = "facts", invariants }: ClusterOptions = {},
  ): Promise<Cluster> {
    const simulation = new Simulation({ seed: plan.seed, trace });
    const settings = settingsOf(plan);
    const witness = new Witness({
      clock: simulation,
      terms: settings.terms,
      ...(invariants && { invariants }),
    });
    const journal = new Journal(simulation, witness);
    const network = new SimulatedNetwork(simulation, NETWORK);
    const store = await startStore(plan.broker, { simulation, network, journal });
    const spares = settings.has("brokers")
      ? await startSpares(plan.broker, { simulation, network })
      : [];
    // This comes after the store, because the store needs the runtime's own QUIC.
    const quic = settings.has("http3") ? simulateQuic(network[internals].links) : undefined;
    if (quic !== undefined) network[internals].webTransport = quic;
    const { links, http } = network[internals];
    const hardened = settings.has("hardened")
      ? simulateHardened(links, http, (host) => hardenedOptions(host, !settings.has("tour")))
      : undefined;
    if (hardened !== undefined) network[internals].http = hardened;
    return new Cluster(plan, {
      simulation,
      network,
      witness,
      journal,
      store,
      spares,
      settings,
      quic,
      hardened,
    });
  }

  /** Restores the process's globals. */
  [Symbol.dispose](): void {
    this.#hardened?.[Symbol.dispose]();
    this.#quic?.[Symbol.dispose]();
    this.store[Symbol.dispose]();
  }

  /** Virtual time, in milliseconds since the start. */
  get nowMs(): number {
    return this.simulation.nowMs;
  }

  /** All hosts by name. */
  get hosts(): ReadonlyMap<string, Host> {
    return this.simulation.hosts;
  }

  /** Waiting events, such as timers. */
  pending(): ReturnType<Simulation["pending"]> {
    return this.simulation.pending();
  }

  /**
   * Returns true if bytes that a node or a client sent long ago are still arriving at a host.
   *
   * @param host The receiving host.
   * @returns True while such bytes are in flight over a slow link.
   */
  isBehind(host: Host): boolean {
    const { nodes, machines, network } = this;
    return [...nodes, ...machines].some((from) => network.backlogMs(from.host, host) > 0);
  }

  /** Servers on live hosts. */
  get servers(): readonly LiveServer[] {
    return this.nodes.filter(({ host }) => host.isAlive);
  }

  /** Clients on live hosts. */
  get clients(): readonly LiveClient[] {
    return this.machines.flatMap(({ host, program }) =>
      host.isAlive && program !== undefined && !program.client.status.isEnded ? [program] : []
    );
  }

  /**
   * Finds the node of a host.
   *
   * @returns The node, or `undefined` if the host is not a node.
   */
  nodeOf(host: Host): ClusterNode | undefined {
    return this.nodes.find((node) => node.host === host);
  }

  /**
   * Restarts a host's program after the host has ended.
   *
   * @param host The host of a node or a client.
   */
  restart(host: Host): void {
    this.nodeOf(host)?.restart();
    this.machines.find((machine) => machine.host === host)?.restart();
  }

  /** Ends the workload. No new operation starts after this. */
  rest(): void {
    this.#isWorking = false;
    for (const machine of this.machines) machine.rest();
  }

  /**
   * Temporarily denies a client's user access to a topic, as an application may.
   *
   * @param host The host of the client.
   * @param chance Random number in [0, 1) that picks the topic.
   * @returns The topic and a function that ends the denial, or `undefined` if there is no topic or
   * no client.
   */
  deny(host: Host, chance: number): { readonly topic: string; end(): void } | undefined {
    const user = this.machines.find((machine) => machine.host === host)?.user;
    const topic = this.#topics[Math.floor(chance * this.#topics.length)]?.name;
    if (user === undefined || topic === undefined) return undefined;
    const allow = this.#permissions.deny(user, topic);
    this.journal.tell("permission", "", { user, topic, isAllowed: false });
    for (const node of this.nodes) node.host.after(0, () => node.remove(user, topic));
    const end = () => {
      if (allow()) this.journal.tell("permission", "", { user, topic, isAllowed: true });
    };
    return { topic, end };
  }

  /**
   * Restarts all nodes, one after another, as a deploy does.
   *
   * @param withinMs Duration of each drain, in milliseconds.
   * @returns False if a deploy is already in progress.
   */
  roll(withinMs: number): boolean {
    if (this.#isRolling) return false;
    this.#isRolling = true;
    this.#restartAll(withinMs, {
      goesOn: () => this.#isWorking,
      onEnd: () => void (this.#isRolling = false),
    });
    return true;
  }

  /**
   * Restarts all nodes of the quiet cluster, as a deploy does, while some clients publish. The call
   * is ignored if there is only one node, if the nodes share nothing, or if the plan includes no
   * tour.
   *
   * @param withinMs Duration of each drain, in milliseconds.
   */
  deploy(withinMs: number): void {
    const { terms, has } = this.#settings;
    if (!has("tour") || terms.isApart || this.nodes.length < 2) return;
    this.journal.tell("deploy", "", { isOver: false });
    this.#restartAll(withinMs, {
      onDrain: () => {
        for (const { name, publishers: [publisher = 0] } of this.#topics) {
          const machine = this.machines[publisher]!;
          for (const ms of [0, withinMs]) machine.host.after(ms, () => machine.probe(name));
        }
      },
      onEnd: () => this.journal.tell("deploy", "", { isOver: true }),
    });
  }

  /**
   * Publishes once on each topic from each node and each client, and sends messages from each node
   * to some users.
   */
  probe(): void {
    const users = [...new Set(this.machines.map(({ user }) => user))];
    for (const [i, user] of this.#settings.has("direct") ? users.entries() : []) {
      const node = this.nodes[i % this.nodes.length]!;
      node.host.after(0, () => sendToUser(node, user));
    }
    for (const { name, publishers } of this.#topics) {
      for (const node of this.nodes) node.host.after(0, () => node.publish(name, 1));
      for (const publisher of publishers) {
        const machine = this.machines[publisher]!;
        machine.host.after(0, () => machine.probe(name));
      }
    }
  }

  /** Counts the messages of each session in both directions, according to the nodes. */
  messagesOfSessions(): Map<string, number> {
    const sessions = this.servers.flatMap(({ server }) => [...server.manager.all()]);
    return new Map(
      sessions.map(({ id, stats }) => [id, stats.sentMessages + stats.receivedMessages]),
    );
  }

  /** Starts nodes whose users come and go, if the plan includes them. */
  visits(): Visits | undefined {
    if (!this.#settings.has("growth")) return undefined;
    return new Visits(new Examiner(this.#examination));
  }

  /** Tests brokers on separate stores, if the plan includes that. */
  async tryBrokers(): Promise<void> {
    try {
      if (this.#spares.length === 0) return;
      await Promise.all([
        Trial.runAll(this.#examination, this.#spares),
        new Vigil(this.#examination, this.store).run(),
      ]);
    } catch (error) {
      this.journal.tell("unhandled", "", { error });
    }
  }

  /** Kills a node for a while, if the plan includes a tour. */
  async mourn(): Promise<void> {
    await this.#tour()?.run([visitGrave]);
  }

  /** Sends guests on a tour, if the plan includes one. */
  async tour(): Promise<void> {
    await this.#tour()?.run([
      visitHeartbeats,
      visitLimits,
      visitOutbox,
      visitQueues,
      visitRooms,
      visitWaits,
    ]);
  }

  /** Closes all clients, then all servers, then the brokers. */
  async close(): Promise<void> {
    this.#isChecked = false;
    await Promise.all(this.machines.map((machine) => machine.close()));
    await Promise.all(this.nodes.map(({ server }) => server.close()));
    await Promise.all(this.nodes.map(({ server }) => server.topics.broker.close()));
    await this.store.close?.();
  }

  /** Drains the nodes, each after the previous node is up again. */
  #restartAll(
    withinMs: number,
    { goesOn = () => true, onDrain = () => {}, onEnd }: {
      readonly goesOn?: () => boolean;
      readonly onDrain?: () => void;
      readonly onEnd: () => void;
    },
  ): void {
    const waiting = [...this.nodes];
    let drained: ClusterNode | undefined;
    const next = () => {
      if (!goesOn()) return;
      if (drained === undefined || drained.isUp) {
        drained = waiting.shift();
        if (drained === undefined) return onEnd();
        drained.drain(withinMs);
        onDrain();
      }
      this.simulation.after(ROLL_MS, next);
    };
    next();
  }

  /** Publishes on a topic from time to time. */
  #publishOn({ name, publishers }: ClusterTopic, isByNodes: boolean): void {
    const random = this.simulation.chanceOf(`publications/${name}`);
    const next = () => {
      if (!this.#isWorking) return;
      const [which, whose, how, waitMs] = [random(), random(), random(), random()];
      if (isByNodes && which < NODE_SHARE) {
        const node = this.nodes[Math.floor(whose * this.nodes.length)]!;
        node.host.after(0, () => node.publish(name, how));
      } else {
        const machine = this.machines[publishers[Math.floor(whose * publishers.length)]!]!;
        machine.host.after(0, () => machine.publish(name, how));
      }
      this.simulation.after(-PUBLISH_EVERY_MS * Math.log(1 - waitMs), next);
    };
    next();
  }

  /** Writes durable streams on a node from time to time. */
  #writeOn(node: ClusterNode): void {
    const { host } = node;
    const random = this.simulation.chanceOf(`streams/${host.name}`);
    const next = () => {
      if (!this.#isWorking) return;
      if (node.isUp) host.after(0, () => void writeStream(node, this.#streams, random));
      this.simulation.after(WRITE_EVERY_MS * (0.5 + random()), next);
    };
    this.simulation.after(WRITE_EVERY_MS * random(), next);
  }

  /** The parts that examinations use. */
  get #examination(): ExaminationParts {
    const { simulation, network, journal } = this;
    return { simulation, network, journal, settings: this.#settings, tokens: this.#tokens };
  }

  #tour(): Tour | undefined {
    if (!this.#settings.has("tour")) return undefined;
    return new Tour({ ...this.#examination, nodes: this.nodes, holds: this.#holds });
  }
}
