/**
 * Presence on several nodes. Each node reports the users of a room as they join, move and leave.
 */
import { assert, assertEquals } from "@std/assert";
import fc from "fast-check";
import type { Client } from "../../client/client.ts";
import type { ConnectOptions } from "../../client/connect.ts";
import { PRESENCE_PREFIX, type PresenceNotice } from "../../session/wire/presence_notice.ts";
import type { SimulatedServer } from "../simulator/mod.ts";
import { type Drawn, keyOf, stepOf } from "./draw.ts";
import { BEAT_MS, GONE_MS, KNOWN_MS } from "./nodes.ts";
import { FailingStore, serveRooms } from "./failing_store.ts";
import { property } from "./property.ts";
import type { World } from "./world.ts";

/** Grace period of a user without sessions, and time for messages in flight, in milliseconds. */
const [GRACE_MS, ROUND_MS] = [1_500, 300] as const;

/** Silence of a node that the other nodes certainly tolerate, in milliseconds. */
const QUIET_MS = GONE_MS - BEAT_MS - BEAT_MS / 2 - 50;

/** Maximum time that a node waits for the users of the other nodes, in milliseconds. */
const SETTLED_MS = 1_000;

const ROOM = "room:a";

const USERS = ["ada", "bob"] as const;

/** Number of nodes, and maximum number of sessions per user. */
const [NODES, MAX_TABS] = [3, 2] as const;

/**
 * Times for which a node is frozen. The other nodes tolerate this, consider the node gone, or
 * consider its users gone too.
 */
const FROZEN_MS = {
  "for a moment": QUIET_MS - 100,
  "until it is gone": QUIET_MS + GRACE_MS - ROUND_MS - 50,
  "until its users are gone": KNOWN_MS + GRACE_MS + ROUND_MS,
} as const;

const user = fc.nat(USERS.length - 1);
const node = fc.nat(NODES - 1);
const tab = fc.nat(MAX_TABS - 1);
const hasData = fc.boolean();
/** Time for which a user is away. It is well within the grace period. */
const awayMs = fc.constantFrom(0, 300, GRACE_MS - 3 * ROUND_MS);
const isBack = fc.constantFrom(true, true, false);

const step = fc.oneof(
  stepOf("enter", { user, node, hasData }, 3),
  stepOf("leave", { user, tab }),
  stepOf("come back", { user, node, hasData, awayMs }),
  stepOf("set data", { user, tab, hasData }),
  stepOf("set data in one turn", {
    user,
    settings: fc.array(fc.record({ tab, hasData }), { minLength: 1, maxLength: 4 }),
  }),
  stepOf("set data on two nodes", { user, last: tab }),
  stepOf("follow", { node, lateMs: fc.constantFrom(0, 300, 600) }),
  stepOf("first member", { user, node, hasData }),
  stepOf("freeze", { user, how: keyOf(FROZEN_MS) }),
  stepOf("kill", { user, node, isBack, hasData, awayMs }),
  stepOf("deploy", { user, node, isBack, hasData, leftMs: awayMs }),
);

type Step = Drawn<typeof step>;
type StepOf<K extends Step["kind"]> = Extract<Step, { readonly kind: K }>;
type Node = SimulatedServer<string>;
type Change = "join" | "leave" | "update";

/**
 * A user's session in the room and its data. The newest data of all sessions is the user's data.
 */
interface Tab {
  /** Name of the client's machine. */
  readonly name: string;
  readonly client: Client;
  readonly node: Node;
  data: number | undefined;
}

/** Time range according to the clocks of all nodes, in milliseconds since the Unix epoch. */
interface Span {
  readonly fromMs: number;
  readonly toMs: number;
}

/** A user in the model. */
interface Visitor {
  readonly user: string;
  readonly tabs: Tab[];
  joined: Span | undefined;
  seen: Span | undefined;
  /** Data of the last session, once no session is left. */
  lastData: number | undefined;
}

/** A change that a node reported. */
interface Told {
  readonly user: string;
  readonly type: Change;
  readonly data?: unknown;
  readonly lastSeenAt?: number;
}

/** The nodes, their users, and the model. */
class Rooms {
  readonly nodes: readonly Node[];
  readonly visitors: readonly Visitor[] = USERS.map((user) => ({
    user,
    tabs: [],
    joined: undefined,
    seen: undefined,
    lastData: undefined,
  }));
  readonly #told = new Map<Node, Told[]>();
  readonly #followings = new Map<Node, Disposable>();
  /** Time at which a session last ended on each node. */
  readonly #leftMs = new Map<Node, number>();
  readonly #areClocksEqual: boolean;
  #newest = 0;
  #clients = 0;

  constructor(readonly world: World, clocksMs: readonly number[]) {
    this.#areClocksEqual = clocksMs.every((ms) => ms === clocksMs[0]);
    const store = new FailingStore(world);
    this.nodes = clocksMs.map((ms, i) => {
      world.host(`node-${i}`).jumpClock(ms);
      return serveRooms(world, `node-${i}`, store, GRACE_MS);
    });
    for (const node of this.nodes) this.#watch(node);
  }

  /** Plays a step, if the session or node that it needs exists. */
  async play(step: Step): Promise<void> {
    if (step.kind === "follow") return await this.#followAnew(step);
    const one = this.visitors[step.user]!;
    const before = dataOf(one);
    switch (step.kind) {
      case "enter":
        return await this.#enterAndLook(one, this.nodes[step.node]!, step.hasData);
      case "leave":
        return await this.#leave(one, one.tabs[step.tab]);
      case "come back":
        if (one.tabs.length !== 1) return;
        await this.#close(one, one.tabs[0]!);
        await this.pause(step.awayMs);
        await this.#enter(one, this.nodes[step.node]!, step.hasData);
        await this.pause(GRACE_MS + ROUND_MS);
        return this.look(one, updates(one, before));
      case "set data":
        return await this.#set(one, one.tabs[step.tab], step.hasData);
      case "set data in one turn":
        return await this.#setInOneTurn(one, step);
      case "set data on two nodes":
        return await this.#race(one, step);
      case "first member":
        return await this.#enterFirst(one, step);
      case "freeze":
        return await this.#freeze(one, step);
      case "kill":
      case "deploy":
        return await this.#end(one, step);
    }
  }

  /**
   * Compares the nodes' state, and the changes that they have reported since the last comparison,
   * with the model.
   */
  look(
    one: Visitor,
    changes: readonly Change[],
    unlike?: readonly [Node, readonly Change[]],
  ): void {
    const members = this.#members;
    for (const node of this.nodes.filter(({ host }) => host.isAlive)) {
      const told = this.#told.get(node)!.splice(0);
      const own = node === unlike?.[0] ? unlike[1] : changes;
      const what = `${node.host.name}, ${one.user}`;
      assertEquals(
        told.map(({ user, type }) => `${user} ${type}`),
        own.map((type) => `${one.user} ${type}`),
        what,
      );
      const { presence, rooms } = node.server;
      assertEquals<unknown>(membersOf(node), members, what);
      const users = members.map(([user]) => user);
      assertEquals(presence.online().toSorted(), users);
      for (const [user, connections] of members) {
        assertEquals([presence.connections(user, ROOM), presence.topicsOf(user)], [connections, [
          ROOM,
        ]]);
        assertEquals(presence.lastSeenAt(user), undefined);
      }
      for (const { user, joinedAt } of rooms.members(ROOM)) {
        assertWithin(joinedAt, this.visitors.find((other) => other.user === user)!.joined);
      }
      const isGone = one.tabs.length === 0;
      if (told.length > 0) assertEquals(told.at(-1)!.data, isGone ? one.lastData : dataOf(one));
      for (const { lastSeenAt } of told) {
        if (lastSeenAt !== undefined) assertWithin(lastSeenAt, one.seen);
      }
      if (isGone && told.length > 0) assertWithin(presence.lastSeenAt(one.user), one.seen);
    }
    if (one.tabs.length === 0) one.joined = undefined;
    else one.lastData = dataOf(one);
  }

  pause(ms: number): Promise<void> {
    return this.world.pause(ms);
  }

  /** Returns the users in the room, with their number of sessions and their data. */
  get #members():
    & readonly (readonly unknown[])[]
    & readonly (readonly [string, number, ...unknown[]])[] {
    return this.visitors.flatMap((one) =>
      one.tabs.length === 0 ? [] : [[one.user, one.tabs.length, dataOf(one)]]
    );
  }

  /** Records the changes that a node reports until it restarts. */
  #watch(node: Node): void {
    const told: Told[] = [];
    this.#told.set(node, told);
    this.#follow(node);
    node.server.presence.subscribe(({ topic, ...event }) => {
      if (topic === ROOM) told.push(event);
    });
  }

  #follow(node: Node) {
    const following = node.server.presence.follow(ROOM);
    this.#followings.get(node)?.[Symbol.dispose]();
    this.#followings.set(node, following);
    return following;
  }

  async #enter(
    one: Visitor,
    node: Node,
    hasData: boolean,
    options: ConnectOptions = {},
  ): Promise<void> {
    const fromMs = this.#earliest;
    const name = `page-${this.#clients++}`;
    const client = this.world.connect(name, node.host, {
      token: () => one.user,
      onMessage() {},
      ...options,
    });
    await this.world.until("a session", () => client.isConnected);
    const data = hasData ? ++this.#newest : undefined;
    if (data !== undefined) await client.presence(ROOM, data);
    await client.subscribe(ROOM).ready;
    one.tabs.push({ name, client, node, data });
    one.joined ??= { fromMs, toMs: this.#latest };
  }

  async #enterAndLook(one: Visitor, node: Node, hasData: boolean): Promise<void> {
    if (one.tabs.length === MAX_TABS) return;
    const [wasThere, before] = [one.tabs.length > 0, dataOf(one)];
    await this.#enter(one, node, hasData);
    await this.pause(ROUND_MS);
    this.look(one, wasThere ? updates(one, before) : ["join"]);
  }

  /** Closes a session without comparing. */
  async #close(one: Visitor, tab: Tab): Promise<void> {
    one.tabs.splice(one.tabs.indexOf(tab), 1);
    const fromMs = this.#earliest;
    await tab.client.close();
    this.#leftMs.set(tab.node, this.world.nowMs);
    one.seen = { fromMs, toMs: this.#latest + ROUND_MS };
  }

  /** Ends a session. If it is the user's last session, the user leaves after the grace period. */
  async #leave(one: Visitor, tab: Tab | undefined): Promise<void> {
    if (tab === undefined) return;
    const before = dataOf(one);
    await this.#close(one, tab);
    const isGone = one.tabs.length === 0;
    await this.pause(isGone ? GRACE_MS + ROUND_MS : ROUND_MS);
    this.look(one, isGone ? ["leave"] : updates(one, before));
  }

  async #set(one: Visitor, tab: Tab | undefined, hasData: boolean): Promise<void> {
    if (tab === undefined) return;
    const before = dataOf(one);
    tab.data = hasData ? ++this.#newest : undefined;
    await tab.client.presence(ROOM, tab.data);
    await this.pause(ROUND_MS);
    this.look(one, updates(one, before));
  }

  /**
   * Makes the sessions on one node set data at the same time. That node reports each change, and
   * the other nodes report the last change.
   */
  async #setInOneTurn(one: Visitor, { settings }: StepOf<"set data in one turn">): Promise<void> {
    const node = one.tabs[0]?.node;
    if (node === undefined) return;
    const own = one.tabs.filter((tab) => tab.node === node);
    const sessions = node.server.manager.sessionsOf(one.user);
    const before = dataOf(one);
    const changes: Change[] = [];
    for (const { tab, hasData } of settings) {
      const i = tab % own.length;
      const stood = dataOf(one);
      own[i]!.data = hasData ? ++this.#newest : undefined;
      node.server.rooms.update(sessions[i]!, ROOM, { data: own[i]!.data });
      changes.push(...updates(one, stood));
    }
    await this.pause(ROUND_MS);
    this.look(one, updates(one, before), [node, changes]);
  }

  /**
   * Makes sessions on two nodes set data at the same time. All nodes must agree, and later data
   * always wins.
   */
  async #race(one: Visitor, { last }: StepOf<"set data on two nodes">): Promise<void> {
    const { tabs, user } = one;
    if (tabs.length < 2 || tabs[0]!.node === tabs[1]!.node) return;
    const set = (tab: Tab) => {
      const { manager, rooms } = tab.node.server;
      tab.data = ++this.#newest;
      rooms.update(manager.sessionsOf(user)[0]!, ROOM, { data: tab.data });
    };
    for (const tab of tabs) set(tab);
    await this.pause(ROUND_MS);
    const known = this.nodes.map(({ server }) =>
      server.rooms.members(ROOM).find((member) => member.user === user)?.data
    );
    assert(tabs.some(({ data }) => data === known[0]), "data of no session");
    assertEquals(known, known.map(() => known[0]));
    for (const told of this.#told.values()) told.length = 0;
    set(tabs[last]!);
    await this.pause(ROUND_MS);
    this.look(one, ["update"]);
  }

  /**
   * Returns true for a node that has no sessions of its own now and had none during the last grace
   * period.
   */
  #isFree(node: Node): boolean {
    const leftMs = this.#leftMs.get(node) ?? -Infinity;
    return this.visitors.every(({ tabs }) => tabs.every((tab) => tab.node !== node)) &&
      leftMs < this.world.nowMs - GRACE_MS - ROUND_MS;
  }

  /**
   * Makes a node stop following the room, after which it knows nothing. Once it follows the room
   * again, it must know all members.
   */
  async #followAnew({ node: number, lateMs }: StepOf<"follow">): Promise<void> {
    const node = this.nodes[number]!;
    if (!this.#isFree(node)) return;
    const { presence } = node.server;
    this.#followings.get(node)![Symbol.dispose]();
    await this.pause(ROUND_MS);
    assertEquals([membersOf(node), presence.isComplete(ROOM)], [[], false]);
    const late = this.nodes[(number + 1) % NODES]!;
    if (lateMs > 0) late.host.freeze();
    this.world.simulation.after(lateMs, () => late.host.thaw());
    const { ready } = this.#follow(node);
    assertEquals(presence.isComplete(ROOM), false);
    await this.world.inTime("the users of the other nodes", ready, SETTLED_MS);
    assertEquals<unknown>([membersOf(node), presence.isComplete(ROOM)], [this.#members, true]);
    await this.pause(lateMs + ROUND_MS);
    this.look(this.visitors[0]!, []);
  }

  /** Checks that the first member on a node receives one list with all members. */
  async #enterFirst(one: Visitor, step: StepOf<"first member">): Promise<void> {
    const node = this.nodes[step.node]!;
    // If the clocks differ, the user may seem to join this node before the others.
    if (!this.#isFree(node) || one.tabs.length === MAX_TABS) return;
    if (!this.#areClocksEqual && one.tabs.length > 0) return;
    const [wasThere, before] = [one.tabs.length > 0, dataOf(one)];
    this.#followings.get(node)![Symbol.dispose]();
    await this.pause(ROUND_MS);
    const notices: PresenceNotice[] = [];
    // Data that a node sets is newer than all data that it knows, but this node knows no data.
    await this.#enter(one, node, step.hasData && !wasThere, {
      onMessage: ({ topic, data }) => {
        if (topic === PRESENCE_PREFIX + ROOM) notices.push(data as PresenceNotice);
      },
    });
    this.#follow(node);
    await this.pause(SETTLED_MS);
    const [first, ...more] = notices;
    assertEquals([first?.type, more], ["members", []]);
    const list = first?.type === "members" ? first.members : [];
    const found = list.map(({ user, connections, data }) => [user, connections, data]);
    assertEquals<unknown>(found.toSorted(), this.#members);
    this.look(one, wasThere ? updates(one, before) : ["join"]);
  }

  async #freeze(one: Visitor, { how }: StepOf<"freeze">): Promise<void> {
    const node = one.tabs[0]?.node;
    if (node === undefined || this.#hasOthers(node, one)) return;
    const forMs = FROZEN_MS[how];
    const hasOther = one.tabs.some((tab) => tab.node !== node);
    this.#silence(one);
    node.host.freeze();
    await this.pause(forMs);
    node.host.thaw();
    // After the grace period of a lost node's users.
    await this.pause(KNOWN_MS + GRACE_MS + ROUND_MS - Math.min(forMs, KNOWN_MS + GRACE_MS));
    const without = Math.max(
      0,
      ...one.tabs.flatMap((tab) => tab.node === node ? [] : tab.data ?? []),
    );
    const isNew = (dataOf(one) ?? 0) !== without;
    const changes: Change[] = how !== "for a moment" && hasOther && isNew
      ? ["update", "update"]
      : how === "until its users are gone" && !hasOther
      ? ["leave", "join"]
      : [];
    this.look(one, changes, [node, []]);
  }

  /** Stops or kills a node. The user returns on another node or leaves. */
  async #end(one: Visitor, step: StepOf<"kill" | "deploy">): Promise<void> {
    const [tab] = one.tabs;
    if (tab === undefined || one.tabs.length !== 1 || this.#hasOthers(tab.node, one)) return;
    const { node } = tab;
    const before = dataOf(one);
    if (step.kind === "kill") {
      one.tabs.length = 0;
      this.#silence(one);
      node.host.kill({ power: true });
      this.world.host(tab.name).kill();
      await this.pause(step.awayMs);
    } else {
      await this.#close(one, tab);
      await this.pause(step.leftMs);
      await node.server.close();
      await node.server.topics.broker.close();
      node.host.kill();
    }
    const others = this.nodes.filter((other) => other !== node);
    const goal = others[step.node % others.length]!;
    if (step.isBack) await this.#enter(one, goal, step.hasData);
    await this.pause(KNOWN_MS + GRACE_MS + ROUND_MS);
    this.look(one, step.isBack ? updates(one, before) : ["leave"]);
    node.restart();
    this.#watch(node);
    await this.pause(4 * ROUND_MS);
    // The node reports the users who were already there.
    this.#told.get(node)!.length = 0;
  }

  /** Records that a node goes silent. The other nodes received its last heartbeat some time ago. */
  #silence(one: Visitor): void {
    one.seen = { fromMs: this.#earliest - BEAT_MS - ROUND_MS, toMs: this.#latest + ROUND_MS };
  }

  #hasOthers(node: Node, one: Visitor): boolean {
    return this.visitors.some((other) =>
      other !== one && other.tabs.some((tab) => tab.node === node)
    );
  }

  get #earliest(): number {
    return Math.min(...this.#clocks);
  }

  get #latest(): number {
    return Math.max(...this.#clocks);
  }

  get #clocks(): number[] {
    return this.nodes.filter(({ host }) => host.isAlive).map(({ host }) => host.runtime.now());
  }
}

property("all nodes report the same changes of a room, and agree on its users", {
  cases: fc.record({
    clocksMs: fc.array(fc.constantFrom(0, 700, 20_000), { minLength: NODES, maxLength: NODES }),
    steps: fc.array(step, { maxLength: 14, size: "max" }),
  }),
  regressions: {
    "a user without sessions keeps the last session's data, not newer data of an earlier one": {
      clocksMs: [0, 0, 0],
      steps: [
        { kind: "enter", user: 0, node: 0, hasData: true },
        { kind: "enter", user: 0, node: 1, hasData: true },
        { kind: "leave", user: 0, tab: 1 },
        { kind: "leave", user: 0, tab: 0 },
      ],
    },
    "a leave of a user who comes back on another node, also as the first one restarts or crashes": {
      clocksMs: [0, 0, 0],
      steps: [
        { kind: "enter", user: 0, node: 0, hasData: false },
        { kind: "come back", user: 0, node: 1, hasData: false, awayMs: 300 },
        { kind: "deploy", user: 0, node: 0, isBack: true, hasData: false, leftMs: 300 },
        { kind: "kill", user: 0, node: 1, isBack: true, hasData: false, awayMs: 300 },
        { kind: "kill", user: 0, node: 0, isBack: false, hasData: false, awayMs: 0 },
      ],
    },
    "the time of the first join lost with the session that joined first": {
      clocksMs: [0, 0, 0],
      steps: [
        { kind: "enter", user: 0, node: 0, hasData: false },
        { kind: "enter", user: 0, node: 1, hasData: false },
        { kind: "leave", user: 0, tab: 0 },
        { kind: "follow", node: 2, lateMs: 0 },
      ],
    },
  },
  async check(world, { clocksMs, steps }) {
    const rooms = new Rooms(world, clocksMs);
    await rooms.pause(4 * ROUND_MS);
    for (const step of steps) await rooms.play(step);
  },
});

/** Returns the newest data of a user's sessions. */
function dataOf({ tabs }: Visitor): number | undefined {
  const all = tabs.flatMap(({ data }) => data ?? []);
  return all.length === 0 ? undefined : Math.max(...all);
}

/** Returns the change of a user whose data was different before. */
function updates(one: Visitor, before: number | undefined): Change[] {
  return dataOf(one) === before ? [] : ["update"];
}

/** Returns the members of the room that a node knows, by name. */
function membersOf({ server }: Node): unknown[][] {
  return server.rooms.members(ROOM)
    .map(({ user, connections, data }) => [user, connections, data]).toSorted();
}

function assertWithin(atMs: number | undefined, span: Span | undefined): void {
  const { fromMs = Infinity, toMs = -Infinity } = span ?? {};
  assert(atMs !== undefined && fromMs <= atMs && atMs <= toMs, `${atMs}, not ${fromMs} to ${toMs}`);
}
