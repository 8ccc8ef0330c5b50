import { assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { serve } from "../../mod.ts";
import { fakeContext } from "../../tests/cli_context.ts";
import { main } from "../skein.ts";
import { inspector, type InspectorOptions } from "../../operations/mod.ts";

const PAGE = "<!doctype html><title>Skein inspector</title>";

/** Runs `skein inspect` against a server that responds as an inspector does, or otherwise. */
async function inspect(
  handler: (request: Request) => Response | Promise<Response>,
  { path = "", args = [], isTerminal = true }: {
    readonly path?: string;
    readonly args?: readonly string[];
    readonly isTerminal?: boolean;
  } = {},
) {
  await using server = Deno.serve({ port: 0, hostname: "127.0.0.1", onListen() {} }, handler);
  const context = fakeContext({ isTerminal });
  const base = `127.0.0.1:${server.addr.port}`;
  const code = await main([
    "inspect",
    `ws://${path.includes("@") ? "" : base}${path.replace("@", `@${base}`)}`,
    ...args,
  ], context);
  const plain = (text: string) => text.replaceAll(base, "HOST");
  return {
    code,
    out: plain(context.out),
    err: plain(context.err),
    opened: context.opened.map(plain),
  };
}

const html = (body: string, status = 200) =>
  new Response(body, { status, headers: { "content-type": "text/html" } });

Deno.test("inspect opens the page of the inspector", async () => {
  const asked: string[] = [];
  const { code, out, err, opened } = await inspect(({ url }) => {
    asked.push(new URL(url).pathname);
    return html(PAGE);
  });
  assertEquals({ code, out, err }, { code: 0, out: "http://HOST/inspector/\n", err: "" });
  assertEquals([opened, asked], [["http://HOST/inspector/"], ["/inspector/"]]);
});

Deno.test("inspect accepts another path, and only prints the address with --no-open or without a display", async () => {
  const quiet = await inspect(() => html(PAGE), { path: "/ops?x=1", args: ["--no-open"] });
  assertEquals({ code: quiet.code, out: quiet.out, err: quiet.err }, {
    code: 0,
    out: "http://HOST/ops/\n",
    err: "",
  });
  assertEquals(quiet.opened, []);
  const remote = await inspect(() => html(PAGE), { isTerminal: false });
  assertEquals([remote.code, remote.out], [0, "http://HOST/inspector/\n"]);
  assertStringIncludes(remote.err, "visit the address yourself");
});

Deno.test("inspect sends the user and password of the URL, and shows neither in errors", async () => {
  let authorization: string | null = null;
  const { code, err } = await inspect((request) => {
    authorization = request.headers.get("authorization");
    return new Response("No", { status: 403 });
  }, { path: "ops:s3cret@/" });
  assertEquals([code, authorization], [1, `Basic ${btoa("ops:s3cret")}`]);
  assertEquals(err.includes("s3cret"), false);
});

Deno.test("inspect passes the password to the browser without printing it", async () => {
  let authorization: string | null = null;
  const { code, out, opened } = await inspect((request) => {
    authorization = request.headers.get("authorization");
    return html(PAGE);
  }, { path: "ops:pä@/" });
  assertEquals([code, out], [0, "http://HOST/inspector/\n"]);
  assertEquals(opened, ["http://ops:p%C3%A4@HOST/inspector/"]);
  assertEquals(authorization, `Basic ${new TextEncoder().encode("ops:pä").toBase64()}`);
});

Deno.test("inspect reports why there is no page", async () => {
  const cases: [() => Response, string][] = [
    [() => html("Not found", 404), "there is no inspector at http://HOST/inspector/ (status 404)"],
    [() => new Response(null, { status: 302, headers: { location: "/" } }), "(status 302)"],
    [
      () => html("Your chat"),
      "is not the inspector's page; the feature inspector() of @skein/skein/operations serves it to programs on",
    ],
    [
      () => html("without authorize, only programs\n", 403),
      "with 403: without authorize, only programs",
    ],
    [() => html("", 401), "access to http://HOST/inspector/ with 401\n"],
    [() => html("oh", 500), "the server responded with 500: oh"],
  ];
  for (const [handler, message] of cases) {
    const { code, out, err, opened } = await inspect(handler);
    assertEquals({ code, out, opened }, { code: 1, out: "", opened: [] });
    assertStringIncludes(err, `error: Cannot inspect: `);
    assertStringIncludes(err, message);
  }
});

Deno.test("inspect reads only the start of an endless response", async () => {
  const cancelled = Promise.withResolvers<void>();
  const part = new TextEncoder().encode("no ".repeat(10_000));
  const { code, err } = await inspect(() =>
    new Response(
      new ReadableStream({
        pull: (controller) => controller.enqueue(part),
        cancel: () => cancelled.resolve(),
      }),
      { status: 403 },
    )
  );
  await cancelled.promise;
  assertEquals(code, 1);
  assertStringIncludes(err, "with 403: no no");
  assertEquals(err.length < 1_000, true);
});

Deno.test("inspect opens a page that asks for a password", async () => {
  const { code, opened, err } = await inspect(() =>
    new Response("", { status: 401, headers: { "www-authenticate": "Basic" } })
  );
  assertEquals([code, opened.length], [0, 1]);
  assertStringIncludes(err, "password");
});

Deno.test("inspect finds the inspector of a server, and reports denied access", async () => {
  const open = (options: InspectorOptions) =>
    serve({
      port: 0,
      hostname: "127.0.0.1",
      webTransport: false,
      onListen() {},
      features: [inspector(options)],
    });
  const run = async (server: { readonly url: string }, path = "") => {
    const context = fakeContext({ isTerminal: true });
    const code = await main(["inspect", `${server.url}${path}`], context);
    return { code, err: context.err, opened: context.opened };
  };
  await using server = open({ path: "/ops" });
  const found = await run(server, "ops");
  assertEquals([found.code, found.err], [0, ""]);
  assertEquals(found.opened, [`${server.url.replace("ws:", "http:")}ops/`]);
  await using closed = open({ authorize: () => false });
  const rejected = await run(closed);
  assertEquals([rejected.code, rejected.opened], [1, []]);
  assertStringIncludes(rejected.err, "with 403: Cannot show the inspector");
});

Deno.test("inspect exits with 1 at a server without the option", async () => {
  await using server = serve({
    port: 0,
    hostname: "127.0.0.1",
    webTransport: false,
    onListen() {},
  });
  const context = fakeContext();
  assertEquals(await main(["inspect", server.url], context), 1);
  assertMatch(context.err, /inspector\(\) of @skein\/skein\/operations/);
});

Deno.test("inspect exits with 3 if there is no server", async () => {
  const listener = Deno.listen({ port: 0, hostname: "127.0.0.1" });
  listener.close();
  const context = fakeContext();
  assertEquals(await main(["inspect", `127.0.0.1:${listener.addr.port}`], context), 3);
  assertStringIncludes(context.err, "error: Cannot reach http://127.0.0.1:");
  assertStringIncludes(context.err, "onnection refused");
});

Deno.test("inspect exits with 130 at Ctrl-C", async () => {
  const stuck = Promise.withResolvers<Response>();
  const context = fakeContext();
  await using server = Deno.serve({ port: 0, onListen() {} }, () => {
    context.interrupt();
    return stuck.promise;
  });
  assertEquals(await main(["inspect", `localhost:${server.addr.port}`], context), 130);
  stuck.resolve(new Response());
});

Deno.test("inspect rejects a user or password that is not percent-encoded", async () => {
  const { code, err, opened } = await inspect(() => html(PAGE), { path: "ops:a%zz@/" });
  assertEquals([code, opened], [2, []]);
  assertStringIncludes(err, "user and password must be percent-encoded as UTF-8");
});
