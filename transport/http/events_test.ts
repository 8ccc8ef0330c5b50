import { assertEquals, assertMatch, assertThrows } from "@std/assert";
import { COMMENT, EventReader, writeClose, writeFrame, writeOpened } from "./events.ts";

Deno.test("EventReader.read() returns the events that were written, in pieces of any size", () => {
  const frames = [
    "",
    " ",
    "one",
    " spaces \n  at\n the begin",
    "\n\n",
    "a\rb\r\n",
    "a\u2028 b\u2029 c\ufeff",
    "id:7\nevent:close\ndata:x",
    ":",
    "zwölf 𝄞",
    Uint8Array.of(),
    Uint8Array.from({ length: 256 }, (_, i) => i),
  ];
  const opened = { session: "a.b", secret: "s" };
  const info = { closeCode: 3000, reason: "grüße\n" };
  const text = writeOpened(opened) + COMMENT +
    frames.map((frame, i) => writeFrame(i + 1, frame)).join(COMMENT) +
    writeClose(frames.length + 1, info);
  const events = [
    { kind: "session", opened },
    ...frames.map((frame, i) => ({ kind: "frame", number: i + 1, frame })),
    { kind: "close", number: frames.length + 1, info },
  ];
  for (const size of [1, 2, 7, 64, text.length]) {
    const reader = new EventReader();
    const read = [];
    for (let at = 0; at < text.length; at += size) {
      read.push(...reader.read(text.slice(at, at + size)));
    }
    assertEquals(read, events as typeof read);
  }
});

Deno.test("EventReader.read() reads fields with and without a space after the colon", () => {
  const text = writeOpened({ session: "a", secret: "s" }) + writeFrame(1, "two\n\nlines") +
    writeFrame(2, "\r") + writeClose(3, { closeCode: 0, reason: "" });
  const without = text.replaceAll(/^(\w+): /gm, "$1:");
  assertMatch(without, /^event:session\ndata:\{/);
  assertEquals(new EventReader().read(without), new EventReader().read(text));
});

Deno.test("EventReader.read() ignores unknown fields", () => {
  assertEquals(new EventReader().read("retry: 5\nfoo\nid: 1\ndata: a\n\n"), [
    { kind: "frame", number: 1, frame: "a" },
  ]);
});

Deno.test("EventReader.read() throws on events that do not belong to the transport", () => {
  for (
    const text of [
      "event: foreign\ndata: x\n\n",
      "event: close\ndata: {\n\n",
      "event: session\ndata: null\n\n",
      "event: quoted\ndata: a\n\n",
      "id: 1\nevent: binary\ndata: *\n\n",
    ]
  ) assertThrows(() => new EventReader().read(text), Error);
});
