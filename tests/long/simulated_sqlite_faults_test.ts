import { assert, assertEquals, assertNotEquals, assertRejects, assertThrows } from "@std/assert";
import { BrokerError } from "../../errors.ts";
import type { LogPage } from "../../streams/logs/log.ts";
import type { SqliteBroker } from "../../brokers/sqlite/sqlite_broker.ts";
import { type DiskFault, SimulatedDisk, SimulatedSqlite, Simulation } from "../simulator/mod.ts";
import { SqliteLibrary } from "../simulator/sqlite/library.ts";

const library = await SqliteLibrary.load();

const TOPICS = ["a", "b", "c"];
const BOUNDS = { size: 100_000, ttlMs: 3_600_000, bytes: 1 << 28 };
const PAGE = { bounds: BOUNDS, maxMessages: 100_000, maxBytes: 1 << 28 };

/** Content of a number, up to three pages long, so that a partial write is detected. */
function contentOf(number: number): string {
  return `${number} `.repeat(1 + (number * 7_919) % 1_500);
}

/** The acknowledged publications and records of one file, over many lives of its process. */
class Ledger {
  /** Contents by epoch, topic and offset; a position never has a second content. */
  readonly #places = new Map<string, string>();
  /** Newest acknowledged offset of each topic, and of the log. */
  readonly #newest = new Map<string, number>();
  #epoch = "";
  #identity = "";

  acknowledged(place: string, offset: number, content: string): void {
    this.note(place, offset, content);
    this.#newest.set(place, offset);
  }

  note(place: string, offset: number, content: string): void {
    const key = `${place} ${offset}`;
    assertEquals(this.#places.get(key) ?? content, content, `the content at ${key}`);
    this.#places.set(key, content);
  }

  /** Checks the file at the start of a life. */
  async check(broker: SqliteBroker, mayLose: boolean): Promise<void> {
    for (const topic of TOPICS) {
      const { epoch, head, publications } = await broker.history.read(topic, PAGE);
      if (this.#epoch !== "" && topic === TOPICS[0]) {
        assertEquals(epoch !== this.#epoch, mayLose, "a new epoch where writes may be lost");
      }
      this.#epoch = epoch;
      const place = `${epoch} ${topic}`;
      assertEquals(publications.map(({ position }) => position!.offset), upTo(head), place);
      for (const { payload, position } of publications) {
        const content = String(payload);
        assertEquals(content, contentOf(parseInt(content)), "a whole publication");
        this.note(place, position!.offset, content);
      }
      const newest = this.#newest.get(place) ?? 0;
      assert(head >= newest, `${place}: expected ${newest} acknowledged, received ${head}`);
    }
    const page = await broker.logs.read("log", {
      after: 0,
      maxRecords: 100_000,
      maxBytes: 1 << 28,
      renews: false,
    });
    if (page === undefined) {
      assert(mayLose || !this.#newest.has(`log ${this.#identity}`), "the log is lost");
      this.#identity = "";
      return;
    }
    const { info, records } = page as LogPage;
    if (this.#identity !== "") {
      assertEquals(info.identity !== this.#identity, mayLose, "a new identity of the log");
    }
    this.#identity = info.identity;
    const place = `log ${info.identity}`;
    assertEquals(info.tail, records.length);
    for (const [i, record] of records.entries()) {
      assertEquals(record, contentOf(parseInt(String(record))), "a whole record");
      this.note(place, i + 1, String(record));
    }
    const newest = this.#newest.get(place) ?? 0;
    assert(info.tail >= newest, `${place}: expected ${newest} acknowledged, received ${info.tail}`);
  }

  get identity(): string {
    return this.#identity;
  }
}

function upTo(head: number): number[] {
  return Array.from({ length: head }, (_, i) => i + 1);
}

/** Runs lives of one broker under faults of its disk and its machine; returns the digest. */
async function lives(seed: number, count: number) {
  const simulation = new Simulation({ seed });
  const { random } = simulation;
  const host = simulation.host("a");
  const disk = new SimulatedDisk(simulation, host);
  const sqlite = await SimulatedSqlite.load(simulation);
  const synchronous = seed % 2 === 0 ? "full" : "normal";
  const ledger = new Ledger();
  let [number, acknowledged, failed, lostPower] = [0, 0, 0, false];
  host.kill();
  await simulation.run(10_000);

  for (let life = 0; life < count; life++) {
    host.start();
    let broker: SqliteBroker;
    try {
      broker = sqlite.open(disk, "a.db", { synchronous });
    } catch (error) {
      // A fault of the last life was still planned, or occurred during the opening.
      simulation.note(`cannot open: ${error}`);
      host.kill();
      disk.heal();
      await simulation.run(10_000);
      continue;
    }
    disk.heal();
    const mayLose = lostPower && synchronous === "normal";
    await Promise.all([ledger.check(broker, mayLose), simulation.run(1_000)]);
    lostPower = false;
    host.onEnd((isPowerLoss) => lostPower ||= isPowerLoss);

    const write = async () => {
      const content = contentOf(++number);
      if (random() < 0.3) {
        const config = { contentType: "text/plain" };
        const identity = `${number}`.padStart(8, "0");
        if (ledger.identity === "") {
          const made = await broker.logs.create("log", {
            config,
            identity,
            records: [],
            maxLogs: 9,
          });
          if (made.kind !== "created") return;
        }
        const result = await broker.logs.append("log", { records: [content], maxBytes: 1 << 30 });
        if (result.kind !== "appended") return;
        acknowledged++;
        ledger.acknowledged(`log ${result.info.identity}`, result.info.tail, content);
      } else {
        const topic = TOPICS[Math.floor(random() * TOPICS.length)]!;
        const { position } = await broker.history.append({ topic, payload: content }, {
          bounds: BOUNDS,
        });
        acknowledged++;
        ledger.acknowledged(`${position!.epoch} ${topic}`, position!.offset, content);
      }
    };
    const kinds = ["full", "error", "kill", "power"] as const;
    for (let i = 0; i < 40 && host.isAlive; i++) {
      if (random() < 0.1) disk.fail(faultOf(random, kinds));
      for (let n = 1 + random() * 4; n > 0; n--) {
        host.after(random() * 20, () => void write().catch(() => failed++));
      }
      if (random() < 0.02) host.kill({ power: random() < 0.5 });
      await simulation.run(20);
    }
    disk.heal();
    if (host.isAlive) {
      // The current life sees everything that was acknowledged, after all faults.
      await simulation.run(1_000);
      await Promise.all([ledger.check(broker, false), simulation.run(1_000)]);
    }
    host.kill({ power: random() < 0.5 });
    await simulation.run(10_000);
  }
  simulation.note(`${acknowledged} acknowledged, ${failed} failed`);
  return { digest: simulation.digest, acknowledged, failed, trace: simulation.trace };
}

function faultOf(random: () => number, kinds: readonly DiskFault["kind"][]): DiskFault {
  const kind = kinds[Math.floor(random() * kinds.length)]!;
  const other = random() < 0.5 ? "read" : "sync";
  const operation = kind === "full" || random() < 0.6 ? "write" : other;
  return { kind, operation, after: Math.floor(random() * 30), times: random() < 0.2 ? 5 : 1 };
}

Deno.test("SqliteBroker keeps all acknowledged data whole under kills, power losses and disk faults", async () => {
  let [acknowledged, failed] = [0, 0];
  for (let seed = 1; seed <= 100; seed++) {
    try {
      const run = await lives(seed, 4);
      acknowledged += run.acknowledged;
      failed += run.failed;
    } catch (error) {
      throw new Error(`seed ${seed}: ${(error as Error).message}`, { cause: error });
    }
  }
  assert(acknowledged > 10_000 && failed > 100);
  assertEquals(library.connections, 0);
});

Deno.test("SimulatedDisk gives a seed the same digest in each process, and another seed a different one", async () => {
  const [first, again] = [await lives(5, 3), await lives(5, 3)];
  assertEquals(first.trace, again.trace);
  assertEquals(first.digest, again.digest);
  assertNotEquals(first.digest, (await lives(7, 3)).digest);
  const { stdout } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--no-check", import.meta.url],
    stderr: "inherit",
  }).output();
  assertEquals(new TextDecoder().decode(stdout).trim(), first.digest);
});

Deno.test("SqliteBroker starts a new epoch after each of two power losses within a second", async () => {
  for (let seed = 1; seed <= 10; seed++) {
    const simulation = new Simulation({ seed });
    const host = simulation.host("a");
    const disk = new SimulatedDisk(simulation, host);
    const sqlite = await SimulatedSqlite.load(simulation);
    const epochs: string[] = [];
    for (let life = 0; life < 3; life++) {
      host.start();
      const broker = sqlite.open(disk, "a.db");
      const append = broker.history.append({ topic: "a", payload: "x" }, { bounds: BOUNDS });
      await simulation.run(500);
      epochs.push((await append).position!.epoch);
      host.kill({ power: true });
      await simulation.run(500);
    }
    assertEquals(new Set(epochs).size, 3, `seed ${seed}: a new epoch after each loss`);
  }
});

Deno.test("SqliteBroker discards a record if both commit and rollback failed", async () => {
  for (const operation of ["write", "sync"] as const) {
    const simulation = new Simulation({ seed: 1 });
    const disk = new SimulatedDisk(simulation, simulation.host("a"));
    const sqlite = await SimulatedSqlite.load(simulation);
    const broker = sqlite.open(disk, "a.db", { synchronous: "full" });
    const during = async <T>(work: Promise<T>) => {
      await Promise.allSettled([work, simulation.run(100)]);
      return await work;
    };
    const config = { contentType: "text/plain" };
    await during(broker.logs.create("log", { config, identity: "1", records: ["a"], maxLogs: 9 }));
    const append = (record: string) =>
      during(broker.logs.append("log", { records: [record], maxBytes: 100_000 }));
    for (let i = 0; i < 100; i++) await append("a");
    disk.fail({ kind: "error", operation });
    disk.fail({ kind: "error", operation: "read", times: Infinity });
    // Two operations of one transaction, which are then retried one by one.
    const other = broker.history.append({ topic: "a", payload: "never" }, { bounds: BOUNDS });
    other.catch(() => {});
    await assertRejects(() => append("never"), BrokerError);
    disk.heal();
    await append("b");
    const options = { after: 0, maxRecords: 1_000, maxBytes: 100_000, renews: false };
    const { info, records } = await during(broker.logs.read("log", options)) as LogPage;
    assertEquals([info.tail, records.length, records.at(-1)], [102, 102, "b"]);
    await during(broker.close());
  }
});

Deno.test("SqliteBroker distinguishes a full disk, a file in use, and damage after the last sync", async () => {
  const simulation = new Simulation({ seed: 1 });
  const host = simulation.host("a");
  const disk = new SimulatedDisk(simulation, host);
  const sqlite = await SimulatedSqlite.load(simulation);
  const release = disk.occupy("a.db");
  assertThrows(() => sqlite.open(disk, "a.db"), BrokerError, "another process or broker");
  release();
  let broker = sqlite.open(disk, "a.db");
  assertThrows(() => sqlite.open(disk, "a.db"), BrokerError, "another process or broker");
  const outcomes: string[] = [];
  const append = (payload: string) =>
    broker.history.append({ topic: "a", payload }, { bounds: BOUNDS })
      .then(() => outcomes.push("kept"), (error) => outcomes.push(error.message));
  void append("one");
  await simulation.run(10);
  disk.fail({ kind: "full", times: Infinity });
  void append("two");
  await simulation.run(10);
  assertEquals(broker.status.current.name, "interrupted");
  disk.heal();
  void append("three");
  await simulation.run(10);
  assertEquals(broker.status.current.name, "connected");
  const full = "Cannot append: the disk, or the file with its maxBytes, is full";
  assertEquals(outcomes, ["kept", full, "kept"]);

  // The last frame of the write-ahead log is damaged: the publication before it stays.
  host.kill();
  const log = disk.read("a.db-wal");
  log[log.length - 100]! ^= 1;
  disk.replace("a.db-wal", log);
  host.start();
  broker = sqlite.open(disk, "a.db");
  const reading = broker.history.read("a", PAGE);
  await simulation.run(10);
  assertEquals((await reading).publications.map(({ payload }) => payload), ["one"]);
  await broker.close();
});

Deno.test("SqliteBroker.backup() copies a file on a simulated disk, and the copy opens with a new epoch", async () => {
  const simulation = new Simulation({ seed: 1 });
  const disk = new SimulatedDisk(simulation, simulation.host("a"));
  const sqlite = await SimulatedSqlite.load(simulation);
  const during = async <T>(work: Promise<T>) => {
    await Promise.allSettled([work, simulation.run(1_000)]);
    return await work;
  };
  const broker = sqlite.open(disk, "a.db", { synchronous: "full" });
  await during(broker.history.append({ topic: "a", payload: "one" }, { bounds: BOUNDS }));
  await during(broker.backup("copy.db"));
  await assertRejects(
    () => during(broker.backup("copy.db")),
    BrokerError,
    "the file copy.db exists",
  );
  const copy = sqlite.open(disk, "copy.db");
  const { epoch } = await during(broker.history.read("a", PAGE));
  const page = await during(copy.history.read("a", PAGE));
  assertEquals(page.publications.map(({ payload }) => payload), ["one"]);
  assertNotEquals(page.epoch, epoch);
  await during(Promise.all([broker.close(), copy.close()]));
  assertEquals(disk.paths, ["a.db", "copy.db"]);
  assertEquals(library.connections, 0);
});

for (
  const { kind, reason } of [
    { kind: "full", reason: "Cannot back up: the disk of copy.db.part is full" },
    { kind: "error", reason: "Cannot back up: " },
  ] as const
) {
  Deno.test(`SqliteBroker.backup() leaves nothing behind after any write that fails, ${kind}`, async () => {
    const simulation = new Simulation({ seed: 1 });
    const disk = new SimulatedDisk(simulation, simulation.host("a"));
    const sqlite = await SimulatedSqlite.load(simulation);
    const during = async <T>(work: Promise<T>) => {
      await Promise.allSettled([work, simulation.run(1_000)]);
      return await work;
    };
    const broker = sqlite.open(disk, "a.db");
    await during(broker.history.append({ topic: "a", payload: "one" }, { bounds: BOUNDS }));
    const { connections } = library;
    let failures = 0;
    while (!disk.paths.includes("copy.db")) {
      disk.fail({ kind, after: failures, times: Infinity });
      const error = await during(broker.backup("copy.db")).then(() => undefined, (error) => error);
      disk.heal();
      if (error === undefined) break;
      assert(error instanceof BrokerError && error.message.startsWith(reason), String(error));
      assertEquals([disk.paths, library.connections], [["a.db", "a.db-wal"], connections]);
      failures++;
    }
    assert(failures > 0);
    await during(broker.close());
    assertEquals(library.connections, 0);
  });
}

// The subprocess's program.
if (import.meta.main) console.log((await lives(5, 3)).digest);
