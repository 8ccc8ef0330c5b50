/**
 * One end of the MoQ benchmark, with the command line of the gomoqt peers:
 *
 * ```text
 * peer.ts -mode server -version moq-lite-04 -groups N -frames N -size BYTES -rate PER_SECOND
 * peer.ts -mode client -version moq-lite-04 -url moqt://127.0.0.1:PORT/moq -hash HEX -groups N
 * ```
 *
 * The server publishes `/bench`. Each frame begins with the time of writing (nanoseconds since the
 * epoch, 64 bits), the number of the group and the number in the group (32 bits each). The client
 * subscribes, and prints latencies and rates from the first to the last received frame.
 *
 * @module
 */
import type { TrackWriter } from "../../pubsub/moq/mod.ts";
import { dialMoq, MoqSession, type MoqVersion, TrackMux } from "../../pubsub/moq/mod.ts";
import { protocolsOf } from "../../pubsub/moq/wire/versions.ts";
import { devCertificate, listenQuic } from "../../transport/mod.ts";

/** Bytes of the header of each frame: time and numbers. */
const STAMP_BYTES = 16;

/** The settings of a benchmark program. */
interface Options {
  readonly version: MoqVersion;
  readonly url: string;
  readonly hash: string;
  readonly groups: number;
  readonly frames: number;
  readonly size: number;
  readonly rate: number;
}

function parse(args: readonly string[]): Options & { readonly mode: string } {
  const find = (name: string, fallback: string) => {
    const at = args.indexOf(`-${name}`);
    return at < 0 ? fallback : args[at + 1] ?? fallback;
  };
  return {
    mode: find("mode", "server"),
    version: find("version", "moq-lite-04") as MoqVersion,
    url: find("url", ""),
    hash: find("hash", ""),
    groups: Number(find("groups", "1000")),
    frames: Number(find("frames", "10")),
    size: Math.max(STAMP_BYTES, Number(find("size", "1200"))),
    rate: Number(find("rate", "0")),
  };
}

function emit(line: Record<string, unknown>): void {
  console.log(JSON.stringify(line));
}

/** Nanoseconds since the epoch, as a bigint, because a number would round the time. */
function now(): bigint {
  return BigInt(Math.round((performance.timeOrigin + performance.now()) * 1_000)) * 1_000n;
}

async function publish(track: TrackWriter, options: Options): Promise<void> {
  const { groups, frames, size, rate } = options;
  const began = performance.now();
  for (let number = 0; number < groups; number++) {
    if (rate > 0) {
      const dueMs = began + number * 1_000 / rate - performance.now();
      if (dueMs > 0) await new Promise((resolve) => setTimeout(resolve, dueMs));
    }
    const group = await track.openGroup();
    for (let frame = 0; frame < frames; frame++) {
      const body = new Uint8Array(size);
      const view = new DataView(body.buffer);
      view.setBigUint64(0, now());
      view.setUint32(8, number);
      view.setUint32(12, frame);
      const written = group.writeFrame(body);
      // Only a full group has to wait.
      if (group.bufferedBytes > 65_536) await written;
    }
    group.close().catch(() => {});
  }
  emit({ event: "published", groups, seconds: (performance.now() - began) / 1_000 });
  // The subscriber disconnects after receiving all frames.
  await new Promise<void>((resolve) => {
    track.signal.addEventListener("abort", () => resolve(), { once: true });
  });
}

async function serve(options: Options): Promise<void> {
  const mux = new TrackMux();
  mux.publish("/bench", (track) => publish(track, options));
  const { cert, key, hashes } = await devCertificate({ cacheFolder: null });
  await using listener = listenQuic({
    hostname: "127.0.0.1",
    port: 0,
    cert,
    key,
    protocols: protocolsOf([options.version], "quic"),
  });
  emit({ event: "cert", sha256: new Uint8Array(hashes[0]!.value).toHex() });
  emit({ event: "ready", addr: `127.0.0.1:${listener.address.port}` });
  for await (const connection of listener) {
    const session = await MoqSession.open(connection, {
      side: "server",
      mux,
      versions: [options.version],
      onError: (error) => console.error(error),
    });
    await session.closed;
    emit({ event: "session_closed", cpu: cpuSeconds() });
    return;
  }
}

async function subscribe(options: Options): Promise<void> {
  const { groups, url, hash, version } = options;
  await using session = await dialMoq(url, {
    versions: [version],
    serverCertificateHashes: [{ algorithm: "sha-256", value: Uint8Array.fromHex(hash) }],
    maxUnidirectionalStreams: 4_096,
  });
  const track = await session.subscribe("/bench", "video");
  const latencies: number[] = [];
  let [first, last, bytes, ended] = [0, 0, 0, 0];
  const all = Promise.withResolvers<void>();
  const read = async (group: Awaited<ReturnType<typeof track.nextGroup>> & object) => {
    for (let frame; (frame = await group.readFrame()) !== null;) {
      last = performance.now();
      first ||= last;
      bytes += frame.byteLength;
      const view = new DataView(frame.buffer, frame.byteOffset, STAMP_BYTES);
      latencies.push(Number(now() - view.getBigUint64(0)) / 1_000);
    }
    if (++ended === groups) all.resolve();
  };
  const before = cpuSeconds();
  const loop = (async () => {
    for (let group; (group = await track.nextGroup()) !== null;) {
      read(group).catch((error) => emit({ event: "group_error", error: String(error) }));
    }
  })().catch((error) => emit({ event: "track_error", error: String(error) }));
  const timer = setTimeout(all.resolve, 60_000);
  await Promise.race([all.promise, loop]);
  clearTimeout(timer);
  const seconds = (last - first) / 1_000;
  latencies.sort((a, b) => a - b);
  const at = (quantile: number) => latencies[Math.floor(quantile * (latencies.length - 1))] ?? 0;
  emit({
    event: "result",
    groups: ended,
    frames: latencies.length,
    bytes,
    seconds,
    groups_per_s: ended / seconds,
    mb_per_s: bytes / seconds / 1e6,
    lat_us_p50: at(0.5),
    lat_us_p99: at(0.99),
    lat_us_max: at(1),
    cpu: cpuSeconds() - before,
  });
}

/** Processor time of this process, in seconds. */
function cpuSeconds(): number {
  try {
    const fields = Deno.readTextFileSync("/proc/self/stat").split(" ");
    return (Number(fields[13]) + Number(fields[14])) / 100;
  } catch {
    return Number.NaN;
  }
}

if (import.meta.main) {
  const options = parse(Deno.args);
  await (options.mode === "client" ? subscribe(options) : serve(options));
  Deno.exit();
}
