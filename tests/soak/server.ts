/**
 * The server of the soak test, in a separate process so that its memory can be measured. The
 * process reads one command per line from standard input and replies to each with a line of JSON.
 *
 * @module
 */
import { TextLineStream } from "./processes/lines.ts";
import { type OverflowPolicy, serve } from "../../mod.ts";

/** Report of the server. */
export interface ServerStats {
  readonly sessions: number;
  /** Number of topics with subscribers. */
  readonly topics: number;
  /** Number of present users. */
  readonly present: number;
  /** Slots reserved for sessions during admission. */
  readonly reserved: number;
  /** Messages that a policy dropped. */
  readonly dropped: number;
  /** Number of closed sessions, by close code. */
  readonly closeCodes: Readonly<Record<string, number>>;
  /** Resident memory after a garbage collection. */
  readonly rssBytes: number;
  /** Memory of JavaScript objects after a garbage collection. */
  readonly heapBytes: number;
}

const policy = (Deno.args[0] ?? "close") as OverflowPolicy;
const heartbeatMs = Number(Deno.args[1] ?? 25_000);

const server = serve({
  hostname: "127.0.0.1",
  port: 0,
  path: "/ws",
  onListen: ({ port }) => answer({ port }),
  authorize: () => true,
  rooms: ["room:{name}"],
  presence: { graceMs: 100 },
  session: {
    sendQueue: { policy },
    heartbeat: { intervalMs: heartbeatMs, timeoutMs: heartbeatMs * 2.4 },
  },
  // All sessions of the soak test come from one address.
  limits: { maxSessions: 20_000, maxSessionsPerAddress: Infinity },
  onMessage(message, session) {
    if (message.topic === "sub") {
      server.subscribe(session, String(message.data));
      session.send("subok");
    } else server.publish(message.topic, message.data);
  },
});

const lines = Deno.stdin.readable.pipeThrough(new TextDecoderStream()).pipeThrough(
  new TextLineStream(),
);
for await (const line of lines) {
  const [command, argument] = line.split(" ");
  if (command === "stats") answer(await stats());
  else if (command === "drain") {
    answer(await server.drain({ withinMs: Number(argument), reason: "soak" }));
  } else break;
}
await server.close();

async function stats(): Promise<ServerStats> {
  // Available because the server runs with --v8-flags=--expose-gc.
  (globalThis as { gc?: () => void }).gc?.();
  await new Promise((resolve) => setTimeout(resolve, 50));
  (globalThis as { gc?: () => void }).gc?.();
  const { rss, heapUsed } = Deno.memoryUsage();
  const { messages, closeCodes, reserved } = server.manager.stats();
  return {
    sessions: server.manager.count,
    topics: server.topics.size,
    present: server.presence.online().length,
    reserved,
    dropped: messages.dropped,
    closeCodes,
    rssBytes: rss,
    heapBytes: heapUsed,
  };
}

function answer(value: unknown): void {
  // deno-lint-ignore no-console
  console.log(JSON.stringify(value));
}
