/** Presence data that clients set in rooms. */
import { QueueFullError, RequestError } from "../../errors.ts";
import type { Rooms } from "../../pubsub/presence/rooms.ts";
import type { Topics } from "../../pubsub/topics.ts";
import type { Session } from "../../session/session.ts";
import { checkData, isEncodable } from "./client_data.ts";
import type { KnownTopics } from "./known_topics.ts";
import type { Rights } from "./rights.ts";

/** Parts of the server that {@linkcode PresenceUpdates} uses. */
export interface PresenceUpdatesParts {
  readonly rights: Rights;
  readonly known: KnownTopics;
  readonly topics: Topics;
  readonly rooms: Rooms;
}

/** Sets the presence data of clients. */
export class PresenceUpdates {
  readonly #parts: PresenceUpdatesParts;

  constructor(parts: PresenceUpdatesParts) {
    this.#parts = parts;
  }

  /** Sets the presence data of a session in a room; `undefined` ends its presence. */
  async set(session: Session, room: string, data: unknown): Promise<void> {
    const { rights, known, topics, rooms } = this.#parts;
    using decision = topics.decisions.begin(session, { topic: room });
    await rights.check(session, room, "presence", { decision });
    if (!known.isRoom(room) && !rooms.isMember(session, room)) {
      throw new RequestError(
        "unknown-topic",
        `"${room}" is not a room: no pattern of the server's rooms fits`,
      );
    }
    if (data instanceof Uint8Array || !isEncodable(room, data)) {
      throw new RequestError("malformed", "Expected data that JSON can hold");
    }
    const schema = data === undefined ? undefined : known.presenceSchemaOf(room);
    const checked = await checkData(session, schema, { topic: room, data });
    decision.check();
    try {
      rooms.setData(session, room, checked);
    } catch (error) {
      if (error instanceof RangeError) throw new RequestError("too-large", error.message);
      if (error instanceof QueueFullError) throw new RequestError("too-many", error.message);
      throw error;
    }
  }
}
