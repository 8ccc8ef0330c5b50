/** Tests the parts that the example pages share. */
import { assert, assertEquals } from "@std/assert";
import { TEMPLATES } from "../cli/templates/templates.ts";
import { linksOf } from "../examples/shared/links.js";
import { readPage, servePage } from "../examples/shared/site.ts";
import { PAGE_FILES } from "../operations/inspector/page_files.ts";

const EXAMPLES = new URL("../examples/", import.meta.url);

Deno.test("The inspector has the same header, colors and logo as the example pages", async () => {
  const page = await readPage(new URL("chat/page/", EXAMPLES), []);
  for (const name of ["skein.css", "skein.js", "skein.svg"]) {
    const [, inspector] = PAGE_FILES.get(`/${name}`)!;
    assertEquals(inspector, page.get(`/shared/${name}`)?.body);
  }
});

Deno.test("readPage() serves the shared files that each page loads", async () => {
  const loaded = new Set<string>();
  for await (const { name } of Deno.readDir(EXAMPLES)) {
    const folder = new URL(`${name}/page/`, EXAMPLES);
    const html = await Deno.readTextFile(new URL("index.html", folder)).catch(() => "");
    const page = await readPage(folder, []);
    for (const [, path] of html.matchAll(/(?:href|src)="(\/shared\/[^"]+)"/g)) {
      assertEquals([name, path, page.has(path!)], [name, path, true]);
      loaded.add(path!);
    }
  }
  assertEquals(loaded, new Set(["/shared/skein.svg", "/shared/skein.css", "/shared/boards.css"]));
});

/** The policy of a response, as a map from directive to sources. */
function policyOf(response: { readonly headers: Headers }): ReadonlyMap<string, string> {
  const text = response.headers.get("content-security-policy") ?? "";
  return new Map(
    text.split("; ").map((one) => {
      const at = one.indexOf(" ");
      return [one.slice(0, at), one.slice(at + 1)];
    }),
  );
}

Deno.test("servePage() allows only the page's own files and scripts, and no frames", async () => {
  let inline = 0;
  for await (const { name } of Deno.readDir(EXAMPLES)) {
    const folder = new URL(`${name}/page/`, EXAMPLES);
    const html = await Deno.readTextFile(new URL("index.html", folder)).catch(() => undefined);
    if (html === undefined) continue;
    const policy = policyOf(
      servePage(await readPage(folder, ["index.html"]), new Request("http://localhost/")),
    );
    assertEquals(policy.get("default-src"), "'none'", name);
    assertEquals(policy.get("frame-ancestors"), "'none'", name);
    assertEquals([...policy.values()].some((sources) => sources.includes("unsafe")), false, name);
    // A policy forbids styles and handlers in attributes.
    assertEquals(/\s(?:style|on[a-z]+)="/.exec(html), null, name);
    const hashes = policy.get("script-src")!.split(" ").slice(1);
    assertEquals(hashes.length, html.includes('type="importmap"') ? 1 : 0, name);
    inline += hashes.length;
  }
  assert(inline > 0);
});

Deno.test("Each template with a page serves it with a policy", async () => {
  for (const [name, { files, page }] of Object.entries(TEMPLATES)) {
    if (page === undefined) continue;
    const folder = await Deno.makeTempDir({ prefix: "site-" });
    try {
      for (const module of ["site.ts", "worker.ts"]) {
        await Deno.writeTextFile(`${folder}/${module}`, files[module] ?? "");
      }
      for (const built of ["page", "dist"]) {
        await Deno.mkdir(`${folder}/${built}`);
        await Deno.writeTextFile(`${folder}/${built}/index.html`, "");
      }
      const { site } = await import(`file://${folder}/site.ts`);
      const policy = policyOf(await site(new Request("http://localhost/")));
      assertEquals(policy.get("script-src"), "'self'", name);
      assertEquals(policy.get("frame-ancestors"), "'none'", name);
    } finally {
      await Deno.remove(folder, { recursive: true });
    }
  }
});

Deno.test("linksOf() finds URLs without the surrounding text", () => {
  const cases: readonly [text: string, links: readonly string[]][] = [
    ["no link", []],
    ["see https://example.com/a.", ["https://example.com/a"]],
    ["(http://example.com/a_(b)), then", ["http://example.com/a_(b)"]],
    ["HTTPS://EXAMPLE.com/?q=1&r=%20#top!", ["HTTPS://EXAMPLE.com/?q=1&r=%20#top"]],
    ["https://a.example,https://b.example", ["https://a.example,https://b.example"]],
    ["two: https://a.example\nhttp://b.example/x?", ["https://a.example", "http://b.example/x"]],
    ["javascript:alert(1) data:text/html,x ftp://a.example", []],
    ["jhttps://a.example http:// https://", []],
    ['<a href="https://a.example/">x</a>', ["https://a.example/"]],
    ["https://[bad", []],
  ];
  for (const [text, links] of cases) {
    const parts = linksOf(text);
    const found = parts.flatMap((part) => typeof part === "string" ? [] : part.address);
    assertEquals([text, found], [text, links]);
    assertEquals(
      parts.map((part) => typeof part === "string" ? part : part.address).join(""),
      text,
    );
  }
});

Deno.test("servePage() answers GET and HEAD, and rejects other methods and paths", async () => {
  const page = new Map([["/", { type: "text/html", body: "<p>Here" }]]);
  const answer = async (method: string, path = "/") => {
    const response = servePage(page, new Request(`http://localhost${path}`, { method }));
    return [response.status, response.headers.get("content-type"), await response.text()];
  };
  assertEquals(await answer("GET"), [200, "text/html; charset=utf-8", "<p>Here"]);
  assertEquals(await answer("HEAD"), [200, "text/html; charset=utf-8", ""]);
  assertEquals((await answer("POST"))[0], 405);
  assertEquals((await answer("GET", "/secret"))[0], 404);
});
