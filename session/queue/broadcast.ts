/**
 * Sessions that get the same messages.
 *
 * @module
 */
import type { EncodedMessage } from "../wire/encode.ts";
import { type Entry, MAX_JOINED_BYTES } from "./packing.ts";
import type { SendQueue } from "./send_queue.ts";
import { internals, type Session } from "../session.ts";
import { type Pending, Sharing } from "./fan_out.ts";
import type { Turn } from "./turn.ts";

/** What is gathered in one turn goes out early once it has this many messages. */
const MAX_PENDING_MESSAGES = 256;

/**
 * A set of sessions that share what is sent to them: a message is encoded
 * once, and members with nothing else pending share the joined frame too.
 *
 * - **Order:** members get messages in the order of `send`, and in order with
 *   what `session.send` put before and after.
 * - **Members:** a change of members first hands over what was sent before it.
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
   * @param turn The turn of all its members.
   */
  constructor(turn: Turn) {
    this.#turn = turn;
    this.#sharing = Sharing.of(turn);
  }

  /** How many members there are. */
  get size(): number {
    return this.#members.size;
  }

  /**
   * Tells whether a session is a member.
   *
   * @param session Any session.
   * @returns Whether it is.
   */
  has(session: Session): boolean {
    return this.#members.has(session);
  }

  /**
   * Lists the members.
   *
   * @returns The sessions, in the order in which they came.
   */
  members(): IterableIterator<Session> {
    return this.#members.keys();
  }

  /**
   * Adds a session; it gets what is sent from now on. Idempotent.
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
   * Removes a session; what was sent before still reaches it. Idempotent.
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
   * @param message Encoded once.
   * @param except A member that does not get it.
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
   * Hands what was gathered to the turn.
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
