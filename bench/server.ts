/**
 * The server that is measured: Skein's public API alone, with its default
 * limits, and with every message that comes checked against a contract.
 *
 * ```sh
 * deno run -A bench/server.ts --port 9100
 * ```
 *
 * With `--webtransport` it serves WebTransport too, on UDP; with `--hardened` its WebSockets are
 * those of `hardenedWebSocket()`.
 *
 * Path `/ws`, plain and `skein.1`. `sub` subscribes to the topic that is its
 * data and is answered with `subok`; `echo` comes back as it is; everything else
 * goes to the subscribers of its topic, the publisher included if it is one.
 *
 * @module
 */
import { z } from "zod";
import { defineContract, serve } from "../mod.ts";
import { hardenedWebSocket } from "../transport/hardened/mod.ts";
import { portOf } from "./args.ts";

const text = z.string();
const published = { bench: text, "bench:{n}": text };

const contract = defineContract({
  toServer: { sub: text, echo: text, ...published },
  toClient: { subok: z.undefined(), echo: text, ...published },
});

const server = serve({
  hostname: "127.0.0.1",
  port: portOf(Deno.args),
  path: "/ws",
  onListen() {},
  webTransport: Deno.args.includes("--webtransport") && { cacheFolder: null },
  // All come from one address, and thousands at once.
  ...(Deno.args.includes("--hardened")
    ? { webSocket: hardenedWebSocket({ handshakeBurst: Infinity, maxPendingPerAddress: Infinity }) }
    : {}),
  contract,
  limits: {
    // All sessions of a benchmark come from one address, where the default is 1,000, and a run
    // with 10,000 of them has a publisher beside.
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
