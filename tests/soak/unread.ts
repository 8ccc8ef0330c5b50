/**
 * The flood of unread streams. Four connections from one address open as many streams as QUIC
 * allows, send more than a stream's window on each, and open another stream for each rejected one.
 *
 * @module
 */
import { STREAM_WINDOW_BYTES, UnreadStreams } from "../../transport/quic/unread_streams.ts";
import type { CertificateHash } from "../../transport/webtransport.ts";
import { RawPeer } from "../peers/raw_http3.ts";
import { LineProcess, sleep } from "./processes/processes.ts";
import type { UnreadServerStats, UnreadWay } from "./unread/server.ts";
import type { Check } from "./webtransport.ts";

const CONNECTIONS = 4;

/** First value of a WebTransport stream, followed by the id of the session. */
const STREAM_TYPE = { bidirectional: 0x41, unidirectional: 0x54 } as const;

/** Pause before another stream on a full connection, in milliseconds. */
const REOPEN_MS = 5;

/** Default share of one address for unread streams, in bytes. The server always enforces it. */
const SHARE_BYTES = new UnreadStreams().maxBytesPerAddress;

/**
 * Largest growth of the server's memory. It consists of that share, the bytes of streams that QUIC
 * allows before the rejection, and the memory of thousands of rejected streams that the allocator
 * and the garbage collector still hold.
 */
const MOST_GROWTH_BYTES = SHARE_BYTES + 400_000_000;

/**
 * One kind of flood: how the server leaves streams unread, and the number of sessions per
 * connection.
 */
interface Flood {
  readonly way: UnreadWay;
  readonly sessions: number;
}

const FLOODS: readonly Flood[] = [
  { way: "nothing", sessions: 1 },
  { way: "nothing", sessions: 16 },
  { way: "onStream", sessions: 1 },
  { way: "incomingStreams", sessions: 1 },
  { way: "connection", sessions: 4 },
];

/** More bytes than the runtime buffers of a stream. */
const BODY = new Uint8Array(STREAM_WINDOW_BYTES + 50_000);

/** Floods a server that reads no stream, in several ways. */
export async function soakUnread(check: Check, isShort: boolean): Promise<void> {
  const floodMs = isShort ? 6_000 : 60_000;
  for (const { way, sessions } of FLOODS) {
    const server = new LineProcess(import.meta.resolve("./unread/server.ts"), way);
    const { port, hash } = JSON.parse(await server.line());
    const value = Uint8Array.from(hash as number[]);
    const before = await server.ask<UnreadServerStats>("stats");
    const flooders: Flooder[] = [];
    for (let i = 0; i < CONNECTIONS; i++) {
      flooders.push(await Flooder.open(port, [{ algorithm: "sha-256", value }], sessions));
    }
    let stats = before;
    let mostRssBytes = 0;
    let mostUnreadBytes = 0;
    for (const end = performance.now() + floodMs; performance.now() < end; await sleep(100)) {
      stats = await server.ask<UnreadServerStats>("stats");
      mostRssBytes = Math.max(mostRssBytes, stats.rssBytes);
      mostUnreadBytes = Math.max(mostUnreadBytes, stats.unread.bytes);
    }
    const what = `unread streams, ${way}, ${CONNECTIONS} x ${sessions} sessions`;
    const opened = flooders.reduce((sum, flooder) => sum + flooder.opened, 0);
    check(
      `${what}: the address uses no more than its share`,
      mostUnreadBytes > 0 && mostUnreadBytes <= SHARE_BYTES,
      `${mostUnreadBytes / STREAM_WINDOW_BYTES} of ${opened} streams, ${rejections(stats)}`,
    );
    const grown = mostRssBytes - before.rssBytes;
    check(
      `${what}: the server grows by at most ${megabytes(MOST_GROWTH_BYTES)}`,
      grown <= MOST_GROWTH_BYTES,
      `${megabytes(grown)} more, ${megabytes(mostRssBytes)} in all`,
    );
    const all = CONNECTIONS * sessions;
    check(`${what}: no session closes`, stats.sessions === all, `${stats.sessions} of ${all}`);
    for (const flooder of flooders) await flooder[Symbol.asyncDispose]();
    await server.end();
  }
}

/** A connection that opens streams until closed. */
class Flooder implements AsyncDisposable {
  opened = 0;
  readonly #peer: RawPeer;
  readonly #sessions: readonly number[];
  readonly #floods: readonly Promise<void>[];
  #isOver = false;

  private constructor(peer: RawPeer, sessions: readonly number[]) {
    this.#peer = peer;
    this.#sessions = sessions;
    this.#floods = [this.#flood("bidirectional"), this.#flood("unidirectional")];
  }

  static async open(
    port: number,
    hashes: readonly CertificateHash[],
    sessions: number,
  ): Promise<Flooder> {
    const peer = await RawPeer.dial(port, { hashes });
    await peer.control();
    const ids: number[] = [];
    for (let i = 0; i < sessions; i++) {
      const connect = await peer.request();
      const status = await connect.status();
      if (status !== 200) throw new Error(`Cannot flood: a session was rejected with ${status}`);
      ids.push(connect.id);
    }
    return new Flooder(peer, ids);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#isOver = true;
    await Promise.all(this.#floods);
    await this.#peer[Symbol.asyncDispose]();
  }

  async #flood(direction: keyof typeof STREAM_TYPE): Promise<void> {
    while (!this.#isOver) {
      try {
        const stream = await (direction === "bidirectional" ? this.#peer.bidi() : this.#peer.uni());
        const send = "send" in stream ? stream.send : stream;
        const session = this.#sessions[this.opened++ % this.#sessions.length]!;
        send.write(STREAM_TYPE[direction], session, BODY).catch(() => {});
      } catch {
        await sleep(REOPEN_MS);
      }
    }
  }
}

function rejections({ unread }: UnreadServerStats): string {
  const rejected = Object.entries(unread.rejected).filter(([, count]) => count > 0);
  return `rejected ${rejected.map(([reason, count]) => `${count} by ${reason}`).join(", ")}`;
}

function megabytes(bytes: number): string {
  return `${Math.round(bytes / 1_000_000)} MB`;
}
