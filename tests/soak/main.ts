/**
 * The soak test, with many idle sessions, peers that stop reading, and sessions that open and close
 * in every way, regular and irregular. No session may be left at the end.
 *
 * ```sh
 * deno task soak --short
 * ```
 *
 * The test prints one line for each check, and its exit code is 1 if a check failed, or none ran.
 * `--short` takes a few minutes. It runs the same checks with smaller numbers, and at the end it
 * runs the parts that measure no time in parallel. The arguments `idle`, `stalled`, `churn`,
 * `webtransport`, `unread`, `networks`, `moq`, `chaos`, `rolling`, `silent`, `sqlite`, `durable`,
 * `responses`, `state`, `mutations`, `long`, `storm`, `handover` and `simulation` run only the
 * named part, and `redis`, `redis-aof`, `redis-snapshot` and `nats` run `chaos` only on that
 * broker. `--seconds=N` and `--broker=NAME` run `state` and `mutations` for so long on each broker,
 * and only on that one. In the parts `idle`, `stalled` and `churn`, the clients are raw sockets in
 * this process, and the server is a separate process.
 *
 * @module
 */
import { parseArgs } from "node:util";
import { Histogram } from "../../cli/load/histogram.ts";
import type { OverflowPolicy } from "../../mod.ts";
import { POLICIES } from "../../session/queue/overflow.ts";
import { soakResponses } from "./responses.ts";
import { BROKERS, soakChaos } from "./chaos.ts";
import { openMany, Pacer, SoakClient, TIMED } from "./clients.ts";
import { soakDurable } from "./durable.ts";
import { soakGrowth } from "./growth.ts";
import { soakLongStream } from "./long_stream.ts";
import { soakMoq } from "./moq.ts";
import { soakMutations } from "./mutations.ts";
import { soakNetworks } from "./networks.ts";
import { openFileLimit, sleep, SoakServer } from "./processes/processes.ts";
import { soakRolling } from "./rolling.ts";
import { soakSilent } from "./silent.ts";
import { soakSimulation } from "./simulation.ts";
import { soakSqlite } from "./sqlite.ts";
import { soakState } from "./state.ts";
import { soakStorm } from "./storm.ts";
import { soakUnread } from "./unread.ts";
import { soakWebTransport } from "./webtransport.ts";
import { underWithheldCredit } from "../withheld_credit.ts";

const { values } = parseArgs({
  args: Deno.args,
  allowPositionals: true,
  options: {
    short: { type: "boolean", default: false },
    seconds: { type: "string" },
    broker: { type: "string" },
  },
});
const isShort = values.short;

/** Files that a process needs in addition to sockets. */
const SPARE_FILES = 200;

/** Allowed memory of the server per idle session. The runtime's socket uses most of it. */
const MOST_KIB_PER_SESSION = 64;

/**
 * The heartbeat during churn. Deno keeps an aborted plain socket until its idle timer fires after
 * the heartbeat's timeout. Memory is measured after that.
 */
const CHURN_HEARTBEAT_MS = 1_000;
const CHURN_SETTLED_MS = 4_000;

/** Allowed growth of the heap between the first rounds of churn and the last. */
const MOST_HEAP_GROWTH_BYTES = 2 * 1_048_576;

/** Allowed growth of resident memory. The allocator returns memory to the system late. */
const MOST_RSS_GROWTH_BYTES = 96 * 1_048_576;

/**
 * A session with a stalled peer may hold its queue and the bytes that the transport accepted, but
 * nothing more.
 */
const MOST_STALLED_BYTES = 32 * 1_048_576;

/** Allowed slowdown of other sessions while one peer is stalled. */
const MOST_SLOWDOWN = 2;
const SLACK_MS = 20;

/**
 * The most publications to a stalled peer after its phase. They are more than all kernel buffers
 * hold.
 */
const MOST_FLOODS = 1_000;

/**
 * Number of attempts at a measurement. A busy machine stalls occasionally, but rarely three times
 * in a row.
 */
const MOST_ATTEMPTS = 3;

/** Longest wait for something that has to happen, in milliseconds. */
const PATIENCE_MS = 60_000;

/** The credit of each connection on an engine that returns no credit, and the amount of data. */
const WEBKIT = { bytes: 16 * 1_048_576, streams: 7_600 };
const MOVED_BYTES = 100 * 1_048_576;
const MOVED_STREAMS = 50_000;

let passed = 0;
let failed = 0;

function check(what: string, isRight: boolean, detail: string): void {
  if (isRight) passed++;
  else failed++;
  say(`${isRight ? "ok  " : "FAIL"} ${what}: ${detail}`);
}

function say(text: string): void {
  // deno-lint-ignore no-console
  console.log(text);
}

/**
 * Runs a client on a broker that stalls each connection. The client must move in time, and each
 * message must arrive exactly once.
 */
async function soakHandover(): Promise<void> {
  const share = isShort ? 0.2 : 1;
  const sentAt = performance.now();
  const { messages, streams, lost, doubled, sessions } = await underWithheldCredit({
    bytes: MOVED_BYTES * share,
    messageBytes: 65_536,
    streams: MOVED_STREAMS * share,
    credit: WEBKIT,
  });
  const seconds = ((performance.now() - sentAt) / 1_000).toFixed(1);
  const detail = `${lost} lost, ${doubled} duplicated of ${messages} publications of 64 KiB and ` +
    `${streams} streams, over ${sessions} sessions in ${seconds} s`;
  check("handover on an engine that returns no credit", lost + doubled === 0, detail);
}

/** Waits until a condition holds or the time is up. */
async function until(holds: () => boolean): Promise<void> {
  for (const end = performance.now() + PATIENCE_MS; !holds() && performance.now() < end;) {
    await sleep(20);
  }
}

function mib(bytes: number): string {
  return `${(bytes / 1_048_576).toFixed(1)} MiB`;
}

function counted(codes: readonly number[]): string {
  const counts = Object.entries(Object.groupBy(codes, String));
  return counts.map(([code, list]) => `${list!.length} x ${code}`).join(", ");
}

/** Keeps many idle sessions and some active sessions open, and then drains the server. */
async function soakIdle(): Promise<void> {
  let idle = isShort ? 1_000 : 15_000;
  const active = isShort ? 50 : 500;
  const limit = await openFileLimit();
  if (idle + active + SPARE_FILES > limit) {
    idle = limit - active - SPARE_FILES;
    say(`     ulimit -n is ${limit}: ${idle} idle sessions instead; raise it to test all of them`);
  }
  await using server = await SoakServer.start();
  const before = await server.stats();
  const openedAt = performance.now();
  const idlers = await openMany(
    idle,
    (index) => SoakClient.open(server.port, index % 2 === 0, 1_024),
  );
  const tookMs = performance.now() - openedAt;
  const after = await server.until(({ sessions }) => sessions === idle, PATIENCE_MS);
  const kib = (after.rssBytes - before.rssBytes) / 1_024 / idle;
  check(
    "all idle sessions are open",
    after.sessions === idle,
    `${idle} in ${tookMs.toFixed(0)} ms`,
  );
  check(
    `an idle session uses at most ${MOST_KIB_PER_SESSION} KiB`,
    kib <= MOST_KIB_PER_SESSION,
    `${kib.toFixed(1)} KiB, ${mib(after.rssBytes)} in all`,
  );

  const histogram = new Histogram();
  const workers = await openMany(active, async () => {
    const client = await SoakClient.open(server.port);
    await client.subscribe(TIMED);
    return client;
  });
  const pacer = new Pacer(workers[0]!);
  await pacer.run(20, 500);
  for (const worker of workers) worker.histogram = histogram;
  // The full run waits longer than the heartbeat's timeout, so that a session without pongs would
  // be closed.
  const sent = await pacer.run(20, isShort ? 4_000 : 90_000);
  await until(() => histogram.count >= sent * active);
  const [p50Ms, p99Ms] = [histogram.quantileMs(0.5), histogram.quantileMs(0.99)];
  check(
    "active sessions receive everything in order among idle ones",
    histogram.count === sent * active && workers.every(({ gaps }) => gaps === 0),
    `${histogram.count} deliveries, p50 ${p50Ms.toFixed(2)} ms, p99 ${p99Ms.toFixed(2)} ms`,
  );
  const all = [...idlers, ...workers];
  const still = await server.stats();
  check(
    "no session was lost in the meantime",
    still.sessions === all.length,
    `${still.sessions} sessions`,
  );

  const ends = Promise.all(all.map(({ socket }) => socket.closed));
  const withinMs = isShort ? 2_000 : 10_000;
  const report = await server.drain(withinMs);
  const infos = await Promise.race([ends, sleep(PATIENCE_MS).then(() => [])]);
  const codes = infos.map(({ code }) => code);
  check(
    "a drain closes every session, and every peer receives the reason",
    codes.length === all.length && codes.every((code) => code === 4503),
    `${counted(codes)} in ${report.tookMs} ms`,
  );
  check("a drain cuts no session", report.cut === 0, `${report.closed} closed, ${report.cut} cut`);
  const empty = await server.stats();
  check(
    "nothing is left after a drain",
    empty.sessions === 0 && empty.topics === 0,
    `${empty.sessions} sessions, ${empty.topics} topics, ${mib(empty.rssBytes)}`,
  );
}

/** Stalls one of many peers. */
async function soakStalled(policy: OverflowPolicy, attempt = 1): Promise<void> {
  const others = isShort ? 100 : 200;
  const phaseMs = isShort ? 2_000 : 8_000;
  await using server = await SoakServer.start(policy);
  const clients = await openMany(others, async () => {
    const client = await SoakClient.open(server.port);
    await client.subscribe(TIMED);
    return client;
  });
  const publisher = clients[0]!;
  // The flood goes only to this session, whether it reads or not, so that both phases do the same
  // work. The flood is larger than the kernel's buffers.
  const one = await SoakClient.open(server.port, true, 131_072);
  await one.subscribe("flood");
  let flooded = 0;
  const flood = () => {
    flooded++;
    publisher.publish("flood", FLOOD);
  };
  const pacer = new Pacer(publisher);
  await pacer.run(100, 500, flood);
  const without = await phase(clients, pacer, phaseMs, flood);
  const before = await server.stats();
  one.socket.pause();
  const during = await phase(clients, pacer, phaseMs, flood);
  let stats = await server.stats();
  const acted = () => policy === "close" ? "4507" in stats.closeCodes : stats.dropped > 0;
  // The kernel's buffers may be able to hold the flood of a whole phase.
  for (let i = 0; i < MOST_FLOODS && !acted(); i++) {
    flood();
    stats = await server.stats();
  }
  const bound = without * MOST_SLOWDOWN + SLACK_MS;
  if (during > bound && attempt < MOST_ATTEMPTS) {
    say(`     ${policy}: p99 ${during.toFixed(2)} ms, ${without.toFixed(2)} ms without; retrying`);
    return await soakStalled(policy, attempt + 1);
  }
  check(
    `${policy}: other sessions are at most ${MOST_SLOWDOWN} times slower, plus ${SLACK_MS} ms`,
    during <= bound,
    `p99 ${during.toFixed(2)} ms with a stalled peer, ${without.toFixed(2)} ms without`,
  );
  const gaps = clients.reduce((sum, client) => sum + client.gaps, 0);
  check(`${policy}: other sessions receive everything in order`, gaps === 0, `${gaps} gaps`);
  const grown = stats.rssBytes - before.rssBytes;
  check(
    `${policy}: the server holds at most ${mib(MOST_STALLED_BYTES)} for the stalled session`,
    grown <= MOST_STALLED_BYTES,
    mib(grown),
  );
  if (policy === "close") {
    const count = stats.closeCodes["4507"] ?? 0;
    check(
      "close: the stalled session is closed with 4507",
      count === 1 && stats.sessions === others,
      `${count}`,
    );
    return;
  }
  check(
    `${policy}: the stalled session stays open, and messages are dropped`,
    stats.sessions === others + 1 && stats.dropped > 0,
    `${stats.dropped} dropped`,
  );
  one.socket.start();
  const total = () => (one.received.get("flood") ?? 0) + one.dropped;
  await until(() => total() >= flooded);
  check(
    `${policy}: when it reads again, the session is notified of all dropped messages`,
    total() === flooded && one.dropped === (await server.stats()).dropped,
    `${one.received.get("flood")} received and ${one.dropped} dropped of ${flooded}`,
  );
}

const FLOOD = "x".repeat(131_072);

async function phase(
  clients: readonly SoakClient[],
  pacer: Pacer,
  forMs: number,
  also: () => void,
): Promise<number> {
  const histogram = new Histogram();
  for (const client of clients) client.histogram = histogram;
  await pacer.run(100, forMs, also);
  await sleep(200);
  for (const client of clients) client.histogram = undefined;
  return histogram.quantileMs(0.99);
}

/** Opens and closes sessions, some of them abruptly. */
async function soakChurn(): Promise<void> {
  const rounds = isShort ? 8 : 60;
  const each = isShort ? 100 : 250;
  await using server = await SoakServer.start("close", CHURN_HEARTBEAT_MS);
  const isEmpty = { sessions: 0, topics: 0, present: 0, reserved: 0 };
  const hasNothing = (stats: typeof isEmpty) =>
    Object.keys(isEmpty).every((key) => stats[key as keyof typeof isEmpty] === 0);
  const settled = async () => {
    await server.until(hasNothing, PATIENCE_MS);
    await sleep(CHURN_SETTLED_MS);
    return await server.stats();
  };
  // The first rounds are a warm-up, in which the runtime compiles code and tables reach their size.
  const warmUps = Math.max(2, rounds >> 2);
  let before = await server.stats();
  let opened = 0;
  for (let round = 0; round < rounds; round++) {
    if (round === warmUps) before = await settled();
    opened += await churn(server.port, each);
  }
  const after = await settled();
  check(
    "after churn nothing is left",
    hasNothing(after),
    `${opened} connections; ${after.sessions} sessions, ${after.topics} topics, ` +
      `${after.present} present, ${after.reserved} reserved`,
  );
  const heap = after.heapBytes - before.heapBytes;
  check(
    `churn leaves at most ${mib(MOST_HEAP_GROWTH_BYTES)} in the heap`,
    heap <= MOST_HEAP_GROWTH_BYTES,
    `${mib(heap)} more than after ${warmUps} rounds`,
  );
  const rss = after.rssBytes - before.rssBytes;
  check(
    `churn leaves at most ${mib(MOST_RSS_GROWTH_BYTES)} of resident memory`,
    rss <= MOST_RSS_GROWTH_BYTES,
    mib(rss),
  );
  const last = await SoakClient.open(server.port);
  await last.subscribe(TIMED);
  last.publish(TIMED, { sequence: 0, sentUs: 0 });
  await until(() => last.received.has(TIMED));
  check("the server still serves", last.received.get(TIMED) === 1, "one message echoed");
  last.socket.abort();
}

const ENDINGS = ["close", "abort", "mid-frame", "mid-handshake", "violation"] as const;

async function churn(port: number, count: number): Promise<number> {
  await Promise.all(Array.from({ length: count }, async (_, index) => {
    const ending = ENDINGS[index % ENDINGS.length]!;
    if (ending === "mid-handshake") return await breakHandshake(port, index);
    const client = await SoakClient.open(port, index % 2 === 0, 2_048);
    await client.subscribe(`churn:${index % 7}`);
    if (index % 2 === 0) {
      client.socket.send(JSON.stringify({ subscribe: `room:${index % 5}`, id: 1 }));
    }
    client.publish(`churn:${index % 7}`, index);
    await sleep(index % 20);
    if (ending === "close") {
      client.socket.close();
      await Promise.race([client.socket.closed, sleep(5_000)]);
    } else if (ending === "mid-frame") {
      // A text frame of 100 bytes that breaks off after two.
      client.socket.sendRaw(new Uint8Array([0x81, 0x80 | 100, 0, 0, 0, 0, 123, 34]));
      await sleep(5);
    } else if (ending === "violation") {
      // An unmasked frame, which a server must reject.
      client.socket.sendRaw(new Uint8Array([0x81, 2, 123, 125]));
      await Promise.race([client.socket.closed, sleep(100)]);
    }
    client.socket.abort();
  }));
  return count;
}

async function breakHandshake(port: number, index: number): Promise<void> {
  using connection = await Deno.connect({ hostname: "127.0.0.1", port });
  const request = "GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n" +
    "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n" +
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n";
  // Half of the clients leave in the middle of the request, and the others leave before the
  // response.
  const part = index % 2 === 0 ? request.slice(0, 60) : request;
  await connection.write(new TextEncoder().encode(part));
}

const startedAt = performance.now();
// Runs the named tests, or all.
const parts: Record<string, () => Promise<void>> = {
  idle: soakIdle,
  stalled: async () => {
    for (const policy of POLICIES) {
      await soakStalled(policy);
    }
  },
  churn: soakChurn,
  growth: () => soakGrowth(check, isShort),
  webtransport: () => soakWebTransport(check, isShort),
  unread: () => soakUnread(check, isShort),
  networks: () => soakNetworks(check, isShort),
  moq: () => soakMoq(check, isShort),
  chaos: () => soakChaos(check, isShort, BROKERS.filter((name) => Deno.args.includes(name))),
  rolling: () => soakRolling(check, isShort),
  silent: () => soakSilent(check, isShort),
  sqlite: () => soakSqlite(check, isShort),
  long: () => soakLongStream(check, isShort),
  durable: () => soakDurable(check, isShort),
  responses: () => soakResponses(check, isShort),
  state: () => {
    const totalMs = values.seconds === undefined ? undefined : Number(values.seconds) * 1_000;
    return soakState(check, { isShort, totalMs, broker: values.broker });
  },
  mutations: () => {
    const totalMs = values.seconds === undefined ? undefined : Number(values.seconds) * 1_000;
    return soakMutations(check, { isShort, totalMs, broker: values.broker });
  },
  storm: () => soakStorm(check, isShort),
  handover: () => soakHandover(),
  simulation: () => soakSimulation(check, say, isShort),
};

/**
 * Parts whose checks do not depend on the machine's speed because they mostly wait. The longest
 * part comes first.
 */
const TIMELESS: ReadonlySet<string> = new Set([
  "state",
  "mutations",
  "durable",
  "simulation",
  "responses",
  "sqlite",
  "growth",
  "long",
]);

/** Number of these parts that run at the same time in the short run. */
const LANES = 3;

async function run(names: Iterable<string>): Promise<void> {
  for (const name of names) {
    const partAt = performance.now();
    await parts[name]!();
    say(`     ${name} took ${((performance.now() - partAt) / 1_000).toFixed(0)} s`);
  }
}

const asked = Deno.args.filter((argument) => Object.hasOwn(parts, argument));
const names = asked.length > 0 ? asked : Object.keys(parts);
await run(names.filter((name) => !isShort || !TIMELESS.has(name)));
if (isShort) {
  // All lanes take their parts from one list.
  const rest = [...TIMELESS].filter((name) => names.includes(name)).values();
  await Promise.all(Array.from({ length: LANES }, () => run(rest)));
}
say(
  `${passed} passed, ${failed} failed (${((performance.now() - startedAt) / 1_000).toFixed(0)} s)`,
);
Deno.exit(failed === 0 && passed > 0 ? 0 : 1);
