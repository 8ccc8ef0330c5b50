/**
 * The message frames on a stream, for both sides. A page needs only the client's half:
 * `openMessages`.
 *
 * @module
 */
import type { OptionKinds } from "../../base/options.ts";
import { checkOptions, POSITIVE, RUNTIME, TIME } from "../../base/option_checks.ts";
import { platformRuntime, type Runtime } from "../../base/runtime.ts";
import type { BidirectionalStream, Connection } from "../connection.ts";
export type { MessageStreamOptions } from "./connection.ts";

import {
  type FirstStream,
  MessageStreamConnection,
  type MessageStreamOptions,
  openMessages,
} from "./connection.ts";

/** The longest wait of a server for the client's stream, in milliseconds. */
const STREAM_TIMEOUT_MS = 10_000;

/** The maximum bytes that are read until the peer is admitted, by default. */
const MAX_EARLY_BYTES = 20_480;

export const MESSAGE_STREAM: OptionKinds<MessageStreamOptions> = {
  admitted: "object",
  closeTimeoutMs: TIME,
  maxEarlyBytes: POSITIVE,
  maxFrameBytes: POSITIVE,
  runtime: RUNTIME,
  side: ["client", "server"],
  streamTimeoutMs: TIME,
};

/**
 * Adds message frames to a connection. The frames travel on the lowest bidirectional stream of the
 * client. Both ends must call this function, and the client before it opens any other stream.
 *
 * - **Order:** frames arrive complete and in the order of sending; frames sent early wait for the
 *   stream.
 * - **Writes:** one at a time. Frames sent meanwhile share the next write.
 * - **Close:** all earlier frames are sent first, then an end mark. Code and reason follow after
 *   the peer has ended the other half too, or after a timeout.
 * - **Abort:** a stream that ends without an end mark breaks the connection.
 *
 * Sent bytes MUST be binary messages, which begin with `40 53`.
 *
 * @example Usage
 * ```ts
 * import { memoryPair, withMessages } from "@skein/skein/transport";
 * import { assertEquals } from "@std/assert";
 *
 * await using pair = memoryPair({ frames: false });
 * await using client = withMessages(pair.client, { side: "client" });
 * await using server = withMessages(pair.server, { side: "server" });
 * const received = new Promise((resolve) => {
 *   server.frames?.receive({ receiveFrame: resolve, framesEnded() {} });
 * });
 * client.frames?.send("hello");
 * assertEquals(await received, "hello");
 * ```
 *
 * @param connection A connection with streams; the first one no longer belongs to the caller.
 * @param options See {@linkcode MessageStreamOptions}.
 * @returns The connection with `frames`, whose close also closes the inner one.
 */
export function withMessages(connection: Connection, options: MessageStreamOptions): Connection {
  checkOptions("add messages", options, MESSAGE_STREAM);
  const { runtime = platformRuntime() } = options;
  return options.side === "client"
    ? boundUntil(openMessages(connection, { ...options, runtime }), options)
    : acceptMessages(connection, { ...options, runtime }).connection;
}

/** Limits the bytes that the peer of a new connection may send before admission. */
function boundUntil(
  connection: MessageStreamConnection,
  { admitted, maxEarlyBytes = MAX_EARLY_BYTES }: Pick<
    MessageStreamOptions,
    "admitted" | "maxEarlyBytes"
  >,
): MessageStreamConnection {
  if (admitted === undefined) return connection;
  connection.maxBytes = maxEarlyBytes;
  admitted.then(() => connection.maxBytes = Infinity, () => {});
  return connection;
}

/** A server's connection with message frames. */
export interface AcceptedMessages {
  readonly connection: Connection;
  /** Resolves with the client's first byte; rejects if the connection ends earlier. */
  readonly opened: Promise<unknown>;
}

/**
 * Adds message frames to a server's connection. See {@linkcode withMessages}.
 *
 * @param connection A connection whose streams have not been read yet.
 * @returns The connection with `frames`, and the arrival of the client's stream.
 */
export function acceptMessages(
  connection: Connection,
  options: Omit<MessageStreamOptions, "side"> & { readonly runtime: Runtime },
): AcceptedMessages {
  // Counters of streams exclude the message stream.
  connection.inspect?.excludeMessageStream?.("remote");
  const first = new AwaitedStream(connection, options.streamTimeoutMs ?? STREAM_TIMEOUT_MS);
  return {
    connection: boundUntil(
      new MessageStreamConnection(connection, options, first),
      options,
    ),
    opened: first.stream,
  };
}

/** The first bidirectional stream of the client, and the streams after it. */
class AwaitedStream implements FirstStream {
  readonly timeoutMs: number;
  readonly #inner: Connection;
  #isTaken = false;
  #incoming: ReadableStream<BidirectionalStream> | undefined;

  /** Resolves with the stream; rejects if there will be no stream. */
  readonly stream: Promise<BidirectionalStream>;

  constructor(inner: Connection, timeoutMs: number) {
    this.#inner = inner;
    this.timeoutMs = timeoutMs;
    this.stream = this.#take(inner.incomingBidirectionalStreams.getReader());
  }

  /** The streams after the first; only the inner connection buffers these. */
  get incoming(): ReadableStream<BidirectionalStream> {
    return this.#incoming ??= this.#isTaken
      ? this.#inner.incomingBidirectionalStreams
      : this.#waiting();
  }

  async #take(
    reader: ReadableStreamDefaultReader<BidirectionalStream>,
  ): Promise<BidirectionalStream> {
    try {
      const { done, value } = await reader.read();
      if (!done) return value;
    } finally {
      reader.releaseLock();
      this.#isTaken = true;
    }
    throw new TypeError("Cannot receive messages: the incoming streams ended");
  }

  /** The streams after the first, for a reader that starts before the first stream. */
  #waiting(): ReadableStream<BidirectionalStream> {
    let reader: ReadableStreamDefaultReader<BidirectionalStream> | undefined;
    const source = async () => {
      await this.stream.catch(() => {});
      return reader ??= this.#inner.incomingBidirectionalStreams.getReader();
    };
    return new ReadableStream<BidirectionalStream>({
      async pull(controller): Promise<void> {
        const { done, value } = await (await source()).read();
        if (done) controller.close();
        else controller.enqueue(value);
      },
      cancel: async (reason) => await (await source()).cancel(reason),
    }, { highWaterMark: 0 });
  }
}
