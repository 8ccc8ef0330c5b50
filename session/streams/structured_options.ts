/** Options of typed messages on streams and in datagrams. */
import type { StructuredError } from "../../errors.ts";
import type { BidirectionalStream, OpenStreamOptions } from "../../transport/connection.ts";
import type { Codec } from "./codec.ts";
import type { Registry } from "./registry.ts";

/** Options for a stream of typed messages. */
export interface StructuredStreamOptions<R extends Registry> extends OpenStreamOptions {
  /** Schemas of the messages by number. */
  readonly registry: R;
  /**
   * Encoding of the data.
   *
   * @default {JSON}
   */
  readonly codec?: Codec | undefined;
  /**
   * A stream that the peer opened.
   *
   * @default {opens a new stream}
   */
  readonly stream?: BidirectionalStream | undefined;
  /**
   * Largest message in either direction, in bytes of the payload.
   *
   * @default {1048576}
   */
  readonly maxMessageBytes?: number | undefined;
  /**
   * The policy for a message of an unknown type, or whose data does not fit: `"throw"` aborts the
   * stream, `"skip"` counts the message, and a function receives the error.
   *
   * A message is also invalid if the codec cannot read the payload. In detail:
   *
   * - `throw`: the loop throws the error, and the stream is aborted in both directions.
   * - `skip`: the message is counted, and the loop continues with the next one.
   * - A function receives the error, and then the message is skipped. If the function throws or
   *   rejects, the loop and the stream end with that error.
   *
   * @default {"throw"}
   */
  readonly onInvalid?: "throw" | "skip" | ((error: StructuredError) => unknown) | undefined;
  /**
   * True if both sides mark the end of their messages, so that a missing mark counts as an abort.
   *
   * Some connections cannot distinguish an abort from a normal end. Peers other than Skein do not
   * send the mark.
   *
   * @default {true with `skein.1`}
   */
  readonly endMark?: boolean | undefined;
}

/** Options for typed messages in datagrams. */
export interface StructuredDatagramsOptions<R extends Registry>
  extends Pick<StructuredStreamOptions<R>, "registry" | "codec"> {
  /**
   * Maximum number of datagrams that wait for a reader. Beyond that, the oldest is dropped.
   *
   * @default {256}
   */
  readonly maxQueued?: number | undefined;
  /**
   * Called for each datagram of an unknown type, or whose data does not fit, when the loop reads
   * it. The datagram is skipped.
   *
   * If the function throws or rejects, the loop ends with that error.
   */
  readonly onInvalid?: ((error: StructuredError) => unknown) | undefined;
}
