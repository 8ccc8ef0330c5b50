/**
 * Tests the rows of keyed logs on NATS, in addition to the suite for every broker: random calls,
 * the removal of old messages, nodes that stop in between, and damage.
 */
import { assert, assertEquals, assertRejects } from "@std/assert";
import { delay } from "@std/async/delay";
import { jetstreamManager } from "@nats-io/jetstream";
import type { ConnectionOptions } from "@nats-io/nats-core";
import { BrokerError } from "../../errors.ts";
import { NatsBroker } from "../../brokers/nats/mod.ts";
import { connectNats } from "../../brokers/nats/transport.ts";
import { type Change, rowChange } from "../../streams/logs/change_message.ts";
import { HIDDEN_PREFIX, rowName } from "../../session/wire/rows.ts";
import type {
  AppendLogOptions,
  BrokerLogs,
  LogPage,
  LogTail,
  ReadLogOptions,
  RowBounds,
} from "../../streams/logs/log.ts";
import { MemoryBroker } from "../../pubsub/memory/broker.ts";
import { Random } from "../random.ts";
import { until } from "../waiting.ts";
import { noTimers, statusIs } from "./receiving.ts";
import { isNatsMissing, NatsServer } from "./nats_server.ts";
import { logsOf } from "../../streams/logs/logs_of.ts";

const PLENTY = 1_000_000_000;

const TAIL: LogTail = { records: 20, ms: 1, bytes: PLENTY };

/** A collection whose rows readers receive by name alone. */
const HIDDEN = `${HIDDEN_PREFIX}:t`;

const HIDDEN_ROWS = Array.from({ length: 40 }, (_, i) => rowName(HIDDEN, `${i}`));

const BOUNDS: RowBounds = { rows: PLENTY, deletions: 10, deletionMs: 3_600_000 };

/** Registers a test that has its own server. */
function test(name: string, fn: (server: NatsServer) => Promise<void>): void {
  Deno.test({
    name: `Rows on NATS ${name}`,
    ignore: isNatsMissing,
    async fn() {
      {
        await using server = await NatsServer.start();
        await fn(server);
      }
      await noTimers();
    },
  });
}

async function created(logs: BrokerLogs, id: string): Promise<void> {
  const config = { contentType: "application/json", keyed: TAIL };
  const options = { config, identity: "identity", records: [], maxLogs: PLENTY };
  assertEquals((await logs.create(id, options)).kind, "created");
}

function set(key: string, value: unknown): Change {
  return { type: "t", key, operation: "upsert", value: JSON.stringify(value) };
}

async function change(
  logs: BrokerLogs,
  id: string,
  changes: readonly Change[],
  options: Partial<AppendLogOptions> = {},
) {
  return await logs.append(id, {
    records: [],
    changes: changes.map((one) => rowChange(one, 0)),
    maxBytes: PLENTY,
    rowBounds: BOUNDS,
    ...options,
  });
}

async function read(
  logs: BrokerLogs,
  id: string,
  options: Partial<Pick<ReadLogOptions, "after" | "maxRecords" | "rows" | "tail">> = {},
): Promise<LogPage> {
  const bounds = { after: 0, maxRecords: PLENTY, maxBytes: PLENTY, renews: false };
  const page = await logs.read(id, { ...bounds, ...options });
  assert(typeof page === "object", `Expected a page, received ${page}`);
  return page;
}

/** The values of a page's rows by key; without deleted rows. */
function valuesOf({ records }: LogPage): Map<string, unknown> {
  const changes = records.map((record) => JSON.parse(String(record)));
  return new Map(changes.flatMap(({ key, value }) => value === undefined ? [] : [[key, value]]));
}

/** Returns the number of messages of all logs, and their bytes. */
async function stateOf({ servers }: NatsServer) {
  const connection = await connectNats({ servers });
  const { streams } = await jetstreamManager(connection);
  const all = { messages: 0, bytes: 0 };
  for await (const { config, state } of streams.list()) {
    if (!config.name.startsWith("skein_logs")) continue;
    all.messages += state.messages;
    all.bytes += state.bytes;
  }
  await connection.close();
  return all;
}

/** Connects to a server that never receives requests to remove messages. */
async function connectWithoutPurges(options: unknown) {
  const connection = await connectNats(options as ConnectionOptions);
  const request = connection.request.bind(connection);
  connection.request = async (subject, ...rest) => {
    if (subject.startsWith("$JS.API.STREAM.PURGE.")) throw new Error("lost");
    return await request(subject, ...rest);
  };
  return connection;
}

/** Generates a random transaction; values are large, so that old messages are removed often. */
function transaction(random: Random): Change[] {
  const one = (): Change => {
    const [type, key] = random.below(4) === 0
      ? [HIDDEN, `${random.below(HIDDEN_ROWS.length)}`]
      : ["t", `${random.below(40) * random.below(40)}`];
    const dice = random.below(10);
    if (dice < 3) return { type, key, operation: "delete" };
    const value = `"${random.below(1_000)} ü ${"x".repeat(random.below(8_000))}`;
    const ttlMs = dice === 4 ? 1 + random.below(3_600_000) : undefined;
    return { ...set(key, value), type, operation: dice === 5 ? "update" : "upsert", ttlMs };
  };
  return Array.from({ length: 1 + random.below(4) }, one);
}

test("are the same as in memory for random calls on two nodes, and on a new node", async (server) => {
  const { servers } = server;
  for (const seed of [1, 2, 3]) {
    const id = `log ${seed}`;
    const random = new Random(seed);
    await using model = new MemoryBroker();
    await using near = new NatsBroker({ servers });
    await using far = new NatsBroker({ servers });
    await created(logsOf(model)!, id);
    await created(near.logs, id);
    let count = 0;
    for (let step = 0; step < 350; step++) {
      // Concurrent transactions share messages, and each sees the rows after the previous one.
      const together = Array.from({ length: 1 + random.below(4) }, () => transaction(random));
      const { logs } = random.pick([near, far]);
      const all = await Promise.all(together.map((changes) => change(logs, id, changes)));
      for (const [i, is] of all.entries()) {
        const should = await change(logsOf(model)!, id, together[i]!);
        assertEquals(is.kind, should.kind);
        if (is.kind === "conflict") assertEquals(is, should);
        if (is.kind === "appended" && should.kind === "appended") {
          assertEquals([is.info.tail, is.info.rows], [should.info.tail, should.info.rows]);
        }
      }
      count += together.length;
      if (step % 10 > 0 && step < 349) continue;
      await using cold = new NatsBroker({ servers });
      const node = random.pick([near, far, cold]);
      const after = random.below(2) * random.below(count + 1);
      const options = { after, maxRecords: 1 + random.below(100) };
      const [page, wanted] = [
        await read(node.logs, id, options),
        await read(logsOf(model)!, id, options),
      ];
      assertEquals(page.records, wanted.records, `step ${step}`);
      assertEquals(page.next, wanted.next);
      assertEquals(page.info.rows, wanted.info.rows);
      const named = await read(node.logs, id, { rows: HIDDEN_ROWS });
      const { records, positions } = await read(logsOf(model)!, id, { rows: HIDDEN_ROWS });
      assertEquals([named.records, named.positions], [records, positions]);
      const tail = { after: Math.max(page.info.start, wanted.info.start), tail: true } as const;
      assertEquals(
        (await read(node.logs, id, tail)).records,
        (await read(logsOf(model)!, id, tail)).records,
      );
    }
    const { rows } = (await read(near.logs, id)).info;
    const { bytes } = await stateOf(server);
    assert(bytes < 4 * rows!.bytes + 2_000_000, `${bytes} bytes for ${rows!.bytes} bytes of rows`);
    await near.logs.delete(id);
    await until(async () => (await stateOf(server)).messages === 0);
  }
});

test("take few messages however often they change", async (server) => {
  const { servers } = server;
  await using near = new NatsBroker({ servers });
  await created(near.logs, "log");
  await change(near.logs, "log", [set("first", 0)]);
  for (let i = 0; i < 3_000; i += 20) {
    await Promise.all(
      Array.from({ length: 20 }, (_, j) => change(near.logs, "log", [set(`${j}`, i + j)])),
    );
  }
  const { messages } = await stateOf(server);
  assert(messages < 1_000, `${messages} messages`);
  await using cold = new NatsBroker({ servers });
  const page = await read(cold.logs, "log");
  assertEquals(page.records[0], (await read(near.logs, "log")).records[0]);
  assertEquals(valuesOf(page).get("first"), 0);
  assertEquals(valuesOf(page).get("19"), 2_999);
});

test("survive nodes that stop before they remove messages", async (server) => {
  const { servers } = server;
  const source = { servers, connect: connectWithoutPurges };
  await using model = new MemoryBroker();
  await created(logsOf(model)!, "log");
  const random = new Random(7);
  const run = async (node: NatsBroker) => {
    for (let step = 0; step < 400; step++) {
      const changes = transaction(random);
      const is = await change(node.logs, "log", changes);
      assertEquals(is.kind, (await change(logsOf(model)!, "log", changes)).kind);
    }
  };
  const check = async () => {
    await using cold = new NatsBroker({ servers });
    assertEquals(
      (await read(cold.logs, "log")).records,
      (await read(logsOf(model)!, "log")).records,
    );
  };
  {
    await using near = new NatsBroker(source);
    await created(near.logs, "log");
    await run(near);
  }
  const { bytes } = await stateOf(server);
  await check();
  await using far = new NatsBroker({ servers });
  for (let i = 0; i < 2; i++) await run(far);
  await check();
  // Without removals, twice as many transactions again would triple the bytes.
  const left = (await stateOf(server)).bytes;
  assert(left < bytes * 5 / 2, `${left} bytes after ${bytes}`);
});

test("show whole transactions to new nodes while others write", async ({ servers }) => {
  await using near = new NatsBroker({ servers });
  await using far = new NatsBroker({ servers });
  await created(near.logs, "log");
  let isDone = false;
  let count = 0;
  const write = async ({ logs }: NatsBroker, random: Random) => {
    while (!isDone) {
      const value = `${count++} ${"x".repeat(random.below(4_000))}`;
      const own = set(`${random.below(30)}`, value);
      const result = await change(logs, "log", [set("a", value), own, set("b", value)]);
      assertEquals(result.kind, "appended");
    }
  };
  const writing = Promise.all([write(near, new Random(1)), write(far, new Random(2))]);
  let tail = 0;
  for (let round = 0; round < 60; round++) {
    await using cold = new NatsBroker({ servers });
    const page = await read(cold.logs, "log");
    const values = valuesOf(page);
    assertEquals(values.get("a"), values.get("b"));
    assertEquals(values.size, page.info.rows!.count);
    assert(page.info.tail >= tail);
    tail = page.info.tail;
  }
  isDone = true;
  await writing;
  assert(count > 60, `${count} transactions`);
  assertEquals((await read(near.logs, "log")).records, (await read(far.logs, "log")).records);
});

test("keep acknowledged changes while the server is killed repeatedly", async (server) => {
  const { servers } = server;
  await using near = new NatsBroker({ servers });
  await using far = new NatsBroker({ servers });
  await created(near.logs, "log");
  let isDone = false;
  /** For each writer, the newest acknowledged value and the newest value. */
  const written = new Map<string, [acknowledged: number, sent: number]>();
  let rejected = 0;
  const write = async (name: string, { logs }: NatsBroker) => {
    for (let value = 1; !isDone; value++) {
      const [acknowledged] = written.get(name) ?? [0];
      written.set(name, [acknowledged, value]);
      try {
        await change(logs, "log", [
          set(name, value),
          set(`${name} ${value % 50}`, "x".repeat(900)),
        ]);
        written.set(name, [value, value]);
      } catch (error) {
        assert(error instanceof BrokerError);
        rejected++;
        // A call may reject without waiting, while the server is away.
        await delay(10);
      }
    }
  };
  const writing = Promise.all([write("a", near), write("b", far), write("c", far)]);
  for (let round = 0; round < 3; round++) {
    const before = written.get("a")?.[0] ?? 0;
    await until(() => written.get("a")![0] > before + 200);
    await server.kill();
    await server.restart();
  }
  await Promise.all([near, far].map((node) => statusIs(node, "connected")));
  isDone = true;
  await writing;
  await using cold = new NatsBroker({ servers });
  for (const { logs } of [near, far, cold]) {
    const values = valuesOf(await read(logs, "log"));
    for (const [name, [acknowledged, sent]] of written) {
      const value = Number(values.get(name) ?? 0);
      assert(value >= acknowledged && value <= sent, `${value} of ${acknowledged} to ${sent}`);
      const own = [...values.keys()].filter((key) => key.startsWith(`${name} `)).length;
      // A value whose change was rejected may lack its row.
      const most = Math.min(50, value);
      assert(own <= most && own >= most - rejected, `${own} rows of ${most}, ${rejected} rejected`);
    }
  }
});

test("are rejected by a new node if a message with rows is missing", async ({ servers }) => {
  await using near = new NatsBroker({ servers }, { shards: { logs: 1 } });
  await created(near.logs, "log");
  for (let i = 0; i < 5; i++) await change(near.logs, "log", [set(`${i}`, i)]);
  const connection = await connectNats({ servers });
  await (await jetstreamManager(connection)).streams.deleteMessage("skein_logs", 3);
  await connection.close();
  await using cold = new NatsBroker({ servers });
  await assertRejects(() => read(cold.logs, "log"), BrokerError, "Cannot read a log");
  await assertRejects(() => change(cold.logs, "log", [set("5", 5)]), BrokerError);
  assertEquals((await read(cold.logs, "log", { maxRecords: 0 })).info.tail, 5);
});

for (const call of ["read", "change"] as const) {
  test(`belong to a log with another identity if JetStream has lost the newest changes, which a ${call} finds`, async (server) => {
    const { servers } = server;
    await using near = new NatsBroker({ servers });
    await using far = new NatsBroker({ servers });
    const { logs } = near;
    /** Stops the server for an action, and waits until the nodes are connected again. */
    const restart = async (act: () => Promise<void>) => {
      await server.kill();
      await act();
      await server.restart();
      for (const broker of [near, far]) await statusIs(broker, "connected");
    };
    const expected = { identity: "identity" };
    await created(logs, "log");
    for (const key of ["a", "b"]) await change(logs, "log", [set(key, key)]);
    await restart(() => server.backUp());
    await change(logs, "log", [{ type: "t", key: "b", operation: "delete" }], expected);
    await change(logs, "log", [set("lost", 1)], expected);
    await restart(() => server.restore());
    // Only this node has seen the lost changes.
    if (call === "read") await read(logs, "log");
    else assertEquals((await change(logs, "log", [set("late", 1)], expected)).kind, "missing");
    const { identity } = (await read(logs, "log")).info;
    assertEquals(identity === "identity", false);
    for (const  of of[logs, far.logs]) {
      const page = await read(of, "log");
      assertEquals([...valuesOf(page).keys()], ["a", "b"]);
      assertEquals([page.info.identity, page.info.tail], [identity, 2]);
      assertEquals((await change(of, "log", [set("late", 1)], expected)).kind, "missing");
    }
    assertEquals((await change(far.logs, "log", [set("c", 1)], { identity })).kind, "appended");
    await using cold = new NatsBroker({ servers });
    for (const  of of[logs, cold.logs]) {
      const page = await read(of, "log");
      assertEquals([...valuesOf(page).keys()], ["a", "b", "c"]);
      assertEquals(page.info.identity, identity);
    }
  });
}

test("expire in transactions that fit in a message, however long their names are", async ({ servers }) => {
  await using near = new NatsBroker({ servers });
  await created(near.logs, "log");
  const names = Array.from({ length: 1_000 }, (_, i) => `${i}`.padStart(1_000, "\u0001"));
  for (let i = 0; i < names.length; i += 50) {
    const changes = names.slice(i, i + 50).map((name) => ({ ...set(name, 0), ttlMs: 1 }));
    assertEquals((await change(near.logs, "log", changes)).kind, "appended");
  }
  await until(async () => (await near.logs.overdue({ limit: 1 })).length === 1);
  let rounds = 0;
  for (; (await read(near.logs, "log", { maxRecords: 0 })).info.rows!.count > 0; rounds++) {
    const result = await near.logs.append("log", { records: [], maxBytes: 1, expiresRows: true });
    assertEquals(result.kind, "appended");
  }
  assert(rounds > 1);
  assertEquals(await near.logs.overdue({ limit: 1 }), []);
});

test("of a transaction beyond the size of a message are rejected", async ({ servers }) => {
  await using near = new NatsBroker({ servers });
  await created(near.logs, "log");
  const large = "x".repeat(near.logs.maxAppendBytes - 1_000);
  assertEquals((await change(near.logs, "log", [set("a", large)])).kind, "appended");
  const tooLarge = await change(near.logs, "log", [set("a", large), set("b", large)]);
  assertEquals(tooLarge.kind, "full");
  for (let i = 0; i < 12; i++) {
    assertEquals((await change(near.logs, "log", [set("b", `${i}${large}`)])).kind, "appended");
  }
  await using cold = new NatsBroker({ servers });
  assertEquals(valuesOf(await read(cold.logs, "log")).get("a"), large);
  const stale = await change(cold.logs, "log", [{ ...set("a", 1), expect: 9 }]);
  assert(stale.kind === "conflict");
  assertEquals([stale.row, stale.version], [rowName("t", "a"), 1]);
});

test("of many concurrent transactions are divided between messages that fit", async ({ servers }) => {
  await using near = new NatsBroker({ servers });
  await using far = new NatsBroker({ servers });
  await created(near.logs, "log");
  const large = "x".repeat(near.logs.maxAppendBytes / 3);
  const values = Array.from({ length: 300 }, (_, i) => i % 30 === 0 ? `${i}${large}` : `${i}`);
  const writes = values.map((value, i) => change(near.logs, "log", [set(`${i}`, value)]));
  for (const [i, result] of (await Promise.all(writes)).entries()) {
    assert(result.kind === "appended");
    assertEquals(result.info.tail, i + 1);
  }
  assertEquals([...valuesOf(await read(far.logs, "log")).values()], values);
});
