import { assert, assertEquals, assertThrows } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { turns } from "../../tests/waiting.ts";
import { memoryPair } from "../../transport/memory/memory.ts";
import type { Connection, ConnectionStats } from "../../transport/connection.ts";
import { BitrateMonitor, type BitrateMonitorOptions } from "./bitrate_monitor.ts";
import { PROBE_PARAMETER } from "./setup.ts";
import { MoqSession, type MoqSessionOptions } from "./session.ts";
import type { PeerUpdate } from "./bitrate_monitor.ts";
import { DEFAULT_VERSIONS, type MoqVersion } from "../wire/versions.ts";

/** The versions with reports: the drafts of the IETF have none. */
const VERSIONS: readonly MoqVersion[] = [...DEFAULT_VERSIONS, "gomoqt-dev" as const].filter((
  version,
) => !version.startsWith("moqt-"));
const PROBING: readonly MoqVersion[] = ["moq-lite-05", "moq-lite-04"];

/** Advances the time, and runs all pending callbacks. */
async function pass(time: FakeTime, ms: number): Promise<void> {
  await time.tickAsync(ms);
  await turns();
}

/** A connection whose statistics the test sets. */
class Wire {
  bytesSent = 0;
  smoothedRtt: number | undefined = undefined;
  readonly connection: Connection = {
    getStats: (): Promise<ConnectionStats & { smoothedRtt?: number }> => {
      const { bytesSent, smoothedRtt } = this;
      return Promise.resolve({ bytesSent, smoothedRtt });
    },
  } as Connection;
}

/** Sends at a rate for some seconds, and returns the reports. */
async function rates(
  time: FakeTime,
  kbits: readonly number[],
  options: BitrateMonitorOptions = {},
): Promise<(number | undefined)[]> {
  const wire = new Wire();
  const told: (number | undefined)[] = [];
  using monitor = new BitrateMonitor(wire.connection, ({ bitrate }) => told.push(bitrate), options);
  monitor.start();
  await pass(time, 0);
  for (const kbit of kbits) {
    wire.bytesSent += kbit * 125;
    await pass(time, options.intervalMs ?? 1_000);
  }
  return told;
}

Deno.test("BitrateMonitor() reports the rate after minSamples, and not again while it is stable", async () => {
  using time = new FakeTime();
  assertEquals(await rates(time, [800, 800]), []);
  assertEquals(await rates(time, [800, 800, 800, 800, 800, 800]), [800_000]);
  assertEquals(await rates(time, [800, 800], { minSamples: 1 }), [800_000]);
});

Deno.test("BitrateMonitor() reports a shift above the threshold, smoothed", async () => {
  using time = new FakeTime();
  const steady = [1_000, 1_000, 1_000];
  // 1,000 + 0.3 * 1,000 is 30 % off.
  assertEquals(await rates(time, [...steady, 2_000]), [1_000_000, 1_300_000]);
  assertEquals(await rates(time, [...steady, 1_700, 1_000]), [1_000_000]);
  assertEquals(await rates(time, [...steady, 2_000], { threshold: 0.5 }), [1_000_000]);
  assertEquals(await rates(time, [...steady, 1_300], { alpha: 1 }), [1_000_000, 1_300_000]);
  assertEquals(await rates(time, [...steady, 500, 500]), [1_000_000, 745_000]);
});

Deno.test("BitrateMonitor() reports a smaller shift after maxAgeMs", async () => {
  using time = new FakeTime();
  const drift = [1_000, 1_000, 1_000, ...Array.from({ length: 10 }, () => 1_100)];
  const told = await rates(time, drift);
  assertEquals(told.length, 2);
  assert(told[1]! > 1_080_000 && told[1]! < 1_100_000);
  const same = Array.from({ length: 30 }, () => 1_000);
  assertEquals(await rates(time, same), [1_000_000]);
});

Deno.test("BitrateMonitor() reports nothing for an idle connection, and 0 once when it becomes idle", async () => {
  using time = new FakeTime();
  assertEquals(await rates(time, Array.from({ length: 20 }, () => 0)), []);
  const told = await rates(time, [100, 100, 100, ...Array.from({ length: 60 }, () => 0)]);
  assertEquals(told[0], 100_000);
  assertEquals(told.at(-1), 0);
  assertEquals(told.filter((rate) => rate === 0).length, 1);
});

Deno.test("BitrateMonitor() measures at its interval", async () => {
  using time = new FakeTime();
  // 50 kbit in 100 ms.
  assertEquals(await rates(time, [50, 50], { intervalMs: 100, minSamples: 2 }), [500_000]);
});

Deno.test("BitrateMonitor() reports the round-trip time if the transport knows it", async () => {
  using time = new FakeTime();
  const wire = new Wire();
  const told: PeerUpdate[] = [];
  using monitor = new BitrateMonitor(wire.connection, (update) => told.push(update), {
    minSamples: 1,
  });
  monitor.start();
  await pass(time, 0);
  wire.bytesSent = 12_500;
  await pass(time, 1_000);
  wire.smoothedRtt = 42;
  wire.bytesSent += 25_000;
  await pass(time, 1_000);
  assertEquals(told, [
    { bitrate: 100_000, rttMs: undefined },
    { bitrate: 130_000, rttMs: 42 },
  ]);
});

Deno.test("BitrateMonitor.stop() leaves no timer, and start() starts over", async () => {
  using time = new FakeTime();
  const wire = new Wire();
  const told: unknown[] = [];
  const monitor = new BitrateMonitor(wire.connection, ({ bitrate }) => told.push(bitrate), {
    minSamples: 1,
  });
  assertEquals([monitor.isRunning, monitor.bitrate], [false, undefined]);
  monitor.start();
  monitor.start();
  monitor.stop();
  await turns();
  wire.bytesSent = 1_000_000;
  await pass(time, 10_000);
  monitor.start();
  await pass(time, 0);
  wire.bytesSent += 12_500;
  await pass(time, 1_000);
  assertEquals({ isRunning: monitor.isRunning, bitrate: monitor.bitrate, told }, {
    isRunning: true,
    bitrate: 100_000,
    told: [100_000],
  });
  monitor.stop();
  monitor.stop();
  assertEquals(monitor.isRunning, false);
});

Deno.test("BitrateMonitor() survives failing statistics, and a report that throws", async () => {
  using time = new FakeTime();
  let calls = 0;
  const counters = { streamBytesSent: 0, datagramBytesSent: 0 };
  const connection = {
    getStats: () => Promise.reject(new Error("none")),
    inspect: { counters },
  } as unknown as Connection;
  using monitor = new BitrateMonitor(connection, () => {
    calls++;
    throw new Error("full");
  }, { minSamples: 1 });
  monitor.start();
  await pass(time, 0);
  counters.streamBytesSent = 10_000;
  counters.datagramBytesSent = 2_500;
  await pass(time, 1_000);
  assertEquals([calls, monitor.bitrate], [1, 100_000]);
});

Deno.test("BitrateMonitor() rejects invalid options", () => {
  const { connection } = new Wire();
  for (
    const options of [
      { intervalMs: 0 },
      { intervalMs: 2 ** 31 },
      { alpha: 0 },
      { alpha: 1.1 },
      { threshold: -1 },
      { minSamples: 0 },
      { minSamples: 1.5 },
      { maxAgeMs: NaN },
    ]
  ) {
    const [name] = Object.keys(options);
    assertThrows(() => new BitrateMonitor(connection, () => {}, options), RangeError, name);
  }
});

async function ends(
  version: MoqVersion,
  server: Partial<MoqSessionOptions> = {},
  client: Partial<MoqSessionOptions> = {},
): Promise<{ server: MoqSession; client: MoqSession } & AsyncDisposable> {
  const protocol = PROBING.includes(version) ? version : "";
  const pair = memoryPair({ protocol });
  const [one, other] = await Promise.all([
    MoqSession.open(pair.server, { side: "server", versions: [version], ...server }),
    MoqSession.open(pair.client, {
      side: "client",
      // Offered in addition to the version that the server chooses.
      versions: version === "moq-lite-01" ? [version, "moq-lite-02"] : [version],
      ...client,
    }),
  ]);
  return {
    server: one,
    client: other,
    async [Symbol.asyncDispose](): Promise<void> {
      await other[Symbol.asyncDispose]();
      await one[Symbol.asyncDispose]();
    },
  };
}

/** Counts the samples that the monitor of a session takes. */
function countSamples({ connection }: MoqSession): { count: number } {
  const sampled = { count: 0 };
  const getStats = connection.getStats.bind(connection);
  connection.getStats = () => {
    sampled.count++;
    return getStats();
  };
  return sampled;
}

/** Sends 100 kbit/s of datagrams, which the session does not use. */
async function send(session: MoqSession, time: FakeTime, seconds: number): Promise<void> {
  const writer = session.connection.datagrams.writable.getWriter();
  for (let second = 0; second < seconds; second++) {
    for (let i = 0; i < 25; i++) await writer.write(new Uint8Array(500));
    await pass(time, 1_000);
  }
  writer.releaseLock();
}

for (const version of VERSIONS) {
  Deno.test(`MoqSession.updated yields the updates of the peer, in both directions, over ${version}`, async () => {
    using time = new FakeTime();
    await using pair = await ends(version, { bitrate: {} }, { bitrate: {} });
    for (const [from, to] of [[pair.server, pair.client], [pair.client, pair.server]] as const) {
      const updates = to.updated[Symbol.asyncIterator]();
      const next = updates.next();
      await turns();
      await pass(time, 0);
      // The reports of a sender that was idle grow step by step.
      await send(from, time, 15);
      assert((await next).value.bitrate > 0);
      const { bitrate, rttMs } = to.peer;
      // The bytes of reports and requests count, too.
      assert(bitrate! > 75_000 && bitrate! < 105_000, `${bitrate}`);
      assertEquals(rttMs, undefined);
      await updates.return?.();
      await turns();
    }
  });
}

for (const version of VERSIONS) {
  Deno.test(`MoqSession() measures by default only while it is probed, over ${version}`, async () => {
    using time = new FakeTime();
    await using pair = await ends(version);
    const sampled = countSamples(pair.server);
    await send(pair.server, time, 4);
    assertEquals([sampled.count, pair.client.peer.bitrate], [0, undefined]);
    if (!PROBING.includes(version)) return;
    const left = new AbortController();
    const updates = pair.client.probe({ signal: left.signal })[Symbol.asyncIterator]();
    const next = updates.next();
    await turns();
    await send(pair.server, time, 4);
    assert((await next).value.bitrate >= 100_000);
    left.abort();
    await updates.return?.();
    await turns();
    const before = sampled.count;
    await pass(time, 10_000);
    assertEquals(sampled.count, before);
  });
}

for (const version of VERSIONS) {
  Deno.test(`MoqSession() does not measure with bitrate: false, over ${version}`, async () => {
    using time = new FakeTime();
    await using pair = await ends(version, { bitrate: false });
    const updates = pair.client.updated[Symbol.asyncIterator]();
    const next = updates.next();
    await turns();
    await send(pair.server, time, 5);
    assertEquals(pair.client.peer.bitrate, undefined);
    pair.server.report({ bitrate: 64_000, rttMs: undefined });
    assertEquals((await next).value.bitrate, 64_000);
    await updates.return?.();
  });
}

Deno.test("MoqSession() sends in SETUP of moq-lite-05 whether it responds to probes", async () => {
  for (const [bitrate, level] of [[undefined, 1], [{}, 1], [false, undefined]] as const) {
    await using pair = await ends("moq-lite-05", bitrate === undefined ? {} : { bitrate });
    await turns();
    const told = pair.client.serverExtensions.get(PROBE_PARAMETER);
    assertEquals(told?.[0], level);
  }
});

Deno.test("MoqSession.close() stops its monitor", async () => {
  using time = new FakeTime();
  const pair = await ends("moq-lite-02", { bitrate: { intervalMs: 10 } });
  const sampled = countSamples(pair.server);
  // A sample is taken in real time.
  while (sampled.count < 5) await pass(time, 10);
  await pair[Symbol.asyncDispose]();
  const before = sampled.count;
  await pass(time, 100);
  assertEquals(sampled.count, before);
});
