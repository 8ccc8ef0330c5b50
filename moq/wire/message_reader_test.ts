import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { ProtocolError, StreamError } from "../../errors.ts";
import { Random } from "../../tests/random.ts";
import { HandStream } from "../../tests/structured.ts";
import { encodeVarint } from "../../transport/quic/varint.ts";
import { MessageReader, TruncatedError } from "./message_reader.ts";
import { MAX_MESSAGE_BYTES } from "./messages.ts";

const hex = (text: string) => Uint8Array.fromHex(text);

/** Splits bytes into chunks at random positions. */
function cut(random: Random, bytes: Uint8Array): Uint8Array[] {
  const chunks: Uint8Array[] = [];
  for (let at = 0; at < bytes.length;) {
    const end = Math.min(bytes.length, at + 1 + random.below(random.pick([1, 4, 40])));
    chunks.push(bytes.slice(at, end));
    at = end;
  }
  return chunks;
}

Deno.test("MessageReader reads varints and messages for all chunk boundaries", async () => {
  const random = new Random(1);
  for (let round = 0; round < 300; round++) {
    const values = Array.from({ length: 5 }, () => random.bits(53));
    const bodies = Array.from({ length: 5 }, () => random.bytes(random.below(300)));
    const bytes = new Uint8Array(values.flatMap((value, i) => [
      ...[...encodeVarint(value), ...encodeVarint(bodies[i]!.length), ...bodies[i]!],
    ]));
    const reader = new MessageReader(new HandStream(...cut(random, bytes), null));
    for (const [i, value] of values.entries()) {
      assertEquals(await reader.varint(), value);
      assertEquals(await reader.message(), bodies[i]);
    }
    assertEquals(await reader.message(), undefined);
    assertEquals([reader.isOver, reader.held], [true, 0]);
  }
});

Deno.test("MessageReader.takeVarint() reads nothing before the whole number has arrived", async () => {
  const reader = new MessageReader(new HandStream(hex("80"), hex("0001"), hex("0025"), null));
  assertEquals(reader.takeVarint(), undefined);
  for (let i = 0; i < 2; i++) {
    assert(await reader.more());
    assertEquals(reader.takeVarint(), undefined);
  }
  assert(await reader.more());
  assertEquals([reader.takeVarint(), reader.takeVarint()], [0x100, 0x25]);
  assertEquals([await reader.more(), reader.isOver], [false, true]);
});

Deno.test("MessageReader.takeSized() reads nothing before the whole block has arrived", async () => {
  const reader = new MessageReader(new HandStream(hex("03aabb"), hex("cc00"), null));
  assert(await reader.more());
  assertEquals([reader.takeSized(8), reader.held], [undefined, 3]);
  assert(await reader.more());
  assertEquals([reader.takeSized(8), reader.takeSized(8)], [hex("aabbcc"), hex("")]);
});

Deno.test("MessageReader.takeBytes() returns only bytes that have arrived", async () => {
  const reader = new MessageReader(new HandStream(hex("aabbcc")));
  assert(await reader.more());
  assertEquals([reader.takeBytes(4), reader.held], [undefined, 3]);
  assertEquals([reader.takeBytes(0), reader.takeBytes(3)], [hex(""), hex("aabbcc")]);
});

Deno.test("MessageReader reuses the memory of a read, unless the caller holds a part", async () => {
  const small = hex("0102");
  const [first, second] = [1, 2].map((fill) => new Uint8Array(10_000).fill(fill));
  const chunks = [small, first!, second!, null];
  const given: unknown[] = [];
  const reader = new MessageReader({
    read(used) {
      given.push(used ?? null);
      return Promise.resolve(chunks.shift() ?? null);
    },
    cancel() {},
  });
  assertEquals(await reader.bytes(2), small);
  const copied = await reader.bytes(10_000);
  first!.fill(0);
  assert(copied.every((byte) => byte === 1));
  assertEquals((await reader.bytes(6_000)).length, 6_000);
  assertEquals((await reader.bytes(4_000)).length, 4_000);
  assertEquals(await reader.varint(), undefined);
  assertEquals(given, [null, small, first, null]);
});

Deno.test("MessageReader reports a stream that ends inside a message", async () => {
  for (
    const [bytes, read] of [
      ["40", (reader) => reader.varint()],
      ["02aa", (reader) => reader.message()],
      ["01", (reader) => reader.message()],
      ["80", (reader) => reader.required("SUBSCRIBE")],
      ["", (reader) => reader.required("SUBSCRIBE")],
      ["aa", (reader) => reader.bytes(2)],
    ] as [string, (reader: MessageReader) => Promise<unknown>][]
  ) {
    const chunks = bytes === "" ? [] : [hex(bytes)];
    const error = await assertRejects(() =>
      read(new MessageReader(new HandStream(...chunks, null)))
    );
    assert(error instanceof TruncatedError, bytes);
    assert(error instanceof ProtocolError);
  }
});

Deno.test("MessageReader.varint() distinguishes the end of a stream from a truncation", async () => {
  const reader = new MessageReader(new HandStream(null));
  assertEquals([await reader.varint(), await reader.message()], [undefined, undefined]);
});

Deno.test("MessageReader.message() rejects a length before its bytes arrive", async () => {
  const reader = new MessageReader(new HandStream(encodeVarint(MAX_MESSAGE_BYTES + 1)));
  await assertRejects(() => reader.message(), ProtocolError, "65537");
  const huge = new MessageReader(new HandStream(hex("ffffffffffffffff")));
  await assertRejects(() => huge.message(), ProtocolError, "at most 65536");
  const taken = new MessageReader(new HandStream(hex("4042")));
  assert(await taken.more());
  assertThrows(() => taken.takeSized(0x41), ProtocolError, "66");
});

Deno.test("MessageReader.bytes() allocates little before the bytes arrive", async () => {
  const length = 64 * 2 ** 20;
  const stream = new HandStream(encodeVarint(length), hex("aa"), null);
  const before = Deno.memoryUsage().external;
  const reading = new MessageReader(stream).message(length);
  const during = Deno.memoryUsage().external;
  await assertRejects(() => reading, TruncatedError);
  assert(during - before < 2 ** 20, `${during - before} bytes`);
});

Deno.test("MessageReader.bytes() assembles a large frame", async () => {
  const random = new Random(3);
  const frame = random.bytes(700_000);
  const chunks: Uint8Array[] = [];
  for (let at = 0; at < frame.length; at += 60_000) chunks.push(frame.slice(at, at + 60_000));
  const reader = new MessageReader(new HandStream(...chunks, null));
  assertEquals(await reader.bytes(frame.length), frame);
  assertEquals(reader.held, 0);
});

Deno.test("MessageReader forwards a reset, and cancels its stream", async () => {
  const reset = new StreamError("reset", { streamErrorCode: 3, by: "remote" });
  const stream = new HandStream(hex("02"), reset);
  const reader = new MessageReader(stream);
  assertEquals(await assertRejects(() => reader.message()), reset);
  reader.cancel(reset);
  assertEquals(stream.cancelled, [3]);
});
