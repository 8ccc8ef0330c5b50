/** The fixtures that `write_fixtures.ts` wrote, and how tests load them. */
import { jetstreamManager, type StreamConfig } from "@nats-io/jetstream";
import { headers } from "@nats-io/nats-core";
import { Redis } from "ioredis";
import { Buffer } from "node:buffer";
import { connectNats } from "../../brokers/nats/transport.ts";

/** Ten years: nothing in the fixtures expires. */
export const FOREVER_MS = 315_360_000_000;

/** Bounds of the history in the fixtures. */
export const BOUNDS = { size: 100, ttlMs: FOREVER_MS, bytes: 1_048_576 };

/** Values that only the version that wrote a fixture knows. */
export interface Written {
  /** Position of the newest publication. */
  readonly epoch: string;
  readonly offset: number;
  readonly tag: string;
  /** Version of the row that was written last. */
  readonly version: number;
}

/** All keys of a Redis. */
export interface RedisDump {
  readonly written: Written;
  /** By key, the time to live (0 for none), and what `DUMP` returned, in Base64. */
  readonly keys: Readonly<Record<string, readonly [ttlMs: number, dump: string]>>;
}

/** All streams of a NATS server. */
export interface NatsDump {
  readonly written: Written;
  readonly streams: readonly {
    readonly config: object;
    /** From sequence 1 on; `null` for a message that was removed. */
    readonly messages: readonly ({
      readonly subject: string;
      readonly headers: readonly (readonly [name: string, value: string])[];
      /** The payload in Base64. */
      readonly data: string;
    } | null)[];
  }[];
}

const read = async (name: string): Promise<string> =>
  await Deno.readTextFile(new URL(`fixtures/v1/${name}`, import.meta.url));

/** Loads the fixture of Redis into an empty server. */
export async function loadRedis(url: string): Promise<Written> {
  const { written, keys }: RedisDump = JSON.parse(await read("redis.json"));
  const client = new Redis(url);
  for (const [key, [ttlMs, dump]] of Object.entries(keys)) {
    await client.restore(key, ttlMs, Buffer.from(dump, "base64"));
  }
  client.disconnect();
  return written;
}

/** Loads the fixture of NATS into an empty server. The messages keep their sequences. */
export async function loadNats(servers: string): Promise<Written> {
  const { written, streams }: NatsDump = JSON.parse(await read("nats.json"));
  const connection = await connectNats({ servers });
  const manager = await jetstreamManager(connection);
  for (const { config, messages } of streams) {
    const { name, subjects } = config as StreamConfig;
    await manager.streams.add(config as StreamConfig);
    for (const message of messages) {
      const subject = message?.subject ?? subjects[0]!.replace(">", "removed");
      const all = headers();
      for (const [key, value] of message?.headers ?? []) {
        // The condition may name a message that was removed.
        if (key !== "Nats-Expected-Last-Subject-Sequence") all.append(key, value);
      }
      const data = Buffer.from(message?.data ?? "", "base64");
      const ack = await connection.request(subject, data, { headers: all, timeout: 5_000 });
      const { seq, error } = ack.json<{ readonly seq: number; readonly error?: object }>();
      if (error !== undefined) throw new Error(`Cannot load: ${JSON.stringify(error)}`);
      if (message === null) await manager.streams.deleteMessage(name, seq);
    }
  }
  await connection.close();
  return written;
}

/** Unpacks the fixture of SQLite. */
export async function loadSqlite(path: string): Promise<Written> {
  const { written }: { readonly written: Written } = JSON.parse(await read("sqlite.json"));
  const packed = await Deno.open(new URL("fixtures/v1/sqlite.db.gz", import.meta.url));
  await Deno.writeFile(path, packed.readable.pipeThrough(new DecompressionStream("gzip")));
  return written;
}
