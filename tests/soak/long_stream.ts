/**
 * A durable stream of a million records, stored in a file, and a slow reader. The test checks that
 * each record arrives exactly once and in order, and that the memory of server and client stays
 * constant.
 *
 * @module
 */
import { connect, serve } from "../../mod.ts";
import { durableStreams } from "../../streams/mod.ts";
import { SqliteBroker } from "../../brokers/sqlite/mod.ts";
import type { Check } from "./webtransport.ts";

/** Allowed growth of the heap while the stream is read. */
const MOST_GROWTH_BYTES = 24 * 1_048_576;

/** Records between two pauses of the reader, and the length of a pause in milliseconds. */
const BURST = 1_000;
const PAUSE_MS = 10;

interface Reading {
  /**
   * Number of records that were read, and of records that were missing, repeated or out of place.
   */
  readonly read: number;
  readonly wrong: number;
  /** Largest growth of the heap since the first tenth, in bytes. */
  readonly growth: number;
  readonly seconds: number;
}

/** Runs the test in a separate process. */
export async function soakLongStream(check: Check, isShort: boolean): Promise<void> {
  const count = isShort ? 200_000 : 1_000_000;
  const folder = await Deno.makeTempDir();
  const { code, stdout } = await new Deno.Command(Deno.execPath(), {
    args: [
      ...["run", "-A", "--no-lock", "--v8-flags=--expose-gc"],
      ...[import.meta.url, `${count}`, `${folder}/streams.db`],
    ],
    stderr: "inherit",
  }).output();
  await Deno.remove(folder, { recursive: true });
  check("long stream: the process exits by itself", code === 0, `code ${code}`);
  if (code !== 0) return;
  const { read, wrong, growth, seconds }: Reading = JSON.parse(new TextDecoder().decode(stdout));
  check(
    "long stream: a slow reader receives each record exactly once, in order",
    read === count && wrong === 0,
    `${read} of ${count}, ${wrong} wrong, in ${seconds.toFixed(0)} s`,
  );
  check(
    "long stream: the memory of server and client stays constant",
    growth <= MOST_GROWTH_BYTES,
    `${(growth / 1_048_576).toFixed(1)} MiB more than after the first tenth`,
  );
}

/** Writes a stream to a file, and reads it slowly over a WebSocket. */
async function run(count: number, path: string): Promise<Reading> {
  await using broker = await SqliteBroker.open(path);
  const streams = durableStreams({ path: "/streams", maxStreamBytes: 1_073_741_824 });
  await using server = serve({
    port: 0,
    hostname: "127.0.0.1",
    onListen() {},
    webTransport: false,
    authorize: () => true,
    broker,
    features: [streams],
  });
  await using writer = await streams.create<number>("long");
  for (let i = 0; i < count;) {
    const appends: Promise<unknown>[] = [];
    for (const end = Math.min(count, i + 5_000); i < end; i++) appends.push(writer.append(i));
    await Promise.all(appends);
  }
  await writer.close();

  await using client = connect(server.url);
  const started = performance.now();
  let [read, wrong, base, most] = [0, 0, 0, 0];
  for await (const item of client.durableStream<number>("long")) {
    if (item !== read++) wrong++;
    if (read % BURST === 0) await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
    if (read % (count / 20) !== 0) continue;
    (globalThis as { gc?: () => void }).gc?.();
    const { heapUsed, external } = Deno.memoryUsage();
    if (read <= count / 10) base = heapUsed + external;
    else most = Math.max(most, heapUsed + external);
  }
  return { read, wrong, growth: most - base, seconds: (performance.now() - started) / 1_000 };
}

if (import.meta.main) {
  const [count, path] = Deno.args;
  console.log(JSON.stringify(await run(Number(count), path!)));
}
