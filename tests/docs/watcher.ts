/**
 * A client that connects through a proxy. `--cert` makes it trust the proxy's certificate. The
 * client prints each event as a line of JSON, and reads commands from stdin.
 *
 * ```sh
 * deno run -A --cert cert.pem tests/docs/watcher.ts https://localhost:8443 websocket
 * ```
 *
 * - `who` prints the server's reply to a request.
 * - `say FROM TO` publishes numbers, each at least once.
 *
 * @module
 */
import { connect, SessionClosedError } from "../../mod.ts";
import type { WatcherEvent, Who } from "./proxied_site.ts";

const [url, transport] = Deno.args as [string, "webtransport" | "websocket" | "http"];

function tell(event: WatcherEvent): void {
  console.log(JSON.stringify(event));
}

await using client = connect(url, {
  transports: [transport],
  delivery: "at-least-once",
  backoff: { firstDelayMs: 100, maxDelayMs: 1_000 },
});
const chat = client.subscribe("chat:lobby", {
  onRecovery: ({ recovered }) => tell({ recovered }),
});

async function follow(): Promise<void> {
  for await (const status of client.status) {
    if (status.name === "connected") tell({ opened: status.session });
  }
}

async function listen(): Promise<void> {
  await chat.ready;
  tell({ ready: transport });
  for await (const { data } of chat) tell({ heard: Number(data) });
}

/**
 * Requests the reply, in the next session if this one breaks: a proxy may detect a stopped node
 * late.
 */
async function askWho(): Promise<Who> {
  for (;;) {
    try {
      return await client.request("who", null) as Who;
    } catch (error) {
      if (client.status.isEnded || !(error instanceof SessionClosedError)) throw error;
    }
  }
}

async function obey(): Promise<void> {
  let rest = "";
  for await (const text of Deno.stdin.readable.pipeThrough(new TextDecoderStream())) {
    const lines = (rest + text).split("\n");
    rest = lines.pop()!;
    for (const line of lines) {
      const [command, from, to] = line.split(" ");
      if (command === "who") tell({ who: await askWho() });
      for (let n = Number(from); n <= Number(to); n++) await client.publish("chat:lobby", n);
    }
  }
  await client.close();
}

await Promise.all([follow(), listen(), obey()]);
