import { assertEquals, assertThrows } from "@std/assert";
import {
  CommandReader,
  encodeMessage,
  headerIn,
  headersOf,
  messageOf,
  NatsViolation,
  withHeaders,
} from "./wire.ts";

const bytes = (text: string) => new TextEncoder().encode(text);
const text = (data: Uint8Array) => new TextDecoder().decode(data);

Deno.test("CommandReader.read() reads commands in pieces of any size", () => {
  const all = bytes(
    'CONNECT {"echo":false}\r\nPING\r\nSUB a.* q 7\r\nUNSUB 7 2\r\n' +
      "PUB a inbox 5\r\nh\r\né\r\nHPUB b 12 14\r\nNATS/1.0\r\n\r\nok\r\nPONG\r\n",
  );
  for (const size of [1, 2, 7, 40, all.length]) {
    const reader = new CommandReader();
    const seen: unknown[] = [];
    for (let at = 0; at < all.length; at += size) {
      for (const command of reader.read(all.subarray(at, at + size))) {
        if (command.name !== "pub") seen.push(command);
        else seen.push({ ...command.message, data: text(command.message.data) });
      }
    }
    assertEquals(seen, [
      { name: "connect", options: { echo: false } },
      { name: "ping" },
      { name: "sub", subject: "a.*", queue: "q", sid: "7" },
      { name: "unsub", sid: "7", max: 2 },
      { subject: "a", reply: "inbox", headers: "", data: "h\r\né" },
      { subject: "b", reply: "", headers: "NATS/1.0\r\n\r\n", data: "ok" },
      { name: "pong" },
    ]);
  }
});

Deno.test("CommandReader.read() throws for commands that a server rejects", () => {
  for (
    const [line, error] of [
      ["HELLO\r\n", "Unknown Protocol Operation"],
      ["SUB a\r\n", "Unknown Protocol Operation"],
      ["PUB a b c 1\r\n", "Parser Error"],
      ["PUB a x\r\n", "Parser Error"],
      ["PUB a 1048577\r\n", "Maximum Payload Violation"],
      [`SUB ${"a".repeat(4_096)} 1`, "maximum control line exceeded"],
    ] as const
  ) {
    assertThrows(() => new CommandReader().read(bytes(line)), NatsViolation, error);
  }
});

Deno.test("encodeMessage() encodes messages with and without headers", () => {
  const plain = { ...messageOf("a", "é"), reply: "r" };
  assertEquals(text(encodeMessage("1", plain)), "MSG a 1 r 2\r\né\r\n");
  const headers = withHeaders(headersOf([["One", 1]], "404 No"), [["Two", "x"]]);
  assertEquals(headers, "NATS/1.0 404 No\r\nOne: 1\r\nTwo: x\r\n\r\n");
  assertEquals([headerIn(headers, "Two"), headerIn(headers, "two")], ["x", undefined]);
  const shown = { ...messageOf("inbox", "", headers), shown: "b" };
  assertEquals(text(encodeMessage("2", shown)), `HMSG b 2 35 35\r\n${headers}\r\n`);
});
