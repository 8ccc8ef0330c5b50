/**
 * The soak test of the MoQ relay. It has one publisher and a hundred subscribers, half over raw
 * QUIC and half over WebTransport. Another subscriber reads no stream, and the publisher is killed
 * and restarted.
 *
 * @module
 */
import { LineProcess, sleep } from "./processes/processes.ts";
import type { MoqSubscribersLine } from "./moq/peer.ts";
import type { MoqRelayStatsLine } from "./moq/relay.ts";
import type { Check } from "./webtransport.ts";

/** Number of subscribers over each of the two transports. */
const SUBSCRIBERS_A_WIRE = 50;
const SUBSCRIBERS = 2 * SUBSCRIBERS_A_WIRE;

/**
 * Allowed growth of the memory: a tenth, plus a constant for small values. The allocator reserves
 * its arenas in the first half minute, and the short run is not longer than that.
 */
const MOST_GROWTH = 0.1;
const RSS_SLACK_BYTES = { short: 64 * 1_048_576, long: 16 * 1_048_576 } as const;
const HEAP_SLACK_BYTES = 1_048_576;

/** Allowed slowdown of other subscribers while one subscriber reads no stream. */
const MOST_SLOWDOWN = 2;
const SLACK_MS = { p50: 50, p99: 500 } as const;

/** Longest wait for an event, in milliseconds. */
const MOST_WAIT_MS = 45_000;

/** Number of kills, and durations of the phases in milliseconds. */
interface Times {
  readonly warmUpMs: number;
  readonly steadyMs: number;
  readonly stallTimeoutMs: number;
  readonly kills: number;
  readonly betweenKillsMs: number;
}

const SHORT: Times = {
  warmUpMs: 6_000,
  steadyMs: 4_000,
  stallTimeoutMs: 2_000,
  kills: 2,
  betweenKillsMs: 1_500,
};

const LONG: Times = {
  warmUpMs: 20_000,
  steadyMs: 60_000,
  stallTimeoutMs: 10_000,
  kills: 6,
  betweenKillsMs: 30_000,
};

/** Soaks a relay for five minutes, or for half a minute in the short run. */
export async function soakMoq(check: Check, isShort: boolean): Promise<void> {
  const times = isShort ? SHORT : LONG;
  const relay = new LineProcess(import.meta.resolve("./moq/relay.ts"), `${times.stallTimeoutMs}`);
  const { port, hash } = JSON.parse(await relay.line());
  const target = [`${port}`, JSON.stringify(hash)];
  const peer = async (role: string, ...args: string[]) => {
    const process = new LineProcess(import.meta.resolve("./moq/peer.ts"), role, ...target, ...args);
    await process.line();
    return process;
  };
  const count = `${SUBSCRIBERS_A_WIRE}`;
  let publisher = await peer("publisher");
  const wires = await Promise.all([
    peer("subscribers", "moqt", "moq-lite-05", count),
    peer("subscribers", "https", "moq-lite-04", count),
  ]);
  const ask = async () =>
    summed(await Promise.all(wires.map((wire) => wire.ask<MoqSubscribersLine>("stats"))));
  const stats = () => relay.ask<MoqRelayStatsLine>("stats");

  const begun = await until(ask, ({ fed }) => fed === SUBSCRIBERS);
  check("MoQ relay: all subscribers receive groups", begun.fed === SUBSCRIBERS, `${begun.fed}`);
  await sleep(times.warmUpMs);
  const before = await stats();
  await ask();
  await sleep(times.steadyMs);
  const steady = await ask();

  // A subscriber that reads no stream.
  const stalled = await peer("stalled");
  const { reason, endedMs, closedMs } = JSON.parse(await stalled.line());
  const beside = await ask();
  check(
    "MoQ relay: a subscriber that reads nothing is ended, and its session is closed to free its data",
    reason === "tooFarBehind",
    `${reason} after ${(endedMs / 1_000).toFixed(1)} s, closed after ${
      (closedMs / 1_000).toFixed(1)
    } s`,
  );
  check(
    "MoQ relay: other subscribers are not affected",
    beside.fed === SUBSCRIBERS &&
      beside.p50Ms <= MOST_SLOWDOWN * steady.p50Ms + SLACK_MS.p50 &&
      beside.p99Ms <= MOST_SLOWDOWN * steady.p99Ms + SLACK_MS.p99,
    `p50 ${steady.p50Ms} ms, p99 ${steady.p99Ms} ms, slowest ${steady.slowestMs} ms; then p50 ` +
      `${beside.p50Ms} ms, p99 ${beside.p99Ms} ms, slowest ${beside.slowestMs} ms`,
  );
  await stalled.end();

  // In the short run, the publisher always returns before the relay notices that its old session is
  // gone. In the long run, this happens every other time.
  let [ended, active, fed] = [beside.ended, beside.active, true];
  for (let kill = 0; kill < times.kills; kill++) {
    publisher.kill("SIGKILL");
    await publisher.end();
    if (!isShort && kill % 2 === 1) {
      const gone = await until(ask, (line) => line.ended >= ended + SUBSCRIBERS);
      if (gone.active !== active) fed = false;
    }
    publisher = await peer("publisher");
    const seen = await until(
      ask,
      (line) => line.ended >= ended + SUBSCRIBERS && line.active >= active + SUBSCRIBERS,
    );
    [ended, active] = [ended + SUBSCRIBERS, active + SUBSCRIBERS];
    if (seen.ended !== ended || seen.active !== active) fed = false;
    await sleep(times.betweenKillsMs);
    if ((await until(ask, (line) => line.fed === SUBSCRIBERS)).fed < SUBSCRIBERS) fed = false;
  }
  check(
    "MoQ relay: when the publisher is killed and restarted, all subscribers see both and receive its groups",
    fed,
    `${times.kills} times`,
  );

  const after = await stats();
  const last = await ask();
  checkGrowth(check, before, after, RSS_SLACK_BYTES[isShort ? "short" : "long"]);
  check(
    "MoQ relay: every group arrives in order, or is dropped explicitly",
    last.silent === 0 && last.disordered === 0 && last.wrong === 0,
    `${last.groups} whole, ${last.dropped} dropped, ${last.silent} silently, ` +
      `${last.disordered} out of order, ${last.wrong} wrong`,
  );

  for (const process of [...wires, publisher]) await process.end();
  const none = await until(stats, ({ sessions, tracks }) => sessions === 0 && tracks === 0);
  check(
    "MoQ relay: nothing is left at the end",
    none.sessions === 0 && none.tracks === 0 && none.broadcasts === 0,
    `${none.sessions} sessions, ${none.tracks} tracks, ${none.broadcasts} broadcasts`,
  );
  const { code } = await relay.end();
  check("MoQ relay: it runs until it is told to exit", code === 0, `exit code ${code}`);
}

function checkGrowth(
  check: Check,
  before: MoqRelayStatsLine,
  after: MoqRelayStatsLine,
  rssSlackBytes: number,
): void {
  const mib = (bytes: number) => `${(bytes / 1_048_576).toFixed(1)} MiB`;
  const kinds = [
    ["resident memory", before.rssBytes, after.rssBytes, rssSlackBytes],
    ["the heap", before.heapBytes, after.heapBytes, HEAP_SLACK_BYTES],
  ] as const;
  for (const [what, first, last, slack] of kinds) {
    check(
      `MoQ relay: ${what} stays constant`,
      last <= first * (1 + MOST_GROWTH) + slack,
      `${mib(first)}, then ${mib(last)}; resident before a collection ${mib(before.peakBytes)}, ` +
        `then ${mib(after.peakBytes)}`,
    );
  }
}

/** Repeats a request until the reply is right or the time is up. Returns the last reply. */
async function until<T>(ask: () => Promise<T>, isRight: (line: T) => boolean): Promise<T> {
  const end = performance.now() + MOST_WAIT_MS;
  while (true) {
    const line = await ask();
    if (isRight(line) || performance.now() > end) return line;
    await sleep(500);
  }
}

/**
 * Combines the reports of two transports. Counts are added, and the longer of two times is used.
 */
function summed(lines: readonly MoqSubscribersLine[]): MoqSubscribersLine {
  return lines.reduce((one, other) => {
    const both: Record<string, number> = {};
    for (const [name, value] of Object.entries(one)) {
      const add = other[name as keyof MoqSubscribersLine];
      both[name] = name.endsWith("Ms") ? Math.max(value, add) : value + add;
    }
    return both as unknown as MoqSubscribersLine;
  });
}
