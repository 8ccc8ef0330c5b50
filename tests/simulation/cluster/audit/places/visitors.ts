/** Users of a room on several nodes, which freeze and die: each node knows the members. */
import type { Client } from "../../../../../client/client.ts";
import type { ConnectOptions } from "../../../../../client/connect.ts";
import {
  PRESENCE_PREFIX,
  type PresenceNotice,
} from "../../../../../session/wire/presence_notice.ts";
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
const ALL_MS = 17_000;

/** Most steps. */
const STEPS = 11;

/** Number of nodes. */
const NODES = 3;

/** The room. */
const ROOM = "room:visitors";

/** The users. */
const USERS = ["ada", "bob"] as const;

/** Most sessions of one user. */
const MAX_TABS = 2;

/** Share of audits in which the clocks of the nodes differ, and the times of which each node draws one. */
const [WRONG_CLOCKS, CLOCKS_MS] = [0.6, [0, 700, 20_000]] as const;

/** Most settings of data in one turn of a node. */
const MOST_SETTINGS = 4;

/** Longest time of a node that does not answer at once, in milliseconds: well below a second. */
const LATE_MS = 600;

/** Longest wait of a scope for the users of other nodes, in milliseconds. */
const SETTLED_MS = 1_000;

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

/** A node whose changes are not those of the others. */
interface OtherChanges {
  readonly node: ServiceNode;
  readonly changes: Changes;
}

/** The following of a room. */
type Following = ReturnType<ServiceNode["server"]["presence"]["follow"]>;

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
  /** The following of the room at each node. */
  readonly #followings = new Map<ServiceNode, Following>();
  /** Time of the last end of a session at each node. */
  readonly #leftMs = new Map<ServiceNode, number>();
  /** True if the clocks of the nodes may differ. */
  readonly areWrong: boolean;
  #newest = 0;

  constructor(audit: Audit) {
    this.audit = audit;
    this.random = audit.random;
    this.service = new Service(audit, "visitors", { presenceGraceMs: GRACE_MS });
    this.areWrong = this.random() < WRONG_CLOCKS;
    for (let i = 0; i < NODES; i++) {
      if (this.areWrong) audit.host(`visitors-${i}`).jumpClock(oneOf(this.random, CLOCKS_MS));
      this.watch(this.service.start());
    }
  }

  /** Notes the changes that a node tells in the present life. */
  watch(node: ServiceNode): void {
    const { presence } = node.server;
    const told: Told[] = [];
    this.#told.set(node, told);
    this.follow(node);
    presence.subscribe(({ topic, user, type, data, ...event }) => {
      const seenMs = "lastSeenAt" in event ? event.lastSeenAt : undefined;
      if (topic === ROOM) told.push({ user, type, data, seenMs });
    });
  }

  /** Lets a node follow the room. */
  follow(node: ServiceNode): Following {
    const following = node.server.presence.follow(ROOM);
    this.#followings.get(node)?.[Symbol.dispose]();
    this.#followings.set(node, following);
    return following;
  }

  /** The nodes without a session, also within the grace. */
  get free(): ServiceNode[] {
    const tabs = this.all.flatMap((one) => one.tabs);
    const graceMs = this.audit.nowMs - GRACE_MS - ROUND_MS;
    return this.service.nodes.filter((node) =>
      tabs.every((tab) => tab.node !== node) && (this.#leftMs.get(node) ?? 0) < graceMs
    );
  }

  /** Ends the following of a node. */
  unfollow(node: ServiceNode): void {
    this.#followings.get(node)?.[Symbol.dispose]();
  }

  /** Connects a session of a user, with data or without. */
  async enter(
    visitor: Visitor,
    node: ServiceNode,
    hasData: boolean,
    options: ConnectOptions = {},
  ): Promise<void> {
    const { user, tabs } = visitor;
    const fromMs = this.#earliest();
    const client = this.service.enter(user, node, options);
    await this.audit.until(() => client.isConnected);
    const data = hasData ? this.newData() : undefined;
    if (data !== undefined) await client.presence(ROOM, data);
    await client.subscribe(ROOM).ready;
    tabs.push({ client, node, data });
    visitor.joined ??= { fromMs, toMs: this.#latest() };
  }

  /** Closes a session. */
  async leave(visitor: Visitor, tab: Tab): Promise<void> {
    const { tabs } = visitor;
    tabs.splice(tabs.indexOf(tab), 1);
    const fromMs = this.#earliest();
    await tab.client.close();
    this.#leftMs.set(tab.node, this.audit.nowMs);
    visitor.seen = { fromMs, toMs: this.#latest() + ROUND_MS };
  }

  /** Notes that a node goes silent: the other nodes heard the last sign of life a heartbeat ago. */
  silence(visitor: Visitor): void {
    visitor.seen = {
      fromMs: this.#earliest() - BEAT_MS - ROUND_MS,
      toMs: this.#latest() + ROUND_MS,
    };
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

  /** Examines the changes since the last look, and the members; one node may tell other changes. */
  look(what: string, of: Visitor, changes: Changes, unlike?: OtherChanges): void {
    for (const node of this.service.nodes) {
      const { host, server } = node;
      const told = this.#told.get(node)!.splice(0);
      if (host.isFrozen) continue;
      const own = node === unlike?.node ? unlike.changes : changes;
      this.examine(
        `${what}, told by ${host.name}`,
        own.map((type) => `${of.user} ${type}`),
        told.map((one) => `${one.user} ${one.type}`),
      );
      const there = this.members;
      this.lookAtMembers(`behind ${what}`, node);
      const { presence } = server;
      const users = there.map(([user]) => user);
      const online = USERS.filter((user) => presence.isOnline(user));
      this.examine(
        `users online behind ${what} at ${host.name}`,
        [users, users.toSorted()],
        [online, presence.online().toSorted()],
      );
      this.examine(
        `connections and topics of users behind ${what} at ${host.name}`,
        there.map(([, connections]) => [connections, [ROOM]]),
        users.map((user) => [presence.connections(user, ROOM), presence.topicsOf(user)]),
      );
      this.#lookClosely(`behind ${what} at ${host.name}`, of, { told, server });
    }
  }

  /** The users in the room, with the number of sessions and the data of each. */
  get members(): readonly (readonly [user: string, connections: number, data?: number])[] {
    return this.all.flatMap((one) => {
      const data = this.dataOf(one);
      const { user, tabs: { length } } = one;
      return length === 0 ? [] : [data === undefined ? [user, length] : [user, length, data]];
    });
  }

  /** Examines the members that a node knows. */
  lookAtMembers(what: string, { server, host }: ServiceNode, expected = this.members): void {
    const found = server.rooms.members(ROOM).map(({ user, connections, data }) =>
      data === undefined ? [user, connections] : [user, connections, data]
    );
    this.examine(`members ${what} at ${host.name}`, expected, found.toSorted());
  }

  /** Examines the members that a node has not heard of, and those once the others have answered. */
  async lookAtFollowing(what: string, node: ServiceNode): Promise<void> {
    const { server: { presence }, host } = node;
    const { ready } = this.follow(node);
    this.examine(
      `complete members at once ${what} at ${host.name}`,
      false,
      presence.isSettled(ROOM),
    );
    const answer = await this.audit.inTime(ready.then(() => "ready"), SETTLED_MS, "late");
    this.examine(`members ${what} at ${host.name}`, "ready", answer);
    this.examine(`complete members ${what} at ${host.name}`, true, presence.isSettled(ROOM));
    this.lookAtMembers(what, node);
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

  /** Forgets the changes since the last look. */
  forget(): void {
    for (const told of this.#told.values()) told.length = 0;
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
      this.examine(`data of the last change ${where}`, data, told.at(-1)!.data);
    }
    if (isGone) this.#examineTime(`absence ${where}`, of.seen, presence.lastSeenAt(of.user));
    for (const { user, joinedAt } of server.rooms.members(ROOM)) {
      const { joined } = this.all.find((one) => one.user === user)!;
      this.#examineTime(`join of ${user} ${where}`, joined, joinedAt);
      this.examine(`absence of ${user} ${where}`, undefined, presence.lastSeenAt(user));
    }
  }

  /** Time at the node whose clock is behind those of the others, in milliseconds since the Unix epoch. */
  #earliest(): number {
    return Math.min(...this.service.nodes.map(({ host }) => host.runtime.now()));
  }

  /** Time at the node whose clock is before those of the others, in milliseconds since the Unix epoch. */
  #latest(): number {
    return Math.max(...this.service.nodes.map(({ host }) => host.runtime.now()));
  }

  #examineTime(what: string, span: Span | undefined, atMs: number | undefined): void {
    const { fromMs = Infinity, toMs = -Infinity } = span ?? {};
    const isWithin = atMs !== undefined && fromMs <= atMs && atMs <= toMs;
    const received = isWithin ? "in time" : `${atMs}, not ${fromMs} to ${toMs}`;
    this.examine(`time of the ${what}`, "in time", received);
  }

  /** Tells what came out. */
  examine(what: string, expected: unknown, received: unknown): void {
    this.audit.examine("presence", what, expected, received);
  }
}

/** A step of a user or of a node, with an examination. */
type Step = (visitors: Visitors, one: Visitor) => Promise<void>;

/** Another session of a user. */
const enter: Step = (visitors, one) =>
  enterAt(visitors, one, oneOf(visitors.random, visitors.service.nodes)!);

/** Another session of a user at a node. */
async function enterAt(visitors: Visitors, one: Visitor, node: ServiceNode): Promise<void> {
  const { random } = visitors;
  if (one.tabs.length === MAX_TABS) return;
  const [wasThere, before] = [one.tabs.length > 0, visitors.dataOf(one)];
  await visitors.enter(one, node, random() < 0.5);
  await visitors.pause(ROUND_MS);
  const isNew = visitors.dataOf(one) !== before;
  visitors.look("a session that enters", one, wasThere ? isNew ? ["update"] : [] : ["join"]);
}

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

/**
 * Data of all sessions of a user, which is set, and then removed in any order: that of a session that is
 * left stands, and in the end none.
 */
const withdraw: Step = async (visitors, one) => {
  const { random, service } = visitors;
  if (one.tabs.length === 0) await enter(visitors, one);
  const [first] = one.tabs;
  const others = service.nodes.filter((node) => node !== first?.node);
  if (one.tabs.length === 1) await enterAt(visitors, one, oneOf(random, others)!);
  const set = async (tab: Tab, data: number | undefined, what: string) => {
    const before = visitors.dataOf(one);
    tab.data = data;
    await tab.client.presence(ROOM, data);
    await visitors.pause(ROUND_MS);
    visitors.look(what, one, visitors.dataOf(one) === before ? [] : ["update"]);
  };
  for (const tab of one.tabs) await set(tab, visitors.newData(), "data that is set");
  for (const left = [...one.tabs]; left.length > 0;) {
    const [tab] = left.splice(Math.floor(left.length * random()), 1);
    await set(tab!, undefined, "data that is removed");
  }
};

/** Settings of data by sessions of one node, in one turn: the last one stands. */
const settle: Step = async (visitors, one) => {
  const { random } = visitors;
  const { tabs, user } = one;
  const node = oneOf(random, tabs)?.node;
  if (node === undefined) return;
  await enterAt(visitors, one, node);
  const own = tabs.filter((tab) => tab.node === node);
  // The sessions are in the order of the tabs.
  const sessions = node.server.manager.sessionsOf(user);
  visitors.examine(`sessions of ${user}`, own.length, sessions.length);
  const before = visitors.dataOf(one);
  const changes: Changes = [];
  for (let left = 1 + Math.floor(MOST_SETTINGS * random()); left > 0; left--) {
    const i = Math.floor(own.length * random());
    const stood = visitors.dataOf(one);
    own[i]!.data = random() < 0.8 ? visitors.newData() : undefined;
    node.server.rooms.update(sessions[i]!, ROOM, { data: own[i]!.data });
    if (visitors.dataOf(one) !== stood) changes.push("update");
  }
  await visitors.pause(ROUND_MS);
  const others: Changes = visitors.dataOf(one) === before ? [] : ["update"];
  visitors.look("data in one turn", one, others, { node, changes });
};

/** Settings by sessions of two nodes at once: all nodes agree, and later data is newer in any case. */
const race: Step = async (visitors, one) => {
  const { random, service } = visitors;
  const { tabs, user } = one;
  const [first] = tabs;
  if (first === undefined) return;
  await enterAt(visitors, one, oneOf(random, service.nodes.filter((node) => node !== first.node))!);
  if (tabs.every(({ node }) => node === first.node)) return settle(visitors, one);
  for (const tab of tabs) setByNode(tab);
  await visitors.pause(ROUND_MS);
  const known = service.nodes.map(({ server }) =>
    server.rooms.members(ROOM).find((member) => member.user === user)?.data
  );
  const [winner] = known;
  visitors.examine("data of two nodes at once", known.map(() => winner), known);
  const isOne = tabs.some(({ data }) => data === winner);
  visitors.examine("data of one of two nodes at once", true, isOne);
  visitors.forget();
  setByNode(oneOf(random, tabs)!);
  await visitors.pause(ROUND_MS);
  visitors.look("data behind those of two nodes at once", one, ["update"]);

  /** Sets new data of the only session on a node. */
  function setByNode(tab: Tab): void {
    const { server } = tab.node;
    tab.data = visitors.newData();
    server.rooms.update(server.manager.sessionsOf(user)[0]!, ROOM, { data: tab.data });
  }
};

/** A node that knows nothing of the room, and hears of all members before a list is complete. */
const open: Step = async (visitors, one) => {
  const { random, service } = visitors;
  const node = oneOf(random, visitors.free);
  if (node === undefined) return;
  visitors.unfollow(node);
  await visitors.pause(between(random, 0, ROUND_MS));
  const { server: { presence }, host } = node;
  visitors.lookAtMembers("of a room without a follower", node, []);
  const isComplete = presence.isSettled(ROOM);
  visitors.examine(`complete members without a follower at ${host.name}`, false, isComplete);
  const late = oneOf(random, service.nodes.filter((other) => other !== node))!;
  const lateMs = random() < 0.5 ? between(random, 0, LATE_MS) : 0;
  const thawed = lateMs > 0 ? visitors.service.freeze(late, lateMs) : undefined;
  // By clocks that differ, a user may have come to the node before the others.
  const isFirst = !visitors.areWrong || one.tabs.length === 0;
  if (random() < 0.5 || one.tabs.length === MAX_TABS || !isFirst) {
    await visitors.lookAtFollowing("of a room with a new follower", node);
    await thawed;
    await visitors.pause(ROUND_MS);
    return visitors.look("a new follower", one, []);
  }
  const notices: PresenceNotice[] = [];
  const [wasThere, before] = [one.tabs.length > 0, visitors.dataOf(one)];
  // Data of a node counts as newer than data that the node knows, and the clock may be slow.
  const hasData = !wasThere && random() < 0.5;
  await visitors.enter(one, node, hasData, {
    onMessage: ({ topic, data }) => {
      if (topic === PRESENCE_PREFIX + ROOM) notices.push(data as PresenceNotice);
    },
  });
  visitors.follow(node);
  await thawed;
  await visitors.pause(LATE_MS + ROUND_MS);
  const told = notices.map(({ type }) => type);
  visitors.examine("notices for the first member of a node", ["members"], told);
  const [first] = notices;
  const list = first?.type === "members" ? first.members : [];
  const found = list.map(({ user, connections, data }) =>
    data === undefined ? [user, connections] : [user, connections, data]
  );
  visitors.examine("list for the first member of a node", visitors.members, found.toSorted());
  const isNew = visitors.dataOf(one) !== before;
  const changes: Changes = wasThere ? isNew ? ["update"] : [] : ["join"];
  visitors.look("the first member of a node", one, changes);
};

/** A node that is frozen for a moment, until the node is gone but the users are not, or for longer. */
const freeze: Step = async (visitors, one) => {
  const { random } = visitors;
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
  await visitors.service.freeze(node, forMs);
  // Beyond the grace of the users of a node that is gone.
  await visitors.pause(KNOWN_MS + GRACE_MS + ROUND_MS - Math.min(forMs, KNOWN_MS + GRACE_MS));
  const isNew = visitors.dataOf(one) !== visitors.dataOf(one, node);
  const changes: Changes = isGone && hasOther && isNew
    ? ["update", "update"]
    : isOver && !hasOther
    ? ["leave", "join"]
    : [];
  visitors.look(`a node that is frozen for ${Math.round(forMs)} ms`, one, changes, {
    node,
    changes: [],
  });
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
  ...[settle, settle, race, race, open, open, open],
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
  await withdraw(visitors, oneOf(random, visitors.all)!);
  for (const { tabs } of visitors.all) await Promise.all(tabs.map(({ client }) => client.close()));
  await service.close();
}
