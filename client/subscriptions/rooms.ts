/** The rooms of a client: its presence data in them, and their members. */
import { disposable } from "../../base/call_safely.ts";
import { checkType } from "../../base/error_text.ts";
import { QueueFullError, RequestError, SessionClosedError } from "../../errors.ts";
import { internals, type Session } from "../../session/session.ts";
import { checkTopic, encodeEnvelope } from "../../session/wire/encode.ts";
import type { MemberList } from "../../session/wire/member_list.ts";
import type { PresenceMember, PresenceNotice } from "../../session/wire/presence_notice.ts";
import { CODES_FOR_NOW, type SubscribeReply } from "../../session/wire/recovery.ts";
import { boundRetryAfter } from "../../base/backoff.ts";
import type { Contract } from "../../session/contract.ts";
import type { Runtime } from "../../base/runtime.ts";
import { settlesWithin, waitFor } from "../../base/wait.ts";
import { StatusFeed } from "../../base/status_feed.ts";
import { Subscription, type SubscriptionOwner } from "./subscription.ts";
import type { WaitOptions } from "../../session/types.ts";

/**
 * The maximum number of rooms in which one client may have data. A server keeps the data of as many
 * rooms for each session.
 */
export const MAX_ROOMS = 32;

/** The pause before the client retries data that was rejected temporarily, in milliseconds. */
const PAUSE_MS = 1_000;

/**
 * The longest pause in which newer data waits after a temporary rejection, in milliseconds. It
 * equals the time that a server has to reply.
 */
const MAX_PAUSE_MS = 30_000;

const VERB = "set presence";

/** The data that was sent in a session, and the server's reply. */
interface SentData {
  readonly session: Session;
  readonly data: unknown;
  readonly reply: Promise<void>;
  /** After a temporary rejection, it stays `rejected` until newer data may be sent. */
  status: "sent" | "accepted" | "rejected";
  /** Resolves when newer data may be sent. */
  over: Promise<void>;
  /** Settles with the newest data, which waits in the meantime. */
  next?: Promise<void>;
}

/**
 * The presence data of one client, by room. For each room, one value waits for the server's reply,
 * and the newest value waits for its turn. A page may therefore set data at each mouse move.
 */
export class ClientPresence {
  readonly #runtime: Runtime;
  readonly #data = new Map<string, unknown>();
  readonly #sent = new Map<string, SentData>();
  /**
   * The data that a server last accepted for each room. It is restored if newer data is rejected.
   */
  readonly #accepted = new Map<string, SentData>();

  constructor(runtime: Runtime) {
    this.#runtime = runtime;
  }

  /**
   * Sets the data for a room, and sends it in the current or the next session.
   *
   * @throws {QueueFullError} If the client already has data in 32 other rooms.
   */
  async set(
    room: string,
    data: unknown,
    { next, ...options }: WaitOptions & { readonly next: () => Session | Promise<Session> },
  ): Promise<void> {
    options.signal?.throwIfAborted();
    checkTopic(room, VERB);
    if (data === undefined) this.#data.delete(room);
    else if (this.#data.has(room) || this.#data.size < MAX_ROOMS) {
      // Make a copy, so that a later change by the caller does not affect the next session.
      this.#data.set(room, JSON.parse(encodeEnvelope({ topic: room, data }, VERB)).data);
    } else {
      throw new QueueFullError(
        `Cannot set presence: the client has data in ${MAX_ROOMS} rooms already`,
      );
    }
    const done = async () => {
      while (true) {
        // Do not wait if there is a session. The data must be sent before a later subscription,
        // which joins the room with this data.
        const found = next();
        const session = found instanceof Promise ? await found : found;
        try {
          return await this.#send(session, room);
        } catch (error) {
          // If the session was lost, the data is sent in the next one.
          if (!(error instanceof SessionClosedError)) throw error;
        }
      }
    };
    await waitFor(this.#runtime, done(), {
      ...options,
      what: `reply to the presence data in "${room}"`,
    });
  }

  /** Sends all data in a new session, before any request. */
  resume(session: Session): void {
    for (const room of this.#data.keys()) void this.#sendAgain(session, room);
  }

  /** Sends data without a caller. Retries after a temporary rejection, and reports any other. */
  async #sendAgain(session: Session, room: string): Promise<void> {
    while (session.isReady && this.#data.has(room)) {
      try {
        return await this.#send(session, room);
      } catch (error) {
        if (!(error instanceof RequestError)) return;
        const { failure } = error;
        if (!CODES_FOR_NOW.has(failure.code)) {
          return session[internals].sending.rejectedByPeer(failure);
        }
        await settlesWithin(
          this.#runtime,
          session.closed,
          Math.max(boundRetryAfter(failure.retryAfterMs), PAUSE_MS),
        );
      }
    }
  }

  /**
   * Sends the current data for a room, unless it was already sent in this session. If earlier data
   * waits for its reply, the data that is then the current one is sent afterwards.
   */
  #send(session: Session, room: string): Promise<void> {
    const data = this.#data.get(room);
    const known = this.#sent.get(room);
    if (known?.session === session) {
      if (known.data === data && known.status !== "rejected") return known.reply;
      if (known.status !== "accepted") {
        // In the meantime, the client may have moved to another session.
        return known.next ??= known.over.then(() =>
          this.#send(this.#sent.get(room)?.session ?? session, room)
        );
      }
    }
    const reply = session.presence(room as never, data as never);
    const sent: SentData = { session, data, reply, status: "sent", over: reply };
    this.#sent.set(room, sent);
    const isNewest = () => this.#sent.get(room) === sent;
    sent.over = reply.then((): void => {
      sent.status = "accepted";
      if (data !== undefined) return void this.#accepted.set(room, sent);
      this.#accepted.delete(room);
      if (isNewest()) this.#sent.delete(room);
    }, async (error) => {
      if (!isNewest()) return;
      const { code, retryAfterMs } = error instanceof RequestError ? error.failure : {};
      const isFinal = code !== undefined && !CODES_FOR_NOW.has(code);
      const pauseMs = isFinal ? 0 : Math.min(MAX_PAUSE_MS, boundRetryAfter(retryAfterMs));
      if (pauseMs > 0) {
        sent.status = "rejected";
        await settlesWithin(this.#runtime, session.closed, pauseMs);
        if (!isNewest()) return;
      }
      this.#sent.delete(room);
      if (!isFinal || this.#data.get(room) !== data) return;
      // Data that was rejected permanently is not sent again.
      const accepted = this.#accepted.get(room);
      if (accepted === undefined || accepted.data === data) {
        this.#data.delete(room);
        this.#accepted.delete(room);
        return;
      }
      this.#data.set(room, accepted.data);
      // A later session started with the rejected data, so it has no data yet.
      if (accepted.session !== session) void this.#sendAgain(session, room);
    });
    return reply;
  }
}

/**
 * The members of a room at one moment, by user, in the order in which they joined. Each change
 * creates a new object.
 *
 * @typeParam D The presence data.
 */
export interface RoomMembers<D = unknown> extends ReadonlyMap<string, PresenceMember<D>> {
  /** The number of members. It equals `size`, unless the room sends only the number of members. */
  readonly count: number;
  /**
   * The status is `pending` before the server's first reply, and then `subscribed`. It is `lost`
   * while there is no connection; the last known members are kept. It is `ended` after a rejection,
   * or once the client is closed; there are then no members.
   */
  readonly status: Subscription["status"]["current"];
  /** The error that ended the subscription to the room. */
  readonly error: Error | undefined;
}

/** A room that no one watches, or whose first reply has not arrived. */
export const NOBODY: RoomMembers<never> = Object.freeze(
  Object.assign(
    new Map<string, never>(),
    { count: 0, status: "pending", error: undefined } as const,
  ),
);

/**
 * A subscription to a room that tracks its members. The room's messages go to other subscriptions.
 *
 * @typeParam C The contract.
 */
export class ClientMembership<C extends Contract = Contract> extends Subscription<C> {
  readonly feed: StatusFeed<RoomMembers> = new StatusFeed<RoomMembers>(NOBODY);
  readonly #owner: SubscriptionOwner;
  #list: MemberList | undefined;
  #error: unknown;

  constructor(room: string, owner: SubscriptionOwner) {
    super(room, { ...owner, lost() {} }); // `current` contains the error.
    this.#owner = owner;
    this.status.observe(() => this.#changed());
  }

  override offer(): void {}

  override serve(_reply: SubscribeReply, wasWaiting: boolean): void {
    // The list of members follows only a request of its own.
    if (wasWaiting) this.change("reply");
  }

  override async from(): Promise<Record<never, never>> {
    const { MemberList } = await this.#owner.loadRecovery();
    this.#list ??= new MemberList();
    return {};
  }

  override note(notice: PresenceNotice): void {
    if (this.#list?.take(notice)) this.#changed();
  }

  override end(error?: unknown): void {
    this.#error ??= error;
    this.#list = undefined;
    super.end(error);
  }

  #changed(): void {
    const { users, count } = this.#list ?? { users: [] };
    const members = new Map(users);
    const { current: status } = this.status;
    this.feed[status === "ended" ? "end" : "set"](Object.assign(members, {
      count: count ?? members.size,
      status,
      error: this.#error as Error | undefined,
    }));
  }
}

type AnyMembership = Pick<ClientMembership, "feed" | "isEnded" | "unsubscribe">;

interface WatchedRoom {
  readonly membership: AnyMembership;
  watchers: number;
}

/** The rooms that are watched through one client, by name. Each has one subscription. */
export class WatchedRooms {
  readonly #all = new Map<string, WatchedRoom>();
  readonly #join: (room: string) => AnyMembership;

  constructor(join: (room: string) => AnyMembership) {
    this.#join = join;
  }

  current(room: string): RoomMembers {
    return this.#all.get(room)?.membership.feed.current ?? NOBODY;
  }

  /**
   * Watches a room. The client joins the room with the first watcher, and leaves it when the last
   * one ends. A watcher that starts after a rejection tries again.
   */
  watch(room: string): { readonly feed: StatusFeed<RoomMembers>; readonly leave: () => void } {
    const known = this.#all.get(room);
    const watched = known && !known.membership.isEnded
      ? known
      : { membership: this.#join(room), watchers: 0 };
    const { membership } = watched;
    this.#all.set(room, watched);
    watched.watchers++;
    let isOver = false;
    return {
      feed: membership.feed,
      leave: () => {
        if (isOver) return;
        isOver = true;
        if (--watched.watchers > 0) return;
        if (this.#all.get(room) === watched) this.#all.delete(room);
        // The membership ends even if the server does not reply.
        membership.unsubscribe().catch(() => {});
      },
    };
  }
}

/**
 * The members of a room. Read them from `current`, and follow each change with `subscribe` or a
 * loop.
 *
 * - **Users:** as in presence, a member is a user, so two tabs of a user are one member.
 * - **Joined while watched:** the first callback or loop subscribes to the room, so this client is
 *   also a member. When the last one ends, the client leaves the room, unless the application has
 *   also subscribed to the topic. The object itself holds no resources, and need not be closed.
 * - **Sharing:** all objects of a client for the same room share one subscription. At the server,
 *   the application's own subscriptions share it too.
 * - **Reconnect:** while the connection is lost, the last known members are kept. The list from the
 *   next session replaces them in a single change.
 * - **Rejected:** after a temporary rejection, the client retries. After any other rejection,
 *   `current` is empty and contains the `error`, and a loop throws that error. The next callback or
 *   loop tries again.
 * - **Notices:** presence notices still reach `onMessage` and the loop over the client.
 *
 * @example In a page
 * ```ts
 * import { connect, serve } from "@skein/skein";
 * import { assertEquals } from "@std/assert";
 *
 * await using server = serve({
 *   port: 0,
 *   onListen() {},
 *   authenticate: ({ token }) => token ?? null,
 *   authorize: () => true,
 *   rooms: ["room:{name}"],
 * });
 * await using ann = connect(`${server.url}?token=ann`);
 * await using bob = connect(`${server.url}?token=bob`);
 * using _room = bob.members("room:tea").subscribe(() => {});
 *
 * for await (const now of ann.members("room:tea")) {
 *   if (now.size < 2) continue;
 *   assertEquals([...now.keys()].sort(), ["ann", "bob"]);
 *   break; // When the loop ends, the client leaves the room.
 * }
 * ```
 *
 * @typeParam D The presence data.
 */
export class Members<D = unknown> implements AsyncIterable<RoomMembers<D>> {
  /** The room. */
  readonly room: string;
  readonly #rooms: WatchedRooms;

  /** Creates a view of a room. Called by `client.members`. */
  constructor(room: string, rooms: WatchedRooms) {
    this.room = room;
    this.#rooms = rooms;
  }

  /** The members now. It is empty and `pending` while neither a callback nor a loop is watching. */
  get current(): RoomMembers<D> {
    return this.#rooms.current(this.room) as RoomMembers<D>;
  }

  /**
   * Calls a callback with the members immediately and after each change. Like
   * {@linkcode StatusFeed.subscribe}, it follows the contract of a Svelte store.
   *
   * @param callback Receives the members. If it throws an error, the error is printed and the
   * subscription continues.
   * @returns A function that ends the subscription. Idempotent.
   * @throws {SessionClosedError} If the client is closed.
   */
  subscribe(callback: (members: RoomMembers<D>) => unknown): (() => void) & Disposable {
    checkType("subscribe", "callback", callback);
    const watched = this.#rooms.watch(this.room);
    const unsubscribe = watched.feed.subscribe(callback as (members: RoomMembers) => unknown);
    const end = () => {
      unsubscribe();
      watched.leave();
    };
    return disposable(end);
  }

  /**
   * Yields the members, and then yields them again after each change. A slow loop may miss
   * intermediate states, but never the newest. The loop ends when the client closes.
   *
   * @returns The room's members by user.
   * @throws {RequestError} If the server rejects the room. It is thrown after the last state.
   * @throws {SessionClosedError} If the client was closed before the loop, or if the client fails.
   */
  async *[Symbol.asyncIterator](): AsyncGenerator<RoomMembers<D>, void, undefined> {
    const { feed, leave } = this.#rooms.watch(this.room);
    try {
      yield* feed as StatusFeed<RoomMembers<D>>;
      if (feed.current.error) throw feed.current.error;
    } finally {
      leave();
    }
  }
}
