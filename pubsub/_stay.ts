/**
 * A user in one place, and what each node has of it.
 *
 * @module
 */
import type { PresenceMember } from "../session/presence_notice.ts";
import type { Session } from "../session/session.ts";
import { isNumber } from "./_node_message.ts";
import type { DirectoryScope } from "./directory.ts";

/** What a node tells of a user: connections, since when, and without connections when there was one last. */
export type StayEntry = readonly [connections: number, joinedAt: number, lastSeenAt?: number];

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
    return { user: this.user, connections: this.connections, joinedAt: this.joinedAt };
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
      part = { stay: this, node, connections: 0, lastSeenAt: 0 };
      this.others.set(node, part);
    }
    return part;
  }

  /** Tells the other nodes what this one has. */
  share(): void {
    const { here, joinedAt, user, place: { scope } } = this;
    if (scope === undefined || here === undefined) return;
    const { connections, lastSeenAt } = here;
    scope.set(user, connections > 0 ? [connections, joinedAt] : [0, joinedAt, lastSeenAt]);
  }
}

/** Reads what a node told of a user. */
export function readStayEntry(value: unknown): StayEntry | undefined {
  if (!Array.isArray(value) || !value.every(isNumber)) return undefined;
  return value.length === 2 || value.length === 3 ? value as unknown as StayEntry : undefined;
}
