/**
 * Runs a node with Yjs documents, for tests that kill it: `yjs_node.ts PORT FOLDER BROKER`. The
 * broker is `sqlite`, or the URL of a Redis or NATS server. The folder contains the document states
 * and, if the test has a page, the page's script.
 *
 * @module
 */
import { SqliteYjsStore } from "../../examples/adapters/yjs_store.ts";
import { YjsDocuments } from "../../examples/adapters/yjs_server.ts";
import { serve } from "../../mod.ts";
import type { Broker } from "../../pubsub/mod.ts";
import { NatsBroker } from "../../brokers/nats/mod.ts";
import { RedisBroker } from "../../brokers/redis/mod.ts";
import { SqliteBroker } from "../../brokers/sqlite/mod.ts";

const [port, folder, broker = ""] = Deno.args;
const script = await Deno.readTextFile(`${folder}/page.js`).catch(() => "");
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
  broker: await brokerOf(broker),
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

async function brokerOf(broker: string): Promise<Broker> {
  if (broker.startsWith("redis:")) return new RedisBroker({ url: broker });
  if (broker.startsWith("nats:")) return new NatsBroker({ servers: broker });
  return await SqliteBroker.open(`${folder}/broker.db`);
}
