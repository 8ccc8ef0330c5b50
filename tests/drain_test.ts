import { assert, assertEquals, assertRejects } from "@std/assert";
import { connect, dial, type Session, SessionClosedError } from "../client.ts";
import type { Server } from "../server.ts";
import { lowPort } from "./networks/ports.ts";
import { listen, portOf, RawSocket } from "./servers.ts";
import { drawing, endOf } from "./sessions.ts";
import { soon, until } from "./waiting.ts";

/** Opens a session, and sends a message that the server handles. */
async function occupy(server: Server): Promise<Session> {
  const session = await dial(server.url);
  session.send("work");
  await until(() => server.manager.all()[0]?.stats.receivedMessages === 1);
  return session;
}

Deno.test("Server.drain() sends each session a reconnect delay, closes with 4503, and stops", async () => {
  const heard: number[] = [];
  const port = lowPort();
  const server = listen({ port, runtime: drawing(0) });
  const sessions = await Promise.all(
    Array.from(
      { length: 4 },
      () => dial(server.url, { onGoAway: ({ retryAfterMs }) => void heard.push(retryAfterMs) }),
    ),
  );
  const report = await server.drain({ withinMs: 60_000, reason: "New version" });
  assertEquals([report.closed, report.cut], [4, 0]);
  assertEquals(heard.toSorted((a, b) => a - b), [0, 5, 10, 15]);
  for (const session of sessions) {
    assertEquals(await endOf(session), { code: 4503, reason: "New version", by: "remote" });
  }
  using listener = Deno.listen({ port, hostname: "127.0.0.1" });
  assert(listener);
});

Deno.test("Server.drain() rejects new sessions immediately, with 503 and 4503", async () => {
  const gate = Promise.withResolvers<void>();
  const server = listen({ onMessage: () => gate.promise });
  await occupy(server);
  const draining = server.drain({ withinMs: 60_000 });
  using raw = await RawSocket.open(portOf(server));
  assertEquals([raw.status, /retry-after: 5/i.test(raw.head)], [503, true]);
  const error = await assertRejects(() => dial(server.url), SessionClosedError);
  assertEquals(error.info?.code, 4503);
  raw[Symbol.dispose]();
  gate.resolve();
  await draining;
});

Deno.test("Server.drain() closes sessions that do not close in time", async () => {
  const server = listen({
    onMessage: () => new Promise(() => {}),
    session: { closeTimeoutMs: 50 },
  });
  const session = await occupy(server);
  const { closed, cut, tookMs } = await server.drain({ withinMs: 100 });
  assertEquals(closed + cut, 1);
  assert(tookMs < 4_500, `${tookMs} ms`);
  // If the listener closes before the code is sent, the runtime sends 1001.
  const { code } = await endOf(session);
  assert(code === 4503 || code === 1001, `${code}`);
});

Deno.test("Server.close() during a drain ends the drain", async () => {
  const server = listen({
    onMessage: () => new Promise(() => {}),
    session: { closeTimeoutMs: 50 },
  });
  const session = await occupy(server);
  const draining = server.drain({ withinMs: 60_000 });
  await soon(server.close());
  assertEquals((await soon(draining)).closed, 1);
  assert(session.isClosed || (await endOf(session)).code === 4503);
});

Deno.test("Server.drain() moves a client to the replacement server", async () => {
  const first = listen();
  await using second = listen();
  const urls = [first.url, second.url];
  await using client = connect(() => urls.shift()!, {
    backoff: { firstDelayMs: 1, maxDelayMs: 1 },
  });
  await client.whenConnected();
  await first.drain({ withinMs: 50 });
  await until(() => second.manager.count === 1);
  const session = await client.whenConnected();
  assertEquals(second.manager.get(session.id)?.id, session.id);
});
