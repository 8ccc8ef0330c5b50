import { assertEquals } from "@std/assert";
import type { Publication } from "../broker.ts";
import { decode, encode } from "./_codec.ts";

const TEXTS = ["", " ", "t", "T1:a", '{"topic":"a"}', "é€😀\0\n", "\ufeffmark"];
const BYTES = [new Uint8Array(), Uint8Array.of(0x74), Uint8Array.of(0xff, 0xfe, 0x3a)];
const EXCEPTS = [undefined, "", "session", "é€😀", ":", "x".repeat(2_000)];

Deno.test("decode() gives what encode() took, text and bytes, with and without except", () => {
  for (const payload of [...TEXTS, ...BYTES]) {
    for (const except of EXCEPTS) {
      const publication: Publication = {
        topic: "a",
        payload,
        ...(except !== undefined && { except }),
      };
      assertEquals(decode("a", encode(publication)), publication);
    }
  }
});

Deno.test("decode() adds the position", () => {
  const position = { epoch: "e", offset: 2, prev: 1 };
  assertEquals(decode("a", encode({ topic: "a", payload: "1" }), position), {
    topic: "a",
    payload: "1",
    position,
  });
});

Deno.test("decode() gives nothing for what something else published", () => {
  for (const text of ["", "hello", "{}", "T", "T:", "T!:a", "Tzzzzzzzzz", "B", "B!:"]) {
    assertEquals(decode("a", new TextEncoder().encode(text)), undefined, text);
  }
});

Deno.test("decode() gives bytes that keep nothing else in memory", () => {
  const chunk = new Uint8Array(65_536);
  const message = encode({ topic: "a", payload: Uint8Array.of(1, 2, 3) });
  chunk.set(message);
  const { payload } = decode("a", chunk.subarray(0, message.length))!;
  assertEquals((payload as Uint8Array).buffer.byteLength, 3);
});
