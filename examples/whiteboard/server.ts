/**
 * A whiteboard for browsers, on which users draw together. It shows their pointers and names, and
 * keeps the history in one file. Strokes drawn during an outage are sent after the page has
 * reconnected. If the server is killed, it restores the drawing when it restarts.
 *
 * ```sh
 * deno run -A examples/whiteboard/server.ts                   # then open http://localhost:8006
 * deno run -A examples/whiteboard/server.ts --port 9006
 * deno run -A examples/whiteboard/server.ts --data art.db     # whiteboard.db by default
 * deno run -A examples/whiteboard/server.ts --once            # two clients draw, and end
 * ```
 *
 * Each board has an address, such as `http://localhost:8006/#plans`. `?transport=websocket` before
 * the `#` allows only that transport; `webtransport` and `http` work too.
 *
 * @module
 */
import { SqliteBroker } from "../../brokers/sqlite/mod.ts"; // jsr:@skein/skein/sqlite
import { ONCE, optionsOf, PORT } from "../shared/options.ts";
import { orEnd } from "../shared/or_end.ts";
import { readPage, servePage } from "../shared/site.ts";
import { drawOnce } from "./once.ts";
import { serveWhiteboard, type WhiteboardServer } from "./whiteboard.ts";

const FOLDER = new URL("page/", import.meta.url);

if (import.meta.main) await main();

async function main(): Promise<void> {
  const { port, data, once } = optionsOf({
    run: "deno run -A examples/whiteboard/server.ts",
    about: "Serves a whiteboard to draw on together.",
  }, {
    port: { ...PORT, default: 8006 },
    data: { value: "FILE", default: "whiteboard.db", help: "stores the boards in this file" },
    once: ONCE,
  });
  if (once) return await drawOnce();
  // The page shares modules with the server, so it is bundled as a whole.
  const page = await readPage(FOLDER, ["index.html", "whiteboard.css"], {
    "/whiteboard.js": new URL("whiteboard.js", FOLDER),
  });
  const broker = await orEnd(() => SqliteBroker.open(data));
  const server: WhiteboardServer = await orEnd(() =>
    serveWhiteboard({
      broker,
      port,
      // Listens on this machine only: there are no passwords.
      hostname: "127.0.0.1",
      fetch: (request) => servePage(page, request),
      onListen: ({ port }) =>
        console.log(`Whiteboard at http://localhost:${port} (press Ctrl-C to stop)`),
    })
  );
  async function end(): Promise<void> {
    if (server.manager.isDraining) Deno.exit(1); // A second Ctrl-C does not wait.
    await server.drain({ withinMs: 3_000, reason: "Restarting" });
    await broker.close();
    Deno.exit();
  }
  Deno.addSignalListener("SIGINT", end);
  if (Deno.build.os !== "windows") Deno.addSignalListener("SIGTERM", end);
}
