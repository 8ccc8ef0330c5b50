/**
 * A chat for browsers with rooms, direct messages and presence. Lines that a user types during an
 * outage are sent after the page has reconnected.
 *
 * ```sh
 * deno task demo                 # then open http://localhost:8000
 * deno task demo --port 9000
 * deno task demo --data chat.db  # lines and letters survive a restart
 * deno task demo --once          # runs a scripted conversation, prints it, and ends
 * ```
 *
 * The badge in the page's corner shows the transport. `?transport=websocket` or
 * `?transport=webtransport` in the page's URL allows only that transport.
 *
 * To start the server without the task, run `deno run -N -R --allow-run examples/chat/server.ts`.
 * The server runs `deno bundle` for the page's script. With `--data` it also needs `-W
 * --allow-sys=osUptime`; with `--once` it needs only `-N`.
 *
 * @module
 */
import { type ChatServer, serveChat } from "./chat.ts";
import { ONCE, optionsOf, PORT } from "../shared/options.ts";
import { orEnd } from "../shared/or_end.ts";
import { CLIENT, readPage, servePage } from "../shared/site.ts";
import { SqliteBroker } from "../../brokers/sqlite/mod.ts";
import { talk } from "./talk.ts";

const FILES = ["index.html", "chat.css", "chat.js", "view.js"];

if (import.meta.main) await main();

async function main(): Promise<void> {
  const { port, data, once } = optionsOf({
    run: "deno run -N -R --allow-run examples/chat/server.ts",
    about: "Serves a chat with rooms, direct messages and presence.",
  }, {
    port: PORT,
    data: { value: "FILE", help: "stores lines and letters in this file (with -W --allow-sys)" },
    once: ONCE,
  });
  if (once) return await talk();
  const file = data === undefined ? undefined : await orEnd(() => SqliteBroker.open(data));
  const page = await readPage(new URL("page/", import.meta.url), FILES, CLIENT);
  const server = listen(() =>
    serveChat({
      port,
      history: file?.history,
      // Listens on this machine only: there are no passwords.
      hostname: "127.0.0.1",
      fetch: (request) => servePage(page, request),
      onListen: ({ port }) =>
        console.log(`Chat at http://localhost:${port} (press Ctrl-C to stop)`),
    })
  );
  // The first Ctrl-C drains, and tells every page when to reconnect. A second one does not wait.
  const impatience = new AbortController();
  async function end(): Promise<void> {
    if (server.manager.isDraining) return impatience.abort();
    await server.drain({ withinMs: 3_000, reason: "Restarting", signal: impatience.signal });
    await file?.close();
    Deno.exit();
  }
  Deno.addSignalListener("SIGINT", end);
  if (Deno.build.os !== "windows") Deno.addSignalListener("SIGTERM", end);
}

function listen(serve: () => ChatServer): ChatServer {
  try {
    return serve();
  } catch (error) {
    if (!(error instanceof Deno.errors.AddrInUse)) throw error;
    console.error("Cannot listen: the port is in use; choose another with --port");
    return Deno.exit(1);
  }
}
