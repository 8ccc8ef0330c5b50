import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { isRedisMissing, RedisServer } from "./brokers/redis_server.ts";

const ROOT = new URL("../", import.meta.url);
const readme = await Deno.readTextFile(new URL("README.md", ROOT));

/** A block of the README, by the name behind its language. */
function block(name: string): string {
  const found = new RegExp("```ts ignore " + name.replace(".", "\\.") + "\\n([\\s\\S]*?)```").exec(
    readme,
  );
  assert(found !== null, `the README has a block ${name}`);
  return found[1]!;
}

/** Runs a program of the README until a line says what is waited for. */
async function runUntil(code: string, says: string): Promise<string> {
  const file = await Deno.makeTempFile({ dir: new URL("tests/", ROOT).pathname, suffix: ".ts" });
  await Deno.writeTextFile(file, code);
  await using child = new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--check", file],
    stdout: "piped",
    stderr: "inherit",
  }).spawn();
  try {
    let output = "";
    for await (const text of child.stdout.pipeThrough(new TextDecoderStream())) {
      output += text;
      if (output.includes(says)) break;
    }
    return output;
  } finally {
    await Deno.remove(file);
  }
}

Deno.test("the README's server and client of ten lines talk to each other", async () => {
  // A port of its own, and both in one process, so that nothing has to be waited for.
  const both = block("server.ts").replace("port: 8000", "port: 0") +
    block("client.ts").replace('"ws://localhost:8000"', "server.url");
  const output = await runUntil(both, "lobby");
  assertStringIncludes(output, 'lobby { from: "ann", text: "Hello!" }');
});

Deno.test({
  name: "the README's node on Redis says hello to all of them",
  ignore: isRedisMissing,
  fn: async () => {
    await using redis = await RedisServer.start();
    const code = block("nodes.ts").replace("redis://127.0.0.1:6379", redis.url)
      .replace("serve({ port: 8000", "const server = serve({ port: 0")
      .replace('"ws://localhost:8000"', "server.url");
    assertStringIncludes(await runUntil(code, "Hello"), "Hello, all nodes!");
  },
});

Deno.test("the README's clock over Media over QUIC ticks", async () => {
  const code = block("moq.ts").replace(
    "listenMoq({ port: 4443",
    "const server = listenMoq({ port: 0",
  )
    .replace('"http://127.0.0.1:4443"', 'server.webSocketUrl.replace("ws:", "http:")');
  assertMatch(await runUntil(code, "Z"), /^1 \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z/m);
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
