/** A group of a live track, and its deliveries to subscribers. */
import { checkOptions } from "../../base/options/option_checks.ts";
import type { Runtime } from "../../base/runtime.ts";
import { describe } from "../../base/error_text.ts";
import {
  type EncodedSource,
  GROUP_HIGH_WATER_BYTES,
  type GroupWriter,
  WRITE_FRAME,
  type WriteFrameOptions,
} from "../track/group_writer.ts";
import type { MoqErrorName } from "../wire/errors.ts";
import { MoqError } from "../wire/errors.ts";
import type { FrameCodec } from "../wire/frames.ts";

/** A frame with its time of capture. */
export interface TimedFrame {
  readonly bytes: Uint8Array;
  /** The time of capture, in units of the track's timescale. */
  readonly timestamp: number;
}

interface Encoding {
  readonly frames: FrameCodec;
  readonly bytes: Uint8Array;
}

/** The frames of one group that were written in one turn of the event loop. */
export class FrameBatch {
  /** The bytes of the first encoding. */
  readonly byteLength: number;

  readonly #lengths: readonly number[];
  readonly #timestamps: readonly number[];
  readonly #before: number;
  readonly #encodings: Encoding[];

  /**
   * Encodes frames.
   *
   * @param frames The frames, which are copied.
   * @param before Timestamp of the previous frame; 0 for the first frame of a group.
   * @param codec The encoding to create immediately; others are created on demand.
   */
  constructor(frames: readonly TimedFrame[], before: number, codec: FrameCodec) {
    this.#lengths = frames.map(({ bytes }) => bytes.byteLength);
    this.#timestamps = frames.map(({ timestamp }) => timestamp);
    this.#before = before;
    const bytes = this.#encode(codec, (at) => frames[at]!.bytes);
    this.#encodings = [{ frames: codec, bytes }];
    this.byteLength = bytes.byteLength;
  }

  encoded(codec: FrameCodec): Uint8Array {
    const first = this.#encodings[0]!;
    if (first.frames === codec) return first.bytes; // Usually all subscribers have one version.
    const found = this.#encodings.find(({ frames }) => frames === codec);
    if (found !== undefined) return found.bytes;
    const bytes = this.#encode(codec, this.#framesOf(first));
    this.#encodings.push({ frames: codec, bytes });
    return bytes;
  }

  #encode(codec: FrameCodec, frameAt: (at: number) => Uint8Array): Uint8Array {
    const deltas = this.#deltas(codec);
    let size = 0;
    for (const [at, length] of this.#lengths.entries()) {
      size += codec.headLength(length, deltas?.[at] ?? 0) + length;
    }
    const bytes = new Uint8Array(size);
    let offset = 0;
    for (const [at, length] of this.#lengths.entries()) {
      offset = codec.writeHead(bytes, offset, length, deltas?.[at] ?? 0);
      bytes.set(frameAt(at), offset);
      offset += length;
    }
    return bytes;
  }

  /** Returns a reader of the frames in an existing encoding. */
  #framesOf({ frames, bytes }: Encoding): (at: number) => Uint8Array {
    const deltas = this.#deltas(frames);
    let offset = 0;
    return (at) => {
      const length = this.#lengths[at]!;
      offset += frames.headLength(length, deltas?.[at] ?? 0) + length;
      return bytes.subarray(offset - length, offset);
    };
  }

  #deltas({ isTimed }: FrameCodec): number[] | undefined {
    if (!isTimed) return undefined;
    let last = this.#before;
    return this.#timestamps.map((timestamp) => {
      const delta = timestamp - last;
      last = timestamp;
      return delta >= 0 ? delta * 2 : -delta * 2 - 1;
    });
  }
}

/** Services of the track for a group. */
export interface LiveGroupLink {
  readonly runtime: Runtime;
  /** The encoding to create immediately: the last requested one. */
  frames: FrameCodec;
  /** Called when the size of the group changes; negative if it shrinks. */
  grew(byteLength: number): void;
  /** Called when the group is closed or aborted. */
  ended(): void;
}

/**
 * Writes the frames of one group of a {@linkcode LiveTrack} for all its subscribers. Writing never
 * waits: the track handles subscribers that fall behind.
 *
 * In a page bundled by `deno bundle --minify`, call `close()`: Deno 2.9's bundler does not dispose
 * of a `using` variable that is used only once after its declaration.
 */
export class LiveGroup implements Disposable {
  /** The number of the group. */
  readonly sequence: number;
  /** The time at which the group was opened, in milliseconds since the Unix epoch. */
  readonly openedAt: number;
  /**
   * The current deliveries of the group.
   *
   * @ignore
   */
  readonly deliveries: Set<GroupDelivery> = new Set();

  readonly #link: LiveGroupLink;
  readonly #batches: FrameBatch[] = [];
  #trimmed = 0;
  #pending: TimedFrame[] = [];
  #pendingBytes = 0;
  #byteLength = 0;
  #lastTimestamp = 0;
  #frameCount = 0;
  #isScheduled = false;
  #state: "open" | "closed" | "aborted" = "open";
  #reason: MoqErrorName = "publishAborted";

  /** Created by {@linkcode LiveTrack.openGroup}. */
  constructor(sequence: number, link: LiveGroupLink) {
    this.sequence = sequence;
    this.#link = link;
    this.openedAt = link.runtime.now();
  }

  /**
   * The number of frames so far.
   *
   * @ignore
   */
  get frameCount(): number {
    return this.#frameCount;
  }

  /** The number of bytes held. */
  get byteLength(): number {
    return this.#byteLength;
  }

  /** `true` if the group was closed and is complete. */
  get isClosed(): boolean {
    return this.#state === "closed";
  }

  /** `true` if the group was aborted by its producer, or because of its age. */
  get isAborted(): boolean {
    return this.#state === "aborted";
  }

  /** `true` if the group accepts no more frames. */
  get isEnded(): boolean {
    return this.#state !== "open";
  }

  /**
   * `true` if a new delivery receives all frames.
   *
   * @ignore
   */
  get isWhole(): boolean {
    return this.#trimmed === 0 && !this.isAborted;
  }

  /**
   * The index after the last batch.
   *
   * @ignore
   */
  get endBatch(): number {
    return this.#trimmed + this.#batches.length;
  }

  /**
   * Adds a frame. It is sent at the end of this turn of the event loop, together with the turn's
   * other frames.
   *
   * @param frame The frame, which MUST NOT be changed afterwards.
   * @param options Timestamp of the frame.
   * @throws {MoqError} If the group was aborted, for example by its track because of its age.
   * @throws {TypeError} If the group is closed, or the frame is not a `Uint8Array`.
   * @throws {RangeError} If the timestamp is not an integer from 0 to 2^52 - 1.
   */
  writeFrame(frame: Uint8Array, options: WriteFrameOptions = {}): void {
    checkOptions("write frame", options, WRITE_FRAME);
    if (this.#state === "aborted") {
      throw new MoqError("group", this.#reason, `Group ${this.sequence} was aborted`);
    }
    if (this.#state === "closed") {
      throw new TypeError("Cannot write frame: the group is closed");
    }
    const { timestamp = this.#link.runtime.now() } = options;
    if (!(frame instanceof Uint8Array)) {
      throw new TypeError(
        `Cannot write frame: it must be a Uint8Array, received ${describe(frame)}`,
      );
    }
    this.#frameCount++;
    this.#pending.push({ bytes: frame, timestamp });
    this.#pendingBytes += frame.byteLength;
    if (this.#pendingBytes >= GROUP_HIGH_WATER_BYTES) return this.#flush();
    if (this.#isScheduled) return;
    this.#isScheduled = true;
    this.#link.runtime.schedule(() => {
      this.#isScheduled = false;
      if (this.#state === "open") this.#flush();
    });
  }

  /** Ends the group after the frames written so far. Idempotent. */
  close(): void {
    if (this.#state !== "open") return;
    this.#encode();
    if (this.isEnded) return; // Encoding made the group too large: the track has aborted it.
    this.#state = "closed";
    this.#wakeAll();
    this.#link.ended();
  }

  /**
   * Aborts the group; its subscribers receive the reason. Idempotent.
   *
   * @param reason The name of the error that subscribers receive.
   */
  abort(reason: MoqErrorName = "publishAborted"): void {
    if (this.#state !== "open") return;
    this.#reason = reason;
    this.#state = "aborted";
    this.evict(reason);
    this.#link.ended();
  }

  /** Closes the group; called by `using`. */
  [Symbol.dispose](): void {
    this.close();
  }

  /**
   * Drops all frames, and aborts all deliveries.
   *
   * @ignore
   */
  evict(reason: MoqErrorName): void {
    if (this.#state === "open") return this.abort(reason);
    for (const delivery of [...this.deliveries]) delivery.giveUp(reason);
    this.#pending = [];
    this.#trimmed += this.#batches.length;
    this.#batches.length = 0;
    const byteLength = this.#byteLength;
    this.#byteLength = 0;
    this.#link.grew(-byteLength);
  }

  /**
   * Drops the oldest frames, and aborts the deliveries that have not read them yet.
   *
   * @ignore
   */
  trim(maxBytes: number): void {
    let count = 0;
    let byteLength = 0;
    // Keep the newest batch, which is being sent to all subscribers.
    while (this.#byteLength - byteLength > maxBytes && count < this.#batches.length - 1) {
      byteLength += this.#batches[count++]!.byteLength;
    }
    if (count === 0) return;
    this.#batches.splice(0, count);
    this.#trimmed += count;
    this.#byteLength -= byteLength;
    this.#link.grew(-byteLength);
    for (const delivery of [...this.deliveries]) {
      if (delivery.next < this.#trimmed) delivery.giveUp("expired");
    }
  }

  /**
   * Returns a batch of encoded frames.
   *
   * @ignore
   */
  batch(at: number, frames: FrameCodec): Uint8Array | undefined {
    this.#link.frames = frames;
    return this.#batches[at - this.#trimmed]?.encoded(frames);
  }

  #flush(): void {
    this.#encode();
    this.#wakeAll();
  }

  #encode(): void {
    const frames = this.#pending;
    if (frames.length === 0) return;
    this.#pending = [];
    this.#pendingBytes = 0;
    const batch = new FrameBatch(frames, this.#lastTimestamp, this.#link.frames);
    this.#lastTimestamp = frames.at(-1)!.timestamp;
    this.#batches.push(batch);
    this.#byteLength += batch.byteLength;
    this.#link.grew(batch.byteLength);
  }

  #wakeAll(): void {
    for (const { writer } of this.deliveries) writer?.wake();
  }
}

/** Recipient of a group. */
export interface DeliveryOwner {
  /** Called when the connection has accepted data. */
  progressed(): void;
  /** Called when the connection no longer holds data of the group. */
  released(delivery: GroupDelivery): void;
  /** Called when the group can no longer be delivered. */
  giveUp(delivery: GroupDelivery, reason: MoqErrorName): void;
}

/** Reads a group at the pace of one subscriber; holds only a position, no data. */
export class GroupDelivery implements EncodedSource {
  readonly group: LiveGroup;
  /**
   * The stream of the group; `undefined` while the delivery waits for a slot among the groups in
   * flight.
   */
  writer: GroupWriter | undefined = undefined;
  /** `true` once no more of the group will be read. */
  isGivenUp = false;

  readonly #owner: DeliveryOwner;
  #next = 0;
  #isInWire = false;

  /** Starts at the first frame. */
  constructor(group: LiveGroup, owner: DeliveryOwner) {
    this.group = group;
    this.#owner = owner;
    group.deliveries.add(this);
  }

  /** The index of the first unread batch. */
  get next(): number {
    return this.#next;
  }

  /** `true` if the group is closed and all batches were read. */
  get isAtEnd(): boolean {
    return this.group.isClosed && this.#next >= this.group.endBatch;
  }

  /** `true` if there is data, or the end of the group, that the subscriber has not received. */
  get isBehind(): boolean {
    return this.#isInWire || this.#next < this.group.endBatch || this.group.isClosed;
  }

  /** Reads the next batches; called by the writer of the stream. */
  pull(into: Uint8Array[], frames: FrameCodec): number {
    if (this.#isInWire) this.#owner.progressed();
    let byteLength = 0;
    while (byteLength < GROUP_HIGH_WATER_BYTES && !this.isGivenUp) {
      const bytes = this.group.batch(this.#next, frames);
      if (bytes === undefined) break;
      into.push(bytes);
      byteLength += bytes.byteLength;
      this.#next++;
    }
    this.#isInWire = byteLength > 0;
    return byteLength;
  }

  /** Ends the delivery; called once the connection no longer holds data of the group. */
  released(): void {
    this.group.deliveries.delete(this);
    this.#owner.released(this);
  }

  /** Aborts the delivery. Idempotent. */
  giveUp(reason: MoqErrorName): void {
    if (this.isGivenUp) return;
    this.group.deliveries.delete(this);
    this.#owner.giveUp(this, reason);
  }
}
