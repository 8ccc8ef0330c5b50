/** Streams that the peer opens; the first byte of each is the type. */
import { ConnectionError, ProtocolError, StreamError } from "../../errors.ts";
import type { BidirectionalStream } from "../../transport/connection.ts";
import type { DirectReadable } from "../../transport/connection.ts";
import { receiveUnidirectional } from "../../transport/direct.ts";
import type { MoqErrorName } from "../wire/errors.ts";
import { MoqError } from "../wire/errors.ts";
import { MessageReader, TruncatedError } from "../wire/message_reader.ts";
import {
  BidiType,
  decodeGoaway,
  decodeGroupHeader,
  decodeSetupStream,
  MAX_MESSAGE_BYTES,
  type MoqParameters,
  UniType,
} from "../wire/messages.ts";
import { codeOf, isViolation, type SessionContext } from "./context.ts";
import { Exchange } from "./exchange.ts";
import type { PeerReports } from "./peer_reports.ts";
import type { Publisher } from "./publisher.ts";
import type { MoqSubscriber } from "./subscriber.ts";

/**
 * The maximum number of bidirectional streams without room whose request is read, so that the peer
 * receives the reason. Further ones are cut without a reason.
 */
const MAX_REJECTED_AT_ONCE = 4;

/** Receivers for the streams of a peer. */
export interface IncomingParts {
  /** Receives groups. */
  readonly subscriber: MoqSubscriber;
  /** Receives requests. */
  readonly publisher: Publisher;
  /** Receives probes. */
  readonly reports: PeerReports;
  /** Receives SETUP, in versions with a SETUP stream. */
  readonly onSetup: (parameters: MoqParameters) => void;
  readonly onGoaway: (uri: string) => void;
}

/** Dispatches the streams of one peer. */
export class MoqIncomingStreams {
  readonly #context: SessionContext;
  readonly #parts: IncomingParts;
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

  constructor(context: SessionContext, parts: IncomingParts) {
    this.#context = context;
    this.#parts = parts;
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
    const exchange = new Exchange(stream);
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
      await this.#respond(type, exchange, reject);
    } catch (error) {
      this.#failed(error, reject);
    }
    // A stream of which only one side has ended still takes memory.
    exchange.reader.whenDone(rejection === undefined ? this.#release : () => this.#rejected--);
  }

  #respond(
    type: number | undefined,
    exchange: Exchange,
    reject: () => void,
  ): Promise<void> {
    const { requests, setup, timestamps } = this.#context.traits;
    const { publisher, reports } = this.#parts;
    // Each suspended call in between would take memory for as long as the stream is open.
    if (type === BidiType.announce) return publisher.announce(exchange);
    if (type === BidiType.subscribe) return publisher.subscribe(exchange);
    if (requests) {
      if (type === BidiType.fetch) return publisher.fetch(exchange);
      if (type === BidiType.probe) return reports.serve(exchange);
      if (type === BidiType.goaway) return this.#takeGoaway(exchange);
      if (type === BidiType.track && timestamps) return publisher.track(exchange);
    }
    if (type !== undefined && setup === "session") throw unknownStream(type);
    // A later draft may define this type: reject the stream, keep the session.
    reject();
    return Promise.resolve();
  }

  async #takeGoaway(exchange: Exchange): Promise<void> {
    this.#parts.onGoaway(decodeGoaway(await exchange.reader.required("GOAWAY")));
    exchange.leave(codeOf(this.#context, "subscribe", "cancelled"));
  }

  async #takeUni(stream: DirectReadable): Promise<void> {
    const context = this.#context;
    const { setup } = context.traits;
    const { subscriber, onSetup } = this.#parts;
    const reader = new MessageReader(stream);
    const cancel = (reason: MoqErrorName) =>
      reader.cancel({ streamErrorCode: codeOf(context, "group", reason) });
    // The first stream is SETUP, without which the session could not start.
    if (this.#hasFirst || setup !== "stream") {
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
      if (type === UniType.group) {
        const body = reader.takeSized(MAX_MESSAGE_BYTES) ?? await reader.required("GROUP");
        const head = decodeGroupHeader(body);
        if (!subscriber.take(head, reader)) cancel("invalidSubscribeId");
        return;
      }
      if (type === UniType.setup && setup === "stream") {
        return onSetup(decodeSetupStream(await reader.required("SETUP")));
      }
      if (setup === "session") throw unknownStream(type);
      cancel("internal");
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

function unknownStream(type: number): ProtocolError {
  return new ProtocolError(`Expected a known stream, received one of type ${type}`);
}
