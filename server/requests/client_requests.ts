/**
 * Requests of clients: subscribe, publish, set presence data, renew a token. All are denied unless
 * `authorize` allows them.
 */
import { CloseCode, LimitError, RequestError } from "../../errors.ts";
import type { ConsoleReport } from "../../base/console_report.ts";
import { rejectionOf } from "../../base/quotas/shares.ts";
import type { Runtime } from "../../base/runtime.ts";
import type { SessionManager } from "../../manager/session_manager.ts";
import type { Presence } from "../../pubsub/presence/presence.ts";
import type { Rooms } from "../../pubsub/presence/rooms.ts";
import type { Topics } from "../../pubsub/topics.ts";
import type { CountRequest, ResumableRequest } from "../../session/responses/request_table.ts";
import type { ProducerStore } from "../../session/serving/producers.ts";
import type { SequenceStore } from "../../session/serving/sequences.ts";
import {
  type PublishRequest,
  type SessionServices,
  type SubscribeRequest,
  verifiedUser,
} from "../../session/serving/requests.ts";
import { internals, type Session } from "../../session/session.ts";
import type { SessionLike } from "../../session/types.ts";
import type { Admission } from "../admission/admission.ts";
import type { Identity } from "../admission/authentication.ts";
import { type OwnerOf, PublisherOwners } from "../accounts.ts";
import type { Users } from "../users.ts";
import { hashOf } from "../../base/hash.ts";
import type { KnownTopics } from "./known_topics.ts";
import type { PublishHook } from "./on_publish.ts";
import { PresenceUpdates } from "./presence_updates.ts";
import { Publications } from "./publications.ts";
import { Renewals, type RenewedHandler } from "./renewals.ts";
import { type Authorize, Rights } from "./rights.ts";
import { Subscriptions } from "./subscriptions.ts";
import type { ResumableResponses, TopicHandler } from "./topic_handler.ts";

/** Options of {@linkcode ClientRequests}. */
export interface ClientRequestsOptions {
  /** Allows actions of clients. Without `authorize`, all actions are denied. */
  readonly authorize: Authorize | undefined;
  /** Called when a client has renewed its token, with the previous value. */
  readonly onRenewed: RenewedHandler | undefined;
  /** Adds the user to publications of clients, unless `authorize` decides otherwise. */
  readonly includePublisher: boolean;
  /** Most bytes of a token message, including its envelope. */
  readonly maxTokenBytes: number | undefined;
  /** `true` if session errors are not printed because the application has a handler. */
  readonly isSilent: boolean;
  /** `true` if there are topics with a history. */
  readonly hasHistory: boolean;
}

/** Parts of the server that {@linkcode ClientRequests} uses. */
export interface ClientRequestsParts {
  readonly runtime: Runtime;
  /** The topics that clients may name. */
  readonly known: KnownTopics;
  readonly admission: Admission<unknown>;
  readonly manager: SessionManager;
  readonly topics: Topics;
  readonly presence: Presence;
  readonly rooms: Rooms;
  readonly users: Users;
  /** Returns the account of a session, for quotas. */
  readonly accountOf: OwnerOf;
  /** Numbers of handled messages, for clients that number their messages. */
  readonly sequences: SequenceStore;
  /** Rows of producers, for clients with an outbox in a store. */
  readonly producers: ProducerStore;
  /** Topics with rules of their own, such as durable streams. */
  readonly handlers: readonly TopicHandler[];
  /** Stores resumable responses; `undefined` if the server has none. */
  readonly responses: ResumableResponses | undefined;
  /** Decides about each publication by `onPublish`; `undefined` without this option. */
  readonly publishHook: PublishHook | undefined;
  /** Reports each publication of a client to the hooks of features, if there are any. */
  readonly published: ((session: Session, topic: string) => void) | undefined;
  /** Prints hints about likely mistakes. */
  readonly console: ConsoleReport;
}

export class ClientRequests implements SessionServices {
  readonly canMove = true;
  readonly hashOf = hashOf;
  readonly hasHistory: boolean;
  readonly sequences: SequenceStore;
  readonly producers: ProducerStore;
  readonly maxTokenBytes: number | undefined;
  readonly countPublication: SessionServices["countPublication"];
  readonly #parts: ClientRequestsParts;
  readonly #subscriptions: Subscriptions;
  readonly #publications: Publications;
  readonly #presence: PresenceUpdates;
  readonly #renewals: Renewals;

  /** Creates the services of all sessions. */
  constructor(options: ClientRequestsOptions, parts: ClientRequestsParts) {
    const { hasHistory, maxTokenBytes, includePublisher, onRenewed } = options;
    const { runtime, admission, sequences, producers, accountOf, publishHook } = parts;
    this.hasHistory = hasHistory;
    this.sequences = sequences;
    this.producers = producers;
    this.maxTokenBytes = maxTokenBytes;
    this.#parts = parts;
    const rights = new Rights({ ...options, ...parts });
    const shared = { ...parts, rights };
    const accounts = new PublisherOwners(accountOf);
    this.countPublication = publishHook &&
      ((session, topic, bytes) =>
        rights.handlerOf(topic) === undefined
          ? publishHook.count(accounts.of(session), bytes)
          : undefined);
    this.#subscriptions = new Subscriptions(shared);
    this.#publications = new Publications({
      ...shared,
      accounts,
      includePublisher,
      hook: publishHook,
    });
    this.#presence = new PresenceUpdates(shared);
    this.#renewals = new Renewals({ runtime, admission, onRenewed });
  }

  /** Registers a session with the manager, or returns the reason for which it must close. */
  admit(session: Session): { readonly code: number; readonly reason: string } | undefined {
    const { admission, manager } = this.#parts;
    const revocation = admission.revocationOf(session);
    if (revocation !== undefined) {
      const { code = CloseCode.normal, reason = "" } = revocation;
      return { code, reason };
    }
    const reservation = admission.reservationOf(session);
    const beside = session[internals].lineage.predecessor;
    try {
      manager.enter(session, { reservation, beside });
    } catch (error) {
      reservation?.[Symbol.dispose]();
      if (!(error instanceof LimitError)) throw error;
      const code = manager.isDraining ? CloseCode.draining : CloseCode.tooMany;
      return { code, reason: error.message };
    }
    return undefined;
  }

  /** Starts everything that follows a session, once it is established. */
  opened(session: Session): void {
    this.#renewals.watch(session);
    this.#subscriptions.moveTo(session);
    const { responses, accountOf, presence, users } = this.#parts;
    responses?.opened(session, accountOf(session));
    // A session without a user is never online.
    if (verifiedUser(session) === undefined) return;
    presence.add(session);
    users.opened(session);
  }

  /** Delivers messages under the id of the client, once the client has sent it. */
  introduced(session: Session): void {
    this.#parts.topics.introduced(session);
  }

  /** Subscribes a session; the reply is sent by `onReply` of the request. */
  subscribe(session: Session, topic: string, request: SubscribeRequest): Promise<void> {
    return this.#subscriptions.subscribe(session, topic, request);
  }

  /** Removes a session from a topic. */
  unsubscribe(session: Session, topic: string): object {
    this.#parts.topics.leave(session, topic);
    return {};
  }

  /** Publishes on behalf of a session, and returns the data of the reply. */
  publish(
    session: Session,
    topic: string,
    data: unknown,
    request: PublishRequest,
  ): Promise<unknown> {
    return this.#publications.publish(session, topic, data, request);
  }

  /** Sets the presence data of a session in a room; `undefined` ends its presence. */
  async presence(session: Session, room: string, data: unknown): Promise<object> {
    await this.#presence.set(session, room, data);
    return {};
  }

  /** Starts a resumable response unless it has started already, and replies. */
  async storeResponse(request: ResumableRequest, caller: SessionLike): Promise<void> {
    const session = caller as Session;
    const { make, message: { topic } } = request;
    if (make === undefined) {
      throw new RequestError(
        "invalid",
        `The response to "${topic}" is not resumable: leave out id, or write the handler as ` +
          '{ resumable, handle }, with resumable imported from "@skein/skein/streams"',
      );
    }
    const { responses, accountOf } = this.#parts;
    try {
      // A handler whose response is resumable needs a broker that stores it.
      await responses!.reply({ ...request, make }, session, accountOf(session));
    } catch (error) {
      throw this.#rejected(error, session);
    }
  }

  /** Counts a request of a handler with a cost, and a response that ends with its session. */
  countRequest(
    { topic, cost, isResumable }: Parameters<CountRequest>[0],
    caller: SessionLike,
  ): Disposable | undefined {
    const session = caller as Session;
    const { responses, accountOf, manager } = this.#parts;
    const account = accountOf(session);
    let slot: Disposable | undefined;
    try {
      slot = isResumable ? responses?.take(account) : undefined;
      manager.charge(account, cost, `request "${topic}"`);
    } catch (error) {
      slot?.[Symbol.dispose]();
      throw this.#rejected(error, session);
    }
    return slot;
  }

  /** Counts a rejection as one of the session, which closes after too many. */
  #rejected(error: unknown, session: Session): unknown {
    const rejection = error instanceof LimitError ? rejectionOf(error) : error;
    if (rejection instanceof RequestError && rejection.failure.code === "too-many") {
      session[internals].receiving.faults.reject(rejection.message);
    }
    return rejection;
  }

  /** Checks the first token of a session, or a renewed one, and returns the identity. */
  authenticate(session: Session, token: string, signal: AbortSignal): Promise<Identity> {
    return this.#renewals.authenticate(session, token, signal);
  }

  /** Notifies the application of a renewed token. */
  renewed(session: Session, before: unknown): Promise<void> {
    return this.#renewals.renewed(session, before);
  }

  /** Calls `authorize` again for the topics that the client requested. */
  recheck(session: Session, signal: AbortSignal): Promise<void> {
    return this.#subscriptions.recheck(session, signal);
  }
}
