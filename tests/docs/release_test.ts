/**
 * Tests the release: the workflows pass their linter and follow their rules, and the bill of
 * materials matches the official schema.
 *
 * @module
 */
import { assert, assertEquals, assertMatch } from "@std/assert";
import { readBom } from "../../tools/sbom.ts";
import { actionlint, checkers } from "./checkers.ts";

const ROOT = new URL("../../", import.meta.url);

const WORKFLOWS = ["ci", "docs", "release"];

/** CycloneDX's library with the schema, and the libraries that its validator needs. */
const VALIDATOR = [
  "@cyclonedx/cyclonedx-library@10.3.0",
  "ajv@8.20.0",
  "ajv-formats@3.0.1",
  "ajv-formats-draft2019@1.6.1",
];

/** A program for Node: reads a document, and exits with 1 if it violates the schema. */
const VALIDATE = `
import { Spec, Validation } from "@cyclonedx/cyclonedx-library";
import { readFileSync } from "node:fs";
const validator = new Validation.JsonStrictValidator(Spec.Version.v1dot6);
const errors = await validator.validate(readFileSync(process.argv[2], "utf8"));
if (errors !== null) {
  console.error(JSON.stringify(errors, null, 2));
  process.exitCode = 1;
}
`;

async function run(command: string, args: readonly string[], cwd: URL | string = ROOT) {
  const options: Deno.CommandOptions = { args: [...args], cwd, stdin: "null" };
  const { success, stdout, stderr } = await new Deno.Command(command, options).output();
  const output = [stdout, stderr].map((bytes) => new TextDecoder().decode(bytes)).join("");
  return { success, output };
}

const linter = await actionlint();

Deno.test({
  name: "the workflows pass actionlint",
  ignore: linter === undefined,
  async fn() {
    const files = WORKFLOWS.map((name) => `.github/workflows/${name}.yml`);
    assertEquals(await run(linter!, ["-no-color", ...files]), { success: true, output: "" });
  },
});

Deno.test("the workflows pin actions by commit, declare the permissions of each job, and store no secret", async () => {
  for (const name of WORKFLOWS) {
    const text = await Deno.readTextFile(new URL(`.github/workflows/${name}.yml`, ROOT));
    assertMatch(text, /^permissions: \{\}$/m, `${name}.yml gives permissions to all jobs`);
    assert(!text.includes("secrets."), `${name}.yml reads a secret`);
    for (const [, action] of text.matchAll(/^\s+(?:- )?uses: (.+)$/gm)) {
      if (action!.startsWith("./")) continue;
      assertMatch(action!, /^[\w-]+\/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$/, `in ${name}.yml`);
    }
    const jobs = text.slice(text.indexOf("\njobs:\n")).split(/^ {2}(?=[a-z]+:$)/m).slice(1);
    for (const job of jobs) {
      const [title] = job.split(":");
      assert(
        /^ {4}permissions:$/m.test(job),
        `The job ${title} of ${name}.yml declares no permissions`,
      );
    }
    for (const [, version] of text.matchAll(/DENO_VERSION: (\S+)/g)) {
      const script = await Deno.readTextFile(new URL(".ci/run", ROOT));
      assert(
        script.includes(`deno@${version} `),
        `${name}.yml uses another Deno version than .ci/run`,
      );
    }
  }
});

Deno.test("each entry of the package has documentation, as JSR's score requires", async () => {
  const { exports } = JSON.parse(await Deno.readTextFile(new URL("deno.json", ROOT)));
  for (const path of Object.values(exports as Record<string, string>)) {
    const text = await Deno.readTextFile(new URL(path, ROOT));
    assertMatch(text, /^\/\*\*\n(?: \*.*\n)* \* @module\n/, `${path} has no @module`);
  }
});

const tools = await checkers();

Deno.test({
  name: "the image of the command passes a linter",
  ignore: tools === undefined,
  async fn() {
    const [command, ...args] = tools!.hadolint;
    const result = await run(command!, [...args, ".github/image/Dockerfile"]);
    assertEquals(result, { success: true, output: "" });
  },
});

Deno.test("the bill of materials matches the official schema, and lists each npm package", async () => {
  const bom = await readBom(ROOT, new Date());
  const purls = bom.components.flatMap(({ purl }) => purl ?? []);
  for (const name of ["ioredis", "jose", "zod", "%40msgpack/msgpack", "%40nats-io/jetstream"]) {
    assert(purls.some((purl) => purl.startsWith(`pkg:npm/${name}@`)), `${name} is missing`);
  }
  // Packages that only tests and tools use are listed from `tools/pins.ts`, with their versions alone.
  const used = bom.components.filter(({ scope }) => scope !== "excluded");
  for (const component of used.filter(({ purl }) => purl !== undefined)) {
    assert(component.hashes && component.licenses, JSON.stringify(component));
  }

  const folder = await Deno.makeTempDir();
  const quiet = ["--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"];
  const install = await run("npm", ["install", ...quiet, "--prefix", folder, ...VALIDATOR]);
  assert(install.success, install.output);
  await Deno.writeTextFile(`${folder}/validate.mjs`, VALIDATE);
  const validate = async (document: unknown) => {
    await Deno.writeTextFile(`${folder}/bom.json`, JSON.stringify(document));
    return await run("node", ["validate.mjs", "bom.json"], folder);
  };
  assertEquals(await validate(bom), { success: true, output: "" });
  const broken = { ...bom, components: [{ type: "librery", name: "zod" }] };
  assert(!(await validate(broken)).success, "The schema is not checked");
});
