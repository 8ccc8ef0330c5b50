import { assert, assertEquals } from "@std/assert";
import { DatabaseSync } from "node:sqlite";
import { connectNative } from "../../../brokers/sqlite/database.ts";
import { openLogs } from "../../../brokers/sqlite/logs/logs.ts";
import { type FileOperation, SqliteFile } from "../../../brokers/sqlite/file.ts";
import { seededRandom } from "../../../transport/memory/path.ts";
import { Simulation } from "../simulation.ts";
import { SimulatedDisk } from "./disk.ts";
import { SqliteLibrary } from "./library.ts";
import { slowTest } from "../../../tools/run_tests/slow.ts";

const library = await SqliteLibrary.load();

const NOW = 1_000_000;

/** Draws one operation of any kind, with few names, so that operations interact. */
function operation(random: () => number, now: number): FileOperation {
  const below = (n: number) => Math.floor(random() * n);
  const name = `${"abc"[below(3)]}`;
  const text = () => "é".repeat(below(random() < 0.1 ? 6_000 : 20));
  const record = () => random() < 0.5 ? text() : new TextEncoder().encode(text());
  const bounds = { size: 1 + below(40), ttlMs: 10_000, bytes: 2_000 + below(20_000) };
  const kinds: (() => FileOperation)[] = [
    () => {
      const payload = record();
      const key = random() < 0.3 ? { key: { producer: "p", number: below(50) } } : {};
      const publication = {
        topic: name,
        payload,
        bytes: payload.length,
        tag: `tag${below(1_000)}`,
      };
      return ["append", publication, { bounds, ...key }, now];
    },
    () => ["read", name, { bounds, maxMessages: 1 + below(50), maxBytes: 50_000, last: 9 }, now],
    () => ["follow", name],
    () => ["unfollow", name],
    () => ["advance", name, below(20), 5_000, now],
    () => ["newest", name, now],
    () => ["claim", name, `m${below(4)}`, { max: 2, ttlMs: 3_000 }, now],
    () => ["release", name, `m${below(4)}`],
    () => ["claims", name, now],
    () => ["take", name, 1 + below(3), { perSecond: 2, burst: 5 }, now],
    () => {
      const config = { contentType: "text/plain", ttlMs: 20_000 };
      const identity = `${below(1e8)}`.padStart(8, "0");
      const records = random() < 0.5 ? [] : [record(), record()];
      return ["changeLog", name, "create", { config, identity, records, maxLogs: 2 }, now];
    },
    () => {
      const producer = random() < 0.5 ? {} : { producer: { id: "p", epoch: 0, seq: below(9) } };
      const keep = random() < 0.5 ? {} : { keep: { records: 5, bytes: 10_000 } };
      const records = Array.from({ length: below(4) }, record);
      return [
        "changeLog",
        name,
        "append",
        { records, maxBytes: 100_000, ...producer, ...keep },
        now,
      ];
    },
    () => ["readLog", name, { after: below(5), maxRecords: 9, maxBytes: 9_000, renews: true }, now],
    () => ["renewLog", name, now],
    () => ["changeLog", name, "delete", { ifExpired: random() < 0.5 }, now],
    () => {
      const options = { fork: `f${below(3)}`, identity: "00000000", maxForks: 2 };
      return ["changeLog", name, "retain", options, now];
    },
    () => ["changeLog", name, "release", { fork: `f${below(3)}` }, now],
    () => ["overdueLogs", 5, now],
    () => ["sweep", now],
  ];
  const often = random() < 0.5 ? 2 : kinds.length;
  return kinds[below(often)]!();
}

/** A list of groups, the same for a seed. */
function groupsOf(
  seed: number,
  count: number,
): { readonly now: number; readonly group: FileOperation[] }[] {
  const random = seededRandom(seed);
  let now = NOW;
  return Array.from({ length: count }, () => {
    now += Math.floor(random() * 500);
    return { now, group: Array.from({ length: 1 + random() * 6 }, () => operation(random, now)) };
  });
}

slowTest("SqliteLibrary produces the same results and file as the runtime's SQLite", async () => {
  const folder = await Deno.makeTempDir();
  try {
    for (let seed = 1; seed <= 5; seed++) {
      const simulation = new Simulation({ seed });
      const disk = new SimulatedDisk(simulation, simulation.host("a"));
      const options = {
        synchronous: seed % 2 === 0 ? "full" : "normal",
        maxBytes: 1_000_000,
        maxTopics: 2,
        uuid: "01234567-89ab-4cde-8f01-23456789abcd",
        bootedAt: 0,
      } as const;
      const path = `${folder}/${seed}.db`;
      const native = new SqliteFile({ ...options, path }, connectNative, openLogs);
      const simulated = new SqliteFile(
        { ...options, path: "a.db" },
        (path) => library.connect(disk, path),
        openLogs,
      );
      for (const file of [native, simulated]) file.run([["openLogs"]], 0);
      for (const { now, group } of groupsOf(seed, 300)) {
        assertEquals(simulated.run(group, now), native.run(group, now), `seed ${seed}`);
      }
      native.close();
      simulated.close();
      // The runtime reads the file that the simulated machine wrote, row for row.
      await Deno.writeFile(`${folder}/copy.db`, disk.read("a.db"));
      assertEquals(rowsOf(`${folder}/copy.db`), rowsOf(path));
      assertEquals(library.connections, 0);
    }
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

/** All rows of all tables. */
function rowsOf(path: string): unknown {
  const db = new DatabaseSync(path);
  try {
    assertEquals(db.prepare("PRAGMA integrity_check").get()!.integrity_check, "ok");
    const tables = db.prepare("SELECT name FROM sqlite_schema WHERE type = 'table'").all();
    assert(tables.length > 8);
    return tables.map(({ name }) => {
      const rows = db.prepare(`SELECT * FROM ${name}`).all();
      return [name, rows.map((row) => Object.values(row).map(String).join(" ")).sort()];
    });
  } finally {
    db.close();
  }
}
