import { assert, assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { BrokerError } from "../../errors.ts";
import type { Broker } from "../../pubsub/broker.ts";
import { connectTo } from "../../pubsub/ports/ports_fixture.ts";
import { LOGS_PART } from "../../streams/logs/logs_of.ts";
import { serve } from "../../server.ts";
import { FileNames } from "./file_names.ts";
import { SqliteBroker } from "./mod.ts";

const BOUNDS = { size: 1_000, ttlMs: 3_600_000, bytes: 4_194_304 };
const PAGE = { bounds: BOUNDS, maxMessages: 10_000, maxBytes: 100_000_000 };
const CREATION = {
  config: { contentType: "text/plain" },
  identity: "identity",
  records: [],
  maxLogs: 10,
};
const RATE = { perSecond: 1, burst: 1 };

/** Time between two checks, in milliseconds. */
const CHECK_MS = 5_000;

const append = (broker: SqliteBroker, payload: string) =>
  broker.history.append({ topic: "news", payload }, { bounds: BOUNDS });

async function payloadsIn(broker: SqliteBroker): Promise<unknown[]> {
  return (await broker.history.read("news", PAGE)).publications.map(({ payload }) => payload);
}

/** Passes checks until the broker's problems contain a text, or until there are none. */
async function untilIssue(time: FakeTime, broker: Broker, text: string | undefined) {
  const isReached = () =>
    text === undefined
      ? broker.issues().length === 0
      : broker.issues().some((issue) => issue.includes(text));
  while (!isReached()) await time.tickAsync(CHECK_MS);
}

/** A loss of the file `chat.db` in a folder, with the reason and the way back. */
interface Loss {
  readonly name: string;
  readonly reason: string;
  lose(folder: string): Promise<void>;
  putBack?(folder: string): Promise<void>;
}

const LOST = "the file was deleted, moved or unmounted while it was open";
const REPLACED = "the file was replaced by another file while it was open";

const LOSSES: readonly Loss[] = [
  {
    name: "deleted",
    reason: LOST,
    lose: (folder) => Deno.remove(`${folder}/data/chat.db`),
  },
  {
    name: "moved",
    reason: LOST,
    lose: (folder) => Deno.rename(`${folder}/data/chat.db`, `${folder}/old.db`),
    putBack: (folder) => Deno.rename(`${folder}/old.db`, `${folder}/data/chat.db`),
  },
  {
    name: "moved with its folder",
    reason: LOST,
    lose: (folder) => Deno.rename(`${folder}/data`, `${folder}/old`),
    putBack: (folder) => Deno.rename(`${folder}/old`, `${folder}/data`),
  },
  {
    name: "in a folder that became a file",
    reason: LOST,
    async lose(folder) {
      await Deno.rename(`${folder}/data`, `${folder}/old`);
      await Deno.writeTextFile(`${folder}/data`, "");
    },
    async putBack(folder) {
      await Deno.remove(`${folder}/data`);
      await Deno.rename(`${folder}/old`, `${folder}/data`);
    },
  },
  {
    name: "replaced",
    reason: REPLACED,
    async lose(folder) {
      await Deno.rename(`${folder}/data/chat.db`, `${folder}/old.db`);
      await Deno.writeTextFile(`${folder}/data/chat.db`, "");
    },
    putBack: (folder) => Deno.rename(`${folder}/old.db`, `${folder}/data/chat.db`),
  },
  {
    name: "without its write-ahead log",
    reason: "data/chat.db-wal was deleted, moved or unmounted while it was open",
    lose: (folder) => Deno.remove(`${folder}/data/chat.db-wal`),
  },
  {
    name: "next to another write-ahead log",
    reason: "data/chat.db-wal was replaced by another file while it was open",
    async lose(folder) {
      await Deno.rename(`${folder}/data/chat.db-wal`, `${folder}/old-wal`);
      await Deno.writeTextFile(`${folder}/data/chat.db-wal`, "");
    },
    putBack: (folder) => Deno.rename(`${folder}/old-wal`, `${folder}/data/chat.db-wal`),
  },
];

/** Runs a test with an open file in a folder that is removed afterwards. */
function withBroker(
  name: string,
  test: (
    context: { readonly time: FakeTime; readonly folder: string; readonly broker: SqliteBroker },
  ) => Promise<void>,
  options: { readonly synchronous?: "full"; readonly link?: true } = {},
): void {
  Deno.test(name, async () => {
    const folder = await Deno.makeTempDir();
    await Deno.mkdir(`${folder}/data`);
    using time = new FakeTime();
    try {
      const path = options.link ? `${folder}/link.db` : `${folder}/data/chat.db`;
      if (options.link) await Deno.symlink(`${folder}/data/chat.db`, path);
      await using broker = await SqliteBroker.open(path, { synchronous: options.synchronous });
      await append(broker, "before");
      await test({ time, folder, broker });
    } finally {
      await Deno.remove(folder, { recursive: true });
    }
  });
}

for (const { name, reason, lose, putBack } of LOSSES) {
  withBroker(
    `SqliteBroker rejects writes if the file is ${name}, and reads on`,
    async ({ time, folder, broker }) => {
      await lose(folder);
      await append(broker, "unnoticed");
      await untilIssue(time, broker, reason);

      const status = broker.status.current;
      assert(status.name === "interrupted" && status.rejects);
      assertEquals(broker.issues().length, 1);
      assertStringIncludes(broker.issues()[0]!, "has rejected writes");
      const writes: readonly (() => Promise<unknown>)[] = [
        () => append(broker, "lost"),
        () => broker.store.claim("scope", "member", { max: 1, ttlMs: 1_000 }),
        () => broker.store.advance("key", 1, 1_000),
        () => broker.store.take!("key", 1, RATE),
        () => broker.logs.create("log", CREATION),
      ];
      for (const write of writes) await assertRejects(write, BrokerError, reason);
      assertEquals(await payloadsIn(broker), ["before", "unnoticed"]);

      // Nothing that was acknowledged is lost: a copy has the content.
      await broker.backup(`${folder}/copy.db`);
      {
        await using copy = await SqliteBroker.open(`${folder}/copy.db`);
        assertEquals(await payloadsIn(copy), ["before", "unnoticed"]);
      }
      if (putBack === undefined) return;

      await putBack(folder);
      await untilIssue(time, broker, undefined);
      assertEquals(broker.status.current.name, "connected");
      await append(broker, "after");
      // The second loss is also noticed.
      await lose(folder);
      await untilIssue(time, broker, reason);
      await assertRejects(() => append(broker, "lost again"), BrokerError, reason);
      await putBack(folder);
      await broker.close();
      await using next = await SqliteBroker.open(`${folder}/data/chat.db`);
      assertEquals(await payloadsIn(next), ["before", "unnoticed", "after"]);
    },
  );
}

withBroker(
  "SqliteBroker.close() writes a deleted write-ahead log into the file",
  async ({ time, folder, broker }) => {
    await Deno.remove(`${folder}/data/chat.db-wal`);
    await append(broker, "unnoticed");
    await untilIssue(time, broker, "chat.db-wal was deleted");
    await broker.close();
    await using next = await SqliteBroker.open(`${folder}/data/chat.db`);
    assertEquals(await payloadsIn(next), ["before", "unnoticed"]);
  },
);

for (const synchronous of ["normal", "full"] as const) {
  withBroker(
    `SqliteBroker with ${synchronous} never writes into a backup that replaced its file`,
    async ({ time, folder, broker }) => {
      const [path, backup] = [`${folder}/data/chat.db`, `${folder}/backup.db`];
      await broker.backup(backup);
      await append(broker, "after the backup");
      await Deno.rename(backup, path);
      const restored = await Deno.readFile(path);
      await append(broker, "unnoticed");
      await untilIssue(time, broker, REPLACED);
      await assertRejects(() => append(broker, "rejected"), BrokerError, REPLACED);
      await broker.close();
      assertEquals(await Deno.readFile(path), restored);
      // The log at the path is the old file's, and empty after the close.
      await using next = await SqliteBroker.open(path);
      assertEquals(await payloadsIn(next), ["before"]);
      await append(next, "next");
      assertEquals(await payloadsIn(next), ["before", "next"]);
    },
    synchronous === "full" ? { synchronous } : {},
  );
}

withBroker(
  "SqliteBroker rejects writes if a link to the file leads to another file",
  async ({ time, folder, broker }) => {
    await Deno.remove(`${folder}/link.db`);
    await Deno.writeTextFile(`${folder}/other.db`, "");
    await Deno.symlink(`${folder}/other.db`, `${folder}/link.db`);
    await untilIssue(time, broker, REPLACED);
    await assertRejects(() => append(broker, "lost"), BrokerError, REPLACED);
    await Deno.remove(`${folder}/link.db`);
    await Deno.symlink(`${folder}/data/chat.db`, `${folder}/link.db`);
    await untilIssue(time, broker, undefined);
    await append(broker, "back");
    // The log is next to the file, not next to the link.
    await Deno.remove(`${folder}/data/chat.db-wal`);
    await untilIssue(time, broker, "data/chat.db-wal was deleted");
  },
  { link: true },
);

withBroker(
  "PortBroker of every worker rejects writes if the main thread's file is lost, and continues",
  async ({ time, folder, broker }) => {
    const workers = connectTo(broker, 2, [LOGS_PART]);
    const write = (worker: Broker) =>
      worker.history!.append({ topic: "news", payload: "x" }, { bounds: BOUNDS });
    try {
      await Deno.rename(`${folder}/data/chat.db`, `${folder}/old.db`);
      await untilIssue(time, broker, LOST);
      for (const worker of workers) {
        await assertRejects(() => write(worker), BrokerError, LOST);
        await untilIssue(time, worker, "has rejected writes");
        assertStringIncludes(worker.issues()[0]!, LOST);
      }
      await Deno.rename(`${folder}/old.db`, `${folder}/data/chat.db`);
      await untilIssue(time, broker, undefined);
      for (const worker of workers) {
        await write(worker);
        assertEquals(worker.status.current.name, "connected");
      }
    } finally {
      for (const worker of workers) await worker.close();
    }
  },
);

withBroker(
  "SqliteBroker reports the newest reason if its file is lost on a full disk",
  async ({ time, folder }) => {
    const path = `${folder}/small.db`;
    await using broker = await SqliteBroker.open(path, { maxBytes: 1_048_576 });
    const payload = "x".repeat(10_000);
    await assertRejects(
      async () => {
        for (let i = 0; i < 200; i++) await append(broker, payload);
      },
      BrokerError,
      "is full",
    );
    await Deno.remove(path);
    await untilIssue(time, broker, LOST);
  },
);

withBroker(
  "serve() prints once that the file of its broker is lost, and the remedy",
  async ({ time, folder, broker }) => {
    const lines: string[] = [];
    const { warn } = console;
    console.warn = (line: string) => void lines.push(line);
    try {
      await using server = serve({ port: 0, hostname: "127.0.0.1", broker, onListen: () => {} });
      void server;
      await Deno.remove(`${folder}/data/chat.db`);
      for (let i = 0; i < 4; i++) await time.tickAsync(CHECK_MS);
      while (lines.length === 0) await time.tickAsync(CHECK_MS);
      assertEquals(lines.length, 1);
      assertStringIncludes(lines[0]!, LOST);
      assertStringIncludes(lines[0]!, "broker.backup()");
    } finally {
      console.warn = warn;
    }
  },
);

Deno.test("FileNames.lost() judges by the inode, and by nothing where files have none", async (t) => {
  const folder = await Deno.makeTempDir();
  const { stat } = Deno;
  try {
    for (const ino of [null, 0]) {
      await t.step(`inode ${ino}`, async () => {
        const path = `${folder}/${ino}.db`;
        await Deno.writeTextFile(path, "");
        Deno.stat = async (path) => ({ ...await stat(path), ino });
        const names = await FileNames.of(path);
        await Deno.rename(path, `${path}.old`);
        assertStringIncludes((await names.lost())!, LOST);
        await Deno.writeTextFile(path, "");
        assertEquals(await names.lost(), undefined);
      });
    }
    await t.step("a check that fails", async () => {
      Deno.stat = stat;
      const path = `${folder}/file.db`;
      await Deno.writeTextFile(path, "");
      const names = await FileNames.of(path);
      Deno.stat = () => Promise.reject(new Deno.errors.PermissionDenied("no"));
      assertEquals(await names.lost(), undefined);
    });
    await t.step("another working directory", async () => {
      Deno.stat = stat;
      const before = Deno.cwd();
      try {
        Deno.chdir(folder);
        const names = await FileNames.of("file.db");
        Deno.chdir(before);
        assertEquals(await names.lost(), undefined);
      } finally {
        Deno.chdir(before);
      }
    });
  } finally {
    Deno.stat = stat;
    await Deno.remove(folder, { recursive: true });
  }
});
