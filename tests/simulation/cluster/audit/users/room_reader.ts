/** The members of a room as a page reads them from notices, and the faults of the notices. */
import {
  PRESENCE_PREFIX,
  type PresenceNotice,
} from "../../../../../session/wire/presence_notice.ts";
import type { Heard } from "./page.ts";

/** A user in a list or in a change. */
interface Named {
  readonly user: string;
  readonly data?: unknown;
}

/** Reads the notices of one room on one page. */
export class RoomReader {
  /** Notices that the protocol does not allow, in words. */
  readonly faults: string[] = [];
  /** True once the page asked for the room, until the page leaves the room. */
  isIn = false;
  readonly #room: string;
  readonly #topic: string;
  /** Numbers of the requests that leave the room. */
  readonly #leaves = new Set<number>();
  /** Number of subscriptions whose end is not confirmed. */
  #entries = 0;
  /** The members; `undefined` before the list. */
  #members: Map<string, unknown> | undefined;
  #count: number | undefined;
  #hasMore = false;

  /**
   * Reads nothing yet.
   *
   * @param room The room.
   */
  constructor(room: string) {
    this.#room = room;
    this.#topic = PRESENCE_PREFIX + room;
  }

  /** The members with their data by name, or the number of users; `undefined` before the list. */
  get known(): unknown {
    if (this.#members === undefined || this.#hasMore) return this.#count;
    return [...this.#members].toSorted(([a], [b]) => a < b ? -1 : 1);
  }

  /** Notes that the page asks for the room. */
  enter(): void {
    this.isIn = true;
    this.#entries++;
  }

  /**
   * Notes that the page leaves the room.
   *
   * @param id Number of the request; left out, the server removes the page.
   */
  leave(id?: number): void {
    this.isIn = false;
    if (id !== undefined) this.#leaves.add(id);
  }

  /**
   * Hears an envelope.
   *
   * @param heard The envelope.
   */
  hear({ reply, topic, data, unsubscribed }: Heard): void {
    const isLeft = typeof reply === "number" && this.#leaves.delete(reply);
    if (isLeft || unsubscribed === this.#room) {
      this.#entries--;
      this.#members = this.#count = undefined;
      this.#hasMore = false;
    }
    if (topic !== this.#topic) return;
    const notice = data as PresenceNotice;
    if (this.#entries === 0) return this.#blame(`${notice.type} outside of the room`);
    switch (notice.type) {
      case "members":
        return this.#list(notice.members, notice.page ?? 0, notice.more === true);
      case "count":
        return void (this.#count = notice.users);
      case "join":
        return this.#join(notice);
      case "leave":
        return this.#leave(notice.user);
      case "update":
        return this.#update(notice);
      case "changes":
        notice.left.forEach(({ user }) => this.#leave(user));
        notice.joined.forEach((one) => this.#join(one));
        notice.updated?.forEach((one) => this.#update(one));
    }
  }

  #list(members: readonly Named[], page: number, hasMore: boolean): void {
    if (page === 0) this.#members = new Map();
    else if (!this.#hasMore) this.#blame(`part ${page} of a list without the part before`);
    this.#hasMore = hasMore;
    for (const { user, data } of members) {
      if (this.#members?.has(user)) this.#blame(`${user} twice in a list`);
      this.#members?.set(user, data);
    }
  }

  #join({ user, data }: Named): void {
    const isKnown = this.#change("join").has(user);
    if (isKnown) this.#blame(`join of ${user}, who is there`);
    this.#members?.set(user, data);
  }

  #leave(user: string): void {
    if (!this.#change("leave").delete(user)) this.#blame(`leave of ${user}, who is not there`);
  }

  #update({ user, data }: Named): void {
    if (!this.#change("update").has(user)) this.#blame(`update of ${user}, who is not there`);
    this.#members?.set(user, data);
  }

  /** The members that a change is about. */
  #change(what: string): Map<string, unknown> {
    if (this.#members !== undefined && !this.#hasMore) return this.#members;
    this.#blame(`${what} before the list`);
    return this.#members ??= new Map();
  }

  #blame(fault: string): void {
    this.faults.push(fault);
  }
}
