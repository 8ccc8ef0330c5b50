/** Nodes that begin and end to follow rooms while other nodes die: each hears of the rooms it follows. */
import type { PresenceEvent } from "../../../../../pubsub/presence/types.ts";
import { between, oneOf } from "../../chance.ts";
import type { Audit } from "../audit.ts";
import { BEAT_MS, GONE_MS, KNOWN_MS } from "../places/service.ts";
import { Page } from "./page.ts";
import { type UserNode, UserNodes } from "./user_nodes.ts";

/** Nodes, users and rooms. */
const [NODES, USERS, ROOMS] = [3, ["eve", "flo", "gus"], ["room:near", "room:far"]] as const;

/** Graces of which one is drawn, in milliseconds. */
const GRACES_MS = [300, 900, 900] as const;

/** Rounds, the steps of each, and the longest pause between two, in milliseconds. */
const [ROUNDS, STEPS, GAP_MS] = [3, 12, 300] as const;

/** Share of rounds in which a node dies, and of those in which a node is frozen. */
const [DIES, FREEZES] = [0.6, 0.3] as const;

/** Share of these rounds in which the steps behind the trouble are about at the time of the grace. */
const AT_GRACE = 0.7;

/** Time for messages under way, in milliseconds. */
const ROUND_MS = 700;

/** Time within which the last round begins, in milliseconds. */
const LAST_MS = 12_000;

/** The only session of a user. */
interface Visitor {
  readonly user: string;
  readonly node: UserNode;
  readonly page: Page;
  /** Rooms, with the data in each. */
  readonly rooms: Map<string, number | undefined>;
}

/** The following of a room, with the members as of the first list and of the changes since. */
interface Following {
  readonly end: Disposable;
  members: Map<string, unknown> | undefined;
}

/** A node in its present life. */
class Follower {
  readonly node: UserNode;
  readonly followings = new Map<string, Following>();
  /** Time until which own sessions may keep a room, by room. */
  readonly ownUntilMs = new Map<string, number>();
  /** Changes that do not fit the ones before, and those of rooms that the node does not know. */
  readonly faults: string[] = [];
  readonly #audit: Audit;

  constructor(audit: Audit, node: UserNode) {
    this.#audit = audit;
    this.node = node;
    node.server.presence.subscribe((event) => this.#hear(event));
  }

  /** Begins to follow a room, or ends that. */
  toggle(room: string): void {
    const following = this.followings.get(room);
    if (following !== undefined) {
      this.followings.delete(room);
      return following.end[Symbol.dispose]();
    }
    const { presence } = this.node.server;
    const end = presence.follow(room);
    const begun: Following = { end, members: undefined };
    this.followings.set(room, begun);
    void end.ready.then(() => {
      begun.members = new Map(presence.members(room).map(({ user, data }) => [user, data]));
    });
  }

  #hear({ type, topic, user, ...event }: PresenceEvent): void {
    if (topic === undefined) return;
    const following = this.followings.get(topic);
    const isOwn = this.#audit.nowMs <= (this.ownUntilMs.get(topic) ?? 0);
    if (following === undefined && !isOwn) this.faults.push(`${type} of ${user} in ${topic}`);
    const members = following?.members;
    if (members === undefined) return;
    if (members.has(user) === (type === "join")) this.faults.push(`${type} of ${user} once more`);
    if (type === "leave") members.delete(user);
    else members.set(user, "data" in event ? event.data : undefined);
  }
}

/** The nodes and the users. */
class Followings {
  readonly #audit: Audit;
  readonly #random: () => number;
  readonly #nodes: UserNodes;
  readonly #graceMs: number;
  readonly #followers: Follower[];
  #visitors: Visitor[] = [];
  #pages = 0;
  #data = 0;

  constructor(audit: Audit) {
    this.#audit = audit;
    const random = this.#random = audit.chanceOf("followings");
    this.#graceMs = oneOf(random, GRACES_MS);
    this.#nodes = new UserNodes(audit, "followings", {
      node: { heartbeatMs: BEAT_MS, goneAfterMs: GONE_MS },
      presenceGraceMs: this.#graceMs,
      rooms: ["room:{name}"],
    }, { count: NODES });
    this.#followers = this.#nodes.all.map((node) => new Follower(audit, node));
  }

  async run(): Promise<void> {
    const audit = this.#audit;
    await this.#nodes.ready();
    const endMs = audit.nowMs + LAST_MS;
    for (let round = 0; round < ROUNDS && audit.nowMs < endMs; round++) await this.#pass(round);
    this.#keep();
    for (const { page } of this.#visitors.splice(0)) page.close();
    await audit.pause(ROUND_MS + this.#graceMs);
    this.#look("behind all sessions");
    await this.#nodes.close();
  }

  /** Lets users and followers come and go around the end or the silence of a node. */
  async #pass(round: number): Promise<void> {
    const [audit, random] = [this.#audit, this.#random];
    const choice = random();
    const trouble = choice < DIES ? "dead" : choice < DIES + FREEZES ? "frozen" : "alive";
    const at = Math.floor(between(random, 2, STEPS / 2));
    const lost = oneOf(random, this.#followers);
    const { host } = lost.node;
    for (let step = 0; step < STEPS; step++) {
      if (step === at && trouble !== "alive") {
        await this.#meet(lost);
        if (trouble === "dead") this.#kill(lost);
        else host.freeze();
        // Steps until the others know, and then steps within the grace.
        const least = random() < AT_GRACE ? GONE_MS - BEAT_MS : 0;
        await audit.pause(between(random, least, KNOWN_MS));
      }
      this.#keep();
      await this.#step(
        this.#followers.filter(({ node }) => node.host.isAlive && !node.host.isFrozen),
      );
      this.#keep();
      await audit.pause(GAP_MS * random());
    }
    if (host.isFrozen) host.thaw();
    if (trouble === "dead") {
      await audit.pause(KNOWN_MS);
      lost.node.restart();
      this.#followers[this.#followers.indexOf(lost)] = new Follower(audit, lost.node);
    }
    this.#keep();
    await audit.pause(KNOWN_MS + BEAT_MS + this.#graceMs + ROUND_MS);
    this.#look(`in round ${round}, with a node that is ${trouble}`);
  }

  /** Lets a user be in all rooms at one node, and the other nodes follow. */
  async #meet({ node }: Follower): Promise<void> {
    const free = USERS.find((user) => this.#visitors.every((one) => one.user !== user));
    const visitor = this.#visitors.find((one) => one.node === node) ??
      (free && await this.#open(free, node));
    if (visitor !== undefined) { for (const room of ROOMS) this.#enter(visitor, room); }
    for (const follower of this.#followers) {
      for (const room of ROOMS) {
        if (follower.node !== node && !follower.followings.has(room)) follower.toggle(room);
      }
    }
    this.#keep();
    await this.#audit.pause(ROUND_MS);
  }

  #kill({ node }: Follower): void {
    for (const one of this.#visitors.filter((visitor) => visitor.node === node)) this.#remove(one);
    node.host.kill({ power: true });
  }

  #remove(visitor: Visitor): void {
    this.#visitors = this.#visitors.filter((one) => one !== visitor);
    visitor.page.close();
  }

  async #step(followers: readonly Follower[]): Promise<void> {
    const random = this.#random;
    const room = oneOf(random, ROOMS);
    const choice = random();
    const follower = oneOf(random, followers);
    if (choice < 0.5) return follower.toggle(room);
    const user = oneOf(random, USERS);
    const known = this.#visitors.find((visitor) => visitor.user === user);
    if (known !== undefined && choice < 0.6) return this.#remove(known);
    const visitor = known ?? await this.#open(user, follower.node);
    if (choice > 0.8 || !visitor.rooms.delete(room)) return this.#enter(visitor, room);
    visitor.page.ask({ unsubscribe: room });
  }

  /** Lets a session enter a room, or set data there. */
  #enter({ page, rooms }: Visitor, room: string): void {
    const data = this.#random() < 0.5 ? undefined : ++this.#data;
    // Data of a room is kept behind the end in the room.
    page.ask({ presence: room, data });
    if (!rooms.has(room)) page.ask({ subscribe: room });
    rooms.set(room, data);
  }

  async #open(user: string, node: UserNode): Promise<Visitor> {
    const page = new Page(this.#audit, user, `followings-page${this.#pages++}`, node);
    await this.#audit.until(() => page.isIn);
    const visitor: Visitor = { user, node, page, rooms: new Map() };
    this.#visitors.push(visitor);
    return visitor;
  }

  /** Notes which nodes know rooms by own sessions, which keep these for the grace. */
  #keep(): void {
    for (const { node, ownUntilMs } of this.#followers) {
      const { isFrozen } = node.host;
      for (const room of ROOMS) {
        const isOwn = this.#visitors.some((one) => one.node === node && one.rooms.has(room));
        const untilMs = ownUntilMs.get(room) ?? 0;
        const nowMs = this.#audit.nowMs;
        // A node that is frozen hears late of the end of a session.
        if (!isOwn && !(isFrozen && untilMs > nowMs)) continue;
        ownUntilMs.set(room, nowMs + KNOWN_MS + this.#graceMs + ROUND_MS);
      }
    }
  }

  /** Compares what each node knows with the sessions. */
  #look(what: string): void {
    for (const { node, followings, faults } of this.#followers) {
      const { host: { name }, server: { presence } } = node;
      const known: string[] = [];
      for (const room of ROOMS) {
        const members = this.#visitors.filter(({ rooms }) => rooms.has(room))
          .map(({ user, rooms }) => [user, rooms.get(room) ?? "none"]).toSorted();
        const following = followings.get(room);
        const isOwn = this.#visitors.some((one) => one.node === node && one.rooms.has(room));
        const isKnown = following !== undefined || isOwn;
        if (isKnown) known.push(room);
        const found = presence.members(room)
          .map(({ user, connections, data }) => [user, data ?? "none", connections]).toSorted();
        const expected = isKnown ? members.map((one) => [...one, 1]) : [];
        this.#expect(`members of ${room} at ${name} ${what}`, expected, found);
        if (following === undefined) continue;
        const told = [...following.members ?? []].map(([user, data]) => [user, data ?? "none"]);
        this.#expect(`changes of ${room} at ${name} ${what}`, members, told.toSorted());
      }
      const topics = USERS.map((user) =>
        this.#visitors.filter((one) => one.user === user)
          .flatMap(({ rooms }) => known.filter((room) => rooms.has(room)))
      );
      const found = USERS.map((user) => presence.topicsOf(user).toSorted().toReversed());
      this.#expect(`rooms of users at ${name} ${what}`, topics, found);
      this.#expect(`changes that do not fit at ${name} ${what}`, [], faults.splice(0));
    }
  }

  #expect(what: string, expected: unknown, received: unknown): void {
    this.#audit.examine("presence", `${what}, by followers`, expected, received);
  }
}

/**
 * Lets nodes follow rooms for a while, among users and nodes that come and go.
 *
 * @param audit The audit.
 */
export async function auditFollowings(audit: Audit): Promise<void> {
  await new Followings(audit).run();
}
