/** The services of a server for its peers: tokens, subscriptions, publications, and presence. */
import {
  AuthenticationError,
  BrokerError,
  LimitError,
  RequestError,
  type RequestFailure,
} from "../../errors.ts";
import { rejectionOf } from "../../base/quotas/shares.ts";
import type { Runtime } from "../../base/runtime.ts";
import type { Backpressure } from "../../transport/connection.ts";
import { internals } from "../core.ts";
import type { Inside } from "../receiving.ts";
import type { CountRequest, StoreResponse } from "../responses/request_table.ts";
import type { Control } from "../message.ts";
import { ReceiveQueue } from "../queue/receive_queue.ts";
import { MAX_PINGS, MAX_PRESENCES, PendingRequests } from "../sending.ts";
import type { Session } from "../session.ts";
import type { SessionIdentity } from "../types.ts";
import type {
  IntroducingEnvelope,
  NumberedEnvelope,
  RequestServer,
  SessionRequests,
} from "../settings/settings.ts";
import type { ServiceKind, ServiceReader } from "../wire/envelope.ts";
import type { HistoryPosition, SubscribeReply } from "../wire/recovery.ts";
import { isPostponed, MAX_PRODUCER_NUMBER } from "../wire/producer.ts";
import { publicationsIn, readService } from "../wire/server_envelope.ts";
import { FirstFrames, LastingRejection, requestFailure } from "./first_frames.ts";
import {
  introduce,
  type Producer,
  type ProducerEnvelope,
  type ProducerStore,
} from "./producers.ts";
import { GIVEN_BACK, type Numbered, Numbers, Sequences, type SequenceStore } from "./sequences.ts";

/**
 * Number of subscriptions that a client may request at once, in addition to other requests. If the
 * server has histories, it is the default maximum number of subscriptions of a client, because a
 * returning client requests all of them at once.
 */
const MAX_SUBSCRIBED_AT_ONCE = { resumed: 128, others: 32 };

/**
 * Number of publications of one session that are handled at the same time, each on another topic.
 * It is as high as the number that a client sends before it waits for replies, so that a slow
 * decision on one topic delays no other topic.
 */
export const MAX_PUBLICATIONS_AT_ONCE = 32;

/**
 * Number of topics of one session with a failed publication that the client may not know of. A
 * client has fewer publications in flight.
 */
const MAX_FAILED = 1_000;

/** Codes of publications that fail again at every attempt, because of the topic or the data. */
const LASTING: ReadonlySet<string> = new Set([
  "invalid",
  "malformed",
  "too-large",
  "unanswered",
  "unknown-topic",
]);

/** The reply to a subscription that was replaced or removed before the server replied. */
const SUPERSEDED: RequestFailure = {
  code: "superseded",
  message: "A later subscribe or unsubscribe of the topic replaced this request",
};

/** The failure of numbers beyond the limits for those that wait. */
const CROWDED: RequestFailure = {
  code: "too-many",
  message: "Too many publications of the producer are waiting",
  retryAfterMs: 1_000,
};

/** The failure of a publication that an earlier attempt may have published. */
export const IN_DOUBT: RequestFailure = {
  code: "unknown",
  message: "Cannot tell if the publication was made: the server failed while it was being made",
};

/** Envelopes by which a peer requests a service. */
export type ServiceEnvelope = Extract<Control, { kind: Exclude<ServiceKind, "producer"> }>;

/**
 * The services of a server for its sessions. If a service is missing, requests for it are rejected
 * with `forbidden`.
 */
export interface SessionServices {
  /**
   * Called before the session is established. To reject the session, return a code and a reason.
   */
  admit?(session: Session): { readonly code: number; readonly reason: string } | undefined;
  /** Called once the session is established, before `onOpen`. MUST NOT throw. */
  opened?(session: Session): void;
  /** Starts a resumable response unless it has started already, and replies to the request. */
  readonly storeResponse?: StoreResponse | undefined;
  /** Counts a request whose handler has a cost, and a response that does not outlive the session. */
  readonly countRequest?: CountRequest | undefined;
  /**
   * True if a client can move from one session to another. `admit` and `opened` receive the second
   * session with its predecessor, which stays open until the client has moved.
   */
  readonly canMove?: boolean | undefined;
  /**
   * Hashes with SHA-256, in base64url: a ticket's secret, for the name of a guest, and the names of
   * users, for the tags that clients receive. Without this function, there are no tags, and the name
   * is the session's id.
   */
  readonly hashOf?: ((text: string) => string) | undefined;
  /**
   * Subscribes the session to a topic and returns the data of the reply. If it returns `undefined`,
   * the service MUST call `onReply` of the request exactly once, immediately or later.
   */
  readonly subscribe?:
    | ((session: Session, topic: string, request: SubscribeRequest) => unknown)
    | undefined;
  /** Removes the session from a topic. */
  readonly unsubscribe?: ((session: Session, topic: string) => unknown) | undefined;
  /** Publishes on behalf of the session. */
  readonly publish?:
    | ((
      session: Session,
      topic: string,
      data: unknown,
      request: PublishRequest,
    ) => unknown)
    | undefined;
  /**
   * Counts the bytes of a publication until it is published or rejected. Without this function, or
   * if it returns `undefined`, they are not counted.
   *
   * @throws {LimitError} If too many bytes wait.
   */
  readonly countPublication?:
    | ((session: Session, topic: string, bytes: number) => Disposable | undefined)
    | undefined;
  /**
   * Called once the client has sent its id, before the envelope with the id is handled. MUST NOT
   * throw.
   */
  readonly introduced?: ((session: Session) => void) | undefined;
  /** Sets the presence data of the session in a room; `undefined` ends the presence. */
  readonly presence?: ((session: Session, room: string, data: unknown) => unknown) | undefined;
  /** True if any topic has a history. */
  readonly hasHistory?: boolean | undefined;
  /** Store of the handled message numbers. Without a store, numbers are ignored. */
  readonly sequences?: SequenceStore | undefined;
  /** Store of the rows of producers. Without a store, clients with an outbox in a store send nothing. */
  readonly producers?: ProducerStore | undefined;
  /** Size limit of the first envelope, which contains the token, in bytes. */
  readonly maxTokenBytes?: number | undefined;
  /** Checks a token and returns the new value and user. */
  readonly authenticate?:
    | ((
      session: Session,
      token: string,
      signal: AbortSignal,
    ) => Promise<{
      value: unknown;
      user: string | undefined;
      isGuest?: boolean | undefined;
      credentials?: SessionIdentity["credentials"] | undefined;
    }>)
    | undefined;
  /**
   * Called once the peer has renewed its token and the session has the new identity. The reply and
   * later requests wait for the returned promise. MUST NOT throw.
   */
  readonly renewed?: ((session: Session, before: unknown) => unknown) | undefined;
  /**
   * Authorizes the topics of a session again after its identity has changed. The reply waits for
   * the returned promise; later requests don't. The signal aborts when the session closes. MUST NOT
   * throw.
   */
  readonly recheck?: ((session: Session, signal: AbortSignal) => Promise<void>) | undefined;
}

/** Start of a subscription. */
export interface SubscribeRequest {
  /** Newest history position that the client knows. */
  readonly since: HistoryPosition | undefined;
  /** Number of newest messages that the client requests first. */
  readonly last: number | undefined;
  /** Sends the reply. */
  readonly onReply: (reply: SubscribeReply) => void;
}

/** Options of a client's publication. */
export interface PublishRequest {
  /** Number of the publication, if the client numbers its publications. */
  readonly number: PublicationNumber | undefined;
  /** False if the publication must not be sent back to its publisher. */
  readonly echo: boolean;
  /**
   * Called when the application begins to decide about the content. From then on, only later
   * publications on the topic wait for this one.
   */
  readonly onHeld: () => void;
  /** The turn of a publication in the order of its producer. */
  readonly turn?: PublicationTurn | undefined;
}

/** The turn of a publication in the order of its producer. */
export interface PublicationTurn {
  /** True if an earlier attempt may have published it. */
  readonly isInDoubt: boolean;
  /**
   * Tells if that attempt began so recently that a history recognizes its number.
   *
   * @throws {BrokerError} If the broker is unreachable.
   */
  hasJustBegun(): Promise<boolean>;
  /**
   * Records that it begins, and waits until that is stored.
   *
   * @throws {BrokerError} If the broker is unreachable.
   */
  begin(options: { readonly isKeyed: boolean }): Promise<void>;
}

/** Number of a publication, by which a repetition is recognized. */
export interface PublicationNumber {
  /** Key of the client, unique across all nodes. */
  readonly producer: string;
  /** The increasing number. */
  readonly number: number;
  /** True if the publication may have been made before. */
  readonly isAgain: boolean;
  /** True if a repetition must be recognized on a topic without a history, too. */
  readonly isOnce: boolean;
}

const TICKET_BYTES = 16;

/**
 * Number of tickets for which random bytes are generated together, because that takes longer than
 * creating a ticket.
 */
const TICKETS_AT_ONCE = 64;

const IN_URL = { alphabet: "base64url", omitPadding: true } as const;

/** The secret in a ticket: its random bytes in base64url. */
export const TICKET_SECRET: RegExp = /^[\w-]{22}$/;

/** Prefix of `session.user` for a session without a user. No name of a user starts with it. */
export const GUEST_PREFIX = "guest:";

/**
 * Number of characters of the hash in a guest's name and in a tag, which is as hard to guess as the
 * secret of a ticket.
 */
const HASH_LENGTH = 22;

/** Services for any number of sessions, for `sessionSettings`. */
export class RequestService implements RequestServer, Disposable {
  /** The services of every session. */
  readonly services: SessionServices;
  /**
   * Features that a server announces to its clients, because other servers may lack them.
   *
   * @ignore
   */
  readonly features: readonly string[];
  /**
   * Progress of the clients that number their messages.
   *
   * @ignore
   */
  readonly sequences: Sequences | undefined;
  /**
   * Progress of the producers.
   *
   * @ignore
   */
  readonly producers: Sequences | undefined;
  /**
   * Reads the envelopes that only a server accepts.
   *
   * @ignore
   */
  readonly readService: ServiceReader = readService;
  readonly #runtime: Runtime;
  readonly #random = new Uint8Array(TICKETS_AT_ONCE * TICKET_BYTES);
  /** Index of the first unused random byte. */
  #unused = this.#random.length;

  /**
   * Creates the services.
   *
   * @param runtime Clocks, timers and randomness of this node.
   * @param services The services of every session.
   */
  constructor(runtime: Runtime, services: SessionServices) {
    this.#runtime = runtime;
    this.services = services;
    const { sequences, producers, hasHistory } = services;
    this.sequences = sequences && new Sequences(runtime, sequences);
    this.producers = producers && new Sequences(runtime, producers);
    this.features = [...hasHistory ? ["history"] : [], ...producers ? ["producers"] : []];
  }

  /**
   * Creates the secret with which the client of a session can move to another session.
   *
   * @ignore
   * @param core The implementation of the session.
   * @returns The id of the session and 128 random bits; `undefined` if clients cannot move to
   * another session. A returning guest keeps the same random bits.
   */
  ticket(core: Inside<Session>): string | undefined {
    if (!this.services.canMove || core.lineage.ticket !== undefined) return core.lineage.ticket;
    if (core.user === undefined && core.lineage.secret !== undefined) {
      return core.lineage.ticket = `${core.id}.${core.lineage.secret}`;
    }
    if (this.#unused === this.#random.length) {
      this.#runtime.getRandomValues(this.#random);
      this.#unused = 0;
    }
    const secret = this.#random.subarray(this.#unused, this.#unused += TICKET_BYTES);
    return core.lineage.ticket = `${core.id}.${secret.toBase64(IN_URL)}`;
  }

  /**
   * Names a session without a user. The name is a hash of the secret in its ticket, so that a
   * client that presents an earlier ticket gets the same name on every node. Without a ticket, the
   * name is the session's id.
   *
   * @ignore
   * @param core The implementation of the session.
   * @returns The name; no user has this name.
   */
  nameOf(core: Inside<Session>): string {
    const secret = core.joins ? this.ticket(core)?.split(".")[1] : undefined;
    const hash = secret === undefined ? undefined : this.services.hashOf?.(secret);
    return GUEST_PREFIX + (hash?.slice(0, HASH_LENGTH) ?? core.id);
  }

  /**
   * Creates the tag by which a client notices that it has another user than before.
   *
   * @ignore
   * @param core The implementation of the session.
   * @returns A hash of the user's name, or the one in a guest's name; `undefined` without a server.
   */
  userTag(core: Inside<Session>): string | undefined {
    const { hashOf } = this.services;
    if (hashOf === undefined) return undefined;
    const { user, name } = core;
    return user === undefined
      ? name.slice(GUEST_PREFIX.length)
      : hashOf(user).slice(0, HASH_LENGTH);
  }

  /** Stops all timers and waits. */
  [Symbol.dispose](): void {
    this.sequences?.[Symbol.dispose]();
    this.producers?.[Symbol.dispose]();
  }

  /**
   * Decides whether a session may be established.
   *
   * @ignore
   * @returns The code and reason that reject the session.
   */
  admit(session: Session): ReturnType<NonNullable<SessionServices["admit"]>> {
    return this.services.admit?.(session);
  }

  /**
   * Notifies the services of an established session.
   *
   * @ignore
   */
  opened(session: Session): void {
    this.services.opened?.(session);
  }

  /**
   * Measures the back-pressure of a session. Makes the session receive its token, or its first
   * message after a handover, as its first frames.
   *
   * @ignore
   * @param session The session, which receives no frames yet.
   */
  begin(session: Session): void {
    const core = session[internals];
    core.receiving.backpressure = new Fill(core);
    if (!core.awaitsToken && core.lineage.predecessor === undefined) return;
    core.receiving.firstFrames = new FirstFrames(core, this.services.maxTokenBytes);
  }

  /**
   * Creates the receiver of the requests of one session.
   *
   * @ignore
   * @returns The receiver.
   */
  serve(session: Session): RequestQueue {
    return new RequestQueue(session[internals], this);
  }
}

/** The fill level of the queues of one session's received messages. */
class Fill implements Backpressure {
  readonly #core: Inside<Session>;

  constructor(core: Inside<Session>) {
    this.#core = core;
  }

  /**
   * The fill level, where 1 is full. It is always 0 while the messages have no reader. It is also 0
   * while a handler waits for a reply of the peer, because the reply only arrives if reading
   * continues.
   */
  get fill(): number {
    const { receiving, sending, settings } = this.#core;
    if (sending.pendingReplies > 0) return 0;
    const { maxMessages, maxBytes } = settings.receiveQueue;
    const fill = ({ size, bytes }: { readonly size: number; readonly bytes: number }) =>
      Math.max(size / maxMessages, bytes / maxBytes);
    const messages = receiving.hasReader ? fill(receiving.queue) : 0;
    return receiving.requests === undefined
      ? messages
      : Math.max(messages, fill(receiving.requests));
  }

  /** Resolves when the fill level may have changed. */
  changed(): Promise<void> {
    return this.#core.receiving.changed();
  }
}

type Serve = () => void | Promise<void>;

/**
 * The services of one session, alongside messages. Publications run in order on each topic, and on
 * several topics at a time. All other requests run one at a time, in order. On the same topic,
 * these and publications keep their order, too, until the application decides about the content of a
 * publication, which may take seconds.
 */
export class RequestQueue implements SessionRequests {
  readonly #core: Inside<Session>;
  readonly #services: SessionServices;
  readonly #sequences: Sequences | undefined;
  readonly #producers: Sequences | undefined;
  #waiting: ReceiveQueue<Serve> | undefined;
  /** Number of requests in that queue by topic; the topic of a token is empty. */
  readonly #queued = new Map<string, number>();
  readonly #turns = new TopicTurns();
  /** Topics with a failed publication that the client may not know of, and the failure. */
  #failed: Map<string, RequestFailure> | undefined;
  // Created when first needed: most clients don't number messages.
  #numbers: Numbers | undefined;
  /** The producer that the client has introduced; `undefined` while it introduces one. */
  #producer: Producer | undefined;
  /** True once the client has tried to introduce one: its numbers then belong to producers. */
  #hasProducers = false;
  #isIntroducing = false;
  /** Number and bytes of the producer's publications that wait. */
  readonly #produced = { count: 0, bytes: 0 };
  #abort: AbortController | undefined;
  /** The bytes of publications that wait for their turn; bounded by their number. */
  #counted: Set<Disposable> | undefined;

  constructor(core: Inside<Session>, service: RequestService) {
    this.#core = core;
    this.#services = service.services;
    this.#sequences = service.sequences;
    this.#producers = service.producers;
  }

  /** True if a service may be waiting for the session to close. */
  get isBusy(): boolean {
    return this.#abort !== undefined;
  }

  /** Cancels the running requests of the peer. */
  end(reason: unknown): void {
    this.#waiting?.end();
    this.#waiting?.clear();
    this.#turns.end();
    for (const bytes of this.#counted ?? []) bytes[Symbol.dispose]();
    this.#numbers?.end();
    this.#producer?.numbers.end();
    this.#abort?.abort(reason);
  }

  /**
   * Registers the client's id, and gives a numbered envelope its turn.
   *
   * @returns True if the envelope was rejected or handled; false if it still has to be handled.
   */
  takes(envelope: IntroducingEnvelope | NumberedEnvelope, size: number): boolean {
    if ("client" in envelope && !this.#introduce(envelope)) return true;
    return "seq" in envelope && this.#takesNumbered(envelope, size);
  }

  /**
   * Registers the id that identifies the client across its sessions.
   *
   * @returns False if the client has already sent another id; the envelope is then rejected.
   */
  #introduce({ id, client }: IntroducingEnvelope): boolean {
    if (client === undefined) return true;
    const core = this.#core;
    const key = keyOf(core.session, client);
    if (core.lineage.client === undefined) {
      core.lineage.client = key;
      this.#services.introduced?.(core.session);
    }
    if (core.lineage.client === key) return true;
    this.#malformed(id, 'Expected the same "client" as before in this session');
    return false;
  }

  /**
   * Handles a numbered message in its turn. Returns false if numbers are not supported, or if there
   * is no reader.
   */
  #takesNumbered(envelope: NumberedEnvelope, size: number): boolean {
    const { id, seq } = envelope;
    if (seq === undefined) return false;
    if (this.#hasProducers) return this.#takesProduced({ ...envelope, seq }, size);
    if (envelope.kind === "publish") {
      this.#malformed(id, 'Expected a "producer" before the first publication with a "seq"');
      return true;
    }
    if (this.#sequences === undefined) return false;
    this.#numbers ??= new Numbers(this.#core, this.#sequences);
    const numbered = this.#numbers.take({ ...envelope, seq }, size);
    return this.#takes(envelope, numbered, size);
  }

  /** Handles a numbered envelope of a producer in its turn. */
  #takesProduced(envelope: NumberedEnvelope & { readonly seq: number }, size: number): boolean {
    const { id, seq } = envelope;
    const numbers = this.#producer?.numbers;
    if (numbers === undefined || numbers.why !== undefined) {
      // Late envelopes are not handled, but they count.
      if (!this.#core.receiving.meter?.rejects(envelope, size) && id !== undefined) {
        this.#fail(id, numbers?.why ?? GIVEN_BACK);
      }
      return true;
    }
    const isNumber = seq > 0 && seq < MAX_PRODUCER_NUMBER;
    const numbered = isNumber
      ? numbers.take(envelope, size)
      : `Expected "seq" from 1 to ${MAX_PRODUCER_NUMBER - 1}, received ${seq}`;
    if (envelope.kind !== "publish" || typeof numbered === "string") {
      return this.#takes(envelope, numbered, size);
    }
    void this.#publishInTurn(envelope, numbered, size);
    return true;
  }

  #takes(envelope: NumberedEnvelope, numbered: Numbered | string, size: number): boolean {
    const { id } = envelope;
    if (typeof numbered === "string") {
      this.#malformed(id, numbered);
      return true;
    }
    const { receiving } = this.#core;
    if (
      envelope.kind === "message" &&
      (receiving.hasReader || receiving.requests !== undefined && id !== undefined)
    ) {
      receiving.receiveMessage({ ...envelope, turn: numbered }, size);
    } else {
      // A message without a reader counts as handled.
      void numbered.pass();
      return false;
    }
    return true;
  }

  #malformed(id: number | undefined, message: string): void {
    this.#fail(id ?? null, { code: "malformed", message });
    this.#core.receiving.faults.countInvalid(message);
  }

  /** Introduces a producer, whose numbers follow. */
  async #introduceProducer(envelope: ProducerEnvelope): Promise<void> {
    const { id, name } = envelope;
    const core = this.#core;
    const { producers: store } = this.#services;
    const sequences = this.#producers;
    if (store === undefined || sequences === undefined) {
      return this.#fail(id, { code: "forbidden", message: "This side does not support producers" });
    }
    if (this.#isIntroducing) {
      const failure = { code: "too-many", message: "Another producer is being introduced" };
      core.receiving.faults.reject("at most one producer at once");
      return this.#fail(id, failure);
    }
    const hadProducers = this.#hasProducers;
    this.#isIntroducing = this.#hasProducers = true;
    this.#producer?.numbers.end();
    this.#producer = undefined;
    const key = keyOf(core.session, name);
    try {
      const introduced = await introduce(envelope, { core, key, sequences, store });
      this.#producer = introduced.producer;
      core.sending.post({ reply: id, data: { handled: introduced.handled } });
    } catch (error) {
      const failure: RequestFailure = error instanceof BrokerError
        ? { code: "unavailable", message: error.message }
        : requestFailure(error);
      // A client of another user goes on as one without producers.
      if (failure.code === "other-user") this.#hasProducers = hadProducers;
      this.#fail(id, failure);
      if (failure.code === "failed") core.handlerFailed(error, "A producer failed");
      if (failure.code === "too-many") core.receiving.faults.reject(failure.message);
    }
    this.#isIntroducing = false;
    if (core.state === "closed") this.#producer?.numbers.end();
  }

  /** Publishes in the order of the producer. */
  async #publishInTurn(
    envelope: NumberedPublication & { readonly seq?: number },
    numbered: Numbered,
    size: number,
  ): Promise<void> {
    const id = envelope.id!;
    const { maxRequests, receiveQueue } = this.#core.settings;
    const waiting = this.#produced;
    const { numbers } = this.#producer!;
    waiting.count++;
    waiting.bytes += size;
    if (waiting.count > maxRequests || waiting.bytes > receiveQueue.maxBytes) numbers.end(CROWDED);
    try {
      const turn = await numbered.turn(publicationsIn(envelope));
      if (turn === "over") return numbers.drop(id);
      const isDone = turn === "repeated"
        ? await this.#repeat(envelope, numbered)
        : await this.#publishProduced(envelope, numbered, size);
      if (isDone) numbered.end();
      else numbered.postpone();
    } finally {
      waiting.count--;
      waiting.bytes -= size;
    }
  }

  /** Replies to a publication that was handled before. Returns false if that can't be told now. */
  async #repeat({ id }: NumberedPublication, { seq }: Numbered): Promise<boolean> {
    try {
      const code = await this.#producer!.rejectionOf(seq);
      if (code === undefined) this.#core.sending.post({ reply: id!, data: {} });
      else this.#fail(id!, { code, message: "The publication was rejected before" });
      return true;
    } catch (error) {
      if (!(error instanceof BrokerError)) throw error;
      this.#fail(id!, { code: "unavailable", message: error.message });
      return false;
    }
  }

  /** Publishes once the turn has come. Returns false if the client sends the publication again. */
  async #publishProduced(
    envelope: NumberedPublication,
    numbered: Numbered,
    size: number,
  ): Promise<boolean> {
    const { topic, id } = envelope;
    const producer = this.#producer!;
    const { seq } = numbered;
    const { session, settings: { runtime } } = this.#core;
    const turn: PublicationTurn = {
      isInDoubt: producer.numbers.isInDoubt(seq),
      hasJustBegun: () => producer.hasJustBegun(),
      begin: ({ isKeyed }) => producer.begin(seq, { isKeyed, now: runtime.now() }),
    };
    try {
      using _bytes = this.#services.countPublication?.(session, topic, size);
      if (this.#services.publish === undefined) {
        throw new RequestError("forbidden", "This side does not support publish");
      }
      const data = await this.#services.publish(session, topic, envelope.data, {
        number: {
          producer: `producer:${producer.key}`,
          number: seq,
          isAgain: turn.isInDoubt,
          isOnce: true,
        },
        echo: envelope.echo !== false,
        onHeld() {},
        turn,
      });
      this.#served(envelope, data);
      return true;
    } catch (cause) {
      const error = cause instanceof LimitError ? rejectionOf(cause) : cause;
      const failure = requestFailure(error);
      if (isPostponed(failure)) {
        this.#serviceFailed(envelope, error);
        return false;
      }
      const isNoted = await producer.rejected(seq, turn.isInDoubt ? IN_DOUBT.code : failure.code)
        .then(() => true, (error) => this.#serviceFailed(envelope, error));
      if (!isNoted) return false;
      // The earlier attempt may have been successful.
      if (turn.isInDoubt) this.#fail(id!, IN_DOUBT);
      else this.#serviceFailed(envelope, error);
      return true;
    }
  }

  /** Handles a request in its turn. */
  receive(envelope: ServiceEnvelope | ProducerEnvelope, size: number): void {
    if (envelope.kind === "producer") return void this.#introduceProducer(envelope);
    const { lineage, settings: { maxRequests } } = this.#core;
    if (isNumbered(envelope) && lineage.client === undefined) {
      return this.#malformed(envelope.id, 'Expected the first "n" of a session with its "client"');
    }
    const { hasHistory, presence, subscribe } = this.#services;
    const { resumed, others } = MAX_SUBSCRIBED_AT_ONCE;
    const most = maxRequests + (presence ? MAX_PRESENCES : 0) +
      (subscribe ? hasHistory ? resumed : others : 0);
    if (this.#waiting === undefined) {
      // The limits for messages don't apply, because a request beyond the limit needs a reply.
      this.#waiting = new ReceiveQueue({ maxMessages: most, maxBytes: Infinity }, 1);
      this.#waiting.consume({ handle: (serve) => serve() });
    }
    if (this.#waiting.size + this.#turns.waiting >= most) {
      const failure = { code: "too-many", message: "Too many requests are waiting" } as const;
      return this.#reject(envelope, failure, `at most ${maxRequests} requests at once`);
    }
    const topic = envelope.kind === "auth" ? "" : envelope.topic;
    const serve = () => this.#serve(envelope);
    if (envelope.kind !== "publish") {
      return this.#queue(
        topic,
        () => this.#turns.isBusy(topic) ? this.#turns.wait(topic).then(serve) : serve(),
      );
    }
    const counted = this.#count(envelope, size, serve);
    if (counted === undefined) return;
    const publish = () => void this.#turns.publish(topic, counted);
    // A publication overtakes requests on other topics, but no token.
    if (this.#queued.has(topic) || this.#queued.has("")) this.#queue(topic, publish);
    else publish();
  }

  /** Rejects a request beyond a limit. */
  #reject(envelope: ServiceEnvelope, failure: RequestFailure, rule: string): void {
    this.#holdBack(envelope, failure);
    if (envelope.id !== undefined) this.#fail(envelope.id, failure);
    this.#core.receiving.faults.reject(rule);
  }

  /** Counts the bytes of a publication until it was served; `undefined` if they are too many. */
  #count(envelope: NumberedPublication, size: number, serve: Serve): Serve | undefined {
    let bytes: Disposable | undefined;
    try {
      bytes = this.#services.countPublication?.(this.#core.session, envelope.topic, size);
    } catch (error) {
      if (!(error instanceof LimitError)) throw error;
      const { failure } = rejectionOf(error);
      this.#reject(envelope, failure, failure.message);
      return undefined;
    }
    if (bytes === undefined) return serve;
    const counted = this.#counted ??= new Set();
    counted.add(bytes);
    return () => {
      counted.delete(bytes);
      const done = () => bytes[Symbol.dispose]();
      const serving = serve();
      return serving === undefined ? done() : serving.then(done);
    };
  }

  #queue(topic: string, serve: Serve): void {
    const queued = this.#queued;
    queued.set(topic, (queued.get(topic) ?? 0) + 1);
    const done = () => {
      const left = queued.get(topic)! - 1;
      if (left > 0) queued.set(topic, left);
      else queued.delete(topic);
    };
    this.#waiting!.offer(() => {
      const serving = serve();
      return serving === undefined ? done() : serving.then(done);
    }, 0);
  }

  #serve(envelope: ServiceEnvelope): void | Promise<void> {
    const failed = this.#failed && isNumbered(envelope) && this.#failed.get(envelope.topic);
    if (failed) return this.#fail(envelope.id ?? null, failed);
    try {
      if (envelope.kind === "auth") {
        return this.#renew(envelope, envelope.token)
          .catch((error) => this.#serviceFailed(envelope, error));
      }
      const result = this.#run(envelope);
      if (!(result instanceof Promise)) return this.#served(envelope, result);
      return result.then((data) => this.#served(envelope, data))
        .catch((error) => this.#serviceFailed(envelope, error));
    } catch (error) {
      this.#serviceFailed(envelope, error);
    }
  }

  #run(envelope: Exclude<ServiceEnvelope, { readonly kind: "auth" }>): unknown {
    const services = this.#services;
    const { session } = this.#core;
    if (services[envelope.kind] === undefined) {
      throw new RequestError("forbidden", `This side does not support ${envelope.kind}`);
    }
    switch (envelope.kind) {
      case "publish":
        return services.publish!(session, envelope.topic, envelope.data, {
          number: this.#numberOf(envelope),
          echo: envelope.echo !== false,
          onHeld: () => this.#turns.hold(envelope.topic),
        });
      case "unsubscribe":
        return services.unsubscribe!(session, envelope.topic);
      case "presence":
        return services.presence!(session, envelope.topic, envelope.data);
      case "subscribe": {
        const { topic, id, since, last } = envelope;
        const onReply = (data: SubscribeReply) => {
          if (data.isSuperseded) return this.#fail(id, SUPERSEDED);
          if (data.rejection) return this.#fail(id, data.rejection);
          this.#core.sending.post({ reply: id, data });
        };
        return services.subscribe!(session, topic, { since, last, onReply });
      }
    }
  }

  #numberOf({ n: number, again, once }: NumberedPublication): PublicationNumber | undefined {
    const { client: producer } = this.#core.lineage;
    if (number === undefined || producer === undefined) return undefined;
    return { producer, number, isAgain: again === true, isOnce: once === true };
  }

  /**
   * Checks the peer's first or renewed token, and applies the identity.
   *
   * @returns The authorization decisions after a renewal, which may still be running.
   */
  async signIn(token: string): Promise<{ readonly rechecked?: Promise<void> | undefined }> {
    const core = this.#core;
    const { session, value: before } = core;
    const services = this.#services;
    if (services.authenticate === undefined) {
      throw new RequestError("forbidden", "This side accepts no token");
    }
    const isRenewal = core.state !== "connecting";
    this.#abort ??= new AbortController();
    const { signal } = this.#abort;
    const identity = await services.authenticate(session, token, signal);
    if (session.isClosed) return {};
    const { value, user, isGuest, credentials } = identity;
    Object.assign(core, { value, user, isGuest, credentials });
    if (!isRenewal) return {};
    const rechecked = services.recheck?.(session, signal);
    await services.renewed?.(session, before);
    return { rechecked };
  }

  /**
   * Renews a token. The reply follows the authorization decisions; later requests don't wait for
   * them.
   */
  async #renew(envelope: ServiceEnvelope, token: string): Promise<void> {
    const { rechecked } = await this.signIn(token);
    void Promise.resolve(rechecked)
      .then(() => this.#served(envelope, undefined))
      .catch((error) => this.#serviceFailed(envelope, error));
  }

  #served(envelope: ServiceEnvelope, data: unknown): void {
    if (envelope.id === undefined) return;
    // The service replies through `onReply`, just before the first message of the topic.
    if (envelope.kind === "subscribe" && data === undefined) return;
    this.#core.sending.post({ reply: envelope.id, data });
  }

  #serviceFailed(envelope: ServiceEnvelope, error: unknown): void {
    const { id = null } = envelope;
    const failure = requestFailure(error);
    const told = failure.code === "invalid"
      ? this.#core.receiving.faults.misfit(id, failure)
      : failure;
    if (!(error instanceof LastingRejection)) this.#holdBack(envelope, failure);
    if (told !== undefined) this.#fail(id, told);
    if (error instanceof RequestError || error instanceof AuthenticationError) {
      if (envelope.kind === "auth") this.#countRenewal(error, failure);
      return;
    }
    this.#core.handlerFailed(error, "A handler failed");
  }

  #countRenewal(error: unknown, { code, message }: RequestFailure): void {
    const { faults } = this.#core.receiving;
    if (code === "too-many") return void faults.reject(message);
    // A rejected token is not the peer's fault, but a peer must not be able to guess tokens.
    const isForNow = error instanceof AuthenticationError && error.status >= 500;
    if (this.#services.authenticate === undefined || isForNow) return;
    faults.countInvalid("Expected a token that is accepted");
  }

  /**
   * Rejects the numbered publications that the client sent before it read a failure. Otherwise, the
   * broker would take the failed publication for a repetition if the client sends it again. The
   * failure follows the ping, so that the client sends its pong before it reacts to the failure.
   */
  #holdBack(envelope: ServiceEnvelope, failure: RequestFailure): void {
    if (!isNumbered(envelope) || LASTING.has(failure.code)) return;
    const { topic } = envelope;
    const failed = this.#failed ??= new Map();
    if (failed.has(topic)) return;
    if (failed.size >= MAX_FAILED) {
      return void this.#core.receiving.faults.reject(`at most ${MAX_FAILED} topics without a pong`);
    }
    failed.set(topic, failure);
    const { sending, settings: { runtime, maxRequests } } = this.#core;
    sending.pings ??= new PendingRequests(runtime, maxRequests);
    sending.pings.ask({
      what: "pong",
      timeoutMs: Infinity, // The session's heartbeat limits the wait.
      onReply: () => failed.delete(topic),
      send: (id) => sending.post({ ping: MAX_PINGS + id }),
      cancel() {},
    }).catch(() => {}); // The session has closed, and publishes no more.
  }

  #fail(id: number | null, error: RequestFailure): void {
    this.#core.sending.post({ reply: id, error });
  }
}

/** The publications of one session: in order on each topic, on several topics at a time. */
class TopicTurns {
  /** Publications that wait for an earlier one on their topic; present while one is running. */
  readonly #topics = new Map<string, (() => void)[] | undefined>();
  /** Publications that wait only because many others are running. */
  readonly #ready: (() => void)[] = [];
  /** Topics whose running publication waits for the application. */
  readonly #held = new Set<string>();
  /** The other request that waits; those after it wait for it in their queue. */
  #waiting: { readonly topic: string; readonly resume: () => void } | undefined;
  #running = 0;
  #isOver = false;
  /** Number of publications that wait. */
  waiting = 0;

  /** True if another request on a topic must wait. */
  isBusy(topic: string): boolean {
    return this.#topics.has(topic) && !this.#held.has(topic);
  }

  /** Waits for the publications on a topic. Later ones MUST wait for the request. */
  wait(topic: string): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#waiting = { topic, resume: resolve };
    return promise;
  }

  /** Lets other requests overtake the publications on a topic until the running one has ended. */
  hold(topic: string): void {
    this.#held.add(topic);
    this.#resume(topic);
  }

  /** Runs a publication after the earlier ones on its topic, and within the limit. */
  publish(topic: string, serve: Serve): void {
    this.waiting++;
    const start = () => {
      if (this.#running >= MAX_PUBLICATIONS_AT_ONCE) return void this.#ready.push(start);
      this.#running++;
      this.waiting--;
      const serving = this.#isOver ? undefined : serve();
      if (serving === undefined) this.#ended(topic);
      else void serving.then(() => this.#ended(topic));
    };
    if (!this.#topics.has(topic)) {
      this.#topics.set(topic, undefined);
      return start();
    }
    const waiting = this.#topics.get(topic) ?? [];
    waiting.push(start);
    this.#topics.set(topic, waiting);
  }

  /** Drops all waiting publications. */
  end(): void {
    this.#isOver = true;
    this.#topics.clear();
  }

  #ended(topic: string): void {
    this.#running--;
    this.#held.delete(topic);
    this.#ready.shift()?.();
    const next = this.#topics.get(topic)?.shift();
    if (next) return next();
    this.#topics.delete(topic);
    this.#resume(topic);
  }

  #resume(topic: string): void {
    if (this.#waiting?.topic !== topic) return;
    this.#waiting.resume();
    this.#waiting = undefined;
  }
}

/** The verified user of a session; `undefined` for a guest and any other session without a user. */
export function verifiedUser(session: Session): string | undefined {
  return session[internals].user;
}

type NumberedPublication = Extract<ServiceEnvelope, { kind: "publish" }>;

function isNumbered(envelope: ServiceEnvelope): envelope is NumberedPublication {
  return envelope.kind === "publish" && envelope.n !== undefined;
}

/** The key of a client: the user and the client id, or only the client id if there is no user. */
function keyOf(session: Session, client: string): string {
  const user = verifiedUser(session) ?? "";
  return `${user.length}:${user}:${client}`;
}
