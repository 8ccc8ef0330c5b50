/**
 * A process that writes to a `SqliteBroker` and is killed repeatedly. No acknowledged data may be
 * lost, and the epoch must stay the same.
 *
 * @module
 */
import { DatabaseSync } from "node:sqlite";
import type { LogPage } from "../../streams/mod.ts";
import { SqliteBroker } from "../../brokers/sqlite/mod.ts";
import { sleep } from "./processes/processes.ts";

const PROGRAM = new URL("../../brokers/sqlite/writer_fixture.ts", import.meta.url).href;
const PERMISSIONS = ["-R", "-W", "--allow-sys=osUptime"];

/** The longest time that a process runs after it has opened the file, in milliseconds. */
const MOST_LIFE_MS = 1_000;

/** A number larger than the publications and records that a round writes. */
const MANY = 10_000_000;

const BOUNDS = { size: 1_000_000, ttlMs: 3_600_000, bytes: 1_000_000_000 };

/** Runs the rounds with each level of durability. */
export async function soakSqlite(
  check: (what: string, isRight: boolean, detail: string) => void,
  isShort: boolean,
): Promise<void> {
  const rounds = isShort ? 10 : 60;
  for (const synchronous of ["normal", "full"] as const) {
    const folder = await Deno.makeTempDir();
    const path = `${folder}/soak.db`;
    const found = { acknowledged: 0, lost: 0, disordered: 0, damaged: 0 };
    const epochs = new Set<string>();
    let [published, recorded] = [0, 0];
    for (let round = 0; round < rounds; round++) {
      const lines = await writeAndDie(path, synchronous);
      const integrity = await checkIntegrity(path, folder);
      if (integrity !== "ok") found.damaged++;
      await using broker = await SqliteBroker.open(path, { synchronous });
      const page = await broker.history.read("topic", {
        bounds: BOUNDS,
        after: published,
        maxMessages: MANY,
        maxBytes: BOUNDS.bytes,
      });
      const log = await broker.logs.read("log", {
        after: recorded,
        maxRecords: MANY,
        maxBytes: BOUNDS.bytes,
        renews: false,
      }) as LogPage;
      const kept = new Set<string>();
      for (const [i, { payload }] of page.publications.entries()) {
        if (payload !== `${published + i + 1}`) found.disordered++;
        kept.add(`p ${payload}`);
      }
      for (const record of log.records) kept.add(`r ${record}`);
      epochs.add(page.epoch);
      for (const line of lines.filter((line) => !line.startsWith("epoch "))) {
        found.acknowledged++;
        if (!kept.has(line)) found.lost++;
      }
      published = page.head;
      recorded = log.info.tail;
    }
    await Deno.remove(folder, { recursive: true });
    const { acknowledged, lost, disordered, damaged } = found;
    check(
      `SqliteBroker, ${synchronous}: kills lose no acknowledged data`,
      acknowledged > 0 && lost + disordered + damaged === 0 && epochs.size === 1,
      `${rounds} kills, ${acknowledged} acknowledged, ${lost} lost, ${disordered} out of order, ` +
        `${damaged} damaged files, ${epochs.size} epochs`,
    );
  }
}

/** Starts a process, kills it at a random time, and returns its lines. */
async function writeAndDie(path: string, synchronous: string): Promise<string[]> {
  await using child = new Deno.Command(Deno.execPath(), {
    args: ["run", "--no-check", ...PERMISSIONS, PROGRAM, path, synchronous],
    stdout: "piped",
  }).spawn();
  let text = "";
  let killing: Promise<void> | undefined;
  for await (const chunk of child.stdout.pipeThrough(new TextDecoderStream())) {
    text += chunk;
    killing ??= sleep(Math.random() * MOST_LIFE_MS).then(() => child.kill("SIGKILL"));
  }
  await killing;
  await child.status;
  // The last line may be cut off.
  return text.split("\n").slice(0, -1);
}

/** Checks a copy of the file and its write-ahead log, as the killed process left them. */
async function checkIntegrity(path: string, folder: string): Promise<unknown> {
  const copy = `${folder}/copy.db`;
  for (const end of ["", "-wal"]) await Deno.copyFile(path + end, copy + end);
  const db = new DatabaseSync(copy);
  try {
    return Object.values(db.prepare("PRAGMA integrity_check").get()!)[0];
  } finally {
    db.close();
    await Deno.remove(copy);
  }
}
