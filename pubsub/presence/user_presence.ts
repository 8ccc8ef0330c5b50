/**
 * A user in one place, and what each node has of it.
 *
 * @module
 */
import type { PresenceMember } from "../../session/wire/presence_notice.ts";
import type { Session } from "../../session/session.ts";
import { isNumber } from "../nodes/message.ts";
import type { DirectoryScope } from "../nodes/directory_types.ts";

/**
 * Entry of a node about a user: connections, since when, without connections when there was one last,
 * and the newest data of its sessions. Nodes before 0.2 leave out an entry that has data.
 */
export type StayEntry =
  | readonly [connections: number, joinedAt: number, lastSeenAt?: number]
  | readonly [
    connections: number,
    joinedAt: number,
    lastSeenAt: number,
    setAt: number,
    data: unknown,
  ];

/** Data with which a user is present. */
export interface StayData {
  /** When it was set, in milliseconds since the Unix epoch; later than all that its node knew of then. */
  readonly setAt: number;
  /** The node on which it was set, which decides between two of the same time. */
  readonly node: string;
  /** The data, as JSON holds it. */
  readonly value: unknown;
}

/** A topic, or being online at all. */
export interface Place {
  /** The topic; `undefined` is being online. */
  readonly topic: string | undefined;
  /** Who is there. */
  readonly stays: Map<string, Stay>;
  /** What the nodes know of it; absent where there is one node only. */
  scope: DirectoryScope<StayEntry> | undefined;
  /** Whether the other nodes said who is there. */
  isSettled: boolean;
  /** Users of this node who are there. */
  here: number;
  /** Who wants to know of it, beside them. */
  followers: number;
}

/** The connections that a user has by way of one node. */
export interface Part {
  /** The user and the place. */
  readonly stay: Stay;
  /** The other node; `undefined` is this one. */
  readonly node: string | undefined;
  /** How many. */
  connections: number;
  /** When the last connection went; says nothing while there is one. */
  lastSeenAt: number;
  /** The newest that its sessions set; without connections, what they had last. */
  data: StayData | undefined;
}

/** A user in one place. */
export class Stay {
  /** Where. */
  readonly place: Place;
  /** Who. */
  readonly user: string;
  /** When the first connection came, on any node. */
  joinedAt: number;
  /** What this node has of it. */
  here: Part | undefined = undefined;
  /** What others have of it, by node. */
  others: Map<string, Part> | undefined = undefined;
  /** The session that came, while nobody was told because the other nodes were not heard yet. */
  untold: Session | undefined = undefined;
  /** When the user was last connected, as far as it was by a node that let go. */
  lastSeenAt = 0;
  /** The data that stands for the user; {@linkcode Stay.refresh} finds it. */
  data: StayData | undefined = undefined;
  /** Data of each session of this node. */
  #own: Map<Session, StayData> | undefined = undefined;

  /** Creates a stay of which no node has anything yet. */
  constructor(place: Place, user: string, joinedAt: number) {
    this.place = place;
    this.user = user;
    this.joinedAt = joinedAt;
  }

  /** How many connections the user has there. */
  get connections(): number {
    let sum = this.here?.connections ?? 0;
    for (const { connections } of this.others?.values() ?? []) sum += connections;
    return sum;
  }

  /** The same for everybody to see. */
  get member(): PresenceMember {
    const { user, connections, joinedAt, data } = this;
    const member = { user, connections, joinedAt };
    return data === undefined ? member : { ...member, data: data.value };
  }

  /** When the user was last connected, if it is not now. */
  get seenAt(): number {
    let latest = Math.max(this.lastSeenAt, this.here?.lastSeenAt ?? 0);
    for (const { lastSeenAt } of this.others?.values() ?? []) {
      latest = Math.max(latest, lastSeenAt);
    }
    return latest;
  }

  /** Whether no node has anything of it any more. */
  get isOver(): boolean {
    return this.here === undefined && !this.others?.size;
  }

  /** What is of a node; made if there is nothing yet. */
  partOf(node: string): Part {
    this.others ??= new Map();
    let part = this.others.get(node);
    if (part === undefined) {
      part = { stay: this, node, connections: 0, lastSeenAt: 0, data: undefined };
      this.others.set(node, part);
    }
    return part;
  }

  /**
   * Takes the data of a session of this node; `undefined` takes it back. A clock that is behind loses
   * nothing: what is set after something else was known is newer than that.
   */
  setData(session: Session, node: string, value: unknown): void {
    if (value === undefined) this.#own?.delete(session);
    else {
      const setAt = Math.max(Date.now(), (this.data?.setAt ?? 0) + 1);
      (this.#own ??= new Map()).set(session, { setAt, node, value });
    }
    this.#findOwn();
  }

  /** A session of this node is gone, and its data with it; that of the last one stays for the grace. */
  dropData(session: Session): void {
    if (this.#own?.delete(session) && this.here!.connections > 0) this.#findOwn();
  }

  /** The first session is back within the grace: what the user had before is over. */
  forgetData(): void {
    this.here!.data = undefined;
  }

  /**
   * Finds the data that stands for the user: the newest that is set by a session that is there, on any
   * node, and while none is there the newest that was.
   *
   * @returns Whether it is other than before.
   */
  refresh(): boolean {
    const isAway = this.connections === 0;
    let newest: StayData | undefined;
    const see = ({ connections, data }: Part) => {
      if (data !== undefined && (isAway || connections > 0) && isNewer(data, newest)) newest = data;
    };
    if (this.here !== undefined) see(this.here);
    for (const part of this.others?.values() ?? []) see(part);
    const before = this.data;
    this.data = newest;
    if (before === newest) return false;
    return JSON.stringify(before?.value) !== JSON.stringify(newest?.value);
  }

  /** Tells the other nodes what this one has. */
  share(): void {
    const { here, joinedAt, user, place: { scope } } = this;
    if (scope === undefined || here === undefined) return;
    const { connections, lastSeenAt, data } = here;
    if (data !== undefined) {
      const seenAt = connections > 0 ? 0 : lastSeenAt;
      scope.set(user, [connections, joinedAt, seenAt, data.setAt, data.value]);
    } else scope.set(user, connections > 0 ? [connections, joinedAt] : [0, joinedAt, lastSeenAt]);
  }

  #findOwn(): void {
    let newest: StayData | undefined;
    for (const data of this.#own?.values() ?? []) if (isNewer(data, newest)) newest = data;
    this.here!.data = newest;
  }
}

function isNewer(data: StayData, than: StayData | undefined): boolean {
  if (than === undefined || data.setAt !== than.setAt) return data.setAt > (than?.setAt ?? -1);
  return data.node > than.node;
}

/** Reads what a node told of a user. */
export function readStayEntry(value: unknown): StayEntry | undefined {
  if (!Array.isArray(value)) return undefined;
  const { length } = value;
  const isEntry = length === 5
    ? value.slice(0, 4).every(isNumber)
    : (length === 2 || length === 3) && value.every(isNumber);
  return isEntry ? value as unknown as StayEntry : undefined;
}
