/**
 * Tests a server with a `SqliteBroker` that restarts. Clients recover as they do after a lost
 * connection.
 *
 * @module
 */
import { assertEquals } from "@std/assert";
import { connect } from "../client.ts";
import { SqliteBroker } from "../brokers/sqlite/mod.ts";
import type { Server } from "../server.ts";
import { Cable } from "./networks/cable.ts";
import { listen, portOf } from "./servers.ts";
import { soon, until } from "./waiting.ts";

/** Starts a server with a database file; `stop` closes both. */
async function start(path: string): Promise<[server: Server, stop: () => Promise<void>]> {
  const broker = await SqliteBroker.open(path);
  const history = { "room:{name}": { size: 100, ttlMs: 60_000 } };
  const server = listen({ broker, history, authorize: () => true, webTransport: false });
  return [server, async () => {
    await server.close();
    await broker.close();
  }];
}

Deno.test("Clients of a server with a SqliteBroker recover after a restart, and new clients read the history", async () => {
  const path = await Deno.makeTempFile();
  const [first, stopFirst] = await start(path);
  await using cable = new Cable(portOf(first));
  await using client = connect(cable.url, {
    backoff: { firstDelayMs: 4, maxDelayMs: 8 },
    transports: ["websocket"],
  });
  const got: unknown[] = [];
  const subscription = client.subscribe("room:a", {
    onRecovery: ({ recovered }) => void got.push(recovered),
  });
  const done = (async () => {
    for await (const { data } of subscription) got.push(data);
  })();
  await soon(subscription.ready);
  await client.publish("room:a", 1);
  await until(() => got.length === 1);
  cable.cut();
  await until(() => subscription.status.current === "lost");
  await first.topics.append("room:a", 2);
  await stopFirst();

  const [second, stopSecond] = await start(path);
  await second.topics.append("room:a", 3);
  cable.port = portOf(second);
  await until(() => got.length === 4);
  assertEquals(got, [1, true, 2, 3]);
  await client.publish("room:a", 4);
  await using late = connect(second.url, { transports: ["websocket"] });
  const past: unknown[] = [];
  for await (const { data } of late.subscribe("room:a", { last: 3 })) {
    if (past.push(data) === 3) break;
  }
  assertEquals(past, [2, 3, 4]);
  await client.close();
  await done;
  await stopSecond();
  await Deno.remove(path);
});
