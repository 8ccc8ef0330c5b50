/**
 * A whiteboard for browsers: drawing together, with pointers, names and a history in one file.
 * Strokes drawn during an outage are sent after the reconnect, and a server that is killed has the
 * drawing when it starts again.
 *
 * ```sh
 * deno run -A examples/whiteboard/server.ts                   # then open http://localhost:8006
 * deno run -A examples/whiteboard/server.ts --port 9006
 * deno run -A examples/whiteboard/server.ts --data art.db     # whiteboard.db by default
 * deno run -A examples/whiteboard/server.ts --once            # two clients draw, and end
 * ```
 *
 * Each board has an address, such as `http://localhost:8006/#plans`. `?transport=websocket` before
 * the `#` allows only that transport; so do `webtransport` and `http`.
 *
 * @module
 */
import { BrokerError } from "../../mod.ts"; // jsr:@skein/skein
import { SqliteBroker } from "../../pubsub/sqlite/mod.ts"; // jsr:@skein/skein/sqlite
import { bundleClient, type Page, readFiles, servePage } from "../chat/page.ts";
import { drawOnce } from "./once.ts";
import { serveWhiteboard, type WhiteboardServer } from "./whiteboard.ts";

const FILES = {
  "/": ["index.html", "text/html"],
  "/whiteboard.css": ["whiteboard.css", "text/css"],
} as const;

if (import.meta.main) await main(Deno.args);

async function main(args: readonly string[]): Promise<void> {
  if (args.includes("--once")) return await drawOnce();
  const page = await readPage();
  const broker = await orEnd(() => SqliteBroker.open(option(args, "--data") ?? "whiteboard.db"));
  const server: WhiteboardServer = await orEnd(() =>
    serveWhiteboard({
      broker,
      port: Number(option(args, "--port") ?? 8006),
      // Listens on this machine only: there are no passwords.
      hostname: "127.0.0.1",
      fetch: (request) => servePage(page, request),
      onListen: ({ port }) =>
        console.log(`Whiteboard at http://localhost:${port} (Ctrl-C ends it)`),
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

/** Reads the files of the page, and bundles its modules, some of which the server uses too. */
async function readPage(): Promise<Page> {
  const page = await readFiles(new URL("page/", import.meta.url), FILES);
  const body = await bundleClient(new URL("page/whiteboard.js", import.meta.url));
  page.set("/whiteboard.js", { type: "text/javascript", body });
  return page;
}

/** Ends the program with one line if a port is taken, or a file or an option is not usable. */
async function orEnd<T>(start: () => T | Promise<T>): Promise<T> {
  try {
    return await start();
  } catch (error) {
    const isKnown = [BrokerError, TypeError, RangeError, Deno.errors.AddrInUse]
      .some((kind) => error instanceof kind);
    if (!isKnown) throw error;
    console.error((error as Error).message);
    return Deno.exit(1);
  }
}

function option(args: readonly string[], name: string): string | undefined {
  const at = args.indexOf(name);
  return at < 0 ? undefined : args[at + 1] ?? "";
}
