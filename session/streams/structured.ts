/**
 * Typed messages on a stream.
 *
 * @module
 */
import { unawaited } from "../../base/call_safely.ts";
import { QueueFullError, StreamError, StructuredError } from "../../errors.ts";
import { describe } from "../../base/error_text.ts";
import type { DirectStream, DirectWritable } from "../../transport/connection.ts";
import { directStream } from "../../transport/direct.ts";
import {
  checkCodec,
  type CheckingSession,
  type DecodeFormat,
  decodeMessage,
  encodeMessage,
  END_TYPE,
  MAX_LENGTH,
  reasonFor,
  rejection,
  SCHEMA,
  STREAM_HEAD_BYTES,
  StructuredParser,
  unknownType,
} from "./structured_format.ts";
import { jsonCodec } from "./codec.ts";
import { internals, SKEIN_PROTOCOL } from "../core.ts";
import type { StructuredStreamOptions } from "./structured_options.ts";
import {
  compileRegistry,
  type Registry,
  type StructuredInput,
  type StructuredMessage,
} from "./registry.ts";

const MAX_MESSAGE_BYTES = 1024 * 1024;

/**
 * A stream of typed messages.
 *
 * - **Order:** messages arrive whole, in the order of the calls to `send`.
 * - **Back-pressure:** the stream reads one chunk at a time, when the loop requests messages.
 *   `send` resolves once the connection has accepted the message.
 * - **Loops:** if you leave a loop, the stream stays open, and another loop continues with the next
 *   message.
 * - **Errors:** if bytes are unreadable, the stream is aborted in both directions, and the loop
 *   throws. The session continues. See {@linkcode StructuredError}.
 * - **End:** the loop ends once the peer has closed its direction. If the peer aborts or resets the
 *   stream, or ends it without the agreed end mark, the loop throws a {@linkcode StreamError}. If
 *   the session closes, the loop throws a `ConnectionError`.
 *
 * @typeParam R The registry.
 */
export interface StructuredStream<R extends Registry>
  extends AsyncIterable<StructuredMessage<R>>, AsyncDisposable {
  /**
   * Resolves once both sides have closed their directions, or once this side has released the rest.
   * Rejects with the first error; you may leave this rejection unhandled.
   */
  readonly closed: Promise<void>;
  /** Number of invalid messages that were skipped. */
  readonly skippedMessages: number;
  /**
   * Sends a message. The receiver checks the data against the schema; the sender does not.
   *
   * @typeParam T The number of the message.
   * @param type Number of the message in the registry.
   * @param data The data, which is encoded immediately.
   * @returns Resolves once the connection has accepted the message. Await it to apply
   * back-pressure. You may leave a rejection unhandled, because `closed` also reports a failure of
   * the stream.
   * @throws {RangeError} If the message is larger than `maxMessageBytes`. In this case, no part of
   * the message was sent.
   * @throws {TypeError} If the registry has no such number, or the codec cannot encode the data.
   * @throws {QueueFullError} If 4 MiB are waiting because the caller did not await `send`. The
   * stream is then aborted.
   * @throws {StreamError} If the stream is closed, or the peer stopped reading.
   * @throws {ConnectionError} If the connection is closed.
   */
  send<T extends keyof R & number>(type: T, data: StructuredInput<R, T>): Promise<void>;
  /**
   * Closes this side's direction after all sent messages. You can still read messages from the
   * peer. Idempotent.
   *
   * @throws {StreamError} If the stream has failed.
   */
  close(): Promise<void>;
  /**
   * Aborts both directions immediately. Waiting messages are lost. Idempotent.
   *
   * @param streamErrorCode The code for the peer, from 0 to 2^32 - 1, if the connection can carry
   * codes.
   * @throws {RangeError} If the code is out of range.
   */
  abort(streamErrorCode?: number): void;
  /**
   * Closes this side's direction and stops reading. Never throws. Called by `await using`, also if
   * its block throws: the peer then takes what was sent for all messages, unless you call `abort()`
   * first.
   */
  [Symbol.asyncDispose](): Promise<void>;
}

/** Implements `structuredStream` of a session. */
export async function structuredStream<R extends Registry>(
  session: CheckingSession,
  options: StructuredStreamOptions<R>,
): Promise<StructuredStream<R>> {
  const { registry, maxMessageBytes = MAX_MESSAGE_BYTES, codec = jsonCodec, ...rest } = options;
  const schemas = compileRegistry(registry);
  checkCodec(codec, "structured stream");
  if (!Number.isInteger(maxMessageBytes) || maxMessageBytes < 1 || maxMessageBytes > MAX_LENGTH) {
    const rule = `maxMessageBytes must be an integer from 1 to ${MAX_LENGTH}`;
    throw new RangeError(`Cannot create structured stream: ${rule}, received ${maxMessageBytes}`);
  }
  const { endMark = session.connection.protocol === SKEIN_PROTOCOL, onInvalid = "throw" } = rest;
  if (typeof onInvalid !== "function" && onInvalid !== "throw" && onInvalid !== "skip") {
    const rule = 'onInvalid must be "throw", "skip" or a function';
    throw new TypeError(`Cannot create structured stream: ${rule}, received "${onInvalid}"`);
  }
  const { stream: given } = rest;
  // Tested with `in`, because a connection creates the ends on first access.
  if (given && !given.direct && !("readable" in given && "writable" in given)) {
    const rule = "stream must have a readable and a writable end";
    throw new TypeError(`Cannot create structured stream: ${rule}, received ${describe(given)}`);
  }
  const { signal, timeoutMs, sendOrder } = rest;
  const stream = given ?? await session.createBidirectionalStream({ signal, timeoutMs, sendOrder });
  return new MessageStream<R>(directStream(stream), {
    ...{ schemas, codec, maxMessageBytes, endMark, onInvalid },
    inTime: (checked) => session[internals].inTime(SCHEMA, checked),
  });
}

interface MessageStreamSettings extends DecodeFormat {
  readonly maxMessageBytes: number;
  readonly endMark: boolean;
  readonly onInvalid: NonNullable<StructuredStreamOptions<Registry>["onInvalid"]>;
}

class MessageStream<R extends Registry> implements StructuredStream<R> {
  readonly #stream: DirectStream;
  readonly #settings: MessageStreamSettings;
  readonly #parser: StructuredParser;
  readonly #sender: StructuredSender;
  readonly #format: Parameters<typeof encodeMessage>[2];
  readonly #closed: PromiseWithResolvers<void> = Promise.withResolvers();
  #skipped = 0;
  #isIterated = false;
  #isReadToEnd = false;
  #isWrittenToEnd = false;
  #closing: Promise<void> | undefined = undefined;
  #failure: { readonly cause: unknown } | undefined = undefined;

  constructor(stream: DirectStream, settings: MessageStreamSettings) {
    const { schemas, codec, maxMessageBytes, endMark } = settings;
    this.#stream = stream;
    this.#settings = settings;
    this.#format = { schemas, codec, headBytes: STREAM_HEAD_BYTES, maxBytes: maxMessageBytes };
    this.#parser = new StructuredParser({
      maxMessageBytes,
      hasEndMark: endMark,
      accepts: (type) => schemas.has(type) || this.#reject(unknownType(type, schemas)),
    });
    // The peer may stop reading. Its earlier messages can still be read, so only `closed` rejects.
    this.#sender = new StructuredSender(stream, (error) => this.#closed.reject(error));
    this.#closed.promise.catch(() => {}); // May stay unhandled.
  }

  get closed(): Promise<void> {
    return this.#closed.promise;
  }

  get skippedMessages(): number {
    return this.#skipped;
  }

  send<T extends keyof R & number>(type: T, data: StructuredInput<R, T>): Promise<void> {
    let bytes: Uint8Array;
    try {
      bytes = encodeMessage(type, data, this.#format);
    } catch (error) {
      return Promise.reject(error);
    }
    const length = bytes.length - STREAM_HEAD_BYTES;
    for (let at = 0; at < 4; at++) bytes[2 + at] = length >>> 24 - at * 8;
    return this.#sender.send(bytes);
  }

  close(): Promise<void> {
    return this.#closing ??= this.#close();
  }

  abort(streamErrorCode = 0): void {
    if (!Number.isInteger(streamErrorCode) || streamErrorCode < 0 || streamErrorCode > MAX_LENGTH) {
      const rule = `streamErrorCode must be an integer from 0 to ${MAX_LENGTH}`;
      throw new RangeError(`Cannot abort stream: ${rule}, received ${streamErrorCode}`);
    }
    const message = `The stream was aborted with code ${streamErrorCode}`;
    this.#fail(new StreamError(message, { streamErrorCode, by: "local" }));
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<StructuredMessage<R>, void, undefined> {
    if (this.#isIterated) {
      throw new TypeError("Cannot read structured stream: another loop reads it");
    }
    this.#isIterated = true;
    try {
      for (let message = await this.#next(); message !== undefined; message = await this.#next()) {
        yield message;
      }
    } finally {
      this.#isIterated = false;
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close().catch(() => {});
    if (this.#isReadToEnd || this.#failure !== undefined) return;
    this.#readToEnd();
    this.#stream.cancel();
  }

  async #next(): Promise<StructuredMessage<R> | undefined> {
    const { codec } = this.#settings;
    try {
      for (;;) {
        if (this.#failure !== undefined) throw this.#failure.cause;
        if (this.#isReadToEnd) return undefined;
        const frame = this.#parser.next();
        if (frame === undefined) {
          await this.#readOn();
          continue;
        }
        const { type, payload } = frame;
        try {
          // Values from JSON share no memory with the chunk, which is reused for the next read.
          const own = codec === jsonCodec ? payload : payload.slice();
          const decoded = decodeMessage(own, type, this.#settings);
          return (decoded instanceof Promise ? await decoded : decoded) as StructuredMessage<R>;
        } catch (error) {
          if (!(error instanceof StructuredError)) throw error;
          this.#reject(error);
        }
      }
    } catch (error) {
      this.#fail(error);
      throw error;
    }
  }

  async #readOn(): Promise<void> {
    const parser = this.#parser;
    if (parser.isAtEnd) {
      this.#readToEnd();
      return this.#letGo();
    }
    const chunk = await this.#stream.read(parser.takeUsed());
    if (chunk !== null) return parser.push(chunk);
    if (this.#isReadToEnd || this.#failure !== undefined) return; // Released in the meantime.
    const { gap } = parser;
    if (this.#settings.endMark) {
      const where = gap === undefined ? "" : ` after ${gap}`;
      throw new StreamError(`The peer aborted the stream: it ended${where} without the end mark`, {
        streamErrorCode: 0,
        by: "remote",
      });
    }
    if (gap !== undefined) {
      const type = parser.openType;
      throw rejection("truncated", `expected whole messages, received ${gap}`, { type });
    }
    this.#readToEnd();
  }

  /** Reads the end after the end mark, so that the connection can release the stream. */
  #letGo(): void {
    this.#stream.read().then((more) => {
      if (more !== null) this.#stream.cancel();
    }, () => {});
  }

  #reject(error: StructuredError): false {
    const { onInvalid } = this.#settings;
    if (onInvalid === "throw") throw error;
    this.#skipped++;
    const told = onInvalid !== "skip" && onInvalid(error);
    unawaited(told, (cause) => this.#fail(cause));
    return false;
  }

  async #close(): Promise<void> {
    const mark = this.#settings.endMark ? new Uint8Array(STREAM_HEAD_BYTES) : undefined;
    mark?.fill(END_TYPE, 0, 2);
    await this.#sender.close(mark);
    this.#isWrittenToEnd = true;
    this.#settle();
  }

  #readToEnd(): void {
    this.#isReadToEnd = true;
    this.#settle();
  }

  #settle(): void {
    if (this.#isReadToEnd && this.#isWrittenToEnd) this.#closed.resolve();
  }

  #fail(error: unknown): void {
    if (this.#failure !== undefined || this.#isReadToEnd && this.#isWrittenToEnd) return;
    this.#failure = { cause: error };
    this.#closed.reject(error);
    this.#stream.cancel(reasonFor(error));
    this.#sender.abort(error);
  }
}

const JOINED_BYTES = 64 * 1024;

/**
 * Maximum number of waiting bytes. Without this limit, a caller that does not await `send` could
 * fill the memory. One message is always accepted.
 */
const MAX_WAITING_BYTES = 4 * 1024 * 1024;

interface WaitingWrite extends PromiseWithResolvers<void> {
  readonly bytes: Uint8Array;
}

/**
 * The writable end of a stream of messages.
 *
 * - **Order:** messages are sent whole, in the order of the calls to `send`.
 * - **Bounds:** at most 4 MiB wait for the current write. If more would wait, the stream is
 *   aborted.
 * - **Failure:** the first failure rejects all waiting and all later messages.
 */
class StructuredSender {
  readonly #stream: DirectWritable;
  readonly #onFailed: (error: unknown) => void;
  readonly #wrote = (): void => this.#writeOn();
  readonly #failed = (error: unknown): void => this.#fail(error);
  readonly #waiting: WaitingWrite[] = [];
  #waitingBytes = 0;
  #isWriting = false;
  #isClosing = false;
  #idle: PromiseWithResolvers<void> | undefined = undefined;
  #failure: { readonly cause: unknown } | undefined = undefined;

  /**
   * Takes ownership of the writable end of a stream.
   *
   * @param stream The stream to write to.
   * @param onFailed Receives the first failure.
   */
  constructor(stream: DirectWritable, onFailed: (error: unknown) => void) {
    this.#stream = stream;
    this.#onFailed = onFailed;
  }

  /**
   * Writes a message after all waiting messages.
   *
   * @param bytes The message, which MUST NOT change before the write.
   * @returns Resolves once the connection has accepted the message. A rejection may stay unhandled,
   * because `onFailed` also reports the failure.
   */
  send(bytes: Uint8Array): Promise<void> {
    if (this.#failure !== undefined) return failed(this.#failure.cause);
    if (this.#isClosing) return failed(closedError());
    const waits = this.#waitingBytes;
    if (waits > 0 && waits + bytes.length > MAX_WAITING_BYTES) {
      const error = new QueueFullError(
        `Cannot send message: ${waits} bytes wait, of at most ${MAX_WAITING_BYTES}; await send()`,
      );
      this.abort(error);
      return failed(error);
    }
    return this.#send(bytes);
  }

  /**
   * Ends the stream after all sent messages.
   *
   * @param endMark Bytes to write last, if any.
   * @throws The failure of the stream.
   */
  async close(endMark: Uint8Array | undefined): Promise<void> {
    if (this.#failure !== undefined) throw this.#failure.cause;
    this.#isClosing = true;
    if (endMark !== undefined) void this.#send(endMark);
    if (this.#isWriting) await (this.#idle = Promise.withResolvers()).promise;
    if (this.#failure !== undefined) throw (this.#failure as { cause: unknown }).cause;
    try {
      await this.#stream.close();
    } catch (error) {
      this.#fail(error);
      throw error;
    }
  }

  /**
   * Aborts the stream and drops all waiting messages. Idempotent.
   *
   * @param error The error for all waiting and later messages.
   */
  abort(error: unknown): void {
    this.#fail(error);
    this.#stream.abort(reasonFor(error));
  }

  #send(bytes: Uint8Array): Promise<void> {
    if (!this.#isWriting) return this.#write(bytes);
    const waiting = { bytes, ...Promise.withResolvers<void>() };
    waiting.promise.catch(() => {});
    this.#waiting.push(waiting);
    this.#waitingBytes += bytes.length;
    return waiting.promise;
  }

  #write(bytes: Uint8Array): Promise<void> {
    this.#isWriting = true;
    const written = this.#stream.write(bytes);
    written.then(this.#wrote, this.#failed);
    return written;
  }

  #writeOn(): void {
    const waiting = this.#waiting;
    if (waiting.length === 0 || this.#failure !== undefined) {
      this.#isWriting = false;
      this.#idle?.resolve();
      return;
    }
    let count = 0;
    let size = 0;
    for (const { bytes } of waiting) {
      if (count > 0 && size + bytes.length > JOINED_BYTES) break;
      size += bytes.length;
      count++;
    }
    this.#waitingBytes -= size;
    const batch = waiting.splice(0, count);
    this.#write(batch.length === 1 ? batch[0]!.bytes : joined(batch, size)).then(
      () => batch.forEach(({ resolve }) => resolve()),
      (error) => batch.forEach(({ reject }) => reject(error)),
    );
  }

  #fail(error: unknown): void {
    if (this.#failure !== undefined) return;
    this.#failure = { cause: error };
    for (const { reject } of this.#waiting.splice(0)) reject(error);
    this.#waitingBytes = 0;
    this.#idle?.resolve();
    this.#onFailed(error);
  }
}

function joined(batch: readonly WaitingWrite[], size: number): Uint8Array {
  const bytes = new Uint8Array(size);
  let at = 0;
  for (const { bytes: message } of batch) {
    bytes.set(message, at);
    at += message.length;
  }
  return bytes;
}

/** Returns a rejection that a sender may ignore, because `closed` also reports the failure. */
function failed(error: unknown): Promise<void> {
  const failure = Promise.reject(error);
  failure.catch(() => {});
  return failure;
}

function closedError(): StreamError {
  return new StreamError("Cannot send message: the stream is closed", {
    streamErrorCode: 0,
    by: "local",
  });
}
