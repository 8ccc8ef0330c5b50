import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import config from "../deno.json" with { type: "json" };
import { fakeContext, type FakeContextOptions } from "../tests/cli_context.ts";
import { type Command, CommandError, Exit } from "./command.ts";
import { type Context, plainJson } from "./context.ts";
import { COMMANDS, main } from "./skein.ts";

function commandThat(run: Command["run"]): Command {
  return {
    name: "greet",
    summary: "Greet a person",
    usage: "NAME [options]",
    options: [{ name: "json", summary: "Print JSON" }],
    examples: [{ line: "skein greet ann", effect: "Greet Ann" }],
    exitCodes: { 0: "Greeted" },
    run,
  };
}

/** Runs `skein` with one command, which prints its arguments by default. */
async function run(
  args: string[],
  { command, abort = false, ...options }: FakeContextOptions & {
    command?: Command["run"];
    abort?: boolean;
  } = {},
) {
  const context = fakeContext(options);
  if (abort) context.interrupt();
  const greet = commandThat(
    command ?? ((args, { stdout, colors }) => {
      stdout.write(`${colors.red("hello")} ${args.positional} ${args.flag("json")}\n`);
      return Promise.resolve(Exit.done);
    }),
  );
  const code = await main(args, context, [greet]);
  return { code, out: context.out, err: context.err };
}

Deno.test("main() runs a command with its arguments and options", async () => {
  const { code, out, err } = await run(["greet", "ann", "--json"]);
  assertEquals({ code, out, err }, { code: 0, out: "hello ann true\n", err: "" });
});

Deno.test("main() shows the version and the help, on standard output", async () => {
  for (const args of [["--version"], ["-V"]]) {
    const { code, out } = await run(args);
    assertEquals([code, out], [0, `skein ${config.version}\n`]);
  }
  for (const args of [["--help"], ["-h"], ["help"]]) {
    const { code, out } = await run(args);
    assertEquals(code, 0);
    assertStringIncludes(out, "Usage: skein COMMAND [options]");
    assertStringIncludes(out, "  greet  Greet a person\n");
  }
  for (
    const args of [["help", "greet"], ["greet", "--help"], ["greet", "-h"], ["greet", "--x", "-h"]]
  ) {
    const { code, out, err } = await run(args);
    assertEquals([code, err], [0, ""]);
    assertStringIncludes(out, "Usage: skein greet NAME [options]");
  }
});

Deno.test("main() without arguments shows the help as an error", async () => {
  const { code, out, err } = await run([]);
  assertEquals([code, out], [2, ""]);
  assertStringIncludes(err, "Commands:");
});

Deno.test("main() rejects wrong usage, and suggests a fix", async () => {
  const cases: [string[], string][] = [
    [["gret"], 'Cannot run: unknown command "gret"; did you mean greet?'],
    [["help", "gret"], 'Cannot run: unknown command "gret"; did you mean greet?'],
    [["help", "greet", "x"], 'Cannot show help: unknown argument "x"'],
    [["--versio"], "Cannot run: unknown option --versio; did you mean --version?"],
    [["greet", "--jsn"], "Cannot run: unknown option --jsn; did you mean --json?"],
    [["greet", "--color", "pink"], "Cannot read --color: the value must be one of"],
  ];
  for (const [args, message] of cases) {
    const { code, out, err } = await run(args);
    assertEquals([code, out], [2, ""]);
    assertStringIncludes(err, `error: ${message}`);
    assertStringIncludes(err, "Usage: skein");
  }
});

Deno.test("main() turns the result of a command into an exit code", async () => {
  const failing = (error: Error): Command["run"] => () => Promise.reject(error);
  const cases: [Error, boolean, number, string][] = [
    [new CommandError("Cannot greet: ann is out"), false, 1, "error: Cannot greet: ann is out\n"],
    [new CommandError("Cannot reach ann", { exitCode: 3 }), false, 3, "error: Cannot reach ann\n"],
    [new Error("broken"), false, 1, "error: broken\n"],
    [new DOMException("The signal has been aborted", "AbortError"), true, 130, ""],
    [new CommandError("Cannot greet: late"), true, 1, "error: Cannot greet: late\n"],
    [new Deno.errors.BrokenPipe("Broken pipe"), false, 0, ""],
  ];
  for (const [error, abort, code, err] of cases) {
    const ended = await run(["greet"], { command: failing(error), abort });
    assertEquals({ code: ended.code, out: ended.out, err: ended.err }, { code, out: "", err });
  }
});

Deno.test("main() strips control characters of a server from errors", async () => {
  const error = new Error("Cannot go on: \x1b[2Jno\nat all");
  const { code, err } = await run(["greet"], { command: () => Promise.reject(error) });
  assertEquals([code, err], [1, "error: Cannot go on:  no\nat all\n"]);
});

Deno.test("plainJson() escapes control characters, and keeps the value", () => {
  const value = { text: "\x1b[2J\x9b31m\u202e\x7f", more: ["ü", 1] };
  const text = plainJson(value);
  assertEquals(JSON.parse(text), value);
  assertMatch(text, /^[ -~ü]*$/);
  assertEquals(plainJson({ a: 1 }, 2), '{\n  "a": 1\n}');
});

Deno.test("main() uses colors in a terminal, unless they are turned off", async () => {
  const red = "\x1b[31mhello\x1b[39m";
  const isColored = async (args: string[], options: FakeContextOptions) =>
    (await run(args, options)).out.includes(red);
  assertEquals(await isColored(["greet", "--color", "auto"], { isTerminal: true }), true);
  assertEquals(await isColored(["greet", "--color=auto"], { isTerminal: false }), false);
  assertEquals(await isColored(["greet", "--color=always"], {}), true);
  assertEquals(await isColored(["--color", "always", "greet"], {}), true);
  assertEquals(await isColored(["greet", "--color=never"], { isTerminal: true }), false);
  const env = { NO_COLOR: "1" };
  assertEquals(await isColored(["greet", "--color=auto"], { isTerminal: true, env }), false);
  assertEquals(await isColored(["greet", "--color=always"], { env }), true);
});

Deno.test("The help of every command has options, examples and exit codes", () => {
  for (const { name, summary, examples, exitCodes, options } of COMMANDS) {
    assert(!summary.endsWith("."), name);
    for (const { line } of examples) assertStringIncludes(line, `skein ${name} `);
    assert(0 in exitCodes && 2 in exitCodes, name);
    assertEquals(options.filter(({ summary }) => summary.endsWith(".")), [], name);
  }
});

Deno.test("docs/reference/cli.md has the help of every command", async () => {
  const page = await Deno.readTextFile(new URL("../docs/reference/cli.md", import.meta.url));
  for (const args of [["help"], ...COMMANDS.map(({ name }) => ["help", name])]) {
    const context = fakeContext();
    assertEquals(await main(args, context), 0);
    assertStringIncludes(page, `\`\`\`text\n${context.out}\`\`\`\n`, args.join(" "));
  }
});

Deno.test("Every line of a help fits into 100 columns", async () => {
  for (const { name } of COMMANDS) {
    const context = fakeContext();
    await main(["help", name], context);
    assertEquals(context.out.split("\n").filter((line) => line.length > 100), []);
  }
});

Deno.test("skein runs as a program, and exits with the exit code", async () => {
  const skein = async (...args: string[]) => {
    const { code, stdout } = await new Deno.Command(Deno.execPath(), {
      args: ["run", "-A", "--no-check", new URL("main.ts", import.meta.url).href, ...args],
      cwd: new URL("../", import.meta.url),
      stdin: "null",
      stderr: "null",
    }).output();
    return { code, out: new TextDecoder().decode(stdout) };
  };
  assertEquals(await skein("--version"), { code: 0, out: `skein ${config.version}\n` });
  assertEquals(await skein("gret"), { code: 2, out: "" });
});

Deno.test("main() prints plain text in a context without colors", async () => {
  let seen: Context | undefined;
  await run(["greet"], {
    command: (_args, context) => {
      seen = context;
      return Promise.resolve(0);
    },
  });
  assertEquals(seen?.colors.isOn, false);
});
