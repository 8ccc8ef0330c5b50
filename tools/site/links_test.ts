import { assertEquals } from "@std/assert";
import { pathToFileURL } from "node:url";
import { checkLinks } from "./links.ts";

/** Checks a site with some files. */
async function check(files: Record<string, string>, base?: string) {
  const folder = await Deno.makeTempDir();
  for (const [name, text] of Object.entries(files)) {
    const path = `${folder}/${name}`;
    await Deno.mkdir(path.slice(0, path.lastIndexOf("/")), { recursive: true });
    await Deno.writeTextFile(path, text);
  }
  return await checkLinks(pathToFileURL(`${folder}/`), base);
}

Deno.test("checkLinks() accepts links to pages, files, anchors and other sites", async () => {
  const { faults, count } = await check({
    "index.html":
      '<a href="/guide/topics#two">1</a> <a href="#top"></a> <a href="https://deno.com/#x">2</a>',
    "guide/topics.html":
      '<h2 id="two"></h2> <img src="../a%20b.png"> <a href="&#x2F;api&#x2F;">3</a>' +
      '<!-- <a href="/nowhere">4</a> --><script>const a = ` href="/nowhere"`</script>',
    "api/index.html": '<a href="./~/serve#a&amp;b">5</a> <a href="../guide/topics.html">6</a>',
    "api/~/serve.html": '<i id="a&amp;b"></i><a href="">7</a>',
    "a b.png": "",
  });
  assertEquals([faults, count], [[], 8]);
});

Deno.test("checkLinks() reports links without a target", async () => {
  const { faults } = await check({
    "index.html":
      '<a href="/a">1</a><a href="/b#c">2</a><img src="d.png"><a href="file:///x">3</a>',
    "b.html": '<a href="http://[">4</a>',
  });
  assertEquals(faults, [
    'b.html: a link is an address, received "http://["',
    'index.html: a link is of the web, received "file:///x"',
    'index.html: a link leads to a page or a file, received "/a"',
    'index.html: a link leads to a page or a file, received "d.png"',
    'index.html: a link leads to an anchor of the page, received "/b#c"',
  ]);
});

Deno.test("checkLinks() reports links that leave the path of the site", async () => {
  const files = { "index.html": '<a href="/skein/b">1</a><a href="/b">2</a>', "b.html": "" };
  assertEquals((await check(files, "/skein/")).faults, [
    'index.html: a link stays below the path of the site, received "/b"',
  ]);
});
