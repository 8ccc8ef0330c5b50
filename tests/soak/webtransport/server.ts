/**
 * The WebTransport server of the soak test, in a separate process so that the test can measure its
 * memory. The server echoes what it receives. The process reads one command per line from standard
 * input and replies to each with a line of JSON.
 *
 * @module
 */
import type { Connection } from "../../../transport/connection.ts";
import { devCertificate } from "../../../transport/certificate/dev_certificate.ts";
import type { DirectStream } from "../../../transport/connection.ts";
import { directStream } from "../../../transport/direct.ts";
import { listenWebTransport } from "../../../transport/h3/server.ts";
import { TextLineStream } from "../processes/lines.ts";

/** Report of the server. */
export interface WebTransportStats {
  readonly connections: number;
  /** Sessions on these connections. */
  readonly sessions: number;
  /** Sessions accepted so far. */
  readonly accepted: number;
  /** Open files of the process, if known. */
  readonly files: number;
  /** Resident memory after a garbage collection. */
  readonly rssBytes: number;
  /** Memory of JavaScript objects after a garbage collection. */
  readonly heapBytes: number;
}

const certificate = devCertificate({ cacheFolder: null });
const listener = listenWebTransport({
  hostname: "127.0.0.1",
  ...certificate,
  // A silent peer is detected within seconds.
  idleTimeoutMs: 2_000,
  keepAliveIntervalMs: 700,
});
let accepted = 0;
void acceptAll();
answer({ port: listener.address.port, hash: [...new Uint8Array(certificate.hashes[0]!.value)] });

const lines = Deno.stdin.readable.pipeThrough(new TextDecoderStream()).pipeThrough(
  new TextLineStream(),
);
for await (const line of lines) {
  if (line !== "stats") break;
  answer(await stats());
}
await listener.close();

async function acceptAll(): Promise<void> {
  for await (const request of listener) {
    accepted++;
    void echoAll(request.accept());
  }
}

/** A session may end in any way. */
async function echoAll(session: Connection): Promise<void> {
  try {
    session.datagrams.readable.pipeTo(session.datagrams.writable).catch(() => {});
    for await (const stream of session.incomingBidirectionalStreams) {
      void echo(directStream(stream)).catch(() => {});
    }
  } catch {
    // The session broke.
  }
}

async function echo(stream: DirectStream): Promise<void> {
  for (let bytes; (bytes = await stream.read()) !== null;) await stream.write(bytes);
  await stream.close();
}

async function stats(): Promise<WebTransportStats> {
  // Available because the server runs with --v8-flags=--expose-gc.
  const { gc } = globalThis as { gc?: () => void };
  gc?.();
  await new Promise((resolve) => setTimeout(resolve, 50));
  gc?.();
  const { rss, heapUsed } = Deno.memoryUsage();
  return {
    connections: listener.connectionCount,
    sessions: listener.sessionCount,
    accepted,
    files: countFiles(),
    rssBytes: rss,
    heapBytes: heapUsed,
  };
}

function countFiles(): number {
  try {
    return [...Deno.readDirSync("/proc/self/fd")].length;
  } catch {
    return 0;
  }
}

function answer(value: unknown): void {
  // deno-lint-ignore no-console
  console.log(JSON.stringify(value));
}
