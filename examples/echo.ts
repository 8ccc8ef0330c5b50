/**
 * The shortest server: it says to everybody what they said.
 *
 * ```sh
 * deno run -N examples/echo.ts
 * ```
 *
 * Then open http://localhost:8000 and write in the browser's console:
 *
 * ```text
 * ws = new WebSocket("ws://localhost:8000");
 * ws.onmessage = ({ data }) => console.log(data);
 * ws.onopen = () => ws.send('{"topic":"hello","data":"from a page"}');
 * ```
 *
 * With `--once` it talks to itself instead, and ends.
 *
 * @module
 */
import { dial, serve } from "../mod.ts"; // jsr:@skein/skein

const isOnce = Deno.args.includes("--once");

await using server = serve({
  port: isOnce ? 0 : 8000,
  onMessage(message, session) {
    if (message.isRequest) message.reply(message.data);
    else session.send(message.topic, message.data);
  },
});

if (isOnce) await talk(server.url);
else await new Promise(() => {});

async function talk(url: string): Promise<void> {
  await using session = await dial(url);

  session.send("hello", { to: "everybody" });
  for await (const message of session) {
    console.log("a message came back:", message.topic, message.data);
    break;
  }

  console.log("a request was answered:", await session.request("sum", [1, 2, 3]));
}
