import { assertEquals, assertRejects } from "@std/assert";
import { createServer } from "./server.ts";
import { httpApi } from "../operations/http_api/mod.ts";
import { inspector, metrics } from "../operations/mod.ts";
import { durableStreams } from "../streams/mod.ts";

Deno.test("Server.fetch() asks features, then sessions, then the application", async () => {
  await using server = createServer({
    features: [
      durableStreams({ path: "/streams", authorize: () => true }),
      metrics({ allow: "everybody" }),
      httpApi({ path: "/api", authorize: () => true }),
      inspector({ authorize: () => true }),
    ],
    fetch: () => new Response("of the application", { status: 299 }),
  });
  const ask = async (path: string, headers: Record<string, string> = {}) => {
    const response = await server.fetch(new Request(`http://localhost${path}`, { headers }), {});
    await response.body?.cancel();
    return response.status;
  };
  assertEquals(await ask("/metrics"), 200);
  assertEquals(await ask("/healthz"), 200);
  assertEquals(await ask("/streams/none"), 404);
  assertEquals(await ask("/api/health"), 200);
  assertEquals(await ask("/inspector/"), 200);
  assertEquals(await ask("/", { "skein-transport": "http", "skein-session": "none" }), 410);
  assertEquals(await ask("/", { upgrade: "websocket" }), 400);
  assertEquals(await ask("/metrics", { upgrade: "websocket" }), 200);
  assertEquals(await ask("/metrics", { host: "a b" }), 400);
  assertEquals(await ask("/", { host: "a b" }), 400);
  assertEquals(await ask("/"), 299);
  assertEquals(Object.keys(server.httpStats), ["durableStreams", "api", "inspector"]);
});

Deno.test("Server.fetch() names an option fetch that returns no response", async () => {
  const request = (method: string) => new Request("http://localhost/", { method });
  for (const method of ["GET", "POST"]) {
    for (const handle of [() => {}, async () => {}]) {
      await using server = createServer({ fetch: handle as never });
      await assertRejects(
        async () => await server.fetch(request(method)),
        TypeError,
        "Cannot respond to a request: fetch must return a Response, received undefined",
      );
    }
  }
});
