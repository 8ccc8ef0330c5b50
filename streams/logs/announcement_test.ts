import { assertEquals } from "@std/assert";
import {
  type CarriedRecords,
  CarriedTail,
  encodeCarried,
  MAX_CARRIED_BYTES,
  readCarried,
} from "./announcement.ts";
import type { LogInfo, LogRecord } from "./log.ts";

const INFO: LogInfo = {
  contentType: "text/plain",
  identity: "a1b2c3d4",
  first: 0,
  start: 0,
  tail: 5,
  bytes: 5,
};
const KEYED: LogInfo = { ...INFO, keyed: { records: 1_000, ms: 0, bytes: 1_000_000 } };
const BOUNDS = { identity: INFO.identity, maxRecords: 1_000, maxBytes: 1_000_000 };

/** An append, by default of one record that names its position. */
function append(tail: number, options: Partial<CarriedRecords> = {}): CarriedRecords {
  return { identity: INFO.identity, start: 0, tail, records: [`${tail - 1}`], ...options };
}

/** The tail of a stream whose state was read at 5. */
function tailOf(info: LogInfo = INFO): CarriedTail {
  const tail = new CarriedTail();
  tail.learn(info, tail.changes);
  return tail;
}

function recordsAfter(tail: CarriedTail, after: number): readonly LogRecord[] | undefined {
  return tail.read({ ...BOUNDS, after })?.records;
}

/** A payload with one record for each content. */
function payloadOf(line: string, ...contents: (string | Uint8Array)[]): Uint8Array {
  const parts = contents.map((content) => {
    const bytes = typeof content === "string" ? new TextEncoder().encode(content) : content;
    const part = new Uint8Array(4 + bytes.length);
    const isBytes = typeof content === "string" ? 0 : 1;
    new DataView(part.buffer).setUint32(0, bytes.length * 2 + isBytes);
    part.set(bytes, 4);
    return [...part];
  });
  return Uint8Array.from([...new TextEncoder().encode(line), ...parts.flat()]);
}

function change(key: string, value: number): string {
  return `[{"type":"t","key":"${key}","value":${value},"headers":{"operation":"update"}}]`;
}

Deno.test("readCarried() reads texts and bytes", () => {
  const bytes = new Uint8Array([0, 10, 255]);
  const payload = payloadOf("a1b2c3d4 2 7\n", "\ufeffé\n", bytes, "");
  const expected = { identity: "a1b2c3d4", start: 2, tail: 7, records: ["\ufeffé\n", bytes, ""] };
  assertEquals(readCarried(payload), expected);
});

Deno.test("readCarried() ignores announcements without records, and other payloads", () => {
  const lines = ["", "\n", "a 2 7", "a 2\n", "a 1 -1\n", "A 1 2\n", `a 1 ${1e15}\n`, "{}\n"];
  for (const line of lines) assertEquals(readCarried(payloadOf(line, "x")), undefined, line);
  const whole = payloadOf("a 2 7\n", "text");
  for (let end = 0; end < whole.length; end++) {
    assertEquals(readCarried(whole.subarray(0, end)), undefined);
  }
  assertEquals(readCarried(""), undefined);
  assertEquals(readCarried("a 2 7\n"), undefined);
});

Deno.test("CarriedTail returns the records after a position, with the newest state", () => {
  const tail = tailOf();
  tail.add(append(6));
  tail.add(append(8, { records: ["6", "7"], start: 2 }));
  tail.add(append(9, { start: 2 }));
  const page = { info: { ...INFO, start: 2, tail: 9 }, records: ["5", "6", "7", "8"] };
  assertEquals(tail.read({ ...BOUNDS, after: 5 }), page);
  assertEquals([4, 6, 7, 8, 9, 10].map((after) => recordsAfter(tail, after)), [
    undefined,
    ["6", "7", "8"],
    undefined, // Within an append.
    ["8"],
    undefined,
    undefined,
  ]);
});

Deno.test("CarriedTail has no page for another stream, after retention, or beyond the bounds", () => {
  const tail = tailOf();
  for (const position of [6, 7, 8]) tail.add(append(position, { start: 6 }));
  assertEquals(recordsAfter(tail, 5), undefined);
  const read = (bounds: object) => tail.read({ ...BOUNDS, after: 6, ...bounds })?.records;
  assertEquals(read({ identity: "other" }), undefined);
  assertEquals(read({ identity: undefined }), undefined);
  assertEquals(read({ maxRecords: 1 }), undefined);
  assertEquals(read({ maxBytes: 1 }), undefined);
  assertEquals(read({ maxBytes: 2, maxRecords: 2 }), ["6", "7"]);
  assertEquals(read({ after: 7, maxBytes: 0 }), ["7"]);
});

Deno.test("CarriedTail starts again after a gap, a repetition and another identity", () => {
  const follow = (next: CarriedRecords) => {
    const tail = tailOf();
    tail.add(append(6));
    tail.add(next);
    return recordsAfter(tail, 5);
  };
  assertEquals(follow(append(7)), ["5", "6"]);
  assertEquals(follow(append(8)), undefined);
  assertEquals(follow(append(6)), ["5"]);
  assertEquals(follow(append(7, { identity: "other" })), undefined);
});

Deno.test("CarriedTail forgets the state after any other change", () => {
  const tail = tailOf();
  tail.add(append(6));
  const { changes } = tail;
  tail.add(undefined);
  tail.add(append(7));
  assertEquals(recordsAfter(tail, 6), undefined);
  tail.learn(INFO, changes); // Was read before the change.
  assertEquals(recordsAfter(tail, 6), undefined);
  tail.learn(INFO, tail.changes);
  assertEquals(recordsAfter(tail, 6), ["6"]);
});

Deno.test("CarriedTail has no page that ends before a page that was read", () => {
  const tail = tailOf();
  // A read that overtakes the announcements, also if its state is already outdated.
  tail.learn({ ...INFO, tail: 7, end: {} }, tail.changes - 1);
  tail.add(append(6));
  assertEquals(recordsAfter(tail, 5), undefined);
  tail.add(append(7));
  assertEquals(recordsAfter(tail, 5), ["5", "6"]);
  tail.learn({ ...INFO, identity: "other" }, tail.changes - 1);
  assertEquals(recordsAfter(tail, 5), undefined);
});

Deno.test("CarriedTail returns the newest change of each row, or each change", () => {
  const tail = tailOf(KEYED);
  for (const [i, key] of ["a", "b", "a"].entries()) {
    tail.add(append(6 + i, { records: [change(key, i)] }));
  }
  const texts = ["a", "b", "a"].map((key, i) => change(key, i).slice(1, -1));
  const info = { ...KEYED, tail: 8 };
  const newest = { info, records: texts.slice(1), positions: [6, 7] };
  assertEquals(tail.read({ ...BOUNDS, after: 5 }), newest);
  assertEquals(tail.read({ ...BOUNDS, after: 5, eachChange: true }), { info, records: texts });
  const last = { info, records: texts.slice(2), positions: [7] };
  assertEquals(tail.read({ ...BOUNDS, after: 7 }), last);
});

Deno.test("CarriedTail keeps few bytes", () => {
  const kept = (text: string) => {
    const tail = tailOf();
    for (let position = 6; position <= 1_000; position++) {
      tail.add(append(position, { records: [text] }));
    }
    const positions = Array.from({ length: 1_000 }, (_, after) => after);
    return positions.filter((after) => recordsAfter(tail, after) !== undefined).length;
  };
  assertEquals([kept("x".repeat(MAX_CARRIED_BYTES)), kept("x")], [3, 252]);
});

Deno.test("encodeCarried() writes what readCarried() reads, if an append changed nothing else", () => {
  const records = ["é\n", new Uint8Array([0, 255]), ""];
  const { rows: _rows, ...before } = INFO;
  const after = { ...before, start: 2, tail: 8, bytes: 10, until: 5 };
  const payload = encodeCarried(before, after, records)!;
  assertEquals(readCarried(payload), { identity: INFO.identity, start: 2, tail: 8, records });
  for (
    const change of [{ end: {} }, { cancel: "enough" }, { identity: "new" }, { identity: "a-b" }]
  ) {
    assertEquals(encodeCarried(before, { ...after, ...change }, records), undefined);
  }
  assertEquals(encodeCarried(before, after, []), undefined);
  const most = "x".repeat(MAX_CARRIED_BYTES - 4);
  assertEquals(readCarried(encodeCarried(before, after, [most])!)?.records, [most]);
  for (const text of [`${most}x`, "é".repeat(MAX_CARRIED_BYTES / 2)]) {
    assertEquals(encodeCarried(before, after, [text]), undefined);
  }
});
