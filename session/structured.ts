/**
 * Typed messages on streams and in datagrams.
 *
 * @module
 */
import type { BidirectionalStream, OpenStreamOptions } from "../transport/connection.ts";
import type { Codec } from "./codec.ts";
import type { Registry, StructuredInput, StructuredMessage, TypeIn } from "./registry.ts";
import type { SessionBase } from "./session_base.ts";

/** What messages are, and how they become bytes. */
export interface StructuredOptions<R extends Registry> {
  /** Messages by their numbers. */
  readonly registry: R;
  /** How they become bytes; JSON by default. */
  readonly codec?: Codec;
  /**
   * Largest message, in bytes of its payload.
   *
   * @default {1048576}
   */
  readonly maxMessageBytes?: number;
}

/** Options for a stream of typed messages. */
export interface StructuredStreamOptions<R extends Registry>
  extends StructuredOptions<R>, OpenStreamOptions {
  /** A stream that the peer opened; without it, one is opened. */
  readonly stream?: BidirectionalStream;
}

/** A stream of typed messages. */
export interface StructuredStream<R extends Registry>
  extends AsyncIterable<StructuredMessage<R>>, AsyncDisposable {
  /** Sends a message. */
  send<T extends TypeIn<R>>(type: T, data: StructuredInput<R, T>): Promise<void>;
}

/** Typed messages in datagrams. */
export interface StructuredDatagrams<R extends Registry>
  extends AsyncIterable<StructuredMessage<R>>, AsyncDisposable {
  /** Sends a message, or loses it. */
  send<T extends TypeIn<R>>(type: T, data: StructuredInput<R, T>): Promise<void>;
}

/** See `structuredStream` of a session. */
export function structuredStream<R extends Registry>(
  _session: SessionBase,
  _options: StructuredStreamOptions<R>,
): Promise<StructuredStream<R>> {
  throw new Error("Under construction");
}

/** See `structuredDatagrams` of a session. */
export function structuredDatagrams<R extends Registry>(
  _session: SessionBase,
  _options: StructuredOptions<R>,
): StructuredDatagrams<R> {
  throw new Error("Under construction");
}
