/** Subscriptions that clients request, also when a client moves or renews its token. */
import { QueueFullError, RequestError } from "../../errors.ts";
import type { ConsoleReport } from "../../base/console_report.ts";
import type { Runtime } from "../../base/runtime.ts";
import { pause } from "../../base/wait.ts";
import type { SessionManager } from "../../manager/session_manager.ts";
import type { Rooms } from "../../pubsub/presence/rooms.ts";
import type { Topics } from "../../pubsub/topics.ts";
import { replacePredecessor, sessionsAfter, sessionsBefore } from "../../session/lineage.ts";
import { requestFailure } from "../../session/serving/first_frames.ts";
import { type SubscribeRequest, verifiedUser } from "../../session/serving/requests.ts";
import { internals, type Session } from "../../session/session.ts";
import { isName } from "../../session/wire/envelope.ts";
import { MOVED } from "../../session/wire/recovery.ts";
import { tellLiteral, tellNoHistory } from "./hints.ts";
import type { KnownTopics } from "./known_topics.ts";
import type { Rights } from "./rights.ts";

/**
 * Time over which the `authorize` calls after a renewal are spread, in milliseconds. A user may
 * have thousands of subscriptions that renew together.
 */
const RENEWAL_SPREAD_MS = 1_000;

/** Maximum number of `authorize` calls that are made immediately after a user's renewals. */
const MAX_RENEWAL_BURST = 16;

/** Most steps of one renewal. */
const RENEWAL_STEPS = 100;

/** Parts of the server that {@linkcode Subscriptions} uses. */
export interface SubscriptionsParts {
  readonly runtime: Runtime;
  readonly rights: Rights;
  readonly known: KnownTopics;
  readonly topics: Topics;
  readonly rooms: Rooms;
  readonly manager: SessionManager;
  /** Prints hints about likely mistakes. */
  readonly console: ConsoleReport;
}

/** Subscribes clients, and revokes subscriptions whose permission is gone. */
export class Subscriptions {
  readonly #parts: SubscriptionsParts;

  constructor(parts: SubscriptionsParts) {
    this.#parts = parts;
  }

  /** Subscribes a session at the request of its client. */
  async subscribe(session: Session, topic: string, request: SubscribeRequest): Promise<void> {
    const { rights, known, topics, rooms, console } = this.#parts;
    using decision = topics.decisions.begin(session, { topic });
    await rights.check(session, topic, "subscribe", { decision });
    decision.check();
    // The request arrived before the move and had to wait. Each publication goes to only one of
    // the sessions.
    if (sessionsAfter(session).some((later) => topics.has(later, topic))) {
      throw new RequestError("superseded", "The client's next session has the topic");
    }
    tellLiteral(console, topic);
    tellNoHistory(console, topic, { ...request, topics });
    try {
      const options = { ...request, isRequested: true };
      if (known.isRoom(topic)) rooms.enter(session, topic, options);
      else topics.join(session, topic, options);
      // In the same turn, so that each publication goes to exactly one session.
      if (session.isClosed) return;
      for (const before of sessionsBefore(session)) this.#moveOff(before, topic);
    } catch (error) {
      if (error instanceof QueueFullError) throw new RequestError("too-many", error.message);
      if (error instanceof RangeError || error instanceof TypeError) {
        throw new RequestError("malformed", error.message);
      }
      throw error;
    }
  }

  /** Replaces the session from which the client moves. */
  moveTo(session: Session): void {
    if (session[internals].lineage.predecessor === undefined) return;
    const predecessor = replacePredecessor(session);
    if (predecessor === undefined) return;
    const { topics } = this.#parts;
    const requested = new Set(topics.requestedBy(predecessor));
    // The application subscribes each session itself, so the client would receive each publication
    // twice.
    for (const topic of topics.topicsOf(predecessor)) {
      if (!requested.has(topic)) this.#moveOff(predecessor, topic);
    }
  }

  /**
   * Calls `authorize` again for all topics that the client requested; subscriptions made by the
   * application stay. If several sessions of a user renew together, the calls are spread evenly.
   */
  async recheck(session: Session, signal: AbortSignal): Promise<void> {
    const { runtime, topics, manager } = this.#parts;
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
      if (topics.has(session, topic)) checks.push(this.#revokeIfDenied(session, topic));
    }
    await Promise.all(checks);
  }

  async #revokeIfDenied(session: Session, topic: string): Promise<void> {
    const { rights, topics } = this.#parts;
    try {
      await rights.check(session, topic, "subscribe");
    } catch (error) {
      // The client retries if the rights are unknown.
      const { code: failureCode, message: reason } = requestFailure(error);
      // An application may reject with any code, but not every code fits the notice.
      const code = isName(failureCode) ? failureCode : "forbidden";
      topics.unsubscribe(session, topic, { code, reason });
    }
  }

  #moveOff(predecessor: Session, topic: string): void {
    // The requests of the earlier session continue.
    this.#parts.topics.leave(predecessor, topic, { code: MOVED, reason: "" });
  }
}
