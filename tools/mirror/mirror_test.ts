import { assert, assertEquals, assertNotEquals, assertRejects } from "@std/assert";
import { listenNear, mirrorHandler, openMirror } from "./mirror.ts";
import { buildPackage, checksum, packageNames, VERSION } from "./packages.ts";

const tree = (files: Record<string, string>) =>
  new Map(Object.entries(files).map(([path, text]) => [path, new TextEncoder().encode(text)]));

const types = tree({
  "async/delay.d.ts": "export function delay(): void;\n",
  "async/mux_iterator.d.ts": "export class Mux {}\n",
  "assert/mod.d.ts": "export function assert(): void;\n",
  "testing/time.ts": "export class FakeTime {}\n",
});
const scripts = tree({
  "assert/mod.js": "export function assert() {}\n",
  "async/delay.js": "export function delay() {}\n",
  "async/mux_iterator.js": "export class Mux {}\n",
  "internal/format.js": "export {};\n",
});

const handler = mirrorHandler(types, () => Promise.resolve(scripts));
const get = (path: string) => handler(new Request(`http://127.0.0.1/${path}`));

Deno.test("mirrorHandler() replies with checksums and sizes that match the files", async () => {
  for (const name of packageNames(types)) {
    const { versions, latest } = await (await get(`@std/${name}/meta.json`)).json();
    assertEquals([latest, Object.keys(versions)], [VERSION, [VERSION]]);
    const { exports, manifest } = await (await get(`@std/${name}/${VERSION}_meta.json`)).json();
    for (const [path, entry] of Object.entries<{ size: number; checksum: string }>(manifest)) {
      const response = await get(`@std/${name}/${VERSION}${path}`);
      assertEquals(response.status, 200, path);
      const content = await response.bytes();
      assertEquals(entry, { size: content.length, checksum: checksum(content) }, path);
    }
    for (const file of Object.values<string>(exports)) assert(manifest[file.slice(1)], file);
  }
});

Deno.test("mirrorHandler() responds with 404 for unknown paths", async () => {
  const paths = [
    "",
    "@std",
    "@std/fs/meta.json",
    "@other/assert/meta.json",
    "@std/assert/1.0.0_meta.json",
    `@std/assert/${VERSION}/assert/none.js`,
    `@std/assert/${VERSION}/../../../etc/passwd`,
  ];
  for (const path of paths) assertEquals((await get(path)).status, 404, path);
});

Deno.test("mirrorHandler() fetches from npm again after a failure", async () => {
  let calls = 0;
  const flaky = mirrorHandler(
    types,
    () =>
      ++calls === 1 ? Promise.reject(new Error("npm is out of reach")) : Promise.resolve(scripts),
  );
  const request = new Request(`http://127.0.0.1/@std/assert/${VERSION}_meta.json`);
  await assertRejects(() => flaky(request), Error, "npm is out of reach");
  assertEquals((await flaky(request)).status, 200);
});

Deno.test("buildPackage() adds types to JavaScript and creates a main module", () => {
  const { exports, files } = buildPackage("async", types, scripts)!;
  assertEquals(exports, {
    ".": "./async/mod.js",
    "./delay": "./async/delay.js",
    "./mux-iterator": "./async/mux_iterator.js",
  });
  const text = (path: string) => new TextDecoder().decode(files.get(path));
  assertEquals(
    text("async/delay.js"),
    '// @ts-self-types="./delay.d.ts"\nexport function delay() {}\n',
  );
  assertEquals(
    text("async/mod.js"),
    '// @ts-self-types="./mod.d.ts"\n' +
      'export * from "./delay.js";\nexport * from "./mux_iterator.js";\n',
  );
  assertEquals(
    text("async/mod.d.ts"),
    'export * from "./delay.d.ts";\nexport * from "./mux_iterator.d.ts";\n',
  );
});

Deno.test("buildPackage() serves stand-ins unchanged, and no main module for them", () => {
  const { exports } = buildPackage("testing", types, scripts)!;
  assertEquals(exports, { "./time": "./testing/time.ts" });
  assertEquals(buildPackage("none", types, scripts), undefined);
});

Deno.test("openMirror() can run twice at the same time", async () => {
  const options = { scripts: () => Promise.reject(new Error("not needed here")) };
  await using first = await openMirror(options);
  await using second = await openMirror(options);
  for (const { url } of [first, second]) {
    const response = await fetch(`${url}@std/assert/meta.json`);
    assertEquals((await response.json()).name, "assert");
    assertEquals(response.headers.get("connection"), "close");
  }
  if (Deno.build.os === "linux") assertEquals(second.url, first.url);
});

Deno.test("listenNear() avoids a port that another program uses", async () => {
  const respondWith = (text: string) => () => Promise.resolve(new Response(text));
  let port: number;
  {
    await using first = await listenNear("a name", respondWith("first"));
    port = Number(new URL(first.url).port);
  }
  await using other = Deno.serve(
    { hostname: "127.0.0.1", port, reusePort: Deno.build.os === "linux", onListen() {} },
    respondWith("other"),
  );
  await using second = await listenNear("a name", respondWith("second"));
  assertNotEquals(new URL(second.url).port, `${other.addr.port}`);
  const response = await fetch(`${second.url}file`);
  assertEquals(await response.text(), "second");
});

Deno.test("listenNear() returns an opened server of the same name, which outlives the caller", async () => {
  const respondWith = (text: string) => () => Promise.resolve(new Response(text));
  await using other = await listenNear("another name", respondWith("other"));
  await using opened = await listenNear("a name", respondWith("opened"));
  const urls = `${other.url} ${opened.url}`;
  {
    await using found = await listenNear("a name", respondWith("found"), urls);
    assertEquals(found.url, opened.url);
  }
  const response = await fetch(`${opened.url}file`);
  assertEquals(await response.text(), "opened");
  await using third = await listenNear("a third name", respondWith("third"), urls);
  assertNotEquals(third.url, opened.url);
});
