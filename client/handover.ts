/**
 * Moves a client to a new session while the old one is still open. `session/lineage.ts` lists the
 * rules of a handover and the code on both sides.
 */
import { CloseCode, TimeoutError } from "../errors.ts";
import { internals } from "../session/core.ts";
import { ping } from "../session/insight/ping.ts";
import { Signal } from "../base/signal.ts";
import type { Dialer } from "./client_options.ts";
import type { Alarm } from "./liveness.ts";
import type { Opening } from "./open.ts";
import type { Contract } from "../session/contract.ts";
import type { Session } from "../session/session.ts";
import type { ClientSubscriptions, HeadSink, TopicReaders } from "./subscriptions/subscriptions.ts";
import { anySignal, settlesWithin, within } from "../base/wait.ts";
import type { IncomingMessage, TopicNote, TopicSink } from "../session/message.ts";
import { withTicket } from "../session/url.ts";
import { TRANSPORT_NAMES } from "../transport/race/options.ts";

/** How long the old session's requests and streams have to finish, in milliseconds. */
const FINISH_MS = 30_000;

/**
 * The same limit for the case that there is no new session, in milliseconds. It is short, because
 * the client has to reconnect soon.
 */
const FINISH_ALONE_MS = 5_000;

/**
 * How long a session must have had no streams before its streams count as finished, in
 * milliseconds.
 */
const QUIET_MS = 1_000;

/**
 * While the old session continues, messages from the new session are held. These are the limits for
 * each topic without a history. When either limit is reached, all held messages go to the readers.
 * The limits are a quarter of a subscription's queue, because the queue receives all held messages
 * at once.
 */
const MAX_HELD = { messages: 1_024, bytes: 262_144 };

/** The parts of the client that its moves use. */
export interface MovingClient<C extends Contract> {
  readonly session: () => Session | undefined;
  /** The names of the transports that the application chose. */
  readonly transports: readonly string[] | undefined;
  readonly subscriptions: ClientSubscriptions<C>;
  /** Aborted when the client closes. */
  readonly signal: AbortSignal;
  /** Makes one attempt to open a session. Never rejects. */
  readonly open: (change: (dial: Dialer) => Dialer, signal: AbortSignal) => Promise<Opening>;
  /** Makes a session the client's current session. `move` moves the subscriptions there. */
  readonly adopt: (session: Session, move: () => void) => void;
}

/** One move of a client. */
interface Moving<C extends Contract> extends Omit<MovingClient<C>, "session" | "transports"> {
  readonly from: Session;
  /** Sessions that the client moved away from earlier. */
  readonly left: readonly LeftSession[];
}

/** The moves of one client, one at a time. */
export class Moves<C extends Contract> {
  readonly #client: MovingClient<C>;
  #left: readonly LeftSession[] = [];
  #finished: Promise<unknown> | undefined;
  #isMoving = false;

  constructor(client: MovingClient<C>) {
    this.#client = client;
  }

  /** The newest session that the client has moved away from and that is still open. */
  get left(): LeftSession | undefined {
    return this.#left.find(({ session }) => session.isReady);
  }

  /** Resolves once all sessions that the client has moved away from are closed. */
  get finished(): Promise<unknown> | undefined {
    return this.#finished;
  }

  /**
   * Moves the client to another session.
   *
   * @param only The transport of the new session. By default, it is chosen as for any other session.
   * @returns True if the client moved. If false, the old session continues.
   * @throws {TypeError} If the client has no such transport.
   */
  async handOver(only?: string): Promise<boolean> {
    const names = new Set<string>([...TRANSPORT_NAMES, ...this.#client.transports ?? []]);
    if (only !== undefined && !names.has(only)) {
      throw new TypeError(
        `Cannot hand over: transport must be one of ${[...names]}, received "${only}"`,
      );
    }
    return await this.#move((moving) => handOver(moving, only)) !== undefined;
  }

  /**
   * Moves the client off a session whose server is silent. Never rejects.
   *
   * @returns True if the server turned out to be alive.
   */
  async rescue(alarm: Alarm): Promise<boolean> {
    const moved = await this.#move((moving) => replaceSilent(moving, alarm)).catch(() => undefined);
    return moved?.wasAlive === true;
  }

  /**
   * Moves the client away from a session that the browser is about to stop. If the move fails, the
   * session is closed.
   */
  async replace(session: Session | undefined): Promise<void> {
    if (this.#isMoving || await this.handOver()) return;
    if (session && session === this.#client.session()) await giveUp(session);
  }

  async #move<M extends Moved>(
    run: (moving: Moving<C>) => Promise<M | undefined>,
  ): Promise<M | undefined> {
    const { session, transports: _, ...client } = this.#client;
    const from = session();
    if (!from?.isReady || this.#isMoving) return undefined;
    this.#isMoving = true;
    try {
      const moved = await run({ ...client, from, left: this.#left });
      if (moved) {
        this.#left = moved.left;
        this.#finished = Promise.all([this.#finished, moved.finished]);
      }
      return moved;
    } finally {
      this.#isMoving = false;
    }
  }
}

/**
 * A session that a client moves away from. The client opens a new session next to it. The server
 * treats the two as a single session, and sends messages for the user only to the new one. If the
 * new session breaks, the client opens another one next to this session.
 */
export class LeftSession {
  readonly session: Session;

  /** Treats the session as left for as long as it stays open. */
  constructor(session: Session) {
    this.session = session;
  }

  /** Wraps a dialer so that it opens connections next to the session. */
  dialBeside(dial: Dialer): Dialer {
    return (url, options) =>
      dial(withTicket(url, this.session[internals].lineage.ticket!), options);
  }

  /**
   * Sends the first envelope of a new session, which assigns the session to the same client. Never
   * rejects.
   *
   * @returns False if the server did not reply within 10 s. A proxy may deliver `hello`, but hold
   * back everything that follows.
   */
  async assign(next: Session, signal: AbortSignal): Promise<boolean> {
    return await ping(next[internals], { signal })
      .then(() => true, (error) => !(error instanceof TimeoutError));
  }
}

/** The result of a move. */
interface Moved {
  /** Resolves once the old session is closed. */
  readonly finished: Promise<void>;
  /** All sessions that are still open after the move, except the new one. */
  readonly left: readonly LeftSession[];
}

/**
 * Moves a client to another session.
 *
 * @param moving The client's state and operations.
 * @param only The transport of the new session. By default, it is chosen as for any other session.
 * @returns Resolves after the move. Resolves with `undefined` if the old session continues.
 */
async function handOver<C extends Contract>(
  moving: Moving<C>,
  only?: string,
): Promise<Moved | undefined> {
  const { from, open, signal } = moving;
  // Only a server that supports handovers issues a ticket.
  if (!from[internals].lineage.ticket) return;
  const leaving = new LeftSession(from);
  const isOpen = whileOpen(from, signal);
  const opening = await open(
    (dial) => (url, options) => leaving.dialBeside(dial)(url, { ...options, only }),
    isOpen,
  );
  if (!opening.session) return undefined;
  return await moveTo(opening.session, leaving, { moving, isOpen });
}

/**
 * Moves a client off a session whose server is silent. The new connection is opened next to the old
 * one, and is closed again if the old one gives a sign of life.
 *
 * - **The server knows the old session:** the server is alive, so the client moves as with
 *   {@linkcode handOver}, and nothing is lost.
 * - **The server does not know it:** the server is a different process, and the old session is
 *   gone. The old session's requests fail, and the client continues in the new session as after a
 *   reconnect.
 * - **No connection opens:** the client treats the old session as lost and reconnects.
 * - **The server rejects the connection:** the old session continues.
 *
 * @param moving The client's state and operations.
 * @returns Resolves after the move. Resolves with `undefined` if the client did not move.
 */
async function replaceSilent<C extends Contract>(
  moving: Moving<C>,
  alarm: Alarm,
): Promise<Moved & { readonly wasAlive: boolean } | undefined> {
  const { from, open, signal, subscriptions, adopt } = moving;
  const { settings: { runtime }, lineage: { ticket } } = from[internals];
  const leaving = new LeftSession(from);
  const isOpen = whileOpen(from, signal);
  const confirmed = (dial: Dialer): Dialer => async (url, options) => {
    const startedAt = runtime.now();
    const confirm = () => alarm.confirm(runtime.now() - startedAt);
    const connection = await dial(url, {
      ...options,
      signal: anySignal(options.signal, alarm.signal),
    }).catch(async (error) => {
      await confirm();
      throw error;
    });
    try {
      // The server notifies its application of the new session only after this.
      await confirm();
      return connection;
    } catch (error) {
      connection.close();
      throw error;
    }
  };
  const silence = () => {
    const { silentMs } = alarm;
    const error = new TimeoutError(`No reply from the server within ${silentMs} ms`, silentMs);
    from[internals].abort(CloseCode.timedOut, "No sign of life", error, "network");
  };
  const opening = await open(
    (dial) => confirmed(ticket ? leaving.dialBeside(dial) : dial),
    isOpen,
  );
  if (!opening.session) {
    // A server or a proxy that rejects the connection is not silent.
    const isRejected = opening.info.by === "remote";
    if (!isOpen.aborted && !alarm.signal.aborted && !isRejected) silence();
    return undefined;
  }
  const next = opening.session;
  if (next[internals].lineage.follows) {
    const moved = await moveTo(next, leaving, { moving, isOpen });
    return moved && { ...moved, wasAlive: true };
  }
  if (!from.isReady || !next.isReady) return void next[internals].abort(CloseCode.normal, "");
  adopt(next, () => {
    subscriptions.lose();
    subscriptions.resume(next);
  });
  silence();
  return { finished: Promise.resolve(), left: [], wasAlive: false };
}

function whileOpen(session: Session, signal: AbortSignal): AbortSignal {
  const gone = new AbortController();
  session[internals].whenEnded(() => gone.abort());
  return anySignal(signal, gone.signal);
}

async function moveTo<C extends Contract>(
  next: Session,
  leaving: LeftSession,
  { moving, isOpen }: { readonly moving: Moving<C>; readonly isOpen: AbortSignal },
): Promise<Moved | undefined> {
  const { from, left, signal, subscriptions, adopt } = moving;
  if (!await leaving.assign(next, isOpen) || !from.isReady || !next.isReady) {
    // The client reconnects without the old session, and messages for the user arrive in the
    // session that opens next. In all other cases the old session continues.
    return void next[internals].abort(CloseCode.normal, "");
  }
  const passages: Passage<C>[] = [];
  const begun = new Map<Passage<C>, Session>();
  adopt(next, () =>
    subscriptions.move(next, (readers, reply) => {
      // For a topic with a history, the new session repeats the remaining messages of the old one,
      // so ignore those here.
      if (readers.hasHistory || !reply) {
        return { offer: (event) => event.kind === "dropped" || undefined };
      }
      const passage: Passage<C> = new Passage(readers, {
        arrive: (head) => subscriptions.arrive(readers, head),
        begin: (session) => {
          if (begun.set(passage, session).size === 1) void endAll(begun, { from, signal });
        },
      });
      // If the server rejected the topic, there are no remaining messages.
      reply.catch(() => passage.end());
      passages.push(passage);
      return passage.rest;
    }));
  return {
    finished: finish(from, next, { passages, signal }),
    left: [leaving, ...left.filter(({ session }) => session.isReady)],
  };
}

/**
 * Closes a session that the browser is about to stop and that the client could not move away from.
 */
async function giveUp(session: Session): Promise<void> {
  await settlesWithin(session[internals].settings.runtime, idle(session), FINISH_ALONE_MS);
  // Report the close as one by the network, because the client would not reconnect after a local
  // close.
  if (!session.isClosed) {
    session[internals].windUp({ code: CloseCode.normal, reason: "", by: "network" });
  }
}

/** An event of the new session that waits for the last events of the old one. */
interface HeldEvent {
  readonly event: IncomingMessage | TopicNote;
  readonly size: number;
}

interface Route {
  /** Routes the current session's later events to a sink. */
  readonly arrive: (head: HeadSink) => void;
  /** Called when the topic is in force in the current session. */
  readonly begin: (session: Session) => void;
}

/**
 * Once the server has replied to a ping in the old session, ends the passages whose topic is
 * subscribed in a later session. If that session is on another node, the server sends no
 * `unsubscribed` that would end the passage. Without the ping, the old session would duplicate all
 * publications until it ends.
 */
async function endAll<C extends Contract>(
  begun: Map<Passage<C>, Session>,
  { from, signal }: { readonly from: Session; readonly signal: AbortSignal },
): Promise<void> {
  while (begun.size > 0) {
    const all = [...begun];
    // A session that sends no pong ends on its own.
    const hasPong = await ping(from[internals], { signal }).then(() => true, () => false);
    for (const [passage, session] of all) {
      // If the later session broke, the topic starts in the session after it, possibly after this
      // pong.
      if (begun.get(passage) === session) begun.delete(passage);
      if (hasPong && session.isReady) passage.end();
    }
  }
}

/**
 * Passes on the old session's remaining messages on one topic without a history. In the meantime,
 * this class holds the new session's events. The server sends `unsubscribed` after the last of the
 * remaining messages, unless the new session is on another node.
 *
 * A client may move again before the passage ends. The remaining messages of the second session
 * then go to the earlier passage, which holds them until all messages of the first session have
 * been delivered.
 */
class Passage<C extends Contract> extends Signal implements HeadSink {
  /** Receives the remaining messages of the old session. */
  readonly rest: TopicSink = { offer: (event, size) => this.#pass(event, size) };
  readonly #readers: TopicReaders<C>;
  readonly #route: Route;
  #earlier: Passage<C> | undefined;
  #held: HeldEvent[] | undefined = [];
  #heldBytes = 0;

  constructor(readers: TopicReaders<C>, route: Route) {
    super();
    this.#readers = readers;
    this.#route = route;
    if (readers.head instanceof Passage) this.#earlier = readers.head;
    readers.head = this;
  }

  /** Receives an event from the new session, as {@linkcode TopicSink} describes. */
  offer(event: IncomingMessage | TopicNote, size: number): void | true {
    // If the client has left the topic in the meantime, its events keep their route.
    if (!this.#held) return this.#next.offer(event, size);
    // The pending reply will be newer than this removal, so the removal is not held.
    if (event.kind === "unsubscribed" && !this.#readers.isInForce) return;
    this.#heldBytes += size;
    const count = this.#held.push({ event, size });
    if (count >= MAX_HELD.messages || this.#heldBytes > MAX_HELD.bytes) this.end();
    return this.#recovers(event);
  }

  /** Passes on the held events. Idempotent. */
  end(): void {
    const held = this.#held ?? [];
    this.#held = undefined;
    // If the client has moved again, another head may be set.
    if (this.#readers.head === this) this.#route.arrive(this.#next);
    for (const { event, size } of held) this.#next.offer(event, size);
    this.notify();
  }

  /** Records that the topic is in force in the current session. */
  begin(session: Session): void {
    if (this.#held) this.#route.begin(session);
    this.#earlier?.begin(session);
  }

  /** Ends this passage, and all earlier ones. */
  leave(): void {
    this.end();
    this.#earlier?.leave();
  }

  /** Resolves once no messages remain in the old session. */
  async done(): Promise<void> {
    if (this.#held) await this.changed();
  }

  /** The readers, or the newest earlier passage that is still waiting for messages. */
  get #next(): HeadSink {
    while (this.#earlier && !this.#earlier.#held) this.#earlier = this.#earlier.#earlier;
    return this.#earlier ?? this.#readers;
  }

  /** Returns true for a note about dropped messages that the readers request again. */
  #recovers(event: IncomingMessage | TopicNote): true | undefined {
    return event.kind === "dropped" && this.#readers.hasHistory || undefined;
  }

  #pass(event: IncomingMessage | TopicNote, size: number): void | true {
    if (event.kind === "unsubscribed") return this.end();
    // Until the reply arrives, only the first event shows whether the topic has a history.
    const hasHistory = "offset" in event && event.offset !== undefined;
    if (this.#held && !hasHistory) this.#next.offer(event, size);
    return this.#recovers(event);
  }
}

/**
 * Closes the old session once all requests, handlers and streams have finished, or after the time
 * limit.
 */
async function finish<C extends Contract>(
  from: Session,
  next: Session,
  { passages, signal }: {
    readonly passages: readonly Passage<C>[];
    readonly signal: AbortSignal;
  },
): Promise<void> {
  // A session that broke sends no mark.
  void from.closed.then(() => {
    for (const passage of passages) passage.end();
  });
  const done = async () => {
    // After the pong, messages arrive in the old session only if the application has kept a
    // reference to it.
    await ping(from[internals], { signal });
    const { receiving } = from[internals];
    if (!receiving.isHandled) {
      receiving.heir = next[internals].receiving;
      receiving.queue.notify();
    }
    await Promise.all([idle(from), ...passages.map((passage) => passage.done())]);
  };
  await within(from[internals].settings.runtime, done(), { timeoutMs: FINISH_MS, signal }).catch(
    () => {},
  );
  await from.close();
}

/** Waits until a session has had no request, running handler or stream for a short time. */
async function idle(session: Session): Promise<void> {
  const { receiving, sending, settings: { runtime } } = session[internals];
  await sending.requests.idle();
  while (receiving.replies.size > 0 || receiving.handled && !receiving.isIdle) {
    await receiving.changed();
  }
  for (let before = 0;;) {
    const { activeStreams, streamsCreated } = session.stats;
    if (activeStreams === 0 && streamsCreated === before) return;
    before = streamsCreated;
    if (await settlesWithin(runtime, session.closed, QUIET_MS)) return;
  }
}
