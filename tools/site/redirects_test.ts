import { assertEquals, assertStringIncludes } from "@std/assert";
import { readPages } from "../pages.ts";
import { slugOf } from "./contents.ts";
import { MOVED, redirectPages } from "./redirects.ts";
import { stage } from "./stage.ts";

Deno.test("redirectPages() leads to the new page, and old sections to theirs", () => {
  const pages = redirectPages("/base/", {
    "guide/a": "guide/b",
    "guide/a#old": "recipes/c#new",
    "faq": "guide/b#questions",
  });
  assertEquals([...pages.keys()], ["guide/a.html", "faq.html"]);
  const page = pages.get("guide/a.html")!;
  assertStringIncludes(page, 'url=/base/guide/b"');
  assertStringIncludes(
    page,
    '{"#old":"/base/recipes/c#new"}[location.hash] ?? "/base/guide/b" + location.hash',
  );
  assertStringIncludes(pages.get("faq.html")!, '"/base/guide/b#questions" + ""');
});

Deno.test("each redirect leads to a page and a heading of the site, from a page that is gone", async () => {
  const { bodies } = stage(await readPages(new URL("../../", import.meta.url)));
  const faults = Object.entries(MOVED).flatMap(([from, to]) => {
    const [page, anchor] = to.split("#");
    const text = bodies.get(`${page}.md`);
    if (bodies.has(`${from}.md`)) return [`${from} exists`];
    const [old] = from.split("#");
    if (MOVED[old!] === undefined) return [`${from} is a section of no redirect`];
    if (text === undefined) return [`${from}: no page ${page}`];
    const headings = [...text.matchAll(/^#{1,6} (.*)$/gm)].map(([, title]) => slugOf(title!));
    return anchor === undefined || headings.includes(anchor) ? [] : [`${from}: no ${to}`];
  });
  assertEquals(faults, []);
});
