import { assert, assertEquals, assertThrows } from "@std/assert";
import { Random } from "../../../tests/random.ts";
import { H3Error, H3ProtocolError } from "./error_codes.ts";
import {
  decodeIdPayload,
  encodeFrame,
  type FrameParserOptions,
  FrameType,
  type Http3Frame,
  Http3FrameParser,
} from "./frames.ts";

const EMPTY = new Uint8Array();

function drain(parser: Http3FrameParser): Http3Frame[] {
  const frames: Http3Frame[] = [];
  for (let frame = parser.next(); frame !== undefined; frame = parser.next()) frames.push(frame);
  return frames;
}

Deno.test("encodeFrame() writes type, length and payload", () => {
  assertEquals(encodeFrame(FrameType.settings, EMPTY).toHex(), "0400");
  assertEquals(encodeFrame(FrameType.data, Uint8Array.of(7, 8)).toHex(), "00020708");
  assertEquals(encodeFrame(0x41, new Uint8Array(64)).toHex(), "40414040" + "00".repeat(64));
  assertEquals(encodeFrame(0x0, new Uint8Array(0x4000)).subarray(0, 5).toHex(), "0080004000");
});

Deno.test("encodeFrame() rejects a type that is not a varint", () => {
  assertThrows(() => encodeFrame(-1, EMPTY), RangeError, "Cannot encode varint");
});

/** The maximum payload size of the types that are returned complete, in bytes. */
const BOUNDS: ReadonlyMap<number, number> = new Map([
  [FrameType.headers, 65_536],
  [FrameType.settings, 65_536],
  [FrameType.pushPromise, 65_536],
  [FrameType.cancelPush, 8],
  [FrameType.goaway, 8],
  [FrameType.maxPushId, 8],
]);

Deno.test("Http3FrameParser.next() returns known frames completely, passes on DATA, and skips unknown frames", () => {
  for (const [type, maxBytes] of BOUNDS) {
    const payload = new Uint8Array(maxBytes).fill(1);
    const bytes = encodeFrame(type, payload);
    const parser = new Http3FrameParser();
    parser.push(bytes.subarray(0, -1));
    assertEquals([drain(parser), parser.isBetweenFrames], [[], false]);
    parser.push(bytes.subarray(-1));
    assertEquals([drain(parser), parser.isBetweenFrames], [[{ type, payload }], true]);
  }
  for (const type of [0x21, 0x40, 0x1f * 1_000 + 0x21, 0x1f * 2 ** 47 + 0x21]) {
    const parser = new Http3FrameParser();
    parser.push(encodeFrame(type, new Uint8Array(100_000)));
    assertEquals([drain(parser), parser.isBetweenFrames], [[], true]);
  }
  const parser = new Http3FrameParser({ maxPayloadBytes: 1 });
  parser.push(Uint8Array.of(0, 4, 1, 2));
  assertEquals(drain(parser), [{ type: FrameType.data, payload: Uint8Array.of(1, 2) }]);
  assertEquals(parser.isBetweenFrames, false);
});

/** Encodes the type and length of a frame. */
const headOf = (type: number, length: number) =>
  encodeFrame(type, new Uint8Array(length)).subarray(0, -length || undefined);

/** Asserts that the last of several frames is rejected before its payload arrives. */
function assertRejected(
  heads: readonly Uint8Array[],
  h3Code: number,
  message: string,
  options: FrameParserOptions = {},
): void {
  const parser = new Http3FrameParser(options);
  for (const head of heads) parser.push(head);
  for (const _ of heads.slice(1)) parser.next();
  const error = assertThrows(() => parser.next(), H3ProtocolError, message);
  assertEquals([error.h3Code, parser.isBetweenFrames], [h3Code, false], message);
}

Deno.test("Http3FrameParser.next() rejects reserved types", () => {
  for (const type of [0x2, 0x6, 0x8, 0x9]) {
    const message = `Cannot read frame 0x${type}: the type is reserved for HTTP/2`;
    assertRejected([headOf(type, 0)], H3Error.frameUnexpected, message);
  }
  const message = "Cannot read frame 0x41: it may only start a stream";
  assertRejected([headOf(0x41, 0)], H3Error.frameError, message);
});

Deno.test("Http3FrameParser.next() rejects a frame above its limit", () => {
  for (const type of [0x1, 0x4, 0x5]) {
    const message = `Cannot read frame 0x${type}: it must have at most 65536 bytes, received 65537`;
    assertRejected([headOf(type, 65_537)], H3Error.excessiveLoad, message);
    const ownBound = "it must have at most 10 bytes, received 11";
    assertRejected([headOf(type, 11)], H3Error.excessiveLoad, ownBound, { maxPayloadBytes: 10 });
  }
  for (const type of [0x3, 0x7, 0xd]) {
    const message = "it must be one varint, received 9 bytes";
    assertRejected([headOf(type, 9)], H3Error.frameError, message);
  }
});

Deno.test("Http3FrameParser.next() rejects frames on wrong streams", () => {
  const onControl = { stream: "control" } as const;
  const onRequest = { stream: "request" } as const;
  const settings = headOf(0x4, 0);
  for (const type of [0x0, 0x1, 0x3, 0x5, 0x7, 0xd, 0x21, 0x41]) {
    const message = `Expected SETTINGS first, received a frame of type ${type}`;
    assertRejected([headOf(type, 9)], H3Error.missingSettings, message, onControl);
  }
  for (const type of [0x0, 0x1, 0x5]) {
    const message = `Expected no frame of type ${type} on the control stream`;
    assertRejected([settings, headOf(type, 9)], H3Error.frameUnexpected, message, onControl);
  }
  const twice = "Expected SETTINGS once, received them twice";
  assertRejected([settings, headOf(0x4, 9)], H3Error.frameUnexpected, twice, onControl);
  for (const type of [0x3, 0x4, 0x7, 0xd]) {
    const message = `Expected no frame of type ${type} on a request`;
    assertRejected([headOf(type, 9)], H3Error.frameUnexpected, message, onRequest);
  }
});

Deno.test("Http3FrameParser() rejects a limit that is not a positive integer", () => {
  for (const maxPayloadBytes of [0, -1, 1.5, NaN, Infinity]) {
    assertThrows(
      () => new Http3FrameParser({ maxPayloadBytes }),
      RangeError,
      "Cannot create frame parser: maxPayloadBytes must be a positive integer, " +
        `received ${maxPayloadBytes}`,
    );
  }
});

Deno.test("decodeIdPayload() reads one varint and nothing else", () => {
  assertEquals(decodeIdPayload(Uint8Array.of(8)), 8n);
  assertEquals(decodeIdPayload(Uint8Array.fromHex("fffffffffffffffc")), 2n ** 62n - 4n);
  for (const hex of ["", "40", "0800", "c0000000000000"]) {
    const error = assertThrows(() => decodeIdPayload(Uint8Array.fromHex(hex)), H3ProtocolError);
    assertEquals(error.h3Code, H3Error.frameError);
  }
});

Deno.test("Http3FrameParser.next() returns only received bytes, for any input", () => {
  const random = new Random(7);
  let rejected = 0;
  for (let run = 0; run < 5000; run++) {
    const parser = new Http3FrameParser({ maxPayloadBytes: 32 });
    let pushed = 0;
    let taken = 0;
    try {
      for (let part = 0; part < 8; part++) {
        const chunk = random.bytes(random.below(16));
        // Small types and lengths are rare in random bytes, so half of the bytes are made small.
        for (let i = 0; i < chunk.length; i++) if (random.below(2) === 0) chunk[i]! &= 0xf;
        pushed += chunk.length;
        parser.push(chunk);
        for (const { payload } of drain(parser)) taken += payload.length;
      }
    } catch (error) {
      assert(error instanceof H3ProtocolError);
      rejected++;
    }
    assert(taken <= pushed);
  }
  assert(rejected > 500 && rejected < 4900, `${rejected} rejected`);
});
