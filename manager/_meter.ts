/**
 * Counts what the peer of one session sends, and refuses what is too much.
 *
 * @module
 */
import { CloseCode, type RequestFailure } from "../errors.ts";
import type { Envelope } from "../session/wire/envelope.ts";
import { isInTurn, type ServerMeter } from "../session/serving/server_inbound.ts";
import { coreOf, type Session } from "../session/session.ts";
import { MAX_TIMER_MS } from "../session/base/wait.ts";
import type { Account, RateScope, RateUnit } from "./_accounts.ts";

/** Refusals are counted anew after so many milliseconds. */
export const REFUSAL_WINDOW_MS = 10_000;

/** What asked for no answer is told of at most once in so many milliseconds, with a count. */
const NOTICE_INTERVAL_MS = 1_000;

/** Who waits for tokens looks again after so many milliseconds at the soonest. */
const MIN_WAIT_MS = 10;

/** Which bucket has too little. */
interface Shortage {
  readonly account: Account;
  readonly unit: RateUnit;
  readonly waitMs: number;
}

/** What a peer is told of what was refused. */
interface Refusal extends RequestFailure {
  /** When there will be room again, in milliseconds. */
  readonly retryAfterMs: number;
}

/** What all meters of a server have in common. */
export interface MeterHost {
  /** Refusals of one session within a window before it is closed. */
  readonly maxRefusals: number;
  /** Counts a refusal, and says which rate it was, for the peer. */
  refused(scope: RateScope, unit: RateUnit): string;
  /** Counts a session that is closed. */
  closed(): void;
  /** The session is not metered any more. */
  released(meter: SessionMeter): void;
}

/** The meter of one session. Disposed of, it counts no more. */
export class SessionMeter implements ServerMeter, Disposable {
  /** The user whose account is held. */
  readonly user: string | undefined;
  /** The address whose account is held. */
  readonly address: string | undefined;
  readonly #session: Session;
  readonly #host: MeterHost;
  /** Those of the session, the user and the address: the first that has not enough refuses. */
  readonly #accounts: readonly Account[];
  /** Units that some account counts; all others pass at once. */
  readonly #counted: Readonly<Record<"messages" | "subscriptions" | "bytes", boolean>>;
  #windowAt = 0;
  #refusals = 0;
  #untold = 0;
  /** Why the last of them was refused, and when there will be room. */
  #why = { rate: "", retryAfterMs: 0 };
  /** Ends the waits for tokens; as many as the session handles at once. */
  readonly #waits = new Set<() => void>();
  #isOver = false;
  #timer: ReturnType<typeof setTimeout> | undefined;

  /** Begins to count. */
  constructor(
    session: Session,
    accounts: readonly Account[],
    who: { readonly user: string | undefined; readonly address: string | undefined },
    host: MeterHost,
  ) {
    this.user = who.user;
    this.address = who.address;
    this.#session = session;
    this.#accounts = accounts;
    this.#counted = {
      messages: accounts.some(({ messages }) => messages !== undefined),
      subscriptions: accounts.some(({ subscriptions }) => subscriptions !== undefined),
      bytes: accounts.some(({ bytes }) => bytes !== undefined),
    };
    this.#host = host;
    coreOf(session).inbound.meter = this;
  }

  /** See {@linkcode ServerMeter}. */
  refuses(envelope: Envelope, size: number): boolean {
    // What cannot be read has a bound of its own, which is much lower; what has a turn waits in it.
    if (envelope.kind === "malformed" || isInTurn(envelope)) return false;
    const unit = unitOf(envelope);
    if (!this.#counted.bytes && (unit === undefined || !this.#counted[unit])) return false;
    const now = Date.now();
    const shortage = this.#missing(unit, size, now);
    if (shortage !== undefined) return this.#refuse(envelope, shortage, now);
    this.#take(unit, size, now);
    return false;
  }

  /** See {@linkcode ServerMeter}. */
  async admit(size: number): Promise<void> {
    while (!this.#isOver) {
      const now = Date.now();
      const shortage = this.#missing("messages", size, now);
      if (shortage === undefined) return this.#take("messages", size, now);
      await this.#wait(shortage.waitMs);
    }
  }

  /** Ends with the session. Idempotent. */
  [Symbol.dispose](): void {
    if (this.#isOver) return;
    this.#isOver = true;
    coreOf(this.#session).inbound.meter = undefined;
    clearTimeout(this.#timer);
    for (const end of this.#waits) end();
    this.#host.released(this);
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
    return new Promise((resolve) => {
      const end = () => {
        clearTimeout(timer);
        this.#waits.delete(end);
        resolve();
      };
      const timer = setTimeout(end, Math.min(Math.max(waitMs, MIN_WAIT_MS), MAX_TIMER_MS));
      this.#waits.add(end);
    });
  }

  #refuse(envelope: Envelope, shortage: Shortage, now: number): boolean {
    const { account, unit, waitMs } = shortage;
    const { maxRefusals } = this.#host;
    const rate = this.#host.refused(account.scope, unit);
    // A clock that was set back begins a window, too.
    if (Math.abs(now - this.#windowAt) > REFUSAL_WINDOW_MS) {
      this.#windowAt = now;
      this.#refusals = 0;
    }
    if (++this.#refusals > maxRefusals) {
      this.#host.closed();
      const reason = `More than ${maxRefusals} refusals in ${REFUSAL_WINDOW_MS / 1_000} s: ${rate}`;
      coreOf(this.#session).abort(CloseCode.tooMany, reason);
      return true;
    }
    if (isEnding(envelope)) return false;
    const id = "id" in envelope ? envelope.id ?? undefined : undefined;
    if (id === undefined) this.#note(rate, waitMs);
    else this.#tell(id, { code: "too-many", message: `Refused: ${rate}`, retryAfterMs: waitMs });
    return true;
  }

  /** Tells what asked for no answer at once, or together with others a moment later. */
  #note(rate: string, retryAfterMs: number): void {
    this.#untold++;
    this.#why = { rate, retryAfterMs };
    if (this.#timer !== undefined) return;
    const tell = () => {
      const count = this.#untold;
      this.#untold = 0;
      this.#timer = count === 0 ? undefined : setTimeout(tell, NOTICE_INTERVAL_MS);
      if (count === 0) return;
      const { rate, retryAfterMs } = this.#why;
      this.#tell(null, { code: "too-many", message: `${count} refused: ${rate}`, retryAfterMs });
    };
    tell();
  }

  #tell(id: number | null, error: Refusal): void {
    coreOf(this.#session).post({ reply: id, error });
  }
}

/** What an envelope counts as, beside its bytes; answers and the like were asked for. */
function unitOf(envelope: Envelope): "messages" | "subscriptions" | undefined {
  switch (kindOf(envelope)) {
    case "subscribe":
    case "unsubscribe":
      return "subscriptions";
    case "reply":
    case "cancel":
    case "pong":
    case "ack":
      return undefined;
    default:
      return "messages";
  }
}

/** What ends something is done in any case: it costs less than what it ends. */
function isEnding(envelope: Envelope): boolean {
  return kindOf(envelope) === "unsubscribe" || unitOf(envelope) === undefined;
}

/** A server without services reads no more of what it is asked for than its kind. */
function kindOf(envelope: Envelope): Envelope["kind"] {
  return envelope.kind === "service" ? envelope.service : envelope.kind;
}
