/**
 * A video in fragmented MP4, without an encoder: H.264 whose key frames are one color without
 * compression, and whose other frames repeat the picture before.
 *
 * @see {@link https://www.itu.int/rec/T-REC-H.264 | H.264}, sections 7.3 and 9.1
 *
 * @module
 */

/** The width and height of the picture, in macroblocks of 16 pixels. */
const BLOCKS = 4;

const PIXELS = 16 * BLOCKS;

/** The number of frames from one key frame to the next. */
export const GROUP_FRAMES = 3;

/** The duration of a frame, in milliseconds, which are the video's units of time. */
export const FRAME_MS = 40;

const TRACK = 1;

/** Collects the bits of a NAL unit. */
class Bits {
  #bits = "";

  /** Adds a number in fixed width. */
  fixed(width: number, value: number): this {
    this.#bits += value.toString(2).padStart(width, "0");
    return this;
  }

  /** Adds unsigned numbers in Exp-Golomb codes; the code of a signed 0 is the same. */
  golomb(...values: readonly number[]): this {
    for (const value of values) {
      const code = (value + 1).toString(2);
      this.#bits += "0".repeat(code.length - 1) + code;
    }
    return this;
  }

  /** Adds zeros up to the next whole byte. */
  align(): this {
    this.#bits = this.#bits.padEnd(Math.ceil(this.#bits.length / 8) * 8, "0");
    return this;
  }

  /** Adds the same byte several times. */
  repeat(byte: number, count: number): this {
    this.#bits += byte.toString(2).padStart(8, "0").repeat(count);
    return this;
  }

  /** Closes the unit, and returns its bytes. */
  end(): Uint8Array {
    this.fixed(1, 1).align();
    const bytes = this.#bits.match(/.{8}/g)!.map((byte) => parseInt(byte, 2));
    return Uint8Array.from(bytes);
  }
}

/** The sequence parameter set: constrained baseline at level 1.0, output in decoding order. */
const SEQUENCE = new Bits()
  .fixed(8, 0x67).fixed(8, 0x42).fixed(8, 0xc0).fixed(8, 0x0a)
  .golomb(0, 0, 2, 1).fixed(1, 0).golomb(BLOCKS - 1, BLOCKS - 1)
  .fixed(4, 0b1100) // Frames, no cropping, no further facts.
  .end();

/** The picture parameter set, with the defaults. */
const PICTURE = new Bits()
  .fixed(8, 0x68).golomb(0, 0).fixed(2, 0).golomb(0, 0, 0).fixed(3, 0).golomb(0, 0, 0).fixed(3, 0)
  .end();

/** A key frame of one color; its bytes are never 0, so that none of them must be escaped. */
function keyFrame(at: number): Uint8Array {
  const shade = 16 + at * 37 % 200;
  // Two key frames in a row must have different numbers.
  const frame = new Bits().fixed(8, 0x65).golomb(0, 7, 0).fixed(4, 0).golomb(at % 2).fixed(2, 0);
  frame.golomb(0);
  for (let block = 0; block < BLOCKS ** 2; block++) {
    frame.golomb(25).align().repeat(shade, 256).repeat(128 + shade % 64, 128);
  }
  return frame.end();
}

/** A frame that repeats the one before. */
function repeatedFrame(number: number): Uint8Array {
  return new Bits().fixed(8, 0x41).golomb(0, 5, 0).fixed(4, number).fixed(3, 0).golomb(0)
    .golomb(BLOCKS ** 2).end();
}

type Part = Uint8Array | number | string;

/** Joins bytes, numbers of 32 bits, and texts. */
function joined(parts: readonly Part[]): Uint8Array<ArrayBuffer> {
  const bytes = parts.flatMap((part) => {
    if (part instanceof Uint8Array) return [...part];
    if (typeof part === "string") return [...new TextEncoder().encode(part)];
    return [part >>> 24, part >>> 16 & 0xff, part >>> 8 & 0xff, part & 0xff];
  });
  return Uint8Array.from(bytes);
}

function box(name: string, ...parts: readonly Part[]): Uint8Array<ArrayBuffer> {
  const body = joined(parts);
  return joined([8 + body.byteLength, name, body]);
}

const zeros = (count: number) => new Uint8Array(count);
const short = (value: number) => Uint8Array.of(value >> 8, value & 0xff);

/** No rotation and no scaling. */
const MATRIX = joined([0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x4000_0000]);

function sampleDescription(): Uint8Array {
  const configuration = box(
    "avcC",
    Uint8Array.of(1, 0x42, 0xc0, 0x0a, 0xff, 0xe1),
    ...[short(SEQUENCE.byteLength), SEQUENCE, Uint8Array.of(1)],
    ...[short(PICTURE.byteLength), PICTURE],
  );
  const entry = box(
    "avc1",
    ...[zeros(6), short(1), zeros(16), short(PIXELS), short(PIXELS)],
    ...[0x48_0000, 0x48_0000, 0, short(1), zeros(32), short(24), short(0xffff)],
    configuration,
  );
  return box("stsd", 0, 1, entry);
}

/** The initialization segment: the file type, and a track without samples. */
export function initSegment(): Uint8Array<ArrayBuffer> {
  const tables = [box("stts", 0, 0), box("stsc", 0, 0), box("stsz", 0, 0, 0), box("stco", 0, 0)];
  const media = box(
    "minf",
    box("vmhd", 1, zeros(8)),
    box("dinf", box("dref", 0, 1, box("url ", 1))),
    box("stbl", sampleDescription(), ...tables),
  );
  const track = box(
    "trak",
    box("tkhd", 3, 0, 0, TRACK, 0, 0, zeros(16), MATRIX, PIXELS << 16, PIXELS << 16),
    box(
      "mdia",
      box("mdhd", 0, 0, 0, 1_000, 0, short(0x55c4), zeros(2)),
      box("hdlr", 0, 0, "vide", zeros(12), "video\0"),
      media,
    ),
  );
  return joined([
    box("ftyp", "iso6", 0, "iso6cmfc"),
    box(
      "moov",
      box(
        "mvhd",
        0,
        0,
        0,
        1_000,
        0,
        0x10000,
        short(0x100),
        zeros(10),
        MATRIX,
        zeros(24),
        TRACK + 1,
      ),
      track,
      box("mvex", box("trex", 0, TRACK, 1, FRAME_MS, 0, 0)),
    ),
  ]);
}

/**
 * A fragment with one frame. Every {@linkcode GROUP_FRAMES | third} one is a key frame.
 *
 * @param at The number of the frame.
 */
export function fragment(at: number): Uint8Array<ArrayBuffer> {
  const inGroup = at % GROUP_FRAMES;
  const isKey = inGroup === 0;
  const frame = isKey ? keyFrame(at / GROUP_FRAMES) : repeatedFrame(inGroup);
  const sample = joined([frame.byteLength, frame]);
  const flags = isKey ? 0x200_0000 : 0x101_0000;
  const head = (offset: number) =>
    box(
      "moof",
      box("mfhd", 0, at + 1),
      box(
        "traf",
        box("tfhd", 0x2_0000, TRACK),
        box("tfdt", 0x100_0000, 0, at * FRAME_MS),
        box("trun", 0x701, 1, offset, FRAME_MS, sample.byteLength, flags),
      ),
    );
  return joined([head(head(0).byteLength + 8), box("mdat", sample)]);
}
