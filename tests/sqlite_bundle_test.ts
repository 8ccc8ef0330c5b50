/**
 * Tests SQLite with `synchronous: "full"`, which needs a worker, in a server that is one program.
 *
 * @module
 */
import { assertEquals, assertMatch } from "@std/assert";
import { fileURLToPath } from "node:url";

const path = (name: string) => fileURLToPath(new URL(name, import.meta.url));

/** Opens the broker, and stores a publication and a log, whose code loads late. */
const PROGRAM = `
import { SqliteBroker } from ${JSON.stringify(path("../brokers/sqlite/mod.ts"))};
const broker = await SqliteBroker.open(Deno.args[0], { synchronous: "full" });
const bounds = { size: 10, ttlMs: 60_000, bytes: 1_000 };
await broker.history.append({ topic: "chat", payload: '"Hello"' }, { bounds });
const config = { contentType: "text/plain" };
const log = { config, identity: "identity", records: ["Hello"], maxLogs: 1 };
const { kind } = await broker.logs.create("log", log);
console.log("stored", kind);
await broker.close();
`;

/** Runs Deno, and returns its output. */
async function deno(...args: string[]): Promise<{ stdout: string; stderr: string }> {
  const output = await new Deno.Command(Deno.execPath(), {
    args,
    env: { NO_COLOR: "1" },
    stdin: "null",
  }).output();
  const [stdout, stderr] = [output.stdout, output.stderr].map((bytes) =>
    new TextDecoder().decode(bytes).trim()
  );
  assertEquals(output.code, 0, stderr);
  return { stdout: stdout!, stderr: stderr! };
}

Deno.test("SqliteBroker.open() with full starts a worker in a bundle with code splitting, and prints a line in one file", async () => {
  const folder = await Deno.makeTempDir();
  const config = `--config=${path("../deno.json")}`;
  const bundle = ["bundle", "--quiet", "--platform=deno", config];
  try {
    await Deno.writeTextFile(`${folder}/server.ts`, PROGRAM);
    await deno(...bundle, "--code-splitting", `--outdir=${folder}/dist`, `${folder}/server.ts`);
    await deno(...bundle, `--output=${folder}/one.js`, `${folder}/server.ts`);
    const run = (file: string) =>
      deno("run", "-A", "--no-config", `${folder}/${file}`, `${folder}/${crypto.randomUUID()}.db`);
    assertEquals(await run("dist/server.js"), { stdout: "stored created", stderr: "" });
    const { stdout, stderr } = await run("one.js");
    assertEquals(stdout, "stored created");
    assertMatch(stderr, /^Skein: SQLite with synchronous "full" blocks .*--code-splitting$/);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("deno compile packs the worker and the logs of SqliteBroker, which are in its module graph", async () => {
  const { stdout } = await deno("info", "--json", path("../brokers/sqlite/mod.ts"));
  const { modules } = JSON.parse(stdout) as { modules: { specifier: string }[] };
  const names = new Set(modules.map(({ specifier }) => specifier.split("/sqlite/").at(-1)));
  const late = ["file_worker.ts", "logs/logs.ts", "logs/sqlite_logs.ts"];
  assertEquals(late.filter((name) => !names.has(name)), []);
});
