/** Clients that request events or pages over real sockets, and don't read them. */
import { assertEquals, assertMatch } from "@std/assert";
import { httpApi } from "../operations/http_api/mod.ts";
import { headOf, TextSocket } from "./peers/text_socket.ts";
import { listen, portOf } from "./servers.ts";
import { streamFeatures } from "./stream_features.ts";
import { until } from "./waiting.ts";
import { slowTest } from "../tools/run_tests/slow.ts";

const RECORD_BYTES = 1_000_000;

/** More than the buffers of a connection hold, so that a part stays in the body. */
const RECORDS = 16;

/** A server with a large stream and a large history. */
async function serverWithPages() {
  const server = listen({
    webTransport: false,
    clientAddress: (request) => request.headers.get("x-from") ?? "198.51.100.7",
    history: { "chat:{room}": { size: 100, bytes: 8_000_000 } },
    features: [
      ...streamFeatures({ path: "/streams", authorize: () => true }),
      httpApi({ path: "/api", authorize: () => true }),
    ],
  });
  const url = `http://127.0.0.1:${portOf(server)}`;
  const headers = { "content-type": "text/plain" };
  const write = async (method: string, body: string) => {
    const response = await fetch(`${url}/streams/a`, { method, headers, body });
    assertEquals(response.ok, true, await response.text());
  };
  await write("PUT", "");
  for (let i = 0; i < RECORDS; i++) await write("POST", `${i % 10}`.repeat(RECORD_BYTES));
  for (let i = 0; i < 9; i++) await server.topics.append("chat:a", "x".repeat(100_000));
  const unread = () => server.quotaStats["http.unreadBytes"]!.taken;
  return { server, url, unread };
}

/** Sends a request, and leaves the response unread. */
function ask(port: number, path: string): Promise<TextSocket> {
  const head = { host: "localhost", accept: "*/*", "x-from": "203.0.113.66" };
  return TextSocket.send(port, headOf(`GET ${path}`, head));
}

Deno.test("Server counts events that a client doesn't read until it leaves", async () => {
  const { server, unread } = await serverWithPages();
  await using _server = server;
  const path = "/streams/a?offset=-1&live=sse";
  {
    using _silent = await ask(portOf(server), path);
    await until(() => unread() > 0);
    await server.topics.append("chat:a", "the event loop runs");
    assertEquals(unread() > 0, true);
  }
  await until(() => unread() === 0);
});

slowTest("Server counts nothing for a client that reads events and pages", async () => {
  const { server, url, unread } = await serverWithPages();
  await using _server = server;
  {
    using reader = await ask(portOf(server), "/streams/a?offset=-1&live=sse");
    const events = await reader.until((text) => text.includes('"upToDate":true'));
    assertEquals(events.length > RECORDS * RECORD_BYTES, true);
    await until(() => unread() === 0);
  }
  const page = await fetch(`${url}/streams/a?offset=-1`);
  assertEquals(page.headers.get("content-length"), `${RECORD_BYTES}`);
  assertEquals(await page.text(), "0".repeat(RECORD_BYTES));
  const history = await fetch(`${url}/api/topics/chat%3Aa/history?limit=9`);
  assertEquals((await history.json()).publications.length, 9);
  const head = await fetch(`${url}/api/topics/chat%3Aa/history?limit=9`, { method: "HEAD" });
  assertEquals([head.status, await head.text()], [200, ""]);
  await until(() => unread() === 0);
});

Deno.test("Server counts a session's events over HTTP that are requested many times and not read", async () => {
  const { server, unread } = await serverWithPages();
  await using _server = server;
  const port = portOf(server);
  const own = { "skein-transport": "http", "x-from": "203.0.113.66" };
  const opening = await server.fetch(
    new Request("http://localhost/?protocol=skein.1", { headers: { ...own, "skein-poll": "1" } }),
  );
  const { session, secret } = JSON.parse(/data:(.*)/.exec(await opening.text())![1]!);
  const keys = { ...own, "skein-session": session, "skein-secret": secret };
  // Without an HTTP server, a body that nothing reads.
  const ask = () =>
    server.fetch(
      new Request("http://localhost/", { headers: { ...keys, "last-event-id": "0" } }),
    );
  await using room = new AsyncDisposableStack();
  let last = await ask();
  for (; last.ok; last = await ask()) {
    const { body } = last;
    room.defer(() => body!.cancel());
  }
  assertEquals(last.status, 429);
  assertMatch(await last.text(), /your address may have at most/);
  // A user at another address opens a session, and receives events.
  using ann = await TextSocket.send(
    port,
    headOf("GET /?protocol=skein.1", {
      host: "localhost",
      "skein-transport": "http",
      "x-from": "198.51.100.7",
    }),
  );
  await ann.until((text) => text.includes("data:"));
  await room.disposeAsync();
  await until(() => unread() === 0);
});
