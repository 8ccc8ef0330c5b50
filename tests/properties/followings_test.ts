/** Rooms that nodes follow for a while, as users and other nodes come and go. */
import { assertEquals } from "@std/assert";
import fc from "fast-check";
import type { Client } from "../../client/client.ts";
import type { Subscription } from "../../client/subscriptions/subscription.ts";
import type { PresenceEvent } from "../../pubsub/mod.ts";
import type { SimulatedServer } from "../simulator/mod.ts";
import { type Drawn, stepOf } from "./draw.ts";
import { FailingStore, serveRooms } from "./failing_store.ts";
import { BEAT_MS, GONE_MS, KNOWN_MS } from "./nodes.ts";
import { property } from "./property.ts";
import type { World } from "./world.ts";

const USERS = ["ada", "bob", "cyd"] as const;
const ROOMS = ["room:far", "room:near"] as const;

/** Grace period of a user without sessions, and time for messages in flight, in milliseconds. */
const [GRACE_MS, ROUND_MS] = [900, 700] as const;

const node = fc.nat(2);
const user = fc.constantFrom(...USERS);
const room = fc.constantFrom(...ROOMS);

const steps = fc.array(
  fc.oneof(
    stepOf("follow", { node, room }, 5),
    stepOf("enter", { user, node, room, hasData: fc.boolean() }, 4),
    stepOf("leave", { user, room }),
    stepOf("close", { user }),
    stepOf("wait", { ms: fc.constantFrom(50, 300, GONE_MS - BEAT_MS, KNOWN_MS) }, 3),
    stepOf("kill", { node, hasReturn: fc.boolean() }),
    stepOf("freeze", {
      node,
      forMs: fc.constantFrom(GONE_MS / 2, KNOWN_MS, KNOWN_MS + GRACE_MS + ROUND_MS),
    }),
    stepOf("rest", {}, 2),
  ),
  { maxLength: 30, size: "max" },
);

type Step = Drawn<typeof steps>[number];
type StepOf<K extends Step["kind"]> = Extract<Step, { readonly kind: K }>;

/** A user's only session, with its data in each room. */
interface Visitor {
  /** Name of its machine. */
  readonly name: string;
  readonly node: SimulatedServer<string>;
  readonly client: Client;
  readonly rooms: Map<string, { data: number | undefined; subscription: Subscription }>;
}

/** A node in one of its lives. */
class Follower {
  /**
   * The rooms that the node follows, each with the members according to the first list and the
   * changes since then.
   */
  readonly followings = new Map<string, { end: Disposable; members?: Map<string, unknown> }>();
  /** Rooms that the node's sessions have been in since the last comparison. */
  readonly own = new Set<string>();
  /** Changes in other rooms, and changes that contradict earlier changes. */
  readonly wrong: string[] = [];

  constructor(readonly node: SimulatedServer<string>) {
    node.server.presence.subscribe((event) => this.#hear(event));
  }

  /** Follows a room, or stops following it. */
  toggle(room: string): void {
    const following = this.followings.get(room);
    if (following !== undefined) {
      this.followings.delete(room);
      return following.end[Symbol.dispose]();
    }
    const { presence } = this.node.server;
    const end = presence.follow(room);
    const begun: { end: Disposable; members?: Map<string, unknown> } = { end };
    this.followings.set(room, begun);
    void end.ready.then(() => {
      begun.members = new Map(presence.members(room).map(({ user, data }) => [user, data]));
    });
  }

  #hear({ type, topic, user, ...event }: PresenceEvent): void {
    if (topic === undefined) return;
    const following = this.followings.get(topic);
    if (following === undefined && !this.own.has(topic)) {
      this.wrong.push(`${type} of ${user} in ${topic}`);
    }
    const members = following?.members;
    if (members?.has(user) === (type === "join")) this.wrong.push(`${type} of ${user} once more`);
    if (type === "leave") members?.delete(user);
    else members?.set(user, "data" in event ? event.data : undefined);
  }
}

/** Three nodes and their users' sessions. */
class Followings {
  readonly #followers: Follower[];
  readonly #visitors = new Map<string, Visitor>();
  #names = 0;
  #newest = 0;

  constructor(readonly world: World, delayMs: number) {
    const store = new FailingStore(world);
    store.delayMs = delayMs;
    this.#followers = ["a", "b", "c"].map((name) =>
      new Follower(serveRooms(world, name, store, GRACE_MS))
    );
  }

  async play(step: Step): Promise<void> {
    const follower = "node" in step ? this.#followers[step.node] : undefined;
    const host = follower?.node.host;
    const isCalm = this.#followers.every(({ node }) => node.host.isAlive && !node.host.isFrozen);
    const one = "user" in step ? this.#visitors.get(step.user) : undefined;
    // A frozen node answers later.
    if (one?.node.host.isFrozen) return;
    switch (step.kind) {
      case "follow":
        if (host!.isAlive && !host!.isFrozen) follower!.toggle(step.room);
        return;
      case "enter":
        return await this.#enter(step, one);
      case "leave":
        await one?.rooms.get(step.room)?.subscription.unsubscribe();
        return void one?.rooms.delete(step.room);
      case "close":
        this.#visitors.delete(step.user);
        return await one?.client.close();
      case "wait":
        return await this.world.pause(step.ms);
      case "kill":
        return isCalm ? await this.#kill(follower!, step) : undefined;
      case "freeze":
        if (!isCalm) return;
        host!.freeze();
        return void this.world.simulation.after(step.forMs, () => host!.thaw());
      case "rest":
        return await this.rest();
    }
  }

  /** Makes a user join a room or change its data there. */
  async #enter({ user, node, room, hasData }: StepOf<"enter">, one?: Visitor): Promise<void> {
    const follower = this.#followers.find((other) => other.node === one?.node) ??
      this.#followers[node]!;
    const { host } = follower.node;
    if (!host.isAlive || host.isFrozen) return;
    follower.own.add(room);
    const name = one?.name ?? `${user}-${this.#names++}`;
    const client = one?.client ??
      this.world.connect(name, host, { token: () => user, onMessage() {} });
    const rooms = one?.rooms ?? new Map();
    await this.world.until("a session", () => client.isConnected);
    this.#visitors.set(user, { name, node: follower.node, client, rooms });
    const data = hasData ? ++this.#newest : undefined;
    await client.presence(room, data);
    const subscription = rooms.get(room)?.subscription ?? client.subscribe(room);
    await subscription.ready;
    rooms.set(room, { data, subscription });
  }

  /**
   * Kills a node. Within its users' grace period, the other nodes stop following and may follow
   * again.
   */
  async #kill({ node }: Follower, { hasReturn }: StepOf<"kill">): Promise<void> {
    node.host.kill({ power: true });
    for (const [user, one] of this.#visitors) {
      if (one.node !== node) continue;
      this.#visitors.delete(user);
      this.world.host(one.name).kill({ power: true });
    }
    await this.world.pause(KNOWN_MS);
    for (const other of this.#followers.filter(({ node: { host } }) => host.isAlive)) {
      for (const room of [...other.followings.keys()]) {
        other.toggle(room);
        if (hasReturn) other.toggle(room);
      }
    }
  }

  /** Compares the nodes' state with the sessions, once all nodes know each other again. */
  async rest(): Promise<void> {
    await this.world.until(
      "the end of each freeze",
      () => this.#followers.every(({ node }) => !node.host.isFrozen),
    );
    await this.world.pause(KNOWN_MS);
    for (const [i, { node }] of this.#followers.entries()) {
      if (node.host.isAlive) continue;
      node.restart();
      this.#followers[i] = new Follower(node);
    }
    await this.world.pause(KNOWN_MS + BEAT_MS + GRACE_MS + ROUND_MS);
    for (const { node, followings, own, wrong } of this.#followers) {
      const { host: { name }, server: { presence } } = node;
      assertEquals(wrong, [], `wrong changes at ${name}`);
      own.clear();
      const known = new Set<string>(followings.keys());
      for (const room of ROOMS) {
        const members = [...this.#visitors].filter(([, { rooms }]) => rooms.has(room))
          .map(([user, { rooms }]) => [user, rooms.get(room)!.data]).toSorted();
        const following = followings.get(room);
        for (const one of this.#visitors.values()) {
          if (one.node === node && one.rooms.has(room)) own.add(room);
        }
        if (own.has(room)) known.add(room);
        const listed = presence.members(room)
          .map(({ user, data, connections }) => [user, data, connections]).toSorted();
        const expected = known.has(room) ? members.map((member) => [...member, 1]) : [];
        assertEquals<unknown>(listed, expected, `members of ${room} at ${name}`);
        if (following === undefined) continue;
        const told = [...following.members ?? []].toSorted();
        assertEquals<unknown>(told, members, `changes of ${room} at ${name}`);
      }
      for (const user of USERS) {
        const rooms = this.#visitors.get(user)?.rooms;
        const expected = ROOMS.filter((room) => known.has(room) && rooms?.has(room));
        assertEquals(presence.topicsOf(user).toSorted(), expected, `rooms of ${user} at ${name}`);
      }
    }
  }
}

property("a node knows the users of the rooms that it follows, and of no others", {
  cases: fc.record({ delayMs: fc.constantFrom(0, 60), steps }),
  async check(world, { delayMs, steps }) {
    const followings = new Followings(world, delayMs);
    await followings.rest();
    for (const step of steps) await followings.play(step);
    await followings.rest();
  },
});
