/** Common parts of the tests of rooms. */
import { FakeTime } from "@std/testing/time";
import type { Unsubscribed } from "../session/wire/recovery.ts";
import { type Peer, Peers } from "./peers_fixture.ts";
import { Presence, type PresenceOptions } from "./presence/presence.ts";
import { Rooms, type RoomsOptions } from "./presence/rooms.ts";
import type { TopicsOptions } from "./topic_options.ts";
import { Topics } from "./topics.ts";

/** Rooms with their collaborators, at a fake time that starts at 0. */
export class Bench implements AsyncDisposable {
  readonly time = new FakeTime(0);
  readonly peers = new Peers();
  readonly topics: Topics;
  readonly presence: Presence;
  readonly rooms: Rooms;

  constructor(
    options:
      & Pick<PresenceOptions, "graceMs" | "nodes">
      & TopicsOptions
      & Pick<RoomsOptions, "patterns"> = {},
  ) {
    const { graceMs = 1_000, patterns = {}, nodes, ...rest } = options;
    this.topics = new Topics({ settings: this.peers, ...rest });
    this.presence = new Presence({ graceMs, nodes });
    const { topics, presence } = this;
    this.rooms = new Rooms({ patterns, topics, presence });
  }

  connect(user: string, limits: Parameters<Peers["connect"]>[0] = {}): Promise<Peer> {
    return this.peers.connect({ user, ...limits });
  }

  /** Opens a session for each user. */
  connectAll<const U extends readonly string[]>(...users: U): Promise<{ [I in keyof U]: Peer }> {
    return Promise.all(users.map((user) => this.connect(user))) as never;
  }

  /** Opens sessions that join a room, in order. */
  async join<const U extends readonly string[]>(
    room: string,
    ...users: U
  ): Promise<{ [I in keyof U]: Peer }> {
    const peers = await this.connectAll(...users);
    for (const { session } of peers) this.rooms.join(session, room);
    return peers;
  }

  /** Passes time, and lets all notices arrive. */
  async pass(ms: number): Promise<void> {
    this.time.tick(ms);
    await this.peers.endTurn();
    await this.peers.endTurn();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.peers[Symbol.asyncDispose]();
    this.rooms[Symbol.dispose]();
    this.presence[Symbol.dispose]();
    await this.topics[Symbol.asyncDispose]();
    this.time.restore();
  }
}

/** A peer's messages, with abbreviated notices. */
export function received(peer: Peer): unknown[] {
  return peer.take().map((message) => {
    if (!Array.isArray(message)) return `off ${(message as Unsubscribed).unsubscribed}`;
    const [topic, data] = message as [string, Record<string, unknown>];
    if (!topic.startsWith("presence:")) return data;
    switch (data.type) {
      case "count":
        return `count ${data.users}`;
      case "changes":
        return `changes +${users(data.joined)} -${users(data.left)}` +
          (data.connections ? ` ${users(data.connections)}` : "");
      case "members": {
        const page = data.page === undefined ? "" : ` ${data.page}${data.more ? "+" : "."}`;
        return `members${page} ${users(data.members)}`;
      }
      case "connections":
        return `connections ${users([data])}`;
      default:
        return `${data.type} ${data.user}`;
    }
  });
}

function users(list: unknown): string {
  return (list as { user: string; connections?: number }[])
    .map(({ user, connections }) => connections === undefined ? user : `${user}*${connections}`)
    .join(" ");
}
