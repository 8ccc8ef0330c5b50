import { assertEquals } from "@std/assert";
import { decodeBinary } from "./binary.ts";
import { encodeMessage } from "./encode.ts";
import { MAX_PLACE_BYTES, MAX_TAG_LENGTH, placed } from "./history_place.ts";
import { parseEnvelope } from "./server_envelope.ts";

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

Deno.test("placed() writes the tag behind the place", () => {
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
    const added = size - message.size;
    assertEquals([added <= MAX_PLACE_BYTES, added >= MAX_PLACE_BYTES - 2], [true, true]);
  }
});

Deno.test("placed() leaves bytes as they are that are no message", () => {
  const frame = Uint8Array.of(0x40, 0x53, 9, 1);
  assertEquals(placed(frame, "a", { offset: 2, prev: 1 }).frame, frame);
});
