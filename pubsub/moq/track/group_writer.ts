/**
 * A group, as a publisher writes it.
 *
 * @module
 */
import { describe } from "../../../session/wire/envelope.ts";
import type { DirectWritable } from "../../../transport/connection.ts";
import { within } from "../../../transport/within.ts";
import { type EncodedSource, FrameBuffer } from "./_frame_buffer.ts";
import { tornFrame } from "./torn_frame.ts";
import type { MoqErrorName } from "../wire/error_codes.ts";
import { MoqError } from "../wire/errors.ts";
import type { WriteBuffers } from "./write_buffers.ts";

export type { EncodedSource } from "./_frame_buffer.ts";

/** What a group holds before its writer has to wait, in bytes. */
export const GROUP_HIGH_WATER_BYTES = 65_536;

/** What a group needs of its track; all groups of a track have the same. */
export interface GroupWriterOptions {
  /** Frames carry timestamps. */
  readonly timestamps: boolean;
  /** The wire tells the peer of a reset. */
  readonly resets: boolean;
  /** Memory for what waits. */
  readonly buffers: WriteBuffers;
  /** Calls back at the end of this turn of the event loop. */
  readonly schedule: (callback: () => void) => void;
  /** Makes the error of a stream that the subscriber ended. */
  readonly errorOf: (error: unknown) => unknown;
  /** The number of a reason, for the subscriber. */
  readonly codeOf: (reason: MoqErrorName) => number;
  /** Called once, when the publisher closes a group. */
  readonly onClosing?: () => void;
  /** Called once: without an error after all was handed to the wire. */
  readonly onEnd: (group: GroupWriter, error?: unknown) => void;
}

/** How to write one frame. */
export interface WriteFrameOptions {
  /**
   * When the frame was taken, in units of the track's timescale, on versions that carry it; the
   * time of writing, in milliseconds, by default.
   */
  readonly timestamp?: number;
  /** Gives up waiting for room. The frame goes out all the same, unless the group is given up. */
  readonly signal?: AbortSignal;
}

/**
 * Writes the frames of one group. What is written in one turn of the event loop goes out together.
 *
 * A group that is given up ends with a reset where the wire has that; elsewhere with a frame that ends
 * before its length, so that it never looks like a whole one.
 */
export class GroupWriter implements AsyncDisposable {
  /** The number of the group. */
  readonly sequence: number;
  /**
   * Its neighbour in the list of its track.
   *
   * @ignore
   */
  previous: GroupWriter | undefined = undefined;
  /**
   * See `previous`.
   *
   * @ignore
   */
  next: GroupWriter | undefined = undefined;

  readonly #options: GroupWriterOptions;
  #stream: DirectWritable | undefined = undefined;
  readonly #waiting: FrameBuffer;
  #isClosed = false;
  #inFlight = 0;
  #drained: PromiseWithResolvers<void> | undefined = undefined;
  readonly #ended: PromiseWithResolvers<void> = Promise.withResolvers();
  #error: unknown = undefined;
  #state: "open" | "closing" | "finishing" | "over" = "open";
  #isScheduled = false;
  #sendOrder: number | undefined = undefined;
  /** The number with which it was given up. */
  #code = 0;
  #source: EncodedSource | undefined = undefined;

  /** Is made by a {@linkcode TrackWriter}. */
  constructor(sequence: number, head: Uint8Array, options: GroupWriterOptions) {
    this.sequence = sequence;
    this.#options = options;
    this.#waiting = new FrameBuffer(head, options);
    this.#ended.promise.catch(() => {});
  }

  /** Bytes that were written and that the wire did not take yet. */
  get bufferedBytes(): number {
    return this.#waiting.byteLength + this.#inFlight;
  }

  /** Whether it was closed, or given up by either end. */
  get isEnded(): boolean {
    return this.#state !== "open";
  }

  /**
   * Resolves once it was closed and all was handed to the wire; rejects when either end gives it up.
   */
  get closed(): Promise<void> {
    return this.#ended.promise;
  }

  /** Whether the publisher closed it: nothing is missing, unless it fails on its way. */
  get isClosed(): boolean {
    return this.#isClosed;
  }

  /** Higher goes first. */
  set sendOrder(value: number) {
    this.#sendOrder = value;
    if (this.#stream?.sendOrder !== undefined) this.#stream.sendOrder = value;
  }

  /**
   * Adds a frame.
   *
   * @param frame The frame; it is copied, and may be changed as soon as this returns.
   * @param options See {@linkcode WriteFrameOptions}.
   * @returns Resolves at once, or, above 64 KiB that wait, once the wire took some.
   * @throws {MoqError} If the subscriber does not want it any more, or the group was given up here.
   * @throws {TypeError} If the group was closed, or the frame is no `Uint8Array`.
   * @throws {RangeError} If the timestamp is not an integer from 0 to 2^52 - 1.
   */
  writeFrame(frame: Uint8Array, options: WriteFrameOptions = {}): Promise<void> {
    const fault = this.#faultOf(frame, options.timestamp);
    if (fault !== undefined) return Promise.reject(fault);
    this.#waiting.append(frame, options.timestamp);
    const room = this.#push();
    return options.signal === undefined ? room : within(room, { signal: options.signal });
  }

  /**
   * Ends the group after what was written. Idempotent.
   *
   * @returns Resolves once all was handed to the wire.
   * @throws {MoqError} If the subscriber gave it up before.
   */
  close(): Promise<void> {
    if (this.#state === "open") {
      this.#state = "closing";
      this.#isClosed = true;
      this.#options.onClosing?.();
      this.#flush();
    }
    return this.#ended.promise;
  }

  /**
   * Gives the group up. Idempotent.
   *
   * @param reason Why.
   */
  abort(reason: MoqErrorName = "publishAborted"): void {
    const moqCode = this.#options.codeOf(reason);
    const message = `Group ${this.sequence} was given up`;
    this.#giveUp(new MoqError("group", reason, message, { moqCode }), moqCode);
  }

  /** Closes the group; called by `await using`. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.close().catch(() => {}); // Who wrote was told.
  }

  /**
   * Takes its frames from a source, instead of `writeFrame()`; it ends where that ends.
   *
   * @ignore
   */
  pullFrom(source: EncodedSource): void {
    this.#source = source;
    this.#flush();
  }

  /**
   * The source has more, or ended.
   *
   * @ignore
   */
  wake(): void {
    this.#flush();
  }

  /**
   * Gets its stream, once there is one.
   *
   * @ignore
   */
  attach(stream: DirectWritable): void {
    this.#stream = stream;
    if (this.#state === "over") return this.#cut(stream);
    if (this.#sendOrder !== undefined) this.sendOrder = this.#sendOrder;
    this.#flush();
  }

  /**
   * There will be no stream.
   *
   * @ignore
   */
  failToOpen(error: unknown): void {
    this.fail(error);
    this.#release();
  }

  /**
   * Ends it with its subscription.
   *
   * @ignore
   */
  fail(error: unknown): void {
    this.#giveUp(error, this.#options.codeOf("subscribeCancelled"));
  }

  #giveUp(error: unknown, code: number): void {
    if (this.#state === "over") return;
    const isFinishing = this.#state === "finishing";
    this.#code = code;
    this.#fail(error);
    if (this.#stream === undefined) return; // `attach` ends it.
    this.#cut(this.#stream, isFinishing);
  }

  /** Ends the stream so that the group does not look whole. */
  #cut(stream: DirectWritable, isFinishing = false): void {
    const { resets, timestamps } = this.#options;
    // Behind the end nothing can be written.
    if (resets || isFinishing) {
      stream.abort({ streamErrorCode: this.#code });
      // Without resets the wire holds what it did not take yet, and tells when it let go.
      return resets ? this.#release() : undefined;
    }
    // A length without its frame, behind what is on its way: a promise that is not kept.
    stream.write(this.#waiting.behindHead(tornFrame(timestamps)))
      .then(() => stream.close()).catch(() => {}) // The subscriber may have left.
      .then(() => this.#release());
  }

  #faultOf(frame: Uint8Array, timestamp: number | undefined): unknown {
    if (this.#error !== undefined) return this.#error;
    if (this.#state !== "open") return new TypeError("Cannot write frame: the group is closed");
    if (!(frame instanceof Uint8Array)) {
      return new TypeError(
        `Cannot write frame: it must be a Uint8Array, received ${describe(frame)}`,
      );
    }
    if (timestamp === undefined || isTimestamp(timestamp)) return undefined;
    return new RangeError(
      `Cannot write frame: its timestamp must be an integer from 0 to 2^52 - 1, received ${timestamp}`,
    );
  }

  #push(): Promise<void> {
    if (!this.#isScheduled && this.#inFlight === 0 && this.#stream !== undefined) {
      this.#isScheduled = true;
      this.#options.schedule(() => {
        this.#isScheduled = false;
        this.#flush();
      });
    }
    if (this.bufferedBytes <= GROUP_HIGH_WATER_BYTES) return Promise.resolve();
    if (this.#inFlight === 0) this.#flush();
    return (this.#drained ??= Promise.withResolvers()).promise;
  }

  #flush(): void {
    if (this.#stream === undefined || this.#inFlight > 0) return;
    if (this.#state !== "open" && this.#state !== "closing") return;
    const source = this.#source;
    if (source !== undefined && this.#state === "open") {
      this.#waiting.pull(source);
      if (source.isAtEnd) this.#state = "closing";
      // The head goes out with the first frame.
      else if (this.#waiting.isBare) return;
    }
    if (this.#waiting.byteLength > 0) this.#write();
    if (this.#state === "closing") this.#close();
  }

  #write(): void {
    const { bytes, buffer } = this.#waiting.take();
    this.#inFlight = bytes.byteLength;
    this.#stream?.write(bytes).then(
      () => {
        if (buffer !== undefined) this.#options.buffers.give(buffer);
        this.#inFlight = 0;
        if (this.#state === "over") return;
        this.#flush();
        if (this.bufferedBytes <= GROUP_HIGH_WATER_BYTES) {
          this.#drained?.resolve();
          this.#drained = undefined;
        }
      },
      (error) => {
        this.#fail(this.#options.errorOf(error));
        this.#release();
      },
    );
  }

  #close(): void {
    this.#state = "finishing";
    this.#stream!.close().then(
      () => {
        // It may have been given up meanwhile.
        if (this.#state !== "over") {
          this.#state = "over";
          this.#ended.resolve();
          this.#options.onEnd(this);
        }
        this.#release();
      },
      (error) => {
        this.#fail(this.#options.errorOf(error));
        this.#release();
      },
    );
  }

  #release(): void {
    const source = this.#source;
    this.#source = undefined;
    source?.released();
  }

  #fail(error: unknown): void {
    if (this.#error !== undefined || this.#state === "over") return;
    this.#error = error;
    this.#state = "over";
    this.#drained?.promise.catch(() => {});
    this.#drained?.reject(error);
    this.#ended.reject(error);
    this.#options.onEnd(this, error);
  }
}

/** A timestamp, and its distance to any other, can be written. */
function isTimestamp(value: number): boolean {
  return Number.isInteger(value) && value >= 0 && value < 2 ** 52;
}
