/** The meter of one session: counts the peer's messages, and refuses those beyond a rate. */
import { CloseCode, type RequestFailure } from "../errors.ts";
import type { Envelope } from "../session/wire/envelope.ts";
import type { Meter } from "../session/message.ts";
import { internals, type Session } from "../session/session.ts";
import type { Runtime, Timer } from "../base/runtime.ts";
import { MAX_TIMER_MS } from "../base/wait.ts";
import { Account, type Rates, type RateScope, type RateUnit } from "./accounts.ts";

/** Window in which refusals are counted, in milliseconds. */
export const REFUSAL_WINDOW_MS = 10_000;

/** Shortest interval between notices of refused messages without a request id, in milliseconds. */
const NOTICE_INTERVAL_MS = 1_000;

/** Shortest wait for tokens before the next look, in milliseconds. */
const MIN_WAIT_MS = 10;

/** A bucket with too few tokens. */
interface Shortage {
  readonly account: Account;
  readonly unit: RateUnit;
  readonly waitMs: number;
}

/** Error that tells the peer of a refusal. */
interface Refusal extends RequestFailure {
  /** Time until there is room again, in milliseconds. */
  readonly retryAfterMs: number;
}

/** Accounts by which a session is metered. */
interface MeterAccounts {
  /** The user, if its account is held. */
  readonly user: string | undefined;
  /** The network address, if its account is held. */
  readonly address: string | undefined;
  /** Rates of the session alone. */
  readonly own: Rates | undefined;
  /** Accounts of the user and the address. */
  readonly shared: readonly Account[];
}

/** Shared part of all meters of a server. */
export interface MeterHost {
  readonly runtime: Runtime;
  /** Refusals of one session within a window before it is closed. */
  readonly maxRefusals: number;
  /** Counts a refusal, and describes the rate for the peer. */
  refused(scope: RateScope, unit: RateUnit): string;
  /** Counts a session that is closed for its refusals. */
  closed(): void;
  /** Ends the holds of a meter that stopped. */
  released(meter: SessionMeter): void;
}

/** The meter of one session. Disposal stops the counting. */
export class SessionMeter implements Meter, Disposable {
  /** The user whose account is held. */
  readonly user: string | undefined;
  /** The address whose account is held. */
  readonly address: string | undefined;
  readonly #session: Session;
  readonly #host: MeterHost;
  /**
   * The accounts of the session, the user and the address: the first without enough tokens refuses.
   */
  #accounts: readonly Account[];
  /** Rates of the session until a message counts by these: few sessions need the account at all. */
  #own: Rates | undefined;
  #windowAt = 0;
  #refusals = 0;
  #untold = 0;
  /** The rate of the last refusal, and the time until there is room. */
  #why: { readonly rate: string; readonly retryAfterMs: number } | undefined = undefined;
  /** Callbacks that end waits for tokens, once one waits; as many as the session handles at once. */
  #waits: Set<() => void> | undefined = undefined;
  #isOver = false;
  #timer: Timer | undefined;

  /** Starts to count. */
  constructor(
    session: Session,
    { user, address, own, shared }: MeterAccounts,
    host: MeterHost,
  ) {
    this.user = user;
    this.address = address;
    this.#session = session;
    this.#accounts = shared;
    this.#own = own;
    this.#host = host;
    session[internals].inbound.meter = this;
  }

  refuses(envelope: Envelope, size: number): boolean {
    // Malformed input has its own, much lower bound.
    if (envelope.kind === "malformed") return false;
    const unit = unitOf(envelope);
    if (!this.#counts(unit)) return false;
    const now = this.#host.runtime.now();
    this.#addOwn(now);
    const shortage = this.#missing(unit, size, now);
    if (shortage !== undefined) return this.#refuse(envelope, shortage, now);
    this.#take(unit, size, now);
    return false;
  }

  async admit(size: number): Promise<void> {
    while (!this.#isOver) {
      const now = this.#host.runtime.now();
      this.#addOwn(now);
      const shortage = this.#missing("messages", size, now);
      if (shortage === undefined) return this.#take("messages", size, now);
      await this.#wait(shortage.waitMs);
    }
  }

  /** Stops counting when the session ends. Idempotent. */
  [Symbol.dispose](): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#session[internals].inbound.meter = undefined;
    this.#host.runtime.clearTimeout(this.#timer);
    this.#waits?.forEach((end) => end());
    this.#host.released(this);
  }

  /** Tells if some account has a rate of bytes or of the unit; all other messages pass at once. */
  #counts(unit: RateUnit | undefined): boolean {
    if (this.#own?.bytes !== undefined || unit && this.#own?.[unit] !== undefined) return true;
    for (const account of this.#accounts) {
      if (account.bytes !== undefined || unit && account[unit] !== undefined) return true;
    }
    return false;
  }

  /** Adds the account of the session, from which nothing was taken yet. */
  #addOwn(now: number): void {
    if (this.#own === undefined) return;
    this.#accounts = [Account.ofSession(this.#own, now), ...this.#accounts];
    this.#own = undefined;
  }

  #missing(unit: RateUnit | undefined, size: number, now: number): Shortage | undefined {
    for (const account of this.#accounts) {
      const waitMs = unit && account[unit]?.waitMs(1, now);
      if (waitMs) return { account, unit, waitMs };
      const bytesWaitMs = account.bytes?.waitMs(size, now);
      if (bytesWaitMs) return { account, unit: "bytes", waitMs: bytesWaitMs };
    }
    return undefined;
  }

  #take(unit: RateUnit | undefined, size: number, now: number): void {
    for (const account of this.#accounts) {
      if (unit) account[unit]?.take(1, now);
      account.bytes?.take(size, now);
    }
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

  #refuse(envelope: Envelope, shortage: Shortage, now: number): boolean {
    const { account, unit, waitMs } = shortage;
    const { maxRefusals } = this.#host;
    const rate = this.#host.refused(account.scope, unit);
    // A clock that was set back begins a new window, too.
    if (Math.abs(now - this.#windowAt) > REFUSAL_WINDOW_MS) {
      this.#windowAt = now;
      this.#refusals = 0;
    }
    if (++this.#refusals > maxRefusals) {
      this.#host.closed();
      const reason = `More than ${maxRefusals} refusals in ${REFUSAL_WINDOW_MS / 1_000} s: ${rate}`;
      this.#session[internals].abort(CloseCode.tooMany, reason);
      return true;
    }
    if (isEnding(envelope)) return false;
    const id = "id" in envelope ? envelope.id ?? undefined : undefined;
    if (id === undefined) this.#note(rate, waitMs);
    else this.#tell(id, { code: "too-many", message: `Refused: ${rate}`, retryAfterMs: waitMs });
    return true;
  }

  /** Reports a refusal without a request id: at once, or later together with others. */
  #note(rate: string, retryAfterMs: number): void {
    this.#untold++;
    this.#why = { rate, retryAfterMs };
    if (this.#timer !== undefined) return;
    const tell = () => {
      const count = this.#untold;
      this.#untold = 0;
      this.#timer = undefined;
      if (count === 0) return;
      this.#timer = this.#host.runtime.setTimeout(tell, NOTICE_INTERVAL_MS);
      const { rate, retryAfterMs } = this.#why!;
      this.#tell(null, { code: "too-many", message: `${count} refused: ${rate}`, retryAfterMs });
    };
    tell();
  }

  #tell(id: number | null, error: Refusal): void {
    this.#session[internals].post({ reply: id, error });
  }
}

/** Unit of an envelope, beside bytes. Answers count as bytes alone, as this end asked for these. */
function unitOf(envelope: Envelope): "messages" | "subscriptions" | undefined {
  switch (kindOf(envelope)) {
    case "subscribe":
    case "unsubscribe":
      return "subscriptions";
    case "reply":
    case "part":
    case "end":
    case "more":
    case "cancel":
    case "pong":
    case "ack":
    case "bounds":
      return undefined;
    default:
      return "messages";
  }
}

/** Recognizes ends, which are always handled: an end costs less than what it ends. */
function isEnding(envelope: Envelope): boolean {
  return kindOf(envelope) === "unsubscribe" || unitOf(envelope) === undefined;
}

/**
 * Kind of an envelope; a server without services reads service envelopes no further than their
 * kind.
 */
function kindOf(envelope: Envelope): Envelope["kind"] {
  return envelope.kind === "service" ? envelope.service : envelope.kind;
}
