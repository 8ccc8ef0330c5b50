/**
 * An agent that plans an evening: it streams, calls tools, asks before it books, takes notes while
 * it works, and can be stopped, from any device of its user. It continues after its server was
 * killed, for which the page has a button.
 *
 * ```sh
 * deno run -A examples/agent/server.ts                # then open http://localhost:8000
 * deno run -A examples/agent/server.ts --port 9000
 * deno run -A examples/agent/server.ts --data FOLDER  # by default a folder for temporary files
 * deno run -A examples/agent/server.ts --pace 200     # milliseconds a word
 * ```
 *
 * The agent's model is a small program that needs no key. This process only starts the server, in
 * another process, and starts it again after it was killed. Each name is a user:
 * `http://localhost:8000/?name=ann`.
 *
 * @module
 */
import { SqliteBroker } from "../../brokers/sqlite/mod.ts"; // jsr:@skein/skein/sqlite
import { optionsOf, PORT } from "../shared/options.ts";
import { orEnd } from "../shared/or_end.ts";
import { CLIENT, readPage, servePage } from "../shared/site.ts";
import { serveAgents } from "./agent.ts";

if (import.meta.main) {
  const { serve, ...given } = options();
  if (serve) await serveOnce(given);
  else await keepServing();
}

/** Starts the server, and again whenever it was killed. */
async function keepServing(): Promise<void> {
  let child: Deno.ChildProcess | undefined;
  // A server that has ended has no use for the signal.
  const pass = (signal: Deno.Signal) => {
    // A terminal has already sent the signal to the server.
    if (signal === "SIGINT" && Deno.stdin.isTerminal()) return;
    try {
      child?.kill(signal);
    } catch (error) {
      if (!(error instanceof TypeError)) throw error;
    }
  };
  Deno.addSignalListener("SIGINT", () => pass("SIGINT"));
  if (Deno.build.os !== "windows") Deno.addSignalListener("SIGTERM", () => pass("SIGTERM"));
  while (true) {
    child = new Deno.Command(Deno.execPath(), {
      args: ["run", "-A", import.meta.url, ...Deno.args, "--serve"],
      stdin: "piped", // It ends with this process, and then so does the server.
    }).spawn();
    const { signal, code } = await child.status;
    await child.stdin.close().catch(() => {});
    if (signal !== "SIGKILL") Deno.exit(code);
    console.log("The server was killed, and starts again");
  }
}

async function serveOnce(
  { port, pace, data = `${Deno.env.get("TMPDIR") ?? "/tmp"}/skein-agent` }: {
    readonly port: number;
    readonly pace: number;
    readonly data: string | undefined;
  },
): Promise<void> {
  await Deno.mkdir(data, { recursive: true });
  const files = ["index.html", "agent.css", "agent.js"];
  const page = await readPage(new URL("page/", import.meta.url), files, CLIENT);
  // Only one server at a time can open the file.
  const broker = await orEnd(() => SqliteBroker.open(`${data}/agent.db`));
  const server = await orEnd(() =>
    serveAgents({
      port,
      paceMs: pace,
      broker,
      crash: () => Deno.kill(Deno.pid, "SIGKILL"),
      // Listens on this machine only: there are no passwords.
      hostname: "127.0.0.1",
      fetch: (request) => servePage(page, request),
      onListen: ({ port }) =>
        console.log(
          `Agent at http://localhost:${port} keeps its data in ${data} (press Ctrl-C to stop)`,
        ),
    })
  );
  const signals: Deno.Signal[] = Deno.build.os === "windows" ? ["SIGINT"] : ["SIGINT", "SIGTERM"];
  const { promise: ended, resolve } = Promise.withResolvers<void>();
  const end = () => {
    // A second signal exits immediately.
    for (const signal of signals) Deno.removeSignalListener(signal, end);
    resolve();
  };
  for (const signal of signals) Deno.addSignalListener(signal, end);
  const parent = Deno.stdin.readable.pipeTo(new WritableStream()).catch(() => {});
  await Promise.race([ended, parent]);
  // Tells every page when to reconnect. The next server continues the runs.
  await server.drain({ withinMs: 3_000, reason: "Restarting" });
  await broker.close();
  Deno.exit();
}

function options() {
  return optionsOf({
    run: "deno run -A examples/agent/server.ts",
    about: "Serves an agent that can be stopped, steered and asked from any device.",
  }, {
    port: PORT,
    data: { value: "FOLDER", help: "keeps the runs there; by default in a temporary folder" },
    pace: { value: "MS", default: 60, help: "milliseconds a word" },
    serve: { help: "serves in this process, which is not started again" },
  });
}
