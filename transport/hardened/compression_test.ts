import { assert, assertEquals, assertLess, assertStrictEquals } from "@std/assert";
import { Buffer } from "node:buffer";
import { constants, deflateRawSync } from "node:zlib";
import { Random } from "../../tests/random.ts";
import type { Frame, FramePart } from "../connection.ts";
import { agreeOnCompression, inflate, inflateSync, SharedDeflater } from "./compression.ts";

const BOTH = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";

Deno.test("agreeOnCompression() accepts the first offer that it supports", () => {
  const rows: [offers: string | null, header: string | undefined][] = [
    [null, undefined],
    ["", undefined],
    ["x-webkit-deflate-frame", undefined],
    ["permessage-deflate", BOTH],
    ["permessage-deflate; client_max_window_bits", BOTH],
    ["permessage-deflate;client_max_window_bits=10", BOTH],
    ["permessage-deflate; server_no_context_takeover; client_no_context_takeover", BOTH],
    ["permessage-deflate; server_max_window_bits=10", `${BOTH}; server_max_window_bits=10`],
    ['permessage-deflate; server_max_window_bits="12"', `${BOTH}; server_max_window_bits=12`],
    ["permessage-deflate; server_max_window_bits=8", undefined],
    ["permessage-deflate; server_max_window_bits=16", undefined],
    ["permessage-deflate; server_max_window_bits=010", undefined],
    ["permessage-deflate; server_max_window_bits", undefined],
    ["permessage-deflate; client_max_window_bits=7", undefined],
    ["permessage-deflate; server_no_context_takeover=1", undefined],
    ["permessage-deflate; client_max_window_bits; client_max_window_bits", undefined],
    ["permessage-deflate; unknown", undefined],
    ["permessage-deflate; unknown, permessage-deflate", BOTH],
    ["permessage-deflate; server_max_window_bits=8, other, permessage-deflate", BOTH],
  ];
  for (const [offers, header] of rows) {
    assertEquals(agreeOnCompression(offers)?.header, header, `${offers}`);
  }
  assertEquals(agreeOnCompression("permessage-deflate")?.windowBits, 15);
  assertEquals(agreeOnCompression("permessage-deflate; server_max_window_bits=9")?.windowBits, 9);
});

function partOf(frame: Frame): FramePart {
  return { frame, size: Buffer.byteLength(frame) };
}

/** Returns the payload of a frame of fewer than 64 KiB, and the message in that payload. */
function opened(frame: Buffer) {
  const payload = frame.subarray(frame[1]! < 126 ? 2 : 4);
  const inflated = inflateSync(payload, 1_000_000);
  assert("bytes" in inflated);
  return { payload, text: inflated.bytes.toString() };
}

const LONG = JSON.stringify(Array.from({ length: 40 }, (_, i) => ({ id: i, name: `name ${i}` })));

Deno.test("SharedDeflater.encode() joins parts of any kind into one message", () => {
  const random = new Random(1);
  const noise = Buffer.from(random.bytes(70_000)).toString("base64");
  for (const windowBits of [9, 12, 15]) {
    const deflater = new SharedDeflater(windowBits, 100);
    for (
      const texts of [
        [LONG],
        [LONG, "short"],
        ["short", LONG],
        ["short", LONG, "short", "", LONG.slice(1)],
        ["€".repeat(500), LONG],
      ]
    ) {
      const frame = deflater.encode(texts.map(partOf))!;
      assertEquals(frame[0], 0xc1);
      const { payload, text } = opened(frame);
      assertEquals(text, texts.join("\n"));
      assertLess(payload.length, Buffer.byteLength(text));
    }
    // Stored blocks hold at most 64 KiB each.
    const large = new SharedDeflater(windowBits, 100_000);
    const texts = [noise.slice(0, 90_000), LONG.repeat(100)];
    const bytes = large.encode(texts.map(partOf))!;
    const inflated = inflateSync(bytes.subarray(10), 1_000_000);
    assert("bytes" in inflated);
    assertEquals(inflated.bytes.toString(), texts.join("\n"));
  }
});

Deno.test("SharedDeflater.encode() compresses bytes to a binary message", () => {
  const frame = new SharedDeflater(15, 0).encode([partOf(new Uint8Array(1_000))])!;
  assertEquals(frame[0], 0xc2);
  assertEquals(opened(frame).text.length, 1_000);
});

Deno.test("SharedDeflater.encode() leaves small and incompressible messages uncompressed", () => {
  const deflater = new SharedDeflater(15, 512);
  assertEquals(deflater.encode([partOf("x".repeat(511))]), undefined);
  assert(deflater.encode([partOf("x".repeat(512))]) !== undefined);
  assertEquals(deflater.encode([partOf(new Random(1).bytes(2_000))]), undefined);
});

Deno.test("SharedDeflater.encode() creates a frame once for all sockets, and a block once for all frames", () => {
  const deflater = new SharedDeflater(15, 100);
  let reads = 0;
  const counted = {
    size: LONG.length,
    get frame() {
      reads++;
      return LONG;
    },
  };
  const parts = [counted];
  const first = deflater.encode(parts)!;
  assertStrictEquals(deflater.encode(parts), first);
  const readsOfOne = reads;
  const joined = deflater.encode([partOf(LONG), counted])!;
  assertStrictEquals(deflater.encode(parts), first);
  assertEquals(opened(joined).text, `${LONG}\n${LONG}`);
  // One more read distinguishes text from bytes. None of the reads creates another block.
  assertLess(reads - readsOfOne, readsOfOne);
});

Deno.test("inflateSync() and inflate() limit the size, and reject other bytes", async () => {
  const payloadOf = (bytes: Uint8Array) =>
    deflateRawSync(bytes, { finishFlush: constants.Z_SYNC_FLUSH }).subarray(0, -4);
  const noise = new Random(1).bytes(300_000);
  const rows: [payload: Buffer, maxBytes: number, expected: string | number][] = [
    [payloadOf(noise), 300_000, 300_000],
    [payloadOf(noise), 299_999, "too large"],
    [payloadOf(new Uint8Array(60_000)), 300_000, 60_000],
    // A ratio of a thousand.
    [payloadOf(new Uint8Array(300_000)), 300_000, 300_000],
    [payloadOf(new Uint8Array(300_001)), 300_000, "too large"],
    [Buffer.from([0xff, 0xff]), 300_000, "invalid"],
    [Buffer.of(0), 300_000, 0],
  ];
  for (const [payload, maxBytes, expected] of rows) {
    const ends = [
      inflateSync(payload, maxBytes),
      await new Promise<ReturnType<typeof inflateSync>>((done) => inflate(payload, maxBytes, done)),
    ];
    for (const end of ends) assertEquals("bytes" in end ? end.bytes.length : end.fault, expected);
  }
});
