/** Tests the package as common tools see it: files, sizes, exports and types. */
import { assert, assertEquals } from "@std/assert";
import { fileURLToPath } from "node:url";
import { Project, ROOT, TARBALL } from "./_project.ts";

/** Largest size of the tarball, in bytes. */
const MAX_TARBALL_BYTES = 1_400 * 1024;

/** Largest size of all files together, in bytes. */
const MAX_UNPACKED_BYTES = 5 * 1024 * 1024;

Deno.test("npm pack includes the scripts, maps, types and texts of the package, and no other file", async () => {
  await using project = await Project.make({});
  const { code, output } = await project.run([
    ...["npm", "pack", "--dry-run", "--json", "--silent"],
    `${project.folder}/node_modules/@skein/client`,
  ]);
  assertEquals(code, 0, output);
  const [{ files, size, unpackedSize, bundled }] = JSON.parse(
    output.slice(output.indexOf("[")),
  ) as [{
    files: { path: string }[];
    size: number;
    unpackedSize: number;
    bundled: string[];
  }];
  const kinds = Object.groupBy(
    files,
    ({ path }) =>
      path.replace(/^chunks\/chunk(?:_[a-z]+)?-[A-Z0-9]{8}/, "chunks/*")
        .replace(/^types\/.*\.d\.ts$/, "types/*.d.ts"),
  );
  assertEquals(Object.keys(kinds).toSorted(), [
    "LICENSE",
    "README.md",
    "cdn.js",
    "chunks/*.js",
    "chunks/*.js.map",
    "index.js",
    "index.js.map",
    "mutations.js",
    "mutations.js.map",
    "package.json",
    "react.js",
    "react.js.map",
    "slim.js",
    "store.js",
    "store.js.map",
    "store_testing.js",
    "store_testing.js.map",
    "types/*.d.ts",
  ]);
  assertEquals(kinds["chunks/*.js"]!.length, kinds["chunks/*.js.map"]!.length);
  assertEquals(bundled, []);
  console.log(`${files.length} files, ${size} bytes packed, ${unpackedSize} bytes unpacked`);
  assert(size <= MAX_TARBALL_BYTES, `The tarball has ${size} bytes`);
  assert(unpackedSize <= MAX_UNPACKED_BYTES, `The files have ${unpackedSize} bytes`);
});

Deno.test("publint finds no fault in the package", async () => {
  await using project = await Project.make({}, ["publint"]);
  const { code, output } = await project.tool(
    "publint/src/cli.js",
    "--strict",
    TARBALL,
  );
  assertEquals(code, 0, output);
});

Deno.test("Are the types wrong? finds no fault in the package", async () => {
  await using project = await Project.make({}, ["@arethetypeswrong/cli"]);
  const { code, output } = await project.tool(
    "@arethetypeswrong/cli/dist/index.js",
    ...["--profile", "esm-only", "--no-emoji", TARBALL],
  );
  assertEquals(code, 0, output);
});

Deno.test("Each source map of the package includes its sources", async () => {
  await using project = await Project.make({});
  const { output } = await project.run([
    ...["find", "node_modules/@skein/client", "-name", "*.js.map"],
  ]);
  const paths = output.trim().split("\n");
  assert(paths.length > 5);
  for (const path of paths) {
    const { sources, sourcesContent } = JSON.parse(
      await Deno.readTextFile(`${project.folder}/${path}`),
    ) as { sources: string[]; sourcesContent: unknown[] };
    assertEquals(sources.filter((source) => !/^(?:\.\.\/)?src\/.*\.ts$/.test(source)), []);
    assertEquals(sourcesContent.map((content) => typeof content), sources.map(() => "string"));
  }
});

Deno.test("The package has no traces of the machine that built it", async () => {
  await using project = await Project.make({});
  const { output } = await project.run([
    "grep",
    "-rlF",
    fileURLToPath(ROOT),
    "node_modules/@skein/client",
  ]);
  assertEquals(output, "");
});
