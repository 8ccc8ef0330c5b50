/**
 * A server over memory transports and all its clients, in one process so that their memory can be
 * measured. The arguments are the number of clients and the duration of the final drain in
 * milliseconds. The process prints one line of JSON for each step.
 *
 * @module
 */
import { usageOf } from "../../../bench/processes.ts";
import { testServer } from "../../../testing/mod.ts";
import { sleep } from "../processes/processes.ts";

/** Results of the steps. */
export interface Growth {
  /** Number of clients in the first measurement, and in the second. */
  readonly clients: readonly [part: number, all: number];
  /** Memory of a client with its server session, in KiB, in both measurements. */
  readonly kib: readonly [part: number, all: number];
  /** CPU time of a delivery to a few sessions and to all sessions, in microseconds. */
  readonly deliveryUs: readonly [few: number, all: number];
  /** Number of received deliveries, and of expected deliveries. */
  readonly delivered: readonly [received: number, due: number];
  /** Number of clients that have a session again after all connections were cut. */
  readonly back: number;
  /** Time until all clients had a session again, in milliseconds. */
  readonly backMs: number;
  /** Outcome of the drain. */
  readonly drained: { readonly closed: number; readonly cut: number; readonly left: number };
}

/** Subscribers of the topic with few subscribers. */
const FEW = 200;

/** Number of deliveries to each client in each measurement. */
const DELIVERIES = 200;

/** Number of publications in flight. By default, a session queues 256 messages. */
const WINDOW = 64;

/** Number of clients that connect at the same time. */
const AT_ONCE = 500;

/** Longest wait for the clients, in milliseconds. */
const PATIENCE_MS = 180_000;

const [count, drainMs] = Deno.args.map(Number) as [number, number];
const part = count >> 2;
await using server = testServer({
  limits: { maxSessions: count + 1, maxSessionsPerAddress: Infinity },
  authorize: () => true,
});
let received = 0;
let due = 0;

const before = await usedBytes();
await open(0, part);
const partBytes = await usedBytes();
await open(part, count);
const allBytes = await usedBytes();

const fewUs = await deliver("few", FEW);
const allUs = await deliver("all", count);

const cutAt = performance.now();
server.network.disconnect();
await until(() => server.manager.count === 0);
await until(() => server.manager.count === count);
const backMs = performance.now() - cutAt;
const back = server.manager.count;
const report = await server.drain({ withinMs: drainMs, reason: "soak" });
const { closed, cut } = report;
const growth: Growth = {
  clients: [part, count],
  kib: [kibOf(partBytes - before, part), kibOf(allBytes - before, count)],
  deliveryUs: [fewUs, allUs],
  delivered: [received, due],
  back,
  backMs,
  drained: { closed, cut, left: server.manager.count },
};
// deno-lint-ignore no-console
console.log(JSON.stringify(growth));
Deno.exit(0);

async function open(from: number, to: number): Promise<void> {
  for (let at = from; at < to; at += AT_ONCE) {
    await Promise.all(
      Array.from({ length: Math.min(AT_ONCE, to - at) }, async (_, index) => {
        // Without a handler, each client that is connected during the drain would print a line.
        const client = server.connect({ onError() {} });
        await client.whenConnected();
        await listen(client, "all");
        if (at + index < FEW) await listen(client, "few");
      }),
    );
  }
}

async function listen(client: ReturnType<typeof server.connect>, topic: string): Promise<void> {
  const subscription = client.subscribe(topic);
  await subscription.ready;
  void (async () => {
    for await (const _ of subscription) received++;
  })();
}

/** Publishes to the subscribers of a topic, and measures the CPU time of a delivery. */
async function deliver(topic: string, subscribers: number): Promise<number> {
  const { cpuUs: start = NaN } = await usageOf(Deno.pid);
  const publications = Math.ceil(DELIVERIES * count / subscribers);
  for (let sent = 0; sent < publications; sent += WINDOW) {
    const now = Math.min(WINDOW, publications - sent);
    for (let i = 0; i < now; i++) server.publish(topic, sent + i);
    due += now * subscribers;
    await until(() => received >= due);
  }
  const { cpuUs: end = NaN } = await usageOf(Deno.pid);
  return (end - start) / publications / subscribers;
}

async function until(isSo: () => boolean): Promise<void> {
  const end = performance.now() + PATIENCE_MS;
  while (!isSo() && performance.now() < end) await sleep(1);
}

async function usedBytes(): Promise<number> {
  // Available because the process runs with --v8-flags=--expose-gc.
  const { gc } = globalThis as { gc?: () => void };
  for (let i = 0; i < 2; i++) {
    gc?.();
    await sleep(50);
  }
  return Deno.memoryUsage().heapUsed;
}

function kibOf(bytes: number, clients: number): number {
  return bytes / 1_024 / clients;
}
