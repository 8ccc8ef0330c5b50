/** Presence: users that have data in rooms, and the notices about them. */
import { PRESENCE_PREFIX, type PresenceNotice } from "../../../../session/wire/presence_notice.ts";
import { oneOf } from "../chance.ts";
import { type Program, WAIT_MS } from "../program.ts";

/** Mean interval between changes to a user's data, in milliseconds. */
const UPDATE_EVERY_MS = 12_000;

/**
 * Sets presence data in rooms from time to time.
 *
 * @param rooms The rooms of the client.
 */
export function bePresent(program: Program, rooms: readonly string[]): void {
  if (rooms.length === 0) return;
  const { client, name } = program;
  program.every(UPDATE_EVERY_MS, "presence", (random) => {
    const room = oneOf(random, rooms);
    const data = random() < 0.1 ? undefined : { mood: Math.floor(1_000 * random()) };
    program.tell("presenceSet", { client: name, room, ...(data && { data }) });
    const set = client.presence(room, data, { timeoutMs: WAIT_MS });
    program.wait(`presence in ${room}`, set).catch((error) => {
      program.failed("presence failed", error);
      program.tell("presenceFailed", { client: name, room });
    });
  });
}

/** Collects room lists that arrive in parts, for one program. */
export class RoomNotices {
  readonly #program: Program;
  readonly #parts = new Map<string, string[]>();

  /** Starts without rooms. */
  constructor(program: Program) {
    this.#program = program;
  }

  /**
   * Handles a message if it is a notice.
   *
   * @returns True if the message is a notice.
   */
  take(topic: string, data: unknown): boolean {
    if (!topic.startsWith(PRESENCE_PREFIX)) return false;
    const room = topic.slice(PRESENCE_PREFIX.length);
    const notice = data as PresenceNotice;
    this.#program.note(`notice ${notice.type} of ${room}`);
    const observer = this.#observerOf(room);
    // This notice was in flight when the client left the room. The next one may arrive much later.
    if (observer === undefined) return true;
    if (notice.type === "members") this.#list(room, observer, notice);
    else if (notice.type === "changes") {
      for (const { user } of notice.joined) this.#tell(observer, room, "joined", user);
      for (const { user } of notice.left) this.#tell(observer, room, "left", user);
      for (const { user } of notice.updated ?? []) this.#tell(observer, room, "updated", user);
    } else if (notice.type === "join") this.#tell(observer, room, "joined", notice.user);
    else if (notice.type === "leave") this.#tell(observer, room, "left", notice.user);
    else if (notice.type === "update") this.#tell(observer, room, "updated", notice.user);
    return true;
  }

  #list(
    room: string,
    observer: string,
    { members, page = 0, more }: Extract<PresenceNotice, { readonly type: "members" }>,
  ): void {
    const before = page === 0 ? [] : this.#parts.get(room) ?? [];
    const users = [...before, ...members.map(({ user }) => user)];
    if (more) return void this.#parts.set(room, users);
    this.#parts.delete(room);
    this.#program.tell("members", { observer, room, users });
  }

  #tell(observer: string, room: string, change: "joined" | "left" | "updated", user: string) {
    this.#program.tell("presence", { observer, room, change, user });
  }

  /** Returns the name of the room's subscription, if there is one. */
  #observerOf(room: string): string | undefined {
    for (const [name, { topic }] of this.#program.subscriptions) if (topic === room) return name;
    return undefined;
  }
}
