/**
 * The Skein server that is measured. It uses only the public API, the default limits except for the
 * numbers of sessions, and a contract that checks every incoming message.
 *
 * ```sh
 * deno run -A bench/server.ts --port 9100
 * ```
 *
 * With `--webtransport`, the server also serves WebTransport over UDP. With `--hardened`, it uses
 * `hardenedWebSocket()`.
 *
 * The server serves `/ws`, both as plain WebSocket and with the `skein.1` subprotocol. A `sub`
 * message subscribes to the topic in its data; the reply is `subok`. An `echo` message is echoed.
 * All other messages go to the subscribers of their topic, including the publisher if it is
 * subscribed.
 *
 * @module
 */
import { z } from "zod";
import { defineContract, serve } from "../mod.ts";
import { portOf } from "./args.ts";

const text = z.string();
const published = { bench: text, "bench:{n}": text };

const contract = defineContract({
  toServer: { sub: text, echo: text, ...published },
  toClient: { subok: z.undefined(), echo: text, ...published },
});

// Without the engine the server does not load `node:net`, which matters for the startup time.
const webSocket = Deno.args.includes("--hardened")
  ? (await import("../transport/hardened/mod.ts")).hardenedWebSocket({
    handshakeBurst: Infinity,
    maxPendingPerAddress: Infinity,
  })
  : undefined;

const server = serve({
  hostname: "127.0.0.1",
  port: portOf(Deno.args),
  path: "/ws",
  onListen() {},
  webTransport: Deno.args.includes("--webtransport") && { cacheFolder: null },
  // All sessions come from one address, thousands at once.
  ...(webSocket && { webSocket }),
  contract,
  limits: {
    // All sessions of a benchmark come from one address, for which the default is 1,000. A run with
    // 10,000 sessions has an additional publisher.
    maxSessions: 20_000,
    maxSessionsPerAddress: Infinity,
  },
  onMessage(message, session) {
    switch (message.pattern) {
      case "sub":
        server.subscribe(session, message.data);
        return session.send("subok");
      case "echo":
        return session.send("echo", message.data);
      default:
        server.publish(message.topic, message.data);
    }
  },
});
