/** The limits on a peer's unread streams. */
import { CloseCode, type LimitLevel, StreamError } from "../../errors.ts";
import { Deadlines } from "../../base/deadlines.ts";
import type { Runtime } from "../../base/runtime.ts";
import { type Account, socketAccount } from "../../base/quotas/accounts.ts";
import { type Quota, quotaIn, type Quotas, sharesOf, type Slot } from "../../base/quotas/shares.ts";

/**
 * The number of bytes that the runtime may hold for one unread stream. This is the stream window of
 * quinn, Deno's QUIC implementation: 12.5 MB/s for 100 ms (`STREAM_RWND` of `TransportConfig`). No
 * option of `Deno.QuicTransportOptions` changes it.
 */
export const STREAM_WINDOW_BYTES = 1_250_000;

/** The default time that a stream can wait for the application to take it, in milliseconds. */
const DEFAULT_TIMEOUT_MS = 5_000;

/**
 * The default memory for unread streams, which is 512 windows. A server with 1 GB of memory can
 * afford it.
 */
const DEFAULT_MAX_BYTES = 512 * STREAM_WINDOW_BYTES;

/** The number of addresses that can use up all of the memory together. */
const ADDRESSES = 8;

/**
 * The share of an address's limit that one connection can use, so that it does not block other
 * connections from the same address.
 */
const SHARE_OF_CONNECTION = 0.75;

/**
 * The limits on unread streams over QUIC. A stream is unread if your application has not taken it,
 * or has taken it but not read any data although the peer sent more than 16 KiB. Each unread stream
 * counts as 1.25 MB, which the runtime may hold for it. A stream that you read in the turn of the
 * event loop in which it arrives does not count.
 *
 * If a limit is exceeded, the newest stream is rejected. With Deno's QUIC, the peer sees a rejected
 * stream end normally, and receives a STOP_SENDING with code 0.
 */
export interface UnreadStreamLimits {
  /**
   * Time that a stream can wait for the application to take it, in milliseconds; then it is
   * rejected. `Infinity` disables the limit.
   *
   * @default {5000}
   */
  readonly timeoutMs?: number | undefined;
  /**
   * The maximum number of bytes for all connections. The default corresponds to 512 streams.
   * `Infinity` disables the limit.
   *
   * @default {640000000}
   */
  readonly maxBytes?: number | undefined;
  /**
   * The maximum number of bytes for the connections from one network address.
   *
   * An IPv6 /64 network counts as one address. The default corresponds to 64 streams. It applies
   * only while half of `maxBytes` or more are in use, and never to a loopback or private address,
   * which is probably a proxy. A number that you set always applies.
   *
   * @default {an eighth of `maxBytes`, in contention}
   */
  readonly maxBytesPerAddress?: number | undefined;
  /**
   * The maximum number of bytes for one connection. This limit always applies.
   *
   * The default corresponds to 48 streams.
   *
   * @default {three quarters of `maxBytesPerAddress`}
   */
  readonly maxBytesPerConnection?: number | undefined;
}

export interface UnreadStreamStats {
  /** The number of streams that currently count as unread. */
  readonly count: number;
  /** The number of bytes that the runtime may hold for these streams. */
  readonly bytes: number;
  /** The number of streams rejected so far, by reason. */
  readonly rejected: Readonly<
    Record<("timeout" | "session" | "connection" | "address" | "server"), number>
  >;
}

/**
 * The reason for a rejection. With `timeout`, the application did not take the stream in time. With
 * `session`, 16 streams of the session were already waiting. The other reasons are limits in bytes.
 */
type UnreadRejection = keyof UnreadStreamStats["rejected"];

/**
 * The reason for a rejection by the level of the limit. The connection is the session of the quota.
 */
const REASONS: Readonly<Record<LimitLevel, UnreadRejection>> = {
  session: "connection",
  user: "connection",
  address: "address",
  server: "server",
};

/** A stream that waits for the application to take it. */
export interface UnreadStream {
  /** Ends the stream. MUST NOT throw. */
  reject(error: Error): void;
}

/**
 * The counters of a server's unread streams. Listeners accept an instance in place of limits,
 * because its fields are the limits. Several listeners can share one instance, so that the limits
 * apply to all of them together.
 */
export class UnreadStreams implements Required<UnreadStreamLimits> {
  /** How long a stream can wait for the application to take it, in milliseconds. */
  readonly timeoutMs: number;
  /** The maximum number of bytes for all connections. */
  readonly maxBytes: number;
  /** The maximum number of bytes for the connections from one network address. */
  readonly maxBytesPerAddress: number;
  /** The maximum number of bytes for one connection. */
  readonly maxBytesPerConnection: number;

  readonly #slots: Quota;
  readonly #rejected = { timeout: 0, session: 0 };
  #connections = 0;

  /**
   * Creates counters that are all zero.
   *
   * @param limits The limits. A missing limit has its default value.
   * @param quotas The server's quotas, if the streams belong to a server.
   * @throws {RangeError} If a limit is neither `Infinity` nor within its range.
   */
  constructor(limits: UnreadStreamLimits = {}, quotas?: Quotas) {
    const { timeoutMs = DEFAULT_TIMEOUT_MS, maxBytes = DEFAULT_MAX_BYTES } = limits;
    const { maxBytesPerAddress = atLeastOne(maxBytes / ADDRESSES) } = limits;
    const { maxBytesPerConnection = atLeastOne(maxBytesPerAddress * SHARE_OF_CONNECTION) } = limits;
    checkLimit("timeoutMs", timeoutMs, 1);
    for (
      const [name, value] of Object.entries({ maxBytes, maxBytesPerAddress, maxBytesPerConnection })
    ) {
      checkLimit(name, value, STREAM_WINDOW_BYTES);
    }
    this.timeoutMs = timeoutMs;
    this.maxBytes = maxBytes;
    this.maxBytesPerAddress = maxBytesPerAddress;
    this.maxBytesPerConnection = maxBytesPerConnection;
    const isSet = limits.maxBytesPerAddress !== undefined;
    const ofAddress = { address: streamsIn(maxBytesPerAddress) };
    this.#slots = quotaIn(quotas, {
      limit: "unreadStreams.maxBytes",
      name: "unreadStreams",
      verb: "leave stream unread",
      what: "unread streams",
      max: streamsIn(maxBytes),
      // The limit per connection always applies.
      ...sharesOf(
        { session: streamsIn(maxBytesPerConnection), ...(isSet && ofAddress) },
        ofAddress,
      ),
    });
  }

  /**
   * Converts a listener's option to counters.
   *
   * @param quotas The server's quotas, if the streams belong to a server.
   * @throws {RangeError} If a limit is neither `Infinity` nor within its range.
   */
  static of(limits: UnreadStreamLimits = {}, quotas?: Quotas): UnreadStreams {
    return limits instanceof UnreadStreams ? limits : new UnreadStreams(limits, quotas);
  }

  /** The current counters. */
  get stats(): UnreadStreamStats {
    const { taken: count, rejected: { session: connection, address, server } } = this.#slots.stats;
    const bytes = count * STREAM_WINDOW_BYTES;
    return { count, bytes, rejected: { ...this.#rejected, connection, address, server } };
  }

  /** Creates the account for the streams of another connection. */
  accountAt(address: string): Account {
    return socketAccount(address, `${++this.#connections}`);
  }

  /**
   * Counts a stream of a connection, if the limits allow it.
   *
   * @param account The account that identifies the connection.
   * @returns The slot of the stream, or an error if the stream is rejected.
   */
  take(account: Account): Slot | StreamError {
    const slot = this.#slots.tryTake(account);
    return typeof slot === "string" ? this.#errorOf(REASONS[slot]) : slot;
  }

  /**
   * Counts a rejection and creates the error.
   *
   * @returns The error, which has the close code of the rejection.
   */
  rejected(reason: "timeout" | "session"): StreamError {
    this.#rejected[reason]++;
    return this.#errorOf(reason);
  }

  #errorOf(reason: UnreadRejection): StreamError {
    const why = {
      timeout: () => `the application must take it within ${this.timeoutMs} ms`,
      session: () => "too many streams of its session are waiting",
      connection: () => beyond("a connection", this.maxBytesPerConnection),
      address: () => beyond("an address", this.maxBytesPerAddress),
      server: () => beyond("the server", this.maxBytes),
    }[reason]();
    const streamErrorCode = reason === "timeout" ? CloseCode.timedOut : CloseCode.tooMany;
    return new StreamError(`The stream was rejected: ${why}`, { streamErrorCode, by: "local" });
  }
}

/** The unread streams of one connection. */
export class UnreadShare {
  readonly #runtime: Runtime;
  readonly #all: UnreadStreams;
  readonly #account: Account;
  readonly #slots: Slot[] = [];
  #deadlines: Deadlines<UnreadStream> | undefined = undefined;
  #isOver = false;

  constructor(runtime: Runtime, all: UnreadStreams, address: string) {
    this.#runtime = runtime;
    this.#all = all;
    this.#account = all.accountAt(address);
  }

  /**
   * Counts a stream. Each counted stream must be released once.
   *
   * @returns An error if the stream is rejected; `undefined` if it was counted.
   */
  take(): StreamError | undefined {
    if (this.#isOver) return undefined;
    const slot = this.#all.take(this.#account);
    if (slot instanceof StreamError) return slot;
    this.#slots.push(slot);
    return undefined;
  }

  /** Removes a stream from the counters. */
  release(): void {
    this.#slots.pop()?.[Symbol.dispose]();
  }

  /** Starts the timeout after which a stream is rejected if the application has not taken it. */
  expect(stream: UnreadStream): void {
    const { timeoutMs } = this.#all;
    if (this.#isOver || timeoutMs === Infinity) return;
    this.#deadlines ??= new Deadlines(
      this.#runtime,
      timeoutMs,
      (late) => late.reject(this.#all.rejected("timeout")),
    );
    this.#deadlines.add(stream);
  }

  /** Cancels the timeout of a stream that was taken or has ended. */
  taken(stream: UnreadStream): void {
    this.#deadlines?.delete(stream);
  }

  /** Counts a rejection for the reason that too many streams of the session wait. */
  rejected(): StreamError {
    return this.#all.rejected("session");
  }

  /**
   * Removes all streams of the connection from the counters when the connection ends. Further calls
   * have no effect.
   */
  end(): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#deadlines?.clear();
    for (const slot of this.#slots.splice(0)) slot[Symbol.dispose]();
  }
}

function atLeastOne(bytes: number): number {
  return Math.max(STREAM_WINDOW_BYTES, Math.floor(bytes));
}

function streamsIn(bytes: number): number {
  return Math.floor(bytes / STREAM_WINDOW_BYTES);
}

function checkLimit(name: string, value: number, least: number): void {
  if (value === Infinity || Number.isSafeInteger(value) && value >= least) return;
  throw new RangeError(
    `Cannot bound unread streams: ${name} must be an integer of at least ${least}, or Infinity, received ${value}`,
  );
}

function beyond(what: string, maxBytes: number): string {
  return `unread streams of ${what} may use ${maxBytes} bytes, and each uses ${STREAM_WINDOW_BYTES}`;
}
