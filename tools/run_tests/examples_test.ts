import { assertEquals, assertRejects } from "@std/assert";
import { examplesOf, writeExamples } from "./examples.ts";

const FENCE = "```";

Deno.test("examplesOf() finds the examples of a module by line, only in doc comments", () => {
  const source = [
    'import { a } from "./a.ts";',
    "/**",
    " * Adds.",
    " *",
    ` * ${FENCE}ts`,
    ' * import { add } from "./add.ts";',
    " * if (add(1, 2) !== 3) {",
    " *   throw new Error();",
    " * }",
    ` * ${FENCE}`,
    " *",
    ` * ${FENCE}ts ignore`,
    " * never;",
    ` * ${FENCE}`,
    ` * ${FENCE}json`,
    " * {}",
    ` * ${FENCE}`,
    " */",
    "export const add = 1;",
    `const text = "/** ${FENCE}ts";`,
    `/* ${FENCE}ts`,
    "   plain();",
    `   ${FENCE} */`,
  ].join("\n");
  assertEquals(examplesOf("file:///some/math.ts", source), [{
    name: "file:///some/math.ts#5-11.ts",
    code: "\n\n\n\n\n" +
      'import { add } from "file:///some/add.ts";\nif (add(1, 2) !== 3) {\n  throw new Error();\n}\n',
  }]);
});

Deno.test("examplesOf() finds the examples of a page, also in lists, and none in comments", () => {
  const page = [
    "# Page",
    `<!-- ${FENCE}ts`,
    "never;",
    `${FENCE} -->`,
    "- Item:",
    `  ${FENCE}ts`,
    "  one();",
    `  ${FENCE}`,
    `${FENCE}typescript title="x"`,
    'await import("./two.ts");',
    FENCE,
    `${FENCE}sh`,
    "three",
    FENCE,
  ].join("\n");
  assertEquals(
    examplesOf("file:///docs/page.md", page).map(({ name, code }) => [name, code.trim()]),
    [
      ["file:///docs/page.md#6-9.ts", "one();"],
      ["file:///docs/page.md#9-12.ts", 'await import("file:///docs/two.ts");'],
    ],
  );
});

Deno.test("examplesOf() checks the output that a page promises", async () => {
  const page = `${FENCE}ts\nconsole.log("sum:", [1, 2]); // sum: [ 1, 2 ]\n${FENCE}\n` +
    `${FENCE}ts\nconsole.log(1); // 2\n${FENCE}\n${FENCE}ts\nconsole.log(1);\n${FENCE}\n`;
  const [right, wrong, silent] = examplesOf("file:///docs/page.md", page).map(({ code }) => code);
  const run = (code: string) => import(`data:text/javascript,${encodeURIComponent(code)}`);
  await run(right!);
  await assertRejects(() => run(wrong!), Error, "The page promises 2, received 1");
  assertEquals(silent!.trim(), "console.log(1);");
});

Deno.test("writeExamples() runs the named files of a page together, on a free port", async () => {
  const folder = await Deno.makeTempDir();
  try {
    const page = (word: string) =>
      `${FENCE}ts file=lib/a.ts\nexport const word: [string, number] = ["${word}", 8000];\n${FENCE}\n` +
      `${FENCE}ts file=main.ts\nimport { word } from "./lib/a.ts";\n` +
      `console.log(word[0], word[1] === 8000); // ${word} true\n${FENCE}\n`;
    const examples = ["one", "two"].flatMap((word) =>
      examplesOf(`file:///docs/${word}.md`, page(word))
    );
    const [module, ...others] = await writeExamples(examples, new URL(`file://${folder}/`));
    assertEquals(others, []);
    const { code, stdout } = await new Deno.Command(Deno.execPath(), {
      args: ["test", "-A", "--no-check", "--no-config", module!.pathname],
      env: { NO_COLOR: "1" },
      stderr: "null",
    }).output();
    const output = new TextDecoder().decode(stdout);
    assertEquals({ code, passed: /\d+ passed/.exec(output)?.[0] }, { code: 0, passed: "2 passed" });
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("writeExamples() lets examples share test modules, each in its own scope", async () => {
  const folder = await Deno.makeTempDir();
  try {
    const examples = Array.from({ length: 30 }, (_, i) => ({
      name: `a.ts#${i}-${i}.ts`,
      code: `const name = ${i};\nif (name === 29) throw new RangeError("the last");\n`,
    }));
    const modules = await writeExamples(examples, new URL(`file://${folder}/`));
    assertEquals(modules.length, 2);
    const { code, stdout } = await new Deno.Command(Deno.execPath(), {
      args: ["test", "-A", "--no-check", "--no-config", ...modules.map(({ pathname }) => pathname)],
      env: { NO_COLOR: "1" },
      stderr: "null",
    }).output();
    const output = new TextDecoder().decode(stdout);
    assertEquals(code, 1);
    assertEquals(/\d+ passed \| \d+ failed/.exec(output)?.[0], "29 passed | 1 failed");
    assertEquals(/RangeError: the last[^]*?example_29\.ts:2:/.test(output), true, output);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});
