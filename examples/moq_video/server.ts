/**
 * Live video between browsers over Media over QUIC: one page sends a canvas or its camera, others
 * watch.
 *
 * ```sh
 * deno run -N -R --allow-run --unstable-net examples/moq_video/server.ts    # then open http://127.0.0.1:8002
 * deno run -N -R --allow-run --unstable-net examples/moq_video/server.ts --port 9002
 * deno run -N --unstable-net examples/moq_video/server.ts --once            # without pages; prints each step, and ends
 * ```
 *
 * The server is a plain relay. It accepts only connections from this machine, because it has no
 * authentication.
 *
 * @module
 */
import { listenMoq, MoqRelay, type MoqServer } from "../../moq/mod.ts";
import { ONCE, optionsOf, PORT } from "../shared/options.ts";
import { type Page, servePage } from "../shared/site.ts";
import { readVideoPage } from "./page.ts";
import { showOnce } from "./once.ts";

if (import.meta.main) await main();

async function main(): Promise<void> {
  const { port, once } = optionsOf({
    run: "deno run -N -R --allow-run --unstable-net examples/moq_video/server.ts",
    about: "Relays live video between browsers over Media over QUIC.",
  }, { port: { ...PORT, default: 8002 }, once: ONCE });
  if (once) return await showOnce(serveVideo({ port: 0 }));
  const server = serveVideo({ port, page: await readVideoPage() });
  console.log(`Video at http://127.0.0.1:${server.address?.port} (press Ctrl-C to stop)`);
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
