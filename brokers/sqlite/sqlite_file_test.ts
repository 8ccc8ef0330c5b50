import {
  assert,
  assertEquals,
  assertMatch,
  assertNotEquals,
  assertRejects,
  assertThrows,
} from "@std/assert";
import { DatabaseSync } from "node:sqlite";
import { BrokerError } from "../../errors.ts";
import { countedBytes, type HistoryPage } from "../../pubsub/broker.ts";
import type {
  LogChangeName,
  LogChangeOptions,
  LogChangeResult,
} from "../../streams/logs/changes.ts";
import { rowChange } from "../../streams/logs/change_message.ts";
import type { CreateLogOptions, LogPage } from "../../streams/logs/log.ts";
import { requestLog } from "../../streams/logs/log_names.ts";
import { recordBytes } from "../../streams/logs/rules.ts";
import { connectNative } from "./database.ts";
import {
  type FileOperation,
  type OperationOutcome,
  SqliteFile,
  type SqliteFileOptions,
} from "./file.ts";
import { openLogs } from "./logs/logs.ts";
import { SqliteBroker } from "./mod.ts";

const BOUNDS = { size: 1_000, ttlMs: 60_000, bytes: 4_194_304 };
const PAGE = { bounds: BOUNDS, maxMessages: 10_000, maxBytes: 100_000_000 };
const LEVELS = ["normal", "full"] as const;

/** Runs a test with a folder that is removed afterwards. */
function withFolder(name: string, test: (folder: string) => Promise<void> | void): void {
  Deno.test(name, async () => {
    const folder = await Deno.makeTempDir();
    try {
      await test(folder);
    } finally {
      await Deno.remove(folder, { recursive: true });
    }
  });
}

function optionsOf(path: string, options: Partial<SqliteFileOptions> = {}): SqliteFileOptions {
  return {
    path,
    synchronous: "normal",
    maxBytes: 100_000_000,
    maxTopics: 1_000,
    uuid: crypto.randomUUID(),
    bootedAt: 1_000_000,
    ...options,
  };
}

/** Opens a file for operations one by one. */
class TestFile implements Disposable {
  readonly file: SqliteFile;
  #number = 0;

  constructor(path: string, options: Partial<SqliteFileOptions> = {}) {
    this.file = new SqliteFile(optionsOf(path, options), connectNative, openLogs);
    this.call("openLogs");
  }

  /** Runs one operation; throws if the operation fails. */
  call<T>(...operation: [...FileOperation]): T {
    const [outcome] = this.file.run([operation], 0);
    if (outcome![0] !== "done") throw new BrokerError(outcome![1]);
    return outcome![1] as T;
  }

  /** Changes a log, and returns only the result. */
  change<N extends LogChangeName>(
    name: string,
    change: N,
    options: LogChangeOptions<N>,
    now = 0,
  ): LogChangeResult<N> {
    const args = [name, change, options, now] as const;
    return this.call<{ readonly result: LogChangeResult<N> }>("changeLog", ...args).result;
  }

  append(topic: string, payload = "x", { bounds = BOUNDS, at = 0, number = -1, key = "" } = {}) {
    return this.call<{ offset: number; prev: number } | undefined>(
      "append",
      { topic, payload, bytes: payload.length, tag: `tag${++this.#number}`.padEnd(6, "0") },
      { bounds, key: key || (number < 0 ? undefined : { producer: "p", number }) },
      at,
    );
  }

  read(topic: string, { bounds = BOUNDS, at = 0 } = {}): HistoryPage {
    return this.call<HistoryPage>("read", topic, { ...PAGE, bounds }, at);
  }

  payloads(topic: string, options = {}): unknown[] {
    return this.read(topic, options).publications.map(({ payload }) => payload);
  }

  /** Counts rows of a table, in a copy of the file. */
  count(table: string, path: string): number {
    const db = new DatabaseSync(snapshot(path));
    try {
      return Number(db.prepare(`SELECT count(*) AS count FROM ${table}`).get()!.count);
    } finally {
      db.close();
    }
  }

  [Symbol.dispose](): void {
    this.file.close();
  }
}

/** The program that writes until it is killed, with the documented permissions. */
function writer(path: string, synchronous: string, options: Deno.CommandOptions): Deno.Command {
  const program = new URL("./writer_fixture.ts", import.meta.url).href;
  const permissions = ["-R", "-W", "--allow-sys=osUptime"];
  return new Deno.Command(Deno.execPath(), {
    args: ["run", "--no-check", ...permissions, program, path, synchronous],
    ...options,
  });
}

/** Copies an open file, in the state in which a killed process leaves it. */
function snapshot(path: string): string {
  const copy = `${path}.${crypto.randomUUID()}`;
  for (const end of ["", "-wal"]) Deno.copyFileSync(path + end, copy + end);
  return copy;
}

withFolder(
  "SqliteFile ends the leases of a killed process, for logs that another writer can continue",
  (folder) => {
    const path = `${folder}/test.db`;
    const now = 1_000;
    const create = (file: TestFile, id: string, more: object = {}) =>
      file.change(id, "create", {
        config: { contentType: "application/json" },
        identity: id.padEnd(8, "0").slice(0, 8),
        records: ["1"],
        maxLogs: 100,
        ...more,
      }, now);
    const writer = { holder: "h", ttlMs: 60_000 };
    const killed = new TestFile(path);
    for (const id of ["answer", "ended", "stream"]) create(killed, id, { writer });
    for (const id of ["answer", "ended", "free"]) create(killed, requestLog(id));
    create(killed, "free");
    killed.change("ended", "append", { records: [], end: {}, maxBytes: 100 }, now);
    assertEquals(killed.call("overdueLogs", 10, now + 59_999), []);
    {
      using next = new TestFile(snapshot(path));
      assertEquals(next.call("overdueLogs", 10, now), ["answer"]);
      const take = {
        records: [],
        writer: { holder: "i", ttlMs: 60_000, takes: true as const },
        maxBytes: 100,
      };
      const { kind } = next.change("answer", "append", take, now);
      assertEquals(kind, "appended");
      assertEquals(next.change("stream", "append", take, now).kind, "fenced");
      assertEquals(next.call("overdueLogs", 10, now), []);
    }
    killed[Symbol.dispose]();
  },
);

for (const synchronous of LEVELS) {
  withFolder(`SqliteBroker with ${synchronous} keeps all data across a restart`, async (folder) => {
    const path = `${folder}/test.db`;
    const before: unknown[] = [];
    for (const step of ["write", "read"]) {
      await using broker = await SqliteBroker.open(path, { synchronous });
      if (step === "write") {
        for (let i = 0; i < 50; i++) {
          await broker.history.append({ topic: "a", payload: `${i}` }, { bounds: BOUNDS });
        }
        await broker.logs.create("log", {
          config: { contentType: "text/plain" },
          identity: "identity",
          records: ["one"],
          maxLogs: 1,
        });
        await broker.store.advance("row", 7, 60_000);
        await broker.store.claim("user", "session", { max: 1, ttlMs: 60_000 });
      }
      const log = await broker.logs.read("log", {
        after: 0,
        maxRecords: 9,
        maxBytes: 99,
        renews: false,
      });
      before.push([
        await broker.history.read("a", PAGE),
        (log as LogPage).records,
        await broker.store.newest("row", 60_000),
        await broker.store.claims("user"),
      ]);
    }
    assertEquals(before[1], before[0]);
    assertEquals((before[0] as [HistoryPage])[0].publications.length, 50);
  });
}

withFolder("SqliteBroker starts a new epoch with a new file", async (folder) => {
  const epochs = new Set<string>();
  for (const name of ["one", "two"]) {
    await using broker = await SqliteBroker.open(new URL(`file://${folder}/${name}.db`));
    epochs.add((await broker.history.read("a", PAGE)).epoch);
  }
  assertEquals(epochs.size, 2);
});

withFolder(
  "SqliteFile starts a new epoch if writes may be lost, and otherwise keeps it",
  (folder) => {
    const cases: [Partial<SqliteFileOptions>, Partial<SqliteFileOptions>, isKept: boolean][] = [
      [{}, {}, true],
      [{}, { bootedAt: 1_004_000 }, true],
      [{}, { bootedAt: 1_010_000 }, false],
      [{}, { bootedAt: undefined }, false],
      [{ bootedAt: undefined }, { bootedAt: undefined }, false],
      [{ synchronous: "full" }, { bootedAt: undefined }, true],
      [{ synchronous: "full", bootedAt: undefined }, { synchronous: "full" }, true],
    ];
    for (const [i, [first, second, isKept]] of cases.entries()) {
      const path = `${folder}/${i}.db`;
      using left = new TestFile(path, first);
      left.append("a", "kept");
      using found = new TestFile(snapshot(path), second);
      assertEquals(found.payloads("a"), ["kept"], `case ${i}`);
      assertEquals(found.file.epoch === left.file.epoch, isKept, `case ${i}`);
    }
  },
);

withFolder("SqliteFile gives open logs a new identity if writes may be lost", (folder) => {
  const path = `${folder}/test.db`;
  const config = { contentType: "text/plain" };
  using left = new TestFile(path);
  const create = (name: string, options: Partial<CreateLogOptions> & { identity: string }) =>
    left.change(name, "create", { config, records: ["x"], maxLogs: 9, ...options }, 0);
  create("open", { identity: "open0000" });
  create("ended", { identity: "ended000", end: {} });
  const origin = { id: "open", identity: "open0000", position: 1, fork: "fork", lineage: [] };
  create("fork", { identity: "fork0000", config: { ...config, origin }, end: {} });
  using found = new TestFile(snapshot(path), { bootedAt: undefined });
  const infoOf = (name: string) =>
    found.call<LogPage>("readLog", name, { after: 0, maxRecords: 1, maxBytes: 9 }, 0).info;
  const { identity } = infoOf("open");
  assert(/^[0-9a-z]{8}$/.test(identity) && identity !== "open0000", identity);
  assertEquals(infoOf("ended").identity, "ended000");
  assertEquals(infoOf("fork").origin, { ...origin, identity });
  assertEquals(left.file.epoch === found.file.epoch, false);
});

withFolder(
  "SqliteFile continues logs when they are first opened, and remembers a loss",
  (folder) => {
    const path = `${folder}/test.db`;
    const identityOf = (file: TestFile) =>
      file.call<LogPage>("readLog", "a", { after: 0, maxRecords: 1, maxBytes: 9 }, 0).info.identity;
    let copy: string;
    {
      using first = new TestFile(path);
      const config = { contentType: "text/plain" };
      first.change("a", "create", { config, identity: "first000", records: [], maxLogs: 1 });
      copy = snapshot(path);
    }
    // The first process finds a loss, and neither it nor the next one, which finds none, uses logs.
    for (const bootedAt of [undefined, 1_000_000]) {
      new SqliteFile(optionsOf(copy, { bootedAt })).close();
    }
    const seen: string[] = [];
    for (let i = 0; i < 3; i++) {
      using later = new TestFile(copy);
      seen.push(identityOf(later));
    }
    assertNotEquals(seen[0], "first000");
    assertEquals(seen, Array(3).fill(seen[0]));
  },
);

withFolder("SqliteFile loads the code of logs for the group that opens them", async (folder) => {
  const file = new SqliteFile(optionsOf(`${folder}/test.db`));
  const list: FileOperation = ["listLogs", "stream", 1];
  const failed = (why: string): OperationOutcome[] => [["failed", why]];
  assertEquals(file.run([list], 0), failed("Durable streams are not open"));
  assertEquals(file.load([list]), undefined);
  assertEquals(file.run([["openLogs"]], 0), failed("The code of durable streams did not load"));
  // Other operations of the group take effect without logs.
  const group: FileOperation[] = [["openLogs"], ["advance", "key", 1, 1_000, 0]];
  assertEquals(file.run(group, 0)[1], ["done", true]);
  await file.load(group);
  assertEquals(file.run([...group, list], 0).map(([kind]) => kind), ["done", "done", "done"]);
  assertEquals(file.load(group), undefined);
  file.close();
});

withFolder("SqliteBroker rejects only calls of logs if their table is gone", async (folder) => {
  const path = `${folder}/test.db`;
  await (await SqliteBroker.open(path)).close();
  const db = new DatabaseSync(path);
  db.exec("DROP TABLE logs");
  db.close();
  for (const synchronous of LEVELS) {
    await using broker = await SqliteBroker.open(path, { synchronous });
    const call = () => broker.logs.overdue({ limit: 1 });
    for (let i = 0; i < 2; i++) {
      const error = await assertRejects(call, BrokerError);
      assertEquals(error.message, "Cannot open logs: no such table: logs");
    }
    assertEquals(await broker.store.advance("key", 1, 60_000), synchronous === "normal");
  }
});

withFolder("SqliteBroker.open() rejects a file that is in use", async (folder) => {
  const path = `${folder}/test.db`;
  await using _broker = await SqliteBroker.open(path);
  for (const synchronous of LEVELS) {
    const error = await assertRejects(() => SqliteBroker.open(path, { synchronous }), BrokerError);
    assertEquals(error.message, `Cannot open ${path}: another process or broker has the file open`);
  }
});

withFolder(
  "SqliteBroker.open() rejects foreign and damaged files, and other versions",
  async (folder) => {
    const path = `${folder}/test.db`;
    const cases: [text: string, make: () => void | Promise<void>][] = [
      ["the file is not a SQLite database", () => Deno.writeTextFile(path, "text".repeat(2_000))],
      ["the database belongs to another program", () => {
        using db = new DatabaseSync(path);
        db.exec("CREATE TABLE a (b)");
      }],
      ...([[1, "an older"], [4, "a newer"]] as const).map((
        [version, whose],
      ): typeof cases[number] => [
        `the version of the file must be 3, received ${version}; ${whose} version of Skein wrote ` +
        "it: start that, or open another file",
        async () => {
          await (await SqliteBroker.open(path)).close();
          using db = new DatabaseSync(path);
          db.exec(`PRAGMA user_version = ${version}`);
        },
      ]),
      ["the file is damaged", async () => {
        await (await SqliteBroker.open(path)).close();
        await Deno.truncate(path, 9_000);
      }],
    ];
    for (const [text, make] of cases) {
      await make();
      const bytes = await Deno.readFile(path);
      for (const synchronous of LEVELS) {
        const error = await assertRejects(
          () => SqliteBroker.open(path, { synchronous }),
          BrokerError,
        );
        assertEquals(error.message, `Cannot open ${path}: ${text}`);
      }
      assertEquals(await Deno.readFile(path), bytes, text);
      await Deno.remove(path);
    }
    await (await SqliteBroker.open(path)).close();
    const db = new DatabaseSync(path);
    db.exec("DROP TABLE topics");
    db.close();
    for (const synchronous of LEVELS) {
      const error = await assertRejects(
        () => SqliteBroker.open(path, { synchronous }),
        BrokerError,
      );
      assertEquals(error.message, `Cannot open ${path}: no such table: topics`);
    }
    for (
      const [path, text] of [
        [`${folder}/no/test.db`, `the folder ${folder}/no does not exist; create it`],
        [folder, "the path is a folder"],
      ] as const
    ) {
      for (const synchronous of LEVELS) {
        await assertRejects(
          () => SqliteBroker.open(path, { synchronous }),
          BrokerError,
          `Cannot open ${path}: ${text}`,
        );
      }
    }
  },
);

Deno.test("SqliteBroker.open() rejects invalid options", async () => {
  const cases: [path: string, options: object, error: typeof Error, text: string][] = [
    ["", {}, TypeError, "path must be a file or its URL"],
    [":memory:", {}, TypeError, "for a broker in memory, use MemoryBroker"],
    ["a.db", { sync: "full" }, TypeError, 'unknown option "sync"'],
    ["a.db", { synchronous: "off" }, TypeError, 'synchronous must be "normal" or "full"'],
    [
      "a.db",
      { maxBytes: 1_000 },
      RangeError,
      "maxBytes must be an integer of 262144 or more, received 1000",
    ],
    ["a.db", { maxTopics: 0 }, RangeError, "maxTopics must be a positive integer, received 0"],
  ];
  for (const [path, options, error, text] of cases) {
    await assertRejects(() => SqliteBroker.open(path, options), error, text);
  }
});

for (const synchronous of LEVELS) {
  withFolder(
    `SqliteBroker with ${synchronous} rejects appends to a full file, and continues to read`,
    async (folder) => {
      await using broker = await SqliteBroker.open(`${folder}/test.db`, {
        synchronous,
        maxBytes: 1_048_576,
      });
      const names: string[] = [];
      void broker.status.observe(({ name }) => names.push(name));
      const payload = "x".repeat(10_000);
      const append = (topic: string, text = payload) =>
        broker.history.append({ topic, payload: text }, { bounds: BOUNDS });
      let kept = 0;
      const error = await assertRejects(async () => {
        for (; kept < 200; kept++) await append("a");
      }, BrokerError);
      assertEquals(
        error.message,
        "Cannot append: the disk, or the file with its maxBytes, is full",
      );
      assertEquals(names, ["connected", "interrupted"]);
      assertMatch(broker.issues()[0]!, /has rejected writes(?: for \d+ s)?: /);
      assertEquals((await broker.history.read("a", PAGE)).publications.length, kept);
      // A publication that fits is kept, together with one that does not fit.
      const [large, small] = await Promise.allSettled([append("a"), append("a", "small")]);
      assertEquals([large.status, small.status], ["rejected", "fulfilled"]);
      assertEquals((await broker.history.read("a", PAGE)).publications.at(-1)!.payload, "small");
      // Publications beyond the bounds of a history make room for new ones.
      const bounds = { ...BOUNDS, size: 10 };
      for (let i = 0; i < 50; i++) {
        await broker.history.append({ topic: "a", payload }, { bounds });
      }
      assertEquals((await broker.history.read("a", { ...PAGE, bounds })).publications.length, 10);
      assertEquals(names.at(-1), "connected");
      assertEquals(broker.stats.dropped, 2);
    },
  );
}

for (const synchronous of LEVELS) {
  withFolder(
    `SqliteBroker with ${synchronous} forgets the histories of a client that fills the file, and accepts those of others`,
    async (folder) => {
      await using broker = await SqliteBroker.open(`${folder}/test.db`, {
        synchronous,
        maxBytes: 1_048_576,
      });
      const payload = "x".repeat(40_000);
      const append = (topic: string, publisher?: string) =>
        broker.history.append({ topic, payload }, { bounds: BOUNDS, publisher });
      await append("news");
      await append("lobby", "user ann");
      for (let i = 0; i < 60; i++) await append(`room ${i % 10}`, "at 203.0.113.66");
      await append("lobby", "user ann");
      await append("news");
      const kept = async (topic: string) =>
        (await broker.history.read(topic, PAGE)).publications.length;
      assertEquals([await kept("news"), await kept("lobby")], [2, 2]);
      assertEquals(broker.status.current.name, "connected");
      // Histories of the application are never forgotten.
      await assertRejects(async () => {
        for (let i = 0; i < 60; i++) await append("news");
      }, BrokerError);
      assertEquals(await kept("lobby"), 2);
    },
  );
}

withFolder("SqliteFile deletes publications beyond the bounds from the file", (folder) => {
  const path = `${folder}/test.db`;
  using file = new TestFile(path);
  const small = { ...BOUNDS, size: 10 };
  for (let i = 0; i < 30; i++) file.append("size", `${i}`, { bounds: small });
  assertEquals(file.payloads("size", { bounds: small }).length, 10);
  assertEquals(file.count("publications", path), 10);
  const light = { ...BOUNDS, bytes: countedBytes(1_000, 10) };
  for (let i = 0; i < 30; i++) file.append("bytes", "x".repeat(100), { bounds: light });
  assertEquals(file.count("publications", path), 20);
  file.append("time", "old", { at: 0 });
  file.append("time", "new", { at: 30_000 });
  assertEquals(file.payloads("time", { at: 70_000 }), ["new"]);
  file.call("sweep", 70_000);
  assertEquals(file.count("publications", path), 1);
  // A smaller bound applies immediately to reads, and to the file after the next append.
  for (let i = 0; i < 5; i++) file.append("time", `${i}`, { at: 70_000 });
  const tiny = { ...BOUNDS, size: 2 };
  assertEquals(file.payloads("time", { at: 70_000, bounds: tiny }), ["3", "4"]);
  file.append("time", "5", { at: 70_000, bounds: tiny });
  assertEquals(file.payloads("time", { at: 70_000 }), ["4", "5"]);
});

withFolder(
  "SqliteFile bounds the number of topics, and never assigns an offset twice",
  (folder) => {
    const path = `${folder}/test.db`;
    using file = new TestFile(path, { maxTopics: 3 });
    for (let i = 0; i < 5; i++) file.append("followed");
    file.call("follow", "followed");
    file.call("follow", "silent");
    for (const topic of ["b", "c", "d"]) file.append(topic);
    assertEquals(file.payloads("followed"), [], "the topic with the oldest last publication");
    assertEquals(file.read("followed").head, 5);
    assertEquals(file.append("followed"), { offset: 6, prev: 5 });
    assertEquals(
      file.append("silent"),
      { offset: 1, prev: 0 },
      "a topic that listeners know as empty",
    );
    assertEquals(file.read("b").head, 5, "a forgotten topic");
    assertEquals(file.append("b"), { offset: 6, prev: 5 });
    const swept = file.call<{ forgotten: number; isMore: boolean }>("sweep", 0);
    assertEquals(swept.forgotten, 4);
    while (file.call<{ isMore: boolean }>("sweep", 0).isMore);
    assertEquals(file.count("publications", path), 3);
    using again = new TestFile(snapshot(path), { maxTopics: 3 });
    assertEquals(again.read("e").head, 5, "a new topic after a restart");
  },
);

withFolder("SqliteFile.run() knows listeners of a group before topics are forgotten", (folder) => {
  using file = new TestFile(`${folder}/test.db`, { maxTopics: 1 });
  for (let i = 0; i < 5; i++) file.append("longer");
  const append = (topic: string, tag: string): FileOperation => [
    "append",
    { topic, payload: "x", bytes: 1, tag },
    { bounds: BOUNDS },
    0,
  ];
  // A listener is added in the turn of both publications, the first of which is forgotten
  // immediately.
  file.file.run([append("heard", "tag-a1"), append("other", "tag-b1"), ["follow", "heard"]], 0);
  assertEquals(file.append("heard"), { offset: 2, prev: 1 }, "after the one that was delivered");
});

withFolder("SqliteFile keeps its bound on topics when one group creates fifty", (folder) => {
  const path = `${folder}/test.db`;
  using file = new TestFile(path, { maxTopics: 10 });
  const group = Array.from({ length: 50 }, (_, i): FileOperation => [
    "append",
    { topic: `t${i}`, payload: "x", bytes: 1, tag: `tag${i}`.padEnd(6, "0") },
    { bounds: BOUNDS },
    0,
  ]);
  const outcomes = file.file.run(group, 0);
  assert(outcomes.every(([kind]) => kind === "done"));
  assertEquals(file.count("topics", path), 10);
  assertEquals(file.call<{ forgotten: number }>("sweep", 0).forgotten, 40);
  // A later topic finds room, at the cost of one topic.
  file.append("later");
  assertEquals(file.count("topics", path), 10);
});

withFolder(
  "SqliteFile restores its counts of topics and logs after a group is rolled back",
  (folder) => {
    const path = `${folder}/test.db`;
    using file = new TestFile(path, { maxTopics: 3 });
    const log = (id: string): FileOperation => ["changeLog", id, "create", {
      identity: `${id}0000`,
      config: { contentType: "application/json" },
      records: [],
      maxLogs: 2,
    }, 0];
    file.append("a");
    file.call(...log("one"));
    const append = (topic: string, tag: string): FileOperation => [
      "append",
      { topic, payload: "x", bytes: 1, tag },
      { bounds: BOUNDS },
      0,
    ];
    // An invalid payload fails in the middle of its transaction, and on its own.
    const broken: FileOperation = [
      "append",
      { topic: "b", bytes: 1, tag: "tag-01" },
      { bounds: BOUNDS },
      0,
    ];
    for (let round = 0; round < 4; round++) {
      const group: FileOperation[] = [
        append(`r${round}`, "tag-00"),
        log(`log${round}`),
        broken,
      ];
      assertEquals(file.file.run(group, 0).map(([kind]) => kind), ["done", "done", "failed"]);
      assertEquals(file.change(`log${round}`, "delete", { ifExpired: false }), { kind: "removed" });
    }
    assertEquals(file.count("topics", path), 3);
    assertEquals(file.call<{ forgotten: number }>("sweep", 0).forgotten, 2);
  },
);

withFolder("SqliteFile keeps its counts of logs by kind across a restart", (folder) => {
  const path = `${folder}/test.db`;
  const create = (file: TestFile, id: string) =>
    file.change(id, "create", {
      identity: id.padEnd(8, "0").slice(0, 8),
      config: { contentType: "application/json" },
      records: [],
      maxLogs: 2,
    }, 0).kind;
  using file = new TestFile(path);
  for (const id of ["one", requestLog("a"), requestLog("b")]) create(file, id);
  using found = new TestFile(snapshot(path));
  const kinds = ["two", "three", requestLog("c")].map((id) => create(found, id));
  assertEquals(kinds, ["created", "too-many", "too-many"]);
});

withFolder("SqliteFile takes no tokens from a bucket for a clock that is set back", (folder) => {
  using file = new TestFile(`${folder}/test.db`);
  const take = (amount: number, now: number) =>
    file.call("take", "bucket", amount, { perSecond: 1, burst: 5 }, now);
  assertEquals(take(5, 3_600_000), { granted: true, retryAfterMs: 0 });
  assertEquals(take(1, 0), { granted: false, retryAfterMs: 1_000 });
  assertEquals(take(1, 1_000), { granted: true, retryAfterMs: 0 });
});

withFolder("SqliteFile forgets topics without publications first", (folder) => {
  using file = new TestFile(`${folder}/test.db`, { maxTopics: 2 });
  file.append("quiet", "x", { at: 0 });
  file.append("expired", "x", { at: 0, bounds: { ...BOUNDS, ttlMs: 10 } });
  file.call("sweep", 100);
  file.append("new", "x", { at: 100 });
  assertEquals(file.payloads("quiet"), ["x"]);
  assertEquals(file.call<{ forgotten: number }>("sweep", 100).forgotten, 0);
});

withFolder("SqliteFile recognizes repetitions for two minutes, also after a restart", (folder) => {
  const path = `${folder}/test.db`;
  using file = new TestFile(path);
  const kinds = [{ number: 5 }, { key: "order-5" }];
  for (const [i, kind] of kinds.entries()) {
    assertEquals(file.append("a", "x", kind), { offset: i + 1, prev: i });
  }
  using found = new TestFile(snapshot(path));
  for (const at of [119_999, 120_000]) {
    found.call("sweep", at);
    const appended = kinds.map((kind) => found.append("a", "x", { ...kind, at }));
    const expected = at < 120_000 ? [undefined, undefined] : [3, 4];
    assertEquals(appended.map((one) => one?.offset), expected, `${at}`);
  }
  for (const table of ["append_keys", "append_producers"]) {
    assertEquals(found.count(table, path), 1);
  }
  found.call("sweep", 240_000);
});

withFolder("SqliteFile remembers the keys of a topic that was forgotten", (folder) => {
  using file = new TestFile(`${folder}/test.db`, { maxTopics: 2 });
  const topics = Array.from({ length: 5 }, (_, i) => `order:${i}`);
  const append = (at: number) => topics.map((topic) => file.append(topic, "x", { key: "1", at }));
  assertEquals(append(0).filter((one) => one === undefined), []);
  assertEquals(file.call<{ forgotten: number }>("sweep", 1).forgotten, 3);
  assertEquals(append(1), Array(5).fill(undefined));
});

withFolder(
  "SqliteFile remembers a key no longer than usual after the clock was set back",
  (folder) => {
    using file = new TestFile(`${folder}/test.db`);
    const append = (at: number) => file.append("a", "x", { key: "order-7", at })?.offset;
    const hour = 3_600_000;
    assertEquals([append(hour), append(0)], [1, undefined]);
    file.call("sweep", 0);
    assertEquals([append(119_999), append(120_000)], [undefined, 2]);
  },
);

withFolder(
  "SqliteFile.sweep() deletes expired rows, and records of deleted logs",
  (folder) => {
    const path = `${folder}/test.db`;
    using file = new TestFile(path);
    file.call("advance", "row", 1, 1_000, 0);
    file.call("claim", "scope", "member", { max: 1, ttlMs: 1_000 }, 0);
    file.call("take", "bucket", 1, { perSecond: 1, burst: 1 }, 0);
    const records = Array.from({ length: 2_500 }, (_, i) => `${i}`);
    file.change("log", "create", {
      config: { contentType: "text/plain" },
      identity: "identity",
      records,
      maxLogs: 1,
    }, 0);
    file.change("log", "delete", { ifExpired: false });
    const tables = ["numbers", "claims", "buckets", "log_records"];
    assertEquals(tables.map((table) => file.count(table, path)), [1, 1, 1, 2_500]);
    let sweeps = 1;
    while (file.call<{ isMore: boolean }>("sweep", 1_000).isMore) sweeps++;
    assertEquals(tables.map((table) => file.count(table, path)), [0, 0, 0, 0]);
    assert(sweeps >= 3, `${sweeps} sweeps`);
  },
);

withFolder(
  "SqliteFile copies what callers have numbered, and deletes it with the log",
  (folder) => {
    const [path, copy] = [`${folder}/test.db`, `${folder}/copy.db`];
    const config = {
      contentType: "application/json",
      keyed: { records: 10, ms: 1_000, bytes: 1e6 },
    };
    const send = (file: TestFile, seq: number, sequence: string, at = 0) => {
      const { kind } = file.change("log", "append", {
        records: [],
        changes: [rowChange({ type: "t", key: "a", operation: "upsert", value: "1" }, 0)],
        rowBounds: { rows: 9, deletions: 9, deletionMs: 9 },
        maxBytes: 999,
        producer: { id: "p", epoch: 0, seq },
        caller: { id: "ann", network: "home" },
        sequence,
      }, at);
      return kind;
    };
    {
      using file = new TestFile(path);
      file.change("log", "create", { config, identity: "identity", records: [], maxLogs: 1 }, 0);
      assertEquals(send(file, 0, "a"), "appended");
      file.call("beginCopy", copy);
      assertEquals(send(file, 1, "b"), "appended");
      file.call("endCopy", true);
    }
    for (const target of [path, copy]) {
      using file = new TestFile(target);
      assertEquals([send(file, 1, "b"), send(file, 2, "b")], ["repeated", "out-of-sequence"]);
      assertEquals(file.count("log_marks", target), 2);
      file.change("log", "delete", { ifExpired: false });
      while (file.call<{ isMore: boolean }>("sweep", 0).isMore);
      assertEquals(file.count("log_marks", target), 0);
    }
  },
);

withFolder("A copy lacks rows that were deleted and forgotten while it was made", (folder) => {
  const [path, copy] = [`${folder}/test.db`, `${folder}/copy.db`];
  using file = new TestFile(path);
  const keyed = { records: 10, ms: 1_000, bytes: 1e6 };
  const config = { contentType: "application/json", keyed };
  file.change("log", "create", { config, identity: "identity", records: [], maxLogs: 1 }, 0);
  const append = (operation: "upsert" | "delete", key: string) =>
    file.change("log", "append", {
      records: [],
      changes: [rowChange({ type: "t", key, operation, value: "1" }, 0)],
      rowBounds: { rows: 1e6, deletions: 2, deletionMs: 1e12 },
      maxBytes: 1e9,
    }, 0);
  for (let i = 0; i < 1_000; i++) append("upsert", `${i}`);
  file.call("beginCopy", copy);
  for (let step = 0; step < 3; step++) file.call("continueCopy");
  for (let i = 0; i < 5; i++) append("delete", `${i}`);
  append("upsert", "last");
  while (file.call("continueCopy"));
  file.call("endCopy", true);
  using found = new TestFile(copy);
  const page = (one: TestFile) =>
    one.call<LogPage>("readLog", "log", { after: 0, maxRecords: 2_000, maxBytes: 1e9 }, 0);
  assertEquals(page(found).records, page(file).records);
  assertEquals(page(found).records.length, 998);
});

withFolder(
  "SqliteFile decides on the changes of a group as if they came one at a time",
  (folder) => {
    const path = `${folder}/group.db`;
    using grouped = new TestFile(path);
    using single = new TestFile(`${folder}/single.db`);
    const keyed = { records: 5, ms: 10, bytes: 8_000 };
    const config = { contentType: "application/json", keyed };
    for (const file of [grouped, single]) {
      for (const log of ["a", "b"]) {
        file.change(log, "create", { config, identity: "identity", records: [], maxLogs: 2 }, 0);
      }
    }
    const kinds = new Set<string>();
    for (let round = 0; round < 40; round++) {
      const now = round * 3;
      const group = Array.from({ length: 1 + round * 7 % 60 }, (_, i): FileOperation => {
        const key = `${i * 7 % 10}`;
        const value = JSON.stringify("x".repeat((round * 31 + i * 57) % 200));
        // Every fifth change expects a version that the row no longer has.
        const expect = i % 5 === 4 ? 1 : undefined;
        return ["changeLog", i % 3 === 0 ? "a" : "b", "append", {
          records: [],
          changes: [rowChange({ type: "t", key, operation: "upsert", value, expect }, now)],
          rowBounds: { rows: 7, deletions: 9, deletionMs: 9 },
          maxBytes: 1e6,
        }, now];
      });
      const outcomes = grouped.file.run(group, now);
      assertEquals(outcomes, group.map((operation) => single.file.run([operation], now)[0]!));
      for (const [, value] of outcomes) {
        kinds.add((value as { readonly result: LogChangeResult<"append"> }).result.kind);
      }
    }
    assertEquals([...kinds].sort(), ["appended", "conflict", "too-many-rows"]);
    let kept = 0;
    for (const log of ["a", "b"]) {
      const page = { after: 0, maxRecords: 1e6, maxBytes: 1e9 };
      const { info } = grouped.call<LogPage>("readLog", log, page, 0);
      assert(info.start > 0 && info.tail - info.start < 100, `${info.start} to ${info.tail}`);
      kept += info.tail - info.start;
      for (const options of [page, { ...page, after: info.start, tail: true }]) {
        const read = grouped.call<LogPage>("readLog", log, options, 0);
        assertEquals(read, single.call<LogPage>("readLog", log, options, 0));
        if ("tail" in options) assertEquals(recordBytes(read.records), info.bytes);
      }
    }
    assertEquals(grouped.count("log_records", path), kept);
  },
);

withFolder("SqliteFile.run() isolates reads from writes that fail", (folder) => {
  using file = new TestFile(`${folder}/test.db`);
  file.append("a", "1");
  const append = (payload: unknown): FileOperation => [
    "append",
    { topic: "a", payload, bytes: 1, tag: "tag000" },
    { bounds: BOUNDS },
    0,
  ];
  const outcomes = file.file.run([append("2"), ["read", "a", PAGE, 0], append({}), append("3")], 0);
  assertEquals(outcomes.map(([kind]) => kind), ["done", "done", "failed", "done"]);
  assertEquals(outcomes[0]![1], { offset: 2, prev: 1 });
  assertEquals(outcomes[3]![1], { offset: 3, prev: 2 });
  assertEquals(file.payloads("a"), ["1", "2", "3"]);
});

for (const synchronous of LEVELS) {
  withFolder(`SqliteBroker.backup() with ${synchronous} copies a file in use`, async (folder) => {
    const [path, copy] = [`${folder}/test.db`, `${folder}/copy.db`];
    await using broker = await SqliteBroker.open(path, { synchronous });
    const bounds = { ...BOUNDS, size: 700 };
    const append = (i: number) =>
      broker.history.append({ topic: `t${i % 3}`, payload: `${i}` }, { bounds });
    await Promise.all(Array.from({ length: 3_000 }, (_, i) => append(i)));
    await broker.logs.create("log", {
      config: { contentType: "text/plain" },
      identity: "identity",
      records: [new Uint8Array([0, 255]), "text"],
      maxLogs: 1,
    });
    let isOver = false;
    const backup = broker.backup(copy).finally(() => isOver = true);
    let last = 3_000;
    while (!isOver) await append(last++);
    await backup;
    assert(last > 3_003, "appends during the backup");
    await using other = await SqliteBroker.open(copy);
    const [mine, theirs] = [new Set<string>(), new Set<string>()];
    for (const topic of ["t0", "t1", "t2"]) {
      const page = await other.history.read(topic, { ...PAGE, bounds });
      assertEquals(page.publications.length, 700);
      const own = await broker.history.read(topic, { ...PAGE, bounds });
      const numbers = page.publications.map(({ payload }) => Number(payload));
      assertEquals(numbers, numbers.map((_, i) => numbers[0]! + 3 * i), "each once, in order");
      assert(numbers.at(-1)! <= Number(own.publications.at(-1)!.payload));
      assert(numbers.at(-1)! >= 2_997);
      mine.add(own.epoch);
      theirs.add(page.epoch);
    }
    assertNotEquals([...mine], [...theirs]);
    const reading = { after: 0, maxRecords: 9, maxBytes: 99, renews: false };
    const log = await other.logs.read("log", reading) as LogPage;
    assertEquals(log.records, [new Uint8Array([0, 255]), "text"]);
    assertNotEquals(log.info.identity, "identity");
    await other.history.append({ topic: "t0", payload: "more" }, { bounds });
    const error = await assertRejects(() => broker.backup(copy), BrokerError);
    assertEquals(error.message, `Cannot back up: the file ${copy} exists`);
  });
}

withFolder(
  "SqliteFile copies topics and logs that change, disappear or appear during the copy",
  (folder) => {
    const [path, copy] = [`${folder}/test.db`, `${folder}/copy.db`];
    const tiny = { ...BOUNDS, size: 1 };
    using file = new TestFile(path, { maxTopics: 700 });
    const create = (name: string) =>
      file.change(name, "create", {
        config: { contentType: "text/plain" },
        identity: `id${name}`.padEnd(8, "0"),
        records: ["1"],
        maxLogs: 9,
      }, 0);
    const add = (name: string, seq: number) => {
      const producer = { id: "p", epoch: 0, seq };
      file.change(name, "append", { records: [`${seq}`], maxBytes: 999, producer }, 0);
    };
    const retain = (fork: string) =>
      file.change("grows", "retain", { fork, identity: "idgrows0", maxForks: 2 }, 0);
    for (const name of ["same", "grows", "goes"]) create(name);
    for (const fork of ["f1", "f2"]) assertEquals(retain(fork), "retained");
    add("grows", 0);
    for (let i = 0; i < 700; i++) file.append(`${i}`, "old");
    file.call("beginCopy", copy);
    for (let steps = 0; file.call("continueCopy"); steps++) {
      // By now the first topics are copied, and then trimmed, forgotten, and created again.
      if (steps !== 1) continue;
      file.append("1", "new", { bounds: tiny });
      file.append("700", "late");
      file.append("0", "again");
      add("grows", 1);
      file.change("grows", "release", { fork: "f1" });
      assertEquals(retain("f3"), "retained");
      file.change("goes", "delete", { ifExpired: false });
      create("comes");
    }
    file.append("2", "last");
    file.call("endCopy", true);
    using found = new TestFile(copy, { maxTopics: 700 });
    const payloads = ["0", "1", "2", "3", "4", "5", "699", "700"].map((topic) =>
      found.payloads(topic)
    );
    const expected = ["0", "1", "2", "3", "4", "5", "699", "700"].map((topic) =>
      file.payloads(topic)
    );
    assertEquals(payloads, expected);
    assertEquals(payloads[0], ["again"]);
    assertEquals(payloads[1], ["new"]);
    const records = (one: TestFile, name: string) =>
      one.call<LogPage>("readLog", name, { after: 0, maxRecords: 9, maxBytes: 99 }, 0)?.records;
    for (const name of ["same", "grows", "goes", "comes"]) {
      assertEquals(records(found, name), records(file, name), name);
    }
    assertEquals(records(found, "grows"), ["1", "0", "1"]);
    const repeated = { records: ["x"], maxBytes: 999, producer: { id: "p", epoch: 0, seq: 1 } };
    const { kind } = found.change("grows", "append", repeated, 0);
    assertEquals(kind, "repeated");
    // The next append deletes what was trimmed after it was copied.
    for (const one of [file, found]) one.append("1", "newer", { bounds: tiny });
    while (found.call<{ isMore: boolean }>("sweep", 0).isMore);
    while (file.call<{ isMore: boolean }>("sweep", 0).isMore);
    const logs = ["logs", "log_records", "log_producers", "log_forks"];
    for (const table of ["topics", "publications", ...logs]) {
      assertEquals(found.count(table, copy), file.count(table, path), table);
    }
  },
);

withFolder(
  "SqliteFile keeps the forks of a log outside the state that appends write",
  (folder) => {
    const path = `${folder}/test.db`;
    using file = new TestFile(path);
    const config = { contentType: "text/plain" };
    const creation = { config, identity: "identity", records: [], maxLogs: 1 };
    file.change("source", "create", creation, 0);
    const written = () => {
      file.change("source", "append", { records: ["1"], maxBytes: 9_999 }, 0);
      const db = new DatabaseSync(snapshot(path));
      const { length } = db.prepare("SELECT length(state) AS length FROM logs").get()!;
      db.close();
      return length;
    };
    const before = written();
    for (let i = 0; i < 100; i++) {
      file.change("source", "retain", { fork: `fork${i}`, identity: "identity", maxForks: 100 }, 0);
    }
    assertEquals(file.count("log_forks", path), 100);
    assertEquals(written(), before);
    assertEquals(file.change("source", "delete", { ifExpired: false }), { kind: "kept" });
    for (let i = 0; i < 100; i++) file.change("source", "release", { fork: `fork${i}` });
    assertEquals([file.count("log_forks", path), file.count("logs", path)], [0, 0]);
  },
);

for (const synchronous of LEVELS) {
  withFolder(`SqliteBroker.close() with ${synchronous} ends a backup`, async (folder) => {
    const broker = await SqliteBroker.open(`${folder}/test.db`, { synchronous });
    for (let i = 0; i < 20; i++) {
      const payload = new Uint8Array(500_000);
      await broker.history.append({ topic: `${i}`, payload }, { bounds: BOUNDS });
    }
    const backup = assertRejects(() => broker.backup(`${folder}/copy.db`), BrokerError);
    const last = broker.history.append({ topic: "a", payload: "last" }, { bounds: BOUNDS });
    await broker.close();
    assertEquals((await backup).message, "Cannot back up: the broker is closed");
    assertEquals((await last).position!.offset, 1);
    const entries = await Array.fromAsync(Deno.readDir(folder));
    assertEquals(entries.map(({ name }) => name), ["test.db"]);
  });
}

withFolder("SqliteBroker names the call on logs that a close rejects", async (folder) => {
  const reading = { after: 0, maxRecords: 1, maxBytes: 1, renews: false };
  const creation = { config: { contentType: "" }, identity: "", records: [], maxLogs: 1 };
  for (const isLoaded of [false, true]) {
    const broker = await SqliteBroker.open(`${folder}/${isLoaded}.db`);
    const { logs } = broker;
    if (isLoaded) await logs.create("a", creation);
    const during = isLoaded ? undefined : logs.create("a", creation);
    const rejected = during && assertRejects(() => during, BrokerError);
    await broker.close();
    const calls: Readonly<Record<string, () => Promise<unknown>>> = {
      "create a log": () => during ?? logs.create("a", creation),
      "append to a log": () => logs.append("a", { records: [], maxBytes: 1 }),
      "read a log": () => logs.read("a", reading),
      "delete a log": () => logs.delete("a"),
      "list logs": () => logs.list("stream", { limit: 1 }),
    };
    await rejected;
    for (const [verb, call] of Object.entries(calls)) {
      const { message } = await assertRejects(call, BrokerError);
      assertEquals(message, `Cannot ${verb}: the broker is closed`);
    }
  }
});

withFolder("SqliteBroker bounds the bytes of the changes that wait", async (folder) => {
  const maxWaitingBytes = 10_000;
  await using broker = await SqliteBroker.open(`${folder}/test.db`, { maxWaitingBytes });
  const { logs } = broker;
  const keyed = { records: 9, bytes: 1e6, ms: 999 };
  const creation = {
    config: { contentType: "application/json", keyed },
    identity: "identity",
    records: [],
    maxLogs: 9,
  };
  await logs.create("a", creation);
  const set = (key: string) => {
    const value = JSON.stringify("x".repeat(4_000));
    const changes = [rowChange({ type: "t", key, operation: "upsert", value }, 0)];
    return logs.append("a", { records: [], changes, maxBytes: 1e6 });
  };
  const results = await Promise.allSettled(["a", "b", "c", "d"].map(set));
  const message = "Cannot append to a log: too many operations wait for the file";
  assertEquals(
    results.map((one) => one.status === "fulfilled" ? one.value.kind : one.reason.message),
    ["appended", "appended", message, message],
  );
  const row = { row: '["t","a"]', position: 0, text: "x".repeat(10_001) };
  const rows = { set: [row], forgotten: 0 };
  await assertRejects(() => logs.create("b", { ...creation, rows }), BrokerError, "too many");
});

withFolder("SqliteBroker.backup() leaves nothing behind when aborted", async (folder) => {
  await using broker = await SqliteBroker.open(`${folder}/test.db`);
  for (let i = 0; i < 20; i++) {
    const payload = new Uint8Array(500_000);
    await broker.history.append({ topic: `${i}`, payload }, { bounds: BOUNDS });
  }
  const abort = new AbortController();
  const backup = broker.backup(`${folder}/copy.db`, { signal: abort.signal });
  await assertRejects(
    () => broker.backup(`${folder}/b.db`),
    BrokerError,
    "a backup is in progress",
  );
  await broker.history.append({ topic: "a", payload: "x" }, { bounds: BOUNDS });
  abort.abort(new Error("enough"));
  await assertRejects(() => backup, Error, "enough");
  const entries = await Array.fromAsync(Deno.readDir(folder));
  const names = entries.map(({ name }) => name).sort();
  assertEquals(names, ["test.db", "test.db-wal"]);
  await assertRejects(() => broker.backup(`${folder}/no/b.db`), BrokerError, "Cannot back up: ");
  await broker.backup(`${folder}/copy.db`);
});

Deno.test("SqliteBroker rejects names that a file would change", async () => {
  const folder = await Deno.makeTempDir();
  await using broker = await SqliteBroker.open(`${folder}/test.db`);
  for (const name of ["a\0b", "\ud800", "x".repeat(1_025)]) {
    const publication = { topic: name, payload: "x" };
    await assertRejects(() => broker.history.append(publication, { bounds: BOUNDS }), RangeError);
    await assertRejects(() => broker.store.newest(name, 60_000), RangeError);
    assertThrows(() => broker.subscribe(name, () => {}, { history: BOUNDS }), RangeError);
  }
  const payload = "text with \0 zero";
  await broker.history.append({ topic: "a", payload }, { bounds: BOUNDS });
  assertEquals((await broker.history.read("a", PAGE)).publications[0]!.payload, payload);
  await broker.close();
  await Deno.remove(folder, { recursive: true });
});

withFolder("SqliteFile makes times readable that do not fit into a number", async (folder) => {
  const path = `${folder}/test.db`;
  const read = (file: TestFile) =>
    file.call<LogPage>("readLog", "log", { after: 0, maxRecords: 9, maxBytes: 999 }, 0);
  {
    using file = new TestFile(path);
    const config = { contentType: "application/json", keyed: { records: 9, bytes: 999, ms: 999 } };
    file.change("log", "create", { config, identity: "identity", records: [], maxLogs: 1 });
    const row = { type: "t", key: "a", operation: "upsert", value: "1" } as const;
    const changes = [rowChange({ ...row, ttlMs: Number.MAX_SAFE_INTEGER }, 0)];
    file.change("log", "append", { records: [], changes, maxBytes: 1_000 }, 1_000);
    assertThrows(() => read(file), BrokerError, "too large");
  }
  {
    using file = new TestFile(path);
    assertEquals(read(file).expiries, [Number.MAX_SAFE_INTEGER]);
  }
  await using broker = await SqliteBroker.open(path);
  await broker.backup(`${folder}/copy.db`);
});

for (const synchronous of LEVELS) {
  withFolder(
    `SqliteBroker with ${synchronous} loses nothing acknowledged when its process is killed`,
    async (folder) => {
      const path = `${folder}/test.db`;
      const acknowledged = new Set<string>();
      const epochs = new Set<string>();
      for (let round = 0; round < 3; round++) {
        await using child = writer(path, synchronous, { stdout: "piped" }).spawn();
        let [text, isKilled] = ["", false];
        for await (const chunk of child.stdout.pipeThrough(new TextDecoderStream())) {
          text += chunk;
          // Chunks in the pipe still arrive after the process has ended.
          if (isKilled || text.split("\n").length <= 400) continue;
          isKilled = true;
          child.kill("SIGKILL");
        }
        await child.status;
        const [first, ...lines] = text.split("\n").slice(0, -1);
        epochs.add(first!);
        for (const line of lines) acknowledged.add(line);
      }
      await using broker = await SqliteBroker.open(path, { synchronous });
      const bounds = { size: 1_000_000, ttlMs: 3_600_000, bytes: 1_000_000_000 };
      const { publications, epoch } = await broker.history.read("topic", {
        bounds,
        maxMessages: 1_000_000,
        maxBytes: 1_000_000_000,
      });
      const { records } = await broker.logs.read("log", {
        after: 0,
        maxRecords: 1_000_000,
        maxBytes: 1_000_000_000,
        renews: false,
      }) as LogPage;
      const kept = new Set([
        ...publications.map(({ payload }) => `p ${payload}`),
        ...records.map((record) => `r ${record}`),
      ]);
      assert(acknowledged.size >= 1_100, `${acknowledged.size} acknowledged`);
      assertEquals([...acknowledged].filter((one) => !kept.has(one)), []);
      assertEquals(
        publications.map(({ payload }) => payload),
        publications.map((_, i) => `${i + 1}`),
      );
      assertEquals([...epochs], [`epoch ${epoch}`]);
    },
  );
}
