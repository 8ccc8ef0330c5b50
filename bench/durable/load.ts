/**
 * Appends to one durable stream over HTTP, and counts the records that its readers receive as
 * server-sent events. It uses raw sockets, because an HTTP client would use more CPU time than the
 * server.
 *
 * ```sh
 * deno run -A bench/durable/load.ts --port 4437 --pid 42 --writers 16 --readers 100 --measure 4000
 * ```
 *
 * Each writer waits for a response before its next append. The result is printed as one line of
 * JSON.
 *
 * @module
 */
import { numberArgument } from "../args.ts";
import { usageOf } from "../processes.ts";

/** Result of a run. */
export interface DurableLoadResult {
  readonly appendsPerSecond: number;
  readonly deliveriesPerSecond: number;
  /** CPU time of the server per append, and per delivery. */
  readonly cpuUsPerAppend: number | undefined;
  readonly cpuUsPerDelivery: number | undefined;
}

/** Time before the measurement, in milliseconds. */
const WARM_UP_MS = 1_500;

/** A character that each record contains once. */
const MARK = "@";
const RECORD = `{"at":"${MARK}","text":"${"x".repeat(80)}"}`;

const encoder = new TextEncoder();
const decoder = new TextDecoder();

/** Counts records, by their mark. */
async function read(port: number, path: string, onRecord: () => void): Promise<Deno.TcpConn> {
  const conn = await Deno.connect({ hostname: "127.0.0.1", port });
  const head = `GET ${path}?offset=-1&live=sse HTTP/1.1\r\nHost: localhost\r\n\r\n`;
  await conn.write(encoder.encode(head));
  const mark = encoder.encode(MARK)[0]!;
  (async () => {
    const buffer = new Uint8Array(65_536);
    for (let length; (length = await conn.read(buffer)) !== null;) {
      const part = buffer.subarray(0, length);
      for (let at = part.indexOf(mark); at >= 0; at = part.indexOf(mark, at + 1)) onRecord();
    }
  })().catch(() => {}); // The run has ended.
  return conn;
}

async function write(port: number, path: string, next: () => boolean): Promise<void> {
  using conn = await Deno.connect({ hostname: "127.0.0.1", port });
  conn.setNoDelay(true);
  const head = `POST ${path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n` +
    `Content-Length: ${RECORD.length}\r\n\r\n`;
  const request = encoder.encode(head + RECORD);
  const buffer = new Uint8Array(4_096);
  while (next()) {
    await conn.write(request);
    const text = decoder.decode(buffer.subarray(0, await conn.read(buffer) ?? 0));
    if (!/^HTTP\/1\.1 20\d.*\r\n\r\n$/s.test(text)) throw new Error(`Cannot append: ${text}`);
  }
}

async function measure(): Promise<DurableLoadResult> {
  const { args } = Deno;
  const [port, pid, writers, readers, measureMs] = [
    numberArgument(args, "port", 4_437),
    numberArgument(args, "pid", 0),
    numberArgument(args, "writers", 16),
    numberArgument(args, "readers", 0),
    numberArgument(args, "measure", 4_000),
  ];
  const path = `/v1/stream/bench-${crypto.randomUUID()}`;
  const created = await fetch(`http://127.0.0.1:${port}${path}`, {
    method: "PUT",
    headers: { "content-type": "application/json" },
  });
  await created.body?.cancel();
  let appends = 0;
  let deliveries = 0;
  let isOver = false;
  const reading = await Promise.all(
    Array.from({ length: readers }, () => read(port, path, () => deliveries++)),
  );
  const writing = Promise.all(Array.from({ length: writers }, () =>
    write(port, path, () => {
      appends++;
      return !isOver;
    })));
  const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));
  await Promise.race([writing, pause(WARM_UP_MS)]);
  const before = { ...await usageOf(pid), appends, deliveries, at: performance.now() };
  await Promise.race([writing, pause(measureMs)]);
  const after = { ...await usageOf(pid), appends, deliveries, at: performance.now() };
  isOver = true;
  await writing;
  for (const conn of reading) conn.close();
  const seconds = (after.at - before.at) / 1_000;
  const cpuUs = (after.cpuUs ?? NaN) - (before.cpuUs ?? NaN);
  const each = (count: number) => count === 0 || Number.isNaN(cpuUs) ? undefined : cpuUs / count;
  return {
    appendsPerSecond: (after.appends - before.appends) / seconds,
    deliveriesPerSecond: (after.deliveries - before.deliveries) / seconds,
    cpuUsPerAppend: each(after.appends - before.appends),
    cpuUsPerDelivery: each(after.deliveries - before.deliveries),
  };
}

if (import.meta.main) {
  // deno-lint-ignore no-console
  console.log(JSON.stringify(await measure()));
  Deno.exit(0);
}
