/** Broadcasts to a set of sessions. */
import type { EncodedMessage } from "../wire/encode.ts";
import { type Entry, MAX_JOINED_BYTES } from "./packing.ts";
import type { SendQueue } from "./send_queue.ts";
import { internals, type Session } from "../session.ts";
import { type Pending, Sharing } from "./fan_out.ts";
import type { Turn } from "./turn.ts";

/** Most messages gathered in one turn; at this number the messages are flushed early. */
const MAX_PENDING_MESSAGES = 256;

/**
 * A set of sessions that share messages: each message is encoded once, and members without other
 * pending messages share the joined frame too.
 *
 * - **Order:** members get messages in the order of `send`, and in order with messages of
 *   `session.send` before and after.
 * - **Members:** a change of members first flushes the earlier messages.
 */
export class Broadcast {
  readonly #turn: Turn;
  readonly #sharing: Sharing;
  readonly #members = new Map<Session, SendQueue>();
  #entries: Entry[] = [];
  #bytes = 0;
  #exceptions: Map<Entry, SendQueue> | undefined;

  /**
   * Creates an empty set.
   *
   * @param turn The turn of all members.
   */
  constructor(turn: Turn) {
    this.#turn = turn;
    this.#sharing = Sharing.of(turn);
  }

  /** Number of members. */
  get size(): number {
    return this.#members.size;
  }

  /**
   * Checks a session for membership.
   *
   * @param session Any session.
   * @returns True if the session is a member.
   */
  has(session: Session): boolean {
    return this.#members.has(session);
  }

  /**
   * Lists the members.
   *
   * @returns The sessions, in the order of `add`.
   */
  members(): IterableIterator<Session> {
    return this.#members.keys();
  }

  /**
   * Adds a session, which gets all later messages. Idempotent.
   *
   * @param session A session of the same turn.
   */
  add(session: Session): void {
    if (this.#members.has(session)) return;
    const queue = session[internals].messages("share messages");
    this.#settle();
    this.#members.set(session, queue);
  }

  /**
   * Removes a session, which still gets all earlier messages. Idempotent.
   *
   * @param session Any session.
   */
  delete(session: Session): void {
    if (!this.#members.has(session)) return;
    this.#settle();
    this.#members.delete(session);
  }

  /**
   * Sends a message to all members at the end of this turn.
   *
   * @param message The encoded message.
   * @param except A member that does not get the message.
   */
  send(message: EncodedMessage, except?: Session): void {
    if (this.#members.size === 0) return;
    const entry: Entry = {
      frame: message.frame,
      size: message.size,
      topic: message.topic,
      sequence: this.#turn.nextSequence(),
      isProtected: false,
    };
    const excepted = except === undefined ? undefined : this.#members.get(except);
    if (excepted !== undefined) (this.#exceptions ??= new Map()).set(entry, excepted);
    this.#bytes += entry.size;
    if (this.#entries.push(entry) === 1) this.#sharing.mark(this);
    if (this.#entries.length >= MAX_PENDING_MESSAGES || this.#bytes >= MAX_JOINED_BYTES) {
      this.#turn.flush();
    }
  }

  /**
   * Returns the gathered messages to the turn.
   *
   * @ignore
   * @returns The entries and their receivers.
   */
  take(): Pending {
    const pending: Pending = {
      entries: this.#entries,
      exceptions: this.#exceptions,
      members: this.#members.values(),
    };
    this.#entries = [];
    this.#bytes = 0;
    this.#exceptions = undefined;
    return pending;
  }

  #settle(): void {
    if (this.#entries.length > 0) this.#turn.flush();
  }
}
