/** Shares of a store's bytes, in memory and in a file, by the contract of stores. */
import { assertEquals } from "@std/assert";
import type { Broker } from "../../pubsub/broker.ts";
import { MemoryBroker } from "../../pubsub/memory/broker.ts";
import { SqliteBroker } from "../../brokers/sqlite/mod.ts";
import { LogShares, overShareReason } from "./log_shares.ts";
import type { AppendLogOptions } from "./log.ts";
import { logsOf } from "./logs_of.ts";

/** Maximum number of bytes of all; an eighth has room for several records. */
const MAX = 2_097_152;

const RECORD = 40_000;

/** The keys of a user at an IPv6 address: of the user, of a /64, a /56 and a /48. */
const EVE = "u.eve a1.near a4.wide a16.wider";

const ANN = "u.ann a1.other";

/** A store, with logs of several owners. */
class Kit {
  readonly broker: Broker;

  constructor(broker: Broker) {
    this.broker = broker;
  }

  async create(
    id: string,
    owner?: string,
    { records = [], expiresAt }: {
      readonly records?: readonly string[];
      readonly expiresAt?: number;
    } = {},
  ): Promise<unknown> {
    const config = {
      contentType: "text/plain",
      owner,
      expiresAt,
    };
    const identity = id.slice(-8).padStart(8, "0");
    const result = await logsOf(this.broker)!.create(id, {
      config,
      identity,
      records,
      maxLogs: 1_000,
    });
    return result.kind === "over-share" ? `over-share ${result.level} ${result.most}` : result.kind;
  }

  async append(id: string, options: Partial<AppendLogOptions> = {}): Promise<string> {
    const records = ["x".repeat(RECORD)];
    const result = await logsOf(this.broker)!.append(id, { records, maxBytes: 1e9, ...options });
    return result.kind === "over-share" ? `over-share ${result.level} ${result.most}` : result.kind;
  }

  /** Appends until a rejection; returns the number of records, and the rejection. */
  async fill(id: string): Promise<readonly [number, string]> {
    for (let count = 0;; count++) {
      const kind = await this.append(id);
      if (kind !== "appended") return [count, kind];
    }
  }
}

const REJECTED = `over-share user ${MAX / 8}`;

/** Runs a test in memory, and in a file. */
function withKits(name: string, test: (kit: Kit) => Promise<void>): void {
  Deno.test(`${name}, in memory`, async () => {
    await using broker = new MemoryBroker({ maxTotalBytes: MAX });
    await test(new Kit(broker));
  });
  Deno.test(`${name}, in a file`, async () => {
    const folder = await Deno.makeTempDir();
    {
      await using broker = await SqliteBroker.open(`${folder}/a.db`, { maxBytes: MAX });
      await test(new Kit(broker));
    }
    await Deno.remove(folder, { recursive: true });
  });
}

withKits("A broker lets one client use half of its bytes, and others the rest", async (kit) => {
  await kit.create("eve", EVE);
  await kit.create("ann", ANN);
  const [count, rejection] = await kit.fill("eve");
  assertEquals([count > 20 && count < 30, rejection], [true, REJECTED]);
  // No new stream and no further record, whoever appends; the end is accepted.
  assertEquals(await kit.create("more", EVE), REJECTED);
  assertEquals(
    await kit.create("wide", "u.mallory a1.next a4.wide a16.wider", {
      records: ["x".repeat(250_000)],
    }),
    `over-share address ${MAX / 2}`,
  );
  assertEquals(await kit.append("eve"), REJECTED);
  assertEquals(await kit.append("eve", { records: [], end: {} }), "appended");
  // A share remains for others, and the application is limited only by the bound.
  assertEquals(await kit.fill("ann"), [6, REJECTED]);
  await kit.create("server");
  for (let i = 0; i < 10; i++) assertEquals(await kit.append("server"), "appended");
  assertEquals(await kit.create("answer:eve", EVE), "created");
  assertEquals(await kit.append("answer:eve"), "appended");
});

withKits("A broker releases the bytes of deleted streams", async (kit) => {
  await kit.create("server");
  for (let i = 0; i < 28; i++) await kit.append("server");
  for (let i = 0; i < 20; i++) {
    assertEquals(await kit.create("one", EVE), "created");
    assertEquals(await kit.fill("one"), [6, REJECTED]);
    assertEquals((await logsOf(kit.broker)!.delete("one")).kind, "removed");
  }
  // Rejected appends use nothing.
  for (let i = 0; i < 20; i++) {
    assertEquals(await kit.create("big", EVE, { records: ["x".repeat(300_000)] }), REJECTED);
  }
  // A stream that keeps only its newest records continues at its share.
  await kit.create("ring", EVE);
  await kit.fill("ring");
  const keep = { records: 3, bytes: 1e9 };
  for (let i = 0; i < 20; i++) assertEquals(await kit.append("ring", { keep }), "appended");
  assertEquals(await kit.fill("ring"), [3, REJECTED]);
});

withKits(
  "A broker counts deleted streams that forks need, and expired ones until they are deleted",
  async (kit) => {
    const logs = logsOf(kit.broker);
    await kit.create("server");
    for (let i = 0; i < 28; i++) await kit.append("server");
    await kit.create("source", EVE);
    await kit.fill("source");
    await logs!.retain("source", "fork", { identity: "00source", maxForks: 1 });
    assertEquals((await logs!.delete("source")).kind, "kept");
    const records = ["x".repeat(RECORD)];
    assertEquals(await kit.create("next", EVE, { records }), REJECTED);
    await logs!.release("source", "fork");
    const old = { records: Array<string>(6).fill(records[0]!), expiresAt: 1 };
    assertEquals(await kit.create("old", EVE, old), "created");
    assertEquals(await kit.create("next", EVE, { records }), REJECTED);
    assertEquals((await logs!.delete("old", { ifExpired: true })).kind, "removed");
    assertEquals(await kit.create("next", EVE, { records }), "created");
  },
);

Deno.test("A broker knows the owners of the bytes in its file after a restart", async () => {
  const folder = await Deno.makeTempDir();
  const open = () => SqliteBroker.open(`${folder}/a.db`, { maxBytes: MAX });
  const producer = (i: number) => ({ id: `${i}`.padStart(200, "p"), epoch: 0, seq: 0 });
  {
    await using broker = await open();
    const kit = new Kit(broker);
    await kit.create("eve", EVE);
    await kit.create("ann", ANN);
    for (let i = 0; i < 3; i++) await kit.append("ann", { producer: producer(i) });
    await kit.fill("eve");
  }
  await using broker = await open();
  const kit = new Kit(broker);
  assertEquals(await kit.append("eve"), REJECTED);
  assertEquals(await kit.fill("ann"), [3, REJECTED]);
  await broker.logs.delete("ann");
  await kit.create("ann", ANN);
  assertEquals(await kit.fill("ann"), [6, REJECTED]);
  await broker.close();
  await Deno.remove(folder, { recursive: true });
});

Deno.test("A broker counts nothing for writes that do not fit in its file", async () => {
  const folder = await Deno.makeTempDir();
  const path = `${folder}/a.db`;
  await using broker = await SqliteBroker.open(path, { maxBytes: MAX });
  const kit = new Kit(broker);
  await kit.create("server");
  await kit.create("ann", ANN);
  while (await kit.append("server").catch(() => "full") === "appended");
  // None of these takes effect, and none is counted.
  for (let i = 0; i < 20; i++) {
    assertEquals(await kit.append("ann").catch(() => "full"), "full");
    const record = "x".repeat(RECORD);
    assertEquals(
      await kit.create(`big ${i}`, ANN, { records: [record] }).catch(() => "full"),
      "full",
    );
  }
  await broker.logs.delete("server");
  await kit.create("server");
  for (let i = 0; i < 28; i++) assertEquals(await kit.append("server"), "appended");
  assertEquals(await kit.fill("ann"), [6, REJECTED]);
  await broker.close();
  await Deno.remove(folder, { recursive: true });
});

Deno.test("LogShares forgets owners without a stream", () => {
  const shares = new LogShares({ maxBytes: 800, usedBytes: () => 800 });
  for (let i = 0; i < 3; i++) {
    shares.note("a", EVE);
    shares.count("a", 100);
    assertEquals(shares.exceeded("a", 1), { kind: "over-share", level: "user", most: 100 });
    shares.forget("a");
    assertEquals({
      parties: shares.parties,
      bytes: shares.bytesOf("a"),
      exceeded: shares.exceeded("a", 1),
    }, { parties: 0, bytes: 0, exceeded: undefined });
  }
});

Deno.test("LogShares lets an owner use exactly its share, also after one of its streams is gone", () => {
  const shares = new LogShares({ maxBytes: 800, usedBytes: () => 800 });
  for (const id of ["a", "b"]) shares.note(id, EVE);
  const reached = (...growths: readonly number[]) =>
    growths.map((growth) => shares.exceeded("b", growth)?.most);
  shares.count("a", 60);
  assertEquals(reached(40, 41), [undefined, 100]);
  shares.forget("a");
  assertEquals(reached(100, 101), [undefined, 100]);
});

Deno.test("LogShares allows familiar users of an address ten times the share, at most half", () => {
  const shares = new LogShares({ maxBytes: 800, usedBytes: () => 400 });
  shares.note("a", "f1.office");
  shares.count("a", 400);
  const rejection = shares.exceeded("a", 1);
  assertEquals(rejection, { kind: "over-share", level: "address", most: 400 });
  assertEquals(
    overShareReason("append", rejection!),
    "Cannot append: the address that created the stream may have at most 400 bytes of streams while " +
      "the server is busy",
  );
});
