/** A user in one place, and the connections and data that each node reports. */
import type { PresenceMember } from "../../session/wire/presence_notice.ts";
import type { Session } from "../../session/session.ts";
import type { Runtime } from "../../base/runtime.ts";
import { isNumber } from "../nodes/message.ts";
import type { DirectoryScope } from "../nodes/directory_types.ts";

/**
 * Entry of a node about a user: the number of connections, the time of the first one, the time of the
 * last one if there are no connections now, and the newest data of the user's sessions on that node.
 * Nodes before 0.2 ignore an entry that has data.
 */
export type PresenceEntry =
  | readonly [connections: number, joinedAt: number, lastSeenAt?: number]
  | readonly [
    connections: number,
    joinedAt: number,
    lastSeenAt: number,
    setAt: number,
    data: unknown,
  ];

/** Data with which a user is present. */
export interface PresenceData {
  /**
   * Time of setting, in milliseconds since the Unix epoch; later than that of any data of this user
   * that the node knew then.
   */
  readonly setAt: number;
  /** Id of the node on which the data was set; decides between two data of the same time. */
  readonly node: string;
  /** The data, as JSON holds values. */
  readonly value: unknown;
}

/** A topic, or the state of being online. */
export interface PresenceScope {
  /** The topic; `undefined` means being online. */
  readonly topic: string | undefined;
  /** The stays of the users in this place, by user. */
  readonly stays: Map<string, UserPresence>;
  /** The entries of all nodes; absent if the place is not shared with other nodes. */
  scope: DirectoryScope<PresenceEntry> | undefined;
  /** True when the other nodes have sent the users of this place. */
  isSettled: boolean;
  /** Number of users that this node has in the place. */
  here: number;
  /** Number of followers, which want to know of the place without being present. */
  followers: number;
}

/** The connections of a user to one node. */
export interface NodePresence {
  /** The user and the place. */
  readonly stay: UserPresence;
  /** Id of the other node; `undefined` means this node. */
  readonly node: string | undefined;
  connections: number;
  /** Time at which the last connection left; meaningless while there are connections. */
  lastSeenAt: number;
  /** The newest data of the user's sessions on the node; without connections, the last data. */
  data: PresenceData | undefined;
}

/** A user in one place. */
export class UserPresence {
  readonly place: PresenceScope;
  readonly user: string;
  /** Time of the first connection, on any node. */
  joinedAt: number;
  /** The connections to this node. */
  here: NodePresence | undefined = undefined;
  /** The connections to other nodes, by node. */
  others: Map<string, NodePresence> | undefined = undefined;
  /** The session whose join has not been told yet, because other nodes may already have the user. */
  untold: Session | undefined = undefined;
  /** Latest time of a connection to a node that has removed the user. */
  lastSeenAt = 0;
  /** The data that stands for the user, as found by {@linkcode UserPresence.refresh}. */
  data: PresenceData | undefined = undefined;
  /** Data of each session of this node. */
  #own: Map<Session, PresenceData> | undefined = undefined;
  readonly #runtime: Runtime;

  /** Creates a stay without connections. */
  constructor(runtime: Runtime, place: PresenceScope, user: string, joinedAt: number) {
    this.#runtime = runtime;
    this.place = place;
    this.user = user;
    this.joinedAt = joinedAt;
  }

  /** Number of connections, on all nodes. */
  get connections(): number {
    let sum = this.here?.connections ?? 0;
    for (const { connections } of this.others?.values() ?? []) sum += connections;
    return sum;
  }

  /** The user as other members see the user. */
  get member(): PresenceMember {
    const { user, connections, joinedAt, data } = this;
    const member = { user, connections, joinedAt };
    return data === undefined ? member : { ...member, data: data.value };
  }

  /** Time of the last connection, on any node; meaningless while there are connections. */
  get seenAt(): number {
    let latest = Math.max(this.lastSeenAt, this.here?.lastSeenAt ?? 0);
    for (const { lastSeenAt } of this.others?.values() ?? []) {
      latest = Math.max(latest, lastSeenAt);
    }
    return latest;
  }

  /** True if no node has the user any more. */
  get isOver(): boolean {
    return this.here === undefined && !this.others?.size;
  }

  /** Returns the part of a node; creates the part if needed. */
  partOf(node: string): NodePresence {
    this.others ??= new Map();
    let part = this.others.get(node);
    if (part === undefined) {
      part = { stay: this, node, connections: 0, lastSeenAt: 0, data: undefined };
      this.others.set(node, part);
    }
    return part;
  }

  /**
   * Sets the data of a session of this node; `undefined` removes the data. New data counts as newer
   * than all data known here, so that a slow clock does not lose the change.
   */
  setData(session: Session, node: string, value: unknown): void {
    if (value === undefined) this.#own?.delete(session);
    else {
      const setAt = Math.max(this.#runtime.now(), (this.data?.setAt ?? 0) + 1);
      (this.#own ??= new Map()).set(session, { setAt, node, value });
    }
    this.#findOwn();
  }

  /** Removes the data of a session that left; the data of the last session stays for the grace. */
  dropData(session: Session): void {
    if (this.#own?.delete(session) && this.here!.connections > 0) this.#findOwn();
  }

  /** Removes the data from before the grace, when the first session is back. */
  forgetData(): void {
    this.here!.data = undefined;
  }

  /**
   * Finds the data that stands for the user: the newest data of a present session, on any node; or,
   * without a present session, the newest data of earlier ones.
   *
   * @returns True if the data changed.
   */
  refresh(): boolean {
    const isAway = this.connections === 0;
    let newest: PresenceData | undefined;
    const see = ({ connections, data }: NodePresence) => {
      if (data !== undefined && (isAway || connections > 0) && isNewer(data, newest)) newest = data;
    };
    if (this.here !== undefined) see(this.here);
    for (const part of this.others?.values() ?? []) see(part);
    const before = this.data;
    this.data = newest;
    if (before === newest) return false;
    return JSON.stringify(before?.value) !== JSON.stringify(newest?.value);
  }

  /** Tells the other nodes the connections and data on this node. */
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
    let newest: PresenceData | undefined;
    for (const data of this.#own?.values() ?? []) if (isNewer(data, newest)) newest = data;
    this.here!.data = newest;
  }
}

function isNewer(data: PresenceData, than: PresenceData | undefined): boolean {
  if (than === undefined || data.setAt !== than.setAt) return data.setAt > (than?.setAt ?? -1);
  return data.node > than.node;
}

/** Reads the entry of a node about a user; `undefined` if malformed. */
export function readPresenceEntry(value: unknown): PresenceEntry | undefined {
  if (!Array.isArray(value)) return undefined;
  const { length } = value;
  const isEntry = length === 5
    ? value.slice(0, 4).every(isNumber)
    : (length === 2 || length === 3) && value.every(isNumber);
  return isEntry ? value as unknown as PresenceEntry : undefined;
}
