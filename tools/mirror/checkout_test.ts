import { assertEquals, assertMatch } from "@std/assert";
import { readCheckout } from "./checkout.ts";
import { mirrorHandler } from "./mirror.ts";
import { importsOf } from "../_source.ts";
import { slowTest } from "../run_tests/slow.ts";

const ROOT = new URL("../../", import.meta.url);
const text = (content: Uint8Array | undefined) => new TextDecoder().decode(content);

slowTest("readCheckout() leaves no bare import, and changes no other text", async () => {
  for (const [path, content] of readCheckout(ROOT).files) {
    if (!path.endsWith(".ts")) continue;
    for (const { specifier } of importsOf(text(content))) {
      assertMatch(specifier, /^(?:\.{1,2}\/|(?:node|jsr|npm):)/, path);
    }
    const original = await Deno.readTextFile(new URL(path, ROOT));
    const plain = (source: string) =>
      source.replace(
        /(["'])(?:(?:jsr|npm):)?(@?[\w./-]+?)(?:@\^?\d[\w.-]*)?((?:\/[\w-]+)*)\1/g,
        "$2$3",
      );
    assertEquals(plain(text(content)), plain(original), path);
  }
});

Deno.test("mirrorHandler() serves the package of a checkout next to @std", async () => {
  const own = {
    name: "@own/tool",
    version: "0.3.0",
    exports: { ".": "./mod.ts" },
    files: new Map([["mod.ts", new TextEncoder().encode("export {};\n")]]),
  };
  const handler = mirrorHandler(new Map(), () => Promise.reject(new Error("not needed")), own);
  const get = (path: string) => handler(new Request(`http://127.0.0.1/${path}`));
  assertEquals(await (await get("@own/tool/meta.json")).json(), {
    scope: "own",
    name: "tool",
    latest: "0.3.0",
    versions: { "0.3.0": {} },
  });
  const { exports, manifest } = await (await get("@own/tool/0.3.0_meta.json")).json();
  assertEquals([exports, Object.keys(manifest)], [own.exports, ["/mod.ts"]]);
  assertEquals(await (await get("@own/tool/0.3.0/mod.ts")).text(), "export {};\n");
  for (const path of ["@own/other/meta.json", "@own/tool/0.4.0_meta.json", "@own/tool/0.3.0/x"]) {
    assertEquals((await get(path)).status, 404, path);
  }
});
