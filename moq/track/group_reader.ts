/** A group, on the subscriber's side. */
import { checkOptions, SIGNAL } from "../../base/options/option_checks.ts";
import { ProtocolError, StreamError } from "../../errors.ts";
import type { Runtime } from "../../base/runtime.ts";
import { within } from "../../base/wait.ts";
import { MoqError, type MoqErrorName } from "../wire/errors.ts";
import { type MessageReader, TruncatedError } from "../wire/message_reader.ts";

const DONE: IteratorReturnResult<undefined> = { done: true, value: undefined };

/** The bytes of a group. */
export type GroupSource = Pick<
  MessageReader,
  "held" | "more" | "takeSized" | "message" | "varint" | "cancel"
>;

/** Collaborators and limits of a {@linkcode GroupReader}. */
export interface GroupReaderOptions {
  readonly runtime: Runtime;
  /** Frames carry timestamps. */
  readonly timestamps: boolean;
  /** The largest frame to read, in bytes. */
  readonly maxFrameBytes: number;
  /** Creates the error of a stream that the publisher ended early. */
  readonly errorOf: (error: unknown) => unknown;
  /** The number of a reason, for the publisher. */
  readonly codeOf: (reason: MoqErrorName) => number;
  /** Called once, when reading has ended; with the reason if this side cancelled the group. */
  readonly onEnd?: ((reason?: MoqErrorName) => void) | undefined;
}

/**
 * A group: the frames of one stream, in order. Use one loop per group.
 *
 * A group that the publisher aborted ends with a {@linkcode MoqError}. On transports without
 * resets, a frame that ends before its announced length means an abort; see `docs/reference/moq.md`.
 * Over Deno's QUIC the streams of a closing session appear to end cleanly: a group that was cut off
 * between two frames may look complete. If the number of frames matters, send it in the first
 * frame.
 */
export class GroupReader implements AsyncIterable<Uint8Array> {
  /** The number of the group; groups may arrive out of order, and some may be missing. */
  readonly sequence: number;

  readonly #reader: GroupSource;
  readonly #options: GroupReaderOptions;
  #timestamp: number | undefined = undefined;
  /** True while a read of the stream is pending. */
  #isReading = false;
  /** A read that was cancelled by its signal: the next call receives the frame. */
  #pending: Promise<Uint8Array | null> | undefined = undefined;
  #error: unknown = undefined;
  #isEnded = false;

  /** Called by a {@linkcode TrackReader}, or by a fetch. */
  constructor(sequence: number, reader: GroupSource, options: GroupReaderOptions) {
    this.sequence = sequence;
    this.#reader = reader;
    this.#options = options;
  }

  /**
   * The timestamp of the last read frame, in units of the track; `undefined` in versions without
   * timestamps.
   */
  get timestamp(): number | undefined {
    return this.#timestamp;
  }

  /** True once the whole group was read, or either side aborted it. */
  get isEnded(): boolean {
    return this.#isEnded;
  }

  /**
   * Reads the next frame.
   *
   * @param options A signal to end the wait; the next read then receives the frame.
   * @returns The frame, which the caller may keep; `null` at the end of the group.
   * @throws {MoqError} If the publisher aborted the group, or the session closed.
   * @throws {ProtocolError} If a frame is larger than `maxFrameBytes`.
   * @throws {TypeError} If another read of the group is pending.
   */
  readFrame(options?: { readonly signal?: AbortSignal | undefined }): Promise<Uint8Array | null> {
    const signal = options?.signal;
    try {
      if (options !== undefined) checkOptions("read frame", options, SIGNAL);
      signal?.throwIfAborted();
      if (this.#isReading && this.#pending === undefined) {
        throw new TypeError("Cannot read frame: another read of the group waits");
      }
      const frame = this.takeFrame();
      if (frame !== undefined) return Promise.resolve(frame);
    } catch (error) {
      return Promise.reject(error);
    }
    if (signal === undefined && this.#pending === undefined) return this.#readFrame();
    return this.#readWithin(signal);
  }

  /**
   * Takes the next frame if it has arrived completely.
   *
   * @returns The frame; `null` at the end of the group, `undefined` if more bytes must arrive.
   * @throws {MoqError} If the publisher aborted the group.
   */
  takeFrame(): Uint8Array | null | undefined {
    if (this.#error !== undefined) throw this.#error;
    if (this.#pending !== undefined || this.#isReading) return undefined;
    if (this.#isEnded) return null;
    // A timed frame has two parts, timestamp and bytes: if one is missing, both must wait.
    if (this.#options.timestamps) return undefined;
    try {
      return this.#reader.takeSized(this.#options.maxFrameBytes);
    } catch (error) {
      throw this.#fail(error);
    }
  }

  /** Stops reading, and notifies the publisher. Idempotent. */
  cancel(reason: MoqErrorName = "subscribeCancelled"): void {
    if (this.#isEnded) return;
    this.#end(reason);
    this.#reader.cancel({ streamErrorCode: this.#options.codeOf(reason) });
  }

  /** Yields the frames; leaving the loop early cancels the group. */
  [Symbol.asyncIterator](): AsyncIterableIterator<Uint8Array> {
    let isLeft = false;
    const iterator: AsyncIterableIterator<Uint8Array> = {
      next: async (): Promise<IteratorResult<Uint8Array, undefined>> => {
        try {
          let frame = isLeft ? null : this.takeFrame();
          if (frame === undefined) frame = await this.readFrame();
          return frame === null ? DONE : { done: false, value: frame };
        } catch (error) {
          if (isLeft) return DONE;
          throw error;
        }
      },
      return: () => {
        isLeft = true;
        this.cancel();
        return Promise.resolve(DONE);
      },
      [Symbol.asyncIterator]: () => iterator,
    };
    return iterator;
  }

  async #readWithin(signal: AbortSignal | undefined): Promise<Uint8Array | null> {
    const reading = this.#pending ?? this.#readFrame();
    this.#pending = undefined;
    try {
      return await within(this.#options.runtime, reading, { signal });
    } catch (error) {
      if (signal?.aborted) this.#pending = reading;
      throw error;
    }
  }

  async #readFrame(): Promise<Uint8Array | null> {
    const { timestamps, maxFrameBytes } = this.#options;
    this.#isReading = true;
    try {
      if (timestamps) {
        const delta = await this.#reader.varint();
        if (delta === undefined) return this.#finish();
        this.#timestamp = timestampBehind(this.#timestamp ?? 0, delta);
        const frame = await this.#reader.message(maxFrameBytes);
        if (frame === undefined) throw new TruncatedError("Expected a frame, received the end");
        return frame;
      }
      while (this.#reader.held === 0) {
        if (!await this.#reader.more()) return this.#finish();
        const frame = this.#reader.takeSized(maxFrameBytes);
        if (frame !== undefined) return frame;
      }
      return await this.#reader.message(maxFrameBytes) ?? this.#finish();
    } catch (error) {
      throw this.#fail(error);
    } finally {
      this.#isReading = false;
    }
  }

  #finish(): null {
    this.#end();
    return null;
  }

  #fail(error: unknown): unknown {
    // A cancel by this side is not a failure of the publisher.
    if (this.#isEnded && this.#error === undefined) {
      return new MoqError("group", "cancelled", `Group ${this.sequence} was cancelled`);
    }
    if (this.#error !== undefined) return this.#error;
    this.#end();
    if (error instanceof TruncatedError) {
      const message = `The publisher aborted group ${this.sequence}`;
      this.#error = new MoqError("group", "publishAborted", message, {
        cause: error,
        by: "remote",
      });
    } else {
      this.#error = this.#options.errorOf(error);
      if (!(error instanceof StreamError)) {
        this.#reader.cancel({ streamErrorCode: this.#options.codeOf(cancelReason(error)) });
      }
    }
    return this.#error;
  }

  #end(reason?: MoqErrorName): void {
    if (this.#isEnded) return;
    this.#isEnded = true;
    this.#options.onEnd?.(reason);
  }
}

/** Adds an encoded distance to the previous timestamp; the lowest bit is the sign. */
function timestampBehind(before: number, delta: number): number {
  const timestamp = before + (delta % 2 === 0 ? delta / 2 : -(delta + 1) / 2);
  if (timestamp >= 0 && Number.isSafeInteger(timestamp)) return timestamp;
  const message = `Expected a timestamp from 0 to 2^53 - 1, received ${timestamp}`;
  throw new MoqError("group", "timestampMismatch", message);
}

/** Returns the reason to cancel a group after an error. */
function cancelReason(error: unknown): MoqErrorName {
  if (error instanceof MoqError) return error.reason;
  return error instanceof ProtocolError ? "frameTooLarge" : "internal";
}
