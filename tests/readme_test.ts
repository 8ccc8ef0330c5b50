import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { fileURLToPath } from "node:url";
import { PROGRAMS } from "./programs/page_programs.ts";
import { isRedisMissing, RedisServer } from "./brokers/redis_server.ts";
import { PINS } from "../tools/pins.ts";

const ROOT = new URL("../", import.meta.url);
const CONFIG = fileURLToPath(new URL("deno.json", ROOT));
const readme = await Deno.readTextFile(new URL("README.md", ROOT));

type Program = keyof typeof PROGRAMS;

/** A folder with the programs. */
class Folder implements AsyncDisposable {
  readonly #path: string;

  private constructor(path: string) {
    this.#path = path;
  }

  static async make(...programs: Program[]): Promise<Folder> {
    const folder = new Folder(await Deno.makeTempDir());
    for (const name of programs) await Deno.writeTextFile(folder.file(name), PROGRAMS[name]);
    return folder;
  }

  file(name: Program): string {
    return `${this.#path}/${name}.ts`;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Deno.remove(this.#path, { recursive: true });
  }
}

/** Runs a program of the README until it prints a text. */
async function runUntil(name: Program, text: string, env: Record<string, string> = {}) {
  await using folder = await Folder.make(name);
  await using child = new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--quiet", "--config", CONFIG, folder.file(name)],
    env,
    stdout: "piped",
    stderr: "inherit",
  }).spawn();
  let output = "";
  for await (const piece of child.stdout.pipeThrough(new TextDecoderStream())) {
    output += piece;
    if (output.includes(text)) break;
  }
  return output;
}

Deno.test("The README's server sends what was published before", async () => {
  assertStringIncludes(await runUntil("chat", "Tea?"), "Tea?");
});

Deno.test("The README's chat is short", () => {
  const lines = ["ts ignore file=server.ts", "html file=index.html", "ts ignore file=page.ts"]
    .flatMap((name) => readme.split(`\`\`\`${name}\n`)[1]!.split("```")[0]!.split("\n"))
    .filter((line) => line !== "");
  assert(lines.length <= 30, `${lines.length} lines`);
});

Deno.test({
  name: "The documentation's node on Redis sends hello to all clients",
  ignore: isRedisMissing,
  fn: async () => {
    await using redis = await RedisServer.start();
    const output = await runUntil("nodes", "Hello", { REDIS: redis.url });
    assertStringIncludes(output, "Hello, all nodes!");
  },
});

Deno.test("The documentation's clock ticks over Media over QUIC", async () => {
  const output = await runUntil("moq", "Z");
  assertMatch(output, /^\d+ \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z/m);
});

Deno.test("The README names exactly two set-up commands, which are tasks", async () => {
  const { tasks } = JSON.parse(await Deno.readTextFile(new URL("deno.json", ROOT)));
  const commands = [...readme.matchAll(/^npx -y deno@([\d.]+) task (\w+)/gm)];
  assertEquals(commands.map(([, version, task]) => [version, task]), [
    [PINS.deno, "demo"],
    [PINS.deno, "test"],
  ]);
  for (const [, , task] of commands) assert(task! in tasks, `task ${task}`);
});

Deno.test("The README links to files that exist", async () => {
  for (const [, path] of readme.matchAll(/\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)/g)) {
    await Deno.stat(new URL(path!, ROOT));
  }
});

Deno.test("The walk through the code names functions of the files that it links to", async () => {
  const page = await Deno.readTextFile(new URL("docs/internals/a-message.md", ROOT));
  const links = [...page.matchAll(/\]\(\.\.\/\.\.\/([\w/.]+)\)/g)];
  const files = links.map(([, path]) => Deno.readTextFileSync(new URL(path!, ROOT)));
  for (const [text, type, name] of page.matchAll(/`(?:(\w+)\.|(?=#))(#?\w+)\(\)`/g)) {
    const declared = [new RegExp(`class ${type ?? ""}\\b`), new RegExp(` ${name}[<(]`)];
    assert(files.some((code) => declared.every((one) => one.test(code))), text);
  }
});
