/**
 * The server of the soak test of silent servers. Usage: `server.ts <port> <file of handled
 * messages> <sessions>`. It prints `{"port"}` when it is listening. The command `stats` on standard
 * input prints the sessions and rejections. For each handled message, the server adds a line to the
 * file, which outlives the process.
 *
 * @module
 */
import { serve } from "../../../mod.ts";
import { TextLineStream } from "../processes/lines.ts";

/** Report of the server. */
export interface SilentServerStats {
  /** Number of current sessions. */
  readonly sessions: number;
  /** Sessions that started. */
  readonly began: number;
  /** Number of connections that a limit rejected. */
  readonly rejected: number;
}

/** Time that the handler for `work` takes, in milliseconds. */
const WORK_MS = 300;

const [port, file, sessions] = Deno.args;
const most = Number(sessions);
let began = 0;
let rejected = 0;

function handled(data: unknown): void {
  if (data !== null) Deno.writeTextFileSync(file!, `${data}\n`, { append: true });
}

const server = serve({
  port: Number(port),
  hostname: "127.0.0.1",
  authorize: () => true,
  // The limit is exactly the number of clients, so that the server rejects a client that it counts
  // twice.
  limits: { maxSessions: most, maxSessionsPerAddress: most, maxSessionsPerUser: most },
  onListen() {},
  onOpen: () => void began++,
  onSessionRejected: () => void rejected++,
  onMessage: ({ data }) => handled(data),
  requests: {
    async work({ data }) {
      await new Promise((resolve) => setTimeout(resolve, WORK_MS));
      handled(data);
      return data;
    },
    say({ data }) {
      handled(data);
      return data;
    },
  },
});
console.log(JSON.stringify({ port: Number(new URL(server.url).port) }));
const lines = Deno.stdin.readable.pipeThrough(new TextDecoderStream())
  .pipeThrough(new TextLineStream());
for await (const _ of lines) {
  const stats: SilentServerStats = { sessions: server.manager.count, began, rejected };
  console.log(JSON.stringify(stats));
}
await server.close();
