import { assertEquals, assertThrows } from "@std/assert";
import { Buffer } from "node:buffer";
import { BrokerError } from "../../../errors.ts";
import type { LogRecord } from "../../../streams/logs/log.ts";
import {
  decodeLog,
  encodedBytes,
  encodeLog,
  firstOf,
  liveIn,
  type LiveMessage,
  recordsOf,
  type WholeLog,
} from "./format.ts";

const STATE: WholeLog = {
  contentType: "text/plain; charset=ü",
  identity: "identity",
  first: 0,
  start: 0,
  tail: 7,
  bytes: 9,
  producers: JSON.parse('{ "__proto__": [1, 2] }'),
  forks: ["\n"],
};

/** Encodes and decodes. */
function passed(records: readonly LogRecord[], state = STATE): LiveMessage {
  const head = { state, count: records.length, number: 3, look: 42 };
  return liveIn(decodeLog(9, encodeLog(head, records)))!;
}

Deno.test("encodeLog() keeps the state and the records with their types", () => {
  const records = ["", "text", "\ufeffü\n\u0000\u{1f600}", new Uint8Array(), Uint8Array.of(10, 0)];
  const message = passed(records);
  assertEquals(message.head.state, STATE);
  assertEquals({ seq: message.seq, number: message.head.number, look: message.head.look }, {
    seq: 9,
    number: 3,
    look: 42,
  });
  assertEquals(firstOf(message), 2);
  assertEquals(recordsOf(message), records);
  assertEquals(message.body.length, encodedBytes(records));
});

Deno.test("encodeLog() keeps records of any length", () => {
  for (const bits of [0, 6, 7, 8, 13, 14, 15, 20]) {
    for (const length of [2 ** bits - 1, 2 ** bits]) {
      const records = ["x".repeat(length), new Uint8Array(length).fill(7), "end"];
      assertEquals(recordsOf(passed(records)), records);
    }
  }
});

Deno.test("recordsOf() copies bytes out of the message", () => {
  const head = { state: STATE, count: 1, number: 0 };
  // The class that the client library returns; its `slice` does not copy.
  const bytes = Buffer.from(encodeLog(head, [Uint8Array.of(1)]));
  const [record] = recordsOf(liveIn(decodeLog(1, bytes))!);
  bytes.fill(0);
  assertEquals(record!.constructor, Uint8Array);
  assertEquals(record, Uint8Array.of(1));
});

Deno.test("liveIn() distinguishes a removed log from a message of another program", () => {
  assertEquals(liveIn(undefined), undefined);
  assertEquals(liveIn(decodeLog(1, encodeLog(null, []))), undefined);
  for (const text of ["", "noise", "{}\n", "[]\n", "7\n", '"x"\n', '{"state":{}}\n', "{\n}"]) {
    const message = decodeLog(5, new TextEncoder().encode(text));
    assertThrows(() => liveIn(message), BrokerError, "at sequence 5");
  }
});
