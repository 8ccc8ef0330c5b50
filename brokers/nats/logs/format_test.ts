import { assertEquals, assertThrows } from "@std/assert";
import { Buffer } from "node:buffer";
import { BrokerError } from "../../../errors.ts";
import { Random } from "../../../tests/random.ts";
import type { LogRecord } from "../../../pubsub/logs/log.ts";
import {
  decodeLog,
  encodedBytes,
  encodeLog,
  firstOf,
  liveIn,
  type LiveMessage,
  recordsOf,
  wayFrom,
  waypoints,
  waypointTo,
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
  const head = { state, count: records.length, number: 3, path: [8, 6, 7, 5], look: 42 };
  return liveIn(decodeLog(9, encodeLog(head, records)))!;
}

Deno.test("encodeLog() keeps the state and the records with their types", () => {
  const records = ["", "text", "\ufeffü\n\u0000\u{1f600}", new Uint8Array(), Uint8Array.of(10, 0)];
  const message = passed(records);
  assertEquals(message.head.state, STATE);
  assertEquals(message.head.path, [8, 6, 7, 5]);
  assertEquals([message.seq, message.head.look, firstOf(message)], [9, 42, 2]);
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
  const head = { state: STATE, count: 1, number: 0, path: [] };
  // The class that the client library hands out; its `slice` does not copy.
  const bytes = Buffer.from(encodeLog(head, [Uint8Array.of(1)]));
  const [record] = recordsOf(liveIn(decodeLog(1, bytes))!);
  bytes.fill(0);
  assertEquals(record!.constructor, Uint8Array);
  assertEquals(record, Uint8Array.of(1));
});

Deno.test("liveIn() tells a removed log from a message of another program", () => {
  assertEquals(liveIn(undefined), undefined);
  assertEquals(liveIn(decodeLog(1, encodeLog(null, []))), undefined);
  for (const text of ["", "noise", "{}\n", "[]\n", "7\n", '"x"\n', '{"state":{}}\n', "{\n}"]) {
    const message = decodeLog(5, new TextEncoder().encode(text));
    assertThrows(() => liveIn(message), BrokerError, "at sequence 5");
  }
});

Deno.test("waypoints() are the message before, and the number with its lowest bits cleared", () => {
  assertEquals([0, 1, 2, 7, 12].map(waypoints), [[], [0], [1, 0], [6, 4, 0], [11, 8, 0]]);
});

Deno.test("wayFrom() leads from the newest message to every earlier position over few messages", () => {
  const random = new Random(7);
  const messages = new Map<number, LiveMessage>();
  let newest: LiveMessage | undefined;
  for (let seq = 1, tail = 0; messages.size < 2_000; seq += 1 + random.below(3)) {
    // Changes without records have no number, and are dropped by the next change.
    const count = random.below(4);
    tail += count;
    const way = newest === undefined ? { number: 0, path: [] } : wayFrom(newest);
    const head = { state: { ...STATE, tail }, count, ...way };
    newest = { seq, head, body: new Uint8Array() };
    if (count > 0) messages.set(seq, newest);
  }
  let most = 0;
  for (let position = 0; position < newest!.head.state.tail; position++) {
    let at = newest!;
    let steps = 0;
    while (firstOf(at) > position) {
      at = messages.get(waypointTo(at.head.path, position)!)!;
      steps++;
    }
    assertEquals(at.head.state.tail > position, true);
    most = Math.max(most, steps);
  }
  assertEquals(most <= 22, true, `${most} steps`);
});
