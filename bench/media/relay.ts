/**
 * The relay benchmark. With one publisher and many subscribers, it compares Skein's `MoqRelay` with
 * `moq-relay` of moq-rs, over `moq-lite-04` on raw QUIC.
 *
 * ```sh
 * deno task bench:relay --runs 3
 * ```
 *
 * The relay runs on the first core. The publisher and the subscribers run in one process on the
 * second. The two relays take turns, so that noise affects both equally.
 *
 * - `--runs n`: number of runs; 3 by default.
 * - `--subscribers n`: 100 by default.
 * - `--seconds n`: measured time, after a second of warm-up; 4 by default.
 * - `--moq-relay FILE`: an optimized build of `moq-relay`. By default, the interop tests' program
 *   is used. It is not optimized, and takes several times as long.
 *
 * @module
 */
import { argument, numberArgument } from "../args.ts";
import { commandOn, usageOf } from "../processes.ts";
import {
  dialMoq,
  listenMoq,
  MoqRelay,
  type MoqSession,
  TrackMux,
  type TrackWriter,
} from "../../moq/mod.ts";
import { buildMoqPeers, Peer } from "../../tests/interop/peers.ts";
import { Relay } from "../../tests/interop/peers/moq_relay/relay.ts";
import { CertificateFolder } from "../../tests/interop/peers/skein.ts";
import { emit, eventsOf, stamp, summary } from "./frames.ts";

const VERSION = "moq-lite-04";
const WARM_UP_MS = 1_000;
const PATIENCE_MS = 60_000;
const SELF = new URL(import.meta.url).pathname;

/** One kind of work. */
interface Work {
  readonly title: string;
  /** Bytes of the only frame of a group. */
  readonly size: number;
  /** Groups in flight. */
  readonly window: number;
}

const WORK: readonly Work[] = [
  { title: "1 frame x 1,200 B, eight groups in flight", size: 1_200, window: 8 },
  { title: "1 frame x 1,200 B, one group in flight", size: 1_200, window: 1 },
];

/** Measurements of the generator. */
interface Result {
  readonly deliveries: number;
  readonly seconds: number;
  readonly lat_us_p50: number;
  readonly lat_us_p99: number;
}

/** One run of a relay. */
interface Run {
  readonly perSecond: number;
  readonly cpuUs: number;
  readonly p50: number;
  readonly p99: number;
}

/** Runs Skein's relay, in a separate process. */
async function serve([cert, key]: readonly string[]): Promise<void> {
  await using relay = new MoqRelay({ allowAnonymousPublish: true });
  await using server = listenMoq({
    hostname: "127.0.0.1",
    port: 0,
    tls: { cert: await Deno.readTextFile(cert!), key: await Deno.readTextFile(key!) },
    transports: ["quic"],
    versions: [VERSION],
    mux: relay.mux,
    onSession: (session) => void relay.accept(session),
  });
  emit({ event: "ready", port: Number(new URL(server.quicUrl).port) });
  await new Promise(() => {});
}

/** Publishes groups to a relay, and counts the deliveries to all subscribers. */
class Load {
  readonly #subscribers: number;
  readonly #work: Work;
  /** Missing deliveries and time of writing, by group number. */
  readonly #underWay = new Map<number, { missing: number; readonly at: number }>();
  #latencies: number[] = [];
  #onDelivered: () => void = () => {};

  constructor(subscribers: number, work: Work) {
    this.#subscribers = subscribers;
    this.#work = work;
  }

  /** Publishes for some time, and waits for all deliveries. */
  async publish(track: TrackWriter, ms: number): Promise<Result> {
    const { size, window } = this.#work;
    this.#latencies = [];
    const began = performance.now();
    while (performance.now() - began < ms) {
      await this.#atMost(window - 1);
      const group = await track.openGroup();
      const body = new Uint8Array(size);
      stamp(body, group.sequence, 0);
      this.#underWay.set(group.sequence, { missing: this.#subscribers, at: performance.now() });
      group.writeFrame(body).catch(() => {});
      group.close().catch(() => {});
    }
    await this.#atMost(0);
    const seconds = (performance.now() - began) / 1_000;
    const latencies = this.#latencies.sort((a, b) => a - b);
    const at = (quantile: number) => latencies[Math.floor(quantile * (latencies.length - 1))] ?? 0;
    return {
      deliveries: latencies.length,
      seconds,
      lat_us_p50: at(0.5),
      lat_us_p99: at(0.99),
    };
  }

  /** Receives all groups of one subscription. */
  async receive(session: MoqSession): Promise<void> {
    const track = await session.subscribe("/bench", "video");
    for (let group; (group = await track.nextGroup()) !== null;) {
      const frame = await group.readFrame();
      if (frame !== null) this.#received(new DataView(frame.buffer, frame.byteOffset).getUint32(8));
      // The end of the stream returns the relay's credit.
      await group.readFrame();
    }
  }

  #received(sequence: number): void {
    const group = this.#underWay.get(sequence);
    if (group === undefined) throw new Error(`Received group ${sequence} once too often`);
    this.#latencies.push((performance.now() - group.at) * 1_000);
    if (--group.missing > 0) return;
    this.#underWay.delete(sequence);
    this.#onDelivered();
  }

  async #atMost(groups: number): Promise<void> {
    while (this.#underWay.size > groups) {
      await new Promise<void>((resolve) => this.#onDelivered = resolve);
    }
  }
}

/** Runs publisher and subscribers, in a separate process. */
async function generate([url, hash, subscribers, seconds, work]: readonly string[]): Promise<void> {
  const load = new Load(Number(subscribers), WORK[Number(work)]!);
  const dial = (mux: TrackMux) =>
    dialMoq(url!, {
      mux,
      versions: [VERSION],
      serverCertificateHashes: [{ algorithm: "sha-256", value: Uint8Array.fromHex(hash!) }],
    });
  const subscribed = Promise.withResolvers<void>();
  const done = Promise.withResolvers<void>();
  const mux = new TrackMux();
  mux.publish("/bench", async (track) => {
    track.accept();
    await subscribed.promise;
    await load.publish(track, WARM_UP_MS);
    emit({ event: "begin" });
    emit({ event: "result", ...await load.publish(track, Number(seconds) * 1_000) });
    done.resolve();
  });
  await using _publisher = await dial(mux);
  for (let count = 0; count < Number(subscribers); count++) {
    const session = await dial(new TrackMux());
    if (count === 0) await (await session.acceptAnnounce("/")).next();
    load.receive(session).catch((error) => emit({ event: "error", error: `${error}` }));
  }
  // By then the relay has the last subscription, and no group has started.
  await new Promise((resolve) => setTimeout(resolve, 500));
  subscribed.resolve();
  await done.promise;
}

async function measure(
  { pid, port }: { readonly pid: number; readonly port: number },
  hash: string,
  work: number,
): Promise<Run> {
  const arguments_ = [`moqt://127.0.0.1:${port}/`, hash, `${subscribers}`, `${seconds}`, `${work}`];
  const child = commandOn([...DENO, SELF, "generate", ...arguments_], 1, {
    stdout: "piped",
    stderr: "inherit",
    stdin: "null",
  }).spawn();
  const timer = setTimeout(() => child.kill("SIGKILL"), PATIENCE_MS);
  try {
    let before = 0;
    for await (const event of eventsOf(child)) {
      if (event.event === "begin") before = (await usageOf(pid)).cpuUs ?? NaN;
      else if (event.event === "result") {
        const { deliveries, seconds, lat_us_p50, lat_us_p99 } = event as unknown as Result;
        const cpuUs = ((await usageOf(pid)).cpuUs ?? NaN) - before;
        return {
          perSecond: deliveries / seconds,
          cpuUs: cpuUs / deliveries,
          p50: lat_us_p50,
          p99: lat_us_p99,
        };
      } else throw new Error(`The generator failed: ${JSON.stringify(event)}`);
    }
    throw new Error("The generator measured nothing");
  } finally {
    clearTimeout(timer);
    try {
      child.kill("SIGKILL");
    } catch {
      // The process has ended already.
    }
    await child.status;
  }
}

/** Returns the given program, or the one of the interop tests. */
async function moqRelay(): Promise<Peer> {
  const file = argument(Deno.args, "moq-relay");
  if (file !== undefined) return new Peer("moq-relay", "", [file]);
  const [build] = await buildMoqPeers(["moq-relay"]);
  if (build === undefined || !("peer" in build)) {
    throw build !== undefined && "failed" in build
      ? build.failed
      : new Error(`Cannot run: ${build?.missing}`);
  }
  const { command, version } = build.peer;
  return new Peer("moq-relay without optimizations", version, command);
}

/** An external program whose process is measured. */
class BoundPeer extends Peer {
  /** Id of the last process. */
  pid = 0;

  override start(...how: Parameters<Peer["start"]>): Deno.ChildProcess {
    const child = super.start(...how);
    this.pid = child.pid;
    return child;
  }
}

async function measureSkein(files: CertificateFolder, work: number): Promise<Run> {
  const relay = commandOn([...DENO, SELF, "serve", files.cert, files.key], 0, {
    stdout: "piped",
    stderr: "inherit",
    stdin: "null",
  }).spawn();
  try {
    const { value: ready } = await eventsOf(relay).next();
    return await measure({ pid: relay.pid, port: Number(ready!.port) }, files.hash, work);
  } finally {
    relay.kill("SIGKILL");
    await relay.status;
  }
}

async function measureMoqRelay(peer: Peer, files: CertificateFolder, work: number): Promise<Run> {
  const bound = new BoundPeer(peer.name, peer.version, ["taskset", "-c", "0", ...peer.command]);
  await using relay = await Relay.start(bound, files);
  return await measure({ pid: bound.pid, port: relay.quicPort }, files.hash, work);
}

const DENO = [Deno.execPath(), "run", "-A", "--unstable-net", "--quiet"];
const subscribers = numberArgument(Deno.args, "subscribers", 100);
const seconds = numberArgument(Deno.args, "seconds", 4);

async function main(): Promise<void> {
  const runs = numberArgument(Deno.args, "runs", 3);
  await using files = await CertificateFolder.create();
  const relays = new Map([["Skein", (work: number) => measureSkein(files, work)]]);
  const peer = await moqRelay();
  relays.set(peer.name, (work) => measureMoqRelay(peer, files, work));
  for (const [index, work] of WORK.entries()) {
    const results = new Map<string, Run[]>([...relays.keys()].map((name) => [name, []]));
    for (let run = 0; run < runs; run++) {
      for (const [name, once] of relays) results.get(name)!.push(await once(index));
    }
    console.log(`\n${subscribers} subscribers, ${work.title}: min / median / max of ${runs}`);
    console.log("| relay | deliveries/s | CPU µs each | p50, µs | p99, µs |");
    console.log("| --- | --- | --- | --- | --- |");
    for (const [name, list] of results) {
      const cells = [
        summary(list.map((one) => one.perSecond)),
        summary(list.map((one) => one.cpuUs), 1),
        summary(list.map((one) => one.p50)),
        summary(list.map((one) => one.p99)),
      ];
      console.log(`| ${name} | ${cells.join(" | ")} |`);
    }
  }
}

if (import.meta.main) {
  const [mode, ...rest] = Deno.args;
  if (mode === "serve") await serve(rest);
  else if (mode === "generate") await generate(rest);
  else await main();
  Deno.exit();
}
