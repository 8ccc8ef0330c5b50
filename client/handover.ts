/**
 * How a client moves to another session while it has the one before: loaded when that happens.
 *
 * @module
 */
import { CloseCode } from "../errors.ts";
import { absoluteUrl } from "../transport/url.ts";
import { within } from "../transport/within.ts";
import { internals } from "../session/core.ts";
import { ping } from "../session/insight/ping.ts";
import { Changing } from "../session/base/signal.ts";
import type { Dialer } from "./client_options.ts";
import type { AnyContract } from "../session/contract.ts";
import type { Session } from "../session/session.ts";
import type { Subscriptions } from "./subscriptions.ts";
import type { TopicReaders } from "./topic_readers.ts";
import { settlesWithin } from "../session/base/wait.ts";
import type { Incoming, TopicNote, TopicSink } from "../session/incoming.ts";
import type { TransportName } from "../transport/race/options.ts";

/** How long requests and streams of the session before may take to end, in milliseconds. */
const FINISH_MS = 30_000;

/** The same where no other session can be had beside, in milliseconds: the client is to come back soon. */
const FINISH_ALONE_MS = 5_000;

/** How long no stream may have come or ended before the session counts as done with them, in milliseconds. */
const QUIET_MS = 1_000;

/**
 * Messages of a topic without history that the next session says while the one before goes on: then they
 * wait no longer. A quarter of what may wait for the reader of a subscription, which gets all at once.
 */
const MAX_HELD = { messages: 1_024, bytes: 262_144 };

/** What a handover needs of its client. */
export interface Moving<C extends AnyContract> {
  /** The session before. */
  readonly from: Session;
  /** The transport to take; as for every other session if left out. */
  readonly transport: TransportName | undefined;
  /** The client's subscriptions. */
  readonly subscriptions: Subscriptions<C>;
  /** Ends with the client. */
  readonly signal: AbortSignal;
  /** Opens a session. */
  readonly open: (change: (dial: Dialer) => Dialer, signal: AbortSignal) => Promise<Session>;
  /** Makes a session the client's own, which its subscriptions go to by `move`. */
  readonly take: (session: Session, move: () => void) => void;
}

/**
 * Moves a client to another session.
 *
 * @param moving See {@linkcode Moving}.
 * @returns Resolves with what waits for the end of the session before; with nothing if that one goes on.
 */
export async function handOver<C extends AnyContract>(
  { from, open, signal, subscriptions, take, transport: only }: Moving<C>,
): Promise<{ readonly finished: Promise<void> } | undefined> {
  // With a ticket a server says that clients can move.
  const { ticket } = from[internals];
  if (!ticket) return;
  let next: Session | undefined;
  try {
    next = await open(
      (dial) => (url, options) => dial(withTicket(url, ticket), { ...options, only }),
      signal,
    );
    // By its first envelope the server takes it for one of this client; it has 10 s to answer.
    await ping(next[internals], { signal });
  } catch {
    // The session before goes on.
  }
  if (!from.isReady || !next?.isReady) return void await next?.close();
  const passages: Passage<C>[] = [];
  const session = next;
  take(session, () =>
    subscriptions.move(session, (readers, isInForce) => {
      // Where a topic has a history, what comes in the session before comes again.
      if (readers.hasHistory || !isInForce) return { offer() {} };
      const passage = new Passage(readers, () => subscriptions.arrive(readers));
      passages.push(passage);
      return passage;
    }));
  return { finished: finish(from, session, { passages, signal }) };
}

/**
 * Ends a session of which the engine takes no more, where there can be no other one beside it.
 *
 * @param session The session.
 */
export async function giveUp(session: Session): Promise<void> {
  await settlesWithin(idle(session), FINISH_ALONE_MS);
  // Not as a close of this end, after which the client would not come back.
  if (!session.isClosed) {
    session[internals].windUp({ code: CloseCode.normal, reason: "", by: "network" });
  }
}

/**
 * Takes the rest of one topic without history in the session before, and holds what comes in the next
 * one until that is over: the server says so where the rest ends.
 */
class Passage<C extends AnyContract> extends Changing implements TopicSink {
  readonly #readers: TopicReaders<C>;
  readonly #arrive: () => void;
  readonly #head: TopicSink = { offer: (event, size) => this.#hold(event, size) };
  #held: [Incoming | TopicNote, number][] | undefined = [];
  #heldBytes = 0;

  constructor(readers: TopicReaders<C>, arrive: () => void) {
    super();
    this.#readers = readers;
    this.#arrive = arrive;
    readers.head = this.#head;
  }

  /** See {@linkcode TopicSink}: what the session before says. */
  offer(event: Incoming | TopicNote, size: number): void {
    if (event.kind === "unsubscribed") this.end();
    else if (this.#held) this.#readers.offer(event, size);
  }

  /** Hands on what was held. Idempotent. */
  end(): void {
    const held = this.#held ?? [];
    this.#held = undefined;
    // Unless the client moves once more.
    if (this.#readers.head === this.#head) this.#arrive();
    for (const [event, size] of held) this.#readers.offer(event, size);
    this.notify();
  }

  /** Waits for the end. */
  async done(): Promise<void> {
    if (this.#held) await this.changed();
  }

  #hold(event: Incoming | TopicNote, size: number): void {
    this.#heldBytes += size;
    const count = this.#held!.push([event, size]);
    if (count >= MAX_HELD.messages || this.#heldBytes > MAX_HELD.bytes) this.end();
  }
}

/** Closes the session before once all that it began has ended, or the time is over. */
async function finish<C extends AnyContract>(
  from: Session,
  next: Session,
  { passages, signal }: {
    readonly passages: readonly Passage<C>[];
    readonly signal: AbortSignal;
  },
): Promise<void> {
  const done = async () => {
    // Behind the pong come only messages of an application that holds on to the session.
    await ping(from[internals], { signal });
    const { inbound } = from[internals];
    if (!inbound.isHandled) {
      inbound.heir = next[internals].inbound;
      inbound.queue.notify();
    }
    await Promise.all([idle(from), ...passages.map((passage) => passage.done())]);
  };
  await within(done(), { timeoutMs: FINISH_MS, signal }).catch(() => {});
  await from.close();
  for (const passage of passages) passage.end();
}

/** Waits until a session has no request, no running handler and no stream, and none has come for a while. */
async function idle(session: Session): Promise<void> {
  const { asks, inbound } = session[internals];
  await asks.idle();
  while (inbound.owesAnswers || inbound.isHandled && !inbound.isIdle) {
    await inbound.queue.changed();
  }
  for (let before = 0;;) {
    const { activeStreams, streamsCreated } = session.stats;
    if (activeStreams === 0 && streamsCreated === before) return;
    before = streamsCreated;
    if (await settlesWithin(session.closed, QUIET_MS)) return;
  }
}

function withTicket(url: string | URL, ticket: string): string {
  const { href } = absoluteUrl(url)!;
  return `${href}${href.includes("?") ? "&" : "?"}ticket=${ticket}`;
}
