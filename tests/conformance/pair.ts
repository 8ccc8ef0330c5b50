/**
 * Traits and helpers for the conformance suite of `Connection`.
 *
 * @module
 */
import { assert } from "@std/assert";
import type { Connection, ConnectionCapabilities, Frame } from "../../transport/connection.ts";
import { withMessages } from "../../transport/message_stream/server.ts";
import { soon } from "../waiting.ts";

/**
 * The two sides of one connection. Disposing of the pair closes both sides and whatever carries
 * them.
 */
export interface ConnectionPair extends AsyncDisposable {
  /** The end that dialed. */
  readonly a: Connection;
  /** The end that accepted. */
  readonly b: Connection;
}

/** Makes a new pair in which both sides are `ready`. */
export type MakePair = () => Promise<ConnectionPair>;

/** Adds messages to the pairs of a transport that has only streams. */
export function withMessagesOn(makePair: MakePair): MakePair {
  return async () => {
    const pair = await makePair();
    const ends = {
      a: withMessages(pair.a, { side: "client" }),
      b: withMessages(pair.b, { side: "server" }),
    };
    return {
      ...ends,
      async [Symbol.asyncDispose](): Promise<void> {
        await Promise.all([ends.a, ends.b].map((end) => end[Symbol.asyncDispose]()));
        await pair[Symbol.asyncDispose]();
      },
    };
  };
}

/** The claims of an implementation about itself; the suite verifies these claims. */
export interface ConnectionTraits extends ConnectionCapabilities {
  /** True if the transport has message frames. */
  readonly frames: boolean;
  /** The first bytes of binary frames, if the transport uses them to recognize binary frames. */
  readonly binaryHead?: readonly number[];
  /**
   * The highest close code, on transports that carry any code. If left out, the transport carries
   * only 0 and 3000 to 4999.
   */
  readonly maxCloseCode?: number;
  /** The maximum length of a close reason, in bytes. Longer reasons are cut. */
  readonly maxReasonBytes: number;
  /** The subprotocol that both sides report. */
  readonly protocol: string;
  /** The titles of skipped checks, each with the known defect that fails it. */
  readonly skips?: Readonly<Record<string, string>>;
}

/** Registers a test of the suite, which receives a new pair. */
export type ConnectionTest = (title: string, body: (pair: ConnectionPair) => Promise<void>) => void;

/** Receives the frames of one end, and waits until there are enough. */
export class FrameLog {
  /** The frames so far. */
  readonly frames: Frame[] = [];
  #enough: { readonly count: number; readonly resolve: () => void } | undefined = undefined;

  /**
   * Sets itself as the receiver of a connection.
   *
   * @param connection The end whose frames to keep.
   */
  constructor(connection: Connection) {
    framesOf(connection).receive({
      framesEnded() {},
      receiveFrame: (frame) => {
        this.frames.push(frame);
        if (this.#enough && this.frames.length >= this.#enough.count) this.#enough.resolve();
      },
    });
  }

  /**
   * Waits until a total number of frames has arrived.
   *
   * @param count Total number of frames.
   * @returns All frames so far.
   */
  async reach(count: number): Promise<Frame[]> {
    if (this.frames.length < count) {
      const { promise, resolve } = Promise.withResolvers<void>();
      this.#enough = { count, resolve };
      await soon(promise);
    }
    return this.frames;
  }
}

/** Returns the frames of a connection. */
export function framesOf(connection: Connection): NonNullable<Connection["frames"]> {
  assert(connection.frames !== undefined, "the connection has no frames");
  return connection.frames;
}

/**
 * Reads the next item of a stream, and releases its lock.
 *
 * @returns The item.
 */
export async function next<T>(stream: ReadableStream<T>): Promise<T> {
  const reader = stream.getReader();
  try {
    const { value, done } = await soon(reader.read());
    assert(!done, "the stream ended");
    return value as T;
  } finally {
    reader.releaseLock();
  }
}

/** Reads a stream of bytes to the end. */
export async function readAll(stream: ReadableStream<Uint8Array>): Promise<Uint8Array> {
  const chunks = await soon(Array.fromAsync(stream));
  return new Uint8Array(await new Blob(chunks.map((chunk) => new Uint8Array(chunk))).arrayBuffer());
}

/** Writes bytes to a stream, then ends the stream. */
export async function writeAll(
  stream: WritableStream<Uint8Array>,
  bytes: Uint8Array,
): Promise<void> {
  const writer = stream.getWriter();
  await soon(writer.write(bytes));
  await soon(writer.close());
}
