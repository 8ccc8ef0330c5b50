/**
 * The shortest server: a loop per session that sends every message back. Also a first client.
 *
 * ```sh
 * deno run -N --unstable-net examples/echo.ts        # stays until Ctrl-C
 * deno run -N --unstable-net examples/echo.ts --once
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
import { ONCE, optionsOf, PORT } from "./shared/options.ts";

const { port, once } = optionsOf({
  run: "deno run -N --unstable-net examples/echo.ts",
  about: "Sends every message of a session back.",
}, { port: PORT, once: ONCE });

const server = serve({
  port: once ? 0 : port,
  async onOpen(session) {
    for await (const { topic, data } of session) session.send(topic, data);
  },
});

await using session = await dial(server.url);
session.send("hello", "Is anybody there?");
for await (const { topic, data } of session) {
  console.log(topic, data);
  if (once) await server.close();
}
