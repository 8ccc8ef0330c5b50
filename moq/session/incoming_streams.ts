/** Streams that the peer opens; each begins with its type. */
import { ConnectionError, StreamError } from "../../errors.ts";
import type { BidirectionalStream } from "../../transport/connection.ts";
import type { DirectReadable } from "../../transport/connection.ts";
import { receiveUnidirectional } from "../../transport/direct.ts";
import type { MoqErrorName } from "../wire/errors.ts";
import { MoqError } from "../wire/errors.ts";
import type { IntegerCodec } from "../wire/integers.ts";
import { MessageReader, TruncatedError } from "../wire/message_reader.ts";
import { codeOf, isViolation, type SessionContext } from "./context.ts";
import { Exchange } from "./exchange.ts";

/**
 * The maximum number of bidirectional streams without room whose request is read, so that the peer
 * receives the reason. Further ones are cut without a reason.
 */
const MAX_REJECTED_AT_ONCE = 4;

/** Handles the streams of a peer in one family of versions. */
export interface StreamHandlers {
  /** The encoding of integers. */
  readonly integers: IntegerCodec;
  /** The first unidirectional stream is the setup, without which the session could not start. */
  readonly hasSetupStream: boolean;
  /**
   * Handles a request.
   *
   * @param type The type; `undefined` if the stream ended before it.
   * @param reject Rejects the stream.
   */
  request(type: number | undefined, exchange: Exchange, reject: () => void): Promise<void>;
  /**
   * Handles a unidirectional stream.
   *
   * @param cancel Stops reading.
   */
  data(
    type: number,
    reader: MessageReader,
    cancel: (reason: MoqErrorName) => void,
  ): void | Promise<void>;
}

/** Dispatches the streams of one peer. */
export class MoqIncomingStreams {
  readonly #context: SessionContext;
  readonly #handlers: StreamHandlers;
  /** The bidirectional streams whose type has not arrived yet. */
  #silent = 0;
  /** The bidirectional streams without room whose request is being rejected. */
  #rejected = 0;
  /** True once a unidirectional stream has arrived. */
  #hasFirst = false;
  /** True if the last group left its room to the next one, so that it is counted only once. */
  #hasSpare = false;
  readonly #release = () => this.#context.streams?.release();
  readonly #releaseGroup = () => {
    if (this.#hasSpare) this.#release();
    this.#hasSpare = true;
  };

  constructor(context: SessionContext, handlers: StreamHandlers) {
    this.#context = context;
    this.#handlers = handlers;
  }

  /** Starts to accept unidirectional streams: groups, and SETUP. */
  takeUnidirectional(): void {
    receiveUnidirectional(this.#context.connection, (stream) => void this.#takeUni(stream));
  }

  /** Starts to accept bidirectional streams: requests. */
  async takeBidirectional(streams: AsyncIterator<BidirectionalStream>): Promise<void> {
    try {
      for (let next; !(next = await streams.next()).done;) void this.#takeBidi(next.value);
    } catch {
      // The connection has closed, and `closed` reports how.
    }
  }

  async #takeBidi(stream: BidirectionalStream): Promise<void> {
    const context = this.#context;
    const { maxRequests, maxSubscriptions } = context.limits;
    const exchange = new Exchange(stream, this.#handlers.integers);
    const reject = () => exchange.abort(codeOf(context, "subscribe", "internal"));
    // A stream without a type may become a request or a subscription, so both limits add up.
    if (this.#silent >= maxRequests + maxSubscriptions) {
      return exchange.abort(codeOf(context, "subscribe", "sessionLimit"));
    }
    const rejection = context.streams?.take();
    if (rejection !== undefined && this.#rejected >= MAX_REJECTED_AT_ONCE) {
      return exchange.abort(codeOf(context, "subscribe", rejection));
    }
    exchange.rejection = rejection;
    if (rejection !== undefined) this.#rejected++;
    this.#silent++;
    let type: number | undefined;
    try {
      try {
        type = await exchange.reader.varint();
      } finally {
        this.#silent--;
      }
      await this.#handlers.request(type, exchange, reject);
    } catch (error) {
      this.#failed(error, reject);
    }
    // A stream of which only one side has ended still takes memory.
    exchange.reader.whenDone(rejection === undefined ? this.#release : () => this.#rejected--);
  }

  async #takeUni(stream: DirectReadable): Promise<void> {
    const context = this.#context;
    const { hasSetupStream, integers } = this.#handlers;
    const reader = new MessageReader(stream, integers);
    const cancel = (reason: MoqErrorName) =>
      reader.cancel({ streamErrorCode: codeOf(context, "group", reason) });
    if (this.#hasFirst || !hasSetupStream) {
      const rejection = this.#hasSpare ? undefined : context.streams?.take();
      this.#hasSpare = false;
      if (rejection !== undefined) return cancel(rejection);
      reader.whenDone(this.#releaseGroup);
    }
    this.#hasFirst = true;
    try {
      await reader.more();
      const type = reader.takeVarint() ?? await reader.varint();
      // The peer aborted the stream before its type.
      if (type === undefined) return;
      await this.#handlers.data(type, reader, cancel);
    } catch (error) {
      this.#failed(error, () => cancel("internal"));
    }
  }

  /**
   * Handles a failed stream: a protocol violation closes the session, other errors end the stream.
   */
  #failed(error: unknown, end: () => void): void {
    const context = this.#context;
    if (error instanceof ConnectionError || context.signal.aborted) return end();
    const isOfSession = error instanceof MoqError && error.scope === "session";
    if (isViolation(error) || isOfSession) return context.violated(error);
    end();
    const isOfStream = error instanceof StreamError || error instanceof TruncatedError;
    if (!isOfStream && !(error instanceof MoqError)) context.report(error);
  }
}
