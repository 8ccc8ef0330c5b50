/**
 * Serves the page, and sessions for its buttons: a session sends the nodes' states to the page, and
 * the page's actions to the program.
 *
 * @module
 */
import { serve } from "../../mod.ts";
import { CLIENT, readPage, servePage } from "../shared/site.ts";
import type { Cluster } from "./cluster.ts";
import { control } from "./contract.ts";

const FILES = ["index.html", "cluster.css", "cluster.js", "view.js"];

/** Serves the page and the buttons, on this machine only. */
export async function serveControl(cluster: Cluster, port: number): Promise<void> {
  const page = await readPage(new URL("page/", import.meta.url), FILES, CLIENT);
  const server = serve({
    port,
    hostname: "127.0.0.1",
    path: "/control",
    webTransport: false,
    onListen() {},
    // The room is behind the balancer, on another port.
    fetch: (request) =>
      servePage(page, request, ({ hostname }) => [`ws://${hostname}:${cluster.port}`]),
    contract: control,
    onOpen(session) {
      server.subscribe(session, "cluster");
      session.send("cluster", cluster.summary);
    },
    onMessage: ({ data: { verb, number } }) => void cluster.do(verb, number),
  });
  cluster.onChange = () => server.publish("cluster", cluster.summary);
}
