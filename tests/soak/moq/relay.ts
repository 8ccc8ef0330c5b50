/**
 * The relay of the MoQ soak test, in a separate process. The process reads one command per line
 * from standard input and replies to each with a line of JSON.
 *
 * @module
 */
import { listenMoq, MoqRelay } from "../../../moq/mod.ts";
import { TextLineStream } from "../processes/lines.ts";

/** Report of the relay. */
export interface MoqRelayStatsLine {
  readonly sessions: number;
  readonly broadcasts: number;
  /** Number of upstream subscriptions. */
  readonly tracks: number;
  /** Resident memory before a garbage collection. */
  readonly peakBytes: number;
  /** Resident memory after a garbage collection. */
  readonly rssBytes: number;
  /** Memory of JavaScript objects after a garbage collection. */
  readonly heapBytes: number;
  /** Number of errors of broadcasts. */
  readonly errors: number;
}

const [stallTimeoutMs] = Deno.args;
let errors = 0;
const relay = new MoqRelay({
  lingerMs: 500,
  allowAnonymousPublish: true,
  track: { stallTimeoutMs: Number(stallTimeoutMs), maxLatencyMs: 2_000 },
  onError: () => void errors++,
});
const server = listenMoq({
  hostname: "127.0.0.1",
  cacheFolder: null,
  transports: ["webtransport", "quic"],
  mux: relay.mux,
  onSession: (session) => relay.accept(session),
});
answer({
  port: server.address!.port,
  hash: [...new Uint8Array(server.certificateHashes[0]!.value)],
});

const lines = Deno.stdin.readable.pipeThrough(new TextDecoderStream()).pipeThrough(
  new TextLineStream(),
);
for await (const line of lines) {
  if (line !== "stats") break;
  answer(await stats());
}
relay.close();
await server.close();

async function stats(): Promise<MoqRelayStatsLine> {
  const peakBytes = Deno.memoryUsage().rss;
  // Available because the relay runs with --v8-flags=--expose-gc.
  const { gc } = globalThis as { gc?: () => void };
  gc?.();
  await new Promise((resolve) => setTimeout(resolve, 50));
  gc?.();
  const { rss, heapUsed } = Deno.memoryUsage();
  return { ...relay.stats, peakBytes, rssBytes: rss, heapBytes: heapUsed, errors };
}

function answer(value: unknown): void {
  // deno-lint-ignore no-console
  console.log(JSON.stringify(value));
}
