import { assert, assertEquals, assertThrows } from "@std/assert";
import { Arguments, type Command, CommandError, Exit, helpOf, suggestion } from "./command.ts";
import { makeColors } from "./context.ts";

const OPTIONS = [
  { name: "json", summary: "Print JSON" },
  { name: "no-open", summary: "Print the address" },
  { name: "token", short: "t", value: "TOKEN", summary: "Authenticate" },
  { name: "header", short: "H", value: "LINE", summary: "Send a header", isRepeatable: true },
  { name: "way", value: "WAY", choices: ["a", "b", "longer"], summary: "Take a way" },
  { name: "rate", value: "N", summary: "Messages a second" },
];

const read = (...args: string[]) => new Arguments(args, OPTIONS);

Deno.test("Arguments() reads flags, values, repeated values and positional arguments", () => {
  const args = read(
    "one",
    "--json",
    "-t",
    "secret",
    "-H",
    "a: 1",
    "--header=b: 2",
    "2",
    "--",
    "--x",
  );
  assertEquals(args.positional, ["one", "2", "--x"]);
  assertEquals(args.flag("json"), true);
  assertEquals(args.flag("no-open"), false);
  assertEquals(args.value("token"), "secret");
  assertEquals(args.values("header"), ["a: 1", "b: 2"]);
  assertEquals(args.value("way"), undefined);
  assertEquals(args.values("way"), []);
});

Deno.test("Arguments() keeps the text of values that look like numbers", () => {
  assertEquals(read("--token", "0123", "007").value("token"), "0123");
  assertEquals(read("007").positional, ["007"]);
});

Deno.test("Arguments() reads a flag whose name starts with no", () => {
  assertEquals(read("--no-open").flag("no-open"), true);
});

Deno.test("Arguments() rejects unknown options, and suggests similar ones", () => {
  const cases: [string[], string][] = [
    [["--tokn", "x"], "Cannot run: unknown option --tokn; did you mean --token?"],
    [["--jso"], "Cannot run: unknown option --jso; did you mean --json?"],
    [["--zebra"], "Cannot run: unknown option --zebra"],
    [["--zebra=1"], "Cannot run: unknown option --zebra"],
    [["-z"], "Cannot run: unknown option -z"],
    [["-json"], "Cannot run: unknown option -j; did you mean --json?"],
    [["-rtae=3"], "Cannot run: unknown option -r; did you mean --rate?"],
    [["--token"], "Cannot read --token: the option needs a value"],
    [["--token="], "Cannot read --token: the option needs a value"],
    [["--token", "--json"], "Cannot read --token: the option needs a value"],
    [["--way", "zz"], 'Cannot read --way: the value must be one of a, b, longer, received "zz"'],
    [
      ["--way", "lnoger"],
      'Cannot read --way: the value must be one of a, b, longer, received "lnoger"; did you mean longer?',
    ],
    [["--__proto__", "1"], "Cannot run: unknown option --__proto__"],
  ];
  for (const [args, message] of cases) {
    const error = assertThrows(() => read(...args), CommandError);
    assertEquals([error.message, error.exitCode], [message, Exit.usage]);
  }
});

Deno.test("Arguments.number() checks bounds", () => {
  assertEquals(read().number("rate", { fallback: 7 }), 7);
  assertEquals(read("--rate", "12").number("rate", { fallback: 7 }), 12);
  assertEquals(read("--rate", "0.5").number("rate", { fallback: 7, isWhole: false }), 0.5);
  for (const bad of ["x", "1.5", " ", "-1", "11", "Infinity", "NaN"]) {
    const error = assertThrows(
      () => read(`--rate=${bad}`).number("rate", { fallback: 7, min: 1, max: 10 }),
      CommandError,
    );
    assertEquals(
      error.message,
      `Cannot read --rate: the value must be an integer between 1 and 10, received "${bad}"`,
    );
  }
});

Deno.test("Arguments.url() adds the scheme, and rejects other URLs", () => {
  const url = (text: string) => read(text).url().href;
  assertEquals(url("ws://a.example/x"), "ws://a.example/x");
  assertEquals(url("localhost:8000"), "http://localhost:8000/");
  assertEquals(url("127.0.0.1:8000/x"), "http://127.0.0.1:8000/x");
  assertEquals(url("[::1]:8000"), "http://[::1]:8000/");
  assertEquals(url("chat.example"), "https://chat.example/");
  assertEquals(url("localhost.example"), "https://localhost.example/");
  for (const bad of ["ftp://a.example", "http://", "a b", ""]) {
    assertThrows(() => read(bad).url(), CommandError, "Cannot read URL");
  }
  assertThrows(() => read().url(), CommandError, "Cannot run: URL is missing");
  assertThrows(() => read("a", "b").url(), CommandError, 'also received "b"');
});

Deno.test("suggestion() names only a similar name", () => {
  assertEquals(suggestion("conect", ["connect", "inspect"]), "; did you mean connect?");
  assertEquals(suggestion("insp", ["connect", "inspect"]), "; did you mean inspect?");
  assertEquals(suggestion("nwe", ["connect", "new"]), "; did you mean new?");
  assertEquals(suggestion("x", ["connect", "new"]), "");
});

const COMMAND: Command = {
  name: "greet",
  summary: "Greet a person",
  usage: "NAME [options]",
  details: "The greeting is polite.",
  options: OPTIONS,
  examples: [
    { line: "skein greet ann", effect: "Greet Ann" },
    { line: "skein greet ben --json", effect: "Greet Ben in JSON" },
  ],
  exitCodes: { 0: "The greeting was printed", 2: "Wrong usage", 130: "Interrupted" },
  run: () => Promise.resolve(Exit.done),
};

Deno.test("helpOf() aligns options, examples and exit codes", () => {
  assertEquals(
    helpOf(COMMAND, { colors: makeColors(false) }),
    `Greet a person.

Usage: skein greet NAME [options]

The greeting is polite.

Options:
      --json          Print JSON
      --no-open       Print the address
  -t, --token TOKEN   Authenticate
  -H, --header LINE…  Send a header
      --way WAY       Take a way
      --rate N        Messages a second
      --color WHEN    Color the output: auto, always or never
  -h, --help          Show this help

Examples:
  # Greet Ann
  skein greet ann

  # Greet Ben in JSON
  skein greet ben --json

Exit codes:
    0  The greeting was printed
    2  Wrong usage
  130  Interrupted
`,
  );
  assert(helpOf(COMMAND, { colors: makeColors(true) }).includes("\x1b[1mUsage:\x1b[22m"));
});
