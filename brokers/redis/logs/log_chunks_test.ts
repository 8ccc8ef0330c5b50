import { assertEquals, assertThrows } from "@std/assert";
import { BrokerError } from "../../../errors.ts";
import { Random } from "../../../tests/random.ts";
import type { LogRecord } from "../../../streams/logs/log.ts";
import { decodeChunks, encodeChunks, type StoredChunk } from "./log_chunks.ts";

const PLENTY = { maxRecords: 1_000_000, maxBytes: 1_000_000_000 };

/** The chunks of records, placed starting at a position. */
function stored(records: readonly LogRecord[], from = 0): StoredChunk[] {
  let position = from;
  return encodeChunks(records).map(({ count, bytes }) => {
    const chunk = { position, bytes };
    position += count;
    return chunk;
  });
}

function numbered(length: number, text: (i: number) => string = String): string[] {
  return Array.from({ length }, (_, i) => text(i));
}

Deno.test("decodeChunks() returns records with their types", () => {
  const records = ["", "é😀\0\u2028", new Uint8Array(), Uint8Array.of(0, 10, 255), "last"];
  assertEquals(decodeChunks(stored(records), { after: 0, ...PLENTY }), records);
  assertEquals(decodeChunks(stored(records, 7), { after: 9, ...PLENTY }), records.slice(2));
});

Deno.test("decodeChunks() copies bytes, so that they do not hold the whole page", () => {
  const chunks = stored([Uint8Array.of(1, 2, 3), "x".repeat(10_000)]);
  const [record] = decodeChunks(chunks, { after: 0, ...PLENTY });
  assertEquals((record as Uint8Array).buffer.byteLength, 3);
});

Deno.test("encodeChunks() bounds chunks in records and bytes, and keeps a large record whole", () => {
  const counts = (records: readonly LogRecord[]) => encodeChunks(records).map(({ count }) => count);
  assertEquals(counts([]), []);
  assertEquals(counts(numbered(2_500, () => "")), [1_024, 1_024, 452]);
  assertEquals(counts(["x".repeat(50_000), "y", "z".repeat(50_000)]), [1, 1, 1]);
  const large = encodeChunks(numbered(100, () => "x".repeat(1_000)));
  assertEquals(large.every(({ bytes }) => bytes.length <= 16_384), true);
  assertEquals(large.reduce((sum, { count }) => sum + count, 0), 100);
});

Deno.test("decodeChunks() ends a page at its bounds, after at least one record", () => {
  const chunks = stored(numbered(3_000, (i) => `${i}`.padStart(10)));
  const page = (after: number, maxRecords: number, maxBytes: number) =>
    decodeChunks(chunks, { after, maxRecords, maxBytes }).map(Number);
  assertEquals(page(1_020, 6, 1_000), [1_020, 1_021, 1_022, 1_023, 1_024, 1_025]);
  assertEquals(page(1_023, 100, 35), [1_023, 1_024, 1_025]);
  assertEquals(page(2_999, 100, 1), [2_999]);
  assertEquals(page(5, 0, 100), []);
  const empty = stored(["x", "", "", "y"]);
  assertEquals(decodeChunks(empty, { after: 0, maxRecords: 9, maxBytes: 1 }), ["x", "", ""]);
});

Deno.test("decodeChunks() returns random records from random positions", () => {
  const random = new Random(1);
  for (let round = 0; round < 50; round++) {
    const records = numbered(random.below(3_000), () => "x".repeat(random.bits(6)));
    const from = random.below(2 ** 50);
    const after = from + random.below(records.length + 1);
    const page = decodeChunks(stored(records, from), { after, ...PLENTY });
    assertEquals(page, records.slice(after - from));
  }
});

Deno.test("decodeChunks() reports a missing chunk", () => {
  const chunks = stored(numbered(3_000));
  const without = (i: number) => chunks.filter((_, other) => other !== i);
  for (const [i, position] of [[0, 0], [1, 1_024]] as const) {
    assertThrows(
      () => decodeChunks(without(i), { after: 0, ...PLENTY }),
      BrokerError,
      `Redis has lost the record at ${position}`,
    );
  }
});
