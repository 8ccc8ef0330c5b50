import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { fileURLToPath } from "node:url";
import config from "../../deno.json" with { type: "json" };
import { fakeContext, type FakeContextOptions } from "../../tests/cli_context.ts";
import { main } from "../skein.ts";
import { filesOf, TEMPLATES } from "../templates/templates.ts";

/** The configuration that names the library's entries. */
const CONFIG = fileURLToPath(new URL("../../deno.json", import.meta.url));

/** Runs `skein new` in a temporary folder. */
async function place() {
  const folder = await Deno.makeTempDir();
  return {
    folder,
    async create(args: readonly string[], options?: FakeContextOptions, typed?: string) {
      const context = fakeContext(options);
      if (typed !== undefined) context.type(typed);
      const code = await main(["new", ...args], context);
      return { code, out: context.out.replaceAll(folder, "HERE"), err: context.err };
    },
    read: (path: string) => Deno.readTextFile(`${folder}/${path}`),
    [Symbol.asyncDispose]: () => Deno.remove(folder, { recursive: true }),
  };
}

for (const [name, template] of Object.entries(TEMPLATES)) {
  Deno.test(`new creates a project from the template ${name}`, async () => {
    await using here = await place();
    const { code, out, err } = await here.create([`${here.folder}/my-app`, "-t", name]);
    assertEquals([code, err], [0, ""]);
    assertStringIncludes(out, `Created HERE/my-app from the template ${name}:`);
    assertStringIncludes(out, "  cd HERE/my-app\n  deno task dev");
    for (const path of Object.keys(template.files)) assertStringIncludes(out, `  ${path}\n`);
    assertEquals((await here.read("my-app/README.md")).split("\n")[0], "# my-app");
    const project = JSON.parse(await here.read("my-app/deno.json"));
    assertEquals(project.imports["@skein/skein"], `jsr:@skein/skein@^${config.version}`);
    assertEquals(["dev", "start", "test"].every((task) => task in project.tasks), true);
    // Only the development server accepts pages of the machine's addresses.
    assertMatch(project.tasks.dev, /--allow-sys=networkInterfaces(,osUptime)? --watch dev\.ts/);
    assert(!project.tasks.start.includes("dev.ts"));
    assert(!(await here.read("my-app/Dockerfile")).includes("dev.ts"));
    const ignored = (await here.read("my-app/.gitignore")).split("\n");
    assert(["node_modules/", ".env"].every((path) => ignored.includes(path)));
  });
}

Deno.test("The templates chat, ai, board and react keep their data in a folder of their own", () => {
  const names = Object.keys(TEMPLATES).filter((name) => "data.ts" in TEMPLATES[name]!.files);
  assertEquals(names, ["chat", "ai", "board", "react"]);
  for (const name of names) {
    const files = filesOf(TEMPLATES[name]!, { name, version: "1.0.0" });
    const { tasks } = JSON.parse(files.get("deno.json")!);
    assert(files.get(".gitignore")!.split("\n").includes("data/"), name);
    // Without the uptime, the broker takes a killed process for a power loss.
    assertStringIncludes(tasks.dev, "--allow-sys=networkInterfaces,osUptime --watch dev.ts");
    assertStringIncludes(tasks.start, "--allow-sys=osUptime server.ts");
    assertStringIncludes(files.get("dev.ts")!, "broker: await openData()");
    assertStringIncludes(files.get("server.ts")!, "const broker = await openData();");
    const dockerfile = files.get("Dockerfile")!;
    assertMatch(dockerfile, /^# .* -v app-data:\/srv\/app\/data app\n/);
    assertStringIncludes(
      dockerfile,
      "\nRUN mkdir data && chown 1993:1993 data\nVOLUME /srv/app/data\n",
    );
    assertStringIncludes(dockerfile, '"--allow-write=data", "--allow-sys=osUptime", "server.js"]');
  }
});

for (
  const [what, env, expected] of [
    ["no proxy", {}, "10.0.0.9"],
    ["no proxy in a container", { IN_CONTAINER: "1" }, "10.0.0.9 TRUSTED_PROXIES is not set"],
    ["a proxy", { IN_CONTAINER: "1", TRUSTED_PROXIES: "1" }, "192.0.2.2"],
    ["two proxies", { TRUSTED_PROXIES: "2" }, "192.0.2.1"],
    ["a header", { TRUSTED_PROXIES: "1", ADDRESS_HEADER: "fly-client-ip" }, "192.0.2.3"],
    ["a container without a proxy", { IN_CONTAINER: "1", TRUSTED_PROXIES: "0" }, "10.0.0.9"],
    ["no number", { TRUSTED_PROXIES: "yes" }, "trusted must be a positive integer, received NaN"],
  ] as const
) {
  Deno.test(`Servers of all templates find the addresses of visitors with ${what}`, async () => {
    await using here = await place();
    const sources = Object.values(TEMPLATES).map(({ files }) => {
      assertStringIncludes(files["server.ts"]!, "    ...options,\n    clientAddress,\n");
      return files["address.ts"]!;
    });
    assertEquals(new Set(sources).size, 1);
    await Deno.writeTextFile(`${here.folder}/address.ts`, sources[0]!);
    const program = `import { clientAddress } from "./address.ts";
      const headers = { "x-forwarded-for": "192.0.2.1, 192.0.2.2", "fly-client-ip": "192.0.2.3" };
      console.log(clientAddress?.(new Request("http://localhost", { headers })) ?? "10.0.0.9");`;
    await Deno.writeTextFile(`${here.folder}/main.ts`, program);
    const { stdout, stderr } = await new Deno.Command(Deno.execPath(), {
      args: ["run", "-A", "--no-check", "--config", CONFIG, `${here.folder}/main.ts`],
      env,
    }).output();
    const [out, err] = [stdout, stderr].map((bytes) => new TextDecoder().decode(bytes));
    assertStringIncludes(`${out!.trim()} ${err}`.trim(), expected);
    assertEquals(err!.includes("TRUSTED_PROXIES"), expected.includes("TRUSTED_PROXIES"));
  });
}

Deno.test("All templates ignore an empty PORT, which Compose sets from an unset variable", () => {
  for (const [name, { files }] of Object.entries(TEMPLATES)) {
    const uses = Object.values(files).flatMap((text) =>
      [...text.matchAll(/Deno\.env\.get\("PORT"\)( \S+)/g)].map(([, operator]) => operator)
    );
    assert(uses.length >= 1 && uses.every((operator) => operator === " ||"), name);
  }
});

Deno.test("The server of the minimal template has at most 20 lines", () => {
  assert(TEMPLATES["minimal"]!.files["server.ts"]!.trimEnd().split("\n").length <= 20);
});

Deno.test("The chat has its page, server and contract in at most 150 lines of code each", () => {
  for (const path of ["page/page.ts", "server.ts", "contract.ts"]) {
    assert(TEMPLATES["chat"]!.files[path]!.split("\n").length <= 150, path);
  }
});

Deno.test("Pages of all templates work over plain HTTP, and show the status as text", () => {
  for (const [name, { files, page }] of Object.entries(TEMPLATES)) {
    if (page === undefined) continue;
    const sources = Object.entries(files).filter(([path, text]) =>
      path.startsWith(page.folder) && !text.includes("Deno.")
    );
    const text = sources.map(([, text]) => text).join("\n");
    assert(
      !/randomUUID\(|crypto\.subtle|serviceWorker\.|clipboard|navigator\.locks/.test(text),
      name,
    );
    assert(/showStatus\(client, find\("#status"\)\)|\{wordsOf\(status, cause\)\}/.test(text), name);
    assert(/(?:now|status)\.cause/.test(text), name);
  }
});

Deno.test("new writes into an empty folder, and into another one only if forced", async () => {
  await using here = await place();
  assertEquals((await here.create([here.folder, "-t", "minimal"])).code, 0);
  await Deno.writeTextFile(`${here.folder}/server.ts`, "mine");
  const rejected = await here.create([here.folder, "-t", "minimal"]);
  assertEquals(rejected.code, 1);
  assertStringIncludes(rejected.err, "it is not empty and has ");
  assertEquals(await here.read("server.ts"), "mine");
  assertEquals((await here.create([here.folder, "-t", "minimal", "--force"])).code, 0);
  assertStringIncludes(await here.read("server.ts"), "serve");
});

Deno.test("new rejects an empty path, and prints a path that is quoted for the shell", async () => {
  await using here = await place();
  const empty = await here.create(["", "-t", "minimal"]);
  assertEquals(empty.code, 2);
  assertStringIncludes(empty.err, "DIR must be a path");
  if (Deno.build.os === "windows") return;
  const { code, out } = await here.create([`${here.folder}/it's "$(here)"`, "-t", "minimal"]);
  assertEquals(code, 0);
  assertStringIncludes(out, `cd 'HERE/it'\\''s "$(here)"'\n`);
});

Deno.test("new rejects a file in place of the folder", async () => {
  await using here = await place();
  await Deno.writeTextFile(`${here.folder}/app`, "");
  const { code, err } = await here.create([`${here.folder}/app`, "-t", "minimal"]);
  assertEquals(code, 1);
  assertStringIncludes(err, "there is a file of that name");
});

Deno.test("new asks for the template, by number or name", async () => {
  await using here = await place();
  const cases = [["zzz\n2\nn\n", "chat"], ["ai\nno\n", "ai"]] as const;
  for (const [typed, name] of cases) {
    const { code, out } = await here.create(
      [`${here.folder}/${name}`],
      { isTerminal: true },
      typed,
    );
    assertEquals(code, 0);
    assertStringIncludes(out, "Template (number or name): ");
    assertStringIncludes(out, `from the template ${name}`);
  }
});

Deno.test("new writes nothing when an option is wrong", async () => {
  await using here = await place();
  const cases: [string[], string][] = [
    [
      ["app", "--template", "shop"],
      'must be one of minimal, chat, ai, game, board, react, hooks, received "shop"\n',
    ],
    [
      ["app", "-t", "caht"],
      'must be one of minimal, chat, ai, game, board, react, hooks, received "caht"; did you mean chat?',
    ],
    [["app", "--git", "--no-git"], "--git and --no-git exclude each other"],
    [["app", "chat"], 'also received "chat"; did you mean --template chat?'],
    [["app", "shop"], 'expected one DIR, also received "shop"'],
    [[], "DIR is missing"],
  ];
  for (const [args, message] of cases) {
    const { code, err } = await here.create(
      args.map((arg) => arg === "app" ? `${here.folder}/app` : arg),
    );
    assertEquals(code, 2);
    assertStringIncludes(err, message);
  }
  assertEquals(await Array.fromAsync(Deno.readDir(here.folder)), []);
});

Deno.test("new suggests the nearest template in a terminal", async () => {
  await using here = await place();
  const { code, out } = await here.create(
    [`${here.folder}/app`, "--no-git"],
    { isTerminal: true },
    "gaem\ngame\n",
  );
  assertEquals(code, 0);
  assertStringIncludes(out, 'There is no template "gaem"; did you mean game?\nTemplate');
  assertStringIncludes(out, "from the template game");
});

Deno.test("new uses the template minimal without a terminal, and says so", async () => {
  await using here = await place();
  const { code, out, err } = await here.create([`${here.folder}/app`]);
  assertEquals(code, 0);
  assertStringIncludes(err, "Not in a terminal: using the template minimal");
  assertStringIncludes(out, "from the template minimal:");
  assert(!await isRepository(`${here.folder}/app`));
});

Deno.test("new creates a Git repository by option, or if the user agrees in a terminal", async () => {
  await using here = await place();
  const cases: [options: string[], typed: string, asks: boolean, creates: boolean][] = [
    [[], "\n", true, true],
    [[], "what\ny\n", true, true],
    [[], "n\n", true, false],
    [["--git"], "", false, true],
    [["--no-git"], "", false, false],
  ];
  for (const [i, [options, typed, asks, creates]] of cases.entries()) {
    const args = [`${here.folder}/app${i}`, "-t", "minimal", ...options];
    const { code, out } = await here.create(args, { isTerminal: true }, typed);
    assertEquals([code, out.includes("Create a Git repository? ")], [0, asks]);
    assertEquals(await isRepository(`${here.folder}/app${i}`), creates, typed);
  }
});

Deno.test("new takes the end of the input for a no to Git, not for an empty line", async () => {
  await using here = await place();
  const context = fakeContext({ isTerminal: true });
  const ended = main(["new", `${here.folder}/app`, "-t", "minimal"], context);
  await context.until("Create a Git repository? [Y/n] ");
  context.endInput();
  assertEquals(await ended, 0);
  assertStringIncludes(context.out, "[Y/n] \nCreated");
  assertEquals(await isRepository(`${here.folder}/app`), false);
});

Deno.test("new writes no files before the last question, so that a cancelled call can be repeated", async () => {
  await using here = await place();
  const args = [`${here.folder}/app`, "-t", "minimal"];
  const context = fakeContext({ isTerminal: true });
  const ended = main(["new", ...args], context);
  await context.until("Create a Git repository? [Y/n] ");
  context.interrupt();
  assertEquals(await ended, 130);
  assertEquals((await here.create(args, { isTerminal: true }, "n\n")).code, 0);
});

Deno.test("new writes no files if Git fails", async () => {
  await using here = await place();
  const folder = `${here.folder}/app`;
  await Deno.mkdir(folder);
  await Deno.writeTextFile(`${folder}/.git`, "no repository");
  const { code, err } = await here.create([folder, "-t", "minimal", "--git", "--force"]);
  assertEquals(code, 1);
  assertStringIncludes(err, "Cannot create a Git repository in ");
  assertEquals((await Array.fromAsync(Deno.readDir(folder))).map(({ name }) => name), [".git"]);
});

Deno.test("new offers no Git repository within another one", async () => {
  await using here = await place();
  const options = { isTerminal: true };
  assertEquals((await here.create([here.folder, "-t", "minimal", "--git"])).code, 0);
  const { code, out } = await here.create([`${here.folder}/inner`, "-t", "minimal"], options);
  assertEquals([code, out.includes("Git")], [0, false]);
});

async function isRepository(folder: string): Promise<boolean> {
  return await Deno.stat(`${folder}/.git`).then(() => true, () => false);
}

Deno.test("The container of hooks has skein.json, and takes its secrets from .env", () => {
  const files = filesOf(TEMPLATES["hooks"]!, { name: "app", version: "1.0.0" });
  const dockerfile = files.get("Dockerfile")!;
  assertMatch(dockerfile, /^# .* docker run --rm -p 8000:8000 --env-file \.env app\n/);
  assertMatch(dockerfile, /^COPY .*\bskein\.json\b/m);
  assert(!/^COPY .*\.(py|php)\b/m.test(dockerfile));
});

for (const [name, template] of Object.entries(TEMPLATES)) {
  Deno.test(`The Dockerfile of ${name} copies only existing files, and every file that the server loads`, () => {
    const files = filesOf(template, { name: "app", version: "1.0.0" });
    const paths = [...files.keys()];
    const lines = files.get("Dockerfile")!.split("\n");
    const folder = template.page?.folder;
    const copied = lines.filter((line) => line.startsWith("COPY ")).flatMap((line) =>
      line.split(" ").slice(1, -1)
    );
    // A glob may match no file.
    for (const source of copied.filter((one) => !one.endsWith("*"))) {
      assert(paths.some((path) => path === source || path.startsWith(source)), source);
    }
    const loaded = paths.flatMap((path) =>
      [...files.get(path)!.matchAll(/from "(\.{1,2}\/[\w./]+)"/g)].map(([, module]) =>
        new URL(module!, `file:///${path}`).pathname.slice(1)
      )
    ).filter((path) => !folder || !path.startsWith(folder));
    for (const module of ["deno.json", "server.ts", ...loaded]) {
      assert(copied.includes(module), module);
    }
    assertEquals(copied.filter((path) => path.endsWith("/")), folder ? [folder] : []);
  });
}
