/**
 * Typed messages on a stream.
 *
 * @module
 */
import { StreamError, StructuredError } from "../../errors.ts";
import type {
  BidirectionalStream,
  DirectStream,
  OpenStreamOptions,
} from "../../transport/connection.ts";
import { directStream } from "../../transport/direct.ts";
import {
  checkCodec,
  decodeMessage,
  encodeMessage,
  END_TYPE,
  MAX_LENGTH,
  reasonFor,
  refusal,
  STREAM_HEAD_BYTES,
  unknownType,
} from "./structured_format.ts";
import { StructuredParser } from "./structured_parser.ts";
import { StructuredSender } from "./structured_sender.ts";
import { type Codec, jsonCodec } from "./codec.ts";
import { SKEIN_PROTOCOL } from "../core.ts";
import {
  type CompiledRegistry,
  compileRegistry,
  type Registry,
  type StructuredInput,
  type StructuredMessage,
  type TypeIn,
} from "./registry.ts";
import type { SessionFace } from "../types.ts";

/** Largest payload where nobody says otherwise. */
const MAX_MESSAGE_BYTES = 1024 * 1024;

/** What messages are, and how they become bytes. */
export interface StructuredOptions<R extends Registry> {
  /** Messages by their numbers. */
  readonly registry: R;
  /** How they become bytes; JSON by default. */
  readonly codec?: Codec;
}

/**
 * What becomes of a message whose bytes are whole, and which cannot be taken: its type is unknown,
 * the codec cannot read it, or its schema refuses it.
 *
 * - `throw`: the loop throws the error, and the stream is over in both directions.
 * - `skip`: it is counted, and the loop goes on with the next one.
 * - A function is told of it, then it is skipped; what the function throws ends the loop and the stream.
 */
export type InvalidPolicy = "throw" | "skip" | ((error: StructuredError) => void);

/** Options for a stream of typed messages. */
export interface StructuredStreamOptions<R extends Registry>
  extends StructuredOptions<R>, OpenStreamOptions {
  /** A stream that the peer opened; without it, one is opened. */
  readonly stream?: BidirectionalStream;
  /**
   * Largest message in either direction, in bytes of its payload.
   *
   * @default {1048576}
   */
  readonly maxMessageBytes?: number;
  /**
   * What becomes of a message that cannot be taken.
   *
   * @default {"throw"}
   */
  readonly onInvalid?: InvalidPolicy;
  /**
   * Whether both ends mark the end of what they send. Then an end without the mark is an abort,
   * which not every wire can tell from a normal end. By default they do where the subprotocol is
   * `skein.1`; a peer that is not Skein does not.
   */
  readonly endMark?: boolean;
}

/**
 * A stream of typed messages.
 *
 * - **Order:** messages arrive in the order of `send`, each one whole.
 * - **Back-pressure:** bytes are read as the loop asks for messages, one chunk at a time; `send`
 *   resolves once the wire took the message.
 * - **Loops:** leaving a loop leaves the stream open, and another loop goes on with the next message.
 * - **Errors:** what cannot be read ends the stream in both directions, and the loop throws; the
 *   session goes on. See {@linkcode StructuredError}.
 * - **End:** the loop ends once the peer closed its direction. An abort or reset by the peer, or an
 *   end without the mark where that was agreed on, throws a {@linkcode StreamError}; the end of the
 *   session a `ConnectionError`.
 *
 * @typeParam R The registry.
 */
export interface StructuredStream<R extends Registry>
  extends AsyncIterable<StructuredMessage<R>>, AsyncDisposable {
  /**
   * Resolves once both ends closed their directions, or this end let the rest go; rejects with
   * the first error. Nobody has to look at it.
   */
  readonly closed: Promise<void>;
  /** Messages that could not be taken, and were skipped. */
  readonly skippedMessages: number;
  /**
   * Sends a message. It is not checked here but where it arrives.
   *
   * @typeParam T The number.
   * @param type Its number in the registry.
   * @param data What to send; its bytes are made at once.
   * @returns Resolves once the wire took it, which is the back-pressure. A failure of the stream
   * that nobody awaits here is told by `closed`.
   * @throws {RangeError} If it is larger than `maxMessageBytes`; nothing was sent of it.
   * @throws {TypeError} If the registry has no such number, or the codec cannot encode it.
   * @throws {QueueFullError} If 4 MiB wait, because nobody awaited; then the stream is aborted.
   * @throws {StreamError} If the stream is closed, or the peer reads no more.
   * @throws {ConnectionError} If the connection is over.
   */
  send<T extends TypeIn<R>>(type: T, data: StructuredInput<R, T>): Promise<void>;
  /**
   * Ends this end's direction, behind what was sent. What the peer sends can still be read. Idempotent.
   *
   * @throws {StreamError} If the stream failed before.
   */
  close(): Promise<void>;
  /**
   * Gives up both directions at once; what waits is lost. Idempotent.
   *
   * @param streamErrorCode Goes to the peer where the wire can carry it, from 0 to 2^32 - 1.
   * @throws {RangeError} If the code is out of range.
   */
  abort(streamErrorCode?: number): void;
  /** Closes this end's direction, and reads no more; never throws. Called by `await using`. */
  [Symbol.asyncDispose](): Promise<void>;
}

/** See `structuredStream` of a session. */
export async function structuredStream<R extends Registry>(
  session: SessionFace,
  options: StructuredStreamOptions<R>,
): Promise<StructuredStream<R>> {
  const { registry, maxMessageBytes = MAX_MESSAGE_BYTES, codec = jsonCodec, ...rest } = options;
  const schemas = compileRegistry(registry);
  checkCodec(codec, "structured stream");
  if (!Number.isInteger(maxMessageBytes) || maxMessageBytes < 1 || maxMessageBytes > MAX_LENGTH) {
    const rule = `maxMessageBytes must be an integer from 1 to ${MAX_LENGTH}`;
    throw new RangeError(`Cannot make structured stream: ${rule}, received ${maxMessageBytes}`);
  }
  const { endMark = session.connection.protocol === SKEIN_PROTOCOL, onInvalid = "throw" } = rest;
  if (typeof onInvalid !== "function" && onInvalid !== "throw" && onInvalid !== "skip") {
    const rule = 'onInvalid must be "throw", "skip" or a function';
    throw new TypeError(`Cannot make structured stream: ${rule}, received ${onInvalid}`);
  }
  const { stream: given } = rest;
  // Not asked for: a wire makes them only then.
  if (given && !given.direct && !("readable" in given && "writable" in given)) {
    const rule = "stream must have a readable and a writable end";
    throw new TypeError(`Cannot make structured stream: ${rule}, received neither or one`);
  }
  const stream = given ?? await session.createBidirectionalStream(options);
  return new MessageStream<R>(directStream(stream), {
    ...{ schemas, codec, maxMessageBytes, endMark, onInvalid },
  });
}

interface MessageStreamSettings {
  readonly schemas: CompiledRegistry;
  readonly codec: Codec;
  readonly maxMessageBytes: number;
  readonly endMark: boolean;
  readonly onInvalid: InvalidPolicy;
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
      accepts: (type) => schemas.has(type) || this.#refuse(unknownType(type, schemas)),
    });
    // What the peer sent before it stopped reading can still be read.
    this.#sender = new StructuredSender(stream, (error) => this.#closed.reject(error));
    this.#closed.promise.catch(() => {}); // Nobody has to look at it.
  }

  get closed(): Promise<void> {
    return this.#closed.promise;
  }

  get skippedMessages(): number {
    return this.#skipped;
  }

  send<T extends TypeIn<R>>(type: T, data: StructuredInput<R, T>): Promise<void> {
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

  /** The next message; `undefined` at the end. */
  async #next(): Promise<StructuredMessage<R> | undefined> {
    const { schemas, codec } = this.#settings;
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
          // What JSON makes shares no memory with its bytes, which are read into again.
          const own = codec === jsonCodec ? payload : payload.slice();
          const decoded = decodeMessage(own, type, { schemas, codec });
          return (decoded instanceof Promise ? await decoded : decoded) as StructuredMessage<R>;
        } catch (error) {
          if (!(error instanceof StructuredError)) throw error;
          this.#refuse(error);
        }
      }
    } catch (error) {
      this.#fail(error);
      throw error;
    }
  }

  /** Reads a chunk, or the end. */
  async #readOn(): Promise<void> {
    const parser = this.#parser;
    if (parser.isAtEnd) {
      this.#readToEnd();
      return this.#letGo();
    }
    const chunk = await this.#stream.read(parser.takeUsed());
    if (chunk !== null) return parser.push(chunk);
    if (this.#isReadToEnd || this.#failure !== undefined) return; // Let go meanwhile.
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
      throw refusal("truncated", `expected whole messages, received ${gap}`, { type });
    }
    this.#readToEnd();
  }

  /** Behind the end mark there is only the end, which gives the stream back. */
  #letGo(): void {
    this.#stream.read().then((more) => {
      if (more !== null) this.#stream.cancel();
    }, () => {});
  }

  /** Acts by the policy. */
  #refuse(error: StructuredError): false {
    const { onInvalid } = this.#settings;
    if (onInvalid === "throw") throw error;
    this.#skipped++;
    if (onInvalid !== "skip") onInvalid(error);
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

  /** Ends both directions with an error. */
  #fail(error: unknown): void {
    if (this.#failure !== undefined || this.#isReadToEnd && this.#isWrittenToEnd) return;
    this.#failure = { cause: error };
    this.#closed.reject(error);
    this.#stream.cancel(reasonFor(error));
    this.#sender.abort(error);
  }
}
