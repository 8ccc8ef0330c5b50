import { assert, assertEquals, assertLess } from "@std/assert";
import { Buffer } from "node:buffer";
import { Random } from "../../tests/random.ts";
import { type FrameEvents, type FrameLimits, WebSocketFrameReader } from "./frame_reader.ts";

const LIMITS: FrameLimits = {
  maxPayloadBytes: 1_000,
  maxFragments: 8,
  allowsCompression: false,
};

/** Records the events of a reader as lines. Binary data is in hex. */
class Recorder implements FrameEvents {
  readonly events: string[] = [];
  onEvent: (event: string) => void = () => {};

  onMessage(data: string | ArrayBuffer): void {
    this.#add(typeof data === "string" ? `text ${data}` : `binary ${hexOf(new Uint8Array(data))}`);
  }

  onCompressed(isText: boolean, payload: Uint8Array): void {
    this.#add(`compressed ${isText ? "text" : "binary"} ${hexOf(payload)}`);
  }

  onPing(payload: Uint8Array): void {
    this.#add(`ping ${hexOf(payload)}`);
  }

  onPong(): void {
    this.#add("pong");
  }

  onClose(code: number, reason: string): void {
    this.#add(`close ${code} ${reason}`);
  }

  onFault(closeCode: number): void {
    this.#add(`fault ${closeCode}`);
  }

  #add(event: string): void {
    this.events.push(event);
    this.onEvent(event);
  }
}

function setUp(limits: Partial<FrameLimits> = {}) {
  const recorder = new Recorder();
  const reader = new WebSocketFrameReader(recorder, { ...LIMITS, ...limits });
  return { recorder, reader, events: recorder.events };
}

function hexOf(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString("hex");
}

function bytesOf(hex: string): Buffer {
  return Buffer.from(hex.replaceAll(" ", ""), "hex");
}

/** Creates a masked frame; the mask has four different bytes. */
function frame(first: number, payload: Uint8Array | string, mask = [0x37, 0xfa, 0x21, 0x3d]) {
  const bytes = Buffer.from(payload as string);
  const { length } = bytes;
  const head = length < 126
    ? [length]
    : length < 65_536
    ? [126, length >> 8, length & 0xff]
    : [127, 0, 0, 0, 0, 0, length >> 16, length >> 8 & 0xff, length & 0xff];
  head[0]! |= 0x80;
  return Buffer.from([first, ...head, ...mask, ...bytes.map((byte, i) => byte ^ mask[i & 3]!)]);
}

/**
 * Reads bytes in chunks that end at the cuts. The reader changes its chunks, so they are copied.
 */
function eventsOf(bytes: Uint8Array, cuts: readonly number[], limits?: Partial<FrameLimits>) {
  const { reader, events } = setUp(limits);
  let from = 0;
  for (const cut of [...cuts, bytes.length]) {
    reader.read(Buffer.from(bytes.subarray(from, cut)));
    from = cut;
  }
  return events;
}

/** The bytes as sent, and the events that they cause. */
const GOLDEN: readonly (readonly [string, string, readonly string[]])[] = [
  ["the masked text of RFC 6455, section 5.7", "81 85 37fa213d 7f9f4d5158", ["text Hello"]],
  ["the masked pong of section 5.7", "8a 85 37fa213d 7f9f4d5158", ["pong"]],
  ["a ping", "89 85 37fa213d 7f9f4d5158", ["ping 48656c6c6f"]],
  ["an empty text", "81 80 37fa213d", ["text "]],
  ["an empty binary message", "82 80 37fa213d", ["binary "]],
  ["bytes", "82 83 01020304 fefdfc", ["binary ffffff"]],
  ["a length in two bytes that needs one", "81 fe 0001 00000000 61", ["text a"]],
  ["a length in eight bytes that needs one", "81 ff 0000000000000001 00000000 61", ["text a"]],
  ["fragments", "01 81 00000000 61 00 80 00000000 80 81 00000000 62", ["text ab"]],
  [
    "a ping between fragments",
    "01 81 00000000 61 89 80 00000000 80 81 00000000 62",
    ["ping ", "text ab"],
  ],
  ["a character split over fragments", "01 81 00000000 e2 80 82 00000000 82ac", ["text €"]],
  ["a byte order mark, which is a character", "81 83 00000000 efbbbf", ["text \ufeff"]],
  ["a close", "88 82 00000000 03e8", ["close 1000 "]],
  ["a close without a code", "88 80 00000000", ["close 1005 "]],
  ["a close with a reason", "88 84 00000000 0fa16f6b", ["close 4001 ok"]],
  ["bytes after a close", "88 80 00000000 81 81 00000000 61", ["close 1005 "]],
  ["RSV1", "c1 80 00000000", ["fault 1002"]],
  ["RSV2", "a1 80 00000000", ["fault 1002"]],
  ["RSV3", "91 80 00000000", ["fault 1002"]],
  ...[0x83, 0x84, 0x85, 0x86, 0x87, 0x8b, 0x8c, 0x8d, 0x8e, 0x8f].map((first) =>
    [`opcode ${first & 15}`, `${first.toString(16)} 80 00000000`, ["fault 1002"]] as const
  ),
  ["a frame without a mask", "81 01 61", ["fault 1002"]],
  ["a close without a mask", "88 00", ["fault 1002"]],
  ["RSV3 of a ping", "99 80 00000000", ["fault 1002"]],
  ["a fragmented ping", "09 80 00000000", ["fault 1002"]],
  ["a fragmented close", "08 80 00000000", ["fault 1002"]],
  ["a ping of 126 bytes", "89 fe 007e 00000000", ["fault 1002"]],
  ["a close of 126 bytes", "88 fe 007e 00000000", ["fault 1002"]],
  ["a continuation of nothing", "80 80 00000000", ["fault 1002"]],
  [
    "a continuation after the last one",
    "01 80 00000000 80 80 00000000 00 80 00000000",
    ["text ", "fault 1002"],
  ],
  ["a text within a text", "01 80 00000000 81 80 00000000", ["fault 1002"]],
  ["a close of one byte", "88 81 00000000 03", ["fault 1002"]],
  ...[0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65_535].map((code) => {
    const hex = code.toString(16).padStart(4, "0");
    return [`a close with ${code}`, `88 82 00000000 ${hex}`, ["fault 1002"]] as const;
  }),
  ["a close with 1014", "88 82 00000000 03f6", ["close 1014 "]],
  ["a close whose reason is not UTF-8", "88 83 00000000 03e8ff", ["fault 1007"]],
  ["a byte that is not UTF-8", "81 81 00000000 ff", ["fault 1007"]],
  ["an overlong slash", "81 82 00000000 c0af", ["fault 1007"]],
  ["a surrogate", "81 83 00000000 eda080", ["fault 1007"]],
  ["half a character", "81 82 00000000 e282", ["fault 1007"]],
  ["half a character in fragments", "01 82 00000000 e282 80 80 00000000", ["fault 1007"]],
  [
    "a character that goes wrong in the next frame",
    "01 82 00000000 e282 80 81 00000000 41",
    ["fault 1007"],
  ],
  ["a length above the limit", "82 fe 03e9", ["fault 1009"]],
  ["a length of 2^31", "82 ff 0000000080000000", ["fault 1009"]],
  ["a length of 2^32", "82 ff 0000000100000000", ["fault 1009"]],
  ["a length of 2^53", "82 ff 0020000000000000", ["fault 1009"]],
  ["a length of 2^63", "82 ff 8000000000000000", ["fault 1009"]],
  ["a length of 2^64 - 1", "82 ff ffffffffffffffff", ["fault 1009"]],
  ["a sum above the limit", "02 81 00000000 61 80 fe 03e8", ["fault 1009"]],
  ["a good message before a fault", "81 81 00000000 61 81 00", ["text a", "fault 1002"]],
];

Deno.test("WebSocketFrameReader counts only data frames towards the size of a message", () => {
  const bytes = Buffer.concat([
    frame(0x01, "12345678"),
    frame(0x89, "a longer ping"),
    frame(0x80, "90"),
    frame(0x88, Buffer.from("\x03\xe8a long reason", "latin1")),
  ]);
  const ping = `ping ${hexOf(Buffer.from("a longer ping"))}`;
  const events = [ping, "text 1234567890", "close 1000 a long reason"];
  assertEquals(eventsOf(bytes, [], { maxPayloadBytes: 10 }), events);
});

Deno.test("WebSocketFrameReader.read() reads the frames of RFC 6455, as a whole and byte by byte", () => {
  for (const [name, hex, expected] of GOLDEN) {
    const bytes = bytesOf(hex);
    assertEquals(eventsOf(bytes, []), expected, name);
    assertEquals(eventsOf(bytes, [...bytes.keys()]), expected, `${name}, byte by byte`);
  }
});

Deno.test("WebSocketFrameReader.read() unmasks payloads of any length at any offset", () => {
  for (const length of [1, 2, 3, 4, 5, 125, 126, 255, 256, 257, 258, 259, 300, 65_535, 65_536]) {
    const payload = Uint8Array.from({ length }, (_, i) => i * 7);
    for (let offset = 0; offset < 4; offset++) {
      const { reader, events } = setUp({ maxPayloadBytes: 100_000 });
      const bytes = frame(0x82, payload);
      const chunk = Buffer.alloc(offset + bytes.length).fill(bytes, offset).subarray(offset);
      reader.read(chunk);
      assertEquals(events, [`binary ${hexOf(payload)}`]);
    }
  }
});

const TEXTS = ["", "a", "plain text", "é€😀", "x".repeat(300), "€".repeat(100)];

/** Generates a client's frames, and their events. */
function drawFrames(random: Random): { bytes: Buffer; events: string[] } {
  const frames: Buffer[] = [];
  const events: string[] = [];
  const mask = () => [...random.bytes(4)];
  const control = () => {
    const payload = random.bytes(random.below(20));
    const isPing = random.below(2) === 0;
    frames.push(frame(isPing ? 0x89 : 0x8a, payload, mask()));
    events.push(isPing ? `ping ${hexOf(payload)}` : "pong");
  };
  for (let i = 1 + random.below(4); i > 0; i--) {
    if (random.below(3) === 0) control();
    const isText = random.below(2) === 0;
    const text = random.pick(TEXTS);
    const payload = isText ? Buffer.from(text) : random.bytes(random.below(300));
    const parts = 1 + random.below(4);
    let from = 0;
    for (let part = 0; part < parts; part++) {
      const isLast = part === parts - 1;
      const to = isLast ? payload.length : from + random.below(payload.length - from + 1);
      const first = (isLast ? 0x80 : 0) | (part > 0 ? 0 : isText ? 1 : 2);
      frames.push(frame(first, payload.subarray(from, to), mask()));
      if (!isLast && random.below(3) === 0) control();
      from = to;
    }
    events.push(isText ? `text ${text}` : `binary ${hexOf(payload)}`);
  }
  return { bytes: Buffer.concat(frames), events };
}

Deno.test("WebSocketFrameReader.read() reports the same events for every split into chunks", () => {
  const random = new Random(1);
  for (let round = 0; round < 60; round++) {
    const { bytes, events } = drawFrames(random);
    assertEquals(eventsOf(bytes, []), events);
    for (let cut = 1; cut < bytes.length; cut++) assertEquals(eventsOf(bytes, [cut]), events);
    for (let i = 0; i < 20; i++) {
      const cuts = Array.from({ length: 1 + random.below(9) }, () => random.below(bytes.length));
      assertEquals(eventsOf(bytes, cuts.sort((a, b) => a - b)), events);
    }
  }
});

Deno.test("WebSocketFrameReader.read() reports the same events for corrupted bytes, whatever the split", () => {
  const random = new Random(2);
  for (let round = 0; round < 2_000; round++) {
    const { bytes } = drawFrames(random);
    for (let i = random.below(3); i >= 0; i--) {
      bytes[random.below(bytes.length)] = random.below(256);
    }
    const events = eventsOf(bytes, []);
    const cuts = Array.from({ length: 1 + random.below(9) }, () => random.below(bytes.length));
    assertEquals(eventsOf(bytes, cuts.sort((a, b) => a - b)), events);
  }
});

Deno.test("WebSocketFrameReader.read() limits the fragments of a message", () => {
  const fragments = (count: number) =>
    Buffer.concat([frame(0x01, ""), ...Array.from({ length: count - 1 }, () => frame(0x00, ""))]);
  assertEquals(eventsOf(fragments(8), []), []);
  assertEquals(eventsOf(fragments(9), []), ["fault 1008"]);
});

Deno.test("WebSocketFrameReader.read() rejects text at the first chunk that cannot become UTF-8", () => {
  const { reader, events } = setUp();
  reader.read(frame(0x01, Buffer.from("cebae1bdb9f4", "hex")));
  assertEquals(events, []);
  reader.read(frame(0x00, Buffer.from("90", "hex")));
  assertEquals(events, ["fault 1007"]);
});

Deno.test("WebSocketFrameReader.read() gives bytes their own buffer", () => {
  const received: ArrayBuffer[] = [];
  const recorder = new Recorder();
  recorder.onMessage = (data) => void received.push(data as ArrayBuffer);
  const reader = new WebSocketFrameReader(recorder, LIMITS);
  const chunk = Buffer.concat([frame(0x82, "ab"), frame(0x02, "c"), frame(0x80, "d")]);
  reader.read(chunk);
  chunk.fill(0);
  assertEquals(received.map((data) => Buffer.from(data).toString()), ["ab", "cd"]);
});

Deno.test("WebSocketFrameReader.pause() stops in the middle of a chunk, and resume() continues in order", () => {
  const { reader, recorder, events } = setUp();
  const chunk = Buffer.concat(["1", "2", "3"].map((text) => frame(0x81, text)));
  recorder.onEvent = (event) => void (event === "text 1" && reader.pause());
  reader.read(chunk);
  assertEquals([events, reader.isPaused], [["text 1"], true]);
  reader.read(frame(0x81, "4").subarray(0, 3));
  reader.read(frame(0x81, "4").subarray(3));
  assertEquals(events, ["text 1"]);
  reader.resume();
  assertEquals(events, ["text 1", "text 2", "text 3", "text 4"]);
  // A receiver that pauses and resumes immediately loses nothing.
  recorder.onEvent = () => {
    reader.pause();
    reader.resume();
  };
  reader.read(Buffer.concat([frame(0x81, "5"), frame(0x81, "6")]));
  assertEquals(events.slice(4), ["text 5", "text 6"]);
});

Deno.test("WebSocketFrameReader.end() ignores the rest of the chunk", () => {
  const { reader, recorder, events } = setUp();
  recorder.onEvent = () => reader.end();
  reader.read(Buffer.concat([frame(0x81, "1"), frame(0x81, "2")]));
  reader.read(frame(0x81, "3"));
  reader.resume();
  assertEquals(events, ["text 1"]);
});

Deno.test("WebSocketFrameReader.read() allocates memory for received bytes, not for announced ones", () => {
  const before = Deno.memoryUsage().external;
  const readers = Array.from({ length: 100 }, () => {
    const { reader } = setUp({ maxPayloadBytes: 2 ** 30 });
    // A length of 1 GiB and one byte.
    reader.read(bytesOf("82 ff 0000000040000000 00000000 61"));
    return reader;
  });
  assert(readers.length === 100);
  assertLess(Deno.memoryUsage().external - before, 10_000_000);
});
