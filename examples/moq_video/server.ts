/**
 * Live video between browsers over Media over QUIC: one page sends a canvas or camera, others watch.
 *
 * ```sh
 * deno run -N -R --allow-run --unstable-net examples/moq_video/server.ts    # then open http://127.0.0.1:8002
 * deno run -N -R --allow-run --unstable-net examples/moq_video/server.ts --port 9002
 * deno run -N --unstable-net examples/moq_video/server.ts --once            # without pages; prints each step, and ends
 * ```
 *
 * The server is a plain relay. The server listens on this machine only, because there are no passwords.
 *
 * @module
 */
import { listenMoq, MoqRelay, type MoqServer } from "../../pubsub/moq/mod.ts";
import { type Page, servePage } from "../chat/page.ts";
import { readPage } from "./page.ts";
import { showOnce } from "./once.ts";

if (import.meta.main) await main(Deno.args);

async function main(args: readonly string[]): Promise<void> {
  if (args.includes("--once")) return await showOnce(serveVideo({ port: 0 }));
  const at = args.indexOf("--port");
  const page = await readPage();
  const server = serveVideo({ port: at < 0 ? 8002 : Number(args[at + 1]), page });
  console.log(`Video at http://127.0.0.1:${server.address?.port} (Ctrl-C ends it)`);
  Deno.addSignalListener("SIGINT", async function end() {
    Deno.removeSignalListener("SIGINT", end); // A second Ctrl-C exits immediately.
    await server.close();
    Deno.exit();
  });
}

/** Serves the page, and relays broadcasts between pages. */
function serveVideo({ port, page }: { readonly port: number; readonly page?: Page }): MoqServer {
  const relay = new MoqRelay({ prefix: "/live" });
  return listenMoq({
    hostname: "127.0.0.1",
    port,
    mux: relay.mux,
    authorize: (_session, path, action) => action !== "publish" || path.startsWith("/live/"),
    onSession: (session) => relay.accept(session),
    fetch: (request) => servePage(page ?? new Map(), request),
  });
}
