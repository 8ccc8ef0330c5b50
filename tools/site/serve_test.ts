import { assertEquals, assertStringIncludes } from "@std/assert";
import { pathToFileURL } from "node:url";
import { siteHandler } from "./serve.ts";

/** A site with four files, and a file outside that must not be served. */
async function site(): Promise<(path: string, method?: string) => Promise<Response>> {
  const folder = await Deno.makeTempDir();
  const files = {
    "secret.txt": "secret",
    "site/index.html": "home",
    "site/404.html": "missing",
    "site/guide/topics.html": "topics",
    "site/api/index.html": "api",
    "site/assets/app.1.js": "app",
  };
  for (const [name, text] of Object.entries(files)) {
    const path = `${folder}/${name}`;
    await Deno.mkdir(path.slice(0, path.lastIndexOf("/")), { recursive: true });
    await Deno.writeTextFile(path, text);
  }
  const handler = siteHandler(pathToFileURL(`${folder}/site/`));
  return (path, method = "GET") => handler(new Request(`http://localhost${path}`, { method }));
}

Deno.test("siteHandler() serves pages without extensions, and folders by their index", async () => {
  const get = await site();
  for (
    const [path, text] of [["/", "home"], ["/guide/topics", "topics"], ["/api/", "api"]] as const
  ) {
    const response = await get(path);
    assertEquals([response.status, await response.text()], [200, text]);
    assertEquals(response.headers.get("content-type"), "text/html; charset=utf-8");
  }
  const script = await get("/assets/app.1.js");
  assertStringIncludes(script.headers.get("cache-control")!, "immutable");
  assertEquals(await script.text(), "app");
});

Deno.test("siteHandler() redirects to the canonical path of a page", async () => {
  const get = await site();
  for (
    const [path, to] of [
      ["/guide/topics.html?a=1", "/guide/topics?a=1"],
      ["/api", "/api/"],
      ["/api/index.html", "/api/"],
    ] as const
  ) {
    const { status, headers } = await get(path);
    assertEquals([status, headers.get("location")], [308, to]);
  }
});

Deno.test("siteHandler() serves the page for missing pages at other paths", async () => {
  const get = await site();
  const outside = ["/..%2fsecret.txt", "/%2e%2e/secret.txt", "/../secret.txt", "/%", "/%00"];
  for (const path of ["/nowhere", "/guide/", "/guide/topics/", "/assets", ...outside]) {
    const response = await get(path);
    assertEquals({ path, status: response.status, text: await response.text() }, {
      path,
      status: 404,
      text: "missing",
    });
  }
});

Deno.test("siteHandler() answers HEAD without a body and rejects other methods", async () => {
  const get = await site();
  const head = await get("/", "HEAD");
  assertEquals({
    status: head.status,
    contentLength: head.headers.get("content-length"),
    body: head.body,
  }, { status: 200, contentLength: "4", body: null });
  assertEquals((await get("/", "POST")).status, 405);
});
