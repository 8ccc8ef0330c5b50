/** Users of a room on several nodes, which freeze and die: each node knows the members. */
import type { Client } from "../../../../../client/client.ts";
import { between, oneOf } from "../../chance.ts";
import type { Audit } from "../audit.ts";
import {
  BEAT_MS,
  GONE_MS,
  KNOWN_MS,
  QUIET_MS,
  ROUND_MS,
  Service,
  type ServiceNode,
} from "./service.ts";

/** Grace of a user without sessions, in milliseconds. */
const GRACE_MS = 1_500;

/** Time of all steps, in milliseconds. */
const ALL_MS = 14_000;

/** Most steps. */
const STEPS = 9;

/** Number of nodes. */
const NODES = 3;

/** The room. */
const ROOM = "room:visitors";

/** The users. */
const USERS = ["ada", "bob"] as const;

/** Most sessions of one user. */
const MAX_TABS = 2;

/** A session of a user in the room. */
interface Tab {
  readonly client: Client;
  readonly node: ServiceNode;
  /** The data, which grows with each setting. */
  data: number | undefined;
}

/** A span of time, in milliseconds since the Unix epoch. */
interface Span {
  readonly fromMs: number;
  readonly toMs: number;
}

/** A user as the model knows the user. */
interface Visitor {
  readonly user: string;
  readonly tabs: Tab[];
  /** Span in which the user joined. */
  joined: Span | undefined;
  /** Span in which the user was seen last, before a leave. */
  seen: Span | undefined;
  /** Data at the last look with sessions. */
  lastData: number | undefined;
}

/** Changes of a user that a node has to tell. */
type Changes = ("join" | "leave" | "update")[];

/** A change that a node told. */
interface Told {
  readonly user: string;
  readonly type: Changes[number];
  readonly data: unknown;
  /** Time at which the user was seen last, of a leave. */
  readonly seenMs: number | undefined;
}

/** The nodes, the users, and the changes that nodes told. */
class Visitors {
  readonly audit: Audit;
  readonly random: () => number;
  readonly service: Service;
  readonly all: readonly Visitor[] = USERS.map((user) => ({
    user,
    tabs: [],
    joined: undefined,
    seen: undefined,
    lastData: undefined,
  }));
  /** Changes that a node told since the last look. */
  readonly #told = new Map<ServiceNode, Told[]>();
  #newest = 0;

  constructor(audit: Audit) {
    this.audit = audit;
    this.random = audit.random;
    this.service = new Service(audit, "visitors", { presenceGraceMs: GRACE_MS });
    for (let i = 0; i < NODES; i++) this.watch(this.service.start());
  }

  /** Notes the changes that a node tells in the present life. */
  watch(node: ServiceNode): void {
    const { presence } = node.server;
    const told: Told[] = [];
    this.#told.set(node, told);
    presence.follow(ROOM);
    presence.subscribe(({ topic, user, type, data, ...event }) => {
      const seenMs = "lastSeenAt" in event ? event.lastSeenAt : undefined;
      if (topic === ROOM) told.push({ user, type, data, seenMs });
    });
  }

  /** Connects a session of a user, with data or without. */
  async enter(visitor: Visitor, node: ServiceNode, hasData: boolean): Promise<void> {
    const { user, tabs } = visitor;
    const fromMs = this.#now();
    const client = this.service.enter(user, node);
    await this.audit.until(() => client.isConnected);
    const data = hasData ? this.newData() : undefined;
    if (data !== undefined) await client.presence(ROOM, data);
    await client.subscribe(ROOM).ready;
    tabs.push({ client, node, data });
    visitor.joined ??= { fromMs, toMs: this.#now() };
  }

  /** Closes a session. */
  async leave(visitor: Visitor, tab: Tab): Promise<void> {
    const { tabs } = visitor;
    tabs.splice(tabs.indexOf(tab), 1);
    const fromMs = this.#now();
    await tab.client.close();
    visitor.seen = { fromMs, toMs: this.#now() + ROUND_MS };
  }

  /** Notes that a node goes silent: the other nodes heard the last sign of life a heartbeat ago. */
  silence(visitor: Visitor): void {
    const nowMs = this.#now();
    visitor.seen = { fromMs: nowMs - BEAT_MS - ROUND_MS, toMs: nowMs + ROUND_MS };
  }

  /** Makes data that no session has had. */
  newData(): number {
    return ++this.#newest;
  }

  /** The data that stands for a user; sessions on one node may be left out. */
  dataOf({ tabs }: Visitor, without?: ServiceNode): number | undefined {
    const all = tabs.flatMap(({ data, node }) => node === without ? [] : data ?? []);
    return all.length === 0 ? undefined : Math.max(...all);
  }

  /** Examines the changes since the last look, and the members. */
  look(what: string, of: Visitor, changes: Changes, unlike?: ServiceNode): void {
    for (const node of this.service.nodes) {
      const { host, server } = node;
      const told = this.#told.get(node)!.splice(0);
      if (host.isFrozen) continue;
      const expected = node === unlike ? [] : changes.map((type) => `${of.user} ${type}`);
      this.#examine(
        `${what}, told by ${host.name}`,
        expected,
        told.map((one) => `${one.user} ${one.type}`),
      );
      const members = server.rooms.members(ROOM);
      const found = members.map(({ user, connections, data }) => [user, connections, data]);
      const there = this.all.flatMap((one) =>
        one.tabs.length === 0 ? [] : [[one.user, one.tabs.length, this.dataOf(one)]]
      );
      this.#examine(`members behind ${what} at ${host.name}`, there, found.toSorted());
      const online = USERS.filter((user) => server.presence.isOnline(user));
      this.#examine(
        `users online behind ${what} at ${host.name}`,
        there.map(([user]) => user),
        online,
      );
      this.#lookClosely(`behind ${what} at ${host.name}`, of, { told, server });
    }
  }

  /** Keeps in mind the state of a user, behind a look. */
  note(one: Visitor): void {
    if (one.tabs.length === 0) one.joined = undefined;
    else one.lastData = this.dataOf(one);
  }

  /** Tells if other users have sessions on a node. */
  hasOthers(node: ServiceNode, one: Visitor): boolean {
    return this.all.some((other) => other !== one && other.tabs.some((tab) => tab.node === node));
  }

  /** Restarts a node, and forgets the changes that the new node tells first. */
  async restart(node: ServiceNode): Promise<void> {
    node.restart();
    this.watch(node);
    await this.pause(4 * ROUND_MS);
    this.#told.get(node)!.length = 0;
  }

  pause(ms: number): Promise<void> {
    return this.audit.pause(ms);
  }

  /** Examines the data of the last change, and all times. */
  #lookClosely(where: string, of: Visitor, { told, server }: {
    readonly told: readonly Told[];
    readonly server: ServiceNode["server"];
  }): void {
    const { presence } = server;
    const isGone = of.tabs.length === 0;
    for (const { seenMs } of told) {
      if (seenMs !== undefined) this.#examineTime(`leave ${where}`, of.seen, seenMs);
    }
    if (told.length > 0) {
      const data = isGone ? of.lastData : this.dataOf(of);
      this.#examine(`data of the last change ${where}`, data, told.at(-1)!.data);
    }
    if (isGone) this.#examineTime(`absence ${where}`, of.seen, presence.lastSeenAt(of.user));
    for (const { user, joinedAt } of server.rooms.members(ROOM)) {
      const { joined } = this.all.find((one) => one.user === user)!;
      this.#examineTime(`join of ${user} ${where}`, joined, joinedAt);
      this.#examine(`absence of ${user} ${where}`, undefined, presence.lastSeenAt(user));
    }
  }

  /** Time of the nodes, in milliseconds since the Unix epoch. */
  #now(): number {
    return this.service.nodes[0]!.host.runtime.now();
  }

  #examineTime(what: string, span: Span | undefined, atMs: number | undefined): void {
    const { fromMs = Infinity, toMs = -Infinity } = span ?? {};
    const isWithin = atMs !== undefined && fromMs <= atMs && atMs <= toMs;
    const received = isWithin ? "in time" : `${atMs}, not ${fromMs} to ${toMs}`;
    this.#examine(`time of the ${what}`, "in time", received);
  }

  #examine(what: string, expected: unknown, received: unknown): void {
    this.audit.examine("presence", what, expected, received);
  }
}

/** A step of a user or of a node, with an examination. */
type Step = (visitors: Visitors, one: Visitor) => Promise<void>;

/** Another session of a user. */
const enter: Step = async (visitors, one) => {
  const { random, service } = visitors;
  if (one.tabs.length === MAX_TABS) return;
  const [wasThere, before] = [one.tabs.length > 0, visitors.dataOf(one)];
  await visitors.enter(one, oneOf(random, service.nodes), random() < 0.5);
  await visitors.pause(ROUND_MS);
  const isNew = visitors.dataOf(one) !== before;
  visitors.look("a session that enters", one, wasThere ? isNew ? ["update"] : [] : ["join"]);
};

/** The end of a session; the last one ends the presence after the grace. */
const leave: Step = async (visitors, one) => {
  const { random } = visitors;
  if (one.tabs.length === 0) return;
  const before = visitors.dataOf(one);
  await visitors.leave(one, oneOf(random, one.tabs));
  if (one.tabs.length > 0) {
    await visitors.pause(ROUND_MS);
    const isOld = visitors.dataOf(one) === before;
    return visitors.look("a session that leaves", one, isOld ? [] : ["update"]);
  }
  await visitors.pause(GRACE_MS + ROUND_MS);
  visitors.look("a user who leaves", one, ["leave"]);
};

/** A user who is back within the grace, on the same node or on another one. */
const hop: Step = async (visitors, one) => {
  const { random, service } = visitors;
  if (one.tabs.length !== 1) return;
  const before = visitors.dataOf(one);
  await visitors.leave(one, one.tabs[0]!);
  await visitors.pause(between(random, 0, GRACE_MS - 2 * ROUND_MS));
  await visitors.enter(one, oneOf(random, service.nodes), random() < 0.5);
  // Beyond the grace of the earlier session.
  await visitors.pause(GRACE_MS + ROUND_MS);
  const isNew = visitors.dataOf(one) !== before;
  visitors.look("a user who is back within the grace", one, isNew ? ["update"] : []);
};

/** New data, or no data any more. */
const update: Step = async (visitors, one) => {
  const { random } = visitors;
  if (one.tabs.length === 0) return;
  const before = visitors.dataOf(one);
  const tab = oneOf(random, one.tabs);
  tab.data = random() < 0.7 ? visitors.newData() : undefined;
  await tab.client.presence(ROOM, tab.data);
  await visitors.pause(ROUND_MS);
  visitors.look("data of a session", one, visitors.dataOf(one) === before ? [] : ["update"]);
};

/** A node that is frozen for a moment, until the node is gone but the users are not, or for longer. */
const freeze: Step = async (visitors, one) => {
  const { random, service } = visitors;
  const node = oneOf(random, one.tabs)?.node;
  if (node === undefined) return;
  // One user at a time.
  if (visitors.hasOthers(node, one)) return;
  const kind = random();
  const firmMs = QUIET_MS + GRACE_MS - ROUND_MS;
  const forMs = kind < 0.2
    ? between(random, ROUND_MS, QUIET_MS)
    : kind < 0.8
    ? between(random, GONE_MS + ROUND_MS, firmMs)
    : KNOWN_MS + GRACE_MS + ROUND_MS;
  const isGone = forMs > GONE_MS;
  const isOver = forMs > firmMs;
  const hasOther = one.tabs.some((tab) => tab.node !== node);
  visitors.silence(one);
  await service.freeze(node, forMs);
  // Beyond the grace of the users of a node that is gone.
  await visitors.pause(KNOWN_MS + GRACE_MS + ROUND_MS - Math.min(forMs, KNOWN_MS + GRACE_MS));
  const isNew = visitors.dataOf(one) !== visitors.dataOf(one, node);
  const changes: Changes = isGone && hasOther && isNew
    ? ["update", "update"]
    : isOver && !hasOther
    ? ["leave", "join"]
    : [];
  visitors.look(`a node that is frozen for ${Math.round(forMs)} ms`, one, changes, node);
};

/** A node that dies: the user is back on another node, or leaves. */
const die: Step = async (visitors, one) => {
  const { random, service } = visitors;
  const [tab] = one.tabs;
  if (tab === undefined || one.tabs.length !== 1) return;
  const { node } = tab;
  if (visitors.hasOthers(node, one)) return;
  const before = visitors.dataOf(one);
  one.tabs.length = 0;
  visitors.silence(one);
  node.host.kill({ power: true });
  void tab.client.close();
  const isBack = random() < 0.7;
  const awayMs = between(random, 0, QUIET_MS + GRACE_MS - 2 * ROUND_MS);
  if (isBack) {
    await visitors.pause(awayMs);
    await visitors.enter(one, oneOf(random, service.nodes), random() < 0.5);
  }
  await visitors.pause(KNOWN_MS + GRACE_MS + ROUND_MS - (isBack ? awayMs : 0));
  const isNew = visitors.dataOf(one) !== before;
  visitors.look("a node that died", one, isBack ? isNew ? ["update"] : [] : ["leave"]);
  await visitors.restart(node);
};

/** A node that is deployed anew, also within the grace of a user whose session has just ended. */
const deploy: Step = async (visitors, one) => {
  const { random, service } = visitors;
  const [tab] = one.tabs;
  if (tab === undefined || one.tabs.length !== 1) return;
  const { node } = tab;
  if (visitors.hasOthers(node, one)) return;
  const before = visitors.dataOf(one);
  const isBack = random() < 0.7;
  const firmMs = GRACE_MS - 3 * ROUND_MS;
  const leftMs = random() < 0.6 ? between(random, 0, firmMs / 2) : 0;
  const leaving = visitors.leave(one, tab);
  if (leftMs > 0) {
    await leaving;
    await visitors.pause(leftMs);
  }
  await service.stop(node);
  if (isBack) {
    await visitors.pause(between(random, 0, firmMs - leftMs));
    await visitors.enter(one, oneOf(random, service.nodes), random() < 0.5);
  }
  await visitors.pause(GRACE_MS + ROUND_MS);
  const isNew = visitors.dataOf(one) !== before;
  visitors.look("a deployed node", one, isBack ? isNew ? ["update"] : [] : ["leave"]);
  await visitors.restart(node);
};

/** Steps, as often as each is drawn. */
const ALL: readonly Step[] = [
  ...[enter, enter, leave, hop, hop, update],
  ...[freeze, freeze, freeze, die, deploy, deploy],
];

/**
 * Lets users come, move and go on nodes that freeze and die.
 *
 * @param audit The audit.
 */
export async function auditVisitors(audit: Audit): Promise<void> {
  const visitors = new Visitors(audit);
  const { random, service } = visitors;
  const endMs = audit.nowMs + ALL_MS;
  await audit.pause(4 * ROUND_MS);
  for (let i = 0; i < STEPS && audit.nowMs < endMs; i++) {
    const one = oneOf(random, visitors.all);
    const step = one.tabs.length === 0 ? enter : oneOf(random, ALL);
    await step(visitors, one);
    visitors.note(one);
  }
  for (const { tabs } of visitors.all) await Promise.all(tabs.map(({ client }) => client.close()));
  await service.close();
}
