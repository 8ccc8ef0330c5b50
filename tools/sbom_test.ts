import { assertEquals, assertNotEquals, assertRejects } from "@std/assert";
import { bomOf, type Manifest, type ModuleGraph, type PackageFacts, tableOf } from "./sbom.ts";
import { VERSION as MIRROR_VERSION } from "./mirror/packages.ts";

const MANIFEST: Manifest = {
  name: "@skein/skein",
  version: "1.2.3",
  license: "MIT",
  exports: { ".": "./mod.ts", "./redis": "./redis.ts" },
};

const FACTS: PackageFacts = {
  license: ({ name }) => name === "zod" ? "MIT" : undefined,
  integrity: (key) => key === "zod@4.0.0" ? "sha512-AAEC" : undefined,
};

const ZOD = { name: "zod", version: "4.0.0", dependencies: [] };

const ROOT: ModuleGraph = {
  modules: [
    { kind: "esm", specifier: "file:///mod.ts" },
    { kind: "npm", specifier: "npm:/zod@4.0.0", npmPackage: "zod@4.0.0" },
  ],
  npmPackages: { "zod@4.0.0": ZOD },
};

const REDIS: ModuleGraph = {
  modules: [
    { kind: "npm", specifier: "npm:/ioredis@5.0.0", npmPackage: "ioredis@5.0.0_zod@4.0.0" },
    { kind: "esm", specifier: "https://registry.test/@std/cli/1.0.1/parse_args.ts" },
    { kind: "esm", specifier: `http://127.0.0.1:20000/@std/text/${MIRROR_VERSION}/mod.ts` },
  ],
  npmPackages: {
    "ioredis@5.0.0_zod@4.0.0": {
      name: "ioredis",
      version: "5.0.0",
      dependencies: ["@ioredis/commands@1.0.0", "zod@4.0.0"],
    },
    "@ioredis/commands@1.0.0": {
      name: "@ioredis/commands",
      version: "1.0.0",
      dependencies: ["ioredis@5.0.0_zod@4.0.0"], // Packages may depend on each other.
    },
    "zod@4.0.0": ZOD,
  },
};

Deno.test("bomOf() lists packages with entries, hashes, licenses and dependencies", async () => {
  const bom = await bomOf(MANIFEST, new Map([[".", ROOT], ["./redis", REDIS]]), FACTS);
  assertEquals(bom.components.map(({ "bom-ref": ref, scope }) => [ref, scope]), [
    ["jsr:@std/cli@1.0.1", "optional"],
    ["jsr:@std/text", "optional"],
    ["pkg:npm/%40ioredis/commands@1.0.0", "optional"],
    ["pkg:npm/ioredis@5.0.0", "optional"],
    ["pkg:npm/zod@4.0.0", "required"],
  ]);
  assertEquals(bom.components[1]!.version, undefined);
  assertEquals(bom.components[2]!.group, "@ioredis");
  assertEquals(bom.components[4], {
    type: "library",
    "bom-ref": "pkg:npm/zod@4.0.0",
    name: "zod",
    version: "4.0.0",
    scope: "required",
    hashes: [{ alg: "SHA-512", content: "000102" }],
    licenses: [{ expression: "MIT" }],
    purl: "pkg:npm/zod@4.0.0",
    properties: [
      { name: "skein:registry", value: "npm" },
      { name: "skein:entry", value: "." },
      { name: "skein:entry", value: "./redis" },
    ],
  });
  const dependencies = new Map(bom.dependencies.map(({ ref, dependsOn }) => [ref, dependsOn]));
  assertEquals(dependencies.get("@skein/skein@1.2.3"), [
    "jsr:@std/cli@1.0.1",
    "jsr:@std/text",
    "pkg:npm/ioredis@5.0.0",
    "pkg:npm/zod@4.0.0",
  ]);
  assertEquals(dependencies.get("pkg:npm/ioredis@5.0.0"), [
    "pkg:npm/%40ioredis/commands@1.0.0",
    "pkg:npm/zod@4.0.0",
  ]);
});

Deno.test("bomOf() gives the same content the same serial number, and has a time if one is given", async () => {
  const of = (graph: ModuleGraph, time?: Date) =>
    bomOf(MANIFEST, new Map([[".", graph]]), FACTS, time);
  const [one, again, other] = await Promise.all([of(ROOT), of(ROOT), of(REDIS)]);
  assertEquals(one, again);
  assertNotEquals(one.serialNumber, other.serialNumber);
  assertEquals((await of(ROOT, new Date(0))).metadata.timestamp, "1970-01-01T00:00:00.000Z");
});

Deno.test("bomOf() lists what only tests and tools use as excluded, and tableOf() all as a table", async () => {
  const graphs = new Map([[".", ROOT], ["./redis", REDIS]]);
  const tools = { "ws": "8.0.0", "@scope/tool": "1.0.0", "zod": "4.0.0" };
  const bom = await bomOf(MANIFEST, graphs, { ...FACTS, tools });
  const excluded = bom.components.filter(({ scope }) => scope === "excluded");
  assertEquals(excluded.map(({ purl }) => purl), [
    "pkg:npm/%40scope/tool@1.0.0",
    "pkg:npm/ws@8.0.0",
  ]);
  assertEquals(
    bom.dependencies[0],
    (await bomOf(MANIFEST, graphs, FACTS)).dependencies[0],
    "the package depends on none of them",
  );
  assertEquals(
    tableOf(bom),
    `\
resolver  deno               ${Deno.version.deno}
required  zod                4.0.0
optional  @std/cli           1.0.1
optional  @std/text          unknown
optional  @ioredis/commands  1.0.0
optional  ioredis            5.0.0
excluded  @scope/tool        1.0.0
excluded  ws                 8.0.0
`,
  );
});

Deno.test("bomOf() rejects a graph with an error", async () => {
  const broken: ModuleGraph = { modules: [{ specifier: "npm:gone@1", error: "not found" }] };
  await assertRejects(
    () => bomOf(MANIFEST, new Map([[".", broken]]), FACTS),
    TypeError,
    "npm:gone@1 has an error: not found",
  );
});
