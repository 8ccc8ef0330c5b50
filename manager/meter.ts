/** The meter of one session: counts the peer's messages, and rejects those beyond a rate limit. */
import type { RequestFailure } from "../errors.ts";
import type { Envelope } from "../session/wire/envelope.ts";
import { publicationsIn } from "../session/wire/server_envelope.ts";
import type { Meter } from "../session/message.ts";
import { internals, type Session } from "../session/session.ts";
import type { Runtime, Timer } from "../base/runtime.ts";
import { MAX_TIMER_MS } from "../base/wait.ts";
import {
  type Amount,
  isCounted,
  PUBLICATION,
  RateAccount,
  type Rates,
  type RateScope,
  type RateUnit,
  type Shortage,
  shortageOf,
  takeFrom,
} from "./rate_accounts.ts";

/** Minimum interval between notices of rejected messages without a request id, in milliseconds. */
const NOTICE_INTERVAL_MS = 1_000;

/**
 * Minimum wait for tokens before checking again, and minimum pause for a client that publishes
 * beyond a rate limit, in milliseconds.
 */
const MIN_WAIT_MS = 10;

/**
 * Time by which a client may end its pause early, in milliseconds, because clocks and timers are
 * rounded.
 */
const EARLY_MS = 2;

/**
 * Number of the ping after rejected publications; the heartbeat and `ping()` use higher numbers.
 */
const PING = 0;

/** The part of a rejection that says when the rate limit has room again. */
type Rejection = Required<Pick<RequestFailure, "retryAfterMs" | "level">>;

/** A rejection, with a description of the rate. */
interface RejectedRate extends Rejection {
  readonly rate: string;
}

/**
 * Publications rejected in a row: the first publication beyond a rate limit, and all publications
 * that the peer sent before it read that rejection. Otherwise, a later publication might pass
 * before an earlier one is sent again.
 */
interface Hold {
  envelopes: number;
  /** Number of publications as which they count. */
  count: number;
  /** Total size of the publications, in bytes. */
  size: number;
  /**
   * Pings sent after the rejections that the peer has not replied to. A pong shows that the peer has
   * read all rejections.
   */
  pings: number;
  /** The shortage of the first one. */
  readonly shortage: Shortage;
  /** True if the peer did not wait as long as an earlier rejection said. */
  readonly isEarly: boolean;
}

/** Accounts that meter a session. */
interface MeterParts {
  /** The user, if its account is held. */
  readonly user: string | undefined;
  /** The network address, if its account is held. */
  readonly address: string | undefined;
  /** The session's own rates. */
  readonly own: Rates | undefined;
  /** Accounts of the user and the address. */
  readonly shared: readonly RateAccount[];
}

/** The part that all meters of a server share. */
export interface MeterHost {
  readonly runtime: Runtime;
  /** Rejections of one session within a window before it is closed. */
  readonly maxRejections: number;
  /** Counts a rejection, and describes the rate for the peer. */
  rejected(scope: RateScope, unit: RateUnit): string;
  /** Counts a session that is closed because of its rejections. */
  closed(): void;
  /** Releases the holds of a meter that stopped. */
  released(meter: SessionMeter): void;
}

/** The meter of one session. Disposing of it stops the counting. */
export class SessionMeter implements Meter, Disposable {
  /** The user whose account is held. */
  readonly user: string | undefined;
  /** The address whose account is held. */
  readonly address: string | undefined;
  readonly #session: Session;
  readonly #host: MeterHost;
  /**
   * The accounts of session, user and address; the first one without enough tokens rejects the
   * message.
   */
  #rateAccounts: readonly RateAccount[];
  /**
   * The session's own rates, until a message counts toward them; few sessions ever need this
   * account.
   */
  #own: Rates | undefined;
  #hold: Hold | undefined = undefined;
  /** Time of the last rejected publication. */
  #postponedAt = 0;
  /** The wait that the peer was then asked for, in milliseconds. */
  #postponedMs = 0;
  #isPingDue = false;
  #untold = 0;
  /** The last rejection without a request id. */
  #why: RejectedRate | undefined = undefined;
  /**
   * Callbacks that end waits for tokens, once something is waiting. There are at most as many as
   * the session handles concurrently.
   */
  #waits: Set<() => void> | undefined = undefined;
  #isOver = false;
  #timer: Timer | undefined;

  /** Starts counting. */
  constructor(
    session: Session,
    { user, address, own, shared }: MeterParts,
    host: MeterHost,
  ) {
    this.user = user;
    this.address = address;
    this.#session = session;
    this.#rateAccounts = shared;
    this.#own = own;
    this.#host = host;
    session[internals].receiving.meter = this;
  }

  get maxRejections(): number {
    return this.#host.maxRejections;
  }

  closed(): void {
    this.#host.closed();
  }

  rejects(envelope: Envelope, size: number): boolean {
    // Malformed input has a separate, much lower bound.
    if (envelope.kind === "malformed") return false;
    // This side requested that pong, so it does not count.
    if (envelope.kind === "pong" && envelope.n === PING && this.#ponged()) return false;
    const kind = meteredKind(envelope);
    const units = unitsOf(kind);
    if (!this.#counts(units)) return false;
    const amount = { units, count: publicationsIn(envelope), size };
    const now = this.#host.runtime.now();
    this.#addOwn(now);
    // A plain peer cannot publish, and sends no pongs.
    const isPublication = kind === "publish" && this.#session[internals].joins;
    const shortage = this.#missing(amount, now) ??
      (isPublication ? this.#hold?.shortage : undefined);
    if (shortage === undefined) {
      this.#take(amount, now);
      return false;
    }
    if (isPublication) return this.#postpone(envelope, shortage, { amount, now });
    const rate = this.#host.rejected(shortage.account.scope, shortage.unit);
    if (this.#isOneTooMany(rate)) return true;
    if (isEnding(kind)) return false;
    this.#reply(envelope, rate, shortage);
    return true;
  }

  async admit(size: number, publications = 0): Promise<void> {
    const units = unitsOf(publications > 0 ? "publish" : "message");
    const amount = { units, count: Math.max(1, publications), size };
    while (!this.#isOver) {
      const now = this.#host.runtime.now();
      this.#addOwn(now);
      const shortage = this.#missing(amount, now);
      if (shortage === undefined) return this.#take(amount, now);
      await this.#wait(shortage.waitMs);
    }
  }

  spent(count: number): number {
    if (!this.#counts(PUBLICATION)) return 0;
    const now = this.#host.runtime.now();
    this.#addOwn(now);
    const amount = { units: PUBLICATION, count, size: 0 };
    this.#take(amount, now);
    return this.#missing({ ...amount, count: 0 }, now)?.waitMs ?? 0;
  }

  /** Stops counting when the session ends. Idempotent. */
  [Symbol.dispose](): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#session[internals].receiving.meter = undefined;
    this.#host.runtime.clearTimeout(this.#timer);
    this.#waits?.forEach((end) => end());
    this.#host.released(this);
  }

  /**
   * True if some account has a rate limit on bytes or on one of the units. All other messages pass
   * immediately.
   */
  #counts(units: readonly RateUnit[]): boolean {
    if (this.#own !== undefined && isCounted(this.#own, units)) return true;
    for (const account of this.#rateAccounts) if (isCounted(account, units)) return true;
    return false;
  }

  /** Adds the session's account, with full buckets. */
  #addOwn(now: number): void {
    if (this.#own === undefined) return;
    this.#rateAccounts = [RateAccount.ofSession(this.#own, now), ...this.#rateAccounts];
    this.#own = undefined;
  }

  #missing(amount: Amount, now: number): Shortage | undefined {
    return shortageOf(this.#rateAccounts, amount, now);
  }

  #take(amount: Amount, now: number): void {
    takeFrom(this.#rateAccounts, amount, now);
  }

  #wait(waitMs: number): Promise<void> {
    const { runtime } = this.#host;
    const ms = Math.min(Math.max(waitMs, MIN_WAIT_MS), MAX_TIMER_MS);
    const waits = this.#waits ??= new Set();
    return new Promise((resolve) => {
      const end = () => {
        runtime.clearTimeout(timer);
        waits.delete(end);
        resolve();
      };
      const timer = runtime.setTimeout(end, ms);
      waits.add(end);
    });
  }

  /**
   * Rejects a publication until there is room for all publications of the hold. The peer may then
   * send them together. Such rejections do not count toward `maxRejections` if the peer waits. A
   * peer can have at most `maxRequests` publications in flight.
   */
  #postpone(
    envelope: Envelope,
    first: Shortage,
    { amount, now }: { readonly amount: Amount; readonly now: number },
  ): true {
    // After a clock was set back, no publication is early.
    const sinceMs = now - this.#postponedAt;
    const isEarly = sinceMs >= 0 && sinceMs < this.#postponedMs - EARLY_MS;
    const empty = { envelopes: 0, count: 0, size: 0, pings: 0 };
    const hold = this.#hold ??= { ...empty, shortage: first, isEarly };
    hold.envelopes++;
    hold.count += amount.count;
    hold.size += amount.size;
    const shortage = this.#missing({ ...amount, ...hold }, now) ?? { ...first, waitMs: 0 };
    const waitMs = Math.max(shortage.waitMs, MIN_WAIT_MS);
    this.#postponedAt = now;
    this.#postponedMs = waitMs;
    const rate = this.#host.rejected(shortage.account.scope, shortage.unit);
    const isPatient = !hold.isEarly &&
      hold.envelopes <= this.#session[internals].settings.maxRequests;
    if (!isPatient && this.#isOneTooMany(rate)) return true;
    this.#reply(envelope, rate, { ...shortage, waitMs });
    this.#pingAfter(hold);
    return true;
  }

  /** Sends a ping after the rejections of one frame. */
  #pingAfter(hold: Hold): void {
    if (this.#isPingDue) return;
    this.#isPingDue = true;
    hold.pings++;
    queueMicrotask(() => {
      this.#isPingDue = false;
      this.#session[internals].sending.post({ ping: PING });
    });
  }

  /** Ends the hold after its last pong; false if none was pending. */
  #ponged(): boolean {
    const hold = this.#hold;
    if (hold === undefined) return false;
    if (--hold.pings === 0) this.#hold = undefined;
    return true;
  }

  /** Counts a rejection; true if it closed the session. */
  #isOneTooMany(rate: string): boolean {
    return this.#session[internals].receiving.faults.reject(rate);
  }

  #reply(envelope: Envelope, rate: string, { account, waitMs }: Shortage): void {
    const id = "id" in envelope ? envelope.id ?? undefined : undefined;
    const why = { retryAfterMs: waitMs, level: account.scope };
    if (id === undefined) this.#note({ rate, ...why });
    else this.#tell(id, { code: "too-many", message: `Rejected: ${rate}`, ...why });
  }

  /** Reports a rejection without a request id: immediately, or later together with others. */
  #note(why: RejectedRate): void {
    this.#untold++;
    this.#why = why;
    if (this.#timer !== undefined) return;
    const tell = () => {
      const count = this.#untold;
      this.#untold = 0;
      this.#timer = undefined;
      if (count === 0) return;
      this.#timer = this.#host.runtime.setTimeout(tell, NOTICE_INTERVAL_MS);
      const { rate, ...why } = this.#why!;
      this.#tell(null, { code: "too-many", message: `${count} rejected: ${rate}`, ...why });
    };
    tell();
  }

  #tell(id: number | null, error: RequestFailure): void {
    this.#session[internals].sending.post({ reply: id, error });
  }
}

const MESSAGE: readonly RateUnit[] = ["messages"];
const SUBSCRIPTION: readonly RateUnit[] = ["subscriptions"];
const NO_UNITS: readonly RateUnit[] = [];

/**
 * Units of an envelope other than bytes. Replies count only as bytes, because this side requested
 * them.
 */
function unitsOf(kind: Envelope["kind"]): readonly RateUnit[] {
  switch (kind) {
    case "publish":
      return PUBLICATION;
    case "subscribe":
    case "unsubscribe":
      return SUBSCRIPTION;
    case "reply":
    case "part":
    case "end":
    case "more":
    case "cancel":
    case "pong":
    case "ack":
    case "bounds":
      return NO_UNITS;
    default:
      return MESSAGE;
  }
}

/**
 * Recognizes envelopes that end something. They are always handled, because ending costs less than
 * continuing.
 */
function isEnding(kind: Envelope["kind"]): boolean {
  return kind === "unsubscribe" || unitsOf(kind) === NO_UNITS;
}

/** Kind of an envelope. A server without services reads service envelopes only up to their kind. */
function meteredKind(envelope: Envelope): Envelope["kind"] {
  return envelope.kind === "service" ? envelope.service : envelope.kind;
}
