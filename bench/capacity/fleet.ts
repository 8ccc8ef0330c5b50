/** A model of a service: nodes, a broker in shards, and the sessions of its clients. */
import { seededRandom } from "../../transport/memory/path.ts";
import type { Costs } from "./costs.ts";
import { Machine, ModelProcess, ModelTime } from "./machine.ts";

/** Interval in which commands to the broker are counted, in milliseconds. */
const SAMPLE_MS = 200;

/** Mark of a topic that a node follows. */
const FOLLOWED = 1;

/** Topics that a node catches up with concurrently; same as in `pubsub/history/`. */
const FOLLOWED_AT_ONCE = 64;

/** Sessions after which the extra cost of a session in a new process has dropped to a third. */
const WARM_SESSIONS = 100;

/** Length of the jobs that stand for programs outside the model, in milliseconds. */
const REST_MS = 10;

/** Equal parts of a client's work in a reconnect: notice, connect, greet and subscribe. */
const CLIENT_STEPS = 4;

/** Description of a service. */
export interface FleetOptions {
  readonly sessions: number;
  /** Number of nodes, each one process. */
  readonly nodes: number;
  readonly nodesPerMachine: number;
  readonly coresPerMachine: number;
  /** Number of topics with a history. */
  readonly topics: number;
  /** Topics of each session. */
  readonly topicsEach: number;
  /** True if each session has its own user. */
  readonly hasUsers: boolean;
  /** Processes of the broker, each on its own core; keys are spread over all. */
  readonly shards: number;
  /** Further processes for the claims of users; by default, the `shards` also serve them. */
  readonly userShards?: number;
  /** Share of each core of nodes and shards that the usual work uses, from 0 to 1. */
  readonly usualLoad: number;
  /** Maximum first delay of a client, in milliseconds. */
  readonly firstDelayMs: number;
  /** Maximum delay of a client, in milliseconds. */
  readonly maxDelayMs: number;
  /** Time after which a client's attempt times out, in milliseconds. */
  readonly connectTimeoutMs: number;
  /** One-way latency between client and node, in milliseconds. */
  readonly clientWayMs: number;
  /** One-way latency between node and broker, in milliseconds. */
  readonly brokerWayMs: number;
  /**
   * Selection of a node for a new connection: random, fewest sessions, or a hash of the session's
   * first topic.
   */
  readonly balancer: "random" | "least" | "topic";
  /** Set if clients and broker share the nodes' only machine, as in a test. */
  readonly local?: LocalOptions;
  /** Costs of the parts. */
  readonly costs: Costs;
  /** Seed of all randomness: an integer. */
  readonly seed: number;
}

/** Clients, broker and publishers that share the machine of the nodes. */
export interface LocalOptions {
  /** Number of client processes. */
  readonly processes: number;
  /** Publications per second, over all topics. */
  readonly perSecond: number;
  /** Share of a core that publishers, broker and measurement use. */
  readonly restLoad: number;
  /** Time until which publications and the other work continue, in milliseconds. */
  readonly untilMs: number;
}

/** Result of a scenario. */
export interface FleetResult {
  /** Sessions that were lost or moved, and returned; each return counts. */
  readonly back: number;
  /** Sessions that are still disconnected at the end. */
  readonly away: number;
  /** Time until half of them were back, in milliseconds since the first loss. */
  readonly halfMs: number;
  /** Time until 99 % were back. */
  readonly mostMs: number;
  /** Time until all were back. */
  readonly allMs: number;
  /** The longest absence of a session. */
  readonly longestMs: number;
  /** Attempts that timed out. */
  readonly givenUp: number;
  /** Commands to the broker, besides the usual ones. */
  readonly commands: number;
  /** Maximum rate of these commands per second, in the busiest 200 ms, over all shards. */
  readonly peakCommands: number;
  /** The same for the busiest shard. */
  readonly peakShardCommands: number;
  /** Maximum work that waited for one node, in milliseconds of its core. */
  readonly nodeQueueMs: number;
  /** Maximum work that waited for one shard, in milliseconds of its core. */
  readonly shardQueueMs: number;
  /** Maximum sessions on one node at the end, relative to the mean. */
  readonly imbalance: number;
}

interface Node {
  readonly index: number;
  readonly process: ModelProcess;
  /** By topic: {@linkcode FOLLOWED} if the node follows it, otherwise 0. */
  readonly topics: Uint8Array;
  /** Callbacks of subscriptions that wait for a topic. */
  readonly waiting: Map<number, (() => void)[]>;
  isOpen: boolean;
  /** Open connections, including those that are still opening. */
  sessions: number;
  /** Sessions that the process has started. */
  begun: number;
  /** Number of times that all connections broke. */
  life: number;
}

/** A service with all sessions connected, at time 0. */
export class Fleet {
  readonly time: ModelTime = new ModelTime();
  /** Node of each session; -1 while disconnected. */
  readonly nodeOf: Int32Array;
  readonly #options: FleetOptions;
  readonly #random: () => number;
  readonly #nodes: Node[] = [];
  readonly #shards: ModelProcess[] = [];
  /** First and number of the shards for users. */
  readonly #forUsers: readonly [first: number, count: number];
  readonly #clients: ModelProcess[] = [];
  readonly #awaySinceMs: Float64Array;
  readonly #back: number[] = [];
  /** By shard, and by interval of {@linkcode SAMPLE_MS}. */
  readonly #commands: number[][] = [];
  readonly #machines: Machine[] = [];
  #longestMs = 0;
  #givenUp = 0;
  #away = 0;

  /**
   * Creates a service whose sessions are spread evenly.
   *
   * @param options See {@linkcode FleetOptions}.
   */
  constructor(options: FleetOptions) {
    this.#options = options;
    this.#random = seededRandom(options.seed);
    const { sessions, nodes, nodesPerMachine, coresPerMachine, shards, local } = options;
    for (let index = 0; index < nodes; index++) {
      if (index % nodesPerMachine === 0) {
        this.#machines.push(new Machine(this.time, coresPerMachine));
      }
      this.#nodes.push({
        index,
        process: new ModelProcess(this.#machineOf(index)),
        topics: new Uint8Array(options.topics),
        waiting: new Map(),
        isOpen: true,
        sessions: 0,
        begun: 0,
        life: 0,
      });
    }
    const { userShards = 0 } = options;
    this.#forUsers = userShards === 0 ? [0, shards] : [shards, userShards];
    for (let i = 0; i < shards + userShards; i++) {
      const own = local === undefined ? new Machine(this.time, 1) : this.#machineOf(0);
      this.#shards.push(new ModelProcess(own));
      this.#commands.push([]);
    }
    if (local !== undefined) this.#share(local);
    this.nodeOf = new Int32Array(sessions).fill(-1);
    this.#awaySinceMs = new Float64Array(sessions).fill(-1);
  }

  #machineOf(index: number): Machine {
    return this.#machines[Math.floor(index / this.#options.nodesPerMachine)]!;
  }

  /** Adds clients, deliveries and the other work to the nodes' machine. */
  #share(local: LocalOptions): void {
    const { processes, perSecond, restLoad, untilMs } = local;
    const { costs, sessions, topics, topicsEach } = this.#options;
    const newProcess = () => new ModelProcess(this.#machineOf(0));
    for (let i = 0; i < processes; i++) this.#clients.push(newProcess());
    const rest = newProcess();
    const done = () => {};
    this.#every(REST_MS, untilMs, () => rest.work(restLoad * REST_MS, done));
    // A disconnected session receives the same publications later.
    const deliveries = sessions * topicsEach / topics;
    this.#every(1_000 / perSecond, untilMs, () => {
      const open = this.#nodes.filter(({ isOpen }) => isOpen);
      for (const { process } of open) {
        process.work(costs.receiptMs + deliveries / open.length * costs.deliveryMs, done);
      }
      for (const process of this.#clients) {
        process.work(deliveries / processes * costs.clientDeliveryMs, done);
      }
    });
  }

  /** Repeats an action until a time. */
  #every(ms: number, untilMs: number, action: () => void): void {
    this.time.after(ms, () => {
      action();
      if (this.time.nowMs < untilMs) this.#every(ms, untilMs, action);
    });
  }

  /**
   * Distributes all sessions over the open nodes, in turn or by their topics, as if they had been
   * connected for long.
   */
  settle(): void {
    const open = this.#nodes.filter(({ isOpen }) => isOpen);
    const isByTopic = this.#options.balancer === "topic";
    for (let session = 0; session < this.nodeOf.length; session++) {
      const node = isByTopic ? this.#nodeByTopic(session)! : open[session % open.length]!;
      node.sessions++;
      node.begun = Infinity;
      this.nodeOf[session] = node.index;
      for (const topic of this.#topicsOf(session)) node.topics[topic] = FOLLOWED;
    }
  }

  /** Stops accepting sessions on a node. */
  shut(index: number): void {
    this.#nodes[index]!.isOpen = false;
  }

  /** Accepts sessions on a node again. */
  open(index: number): void {
    this.#nodes[index]!.isOpen = true;
  }

  /**
   * Ends a node's process. The system closes one connection after another, and the sessions
   * reconnect after their first delays.
   */
  kill(index: number): void {
    const node = this.#nodes[index]!;
    // On machines with a core per process, the ended process frees one.
    const { local } = this.#options;
    const machine = local === undefined ? new Machine(this.time, 1) : this.#machineOf(index);
    const system = new ModelProcess(machine);
    this.shut(index);
    node.topics.fill(0);
    node.waiting.clear();
    node.begun = 0;
    this.#break(node, (lost) => system.work(this.#options.costs.closeMs, lost));
  }

  /** Breaks all connections of a node, which keeps running. */
  disconnect(index: number): void {
    this.#break(this.#nodes[index]!, (lost) => lost());
  }

  /** Ends all sessions of a node; `close` notifies each client. */
  #break(node: Node, close: (lost: () => void) => void): void {
    node.life++;
    node.sessions = 0;
    for (const session of this.sessionsOf(node.index)) {
      this.#leave(session);
      // A client process notices losses in small batches, between its other work.
      close(() => this.#atClient(session, () => this.#retry(session, 0), true));
    }
  }

  /**
   * Restarts all shards of the broker without their data. Sessions continue. Each node subscribes
   * to its topics again, a few at a time, and each topic counts as a returned session.
   *
   * @param downMs Time until the broker responds again, in milliseconds.
   */
  restartBroker(downMs: number): void {
    for (const node of this.#nodes) {
      const topics: number[] = [];
      node.topics.forEach((state, topic) => state === FOLLOWED && topics.push(topic));
      node.topics.fill(0);
      this.#away += topics.length;
      let index = 0;
      const next = () => {
        const topic = topics[index++];
        if (topic === undefined) return;
        this.#follow(
          node,
          topic,
          () =>
            this.#atNode(node, this.#options.costs.subscriptionMs, () => {
              this.#back.push(this.time.nowMs);
              this.#away--;
              next();
            }),
        );
      };
      this.time.after(downMs, () => {
        for (let i = 0; i < FOLLOWED_AT_ONCE; i++) next();
      });
    }
  }

  /** Sessions of a node. */
  sessionsOf(index: number): number[] {
    const found: number[] = [];
    for (let i = 0; i < this.nodeOf.length; i++) if (this.nodeOf[i] === index) found.push(i);
    return found;
  }

  /** Makes a session leave its node and immediately connect to another one. */
  move(session: number): void {
    const at = this.nodeOf[session]!;
    if (at < 0) return;
    this.#nodes[at]!.sessions--;
    this.#leave(session);
    this.#connect(session, 0);
  }

  /** Returns the result; times count from `sinceMs`. */
  result(sinceMs: number): FleetResult {
    const back = this.#back.map((at) => at - sinceMs).sort((a, b) => a - b);
    const at = (part: number) => back[Math.max(0, Math.ceil(back.length * part) - 1)] ?? 0;
    const samples: number[] = [];
    let [commands, peakOfShard] = [0, 0];
    for (const counts of this.#commands) {
      counts.forEach((count, i) => {
        samples[i] = (samples[i] ?? 0) + count;
        commands += count;
        peakOfShard = Math.max(peakOfShard, count);
      });
    }
    const peak = samples.reduce((most, count) => Math.max(most, count ?? 0), 0);
    const mean = this.nodeOf.length / this.#nodes.length;
    return {
      back: back.length,
      away: this.#away,
      halfMs: at(0.5),
      mostMs: at(0.99),
      allMs: at(1),
      longestMs: this.#longestMs,
      givenUp: this.#givenUp,
      commands,
      peakCommands: peak * 1_000 / SAMPLE_MS,
      peakShardCommands: peakOfShard * 1_000 / SAMPLE_MS,
      nodeQueueMs: Math.max(...this.#nodes.map(({ process }) => process.peakMs)),
      shardQueueMs: Math.max(...this.#shards.map(({ peakMs }) => peakMs)),
      imbalance: Math.max(...this.#nodes.map(({ sessions }) => sessions)) / mean,
    };
  }

  /** Connects a session after a delay, which doubles with each attempt. */
  #retry(session: number, attempt: number): void {
    const { firstDelayMs, maxDelayMs } = this.#options;
    const delayMs = Math.min(maxDelayMs, firstDelayMs * 2 ** attempt) * this.#random();
    this.time.after(delayMs, () => this.#connect(session, attempt));
  }

  #connect(session: number, attempt: number): void {
    const { clientWayMs, connectTimeoutMs, costs } = this.#options;
    const node = this.#choose(session);
    if (node === undefined) return this.#retry(session, attempt + 1);
    const { life } = node;
    node.sessions++;
    let isOver = false;
    const timeout = this.time.after(connectTimeoutMs, () => {
      isOver = true;
      this.#givenUp++;
      if (node.life === life) node.sessions--;
      this.#retry(session, attempt + 1);
    });
    // A node that ended resets the connection.
    const isLost = () => {
      if (isOver) return true;
      if (node.life === life) return false;
      isOver = true;
      timeout.isOver = true;
      this.#retry(session, attempt + 1);
      return true;
    };
    this.#atClient(session, () => {
      // A TCP handshake, and the request.
      this.time.after(3 * clientWayMs, () => {
        if (isLost()) return;
        const warmUpMs = costs.warmUpMs / WARM_SESSIONS * Math.exp(-node.begun++ / WARM_SESSIONS);
        this.#atNode(node, costs.sessionMs + warmUpMs, () => {
          this.#admit(session, node, () => {
            if (isLost()) return;
            timeout.isOver = true;
            this.time.after(clientWayMs, () => {
              if (isLost()) return;
              this.nodeOf[session] = node.index;
              this.#atClient(session, () => this.#subscribe(session, node, life));
            });
          });
        });
      });
    });
  }

  /** Claims a slot for a user. */
  #admit(session: number, node: Node, done: () => void): void {
    const { hasUsers, costs } = this.#options;
    if (!hasUsers) return done();
    const { userMs, userCommands } = costs.broker;
    const [first, count] = this.#forUsers;
    const shard = first + hash(session) % count;
    this.#ask(shard, userMs, userCommands, () => this.#atNode(node, costs.userMs, done));
  }

  /** Subscribes to a session's topics; then its client has everything that it missed. */
  #subscribe(session: number, node: Node, life: number): void {
    const { clientWayMs, topicsEach, costs } = this.#options;
    this.time.after(clientWayMs, () => {
      let open = topicsEach;
      const subscribed = () => {
        if (--open > 0) return;
        this.time.after(clientWayMs, () => {
          this.#atClient(session, () => {
            if (node.life === life) this.#return(session);
          });
        });
      };
      this.#atNode(node, costs.subscriptionMs * topicsEach, () => {
        for (const topic of this.#topicsOf(session)) this.#follow(node, topic, subscribed);
      });
    });
  }

  #follow(node: Node, topic: number, done: () => void): void {
    if (node.topics[topic] === FOLLOWED) return done();
    const waiting = node.waiting.get(topic);
    if (waiting !== undefined) return void waiting.push(done);
    const all = [done];
    node.waiting.set(topic, all);
    const { topicMs, topicCommands } = this.#options.costs.broker;
    const shard = hash(topic) % this.#options.shards;
    this.#ask(shard, topicMs, topicCommands, () => {
      node.topics[topic] = FOLLOWED;
      node.waiting.delete(topic);
      for (const each of all) each();
    });
  }

  #leave(session: number): void {
    this.nodeOf[session] = -1;
    if (this.#awaySinceMs[session]! >= 0) return; // Lost again before it returned.
    this.#awaySinceMs[session] = this.time.nowMs;
    this.#away++;
  }

  #return(session: number): void {
    const { nowMs } = this.time;
    this.#back.push(nowMs);
    this.#away--;
    this.#longestMs = Math.max(this.#longestMs, nowMs - this.#awaySinceMs[session]!);
    this.#awaySinceMs[session] = -1;
  }

  /** Adds work to a shard of the broker, with the round trip. */
  #ask(shard: number, ms: number, commands: number, done: () => void): void {
    const { brokerWayMs, usualLoad } = this.#options;
    this.time.after(brokerWayMs, () => {
      const sample = Math.floor(this.time.nowMs / SAMPLE_MS);
      const counts = this.#commands[shard]!;
      counts[sample] = (counts[sample] ?? 0) + commands;
      this.#shards[shard]!.work(
        ms / (1 - usualLoad),
        () => void this.time.after(brokerWayMs, done),
      );
    });
  }

  #atNode({ process }: Node, ms: number, done: () => void): void {
    process.work(ms / (1 - this.#options.usualLoad), done);
  }

  /** Adds a client's work for a step of a reconnect, if clients share the machine. */
  #atClient(session: number, done: () => void, isLate: boolean = false): void {
    const process = this.#clients[session % this.#clients.length];
    if (process === undefined) done();
    else process.work(this.#options.costs.clientMs / CLIENT_STEPS, done, isLate);
  }

  #choose(session: number): Node | undefined {
    const { balancer } = this.#options;
    if (balancer === "topic") return this.#nodeByTopic(session);
    if (balancer === "least") {
      let least: Node | undefined;
      for (const node of this.#nodes) {
        if (node.isOpen && (least === undefined || node.sessions < least.sessions)) least = node;
      }
      return least;
    }
    const open = this.#nodes.filter(({ isOpen }) => isOpen);
    return open[Math.floor(this.#random() * open.length)];
  }

  /**
   * The open node with the highest hash of node and topic, so that other nodes keep their topics.
   */
  #nodeByTopic(session: number): Node | undefined {
    const [topic] = this.#topicsOf(session) as [number];
    let [best, highest] = [undefined as Node | undefined, -1];
    for (const node of this.#nodes) {
      const value = node.isOpen ? hash(topic * this.#nodes.length + node.index) : -1;
      if (value > highest) [best, highest] = [node, value];
    }
    return best;
  }

  #topicsOf(session: number): number[] {
    const { topics, topicsEach } = this.#options;
    return Array.from({ length: topicsEach }, (_, i) => hash(session * 31 + i) % topics);
  }
}

/** Spreads whole numbers evenly (the finalizer of MurmurHash3). */
function hash(value: number): number {
  let h = value | 0;
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return (h ^ (h >>> 16)) >>> 0;
}
