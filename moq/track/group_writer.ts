/** A group, on the publisher's side. */
import type { OptionKinds } from "../../base/options/options.ts";
import { checkOptions, integer } from "../../base/options/option_checks.ts";
import type { Runtime } from "../../base/runtime.ts";
import { within } from "../../base/wait.ts";
import { describe } from "../../base/error_text.ts";
import type { DirectWritable } from "../../transport/connection.ts";
import type { MoqErrorName } from "../wire/errors.ts";
import type { FrameCodec } from "../wire/frames.ts";
import { MoqError } from "../wire/errors.ts";
import { type EncodedSource, FrameBuffer, type WriteBuffers } from "./frame_buffer.ts";

export type { EncodedSource } from "./frame_buffer.ts";

/** The result of a write that has room, shared by all frames. */
const ROOM: Promise<void> = Promise.resolve();

/** The number of bytes that a group buffers before its writer must wait. */
export const GROUP_HIGH_WATER_BYTES = 65_536;

/** Collaborators of a {@linkcode GroupWriter}, shared by all groups of a track. */
export interface GroupWriterOptions {
  readonly runtime: Runtime;
  /** The encoding of the group. */
  readonly frames: FrameCodec;
  /** The transport reports a reset to the peer. */
  readonly resets: boolean;
  /** Memory for waiting frames. */
  readonly buffers: WriteBuffers;
  /** Creates the error of a stream that the subscriber ended. */
  readonly errorOf: (error: unknown) => unknown;
  /** The number of a reason, for the subscriber. */
  readonly codeOf: (reason: MoqErrorName) => number;
  /** Called once, when the publisher closes a group. */
  readonly onClosing?: (() => void) | undefined;
  /** Called once; without an error after the connection has accepted all bytes. */
  readonly onEnd: (group: GroupWriter, error?: unknown) => void;
  /** Called once, when the connection no longer holds the group. */
  readonly onReleased?: (() => void) | undefined;
}

/** The options of one frame. */
export interface WriteFrameOptions {
  /**
   * Capture time of the frame in units of the track's timescale, in versions with timestamps; by
   * default the time of writing, in milliseconds.
   */
  readonly timestamp?: number | undefined;
  /** Ends the wait for room. The frame is sent anyway, unless the group is aborted. */
  readonly signal?: AbortSignal | undefined;
}

export const WRITE_FRAME: OptionKinds<WriteFrameOptions> = {
  signal: "AbortSignal",
  // Can be encoded, and so can the distance to any other timestamp.
  timestamp: integer(0, 2 ** 52 - 1),
};

/**
 * Writes the frames of one group. Frames written in one turn of the event loop are sent together.
 *
 * An aborted group ends with a reset if the transport supports resets; otherwise with a frame that
 * ends before its announced length, so that the group never looks complete.
 */
export class GroupWriter implements AsyncDisposable {
  /** The number of the group. */
  readonly sequence: number;
  /**
   * The previous group in the list of the track.
   *
   * @ignore
   */
  previous: GroupWriter | undefined = undefined;
  /**
   * The next group in the list of the track.
   *
   * @ignore
   */
  next: GroupWriter | undefined = undefined;

  /**
   * True if all earlier groups are sent first, in either order of the subscription.
   *
   * @ignore
   */
  isBehind = false;

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
  #code = 0;
  #isReleased = false;
  #source: EncodedSource | undefined = undefined;

  /** Called by a {@linkcode TrackWriter}. */
  constructor(sequence: number, head: Uint8Array, options: GroupWriterOptions) {
    this.sequence = sequence;
    this.#options = options;
    this.#waiting = new FrameBuffer(head, options);
    this.#ended.promise.catch(() => {});
  }

  /** Written bytes that the connection has not accepted yet. */
  get bufferedBytes(): number {
    return this.#waiting.byteLength + this.#inFlight;
  }

  /** True once the group was closed, or aborted by either side. */
  get isEnded(): boolean {
    return this.#state !== "open";
  }

  /**
   * Resolves once the group was closed and the connection has accepted all bytes; rejects if either
   * end aborts the group.
   */
  get closed(): Promise<void> {
    return this.#ended.promise;
  }

  /** True once the publisher has closed the group: it is complete, unless the delivery fails. */
  get isClosed(): boolean {
    return this.#isClosed;
  }

  /** The priority of the stream: higher values are sent first. */
  set sendOrder(value: number) {
    this.#sendOrder = value;
    if (this.#stream?.sendOrder !== undefined) this.#stream.sendOrder = value;
  }

  /**
   * Adds a frame.
   *
   * @param frame The frame. Its bytes are copied, so you may change them once this method has
   * returned.
   * @param options See {@linkcode WriteFrameOptions}.
   * @returns Resolves immediately or, if more than 64 KiB are waiting, once the connection has
   * accepted some of them.
   * @throws {MoqError} If the subscriber cancelled the group, or this side aborted it.
   * @throws {TypeError} If the group was closed, or the frame is not a `Uint8Array`.
   * @throws {RangeError} If the timestamp is not an integer from 0 to 2^52 - 1.
   */
  writeFrame(frame: Uint8Array, options?: WriteFrameOptions): Promise<void> {
    const fault = this.#faultOf(frame, options);
    if (fault !== undefined) return Promise.reject(fault);
    this.#waiting.append(frame, options?.timestamp);
    const room = this.#push();
    const signal = options?.signal;
    return signal === undefined ? room : within(this.#options.runtime, room, { signal });
  }

  /**
   * Ends the group after the written frames. Idempotent.
   *
   * @returns Resolves once the connection has accepted all bytes.
   * @throws {MoqError} If the subscriber has cancelled the group.
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
   * Aborts the group. Idempotent.
   *
   * @param reason The reason for the subscriber.
   */
  abort(reason: MoqErrorName = "publishAborted"): void {
    const moqCode = this.#options.codeOf(reason);
    const message = `Group ${this.sequence} was aborted`;
    this.#giveUp(new MoqError("group", reason, message, { moqCode }), moqCode);
  }

  /** Closes the group; called by `await using`. */
  async [Symbol.asyncDispose](): Promise<void> {
    // `writeFrame()` or `closed` has already reported the error.
    await this.close().catch(() => {});
  }

  /**
   * Takes the frames from a source instead of `writeFrame()`; the group ends with the source.
   *
   * @ignore
   */
  pullFrom(source: EncodedSource): void {
    this.#source = source;
    this.#flush();
  }

  /**
   * Called when the source has more frames, or ended.
   *
   * @ignore
   */
  wake(): void {
    this.#flush();
  }

  /**
   * Called in place of `wake` for each of many frames: those of one turn of the event loop are sent
   * together.
   *
   * @ignore
   */
  wakeSoon(): void {
    // The end of a write in flight wakes the group, and so does the opening of the stream.
    if (this.#isScheduled || this.#inFlight > 0 || this.#stream === undefined) return;
    this.#isScheduled = true;
    this.#options.runtime.schedule(() => {
      this.#isScheduled = false;
      this.#flush();
    });
  }

  /**
   * Sets the stream, once opened.
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
   * Called if no stream could be opened.
   *
   * @ignore
   */
  failToOpen(error: unknown): void {
    this.fail(error);
    this.#release();
  }

  /**
   * Ends the group with the subscription.
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
    if (this.#stream === undefined) return; // `attach` ends the stream.
    this.#cut(this.#stream, isFinishing);
  }

  /** Ends the stream so that the group does not look complete. */
  #cut(stream: DirectWritable, isFinishing = false): void {
    const { resets, frames } = this.#options;
    // After the end of the stream no truncated frame can be written.
    if (resets || isFinishing) {
      stream.abort({ streamErrorCode: this.#code });
      // Without resets the connection keeps unsent bytes; the pending close of the stream releases
      // the source.
      return resets ? this.#release() : undefined;
    }
    // A mark of an incomplete group, after the bytes in flight.
    stream.write(this.#waiting.withHead(frames.torn))
      .then(() => stream.close()).catch(() => {}) // The subscriber may have left.
      .then(() => this.#release());
  }

  #faultOf(frame: Uint8Array, options: WriteFrameOptions | undefined): unknown {
    if (this.#error !== undefined) return this.#error;
    if (this.#state !== "open") return new TypeError("Cannot write frame: the group is closed");
    if (!(frame instanceof Uint8Array)) {
      return new TypeError(
        `Cannot write frame: it must be a Uint8Array, received ${describe(frame)}`,
      );
    }
    try {
      if (options !== undefined) checkOptions("write frame", options, WRITE_FRAME);
      return undefined;
    } catch (error) {
      return error;
    }
  }

  #push(): Promise<void> {
    this.wakeSoon();
    if (this.bufferedBytes <= GROUP_HIGH_WATER_BYTES) return ROOM;
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
      // The head is sent with the first frame.
      else if (this.#waiting.hasOnlyHead) return;
    }
    if (this.#state === "closing") this.#waiting.appendEnd();
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
        // The group may have been aborted in the meantime.
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
    if (this.#isReleased) return;
    this.#isReleased = true;
    this.#options.onReleased?.();
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
