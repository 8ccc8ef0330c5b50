/**
 * Presence on one node, with sessions that enter and leave topics and rooms. The order of events is
 * compared too.
 */
import { assertEquals } from "@std/assert";
import fc from "fast-check";
import type { Client } from "../../client/client.ts";
import { Presence, type PresenceEvent, Rooms } from "../../pubsub/mod.ts";
import {
  eventText,
  type ModelSession,
  PresenceModel,
} from "../../pubsub/presence/presence_model.ts";
import type { Session } from "../../session/session.ts";
import { type Drawn, maybe, stepOf } from "./draw.ts";
import { property } from "./property.ts";
import { byToken, type World } from "./world.ts";

/** The sessions' users. One of them has two sessions. */
const USERS = ["ada", "ada", "bob", "cyd"] as const;

/** Topics with presence, and rooms. */
const [TOPICS, ROOMS] = [["one", "two"], ["room:one", "room:two"]] as const;

/** Minimum time between a comparison and the end of a grace period, in milliseconds. */
const APART_MS = 4;

const session = fc.nat(USERS.length - 1);
const topic = fc.constantFrom(TOPICS[0], ...TOPICS);
const room = fc.constantFrom(ROOMS[0], ...ROOMS);
/** There are only a few numbers, so that a session may also set unchanged data. */
const data = maybe(fc.nat(4));

/** A change by the program or by a listener. */
const change = fc.oneof(
  stepOf("enter", { session, topic, data }),
  stepOf("leave", { session, topic }),
  stepOf("update", { session, topic, data }),
  stepOf("come online", { session }),
  stepOf("go offline", { session }),
  stepOf("join a room", { session, room, data }),
  stepOf("update in a room", { session, room, data }),
  stepOf("leave a room", { session, room }),
  stepOf("unsubscribe", { session, room }),
);

/** A change whose first event causes another change, or a pause, or a session that closes. */
const step = fc.oneof(
  { weight: 8, arbitrary: fc.record({ change, reaction: fc.option(change, { freq: 2 }) }) },
  // Grace periods of 0 to 300 ms end within some of these.
  { weight: 3, arbitrary: fc.record({ waitMs: fc.constantFrom(0, 40, 160, 400) }) },
  { weight: 1, arbitrary: fc.record({ closes: session }) },
  { weight: 1, arbitrary: fc.record({ clockJumpsMs: fc.constantFrom(3_600_000, -3_600_000) }) },
);

type Change = Drawn<typeof change>;

/** A session on the node, and its part of the model. */
interface Visitor extends ModelSession {
  readonly session: Session;
  readonly client: Client;
  readonly rooms: Set<typeof ROOMS[number]>;
  /** Data per room, including rooms that the session has not joined. */
  readonly kept: Map<string, unknown>;
}

/** A presence, its rooms, and the model. */
class Attendance {
  readonly presence: Presence;
  readonly rooms: Rooms;
  readonly model: PresenceModel;
  readonly visitors: Visitor[] = [];
  /** The change that a listener will make during the next event. */
  reaction: Change | null = null;
  readonly #node;
  readonly #events: PresenceEvent[] = [];
  #numbers = 0;
  readonly #expectedErrors: Error[] = [];
  readonly #errors: unknown[] = [];

  constructor(readonly world: World, { graceMs, maxLastSeen }: {
    readonly graceMs: number;
    readonly maxLastSeen: number;
  }) {
    this.#node = world.serve("node", () => ({ ...byToken, onMessage() {} }));
    const { host: { runtime }, server: { topics } } = this.#node;
    const onError = (error: unknown) => void this.#errors.push(error);
    this.presence = new Presence({ runtime, graceMs, maxLastSeen, onError });
    this.rooms = new Rooms({ topics, presence: this.presence });
    this.model = new PresenceModel({ graceMs, maxLastSeen, now: () => runtime.now() });
    this.presence.subscribe((event) => void this.#events.push(event));
    // A failing listener must not hide events from the others.
    this.presence.subscribe(() => {
      const error = new Error("failed");
      this.#expectedErrors.push(error);
      throw error;
    });
    this.presence.subscribe(() => {
      const { reaction } = this;
      this.reaction = null;
      if (reaction !== null) this.make(reaction);
    });
  }

  /** Opens a session of a user. */
  async open(index: number): Promise<void> {
    const { manager } = this.#node.server;
    const number = this.#numbers++;
    const user = USERS[index]!;
    const before = manager.all();
    const client = this.world.connect(`page-${number}`, this.#node.host, { token: () => user });
    const added = () => manager.all().find((one) => !before.includes(one));
    await this.world.until("a session", () => added() !== undefined && client.isConnected);
    this.visitors[index] = {
      user,
      number,
      session: added() as unknown as Session,
      client,
      topics: new Set(),
      rooms: new Set(),
      kept: new Map(),
    };
    await this.pass(0);
  }

  /** Closes a session and opens another session of the same user. */
  async reopen(index: number): Promise<void> {
    const visitor = this.visitors[index]!;
    const { session, client } = visitor;
    const left = session.closed.then(() => {
      this.model.leaveAll(visitor);
      visitor.rooms.clear();
    });
    await client.close();
    await left;
    await this.pass(0);
    this.look();
    assertEquals(this.rooms.roomsOf(session), []);
    assertEquals(this.presence.enter(session, TOPICS[0]), false, "entry of a closed session");
    await this.open(index);
  }

  /** Makes a change in the presence and in the model. */
  make(one: Change): void {
    const { model, presence, rooms } = this;
    const visitor = this.visitors[one.session]!;
    const { session } = visitor;
    const expected = this.#expect(one, visitor);
    switch (one.kind) {
      case "enter":
        return same(expected, presence.enter(session, one.topic, { data: one.data }));
      case "leave":
        return same(expected, presence.leave(session, one.topic));
      case "update":
        return same(expected, presence.update(session, one.topic, { data: one.data }));
      case "come online":
        return same(expected, presence.enter(session));
      case "go offline": {
        for (const room of [...visitor.rooms]) this.make({ ...one, kind: "unsubscribe", room });
        // A listener may have rejoined a room.
        if (visitor.rooms.size > 0) return;
        return same(model.leaveAll(visitor), presence.leave(session));
      }
      case "join a room": {
        const options = one.data === undefined ? {} : { data: one.data };
        return same(expected, rooms.join(session, one.room, options));
      }
      case "update in a room":
        return same(expected, rooms.update(session, one.room, { data: one.data }));
      case "leave a room":
        return same(expected, rooms.leave(session, one.room));
      case "unsubscribe":
        return same(expected, this.#node.server.topics.unsubscribe(session, one.room));
    }
  }

  /** Lets time pass, but not exactly until the end of a grace period. */
  async pass(ms: number): Promise<void> {
    await this.world.pause(ms);
    const { runtime } = this.#node.host;
    const isNear = (endMs: number) => Math.abs(endMs - runtime.now()) < APART_MS;
    while (this.model.ends.some(isNear)) await this.world.pause(1);
    this.model.expire();
  }

  /** Sets the clock. A running grace period must still end on time. */
  async setClock(byMs: number, graceMs: number): Promise<void> {
    this.#node.host.jumpClock(byMs);
    await this.world.pause(graceMs + APART_MS);
    this.model.expire(true);
    this.look({ hasTimes: false });
  }

  /** Compares everything that the presence and the rooms report with the model. */
  look({ hasTimes = true } = {}): void {
    const { model, presence, rooms } = this;
    const told = this.#events.splice(0).map(({ at, ...event }) => {
      const session = "session" in event ? event.session : undefined;
      const number = this.visitors.find((visitor) => visitor.session === session)?.number;
      const text = eventText({ ...event, session: number });
      const seenAt = "lastSeenAt" in event ? event.lastSeenAt : undefined;
      return hasTimes ? { text, at, ...(seenAt && { seenAt }) } : text;
    });
    const events = model.events.splice(0);
    assertEquals(told, hasTimes ? events : events.map(({ text }) => text));
    assertEquals(this.#errors, this.#expectedErrors, "errors of listeners");
    for (const topic of [...TOPICS, ...ROOMS]) {
      assertEquals(presence.members(topic), model.members(topic) as unknown[], topic);
      assertEquals(presence.count(topic), model.members(topic).length);
    }
    const online = model.members(undefined).map((member) => (member as ModelSession).user);
    assertEquals(presence.online(), online);
    for (const user of USERS) {
      assertEquals(presence.topicsOf(user), model.topicsOf(user));
      assertEquals(presence.lastSeenAt(user), model.lastSeenAt(user), `last sight of ${user}`);
      assertEquals(presence.isOnline(user), online.includes(user));
      for (const topic of [...TOPICS, ...ROOMS]) {
        const member = presence.members(topic).find((one) => one.user === user);
        assertEquals(presence.connections(user, topic), member?.connections ?? 0);
      }
    }
    for (const { session, rooms: joined, topics } of this.visitors) {
      assertEquals(rooms.roomsOf(session), [...joined]);
      for (const topic of [...TOPICS, ...ROOMS]) {
        assertEquals(presence.has(session, topic), topics.has(topic));
      }
    }
    const open = ROOMS.filter((room) => this.visitors.some((one) => one.rooms.has(room)));
    assertEquals([...rooms.names()].toSorted(), open, "rooms with members");
  }

  close(): void {
    this.presence[Symbol.dispose]();
    this.rooms[Symbol.dispose]();
  }

  /** Makes a change in the model and returns the expected result of the call. */
  #expect(one: Change, visitor: Visitor): boolean {
    const { model } = this;
    const { rooms, kept } = visitor;
    switch (one.kind) {
      case "enter":
        return model.enter(visitor, one.topic, one.data);
      case "leave":
        return model.leave(visitor, one.topic, false);
      case "update":
        return model.update(visitor, one.topic, one.data);
      case "come online":
        return model.enter(visitor, undefined);
      case "go offline":
        return visitor.topics.size > 0;
      case "join a room": {
        const isNew = !rooms.has(one.room);
        if (one.data !== undefined) kept.set(one.room, one.data);
        if (one.data !== undefined) model.update(visitor, one.room, one.data);
        rooms.add(one.room);
        if (isNew) model.enter(visitor, one.room, kept.get(one.room));
        // If this call only updates a membership and a listener ends it, the outcome is undefined.
        else this.reaction = null;
        return isNew;
      }
      case "update in a room":
        kept.set(one.room, one.data);
        return model.update(visitor, one.room, one.data);
      case "leave a room":
      case "unsubscribe":
        // A user who leaves a room explicitly has no grace period.
        model.leave(visitor, one.room, true);
        return rooms.delete(one.room);
    }
  }
}

property("a node reports users who come and go in order, even while listeners make changes", {
  cases: fc.record({
    graceMs: fc.constantFrom(0, 100, 300),
    maxLastSeen: fc.constantFrom(10, 0, 1, 2),
    steps: fc.array(step, { maxLength: 40, size: "max" }),
  }),
  async check(world, { steps, ...bounds }) {
    const attendance = new Attendance(world, bounds);
    world.onEnd(() => attendance.close());
    for (const index of USERS.keys()) await attendance.open(index);
    for (const one of steps) {
      if ("change" in one) {
        attendance.reaction = one.reaction;
        attendance.make(one.change);
        attendance.reaction = null;
      } else if ("closes" in one) await attendance.reopen(one.closes);
      else if ("waitMs" in one) await attendance.pass(one.waitMs);
      else await attendance.setClock(one.clockJumpsMs, bounds.graceMs);
      attendance.look();
    }
    for (const index of USERS.keys()) await attendance.reopen(index);
    await attendance.pass(bounds.graceMs + APART_MS);
    attendance.look();
    assertEquals(attendance.presence.online(), [], "users online after all sessions");
  },
});

function same(expected: boolean, received: boolean): void {
  assertEquals(received, expected);
}
