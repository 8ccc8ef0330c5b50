/**
 * Client requests: subscribe, publish, set presence data, renew a token. All are denied unless
 * `authorize` allows them.
 */
import type { Admission } from "./admission.ts";
import type { Users } from "./users.ts";
import {
  AuthenticationError,
  BrokerError,
  CloseCode,
  LimitError,
  QueueFullError,
  RequestError,
  SessionClosedError,
  UnsupportedError,
} from "../errors.ts";
import { INTERNAL_PREFIX } from "../pubsub/broker.ts";
import type { Decision } from "../pubsub/decisions.ts";
import { MAX_REASON_LENGTH } from "../pubsub/logs/rules.ts";
import type { Presence } from "../pubsub/presence/presence.ts";
import type { Rooms } from "../pubsub/presence/rooms.ts";
import type { Topics } from "../pubsub/topics.ts";
import { Expiry } from "./authentication.ts";
import { pause } from "../base/wait.ts";
import { decide, DecisionFault, tellFault } from "../base/decision.ts";
import { requestFailure } from "../session/serving/first_frames.ts";
import type { SessionManager } from "../manager/session_manager.ts";
import { type Rate, TokenBucket } from "../base/token_bucket.ts";
import { isOwnAnswer } from "./durable/options.ts";
import type { DurableParts } from "./durable/parts.ts";
import type { ConsoleReport } from "../base/console_report.ts";
import { compileContract } from "../session/check_settings.ts";
import type { Contract } from "../session/contract.ts";
import { encodeMessage } from "../session/wire/encode.ts";
import { PRESENCE_PREFIX } from "../session/wire/presence_notice.ts";
import { type HistoryOptions, MOVED, STREAM_PREFIX } from "../session/wire/recovery.ts";
import { replacePredecessor, sessionsAfter, sessionsBefore } from "../session/lineage.ts";
import { internals, type Session } from "../session/session.ts";
import { EPHEMERAL_PREFIX } from "../session/wire/rows.ts";
import type { SequenceStore } from "../session/serving/sequences.ts";
import { makerOf } from "./owners.ts";
import { builtin } from "../base/builtins.ts";
import {
  type PublicationNumber,
  RequestService,
  verifiedUser,
} from "../session/serving/requests.ts";
import { type StandardSchema, validate, type Validation } from "../base/standard_schema.ts";
import { TopicPattern } from "../session/wire/topic_pattern.ts";
import type { Runtime } from "../base/runtime.ts";
import type { Owner } from "../base/owners.ts";
import { report } from "../session/settings.ts";

/**
 * The action of a client on a topic. `presence` sets the client's presence data in a room, and
 * `cancel` asks the writer of a durable stream to stop.
 */
type AuthorizedAction = "subscribe" | "publish" | "presence" | "cancel";

/** A detailed permission that `authorize` returns. With `from`, a publication includes its user. */
interface Permission {
  readonly from?: boolean;
}

/** Decides whether a client may act on a topic. */
export type Authorize = (
  session: Session,
  topic: string,
  action: AuthorizedAction,
) => boolean | Permission | Promise<boolean | Permission>;

/** Actions in words. */
const VERBS: Readonly<Record<AuthorizedAction, string>> = {
  cancel: "cancel",
  presence: "be present with data in",
  publish: "publish on",
  subscribe: "subscribe to",
};

/**
 * Limit on token renewals of one session. Each renewal calls `authenticate` once, and `authorize`
 * for each subscribed topic.
 */
const RENEWALS: Required<Rate> = { perSecond: 1, burst: 16 };

/**
 * Time over which the `authorize` calls after a renewal are spread, in milliseconds. A user may
 * have thousands of subscriptions that renew together.
 */
const RENEWAL_SPREAD_MS = 1_000;

/** Maximum number of `authorize` calls that are made immediately after a user's renewals. */
const MAX_RENEWAL_BURST = 16;

/** Most steps of one renewal. */
const RENEWAL_STEPS = 100;

/** Called after a client has renewed its token. */
export type RenewedHandler = (session: Session, before: unknown) => void | Promise<void>;

/** Options of {@linkcode clientServices}. */
export interface ClientServicesOptions {
  readonly runtime: Runtime;
  /** Allows actions of clients. Without `authorize`, all actions are denied. */
  readonly authorize: Authorize | undefined;
  /** Called when a client has renewed its token, with the previous value. */
  readonly onRenewed: RenewedHandler | undefined;
  /** Adds the user to publications of clients, unless `authorize` decides otherwise. */
  readonly includePublisher: boolean;
  /** Most bytes of a token message, including its envelope. */
  readonly maxTokenBytes: number | undefined;
  /** Topics and their schemas. */
  readonly contract: Contract | undefined;
  /** Patterns of topics that are rooms. */
  readonly roomPatterns: readonly string[];
  /** Numbers of handled messages, for clients that number their messages. */
  readonly sequences: SequenceStore;
  /** Prints hints about likely mistakes. */
  readonly console: ConsoleReport;
  /** `true` if session errors are not printed because the application has a handler. */
  readonly isSilent: boolean;
  /** `true` if there are topics with a history. */
  readonly hasHistory: boolean;
  /** The server's parts; a function, because the settings are created first. */
  readonly parts: () => {
    readonly admission: Admission<unknown>;
    readonly users: Pick<Users, "opened">;
    readonly manager: SessionManager;
    readonly presence: Presence;
    readonly rooms: Rooms;
    readonly topics: Topics;
    /** Returns the owner of a session, for quotas. */
    readonly ownerOf: (session: Session) => Owner;
    /** Durable streams, if the server has any. */
    readonly durable: DurableParts | undefined;
  };
}

/** Creates the request handlers of a server's sessions. */
export function clientServices(options: ClientServicesOptions): RequestService {
  const { runtime, authorize, contract, parts } = options;
  const expiry = new Expiry(runtime);
  const renewals = new WeakMap<Session, TokenBucket>();
  /**
   * Owners of sessions that published on topics with a history or wrote states; computing an owner
   * costs more than a publication.
   */
  const publishers = new WeakMap<Session, Owner>();
  const rooms = options.roomPatterns.map((pattern) => new TopicPattern(pattern, "create server"));
  const isRoom = (topic: string) => rooms.some((pattern) => pattern.match(topic) !== undefined);
  const router = contract && compileContract(contract, "client");
  const presence = contract && compileContract(contract, "presence");

  function publisherOf(session: Session): Owner {
    const known = publishers.get(session);
    if (known !== undefined && known.user === verifiedUser(session)) return known;
    const owner = parts().ownerOf(session);
    publishers.set(session, owner);
    return owner;
  }

  async function check(
    session: Session,
    topic: string,
    action: AuthorizedAction,
    decision?: Decision,
  ): Promise<Permission> {
    // The permission to read a state includes its ephemeral rows.
    if (action === "subscribe" && topic.startsWith(EPHEMERAL_PREFIX)) {
      const stream = STREAM_PREFIX + topic.slice(EPHEMERAL_PREFIX.length);
      return await check(session, stream, action, decision);
    }
    // Only the server sends presence notices, and only to members of the room. Clients have no
    // access to the nodes' internal topics.
    const isOwn = topic.startsWith(PRESENCE_PREFIX) || topic.startsWith(INTERNAL_PREFIX);
    if (topic.startsWith(STREAM_PREFIX)) {
      const id = topic.slice(STREAM_PREFIX.length);
      if (id.startsWith(INTERNAL_PREFIX)) {
        throw new RequestError("not-found", `There is no durable stream "${id}"`);
      }
      if (await isOwnAnswer(runtime, { id, user: verifiedUser(session) })) return {};
    } else if (!isOwn) checkKnown(topic, action); // Contracts do not include durable streams.
    const answer = !isOwn && await permission(session, topic, action, decision);
    if (answer) return typeof answer === "object" ? answer : {};
    const what = `${VERBS[action]} "${topic}"`;
    const why = isOwn || authorize !== undefined ? "" : ": the server has no authorize";
    if (!isOwn && !options.isSilent) tellDenied(options.console, what, authorize !== undefined);
    throw new RequestError("forbidden", `This session may not ${what}${why}`);
  }

  /** Calls `authorize`. An error other than a `RequestError` leaves the permission undecided. */
  async function permission(
    session: Session,
    topic: string,
    action: AuthorizedAction,
    decision?: Decision,
  ): Promise<boolean | Permission | undefined> {
    const call = () => authorize?.(session, topic, action);
    const ask = () => {
      const answer = decision === undefined ? call() : decision.during(call);
      return answer instanceof Promise ? session[internals].inTime("authorize", answer) : answer;
    };
    try {
      while (true) {
        const { value } = session;
        const answer = await decide("authorize", ask, [RequestError, AuthenticationError]);
        // If the client has renewed its token, the answer is about its previous rights.
        if (!answer || session.value === value) return answer;
      }
    } catch (error) {
      if (!(error instanceof DecisionFault)) throw error;
      const { cause } = error;
      tellFault(options.console, error, { isReported: options.isSilent });
      report(session[internals].settings, cause, session);
      const message = `The server cannot tell now if this session may ${VERBS[action]} "${topic}"`;
      throw new RequestError("unavailable", message, { cause });
    }
  }

  /**
   * Rejects topics that are not part of the contract. Rooms have presence notices in addition to
   * messages.
   */
  function checkKnown(topic: string, action: AuthorizedAction): void {
    if (router === undefined) return;
    if (action !== "presence" && router.match(topic)?.kind === "message") return;
    if (action === "subscribe" && isRoom(topic)) return;
    if (action === "presence") {
      if (presence?.match(topic) !== undefined) return;
      throw new RequestError("unknown-topic", `No presence of the contract fits "${topic}"`);
    }
    throw new RequestError("unknown-topic", `No message of the contract fits the topic "${topic}"`);
  }

  return new RequestService(runtime, {
    hasHistory: options.hasHistory,
    sequences: options.sequences,

    admit(session) {
      const { admission, manager } = parts();
      const revocation = admission.revocationOf(session);
      if (revocation !== undefined) {
        const { code = CloseCode.normal, reason = "" } = revocation;
        return { code, reason };
      }
      const reservation = admission.takeReservation(session.connection);
      const beside = session[internals].lineage.predecessor;
      try {
        manager.add(session, { reservation, beside });
      } catch (error) {
        reservation?.[Symbol.dispose]();
        if (!(error instanceof LimitError)) throw error;
        const code = manager.isDraining ? CloseCode.draining : CloseCode.tooMany;
        return { code, reason: error.message };
      }
      return undefined;
    },

    canMove: true,
    hashOf,

    maxTokenBytes: options.maxTokenBytes,

    opened(session) {
      expiry.watch(session);
      moveFrom(session);
      const { durable, ownerOf, presence, users } = parts();
      const hasUser = verifiedUser(session) !== undefined;
      if (!hasUser && durable === undefined) return;
      // From now on the user counts as seen at this address.
      const owner = ownerOf(session);
      if (durable !== undefined) {
        const { abandoned } = durable.answers;
        abandoned.opened(owner);
        session[internals].whenEnded(() => abandoned.ended(owner));
      }
      // A session without a user is never online.
      if (!hasUser) return;
      presence.enter(session);
      users.opened(session);
    },

    async subscribe(session, topic, request) {
      using decision = parts().topics.decisions.begin(session, { topic });
      await check(session, topic, "subscribe", decision);
      decision.check();
      // The request arrived before the move and had to wait. Each publication goes to only one of
      // the sessions.
      if (sessionsAfter(session).some((later) => parts().topics.has(later, topic))) {
        throw new RequestError("superseded", "The client's next session has the topic");
      }
      tellLiteral(options.console, topic);
      tellNoHistory(options.console, topic, { ...request, topics: parts().topics });
      try {
        const options = { ...request, isRequested: true };
        if (isRoom(topic)) parts().rooms.enter(session, topic, options);
        else parts().topics.join(session, topic, options);
        // In the same turn, so that each publication goes to exactly one session.
        if (session.isClosed) return;
        for (const before of sessionsBefore(session)) moveOff(before, topic);
      } catch (error) {
        if (error instanceof QueueFullError) throw new RequestError("too-many", error.message);
        if (error instanceof RangeError || error instanceof TypeError) {
          throw new RequestError("malformed", error.message);
        }
        throw error;
      }
    },

    unsubscribe(session, topic) {
      parts().topics.leave(session, topic);
      return {};
    },

    introduced: (session) => parts().topics.introduced(session),

    async keepAnswer({ message, name, begun, input, make }, face) {
      const session = face as Session;
      const { topic, signal } = message;
      if (make === undefined) {
        throw new RequestError(
          "invalid",
          `The response to "${topic}" is not resumable: leave out id, or set resume in the ` +
            "contract, or without a contract, give a handler { answer }",
        );
      }
      const { answers, streams } = parts().durable!;
      const user = verifiedUser(session);
      const id = await answers.begin({
        topic,
        input,
        user,
        name,
        begun,
        owner: parts().ownerOf(session),
        answer: make,
        onError: (error) => report(session[internals].settings, error, session),
      });
      if (session[internals].joins) return message.reply({ stream: id });
      // A page without `skein.1` cannot subscribe, and cancels its request instead.
      const onAbort = () => {
        // The response outlives the session.
        if (signal.reason instanceof SessionClosedError) return;
        streams.cancel(id, "The caller cancelled").catch((error) =>
          report(session[internals].settings, error, session)
        );
      };
      signal.addEventListener("abort", onAbort, { once: true });
      if (signal.aborted) onAbort();
      message.reply(itemsOf(streams.follow(id, { signal })));
    },

    async publish(session, topic, data, { number, echo }) {
      using decision = parts().topics.decisions.begin(session, { topic });
      if (topic.startsWith(STREAM_PREFIX)) {
        return await publishToStream(session, topic, { data, decision });
      }
      const { topics } = parts();
      const hasHistory = topics.historyOf(topic) !== undefined;
      if (number?.isAgain && !number.isOnce && !hasHistory) {
        const message = "The topic has no history: whether it was published before is unknown";
        throw new RequestError("unanswered", message);
      }
      const { from = options.includePublisher } = await check(session, topic, "publish", decision);
      const input = router?.match(topic)?.input;
      const outcome = input && await checkData(session, input, data);
      if (outcome?.ok === false) {
        throw new RequestError("invalid", outcome.message, { path: outcome.path });
      }
      decision.check();
      const publishing = {
        except: echo ? undefined : session,
        from: from ? verifiedUser(session) : undefined,
      };
      try {
        // Publish the data unchanged: each receiver applies the schema once.
        if (hasHistory) {
          const maker = makerOf(publisherOf(session));
          const key = number && { producer: number.producer, number: number.number };
          await topics.append(topic, data, { ...publishing, maker, key });
        } else if (!number?.isOnce) topics.publish(topic, data, publishing);
        else {
          topics.checkPublication(topic, data, publishing);
          if (!await isNew(topic, number)) return {};
          decision.check();
          topics.publish(topic, data, publishing);
        }
      } catch (error) {
        // Encoding may lengthen data beyond the limit: `9e20` becomes 21 digits.
        if (error instanceof RangeError) throw new RequestError("too-large", error.message);
        // JSON parses `1e999` as Infinity, which is the peer's error and not the handler's.
        if (error instanceof TypeError && !isEncodable(topic, data)) {
          throw new RequestError("malformed", error.message);
        }
        // The server and its broker closed while `authorize` was running, which is not an error.
        if (error instanceof UnsupportedError && session.isClosed) return {};
        if (error instanceof BrokerError) throw new RequestError("unavailable", error.message);
        throw error;
      }
      return {};
    },

    async presence(session, room, data) {
      const { rooms, topics } = parts();
      using decision = topics.decisions.begin(session, { topic: room });
      await check(session, room, "presence", decision);
      if (!isRoom(room) && !rooms.isMember(session, room)) {
        throw new RequestError(
          "unknown-topic",
          `"${room}" is not a room: no pattern of the server's rooms fits`,
        );
      }
      if (data instanceof Uint8Array || !isEncodable(room, data)) {
        throw new RequestError("malformed", "Expected data that JSON can hold");
      }
      const input = data === undefined ? undefined : presence?.match(room)?.input;
      const outcome = input && await checkData(session, input, data);
      if (outcome?.ok === false) {
        throw new RequestError("invalid", outcome.message, { path: outcome.path });
      }
      decision.check();
      try {
        rooms.update(session, room, { data: outcome === undefined ? data : outcome.value });
      } catch (error) {
        if (error instanceof RangeError) throw new RequestError("too-large", error.message);
        if (error instanceof QueueFullError) throw new RequestError("too-many", error.message);
        throw error;
      }
      return {};
    },

    async authenticate(session, token, signal) {
      const isNew = session.state === "connecting";
      if (!isNew) countRenewal(session);
      const identity = await parts().admission.renew(session, token, signal).catch((error) => {
        if (error instanceof AuthenticationError && error.status === 503) expiry.askAgain(session);
        throw error;
      });
      // Without a user, a change of user cannot be detected.
      if (!isNew && identity.user === undefined) {
        throw new RequestError(
          "forbidden",
          "Cannot renew the token: the server must know the user, by userOf",
        );
      }
      if (!isNew && identity.user !== session.user) {
        throw new RequestError("forbidden", "The token belongs to another user");
      }
      return identity;
    },

    async renewed(session, before) {
      expiry.watch(session);
      await hearRenewed(session, before);
    },

    recheck: takeOffDenied,
  });

  /**
   * Records the number of a publication on a topic without a history. Returns false if it was
   * recorded before. While the broker is unreachable, every publication counts as new.
   */
  async function isNew(topic: string, { producer, number }: PublicationNumber): Promise<boolean> {
    // A hash, because the engine may not support a key that contains a client and a topic.
    const key = hashOf(JSON.stringify([producer, topic])).toBase64({ alphabet: "base64url" });
    try {
      return await options.sequences.advance(`on:${key}`, number);
    } catch (error) {
      if (error instanceof BrokerError) return true;
      throw error;
    }
  }

  /** Handles a publication to a durable stream: rows of a state, or the request to stop. */
  async function publishToStream(
    session: Session,
    topic: string,
    { data, decision }: { readonly data: unknown; readonly decision: Decision },
  ): Promise<unknown> {
    const { cancel: reason } = Object(data) as { readonly cancel?: unknown };
    const isCancel = reason !== undefined;
    if (isCancel && !(typeof reason === "string" && reason.length <= MAX_REASON_LENGTH)) {
      throw new RequestError(
        "malformed",
        `Expected {"cancel":reason} with a reason of at most ${MAX_REASON_LENGTH} characters`,
      );
    }
    await check(session, topic, isCancel ? "cancel" : "publish", decision);
    decision.check();
    const { durable } = parts();
    if (durable === undefined) {
      throw new RequestError("not-found", "This server has no durable streams");
    }
    const id = topic.slice(STREAM_PREFIX.length);
    try {
      if (!isCancel) {
        const owner = publisherOf(session);
        const user = verifiedUser(session);
        const mayRead = () => isReader(session, topic);
        const client = { owner, user, session, request: undefined };
        return await durable.write(id, data, { ...client, mayRead, decision });
      }
      // A repetition changes nothing: the first reason stays.
      await durable.streams.cancel(id, reason);
    } catch (error) {
      // The broker rejects the id, so there is no such stream.
      if (error instanceof RangeError) throw new RequestError("not-found", error.message);
      if (error instanceof BrokerError) throw new RequestError("unavailable", error.message);
      throw error;
    }
    return {};
  }

  /** Returns whether a client may read a durable stream. A subscriber reads it in any case. */
  async function isReader(session: Session, topic: string): Promise<boolean> {
    if (parts().topics.has(session, topic)) return true;
    try {
      return Boolean(await permission(session, topic, "subscribe"));
    } catch (error) {
      if (error instanceof RequestError || error instanceof AuthenticationError) return false;
      throw error;
    }
  }

  /** Replaces the session from which the client moves. */
  function moveFrom(session: Session): void {
    const predecessor = replacePredecessor(session);
    if (predecessor === undefined) return;
    const { topics } = parts();
    const requested = new Set(topics.requestedBy(predecessor));
    // The application subscribes each session itself, so the client would receive each publication
    // twice.
    for (const topic of topics.topicsOf(predecessor)) {
      if (!requested.has(topic)) moveOff(predecessor, topic);
    }
  }

  function moveOff(predecessor: Session, topic: string): void {
    // The requests of the earlier session continue.
    parts().topics.leave(predecessor, topic, { code: MOVED, reason: "" });
  }

  function countRenewal(session: Session): void {
    const now = runtime.now();
    let bucket = renewals.get(session);
    if (bucket === undefined) {
      bucket = new TokenBucket(RENEWALS, now);
      renewals.set(session, bucket);
    }
    const retryAfterMs = bucket.waitMs(1, now);
    if (retryAfterMs > 0) {
      const message = `At most ${RENEWALS.perSecond} renewal a second`;
      throw new RequestError("too-many", message, { retryAfterMs });
    }
    bucket.take(1, now);
  }

  async function hearRenewed(session: Session, before: unknown): Promise<void> {
    const core = session[internals];
    const hear = async () => await options.onRenewed?.(session, before);
    await core.inTime("onRenewed", hear())
      .catch((error) => core.handlerFailed(error, "A handler failed"));
  }

  /**
   * Calls `authorize` again for all topics that the client requested; subscriptions made by the
   * application stay. If several sessions of a user renew together, the calls are spread evenly.
   */
  async function takeOffDenied(session: Session, signal: AbortSignal): Promise<void> {
    const { topics, manager } = parts();
    const requested = topics.requestedBy(session);
    const siblings = manager.sessionsOf(verifiedUser(session) ?? "");
    const shift = siblings.length > 1 ? siblings.indexOf(session) / siblings.length : 0;
    const isMany = requested.length * Math.max(1, siblings.length) > MAX_RENEWAL_BURST;
    const spreadMs = isMany ? RENEWAL_SPREAD_MS : 0;
    const checks: Promise<void>[] = [];
    let passedMs = 0;
    for (const [i, topic] of requested.entries()) {
      const steps = Math.floor(((i + shift) / requested.length) * RENEWAL_STEPS);
      const dueMs = steps * spreadMs / RENEWAL_STEPS;
      if (dueMs > passedMs) await pause(runtime, dueMs - passedMs, signal);
      passedMs = dueMs;
      if (signal.aborted) break;
      if (topics.has(session, topic)) checks.push(takeOffIfDenied(session, topic));
    }
    await Promise.all(checks);
  }

  async function takeOffIfDenied(session: Session, topic: string): Promise<void> {
    try {
      await check(session, topic, "subscribe");
    } catch (error) {
      // The client retries if the rights are unknown.
      const { code, message: reason } = requestFailure(error);
      parts().topics.unsubscribe(session, topic, { code, reason });
    }
  }
}

/** Hashes a text. Synchronous, unlike Web Crypto, because the guest's name is a property. */
function hashOf(text: string): Uint8Array {
  return builtin("node:crypto").createHash("sha256").update(text).digest();
}

/** Prints that a client was denied an action; usually `authorize` is missing or wrong. */
function tellDenied(console: ConsoleReport, what: string, wasAsked: boolean): void {
  if (wasAsked) {
    return console.tell("denied", `authorize denied a client to ${what}`, { about: what });
  }
  console.tell(
    "no-authorize",
    `A client may not ${what}: the server has no authorize, and denies everything without it`,
  );
}

/**
 * If a topic looks like a pattern, prints that topics are literal.
 *
 * @param console Prints the line once.
 * @param topic The topic of a subscription.
 */
export function tellLiteral(console: ConsoleReport, topic: string): void {
  if (!/\*|\{[^{}]+\}/.test(topic)) return;
  console.tell(
    "literal-topic",
    `A session subscribed to "${topic}". Topics are literal: the session receives publications on ` +
      "exactly this topic, and no others",
    { about: topic },
  );
}

/**
 * If a subscription asks for the newest messages of a topic without a history, prints that the
 * topic has no history.
 *
 * @param console Prints the line once.
 * @param options The start position, and the topics of the server.
 */
export function tellNoHistory(
  console: ConsoleReport,
  topic: string,
  { last, topics }: Pick<HistoryOptions, "last"> & { readonly topics: Topics },
): void {
  if (!last || topics.historyOf(topic) !== undefined || topic.startsWith(STREAM_PREFIX)) return;
  console.tell(
    "no-history",
    `A session subscribed to "${topic}" with last: ${last}, and the topic has no history: only new ` +
      "messages arrive. Add a pattern for the topic to history of the server",
    { about: topic },
  );
}

/** The items of a durable stream, without their offsets. */
async function* itemsOf(
  records: AsyncIterable<{ readonly data: unknown }>,
): AsyncGenerator<unknown, void, undefined> {
  for await (const { data } of records) yield data;
}

/** Validates data by a schema of the contract, with a time limit. */
function checkData(
  session: Session,
  schema: StandardSchema,
  data: unknown,
): Validation<unknown> | Promise<Validation<unknown>> {
  const outcome = validate(schema, data);
  return outcome instanceof Promise
    ? session[internals].inTime("the schema of a publication", outcome)
    : outcome;
}

/** Checks whether a message can hold the data. */
function isEncodable(topic: string, data: unknown): boolean {
  try {
    encodeMessage(topic, data);
    return true;
  } catch {
    return false;
  }
}
