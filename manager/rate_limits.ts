/**
 * How fast peers may send, subscribe and connect: by session, user and network address.
 *
 * @module
 */
import { LimitError } from "../errors.ts";
import { checkLimits } from "../session/base/limits.ts";
import type { Session } from "../session/session.ts";
import { Account, Accounts, type Rates, type RateScope, type RateUnit } from "./_accounts.ts";
import { type MeterHost, SessionMeter } from "./_meter.ts";
import { Engine, type SharedCounts } from "./shared_counts.ts";
import { checkRate, type Rate } from "./token_bucket.ts";

/** At least so many connections of one address may come at once, unless a rate is given. */
const MIN_CONNECTION_BURST = 100;

/** Connections that may come back each second, as a part of those that may come at once. */
const CONNECTION_REFILL_PART = 0.1;

/** Subscriptions that a session may ask for at once at least, unless a rate is given. */
const MIN_SUBSCRIPTION_BURST = 256;

/** Subscriptions that a session may ask for each second, unless a rate is given. */
const SUBSCRIPTIONS_PER_SECOND = 20;

/** Rates of one session. Only subscriptions have one unless it is given. */
export interface SessionRates {
  /** Messages, requests and publications, and whatever else asks for something. */
  readonly messages?: Rate;
  /** Bytes of everything that comes as a message or an answer; of text, its length in UTF-16 units. */
  readonly bytes?: Rate;
  /**
   * Subscriptions and their ends. A client that comes back asks for all of its topics at once. Unless
   * it is given, a session of a server may ask for twice `maxTopicsPerSession` at once, at least 256,
   * and for 20 each second; `{ perSecond: Infinity }` is no limit.
   */
  readonly subscriptions?: Rate;
}

/** What all sessions of one user may do together. No rate is set unless it is given. */
export interface UserRates extends SessionRates {
  /** Sessions that begin. */
  readonly connections?: Rate;
}

/** What all sessions of one network address may do together. */
export interface AddressRates extends SessionRates {
  /**
   * Attempts to connect, whatever comes of them. Unless it is given, as many as
   * `maxSessionsPerAddress` may come at once, at least 100, and a tenth of that each second; none
   * is refused where that limit is `Infinity`.
   */
  readonly connections?: Rate;
}

/**
 * Rates of what peers do. Who has no user, or no address, is not counted there; an IPv6 /64 is one
 * address. Streams and datagrams are not counted: they have flow control.
 *
 * - **Refused first:** what is too much is not handled. A request is answered by `too-many` with
 *   `retryAfterMs`; of messages that asked for no answer the peer is told once a second.
 * - **Then closed:** a session that goes on is closed with 4429.
 * - **Numbered messages wait:** what a client sends at least once is handled as the rates allow, and
 *   acknowledged then. Its publications are refused.
 * - **In any case** answers, cancels, pongs and unsubscribing are done; those who send too many are
 *   closed just so. Invalid input has a bound of its own, `maxInvalidMessages`.
 */
export interface RateLimitsOptions {
  /** Of each session. */
  readonly perSession?: SessionRates;
  /** Of all sessions of a user together. */
  readonly perUser?: UserRates;
  /** Of all sessions of a network address together. */
  readonly perAddress?: AddressRates;
  /**
   * Refusals of one session within 10 seconds before it is closed.
   *
   * @default {100}
   */
  readonly maxRefusals?: number;
  /**
   * Has the rates of users and addresses that are given hold on all nodes together; without it, and
   * while its engine is away, each node counts alone. Nobody waits for it, so a node may let through
   * one burst more before it hears of the others.
   */
  readonly shared?: SharedCounts | undefined;
}

/** What rates refused. */
export interface RateStats {
  /** Messages, publications, subscriptions and the like, by whose rate was reached. */
  readonly refused: Readonly<Record<"session" | "user" | "address", number>>;
  /** Attempts to connect, by whose rate was reached. */
  readonly refusedConnections: Readonly<Record<"user" | "address", number>>;
  /** Sessions that were closed, as they did not stop. */
  readonly closed: number;
  /** Users and addresses that are remembered now. */
  readonly remembered: number;
  /** How often the engine that nodes share did not answer. */
  readonly engineFailures: number;
}

/** Who is counted; names of addresses are those of `addressKey`. */
interface Counted {
  readonly user: string | undefined;
  readonly address: string | undefined;
}

const OPTIONS = { session: "perSession", user: "perUser", address: "perAddress" } as const;
const OWNERS = { session: "session", user: "user", address: "network address" } as const;

/** The rates of a session manager. */
export class RateLimits implements MeterHost, Disposable {
  readonly #rates: Readonly<Record<RateScope, Rates>>;
  readonly #isMetered: boolean;
  readonly #engine: Engine | undefined;
  readonly #accounts: Readonly<Record<Exclude<RateScope, "session">, Accounts>>;
  readonly #refused = { session: 0, user: 0, address: 0 };
  readonly #refusedConnections = { user: 0, address: 0 };
  #closed = 0;
  /** See {@linkcode RateLimitsOptions}. */
  readonly maxRefusals: number;

  /**
   * Creates rate limits that counted nothing yet.
   *
   * @param options See {@linkcode RateLimitsOptions}.
   * @param maxSessionsPerAddress What the rate of connections follows, unless it is given.
   * @throws {RangeError} If a rate is not above 0, a burst is less than 1, or `maxRefusals` is not a
   * positive integer.
   */
  constructor(options: RateLimitsOptions, maxSessionsPerAddress: number) {
    const { perSession, perUser, perAddress, shared } = options;
    const connections = defaultConnections(maxSessionsPerAddress);
    this.#rates = {
      session: checkRates("perSession", { ...perSession, connections: undefined }),
      user: checkRates("perUser", perUser),
      address: checkRates("perAddress", {
        ...perAddress,
        connections: perAddress?.connections ?? connections,
      }),
    };
    const { session, user, address } = this.#rates;
    this.#isMetered = [session, user, address].some(isMetered);
    const { maxRefusals } = checkLimits({ maxRefusals: 100 }, options, { of: "rate limits: " });
    this.maxRefusals = maxRefusals;
    const engine = this.#engine = shared && new Engine(shared);
    // The default follows a limit of this node alone.
    this.#accounts = {
      user: new Accounts("user", user, (unit) => perUser?.[unit] && engine),
      address: new Accounts("address", address, (unit) => perAddress?.[unit] && engine),
    };
  }

  /** What was counted. */
  get stats(): RateStats {
    return {
      refused: { ...this.#refused },
      refusedConnections: { ...this.#refusedConnections },
      closed: this.#closed,
      remembered: this.#accounts.user.size + this.#accounts.address.size,
      engineFailures: this.#engine?.failures ?? 0,
    };
  }

  /**
   * Counts an attempt to connect.
   *
   * @throws {LimitError} If it is one too many.
   */
  connect(who: Counted): void {
    const now = Date.now();
    for (const scope of ["user", "address"] as const) {
      const name = who[scope];
      const waitMs = name === undefined ? 0 : this.#accounts[scope].connect(name, now);
      if (waitMs === 0) continue;
      this.#refusedConnections[scope]++;
      // The message may reach the peer: it names no user and no address.
      throw new LimitError(
        `${OPTIONS[scope]}.connections`,
        `Cannot connect: ${this.#describe(scope, "connections")}`,
        { retryAfterMs: waitMs },
      );
    }
  }

  /** Begins to count what a session's peer sends; `undefined` if nothing is to be counted. */
  meter(session: Session, { user, address }: Counted): SessionMeter | undefined {
    if (!this.#isMetered) return undefined;
    const now = Date.now();
    const accounts: Account[] = [];
    if (isMetered(this.#rates.session)) {
      accounts.push(Account.ofSession(this.#rates.session, now));
    }
    const held = {
      user: isMetered(this.#rates.user) ? user : undefined,
      address: isMetered(this.#rates.address) ? address : undefined,
    };
    if (held.user !== undefined) accounts.push(this.#accounts.user.hold(held.user, now));
    if (held.address !== undefined) accounts.push(this.#accounts.address.hold(held.address, now));
    return accounts.length === 0 ? undefined : new SessionMeter(session, accounts, held, this);
  }

  /** See {@linkcode MeterHost}. */
  refused(scope: RateScope, unit: RateUnit): string {
    this.#refused[scope]++;
    return this.#describe(scope, unit);
  }

  /** See {@linkcode MeterHost}. */
  closed(): void {
    this.#closed++;
  }

  /** See {@linkcode MeterHost}. */
  released({ user, address }: SessionMeter): void {
    const now = Date.now();
    if (user !== undefined) this.#accounts.user.release(user, now);
    if (address !== undefined) this.#accounts.address.release(address, now);
  }

  /** Waits for no engine any more. */
  [Symbol.dispose](): void {
    this.#engine?.[Symbol.dispose]();
  }

  #describe(scope: RateScope, unit: RateUnit): string {
    return `at most ${this.#rates[scope][unit]!.perSecond} ${unit} a second per ${OWNERS[scope]}`;
  }
}

function checkRates(
  name: string,
  rates: { readonly [Unit in RateUnit]?: Rate | undefined } = {},
): Rates {
  return {
    messages: checkRate(rates.messages, `${name}.messages`),
    bytes: checkRate(rates.bytes, `${name}.bytes`),
    subscriptions: checkRate(rates.subscriptions, `${name}.subscriptions`),
    connections: checkRate(rates.connections, `${name}.connections`),
  };
}

/** Whether anything of what sessions send is counted. */
function isMetered({ messages, bytes, subscriptions }: Rates): boolean {
  return messages !== undefined || bytes !== undefined || subscriptions !== undefined;
}

/**
 * The rate of subscriptions of a session, unless one is given: a client that comes back may ask for
 * all of its topics, and leave them again, at once.
 *
 * @param maxTopics Topics that a session may have, where another number than the default.
 * @returns The rate.
 */
export function defaultSubscriptions(maxTopics: number = 0): Rate {
  // A number that is none is refused where topics are created.
  const burst = Math.max(MIN_SUBSCRIPTION_BURST, 2 * maxTopics || 0);
  return { perSecond: SUBSCRIPTIONS_PER_SECOND, burst };
}

/** Whoever fits behind one address may come back all at once, and then again ten seconds later. */
function defaultConnections(maxSessionsPerAddress: number): Required<Rate> {
  const burst = Math.max(MIN_CONNECTION_BURST, maxSessionsPerAddress);
  return { perSecond: burst * CONNECTION_REFILL_PART, burst };
}
