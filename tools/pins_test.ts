import { assert, assertEquals, assertMatch } from "@std/assert";
import { isLibrary, readRepository } from "./arrows.ts";
import { importsOf } from "./_source.ts";
import { DENO, hasPackages, PACKAGE, packagesOfUsers, PINS, readTexts, withPins } from "./pins.ts";

const ROOT = new URL("../", import.meta.url);

const texts = await readTexts(ROOT);
const ofUsers = packagesOfUsers(texts);

const EXACT = /^\d+\.\d+\.\d+[\w.+-]*$/;

/** A version that matches several releases, such as `^3`. */
const RANGE = /^[\^~]\d[\d.]*$/;

/** Programs of users with several versions of a package, and peers that npm installs. */
const OTHER_TABLES = ["tests/npm/_project.ts", "tests/interop/peers.ts"];

Deno.test("every file names the versions of tools/pins.ts", () => {
  for (const [path, text] of texts) {
    assert(withPins(path, text, ofUsers) === text, `${path}: run tools/pins.ts --write`);
  }
  const withDeno = [...texts].filter(([, text]) => text.match(DENO)).map(([path]) => path);
  for (const path of [".ci/run", ".github/workflows/release.yml", "README.md", "CONTRIBUTING.md"]) {
    assert(withDeno.includes(path), path);
  }
});

Deno.test("tests, benchmarks and tools have no package that is not pinned", () => {
  const all = [...texts].filter(([path]) => hasPackages(path) && path !== "deno.json")
    .flatMap(([path, text]) => [...text.matchAll(PACKAGE)].map((found) => [path, found] as const));
  assert(all.length > 40);
  for (const [path, [specifier, name, version]] of all) {
    if (ofUsers.has(specifier)) continue;
    assertMatch(version!, EXACT, `${path}: ${specifier}`);
    assert(name! in PINS || OTHER_TABLES.includes(path), `${path}: add ${name} to tools/pins.ts`);
  }
});

Deno.test("deno.json has ranges for users, and exact versions of tools", async () => {
  const { imports } = JSON.parse(texts.get("deno.json")!) as { imports: Record<string, string> };
  const imported = new Set<string>();
  for (const [path, source] of (await readRepository(ROOT)).files) {
    if (!isLibrary(path) && !path.startsWith("examples/")) continue;
    for (const { specifier } of importsOf(source)) imported.add(specifier);
  }
  const isForUsers = (name: string) =>
    // The standard library comes from JSR, or from a mirror with one version; React DOM with React.
    name.startsWith("@std/") || name === "react-dom" ||
    [...imported].some((specifier) => specifier === name || specifier.startsWith(`${name}/`));
  for (const [name, specifier] of Object.entries(imports)) {
    const wanted = isForUsers(name) ? RANGE : EXACT;
    assertMatch(specifier.slice(specifier.lastIndexOf("@") + 1), wanted, name);
  }
});

Deno.test("withPins() writes packages of tests and every mention of Deno, but no package of users", () => {
  const { ws, deno } = PINS;
  const source = `import "npm:ws@^7/browser"; const list = ["ws@8.0.0", "npm:zod@^4"];`;
  assertEquals(
    withPins("tests/a_test.ts", source, new Set(["zod@^4"])),
    `import "npm:ws@${ws}/browser"; const list = ["ws@${ws}", "npm:zod@^4"];`,
  );
  assertEquals(withPins("tests/a_test.ts", source, new Set(["ws@^7", "ws@8.0.0"])), source);
  assertEquals(withPins("examples/a.ts", source, new Set()), source);
  assertEquals(
    withPins("docs/a.md", `npx -y deno${"@2.0.1"} and denoland/deno${":bin-2.0.1"}`, new Set()),
    `npx -y deno@${deno} and denoland/deno:bin-${deno}`,
  );
});
