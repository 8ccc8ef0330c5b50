/**
 * Writes the fixtures of `stored_versions_test.ts`: what this version of Skein stores in Redis, in
 * NATS and in a SQLite file. See `fixtures/README.md`.
 *
 * ```sh
 * deno run -A --no-check --unstable-net tests/brokers/write_fixtures.ts <folder>
 * ```
 *
 * @module
 */
import { jetstreamManager, type StoredMsg } from "@nats-io/jetstream";
import { Buffer } from "node:buffer";
import { Redis } from "ioredis";
import { type Broker, createServer } from "../../mod.ts";
import { liveState } from "../../streams/mod.ts";
import { NatsBroker } from "../../brokers/nats/mod.ts";
import { connectNats } from "../../brokers/nats/transport.ts";
import { RedisBroker } from "../../brokers/redis/mod.ts";
import { SqliteBroker } from "../../brokers/sqlite/mod.ts";
import type { NatsDump, RedisDump, Written } from "./fixtures.ts";
import { BOUNDS, FOREVER_MS } from "./fixtures.ts";
import { NatsServer } from "./nats_server.ts";
import { RedisServer } from "./redis_server.ts";
import { logsOf } from "../../streams/logs/logs_of.ts";

/** Writes a history, shared state, durable streams and a live state. */
async function write(broker: Broker): Promise<Written> {
  const { history, store } = broker as Required<Broker>;
  const logs = logsOf(broker)!;
  const append = (payload: string | Uint8Array, options = {}) =>
    history.append({ topic: "news", payload, except: "session" }, { bounds: BOUNDS, ...options });
  await append("one", { key: { producer: "p", number: 1 } });
  await append(new Uint8Array([1, 2, 3]));
  const { position } = await append("three", { key: { producer: "p", number: 2 } });

  await store.advance("seq:client", 7, FOREVER_MS);
  await store.claim("user:ann", "session-1", { max: 2, ttlMs: FOREVER_MS });

  const create = (id: string, options = {}) =>
    logs.create(id, {
      config: { contentType: "application/json" },
      identity: `id-${id}`.replaceAll(":", "-"),
      records: [],
      maxLogs: 100,
      ...options,
    });
  await create("open", { records: ['"a"'] });
  const producer = { id: "p", epoch: 1, seq: 0 };
  await logs.append("open", { records: ['"b"', '"c"'], producer, maxBytes: 1_000_000 });
  await create("bytes", {
    config: { contentType: "application/octet-stream", owner: "uann" },
    records: [new Uint8Array([0, 255])],
    end: {},
  });
  await logs.retain("open", "id-fork", { identity: "id-open", maxForks: 2 });
  const lineage = [{ identity: "id-open", until: 2 }];
  const origin = { id: "open", identity: "id-open", position: 2, fork: "id-fork", lineage };
  await create("fork", { config: { contentType: "application/json", origin } });
  await create("answer:q", { records: ['"42"'], end: {} });

  const states = liveState();
  await using _server = createServer({ broker, features: [states] });
  await using board = await states.open("board:1");
  const cards = board.collection<{ readonly title: string }>("cards");
  await cards.set("1", { title: "Keep" });
  await cards.set("2", { title: "Delete" });
  await cards.set("3", { title: "Change" });
  await cards.delete("2");
  const version = await cards.set("3", { title: "Changed" });
  return { epoch: position!.epoch, offset: position!.offset, tag: position!.tag!, version };
}

/** Writes to Redis, and returns all keys. */
async function writeRedis(): Promise<RedisDump> {
  await using store = await RedisServer.start();
  await using broker = new RedisBroker({ url: store.url }, {
    rememberMs: FOREVER_MS,
    survivesRestart: true,
  });
  const written = await write(broker);
  const client = new Redis(store.url);
  const keys: Record<string, [ttlMs: number, dump: string]> = {};
  for (const key of (await client.keys("*")).toSorted()) {
    keys[key] = [
      Math.max(0, await client.pttl(key)),
      (await client.dumpBuffer(key)).toString("base64"),
    ];
  }
  client.disconnect();
  return { written, keys };
}

/** Writes to NATS, and returns all messages. */
async function writeNats(): Promise<NatsDump> {
  await using store = await NatsServer.start();
  const { servers } = store;
  await using broker = new NatsBroker({ servers }, {
    rememberMs: FOREVER_MS,
    storeTtlMs: FOREVER_MS,
    survivesRestart: true,
  });
  const written = await write(broker);
  const connection = await connectNats({ servers });
  const manager = await jetstreamManager(connection);
  const streams: NatsDump["streams"][number][] = [];
  for await (const { config, state } of manager.streams.list()) {
    const messages: NatsDump["streams"][number]["messages"][number][] = [];
    for (let seq = 1; seq <= state.last_seq; seq++) {
      const message = await manager.streams.getMessage(config.name, { seq }).catch(() => null);
      messages.push(message === null ? null : messageOf(message));
    }
    streams.push({ config, messages });
  }
  await connection.close();
  return { written, streams };
}

function messageOf({ subject, header, data }: StoredMsg): NonNullable<
  NatsDump["streams"][number]["messages"][number]
> {
  const headers = header.keys().flatMap((name) =>
    header.values(name).map((value): [string, string] => [name, value])
  );
  return { subject, headers, data: Buffer.from(data).toString("base64") };
}

/** Writes to a SQLite file, and compresses it. */
async function writeSqlite(path: string): Promise<Written> {
  const folder = await Deno.makeTempDir();
  try {
    let written: Written;
    {
      await using broker = await SqliteBroker.open(`${folder}/data.db`);
      written = await write(broker);
    }
    const file = await Deno.readFile(`${folder}/data.db`);
    const packed = new Blob([file]).stream().pipeThrough(new CompressionStream("gzip"));
    await Deno.writeFile(path, packed);
    return written;
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

if (import.meta.main) {
  const [folder = "."] = Deno.args;
  const save = (name: string, value: unknown) =>
    Deno.writeTextFile(`${folder}/${name}`, `${JSON.stringify(value, undefined, 1)}\n`);
  await save("redis.json", await writeRedis());
  await save("nats.json", await writeNats());
  await save("sqlite.json", { written: await writeSqlite(`${folder}/sqlite.db.gz`) });
}
