/**
 * A node of the chaos test: `server.ts <port> <engine's url> [shared]`. Prints `{}` once it listens. `opened`
 * prints when sessions began, in milliseconds since the Unix epoch, since that was asked last;
 * `drain <ms>` drains it and ends the process. Whoever names a `user` in the URL is that user.
 *
 * @module
 */
import { serve } from "../../../mod.ts";
import { TextLineStream } from "../lines.ts";
import { brokerFor, HISTORY, PATTERN } from "./engine.ts";

const [port, url, shared] = Deno.args;
const broker = brokerFor(url!);
let opened: number[] = [];
const server = serve({
  port: Number(port),
  hostname: "127.0.0.1",
  webTransport: false,
  reusePort: shared !== undefined,
  onListen() {},
  broker,
  history: { [PATTERN]: HISTORY },
  // A text is a user; `null` is nobody.
  authenticate: ({ request }) => new URL(request.url).searchParams.get("user"),
  authorize: () => true,
  onOpen: () => void opened.push(Date.now()),
  limits: { maxSessionsPerAddress: Infinity },
});
say({});

const commands = Deno.stdin.readable.pipeThrough(new TextDecoderStream())
  .pipeThrough(new TextLineStream());
for await (const line of commands) {
  const [command, withinMs] = line.split(" ");
  if (command === "opened") {
    say(opened);
    opened = [];
  }
  if (command !== "drain") continue;
  const report = await server.drain({ withinMs: Number(withinMs) });
  await broker.close();
  say(report);
  break;
}
Deno.exit(0);

function say(line: unknown): void {
  // deno-lint-ignore no-console
  console.log(JSON.stringify(line));
}
