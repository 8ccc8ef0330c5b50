/**
 * A node with Yjs documents in SQLite files, for tests that kill the node:
 * `yjs_node.ts PORT FOLDER`. The folder has the script of the page.
 *
 * @module
 */
import { SqliteYjsStore } from "../../examples/adapters/yjs_store.ts";
import { YjsDocuments } from "../../examples/adapters/yjs_server.ts";
import { serve } from "../../mod.ts";
import { SqliteBroker } from "../../pubsub/sqlite/mod.ts";

const [port, folder] = Deno.args;
const script = await Deno.readTextFile(`${folder}/page.js`);
const documents = new YjsDocuments({
  store: new SqliteYjsStore(`${folder}/documents.db`),
  authorize: () => true,
  saveAfterMs: 100,
});
const server = serve({
  port: Number(port),
  hostname: "127.0.0.1",
  webTransport: false,
  onListen: () => console.log("ready"),
  broker: await SqliteBroker.open(`${folder}/broker.db`),
  history: documents.history,
  requests: documents.requests,
  authorize: (session, topic, action) => documents.authorize(session, topic, action),
  fetch: ({ url }) =>
    new URL(url).pathname === "/page.js"
      ? new Response(script, { headers: { "content-type": "text/javascript" } })
      : new Response(
        `<!doctype html><title>Yjs</title><script type="module" src="/page.js"></script>`,
        {
          headers: { "content-type": "text/html" },
        },
      ),
});
documents.attach(server);
