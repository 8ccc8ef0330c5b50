/**
 * Sessions in a Hono app: Hono serves pages and the API, Skein serves sessions, on one port. The
 * same code works in every framework that gives access to the `Request`.
 *
 * ```sh
 * deno run -N examples/embed_in_hono.ts --once
 * ```
 *
 * Without `--once` the app keeps running, on port 8000.
 *
 * @module
 */
import { Hono } from "npm:hono@^4";
import { createServer, dial, guest, type RequestInfo } from "../mod.ts"; // jsr:@skein/skein
import { ONCE, optionsOf, PORT } from "./shared/options.ts";

const { port, once: isOnce } = optionsOf({
  run: "deno run -N examples/embed_in_hono.ts",
  about: "Serves sessions in a Hono app, on one port.",
}, { port: PORT, once: ONCE });

// This server does not listen: Hono passes requests to it.
await using server = createServer({
  authenticate: ({ token }) => token ?? guest,
  onOpen(session) {
    server.subscribe(session, "visits");
  },
  onMessage(message, session) {
    message.reply(`${session.user} from ${session.address}`);
  },
});

// `Deno.serve` passes the connection's addresses to Hono as `env`.
const app = new Hono<{ Bindings: RequestInfo }>();

// All methods: a session over HTTP, a client's last resort, uses GET, POST and DELETE.
app.all("/live", (c) => server.fetch(c.req.raw, c.env));

app.post("/visits/:page", (c) => {
  // Routes and sessions share the server, so any route can publish.
  server.publish("visits", { page: c.req.param("page") });
  return c.body(null, 204);
});

app.get("/online", (c) => c.json(server.presence.online()));

await using http = Deno.serve({ port: isOnce ? 0 : port }, app.fetch);

if (isOnce) await demonstrate(`http://localhost:${http.addr.port}`);
else await http.finished;

async function demonstrate(url: string): Promise<void> {
  await using session = await dial(`${url}/live?token=ann`);
  console.log("request:", await session.request("who am I"));
  console.log("online:", await (await fetch(`${url}/online`)).json());

  await fetch(`${url}/visits/pricing`, { method: "POST" });
  for await (const message of session) {
    console.log("published by a route:", message.topic, message.data);
    break;
  }

  const response = await fetch(`${url}/live`);
  console.log("no upgrade:", response.status, await response.text());
}
