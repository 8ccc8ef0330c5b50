/**
 * Message frames on a stream, for both sides. A page needs only `openMessages`, the client's half.
 *
 * @module
 */
import type { OptionKinds } from "../../base/options/options.ts";
import { checkOptions, POSITIVE, RUNTIME, TIME } from "../../base/options/option_checks.ts";
import { platformRuntime, type Runtime } from "../../base/runtime.ts";
import type { BidirectionalStream, Connection } from "../connection.ts";
export type { MessageStreamOptions } from "./connection.ts";

import {
  type FirstStream,
  MessageStreamConnection,
  type MessageStreamOptions,
  openMessages,
} from "./connection.ts";

/** How long a server waits for the client's stream, in milliseconds. */
const STREAM_TIMEOUT_MS = 10_000;

/** The default maximum number of bytes that are read until the peer is admitted. */
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
 * Adds message frames to a connection. The frames travel on the client's first bidirectional
 * stream. Both sides must call this function. The client must call it before it opens any other
 * stream.
 *
 * - **Order:** frames arrive complete and in the order in which they were sent. Frames sent early
 *   wait for the stream.
 * - **Writes:** there is one write at a time. Frames sent during a write share the next write.
 * - **Close:** all earlier frames are sent first, followed by an end mark. The code and reason
 *   follow after the peer has also ended its half, or after a timeout.
 * - **Abort:** a stream that ends without an end mark breaks the connection.
 *
 * The bytes that you send MUST be binary messages, which begin with `40 53`.
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
 * @param connection A connection with streams. Its first stream no longer belongs to the caller.
 * @param options See {@linkcode MessageStreamOptions}.
 * @returns The connection with `frames`. Closing it also closes the inner connection.
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
  /** Resolves when the client's first byte arrives; rejects if the connection ends earlier. */
  readonly opened: Promise<unknown>;
}

/**
 * Adds message frames to a server's connection. See {@linkcode withMessages}.
 *
 * @param connection A connection whose streams have not been read yet.
 * @returns The connection with `frames`, and a promise for the arrival of the client's stream.
 */
export function acceptMessages(
  connection: Connection,
  options: Omit<MessageStreamOptions, "side"> & { readonly runtime: Runtime },
): AcceptedMessages {
  // The counters of streams exclude the message stream.
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

/** The client's first bidirectional stream, and the streams after it. */
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

  /** The streams after the first one. Only the inner connection buffers them. */
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

  /** The streams after the first one, for a reader that starts before the first stream arrives. */
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
