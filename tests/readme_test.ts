import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { fileURLToPath } from "node:url";
import { PROGRAMS } from "./page_programs.ts";
import { isRedisMissing, RedisServer } from "./brokers/redis_server.ts";

const ROOT = new URL("../", import.meta.url);
const CONFIG = fileURLToPath(new URL("deno.json", ROOT));
const readme = await Deno.readTextFile(new URL("README.md", ROOT));

type Program = keyof typeof PROGRAMS;

/** A block of the README, by the name behind its language. */
function block(name: string): string {
  return readme.split(`\`\`\`ts ignore ${name}\n`)[1]!.split("```")[0]!;
}

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

/** Runs a program of the README until the program prints a text. */
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

Deno.test("the README's server and page of twenty lines talk to each other", async () => {
  assertStringIncludes(
    await runUntil("twentyLines", "Hello"),
    "ann Hello!",
  );
});

Deno.test({
  name: "the README's server exits at the second Ctrl-C, whatever the first one waits for",
  ignore: Deno.build.os === "windows",
  fn: async () => {
    const path = await Deno.makeTempFile({ suffix: ".ts" });
    const hangs = `server.drain = () => new Promise(() => console.log("draining"));
setTimeout(() => {}, 600_000);`;
    const program = block("server.ts").replace("8000", "0");
    await Deno.writeTextFile(path, `${program}${hangs}\nconsole.log("ready");\n`);
    await using child = new Deno.Command(Deno.execPath(), {
      args: ["run", "-A", "--quiet", "--config", CONFIG, path],
      stdout: "piped",
      stderr: "null",
    }).spawn();
    let output = "";
    for await (const piece of child.stdout.pipeThrough(new TextDecoderStream())) {
      output += piece;
      if (/ready\n$|draining\n$/.test(output)) child.kill("SIGINT");
    }
    assertEquals(output, "ready\ndraining\n");
    assertEquals((await child.status).success, false);
    await Deno.remove(path);
  },
});

Deno.test("the README's chat goes on behind a refresh, and has at most 20 lines on each side", async () => {
  const output = await runUntil("refreshed", "!");
  assertStringIncludes(output, "Once upon a time a cat met a fox, and both lived happily !");
  assertEquals(output.split("Once").length, 2);
  for (const name of ["chat_server.ts", "chat_page.ts"]) {
    assert(block(name).trimEnd().split("\n").length <= 20, name);
  }
});

Deno.test({
  name: "the node on Redis of the documentation sends hello to all clients",
  ignore: isRedisMissing,
  fn: async () => {
    await using redis = await RedisServer.start();
    const output = await runUntil("nodes", "Hello", { REDIS: redis.url });
    assertStringIncludes(output, "Hello, all nodes!");
  },
});

Deno.test("the clock of the documentation over Media over QUIC ticks", async () => {
  const output = await runUntil("moq", "Z");
  assertMatch(output, /^\d+ \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z/m);
});

Deno.test("the README names exactly two set-up commands, which are tasks", async () => {
  const { tasks } = JSON.parse(await Deno.readTextFile(new URL("deno.json", ROOT)));
  const commands = [...readme.matchAll(/^npx -y deno@([\d.]+) task (\w+)/gm)];
  assertEquals(commands.map(([, version, task]) => [version, task]), [
    ["2.9.6", "demo"],
    ["2.9.6", "test"],
  ]);
  for (const [, , task] of commands) assert(task! in tasks, `task ${task}`);
});

Deno.test("the README links to files that exist", async () => {
  for (const [, path] of readme.matchAll(/\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)/g)) {
    await Deno.stat(new URL(path!, ROOT));
  }
});
