/**
 * The soak test of WebTransport, with sessions that open and close in every way, regular and
 * irregular, and one healthy session that must not be affected.
 *
 * @module
 */
import { CapsuleType } from "../../transport/h3/wire/capsules.ts";
import { directStream } from "../../transport/direct.ts";
import type { CertificateHash } from "../../transport/webtransport.ts";
import { dialWebTransport } from "../../transport/h3/client.ts";
import { bindUdp, bytesOf, capsuleFrame, RawPeer } from "../peers/raw_http3.ts";
import { LineProcess, sleep } from "./processes/processes.ts";
import type { WebTransportStats } from "./webtransport/server.ts";

/** Reports the result of a check. */
export type Check = (what: string, isRight: boolean, detail: string) => void;

/** Number of sessions in one round, by how they end. */
const ROUND = { normally: 60, killed: 15, stopped: 15, garbage: 10 } as const;
const SESSIONS_A_ROUND = ROUND.normally + ROUND.killed + ROUND.stopped + ROUND.garbage;

/** Garbage packets in addition to the sessions of a round. */
const GARBAGE_PACKETS = 50;

/** Interval of the healthy session's echoes, and the longest wait, in milliseconds. */
const ECHO_EVERY_MS = 20;
const MOST_ECHO_MS = 1_500;

/** The server's idle timeout is two seconds, and the server probes a silent peer before that. */
const MOST_SILENCE_MS = 6_000;

/**
 * Allowed growth of the memory, which is a tenth plus the garbage of one round for small values.
 */
const MOST_GROWTH = 0.1;
const RSS_SLACK_BYTES = 8 * 1_048_576;
const HEAP_SLACK_BYTES = 1_048_576;

interface Target {
  readonly port: number;
  readonly hashes: readonly CertificateHash[];
  /** The certificate's hash, for a command line. */
  readonly hash: string;
}

/** Echoes at a steady rate while other sessions open and close. */
class Healthy {
  /** Number of received echoes. */
  echoes = 0;
  /** The slowest echo. */
  slowestMs = 0;
  /** The first error, if any. */
  failure: unknown = undefined;
  #isOver = false;
  readonly #running: Promise<void>;

  constructor(target: Target) {
    this.#running = this.#run(target).catch((error) => {
      this.failure = error;
    });
  }

  async end(): Promise<void> {
    this.#isOver = true;
    await this.#running;
  }

  async #run({ port, hashes }: Target): Promise<void> {
    const session = await dialWebTransport(`https://127.0.0.1:${port}/`, {
      serverCertificateHashes: hashes,
    });
    const stream = directStream(await session.createBidirectionalStream());
    while (!this.#isOver) {
      const start = performance.now();
      await stream.write(Uint8Array.of(this.echoes & 0xff));
      const bytes = await stream.read();
      if (bytes?.length !== 1 || bytes[0] !== (this.echoes & 0xff)) {
        throw new Error(`Expected ${this.echoes & 0xff}, received ${bytes}`);
      }
      this.echoes++;
      const tookMs = performance.now() - start;
      this.slowestMs = Math.max(this.slowestMs, tookMs);
      await sleep(Math.max(0, ECHO_EVERY_MS - tookMs));
    }
    session.close();
    await session.closed;
  }
}

/** Soaks WebTransport with 10,000 sessions in ten minutes, or 300 in the short run. */
export async function soakWebTransport(check: Check, isShort: boolean): Promise<void> {
  const rounds = isShort ? 3 : 100;
  const warmUps = isShort ? 1 : 10;
  const roundMs = isShort ? 0 : 6_000;
  const server = new LineProcess(import.meta.resolve("./webtransport/server.ts"));
  const { port, hash } = JSON.parse(await server.line());
  const value = Uint8Array.from(hash as number[]);
  const target = {
    port,
    hash: JSON.stringify(hash),
    hashes: [{ algorithm: "sha-256", value }],
  } as const;
  const healthy = new Healthy(target);
  let before = await until(server, ({ sessions }) => sessions === 1);
  let wrong = 0;
  for (let round = 0; round < rounds; round++) {
    if (round === warmUps) before = await until(server, isAlone);
    const start = performance.now();
    wrong += await soakRound(target);
    // The runtime frees QUIC's memory during a garbage collection, but QUIC's small objects rarely
    // cause one. Each round therefore leaves the same amount of garbage.
    await server.ask("stats");
    await sleep(Math.max(0, roundMs - (performance.now() - start)));
  }
  const after = await until(server, isAlone);
  check("WebTransport: sessions that close regularly echo", wrong === 0, `${wrong} went wrong`);
  check(
    "WebTransport: the server detected all closed sessions",
    isAlone(after),
    `${after.connections} connections and ${after.sessions} sessions left of ${after.accepted}`,
  );
  checkGrowth(check, before, after);
  await healthy.end();
  check(
    "WebTransport: a healthy session receives every echo without a gap",
    healthy.failure === undefined && healthy.slowestMs < MOST_ECHO_MS,
    healthy.failure === undefined
      ? `${healthy.echoes} echoes, the slowest ${healthy.slowestMs.toFixed(0)} ms`
      : String(healthy.failure),
  );
  const last = await until(server, ({ connections }) => connections === 0);
  check(
    "WebTransport: nothing is left at the end",
    last.connections === 0 && last.sessions === 0,
    `${last.connections} connections, ${last.sessions} sessions`,
  );
  const { code } = await server.end();
  check(
    "WebTransport: the server runs until it is told to exit",
    code === 0,
    `${rounds * SESSIONS_A_ROUND} sessions, exit code ${code}`,
  );
}

function isAlone({ connections, sessions }: WebTransportStats): boolean {
  return connections === 1 && sessions === 1;
}

function checkGrowth(check: Check, before: WebTransportStats, after: WebTransportStats): void {
  const kinds = [
    ["resident memory", before.rssBytes, after.rssBytes, RSS_SLACK_BYTES],
    ["the heap", before.heapBytes, after.heapBytes, HEAP_SLACK_BYTES],
  ] as const;
  for (const [what, first, last, slack] of kinds) {
    check(
      `WebTransport: ${what} stays constant`,
      last <= first * (1 + MOST_GROWTH) + slack,
      `${(first / 1_048_576).toFixed(1)} MiB, then ${(last / 1_048_576).toFixed(1)} MiB`,
    );
  }
  check(
    "WebTransport: the number of open files stays constant",
    after.files <= before.files,
    `${before.files}, then ${after.files}`,
  );
}

async function until(
  server: LineProcess,
  isRight: (stats: WebTransportStats) => boolean,
): Promise<WebTransportStats> {
  const end = performance.now() + MOST_SILENCE_MS;
  while (true) {
    const stats = await server.ask<WebTransportStats>("stats");
    if (isRight(stats) || performance.now() > end) return stats;
    await sleep(100);
  }
}

/** Runs one hundred sessions and returns the number of regular sessions that failed. */
async function soakRound(target: Target): Promise<number> {
  const [wrong] = await Promise.all([
    endNormally(target),
    leave(target, ROUND.killed, (process) => process.kill("SIGKILL")),
    leave(target, ROUND.stopped, async (process) => {
      process.kill("SIGSTOP");
      // Longer than the server's timeout.
      await sleep(3_500);
      process.kill("SIGKILL");
    }),
    sendGarbage(target),
  ]);
  return wrong;
}

async function endNormally({ port, hashes }: Target): Promise<number> {
  let [next, wrong] = [0, 0];
  await Promise.all(Array.from({ length: 6 }, async () => {
    while (next++ < ROUND.normally) {
      try {
        const session = await dialWebTransport(`https://127.0.0.1:${port}/`, {
          serverCertificateHashes: hashes,
          timeoutMs: 10_000,
        });
        const stream = directStream(await session.createBidirectionalStream());
        await stream.write(new Uint8Array(1_000));
        await stream.read();
        session.close({ closeCode: 4000, reason: "done" });
        await session.closed;
      } catch {
        wrong++;
      }
    }
  }));
  return wrong;
}

async function leave(
  { port, hash }: Target,
  count: number,
  how: (process: LineProcess) => void | Promise<void>,
): Promise<void> {
  const process = new LineProcess(
    import.meta.resolve("./webtransport/client.ts"),
    `${port}`,
    hash,
    `${count}`,
  );
  await process.line();
  await how(process);
  await process.end();
}

/** Invalid data from a peer. */
const NONSENSE: ((peer: RawPeer) => Promise<unknown>)[] = [
  (peer) => peer.uni(crypto.getRandomValues(new Uint8Array(1_000))),
  (peer) => peer.bidi(crypto.getRandomValues(new Uint8Array(1_000))),
  async (peer) => {
    await peer.control();
    await peer.control();
  },
  async (peer) => {
    await peer.control();
    const connect = await peer.request();
    await connect.status();
    await connect.send.write(capsuleFrame(CapsuleType.close, Uint8Array.of(1)));
  },
  async (peer) => {
    await peer.control();
    const connect = await peer.request();
    await connect.status();
    for (let i = 0; i < 20; i++) await peer.bidi(0x41, connect.id, new Uint8Array(10_000));
    await peer.conn.sendDatagram(bytesOf(Uint8Array.of(0x40)));
  },
];

async function sendGarbage({ port, hashes }: Target): Promise<void> {
  const socket = bindUdp();
  const to: Deno.NetAddr = { transport: "udp", hostname: "127.0.0.1", port };
  for (let i = 0; i < GARBAGE_PACKETS; i++) {
    const packet = crypto.getRandomValues(new Uint8Array(1 + i * 27));
    // Half of the packets look like the first packet of a connection.
    if (i % 2 === 0) packet.set([0xc0 | i & 0xf, 0, 0, 0, 1].slice(0, packet.length));
    await socket.send(packet, to);
  }
  socket.close();
  for (let i = 0; i < ROUND.garbage; i++) {
    const peer = await RawPeer.dial(port, { hashes, maxIdleTimeout: 2_000 });
    // Some peers are rejected while they are still sending.
    await NONSENSE[i % NONSENSE.length]!(peer).catch(() => {});
    await Promise.race([peer.ending, sleep(50)]);
    await peer[Symbol.asyncDispose]();
  }
}
