/**
 * Rooms on two nodes as clients see them, with members, changes and counts, losses and slow links.
 */
import { assertEquals } from "@std/assert";
import fc from "fast-check";
import { updateMembers } from "../../session/wire/member_list.ts";
import {
  PRESENCE_PREFIX,
  type PresenceMember,
  type PresenceNotice,
} from "../../session/wire/presence_notice.ts";
import type { SimulatedServer } from "../simulator/mod.ts";
import type { Drawn } from "./draw.ts";
import { FailingStore } from "./failing_store.ts";
import { BEAT_MS, GONE_MS } from "./nodes.ts";
import { type Envelope, SimulatedPage } from "./simulated_page.ts";
import { property } from "./property.ts";
import { byToken, type World } from "./world.ts";

/**
 * The user and node of each page. Two users have two pages each, and one of them is on both nodes.
 */
const PAGES = [["ann", 0], ["bob", 0], ["cyd", 1], ["dan", 1], ["ann", 1], ["bob", 0]] as const;

/** Time during which changes are batched, in milliseconds. */
const GATHER_MS = 200;

/**
 * Timeout of a list if nodes do not reply, and time until nodes detect losses, both in
 * milliseconds.
 */
const [LIST_MS, CHECKED_MS] = [1_000, 5_500] as const;

/** Minimum time between data from two pages of a user, in milliseconds. */
const APART_MS = 5;

/** Messages that fill a page's link, so that notices wait. */
const [FILLS, FILL] = [72, "x".repeat(980)] as const;

/**
 * Maximum size of a small envelope in bytes. It is so small that even a short list with data needs
 * several parts.
 */
const SMALL_BYTES = 1_024;

const change = fc.record({
  /** The last numbers select the slow page or the first page. */
  page: fc.nat(PAGES.length + 2),
  does: fc.constantFrom(
    "toggle",
    "toggle",
    "set",
    "unset",
    "return",
    "return with other data",
    "return without data",
    "subscribe again",
    "reopen",
    "toggle by the server",
    "set by the server",
  ),
  /** Time until the next change, in milliseconds. */
  gapMs: fc.oneof(fc.constant(0), fc.nat(40), fc.nat(300)),
});

/** Changes in quick succession, during a fault. */
const burst = fc.record({
  changes: fc.array(change, { minLength: 1, maxLength: 14 }),
  trouble: fc.constantFrom(
    "none",
    "a slow page",
    "a slow page",
    "a slow page",
    "lost messages",
    "broker away",
    "a frozen node",
    "a gone node",
    "a restarted node",
  ),
});

type Change = Drawn<typeof change>;
type Burst = Drawn<typeof burst>;

/** The members of a room, derived only from the notices that a page received. */
class RoomReader {
  /** Notices that contradict earlier notices. */
  readonly faults: string[] = [];
  isIn = false;
  readonly #room: string;
  /** Pending requests to leave the room. */
  readonly #leaves = new Set<number>();
  /** Number of subscriptions whose end is not confirmed. */
  #subscriptions = 0;
  #members: Map<string, PresenceMember> | undefined;
  #count: number | undefined;
  #hasMore = false;

  constructor(room: string) {
    this.#room = room;
  }

  /**
   * The members by name, or the number of users. It is `undefined` before the list arrives.
   */
  get known(): unknown {
    if (this.#members === undefined || this.#hasMore) return this.#count;
    return [...this.#members.values()].toSorted((a, b) => byName([a.user], [b.user]));
  }

  enter(): void {
    this.isIn = true;
    this.#subscriptions++;
  }

  /** Leaves the room, by a request or because the server removes the page. */
  leave(id?: number): void {
    this.isIn = false;
    if (id !== undefined) this.#leaves.add(id);
  }

  take({ reply, topic, data, unsubscribed }: Envelope): void {
    const isLeft = typeof reply === "number" && this.#leaves.delete(reply);
    if (isLeft || unsubscribed === this.#room) {
      this.#subscriptions--;
      this.#members = this.#count = undefined;
      this.#hasMore = false;
    }
    if (topic !== PRESENCE_PREFIX + this.#room) return;
    const notice = data as PresenceNotice;
    if (this.#subscriptions === 0) this.faults.push(`${notice.type} outside of the room`);
    else if (notice.type === "members") this.#list(notice);
    else if (notice.type === "count") this.#count = notice.users;
    else this.#change(notice);
  }

  #list(notice: Extract<PresenceNotice, { type: "members" }>): void {
    const { members, page = 0, more } = notice;
    if (page === 0) this.#members = new Map();
    else if (!this.#hasMore) this.faults.push(`part ${page} of a list without the part before`);
    this.#hasMore = more === true;
    for (const { user } of members) {
      if (page > 0 && this.#members?.has(user)) this.faults.push(`${user} twice in a list`);
    }
    updateMembers(this.#members!, notice);
  }

  #change(notice: PresenceNotice): void {
    const members = this.#members;
    if (members === undefined || this.#hasMore) {
      return void this.faults.push(`${notice.type} before the list`);
    }
    if (notice.type !== "changes") this.#check(notice.type, notice as { readonly user: string });
    else {
      const { left, joined, updated = [], connections = [] } = notice;
      for (const one of left) this.#check("leave", one);
      for (const one of joined) this.#check("join", one);
      for (const one of [...updated, ...connections]) this.#check("change", one);
    }
    updateMembers(members, notice);
  }

  /** Records a change that does not fit as a fault. */
  #check(type: string, { user }: { readonly user: string }): void {
    if (this.#members!.has(user) === (type === "join")) this.faults.push(`${type} of ${user}`);
  }
}

/** A user's page and its data. The page may be in the room or not. */
interface Guest {
  readonly user: string;
  readonly node: SimulatedServer<string>;
  page: SimulatedPage;
  reader: RoomReader;
  data: string | undefined;
  /** The order in which data was set, including data that was set on entering the room. */
  setAt: number;
}

/** The nodes, the pages, and the room. */
class Room {
  readonly #world: World;
  readonly #name: string;
  readonly #graceMs: number;
  readonly #chars: number;
  readonly #maxBytes: number;
  readonly #isCount: boolean;
  readonly #store: FailingStore;
  readonly #nodes: readonly SimulatedServer<string>[];
  readonly #guests: Guest[] = [];
  #pages = 0;
  #newest = 0;

  constructor(world: World, { kind, gatherAbove, graceMs, chars, hasSmallMessages, delayMs }: {
    readonly kind: "list" | "count";
    readonly gatherAbove: number;
    readonly graceMs: number;
    readonly chars: number;
    readonly hasSmallMessages: boolean;
    readonly delayMs: number;
  }) {
    this.#world = world;
    this.#name = "room:1";
    this.#graceMs = graceMs;
    this.#maxBytes = hasSmallMessages ? SMALL_BYTES : 65_536;
    this.#chars = chars;
    this.#store = new FailingStore(world);
    this.#store.delayMs = delayMs;
    this.#nodes = ["a", "b"].map((name) =>
      world.serve<string>(name, (host) => ({
        ...byToken,
        broker: this.#store.broker(host),
        authorize: () => true,
        node: { heartbeatMs: BEAT_MS, goneAfterMs: GONE_MS },
        presence: { graceMs },
        rooms: {
          "room:{name}": { members: kind, gatherAbove, gatherMs: GATHER_MS, maxDataBytes: 4_096 },
        },
        session: { maxMessageBytes: this.#maxBytes },
        onMessage() {},
      }))
    );
    this.#isCount = kind === "count";
  }

  async open(): Promise<void> {
    await Promise.all(this.#nodes.map(({ server }) => server.nodes!.ready));
    for (const [user, node] of PAGES) {
      this.#guests.push(await this.#openPage(user, this.#nodes[node]!));
    }
  }

  /** Makes all pages enter with data. */
  async fill(): Promise<void> {
    for (const page of PAGES.keys()) {
      await this.#change({ page, does: "set", gapMs: 0 });
      await this.#change({ page, does: "toggle", gapMs: 0 });
      await this.#world.pause(APART_MS);
    }
    await this.#settle("none");
    this.look();
  }

  async play({ changes, trouble }: Burst): Promise<void> {
    const [world, store] = [this.#world, this.#store];
    const { host } = this.#nodes[1]!;
    const slow = this.#guests[changes[0]!.page % PAGES.length]!;
    const slowHost = slow.page.host;
    if (trouble === "a restarted node") await this.#restart();
    if (trouble === "a slow page") await this.#clog(slow);
    if (trouble === "broker away") store.goAway();
    if (trouble === "lost messages") store.lostShare = 0.35;
    const isFrozen = trouble === "a frozen node" || trouble === "a gone node";
    if (isFrozen) host.freeze();
    for (const one of changes) {
      const guest = this.#guests[one.page] ?? slow;
      const hasTwin = this.#guests.filter(({ user }) => user === guest.user).length > 1;
      // Only if all data arrives in order is it known which of two pages has the newest data.
      if (hasTwin && guest.node.host.isFrozen) continue;
      await this.#change({ ...one, page: this.#guests.indexOf(guest) });
      await world.pause(hasTwin ? Math.max(APART_MS, one.gapMs) : one.gapMs);
    }
    if (isFrozen) {
      await world.pause(trouble === "a gone node" ? GONE_MS + BEAT_MS : BEAT_MS);
      host.thaw();
    }
    store.lostShare = 0;
    store.comeBack();
    world.network.change(slow.node.host, slowHost, { isBlocked: false });
    await this.#settle(trouble);
    this.look();
  }

  /** Compares what each page and each node knows with the model. */
  look(): void {
    const members = this.#members();
    for (const { user, node, page, reader } of this.#guests) {
      this.#read(page, reader);
      assertEquals(reader.faults, [], `notices for ${user}`);
      assertEquals(page.unanswered, [], `requests of ${user} without a reply`);
      if (!reader.isIn) continue;
      const shown = node.server.rooms.members(this.#name)
        .toSorted((a, b) => byName([a.user], [b.user]));
      assertEquals(reader.known, this.#isCount ? members.length : shown, user);
    }
    for (const { host, server } of this.#nodes) {
      const isHere = this.#guests.some(({ node, reader }) => node.server === server && reader.isIn);
      assertEquals([...server.rooms.names()], isHere ? [this.#name] : [], "rooms of a node");
      const known = server.rooms.members(this.#name)
        .map(({ user, connections, data }) => ({ user, connections, data }))
        .toSorted((a, b) => byName([a.user], [b.user]));
      assertEquals(known, isHere ? members : [], `members at ${host.name}`);
    }
  }

  async close(): Promise<void> {
    for (const guest of this.#guests) {
      guest.page.close();
      guest.reader.leave();
    }
    this.#guests.length = 0;
    await this.#settle("none");
    this.look();
  }

  /** Lets time pass until all pages and nodes know all members. */
  async #settle(trouble: Burst["trouble"]): Promise<void> {
    const isLost = !["none", "a slow page"].includes(trouble);
    const ms = LIST_MS + this.#graceMs + 2 * GATHER_MS + BEAT_MS + 700;
    // Data that exceeds the bytes of one interval follows in the next intervals.
    await this.#world.pause(ms + (isLost ? CHECKED_MS : 0));
  }

  async #change(change: Change): Promise<void> {
    const guest = this.#guests[change.page]!;
    const { page, reader, node, user } = guest;
    const isFree = !node.host.isFrozen && page.unanswered.length === 0 &&
      node.server.manager.sessionsOf(user).length === 1;
    switch (change.does) {
      case "toggle":
        return this.#toggle(guest);
      case "set":
      case "unset":
        this.#set(guest, change.does === "set");
        return void page.ask({ presence: this.#name, data: guest.data });
      case "return":
      case "return with other data":
      case "return without data":
        if (!reader.isIn) return;
        this.#toggle(guest);
        if (change.does !== "return") {
          this.#set(guest, change.does === "return with other data");
          page.ask({ presence: this.#name, data: guest.data });
        }
        return this.#toggle(guest);
      case "subscribe again":
        if (reader.isIn) page.ask({ subscribe: this.#name });
        return;
      case "reopen":
        return node.host.isFrozen ? undefined : await this.#reopen(guest);
      case "toggle by the server":
      case "set by the server":
        return isFree ? this.#serve(guest, change.does === "set by the server") : undefined;
    }
  }

  #toggle(guest: Guest): void {
    const { page, reader } = guest;
    if (reader.isIn) return reader.leave(page.ask({ unsubscribe: this.#name }));
    this.#enter(guest);
    page.ask({ subscribe: this.#name });
  }

  /** Makes the server change a page's membership or data. */
  #serve(guest: Guest, isData: boolean): void {
    const { node: { server }, user, reader } = guest;
    const [session] = server.manager.sessionsOf(user);
    if (isData) {
      this.#set(guest, true);
      server.rooms.update(session!, this.#name, { data: guest.data });
    } else if (reader.isIn) {
      reader.leave();
      server.rooms.leave(session!, this.#name);
    } else {
      this.#enter(guest);
      server.rooms.join(session!, this.#name);
    }
  }

  #enter(guest: Guest): void {
    guest.reader.enter();
    guest.setAt = ++this.#newest;
  }

  #set(guest: Guest, hasData: boolean): void {
    guest.setAt = ++this.#newest;
    guest.data = hasData ? `${guest.setAt}`.padEnd(this.#chars, "x") : undefined;
  }

  async #reopen(guest: Guest): Promise<void> {
    const { reader: { isIn, faults }, user, node } = guest;
    this.#read(guest.page, guest.reader);
    assertEquals(faults, [], `notices for ${user} before a close`);
    guest.page.close();
    Object.assign(guest, await this.#openPage(user, node));
    if (isIn) this.#toggle(guest);
  }

  async #openPage(user: string, node: SimulatedServer<string>): Promise<Guest> {
    const name = `page-${this.#pages++}`;
    const page = new SimulatedPage(this.#world, node.host, { token: user, name });
    await this.#world.until("a session", () => page.isIn);
    return { user, node, page, reader: new RoomReader(this.#name), data: undefined, setAt: 0 };
  }

  #read(page: SimulatedPage, reader: RoomReader): void {
    for (const envelope of page.received.splice(0)) {
      reader.take(envelope);
      const size = JSON.stringify(envelope).length;
      if (size > this.#maxBytes) reader.faults.push(`an envelope of ${size} bytes`);
    }
  }

  /** Returns the members in the model, with the newest data of each user's pages in the room. */
  #members() {
    const inRoom = this.#guests.filter(({ reader }) => reader.isIn)
      .toSorted((a, b) => a.setAt - b.setAt);
    return [...Map.groupBy(inRoom, ({ user }) => user)]
      .map(([user, pages]) => ({
        user,
        connections: pages.length,
        data: pages.findLast(({ data }) => data !== undefined)?.data,
      }))
      .toSorted((a, b) => byName([a.user], [b.user]));
  }

  /** Fills the link to an entering page, so that the list and changes wait. */
  async #clog(guest: Guest): Promise<void> {
    const { page, user, node: { host, server }, reader } = guest;
    if (reader.isIn) this.#toggle(guest);
    await this.#world.pause(LIST_MS);
    this.#world.network.change(host, page.host, { isBlocked: true });
    for (let i = 0; i < FILLS; i++) server.to(user).send("fill", FILL);
    await this.#world.pause(1);
    this.#toggle(guest);
    await this.#world.pause(GATHER_MS);
  }

  /** Restarts a node and reopens all its pages. */
  async #restart(): Promise<void> {
    const node = this.#nodes[1]!;
    node.host.kill({ power: true });
    node.restart();
    await node.server.nodes!.ready;
    for (const guest of this.#guests.filter((one) => one.node === node)) {
      const { isIn } = guest.reader;
      guest.page.close();
      Object.assign(guest, await this.#openPage(guest.user, node));
      if (isIn) this.#toggle(guest);
    }
  }
}

property("each page in a room knows exactly its members, from consistent notices", {
  cases: fc.record({
    kind: fc.constantFrom("list", "list", "count"),
    gatherAbove: fc.constantFrom(100, 100, 0, 1, 3),
    graceMs: fc.constantFrom(0, 300, 1_200),
    chars: fc.constantFrom(0, 40, 450, 450),
    hasSmallMessages: fc.constantFrom(false, true, true),
    delayMs: fc.constantFrom(0, 60, 200),
    /** All pages are already in the room. */
    isFull: fc.boolean(),
    bursts: fc.array(burst, { maxLength: 4 }),
  }),
  regressions: {
    "changes while a slow page receives the list in parts": {
      kind: "list",
      gatherAbove: 100,
      graceMs: 0,
      chars: 450,
      hasSmallMessages: true,
      delayMs: 0,
      isFull: true,
      bursts: [{ trouble: "a slow page", changes: [{ page: 0, does: "set", gapMs: 0 }] }],
    },
  },
  async check(world, { bursts, isFull, ...options }) {
    const room = new Room(world, options);
    await room.open();
    if (isFull) await room.fill();
    for (const burst of bursts) await room.play(burst);
    await room.close();
  },
});

property("members who set large data at once are all reported, about 64 KiB per interval", {
  cases: fc.record({
    users: fc.integer({ min: 2, max: 23 }),
    /** Percentage of the users that are already in the room. */
    early: fc.integer({ min: 1, max: 100 }),
    gatherAbove: fc.constantFrom(0, 8, 40),
    chars: fc.constantFrom(3_600, 4_050),
  }),
  async check(world, { users, early, gatherAbove, chars }) {
    const { host } = world.serve<string>("server", () => ({
      ...byToken,
      authorize: () => true,
      rooms: { "room:{name}": { gatherAbove, gatherMs: GATHER_MS, maxDataBytes: 4_096 } },
    }));
    const all = Array.from({ length: users }, (_, i) => {
      const token = `user-${10 + i}`;
      return { token, page: new SimulatedPage(world, host, { token, name: token }) };
    });
    await world.until("all sessions", () => all.every(({ page }) => page.isIn));
    const first = Math.ceil(users * early / 100);
    const readers = all.slice(0, Math.min(first, 2)).map(({ page }) => {
      page.received.length = 0;
      return { page, reader: new RoomReader("room:1") };
    });
    for (const { page } of all.slice(0, first)) page.ask({ subscribe: "room:1" });
    for (const { reader } of readers) reader.enter();
    await world.pause(LIST_MS + 2 * GATHER_MS);
    for (const [i, { page }] of all.entries()) {
      page.ask({ presence: "room:1", data: `${i}`.padEnd(chars, "x") });
      if (i >= first) page.ask({ subscribe: "room:1" });
    }
    await world.pause(LIST_MS + 4 * GATHER_MS);
    const members = all.map(({ token }, i) => [token, `${i}`.padEnd(chars, "x")]);
    for (const { page, reader } of readers) {
      for (const envelope of page.received) reader.take(envelope);
      assertEquals(reader.faults, []);
      const known = (reader.known as PresenceMember[]).map(({ user, data }) => [user, data]);
      assertEquals(known, members);
    }
    for (const { page } of all) assertEquals(page.unanswered, []);
  },
});

function byName([a]: readonly unknown[], [b]: readonly unknown[]): number {
  return `${a}` < `${b}` ? -1 : 1;
}
