import { assert, assertEquals, assertStrictEquals, assertThrows } from "@std/assert";
import { concat } from "../../../base/bytes.ts";
import { Random } from "../../../tests/random.ts";
import { H3Error, H3ProtocolError } from "./error_codes.ts";
import {
  decodeIdPayload,
  encodeFrame,
  type Frame,
  FrameParser,
  type FrameParserOptions,
  FrameType,
} from "./frames.ts";

const HTTP2_TYPES = [0x2, 0x6, 0x8, 0x9];
const GREASE_TYPES = [0x21, 0x40, 0x1f * 1000 + 0x21, 0x1f * 2 ** 47 + 0x21];
const ID_TYPES: readonly number[] = [
  FrameType.cancelPush,
  FrameType.goaway,
  FrameType.maxPushId,
];
const WHOLE_TYPES: readonly number[] = [
  FrameType.headers,
  FrameType.settings,
  FrameType.pushPromise,
];

function drain(parser: FrameParser): Frame[] {
  const frames: Frame[] = [];
  for (let frame = parser.next(); frame !== undefined; frame = parser.next()) frames.push(frame);
  return frames;
}

function parse(chunks: readonly Uint8Array[], options?: FrameParserOptions): Frame[] {
  const parser = new FrameParser(options);
  return chunks.flatMap((chunk) => {
    parser.push(chunk);
    return drain(parser);
  });
}

/** Joins the pieces of DATA that follow one another, and leaves out the empty ones. */
function joinData(frames: readonly Frame[]): Frame[] {
  const joined: Frame[] = [];
  for (const frame of frames) {
    const last = joined.at(-1);
    if (frame.type !== FrameType.data) joined.push(frame);
    else if (frame.payload.length === 0) continue;
    else if (last?.type !== FrameType.data) joined.push(frame);
    else joined[joined.length - 1] = { ...last, payload: concat([last.payload, frame.payload]) };
  }
  return joined;
}

function assertRefused(
  bytes: Uint8Array,
  h3Code: number,
  options: FrameParserOptions & { message: string },
): void {
  const parser = new FrameParser(options);
  parser.push(bytes);
  // A second call is no way round the error.
  for (let call = 0; call < 2; call++) {
    const error = assertThrows(() => parser.next(), H3ProtocolError, options.message);
    assertEquals(error.h3Code, h3Code);
    assertEquals(parser.isBetweenFrames, false);
  }
}

Deno.test("encodeFrame() writes type, length and payload", () => {
  assertEquals(encodeFrame(FrameType.settings, new Uint8Array(0)).toHex(), "0400");
  assertEquals(encodeFrame(FrameType.data, Uint8Array.of(7, 8)).toHex(), "00020708");
  assertEquals(encodeFrame(0x41, new Uint8Array(64)).toHex(), "40414040" + "00".repeat(64));
  assertEquals(encodeFrame(0x0, new Uint8Array(0x4000)).subarray(0, 5).toHex(), "0080004000");
});

Deno.test("encodeFrame() refuses a type that is no varint", () => {
  assertThrows(() => encodeFrame(-1, new Uint8Array(0)), RangeError, "Cannot encode varint");
});

Deno.test("FrameParser.next() takes frames whole", () => {
  const frames = [...WHOLE_TYPES, ...ID_TYPES].map((type) => ({
    type,
    payload: Uint8Array.of(type),
  }));
  const bytes = concat(frames.map(({ type, payload }) => encodeFrame(type, payload)));
  assertEquals(parse([bytes]), frames);
  assertEquals(parse(Array.from(bytes, (byte) => Uint8Array.of(byte))), frames);
});

Deno.test("FrameParser.next() takes frames without a payload", () => {
  const types = [0x4, 0x0, 0x21, 0x1, 0x0, 0x7];
  const bytes = concat(types.map((type) => encodeFrame(type, new Uint8Array(0))));
  const frames = [0x4, 0x0, 0x1, 0x0, 0x7].map((type) => ({ type, payload: new Uint8Array(0) }));
  assertEquals(parse([bytes]), frames);
  assertEquals(parse(Array.from(bytes, (byte) => Uint8Array.of(byte))), frames);
});

Deno.test("FrameParser.next() passes on DATA as it arrives", () => {
  const parser = new FrameParser();
  parser.push(Uint8Array.of(0, 4));
  assertEquals(parser.next(), undefined);
  assertEquals(parser.isBetweenFrames, false);
  parser.push(Uint8Array.of(1, 2, 3));
  assertEquals(drain(parser), [{ type: 0, payload: Uint8Array.of(1, 2, 3) }]);
  assertEquals(parser.isBetweenFrames, false);
  parser.push(Uint8Array.of(4, 0, 1));
  assertEquals(drain(parser), [{ type: 0, payload: Uint8Array.of(4) }]);
  assertEquals(parser.isBetweenFrames, false);
  parser.push(Uint8Array.of(5));
  assertEquals(drain(parser), [{ type: 0, payload: Uint8Array.of(5) }]);
  assertEquals(parser.isBetweenFrames, true);
});

Deno.test("FrameParser.next() passes on DATA longer than any bound, without a copy", () => {
  const parser = new FrameParser({ maxPayloadBytes: 1 });
  parser.push(Uint8Array.fromHex("00ffffffffffffffff"));
  assertEquals(parser.next(), undefined);
  for (let part = 0; part < 10; part++) {
    const chunk = new Uint8Array(10_000).fill(part);
    parser.push(chunk);
    const frames = drain(parser);
    assertEquals(frames, [{ type: 0, payload: chunk }]);
    assertStrictEquals(frames[0]!.payload.buffer, chunk.buffer);
  }
});

Deno.test("FrameParser.next() skips unknown types of any length", () => {
  const tail = encodeFrame(FrameType.headers, Uint8Array.of(9));
  for (const type of GREASE_TYPES) {
    const bytes = concat([encodeFrame(type, new Uint8Array(100_000)), tail]);
    const frames = parse([bytes.subarray(0, 50_000), bytes.subarray(50_000)]);
    assertEquals(frames, [{ type: FrameType.headers, payload: Uint8Array.of(9) }]);
  }
  const parser = new FrameParser();
  parser.push(Uint8Array.fromHex("21ffffffffffffffff"));
  for (let part = 0; part < 100; part++) {
    parser.push(new Uint8Array(1000));
    assertEquals(parser.next(), undefined);
  }
  assertEquals(parser.isBetweenFrames, false);
});

Deno.test("FrameParser.next() takes varints longer than needed", () => {
  const bytes = Uint8Array.fromHex("c000000000000001" + "80000002" + "0a0b");
  assertEquals(parse([bytes]), [{ type: 1, payload: Uint8Array.of(10, 11) }]);
});

Deno.test("FrameParser.next() refuses the types of HTTP/2", () => {
  for (const type of HTTP2_TYPES) {
    assertRefused(encodeFrame(type, new Uint8Array(0)), H3Error.frameUnexpected, {
      message: `Cannot read frame 0x${type}: the type is reserved for HTTP/2`,
    });
  }
});

Deno.test("FrameParser.next() refuses a WebTransport stream's type", () => {
  assertRefused(Uint8Array.of(0x40, 0x41, 0), H3Error.frameError, {
    message: "Cannot read frame 0x41: it may only begin a stream",
  });
});

Deno.test("FrameParser.next() refuses a frame above the bound before its payload", () => {
  for (const type of WHOLE_TYPES) {
    const bytes = encodeFrame(type, new Uint8Array(65_537));
    assertRefused(bytes.subarray(0, 5), H3Error.excessiveLoad, {
      message: `Cannot read frame 0x${type}: it may have 65536 bytes, received 65537`,
    });
    assertRefused(Uint8Array.of(type, 11), H3Error.excessiveLoad, {
      message: "it may have 10 bytes, received 11",
      maxPayloadBytes: 10,
    });
    assertEquals(parse([encodeFrame(type, new Uint8Array(65_536))])[0]?.payload.length, 65_536);
  }
});

Deno.test("FrameParser.next() refuses an id that is longer than a varint", () => {
  for (const type of ID_TYPES) {
    assertRefused(Uint8Array.of(type, 9), H3Error.frameError, {
      message: "it must be one varint, received 9 bytes",
    });
  }
});

Deno.test("FrameParser.next() returns frames from before an error", () => {
  const parser = new FrameParser();
  parser.push(Uint8Array.of(0x1, 1, 7, 0x2, 0));
  assertEquals(parser.next(), { type: 1, payload: Uint8Array.of(7) });
  assertThrows(() => parser.next(), H3ProtocolError);
});

Deno.test("FrameParser.push() keeps the rest", () => {
  const parser = new FrameParser();
  const bytes = concat([0x1, 0x4, 0x0].map((type) => encodeFrame(type, Uint8Array.of(type, 1))));
  for (const byte of bytes) parser.push(Uint8Array.of(byte));
  parser.push(new Uint8Array(0));
  assertEquals(parser.isBetweenFrames, false);
  assertEquals(
    drain(parser),
    [0x1, 0x4, 0x0].map((type) => ({
      type,
      payload: Uint8Array.of(type, 1),
    })),
  );
  assertEquals(parser.isBetweenFrames, true);
});

Deno.test("FrameParser.isBetweenFrames is false inside a frame alone", () => {
  const parser = new FrameParser();
  assertEquals(parser.isBetweenFrames, true);
  const bytes = Uint8Array.fromHex("4001" + "4003" + "010203");
  for (const [index, byte] of bytes.entries()) {
    parser.push(Uint8Array.of(byte));
    assertEquals(drain(parser).length, index === 6 ? 1 : 0);
    assertEquals(parser.isBetweenFrames, index === 6);
  }
});

Deno.test("FrameParser() refuses a bound that is no positive integer", () => {
  for (const maxPayloadBytes of [0, -1, 1.5, NaN, Infinity]) {
    assertThrows(
      () => new FrameParser({ maxPayloadBytes }),
      RangeError,
      "Cannot create frame parser: maxPayloadBytes must be a positive integer, " +
        `received ${maxPayloadBytes}`,
    );
  }
});

/** Frames that are forbidden on a stream: the code comes before their payload. */
const MISPLACED: readonly [stream: "control" | "request", types: number[], code: number][] = [
  ["control", [0x0, 0x1, 0x3, 0x5, 0x7, 0xd, 0x21, 0x41], H3Error.missingSettings],
  ["control", [0x4, 0x0], H3Error.frameUnexpected],
  ["control", [0x4, 0x1], H3Error.frameUnexpected],
  ["control", [0x4, 0x4], H3Error.frameUnexpected],
  ["control", [0x4, 0x5], H3Error.frameUnexpected],
  ["request", [0x3], H3Error.frameUnexpected],
  ["request", [0x4], H3Error.frameUnexpected],
  ["request", [0x7], H3Error.frameUnexpected],
  ["request", [0xd], H3Error.frameUnexpected],
];

Deno.test("FrameParser.next() refuses frames on wrong streams", () => {
  for (const [stream, types, code] of MISPLACED) {
    const alternatives = code === H3Error.missingSettings ? types.map((type) => [type]) : [types];
    for (const sequence of alternatives) {
      const parser = new FrameParser({ stream });
      for (const type of sequence.slice(0, -1)) parser.push(encodeFrame(type, new Uint8Array(0)));
      const last = encodeFrame(sequence.at(-1)!, new Uint8Array(9));
      parser.push(last.subarray(0, -9));
      const error = assertThrows(() => {
        while (parser.next() !== undefined);
      }, H3ProtocolError);
      assertEquals(error.h3Code, code, `${stream} ${sequence}`);
    }
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

Deno.test("FrameParser.next() gives the same frames wherever the bytes are cut", () => {
  const frames: Frame[] = [
    { type: FrameType.settings, payload: Uint8Array.of(1, 2, 3) },
    { type: FrameType.data, payload: Uint8Array.of(4, 5) },
    { type: FrameType.headers, payload: new Uint8Array(70).fill(6) },
    { type: FrameType.goaway, payload: Uint8Array.of(0) },
  ];
  const bytes = concat(frames.flatMap(({ type, payload }) => [
    encodeFrame(0x1f * 7 + 0x21, Uint8Array.of(0xff, 0xff)),
    encodeFrame(type, payload),
  ]));
  for (let first = 0; first <= bytes.length; first++) {
    for (let second = first; second <= bytes.length; second++) {
      const parts = [
        bytes.subarray(0, first),
        bytes.subarray(first, second),
        bytes.subarray(second),
      ];
      assertEquals(joinData(parse(parts)), frames);
    }
  }
});

Deno.test("FrameParser.next() reads back random frames from random chunks", () => {
  const random = new Random(9114);
  const types = [FrameType.data, ...WHOLE_TYPES, ...GREASE_TYPES];
  for (let run = 0; run < 300; run++) {
    const sent = Array.from({ length: random.below(10) }, (): Frame => ({
      type: random.pick(types),
      payload: random.bytes(random.bits(13)),
    }));
    const bytes = concat(sent.map(({ type, payload }) => encodeFrame(type, payload)));
    const chunks: Uint8Array[] = [];
    for (let at = 0; at < bytes.length;) chunks.push(bytes.subarray(at, at += random.bits(13)));
    const known = sent.filter(({ type }) => !GREASE_TYPES.includes(type));
    assertEquals(joinData(parse(chunks)), joinData(known));
  }
});

Deno.test("FrameParser.next() returns only received bytes, for any input", () => {
  const random = new Random(7);
  let refused = 0;
  for (let run = 0; run < 5000; run++) {
    const parser = new FrameParser({ maxPayloadBytes: 32 });
    let pushed = 0;
    let taken = 0;
    try {
      for (let part = 0; part < 8; part++) {
        const chunk = random.bytes(random.below(16));
        // Small types and lengths are rare among random bytes.
        for (let i = 0; i < chunk.length; i++) if (random.below(2) === 0) chunk[i]! &= 0xf;
        pushed += chunk.length;
        parser.push(chunk);
        for (const { payload } of drain(parser)) taken += payload.length;
      }
    } catch (error) {
      assert(error instanceof H3ProtocolError);
      refused++;
    }
    assert(taken <= pushed);
  }
  assert(refused > 500 && refused < 4900, `${refused} refused`);
});
