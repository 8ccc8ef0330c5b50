/** Tests that a lost session gives way to a session on another node, over real Redis and NATS. */
import { assertEquals } from "@std/assert";
import { type Client, type ClientStatus, connect } from "../../mod.ts";
import type { Broker } from "../../pubsub/mod.ts";
import { listen, portOf } from "../servers.ts";
import { TcpPath } from "../networks/tcp_path.ts";
import { soon } from "../waiting.ts";
import { BROKERS } from "./stores.ts";

function node(broker: Broker) {
  return listen({
    broker,
    authenticate: () => "ann",
    limits: { maxSessionsPerUser: 1 },
    onSessionRejected() {},
    onError() {},
  });
}

/** Resolves with the next status of a client. */
function nextStatus(client: Client): Promise<ClientStatus> {
  return new Promise((resolve) => {
    const { current } = client.status;
    const leave = client.status.subscribe((status) => {
      if (status === current) return;
      queueMicrotask(() => leave());
      resolve(status);
    });
  });
}

for (const { name, ignore, start } of BROKERS) {
  Deno.test({
    name:
      `A lost session gives way to a session on another node on ${name}, and a live one does not`,
    ignore,
    fn: async () => {
      const { store, open } = await start();
      await using _store = store;
      await using near = open();
      await using far = open();
      await using one = node(near);
      await using two = node(far);
      await Promise.all([one.nodes!.ready, two.nodes!.ready]);
      await using path = new TcpPath(portOf(one));
      const options = {
        transports: ["websocket" as const],
        onError() {},
        backoff: { firstDelayMs: 200, maxDelayMs: 500 },
      };
      await using before = connect(`ws://127.0.0.1:${path.port}`, options);
      await soon(before.whenConnected());
      const [there] = one.manager.sessionsOf("ann");
      await using reloaded = connect(two.url, options);
      // A session that answers is kept, however often the other client tries.
      for (let rejections = 0; rejections < 3;) {
        const { name } = await soon(nextStatus(reloaded));
        if (name === "reconnecting") rejections++;
      }
      assertEquals([there!.isReady, two.manager.count], [true, 0]);
      path.cut();
      await soon(reloaded.whenConnected());
      const { code, reason } = await soon(there!.closed);
      assertEquals([code, reason], [4408, "No sign of life"]);
      assertEquals([one.manager.count, two.manager.count], [0, 1]);
    },
  });
}
