/** The users in one room, for the components of a page. */
import {
  PRESENCE_PREFIX,
  type PresenceMember,
  type PresenceNotice,
  updateMembers,
} from "../../session/wire/presence_notice.ts";
import { internals } from "../../session/session.ts";
import type { IncomingMessage, TopicNote, TopicSink } from "../../session/message.ts";
import type { WaitOptions } from "../../session/types.ts";
import type { Client } from "../client.ts";
import { Cell, type Rounds } from "./cell.ts";

/** A room as its components see the room. */
export interface PresenceSnapshot {
  /** The users, in the order of their joins. */
  readonly users: readonly PresenceMember[];
  /** Number of users. */
  readonly count: number;
}

/** A room before the first notice. */
export const EMPTY_ROOM: PresenceSnapshot = Object.freeze({
  users: Object.freeze([]) as readonly never[],
  count: 0,
});

/** The rooms of each client, which several providers of a page may share. */
const ROOMS = new WeakMap<Client, Map<string, Room>>();

/** The list of the users in a room, by the notices of the server in every session of a client. */
class Room implements TopicSink {
  readonly users = new Map<string, PresenceMember>();
  /** Number of users in a room that tells only this number. */
  count: number | undefined;
  /** Called after each notice. */
  readonly listeners = new Set<() => void>();
  readonly #client: Client;
  readonly #topic: string;
  readonly #unobserve: () => void;

  constructor(client: Client, room: string) {
    this.#client = client;
    this.#topic = PRESENCE_PREFIX + room;
    // Before the first notice of each session: a session's first requests follow its status.
    this.#unobserve = client.status.observe(() => this.#route(this));
  }

  /** Takes a notice, which the handler or loop of the application gets as well. */
  offer(event: IncomingMessage | TopicNote): true {
    if (event.kind === "message") {
      const notice = event.data as PresenceNotice;
      if (notice.type === "count") this.count = notice.users;
      else updateMembers(this.users, notice);
      for (const listener of this.listeners) listener();
    }
    return true;
  }

  end(): void {
    this.#unobserve();
    this.#route(undefined);
  }

  #route(sink: TopicSink | undefined): void {
    this.#client.session?.[internals].inbound.route(this.#topic, sink);
  }
}

/** The users in a room, for the components of one provider. */
export class PresenceCell extends Cell<PresenceSnapshot> {
  readonly #client: Client;
  readonly #name: string;
  readonly #room: Room;
  readonly #listener = (): void => this.changed();
  #hasData = false;

  /** Listens to the notices of a room. */
  constructor(rounds: Rounds, client: Client, name: string) {
    super(rounds, EMPTY_ROOM);
    this.#client = client;
    this.#name = name;
    const rooms = ROOMS.get(client) ?? new Map<string, Room>();
    ROOMS.set(client, rooms);
    const known = rooms.get(name);
    this.#room = known ?? new Room(client, name);
    rooms.set(name, this.#room);
    this.#room.listeners.add(this.#listener);
    if (known) this.changed();
  }

  /** True once the server sent a notice about the topic. */
  get isRoom(): boolean {
    return this.#room.count !== undefined || this.#room.users.size > 0;
  }

  /** Sets the data of this client in the room, up to the end of the cell. */
  set(data: unknown, options?: WaitOptions): Promise<void> {
    this.#hasData = data !== undefined;
    return this.#client.presence(this.#name, data, options);
  }

  /** Stops listening, and takes the data back. */
  close(): void {
    const { listeners } = this.#room;
    listeners.delete(this.#listener);
    if (listeners.size === 0) {
      ROOMS.get(this.#client)?.delete(this.#name);
      this.#room.end();
    }
    // A client that has ended is in no room.
    if (this.#hasData) this.set(undefined).catch(() => {});
  }

  protected override take(): PresenceSnapshot {
    const { users, count } = this.#room;
    const list = [...users.values()];
    return { users: list, count: count ?? list.length };
  }
}
