/**
 * Rate limits on messages, publications, subscriptions and connections, per session, user and
 * network address.
 */
import type { OptionKinds } from "../base/options/options.ts";
import { objectWith, POSITIVE, RATE } from "../base/options/option_checks.ts";
import { LimitError, RequestError } from "../errors.ts";
import type { Runtime } from "../base/runtime.ts";
import { type Account, NOBODY } from "../base/quotas/accounts.ts";
import { MAX_REJECTIONS } from "../session/faults.ts";
import type { Session } from "../session/session.ts";
import {
  isCounted,
  PUBLICATION,
  type RateAccount,
  RateAccounts,
  type Rates,
  type RateScope,
  type RateUnit,
  shortageOf,
  takeFrom,
} from "./rate_accounts.ts";
import { type MeterHost, SessionMeter } from "./meter.ts";
import { COSTS, Costs, UNTOLD_FACTOR } from "./costs.ts";
import { BrokerCounts, type SharedCounts } from "./shared_counts.ts";
import { checkRate, type Rate } from "../base/quotas/token_bucket.ts";

/** Minimum default burst of connections from one address. */
const MIN_CONNECTION_BURST = 100;

/** Default rate of connections per second, as a fraction of the burst. */
const CONNECTION_REFILL_PART = 0.1;

/** Minimum default burst of subscriptions of a session. */
const MIN_SUBSCRIPTION_BURST = 256;

/** Default rate of subscriptions of a session, per second. */
const SUBSCRIPTIONS_PER_SECOND = 20;

/** Default rate of publications of a session. */
export const DEFAULT_PUBLICATIONS: Required<Rate> = { perSecond: 200, burst: 1_000 };

/** Rates of one session. Publications and subscriptions have a default rate. */
export interface SessionRates {
  /** Messages, requests, publications, and all other calls. */
  readonly messages?: Rate | undefined;
  /**
   * Bytes of all messages and replies of the peer. The size of text is its length in UTF-16 units.
   */
  readonly bytes?: Rate | undefined;
  /**
   * Publications, which also count as messages. Each change of a state counts as one, also over
   * HTTP.
   *
   * Each mutation counts as one, too, and so do each 100 rows that it reads on the server.
   * `{ perSecond: Infinity }` means no limit. The default is only for each session of a server.
   *
   * @default {1,000, then 200 a second}
   */
  readonly publications?: Rate | undefined;
  /**
   * Subscribing and unsubscribing. A client that reconnects subscribes to all of its topics at
   * once.
   *
   * The default is only for each session of a server. Its burst is twice `maxTopicsPerSession`, but
   * at least 256. `{ perSecond: Infinity }` means no limit.
   *
   * @default {256, then 20 a second}
   */
  readonly subscriptions?: Rate | undefined;
}

/**
 * Rate limits on peers. Sessions without a user don't count against the limits per user, and
 * sessions without an address don't count against the limits per address. An IPv6 /64 counts as one
 * address. Streams and datagrams are not counted, because they have flow control.
 *
 * - **Over HTTP,** changes of keyed streams, and requests to close or cancel a stream, count as
 *   publications. A user counts as one session on each server, and so do all guests of an address.
 *   A request beyond a rate receives 429.
 * - **Rejected first:** messages beyond a rate limit are not handled. A request or a publication
 *   receives `too-many` with `retryAfterMs`; rejections of other messages are reported to the peer
 *   at most once a second.
 * - **Publications keep their order:** after a rejected publication, all publications that the peer
 *   sent before it read the rejection are rejected, too. `client.publish()` waits, and sends them
 *   again in order.
 * - **Then closed:** a session with more than `maxRejections` rejections is closed with 4429, and
 *   its client reconnects. Requests beyond `session.maxRequests` count, too. Rejected publications
 *   don't count if the client waits before sending them again.
 * - **Numbered messages wait:** messages with at-least-once delivery are handled and acknowledged
 *   as the rates allow.
 * - **Never rejected:** replies, cancels, pongs and unsubscribing are always handled, but too many
 *   of them also close the session. Invalid input has a separate bound, `maxInvalidMessages`.
 */
export interface RateLimitsOptions {
  /**
   * Rates of each session, also for `messages` and `bytes`. Over HTTP, all requests of a user, or
   * of the guests of an address, count as one session.
   */
  readonly perSession?: SessionRates | undefined;
  /** Rates of all sessions of a user together, and of new `connections`. */
  readonly perUser?:
    | SessionRates & {
      /** New sessions. */
      readonly connections?: Rate | undefined;
      /**
       * Cost of the work that a user or a guest starts: a resumable response costs 1, and any other
       * request the `cost` of its handler.
       *
       * Without a `cost`, a request costs nothing. Guests have this rate, too.
       *
       * @default {{ perSecond: 1, burst: 10 }}
       */
      readonly cost?: Rate | undefined;
    }
    | undefined;
  /** Rates of all sessions of a network address together, and of new `connections`. */
  readonly perAddress?:
    | SessionRates & {
      /**
       * Attempts to connect, successful or not.
       *
       * The default burst is `maxSessionsPerAddress` attempts but at least 100, and a tenth of that
       * follows each second. There is no limit if `maxSessionsPerAddress` is `Infinity`, or for the
       * private address of a proxy that the server is not configured to trust.
       *
       * @default {1,000, then 100 a second}
       */
      readonly connections?: Rate | undefined;
      /**
       * Cost of the work that all guests and new users of an address start; an IPv6 /64 counts as
       * one address.
       *
       * Users first seen at the address more than an hour ago together have ten times this rate.
       * All clients at private or unknown addresses together have ten times the default, because
       * `clientAddress` may be missing; a rate that you set applies to each private address.
       *
       * @default {{ perSecond: 5, burst: 64 }}
       */
      readonly cost?: Rate | undefined;
    }
    | undefined;
  /**
   * Rejections within 10 s after which a session is closed with 4429: messages beyond a rate, and
   * requests while `session.maxRequests` wait.
   *
   * @default {100}
   */
  readonly maxRejections?: number | undefined;
  /**
   * Shared counters that apply the rates of users and addresses to all nodes together.
   *
   * If there are none, or while they are unreachable, each node counts on its own. No call waits
   * for them, so a node may let through up to one burst too much before it receives the counts of
   * other nodes.
   *
   * @default {the broker's store}
   */
  readonly shared?: SharedCounts | undefined;
}

const SESSION_RATES: OptionKinds<SessionRates> = {
  bytes: RATE,
  messages: RATE,
  publications: RATE,
  subscriptions: RATE,
};

const SHARED_RATES: OptionKinds<NonNullable<RateLimitsOptions["perAddress"]>> = {
  ...SESSION_RATES,
  connections: RATE,
  cost: RATE,
};

export const RATES: OptionKinds<RateLimitsOptions> = {
  maxRejections: POSITIVE,
  perAddress: SHARED_RATES,
  perSession: SESSION_RATES,
  perUser: SHARED_RATES,
  shared: objectWith("SharedCounts", "take"),
};

/** User and address that a session counts toward. */
export interface CountedPeer {
  /** The user; `undefined` is not counted. */
  readonly user: string | undefined;
  /** The network address; `undefined` is not counted. */
  readonly address: string | undefined;
}

/** Publications of a client over HTTP, where the client has no session. */
export interface HttpPublications {
  /** The user; the account may have another caller that the application has named. */
  readonly user: string | undefined;
  /** Number of publications. */
  readonly count: number;
  /** Size of the body in bytes. */
  readonly size: number;
  /** The rejected action, for the error. */
  readonly verb: string;
}

/** An account of a client over HTTP, before it exists. */
interface CallerAccount {
  readonly accounts: RateAccounts;
  readonly name: string;
  /** Multiple of the rates of a session. */
  readonly times: number;
  /** The clients that share the account, in words. */
  readonly who: string;
}

const OPTIONS = { session: "perSession", user: "perUser", address: "perAddress" } as const;
const ACCOUNTS = { session: "session", user: "user", address: "network address" } as const;

/** Name of the account of guests at private or unknown addresses. */
const UNTOLD = "untold";

const COUNTED_SCOPES = ["user", "address"] as const;

const NO_ACCOUNTS: readonly RateAccount[] = [];

/** Counters of {@linkcode RateLimits}, as in the statistics of a manager. */
interface RateStats {
  readonly rejected: Readonly<Record<RateScope, number>>;
  readonly rejectedConnections: Readonly<Record<"user" | "address", number>>;
  readonly closed: number;
  readonly remembered: number;
  readonly brokerFailures: number;
}

/** Properties of a server that its rates depend on. */
export interface RateLimitsParts {
  /** Basis of the default rate of connections. */
  readonly maxSessionsPerAddress: number;
}

/** The rates of a session manager. */
export class RateLimits implements MeterHost, Disposable {
  readonly runtime: Runtime;
  readonly #rates: Readonly<Record<RateScope, Rates>>;
  /** Scopes in which messages of sessions have a rate. */
  readonly #isMetered: Readonly<Record<RateScope, boolean>>;
  /** True if the application set no rate of connections per address. */
  readonly #isDefaultConnections: boolean;
  /** True if all sessions have a meter, because the application has limited the rejections. */
  readonly #isLimited: boolean;
  readonly #broker: BrokerCounts | undefined;
  readonly #costs: Costs;
  readonly #rateAccounts: Readonly<Record<Exclude<RateScope, "session">, RateAccounts>>;
  /** Callers over HTTP, with the rates of a session. */
  readonly #callers: RateAccounts;
  readonly #rejected = { session: 0, user: 0, address: 0 };
  readonly #rejectedConnections = { user: 0, address: 0 };
  #closed = 0;
  /** Rejections of one session within a window before it is closed. */
  readonly maxRejections: number;

  /**
   * @throws {RangeError} If a rate is not above 0, a burst is less than 1, or `maxRejections` is
   * not
   *   a positive integer.
   */
  constructor(
    runtime: Runtime,
    options: RateLimitsOptions,
    { maxSessionsPerAddress }: RateLimitsParts,
  ) {
    this.runtime = runtime;
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
    this.#isDefaultConnections = perAddress?.connections === undefined;
    const { session, user, address } = this.#rates;
    this.#isMetered = {
      session: isMetered(session),
      user: isMetered(user),
      address: isMetered(address),
    };
    this.#isLimited = options.maxRejections !== undefined;
    this.maxRejections = options.maxRejections ?? MAX_REJECTIONS;
    const broker = this.#broker = shared && new BrokerCounts(runtime, shared);
    // Default rates are derived from a limit of this node alone, so they are not shared.
    this.#rateAccounts = {
      user: new RateAccounts("user", user, (unit) => perUser?.[unit] && broker),
      address: new RateAccounts("address", address, (unit) => perAddress?.[unit] && broker),
    };
    this.#callers = new RateAccounts("session", session, () => undefined);
    this.#costs = new Costs(runtime, {
      user: checkRate(perUser?.cost ?? COSTS.user, "perUser.cost"),
      address: checkRate(perAddress?.cost ?? COSTS.address, "perAddress.cost"),
      isStrict: perAddress?.cost !== undefined,
      shared: broker,
    });
  }

  /** Counters of rejections. */
  get stats(): RateStats {
    return {
      rejected: { ...this.#rejected },
      rejectedConnections: { ...this.#rejectedConnections },
      closed: this.#closed,
      remembered: this.#rateAccounts.user.size + this.#rateAccounts.address.size +
        this.#callers.size + this.#costs.size,
      brokerFailures: this.#broker?.failures ?? 0,
    };
  }

  /**
   * Counts an attempt to connect toward a user, the address of an account, or both.
   *
   * @throws {LimitError} If there are too many attempts.
   */
  connect(
    { user, account = NOBODY }: {
      readonly user?: string | undefined;
      readonly account?: Account | undefined;
    },
  ): void {
    if (user !== undefined) this.#countConnection("user", user);
    const isCounted = !account.isBehindProxy || !this.#isDefaultConnections;
    const address = isCounted ? account.networks[0]?.key : undefined;
    if (address !== undefined) this.#countConnection("address", address);
  }

  #countConnection(scope: "user" | "address", name: string): void {
    const waitMs = this.#rateAccounts[scope].connect(name, this.runtime.now());
    if (waitMs === 0) return;
    this.#rejectedConnections[scope]++;
    // The message may reach the peer, so it does not contain the user or the address.
    throw new LimitError(
      `${OPTIONS[scope]}.connections`,
      `Cannot connect: ${this.#describe(scope, "connections")}`,
      { retryAfterMs: waitMs },
    );
  }

  /**
   * Starts to meter a session. Returns `undefined` if neither a rate nor `maxRejections` applies.
   */
  meter(
    session: Session,
    { user, account }: { readonly user: string | undefined; readonly account: Account },
  ): SessionMeter | undefined {
    const metered = this.#isMetered;
    const own = metered.session ? this.#rates.session : undefined;
    const held = {
      user: metered.user ? user : undefined,
      address: metered.address ? account.networks[0]?.key : undefined,
    };
    const shared = held.user === undefined && held.address === undefined
      ? NO_ACCOUNTS
      : this.#hold(held);
    if (own === undefined && shared.length === 0 && !this.#isLimited) return undefined;
    return new SessionMeter(session, { ...held, own, shared }, this);
  }

  /**
   * Counts the cost of work that a client starts.
   *
   * @throws {RequestError} With the code `too-many` if a rate of the user or the address has too
   * little left.
   */
  charge(account: Account, cost: number, verb: string): void {
    try {
      this.#costs.take(account, cost, verb);
    } catch (error) {
      const { level } = error instanceof RequestError ? error.failure : {};
      if (level === "user" || level === "address") this.#rejected[level]++;
      throw error;
    }
  }

  /**
   * Counts publications over HTTP, toward the rates of a session that the client has on each server,
   * and toward the rates of its user and its address.
   *
   * - **A user,** or a caller that the application has named, has the rates of one session.
   * - **Guests** of an address share the rates of one session. An IPv6 /56 has 4 times these rates,
   *   and a /48 has 16 times.
   * - **Guests at private and unknown addresses** share ten times these rates, because they may be
   *   everybody who comes through a proxy.
   *
   * @throws {RequestError} With the code `too-many` if a rate has too little left.
   */
  publish(account: Account, { user, count, size, verb }: HttpPublications): void {
    const now = this.runtime.now();
    const places = this.#callersOf(account, user);
    const held = places.map(({ accounts, name, times }) => accounts.hold(name, now, times));
    try {
      const amount = { units: PUBLICATION, count, size };
      const shortage = shortageOf(held, amount, now);
      if (shortage === undefined) return takeFrom(held, amount, now);
      const { account: { scope }, unit, waitMs } = shortage;
      const { who, times, name } = places[held.indexOf(shortage.account)]!;
      if (name === UNTOLD) account.onProxy?.();
      this.#rejected[scope]++;
      const perSecond = this.#rates[scope][unit]!.perSecond * times;
      const hint = unit === "publications" ? ", and each change is one" : "";
      throw new RequestError(
        "too-many",
        `Cannot ${verb}: at most ${perSecond} ${unit} a second ${who}${hint}`,
        { retryAfterMs: waitMs, level: scope },
      );
    } finally {
      for (const { accounts, name } of places) accounts.release(name, now);
    }
  }

  /**
   * Counts publications over HTTP that no request has announced: making one took as much work as
   * several. If a rate has too little left, later ones are rejected.
   */
  spend(account: Account, { user, count }: Pick<HttpPublications, "count" | "user">): void {
    const now = this.runtime.now();
    for (const { accounts, name, times } of this.#callersOf(account, user)) {
      takeFrom([accounts.hold(name, now, times)], { units: PUBLICATION, count, size: 0 }, now);
      accounts.release(name, now);
    }
  }

  /** Returns the accounts of a client over HTTP that have rates of publications. */
  #callersOf(account: Account, user: string | undefined): readonly CallerAccount[] {
    const { session } = this.#rates;
    const places: CallerAccount[] = [];
    if (isCounted(session, PUBLICATION)) {
      const accounts = this.#callers;
      const { user: caller, networks, isBehindProxy } = account;
      if (caller !== undefined) {
        places.push({ accounts, name: `user ${caller}`, times: 1, who: "over HTTP per user" });
      } else if (networks.length === 0 || isBehindProxy) {
        const who = "over HTTP for all guests at private or unknown addresses";
        places.push({ accounts, name: UNTOLD, times: UNTOLD_FACTOR, who });
      } else {
        for (const { key, factor: times } of networks) {
          const who = `over HTTP for the guests of ${times === 1 ? "an address" : "a network"}`;
          places.push({ accounts, name: `at ${key}`, times, who });
        }
      }
    }
    const named = { user, address: account.networks[0]?.key };
    for (const scope of COUNTED_SCOPES) {
      const name = named[scope];
      if (name === undefined || !isCounted(this.#rates[scope], PUBLICATION)) continue;
      const accounts = this.#rateAccounts[scope];
      places.push({ accounts, name, times: 1, who: `per ${ACCOUNTS[scope]}` });
    }
    return places;
  }

  #hold({ user, address }: CountedPeer): RateAccount[] {
    const now = this.runtime.now();
    const accounts: RateAccount[] = [];
    if (user !== undefined) accounts.push(this.#rateAccounts.user.hold(user, now));
    if (address !== undefined) accounts.push(this.#rateAccounts.address.hold(address, now));
    return accounts;
  }

  rejected(scope: RateScope, unit: RateUnit): string {
    this.#rejected[scope]++;
    return this.#describe(scope, unit);
  }

  closed(): void {
    this.#closed++;
  }

  released({ user, address }: SessionMeter): void {
    const now = this.runtime.now();
    if (user !== undefined) this.#rateAccounts.user.release(user, now);
    if (address !== undefined) this.#rateAccounts.address.release(address, now);
  }

  /** Ends all waits for the broker. */
  [Symbol.dispose](): void {
    this.#broker?.[Symbol.dispose]();
  }

  #describe(scope: RateScope, unit: RateUnit): string {
    return `at most ${this.#rates[scope][unit]!.perSecond} ${unit} a second per ${ACCOUNTS[scope]}`;
  }
}

function checkRates(
  name: string,
  rates: { readonly [Unit in RateUnit]?: Rate | undefined } = {},
): Rates {
  return {
    messages: checkRate(rates.messages, `${name}.messages`),
    bytes: checkRate(rates.bytes, `${name}.bytes`),
    publications: checkRate(rates.publications, `${name}.publications`),
    subscriptions: checkRate(rates.subscriptions, `${name}.subscriptions`),
    connections: checkRate(rates.connections, `${name}.connections`),
  };
}

/** True if any unit of a session's messages has a rate. */
function isMetered({ connections: _connections, ...rates }: Rates): boolean {
  return Object.values(rates).some((rate) => rate !== undefined);
}

/**
 * Default rate of subscriptions of a session: a client that reconnects may subscribe to all of its
 * topics, and unsubscribe again, in one burst.
 *
 * @param maxTopics Maximum number of topics of a session, if set by an option.
 */
export function defaultSubscriptions(maxTopics: number = 0): Rate {
  // An invalid number is rejected where topics are created.
  const burst = Math.max(MIN_SUBSCRIPTION_BURST, 2 * maxTopics || 0);
  return { perSecond: SUBSCRIPTIONS_PER_SECOND, burst };
}

/**
 * Default rate of connections: all clients behind one address may reconnect at once, and again ten
 * seconds later.
 */
export function defaultConnections(maxSessionsPerAddress: number): Required<Rate> {
  const burst = Math.max(MIN_CONNECTION_BURST, maxSessionsPerAddress);
  return { perSecond: burst * CONNECTION_REFILL_PART, burst };
}
