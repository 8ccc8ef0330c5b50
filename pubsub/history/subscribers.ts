/** The sessions of one topic with a history, on one node. */
import { Broadcast } from "../../session/queue/broadcast.ts";
import type { RecoveryReason, SubscribeAnswer } from "../../session/wire/recovery.ts";
import { internals, type Session } from "../../session/session.ts";
import type { Turn } from "../../session/queue/turn.ts";
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

/** What the audiences of a node share. */
export interface AudienceHost extends ReplayHost {
  /** The turn of all sessions. */
  readonly turn: Turn;
  /** Finds a session by its id. */
  sessionOf(id: string): Session | undefined;
}

/** What an audience needs from the feed of its topic. */
export interface Stage extends Replayable {
  /** Keeps pages within what somebody takes at once. */
  narrow(bounds: PageBounds): void;
}

/**
 * Every session of the topic is either a member, and stands where the feed stands, or has a
 * {@linkcode Replay}, and stands before it.
 */
export class Audience {
  readonly #feed: Stage;
  readonly #host: AudienceHost;
  readonly #members: Broadcast;
  readonly #replays = new Map<Session, Replay>();

  /** Creates an audience of nobody. */
  constructor(feed: Stage, host: AudienceHost) {
    this.#feed = feed;
    this.#host = host;
    this.#members = new Broadcast(host.turn);
  }

  /** How many sessions there are. */
  get size(): number {
    return this.#members.size + this.#replays.size;
  }

  /** The sessions; those whose replay runs come last. */
  *sessions(): Generator<Session, void, undefined> {
    yield* this.#members.members();
    yield* this.#replays.keys();
  }

  /**
   * Lets a session in, or has one that is in begin at another place.
   *
   * @returns Tells where the session stands, if the caller is to answer.
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
      // Last, for it calls the application, which may have the session leave.
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

  /** Lets a session out. */
  delete(session: Session): void {
    this.#members.delete(session);
    const replay = this.#replays.get(session);
    this.#replays.delete(session);
    replay?.end();
  }

  /** A session stands where the feed stands. */
  join(session: Session): void {
    this.#replays.delete(session);
    this.#narrowFor(session);
    this.#members.add(session);
  }

  /** Gives the members what is next. */
  give(item: Placed): void {
    if (this.#members.size === 0) return;
    const { except } = item;
    const excepted = except === undefined ? undefined : this.#host.sessionOf(except);
    // First, for sending may flush, and a policy of the application's publish what comes next.
    if (excepted !== undefined && this.#members.has(excepted)) tellSkip(excepted, item);
    this.#members.send(item.message, excepted);
  }

  /** Tells the members that publications are missing, and where the feed goes on. */
  tellGap(reason: RecoveryReason, offset: number): void {
    for (const session of [...this.#members.members()]) {
      tellGap(this.#feed, session, { reason, offset });
    }
  }

  /** Members whose wire is behind get what comes next page by page. */
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
