/**
 * The load generator for WebTransport, which uses Skein's client. The result is printed as one line
 * of JSON.
 *
 * ```sh
 * deno run -A --unstable-net bench/webtransport_load.ts --port 9100 --pid 123 --mode rpc
 * ```
 *
 * The server echoes bidirectional streams and datagrams at `/echo`, and drains unidirectional
 * streams. `--hash` is the certificate's SHA-256 in hexadecimal; by default the generator fetches
 * it from the server, which works in development. With `--no-fin`, a reply counts as complete once
 * its last byte has arrived, even if the stream has not ended.
 *
 * `--round-trip 50` delays packets so that a round trip takes 50 ms.
 *
 * The modes are `setup` and `rpc` (with `--at-once 50`), `up` and `echo` (repeated transfers of
 * `--mib 64` on one stream), `datagrams` (`--window 64` in flight), and `idle` (`--sessions 200`).
 *
 * @module
 */
import type { Connection, DirectReadable, DirectWritable } from "../transport/connection.ts";
import { directDatagrams, directStream } from "../transport/direct.ts";
import { dialWebTransport } from "../transport/h3/client.ts";
import { argument, numberArgument, portOf } from "./args.ts";
import { Histogram } from "../cli/load/histogram.ts";
import { type LoadResult, Meter, nowUs, quantilesOf, sleep } from "./meter.ts";
import { idle, repeat, transfer } from "./rounds.ts";
import { findTarget, type Target } from "./webtransport_target.ts";

/** The payload of a request and its reply. */
const REQUEST = new Uint8Array(64).fill(7);

const MIB = 1_048_576;

/** Bytes per write. */
const CHUNK = new Uint8Array(65_536).fill(5);

const DATAGRAM_BYTES = 100;

/** Time until a datagram counts as lost, in milliseconds. */
const LOST_MS = 250;

/** Default warm-up, in milliseconds. */
const WARM_UP_MS = 600;

/** Warm-up of sessions, because their code is compiled during the first thousand sessions. */
const SETUP_WARM_UP_MS = 1_500;

/** Silence after which a server counts as stuck, in milliseconds. */
const STALL_MS = 3_000;

/** The settings of a run. */
interface Options {
  /** The server. */
  readonly target: Target;
  /** Id of the server's process, for CPU time and memory. */
  readonly pid: number;
  /** Concurrent sessions or requests. */
  readonly atOnce: number;
  /** Bytes of one transfer on a stream. */
  readonly mib: number;
  /** True if the server ends a reply; otherwise a reply ends with the last byte. */
  readonly hasFin: boolean;
  /** Datagrams in flight. */
  readonly window: number;
  /** Number of idle sessions. */
  readonly sessions: number;
  /** Warm-up at the beginning, not measured. */
  readonly warmUpMs: number;
  /** Measured time. */
  readonly measureMs: number;
}

/** A run with its counters. */
class Run {
  readonly options: Options;
  answered = 0;
  /** A counter of progress. */
  moved = 0;
  /** Number of sessions that closed without a call to `close()` here. */
  closed = 0;

  constructor(options: Options) {
    this.options = options;
  }

  /** Opens a session. */
  dial(): Promise<Connection> {
    const { url, serverCertificateHashes } = this.options.target;
    return dialWebTransport(url, { serverCertificateHashes });
  }

  /** Opens a session that stays open. */
  async open(): Promise<Connection> {
    const connection = await this.dial();
    const onClosed = () => void this.closed++;
    connection.closed.then(onClosed, onClosed);
    return connection;
  }

  /** Sends a request on a new stream. */
  async request(connection: Connection): Promise<void> {
    const stream = directStream(await connection.createBidirectionalStream());
    await stream.write(REQUEST);
    const closing = stream.close();
    await this.read(stream, REQUEST.length);
    await closing;
  }

  /** Reads the echo. */
  async read(stream: DirectReadable, length: number): Promise<void> {
    let count = 0;
    while (this.options.hasFin || count < length) {
      const bytes = await stream.read();
      if (bytes === null) break;
      count += bytes.length;
      this.moved++;
    }
    if (count !== length) throw new Error(`Of ${length} bytes ${count} came back`);
  }

  /** Writes the bytes of a transfer. */
  async write(stream: DirectWritable): Promise<void> {
    for (let left = this.options.mib * MIB; left > 0; left -= CHUNK.length) {
      await stream.write(CHUNK);
      this.moved++;
    }
    await stream.close();
  }

  /** Resolves after a time without progress. */
  async stall(): Promise<LoadResult> {
    let seen = -1;
    let seenAt = performance.now();
    while (performance.now() - seenAt < STALL_MS) {
      const moved = this.answered + this.moved;
      if (moved !== seen) [seen, seenAt] = [moved, performance.now()];
      await sleep(50);
    }
    return { perSecond: 0, closed: this.closed, stalledAfter: this.answered };
  }
}

async function repeatIn(run: Run, once: () => Promise<void>): Promise<LoadResult> {
  const counted = async () => {
    await once();
    run.answered++;
  };
  return { ...await repeat(counted, run.options), closed: run.closed };
}

function setup(run: Run): Promise<LoadResult> {
  return repeatIn(run, async () => (await run.dial()).close());
}

async function rpc(run: Run): Promise<LoadResult> {
  const connection = await run.open();
  return await repeatIn(run, () => run.request(connection));
}

async function transferIn(run: Run, once: () => Promise<void>): Promise<LoadResult> {
  const { mib, pid, measureMs } = run.options;
  const measured = await transfer(once, { bytes: mib * MIB, pid, measureMs });
  return { ...measured, closed: run.closed };
}

async function up(run: Run): Promise<LoadResult> {
  const connection = await run.open();
  return await transferIn(run, async () => {
    const stream = directStream(await connection.createUnidirectionalStream());
    await run.write(stream);
    // No event reports that a stream was read, but the server answers later data after the
    // transfer.
    await run.request(connection);
    run.answered++;
  });
}

async function echo(run: Run): Promise<LoadResult> {
  const connection = await run.open();
  return await transferIn(run, async () => {
    const stream = directStream(await connection.createBidirectionalStream());
    await Promise.all([run.write(stream), run.read(stream, run.options.mib * MIB)]);
    run.answered++;
  });
}

async function datagrams(run: Run): Promise<LoadResult> {
  const { window, pid, warmUpMs, measureMs } = run.options;
  const duplex = directDatagrams((await run.open()).datagrams);
  const histogram = new Histogram();
  // Times of sending, oldest first.
  const away = new Map<number, number>();
  let sent = 0;
  let lost = 0;
  let isMeasuring = false;
  const send = () => {
    const datagram = new Uint8Array(DATAGRAM_BYTES);
    new DataView(datagram.buffer).setUint32(0, sent);
    away.set(sent++, nowUs());
    duplex.send(datagram);
  };
  duplex.receive((datagram) => {
    const { buffer, byteOffset } = datagram;
    const number = new DataView(buffer, byteOffset).getUint32(0);
    const sentUs = away.get(number);
    if (sentUs === undefined) return;
    away.delete(number);
    run.answered++;
    if (isMeasuring) histogram.add(nowUs() - sentUs);
    send();
  });
  const looking = setInterval(() => {
    const since = nowUs() - LOST_MS * 1_000;
    for (const [number, sentUs] of away) {
      if (sentUs > since) return;
      away.delete(number);
      if (isMeasuring) lost++;
      send();
    }
  }, LOST_MS / 5);
  while (away.size < window) send();
  await sleep(warmUpMs);
  const meter = await Meter.begin(pid);
  isMeasuring = true;
  await sleep(measureMs);
  const figures = await meter.end(histogram.count);
  clearInterval(looking);
  return { ...figures, ...quantilesOf(histogram), lost, closed: run.closed };
}

async function stay(run: Run): Promise<LoadResult> {
  const open: Connection[] = [];
  const one = async () => run.answered = open.push(await run.open());
  return { ...await idle(one, run.options), closed: run.closed };
}

const MODES = { setup, rpc, up, echo, datagrams, idle: stay };

if (import.meta.main) {
  const { args } = Deno;
  const mode = (argument(args, "mode") ?? "rpc") as keyof typeof MODES;
  if (MODES[mode] === undefined) {
    throw new TypeError(`Cannot run: --mode is one of ${Object.keys(MODES).join(", ")}`);
  }
  const run = new Run({
    target: await findTarget(portOf(args), {
      path: "/echo",
      hash: argument(args, "hash"),
      roundTripMs: numberArgument(args, "round-trip", 0),
    }),
    pid: numberArgument(args, "pid", Deno.pid),
    atOnce: numberArgument(args, "at-once", 1),
    mib: numberArgument(args, "mib", 64),
    hasFin: !args.includes("--no-fin"),
    window: numberArgument(args, "window", 64),
    sessions: numberArgument(args, "sessions", 200),
    warmUpMs: numberArgument(args, "warm-up", mode === "setup" ? SETUP_WARM_UP_MS : WARM_UP_MS),
    measureMs: numberArgument(args, "measure", 1_800),
  });
  const result = await Promise.race([MODES[mode](run), run.stall()]);
  // deno-lint-ignore no-console
  console.log(JSON.stringify(result));
  Deno.exit(0);
}
