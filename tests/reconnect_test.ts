import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import {
  type Client,
  connect,
  ConnectionError,
  dial,
  RequestError,
  SessionClosedError,
  TimeoutError,
} from "../client.ts";
import { dialWebSocket } from "../transport/mod.ts";
import { serve, type Server } from "../server.ts";
import { lowPort } from "./networks/ports.ts";
import { listen } from "./servers.ts";
import { soon, until } from "./waiting.ts";

const backoff = { firstDelayMs: 10, maxDelayMs: 20 };

/** Starts a server on the port of a previous one. */
function again(port: number, options: Parameters<typeof serve>[0] = {}): Server {
  return serve({ port, hostname: "127.0.0.1", onListen() {}, ...options });
}

async function reach(client: Client, name: string): Promise<void> {
  for await (const status of client.status) if (status.name === name) return;
}

Deno.test("Client reconnects to a restarted server, with all its subscriptions", async () => {
  const authorize = (_session: unknown, topic: string) => topic !== "secret";
  const port = lowPort();
  const first = listen({ port, authorize });
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

Deno.test("Client.request() with retry is answered by the next server", async () => {
  const port = lowPort();
  const onMessage = () => new Promise<void>(() => {});
  const first = listen({ port, onMessage, session: { closeTimeoutMs: 20 } });
  await using client = connect(first.url, { backoff });
  const again1 = client.request("ask", 1, { retry: true });
  const once = assertRejects(() => client.request("ask", 2), SessionClosedError);
  await until(() => first.manager.all()[0]?.stats.receivedMessages === 2);
  await first.close();
  await once;
  await using _second = again(port, { onMessage: (message) => message.reply(message.data) });
  assertEquals(await soon(again1), 1);
});

Deno.test("Client waits for a server that has not started yet", async () => {
  const port = lowPort();
  await using client = connect(`ws://127.0.0.1:${port}/`, { backoff });
  await soon(reach(client, "reconnecting"));
  const { current } = client.status;
  assert(current.name === "reconnecting" && current.cause.error instanceof ConnectionError);
  await using server = again(port);
  await soon(client.whenConnected());
  assertEquals(server.manager.count, 1);
});

Deno.test("Client is permanently rejected by a server that revoked its credentials", async () => {
  const port = lowPort();
  const first = listen({ port, authenticate: ({ token }) => token ?? null });
  await using client = connect(`${first.url}?token=ann`, { backoff, endOnRejection: true });
  await client.whenConnected();
  await first.close();
  await using _second = again(port, { authenticate: () => null });
  const { code, reason } = await soon(client.closed);
  assertEquals({ code, reason, name: client.status.current.name }, {
    code: 4401,
    reason: "Unauthenticated",
    name: "rejected",
  });
});

Deno.test("Client.close() leaves nothing open while dialing", async () => {
  await using server = listen();
  const client = connect(server.url);
  await client.close();
  assertEquals((await client.closed).by, "local");
  await until(() => server.manager.count === 0 && server.manager.stats().reserved === 0);
});

Deno.test("dial() rejects, and leaves nothing open, when its signal aborts", async () => {
  await using server = listen({
    tokens: { inMessage: true },
    authenticate: () => new Promise(() => {}),
  });
  const reason = new Error("enough");
  const controller = new AbortController();
  const dialing = dial(server.url, { token: "x", signal: controller.signal });
  await until(() => server.manager.stats().reserved === 1);
  controller.abort(reason);
  assertEquals(await assertRejects(() => dialing), reason);
  await until(() => server.manager.stats().reserved === 0);
  await assertRejects(() => dial(server.url, { signal: AbortSignal.abort(reason) }));
});

/** A server that accepts sockets and never sends anything, and the close code of the socket. */
function silent(): {
  url: string;
  closed: Promise<number>;
  [Symbol.asyncDispose](): Promise<void>;
} {
  const { promise, resolve } = Promise.withResolvers<number>();
  const server = Deno.serve({ port: 0, hostname: "127.0.0.1", onListen() {} }, (request) => {
    const { socket, response } = Deno.upgradeWebSocket(request, { protocol: "skein.1" });
    socket.onclose = ({ code }) => resolve(code);
    return response;
  });
  return {
    url: `ws://127.0.0.1:${server.addr.port}/`,
    closed: promise,
    [Symbol.asyncDispose]: () => server.shutdown(),
  };
}

Deno.test("connect() and dial() stop waiting for a silent server after connectTimeoutMs", async () => {
  const options = { token: "t", connectTimeoutMs: 2_000 };
  {
    await using server = silent();
    const error = await assertRejects(() => soon(dial(server.url, options)), TimeoutError);
    assertEquals([error.timeoutMs, await soon(server.closed)], [2_000, 4408]);
  }
  await using server = silent();
  await using client = connect(server.url, { ...options, backoff: { firstDelayMs: 60_000 } });
  await soon(reach(client, "reconnecting"));
  const { current } = client.status;
  assert(current.name === "reconnecting" && current.cause.error instanceof TimeoutError);
  assertEquals(await soon(server.closed), 4408);
});

Deno.test("connect(), dial() and dialWebSocket() accept any timeout of 0 or more, including Infinity", async () => {
  await using server = listen();
  for (const connectTimeoutMs of [Infinity, 3_000_000_000]) {
    await using session = await soon(dial(server.url, { connectTimeoutMs }));
    assert(session.isReady);
    await using client = connect(server.url, { connectTimeoutMs });
    await soon(client.whenConnected());
    await using connection = await soon(dialWebSocket(server.url, { timeoutMs: connectTimeoutMs }));
    assertEquals(connection.transport, "websocket");
  }
  for (const connectTimeoutMs of [NaN, -1]) {
    await assertRejects(() => dial(server.url, { connectTimeoutMs }), RangeError, "Cannot connect");
    assertThrows(() => connect(server.url, { connectTimeoutMs }), RangeError, "Cannot connect");
    await assertRejects(
      () => dialWebSocket(server.url, { timeoutMs: connectTimeoutMs }),
      RangeError,
      `timeoutMs must be 0 or more, received ${connectTimeoutMs}`,
    );
  }
});

Deno.test("dial() rejects a token that no subprotocol can carry", async () => {
  for (const protocols of [[], ["chat"]]) {
    await assertRejects(
      () => dial("ws://127.0.0.1:1/", { token: "t", protocols }),
      TypeError,
      "token needs skein.1",
    );
  }
});

Deno.test("A session's URL contains no token", async () => {
  await using server = listen({ authenticate: ({ token }) => token ?? null });
  const url = `${server.url}?a=1&token=secret`;
  await using session = await dial(url);
  await using client = connect(url);
  for (const one of [session, await soon(client.whenConnected())]) {
    assert(one.url.endsWith("?a=1"), one.url);
    assert(!Deno.inspect(one, { depth: 20 }).includes("secret"));
  }
});
