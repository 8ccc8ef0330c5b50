/**
 * The stays of users in one topic. One node leads the topic: it decides which stays begin and end.
 * The other nodes that track the topic copy its decisions before anyone acts on them, so that each
 * of them can lead next.
 */
import type { Runtime } from "../../base/runtime.ts";
import type { Directory } from "../nodes/directory.ts";
import {
  type DirectoryChange,
  type DirectoryScope,
  MAX_ENTRIES,
} from "../nodes/directory_scope.ts";
import { isNumber } from "../nodes/messages.ts";
import type { PresenceScope, UserPresence } from "./presence_scopes.ts";
import type { ListedMember, PresenceEvent, PresenceFeedEvent } from "./types.ts";

/** Time for which a node remembers a change, so that it can repeat it, in milliseconds. */
export const REPEAT_MS = 20_000;

/**
 * Maximum number of changes in a topic that are remembered in order to repeat them. All users of a
 * topic leave at the same moment if their node dies.
 */
export const MAX_RECENT: number = MAX_ENTRIES;

/** Key of the entry that says that a node leads, and has published its stays. */
const LEADS = "leads";

/**
 * A node's entry about a stay: the node that the user joined, and if the stay is over its end. The
 * key has the time of the join and the user.
 */
export type StayEntry =
  | readonly [node: string]
  | readonly [node: string, at: number, lastSeenAt: number, leftNode: string, data?: unknown];

/** Parses a node's entry about a stay; `undefined` if malformed. */
export function readStayEntry(value: unknown): StayEntry | undefined {
  if (!Array.isArray(value)) return undefined;
  const [node, at, lastSeenAt, leftNode] = value;
  if (typeof node !== "string") return undefined;
  if (value.length === 1) return value as unknown as StayEntry;
  const isEnd = isNumber(at) && isNumber(lastSeenAt) && typeof leftNode === "string";
  return isEnd && value.length <= 5 ? value as unknown as StayEntry : undefined;
}

type StayEnd = Pick<PresenceEvent & { type: "leave" }, "at" | "lastSeenAt" | "node" | "data">;

/** How the readers of this node received a change. */
interface Told {
  /** Monotonic time; `-Infinity` if they received it in a listing. */
  readonly at: number;
  /** Id of the responsible node. */
  readonly by: string;
}

type Kind = "join" | "leave";

/** A user in the topic from a join to a leave. */
interface Stay {
  readonly user: string;
  readonly joinedAt: number;
  /** Id of the node that the user joined; absent without nodes. */
  readonly node: string | undefined;
  end: StayEnd | undefined;
  /** The end that this node has seen, in case it becomes the leader. */
  seenEnd: StayEnd | undefined;
  joinTold: Told | undefined;
  leaveTold: Told | undefined;
  /** Time of the last update; 0 before the first one. */
  updatedAt: number;
}

/** A join or a leave that this node has seen. */
interface Seen {
  readonly event: PresenceEvent & { type: "join" | "leave" };
  readonly presence: UserPresence;
}

/** The node, as its topics see it. */
export interface StaysHost {
  readonly runtime: Runtime;
  /** Id of this node; empty without nodes. */
  readonly id: string;
  readonly directory: Directory<StayEntry> | undefined;
  isAlive(node: string): boolean;
  /** Returns the node that leads a topic. */
  leaderOf(key: string): string | undefined;
  /** Returns the time since which a node reads its events; `Infinity` if it doesn't. */
  readsSince(node: string): number;
  /** Reports that a node is gone that alone knew a topic's stays, and which node is responsible. */
  lose(topic: string | undefined, node: string, by: string): void;
  /**
   * Lets this node be the last to lead a topic, and then calls {@linkcode Stays.elect}. Nodes whose
   * stays come from the same leader have the same origin.
   */
  candidate(key: string, origin: string): void;
  /** Returns the origin of a node's stays. */
  originOf(key: string, node: string): string | undefined;
  /** Calls a function when another node that wants to lead would have said so. */
  afterCalm(run: () => void): void;
  /** Calls a function when the other nodes' changes at this moment have arrived. */
  afterHold(run: () => void): void;
  /** Calls a function when the other nodes have received a decision. */
  afterCopy(run: () => void): void;
  push(event: PresenceFeedEvent): void;
}

/** The stays of users in one topic, or online. */
export class Stays implements Disposable {
  readonly key: string;
  readonly scope: PresenceScope;
  readonly #host: StaysHost;
  readonly #shared: DirectoryScope<StayEntry> | undefined;
  readonly #stays = new Map<string, Stay>();
  /** Maps each user to the latest stay. */
  readonly #latest = new Map<string, Stay>();
  /** Maps each stay that is over to the monotonic time at which this node learned of its end. */
  readonly #ended = new Map<Stay, number>();
  /** Maps the joins and leaves on which this node hasn't decided to their monotonic times. */
  readonly #seen = new Map<Seen, number>();
  #leader: string | undefined;
  /** The node that was to lead while this node waited. */
  #awaited: string | undefined;
  /** The node that decided last, as far as this node knows. */
  #decider: string | undefined;
  /** The node whose first stays this node has, with all that followed. */
  #origin = "";
  #isLeading = false;
  /** The nodes that lead, according to themselves. */
  readonly #leading = new Set<string>();
  /** True if this node has received what the other nodes sent. */
  #isReady = false;
  /** True if this node takes part. */
  #hasJoined = false;
  #isOver = false;

  constructor(host: StaysHost, key: string, scope: PresenceScope) {
    this.#host = host;
    this.key = key;
    this.scope = scope;
    if (scope.shared !== undefined) {
      this.#shared = host.directory?.open(key, (change) => this.#copy(change));
    }
  }

  /** Resolves when the other nodes have sent their stays and users. */
  get ready(): Promise<unknown> {
    return Promise.all([this.scope.shared?.ready, this.#shared?.ready]);
  }

  /** True if the stays are shared with other nodes. */
  get isShared(): boolean {
    return this.#shared !== undefined;
  }

  /** True if this node leads, and hasn't told all changes yet. */
  get isTelling(): boolean {
    return this.#isLeading && this.#seen.size > 0 ||
      [...this.#stays.values()].some(({ joinTold, end, leaveTold }) =>
        joinTold === undefined || end !== undefined && leaveTold === undefined
      );
  }

  /** True if a stay has ended that may have to be repeated. */
  get hasEnded(): boolean {
    return this.#ended.size > 0;
  }

  /**
   * Begins or resumes to take part, with the other nodes' stays and users. While no node leads
   * because the leader is gone, this waits for the next one.
   */
  join(): void {
    if (this.#isOver || this.#hasJoined) return;
    this.#isReady = true;
    const isFirst = this.#stays.size === 0;
    const leader = this.#shared === undefined ? undefined : this.#host.leaderOf(this.key);
    if (leader !== undefined && !this.#leading.has(leader)) {
      this.#awaited = leader;
      return;
    }
    if (leader === undefined && this.#awaited !== undefined) {
      this.#host.lose(this.scope.topic, this.#awaited, this.#host.id);
    }
    this.#awaited = undefined;
    this.#leader = leader;
    if (this.#leader !== undefined) this.#copyAll(this.#leader, isFirst);
    else if (isFirst) { for (const presence of this.scope.users.values()) this.#list(presence); }
    this.#hasJoined = true;
    const members = isFirst ? this.members() : [];
    if (members.length > 0) this.#host.push({ kind: "present", members });
    if (this.#shared === undefined) this.#lead();
    else {
      this.#origin = leader === undefined ? this.#host.id : this.#originOf(leader);
      this.#host.candidate(this.key, this.#origin);
    }
  }

  /** Gives up the lead until `join`, because messages may have been missed. */
  pause(): void {
    this.#hasJoined = false;
    this.#isReady = false;
    this.#isLeading = false;
    this.#leader = undefined;
  }

  /** Notes a change on this node or another one. */
  see(event: PresenceEvent, presence: UserPresence): void {
    if (event.type === "update") {
      if (this.#shared === undefined) this.#update(event, presence);
      else this.#host.afterHold(() => this.#update(event, presence));
      return;
    }
    const latest = this.#latest.get(event.user);
    if (event.type === "leave" && latest !== undefined && latest.end === undefined) {
      latest.seenEnd = endOf(event);
    }
    const seen = { event, presence };
    this.#seen.set(seen, this.#host.runtime.monotonic());
    if (this.#seen.size > MAX_RECENT) this.#seen.delete(firstOf(this.#seen));
    const decide = () => {
      if (this.#isLeading) this.#decide(seen, false);
    };
    if (this.#shared === undefined) decide();
    else this.#host.afterHold(decide);
  }

  /** Follows the node that leads now, which may be this one. */
  elect(): void {
    if (this.#shared === undefined || this.#isOver || !this.#isReady) return;
    if (!this.#hasJoined) return this.join();
    const leader = this.#host.leaderOf(this.key);
    if (leader === this.#leader) return;
    this.#leader = leader;
    if (leader === this.#host.id) return this.#host.afterCalm(() => this.#lead());
    if (this.#isLeading) {
      this.#isLeading = false;
      for (const key of [LEADS, ...this.#stays.keys()]) this.#shared.delete(key);
    }
    if (leader === undefined) return;
    this.#copyAll(leader, false);
    const origin = this.#originOf(leader);
    if (origin === this.#origin) return;
    this.#origin = origin;
    this.#host.candidate(this.key, origin);
  }

  /** Repeats the changes for which a node was responsible that is gone. */
  repeat(): void {
    if (!this.#isLeading) return;
    for (const stay of this.#stays.values()) {
      const { joinTold, leaveTold } = stay;
      if (this.#isOpen(joinTold)) {
        stay.joinTold = { ...joinTold, by: this.#host.id };
        this.#tellLater(stay, "join", true);
      }
      if (this.#isOpen(leaveTold)) {
        stay.leaveTold = { ...leaveTold, by: this.#host.id };
        this.#tellLater(stay, "leave", true);
      }
    }
  }

  /** Forgets what is too old to be repeated. */
  prune(): void {
    const now = this.#host.runtime.monotonic();
    for (const [seen, at] of this.#seen) if (now - at > REPEAT_MS) this.#seen.delete(seen);
    // The leader forgets first, so that the others don't take a stay for a new one.
    const afterMs = this.#isLeading ? REPEAT_MS : 2 * REPEAT_MS;
    for (const [stay, at] of this.#ended) if (now - at > afterMs) this.#forget(stay);
  }

  /** Lists the users whose join the readers have received, but not their leave. */
  members(isListed: (stay: Stay) => boolean = () => true): ListedMember[] {
    const { topic, users } = this.scope;
    const present = [...this.#stays.values()].filter((stay) =>
      stay.joinTold !== undefined && stay.leaveTold === undefined && isListed(stay)
    );
    return present.map(({ user, joinedAt }) => {
      const member = users.get(user)?.member ?? { user, connections: 0 };
      return { topic, ...member, joinedAt };
    });
  }

  /** Decides now on what this node has seen, because it ends. */
  finish(): void {
    if (this.#isOver || !this.#isLeading) return;
    for (const seen of this.#seen.keys()) this.#decide(seen, false);
  }

  /** Stops to track the topic. */
  [Symbol.dispose](): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#shared?.[Symbol.dispose]();
  }

  #lead(): void {
    const { id, runtime } = this.#host;
    const isChosen = this.#shared === undefined || this.#leader === id;
    if (this.#isOver || !isChosen || this.#isLeading) return;
    this.#isLeading = true;
    // The other node may have acted on changes that this node is about to decide.
    const isRepeat = this.#decider !== undefined && this.#decider !== id;
    this.#decider = id;
    this.prune();
    const stays = [...this.#stays.values()];
    for (const stay of stays) this.#publish(stay);
    this.#shared?.set(LEADS, [id]);
    this.repeat();
    for (const seen of this.#seen.keys()) this.#decide(seen, isRepeat);
    for (const stay of stays) {
      if (stay.end !== undefined || this.scope.users.has(stay.user)) continue;
      const now = runtime.now();
      this.#end(stay, stay.seenEnd ?? { at: now, lastSeenAt: now, node: stay.node }, isRepeat);
    }
    for (const presence of this.scope.users.values()) {
      if (!this.#isPresent(presence.user)) this.#begin(presence, this.#nodeOf(presence), isRepeat);
    }
  }

  #originOf(leader: string): string {
    return this.#host.originOf(this.key, leader) ?? leader;
  }

  /** Returns true if a change must be repeated, because the responsible node is gone. */
  #isOpen(told: Told | undefined): told is Told {
    if (told === undefined || this.#host.isAlive(told.by)) return false;
    return this.#host.runtime.monotonic() - told.at < REPEAT_MS;
  }

  #decide(seen: Seen, isRepeat: boolean): void {
    const { event, presence } = seen;
    const { user } = event;
    this.#seen.delete(seen);
    const isHere = this.scope.users.has(user);
    const stay = this.#latest.get(user);
    const isPresent = this.#isPresent(user);
    if (event.type === "leave") {
      if (isPresent && !isHere) this.#end(stay!, stay!.seenEnd ?? endOf(event), isRepeat);
    } else if (!isPresent) {
      // Another leader may have ended this stay already.
      const isKnown = stay !== undefined && stay.joinedAt >= presence.joinedAt;
      if (isHere || !isKnown) this.#begin(presence, event.node, isRepeat);
    }
  }

  #begin(presence: UserPresence, node: string | undefined, isRepeat: boolean): void {
    const { user, joinedAt } = presence;
    const now = this.#host.runtime.now();
    // A node that was declared gone and returns brings its users back. This is another stay.
    const at = Math.abs(now - joinedAt) < REPEAT_MS ? joinedAt : now;
    const earliest = (this.#latest.get(user)?.joinedAt ?? -1) + 1;
    const stay = this.#add(user, Math.max(at, earliest), node);
    this.#publish(stay);
    this.#tellLater(stay, "join", isRepeat);
  }

  #end(stay: Stay, end: StayEnd, isRepeat: boolean): void {
    this.#close(stay, end);
    this.#publish(stay);
    this.#tellLater(stay, "leave", isRepeat);
  }

  /** Copies a decision of the leader. */
  #copy({ node, key, value }: DirectoryChange<StayEntry>): void {
    if (key === LEADS) {
      if (value === undefined) this.#leading.delete(node);
      else this.#leading.add(node);
      return this.elect();
    }
    if (this.#hasJoined && node === this.#leader && value !== undefined) this.#take(key, value);
  }

  /** Copies all decisions of the leader; with `isSilent`, the readers receive a listing instead. */
  #copyAll(leader: string, isSilent: boolean): void {
    this.#decider = leader;
    const known = new Set<Stay | undefined>();
    for (const { node, key, value } of this.#shared!.entries()) {
      if (node === leader && key !== LEADS) known.add(this.#take(key, value, isSilent));
    }
    if (this.#hasJoined) return;
    // The leader has forgotten the stays that ended while this node missed messages.
    for (const stay of [...this.#latest.values()]) {
      if (!known.has(stay) && !this.scope.users.has(stay.user)) this.#supersede(stay);
    }
  }

  #take(key: string, value: StayEntry, isSilent = false): Stay | undefined {
    const [node, at, lastSeenAt, leftNode, data] = value;
    const [user, joinedAt] = parseKey(key);
    if (!isNumber(joinedAt)) return undefined;
    let stay = this.#stays.get(key);
    if (stay === undefined) {
      this.#supersede(this.#latest.get(user));
      stay = this.#add(user, joinedAt, node);
      if (isSilent) stay.joinTold = this.#listed(stay);
      else this.#tell(stay, "join");
    }
    if (at === undefined || stay.end !== undefined) return stay;
    this.#close(stay, { at, lastSeenAt: lastSeenAt!, node: leftNode, data });
    if (isSilent) stay.leaveTold = this.#listed(stay);
    else this.#tell(stay, "leave");
    return stay;
  }

  /** Ends a stay that the leader doesn't know. */
  #supersede(stay: Stay | undefined): void {
    if (stay === undefined || stay.end !== undefined) return;
    const now = this.#host.runtime.now();
    stay.end = stay.seenEnd ?? { at: now, lastSeenAt: now, node: stay.node };
    this.#stays.delete(keyOf(stay));
    this.#latest.delete(stay.user);
    // The leader doesn't tell this leave, unless it did so before.
    this.#tell(stay, "leave", { by: stay.joinTold?.by ?? "", isRepeat: true });
  }

  #add(user: string, joinedAt: number, node: string | undefined): Stay {
    const stay: Stay = {
      user,
      joinedAt,
      node,
      end: undefined,
      seenEnd: undefined,
      joinTold: undefined,
      leaveTold: undefined,
      updatedAt: 0,
    };
    this.#stays.set(keyOf(stay), stay);
    this.#latest.set(user, stay);
    return stay;
  }

  #close(stay: Stay, end: StayEnd): void {
    stay.end = end;
    this.#ended.set(stay, this.#host.runtime.monotonic());
    if (this.#ended.size > MAX_RECENT) this.#forget(firstOf(this.#ended));
  }

  /** Forgets a stay that is over. */
  #forget(stay: Stay): void {
    if (!this.#ended.delete(stay)) return;
    const key = keyOf(stay);
    this.#stays.delete(key);
    this.#shared?.delete(key);
    if (this.#latest.get(stay.user) === stay) this.#latest.delete(stay.user);
  }

  #publish(stay: Stay): void {
    const { node = "", end } = stay;
    if (end === undefined) return this.#shared?.set(keyOf(stay), [node]);
    const { at, lastSeenAt, data } = end;
    const entry = [node, at, lastSeenAt, end.node ?? ""] as const;
    this.#shared?.set(keyOf(stay), data === undefined ? entry : [...entry, data]);
  }

  /** Makes this node responsible for a change. */
  #tellLater(stay: Stay, kind: Kind, isRepeat: boolean): void {
    const tell = () => this.#tell(stay, kind, { by: this.#host.id, isRepeat });
    if (this.#shared === undefined) tell();
    else this.#host.afterCopy(tell);
  }

  #tell(
    stay: Stay,
    kind: Kind,
    { by, isRepeat } = { by: this.#leader ?? "", isRepeat: false },
  ): void {
    const { user, joinedAt, node, end } = stay;
    const { topic, users } = this.scope;
    const told = { at: this.#host.runtime.monotonic(), by };
    if (kind === "join") stay.joinTold = told;
    else stay.leaveTold = told;
    const data = kind === "join" ? users.get(user)?.data?.value : end!.data;
    this.#host.push({
      kind,
      id: idOf(kind, topic, [user, joinedAt]),
      topic,
      user,
      at: kind === "join" ? joinedAt : end!.at,
      joinedAt,
      lastSeenAt: kind === "join" ? undefined : end!.lastSeenAt,
      data,
      node: kind === "join" ? node : end!.node,
      isResponsible: by === this.#host.id,
      isRepeat,
    });
  }

  #update(event: PresenceEvent, presence: UserPresence): void {
    const { topic, user, node } = event;
    const stay = this.#latest.get(user);
    if (stay?.joinTold === undefined || stay.leaveTold !== undefined) return;
    // Two updates may come within a millisecond, and the id has the time.
    const at = stay.updatedAt = Math.max(event.at, stay.updatedAt + 1);
    this.#host.push({
      kind: "update",
      id: idOf("update", topic, [user, at]),
      topic,
      user,
      at,
      joinedAt: stay.joinedAt,
      data: presence.data?.value,
      node,
      isResponsible: this.#isLeading,
      isRepeat: false,
    });
  }

  /** Lists a user that was present before the user's nodes read their events. */
  #list(presence: UserPresence): void {
    const { user, joinedAt, here, others } = presence;
    const nodes = [...others?.keys() ?? [], ...(here === undefined ? [] : [this.#host.id])];
    const isNew = nodes.some((node) =>
      !this.#host.isAlive(node) || this.#host.readsSince(node) <= joinedAt
    );
    if (isNew && this.#shared !== undefined) return;
    const stay = this.#add(user, joinedAt, this.#nodeOf(presence));
    stay.joinTold = { at: -Infinity, by: "" };
  }

  #nodeOf({ here, others }: UserPresence): string | undefined {
    return here === undefined ? others?.keys().next().value : this.#host.id || undefined;
  }

  #isPresent(user: string): boolean {
    const stay = this.#latest.get(user);
    return stay !== undefined && stay.end === undefined;
  }

  /** The leader may have decided on a recent join without acting on it. */
  #listed({ joinedAt }: Stay): Told {
    const { runtime } = this.#host;
    const isRecent = Math.abs(runtime.now() - joinedAt) < REPEAT_MS;
    return { at: isRecent ? runtime.monotonic() : -Infinity, by: this.#leader ?? "" };
  }
}

function endOf({ at, lastSeenAt, node, data }: PresenceEvent & { type: "leave" }): StayEnd {
  return { at, lastSeenAt, node, data };
}

function keyOf({ joinedAt, user }: Stay): string {
  return `${joinedAt}:${user}`;
}

function parseKey(key: string): [user: string, joinedAt: number] {
  const end = key.indexOf(":");
  return [key.slice(end + 1), Number(key.slice(0, end))];
}

/** Returns the id of an event, in ASCII. */
export function idOf(
  kind: string,
  topic: string | undefined,
  parts: readonly (string | number)[],
): string {
  const encode = (part: string | number) => encodeURIComponent(`${part}`.toWellFormed());
  const where = topic === undefined ? kind : `${kind}:${encode(topic)}`;
  return [where, ...parts.map(encode)].join("/");
}

function firstOf<T>(items: ReadonlyMap<T, unknown>): T {
  return items.keys().next().value!;
}
