/**
 * Serves the page, and a session for the buttons: the session carries the states of the nodes to
 * the page, and the page's actions to the program.
 *
 * @module
 */
import { serve } from "../../mod.ts";
import { bundleClient, type Page, servePage } from "../chat/page.ts";
import type { Cluster } from "./cluster.ts";
import { control } from "./contract.ts";

const FILES = {
  "/": ["index.html", "text/html"],
  "/cluster.css": ["cluster.css", "text/css"],
  "/cluster.js": ["cluster.js", "text/javascript"],
  "/view.js": ["view.js", "text/javascript"],
} as const;

/** Serves the page and the buttons, on this machine only. */
export async function serveControl(cluster: Cluster, port: number): Promise<void> {
  const page = await readPage();
  const server = serve({
    port,
    hostname: "127.0.0.1",
    path: "/control",
    webTransport: false,
    onListen() {},
    fetch: (request) => servePage(page, request),
    contract: control,
    onOpen(session) {
      server.subscribe(session, "cluster");
      session.send("cluster", cluster.summary);
    },
    onMessage: ({ data: { verb, number } }) => void cluster.do(verb, number),
  });
  cluster.onChange = () => server.publish("cluster", cluster.summary);
}

async function readPage(): Promise<Page> {
  const page = new Map<string, { type: string; body: string }>();
  for (const [path, [name, type]] of Object.entries(FILES)) {
    const body = await Deno.readTextFile(new URL(`page/${name}`, import.meta.url));
    page.set(path, { type, body });
  }
  const client = await bundleClient(new URL("../../client.ts", import.meta.url));
  return page.set("/skein-client.js", { type: "text/javascript", body: client });
}
