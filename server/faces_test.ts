import { assert, assertEquals, assertThrows } from "@std/assert";
import { LateFace } from "./faces.ts";
import { createServer } from "./server.ts";
import { platformRuntime } from "../base/runtime.ts";
import { MoqServer } from "../moq/server/server.ts";
import { httpApi } from "../operations/http_api/mod.ts";
import { inspector, metrics } from "../operations/mod.ts";
import { durableStreams } from "../streams/mod.ts";

/** Creates a late face for requests below `/late`. */
function lateFace(open: () => { fetch(): Response; [Symbol.asyncDispose]?(): Promise<void> }) {
  const lines: string[] = [];
  const console = {
    failed: (what: string, error: unknown) => void lines.push(`${what}: ${error}`),
  };
  const parts = { runtime: platformRuntime(), console };
  const face = new LateFace(parts, { name: "http", wants: "/late", open });
  return { face, lines };
}

const request = (path = "/late") => new Request(`http://localhost${path}`);

Deno.test("LateFace.wants() accepts its path and everything below, before the face has loaded", () => {
  const { face } = lateFace(() => ({ fetch: () => new Response() }));
  const wanted = ["/late", "/late/", "/late/a?b", "/later", "/"].map((path) =>
    face.wants(request(path))
  );
  assertEquals(wanted, [true, true, true, false, false]);
});

Deno.test("LateFace.fetch() opens the face once, and close() closes it", async () => {
  let [opened, closed] = [0, 0];
  const { face } = lateFace(() => {
    opened++;
    return {
      fetch: () => new Response("here"),
      [Symbol.asyncDispose]: () => Promise.resolve(void closed++),
    };
  });
  const responses = await Promise.all([face.fetch(request(), {}), face.fetch(request(), {})]);
  assertEquals(await Promise.all(responses.map((response) => response.text())), ["here", "here"]);
  await face.close();
  assertEquals([opened, closed], [1, 1]);
});

Deno.test("LateFace.fetch() responds with 500 and prints the reason if the face does not open", async () => {
  const { face, lines } = lateFace(() => {
    throw new Error("no code");
  });
  for (let i = 0; i < 2; i++) assertEquals((await face.fetch(request(), {})).status, 500);
  assertEquals(lines, ["Loading of the option http: Error: no code"]);
  await face.close();
});

Deno.test("LateFace.close() prevents a face from opening", async () => {
  const { face } = lateFace(() => {
    throw new Error("opened");
  });
  await face.close();
  const { status, headers } = await face.fetch(request(), {});
  assertEquals([status, headers.get("retry-after")], [503, "5"]);
});

Deno.test("createServer() rejects the first session over HTTP after its close with 503", async () => {
  const server = createServer();
  await server.close();
  const headers = { "skein-transport": "http" };
  const first = new Request("http://localhost/?protocol=skein.1", { headers });
  const response = await server.fetch(first);
  assertEquals([response.status, response.headers.get("retry-after")], [503, "5"]);
});

Deno.test("createServer() mounts a MoqServer once, with the quotas of the server", async () => {
  await using moq = new MoqServer();
  await using server = createServer({ features: [moq] });
  assert("moq.maxSessions" in server.quotaStats);
  assertEquals([moq.address, moq.url, moq.certificateHashes], [undefined, "", []]);
  const error = assertThrows(() => createServer({ features: [moq] }), TypeError);
  assertEquals(
    error.message,
    "Cannot mount new MoqServer(): it belongs to one server; create another with new MoqServer()",
  );
});

Deno.test("createServer() leaves a MoqServer unmounted if another option is invalid", async () => {
  await using moq = new MoqServer();
  assertThrows(() => createServer({ features: [moq], origins: ["example.com/path"] }), TypeError);
  await using server = createServer({ features: [moq] });
  assert("moq.maxSessions" in server.quotaStats);
});

Deno.test("createServer() asks its features in order, and passes other requests to fetch", async () => {
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
  assertEquals(await ask("/", { host: "a b" }), 400);
  assertEquals(await ask("/"), 299);
  assertEquals(Object.keys(server.httpStats), ["durableStreams", "api", "inspector"]);
});
