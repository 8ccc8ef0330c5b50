/**
 * Who is where, on this node and on others; whom that concerns is not known here.
 *
 * @module
 */
import type { Session } from "../../session/session.ts";
import { type Part, type Place, readStayEntry, Stay, type StayEntry } from "./user_presence.ts";
import { Directory } from "../nodes/directory.ts";
import type { Nodes } from "../nodes/nodes.ts";
import type { PresenceEvent } from "./types.ts";
import type { DirectoryChange } from "../nodes/directory_types.ts";

/**
 * Waits the same time for each of them, with one timer, and none while there is nothing.
 *
 * @typeParam T What ends.
 */
class Graces<T extends object> {
  readonly #graceMs: number;
  readonly #onOver: (over: T[]) => void;
  /** Since when, in the order in which they will be over. */
  readonly #since = new Map<T, number>();
  #timer: ReturnType<typeof setTimeout> | undefined;

  /** Creates it; `onOver` gets what was not taken back for `graceMs`. */
  constructor(graceMs: number, onOver: (over: T[]) => void) {
    this.#graceMs = graceMs;
    this.#onOver = onOver;
  }

  /** From now on it may end. */
  add(thing: T): void {
    this.#since.delete(thing);
    this.#since.set(thing, Date.now());
    this.#schedule();
  }

  /** It came back, or is no matter any more. */
  delete(thing: T): void {
    if (this.#since.delete(thing)) this.#schedule();
  }

  /** Forgets everything, and leaves no timer. */
  clear(): void {
    this.#since.clear();
    this.#schedule();
  }

  #schedule(): void {
    if (this.#since.size === 0) {
      clearTimeout(this.#timer);
      this.#timer = undefined;
      return;
    }
    if (this.#timer !== undefined) return;
    const [first] = this.#since.values();
    // A clock that was set back must not make the wait longer.
    const leftMs = first! + this.#graceMs - Date.now();
    const waitMs = Math.max(0, Math.min(leftMs, this.#graceMs));
    this.#timer = setTimeout(() => {
      this.#timer = undefined;
      this.#expire();
    }, waitMs);
  }

  #expire(): void {
    const now = Date.now();
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

/** Who is told of what happens. */
export interface PlacesOwner {
  /** Somebody came or went; called within the change. */
  changed(event: PresenceEvent): void;
  /** The other nodes said who is in a topic. */
  settled(topic: string): void;
  /** A change of another node, or of the clock, is done. */
  tell(): void;
}

/** How places are kept. */
export interface PlacesOptions {
  /** How long a user without connections is still there, in milliseconds. */
  readonly graceMs: number;
  /** The nodes that share what they know. */
  readonly nodes: Nodes | undefined;
  /** Whether being online is shared, too. */
  readonly sharesOnline: boolean;
}

/** The places of a presence: each topic in which somebody is, and being online. */
export class Places implements Disposable {
  /** Being online at all. */
  readonly online: Place;
  readonly #owner: PlacesOwner;
  readonly #graceMs: number;
  readonly #graces: Graces<Part>;
  readonly #nodes: Nodes | undefined;
  readonly #directory: Directory<StayEntry> | undefined;
  readonly #watchingNodes: Disposable | undefined;
  readonly #places = new Map<string, Place>();
  readonly #topicsOf = new Map<string, Set<string>>();
  /** When the node that leaves now was last heard. */
  #lastHeardAt = 0;
  #isDisposed = false;

  /** Creates places without anybody. */
  constructor({ graceMs, nodes, sharesOnline }: PlacesOptions, owner: PlacesOwner) {
    this.#owner = owner;
    this.#graceMs = graceMs;
    this.#graces = new Graces(graceMs, (over) => {
      for (const part of over) this.#end(part);
      owner.tell();
    });
    this.#nodes = nodes;
    if (nodes !== undefined) {
      // Before the directory sweeps what the node had.
      this.#watchingNodes = nodes.subscribe((event) => {
        if (event.type === "leave") this.#lastHeardAt = event.node.lastHeardAt;
      });
      this.#directory = new Directory({ nodes, name: "presence", read: readStayEntry });
    }
    this.online = this.#make(undefined, sharesOnline);
  }

  /** A topic in which somebody is, or that is followed. */
  get(topic: string): Place | undefined {
    return this.#places.get(topic);
  }

  /** The topics known here in which a user is. */
  topicsOf(user: string): string[] {
    return [...this.#topicsOf.get(user) ?? []];
  }

  /** Whether the other nodes said who is in a topic. */
  isSettled(topic: string): boolean {
    const nodes = this.#nodes;
    const isAlone = nodes === undefined || nodes.isReady && nodes.size === 0;
    return this.#places.get(topic)?.isSettled ?? isAlone;
  }

  /** Forgets everybody, and leaves no timer. */
  [Symbol.dispose](): void {
    this.#isDisposed = true;
    this.#graces.clear();
    this.#watchingNodes?.[Symbol.dispose]();
    this.#directory?.[Symbol.dispose]();
    this.online.stays.clear();
    this.#places.clear();
    this.#topicsOf.clear();
  }

  /** A topic, whether or not anybody is in it. Release it where nobody comes. */
  open(topic: string): Place {
    let place = this.#places.get(topic);
    if (place === undefined) {
      place = this.#make(topic, true);
      this.#places.set(topic, place);
    }
    return place;
  }

  /** Id of this node, where there can be others. */
  get #nodeId(): string {
    return this.#nodes?.id ?? "";
  }

  #make(topic: string | undefined, isShared: boolean): Place {
    const place: Place = {
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

  /** Forgets a topic that nobody here wants to know of any more. */
  release(place: Place): void {
    const { topic, scope, stays } = place;
    if (topic === undefined || place.here > 0 || place.followers > 0) return;
    if (this.#places.get(topic) !== place) return;
    this.#places.delete(topic);
    for (const stay of stays.values()) {
      this.#unlist(stay);
      for (const part of stay.others?.values() ?? []) this.#graces.delete(part);
    }
    stays.clear();
    scope?.[Symbol.dispose]();
  }

  /** The other nodes said who is there: who came here in the meantime, and was not there, is told of. */
  #settle(place: Place): void {
    const { topic } = place;
    const isHere = topic === undefined || this.#places.get(topic) === place;
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
          at: Date.now(),
          session,
          ...dataOf(stay),
        });
      }
    }
    if (topic !== undefined) this.#owner.settled(topic);
    this.#owner.tell();
  }

  /**
   * A connection of a user came.
   *
   * @returns The stay, and whether the user was not there before.
   */
  arrive(
    place: Place,
    session: Session,
    { user, data }: { readonly user: string; readonly data: unknown },
  ): { stay: Stay; hasCome: boolean } {
    const { topic } = place;
    const at = Date.now();
    const known = place.stays.get(user);
    const stay = known ?? this.#add(place, user, at);
    if (stay.here === undefined) {
      stay.here = { stay, node: undefined, connections: 0, lastSeenAt: 0, data: undefined };
      place.here++;
    } else this.#graces.delete(stay.here);
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

  /** A session that is there sets its data; `undefined` takes it back. */
  setData(stay: Stay, session: Session, data: unknown): void {
    stay.setData(session, this.#nodeId, data);
    stay.share();
    this.#refresh(stay);
  }

  /** A connection of a user has gone. */
  depart(stay: Stay, session: Session): void {
    const here = stay.here!;
    here.connections--;
    stay.dropData(session);
    if (here.connections === 0) {
      here.lastSeenAt = Date.now();
      if (this.#graceMs === 0) return this.#end(here);
      this.#graces.add(here);
    }
    stay.share();
    this.#refresh(stay);
  }

  /** Tells of it if the data that stands for a user is other than before. */
  #refresh(stay: Stay, session?: Session): void {
    const { user, place: { topic, isSettled } } = stay;
    // Before the other nodes are heard nothing was told of; the list that follows has it.
    if (!stay.refresh() || topic === undefined || !isSettled) return;
    this.#owner.changed({
      type: "update",
      topic,
      user,
      at: Date.now(),
      ...dataOf(stay),
      ...(session && { session }),
    });
  }

  /** Takes what another node has of a user. */
  #takeChange(place: Place, change: DirectoryChange<StayEntry>): void {
    const { node, key: user, value, isSwept } = change;
    if (value !== undefined) this.#takePart(place, user, { node, value });
    else {
      const part = place.stays.get(user)?.others?.get(node);
      if (part !== undefined) this.#losePart(part, isSwept);
    }
    this.#owner.tell();
  }

  #takePart(
    place: Place,
    user: string,
    { node, value }: { readonly node: string; readonly value: StayEntry },
  ): void {
    const [connections, joinedAt, lastSeenAt = 0, setAt, data] = value;
    const known = place.stays.get(user);
    const stay = known ?? this.#add(place, user, joinedAt);
    const part = stay.partOf(node);
    this.#graces.delete(part);
    part.connections = connections;
    part.lastSeenAt = lastSeenAt;
    part.data = setAt === undefined ? undefined : { setAt, node, value: data };
    const isEarlier = joinedAt < stay.joinedAt;
    if (stay.untold !== undefined) {
      // Of those who came to several nodes at once, one is the first for all.
      const isFirst = isEarlier || joinedAt === stay.joinedAt && node < this.#nodes!.id;
      if (isFirst) stay.untold = undefined;
    }
    if (isEarlier) {
      stay.joinedAt = joinedAt;
      // Not before: the other node would take it for a user who came here at the very same time.
      if (place.isSettled) stay.share();
    }
    if (known !== undefined) return this.#refresh(stay);
    stay.refresh();
    if (!place.isSettled) return;
    const { topic } = place;
    this.#owner.changed({ type: "join", topic, user, at: Date.now(), ...dataOf(stay) });
  }

  #losePart(part: Part, isSwept: boolean): void {
    this.#graces.delete(part);
    if (part.connections > 0) part.lastSeenAt = isSwept ? this.#lastHeardAt : Date.now();
    part.connections = 0;
    // A node that takes it back waited for the grace itself; one that is gone cannot.
    if (isSwept && this.#graceMs > 0) {
      this.#graces.add(part);
      this.#refresh(part.stay);
    } else this.#end(part);
  }

  /** A node has nothing of a user any more. */
  #end(part: Part): void {
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

  #add(place: Place, user: string, joinedAt: number): Stay {
    const stay = new Stay(place, user, joinedAt);
    place.stays.set(user, stay);
    const { topic } = place;
    if (topic === undefined) return stay;
    const topics = this.#topicsOf.get(user);
    if (topics === undefined) this.#topicsOf.set(user, new Set([topic]));
    else topics.add(topic);
    return stay;
  }

  #remove(stay: Stay): void {
    const { place: { topic, stays, isSettled }, user, seenAt: lastSeenAt } = stay;
    stays.delete(user);
    this.#unlist(stay);
    // Who came and went before the other nodes were heard was never told of.
    if (!isSettled) return;
    const at = Date.now();
    this.#owner.changed({ type: "leave", topic, user, at, lastSeenAt, ...dataOf(stay) });
  }

  #unlist({ place: { topic }, user }: Stay): void {
    const topics = this.#topicsOf.get(user);
    if (topic === undefined || topics === undefined) return;
    topics.delete(topic);
    if (topics.size === 0) this.#topicsOf.delete(user);
  }
}

/** The data of a user as events carry it. */
function dataOf({ data }: Stay): { readonly data?: unknown } {
  return data === undefined ? {} : { data: data.value };
}
