/** Options of typed messages on streams and in datagrams. */
import type { StructuredError } from "../../errors.ts";
import type { BidirectionalStream, OpenStreamOptions } from "../../transport/connection.ts";
import type { Codec } from "./codec.ts";
import type { Registry } from "./registry.ts";

/** Options for a stream of typed messages. */
export interface StructuredStreamOptions<R extends Registry> extends OpenStreamOptions {
  /** Schemas of the messages by number. */
  readonly registry: R;
  /** Encoding of the data; JSON by default. */
  readonly codec?: Codec | undefined;
  /** A stream that the peer opened; by default a new stream is opened. */
  readonly stream?: BidirectionalStream | undefined;
  /**
   * Largest message in either direction, in bytes of the payload.
   *
   * @default {1048576}
   */
  readonly maxMessageBytes?: number | undefined;
  /**
   * Treatment of a complete message that is invalid: the type is unknown, the codec cannot read the
   * payload, or the schema refuses the data.
   *
   * - `throw`: the loop throws the error, and the stream ends in both directions.
   * - `skip`: the message is counted, and the loop goes on with the next one.
   * - A function receives the error, then the message is skipped; an error that the function throws
   *   ends the loop and the stream.
   *
   * @default {"throw"}
   */
  readonly onInvalid?: "throw" | "skip" | ((error: StructuredError) => void) | undefined;
  /**
   * True if both ends mark the end of their messages. Then an end without the mark is an abort,
   * which some connections cannot tell from a normal end. By default true with the subprotocol
   * `skein.1`; a peer other than Skein sends no mark.
   */
  readonly endMark?: boolean | undefined;
}

/** Options for typed messages in datagrams. */
export interface StructuredDatagramsOptions<R extends Registry>
  extends Pick<StructuredStreamOptions<R>, "registry" | "codec"> {
  /**
   * Most datagrams that wait for a reader; above this limit the oldest is dropped.
   *
   * @default {256}
   */
  readonly maxQueued?: number | undefined;
  /**
   * Called for each invalid datagram when the loop reads the datagram: without a type, with an
   * unknown type, or with data that the codec or the schema refuses. The datagram is skipped; an
   * error that the function throws ends the loop.
   */
  readonly onInvalid?: ((error: StructuredError) => void) | undefined;
}
