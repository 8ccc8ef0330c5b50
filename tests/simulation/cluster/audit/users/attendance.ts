/** Sessions that enter topics and rooms of one node, also by listeners: each event in order. */
import { Presence, type PresenceEvent } from "../../../../../pubsub/presence/presence.ts";
import { Rooms } from "../../../../../pubsub/presence/rooms.ts";
import { internals, type Session } from "../../../../../session/session.ts";
import { between, oneOf } from "../../chance.ts";
import type { Audit } from "../audit.ts";
import { AttendanceModel, compare, textOf, type Told, type Visitor } from "./attendance_model.ts";
import { Page } from "./page.ts";
import { UserNodes } from "./user_nodes.ts";

/** The users, and pages of all of these. */
const [USERS, PAGES] = [["ada", "bob", "cyd", "dan"], 6] as const;

/** Topics of the presence, and rooms. */
const [TOPICS, ROOMS] = [["one", "two"], ["room:one", "room:two"]] as const;

/** Graces of which one is drawn, in milliseconds. */
const GRACES_MS = [0, 120, 300] as const;

/** Numbers of users of which the node remembers when they were seen last; one is drawn. */
const MOST_SEEN = [0, 1, 2, 2, 3] as const;

/** Steps, and most steps of one turn. */
const [STEPS, AT_ONCE] = [70, 4] as const;

/** Share of events of which a listener makes a change, and of those that end what has just begun. */
const [REACTS, ENDS] = [0.2, 0.6] as const;

/** Most changes by listeners of one turn. */
const REACTIONS = 3;

/** Share of events at which a listener fails. */
const FAILS = 0.1;

/** Share of steps at which a page closes and another one opens, and at which the clock is set. */
const [CLOSES, JUMPS] = [0.05, 0.03] as const;

/** Share of steps at which users go and come one by one, and the most changes of such a step. */
const [RECESSES, MOST_CHANGES] = [0.06, 14] as const;

/** Times by which the clock is set, in milliseconds. */
const JUMPS_MS = [-3_600_000, 3_600_000] as const;

/** Least time between a look and the end of a grace, and for timers, in milliseconds. */
const APART_MS = 8;

/** A session with the part of the model. */
interface Guest extends Visitor {
  readonly session: Session;
  readonly page: Page;
}

/** One node, and the sessions. */
class Attendance {
  readonly #audit: Audit;
  readonly #random: () => number;
  readonly #nodes: UserNodes;
  readonly #graceMs: number;
  readonly #presence: Presence;
  readonly #rooms: Rooms;
  readonly #model: AttendanceModel;
  #guests: Guest[] = [];
  #told: Told[] = [];
  #errors: unknown[] = [];
  #failures = 0;
  #reactions = 0;
  #data = 0;
  #numbers = 0;

  constructor(audit: Audit) {
    this.#audit = audit;
    const random = this.#random = audit.chanceOf("attendance");
    const graceMs = this.#graceMs = oneOf(random, GRACES_MS);
    const maxLastSeen = oneOf(random, MOST_SEEN);
    this.#nodes = new UserNodes(audit, "attendance", {}, { count: 1 });
    const { host: { runtime }, server: { topics } } = this.#node;
    const onError = (error: unknown) => void this.#errors.push(error);
    this.#presence = new Presence({ runtime, graceMs, maxLastSeen, onError });
    this.#rooms = new Rooms({ topics, presence: this.#presence });
    this.#model = new AttendanceModel(() => runtime.now(), graceMs, maxLastSeen);
    this.#presence.subscribe((event) => this.#hear(event));
    this.#presence.subscribe(() => {
      if (random() >= FAILS) return;
      this.#failures++;
      throw new TypeError("A listener fails");
    });
    this.#presence.subscribe((event) => this.#react(event));
  }

  async run(): Promise<void> {
    await this.#nodes.ready();
    for (let i = 0; i < PAGES; i++) await this.#open();
    for (let step = 0; step < STEPS; step++) {
      const choice = this.#random();
      this.#reactions = REACTIONS;
      if (choice < CLOSES) await this.#reopen();
      else if (choice < CLOSES + JUMPS) await this.#setClock();
      else if (choice < CLOSES + JUMPS + RECESSES) await this.#recess();
      else this.#turn();
      this.#expectEvents(`behind step ${step}`);
      await this.#pause(oneOf(this.#random, [0, 0, 40, this.#graceMs + 40]) * this.#random());
    }
    for (const guest of this.#guests) {
      await this.#pause(this.#graceMs + APART_MS);
      await this.#close(guest);
    }
    await this.#pause(this.#graceMs + APART_MS);
    this.#look("behind all sessions");
    this.#presence[Symbol.dispose]();
    this.#rooms[Symbol.dispose]();
    await this.#nodes.close();
  }

  get #node() {
    return this.#nodes.all[0]!;
  }

  /** Opens a page of a user. */
  async #open(): Promise<void> {
    const number = this.#numbers++;
    const user = USERS[number] ?? oneOf(this.#random, USERS);
    const page = new Page(this.#audit, user, `attendance-page${number}`, this.#node);
    const { manager } = this.#node.server;
    const known = new Set(this.#guests.map(({ session }) => session));
    const found = () => manager.sessionsOf(user).find((one) => !known.has(one as Session));
    await this.#audit.until(() => page.isIn && found() !== undefined);
    const session = found() as Session;
    const guest: Guest = {
      user,
      number,
      session,
      page,
      topics: new Set(),
      rooms: new Set(),
      kept: new Map(),
    };
    this.#guests.push(guest);
    // Before the presence hears of the end.
    session[internals].whenEnded(() => {
      this.#guests = this.#guests.filter((one) => one !== guest);
      this.#model.leaveAll(guest);
    });
  }

  /** Closes a page, with all that the session has, and opens another one. */
  async #reopen(): Promise<void> {
    await this.#pause(this.#graceMs + APART_MS);
    const guest = oneOf(this.#random, this.#guests);
    await this.#close(guest);
    await this.#open();
    await this.#pause(0);
    this.#expect("rooms of a closed session", [], this.#rooms.roomsOf(guest.session));
    const isBack = this.#presence.enter(guest.session, TOPICS[0]);
    this.#expect("entry of a closed session", false, isBack);
  }

  async #close(guest: Guest): Promise<void> {
    guest.page.close();
    await this.#audit.until(() => !this.#guests.includes(guest));
  }

  /** Sets the clock: a grace that has begun ends in time. */
  async #setClock(): Promise<void> {
    this.#reactions = 0;
    this.#node.host.jumpClock(oneOf(this.#random, JUMPS_MS));
    await this.#audit.pause(this.#graceMs + APART_MS);
    this.#model.expire(true);
    this.#expectEvents("behind a clock that was set", false);
  }

  /** Lets users go offline and come online one by one. */
  async #recess(): Promise<void> {
    const random = this.#random;
    for (let left = Math.ceil(MOST_CHANGES * random()); left > 0; left--) {
      this.#reactions = 0;
      if (this.#guests.length === 0) return;
      const { user } = oneOf(random, this.#guests);
      const all = this.#guests.filter((guest) => guest.user === user);
      const isOnline = all.some(({ topics }) => topics.size > 0);
      if (isOnline) { for (const guest of all) this.#endAll(guest); }
      else this.#enter(all[0]!, undefined, undefined);
      await this.#pause(random() < 0.3 ? 0 : this.#graceMs + APART_MS);
    }
  }

  /** Makes some changes within one turn. */
  #turn(): void {
    for (let left = 1 + Math.floor(AT_ONCE * this.#random()); left > 0; left--) {
      this.#act(oneOf(this.#random, this.#guests));
    }
  }

  /** Makes a change in the model and in the presence. */
  #act(guest: Guest): void {
    const random = this.#random;
    const { session } = guest;
    const data = random() < 0.5 ? undefined : random() < 0.2 ? this.#data : ++this.#data;
    const choice = random();
    if (choice < 0.4) return this.#actInRoom(guest, oneOf(random, ROOMS), data);
    const topic = oneOf(random, TOPICS);
    const options = { data };
    if (choice < 0.7) this.#enter(guest, choice < 0.65 ? topic : undefined, data);
    else if (choice < 0.85) {
      const wasIn = this.#model.leave(guest, topic, false);
      this.#expect("end in a topic", wasIn, this.#presence.leave(session, topic));
    } else if (choice < 0.93) {
      const isIn = this.#model.update(guest, topic, data);
      this.#expect("update in a topic", isIn, this.#presence.update(session, topic, options));
    } else this.#endAll(guest);
  }

  #enter(guest: Guest, topic: string | undefined, data: number | undefined): void {
    const isNew = this.#model.enter(guest, topic, data);
    this.#expect("entry", isNew, this.#presence.enter(guest.session, topic, { data }));
  }

  /** Ends the presence of a session that is in no room. */
  #endAll(guest: Guest): void {
    for (const room of [...guest.rooms]) this.#leaveRoom(guest, room);
    if (guest.rooms.size > 0) return;
    const wasIn = this.#model.leaveAll(guest);
    this.#expect("end in all topics", wasIn, this.#presence.leave(guest.session));
  }

  #actInRoom(guest: Guest, room: string, data: number | undefined): void {
    const { session, rooms, kept } = guest;
    const choice = this.#random();
    if (choice < 0.45) {
      const isNew = !rooms.has(room);
      if (data !== undefined) {
        kept.set(room, data);
        this.#model.update(guest, room, data);
      }
      rooms.add(room);
      if (isNew) this.#model.enter(guest, room, kept.get(room));
      const options = data === undefined ? {} : { data };
      // A listener of the update of a member could end what the call then begins anew.
      if (!isNew) this.#reactions = 0;
      this.#expect("join of a room", isNew, this.#rooms.join(session, room, options));
    } else if (choice < 0.8) this.#leaveRoom(guest, room);
    else {
      if (data === undefined) kept.delete(room);
      else kept.set(room, data);
      const isIn = this.#model.update(guest, room, data);
      this.#expect("update in a room", isIn, this.#rooms.update(session, room, { data }));
    }
  }

  /** Leaves a room without a grace: as a member, or by the end of the subscription. */
  #leaveRoom(guest: Guest, room: string): void {
    const { session, rooms } = guest;
    const wasIn = rooms.delete(room);
    this.#model.leave(guest, room, true);
    const left = this.#random() < 0.5
      ? this.#rooms.leave(session, room)
      : this.#node.server.topics.unsubscribe(session, room);
    this.#expect("end in a room", wasIn, left);
  }

  #hear({ type, topic, user, at, ...event }: PresenceEvent): void {
    const session = "session" in event ? event.session : undefined;
    const number = this.#guests.find((guest) => guest.session === session)?.number;
    const data = "data" in event ? event.data : undefined;
    const text = textOf(type, { topic, user, data }, number);
    const seenAt = "lastSeenAt" in event ? event.lastSeenAt : undefined;
    this.#told.push({ text, at, seenAt });
  }

  /** Makes a change within an event: often one that ends what the event tells of. */
  #react(event: PresenceEvent): void {
    if (this.#random() >= REACTS || this.#reactions === 0 || this.#guests.length === 0) return;
    this.#reactions--;
    const { topic, user } = event;
    const isEnd = this.#random() < ENDS;
    const guest = this.#guests.find((one) => one.user === user && one.topics.has(topic));
    if (!isEnd || guest === undefined || topic === undefined) {
      return this.#act(oneOf(this.#random, this.#guests));
    }
    if (guest.rooms.has(topic)) return this.#leaveRoom(guest, topic);
    this.#model.leave(guest, topic, false);
    this.#expect("end by a listener", true, this.#presence.leave(guest.session, topic));
  }

  /** Lets time pass, up to a moment that is not that of the end of a grace. */
  async #pause(ms: number): Promise<void> {
    this.#reactions = 0;
    await this.#audit.pause(ms);
    const { runtime } = this.#node.host;
    const isNear = (endMs: number) => Math.abs(endMs - runtime.now()) < APART_MS;
    while (this.#model.ends.some(isNear)) {
      await this.#audit.pause(between(this.#random, 1, APART_MS));
    }
    this.#model.expire();
    this.#look("behind a pause");
  }

  /** Compares all that the node knows with the model. */
  #look(what: string): void {
    const [presence, model] = [this.#presence, this.#model];
    this.#expectEvents(what);
    for (const topic of [...TOPICS, ...ROOMS]) {
      const members = model.members(topic);
      const counts = USERS.map((user) =>
        members.find((member) => member.user === user)?.connections ?? 0
      );
      const found = USERS.map((user) => presence.connections(user, topic));
      this.#expect(
        `number, connections and members of ${topic}, complete, ${what}`,
        [members.length, counts, members, true],
        [presence.count(topic), found, presence.members(topic), presence.isSettled(topic)],
      );
    }
    const online = model.members(undefined).map(({ user }) => user);
    this.#expect(`users online ${what}`, online, presence.online());
    const state = USERS.map((user) => [
      [user, online.includes(user)],
      [model.topicsOf(user), model.seenAt(user)],
    ]);
    const known = USERS.map((user) => [
      [user, presence.isOnline(user)],
      [presence.topicsOf(user), presence.lastSeenAt(user)],
    ]);
    this.#expect(`topics and absences of users ${what}`, state, known);
    const { topics } = this.#node.server;
    const there = this.#guests.map(({ number, rooms, ...guest }) => [
      [number, ...rooms],
      ROOMS.map((room) => [rooms.has(room), guest.topics.has(room)]),
    ]);
    const found = this.#guests.map(({ number, session }) => [
      [number, ...this.#rooms.roomsOf(session)],
      ROOMS.map((room) => [topics.has(session, room), presence.has(session, room)]),
    ]);
    this.#expect(`rooms and subscriptions of sessions ${what}`, there, found);
    const names = ROOMS.filter((room) => this.#guests.some(({ rooms }) => rooms.has(room)));
    this.#expect(`rooms with members ${what}`, names, [...this.#rooms.names()].toSorted());
  }

  #expectEvents(what: string, hasTimes = true): void {
    const model = this.#model.told.splice(0);
    const { expected, told } = compare(model, this.#told.splice(0));
    const plain = (text: string) => text.replace(/!$/, "");
    this.#expect(`events ${what}`, expected, hasTimes ? told : told.map(plain));
    this.#expect(`errors of listeners ${what}`, this.#failures, this.#errors.length);
  }

  #expect(what: string, expected: unknown, received: unknown): void {
    this.#audit.examine("presence", `${what}, of one node`, expected, received);
  }
}

/**
 * Lets sessions enter and leave topics and rooms of one node, beside a model.
 *
 * @param audit The audit.
 */
export async function auditAttendance(audit: Audit): Promise<void> {
  await new Attendance(audit).run();
}
