/**
 * A kanban board for browsers: users add, edit and move cards together, and see each other's
 * pointers. Changes are shown at once, also during an outage, and are sent after the page has
 * reconnected. Two users who change different cards never lose a change.
 *
 * ```sh
 * deno run -A examples/board/server.ts                  # then open http://localhost:8009
 * deno run -A examples/board/server.ts --port 9009
 * deno run -A examples/board/server.ts --data plans.db  # board.db by default
 * deno run -A examples/board/server.ts --redis redis://localhost:6379    # two nodes
 * deno run -A examples/board/server.ts --once           # two clients move cards, and end
 * ```
 *
 * With `--redis`, two nodes listen, on the port and on the next one. Each has its own connection to
 * Redis, as on two machines. Open a page on each.
 *
 * Each board has an address, such as `http://localhost:8009/#plans`. `?transport=websocket` before
 * the `#` allows only that transport; `webtransport` and `http` work too.
 *
 * @module
 */
import type { Broker } from "../../mod.ts"; // jsr:@skein/skein
import { SqliteBroker } from "../../brokers/sqlite/mod.ts"; // jsr:@skein/skein/sqlite
import { ONCE, optionsOf, PORT } from "../shared/options.ts";
import { orEnd } from "../shared/or_end.ts";
import { readPage, servePage, withWorker } from "../shared/site.ts";
import { type BoardServer, serveBoards } from "./kanban.ts";
import { planOnce } from "./once.ts";

const FOLDER = new URL("page/", import.meta.url);

/** One server with its broker. */
interface Node {
  readonly server: BoardServer;
  readonly broker: Broker;
}

if (import.meta.main) await main();

async function main(): Promise<void> {
  const { port, data, redis, once } = optionsOf({
    run: "deno run -A examples/board/server.ts",
    about: "Serves a kanban board to plan on together.",
  }, {
    port: { ...PORT, default: 8009 },
    data: { value: "FILE", default: "board.db", help: "stores the boards in this file" },
    redis: { value: "URL", help: "stores them in Redis, and serves two nodes on two ports" },
    once: ONCE,
  });
  if (once) return await planOnce();
  // The page shares modules with the server, so it is bundled as a whole.
  const files = await readPage(FOLDER, ["index.html", "board.css"], {
    "/board.js": new URL("board.js", FOLDER),
  });
  const page = await withWorker(files);
  const fetch = (request: Request) => servePage(page, request);
  const nodes: Node[] = [];
  for (const number of redis === undefined ? [0] : [0, 1]) {
    nodes.push(
      await orEnd(async () => {
        const broker = redis === undefined
          ? await SqliteBroker.open(data)
          : await connectRedis(redis);
        return { broker, server: listen({ broker, port: port + number, fetch }) };
      }),
    );
  }
  async function end(): Promise<void> {
    // A second Ctrl-C does not wait.
    if (nodes.some(({ server }) => server.manager.isDraining)) Deno.exit(1);
    await Promise.all(nodes.map(async ({ server, broker }) => {
      await server.drain({ withinMs: 3_000, reason: "Restarting" });
      await broker.close();
    }));
    Deno.exit();
  }
  Deno.addSignalListener("SIGINT", end);
  if (Deno.build.os !== "windows") Deno.addSignalListener("SIGTERM", end);
}

/** Loads the broker only if it is used: its library reads the environment. */
async function connectRedis(url: string): Promise<Broker> {
  const { RedisBroker } = await import("../../brokers/redis/mod.ts"); // jsr:@skein/skein/redis
  return new RedisBroker({ url });
}

function listen(options: {
  readonly broker: Broker;
  readonly port: number;
  readonly fetch: (request: Request) => Response;
}): BoardServer {
  return serveBoards({
    ...options,
    // Listens on this machine only: there are no passwords.
    hostname: "127.0.0.1",
    onListen: ({ port }) => console.log(`Board at http://localhost:${port} (press Ctrl-C to stop)`),
  });
}
