/**
 * A node of the chaos test. Usage: `server.ts <port> <broker's url> [shared]`. It prints `{}` when
 * it is listening. The command `opened` prints the sessions that started since the last `opened`,
 * and `drain <ms>` drains the node and exits. The session's user is taken from `user` in the URL;
 * without it, the user is a guest.
 *
 * @module
 */
import { type DrainReport, guest, serve } from "../../../mod.ts";
import { Lateness } from "../processes/lateness.ts";
import { TextLineStream } from "../processes/lines.ts";
import { brokerFor, HISTORY, PATTERN } from "./broker.ts";

/** Output of `opened`. */
export interface Opened {
  /** Times at which sessions started, in milliseconds since the Unix epoch. */
  readonly times: readonly number[];
  /** Longest timer delay of the process, in milliseconds. */
  readonly lateMs: number;
}

/** Output of `drain`. */
export type Drained = DrainReport & Pick<Opened, "lateMs">;

const [port, url, shared] = Deno.args;
const broker = brokerFor(url!);
const lateness = new Lateness();
let times: number[] = [];
const server = serve({
  port: Number(port),
  // Nodes that share a port have many clients, which use several loopback addresses.
  hostname: shared === undefined ? "127.0.0.1" : "0.0.0.0",
  webTransport: false,
  reusePort: shared !== undefined,
  onListen() {},
  broker,
  history: { [PATTERN]: HISTORY },
  authenticate: ({ request }) => new URL(request.url).searchParams.get("user") ?? guest,
  authorize: () => true,
  onOpen: () => void times.push(Date.now()),
  limits: { maxSessions: 20_000, maxSessionsPerAddress: Infinity },
});
say({});

const commands = Deno.stdin.readable.pipeThrough(new TextDecoderStream())
  .pipeThrough(new TextLineStream());
for await (const line of commands) {
  const [command, withinMs] = line.split(" ");
  if (command === "opened") {
    say({ times, lateMs: lateness.take() } satisfies Opened);
    times = [];
  }
  if (command !== "drain") continue;
  lateness.take();
  const report = await server.drain({ withinMs: Number(withinMs) });
  await broker.close();
  say({ ...report, lateMs: lateness.take() } satisfies Drained);
  break;
}
Deno.exit(0);

function say(line: unknown): void {
  // deno-lint-ignore no-console
  console.log(JSON.stringify(line));
}
