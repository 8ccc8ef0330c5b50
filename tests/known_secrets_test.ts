/** The secrets in code that users copy: none has a value or a default that everyone can read. */
import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { blocksOf } from "./docs/blocks.ts";

const ROOT = new URL("../", import.meta.url);

const FOLDERS = ["docs", "examples", "skills", "cli/templates", "README.md"];

/** A secret that is set to a text, except to an environment variable. */
const KNOWN_SECRET = /\b\w*secret\w*["']?\s*(?::|\?\?=|\|\|=|=)(?![>=])\s*[^;,}]*["'`]/i;

/** Values that are not in the code. */
const COMPUTED =
  /(?:Deno\.env\.get|getenv)\("\w+"\)|os\.environ\["\w+"\]|"[^"]*\$\(.*\)"|"whsec_"/g;

/** The code of a page. */
const FENCED = /^```[\s\S]*?^```/gm;

/** Stands for a secret that must not be shown: it is sent to a server that ignores it. */
const SHOWN_NOWHERE = "examples/inspect/demo.ts";

async function filesOf(path: string): Promise<string[]> {
  const url = new URL(path, ROOT);
  if ((await Deno.stat(url)).isFile) return [path];
  const inside = await Array.fromAsync(Deno.readDir(url), ({ name }) => filesOf(`${path}/${name}`));
  return inside.flat().filter((it) => /\.(?:md|tsx?|js|txt|html)$/.test(it));
}

Deno.test("No page, example or template has a secret with a known value", async () => {
  assert(KNOWN_SECRET.test('const secret = "abc";'));
  assert(KNOWN_SECRET.test('jwt({ secret: key ?? "abc" })'));
  const files = (await Promise.all(FOLDERS.map(filesOf))).flat();
  assert(files.length > 100, `${files.length} files`);
  const found: string[] = [];
  for (const file of files) {
    const text = await Deno.readTextFile(new URL(file, ROOT));
    const parts = file.endsWith(".md") ? text.match(FENCED) ?? [] : [text];
    for (const line of parts.flatMap((part) => part.split("\n"))) {
      const code = line.replaceAll(COMPUTED, "").replace(/\/\/.*/, "");
      if (KNOWN_SECRET.test(code) && file !== SHOWN_NOWHERE) found.push(`${file}: ${line.trim()}`);
    }
  }
  assertEquals(found, []);
});

Deno.test("The skill's rules throw without a secret, except on loopback", async () => {
  const page = "skills/skein/SKILL.md";
  const blocks = blocksOf(page, await Deno.readTextFile(new URL(page, ROOT)));
  const folder = await Deno.makeTempDir({ prefix: "skill-" });
  const config = new URL("deno.json", ROOT).pathname;
  const run = async (file: string, env: Record<string, string>) => {
    const { success, stderr } = await new Deno.Command(Deno.execPath(), {
      args: ["run", "-A", "--no-check", "--config", config, file],
      cwd: folder,
      clearEnv: true,
      env: { ...pick(["HOME", "PATH", "DENO_DIR", "JSR_URL", "NPM_CONFIG_REGISTRY"]), ...env },
    }).output();
    return { success, text: new TextDecoder().decode(stderr) };
  };
  try {
    for (const block of blocks) {
      const isPart = block.kind === "file" &&
        ["contract.ts", "model.ts", "node.ts", "rules.ts"].includes(block.path);
      if (isPart) await Deno.writeTextFile(`${folder}/${block.path}`, block.text);
    }
    const SECRET = "0".repeat(64);
    for (
      const [file, env, reason] of [
        ["rules.ts", {}, undefined],
        ["rules.ts", { HOST: "127.0.0.1" }, undefined],
        ["rules.ts", { HOST: "0.0.0.0" }, "Set SECRET"],
        ["rules.ts", { HOST: "0.0.0.0", SECRET: "" }, "secret must have at least 32 bytes"],
        ["rules.ts", { HOST: "0.0.0.0", SECRET }, undefined],
        ["node.ts", {}, "Set SECRET"],
      ] as const
    ) {
      const { success, text } = await run(file, env);
      assertEquals(success, reason === undefined, `${file} ${JSON.stringify(env)}: ${text}`);
      if (reason !== undefined) assertStringIncludes(text, reason);
    }
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

function pick(names: readonly string[]): Record<string, string> {
  return Object.fromEntries(names.flatMap((name) => {
    const value = Deno.env.get(name);
    return value === undefined ? [] : [[name, value]];
  }));
}
