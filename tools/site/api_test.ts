import { assertEquals } from "@std/assert";
import { barOf, type Look, withLook } from "./api.ts";

const LOOK: Look = {
  base: "/",
  bar: "",
  entries: [".", "./client"],
  sources: undefined,
  root: "file:///checkout/",
  hasTarget: (page, link) => new URL(link, page).href === "file:///api/~/Server#close",
};

/** The URL of the page in these tests. */
const URL_OF_PAGE = "file:///api/~/serve";

const PAGE = (title: string) =>
  `<html>
<head><title>${title}</title></head>
<body>
<a href="../" class="contextLink">default</a>
<div class="space-y-2 flex-1">import { a } from &quot;.&quot;; from &quot;client&quot;; from &quot;./b&quot;</div>
</body>
</html>`;

Deno.test("withLook() adds the bar and the colors, and the names of the package", () => {
  const look = { ...LOOK, base: "/skein/", bar: "<header></header>" };
  assertEquals(
    withLook(PAGE("connect - Skein documentation"), URL_OF_PAGE, look),
    `<html lang="en-GB">
<head><title>connect - Skein documentation</title>` +
      `<link rel="icon" type="image/svg+xml" href="/skein/mark.svg">` +
      `<link rel="stylesheet" href="/skein/api/api.css"></head>
<body>
<header></header>
<a href="../" class="contextLink">@skein/skein</a>
<div class="space-y-2 flex-1">import { a } from &quot;@skein/skein&quot;; ` +
      `from &quot;@skein/skein/client&quot;; from &quot;./b&quot;</div>
</body>
</html>`,
  );
});

Deno.test("withLook() lists the entries on the first page", () => {
  const list = '<ul><li><a href="client/"><code>@skein/skein/client</code></a></li></ul></nav><div';
  assertEquals(withLook(PAGE("Skein documentation"), URL_OF_PAGE, LOOK).includes(list), true);
});

Deno.test("barOf() marks the reference among the links", () => {
  const nav = [{ text: "Start", link: "/features" }, { text: "API", link: "/api/" }];
  const bar = barOf("/skein/", nav);
  assertEquals(
    bar.match(/<nav.*<\/nav>/)?.[0],
    '<nav aria-label="Site">' +
      '<a href="/skein/features">Start</a><a href="/skein/api/" aria-current="page">API</a></nav>',
  );
});

Deno.test("withLook() links sources to the code host, or removes the links", () => {
  const html =
    '<a\n  class="sourceButton"\n  href="file:&#x2F;&#x2F;&#x2F;checkout&#x2F;a.ts"><svg></svg>\n</a>.';
  assertEquals(withLook(html, URL_OF_PAGE, LOOK), ".");
  assertEquals(
    withLook(html, URL_OF_PAGE, { ...LOOK, sources: "https://code.example/a/b/blob/main/" }),
    '<a\n  class="sourceButton"\n  href="https://code.example/a/b/blob/main/a.ts"><svg></svg>\n</a>.',
  );
});

Deno.test("withLook() fixes links to anchors that no page has", () => {
  const html = '<a href=".&#x2F;Server#close">1</a><a href=".&#x2F;Server#open" class="a">2</a>' +
    '<a href="#type_param_t" class="link">T</a><a href=".&#x2F;WorkerNode.">index</a>';
  assertEquals(
    withLook(html, URL_OF_PAGE, LOOK),
    '<a href=".&#x2F;Server#close">1</a><a href=".&#x2F;Server" class="a">2</a>' +
      '<a class="link">T</a><a href=".&#x2F;WorkerNode.index">index</a>',
  );
});
