/** The encodings of groups on streams: frames of moq-lite, with or without timestamps, and objects. */
import { varintLength, writeVarint } from "../../transport/quic/varint.ts";
import { LEADING_INTEGERS } from "./integers.ts";
import { encodeSubgroupHead } from "./ietf/subgroup.ts";
import { encodeGroupHead } from "./messages.ts";
import type { VersionTraits } from "./versions.ts";

/** Encodes a group: a head, the frames, and a mark of its end. */
export interface FrameCodec {
  /** Frames carry timestamps. */
  readonly isTimed: boolean;
  /**
   * Computes the length of the head of a frame.
   *
   * @param byteLength The length of the frame.
   * @param delta The encoded distance to the previous timestamp; 0 without timestamps.
   */
  headLength(byteLength: number, delta: number): number;
  /** Writes the head of a frame; returns the offset of the frame. */
  writeHead(target: Uint8Array, at: number, byteLength: number, delta: number): number;
  /** Encodes the head of a group's stream. */
  groupHead(id: number, sequence: number): Uint8Array;
  /** Marks a complete group before the end of the stream; empty if the end suffices. */
  readonly end: Uint8Array;
  /**
   * Marks an aborted group before the end of the stream, on transports without resets; empty if a
   * missing `end` suffices.
   */
  readonly torn: Uint8Array;
}

const NOTHING = new Uint8Array(0);

const liteHead = (subscribeId: number, sequence: number) =>
  encodeGroupHead({ subscribeId, sequence });

/** A length before each frame. */
export const PLAIN_FRAMES: FrameCodec = {
  isTimed: false,
  headLength: (byteLength) => varintLength(byteLength),
  writeHead: (target, at, byteLength) => writeVarint(target, at, byteLength),
  groupHead: liteHead,
  end: NOTHING,
  // A length of two, but only one byte: without any byte, gomoqt treats the group as complete.
  torn: Uint8Array.of(2, 0),
};

/** A distance to the previous timestamp and a length before each frame. */
export const TIMED_FRAMES: FrameCodec = {
  isTimed: true,
  headLength: (byteLength, delta) => varintLength(delta) + varintLength(byteLength),
  writeHead: (target, at, byteLength, delta) =>
    writeVarint(target, writeVarint(target, at, delta), byteLength),
  groupHead: liteHead,
  end: NOTHING,
  torn: Uint8Array.of(0, 2, 0),
};

/** The object status that ends a group, after the last object. */
const END_OF_GROUP = Uint8Array.of(0, 0, 3);

/**
 * Objects of the IETF's drafts, whose numbers have no gaps. A status follows a length of 0. Deno's
 * QUIC cannot reset a stream, so a group is complete only if an object says so.
 */
export const OBJECT_FRAMES: FrameCodec = {
  isTimed: false,
  headLength: (byteLength) => byteLength === 0 ? 3 : 1 + LEADING_INTEGERS.length(byteLength),
  writeHead(target, at, byteLength) {
    target[at] = 0; // The number after that of the previous object.
    const next = LEADING_INTEGERS.write(target, at + 1, byteLength);
    if (byteLength > 0) return next;
    target[next] = 0;
    return next + 1;
  },
  groupHead: encodeSubgroupHead,
  end: END_OF_GROUP,
  torn: NOTHING,
};

/** Returns the encoding of a version. */
export function framesOf({ setup, timestamps }: VersionTraits): FrameCodec {
  if (setup === "control") return OBJECT_FRAMES;
  return timestamps ? TIMED_FRAMES : PLAIN_FRAMES;
}
