/** Faults of a simulated cluster, with one function for each kind of action. */
import type { Host } from "../../simulator/host.ts";
import { GOOD_CONDITIONS, type LinkConditions } from "../../simulator/network/conditions.ts";
import type { Cluster } from "./cluster.ts";
import { NETWORK } from "./settings.ts";
import type { Facts } from "../facts.ts";
import { type Action, FAULTS } from "../plan.ts";

/** Default duration of a fault, in milliseconds. */
const LASTS_MS = 3_000;

/** Maximum duration of a drain in rolling restarts, in milliseconds. */
const ROLLING_MS = 4_000;

/** Maximum time by which a clock jumps, in milliseconds. */
const JUMP_MS = 60_000;

/** Maximum share by which a clock runs fast or slow. A quartz clock drifts a hundred times less. */
const DRIFT = 0.01;

/** Prefix of the kinds of store faults. */
const BROKER = "broker-";

/** Failures that affect every connection attempt. A number is the status of a proxy's response. */
const HANDSHAKES = ["hangs", "rejected", "tls", 401, 403, 404, 500, 502, 503] as const;

/** Conditions of a link without faults. */
const USUAL: LinkConditions = { ...GOOD_CONDITIONS, ...NETWORK };

/** Kinds of faults of a node. */
const NODE_FAULTS: ReadonlySet<string> = new Set([
  "kill",
  "power",
  "freeze",
  "drain",
  "rolling",
  "jump-clock",
  "drift",
]);

/** A fault all of whose hosts exist. */
interface Fault {
  readonly cluster: Cluster;
  readonly action: Action;
  /** Duration, in milliseconds. */
  readonly lastsMs: number;
  /** Size from 0 to 1. */
  readonly amount: number;
  /** The host of the action. */
  readonly target: Host;
  /** The host on the other side, or the target if the plan names no other host. */
  readonly peer: Host;
}

/** Starts a fault. Returns its text and a function that ends it. */
type Begin = (fault: Fault) => readonly [text: string, heal?: () => void] | undefined;

const KINDS: Readonly<Record<string, Begin>> = {
  kill: ({ cluster, target }) => end(cluster, target, false),
  power: ({ cluster, target }) => end(cluster, target, true),
  "kill-client": ({ cluster, peer, amount }) => end(cluster, peer, amount < 0.5),
  freeze: ({ target }) => freeze(target),
  "freeze-client": ({ peer }) => freeze(peer),
  "move-client": ({ cluster, peer }) => {
    // The machines of nodes don't move.
    if (!peer.isAlive || cluster.nodeOf(peer)) return undefined;
    cluster.network.move(peer);
    return ["moves to another network"];
  },
  drain: ({ cluster, target, lastsMs }) => {
    const node = cluster.nodeOf(target);
    if (!node?.isUp) return undefined;
    node.drain(lastsMs);
    return [`drains within ${lastsMs} ms`];
  },
  rolling: ({ cluster, lastsMs }) => {
    const withinMs = Math.min(lastsMs, ROLLING_MS);
    return cluster.roll(withinMs) ? [`starts rolling restarts, ${withinMs} ms each`] : undefined;
  },
  deny: ({ cluster, peer, amount }) => {
    const denied = cluster.deny(peer, amount);
    return denied && [`may not use ${denied.topic}`, () => denied.end()];
  },
  "jump-clock": ({ target, amount }) => {
    const byMs = Math.round((amount - 0.5) * 2 * JUMP_MS);
    target.jumpClock(byMs);
    // Tokens are useless at a node whose clock stays wrong for longer than their lifetime.
    return [`clock jumps by ${byMs} ms`, () => target.jumpClock(-byMs)];
  },
  drift: ({ target, amount }) => {
    const drift = (amount - 0.5) * 2 * DRIFT;
    target.setDrift(drift);
    return [`clock drifts by ${drift.toFixed(5)}`, () => target.setDrift(0)];
  },
  cut: (fault) => cut(fault, false),
  "silent-cut": (fault) => cut(fault, true),
  partition: ({ cluster, target, peer }) =>
    change(cluster, [[target, peer], [peer, target]], { isBlocked: true }),
  "one-way": ({ cluster, target, peer }) => change(cluster, [[target, peer]], { isBlocked: true }),
  loss: ({ cluster, target, peer, amount }) =>
    change(cluster, [[target, peer], [peer, target]], { lossRate: amount / 2 }),
  slow: ({ cluster, target, peer, amount }) =>
    change(cluster, [[target, peer], [peer, target]], {
      delayMs: 2_000 * amount,
      jitterMs: 500 * amount,
      jitter: amount < 0.5 ? "exponential" : "long-tail",
    }),
  narrow: ({ cluster, target, peer, amount }) =>
    change(cluster, [[target, peer]], { bytesPerSecond: 100 + 5_000 * amount }),
  split: ({ cluster, target, peer, amount }) =>
    // QUIC drops duplicate packets (RFC 9000, 12.3), so no datagram is duplicated.
    change(cluster, [[target, peer], [peer, target]], {
      splitRate: amount,
      reorderRate: amount,
    }),
  reject: ({ cluster, target, peer }) => change(cluster, [[peer, target]], { rejectionRate: 1 }),
  handshake: ({ cluster, target, peer, amount }) =>
    change(cluster, [[peer, target]], {
      handshake: HANDSHAKES[Math.floor(amount * HANDSHAKES.length)]!,
    }),
  strip: ({ cluster, target, peer }) => change(cluster, [[peer, target]], { stripUpgrades: true }),
  "no-udp": ({ cluster, target, peer }) =>
    change(cluster, [[target, peer], [peer, target]], { blockUdp: true }),
};

/** The faults of a cluster, including the currently active ones. */
export class Faults {
  readonly #cluster: Cluster;
  readonly #underWay = new Set<() => void>();

  /** Starts without faults. */
  constructor(cluster: Cluster) {
    this.#cluster = cluster;
  }

  /**
   * Schedules the fault of an action. The fault ends by itself. It is ignored if a host of the
   * action does not exist when the fault is due.
   *
   * @throws {TypeError} If the kind is unknown.
   */
  plan(action: Action): void {
    if (KINDS[action.kind] === undefined && !FAULTS.some((kind) => kind === action.kind)) {
      throw new TypeError(
        `Cannot run plan: the kind of an action must be known, received "${action.kind}"`,
      );
    }
    this.#cluster.simulation.after(action.atMs, () => this.#begin(action));
  }

  /** Ends all active faults. */
  heal(): void {
    for (const heal of this.#underWay) heal();
    this.#underWay.clear();
    this.#cluster.store.heal();
    this.#cluster.network.heal();
  }

  #begin(action: Action): void {
    const { kind, target: name = "", lastsMs = LASTS_MS, amount = 0.5 } = action;
    const cluster = this.#cluster;
    if (kind.startsWith(BROKER)) return this.#beginOnBroker(kind, amount, lastsMs);
    const begin = KINDS[kind]!;
    const { hosts } = cluster.simulation;
    const target = hosts.get(name);
    const peer = action.peer === undefined ? target : hosts.get(action.peer);
    if (target === undefined || peer === undefined) return;
    const [text, heal] = begin({ cluster, action, lastsMs, amount, target, peer }) ?? [];
    if (text === undefined) return;
    const meant = scopeOf(kind);
    const hit = meant === "client" ? peer : target;
    // The peer of an action may be a node.
    const scope = meant === "client" && cluster.nodeOf(hit) ? "node" : meant;
    const at = scope === "link" ? { peer: peer.name } : {};
    cluster.journal.fault({ scope, kind, target: hit.name, ...at, lastsMs }, text);
    this.#endAfter(lastsMs, heal);
  }

  #beginOnBroker(kind: string, amount: number, lastsMs: number): void {
    const { store, journal } = this.#cluster;
    const fault = store.faults[kind]?.(amount);
    if (fault === undefined) return;
    journal.fault({ scope: "broker", kind, lastsMs }, fault.text);
    this.#endAfter(lastsMs, fault.heal);
  }

  #endAfter(lastsMs: number, heal: (() => void) | undefined): void {
    if (heal === undefined) return;
    this.#underWay.add(heal);
    this.#cluster.simulation.after(lastsMs, () => {
      if (this.#underWay.delete(heal)) heal();
    });
  }
}

/** Returns the part of the cluster that a kind of fault affects. */
function scopeOf(kind: string): Facts["faulted"]["scope"] {
  if (kind.endsWith("-client") || kind === "deny") return "client";
  return NODE_FAULTS.has(kind) ? "node" : "link";
}

/** Ends the process of a host and restarts it later. */
function end(cluster: Cluster, host: Host, power: boolean): ReturnType<Begin> {
  if (!host.isAlive) return undefined;
  host.kill({ power });
  return [power ? "loses its power" : "is killed", () => cluster.restart(host)];
}

function freeze(host: Host): ReturnType<Begin> {
  if (!host.isAlive || host.isFrozen) return undefined;
  const { life } = host;
  host.freeze();
  return ["is frozen", () => {
    if (host.life === life) host.thaw();
  }];
}

/** Cuts the target's connections to the peer or, without a peer, about half of its connections. */
function cut({ cluster, target, peer, amount, action }: Fault, silent: boolean): ReturnType<Begin> {
  const random = cluster.simulation.chanceOf(`cut/${action.atMs}`);
  let count = 0;
  for (const link of cluster.network.links) {
    const isBetween = link.client === peer && link.server === target;
    const isOne = link.server === target && random() < amount;
    if (!isBetween && !isOne) continue;
    link.disconnect({ silent });
    count++;
  }
  return [`${count} connections are cut${silent ? " silently" : ""}`];
}

/** Changes the conditions between hosts, and restores them later. */
function change(
  { network }: Cluster,
  ways: readonly (readonly [from: Host, to: Host])[],
  conditions: LinkConditions,
): ReturnType<Begin> {
  if (ways.some(([from, to]) => from === to)) return undefined;
  for (const [from, to] of ways) network.change(from, to, conditions);
  const names = ways.map(([from, to]) => `${from.name} to ${to.name}`).join(", ");
  const keys = Object.keys(conditions) as (keyof LinkConditions)[];
  const usual = Object.fromEntries(keys.map((key) => [key, USUAL[key]]));
  return [`${names}: ${JSON.stringify(conditions)}`, () => {
    for (const [from, to] of ways) network.change(from, to, usual);
  }];
}
