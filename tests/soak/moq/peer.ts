/**
 * The peers of the MoQ soak test, in a separate process: a publisher, subscribers, or a subscriber
 * that reads no stream. The process reads one command per line from standard input and replies to
 * each with a line of JSON.
 *
 * @module
 */
import { Histogram } from "../../../cli/load/histogram.ts";
import {
  dialMoq,
  LiveBroadcast,
  MoqError,
  MoqSession,
  type MoqVersion,
  TrackMux,
  type TrackReader,
} from "../../../moq/mod.ts";
import type { CertificateHash } from "../../../transport/webtransport.ts";
import type { Connection } from "../../../transport/connection.ts";
import { dialQuic } from "../../../transport/quic/client.ts";
import { TextLineStream } from "../processes/lines.ts";

/** The broadcast and the track. */
const PATH = "/live";
const TRACK = "video";

/** Number of frames in a group, their size, and the duration of a group. */
const FRAMES = 4;
const FRAME_BYTES = 1_000;
const GROUP_MS = 200;

/** Report of subscribers. */
export interface MoqSubscribersLine {
  /** Subscribers that received a group since the last report. */
  readonly fed: number;
  /** Number of complete groups. */
  readonly groups: number;
  /** Number of groups that were reported as missing or incomplete. */
  readonly dropped: number;
  /** Groups that are missing but were not reported. */
  readonly silent: number;
  /** Number of groups that arrived after a later group. */
  readonly disordered: number;
  /** Number of frames with wrong content. */
  readonly wrong: number;
  /** Announcements that reached subscribers. */
  readonly active: number;
  /** Withdrawn announcements that reached subscribers. */
  readonly ended: number;
  /** Median latency from publisher to subscriber, since the last report. */
  readonly p50Ms: number;
  /** 99th percentile of the latency. */
  readonly p99Ms: number;
  /** Longest latency. */
  readonly slowestMs: number;
}

const [role, port, hash, ...more] = Deno.args as [string, string, string, ...string[]];
const serverCertificateHashes: CertificateHash[] = [
  { algorithm: "sha-256", value: Uint8Array.from(JSON.parse(hash) as number[]) },
];
let latencies = new Histogram();
const now = () => performance.timeOrigin + performance.now();

async function publish(): Promise<void> {
  await using broadcast = new LiveBroadcast();
  const track = broadcast.track(TRACK);
  const mux = new TrackMux();
  mux.publish(PATH, broadcast);
  // The server soon detects the killed relay.
  const connection = await dialQuic(`moqt://127.0.0.1:${port}`, {
    protocols: ["moq-lite-05"],
    serverCertificateHashes,
    idleTimeoutMs: 5_000,
    keepAliveIntervalMs: 1_000,
  });
  await using _session = await MoqSession.open(connection, { side: "client", mux });
  answer("ready");
  let isOver = false;
  void read(() => Promise.resolve("bye")).then(() => isOver = true);
  while (!isOver) {
    const begin = now();
    const group = track.openGroup();
    for (let index = 0; index < FRAMES; index++) {
      const frame = new Uint8Array(FRAME_BYTES).fill(group.sequence & 0xff);
      const view = new DataView(frame.buffer);
      view.setFloat64(0, now());
      view.setUint32(8, group.sequence);
      view.setUint32(12, index);
      group.writeFrame(frame);
      await sleep(Math.max(0, begin + (index + 1) * GROUP_MS / FRAMES - now()));
    }
    group.close();
  }
}

async function subscribe(scheme: string, version: MoqVersion, count: number): Promise<void> {
  const subscribers = await Promise.all(Array.from({ length: count }, async () => {
    const session = await dialMoq(`${scheme}://127.0.0.1:${port}`, {
      versions: [version],
      serverCertificateHashes,
    });
    return new Subscriber(session);
  }));
  answer("ready");
  await read(() => {
    const sum = (of: (subscriber: Subscriber) => number) =>
      subscribers.reduce((total, subscriber) => total + of(subscriber), 0);
    const line: MoqSubscribersLine = {
      fed: sum(({ isFed }) => Number(isFed)),
      groups: sum(({ groups }) => groups),
      dropped: sum(({ dropped }) => dropped),
      silent: sum(({ silent }) => silent),
      disordered: sum(({ disordered }) => disordered),
      wrong: sum(({ wrong }) => wrong),
      active: sum(({ active }) => active),
      ended: sum(({ ended }) => ended),
      p50Ms: latencies.quantileMs(0.5),
      p99Ms: latencies.quantileMs(0.99),
      slowestMs: latencies.quantileMs(1),
    };
    for (const subscriber of subscribers) subscriber.isFed = false;
    latencies = new Histogram();
    return Promise.resolve(line);
  });
  for (const { session } of subscribers) session.close();
  await Promise.all(subscribers.map(({ session }) => session.connection.closed.catch(() => {})));
}

/** Subscribes whenever the broadcast exists, and counts its groups. */
class Subscriber {
  groups = 0;
  dropped = 0;
  silent = 0;
  disordered = 0;
  wrong = 0;
  active = 0;
  ended = 0;
  isFed = false;
  readonly session: MoqSession;

  constructor(session: MoqSession) {
    this.session = session;
    void this.#run().catch(() => {});
  }

  async #run(): Promise<void> {
    for await (const { active } of await this.session.acceptAnnounce("/")) {
      if (!active) this.ended++;
      else {
        this.active++;
        void this.#follow();
      }
    }
  }

  async #follow(): Promise<void> {
    const told = new Set<number>();
    let next: number | undefined;
    const track: TrackReader = await this.session.subscribe(PATH, TRACK, {
      ordered: true,
      maxLatencyMs: 2_000,
      onMissed: ({ first, last }) => {
        for (let at = first; at <= last; at++) told.add(at);
      },
    });
    try {
      for await (const group of track) {
        const { sequence } = group;
        next ??= sequence;
        if (sequence < next) this.disordered++;
        for (; next < sequence; next++) {
          if (told.delete(next)) this.dropped++;
          else this.silent++;
        }
        next = sequence + 1;
        let index = 0;
        try {
          for await (const frame of group) this.#check(frame, sequence, index++);
          if (index === FRAMES) this.groups++;
          else this.wrong++;
        } catch {
          // The subscription was aborted with an error.
          this.dropped++;
          told.delete(sequence);
        }
        this.isFed = true;
      }
    } catch {
      // The broadcast has ended.
    } finally {
      track.close();
    }
  }

  #check(frame: Uint8Array, sequence: number, index: number): void {
    const view = new DataView(frame.buffer, frame.byteOffset, frame.byteLength);
    const isRight = frame.byteLength === FRAME_BYTES && view.getUint32(8) === sequence &&
      view.getUint32(12) === index && frame.at(-1) === (sequence & 0xff);
    if (!isRight) this.wrong++;
    else latencies.add((now() - view.getFloat64(0)) * 1_000);
  }
}

/** Subscribes, and reads no stream of a group. */
async function stall(): Promise<void> {
  const connection = await dialQuic(`moqt://127.0.0.1:${port}`, {
    protocols: ["moq-lite-05"],
    serverCertificateHashes,
    maxUnidirectionalStreams: 8,
  });
  const session = await MoqSession.open(deafTo(connection), { side: "client" });
  const track = await session.subscribe(PATH, TRACK);
  answer("ready");
  const start = now();
  const reason = await track.nextGroup().then(
    () => "none",
    (error) => error instanceof MoqError ? error.reason : String(error),
  );
  const endedMs = now() - start;
  await session.closed;
  answer({ reason, endedMs, closedMs: now() - start });
  await read(() => Promise.resolve("bye"));
}

/** A connection whose incoming groups are not read. */
function deafTo(connection: Connection): Connection {
  return new Proxy(connection, {
    get(target, key) {
      if (key === "incomingUnidirectionalStreams") return new ReadableStream();
      if (key === "direct") return undefined;
      const value = Reflect.get(target, key, target);
      return typeof value === "function" ? value.bind(target) : value;
    },
  });
}

async function read(onLine: (line: string) => Promise<unknown>): Promise<void> {
  const lines = Deno.stdin.readable.pipeThrough(new TextDecoderStream()).pipeThrough(
    new TextLineStream(),
  );
  for await (const line of lines) answer(await onLine(line));
}

function answer(value: unknown): void {
  // deno-lint-ignore no-console
  console.log(JSON.stringify(value));
}

function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

if (role === "publisher") await publish();
else if (role === "subscribers") await subscribe(more[0]!, more[1] as MoqVersion, Number(more[2]));
else await stall();
