/** Calls `onPublish`, which sees, changes or rejects what clients publish before it goes out. */
import { decide, DecisionFault } from "../../base/decision.ts";
import { Deadlines } from "../../base/deadlines.ts";
import type { Account } from "../../base/quotas/accounts.ts";
import { type Quota, type Quotas, Slot } from "../../base/quotas/shares.ts";
import type { Runtime } from "../../base/runtime.ts";
import { placed, validate } from "../../base/standard_schema.ts";
import { within } from "../../base/wait.ts";
import {
  AuthenticationError,
  RequestError,
  type RequestFailure,
  TimeoutError,
} from "../../errors.ts";
import type { Decision } from "../../pubsub/decisions.ts";
import type { Nodes } from "../../pubsub/nodes/nodes.ts";
import { payloadBytes } from "../../pubsub/broker.ts";
import type { Topics } from "../../pubsub/topics.ts";
import { LastingRejection, requestFailure } from "../../session/serving/first_frames.ts";
import type { PublicationNumber } from "../../session/serving/requests.ts";
import { internals, type Session } from "../../session/session.ts";
import { hashOf } from "../../base/hash.ts";
import { KnownPublications, PUBLISHED, type PublishOutcome } from "./known_publications.ts";
import type { KnownTopics } from "./known_topics.ts";
import type { OnPublish } from "./requested_publications.ts";

/** Name of the option. */
const NAME = "onPublish";

/** Longest time for which a publication waits for `onPublish`, in milliseconds. */
export const ON_PUBLISH_MS = 5_000;

/** Maximum number of bytes of publications that wait for `onPublish`, of all clients. */
export const MAX_WAITING_BYTES = 134_217_728;

/**
 * The same for one account, once half of the limit is used. A session may have all publications
 * that a client sends without a reply, 32 of the maximum size.
 */
export const WAITING_SHARES = { address: 33_554_432, user: 16_777_216, session: 8_388_608 };

/** Maximum number of bytes of remembered rejections, and of data that could not be published. */
export const MAX_REMEMBERED_BYTES = 67_108_864;

/** The same for one account, once half of the limit is used. */
export const REMEMBERED_SHARES = { address: 16_777_216, user: 8_388_608, session: 4_194_304 };

/** Bytes of a publication that waits, or of a decision, in addition to its data. */
const OVERHEAD_BYTES = 1_024;

/** Number of characters of a hash in an id: 132 bits. */
const ID_LENGTH = 22;

/** Parts of the server that {@linkcode PublishHook} uses. */
export interface PublishHookParts {
  readonly runtime: Runtime;
  readonly quotas: Quotas;
  readonly topics: Topics;
  /** The nodes; `undefined` if there is only one. */
  readonly nodes: Nodes | undefined;
  readonly known: KnownTopics;
  /** Maximum number of sessions. */
  readonly maxSessions: number;
  /** Time limit of decisions, in milliseconds, if it is shorter than that of `onPublish`. */
  readonly requestTimeoutMs: number;
  /** Reports that `onPublish` could not decide. */
  readonly reportFault: (fault: DecisionFault, session: Session | undefined) => void;
}

/** A publication that is allowed and fits the contract. */
export interface ReceivedPublication {
  readonly topic: string;
  /** The data, as received. */
  readonly data: unknown;
  /** The data, as the schema returned it. */
  readonly checked: unknown;
  readonly user: string | undefined;
  /** The decision that a revocation ends. */
  readonly decision: Decision;
  /** Its number, if the client may repeat it. */
  readonly number: Pick<PublicationNumber, "producer" | "number"> | undefined;
}

/** A publication that a session sent. */
export interface SentPublication extends ReceivedPublication {
  readonly session: Session;
  readonly account: Account;
  readonly number: PublicationNumber | undefined;
}

/** A publication that may go out, until disposal. */
export interface DecidedPublication extends Disposable {
  /** The data to publish. */
  readonly data: unknown;
  /** True if an earlier attempt has published it. */
  readonly isPublished: boolean;
  /** Notes that it went out. */
  published(): void;
}

/**
 * Decides about the publications of clients by `onPublish`.
 *
 * - **Once:** a publication that a session repeats with its number gets the first decision.
 * - **Time:** after five seconds, nothing is decided, and the client receives `unavailable`.
 * - **Bounds:** the bytes of publications that wait, and of remembered decisions, are limited with
 *   shares. Without room, a decision is not remembered. For the number of decisions, see
 *   {@linkcode KnownPublications}.
 */
export class PublishHook implements Disposable {
  readonly #onPublish: OnPublish;
  readonly #parts: PublishHookParts;
  readonly #known: KnownPublications;
  readonly #waiting: Quota;
  readonly #remembered: Quota;
  readonly #timeoutMs: number;
  /** The calls that the server waits for; bounded by the publications that wait. */
  readonly #running: Deadlines<Call>;
  #isClosed = false;

  /**
   * @param onPublish The function of the application.
   * @param parts Parts of the server.
   */
  constructor(onPublish: OnPublish, parts: PublishHookParts) {
    const { runtime, quotas, requestTimeoutMs } = parts;
    this.#onPublish = onPublish;
    this.#parts = parts;
    this.#timeoutMs = Math.min(ON_PUBLISH_MS, requestTimeoutMs);
    this.#running = new Deadlines(runtime, this.#timeoutMs, ({ ending, session }) => {
      ending.abort(lateDecision(session, this.#timeoutMs));
    });
    this.#known = new KnownPublications(runtime, parts);
    this.#waiting = quotas.open({
      limit: "publications.waitingBytes",
      verb: "publish",
      what: `bytes of publications that wait for ${NAME}`,
      max: MAX_WAITING_BYTES,
      shares: WAITING_SHARES,
      retryAfterMs: 1_000,
    });
    this.#remembered = quotas.open({
      limit: "publications.rememberedBytes",
      verb: "remember",
      what: `bytes of decisions of ${NAME}`,
      max: MAX_REMEMBERED_BYTES,
      shares: REMEMBERED_SHARES,
    });
  }

  /**
   * Counts a publication from its arrival until it is published or rejected.
   *
   * @param account The account of the session.
   * @param bytes Size of the publication.
   * @throws {LimitError} If too many bytes wait.
   */
  count(account: Account, bytes: number): Slot {
    return this.#waiting.take(account, { units: bytes + OVERHEAD_BYTES });
  }

  /**
   * Decides about a publication of a session. A repetition gets the first decision.
   *
   * @throws {LastingRejection} If `onPublish` rejects it.
   * @throws {RequestError} With the code `unavailable`, or with `retryAfterMs`, if it may be repeated.
   */
  async decide(publication: SentPublication): Promise<DecidedPublication> {
    const { topic, number, session, account } = publication;
    // `authorize` may return after the server has closed.
    if (this.#isClosed) throw shuttingDown();
    const id = this.#idOf(publication);
    if (number === undefined) {
      const outcome = await this.#outcomeOf(publication, id);
      return { ...GONE, data: dataOf(outcome), isPublished: false };
    }
    const key = { producer: number.producer, id };
    const known = this.#known.get(key, async () => {
      const asking = { session, timeoutMs: this.#timeoutMs };
      const told = number.isAgain ? await this.#known.ask(key, asking) : undefined;
      return told ?? await this.#outcomeOf(publication, id);
    });
    if (known === PUBLISHED) return GONE;
    const outcome = await known.outcome;
    if ("isPublished" in outcome) {
      known.published();
      return GONE;
    }
    const keep = () => known.keep(() => this.#takeFor(account, topic, outcome));
    if ("failure" in outcome) keep();
    return {
      data: dataOf(outcome),
      // An attempt in another session may have been faster.
      isPublished: known.isPublished,
      published: () => known.published(),
      [Symbol.dispose]: keep,
    };
  }

  /**
   * Decides about a publication over HTTP, whose response is remembered elsewhere.
   *
   * @returns The data to publish.
   * @throws {RequestError} If `onPublish` rejects it, or cannot decide.
   */
  async decideOnce(publication: ReceivedPublication): Promise<unknown> {
    return dataOf(await this.#outcomeOf(publication, this.#idOf(publication)));
  }

  /** Stops waiting for all calls, because the server closes. */
  [Symbol.dispose](): void {
    this.#isClosed = true;
    for (const { ending } of this.#running.clear()) ending.abort(shuttingDown());
    this.#known[Symbol.dispose]();
  }

  /** The id of a publication. If it is numbered, the id is the same on every node. */
  #idOf({ number, topic }: ReceivedPublication): string {
    if (number === undefined) return this.#parts.runtime.randomUUID();
    return hashOf(JSON.stringify([number.producer, number.number, topic])).slice(0, ID_LENGTH);
  }

  /** Asks `onPublish`; rejects if it decides nothing. */
  async #outcomeOf(publication: Asked, id: string): Promise<PublishOutcome> {
    try {
      return await this.#ask(publication, id);
    } catch (error) {
      const failure = requestFailure(error);
      if (!isFinal(failure)) throw error;
      return { failure };
    }
  }

  /** Calls `onPublish`, and returns the data to publish. */
  async #ask(publication: Asked, id: string): Promise<AllowedData> {
    const { topic, data, checked, user, session, decision } = publication;
    const { runtime, known } = this.#parts;
    const { pattern, params = {} } = known.messageOf(topic) ?? {};
    const ending = new AbortController();
    const { signal } = ending;
    const asked = { pattern, topic, params, data: freeze(checked), user, session, id, signal };
    const call = { ending, session };
    this.#running.add(call);
    /** Waits for a promise, or for another thenable, such as the query of a database. */
    const inTime = <T>(result: T | PromiseLike<T>): T | Promise<T> =>
      result instanceof Object ? within(runtime, Promise.resolve(result), { signal }) : result;
    try {
      const ask = () => inTime(decision.during(() => this.#onPublish(asked)));
      const decided = await decide(NAME, ask, [RequestError, AuthenticationError]);
      if (decided === undefined) return { data };
      return await this.#changed(topic, decided, inTime);
    } catch (error) {
      if (!(error instanceof DecisionFault)) throw error;
      this.#parts.reportFault(error, session);
      const message = `The server cannot tell now if this publication on "${topic}" may go out`;
      throw new RequestError("unavailable", message, { cause: error.cause });
    } finally {
      this.#running.delete(call);
    }
  }

  /** Checks data that `onPublish` has returned. If it does not fit, that is not the client's fault. */
  async #changed(
    topic: string,
    decided: unknown,
    inTime: <T>(result: T | PromiseLike<T>) => T | Promise<T>,
  ): Promise<AllowedData> {
    if (!isChange(decided)) {
      throw DecisionFault.returned(NAME, "nothing or { data }, or throw RequestError", decided);
    }
    const { data } = decided;
    const schema = this.#parts.known.schemaOf(topic);
    try {
      const outcome = schema && await inTime(validate(schema, data));
      if (outcome?.ok === false) {
        throw new TypeError(`Cannot publish: data must fit the contract${placed(outcome)}`);
      }
      this.#parts.topics.encode("publish", topic, data, {});
      return { data };
    } catch (error) {
      throw error instanceof RequestError ? error : DecisionFault.thrown(NAME, error);
    }
  }

  /** Takes a slot for a decision that is remembered. */
  #takeFor(account: Account, topic: string, outcome: PublishOutcome): Slot | undefined {
    const kept = "failure" in outcome ? outcome.failure : dataOf(outcome);
    try {
      const { publication } = this.#parts.topics.encode("publish", topic, kept, {});
      const units = OVERHEAD_BYTES + payloadBytes(publication);
      const slot = this.#remembered.tryTake(account, { units });
      return slot instanceof Slot ? slot : undefined;
    } catch {
      return undefined; // No message can carry it, so the client's next attempt fails as well.
    }
  }
}

/** A publication that an earlier attempt has published. */
const GONE: DecidedPublication = {
  data: undefined,
  isPublished: true,
  published() {},
  [Symbol.dispose]() {},
};

type Asked = ReceivedPublication & { readonly session?: Session };

/** A call of `onPublish`. */
interface Call {
  readonly ending: AbortController;
  readonly session: Session | undefined;
}

/** Data that may go out. */
interface AllowedData {
  readonly data: unknown;
}

/** Codes of rejections that decide nothing. */
const UNDECIDED: ReadonlySet<string> = new Set(["failed", "unavailable"]);

/** Checks whether a rejection is a decision: not an error, and not one that asks for another try. */
function isFinal({ code, retryAfterMs }: RequestFailure): boolean {
  return !UNDECIDED.has(code) && retryAfterMs === undefined;
}

function dataOf(outcome: PublishOutcome): unknown {
  if ("failure" in outcome) throw new LastingRejection(outcome.failure);
  // Without "data", another node told data that JSON leaves out.
  return "data" in outcome ? outcome.data : undefined;
}

/** Checks a result of `onPublish`: other members would be a mistake that goes unnoticed. */
function isChange(decided: unknown): decided is AllowedData {
  return typeof decided === "object" && decided !== null && "data" in decided &&
    Object.keys(decided).length === 1;
}

/** The error for a publication that the server no longer decides about. */
function shuttingDown(): RequestError {
  return new RequestError("unavailable", "The server is shutting down");
}

/** The error for a call that takes too long, which is also an issue of the session. */
function lateDecision(session: Session | undefined, ms: number): TimeoutError {
  return session?.[internals].noteLate(NAME, ms) ??
    new TimeoutError(`No result from ${NAME} within ${ms} ms`, ms);
}

/** Freezes plain objects and arrays, with everything in them, so that no change goes unnoticed. */
function freeze<T>(value: T): T {
  const open: unknown[] = [value];
  while (open.length > 0) {
    const next = open.pop();
    if (typeof next !== "object" || next === null || Object.isFrozen(next)) continue;
    const prototype = Object.getPrototypeOf(next);
    if (prototype !== Object.prototype && prototype !== Array.prototype && prototype !== null) {
      continue;
    }
    Object.freeze(next);
    for (const member of Object.values(next)) open.push(member);
  }
  return value;
}
