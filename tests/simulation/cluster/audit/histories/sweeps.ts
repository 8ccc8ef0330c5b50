/** Sweeps of a full file: rows without use go by themselves, also behind a sweep that failed. */
import type { SqliteBroker } from "../../../../../brokers/sqlite/mod.ts";
import { SimulatedDisk } from "../../../../../testing/simulation/sqlite/disk.ts";
import { between, oneOf } from "../../chance.ts";
import type { Audit, Expect } from "../audit.ts";

/** Times that the file is full. */
const ROUNDS = 2;

/** Bytes of the file, and characters of one row. */
const [MAX_BYTES, LENGTH] = [262_144, 900] as const;

/** Most calls until the file is full. */
const MAX_CALLS = 400;

/** Time of the rows, in milliseconds: longer than one between two sweeps. */
const USED_MS = [7_000, 9_000] as const;

/** Longest time until a sweep has ended, in milliseconds: docs/deploy/sqlite.md, Bounds. */
const SWEPT_MS = 5_000 + 300;

/** Time of a disk without writes behind the use of the rows, in milliseconds. */
const FAULT_MS = [1_000, 8_000] as const;

/** Kinds of rows that end by time. */
const KINDS = ["publications", "numbers", "claims"] as const;

/**
 * Fills a small file, lets the disk fail while the rows end, and fills the file again.
 *
 * @param audit The audit.
 */
export async function auditSweeps(audit: Audit): Promise<void> {
  const { engine: { openFile } } = audit;
  if (openFile === undefined) return;
  const random = audit.chanceOf("sweeps");
  const disk = new SimulatedDisk(audit.simulation, audit.host("swept-file"));
  const synchronous = random() < 0.5 ? "full" : "normal";
  const broker = openFile(disk, "swept.db", { synchronous, maxBytes: MAX_BYTES });
  const kind = oneOf(random, KINDS);
  const expect: Expect = (what, ...outcome) =>
    audit.examine("history", `sweeps of ${kind}: ${what}`, ...outcome);
  const isNearlyFull = () => broker.issues().some((issue) => issue.includes("nearly full"));
  const isWell = () => broker.issues().length === 0 && broker.status.current.name === "connected";
  let before = 0;
  for (let round = 1; round <= ROUNDS; round++) {
    const usedMs = between(random, ...USED_MS);
    const count = await fill(broker, { kind, round, usedMs });
    const filledMs = audit.nowMs;
    // Other rows may take a page more, and the last one a page less.
    if (round > 1) expect(`rows of a full file, ${before} before`, true, count >= before * 0.9);
    before = count;
    expect("status of a full file", "interrupted", broker.status.current.name);
    await audit.until(isNearlyFull, SWEPT_MS);
    expect(`notice of a full file, round ${round}`, true, isNearlyFull());
    if (random() < 0.8) {
      const operation = random() < 0.7 ? "write" : "sync";
      disk.fail({ kind: "error", operation, times: Infinity });
      const forMs = between(random, ...FAULT_MS);
      await audit.pause(Math.max(0, filledMs + usedMs - audit.nowMs) + forMs);
      disk.heal();
    } else await audit.pause(Math.max(0, filledMs + usedMs - audit.nowMs));
    await audit.until(isWell, SWEPT_MS);
    expect(`issues behind a sweep, round ${round}`, [], broker.issues());
    expect("status behind a sweep", "connected", broker.status.current.name);
  }
  await broker.close();
}

/** Adds rows until the file refuses one. */
async function fill(
  { history, store }: SqliteBroker,
  { kind, round, usedMs }: {
    readonly kind: typeof KINDS[number];
    readonly round: number;
    readonly usedMs: number;
  },
): Promise<number> {
  const bounds = { size: MAX_CALLS, ttlMs: usedMs, bytes: MAX_BYTES };
  for (let i = 0; i < MAX_CALLS; i++) {
    const name = `${round} ${i} `.padEnd(LENGTH, "x");
    const adding = kind === "publications"
      ? history.append({ topic: `t${i % 5}`, payload: name }, { bounds })
      : kind === "numbers"
      ? store.advance(name, 1, usedMs)
      : store.claim(`s${i % 5}`, name, { max: MAX_CALLS, ttlMs: usedMs });
    const isAdded = await adding.then(() => true, () => false);
    if (!isAdded) return i;
  }
  return MAX_CALLS;
}
