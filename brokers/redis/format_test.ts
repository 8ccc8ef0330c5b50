import { assertEquals, assertNotEquals, assertThrows } from "@std/assert";
import { Buffer } from "node:buffer";
import type { Publication } from "../../pubsub/broker.ts";
import {
  checkName,
  decodePlain,
  decodeRetained,
  decodeStored,
  encodeFrame,
  readWellFormed,
  RedisNames,
  slotOf,
  wellFormed,
} from "./format.ts";

const PUBLICATIONS: readonly Publication[] = [
  { payload: '{"topic":"chat","data":"é😀"}', except: undefined },
  { payload: "", except: "session é" },
  { payload: Uint8Array.of(0, 10, 255), except: undefined },
  { payload: new Uint8Array(), except: "x" },
].map((one) => ({ topic: "chat", ...one, position: undefined }));

Deno.test("decodePlain() reads the output of encodeFrame(), many in one message", () => {
  const message = Buffer.concat(PUBLICATIONS.map((one) => encodeFrame(one)));
  assertEquals(decodePlain("chat", message), [...PUBLICATIONS]);
});

Deno.test("decodeRetained() counts offsets from the first one", () => {
  const frames = PUBLICATIONS.map((one) => encodeFrame(one));
  const message = Buffer.concat([Buffer.from("1a2b 9007199254740980\n"), ...frames]);
  const first = 9_007_199_254_740_980;
  assertEquals(
    decodeRetained("chat", message),
    PUBLICATIONS.map((publication, i) => ({
      ...publication,
      position: { epoch: "1a2b", offset: first + i, prev: first + i - 1, tag: undefined },
    })),
  );
});

Deno.test("decodeStored() gives each frame of a page its offset", () => {
  const first = { epoch: "e", offset: 7, prev: 2 };
  const page = decodeStored("chat", PUBLICATIONS.map((one) => encodeFrame(one)), first);
  assertEquals(page.map(({ position }) => position?.offset), [7, 8, 9, 10]);
  assertEquals(page.map(({ position }) => position?.prev), [2, 7, 8, 9]);
  assertEquals(page.map(({ payload }) => payload), PUBLICATIONS.map(({ payload }) => payload));
});

Deno.test("encodeFrame() adds a tag to a frame in addition to the excepted session", () => {
  const frames = PUBLICATIONS.map((one, i) => encodeFrame(one, `tag-0${i}`));
  const page = decodeStored("chat", frames, { epoch: "e", offset: 7, prev: 6 });
  assertEquals(page.map(({ position }) => position?.tag), ["tag-00", "tag-01", "tag-02", "tag-03"]);
  assertEquals(page.map((one) => ({ ...one, position: undefined })), [...PUBLICATIONS]);
  // A session is not a tag, even one as long as a tag.
  const plain = encodeFrame({ topic: "chat", payload: "", except: "abcdef" });
  const [read] = decodePlain("chat", plain);
  assertEquals([read!.except, read!.position], ["abcdef", undefined]);
});

Deno.test("decodePlain() copies bytes, so that they do not hold the whole message", () => {
  const message = Buffer.concat([encodeFrame(PUBLICATIONS[2]!), Buffer.alloc(10_000)]);
  const [publication] = decodePlain("chat", message);
  assertEquals((publication!.payload as Uint8Array).buffer.byteLength, 3);
});

Deno.test("decodePlain() and decodeRetained() stop at invalid frames", () => {
  const frame = encodeFrame(PUBLICATIONS[0]!);
  for (let length = 0; length < frame.length; length++) {
    assertEquals(decodePlain("chat", frame.subarray(0, length)), [], `${length}`);
    const cut = Buffer.concat([frame, frame.subarray(0, length)]);
    assertEquals(decodePlain("chat", cut), [PUBLICATIONS[0]!], `${length}`);
  }
  for (const head of ["", "\n", "epoch\n", "epoch x\n", " 1\n", "epoch 1", "e 1 1\n", "e 1 x\n"]) {
    assertEquals(decodeRetained("chat", Buffer.concat([Buffer.from(head), frame])), [], head);
  }
  const [after] = decodeRetained("chat", Buffer.concat([Buffer.from("e 9 3\n"), frame]));
  assertEquals(after!.position, { epoch: "e", offset: 9, prev: 3, tag: undefined });
  const wrong = Buffer.from(frame);
  wrong.writeUInt16BE(65_535, 5);
  assertEquals(decodePlain("chat", wrong), []);
  assertEquals(decodePlain("chat", Buffer.alloc(100)), []);
});

Deno.test("encodeFrame() rejects an `except` that does not fit", () => {
  assertThrows(
    () => encodeFrame({ topic: "chat", payload: "", except: "x".repeat(65_536) }),
    RangeError,
    "received 65536",
  );
});

Deno.test("slotOf() returns a cluster's slot of a name", () => {
  // The slots that `redis-cli cluster keyslot` prints.
  assertEquals(slotOf("123456789"), 12_739);
  assertEquals(slotOf("foo"), 12_182);
  assertEquals(slotOf("{foo}bar"), 12_182);
  assertEquals(slotOf("bar{foo}{other}"), 12_182);
  assertEquals(slotOf("foo{}{bar}"), 8_363);
  assertEquals(slotOf("é😀"), 14_663);
});

Deno.test("Names maps each topic to one slot, for any characters", () => {
  const names = new RedisNames("skein");
  for (const topic of ["chat", "", "}", "{", "{}", "a}b{c}", "é😀", "\ud800"]) {
    const all = [
      names.channel(topic),
      names.of("log", topic),
      names.of("meta", topic),
      names.of("stream", topic),
      names.of("producer", topic) + "}{",
    ];
    assertEquals(new Set(all).size, all.length, topic);
    assertEquals(new Set(all.map(slotOf)).size, 1, topic);
  }
});

Deno.test("Names spreads topics over slots", () => {
  const names = new RedisNames("skein");
  const slots = Array.from({ length: 100 }, (_, i) => slotOf(names.channel(`}room:${i}`)));
  assertEquals(new Set(slots).size, 1);
  const usual = Array.from({ length: 100 }, (_, i) => slotOf(names.channel(`room:${i}`)));
  assertEquals(new Set(usual).size > 95, true);
});

Deno.test("Names separates topics that are not well-formed Unicode", () => {
  const names = new RedisNames("skein");
  const bytes = (topic: string) => new TextEncoder().encode(names.channel(topic));
  assertNotEquals(bytes("\ud800"), bytes("\ud801"));
  assertNotEquals(bytes("\ud800"), bytes('"\\ud800"'));
});

Deno.test("readWellFormed() reverses wellFormed() for any text", () => {
  for (const text of ["", "/", "~", "é😀", "\ud800", '"\ud800\0']) {
    assertEquals(readWellFormed(wellFormed(text)), text);
    assertEquals(wellFormed(text).isWellFormed(), true);
  }
});

Deno.test("checkName() rejects names of more than 64 KiB", () => {
  checkName("ü".repeat(32_768));
  for (const name of [`${"ü".repeat(32_768)}x`, "x".repeat(65_537)]) {
    assertThrows(() => checkName(name), RangeError, "at most 65536 bytes, received 65537");
  }
});
