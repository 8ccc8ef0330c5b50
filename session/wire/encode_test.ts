import { assert, assertEquals } from "@std/assert";
import {
  decodeBinary,
  encodeBinary,
  encodeMessage,
  isBinaryMessage,
  MAX_PLACE_BYTES,
  MAX_TAG_LENGTH,
  placed,
} from "./encode.ts";
import { parseEnvelope } from "./server_envelope.ts";

const bytes = (...values: number[]) => new Uint8Array(values);

Deno.test("encodeBinary() writes the mark, the head's length, the head and the bytes", () => {
  assertEquals(
    encodeBinary("{}", bytes(1, 2, 3)),
    bytes(0x40, 0x53, 2, 0x7b, 0x7d, 1, 2, 3),
  );
  assertEquals(encodeBinary("", bytes()), bytes(0x40, 0x53, 0));
});

Deno.test("encodeBinary() uses the varint for the head's bytes, not its characters", () => {
  const cases: [head: string, prefix: number[]][] = [
    ["x".repeat(63), [63]],
    ["x".repeat(64), [0x40, 64]],
    ["é".repeat(32), [0x40, 64]],
    ["x".repeat(16_383), [0x7f, 0xff]],
    ["x".repeat(16_384), [0x80, 0, 0x40, 0]],
  ];
  for (const [head, prefix] of cases) {
    const frame = encodeBinary(head, bytes(7));
    assertEquals([...frame.subarray(2, 2 + prefix.length)], prefix);
    assertEquals(decodeBinary(frame), { head, data: bytes(7) });
  }
});

Deno.test("decodeBinary() accepts a length in more bytes than needed", () => {
  for (const length of [[0x40, 2], [0x80, 0, 0, 2]]) {
    const frame = bytes(0x40, 0x53, ...length, 0x7b, 0x7d, 9);
    assertEquals(decodeBinary(frame), { head: "{}", data: bytes(9) });
  }
});

Deno.test("decodeBinary() returns undefined for a malformed frame", () => {
  const whole = encodeBinary('{"topic":"a"}', bytes());
  for (let length = 3; length < whole.length; length++) {
    assertEquals(decodeBinary(whole.subarray(0, length)), undefined, `${length} bytes`);
  }
  const cases: [what: string, frame: Uint8Array][] = [
    ["an eight-byte length", bytes(0x40, 0x53, 0xc0, 0, 0, 0, 0, 0, 0, 0)],
    ["a length without its second byte", bytes(0x40, 0x53, 0x40)],
    ["a length above what follows", bytes(0x40, 0x53, 0xbf, 0xff, 0xff, 0xff, 1)],
    ["a head that is no UTF-8", bytes(0x40, 0x53, 2, 0xff, 0xfe)],
  ];
  for (const [what, frame] of cases) assertEquals(decodeBinary(frame), undefined, what);
});

Deno.test("isBinaryMessage() recognizes the mark", () => {
  assert(isBinaryMessage(bytes(0x40, 0x53, 0)));
  for (const frame of [bytes(), bytes(0x40), bytes(0x40, 0x53), bytes(0x40, 0x54, 0)]) {
    assertEquals(isBinaryMessage(frame), false, `${frame}`);
  }
});

Deno.test("decodeBinary() never throws on corrupted bytes", () => {
  let seed = 7;
  const random = (below: number) => (seed = Math.imul(seed, 48_271) >>> 0) % below;
  for (let round = 0; round < 5_000; round++) {
    const frame = encodeBinary('{"topic":"a","id":1}', bytes(1, 2, 3));
    for (let change = 0; change < 3; change++) {
      frame[2 + random(frame.length - 2)] = random(256);
    }
    const parts = decodeBinary(frame.subarray(0, 3 + random(frame.length - 2)));
    if (parts !== undefined) assertEquals(typeof parts.head, "string");
  }
});

Deno.test("placed() writes the place at the end of an envelope", () => {
  const { frame } = encodeMessage("é", { text: "}" });
  const message = placed(frame, "é", { offset: 12, prev: 9 });
  const text = '{"topic":"é","data":{"text":"}"},"offset":12,"prev":9}';
  assertEquals(message, { frame: text, size: new TextEncoder().encode(text).length, topic: "é" });
  const envelope = {
    kind: "message" as const,
    topic: "é",
    data: { text: "}" },
    offset: 12,
    prev: 9,
  };
  assertEquals(parseEnvelope(text), envelope);
});

Deno.test("placed() writes the tag after the place", () => {
  const { frame } = encodeMessage("t", 1);
  const message = placed(frame, "t", { offset: 2, prev: 1, tag: "aZ3_x-" });
  assertEquals(message.frame, '{"topic":"t","data":1,"offset":2,"prev":1,"tag":"aZ3_x-"}');
});

Deno.test("placed() writes the place into the head of a binary message", () => {
  // A head of 63 bytes has a length in one byte; with its place in two.
  for (const topic of ["a", "a".repeat(51), "a".repeat(255)]) {
    const data = crypto.getRandomValues(new Uint8Array(300));
    const { frame, size } = placed(encodeMessage(topic, data).frame, topic, { offset: 2, prev: 1 });
    const parts = decodeBinary(frame as Uint8Array)!;
    assertEquals(parts.data, data);
    assertEquals(parts.head, `{"topic":"${topic}","offset":2,"prev":1}`);
    assertEquals(size, (frame as Uint8Array).length);
  }
});

Deno.test("placed() adds no more than MAX_PLACE_BYTES", () => {
  const most = Number.MAX_SAFE_INTEGER;
  for (const data of ["x", Uint8Array.of(1)]) {
    const message = encodeMessage("a".repeat(55), data);
    const place = { offset: most, prev: most, tag: "x".repeat(MAX_TAG_LENGTH) };
    const { size } = placed(message.frame, message.topic, place);
    const known = placed(message.frame, message.topic, { ...place, bytes: message.size });
    assertEquals(known.size, size);
    const added = size - message.size;
    assertEquals([added <= MAX_PLACE_BYTES, added >= MAX_PLACE_BYTES - 2], [true, true]);
  }
});

Deno.test("placed() does not change bytes that are not a message", () => {
  const frame = Uint8Array.of(0x40, 0x53, 9, 1);
  assertEquals(placed(frame, "a", { offset: 2, prev: 1 }).frame, frame);
});
