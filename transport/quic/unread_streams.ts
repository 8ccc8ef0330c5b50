/** The limits for unread streams of peers. */
import { CloseCode, type LimitLevel, StreamError } from "../../errors.ts";
import { Deadlines } from "../../base/deadlines.ts";
import type { Runtime } from "../../base/runtime.ts";
import { type Owner, socketOwner } from "../../base/owners.ts";
import { type Place, type Quota, quotaIn, type Quotas, sharesOf } from "../../base/shares.ts";

/**
 * The bytes of one unread stream that the runtime may hold: the stream window of quinn, Deno's
 * QUIC, 12.5 MB/s for 100 ms (`STREAM_RWND` of `TransportConfig`). No option of
 * `Deno.QuicTransportOptions` changes it.
 */
export const STREAM_WINDOW_BYTES = 1_250_000;

/** The default time for the application to take a stream. */
const DEFAULT_TIMEOUT_MS = 5_000;

/** The default memory for unread streams: 512 windows, affordable for a server with 1 GB. */
const DEFAULT_MAX_BYTES = 512 * STREAM_WINDOW_BYTES;

/** The number of addresses that together use up all of the memory. */
const ADDRESSES = 8;

/**
 * The share of an address's limit that one connection may use, so that others from the same address
 * are not blocked.
 */
const SHARE_OF_CONNECTION = 0.75;

/**
 * The limits for unread streams over QUIC: streams that the application has not taken, and taken
 * streams of which no data was read although the peer sent more than 16 KiB. Each counts as the
 * 1.25 MB that the runtime may hold. A stream that is read in the turn in which it arrives does not
 * count.
 *
 * Beyond a limit the newest stream is rejected. On Deno's QUIC, the peer of a rejected stream sees
 * a normal end, and a STOP_SENDING with code 0.
 */
export interface UnreadStreamLimits {
  /**
   * The time for the application to take a stream, in milliseconds; then the stream is rejected.
   * `Infinity` disables the limit.
   *
   * @default {5000}
   */
  readonly timeoutMs?: number | undefined;
  /**
   * The bytes of all connections; the default is 512 streams. `Infinity` disables the limit.
   *
   * @default {640000000}
   */
  readonly maxBytes?: number | undefined;
  /**
   * The bytes of the connections of one network address; an IPv6 /64 counts as one. The default is
   * an eighth of `maxBytes`, 64 streams. It applies while half of `maxBytes` or more are in use,
   * and not to a loopback or private address, which is probably a proxy. A number that you set
   * always applies.
   */
  readonly maxBytesPerAddress?: number | undefined;
  /**
   * The bytes of one connection; this limit always applies. The default is three quarters of
   * `maxBytesPerAddress`, 48 streams.
   */
  readonly maxBytesPerConnection?: number | undefined;
}

export interface UnreadStreamStats {
  /** Streams that currently count as unread. */
  readonly count: number;
  /** The bytes that the runtime may hold for these streams. */
  readonly bytes: number;
  /** Streams rejected so far, by reason. */
  readonly refused: Readonly<
    Record<("timeout" | "session" | "connection" | "address" | "server"), number>
  >;
}

/**
 * The reason of a rejection: not taken by the application in time (`timeout`), 16 untaken streams
 * in the session (`session`), or a limit in bytes (the others).
 */
type UnreadRefusal = keyof UnreadStreamStats["refused"];

/** The reason of a rejection by level; the quota's session is the connection. */
const REASONS: Readonly<Record<LimitLevel, UnreadRefusal>> = {
  session: "connection",
  user: "connection",
  address: "address",
  server: "server",
};

/** A stream that waits for the application. */
export interface UnreadStream {
  /** Ends the stream. MUST NOT throw. */
  refuse(error: Error): void;
}

/**
 * The counters of a server's unread streams. Listeners accept an instance in place of limits,
 * because its fields are the limits; several listeners then count together.
 */
export class UnreadStreams implements Required<UnreadStreamLimits> {
  /** The time for the application to take a stream, in milliseconds. */
  readonly timeoutMs: number;
  /** The bytes of all connections. */
  readonly maxBytes: number;
  /** The bytes of the connections of one network address. */
  readonly maxBytesPerAddress: number;
  /** The bytes of one connection. */
  readonly maxBytesPerConnection: number;

  readonly #places: Quota;
  readonly #refused = { timeout: 0, session: 0 };
  #connections = 0;

  /**
   * Creates counters at zero.
   *
   * @param limits The limits; the defaults apply to missing ones.
   * @param quotas All quotas of the server, if there is one.
   * @throws {RangeError} If a limit is neither `Infinity` nor in range.
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
    this.#places = quotaIn(quotas, {
      limit: "unreadStreams.maxBytes",
      name: "unreadStreams",
      verb: "leave stream unread",
      what: "unread streams",
      max: streamsIn(maxBytes),
      // The share of a connection always applies.
      ...sharesOf(
        { session: streamsIn(maxBytesPerConnection), ...(isSet && ofAddress) },
        ofAddress,
      ),
    });
  }

  /**
   * Converts the option of a listener.
   *
   * @param quotas All quotas of the server, if there is one.
   * @throws {RangeError} If a limit is neither `Infinity` nor in range.
   */
  static of(limits: UnreadStreamLimits = {}, quotas?: Quotas): UnreadStreams {
    return limits instanceof UnreadStreams ? limits : new UnreadStreams(limits, quotas);
  }

  /** Current counters. */
  get stats(): UnreadStreamStats {
    const { taken: count, refused: { session: connection, address, server } } = this.#places.stats;
    const bytes = count * STREAM_WINDOW_BYTES;
    return { count, bytes, refused: { ...this.#refused, connection, address, server } };
  }

  /** Creates the owner of the streams of another connection. */
  ownerAt(address: string): Owner {
    return socketOwner(address, `${++this.#connections}`);
  }

  /**
   * Counts a stream of a connection, if within the limits.
   *
   * @param owner The connection.
   * @returns The slot of the stream, or the error of a rejection.
   */
  take(owner: Owner): Place | StreamError {
    const place = this.#places.tryTake(owner);
    return typeof place === "string" ? this.#errorOf(REASONS[place]) : place;
  }

  /**
   * Counts a rejection and creates the error.
   *
   * @returns The error, with the close code of the rejection.
   */
  refused(reason: "timeout" | "session"): StreamError {
    this.#refused[reason]++;
    return this.#errorOf(reason);
  }

  #errorOf(reason: UnreadRefusal): StreamError {
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

/** Unread streams of one connection. */
export class UnreadShare {
  readonly #runtime: Runtime;
  readonly #all: UnreadStreams;
  readonly #owner: Owner;
  readonly #places: Place[] = [];
  #deadlines: Deadlines<UnreadStream> | undefined = undefined;
  #isOver = false;

  constructor(runtime: Runtime, all: UnreadStreams, address: string) {
    this.#runtime = runtime;
    this.#all = all;
    this.#owner = all.ownerAt(address);
  }

  /**
   * Counts a stream; each counted stream is released once.
   *
   * @returns The error of a rejection; `undefined` if the stream was counted.
   */
  take(): StreamError | undefined {
    if (this.#isOver) return undefined;
    const place = this.#all.take(this.#owner);
    if (place instanceof StreamError) return place;
    this.#places.push(place);
    return undefined;
  }

  /** Removes a stream from the counters. */
  release(): void {
    this.#places.pop()?.[Symbol.dispose]();
  }

  /** Rejects a stream unless the application takes it in time. */
  expect(stream: UnreadStream): void {
    const { timeoutMs } = this.#all;
    if (this.#isOver || timeoutMs === Infinity) return;
    this.#deadlines ??= new Deadlines(
      this.#runtime,
      timeoutMs,
      (late) => late.refuse(this.#all.refused("timeout")),
    );
    this.#deadlines.add(stream);
  }

  /** Cancels the timeout of a stream that was taken or has ended. */
  taken(stream: UnreadStream): void {
    this.#deadlines?.delete(stream);
  }

  /** Counts a rejection because of too many waiting streams in the session. */
  refused(): StreamError {
    return this.#all.refused("session");
  }

  /**
   * Removes all streams of the connection from the counters, when the connection ends. Idempotent.
   */
  end(): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#deadlines?.clear();
    for (const place of this.#places.splice(0)) place[Symbol.dispose]();
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
