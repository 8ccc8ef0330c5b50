import { assertEquals } from "@std/assert";
import { decodeLog, encodeLog, liveIn, type LogHead, type WholeLog } from "./format.ts";
import type { LogRecord } from "../../../streams/logs/log.ts";
import { changedRows, type HiddenRows, rowsOf } from "./row_format.ts";

const STATE: WholeLog = {
  contentType: "application/json",
  identity: "identity",
  first: 0,
  start: 0,
  tail: 3,
  bytes: 100,
  producers: {},
  forks: [],
};

function textOf(key: string, value: number): string {
  return `{"type":"t","key":"${key}","value":${value},"headers":{"operation":"update"}}`;
}

Deno.test("rowsOf() finds the newest change of each row, after records that are no transactions", () => {
  const row = (key: string, position: number) => ({
    row: `["t","${key}"]`,
    position,
    text: textOf(key, position),
    until: undefined,
    deletedAt: undefined,
  });
  const transactions = [[row("a", 1), row("b", 1)], [row("a", 2)]]
    .map((set) => ({ texts: set.map(({ text }) => text), set }));
  const head: LogHead = { state: STATE, count: 3, number: 0 };
  const body = ["[{}]", ...transactions.map(({ texts }) => `[${texts.join()}]`)];
  const read = (...records: LogRecord[]) =>
    rowsOf(liveIn(decodeLog(1, encodeLog(head, [...body, ...records])))!);
  const set = [row("b", 1), row("a", 2)];
  assertEquals(read(...changedRows(transactions, new Map())), { set, gone: [] });
  const hidden = new Map([["gone", undefined], ["hidden", row("hidden", 2)]]);
  assertEquals(read(...changedRows(transactions, hidden)), {
    set: [row("hidden", 2), ...set],
    gone: ["gone"],
  });
});

Deno.test("rowsOf() finds hidden rows in a message without records", () => {
  const read = (hidden: HiddenRows) => {
    const encoded = encodeLog({ state: STATE, count: 0, number: 0 }, changedRows([], hidden));
    return rowsOf(liveIn(decodeLog(1, encoded))!);
  };
  assertEquals(read(new Map([["gone", undefined]])), { set: [], gone: ["gone"] });
  assertEquals(read(new Map()), { set: [], gone: [] });
});
