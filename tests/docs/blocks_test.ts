import { assertEquals, assertThrows } from "@std/assert";
import { blocksOf, missingLine } from "./blocks.ts";

Deno.test("blocksOf() lists files, commands, processes and their output", () => {
  const page = [
    "# A page",
    "",
    "```ts ignore file=src/server.ts",
    "serve();",
    "```",
    "<!-- ```sh run",
    "false",
    "``` -->",
    "1. A list:",
    "   ```sh background until=Listening",
    "   deno run server.ts",
    "   ```",
    "```sh run",
    "curl x",
    "```",
    "",
    "```text output",
    "200",
    "",
    "ok …",
    "```",
    "```sh",
    "not run",
    "```",
    "```ts",
    "tested();",
    "```",
  ].join("\n");
  assertEquals(blocksOf("a.md", page), [
    { kind: "file", line: 3, path: "src/server.ts", text: "serve();\n" },
    {
      kind: "background",
      line: 10,
      text: "deno run server.ts\n",
      until: "Listening",
      output: [],
    },
    { kind: "run", line: 13, text: "curl x\n", output: ["200", "ok …"] },
  ]);
});

Deno.test("blocksOf() rejects unknown attributes, and an output without its command", () => {
  const cases: [string, string][] = [
    ["```sh ran\n```", '"run" or "background", received "sh ran"'],
    ["```sh run until=x\n```", "the only attribute"],
    ["```text output\n```", "must follow a run"],
    ["```sh run\n```\nText\n```text output\n```", "a.md:4"],
    ["```ts ignore file=a\n```\n```text output\n```", "must follow a run"],
  ];
  for (const [page, text] of cases) {
    assertThrows(() => blocksOf("a.md", page), SyntaxError, text, page);
  }
});

Deno.test("missingLine() finds lines in order, with gaps", () => {
  const output = "\x1b[32mListening\x1b[39m on http://x:80/\r\n\nmore\n  in (2 ms)\n";
  const cases: [string[], string | undefined][] = [
    [[], undefined],
    [["Listening on …", "in (… ms)"], undefined],
    [["in (… ms)", "more"], "more"],
    [["Listening"], "Listening"],
    [["more", "more"], "more"],
  ];
  for (const [expected, missing] of cases) {
    assertEquals(missingLine(output, expected), missing, expected.join());
  }
});
