import { assertEquals, assertMatch, assertNotEquals, assertStringIncludes } from "@std/assert";
import { fileURLToPath } from "node:url";
import { withoutLock } from "./launch.ts";
import { mirrorHandler } from "./mirror/mirror.ts";

const LAUNCH = fileURLToPath(new URL("launch.ts", import.meta.url));

/** A closed port. */
const SILENT = "http://127.0.0.1:9/";

const PRINT_URL = "console.log(Deno.env.get('JSR_URL'))";

function command(jsrUrl: string, cache: string, args: string[]): Deno.Command {
  return new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", LAUNCH, ...args],
    env: { JSR_URL: jsrUrl, DENO_DIR: cache, NO_COLOR: "1" },
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
  });
}

async function run(jsrUrl: string, args: string[]) {
  const cache = await Deno.makeTempDir();
  try {
    const { code, stdout, stderr } = await command(jsrUrl, cache, args).output();
    const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes).trim();
    return { code, stdout: text(stdout), stderr: text(stderr) };
  } finally {
    await Deno.remove(cache, { recursive: true });
  }
}

/** A registry with just the file of the probe. */
function registry(): Deno.HttpServer<Deno.NetAddr> {
  const encode = (text: string) => new TextEncoder().encode(text);
  const handler = mirrorHandler(
    new Map([["assert/mod.d.ts", encode("export {};\n")]]),
    () => Promise.resolve(new Map([["assert/mod.js", encode("export {};\n")]])),
  );
  return Deno.serve({ hostname: "127.0.0.1", port: 0, onListen: () => {} }, handler);
}

Deno.test("launch() substitutes nothing and prints nothing when the registry answers", async () => {
  await using server = registry();
  const url = `http://127.0.0.1:${server.addr.port}/`;
  assertEquals(await run(url, ["eval", PRINT_URL]), { code: 0, stdout: url, stderr: "" });
});

Deno.test("launch() prints one line about the mirror when the registry is silent", async () => {
  const { code, stdout, stderr } = await run(SILENT, ["eval", PRINT_URL]);
  assertEquals(code, 0);
  assertMatch(stdout, /^http:\/\/127\.0\.0\.1:\d+\/$/);
  assertNotEquals(stdout, SILENT);
  assertEquals(stderr.split("\n").length, 1, stderr);
  assertStringIncludes(stderr, "JSR registry does not respond");
});

Deno.test("launch() passes the exit code through", async () => {
  assertEquals((await run(SILENT, ["eval", "Deno.exit(7)"])).code, 7);
});

Deno.test({
  name: "launch() forwards SIGTERM and SIGINT",
  ignore: Deno.build.os === "windows",
  async fn() {
    const cache = await Deno.makeTempDir();
    const script = `
      for (const name of ["SIGTERM", "SIGINT"]) {
        Deno.addSignalListener(name, () => { console.log(name); Deno.exit(3); });
      }
      console.log("ready");
      setInterval(() => {}, 1_000);`;
    for (const signal of ["SIGTERM", "SIGINT"] as const) {
      const child = command(SILENT, cache, ["eval", script]).spawn();
      let printed = "";
      for await (const text of child.stdout.pipeThrough(new TextDecoderStream())) {
        printed += text;
        if (printed === "ready\n") child.kill(signal);
      }
      await child.stderr.cancel();
      assertEquals([printed, (await child.status).code], [`ready\n${signal}\n`, 3]);
    }
    await Deno.remove(cache, { recursive: true });
  },
});

Deno.test("withoutLock() adds --no-lock if the subcommand accepts it", () => {
  const cases: [string[], string[]][] = [
    [["test", "-A"], ["test", "--no-lock", "-A"]],
    [["run", "--no-lock", "x.ts"], ["run", "--no-lock", "x.ts"]],
    [["fmt", "--check"], ["fmt", "--check"]],
    [["x.ts"], ["x.ts"]],
    [[], []],
  ];
  for (const [args, expected] of cases) assertEquals(withoutLock(args), expected);
});
