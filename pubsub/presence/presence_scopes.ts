/** The users in each scope, on this node and on others, without listeners or sessions to notify. */
import type { Session } from "../../session/session.ts";
import type { Runtime, Timer } from "../../base/runtime.ts";
import { Directory } from "../nodes/directory.ts";
import type { Nodes } from "../nodes/nodes.ts";
import type { PresenceEvent } from "./types.ts";
import type { DirectoryChange, DirectoryScope } from "../nodes/directory_scope.ts";
import type { PresenceMember } from "../../session/wire/presence_notice.ts";
import { isNumber } from "../nodes/messages.ts";

/**
 * Entry of a node about a user: the number of connections, the time of the first one, the time of the
 * last one if there are no connections now, and the newest data of the user's sessions on that node.
 * Nodes before 0.2 ignore an entry that has data.
 */
type PresenceEntry =
  | readonly [connections: number, joinedAt: number, lastSeenAt?: number]
  | readonly [
    connections: number,
    joinedAt: number,
    lastSeenAt: number,
    setAt: number,
    data: unknown,
  ];

/** Data with which a user is present. */
interface PresenceData {
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
interface NodePresence {
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
function readPresenceEntry(value: unknown): PresenceEntry | undefined {
  if (!Array.isArray(value)) return undefined;
  const { length } = value;
  const isEntry = length === 5
    ? value.slice(0, 4).every(isNumber)
    : (length === 2 || length === 3) && value.every(isNumber);
  return isEntry ? value as unknown as PresenceEntry : undefined;
}

/**
 * Waits the same time for each object, with one timer, and without a timer while there are no objects.
 *
 * @typeParam T Type of the objects.
 */
class GraceTimer<T extends object> {
  readonly #runtime: Runtime;
  readonly #graceMs: number;
  readonly #onOver: (over: T[]) => void;
  /** Object to the start of the wait, in the order in which the waits end. */
  readonly #since = new Map<T, number>();
  #timer: Timer | undefined;

  /** Creates an empty wait; `onOver` gets the objects that were not deleted for `graceMs`. */
  constructor(runtime: Runtime, graceMs: number, onOver: (over: T[]) => void) {
    this.#runtime = runtime;
    this.#graceMs = graceMs;
    this.#onOver = onOver;
  }

  /** Begins the wait for an object, or begins again. */
  add(thing: T): void {
    this.#since.delete(thing);
    this.#since.set(thing, this.#runtime.now());
    this.#schedule();
  }

  /** Ends the wait for an object without calling `onOver`. */
  delete(thing: T): void {
    if (this.#since.delete(thing)) this.#schedule();
  }

  /** Ends all waits, and the timer. */
  clear(): void {
    this.#since.clear();
    this.#schedule();
  }

  #schedule(): void {
    if (this.#since.size === 0) {
      this.#runtime.clearTimeout(this.#timer);
      this.#timer = undefined;
      return;
    }
    if (this.#timer !== undefined) return;
    const [first] = this.#since.values();
    // A clock that was set back must not make the wait longer.
    const leftMs = first! + this.#graceMs - this.#runtime.now();
    const waitMs = Math.max(0, Math.min(leftMs, this.#graceMs));
    this.#timer = this.#runtime.setTimeout(() => {
      this.#timer = undefined;
      this.#expire();
    }, waitMs);
  }

  #expire(): void {
    const now = this.#runtime.now();
    const over: T[] = [];
    for (const [thing, since] of this.#since) {
      const isDue = now >= since + this.#graceMs || now < since;
      if (!isDue) break;
      this.#since.delete(thing);
      over.push(thing);
    }
    this.#schedule();
    this.#onOver(over);
  }
}

/** Callbacks of {@linkcode PresenceScopes}. */
export interface PresenceOwner {
  /** Called within each change of a user. */
  changed(event: PresenceEvent): void;
  /** Called when the other nodes have sent the users of a topic. */
  settled(topic: string): void;
  /** Called after a change by another node, or by the clock, is complete. */
  tell(): void;
}

/** Options for {@linkcode PresenceScopes}. */
export interface PresenceScopesOptions {
  readonly runtime: Runtime;
  /** Time for which a user without connections stays present, in milliseconds. */
  readonly graceMs: number;
  /** Nodes that share the places. */
  readonly nodes: Nodes | undefined;
  /** True if the nodes share the online users, too. */
  readonly sharesOnline: boolean;
}

/** The places of a presence: each topic with users or followers, and the state of being online. */
export class PresenceScopes implements Disposable {
  /** The online users. */
  readonly online: PresenceScope;
  readonly #runtime: Runtime;
  readonly #owner: PresenceOwner;
  readonly #graceMs: number;
  readonly #grace: GraceTimer<NodePresence>;
  readonly #nodes: Nodes | undefined;
  readonly #directory: Directory<PresenceEntry> | undefined;
  readonly #watchingNodes: Disposable | undefined;
  readonly #scopes = new Map<string, PresenceScope>();
  readonly #topicsOf = new Map<string, Set<string>>();
  /** Time of the last message from the node that leaves now. */
  #lastHeardAt = 0;
  #isDisposed = false;

  /** Creates places without users. */
  constructor(
    { runtime, graceMs, nodes, sharesOnline }: PresenceScopesOptions,
    owner: PresenceOwner,
  ) {
    this.#runtime = runtime;
    this.#owner = owner;
    this.#graceMs = graceMs;
    this.#grace = new GraceTimer(runtime, graceMs, (over) => {
      for (const part of over) this.#end(part);
      owner.tell();
    });
    this.#nodes = nodes;
    if (nodes !== undefined) {
      // Subscribed before the directory, which deletes the entries of the node on the same event.
      this.#watchingNodes = nodes.subscribe((event) => {
        if (event.type === "leave") this.#lastHeardAt = event.node.lastHeardAt;
      });
      this.#directory = new Directory({ nodes, name: "presence", read: readPresenceEntry });
    }
    this.online = this.#make(undefined, sharesOnline);
  }

  /** Returns a topic with users or followers. */
  get(topic: string): PresenceScope | undefined {
    return this.#scopes.get(topic);
  }

  /** Lists the topics in which a user is present, among those known here. */
  topicsOf(user: string): string[] {
    return [...this.#topicsOf.get(user) ?? []];
  }

  /** Tells whether the other nodes have sent the users of a topic. */
  isSettled(topic: string): boolean {
    const nodes = this.#nodes;
    const isAlone = nodes === undefined || nodes.isReady && nodes.size === 0;
    return this.#scopes.get(topic)?.isSettled ?? isAlone;
  }

  /** Removes all users, and ends the timer. */
  [Symbol.dispose](): void {
    this.#isDisposed = true;
    this.#grace.clear();
    this.#watchingNodes?.[Symbol.dispose]();
    this.#directory?.[Symbol.dispose]();
    this.online.stays.clear();
    this.#scopes.clear();
    this.#topicsOf.clear();
  }

  /** Returns a topic, new if needed. The caller MUST release a topic without users and followers. */
  open(topic: string): PresenceScope {
    let place = this.#scopes.get(topic);
    if (place === undefined) {
      place = this.#make(topic, true);
      this.#scopes.set(topic, place);
    }
    return place;
  }

  /** Id of this node; empty without other nodes. */
  get #nodeId(): string {
    return this.#nodes?.id ?? "";
  }

  #make(topic: string | undefined, isShared: boolean): PresenceScope {
    const place: PresenceScope = {
      topic,
      stays: new Map(),
      scope: undefined,
      isSettled: true,
      here: 0,
      followers: 0,
    };
    if (this.#directory === undefined || !isShared) return place;
    const name = topic === undefined ? "online" : `in:${topic}`;
    const scope = this.#directory.open(name, (change) => this.#takeChange(place, change));
    place.scope = scope;
    place.isSettled = scope.isReady;
    if (!scope.isReady) void scope.ready.then(() => this.#settle(place));
    return place;
  }

  /** Removes a topic without users of this node and without followers. */
  release(place: PresenceScope): void {
    const { topic, scope, stays } = place;
    if (topic === undefined || place.here > 0 || place.followers > 0) return;
    if (this.#scopes.get(topic) !== place) return;
    this.#scopes.delete(topic);
    for (const stay of stays.values()) {
      this.#unlist(stay);
      for (const part of stay.others?.values() ?? []) this.#grace.delete(part);
    }
    stays.clear();
    scope?.[Symbol.dispose]();
  }

  /** Reports the joins that waited for other nodes, now that all users of the place are known. */
  #settle(place: PresenceScope): void {
    const { topic } = place;
    const isHere = topic === undefined || this.#scopes.get(topic) === place;
    if (this.#isDisposed || !isHere || place.isSettled) return;
    place.isSettled = true;
    for (const stay of place.stays.values()) {
      const { untold: session, user } = stay;
      stay.untold = undefined;
      if (session !== undefined) {
        this.#owner.changed({
          type: "join",
          topic,
          user,
          at: this.#runtime.now(),
          session,
          ...dataOf(stay),
        });
      }
    }
    if (topic !== undefined) this.#owner.settled(topic);
    this.#owner.tell();
  }

  /**
   * Adds a connection of a user.
   *
   * @returns The stay, and `hasCome` if the user was not present before.
   */
  arrive(
    place: PresenceScope,
    session: Session,
    { user, data }: { readonly user: string; readonly data: unknown },
  ): { stay: UserPresence; hasCome: boolean } {
    const { topic } = place;
    const at = this.#runtime.now();
    const known = place.stays.get(user);
    const stay = known ?? this.#add(place, user, at);
    if (stay.here === undefined) {
      stay.here = { stay, node: undefined, connections: 0, lastSeenAt: 0, data: undefined };
      place.here++;
    } else this.#grace.delete(stay.here);
    if (stay.here.connections++ === 0) stay.forgetData();
    if (data !== undefined) stay.setData(session, this.#nodeId, data);
    stay.share();
    if (known !== undefined) {
      this.#refresh(stay, session);
      return { stay, hasCome: false };
    }
    stay.refresh();
    if (place.isSettled) {
      this.#owner.changed({ type: "join", topic, user, at, session, ...dataOf(stay) });
    } else stay.untold = session;
    return { stay, hasCome: true };
  }

  /** Sets the data of a present session; `undefined` removes the data. */
  setData(stay: UserPresence, session: Session, data: unknown): void {
    stay.setData(session, this.#nodeId, data);
    stay.share();
    this.#refresh(stay);
  }

  /** Removes a connection of a user. */
  depart(stay: UserPresence, session: Session): void {
    const here = stay.here!;
    here.connections--;
    stay.dropData(session);
    if (here.connections === 0) {
      here.lastSeenAt = this.#runtime.now();
      if (this.#graceMs === 0) return this.#end(here);
      this.#grace.add(here);
    }
    stay.share();
    this.#refresh(stay);
  }

  /** Reports an update if the data that stands for a user changed. */
  #refresh(stay: UserPresence, session?: Session): void {
    const { user, place: { topic, isSettled } } = stay;
    // Until the place is settled no member has a list; the first list includes this data.
    if (!stay.refresh() || topic === undefined || !isSettled) return;
    this.#owner.changed({
      type: "update",
      topic,
      user,
      at: this.#runtime.now(),
      ...dataOf(stay),
      ...(session && { session }),
    });
  }

  /** Takes the entry of another node about a user. */
  #takeChange(place: PresenceScope, change: DirectoryChange<PresenceEntry>): void {
    const { node, key: user, value, isSwept } = change;
    if (value !== undefined) this.#takePart(place, user, { node, value });
    else {
      const part = place.stays.get(user)?.others?.get(node);
      if (part !== undefined) this.#losePart(part, isSwept);
    }
    this.#owner.tell();
  }

  #takePart(
    place: PresenceScope,
    user: string,
    { node, value }: { readonly node: string; readonly value: PresenceEntry },
  ): void {
    const [connections, joinedAt, lastSeenAt = 0, setAt, data] = value;
    const known = place.stays.get(user);
    const stay = known ?? this.#add(place, user, joinedAt);
    const part = stay.partOf(node);
    this.#grace.delete(part);
    part.connections = connections;
    part.lastSeenAt = lastSeenAt;
    part.data = setAt === undefined ? undefined : { setAt, node, value: data };
    const isEarlier = joinedAt < stay.joinedAt;
    if (stay.untold !== undefined) {
      // If a user came to several nodes at once, all nodes choose the same one as the first.
      const isFirst = isEarlier || joinedAt === stay.joinedAt && node < this.#nodes!.id;
      if (isFirst) stay.untold = undefined;
    }
    if (isEarlier) {
      stay.joinedAt = joinedAt;
      // An earlier share would look to the other node like a join here at the very same time.
      if (place.isSettled) stay.share();
    }
    if (known !== undefined) return this.#refresh(stay);
    stay.refresh();
    if (!place.isSettled) return;
    const { topic } = place;
    this.#owner.changed({ type: "join", topic, user, at: this.#runtime.now(), ...dataOf(stay) });
  }

  #losePart(part: NodePresence, isSwept: boolean): void {
    this.#grace.delete(part);
    if (part.connections > 0) part.lastSeenAt = isSwept ? this.#lastHeardAt : this.#runtime.now();
    part.connections = 0;
    // A node that deletes the entry has waited for the grace; a node that is gone has not.
    if (isSwept && this.#graceMs > 0) {
      this.#grace.add(part);
      this.#refresh(part.stay);
    } else this.#end(part);
  }

  /** Removes the part of a node, and the user with the last part. */
  #end(part: NodePresence): void {
    const { stay, node } = part;
    const { place } = stay;
    stay.lastSeenAt = Math.max(stay.lastSeenAt, part.lastSeenAt);
    if (node === undefined) {
      stay.here = undefined;
      place.here--;
      place.scope?.delete(stay.user);
    } else stay.others?.delete(node);
    if (stay.isOver) this.#remove(stay);
    else this.#refresh(stay);
    this.release(place);
  }

  #add(place: PresenceScope, user: string, joinedAt: number): UserPresence {
    const stay = new UserPresence(this.#runtime, place, user, joinedAt);
    place.stays.set(user, stay);
    const { topic } = place;
    if (topic === undefined) return stay;
    const topics = this.#topicsOf.get(user);
    if (topics === undefined) this.#topicsOf.set(user, new Set([topic]));
    else topics.add(topic);
    return stay;
  }

  #remove(stay: UserPresence): void {
    const { place: { topic, stays, isSettled }, user, seenAt: lastSeenAt } = stay;
    stays.delete(user);
    this.#unlist(stay);
    // The join of a user that came and went before the place was settled has not been reported.
    if (!isSettled) return;
    const at = this.#runtime.now();
    this.#owner.changed({ type: "leave", topic, user, at, lastSeenAt, ...dataOf(stay) });
  }

  #unlist({ place: { topic }, user }: UserPresence): void {
    const topics = this.#topicsOf.get(user);
    if (topic === undefined || topics === undefined) return;
    topics.delete(topic);
    if (topics.size === 0) this.#topicsOf.delete(user);
  }
}

/** The data of a user, in the form of events. */
function dataOf({ data }: UserPresence): { readonly data?: unknown } {
  return data === undefined ? {} : { data: data.value };
}
