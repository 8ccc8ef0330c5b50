/** The members of one room, for the components of a page. */
import type { WaitOptions } from "../../session/types.ts";
import type { PresenceMember } from "../../session/wire/presence_notice.ts";
import type { Client } from "../client.ts";
import { NOBODY, type RoomMembers } from "../subscriptions/rooms.ts";
import { Cell, errorOf, type Rounds } from "./cell.ts";

/**
 * How long a room stays joined after its last component unmounts, in milliseconds. This is long
 * enough for StrictMode, Suspense and route changes, and short enough for the other members.
 */
export const ROOM_GRACE_MS = 500;

/** A room, as its components see it. */
export interface RoomSnapshot extends Pick<RoomMembers, "count" | "status" | "error"> {
  /** The users, in the order in which they joined. */
  readonly users: readonly PresenceMember[];
}

/** A room before the first reply. */
export const PENDING_ROOM: RoomSnapshot = Object.freeze(snapshotOf(NOBODY));

/** The members of a room, and the presence data of this client. */
export class RoomCell extends Cell<RoomSnapshot> {
  readonly maxGraceMs = ROOM_GRACE_MS;
  readonly #client: Client;
  readonly #name: string;
  readonly #unsubscribe: (() => void) | undefined;
  #members: RoomMembers = NOBODY;
  #hasData = false;

  /** Joins a room. Errors are part of the snapshot. */
  constructor(rounds: Rounds, client: Client, name: string) {
    super(rounds, PENDING_ROOM);
    this.#client = client;
    this.#name = name;
    try {
      this.#unsubscribe = client.members(name).subscribe((members) => {
        this.#members = members;
        this.changed();
      });
    } catch (error) {
      const members = new Map<string, PresenceMember>();
      this.#members = Object.assign(members, {
        count: 0,
        status: "ended" as const,
        error: errorOf(error),
      });
      this.changed();
    }
  }

  /** Sets the client's data in the room until the cell is closed. */
  set(data: unknown, options?: WaitOptions): Promise<void> {
    this.#hasData = data !== undefined;
    return this.#client.presence(this.#name, data, options);
  }

  /** Leaves the room, and removes the data. */
  close(): void {
    this.#unsubscribe?.();
    // A closed client is not in any room.
    if (this.#hasData) this.set(undefined).catch(() => {});
  }

  protected override take(): RoomSnapshot {
    return snapshotOf(this.#members);
  }
}

function snapshotOf(members: RoomMembers): RoomSnapshot {
  const { count, status, error } = members;
  return { users: [...members.values()], count, status, error };
}
