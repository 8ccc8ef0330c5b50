/**
 * Tests that both HTTP servers treat the results of the option `fetch` alike. What `Deno.serve`
 * prints can't be captured, and appears among the lines of this test.
 *
 * @module
 */
import net from "node:net";
import { assert, assertEquals, assertRejects } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { createServer } from "../mod.ts";
import { httpApi } from "../operations/http_api/mod.ts";
import { passTime } from "../testing/mod.ts";
import { hardenedWebSocket } from "../transport/hardened/mod.ts";
import { captureConsole } from "./console_lines.ts";
import { headOf } from "./peers/text_socket.ts";
import { listen, portOf, RawSocket } from "./servers.ts";
import { soon, until } from "./waiting.ts";

const ENGINES = [["Deno.serve", undefined], ["the hardened engine", hardenedWebSocket()]] as const;

/** Results that can't be sent, and a part of the printed line on the hardened engine. */
const UNFIT: readonly (readonly [make: () => unknown, line: string])[] = [
  [() => undefined, "fetch must return a Response, received undefined"],
  [() => ({}), "the handler must return a Response, received Object"],
  [() => Response.error(), "the handler returned Response.error()"],
  [() => {
    const response = new Response("x");
    void response.text();
    return response;
  }, "the response's body was already read"],
];

for (const [name, webSocket] of ENGINES) {
  Deno.test(`fetch that returns no usable response fails with 500, and is printed, on ${name}`, async () => {
    using printed = captureConsole();
    let make: () => unknown;
    await using server = listen({ webSocket, fetch: (() => make()) as never });
    const lines: string[] = [];
    for (const [first, line] of UNFIT) {
      for (make of webSocket ? [first, async () => await first()] : [first]) {
        const response = await fetch(`http://127.0.0.1:${portOf(server)}/`);
        assertEquals([response.status, await response.text()], [500, "Internal Server Error"]);
        if (webSocket) {
          lines.push(`A request failed: TypeError: Cannot respond to a request: ${line}`);
        }
      }
    }
    assertEquals(printed.lines, lines);
  });

  Deno.test(`A body that fails is printed, and one whose client has left is not, on ${name}`, async () => {
    using printed = captureConsole();
    const cancelled = Promise.withResolvers<void>();
    await using server = listen({
      webSocket,
      fetch: ({ url }) =>
        new Response(
          new ReadableStream({
            pull(controller) {
              if (url.endsWith("/fail")) controller.error(new Error("The source failed"));
              else controller.enqueue(new Uint8Array(65_536));
            },
            cancel: () => cancelled.resolve(),
          }),
        ),
    });
    const url = `http://127.0.0.1:${portOf(server)}`;
    const reader = (await fetch(`${url}/endless`)).body!.getReader();
    await reader.read();
    await reader.cancel();
    await soon(cancelled.promise);
    await assertRejects(async () => await (await fetch(`${url}/fail`)).text());
    assertEquals(printed.lines, webSocket ? ["A response failed: Error: The source failed"] : []);
  });

  Deno.test(`A client that resets its connection before the response does no harm, on ${name}`, async () => {
    const asked: Request[] = [];
    const decision = Promise.withResolvers<void>();
    const decide = async ({ request }: { readonly request: Request }) => {
      asked.push(request);
      await decision.promise;
    };
    await using server = listen({
      webSocket,
      history: { "log:{name}": {} },
      features: [httpApi({ path: "/api", authorize: (asked) => decide(asked).then(() => true) })],
      authenticate: (asked) => decide(asked).then(() => null),
    });
    for (const path of ["/?protocol=skein.1", "/api/topics/log%3Aa/publications"]) {
      const socket = net.connect(portOf(server), "127.0.0.1");
      socket.write(headOf(`GET ${path}`, { host: "localhost", "skein-transport": "http" }));
      await until(() => asked.some(({ url }) => url.endsWith(path)));
      socket.resetAndDestroy();
    }
    await until(() => asked.every(({ signal }) => signal.aborted));
    decision.resolve();
    // An unhandled rejection would end the process.
    const response = await fetch(`http://127.0.0.1:${portOf(server)}/`);
    assertEquals([response.status, await response.text()], [426, "Expected a WebSocket upgrade"]);
  });

  Deno.test(`A body whose client has left before it starts is cancelled, on ${name}`, async () => {
    const asked = Promise.withResolvers<AbortSignal>();
    const left = Promise.withResolvers<void>();
    const cancelled = Promise.withResolvers<void>();
    await using server = listen({
      webSocket,
      async fetch({ signal }) {
        asked.resolve(signal);
        await left.promise;
        const body = new ReadableStream({ cancel: () => cancelled.resolve() }, {
          highWaterMark: 0,
        });
        return new Response(body);
      },
    });
    const leaving = new AbortController();
    const response = fetch(`http://127.0.0.1:${portOf(server)}/`, { signal: leaving.signal });
    const signal = await asked.promise;
    leaving.abort();
    await assertRejects(() => response);
    await until(() => signal.aborted);
    left.resolve();
    await soon(cancelled.promise);
  });

  Deno.test(`HEAD receives the head of a streaming response, whose body is cancelled, on ${name}`, async () => {
    const cancelled = Promise.withResolvers<void>();
    await using server = listen({
      webSocket,
      fetch: () =>
        new Response(
          new ReadableStream({
            start: (controller) => controller.enqueue(new Uint8Array(10)),
            cancel: () => cancelled.resolve(),
          }),
          { headers: { "x-kind": "stream" } },
        ),
    });
    const headers = { upgrade: "", connection: "" };
    using raw = await RawSocket.open(portOf(server), { method: "HEAD", headers });
    assertEquals(raw.status, 200);
    assert(/^x-kind: stream\r$/im.test(raw.head), raw.head);
    assert(!/^content-length/im.test(raw.head), raw.head);
    await soon(cancelled.promise);
  });
}

Deno.test("A rejected upgrade whose body fails is printed on the hardened engine", async () => {
  using printed = captureConsole();
  const body = () => new ReadableStream({ pull: (to) => to.error(new Error("The source failed")) });
  const server = hardenedWebSocket().listen(
    { hostname: "127.0.0.1", port: 0 },
    () => new Response(body(), { status: 403 }),
  );
  using raw = await RawSocket.open(server.addr.port);
  assertEquals(raw.status, 403);
  assertEquals(await raw.read(), undefined);
  assertEquals(printed.lines, ["A response failed: Error: The source failed"]);
  await server.shutdown();
});

Deno.test("An event stream of a session whose client has left doesn't count as unread", async () => {
  using time = new FakeTime();
  const server = createServer();
  const sent = Promise.withResolvers<void>();
  const headers = { "skein-transport": "http" };
  const request = new Request("http://localhost/?protocol=skein.1", { headers });
  const info: object = { completed: sent.promise };
  const { body } = await server.fetch(request, info);
  await body!.getReader().read();
  // `Deno.serve` reports it, and does not always cancel the body.
  sent.reject(new Error("The client left"));
  await time.tickAsync(1_000);
  assertEquals(server.quotaStats["http.unreadBytes"]?.taken, 0);
  await passTime(time, 60_000);
  await server.close();
});
