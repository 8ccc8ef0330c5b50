import { assertEquals } from "@std/assert";
import { createServer, type Server } from "../server.ts";
import { platformRuntime } from "../../base/runtime.ts";
import { turns } from "../../testing/mod.ts";
import { captureConsole } from "../../tests/console_lines.ts";

/** Creates a server, and counts the loads of code; `load` waits for each of them. */
function counting(load: <T>(code: Promise<T>) => Promise<T> = (code) => code) {
  let loads = 0;
  const runtime = Object.assign(platformRuntime(), {
    hold<T>(code: Promise<T>): Promise<T> {
      loads++;
      return load(code);
    },
  });
  return { server: createServer({ runtime }), loads: () => loads };
}

/** Sends a request for an unknown session. */
async function ask(server: Server): Promise<number> {
  const headers = { "skein-transport": "http", "skein-session": "none" };
  const response = await server.fetch(new Request("http://localhost/", { headers }));
  await response.body?.cancel();
  return response.status;
}

Deno.test("HttpTransport loads its code once, with the first request", async () => {
  const { server, loads } = counting();
  await using _server = server;
  await server.fetch(new Request("http://localhost/"));
  assertEquals(loads(), 0);
  assertEquals(await Promise.all([ask(server), ask(server)]), [410, 410]);
  assertEquals(await ask(server), 410);
  assertEquals(loads(), 1);
});

Deno.test("HttpTransport.fetch() responds with 500 if loading fails, and loads again for the next request", async () => {
  using printed = captureConsole();
  let failures = 2;
  const { server, loads } = counting(async (code) => {
    await code;
    if (failures-- > 0) throw new Error("no code");
    return code;
  });
  await using _server = server;
  assertEquals(await Promise.all([ask(server), ask(server)]), [500, 500]);
  assertEquals(loads(), 1);
  assertEquals(await ask(server), 500);
  assertEquals(await Promise.all([ask(server), ask(server)]), [410, 410]);
  assertEquals(loads(), 3);
  const line = "Loading of the HTTP transport failed: Error: no code";
  assertEquals(printed.lines, [line, line]);
});

Deno.test("HttpTransport.close() waits for code that is loading", async () => {
  const [started, loaded] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
  const { server } = counting(async (code) => {
    started.resolve();
    await loaded.promise;
    return await code;
  });
  const response = ask(server);
  await started.promise;
  let isClosed = false;
  const closed = server.close().then(() => isClosed = true);
  await turns(50);
  assertEquals(isClosed, false);
  loaded.resolve();
  assertEquals(await response, 410);
  await closed;
});

Deno.test("HttpTransport.fetch() responds with 503 to its first request after close()", async () => {
  const { server, loads } = counting();
  await server.close();
  const headers = { "skein-transport": "http" };
  const first = new Request("http://localhost/?protocol=skein.1", { headers });
  const response = await server.fetch(first);
  assertEquals({
    status: response.status,
    retryAfter: response.headers.get("retry-after"),
    loads: loads(),
  }, { status: 503, retryAfter: "5", loads: 0 });
});
