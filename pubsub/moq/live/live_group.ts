/**
 * A group of a live track, as its producer writes it.
 *
 * @module
 */
import { describe } from "../../../session/wire/envelope.ts";
import type { MoqErrorName } from "../wire/error_codes.ts";
import { MoqError } from "../wire/errors.ts";
import {
  type EncodedSource,
  GROUP_HIGH_WATER_BYTES,
  type GroupWriter,
  type WriteFrameOptions,
} from "../track/group_writer.ts";
import { varintLength, writeVarint } from "../../../transport/quic/varint.ts";

/** A frame, and when it was taken. */
interface TimedFrame {
  /** The frame. */
  readonly bytes: Uint8Array;
  /** When it was taken, in units of the track's timescale. */
  readonly timestamp: number;
}

/** Frames of one group that were written in one turn of the event loop. */
export class FrameBatch {
  /** Bytes of its first encoding. */
  readonly byteLength: number;

  readonly #lengths: readonly number[];
  readonly #timestamps: readonly number[];
  readonly #before: number;
  #plain: Uint8Array | undefined = undefined;
  #timed: Uint8Array | undefined = undefined;

  /**
   * Encodes frames.
   *
   * @param frames The frames; they are copied.
   * @param before The timestamp of the frame before them; 0 if they are the first of their group.
   * @param timestamps Whether to encode timestamps at once; without, when they are asked for.
   */
  constructor(frames: readonly TimedFrame[], before: number, timestamps: boolean) {
    this.#lengths = frames.map(({ bytes }) => bytes.byteLength);
    this.#timestamps = frames.map(({ timestamp }) => timestamp);
    this.#before = before;
    const encoded = this.#encode(timestamps, (at) => frames[at]!.bytes);
    if (timestamps) this.#timed = encoded;
    else this.#plain = encoded;
    this.byteLength = encoded.byteLength;
  }

  /** Gives the frames as they stand on the wire, with or without timestamps. */
  encoded(timestamps: boolean): Uint8Array {
    if (timestamps) return this.#timed ??= this.#encode(true, this.#framesOf(false));
    return this.#plain ??= this.#encode(false, this.#framesOf(true));
  }

  #encode(timestamps: boolean, frameAt: (at: number) => Uint8Array): Uint8Array {
    const deltas = timestamps ? this.#deltas() : undefined;
    let size = 0;
    for (const [at, length] of this.#lengths.entries()) {
      size += varintLength(length) + length;
      if (deltas !== undefined) size += varintLength(deltas[at]!);
    }
    const bytes = new Uint8Array(size);
    let offset = 0;
    for (const [at, length] of this.#lengths.entries()) {
      if (deltas !== undefined) offset = writeVarint(bytes, offset, deltas[at]!);
      offset = writeVarint(bytes, offset, length);
      bytes.set(frameAt(at), offset);
      offset += length;
    }
    return bytes;
  }

  /** The frames inside of an encoding that is there. */
  #framesOf(timestamps: boolean): (at: number) => Uint8Array {
    const encoded = (timestamps ? this.#timed : this.#plain)!;
    const deltas = timestamps ? this.#deltas() : undefined;
    let offset = 0;
    return (at) => {
      const length = this.#lengths[at]!;
      offset += varintLength(length) + (deltas === undefined ? 0 : varintLength(deltas[at]!));
      offset += length;
      return encoded.subarray(offset - length, offset);
    };
  }

  #deltas(): number[] {
    let last = this.#before;
    return this.#timestamps.map((timestamp) => {
      const delta = timestamp - last;
      last = timestamp;
      return delta >= 0 ? delta * 2 : -delta * 2 - 1;
    });
  }
}

/** What a group needs of its track. */
export interface LiveGroupLink {
  /** Calls back at the end of this turn of the event loop. */
  readonly schedule: (callback: () => void) => void;
  /** Whether to encode timestamps at once. */
  timestamps: boolean;
  /** It has more bytes. */
  grew(byteLength: number): void;
  /** It was closed or aborted. */
  ended(): void;
}

/**
 * Writes the frames of one group of a {@linkcode LiveTrack}, for all who get it. Nothing waits: who falls
 * behind is the track's concern.
 *
 * In a page that `deno bundle --minify` made, call `close()`: the bundler of Deno 2.9 does not dispose of
 * what a `using` names, if it is named only once more.
 */
export class LiveGroup implements Disposable {
  /** The number of the group. */
  readonly sequence: number;
  /** When it was opened, in milliseconds since 1970. */
  readonly openedAt: number = Date.now();
  /**
   * Who gets it now.
   *
   * @ignore
   */
  readonly deliveries: Set<Delivery> = new Set();

  readonly #link: LiveGroupLink;
  readonly #batches: FrameBatch[] = [];
  #trimmed = 0;
  #pending: TimedFrame[] = [];
  #pendingBytes = 0;
  #byteLength = 0;
  #lastTimestamp = 0;
  #isScheduled = false;
  #state: "open" | "closed" | "aborted" = "open";
  #reason: MoqErrorName = "publishAborted";

  /** Is made by {@linkcode LiveTrack.openGroup}. */
  constructor(sequence: number, link: LiveGroupLink) {
    this.sequence = sequence;
    this.#link = link;
  }

  /** Bytes that it holds. */
  get byteLength(): number {
    return this.#byteLength;
  }

  /** Whether it was closed, and is whole. */
  get isClosed(): boolean {
    return this.#state === "closed";
  }

  /** Whether it was given up: by its producer, or because it grew too old. */
  get isAborted(): boolean {
    return this.#state === "aborted";
  }

  /** Whether nothing more can be written. */
  get isEnded(): boolean {
    return this.#state !== "open";
  }

  /**
   * Whether who begins now gets all of it.
   *
   * @ignore
   */
  get isWhole(): boolean {
    return this.#trimmed === 0 && !this.isAborted;
  }

  /**
   * The place behind the last batch.
   *
   * @ignore
   */
  get endBatch(): number {
    return this.#trimmed + this.#batches.length;
  }

  /**
   * Adds a frame. It goes out at the end of this turn of the event loop, with the others of the turn.
   *
   * @param frame The frame; it MUST NOT be changed afterwards.
   * @param options See {@linkcode WriteFrameOptions}.
   * @throws {MoqError} If the group was given up, as by its track when it is too old.
   * @throws {TypeError} If it is closed, or the frame is no `Uint8Array`.
   * @throws {RangeError} If the timestamp is not an integer from 0 to 2^52 - 1.
   */
  writeFrame(frame: Uint8Array, options: WriteFrameOptions = {}): void {
    if (this.#state === "aborted") {
      throw new MoqError("group", this.#reason, `Group ${this.sequence} was given up`);
    }
    if (this.#state === "closed") {
      throw new TypeError("Cannot write frame: the group is closed");
    }
    const { timestamp = Date.now() } = options;
    if (!(frame instanceof Uint8Array)) {
      throw new TypeError(
        `Cannot write frame: it must be a Uint8Array, received ${describe(frame)}`,
      );
    }
    if (!Number.isInteger(timestamp) || timestamp < 0 || timestamp >= 2 ** 52) {
      throw new RangeError(
        `Cannot write frame: its timestamp must be an integer from 0 to 2^52 - 1, received ${timestamp}`,
      );
    }
    this.#pending.push({ bytes: frame, timestamp });
    this.#pendingBytes += frame.byteLength;
    if (this.#pendingBytes >= GROUP_HIGH_WATER_BYTES) return this.#flush();
    if (this.#isScheduled) return;
    this.#isScheduled = true;
    this.#link.schedule(() => {
      this.#isScheduled = false;
      if (this.#state === "open") this.#flush();
    });
  }

  /** Ends the group after what was written. Idempotent. */
  close(): void {
    if (this.#state !== "open") return;
    this.#encode();
    if (this.isEnded) return; // It grew too large.
    this.#state = "closed";
    this.#wakeAll();
    this.#link.ended();
  }

  /**
   * Gives the group up: who gets it is told. Idempotent.
   *
   * @param reason Why.
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
   * Lets go of what it holds: nobody gets it any more.
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
   * Lets go of its oldest frames: who did not take them yet does not get it any more.
   *
   * @ignore
   */
  trim(maxBytes: number): void {
    let count = 0;
    let byteLength = 0;
    // The newest batch stays: it is on its way to everybody.
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
   * Reads the frames at a place, as they stand on the wire.
   *
   * @ignore
   */
  batch(at: number, timestamps: boolean): Uint8Array | undefined {
    this.#link.timestamps = timestamps;
    return this.#batches[at - this.#trimmed]?.encoded(timestamps);
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
    const batch = new FrameBatch(frames, this.#lastTimestamp, this.#link.timestamps);
    this.#lastTimestamp = frames.at(-1)!.timestamp;
    this.#batches.push(batch);
    this.#byteLength += batch.byteLength;
    this.#link.grew(batch.byteLength);
  }

  #wakeAll(): void {
    for (const { writer } of this.deliveries) writer?.wake();
  }
}

/** Who gets a group. */
export interface DeliveryOwner {
  /** The wire took something. */
  progressed(): void;
  /** The wire holds nothing of the group any more. */
  released(delivery: Delivery): void;
  /** The group is not to be had any more. */
  giveUp(delivery: Delivery, reason: MoqErrorName): void;
}

/** Reads a group at the pace of one subscriber; holds nothing of it but a place. */
export class Delivery implements EncodedSource {
  /** The group. */
  readonly group: LiveGroup;
  /** Its stream; `undefined` while it waits for a place among those in flight. */
  writer: GroupWriter | undefined = undefined;
  /** Nothing more of the group is read. */
  isGivenUp = false;

  readonly #owner: DeliveryOwner;
  #next = 0;
  #isInWire = false;

  /** Begins at the first frame. */
  constructor(group: LiveGroup, owner: DeliveryOwner) {
    this.group = group;
    this.#owner = owner;
    group.deliveries.add(this);
  }

  /** The place of the first batch that was not read. */
  get next(): number {
    return this.#next;
  }

  /** Whether all was read, and the group is closed. */
  get isAtEnd(): boolean {
    return this.group.isClosed && this.#next >= this.group.endBatch;
  }

  /** Whether the subscriber could have something that it did not take. */
  get isBehind(): boolean {
    return this.#isInWire || this.#next < this.group.endBatch || this.group.isClosed;
  }

  /** See {@linkcode EncodedSource}. */
  pull(into: Uint8Array[], timestamps: boolean): number {
    if (this.#isInWire) this.#owner.progressed();
    let byteLength = 0;
    while (byteLength < GROUP_HIGH_WATER_BYTES && !this.isGivenUp) {
      const bytes = this.group.batch(this.#next, timestamps);
      if (bytes === undefined) break;
      into.push(bytes);
      byteLength += bytes.byteLength;
      this.#next++;
    }
    this.#isInWire = byteLength > 0;
    return byteLength;
  }

  /** See {@linkcode EncodedSource}. */
  released(): void {
    this.group.deliveries.delete(this);
    this.#owner.released(this);
  }

  /** The group cannot be had any more. */
  giveUp(reason: MoqErrorName): void {
    if (this.isGivenUp) return;
    this.group.deliveries.delete(this);
    this.#owner.giveUp(this, reason);
  }
}
