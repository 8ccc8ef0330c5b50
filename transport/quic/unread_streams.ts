/**
 * Bounds of the streams that peers opened and that this end does not read.
 *
 * @module
 */
import { CloseCode, StreamError } from "../../errors.ts";
import { Deadlines } from "../deadlines.ts";

/**
 * Bytes of one stream that the runtime holds while this end does not read it: the window of quinn,
 * Deno's QUIC, which is 12.5 MB/s for 100 ms (`STREAM_RWND` of its `TransportConfig`). No option of
 * `Deno.QuicTransportOptions` changes it.
 */
export const STREAM_WINDOW_BYTES = 1_250_000;

/** How long the application may take to take a stream, unless it is said. */
const DEFAULT_TIMEOUT_MS = 5_000;

/** Memory for unread streams, unless it is said: 512 windows, which a server of 1 GB can spare. */
const DEFAULT_MAX_BYTES = 512 * STREAM_WINDOW_BYTES;

/** Addresses that have to act together to use up all of it. */
const ADDRESSES = 8;

/** What one connection may take of the share of its address: others of an office find room. */
const SHARE_OF_CONNECTION = 0.75;

/**
 * Bounds of unread streams over QUIC: those that the application did not take yet, and those of
 * which it took nothing and the peer sent more than 16 KiB. Each counts as the 1.25 MB that the
 * runtime may hold of it. A stream that is read within the turn in which it came does not count.
 *
 * Beyond a bound the newest stream is refused. On Deno's QUIC a refusal looks to the peer like a
 * stream that ended well, and that this end stopped reading with code 0.
 */
export interface UnreadStreamLimits {
  /**
   * How long a stream may wait for the application to take it, in milliseconds; then it is refused.
   * `Infinity` is no limit.
   *
   * @default {5000}
   */
  readonly timeoutMs?: number;
  /**
   * Bytes of all connections: 512 streams by default. `Infinity` is no limit.
   *
   * @default {640000000}
   */
  readonly maxBytes?: number;
  /**
   * Bytes of the connections of one network address, where an IPv6 /64 counts as one. By default an
   * eighth of `maxBytes`, which is 64 streams.
   */
  readonly maxBytesPerAddress?: number;
  /**
   * Bytes of one connection. By default three quarters of `maxBytesPerAddress`, which is 48 streams.
   */
  readonly maxBytesPerConnection?: number;
}

/**
 * Why a stream was refused: the application did not take it in time (`timeout`), 16 of its session
 * waited and the application read none (`session`), or a bound of bytes was reached.
 */
export type UnreadRefusal = "timeout" | "session" | "connection" | "address" | "server";

/** Counters of unread streams. */
export interface UnreadStreamStats {
  /** Streams now that count as unread. */
  readonly count: number;
  /** Bytes that the runtime may hold of them. */
  readonly bytes: number;
  /** Streams that were refused so far, by reason. */
  readonly refused: Readonly<Record<UnreadRefusal, number>>;
}

/** A stream that waits for the application. */
export interface UnreadStream {
  /**
   * Ends it. MUST NOT throw.
   *
   * @param error Why.
   */
  refuse(error: Error): void;
}

/**
 * Counts the unread streams of a server. Its fields are the limits, so that it can be handed to a
 * listener in place of them: then several listeners count together.
 */
export class UnreadStreams implements Required<UnreadStreamLimits> {
  /** See {@linkcode UnreadStreamLimits.timeoutMs}. */
  readonly timeoutMs: number;
  /** See {@linkcode UnreadStreamLimits.maxBytes}. */
  readonly maxBytes: number;
  /** See {@linkcode UnreadStreamLimits.maxBytesPerAddress}. */
  readonly maxBytesPerAddress: number;
  /** See {@linkcode UnreadStreamLimits.maxBytesPerConnection}. */
  readonly maxBytesPerConnection: number;

  // Bounded by `maxBytes`, and by the connections where that is no limit.
  readonly #perAddress = new Map<string, number>();
  readonly #refused: Record<UnreadRefusal, number> = {
    timeout: 0,
    session: 0,
    connection: 0,
    address: 0,
    server: 0,
  };
  #count = 0;

  /**
   * Creates counters of no streams.
   *
   * @param limits See {@linkcode UnreadStreamLimits}.
   * @throws {RangeError} If one is neither `Infinity` nor in its range.
   */
  constructor(limits: UnreadStreamLimits = {}) {
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
  }

  /**
   * Reads the limits of a listener.
   *
   * @param limits Limits, or counters that exist already.
   * @returns The counters.
   * @throws {RangeError} If a limit is neither `Infinity` nor in its range.
   */
  static of(limits: UnreadStreamLimits = {}): UnreadStreams {
    return limits instanceof UnreadStreams ? limits : new UnreadStreams(limits);
  }

  /** The counters now. */
  get stats(): UnreadStreamStats {
    const bytes = this.#count * STREAM_WINDOW_BYTES;
    return { count: this.#count, bytes, refused: { ...this.#refused } };
  }

  /**
   * Counts a stream of a connection, if it fits.
   *
   * @param address The key of its address.
   * @param count How many the connection has already.
   * @returns Why it does not fit; `undefined` if it does, and is counted.
   */
  take(address: string, count: number): UnreadRefusal | undefined {
    const ofAddress = this.#perAddress.get(address) ?? 0;
    const fits = (had: number, maxBytes: number) => (had + 1) * STREAM_WINDOW_BYTES <= maxBytes;
    if (!fits(count, this.maxBytesPerConnection)) return "connection";
    if (!fits(ofAddress, this.maxBytesPerAddress)) return "address";
    if (!fits(this.#count, this.maxBytes)) return "server";
    this.#perAddress.set(address, ofAddress + 1);
    this.#count++;
    return undefined;
  }

  /**
   * Counts streams no more.
   *
   * @param address The key of their address.
   * @param count How many.
   */
  release(address: string, count: number): void {
    this.#count -= count;
    const left = this.#perAddress.get(address)! - count;
    if (left === 0) this.#perAddress.delete(address);
    else this.#perAddress.set(address, left);
  }

  /**
   * Counts a refusal, and makes the error for this end.
   *
   * @param reason Why.
   * @returns The error, with the code of the refusal.
   */
  refused(reason: UnreadRefusal): StreamError {
    this.#refused[reason]++;
    const why = {
      timeout: () => `the application must take it within ${this.timeoutMs} ms`,
      session: () => "too many streams of its session wait to be taken",
      connection: () => beyond("a connection", this.maxBytesPerConnection),
      address: () => beyond("an address", this.maxBytesPerAddress),
      server: () => beyond("the server", this.maxBytes),
    }[reason]();
    const streamErrorCode = reason === "timeout" ? CloseCode.timedOut : CloseCode.tooMany;
    return new StreamError(`The stream was refused: ${why}`, { streamErrorCode, by: "local" });
  }
}

/** The unread streams of one connection. */
export class UnreadShare {
  readonly #all: UnreadStreams;
  readonly #address: string;
  #deadlines: Deadlines<UnreadStream> | undefined = undefined;
  #count = 0;
  #isOver = false;

  /**
   * Creates the share of a connection that has no stream yet.
   *
   * @param all Counts those of all connections.
   * @param address The key of the connection's address.
   */
  constructor(all: UnreadStreams, address: string) {
    this.#all = all;
    this.#address = address;
  }

  /**
   * Counts a stream; each that was counted is released once.
   *
   * @returns Why it has to be refused, in place of being counted.
   */
  take(): StreamError | undefined {
    if (this.#isOver) return undefined;
    const reason = this.#all.take(this.#address, this.#count);
    if (reason !== undefined) return this.#all.refused(reason);
    this.#count++;
    return undefined;
  }

  /** Counts a stream no more. */
  release(): void {
    if (this.#isOver) return;
    this.#count--;
    this.#all.release(this.#address, 1);
  }

  /**
   * Refuses a stream that the application does not take in time.
   *
   * @param stream The stream.
   */
  expect(stream: UnreadStream): void {
    const { timeoutMs } = this.#all;
    if (this.#isOver || timeoutMs === Infinity) return;
    this.#deadlines ??= new Deadlines(
      timeoutMs,
      (late) => late.refuse(this.#all.refused("timeout")),
    );
    this.#deadlines.add(stream);
  }

  /**
   * Lets a stream take its time: the application has it, or it is over.
   *
   * @param stream The stream.
   */
  taken(stream: UnreadStream): void {
    this.#deadlines?.delete(stream);
  }

  /**
   * Counts a stream that is refused as too many of its session wait.
   *
   * @returns The error for this end.
   */
  refused(): StreamError {
    return this.#all.refused("session");
  }

  /** Counts none of its streams any more: the connection is over. Idempotent. */
  end(): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#deadlines?.clear();
    if (this.#count > 0) this.#all.release(this.#address, this.#count);
  }
}

function atLeastOne(bytes: number): number {
  return Math.max(STREAM_WINDOW_BYTES, Math.floor(bytes));
}

function checkLimit(name: string, value: number, least: number): void {
  if (value === Infinity || Number.isSafeInteger(value) && value >= least) return;
  throw new RangeError(
    `Cannot bound unread streams: ${name} must be an integer from ${least}, or Infinity, received ${value}`,
  );
}

function beyond(what: string, maxBytes: number): string {
  return `unread streams of ${what} may take ${maxBytes} bytes, and each takes ${STREAM_WINDOW_BYTES}`;
}
