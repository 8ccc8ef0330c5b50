import { assertEquals, assertMatch } from "@std/assert";
import { fileURLToPath } from "node:url";

const WITH_MIRROR = fileURLToPath(new URL("with_mirror.ts", import.meta.url));

async function run(...args: string[]) {
  const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", WITH_MIRROR, ...args],
    env: { NO_COLOR: "1" },
    stdin: "null",
  }).output();
  const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes).trim();
  return { code, stdout: text(stdout), stderr: text(stderr) };
}

Deno.test("withMirror() gives a command the package of this checkout, and returns the exit code", async () => {
  const { version } = JSON.parse(
    await Deno.readTextFile(new URL("../../deno.json", import.meta.url)),
  );
  const script = `
    const meta = await fetch(Deno.env.get("JSR_URL") + "@skein/skein/meta.json");
    console.log((await meta.json()).latest);
    Deno.exit(7);`;
  const { code, stdout, stderr } = await run(Deno.execPath(), "eval", script);
  assertEquals([code, stdout], [7, version], stderr);
});

Deno.test("withMirror() prints its usage without a command", async () => {
  const { code, stderr } = await run();
  assertEquals(code, 2);
  assertMatch(stderr, /^Usage: .*with_mirror\.ts COMMAND/);
});
