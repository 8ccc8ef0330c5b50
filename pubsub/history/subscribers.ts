/** The sessions of one topic with a history, on one node. */
import { Broadcast } from "../../session/queue/broadcast.ts";
import type { RecoveryReason, SubscribeAnswer } from "../../session/wire/recovery.ts";
import { internals, type Session } from "../../session/session.ts";
import type { Turn } from "../../session/queue/send_queue.ts";
import type { PageBounds, Placed } from "./tail_cache.ts";
import {
  Replay,
  type Replayable,
  type ReplayHost,
  type ReplayRequest,
  type SubscribeOptions,
  tellGap,
  tellSkip,
} from "./replay.ts";

/** State that the audiences of a node share. */
export interface SubscribersHost extends ReplayHost {
  /** The turn of all sessions. */
  readonly turn: Turn;
  /** Finds a session by its id. */
  sessionOf(id: string): Session | undefined;
}

/** The part of a feed that an audience uses. */
export interface Stage extends Replayable {
  /** Lowers the bounds of pages to those of a session. */
  narrow(bounds: PageBounds): void;
}

/**
 * The sessions of a topic. Each is either a member, which has all publications up to the newest
 * offset of the feed, or has a {@linkcode Replay} that leads there.
 */
export class Subscribers {
  readonly #feed: Stage;
  readonly #host: SubscribersHost;
  readonly #members: Broadcast;
  readonly #replays = new Map<Session, Replay>();

  /** Creates an empty audience. */
  constructor(feed: Stage, host: SubscribersHost) {
    this.#feed = feed;
    this.#host = host;
    this.#members = new Broadcast(host.turn);
  }

  /** Number of sessions. */
  get size(): number {
    return this.#members.size + this.#replays.size;
  }

  /** Lists the sessions, those with a replay last. */
  *sessions(): Generator<Session, void, undefined> {
    yield* this.#members.members();
    yield* this.#replays.keys();
  }

  /**
   * Adds a session, or restarts a present one at another position.
   *
   * @returns A function that returns the position of the session, if the caller has to answer.
   */
  admit(
    session: Session,
    { since, last, onAnswer }: SubscribeOptions,
  ): (() => SubscribeAnswer) | undefined {
    const before = this.#replays.get(session);
    const isIn = before !== undefined || this.#members.has(session);
    if (since !== undefined || last !== undefined || !isIn && onAnswer !== undefined) {
      this.#members.delete(session);
      this.#replay(session, { since, last, onAnswer });
      // This comes last because the application is called, and may remove the session.
      before?.end();
      return undefined;
    }
    if (before !== undefined && before.at === undefined) {
      if (onAnswer !== undefined) before.tellToo(onAnswer);
      return undefined;
    }
    if (isIn) return () => this.#standingOf(session);
    this.join(session);
    return undefined;
  }

  /** Removes a session. */
  delete(session: Session): void {
    this.#members.delete(session);
    const replay = this.#replays.get(session);
    this.#replays.delete(session);
    replay?.end();
  }

  /** Makes a member of a session that has reached the newest offset of the feed. */
  join(session: Session): void {
    this.#replays.delete(session);
    this.#narrowFor(session);
    this.#members.add(session);
  }

  /** Sends the next publication to the members. */
  give(item: Placed): void {
    if (this.#members.size === 0) return;
    const { except } = item;
    const excepted = except === undefined ? undefined : this.#host.sessionOf(except);
    // The skip goes first: sending may flush, which may run a policy of the application that
    // publishes the next message.
    if (excepted !== undefined && this.#members.has(excepted)) tellSkip(excepted, item);
    this.#members.send(item.message, excepted);
  }

  /** Tells the members of a gap, and the offset after which publications continue. */
  tellGap(reason: RecoveryReason, offset: number): void {
    for (const session of [...this.#members.members()]) {
      tellGap(this.#feed, session, { reason, offset });
    }
  }

  /** Turns members with unsent messages into replays, which send page by page. */
  spareSlow(): void {
    this.#host.turn.flush();
    for (const session of [...this.#members.members()]) {
      if (session[internals].queue!.isFlushed) continue;
      this.#members.delete(session);
      this.#replay(session, { at: this.#feed.known });
    }
  }

  #replay(session: Session, request: ReplayRequest): void {
    this.#narrowFor(session);
    const replay = new Replay(this.#feed, session, { request, host: this.#host });
    this.#replays.set(session, replay);
    replay.start();
  }

  #narrowFor(session: Session): void {
    const { maxMessages, maxBytes } = session[internals].settings.sendQueue;
    this.#feed.narrow({
      maxMessages: Math.ceil(maxMessages / 2),
      maxBytes: Math.ceil(maxBytes / 2),
    });
  }

  #standingOf(session: Session): SubscribeAnswer {
    const { epoch, known, tail } = this.#feed;
    const replay = this.#replays.get(session);
    const offset = replay === undefined ? known : replay.at;
    if (epoch === undefined || offset === undefined) return {};
    const tag = tail.tagAt(offset);
    return tag === undefined ? { epoch, offset, head: known } : { epoch, offset, tag, head: known };
  }
}
