/**
 * Typed messages in datagrams.
 *
 * @module
 */
import { SessionClosedError, StructuredError, UnsupportedError } from "../../errors.ts";
import type { DatagramDuplex } from "../../transport/connection.ts";
import {
  checkCodec,
  type CheckingSession,
  DATAGRAM_HEAD_BYTES,
  type DecodeFormat,
  decodeMessage,
  encodeMessage,
  rejection,
  SCHEMA,
  unknownType,
} from "./structured_format.ts";
import { jsonCodec } from "./codec.ts";
import {
  compileRegistry,
  type Registry,
  type StructuredInput,
  type StructuredMessage,
} from "./registry.ts";
import { internals } from "../core.ts";
import type { SessionLike } from "../types.ts";
import type { StructuredDatagramsOptions } from "./structured_options.ts";

/** The default limit of datagrams that wait for a reader. Older datagrams are considered stale. */
const MAX_QUEUED = 256;

/**
 * Maximum number of pending writes on a connection without direct calls. Further datagrams are
 * lost.
 */
const MAX_WAITING_WRITES = 256;

/**
 * Typed messages in datagrams. Each message arrives whole or not at all, and messages may arrive in
 * any order.
 *
 * - **Bounds:** at most `maxQueued` messages wait for the loop. Beyond that, the oldest message is
 *   dropped and counted.
 * - **Errors:** an invalid datagram is counted, reported to `onInvalid`, and skipped.
 * - **Loops:** when a loop ends, waiting messages remain for another loop. A loop ends when the
 *   session closes.
 * - **Disposal** releases the session's datagrams. Waiting messages are lost.
 *
 * @typeParam R The registry.
 */
export interface StructuredDatagrams<R extends Registry>
  extends AsyncIterable<StructuredMessage<R>>, AsyncDisposable {
  /** Current counters. */
  readonly stats: {
    /** Messages passed to the connection. */
    readonly sent: number;
    /** Messages that a loop received. */
    readonly received: number;
    /** Invalid datagrams that a loop read and skipped. */
    readonly skipped: number;
    /** Datagrams lost on this side because too many were waiting to be read or sent. */
    readonly dropped: number;
  };
  /**
   * Sends a message without any guarantee of delivery. The receiver checks the data against the
   * schema; the sender does not.
   *
   * @typeParam T The number of the message.
   * @param type Number of the message in the registry.
   * @param data The data, which is encoded immediately.
   * @returns Resolves immediately, because no connection reports the arrival of a datagram.
   * @throws {RangeError} If the message is larger than the session's `datagrams.maxDatagramSize`.
   * @throws {TypeError} If the registry has no such number, or the codec cannot encode the data.
   * @throws {SessionClosedError} If the session is closed, or this object was disposed.
   */
  send<T extends keyof R & number>(type: T, data: StructuredInput<R, T>): Promise<void>;
}

type StructuredDatagramsStats = StructuredDatagrams<Registry>["stats"];

/** Implements `structuredDatagrams` of a session. */
export function structuredDatagrams<R extends Registry>(
  session: CheckingSession,
  options: StructuredDatagramsOptions<R>,
): StructuredDatagrams<R> {
  const { registry, codec = jsonCodec, maxQueued = MAX_QUEUED, onInvalid } = options;
  const schemas = compileRegistry(registry);
  checkCodec(codec, "structured datagrams");
  if (!Number.isInteger(maxQueued) || maxQueued < 1) {
    const rule = "maxQueued must be a positive integer";
    throw new RangeError(`Cannot create structured datagrams: ${rule}, received ${maxQueued}`);
  }
  const { connection, datagrams } = session;
  if (connection.capabilities.datagrams === "none") {
    throw new UnsupportedError(
      `Cannot create structured datagrams: a ${connection.transport} connection has none; see capabilities`,
    );
  }
  if (datagrams.readable.locked) {
    throw new TypeError(
      "Cannot create structured datagrams: the session's datagrams must have no other reader",
    );
  }
  const inTime = <T>(checked: Promise<T>) => session[internals].inTime(SCHEMA, checked);
  return new MessageDatagrams<R>(session, { schemas, codec, maxQueued, onInvalid, inTime });
}

interface MessageDatagramsSettings extends DecodeFormat {
  readonly maxQueued: number;
  readonly onInvalid: StructuredDatagramsOptions<Registry>["onInvalid"];
}

class MessageDatagrams<R extends Registry> implements StructuredDatagrams<R> {
  readonly #session: SessionLike;
  readonly #datagrams: DatagramDuplex;
  readonly #settings: MessageDatagramsSettings;
  readonly #reader: ReadableStreamDefaultReader<Uint8Array>;
  readonly #queue: Uint8Array[] = [];
  readonly #counts = { sent: 0, received: 0, skipped: 0, dropped: 0 };
  #arrival: PromiseWithResolvers<void> | undefined = undefined;
  #waitingWrites = 0;
  #isIterated = false;
  #isDisposed = false;
  #isOver = false;

  constructor(session: SessionLike, settings: MessageDatagramsSettings) {
    this.#session = session;
    this.#datagrams = session.datagrams;
    this.#settings = settings;
    this.#reader = this.#datagrams.readable.getReader();
    void this.#collect();
  }

  get stats(): StructuredDatagramsStats {
    return { ...this.#counts };
  }

  async send<T extends keyof R & number>(type: T, data: StructuredInput<R, T>): Promise<void> {
    const session = this.#session;
    if (session.isClosed) {
      const info = await session.closed;
      throw new SessionClosedError("Cannot send datagram: the session is closed", { info });
    }
    if (this.#isDisposed) {
      throw new SessionClosedError("Cannot send datagram: the structured datagrams are closed");
    }
    const { schemas, codec } = this.#settings;
    const { maxDatagramSize, direct } = this.#datagrams;
    const bytes = encodeMessage(type, data, {
      ...{ schemas, codec },
      headBytes: DATAGRAM_HEAD_BYTES,
      maxBytes: Math.max(0, maxDatagramSize - DATAGRAM_HEAD_BYTES),
    });
    if (direct !== undefined) direct.send(bytes);
    else if (!this.#write(bytes)) return void this.#counts.dropped++;
    this.#counts.sent++;
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<StructuredMessage<R>, void, undefined> {
    if (this.#isIterated) {
      throw new TypeError("Cannot read structured datagrams: another loop reads them");
    }
    this.#isIterated = true;
    try {
      for (;;) {
        const datagram = this.#queue.shift();
        if (datagram !== undefined) {
          const message = await this.#decode(datagram);
          if (message !== undefined) yield message;
        } else if (this.#isOver) return;
        else await (this.#arrival = Promise.withResolvers()).promise;
      }
    } finally {
      this.#isIterated = false;
    }
  }

  [Symbol.asyncDispose](): Promise<void> {
    if (!this.#isDisposed) {
      this.#isDisposed = true;
      this.#queue.length = 0;
      this.#reader.releaseLock(); // Rejects the current read.
    }
    return Promise.resolve();
  }

  async #collect(): Promise<void> {
    const queue = this.#queue;
    try {
      for (;;) {
        const { value } = await this.#reader.read();
        if (value === undefined || this.#isDisposed) break;
        queue.push(value);
        if (queue.length > this.#settings.maxQueued) {
          queue.shift();
          this.#counts.dropped++;
        }
        this.#arrival?.resolve();
      }
    } catch {
      // Either this object was disposed, or the connection has closed, and its `closed` reports the
      // reason.
    }
    this.#isOver = true;
    this.#arrival?.resolve();
  }

  async #decode(datagram: Uint8Array): Promise<StructuredMessage<R> | undefined> {
    const { schemas, onInvalid } = this.#settings;
    try {
      const { length } = datagram;
      if (length < DATAGRAM_HEAD_BYTES) {
        throw rejection("truncated", `expected a type in a datagram, received ${length} bytes`, {});
      }
      const type = datagram[0]! << 8 | datagram[1]!;
      if (!schemas.has(type)) throw unknownType(type, schemas);
      const payload = datagram.subarray(DATAGRAM_HEAD_BYTES);
      const message = await decodeMessage(payload, type, this.#settings);
      this.#counts.received++;
      return message as StructuredMessage<R>;
    } catch (error) {
      if (!(error instanceof StructuredError)) throw error;
      this.#counts.skipped++;
      await onInvalid?.(error);
      return undefined;
    }
  }

  /** Writes on a connection without direct calls. Returns false if too many writes are pending. */
  #write(bytes: Uint8Array): boolean {
    const { writable } = this.#datagrams;
    if (this.#waitingWrites >= MAX_WAITING_WRITES || writable.locked) return false;
    const writer = writable.getWriter();
    const done = (): void => void this.#waitingWrites--;
    this.#waitingWrites++;
    writer.write(bytes).then(done, done);
    writer.releaseLock(); // Released for other senders.
    return true;
  }
}
