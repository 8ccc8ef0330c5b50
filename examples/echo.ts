/**
 * The shortest server: a loop over each session that sends every message back, and a first client.
 *
 * ```sh
 * deno run -N --unstable-net examples/echo.ts        # stays until Ctrl-C
 * deno run -N --unstable-net examples/echo.ts 0 --once
 * ```
 *
 * While the server runs, open http://localhost:8000 and write in the browser's console:
 *
 * ```text
 * ws = new WebSocket("ws://localhost:8000");
 * ws.onmessage = ({ data }) => console.log(data);
 * ws.onopen = () => ws.send('{"topic":"hello","data":"from a page"}');
 * ```
 *
 * @module
 */
import { dial, serve } from "../mod.ts"; // In your own project: jsr:@skein/skein

const server = serve({
  port: Number(Deno.args[0] ?? 8000),
  async onOpen(session) {
    for await (const { topic, data } of session) session.send(topic, data);
  },
});

await using session = await dial(server.url);
session.send("hello", "Is anybody there?");
for await (const { topic, data } of session) {
  console.log(topic, data);
  if (Deno.args.includes("--once")) await server.close();
}
