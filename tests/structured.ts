/**
 * Shared helpers for tests of typed messages: a stream that the test controls, and a second
 * implementation of the framing.
 *
 * @module
 */
import { assertInstanceOf, assertRejects } from "@std/assert";
import { z } from "zod";
import { SkeinError, StreamError } from "../errors.ts";
import type { Codec } from "../session/streams/codec.ts";
import type { Registry } from "../session/streams/registry.ts";
import { internals } from "../session/core.ts";
import type { Session } from "../session/session.ts";
import type { StandardSchema } from "../base/standard_schema.ts";
import { type StructuredStream, structuredStream } from "../session/streams/structured.ts";
import type { StructuredStreamOptions } from "../session/streams/structured_options.ts";
import type { BidirectionalStream, DirectStream } from "../transport/connection.ts";
import { soon } from "./waiting.ts";

const encoder = new TextEncoder();

/** The end record of a stream between two sides that agreed on end records. */
export const END_MARK: Uint8Array<ArrayBuffer> = Uint8Array.of(0xff, 0xff, 0, 0, 0, 0);

/**
 * Frames a message of a stream.
 *
 * @param type The number of the type.
 * @param payload Bytes, or a value to encode as JSON.
 * @param claimed The length declared in the head; the actual length by default.
 * @returns The head and the payload.
 */
export function framed(type: number, payload: unknown, claimed?: number): Uint8Array<ArrayBuffer> {
  const body = payload instanceof Uint8Array ? payload : encoder.encode(JSON.stringify(payload));
  const bytes = new Uint8Array(6 + body.length);
  const view = new DataView(bytes.buffer);
  view.setUint16(0, type);
  view.setUint32(2, claimed ?? body.length);
  bytes.set(body, 6);
  return bytes;
}

export function joined(...parts: Uint8Array[]): Uint8Array<ArrayBuffer> {
  return new Uint8Array(parts.flatMap((part) => [...part]));
}

/**
 * A stream whose other side is the test: the test supplies the data to read, and inspects what is
 * written.
 */
export class HandStream implements BidirectionalStream, DirectStream {
  /** The writes, one item per call. */
  readonly written: Uint8Array[] = [];
  /**
   * The results of the next reads: bytes, an error, or the end. A read waits if there is no item.
   */
  readonly incoming: (Uint8Array | Error | null)[];
  /** Number of requested chunks. */
  reads = 0;
  /** True after this side has closed the writing direction. */
  isClosed = false;
  /** The codes of cancelled directions. */
  readonly cancelled: (number | undefined)[] = [];
  /** See {@linkcode HandStream.cancelled}. */
  readonly aborted: (number | undefined)[] = [];
  /** Writes wait for this promise, if set. */
  gate: Promise<void> | undefined;
  #waiting: ((bytes: null) => void) | undefined;

  /** Creates a stream from a list of reads. */
  constructor(...incoming: (Uint8Array | Error | null)[]) {
    this.incoming = incoming;
  }

  /** The same stream, by direct calls. */
  readonly direct: DirectStream = this;

  /** Not used, because `direct` is set. */
  get readable(): ReadableStream<Uint8Array> {
    throw new Error("The stream has direct calls");
  }

  /** Not used, because `direct` is set. */
  get writable(): WritableStream<Uint8Array> {
    throw new Error("The stream has direct calls");
  }

  /** Returns the next chunk. */
  read(): Promise<Uint8Array | null> {
    this.reads++;
    const next = this.incoming.shift();
    if (next instanceof Error) return Promise.reject(next);
    if (next !== undefined) return Promise.resolve(next);
    return new Promise((resolve) => this.#waiting = resolve);
  }

  async write(bytes: Uint8Array): Promise<void> {
    this.written.push(bytes.slice());
    await this.gate;
  }

  close(): Promise<void> {
    this.isClosed = true;
    return Promise.resolve();
  }

  /** Records the cancellation, and ends a waiting read. */
  cancel(reason?: unknown): void {
    this.cancelled.push(reason instanceof StreamError ? reason.streamErrorCode : undefined);
    this.#waiting?.(null);
  }

  abort(reason?: unknown): void {
    this.aborted.push(reason instanceof StreamError ? reason.streamErrorCode : undefined);
  }
}

/** Message types that the tests share. */
export const registry = {
  1: z.object({ x: z.number(), note: z.string().default("none") }),
  2: z.string(),
  40_000: z.null(),
};

export type TestRegistry = typeof registry;

/** A schema that accepts every value. */
export const anything: StandardSchema = {
  "~standard": { version: 1, vendor: "test", validate: (value) => ({ value }) },
};

/** A codec that returns bytes unchanged. */
export const bytesCodec: Codec = {
  name: "bytes",
  encode: (value) => value as Uint8Array,
  decode: (bytes) => bytes,
};

/**
 * Wraps a stream that the test controls in typed messages. It provides only the part of a session
 * that this needs.
 */
export async function byHand<R extends Registry = TestRegistry>(
  stream: HandStream,
  options: Partial<StructuredStreamOptions<R>> & { protocol?: string } = {},
): Promise<StructuredStream<R>> {
  const { protocol = "skein.1", ...rest } = options;
  const inTime = <T>(_what: string, checked: Promise<T>) => checked;
  const session = {
    connection: { protocol },
    [internals]: { inTime },
  } as unknown as Session;
  return await structuredStream(session, {
    ...{ registry: registry as unknown as R, ...rest, stream },
  });
}

/** Accepts the stream that the other side opened. */
export async function accept(session: Session): Promise<StructuredStream<TestRegistry>> {
  const reader = session.connection.incomingBidirectionalStreams.getReader();
  const { value } = await soon(reader.read());
  reader.releaseLock();
  return await structuredStream(session, { registry, stream: value! });
}

/** Returns the error of a loop over messages. */
export async function failureOf(stream: AsyncIterable<unknown>): Promise<SkeinError> {
  const error = await soon(assertRejects(() => Array.fromAsync(stream)));
  assertInstanceOf(error, SkeinError);
  return error;
}
