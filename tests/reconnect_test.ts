import { assert, assertEquals, assertRejects } from "@std/assert";
import { type Client, connect, dial } from "../client.ts";
import { ConnectionError, RequestError, SessionClosedError } from "../errors.ts";
import { serve, type Server } from "../server.ts";
import { listen, portOf, until } from "./servers.ts";
import { soon } from "./sessions.ts";

const backoff = { firstDelayMs: 10, maxDelayMs: 20 };

/** A server on a port that was another one's. */
function again(port: number, options: Parameters<typeof serve>[0] = {}): Server {
  return serve({ port, hostname: "127.0.0.1", onListen() {}, ...options });
}

async function reach(client: Client, name: string): Promise<void> {
  for await (const status of client.status) if (status.name === name) return;
}

Deno.test("Client comes back to a server that was restarted, with all it was told", async () => {
  const authorize = (_session: unknown, topic: string) => topic !== "secret";
  const first = listen({ authorize });
  const port = portOf(first);
  await using client = connect(first.url, { backoff });
  const news = client.subscribe("news");
  const secret = client.subscribe("secret");
  await news.ready;
  await assertRejects(() => secret.ready, RequestError, "may not subscribe");
  first.publish("news", 1);
  const reader = news[Symbol.asyncIterator]();
  assertEquals((await soon(reader.next())).value?.data, 1);
  await first.close();
  await soon(reach(client, "reconnecting"));
  client.send("say", "from the outbox");
  assertEquals(client.outbox.messages, 1);

  const seen: unknown[] = [];
  await using second = again(port, { authorize, onMessage: ({ data }) => void seen.push(data) });
  await until(() => second.topics.subscribers("news").length === 1);
  second.publish("news", 2);
  assertEquals((await soon(reader.next())).value?.data, 2);
  await until(() => seen.length === 1);
  assertEquals([seen, client.outbox.messages], [["from the outbox"], 0]);
  await reader.return();
});

Deno.test("Client.request() with resend is answered by the server that took over", async () => {
  const first = listen({ onMessage: () => new Promise(() => {}), session: { closeTimeoutMs: 20 } });
  const port = portOf(first);
  await using client = connect(first.url, { backoff });
  const again1 = client.request("ask", 1, { resend: true });
  const once = assertRejects(() => client.request("ask", 2), SessionClosedError);
  await until(() => first.manager.all()[0]?.stats.receivedMessages === 2);
  await first.close();
  await once;
  await using _second = again(port, { onMessage: (message) => message.reply(message.data) });
  assertEquals(await soon(again1), 1);
});

Deno.test("Client waits for a server that is not there yet", async () => {
  const reserved = Deno.listen({ port: 0, hostname: "127.0.0.1" });
  const { port } = reserved.addr;
  reserved.close();
  await using client = connect(`ws://127.0.0.1:${port}/`, { backoff });
  await soon(reach(client, "reconnecting"));
  const { current } = client.status;
  assert(current.name === "reconnecting" && current.cause.error instanceof ConnectionError);
  await using server = again(port);
  await soon(client.whenConnected());
  assertEquals(server.manager.count, 1);
});

Deno.test("Client is refused for good by a server that does not know it any more", async () => {
  const first = listen({ authenticate: ({ token }) => token ?? Promise.reject() });
  const port = portOf(first);
  await using client = connect(`${first.url}?token=ann`, { backoff });
  await client.whenConnected();
  await first.close();
  await using _second = again(port, { authenticate: () => Promise.reject() });
  const { code, reason } = await soon(client.closed);
  assertEquals([code, reason, client.status.current.name], [4401, "Unauthenticated", "refused"]);
});

Deno.test("Client.close() while it dials leaves nothing open", async () => {
  await using server = listen();
  const client = connect(server.url);
  await client.close();
  assertEquals((await client.closed).by, "local");
  await until(() => server.manager.count === 0 && server.manager.stats().reserved === 0);
});

Deno.test("dial() rejects, and leaves nothing open, when it is given up", async () => {
  await using server = listen({ acceptsTokenInBand: true, authenticate: () => 1 });
  const reason = new Error("enough");
  const controller = new AbortController();
  const dialing = dial(server.url, { signal: controller.signal });
  await until(() => server.manager.stats().reserved === 1);
  controller.abort(reason);
  assertEquals(await assertRejects(() => dialing), reason);
  await until(() => server.manager.stats().reserved === 0);
  await assertRejects(() => dial(server.url, { signal: AbortSignal.abort(reason) }));
});
