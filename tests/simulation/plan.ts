/** Runs of a simulated cluster as data: plans and the outcomes of their runs. */
import type { Checkpoint, TraceEntry } from "../simulator/event_loop.ts";
import { seededRandom } from "../../transport/memory/path.ts";

/** The broker that the nodes of a cluster share, or `none` for independent servers. */
export type BrokerName = "memory" | "redis" | "nats" | "sqlite" | "none";

/**
 * A whole run as data. The same plan always produces the same run.
 *
 * Each host derives its random numbers from the seed and its own name. Removing an action, a client
 * or a topic therefore does not change the numbers of the others, and any subset of the actions is
 * a valid plan.
 */
export interface Plan {
  /** Seed for all random numbers. */
  readonly seed: number;
  /**
   * Duration of the workload in virtual time. After that, all faults are healed and the cluster
   * settles.
   */
  readonly seconds: number;
  readonly broker: BrokerName;
  /** Number of servers, which are named `node0` and so on. */
  readonly nodes: number;
  /** Number of clients, which are named `client0` and so on. */
  readonly clients: number;
  readonly topics: number;
  /** Parts of the library that the workload uses, from {@linkcode FEATURES}. */
  readonly features: readonly string[];
  /** Faults and operations, ordered by time. */
  readonly actions: readonly Action[];
}

/** One fault or operation. It is ignored if its target does not exist at that time. */
export interface Action {
  /** Virtual time, in milliseconds since the start of the workload. */
  readonly atMs: number;
  /** Kind of the action, from {@linkcode FAULTS}. */
  readonly kind: string;
  /** Host of the action. */
  readonly target?: string;
  /** Host on the other side, for actions on the network. */
  readonly peer?: string;
  /** Duration, in milliseconds. Afterwards, everything is as before. */
  readonly lastsMs?: number;
  /** Size, in the unit of the kind. */
  readonly amount?: number;
}

/** The result of a run. */
export interface Outcome {
  readonly plan: Plan;
  /** Guarantees of the library that were broken. The array is empty for a good run. */
  readonly findings: readonly Finding[];
  /** Digest of the run. It is the same for each run of the plan. */
  readonly digest: string;
  /** Number of events that ran. */
  readonly events: number;
  /** Virtual time of the whole run, in milliseconds. */
  readonly simulatedMs: number;
  /** States that the run reached, as short texts without duplicates. */
  readonly coverage: readonly string[];
  /** Newest entries of the trace. */
  readonly trace: readonly TraceEntry[];
  /** Intermediate digests, to find the first difference of two runs. */
  readonly checkpoints: readonly Checkpoint[];
}

/** A guarantee of the library that a run broke. */
export interface Finding {
  /** Name of the invariant. */
  readonly invariant: string;
  /** Virtual time, in milliseconds since the start. */
  readonly atMs: number;
  /** Host on which the invariant broke. It is empty for the whole cluster. */
  readonly host: string;
  /** Expected and received, for readers. */
  readonly text: string;
}

/** Parts of the library that a plan may enable. */
export const FEATURES = [
  /** Streaming responses, including those that survive sessions and nodes. */
  "answers",
  /** Some clients store messages until the server has handled each one. */
  "at-least-once",
  /** Brokers on separate machines, with a store that fails while the cluster is calm. */
  "brokers",
  /** Subscriptions that come and go. */
  "churn",
  /** Messages to users, on any node. */
  "direct",
  /** Durable streams. */
  "durable",
  /** Users that come and go at the end. No collection may grow because of their visits. */
  "growth",
  /** The hardened WebSocket engine, on a model of node:net's sockets. */
  "hardened",
  /** Sessions over HTTP, for clients without another transport. */
  "http",
  /** WebTransport over the library's own HTTP/3, on a model of the runtime's QUIC. */
  "http3",
  /** Publications through the HTTP API, and readers of durable streams over HTTP. */
  "http-api",
  /** A low limit of sessions per user. */
  "limits",
  /** Clients that move to another session on their node. */
  "moves",
  /** Publications by nodes, in addition to publications by clients. */
  "nodes-publish",
  /** Plain pages, which use WebSocket without the library's protocol. */
  "plain",
  /** Rooms, their users, and the users' data. */
  "presence",
  /** Rates of messages. */
  "rates",
  /** Programs of clients end and restart, and continue where the previous program ended. */
  "reload",
  /** Requests in both directions. */
  "requests",
  /** Histories so short that a client may return too late. */
  "short-history",
  /** Handlers of messages that wait. */
  "slow-handlers",
  /** Small queues. */
  "small-queues",
  /** Handlers of messages that fail occasionally. */
  "throwing-handlers",
  /** Streams and datagrams of sessions. */
  "streams",
  /** Tokens that expire and are renewed. */
  "tokens",
  /** Guests reach each limit, once the cluster has settled. */
  "tour",
  /** WebTransport, with WebSocket as the fallback. */
  "webtransport",
] as const;

/** A part of the library that a plan may enable. */
export type Feature = (typeof FEATURES)[number];

/**
 * Kinds of faults from which {@linkcode planOf} chooses. Kinds that a broker lacks are ignored.
 */
export const FAULTS = [
  "kill",
  "power",
  "freeze",
  "drain",
  "rolling",
  "jump-clock",
  "drift",
  "cut",
  "silent-cut",
  "partition",
  "one-way",
  "loss",
  "slow",
  "reject",
  "strip",
  "no-udp",
  "handshake",
  "narrow",
  "split",
  "deny",
  "kill-client",
  "freeze-client",
  "move-client",
  "broker-kill",
  "broker-power",
  "broker-freeze",
  "broker-slow",
  "broker-busy",
  "broker-lag",
  "broker-failover",
  "broker-full",
  "broker-scripts",
  "broker-subscribers",
  "broker-clients",
  "broker-disk",
] as const;

/** A fault of one broker, which is only chosen in plans with that broker. */
const SQLITE_FAULT = "broker-disk";

/**
 * A feature of a share of the plans with a broker on the network. It is chosen after all others.
 */
const BROKERS = "brokers";

/** Features of a share of the plans, which are chosen after all others. */
const [GROWTH, HTTP3, HARDENED] = ["growth", "http3", "hardened"] as const;

/** Features with their own share. */
const APART: ReadonlySet<Feature> = new Set([BROKERS, GROWTH, HTTP3, HARDENED]);

/** Share of plans with separate brokers. */
const BROKERS_SHARE = 0.5;

/**
 * Share of the plans that inspect the heap. Such a plan takes as long as ten others, so together
 * they take a twentieth of the time.
 */
const GROWTH_SHARE = 0.005;

/** Share of plans with HTTP/3 below WebTransport. */
const HTTP3_SHARE = 0.3;

/** Share of plans with the hardened WebSocket engine. */
const HARDENED_SHARE = 0.3;

/** Options of {@linkcode planOf}. */
export interface PlanOptions {
  /** Broker of the plan. By default, it is chosen at random. */
  readonly broker?: BrokerName | undefined;
  /** Duration of the workload. The default is 120, or less in some of the smallest clusters. */
  readonly seconds?: number | undefined;
  /** True for all features, all faults and the maximum size. */
  readonly isFull?: boolean | undefined;
  /** True to create only the smallest clusters, so that more plans run in the same time. */
  readonly isSmall?: boolean | undefined;
}

/** The brokers that have a model. */
export const BROKER_NAMES: readonly BrokerName[] = ["memory", "redis", "nats", "sqlite"];

/** Share of the plans with the first broker, whose runs are the fastest. */
const FIRST_SHARE = 0.6;

/**
 * Share of the clusters with few nodes, clients and topics. Most faults need no more, and a run
 * takes a third of the time.
 */
const SMALL_SHARE = 0.85;

/**
 * Durations of small clusters, one of which is chosen at random, and duration of other clusters, in
 * seconds.
 */
const [SMALL_S, LARGE_S] = [[5, 40, 120], 120] as const;

/** Mean time between two faults, in milliseconds. */
const FAULT_EVERY_MS = 10_000;

/** Sizes of a full plan. */
const FULL = { nodes: 4, clients: 50, topics: 10 } as const;

/**
 * Creates the plan of a seed. Each seed disables some features and some kinds of faults, so that
 * frequent combinations do not hide rare ones.
 *
 * @param seed An integer.
 * @param options See {@linkcode PlanOptions}.
 * @returns The plan, which is the same for the same arguments.
 */
export function planOf(seed: number, options: PlanOptions = {}): Plan {
  const random = seededRandom(seed * 2_654_435_761 % 2 ** 32);
  for (let i = 0; i < 4; i++) random(); // Adjacent seeds start with similar numbers.
  const { isFull = false } = options;
  const pick = <T>(from: readonly T[]): T => from[Math.floor(random() * from.length)]!;
  const sized = (least: number, most: number) => least + Math.floor(random() * (most - least + 1));
  const drawn = random() < FIRST_SHARE ? BROKER_NAMES[0]! : pick(BROKER_NAMES);
  const broker = options.broker ?? drawn;
  const share = 0.3 + 0.6 * random();
  const features: Feature[] = FEATURES.filter((name) =>
    !APART.has(name) && (random() < share || isFull)
  );
  const hasBroker = broker !== "memory" && broker !== "none";
  const kinds = FAULTS.filter((kind) =>
    kind === SQLITE_FAULT
      ? broker === "sqlite"
      : (random() < 0.4 || isFull) && (hasBroker || !kind.startsWith("broker-"))
  );
  const isSmall = random() < SMALL_SHARE || options.isSmall === true;
  const [nodes, clients, topics] = isFull
    ? [FULL.nodes, FULL.clients, FULL.topics]
    : isSmall
    ? [sized(1, 2), sized(1, 6), sized(1, 3)]
    : [sized(1, FULL.nodes), sized(4, sized(4, FULL.clients)), sized(1, FULL.topics)];
  const seconds = options.seconds ?? (isSmall && !isFull ? pick(SMALL_S) : LARGE_S);
  const hosts = (prefix: string, count: number) => `${prefix}${Math.floor(random() * count)}`;
  const actions: Action[] = [];
  const everyMs = FAULT_EVERY_MS * (isFull ? 1 : 0.3 + 1.7 * random());
  for (let atMs = 0; kinds.length > 0;) {
    atMs += Math.ceil(-everyMs * Math.log(1 - random()));
    if (atMs >= seconds * 1_000) break;
    const isClient = random() < 0.5;
    actions.push({
      atMs,
      kind: pick(kinds),
      target: hosts("node", nodes),
      peer: isClient ? hosts("client", clients) : hosts("node", nodes),
      lastsMs: Math.ceil(-6_000 * Math.log(1 - random())),
      amount: Math.round(1_000 * random()) / 1_000,
    });
  }
  const isRemote = broker === "redis" || broker === "nats";
  if (isRemote && (random() < BROKERS_SHARE || isFull)) features.push(BROKERS);
  // The largest clusters leave so many objects that inspecting them takes as long as the run.
  if (random() < GROWTH_SHARE && !isFull) features.push(GROWTH);
  if (random() < HTTP3_SHARE && !isFull) features.push(HTTP3);
  if (random() < HARDENED_SHARE && !isFull) features.push(HARDENED);
  return { seed, seconds, broker, nodes, clients, topics, features, actions };
}
