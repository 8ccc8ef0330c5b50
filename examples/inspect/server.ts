/**
 * Live diagnostics of all sessions of a server, in a page: traffic, queues, stuck sessions, and the
 * reasons.
 *
 * ```sh
 * deno run -N -R --allow-run examples/inspect/server.ts    # then open http://localhost:8001
 * deno run -N -R --allow-run examples/inspect/server.ts --port 9001
 * deno run -N examples/inspect/server.ts --once            # measures once, prints the result, and ends
 * ```
 *
 * The example inspects a server with users of its own. Pass your own server to `serveInspector`
 * instead. The inspector listens on this machine only, and hides secrets in headers, cookies and
 * URLs.
 *
 * @module
 */
import { dial } from "../../mod.ts";
import { servePage } from "../chat/page.ts";
import { Demo, SECRET } from "./demo.ts";
import { serveInspector } from "./inspector.ts";
import { readPage } from "./page.ts";
import type { Detail, Overview } from "./view.ts";

if (import.meta.main) await main(Deno.args);

async function main(args: readonly string[]): Promise<void> {
  if (args.includes("--once")) return await lookOnce();
  const at = args.indexOf("--port");
  const page = await readPage();
  const demo = await Demo.start();
  const end = new AbortController();
  serveInspector(demo.app, {
    port: at < 0 ? 8001 : Number(args[at + 1]),
    fetch: (request) => servePage(page, request),
    onListen: ({ port }) => console.log(`Inspector at http://localhost:${port} (Ctrl-C ends it)`),
  }, end.signal);
  Deno.addSignalListener("SIGINT", async () => {
    end.abort();
    await demo[Symbol.asyncDispose]();
    Deno.exit();
  });
}

/** Prints the data that a page receives. */
async function lookOnce(): Promise<void> {
  const end = new AbortController();
  await using demo = await Demo.start();
  await using inspector = serveInspector(
    demo.app,
    { port: 0, onListen() {}, intervalMs: 100 },
    end.signal,
  );
  await using session = await dial(`${inspector.url}session`);
  await session.subscribe("overview");
  let told = "";
  for await (const { data } of session) {
    const overview = data as Overview;
    const stuck = overview.rows.find(({ user }) => user === "olek");
    // Messages to this session may still be on the way.
    if (stuck === undefined || stuck.issues.length === 0) continue;
    const users = overview.rows.map(({ user }) => user).filter((user) => !user.startsWith("guest"));
    console.log(`sessions of ${users.sort().join(", ")}`);
    console.log(`olek: ${stuck.issues[0]!.message}`);
    const detail = await session.request("detail", stuck.id) as Detail;
    console.log(`cookie: ${detail.state?.diagnostics.headers.cookie}`);
    told = JSON.stringify([overview, detail]);
    break;
  }
  console.log(`the secret is shown: ${told.includes(SECRET)}`);
  end.abort();
}
