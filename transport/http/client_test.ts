import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { platformRuntime } from "../../base/runtime.ts";
import { ConnectionError } from "../../errors.ts";
import { HttpEnds } from "../../tests/pairs/http.ts";
import { until } from "../../tests/waiting.ts";
import { dialHttp } from "./client.ts";

function kindOf({ method, headers }: Request): string {
  if (method !== "GET") return method;
  if (!headers.has("skein-session")) return "open";
  return headers.has("skein-poll") ? "poll" : "stream";
}

/** Ends an event stream after its first piece, so that the client requests another one. */
async function beginningOf({ body, headers }: Response): Promise<Response> {
  const reader = body!.getReader();
  const { value } = await reader.read();
  await reader.cancel();
  return new Response(value, { headers });
}

for (const redirected of ["stream", "poll", "POST", "DELETE"]) {
  Deno.test(`A client over HTTP follows no redirect of a request of kind ${redirected}, and continues afterwards`, async () => {
    const followed: string[] = [];
    await using target = Deno.serve({ port: 0, onListen() {} }, ({ method, url }) => {
      followed.push(`${method} ${url}`);
      return new Response();
    });
    let count = 0;
    await using ends = new HttpEnds({
      async proxy(request, serve) {
        const kind = kindOf(request);
        if (kind === redirected && count++ < 2) {
          const location = `http://localhost:${target.addr.port}/`;
          return new Response(null, { status: 307, headers: { location } });
        }
        const response = await serve(request);
        return kind === "open" && redirected === "stream" ? await beginningOf(response) : response;
      },
    });
    const { client, server } = await ends.open({ path: { polls: redirected === "poll" } });
    const echoed: unknown[] = [];
    client.frames!.receive({ receiveFrame: (frame) => echoed.push(frame), framesEnded() {} });
    server.frames!.receive({
      receiveFrame: (frame) => server.frames!.send(frame),
      framesEnded() {},
    });
    client.frames!.send("hello");
    await until(() => echoed.length === 1);
    client.close();
    await client.closed;
    // The close is not repeated, because the server notices it anyway.
    assertEquals(count > 1, redirected !== "DELETE");
    assertEquals(followed, []);
  });
}

Deno.test("dialHttp() names a redirect whose target the platform hides, or whose target is no URL", async () => {
  const hidden = { type: "opaqueredirect", status: 0, headers: new Headers(), body: null };
  const invalid = new Response(null, { status: 302, headers: { location: "http://[" } });
  const long = new Response(null, { status: 302, headers: { location: "/".padEnd(4_000, "a") } });
  for (const response of [hidden as unknown as Response, invalid, long]) {
    const error = await assertRejects(
      () =>
        dialHttp("http://a.example/", {
          runtime: platformRuntime(),
          protocols: ["skein.1"],
          fetch: (_url, init) => {
            assertEquals(init?.redirect, "manual"); // Cloudflare Workers reject "error".
            return Promise.resolve(response);
          },
        }),
      ConnectionError,
    );
    assertMatch(error.message, /^The server redirects to (another URL|http:\/\/a\.example\/a+); /);
    assert(error.message.length < 300, error.message);
    assertEquals(error.status, 302);
  }
});
