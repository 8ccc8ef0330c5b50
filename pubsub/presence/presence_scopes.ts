/**
 * The users in each scope, on this node and on other nodes, regardless of listeners and of the
 * sessions to notify.
 */
import type { Session } from "../../session/session.ts";
import { Deadlines } from "../../base/deadlines.ts";
import type { Runtime } from "../../base/runtime.ts";
import { Directory } from "../nodes/directory.ts";
import type { Nodes } from "../nodes/nodes.ts";
import type { PresenceEvent } from "./types.ts";
import type { DirectoryChange, DirectoryScope } from "../nodes/directory_scope.ts";
import type { PresenceMember } from "../../session/wire/presence_notice.ts";
import { isNumber } from "../nodes/messages.ts";

/**
 * A node's entry about a user: the number of connections, the time of the first one, the time of
 * the last one if there are no connections now, and the newest data of the user's sessions on that
 * node.
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
   * Time at which it was set, in milliseconds since the Unix epoch. It is later than that of any
   * data of this user that the node had received by then.
   */
  readonly setAt: number;
  /** Id of the node on which the data was set. It decides between data with the same time. */
  readonly node: string;
  /** The data, as a JSON value. */
  readonly value: unknown;
}

/** The connections of a user in a topic, and the time of the first one. */
export type ConnectionCount = Pick<PresenceMember, "connections" | "joinedAt">;

/** A change in the connections of a user who stays in a topic. */
export interface PresenceCount {
  readonly topic: string;
  readonly user: string;
  readonly before: ConnectionCount;
  /** The session that entered; absent for any other change. */
  readonly session: Session | undefined;
}

/** A topic, or the state of being online. */
export interface PresenceScope {
  /** The topic; `undefined` means being online. */
  readonly topic: string | undefined;
  readonly users: Map<string, UserPresence>;
  /** The entries of all nodes; absent if the scope is not shared with other nodes. */
  shared: DirectoryScope<PresenceEntry> | undefined;
  /** True when the other nodes have sent the users of this scope. */
  isSettled: boolean;
  /** Number of users in the scope on this node. */
  here: number;
  /** Number of followers, which track the scope without being present. */
  followers: number;
}

interface NodePresence {
  /** The user and the scope. */
  readonly presence: UserPresence;
  /** Id of the other node; `undefined` means this node. */
  readonly node: string | undefined;
  connections: number;
  /** Time at which the last connection left; not used while there are connections. */
  lastSeenAt: number;
  /**
   * The newest data of the user's sessions on the node, or their last data if there are no
   * connections.
   */
  data: PresenceData | undefined;
}

export class UserPresence {
  readonly scope: PresenceScope;
  readonly user: string;
  /** Time of the first connection, on any node. */
  joinedAt: number;
  /** The connections to this node. */
  here: NodePresence | undefined = undefined;
  /** The connections to other nodes, by node. */
  others: Map<string, NodePresence> | undefined = undefined;
  /**
   * The session whose join has not been reported yet, because other nodes may already have the
   * user.
   */
  unreported: Session | undefined = undefined;
  /** Time of the latest connection to a node that has since removed the user. */
  lastSeenAt = 0;
  /** The user's data, as determined by {@linkcode UserPresence.refresh}. */
  data: PresenceData | undefined = undefined;
  /**
   * The connections that ended last, as far as this node knows. Their data stays for the grace
   * period.
   */
  last: NodePresence | undefined = undefined;
  /** The connections and the time of the first one, as last returned by {@linkcode recount}. */
  #counted = 0;
  #countedSince = 0;
  /** Data of each session on this node. */
  #own: Map<Session, PresenceData> | undefined = undefined;
  readonly #runtime: Runtime;

  constructor(runtime: Runtime, scope: PresenceScope, user: string, joinedAt: number) {
    this.#runtime = runtime;
    this.scope = scope;
    this.user = user;
    this.joinedAt = joinedAt;
  }

  get connections(): number {
    let sum = this.here?.connections ?? 0;
    for (const { connections } of this.others?.values() ?? []) sum += connections;
    return sum;
  }

  /** The user, as other members see it. */
  get member(): PresenceMember {
    const { user, connections, joinedAt, data } = this;
    const member = { user, connections, joinedAt };
    return data === undefined ? member : { ...member, data: data.value };
  }

  /** Time of the last connection on any node; not used while there are connections. */
  get seenAt(): number {
    let latest = Math.max(this.lastSeenAt, this.here?.lastSeenAt ?? 0);
    for (const { lastSeenAt } of this.others?.values() ?? []) {
      latest = Math.max(latest, lastSeenAt);
    }
    return latest;
  }

  /** True if the user is on no node any more. */
  get isOver(): boolean {
    return this.here === undefined && !this.others?.size;
  }

  /** Returns the part of a node, and creates it if needed. */
  partOf(node: string): NodePresence {
    this.others ??= new Map();
    let part = this.others.get(node);
    if (part === undefined) {
      part = { presence: this, node, connections: 0, lastSeenAt: 0, data: undefined };
      this.others.set(node, part);
    }
    return part;
  }

  /**
   * Sets the data of a session on this node; `undefined` removes it. New data counts as newer than
   * all data known to this node, so that a slow clock does not lose the change.
   */
  setData(session: Session, node: string, value: unknown): void {
    if (value === undefined) this.#own?.delete(session);
    else {
      const setAt = Math.max(this.#runtime.now(), (this.data?.setAt ?? 0) + 1);
      (this.#own ??= new Map()).set(session, { setAt, node, value });
    }
    this.#findOwn();
  }

  /**
   * Removes the data of a session that left. The last session's data stays for the grace period.
   */
  dropData(session: Session): void {
    if (this.#own?.delete(session) && this.here!.connections > 0) this.#findOwn();
  }

  /** Removes the data from before the grace period, when the first session has returned. */
  forgetData(): void {
    this.here!.data = undefined;
  }

  /**
   * Determines the user's data: the newest data of a session that is present on any node, or if no
   * session is present, the last session's data.
   *
   * @returns True if the data changed.
   */
  refresh(): boolean {
    let newest = this.connections === 0 ? this.last?.data : undefined;
    const see = ({ connections, data }: NodePresence) => {
      if (data !== undefined && connections > 0 && isNewer(data, newest)) newest = data;
    };
    if (this.here !== undefined) see(this.here);
    for (const part of this.others?.values() ?? []) see(part);
    const before = this.data;
    this.data = newest;
    if (before === newest) return false;
    return JSON.stringify(before?.value) !== JSON.stringify(newest?.value);
  }

  /**
   * Compares the number of connections, and the time of the first one, with the previous call.
   *
   * @returns The earlier values if one of them has changed.
   */
  recount(): ConnectionCount | undefined {
    const before = { connections: this.#counted, joinedAt: this.#countedSince };
    const { connections, joinedAt } = this;
    this.#counted = connections;
    this.#countedSince = joinedAt;
    const isSame = connections === before.connections && joinedAt === before.joinedAt;
    return isSame ? undefined : before;
  }

  /** Sends the connections and data on this node to the other nodes. */
  share(): void {
    const { here, joinedAt, user, scope: { shared } } = this;
    if (shared === undefined || here === undefined) return;
    const { connections, lastSeenAt, data } = here;
    if (data !== undefined) {
      const seenAt = connections > 0 ? 0 : lastSeenAt;
      shared.set(user, [connections, joinedAt, seenAt, data.setAt, data.value]);
    } else shared.set(user, connections > 0 ? [connections, joinedAt] : [0, joinedAt, lastSeenAt]);
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

/** Parses a node's entry about a user; `undefined` if malformed. */
function readPresenceEntry(value: unknown): PresenceEntry | undefined {
  if (!Array.isArray(value)) return undefined;
  const { length } = value;
  const isEntry = length === 5
    ? value.slice(0, 4).every(isNumber)
    : (length === 2 || length === 3) && value.every(isNumber);
  return isEntry ? value as unknown as PresenceEntry : undefined;
}

/** Receives changes before any listener. No function may change the presence. */
export interface PresenceObserver {
  /** Called within each change of a user, in order. */
  changed(event: PresenceEvent, presence: UserPresence): void;
  /**
   * Called when the number of connections of a user who stays in a topic has changed, or the time
   * of the first one.
   */
  counted?(count: PresenceCount): void;
  /** Called when the other nodes have sent the users of a topic, so that `members` is complete. */
  settled?(topic: string): void;
  /** Called when this node starts to track a topic. */
  opened?(scope: PresenceScope): void;
  /** Called when this node stops to track a topic, before it forgets the other nodes' users. */
  closed?(scope: PresenceScope): void;
  /** Returns true to track a topic for longer than this node has users and followers. */
  holds?(scope: PresenceScope): boolean;
}

/** Callbacks of {@linkcode PresenceScopes}. */
interface PresenceOwner extends Required<PresenceObserver> {
  /** Called when a change caused by another node or by the clock is complete. */
  tell(): void;
}

interface PresenceScopesOptions {
  readonly runtime: Runtime;
  /** Time for which a user stays present without connections, in milliseconds. */
  readonly graceMs: number;
  /** Nodes that share the scopes. */
  readonly nodes: Nodes | undefined;
  /** True if the nodes also share the online users. */
  readonly acrossNodes: boolean;
}

/** The scopes of a presence: each topic with users or followers, and the state of being online. */
export class PresenceScopes implements Disposable {
  /** The online users. */
  readonly online: PresenceScope;
  readonly #runtime: Runtime;
  readonly #owner: PresenceOwner;
  readonly #graceMs: number;
  readonly #grace: Deadlines<NodePresence>;
  readonly #nodes: Nodes | undefined;
  readonly #directory: Directory<PresenceEntry> | undefined;
  readonly #watchingNodes: Disposable | undefined;
  readonly #scopes = new Map<string, PresenceScope>();
  readonly #topicsOf = new Map<string, Set<string>>();
  /** Time of the last message from the node that is leaving now. */
  #lastSeenAt = 0;
  #isDisposed = false;

  constructor(
    { runtime, graceMs, nodes, acrossNodes }: PresenceScopesOptions,
    owner: PresenceOwner,
  ) {
    this.#runtime = runtime;
    this.#owner = owner;
    this.#graceMs = graceMs;
    this.#grace = new Deadlines(runtime, graceMs, (part) => {
      this.#end(part);
      owner.tell();
    });
    // After a clear, the timer stops with the last item, so that an idle presence has no timer.
    this.#grace.clear();
    this.#nodes = nodes;
    if (nodes !== undefined) {
      // This subscribes before the directory does, because the directory deletes the node's entries
      // on the same event.
      this.#watchingNodes = nodes.subscribe((event) => {
        if (event.type === "leave") this.#lastSeenAt = event.node.lastSeenAt;
      });
      this.#directory = new Directory({ nodes, name: "presence", read: readPresenceEntry });
    }
    this.online = this.#make(undefined, acrossNodes);
  }

  /** Lists the state of being online, and the topics that this node tracks. */
  all(): PresenceScope[] {
    return [this.online, ...this.#scopes.values()];
  }

  /** Returns a topic with users or followers. */
  get(topic: string): PresenceScope | undefined {
    return this.#scopes.get(topic);
  }

  /** Lists the topics in which a user is present, among the topics known to this node. */
  topicsOf(user: string): string[] {
    return [...this.#topicsOf.get(user) ?? []];
  }

  isSettled(topic: string): boolean {
    const nodes = this.#nodes;
    const isAlone = nodes === undefined || nodes.isReady && nodes.size === 0;
    return this.#scopes.get(topic)?.isSettled ?? isAlone;
  }

  /** True if the users of a topic are complete; of the online users, if there is no topic. */
  isComplete(topic: string | undefined): boolean {
    const nodes = this.#nodes;
    const scope = topic === undefined ? this.online : this.#scopes.get(topic);
    return scope?.shared?.isComplete ??
      (nodes === undefined || nodes.isReady && nodes.isReached && nodes.size === 0);
  }

  /** Removes all users, and stops the timer. */
  [Symbol.dispose](): void {
    this.#isDisposed = true;
    this.#grace.clear();
    this.#watchingNodes?.[Symbol.dispose]();
    this.#directory?.[Symbol.dispose]();
    this.online.users.clear();
    this.#scopes.clear();
    this.#topicsOf.clear();
  }

  /**
   * Returns a topic, and creates it if needed. The caller MUST release a topic without users and
   * followers.
   */
  open(topic: string): PresenceScope {
    let scope = this.#scopes.get(topic);
    if (scope === undefined) {
      scope = this.#make(topic, true);
      this.#scopes.set(topic, scope);
      this.#owner.opened(scope);
    }
    return scope;
  }

  /** Id of this node; empty if there are no other nodes. */
  get #nodeId(): string {
    return this.#nodes?.id ?? "";
  }

  /** The node of a change, as a field of its event. */
  #by(node: string): { readonly node?: string } {
    return this.#nodes === undefined ? {} : { node };
  }

  #make(topic: string | undefined, isShared: boolean): PresenceScope {
    const scope: PresenceScope = {
      topic,
      users: new Map(),
      shared: undefined,
      isSettled: true,
      here: 0,
      followers: 0,
    };
    if (this.#directory === undefined || !isShared) return scope;
    const name = topic === undefined ? "online" : `in:${topic}`;
    const shared = this.#directory.open(name, (change) => this.#takeChange(scope, change));
    scope.shared = shared;
    scope.isSettled = shared.isReady;
    if (!shared.isReady) void shared.ready.then(() => this.#settle(scope));
    return scope;
  }

  /** Removes a topic without users on this node and without followers. */
  release(scope: PresenceScope): void {
    const { topic, shared, users } = scope;
    if (topic === undefined || scope.here > 0 || scope.followers > 0) return;
    if (this.#scopes.get(topic) !== scope || this.#owner.holds(scope)) return;
    this.#scopes.delete(topic);
    this.#owner.closed(scope);
    for (const presence of users.values()) {
      this.#unlist(presence);
      for (const part of presence.others?.values() ?? []) this.#grace.delete(part);
    }
    users.clear();
    shared?.[Symbol.dispose]();
  }

  /** Reports the joins that waited for other nodes, now that all users of the scope are known. */
  #settle(scope: PresenceScope): void {
    const { topic } = scope;
    const isHere = topic === undefined || this.#scopes.get(topic) === scope;
    if (this.#isDisposed || !isHere || scope.isSettled) return;
    scope.isSettled = true;
    for (const presence of scope.users.values()) {
      const { unreported: session } = presence;
      presence.unreported = undefined;
      // The other nodes may have reported an earlier join meanwhile.
      if (presence.others !== undefined) presence.share();
      if (session !== undefined) this.#tellJoin(presence, this.#nodeId, { session });
    }
    if (topic !== undefined) this.#owner.settled(topic);
    this.#owner.tell();
  }

  /**
   * Adds a connection of a user.
   *
   * @returns The presence of the user, and `hasCome`, which is true if the user was not present
   * before.
   */
  arrive(
    scope: PresenceScope,
    session: Session,
    { user, data }: { readonly user: string; readonly data: unknown },
  ): { presence: UserPresence; hasCome: boolean } {
    const known = scope.users.get(user);
    const presence = known ?? this.#add(scope, user, this.#runtime.now());
    if (presence.here === undefined) {
      presence.here = { presence, node: undefined, connections: 0, lastSeenAt: 0, data: undefined };
      scope.here++;
    } else this.#grace.delete(presence.here);
    if (presence.here.connections++ === 0) presence.forgetData();
    if (data !== undefined) presence.setData(session, this.#nodeId, data);
    presence.share();
    if (known !== undefined) {
      this.#refresh(presence, this.#nodeId, session);
      return { presence, hasCome: false };
    }
    presence.refresh();
    presence.recount();
    if (scope.isSettled) this.#tellJoin(presence, this.#nodeId, { session });
    else presence.unreported = session;
    return { presence, hasCome: true };
  }

  #tellJoin(
    presence: UserPresence,
    node: string,
    entered: { readonly session?: Session } = {},
  ): void {
    const { user, joinedAt: at, scope: { topic } } = presence;
    const join = { type: "join" as const, topic, user, at, ...entered };
    this.#owner.changed({ ...join, ...this.#by(node), ...dataOf(presence) }, presence);
  }

  /** Sets the data of a present session; `undefined` removes the data. */
  setData(presence: UserPresence, session: Session, data: unknown): void {
    presence.setData(session, this.#nodeId, data);
    presence.share();
    this.#refresh(presence, this.#nodeId);
  }

  /**
   * Removes a connection of a user.
   *
   * @param session The session that had the connection.
   * @param isLoss True if the user may return within the grace period; false if the user left on
   * purpose.
   */
  depart(presence: UserPresence, session: Session, isLoss: boolean): void {
    const here = presence.here!;
    here.connections--;
    presence.dropData(session);
    if (here.connections === 0) {
      here.lastSeenAt = this.#runtime.now();
      presence.last = here;
      if (this.#graceMs === 0 || !isLoss) return this.#end(here);
      this.#grace.add(here);
    }
    presence.share();
    this.#refresh(presence, this.#nodeId);
  }

  /**
   * Reports an update if the user's data changed, and a change of the user's connections.
   *
   * @param node The node of the change.
   * @param session The session that entered; absent for any other change.
   */
  #refresh(presence: UserPresence, node: string, session?: Session): void {
    const { user, scope: { topic, isSettled } } = presence;
    const hasOtherData = presence.refresh();
    const before = presence.recount();
    // Until the scope is settled, no member has a list. The first list will include the changes.
    if (topic === undefined || !isSettled) return;
    if (before !== undefined) this.#owner.counted({ topic, user, before, session });
    if (!hasOtherData) return;
    this.#owner.changed({
      type: "update",
      topic,
      user,
      at: this.#runtime.now(),
      ...this.#by(node),
      ...dataOf(presence),
      session,
    }, presence);
  }

  /** Handles another node's entry about a user. */
  #takeChange(scope: PresenceScope, change: DirectoryChange<PresenceEntry>): void {
    const { node, key: user, value, isSwept } = change;
    if (value !== undefined) this.#takePart(scope, user, { node, value });
    else {
      const part = scope.users.get(user)?.others?.get(node);
      if (part !== undefined) this.#losePart(part, isSwept);
    }
    this.#owner.tell();
  }

  #takePart(
    scope: PresenceScope,
    user: string,
    { node, value }: { readonly node: string; readonly value: PresenceEntry },
  ): void {
    const [connections, joinedAt, lastSeenAt = 0, setAt, data] = value;
    const known = scope.users.get(user);
    const presence = known ?? this.#add(scope, user, joinedAt);
    const part = presence.partOf(node);
    this.#grace.delete(part);
    const { last } = presence;
    const isLast = part.connections > 0 || last === undefined || lastSeenAt > last.lastSeenAt;
    if (connections === 0 && isLast) presence.last = part;
    part.connections = connections;
    part.lastSeenAt = lastSeenAt;
    part.data = setAt === undefined ? undefined : { setAt, node, value: data };
    const isEarlier = joinedAt < presence.joinedAt;
    if (presence.unreported !== undefined) {
      // If a user joined on several nodes at the same time, all nodes choose the same one as the
      // first.
      const isFirst = isEarlier || joinedAt === presence.joinedAt && node < this.#nodes!.id;
      if (isFirst) presence.unreported = undefined;
    }
    if (isEarlier) {
      presence.joinedAt = joinedAt;
      // To the other node, an earlier share would look like a join on this node at the very same
      // time.
      if (scope.isSettled) presence.share();
    }
    if (known !== undefined) return this.#refresh(presence, node);
    presence.refresh();
    presence.recount();
    if (scope.isSettled) this.#tellJoin(presence, node);
  }

  #losePart(part: NodePresence, isSwept: boolean): void {
    this.#grace.delete(part);
    if (part.connections > 0) {
      part.lastSeenAt = isSwept ? this.#lastSeenAt : this.#runtime.now();
      part.presence.last = part;
    }
    part.connections = 0;
    // A node that deletes the entry has waited for the grace period; a node that is gone has not.
    if (isSwept && this.#graceMs > 0) {
      this.#grace.add(part);
      this.#refresh(part.presence, part.node!);
    } else this.#end(part);
  }

  /** Removes the part of a node, and with the last part the user. */
  #end(part: NodePresence): void {
    const { presence, node = this.#nodeId } = part;
    const { scope } = presence;
    presence.lastSeenAt = Math.max(presence.lastSeenAt, part.lastSeenAt);
    if (part.node === undefined) {
      presence.here = undefined;
      scope.here--;
      scope.shared?.delete(presence.user);
    } else presence.others?.delete(node);
    if (presence.isOver) this.#remove(presence, node);
    else this.#refresh(presence, node);
    this.release(scope);
  }

  #add(scope: PresenceScope, user: string, joinedAt: number): UserPresence {
    const presence = new UserPresence(this.#runtime, scope, user, joinedAt);
    scope.users.set(user, presence);
    const { topic } = scope;
    if (topic === undefined) return presence;
    const topics = this.#topicsOf.get(user);
    if (topics === undefined) this.#topicsOf.set(user, new Set([topic]));
    else topics.add(topic);
    return presence;
  }

  /** Removes a user who left last from a node. */
  #remove(presence: UserPresence, node: string): void {
    const { scope: { topic, users, isSettled }, user, seenAt: lastSeenAt } = presence;
    users.delete(user);
    this.#unlist(presence);
    // The join of a user that joined and left before the scope was settled has not been reported.
    if (!isSettled) return;
    const at = this.#runtime.now();
    const leave = { type: "leave" as const, topic, user, at, lastSeenAt };
    this.#owner.changed({ ...leave, ...this.#by(node), ...dataOf(presence) }, presence);
  }

  #unlist({ scope: { topic }, user }: UserPresence): void {
    const topics = this.#topicsOf.get(user);
    if (topic === undefined || topics === undefined) return;
    topics.delete(topic);
    if (topics.size === 0) this.#topicsOf.delete(user);
  }
}

/** The user's data, in the form of events. */
function dataOf({ data }: UserPresence): { readonly data?: unknown } {
  return data === undefined ? {} : { data: data.value };
}
