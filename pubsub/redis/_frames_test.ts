import { assertEquals, assertThrows } from "@std/assert";
import { Buffer } from "node:buffer";
import type { Publication } from "../broker.ts";
import { decodeKept, decodePlain, decodeStored, encodeFrame } from "./_frames.ts";

const PUBLICATIONS: readonly Publication[] = [
  { topic: "chat", payload: '{"topic":"chat","data":"é😀"}' },
  { topic: "chat", payload: "", except: "session é" },
  { topic: "chat", payload: Uint8Array.of(0, 10, 255) },
  { topic: "chat", payload: new Uint8Array(), except: "x" },
];

Deno.test("decodePlain() reads what encodeFrame() wrote, many in one message", () => {
  const message = Buffer.concat(PUBLICATIONS.map((one) => encodeFrame(one)));
  assertEquals(decodePlain("chat", message), [...PUBLICATIONS]);
});

Deno.test("decodeKept() counts offsets on from the first one", () => {
  const frames = PUBLICATIONS.map((one) => encodeFrame(one));
  const message = Buffer.concat([Buffer.from("1a2b 9007199254740980\n"), ...frames]);
  const first = 9_007_199_254_740_980;
  assertEquals(
    decodeKept("chat", message),
    PUBLICATIONS.map((publication, i) => ({
      ...publication,
      position: { epoch: "1a2b", offset: first + i, prev: first + i - 1 },
    })),
  );
});

Deno.test("decodeStored() gives each frame of a page its place", () => {
  const first = { epoch: "e", offset: 7, prev: 2 };
  const page = decodeStored("chat", PUBLICATIONS.map((one) => encodeFrame(one)), first);
  assertEquals(page.map(({ position }) => position?.offset), [7, 8, 9, 10]);
  assertEquals(page.map(({ position }) => position?.prev), [2, 7, 8, 9]);
  assertEquals(page.map(({ payload }) => payload), PUBLICATIONS.map(({ payload }) => payload));
});

Deno.test("encodeFrame() gives a frame a tag, which nodes of 0.1 take for a session that is not theirs", () => {
  const frames = PUBLICATIONS.map((one, i) => encodeFrame(one, `tag-0${i}`));
  const page = decodeStored("chat", frames, { epoch: "e", offset: 7, prev: 6 });
  assertEquals(page.map(({ position }) => position?.tag), ["tag-00", "tag-01", "tag-02", "tag-03"]);
  assertEquals(page.map(({ position: _position, ...rest }) => rest), [...PUBLICATIONS]);
  // An `except` of 0.1 is none, as long as a tag as it may be.
  const old = encodeFrame({ topic: "chat", payload: "", except: "session" });
  const [read] = decodeStored("chat", [old], { epoch: "e", offset: 7, prev: 6 });
  assertEquals([read!.except, read!.position!.tag], ["session", undefined]);
});

Deno.test("decodePlain() copies bytes, so that they do not hold what came with them", () => {
  const message = Buffer.concat([encodeFrame(PUBLICATIONS[2]!), Buffer.alloc(10_000)]);
  const [publication] = decodePlain("chat", message);
  assertEquals((publication!.payload as Uint8Array).buffer.byteLength, 3);
});

Deno.test("decodePlain() and decodeKept() stop at what is no frame", () => {
  const frame = encodeFrame(PUBLICATIONS[0]!);
  for (let length = 0; length < frame.length; length++) {
    assertEquals(decodePlain("chat", frame.subarray(0, length)), [], `${length}`);
    const cut = Buffer.concat([frame, frame.subarray(0, length)]);
    assertEquals(decodePlain("chat", cut), [PUBLICATIONS[0]!], `${length}`);
  }
  for (const head of ["", "\n", "epoch\n", "epoch x\n", " 1\n", "epoch 1", "e 1 1\n", "e 1 x\n"]) {
    assertEquals(decodeKept("chat", Buffer.concat([Buffer.from(head), frame])), [], head);
  }
  const [after] = decodeKept("chat", Buffer.concat([Buffer.from("e 9 3\n"), frame]));
  assertEquals(after!.position, { epoch: "e", offset: 9, prev: 3 });
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
