/** Rooms of all kinds, entered and left in quick succession: each page knows exactly the members. */
import { PRESENCE_PREFIX } from "../../../../../session/wire/presence_notice.ts";
import { between, oneOf } from "../../chance.ts";
import type { Audit } from "../audit.ts";
import { BEAT_MS, GONE_MS } from "../places/service.ts";
import { Page } from "./page.ts";
import { RoomReader } from "./room_reader.ts";
import { type UserNode, UserNodes } from "./user_nodes.ts";

/** Kinds of rooms: a list, changes that are gathered, and the number of users. */
const KINDS = ["list", "crowd", "count"] as const;

/** Users, and pages of all users. */
const [USERS, PAGES] = [4, 6];

/** Rounds, and the most operations of one round. */
const [ROUNDS, OPERATIONS] = [4, 14];

/** Time within which the last round begins, in milliseconds. */
const LAST_MS = 11_000;

/** Draw above which a page asks once more for a room in which the page is. */
const AGAIN = 0.85;

/** Draws below which a page that sets data sets these, and below which it leaves and comes back at once. */
const [SETS, RETURNS] = [0.25, 0.4] as const;

/** Share of such returns with no data, and with other data, of a page that had some. */
const [BARE, CHANGED] = [0.5, 0.3] as const;

/** Share of operations of another page, or in another room, than the one before. */
const CHANGES = 0.55;

/** Longest pause between two operations, in milliseconds. */
const GAP_MS = 40;

/** Graces of a user without sessions, and time for which changes are gathered, in milliseconds. */
const [GRACES_MS, GATHER_MS] = [[0, 300, 1_200, 1_200], 200] as const;

/** Longest time of a node that does not answer, in milliseconds. */
const MUTE_MS = 1_300;

/** Share of silent nodes that are gone for the others, and operations at the node that is alone then. */
const [GONE, ALONE] = [0.6, 3];

/** Time of a list from nodes that do not answer, in milliseconds. */
const SETTLED_MS = 1_000;

/** Time until all pages know all members, without the grace, in milliseconds. */
const REST_MS = SETTLED_MS + GATHER_MS + BEAT_MS + 300;

/** Largest envelope in bytes: a list of some members with data has several parts. */
const MESSAGE_BYTES = 1_024;

/** Characters of data, of which one is drawn, and the largest data in bytes. */
const [DATA_CHARS, MAX_DATA_BYTES] = [[40, 250, 450, 450], 500] as const;

/** Share of rounds with a page that falls behind. */
const CLOGS = 0.5;

/** Share of operations of such a page, and of pauses in which changes are gathered. */
const [SLOW, GATHERS] = [0.35, 0.3] as const;

/** Messages that fill the way to a page, so that lists wait. */
const [FILLS, FILL] = [72, "x".repeat(980)] as const;

/** Share of operations that the server makes for a page. */
const BY_SERVER = 0.25;

/** A page, and the rooms of the page. */
interface Guest {
  readonly user: string;
  readonly node: UserNode;
  readonly page: Page;
  readonly readers: Map<string, RoomReader>;
  /** Number of the data in each room, also while the page is not in the room. */
  readonly data: Map<string, number>;
  /** True for the one page of the user that sets data. */
  readonly setsData: boolean;
}

/** The nodes, the pages, and the rooms. */
class Crowds {
  readonly audit: Audit;
  readonly random: () => number;
  readonly nodes: UserNodes;
  readonly graceMs: number;
  readonly #dataChars: number;
  guests: Guest[] = [];
  #pages = 0;
  #newest = 0;

  constructor(audit: Audit) {
    this.audit = audit;
    const random = this.random = audit.random;
    this.graceMs = oneOf(random, GRACES_MS);
    this.#dataChars = oneOf(random, DATA_CHARS);
    this.nodes = new UserNodes(audit, "crowds", {
      node: { heartbeatMs: BEAT_MS, goneAfterMs: GONE_MS },
      presenceGraceMs: this.graceMs,
      rooms: {
        "list:{name}": { maxDataBytes: MAX_DATA_BYTES },
        "crowd:{name}": {
          gatherAbove: Math.floor(3 * random()),
          gatherMs: GATHER_MS,
          maxDataBytes: MAX_DATA_BYTES,
        },
        "count:{name}": { members: "count", gatherMs: GATHER_MS },
      },
      session: { maxMessageBytes: MESSAGE_BYTES },
    });
  }

  /** Opens a page of a user. */
  async open(): Promise<void> {
    const { audit, random } = this;
    const node = oneOf(random, this.nodes.all);
    const user = `user-${Math.floor(USERS * random())}`;
    const page = new Page(audit, user, `crowds-${this.#pages++}`, node);
    const setsData = this.guests.every((guest) => guest.user !== user);
    this.guests.push({ user, node, page, readers: new Map(), data: new Map(), setsData });
    await audit.until(() => page.isIn);
  }

  /** Enters a room, or leaves the room, or sets data there. */
  operate(guest: Guest, room: string): void {
    const choice = this.random();
    const reader = this.#readerOf(guest, room);
    if (this.random() < BY_SERVER && this.#serve(guest, room, reader)) return;
    if (guest.setsData && choice < SETS) this.#setData(guest, room, this.random() < 0.3);
    else if (guest.setsData && reader.isIn && choice < RETURNS) this.#return(guest, room);
    else if (reader.isIn && choice > AGAIN) guest.page.ask({ subscribe: room });
    else this.#toggle(guest, room);
  }

  /** Lets all others enter a room with data, and then a page that falls behind. */
  async crowd(slow: Guest, room: string): Promise<() => void> {
    const isIn = (guest: Guest) => this.#readerOf(guest, room).isIn;
    for (const guest of this.guests) {
      if (guest.setsData) this.#setData(guest, room, false);
      if (guest === slow ? isIn(guest) : !isIn(guest)) this.#toggle(guest, room);
    }
    await this.audit.pause(SETTLED_MS);
    const unclog = await this.#clog(slow);
    this.#toggle(slow, room);
    await this.audit.pause(GATHER_MS * this.random());
    return unclog;
  }

  /**
   * Lets a page fall behind: what the server sends waits.
   *
   * @returns Ends the trouble.
   */
  async #clog({ page, user, node: { host, server } }: Guest): Promise<() => void> {
    const { network } = this.audit;
    network.change(host, page.host, { isBlocked: true });
    for (let i = 0; i < FILLS; i++) server.to(user).send("fill", FILL);
    await this.audit.pause(1);
    return () => network.change(host, page.host, { isBlocked: false });
  }

  /** Lets time pass until all pages know all members. */
  rest(): Promise<void> {
    return this.audit.pause(REST_MS + this.graceMs);
  }

  /** Closes a page, in the middle of all else. */
  close(guest: Guest): void {
    this.guests = this.guests.filter((other) => other !== guest);
    guest.page.close();
  }

  /** Examines what each page read, and what each node knows, once all is at rest. */
  look(rooms: readonly string[], followed: ReadonlyMap<string, UserNode>, what: string): void {
    for (const room of rooms) {
      const members = this.#membersOf(room);
      for (const { readers, page, user } of this.guests) {
        const reader = readers.get(room);
        if (reader === undefined) continue;
        for (const heard of page.heard) reader.hear(heard);
        this.#examine(`notices of ${room} for ${user} ${what}`, [], reader.faults.splice(0));
        if (!reader.isIn) continue;
        const expected = room.startsWith("count:") ? members.length : shown(members);
        this.#examine(`members of ${room} for ${user} ${what}`, expected, reader.known);
      }
      for (const node of this.nodes.all) {
        const { host, server } = node;
        const isHere = this.guests.some((guest) =>
          guest.node === node && guest.readers.get(room)?.isIn
        );
        const isKnown = [...server.rooms.names()].includes(room);
        this.#examine(`room ${room} at ${host.name} ${what}`, isHere, isKnown);
        const knows = isHere || followed.get(room) === node;
        const known = server.rooms.members(room).map(({ user, connections, data }) => ({
          user,
          connections,
          data,
        }));
        this.#examine(
          `members of ${room} at ${host.name} ${what}`,
          knows ? members : [],
          known.toSorted((a, b) => a.user < b.user ? -1 : 1),
        );
      }
    }
    for (const { user, page } of this.guests) {
      const large = page.heard.filter(({ topic }) => topic?.startsWith(PRESENCE_PREFIX))
        .map((heard) => JSON.stringify(heard).length)
        .filter((size) => size > MESSAGE_BYTES);
      this.#examine(`sizes of too large notices for ${user} ${what}`, [], large);
      this.#examine(`requests of ${user} without an answer ${what}`, [], page.forget());
    }
  }

  #readerOf({ readers }: Guest, room: string): RoomReader {
    let reader = readers.get(room);
    if (reader === undefined) readers.set(room, reader = new RoomReader(room));
    return reader;
  }

  #setData({ page, data }: Guest, room: string, isGone: boolean): void {
    if (isGone) {
      data.delete(room);
      page.ask({ presence: room });
    } else {
      data.set(room, ++this.#newest);
      page.ask({ presence: room, data: this.#dataOf(this.#newest, room) });
    }
  }

  /** Leaves a room and comes back at once, perhaps with other data, or without any. */
  #return(guest: Guest, room: string): void {
    const choice = this.random();
    this.#toggle(guest, room);
    if (choice < BARE) this.#setData(guest, room, true);
    else if (choice < BARE + CHANGED) this.#setData(guest, room, false);
    this.#toggle(guest, room);
  }

  #toggle(guest: Guest, room: string): void {
    const reader = this.#readerOf(guest, room);
    if (reader.isIn) reader.leave(guest.page.ask({ unsubscribe: room }));
    else {
      reader.enter();
      guest.page.ask({ subscribe: room });
    }
  }

  /** Lets the server change what a page has at rest; `false` if the session is not known. */
  #serve({ user, node, page, data, setsData }: Guest, room: string, reader: RoomReader): boolean {
    const { server } = node;
    const [session, ...others] = server.manager.sessionsOf(user);
    if (session === undefined || others.length > 0 || !page.isQuiet) return false;
    const hasData = setsData && this.random() < 0.5;
    if (hasData) data.set(room, ++this.#newest);
    const options = hasData ? { data: this.#dataOf(this.#newest, room) } : {};
    if (!reader.isIn) {
      reader.enter();
      server.rooms.join(session, room, options);
    } else if (hasData) server.rooms.update(session, room, options);
    else {
      reader.leave();
      server.rooms.leave(session, room);
    }
    return true;
  }

  /** The members as of the model, by name. */
  #membersOf(room: string) {
    const users = new Map<string, { connections: number; data: unknown }>();
    for (const { user, readers, data, setsData } of this.guests) {
      if (!readers.get(room)?.isIn) continue;
      const known = users.get(user) ?? { connections: 0, data: undefined };
      const number = setsData ? data.get(room) : undefined;
      users.set(user, {
        connections: known.connections + 1,
        data: number === undefined ? known.data : this.#dataOf(number, room),
      });
    }
    return [...users].map(([user, one]) => ({ user, ...one }))
      .toSorted((a, b) => a.user < b.user ? -1 : 1);
  }

  #dataOf(number: number, room: string): string {
    return `${number}`.padEnd(room.startsWith("count:") ? 0 : this.#dataChars, "x");
  }

  #examine(what: string, expected: unknown, received: unknown): void {
    this.audit.examine("presence", what, expected, received);
  }
}

/** The users with the data of each, as a reader tells these. */
function shown(members: readonly { readonly user: string; readonly data: unknown }[]): unknown {
  return members.map(({ user, data }) => [user, data]);
}

/**
 * Lets pages enter and leave rooms while lists and changes are under way.
 *
 * @param audit The audit.
 */
export async function auditCrowds(audit: Audit): Promise<void> {
  const crowds = new Crowds(audit);
  const { random, nodes } = crowds;
  await nodes.ready();
  const rooms: string[] = [];
  const endMs = audit.nowMs + LAST_MS;
  for (let round = 0; round < ROUNDS && audit.nowMs < endMs; round++) {
    const what = `in round ${round}`;
    while (crowds.guests.length < PAGES) await crowds.open();
    // A room that the nodes do not know has no list yet.
    if (rooms.length === 0 || random() < 0.7) rooms.push(`${oneOf(random, KINDS)}:${round}`);
    const followed = new Map<string, UserNode>();
    const follower = oneOf(random, nodes.all);
    const following = random() < 0.6
      ? follower.server.presence.follow(oneOf(random, rooms.slice(-1)))
      : undefined;
    if (following !== undefined) followed.set(rooms.at(-1)!, follower);
    const frozen = oneOf(random, nodes.all);
    const { host } = frozen;
    const mutes = random() < 0.5;
    // A node that is gone may be back within the grace of its users, or later.
    const isGone = mutes && random() < GONE;
    const muteAt = isGone ? OPERATIONS : Math.floor(OPERATIONS * random());
    let guest: Guest | undefined;
    let room = rooms.at(-1)!;
    const slow = oneOf(random, crowds.guests);
    const unclog = random() < CLOGS && !isGone ? await crowds.crowd(slow, room) : undefined;
    for (let i = 0; i < OPERATIONS && crowds.guests.length > 0; i++) {
      if (mutes && i === muteAt) host.freeze();
      if (guest === undefined || random() < CHANGES) {
        const isSlow = unclog !== undefined && random() < SLOW && crowds.guests.includes(slow);
        guest = isSlow ? slow : oneOf(random, crowds.guests);
        room = random() < 0.7 ? rooms.at(-1)! : oneOf(random, rooms);
      }
      if (random() < 0.06) {
        crowds.close(guest);
        guest = undefined;
      } else crowds.operate(guest, room);
      if (random() < 0.6) await audit.pause(between(random, 0, GAP_MS));
      // Lists and changes are gathered, and wait for the slow page.
      if (unclog !== undefined && random() < GATHERS) await audit.pause(2 * GATHER_MS * random());
    }
    if (isGone) {
      await audit.pause(SETTLED_MS);
      host.freeze();
    }
    if (mutes) {
      await audit.pause(isGone ? GONE_MS : between(random, 0, MUTE_MS));
      const awake = crowds.guests.filter(({ node }) => node !== frozen);
      for (let i = 0; isGone && i < ALONE; i++) {
        await audit.pause(between(random, 0, BEAT_MS + crowds.graceMs) / ALONE);
        const one = oneOf(random, awake);
        if (one !== undefined) crowds.operate(one, oneOf(random, rooms));
      }
      host.thaw();
    }
    unclog?.();
    await crowds.rest();
    crowds.look(rooms, followed, what);
    following?.[Symbol.dispose]();
  }
  for (const guest of crowds.guests) crowds.close(guest);
  await crowds.rest();
  crowds.look(rooms, new Map(), "behind all pages");
  await nodes.close();
}
