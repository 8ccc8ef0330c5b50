/** Tests of the rules that every broker with keyed logs follows. */
import { type Change, readChange, rowChange, rowCheck } from "../logs/change_message.ts";
import { HIDDEN_PREFIX, readRowName, rowName } from "../../session/wire/rows.ts";
import { CALLER_MARKS, TIGHT_CALLER_MARKS } from "../logs/callers.ts";
import { logTopic } from "../logs/log_names.ts";
import { firstRows } from "../logs/memory_rows.ts";
import type {
  AppendLogOptions,
  BrokerLogs,
  LogAppended,
  LogPage,
  LogProducer,
  LogTail,
  ReadLogOptions,
  RowBounds,
} from "../logs/log.ts";
import { besides, requireLogs, until } from "./logs.ts";
import { same, type Test, type TestKit } from "../../pubsub/conformance/kit.ts";

/** A bound that tests do not reach by accident. */
const PLENTY = 67_108_864;

/** A tail that keeps little more than the newest record. */
const SHORT: LogTail = { records: 2, ms: 1, bytes: PLENTY };

const LONG: LogTail = { records: 1_000, ms: 3_600_000, bytes: PLENTY };

/** Time of all changes. */
const NOW = Date.UTC(2026, 0, 1);

const BOUNDS: RowBounds = { rows: 10_000, deletions: 10_000, deletionMs: 3_600_000 };

/** Tests that run with one broker, and between two. */
export const ROWS: Record<string, Test> = {
  "gives readers the newest change of each row, in order": withRows(async ({ id }, near, far) => {
    await created(near, id);
    await change(near, id, [set("a", 1), set("b", 1)]);
    await change(far, id, [set("a", 2)]);
    await change(near, id, [set("c", 1)]);
    const page = await read(far, id);
    same(shown(page), ["insert b 1", "update a 2", "insert c 1"], "the changes");
    same(page.positions, [0, 1, 2], "their positions");
    same(page.next, 3, "the position after the page");
    same(page.info.tail, 3, "the tail");
    same(page.info.rows?.count, 3, "the number of rows");
    same(shown(await read(near, id, { after: 1 })), ["update a 2", "insert c 1"], "later changes");
    same(shown(await read(near, id, { after: 2 })), ["insert c 1"], "the newest change");
    same(shown(await read(near, id, { after: 3 })), [], "changes at the tail");
  }),

  "reads rows by name": withRows(async ({ id }, near, far) => {
    const names = (...keys: string[]) => keys.map((key) => rowName("t", key));
    const named = async (rows: string[], maxBytes = PLENTY) => {
      const page = await read(far, id, { rows, maxBytes, after: 1, maxRecords: 0 });
      return { shown: shown(page), positions: page.positions ?? [], next: page.next };
    };
    await created(near, id);
    const none = { shown: [], positions: [], next: 2 };
    same(await named(names("a", "b")), none, "the rows of a new log");
    await change(near, id, [set("a", 1), set("b", 1), set("c", 1)]);
    await change(near, id, [set("b", 2), remove("c")]);
    same(
      await named(names("b", "x", "c", "a")),
      { shown: ["update b 2", "insert a 1"], positions: [1, 0], next: 4 },
      "the rows that exist, in the order of their names",
    );
    const first = { shown: ["update b 2"], positions: [1], next: 2 };
    same(await named(names("b", "x", "a"), 1), first, "a page that has room for one row");
    same((await read(far, id, { rows: names("a") })).info.tail, 2, "the tail");
  }),

  "writes insert or update, depending on whether the row exists": withRows(
    async ({ id }, near, far) => {
      await created(near, id);
      await change(near, id, [set("a", 1), set("a", 2), update("a", 3)]);
      same(shown(await read(far, id)), ["update a 3"], "changes of one transaction");
      same(await change(far, id, [update("b", 1)]), conflict("b", 0), "an update of a missing row");
      await change(far, id, [remove("a")]);
      same(shown(await read(near, id)), ["delete a"], "a deletion");
      same(
        await change(near, id, [update("a", 4)]),
        conflict("a", 0),
        "an update of a deleted row",
      );
      await change(near, id, [set("a", 5)]);
      same(shown(await read(far, id)), ["insert a 5"], "a row after its deletion");
      await change(far, id, [remove("b")]);
      same((await read(near, id)).info.tail, 3, "the tail after a deletion without effect");
    },
  ),

  "applies a transaction completely or not at all": withRows(async ({ id }, near, far) => {
    await created(near, id);
    await change(near, id, [set("a", 1), set("b", 1)]);
    const rejected = await change(far, id, [set("a", 2), update("c", 2)]);
    same(rejected, conflict("c", 0), "a transaction with a conflict");
    same(shown(await read(near, id)), ["insert a 1", "insert b 1"], "the rows");
    const page = await read(far, id, { maxRecords: 1 });
    same(shown(page), ["insert a 1", "insert b 1"], "a page that ends with a transaction");
    same(page.next, 1, "the position after the page");
  }),

  "reads pages of rows within each of two bounds": withRows(async ({ id }, near, far) => {
    await created(near, id);
    const pages = async (): Promise<string[]> => {
      const pages: string[] = [];
      for (let after = 0, tail = 1; after < tail;) {
        const page = await read(far, id, { after, maxRecords: 3, maxBytes: 256_000 });
        pages.push(page.records.map((record) => JSON.parse(String(record)).key).join(" "));
        [after, tail] = [page.next!, page.info.tail];
      }
      return pages;
    };
    const large = "x".repeat(100_000);
    const write = async (key: number) => {
      await change(near, id, [set(`${key}`, key < 8 ? large : key)]);
    };
    for (let key = 0; key < 12; key++) await write(key);
    same(await pages(), ["0 1", "2 3", "4 5", "6 7 8", "9 10 11"], "the rows of each page");
    for (const key of [0, 8, 9, 10, 11]) await write(key);
    same(await pages(), ["1 2", "3 4", "5 6", "7 0 8", "9 10 11"], "the pages after changes");
    const { records } = await read(near, id, { maxBytes: 1 });
    same(records.length, 1, "the rows of a page that is smaller than a row");
  }),

  "changes a row only at the expected version": withRows(async ({ id }, near, far) => {
    await created(near, id);
    const text = async () => (await read(near, id)).records[0];
    same(await change(near, id, [{ ...set("a", 1), expect: 1 }]), conflict("a", 0), "a new row");
    same(await change(near, id, [{ ...set("a", 1), expect: 0 }]), "appended", "an absent row");
    const first = await text();
    same(
      await change(far, id, [{ ...set("a", 2), expect: 0 }]),
      conflict("a", 1, first),
      "a present row",
    );
    same(await change(far, id, [{ ...set("a", 2), expect: 1 }]), "appended", "the version");
    const stale = await change(near, id, [{ ...remove("a"), expect: 1 }]);
    same(stale, conflict("a", 2, await text()), "an old version");
    same(await change(near, id, [{ ...remove("a"), expect: 2 }]), "appended", "a deletion");
  }),

  "changes a row only if it has not changed, or been deleted, after a position": withRows(
    async ({ id }, near, far) => {
      await created(near, id);
      await change(near, id, [set("a", 1)]);
      await change(near, id, [remove("a")]);
      const insert = (since: number) => [{ ...set("a", 2), expect: 0, since }];
      same(await change(far, id, insert(1)), conflict("a", 0), "a row that was deleted since");
      same(await change(near, id, insert(3)), conflict("a", 0), "a position of another log");
      const other = [{ ...set("b", 1), since: 0 }];
      same(await change(far, id, other), "appended", "a row that never existed");
      same(await change(near, id, insert(2)), "appended", "a row that was deleted before");
      const [text] = (await read(near, id, { after: 2 })).records;
      const write = (since: number) => [{ ...set("b", 2), since }];
      same(await change(far, id, write(2)), conflict("b", 3, text), "a row that was written since");
      same(await change(near, id, write(3)), "appended", "a row that was written before");
    },
  ),

  "makes a change depend on rows that it only checks": withRows(async ({ id }, near, far) => {
    await created(near, id);
    await change(near, id, [set("a", 1), set("b", 1)]);
    const [a] = (await read(near, id)).records;
    const checked = async (logs: BrokerLogs, ...checks: RowGuard[]) =>
      await change(logs, id, [set("c", 1)], { checks });
    same(await checked(far, guard("a", { expect: 2 })), conflict("a", 1, a), "an old version");
    same(await checked(near, guard("a", { expect: 0 })), conflict("a", 1, a), "a present row");
    same(await checked(far, guard("d", { expect: 1 })), conflict("d", 0), "an absent row");
    same(await checked(near, guard("d", { since: 2 })), conflict("d", 0), "a later position");
    same(shown(await read(far, id)).length, 2, "the rows after conflicts");
    const met = [guard("a", { expect: 1 }), guard("d", { expect: 0 }), guard("b", { since: 1 })];
    same(await checked(far, ...met), "appended", "conditions that are met");
    const rows = ["insert a 1", "insert b 1", "insert c 1"];
    const page = await read(near, id);
    same([shown(page), page.positions], [rows, [0, 0, 1]], "the rows, and their positions");
    const tail = await read(far, id, { after: 1, tail: true });
    same(tail.records.map((record) => JSON.parse(String(record)).length), [1], "the transaction");
    same(await change(near, id, [], { checks: met }), "appended", "conditions without a change");
    same(
      await change(near, id, [], { checks: [guard("c", { since: 1 })] }),
      conflict("c", 2, page.records[2]),
      "a condition without a change that is not met",
    );
    const { info } = await read(far, id);
    same([info.tail, info.rows], [2, page.info.rows], "the tail, and the state of the rows");
    // A check of a row that the transaction changes too concerns the row before it.
    const own = [guard("a", { expect: 1 })];
    same(await change(far, id, [set("a", 2)], { checks: own }), "appended", "a check of a change");
  }),

  "changes rows only at the expected tail": withRows(async ({ id }, near, far) => {
    await created(near, id);
    const at = async (logs: BrokerLogs, ifTail: number, changes = [set("a", ifTail)]) => {
      const result = await append(logs, id, changes, { ifTail });
      return result.kind === "moved" ? [result.kind, result.info.tail] : result.kind;
    };
    same(await at(near, 1), ["moved", 0], "a tail that the log has not reached");
    same([await at(near, 0), await at(far, 1)], ["appended", "appended"], "the tail");
    same(await at(near, 1), ["moved", 2], "an earlier tail");
    same(shown(await read(near, id)), ["update a 1"], "the rows");
    same(await at(far, 2, [update("b", 1)]), "conflict", "a conflict at the tail");
    same(await at(near, 0, [update("b", 1)]), ["moved", 2], "a conflict at another tail");
    same(await at(near, 2, [remove("b")]), "appended", "a change without effect");
    const producer = { id: "p", epoch: 0, seq: 0 };
    const send = async (logs: BrokerLogs) =>
      await change(logs, id, [set("b", 1)], { producer, ifTail: 2 });
    same([await send(far), await send(near)], ["appended", "repeated"], "a repetition");
    const other = { identity: "another0", ifTail: 0 };
    same(await change(far, id, [set("b", 2)], other), "missing", "another log");
    const together = await Promise.all([near, far, near, far].map((logs) => at(logs, 3)));
    same(together.filter((one) => one === "appended").length, 1, "one of several at a tail");
    same((await read(far, id)).info.tail, 4, "the tail after them");
  }),

  "takes a row for changed if its deletion may be forgotten": withRows(
    async ({ id }, near, far) => {
      await created(near, id);
      await change(near, id, [set("a", 1)]);
      const rowBounds = { ...BOUNDS, deletions: 0 };
      await change(near, id, [remove("a")]);
      await change(near, id, [set("b", 1)], { rowBounds });
      const insert = (key: string, since: number) => [{ ...set(key, 2), expect: 0, since }];
      same(await change(far, id, insert("a", 1)), conflict("a", 0), "the deleted row");
      same(await change(far, id, insert("c", 1)), conflict("c", 0), "a row that never existed");
      const told = await far.append(id, {
        records: [],
        changes: insert("a", 1).map((one) => rowChange(one, 0)),
        maxBytes: PLENTY,
        rowBounds: BOUNDS,
      });
      const since = told.kind === "conflict" ? told.since : undefined;
      same(since, 3, "the position at which the row does not exist");
      same(await change(near, id, insert("a", 3)), "appended", "the row at this position");
    },
  ),

  "lets one of several concurrent changes at a version win": withRows(
    async ({ id }, near, far) => {
      await created(near, id);
      await change(near, id, [set("a", 0)]);
      const results = await Promise.all(
        Array.from(
          { length: 8 },
          (_, i) => change(i % 2 === 0 ? near : far, id, [{ ...set("a", i), expect: 1 }]),
        ),
      );
      same(results.filter((result) => result === "appended").length, 1, "the winners");
      same((await read(near, id)).info.tail, 2, "the tail");
    },
  ),

  "lets a node change rows while another one changes them without a pause": withRows(
    async ({ id }, near, far) => {
      await created(near, id);
      let count = 0;
      await besides(
        async () => same(await change(near, id, [set("near", 0)]), "appended", "a fast change"),
        async () => same(await change(far, id, [set("far", ++count)]), "appended", "a slow change"),
      );
      same(shown(await read(near, id)).includes("update far 20"), true, "the other node's row");
    },
  ),

  "keeps the tail of a keyed log": withRows(async ({ id }, near, far) => {
    await created(near, id, LONG);
    for (let i = 0; i < 5; i++) await change(near, id, [set("a", i), set("b", i)]);
    const tail = await read(far, id, { tail: true });
    const transactions = tail.records.map((record) => JSON.parse(String(record)).length);
    same(transactions, [2, 2, 2, 2, 2], "the transactions");
    same(tail.info.start, 0, "the start of the tail");
    same(shown(await read(far, id)), ["update a 4", "update b 4"], "the rows");

    await created(near, `${id} short`, SHORT);
    for (let i = 0; i < 40; i++) await change(near, `${id} short`, [set(`${i % 3}`, i)]);
    let value = 40;
    await until(async () => {
      await change(near, `${id} short`, [set("0", value++)]);
      const { info } = await read(far, `${id} short`);
      return info.tail === value && info.tail - info.start <= 2;
    }, "that old transactions are dropped");
    const rows = ["update 1 37", "update 2 38", `update 0 ${value - 1}`];
    same(shown(await read(near, `${id} short`)), rows, "the rows");
  }),

  "forgets the oldest deletions": withRows(async ({ id }, near, far) => {
    await created(near, id);
    const rowBounds = { ...BOUNDS, deletions: 2 };
    for (let i = 0; i < 6; i++) await change(near, id, [set(`${i}`, i)]);
    for (let i = 0; i < 4; i++) await change(near, id, [remove(`${i}`)], { rowBounds });
    const { info, ...page } = await read(far, id);
    same(info.rows?.deletions, 2, "the number of deletions");
    same(info.rows?.forgotten, 8, "the position after the forgotten deletions");
    same(info.rows?.count, 2, "the number of rows");
    const rest = ["insert 4 4", "insert 5 5", "delete 2", "delete 3"];
    same(shown({ info, ...page }), rest, "the changes");
    const aged = { ...BOUNDS, deletionMs: 1 };
    await until(async () => {
      await change(far, id, [set("6", 6)], { rowBounds: aged });
      return (await read(near, id)).info.rows?.deletions === 0;
    }, "that old deletions are forgotten");
    same((await read(near, id)).info.rows?.forgotten, 10, "the position after them");
  }),

  "forgets the oldest deletions rather than reject a row": withRows(async ({ id }, near, far) => {
    await created(near, id);
    const value = "x".repeat(100);
    const bound = async (maxBytes: number) => {
      for (let i = 0; i < 20; i++) {
        const logs = i % 2 === 0 ? near : far;
        same(await change(logs, id, [set(`${i}`, value)], { maxBytes }), "appended", `row ${i}`);
        same(await change(logs, id, [remove(`${i}`)], { maxBytes }), "appended", `deletion ${i}`);
      }
      return (await read(far, id)).info;
    };
    const { rows, tail } = await bound(2_000);
    same(rows!.count, 0, "the number of rows");
    same(rows!.deletions > 0 && rows!.deletions < 12, true, "the number of deletions");
    same(rows!.forgotten, tail - 2 * rows!.deletions, "the position after the forgotten deletions");
    const many = Array.from({ length: 7 }, (_, i) => set(`${i}`, value));
    same(await change(near, id, many, { maxBytes: 2_000 }), "appended", "rows that need the bytes");
    same((await read(far, id)).info.rows?.deletions, 0, "the deletions");
    same(await change(far, id, [set("7", value)], { maxBytes: 2_000 }), "full", "one more row");
  }),

  "bounds the rows of a log": withRows(async ({ id }, near, far) => {
    await created(near, id);
    const rowBounds = { ...BOUNDS, rows: 2 };
    await change(near, id, [set("a", 1), set("b", 1)], { rowBounds });
    same(await change(far, id, [set("c", 1)], { rowBounds }), "too-many-rows", "a third row");
    same(await change(far, id, [set("a", 2)], { rowBounds }), "appended", "a change of a row");
    same(
      await change(far, id, [remove("a"), set("c", 1)], { rowBounds }),
      "appended",
      "another row after a deletion",
    );
    const large = await change(near, id, [set("c", "x".repeat(2_000))], { maxBytes: 1_000 });
    same(large, "full", "a row beyond the bytes of the log");
    same(await change(near, id, [remove("b")], { maxBytes: 100 }), "appended", "a smaller log");
  }),

  "deletes expired rows once": withRows(async ({ id }, near, far) => {
    await created(near, id);
    await change(near, id, [{ ...set("a", 1), ttlMs: 200 }, { ...set("b", 1), ttlMs: 60_000 }]);
    await until(async () => (await far.overdue({ limit: 1_000 })).includes(id), "the overdue log");
    const expire = (logs: BrokerLogs) => change(logs, id, [], { expiresRows: true });
    same(await Promise.all([expire(near), expire(far)]), ["appended", "appended"], "the results");
    same(shown(await read(near, id)), ["insert b 1", "delete a"], "the rows");
    same((await read(far, id)).info.tail, 2, "the tail");
    same((await near.overdue({ limit: 1_000 })).includes(id), false, "that nothing is overdue");
  }),

  "counts each append of a producer to a keyed log once": withRows(async ({ id }, near, far) => {
    await created(near, id);
    const send = (logs: BrokerLogs, seq: number) =>
      change(logs, id, [set("a", seq)], { producer: { id: "p", epoch: 0, seq } });
    same(await send(near, 0), "appended", "the first number");
    same(await send(far, 0), "repeated", "a repetition");
    same(await send(far, 1), "appended", "the second number");
    same(shown(await read(near, id)), ["update a 1"], "the rows");
  }),

  "rejects records of a keyed log, and changes of another log": withRows(
    async ({ id }, near, far) => {
      await created(near, id);
      const records = await far.append(id, { records: ["{}"], maxBytes: PLENTY });
      same(records.kind, "other-kind", "records");
      const writer = { holder: "w", ttlMs: 60_000, takes: true } as const;
      const lease = await near.append(id, { records: [], writer, maxBytes: PLENTY });
      same(lease.kind, "other-kind", "a writer's lease");
      const config = { contentType: "application/json" };
      await near.create(`${id} plain`, {
        config,
        identity: "identity0",
        records: [],
        maxLogs: 1e6,
      });
      same(await change(far, `${id} plain`, [set("a", 1)]), "other-kind", "changes");
    },
  ),

  "compares the form of rows, and replaces it": withRows(async ({ id }, near, far) => {
    await created(near, id);
    const formOf = async () => (await read(far, id)).info.form ?? "";
    const write = async (logs: BrokerLogs, is: string, next?: string) =>
      await change(logs, id, [set("a", is)], { form: { is, next } });
    same(await change(near, id, [remove("a")], { form: { is: "" } }), "appended", "no form");
    same([await write(near, "2"), await formOf()], ["appended", "2"], "a form for an unused log");
    same([await write(far, ""), await write(near, "1")], ["other-form", "other-form"], "others");
    same([await write(far, "2"), await formOf()], ["appended", "2"], "the same form");
    same(await change(far, id, [set("b", 1)]), "appended", "a change for any form");
    const replaces = await Promise.all([write(near, "2", "3"), write(far, "2", "4")]);
    same(replaces.toSorted(), ["appended", "other-form"], "one of two");
    const form = await formOf();
    same(form, replaces[0] === "appended" ? "3" : "4", "the form of the first");
    const alone = { records: [], maxBytes: PLENTY, form: { is: form, next: "5" } };
    same((await near.append(id, alone)).kind, "appended", "a form without a change");
    same(await far.append(id, alone), { kind: "other-form", form: "5" }, "its repetition");
    same(shown(await read(near, id)).length, 2, "the number of rows");
    const config = { contentType: "application/json", keyed: LONG };
    const other = { config, identity: "identity2", records: [], maxLogs: 1e6 };
    await near.create(`${id} copy`, { ...other, rows: { set: [], forgotten: 0, form: "5" } });
    same((await read(far, `${id} copy`)).info.form, "5", "the form of first rows");
    await near.create(`${id} plain`, { ...other, config: { contentType: "text/plain" } });
    same((await far.append(`${id} plain`, alone)).kind, "other-kind", "a log without rows");
  }),

  "keeps the numbers and sequences of callers apart": withRows(async ({ id }, near, far) => {
    await created(near, id);
    const caller = (name: string, network = "net") => ({ id: name, network });
    const send = async (
      logs: BrokerLogs,
      by: ReturnType<typeof caller>,
      options: { readonly producer?: LogProducer; readonly sequence?: string },
    ) => await change(logs, id, [set(by.id || "guest", 1)], { ...options, caller: by });
    const p = (epoch: number, seq: number, name = "p") => ({
      producer: { id: name, epoch, seq },
    });
    const [ann, eve] = [caller("ann"), caller("eve")];
    same(await send(near, ann, p(0, 0)), "appended", "a producer");
    same(await send(far, eve, p(9, 0)), "appended", "the same name with another epoch");
    same(await send(far, ann, p(0, 1)), "appended", "the next number");
    same(await send(near, ann, p(0, 1)), "repeated", "its repetition");
    same(await send(near, eve, p(0, 0)), "stale", "an earlier epoch of the other caller");
    same(await send(near, ann, p(0, 3)), "skipped", "a gap");
    same(await send(near, caller("bob"), p(0, 1)), "skipped", "an unknown producer");
    same(await send(near, eve, { sequence: "\uffff" }), "appended", "a high sequence");
    same(await send(far, ann, { sequence: "b" }), "appended", "a lower one of another caller");
    same(await send(near, ann, { sequence: "b" }), "out-of-sequence", "the same again");
    same(await send(near, ann, { ...p(0, 2), sequence: "a" }), "out-of-sequence", "a lower one");
    same(await send(near, ann, { ...p(0, 2), sequence: "c d" }), "appended", "both");
    same(await send(far, ann, { sequence: "c c" }), "out-of-sequence", "a text with a space");
    same(await send(near, caller("", "a"), { sequence: "z" }), "appended", "a guest");
    same(await send(near, caller("", "b"), { sequence: "a" }), "appended", "of another network");
    same(await send(near, caller("", "a"), p(0, 0)), "appended", "a guest's producer");
    same(await send(near, caller("", "b"), p(0, 0)), "repeated", "from another network");
    same(await change(near, id, [set("log", 1)], { sequence: "a" }), "appended", "of the log");
    same(await change(near, id, [set("log", 1)], p(0, 0)), "appended", "a producer of the log");
  }),

  "bounds the producers of each caller and network": withRows(async ({ id }, near, far) => {
    await created(near, id);
    const send = async (who: string, network: string, i: number, name = `p${i}`) => {
      const producer = { id: name, epoch: 0, seq: 0 };
      const by = { id: who, network };
      return await change(i % 2 === 0 ? near : far, id, [set("a", i)], { producer, caller: by });
    };
    const fill = async (who: string, network: string) => {
      for (let i = 0; i < 1_001; i++) {
        const kind = await send(who, network, i);
        if (kind !== "appended") return [kind, i];
      }
      return [];
    };
    same(await fill("eve", "far"), ["too-many-producers", CALLER_MARKS], "those of one caller");
    same(await send("ann", "near", 0), "appended", "another caller");
    same(await send("eve", "far", 0, "p0"), "repeated", "a known one");
    same(await fill("", "far"), ["too-many-producers", CALLER_MARKS], "guests of one network");
    same(await send("", "near", 0, "q"), "appended", "guests of another network");
    // More than half are used by callers of other networks.
    for (let i = 0; i < 6; i++) await fill(`eve${i}`, `other${i}`);
    same(await fill("bob", "far"), ["too-many-producers", 0], "a caller of the full network");
    same(await fill("bob", "near"), ["too-many-producers", TIGHT_CALLER_MARKS], "of another one");
    same(await send("ann", "near", 1), "appended", "a second one of a caller with few");
  }),

  "starts a log with the rows of another one": withRows(async ({ id }, near, far) => {
    await created(near, id);
    await change(near, id, [{ ...set("a", 1), ttlMs: 3_600_000 }, set("b", 1)]);
    await change(near, id, [set("c", 1)]);
    await change(near, id, [remove("b"), set("ü\u2028", "\\")]);
    const source = await read(near, id);
    same(source.expiries?.map((time) => time > 0), [true, false, false, false], "the expiries");
    const rows = source.records.map((record, i) => {
      const text = String(record);
      const { row, deletedAt } = readChange(text);
      const until = source.expiries![i] || undefined;
      return { row, position: source.positions![i]!, text, deletedAt, until };
    });
    const { identity, tail: position } = source.info;
    const origin = { id, identity, position, fork: "fork", lineage: [] };
    const copy = `${id} copy`;
    const result = await far.create(copy, {
      config: { contentType: "application/json", keyed: LONG, origin },
      identity: "identity1",
      records: [],
      rows: { set: rows, forgotten: 1 },
      maxLogs: 1_000_000,
    });
    same(result.kind, "created", "the result");
    const page = await read(near, copy);
    same(page.records, source.records, "the rows");
    same(page.positions, source.positions, "their positions");
    same(page.expiries, source.expiries, "their expiries");
    same(page.info.rows, { ...source.info.rows!, forgotten: 1 }, "the state of the rows");
    same([page.info.first, page.info.tail], [3, 3], "the first position, and the tail");
    const [stale] = (await read(near, copy, { after: 1 })).records;
    same(
      await change(near, copy, [{ ...set("c", 2), expect: 1 }]),
      conflict("c", 2, stale),
      "a version of another row",
    );
    same(await change(far, copy, [{ ...set("c", 2), expect: 2 }]), "appended", "the version");
    same(await change(near, copy, [update("b", 2)]), conflict("b", 0), "a deleted row");
    same(await change(near, copy, [set("b", 3)]), "appended", "a deleted row");
    same(await change(near, copy, [remove("a")]), "appended", "a row that expires");
    const rest = ["insert ü\u2028 \\", "update c 2", "insert b 3", "delete a"];
    same(shown(await read(far, copy)), rest, "the rows after changes");
    same((await read(far, id)).records, source.records, "the rows of the source");
  }),

  "starts a log with transactions, and the rows after them": withRows(async ({ id }, near, far) => {
    const transactions = [
      [set("a", 1), set("b", 1), { ...set("c", 1), ttlMs: 3_600_000 }],
      [remove("b"), set("a", 2), set("ü\u2028", "\\")],
    ];
    const encoded = transactions.map((changes) => changes.map((one) => rowChange(one, NOW)));
    const first = firstRows(encoded, { maxBytes: PLENTY, tail: LONG, now: NOW });
    if ("kind" in first) throw new Error(`Expected rows, received ${first.kind}`);
    const options = {
      config: { contentType: "application/json", keyed: LONG },
      identity: "identity",
      ...first,
      maxLogs: 1_000_000,
    };
    same((await near.create(id, options)).kind, "created", "the result");
    same((await far.create(id, options)).kind, "exists", "the result for another creator");
    await created(near, `${id} other`);
    for (const changes of transactions) await change(near, `${id} other`, changes);
    for (const node of [near, far]) {
      for (const after of [0, 1, 2]) {
        for (const tail of [undefined, true] as const) {
          const [page, other] = await Promise.all([
            read(node, id, { after, tail }),
            read(node, `${id} other`, { after, tail }),
          ]);
          same(page.records, other.records, `the records after ${after}`);
          same(page.positions, other.positions, "their positions");
          const { start, tail: end, bytes, rows } = page.info;
          const { info } = other;
          same(
            [start, end, bytes, rows],
            [info.start, info.tail, info.bytes, info.rows],
            "the state",
          );
        }
      }
    }
    same(await change(far, id, [{ ...set("a", 3), expect: 2 }]), "appended", "the version");
    const page = await read(near, id, { after: 2 });
    same(shown(page), ["update a 3"], "the rows after a change");
    same(
      await change(near, id, [{ ...set("a", 4), expect: 2 }]),
      conflict("a", 3, page.records[0]),
      "an old version",
    );
    same((await read(far, id, { tail: true })).records.length, 3, "the transactions");
  }),

  "keeps hidden rows from readers that do not name them": withRows(async ({ id }, near, far) => {
    await created(near, id);
    const value = "x".repeat(50);
    for (let i = 0; i < 6; i++) {
      const changes = [hidden(`${i % 4}`, `${value}${i}`), set(`${i}`, i), hidden("last", i)];
      same(await change(i % 2 === 0 ? near : far, id, changes), "appended", `transaction ${i}`);
    }
    for (const logs of [near, far]) {
      const page = await read(logs, id);
      const all = [
        "insert 0 0",
        "insert 1 1",
        "insert 2 2",
        "insert 3 3",
        "insert 4 4",
        "insert 5 5",
      ];
      same([shown(page), page.positions, page.next], [all, [0, 1, 2, 3, 4, 5], 6], "the rows");
      const { count, deletions, forgotten, hidden } = page.info.rows!;
      same([count, deletions, forgotten], [6, 0, 0], "the numbers of rows");
      same(hidden, { count: 5, forgotten: 0 }, "the hidden rows");
      const records = [...(await read(logs, id, { tail: true })).records];
      const keys = records.map((record) => JSON.parse(String(record)).map(keyOf));
      same(keys, [["0"], ["1"], ["2"], ["3"], ["4"], ["5"]], "the changes of each transaction");
      for (let after = 0; after < 6; after += 2) {
        const part = await read(logs, id, { after, maxRecords: 2 });
        same(shown(part), all.slice(after, after + 2), `the rows after ${after}`);
        same(part.next, after + 2, "the position after them");
      }
      const named = await namedHidden(logs, id, "2", "0", "x", "last");
      same(named.values, [`${value}2`, `${value}4`, 5], "the hidden rows by name");
      same([named.positions, named.next], [[2, 4, 5], 4], "their positions");
    }
    const [before] = (await namedHidden(near, id, "0")).records;
    const stale = await change(far, id, [set("6", 6), { ...hidden("0", 1), expect: 1 }]);
    same(stale, conflict(rowName(HIDDEN, "0"), 5, before), "an old version");
    const current = { ...hidden("0", 1), expect: 5, since: 5 };
    same(await change(far, id, [current, set("6", 6)]), "appended", "the version");
    same((await namedHidden(near, id, "0")).positions, [6], "the position of the change");
  }),

  "changes hidden rows only with other rows, and forgets them once they are deleted": withRows(
    async ({ id }, near, far) => {
      await created(near, id);
      await change(near, id, [set("a", 1)]);
      const { bytes } = (await read(far, id)).info.rows!;
      const rowBounds = { ...BOUNDS, rows: 1, deletions: 0 };
      const write = async (logs: BrokerLogs, ...changes: Change[]) => {
        const result = await append(logs, id, changes, { rowBounds });
        return result.kind === "appended" ? result.info.tail : result.kind;
      };
      same(await write(near, hidden("h", 1)), 1, "the tail after a hidden row alone");
      same(await write(far, hidden("h", 1), remove("b")), 1, "with a deletion without effect");
      const none = await namedHidden(near, id, "h");
      same([none.records, none.info.rows?.hidden], [[], undefined], "the hidden rows");
      same(await write(near, set("a", 2), hidden("h", 2), hidden("i", 2)), 2, "beyond the bound");
      same(
        await write(far, hidden("h", 3), { ...hidden("i", 3), operation: "delete" }),
        2,
        "alone",
      );
      same((await namedHidden(far, id, "h", "i")).values, [2, 2], "the rows without a change");
      const gone: Change = { type: HIDDEN, key: "h", operation: "delete" };
      same(await write(near, set("a", 3), gone, { ...gone, key: "i" }), 3, "a deletion");
      for (const logs of [near, far]) {
        const { records, info } = await namedHidden(logs, id, "h", "i");
        const rows = { count: 1, deletions: 0, bytes, forgotten: 0 };
        const state = { ...rows, hidden: { count: 0, forgotten: 3 } };
        same([records, info.rows], [[], state], "the state after it");
        same(shown(await read(logs, id, { after: 1 })), ["update a 3"], "the rows after it");
      }
      const insert = (since: number) => ({ ...hidden("h", 4), expect: 0, since });
      same(await write(far, set("a", 4), insert(2)), "conflict", "a row that was deleted since");
      same(await write(near, set("a", 4), { ...set("c", 1), since: 2 }), "too-many-rows", "others");
      same(await write(far, set("a", 4), insert(3)), 4, "a row that was deleted before");
      same((await namedHidden(near, id, "h")).values, [4], "the row");
    },
  ),

  "expires hidden rows without a record, and without an announcement": withRows(
    async (kit, near, far) => {
      const { id } = kit;
      await created(near, id);
      const many = Array.from({ length: 3 }, (_, i) => ({ ...hidden(`${i}`, i), ttlMs: 200 }));
      await change(near, id, [set("a", 1), ...many, { ...hidden("long", 1), ttlMs: 60_000 }]);
      const { bytes } = (await read(far, id)).info.rows!;
      await until(
        async () => (await far.overdue({ limit: 1_000 })).includes(id),
        "the overdue log",
      );
      const received = await kit.listen(kit.near, logTopic(id));
      for (const logs of [near, far]) {
        const expired = await logs.append(id, { records: [], maxBytes: PLENTY, expiresRows: true });
        same(expired.kind === "appended" && expired.info.tail, 1, "the tail");
      }
      same((await near.overdue({ limit: 1_000 })).includes(id), false, "that nothing is overdue");
      for (const logs of [near, far]) {
        const named = await namedHidden(logs, id, "0", "1", "2", "long");
        same([named.values, named.positions], [[1], [0]], "the hidden rows");
        const { rows } = named.info;
        same(rows!.bytes < bytes, true, "the bytes of the rows");
        same(rows!.hidden, { count: 1, forgotten: 1 }, "the state of the hidden rows");
        same([rows!.count, rows!.deletions, rows!.forgotten], [1, 0, 0], "the state of the others");
      }
      const again = [set("a", 2), { ...hidden("0", 2), expect: 0, since: 1 }];
      same(await change(far, id, again), "appended", "a change of an expired row");
      await until(() => received.publications.length > 0, "an announcement");
      same(await change(near, id, [set("a", 3)]), "appended", "a change after it");
      await until(() => received.publications.length > 1, "its announcement");
      same(received.publications.length, 2, "the number of announcements");
      const page = await read(near, id);
      same([shown(page), page.positions], [["update a 3"], [2]], "the rows");
      same((await namedHidden(far, id, "0")).positions, [1], "the position of the row");
    },
  ),

  "reads a snapshot page by page while others write": withRows(async ({ id }, near, far) => {
    await created(near, id, SHORT);
    const count = 200;
    for (let i = 0; i < count; i += 20) {
      await change(near, id, Array.from({ length: 20 }, (_, j) => set(`${i + j}`, 0)));
    }
    const seen = new Map<string, string>();
    for (let after = 0, round = 0;; round++) {
      const page = await read(far, id, { after, maxRecords: 25 });
      for (const one of shown(page)) seen.set(one.split(" ")[1]!, one);
      if (page.next === undefined || page.next >= page.info.tail) break;
      after = page.next;
      if (round < 30) await change(near, id, [set(`${(round * 37) % count}`, round + 1)]);
    }
    same(seen.size, count, "the number of rows");
    const rows = shown(await read(near, id)).map((one) => [one.split(" ")[1]!, one]);
    same([...seen.values()].sort(), [...new Map(rows as never).values()].sort(), "the rows");
  }),
};

/** Creates a test that fails for brokers without logs, and passes for logs without rows. */
function withRows(
  test: (bench: TestKit, near: BrokerLogs, far: BrokerLogs) => Promise<void>,
): Test {
  return async (bench) => {
    const [near, far] = [requireLogs(bench.near), requireLogs(bench.far)];
    if (near.keepsRows && far.keepsRows) await test(bench, near, far);
  };
}

async function created(logs: BrokerLogs, id: string, tail: LogTail = LONG): Promise<void> {
  const config = { contentType: "application/json", keyed: tail };
  const options = { config, identity: "identity0", records: [], maxLogs: 1_000_000 };
  const { kind } = await logs.create(id, options);
  if (kind !== "created") throw new Error(`Expected a new log, received ${kind}`);
}

function set(key: string, value: unknown): Change {
  return { type: "t", key, operation: "upsert", value: JSON.stringify(value) };
}

function update(key: string, value: unknown): Change {
  return { ...set(key, value), operation: "update" };
}

function remove(key: string): Change {
  return { type: "t", key, operation: "delete" };
}

/** A collection that readers do not receive. */
const HIDDEN = `${HIDDEN_PREFIX}:test`;

function hidden(key: string, value: unknown): Change {
  return { ...set(key, value), type: HIDDEN };
}

/** Reads hidden rows by their keys. */
async function namedHidden(logs: BrokerLogs, id: string, ...keys: string[]) {
  const page = await read(logs, id, { rows: keys.map((key) => rowName(HIDDEN, key)) });
  return { ...page, values: page.records.map((record) => JSON.parse(String(record)).value) };
}

function keyOf({ key }: { readonly key: string }): string {
  return key;
}

/** A condition on a row. */
type RowGuard = Parameters<typeof rowCheck>[0];

function guard(key: string, condition: Pick<RowGuard, "expect" | "since">): RowGuard {
  return { type: "t", key, ...condition };
}

/** Makes changes. Returns the kind of the result, or the whole conflict. */
async function change(
  logs: BrokerLogs,
  id: string,
  changes: readonly Change[],
  options: ChangeOptions = {},
): Promise<unknown> {
  const result = await append(logs, id, changes, options);
  return result.kind === "conflict"
    ? conflict(result.row, result.version, result.text)
    : result.kind;
}

/** Options of an append, with conditions that follow the changes. */
interface ChangeOptions extends Partial<AppendLogOptions> {
  readonly checks?: readonly RowGuard[];
}

async function append(
  logs: BrokerLogs,
  id: string,
  changes: readonly Change[],
  { checks = [], ...options }: ChangeOptions,
): Promise<LogAppended> {
  return await logs.append(id, {
    records: [],
    changes: [...changes.map((one) => rowChange(one, NOW)), ...checks.map(rowCheck)],
    maxBytes: PLENTY,
    rowBounds: BOUNDS,
    ...options,
  });
}

function conflict(key: string, version: number, text?: unknown): unknown {
  const row = key.startsWith("[") ? key : rowName("t", key);
  return { row: readRowName(row), version, text };
}

async function read(
  logs: BrokerLogs,
  id: string,
  options: Partial<Pick<ReadLogOptions, "after" | "maxBytes" | "maxRecords" | "rows" | "tail">> =
    {},
): Promise<LogPage> {
  const bounds = { after: 0, maxRecords: 1_000, maxBytes: PLENTY, renews: false };
  const page = await logs.read(id, { ...bounds, ...options });
  if (typeof page !== "object") throw new Error(`Expected a log, received ${page}`);
  return page;
}

/** Formats the changes of a page as operation, key and value. */
function shown({ records }: LogPage): string[] {
  return records.map((record) => {
    const { key, value, headers: { operation } } = JSON.parse(String(record));
    return value === undefined ? `${operation} ${key}` : `${operation} ${key} ${value}`;
  });
}
